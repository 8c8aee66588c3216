"""The published litmus runs on the reference runtime: victims, survivors, shortfalls, event counts."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

import pytest

from tenure.arbiter.pressure import LivePlan
from tenure.arbiter.rules import ReuseAdmission, action_policy
from tenure.claims.event_types import EventType
from tenure.claims.events import Event
from tenure.claims.modes import Action, Feasibility, Outcome, ProtectionMode
from tenure.claims.objects import ResidentClaim
from tenure.claims.predicate import leading_prefix_at_least
from tenure.claims.receipts import Receipt
from tenure.claims.telemetry import MemoryTelemetry
from tenure.kv.identity import CacheIdentity
from tenure.runtime.micro.content import content_keys
from tenure.runtime.micro.runtime import MicroRequest, MicroRuntime

E = EventType
IDENTITY = CacheIdentity(
    cache_key_domain="micro", model_id="m", tokenizer_id="t", salt_namespace="tenant-a", block_size=16
)
RESIDENT = tuple(range(1, 61))


@dataclass
class Probe:
    """60 resident blocks, then 70 active ones, as the published probe runs them."""

    runtime: MicroRuntime
    sink: MemoryTelemetry
    receipt: Receipt

    def of(self, event: EventType, *, request_id: str | None = None) -> list[Event]:
        return [
            e for e in self.sink.events if e.event_type is event and (request_id is None or e.request_id == request_id)
        ]

    @property
    def cached_victims(self) -> list[Event]:
        taken = self.of(E.VICTIM_SELECTED, request_id="active")
        return [event for event in taken if event.fields["victim_reason"] == "cached_prefix_reuse"]

    @property
    def remaining(self) -> int:
        return sum(self.runtime._residency.store.find(key) is not None for key in content_keys(IDENTITY, RESIDENT))


def probe(
    line: str = "refuse",
    *,
    usable: int = 80,
    claims: bool = True,
    reuse: ReuseAdmission = ReuseAdmission.ALWAYS,
    duration_s: float | None = None,
    mode: ProtectionMode = ProtectionMode.HARD_PROTECTED,
) -> Probe:
    now = {"s": 0.0}
    sink = MemoryTelemetry(run_id="litmus", policy=line, clock_ns=lambda: 0, usable_blocks=usable)
    runtime = MicroRuntime(
        usable_blocks=usable,
        clock=lambda: now["s"],
        sink=sink,
        policy=action_policy({mode.value: line}, reuse_admission=reuse),
    )
    if claims:
        keys = content_keys(IDENTITY, RESIDENT)
        runtime.submit_claim(
            ResidentClaim(
                claim_id="claim:resident",
                owner_scope="owner",
                cache_identity=IDENTITY,
                object_id="resident",
                materialization_predicate=leading_prefix_at_least(60),
                footprint_blocks=60,
                protection_mode=mode,
                duration_s=duration_s,
                block_hashes=tuple(str(key[1]) for key in keys),
            )
        )
    resident_plan = LivePlan(chunk_blocks=(60,))
    runtime.policy = action_policy({mode.value: line})
    runtime.run(MicroRequest(request_id="resident", identity=IDENTITY, content=RESIDENT, live_plan=resident_plan))
    runtime.policy = action_policy({mode.value: line}, reuse_admission=reuse)
    if duration_s is not None:
        now["s"] += duration_s
        runtime.tick()
    bulky = LivePlan(chunk_blocks=(20, 20, 20, 10))
    active = MicroRequest(request_id="active", identity=IDENTITY, content=(), live_plan=bulky)
    return Probe(runtime, sink, runtime.start(active))


def _counts(run: Probe) -> Counter[EventType]:
    return Counter(event.event_type for event in run.sink.events)


def test_l1_without_a_claim_there_is_no_harm() -> None:
    run = probe(claims=False)
    counts = _counts(run)
    assert counts[E.CLAIM_ACCEPTED] == counts[E.CLAIM_HARMED] == 0
    assert counts[E.VICTIM_SELECTED] == 130
    assert counts[E.BLOCK_MATERIALIZED] == 60
    assert len(run.cached_victims) == 50
    assert run.remaining == 10
    assert [event.fields["logical_block_position"] for event in run.cached_victims] == list(range(59, 9, -1))
    assert run.of(E.REQUEST_ADMITTED, request_id="active")[0].fields["free_blocks_before_allocate"] == 80


def test_l2_denying_reuse_does_not_protect_residents() -> None:
    run = probe(claims=False, reuse=ReuseAdmission.NEVER)
    assert run.receipt.outcome is Outcome.SERVED
    assert len(run.of(E.FUTURE_REUSE_DENIED, request_id="active")) == 1
    assert len(run.cached_victims) == 50
    assert run.remaining == 10


def test_l3_a_hard_claim_makes_infeasibility_explicit() -> None:
    run = probe("refuse")
    counts = _counts(run)
    refusal = run.of(E.REQUEST_REFUSED)[0]
    assert run.receipt.outcome is Outcome.REFUSED
    assert (counts[E.CLAIM_ACCEPTED], counts[E.CLAIM_MATERIALIZED], counts[E.REQUEST_REFUSED]) == (1, 1, 1)
    assert counts[E.VICTIM_SELECTED] == 60  # all the resident's own: a refused request takes nothing
    assert run.cached_victims == []
    assert run.remaining == 60
    published = {
        "blocking_claim_ids": ["claim:resident"],
        "blocking_prefix_ids": ["resident"],
        "protected_resident_blocks": 60,
        "active_live_blocks_required": 70,
        "active_live_blocks_current": 0,
        "resident_plus_active_blocks": 130,
        "capacity_shortfall_blocks": 50,
        "free_blocks_before_allocate": 20,
        "feasibility": Feasibility.INFEASIBLE.value,
        "future_reuse_requested": True,
        "future_reuse_admitted": False,
    }
    assert {name: refusal.fields[name] for name in published} == published
    assert refusal.usable_blocks == 80
    assert refusal.claim_id is None
    assert refusal.fields["arbiter_action"] == Action.REFUSE_ACTIVE


@pytest.mark.parametrize(
    ("line", "duration_s", "release"),
    [("demote, refuse", None, E.CLAIM_DEMOTED), ("refuse", 1.0, E.CLAIM_EXPIRED)],
    ids=["L4 demotion", "L5 expiry"],
)
def test_l4_l5_the_release_comes_before_the_first_loss(line: str, duration_s: float | None, release: EventType) -> None:
    run = probe(line, duration_s=duration_s)
    counts = _counts(run)
    assert counts[release] == 1
    assert counts[E.CLAIM_HARMED] == 0
    assert counts[E.CLAIM_BLOCK_LOST_AFTER_RELEASE] == 50
    assert counts[E.VICTIM_SELECTED] == 130
    assert run.of(release)[0].fields["resident_blocks_materialized"] == 60
    lost = run.of(E.CLAIM_BLOCK_LOST_AFTER_RELEASE)
    assert [event.fields["physical_block_id"] for event in lost] == list(range(60, 10, -1))
    assert [event.fields["resident_blocks_materialized"] for event in lost] == list(range(59, 9, -1))
    assert run.of(release)[0].event_sequence < lost[0].event_sequence
    active = run.of(E.VICTIM_SELECTED, request_id="active")
    assert [event.fields["physical_block_id"] for event in active] == [*range(61, 81), *range(60, 10, -1)]
    assert [event.fields["free_queue_rank"] for event in active] == list(range(70))
    assert not any(event.fields["is_protected_resident"] for event in active)
    assert run.receipt.outcome is Outcome.SERVED


def test_each_loss_is_told_just_before_the_line_of_the_block() -> None:
    run = probe("demote, refuse")
    events = run.sink.events
    for event in run.of(E.CLAIM_BLOCK_LOST_AFTER_RELEASE):
        following = events[event.event_sequence + 1]
        assert following.event_type is E.VICTIM_SELECTED
        assert following.fields["physical_block_id"] == event.fields["physical_block_id"]


def test_a_claim_that_is_broken_on_purpose_is_harmed_once_and_the_victim_says_it_was_protected() -> None:
    run = probe("harm")
    harmed = run.of(E.CLAIM_HARMED)
    assert [event.fields["physical_block_id"] for event in harmed] == [60]
    assert harmed[0].fields["value_lost"] == 1.0
    assert len(run.cached_victims) == 50
    assert [event.fields["is_protected_resident"] for event in run.cached_victims[:2]] == [True, False]


@pytest.mark.parametrize(("usable", "lost"), [(80, 50), (90, 40), (100, 30), (110, 20), (120, 10), (130, 0), (150, 0)])
@pytest.mark.parametrize("reuse", [ReuseAdmission.ALWAYS, ReuseAdmission.NEVER], ids=["native", "no_admit"])
def test_the_sweep_without_claims(usable: int, lost: int, reuse: ReuseAdmission) -> None:
    run = probe(claims=False, usable=usable, reuse=reuse)
    assert run.receipt.outcome is Outcome.SERVED
    assert len(run.cached_victims) == lost
    assert run.remaining == 60 - lost
    assert bool(run.of(E.FUTURE_REUSE_ADMITTED, request_id="active")) is (reuse is ReuseAdmission.ALWAYS)


@pytest.mark.parametrize(
    ("usable", "short", "free"),
    [(80, 50, 20), (90, 40, 30), (100, 30, 40), (110, 20, 50), (120, 10, 60), (130, 0, 70), (150, 0, 90)],
)
def test_the_sweep_with_a_hard_claim(usable: int, short: int, free: int) -> None:
    run = probe("refuse", usable=usable)
    assert run.cached_victims == []
    assert run.remaining == 60
    assert run.receipt.numbers is not None
    assert run.receipt.numbers.shortfall_blocks == short
    if short:
        refusal = run.of(E.REQUEST_REFUSED)[0]
        assert refusal.fields["free_blocks_before_allocate"] == free
        assert run.receipt.blocking_claim_ids == ("claim:resident",)
        return
    assert run.receipt.outcome is Outcome.SERVED
    assert run.of(E.REQUEST_ADMITTED, request_id="active")[0].fields["free_blocks_before_allocate"] == free
    assert run.of(E.FUTURE_REUSE_ADMITTED, request_id="active")
