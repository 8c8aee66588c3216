"""The reference runtime: deferral, restoration and its failure, restart, reset, and calls that must change nothing."""

from __future__ import annotations

from typing import Any

import pytest

from tenure.arbiter.pressure import LivePlan
from tenure.arbiter.rules import action_policy
from tenure.claims.event_types import EventType
from tenure.claims.journal import MemoryJournal
from tenure.claims.modes import Outcome, ProtectionMode, RestorationOutcome
from tenure.claims.objects import ResidentClaim
from tenure.claims.predicate import contiguous_range, leading_prefix_at_least
from tenure.claims.telemetry import MemoryTelemetry
from tenure.errors import ClaimError, UsageError
from tenure.kv.identity import CacheIdentity
from tenure.runtime.control.tier import ClaimTier
from tenure.runtime.control.work import Standing
from tenure.runtime.micro.content import content_keys
from tenure.runtime.micro.runtime import MicroRequest, MicroRuntime

E = EventType
IDENTITY = CacheIdentity(cache_key_domain="micro", model_id="m", tokenizer_id="t", salt_namespace="a", block_size=16)
OTHER_TENANT = CacheIdentity(
    cache_key_domain="micro", model_id="m", tokenizer_id="t", salt_namespace="b", block_size=16
)
PREFIX = tuple(range(8))


class Scene:
    """A runtime of 16 blocks with a clock that tests move."""

    def __init__(self, line: str = "refuse", *, mode: str = "hard_protected", tier: int = 0, **options: Any) -> None:
        self.now_s = 0.0
        self.mode = ProtectionMode(mode)
        self.sink = MemoryTelemetry(run_id="t", policy=line, clock_ns=lambda: 0)
        self.tier = ClaimTier(tier)
        self.options: dict[str, Any] = {
            "usable_blocks": 16,
            "clock": lambda: self.now_s,
            "sink": self.sink,
            "policy": action_policy({mode: line}),
            "tier": self.tier,
            **options,
        }
        self.runtime = MicroRuntime(**self.options)

    def claim(self, claim_id: str = "c", *, content: tuple[int, ...] = PREFIX, **fields: Any) -> Any:
        keys = content_keys(IDENTITY, content)
        claim = ResidentClaim(
            claim_id=claim_id,
            owner_scope="owner",
            cache_identity=IDENTITY,
            object_id=f"prefix-{content[0]}",
            materialization_predicate=leading_prefix_at_least(fields.pop("required", len(content))),
            footprint_blocks=len(content),
            protection_mode=self.mode,
            block_hashes=tuple(str(key[1]) for key in keys),
            **fields,
        )
        return self.runtime.submit_claim(claim)

    def ask(self, request_id: str, content: tuple[int, ...], *, blocks: int | None = None, **fields: Any) -> Any:
        plan = LivePlan(chunk_blocks=(blocks if blocks is not None else len(content),))
        identity = fields.pop("identity", IDENTITY)
        request = MicroRequest(request_id=request_id, identity=identity, content=content, live_plan=plan, **fields)
        return self.runtime.start(request)

    def run(self, request_id: str, content: tuple[int, ...], **fields: Any) -> Any:
        self.ask(request_id, content, **fields)
        return self.runtime.finish(request_id)

    def names(self) -> list[str]:
        return [event.event_type.value for event in self.sink.events if event.event_type.is_claim_event]

    def count(self, event: EventType) -> int:
        return sum(e.event_type is event for e in self.sink.events)


def new(blocks: int, start: int = 1000) -> tuple[int, ...]:
    return tuple(range(start, start + blocks))


def test_a_deferred_request_is_served_when_the_claim_ends() -> None:
    scene = Scene("defer 30s, refuse")
    scene.claim()
    scene.run("first", PREFIX)
    assert scene.ask("later", new(12)).outcome is Outcome.DEFERRED
    scene.runtime.cancel_claim("c", owner_scope="owner")
    assert scene.runtime.finish("later").outcome is Outcome.SERVED
    assert scene.runtime.work("later").standing is Standing.SERVED


def test_a_deferred_request_is_refused_when_its_time_is_up() -> None:
    scene = Scene("defer 30s, refuse")
    scene.claim()
    scene.run("first", PREFIX)
    scene.ask("later", new(12))
    scene.now_s = 29.0
    scene.runtime.tick()
    assert scene.runtime.work("later").standing is Standing.DEFERRED
    scene.now_s = 30.0
    scene.runtime.tick()
    assert scene.runtime.work("later").standing is Standing.REFUSED
    assert scene.runtime.ledger.deferred_requests == 0


def test_waiting_requests_are_tried_in_the_order_in_which_they_came() -> None:
    scene = Scene()
    scene.ask("busy", new(16))
    scene.ask("one", new(10, 2000))
    scene.ask("two", new(10, 3000))
    scene.runtime.finish("busy")
    assert scene.runtime.work("one").standing is Standing.RUNNING
    assert scene.runtime.work("two").standing is Standing.DEFERRED


def test_hard_claims_that_fill_the_pool_do_not_wedge_it() -> None:
    scene = Scene("defer 5s, refuse")
    for index in range(2):
        content = new(8, 100 * index)
        scene.claim(f"c{index}", content=content)
        scene.run(f"r{index}", content)
    assert scene.ask("tiny", (9,)).outcome is Outcome.DEFERRED
    scene.now_s = 5.0
    scene.runtime.tick()
    assert scene.runtime.work("tiny").standing is Standing.REFUSED
    assert scene.run("own", new(8)[:0] + new(8, 0)).outcome is Outcome.SERVED  # reuse of a claim needs no room


def test_an_offloaded_claim_is_restored_before_it_is_reused_with_the_same_output() -> None:
    scene = Scene("offload_resident, refuse", mode="offloadable", tier=8)
    scene.claim()
    scene.run("first", PREFIX)
    scene.run("big", new(16))
    assert scene.runtime.ledger.protected_blocks == 0
    assert scene.tier.free_blocks == 0
    scene.run("again", PREFIX)
    assert scene.names()[-4:] == [
        "resident_claim_offloaded",
        "resident_claim_restore_required",
        "resident_claim_restored",
        "resident_claim_reuse_after_restore",
    ]
    assert scene.runtime.work("again").output == scene.runtime.work("first").output
    assert scene.runtime.work("again").restored_blocks == 8
    assert scene.runtime.ledger.protected_blocks == 8


def test_rows_that_come_back_wrong_would_change_the_output() -> None:
    scene = Scene("offload_resident, refuse", mode="offloadable", tier=8)
    scene.claim()
    scene.run("first", PREFIX)
    scene.run("big", new(16))
    stored = scene.tier.load("c")
    scene.tier.drop("c")
    scene.tier.store("c", offload_generation=1, rows=dict.fromkeys(stored.rows, "rows:of somebody else"))
    scene.run("again", PREFIX)
    assert scene.runtime.work("again").output != scene.runtime.work("first").output


@pytest.mark.parametrize(
    ("outcome", "event", "served"),
    [
        (RestorationOutcome.REFUSAL, E.REQUEST_REFUSED, False),
        (RestorationOutcome.DEMOTION, E.CLAIM_DEMOTED, True),
        (RestorationOutcome.EXPIRY, E.CLAIM_EXPIRED, True),
        (RestorationOutcome.HARM, E.CLAIM_HARMED, True),
    ],
)
def test_a_failed_restoration_is_told_and_followed_by_its_outcome(
    outcome: RestorationOutcome, event: EventType, served: bool
) -> None:
    scene = Scene("offload_resident, refuse", mode="offloadable", tier=8, restore_failure=outcome)
    scene.claim()
    scene.run("first", PREFIX)
    scene.run("big", new(16))
    scene.runtime.fail_next_restore("c")
    free_before = scene.runtime.ledger.free_blocks
    scene.run("again", PREFIX)
    assert scene.count(E.CLAIM_RESTORATION_FAILED) == 1
    assert scene.count(event) == 1
    assert scene.count(E.CLAIM_RESTORED) == 0  # computing rows again is no restoration
    if served:
        assert scene.runtime.work("again").output == scene.runtime.work("first").output
    else:
        assert scene.runtime.ledger.free_blocks == free_before  # a refused request takes nothing
        scene.run("once more", PREFIX)
        assert scene.count(E.CLAIM_RESTORED) == 1


def test_a_bounded_request_holds_no_more_than_it_was_told() -> None:
    scene = Scene("bound_active_live, refuse")
    scene.claim()
    scene.run("first", PREFIX)
    receipt = scene.ask("big", new(16), min_arena_blocks=2)
    assert receipt.outcome is Outcome.BOUNDED
    assert scene.runtime.ledger.active_blocks == scene.runtime.work("big").peak_live_blocks == 8
    alone = Scene()
    alone.run("big", new(16))
    assert scene.runtime.work("big").output == alone.runtime.work("big").output


def test_a_request_that_offloads_its_own_rows_gives_the_tier_back() -> None:
    scene = Scene("offload_active, refuse", tier=8)
    scene.claim()
    scene.run("first", PREFIX)
    plan = LivePlan(chunk_blocks=(4, 4, 4, 4))
    request = MicroRequest(request_id="big", identity=IDENTITY, content=new(16), live_plan=plan, may_offload=True)
    assert scene.runtime.start(request).outcome is Outcome.BOUNDED
    assert scene.tier.free_blocks == 0
    scene.runtime.finish("big")
    assert scene.tier.free_blocks == 8


def test_added_capacity_is_used_and_counted() -> None:
    scene = Scene("add_capacity, refuse", addable_blocks=8)
    scene.claim()
    scene.run("first", PREFIX)
    assert scene.ask("big", new(14)).outcome is Outcome.SERVED
    assert scene.runtime.ledger.usable_blocks == 22
    assert scene.runtime.ledger.addable_blocks == 2


def test_two_claims_on_one_prefix_are_counted_once_and_protect_until_the_last_ends() -> None:
    scene = Scene()
    scene.claim("one")
    scene.claim("two")
    scene.run("first", PREFIX)
    assert scene.runtime.ledger.protected_blocks == 8
    scene.runtime.cancel_claim("one", owner_scope="owner")
    assert scene.ask("big", new(12)).blocking_claim_ids == ("two",)
    scene.runtime.cancel_claim("two", owner_scope="owner")
    assert scene.ask("big again", new(12, 3000)).outcome is Outcome.SERVED


def test_another_tenant_finds_nothing() -> None:
    scene = Scene()
    scene.run("first", PREFIX)
    scene.run("theirs", PREFIX, identity=OTHER_TENANT)
    scene.run("ours", PREFIX)
    assert scene.runtime.work("theirs").reused_blocks == 0
    assert scene.runtime.work("ours").reused_blocks == 8


def test_a_lost_block_harms_the_claim_that_needs_it_once() -> None:
    scene = Scene()
    scene.claim(required=4)
    scene.run("first", PREFIX)
    scene.runtime.lose_block("c", position=6)
    assert scene.count(E.CLAIM_BLOCK_LOST) == 1
    assert scene.count(E.CLAIM_HARMED) == 0
    scene.runtime.lose_block("c", position=0)
    assert scene.count(E.CLAIM_HARMED) == 1
    assert scene.runtime.ledger.protected_blocks == 0
    with pytest.raises(UsageError, match="no block at position 0"):
        scene.runtime.lose_block("c", position=0)


def test_reset_ends_every_claim_first_and_requests_in_flight_go_on() -> None:
    scene = Scene()
    scene.claim()
    scene.ask("running", PREFIX)
    scene.runtime.reset("operator")
    events = [event.event_type for event in scene.sink.events]
    assert events.index(E.CLAIM_DEMOTED) < events.index(E.RUNTIME_RESET)
    assert scene.runtime.finish("running").outcome is Outcome.SERVED
    assert scene.runtime.ledger.free_blocks == 16


def test_shutdown_fails_what_runs_and_ends_what_was_promised() -> None:
    scene = Scene()
    scene.claim()
    scene.ask("running", PREFIX)
    scene.runtime.shutdown("operator")
    assert scene.runtime.work("running").standing is Standing.FAILED
    assert scene.count(E.CLAIM_DEMOTED) == scene.count(E.RUNTIME_SHUTDOWN) == scene.count(E.REQUEST_FAILED) == 1


@pytest.mark.parametrize("tier_survives", [True, False])
def test_a_restart_recovers_what_the_tier_still_has_and_ends_the_rest(tier_survives: bool) -> None:
    journal = MemoryJournal()
    scene = Scene("offload_resident, refuse", mode="offloadable", tier=8, journal=journal, clock_id="one")
    scene.claim()
    scene.run("first", PREFIX)
    scene.run("big", new(16))
    tier = scene.tier if tier_survives else ClaimTier(8)
    scene.runtime = MicroRuntime(**{**scene.options, "tier": tier})
    assert scene.count(E.RUNTIME_RESTARTED) == 1
    if tier_survives:
        assert scene.count(E.CLAIM_RECOVERED) == 1
        scene.run("again", PREFIX)
        assert scene.runtime.work("again").restored_blocks == 8
    else:
        assert scene.count(E.CLAIM_HARMED) == 1


def test_a_restart_keeps_a_claim_on_the_device_whose_rows_the_tier_still_has() -> None:
    scene = Scene("offload_resident, refuse", mode="offloadable", tier=8, journal=MemoryJournal(), clock_id="one")
    scene.claim()
    scene.run("first", PREFIX)
    scene.run("big", new(16))
    scene.run("again", PREFIX)  # restored, and the tier keeps its copy
    scene.runtime = MicroRuntime(**scene.options)
    assert scene.count(E.CLAIM_HARMED) == 0
    scene.run("and again", PREFIX)
    assert scene.runtime.work("and again").restored_blocks == 8


def test_rows_of_requests_that_are_over_leave_the_tier_at_a_shutdown_and_after_a_crash() -> None:
    for end in ("shutdown", "crash"):
        scene = Scene("offload_active, refuse", tier=8)
        scene.claim()
        scene.run("first", PREFIX)
        plan = LivePlan(chunk_blocks=(4, 4, 4, 4))
        request = MicroRequest(request_id="big", identity=IDENTITY, content=new(16), live_plan=plan, may_offload=True)
        assert scene.runtime.start(request).outcome is Outcome.BOUNDED
        assert scene.tier.free_blocks == 0
        if end == "shutdown":
            scene.runtime.shutdown()
        else:
            scene.runtime = MicroRuntime(**scene.options)
            assert scene.runtime.ledger.host_free_blocks == 8
        assert scene.tier.free_blocks == 8


def test_a_claim_that_came_back_from_the_tier_makes_way_again_for_one_that_was_promised_the_room() -> None:
    lines = {"offloadable": "offload_resident, refuse", "hard_protected": "refuse"}
    scene = Scene(mode="offloadable", tier=32, policy=action_policy(lines))
    scene.claim("a", content=new(10))
    scene.run("r1", new(10))
    scene.run("big", new(16, 5000))
    scene.mode = ProtectionMode.HARD_PROTECTED
    assert scene.claim("b", content=new(10, 2000)).outcome is Outcome.ACCEPTED
    scene.run("r2", new(10))
    assert scene.runtime.registry.status("a").surviving_blocks == 10
    assert (scene.runtime.registry.owed_blocks, scene.runtime.registry.protected_blocks) == (20, 10)
    assert scene.run("r3", new(10, 2000)).outcome is Outcome.SERVED
    assert (scene.runtime.registry.owed_blocks, scene.runtime.registry.protected_blocks) == (10, 10)
    assert scene.count(E.CLAIM_HARMED) == scene.count(E.CLAIM_DEMOTED) == 0


@pytest.mark.clause("TNR-LIFE-010")
def test_a_restart_into_a_smaller_pool_demotes_what_no_longer_fits_and_goes_on() -> None:
    journal = MemoryJournal()
    scene = Scene(journal=journal, clock_id="one")
    scene.claim("first")
    scene.claim("second", content=new(8))
    scene.runtime = MicroRuntime(**{**scene.options, "usable_blocks": 10})
    [kept, demoted] = scene.runtime.take_receipts()
    assert (kept.claim_id, kept.outcome) == ("first", Outcome.ACCEPTED)
    assert (demoted.claim_id, demoted.outcome, demoted.reason) == ("second", Outcome.DEMOTED, "pool_shrank")
    assert scene.claim("third", content=new(2)).outcome is Outcome.ACCEPTED
    assert scene.run("own", PREFIX).outcome is Outcome.SERVED


def test_after_a_shutdown_nothing_is_promised_or_admitted_and_nobody_waits() -> None:
    scene = Scene("defer 30s, refuse")
    scene.claim()
    scene.run("first", PREFIX)
    assert scene.ask("later", new(12)).outcome is Outcome.DEFERRED
    scene.runtime.shutdown()
    assert scene.runtime.ledger.deferred_requests == 0
    assert scene.runtime.finish("later").outcome is Outcome.FAILED
    before = len(scene.sink.events)
    for ask in (
        lambda: scene.ask("late", new(2)),
        lambda: scene.claim("late"),
        scene.runtime.reset,
        scene.runtime.shutdown,
    ):
        with pytest.raises(UsageError, match="shut down"):
            ask()
    scene.now_s = 99.0
    scene.runtime.tick()
    assert len(scene.sink.events) == before


def test_a_waiting_request_is_withdrawn_and_others_are_tried() -> None:
    scene = Scene("defer 30s, refuse")
    scene.claim()
    scene.run("first", PREFIX)
    scene.ask("waits", new(12))
    receipt = scene.runtime.withdraw("waits")
    assert (receipt.outcome, receipt.reason) == (Outcome.FAILED, "withdrawn")
    assert scene.runtime.work("waits").standing is Standing.FAILED
    assert scene.runtime.ledger.deferred_requests == 0
    scene.runtime.cancel_claim("c", owner_scope="owner")
    assert scene.runtime.work("waits").standing is Standing.FAILED
    [failed] = [event for event in scene.sink.events if event.event_type is E.REQUEST_FAILED]
    assert failed.fields["failure_reason"] == "withdrawn"
    before = len(scene.sink.events)
    scene.ask("runs", new(2, 7000))
    assert scene.runtime.withdraw("runs").outcome is Outcome.SERVED  # it does not wait, so nothing changes
    assert scene.runtime.work("runs").standing is Standing.RUNNING
    assert scene.runtime.withdraw("waits").reason == "withdrawn"
    assert scene.count(E.REQUEST_FAILED) == 1
    assert len(scene.sink.events) > before
    with pytest.raises(UsageError, match="no request"):
        scene.runtime.withdraw("nobody")


def test_no_request_has_the_id_of_a_claim() -> None:
    scene = Scene()
    scene.claim("live")
    scene.claim("over")
    scene.runtime.cancel_claim("over", owner_scope="owner")
    scene.run("request", PREFIX)
    before = len(scene.sink.events)
    for claim_id in ("live", "over"):
        with pytest.raises(UsageError, match="claim"):
            scene.ask(claim_id, new(2))
    with pytest.raises(ClaimError, match="request") as caught:
        scene.claim("request")
    assert (caught.value.field, caught.value.clause) == ("claim_id", "TNR-ACC-001")
    assert len(scene.sink.events) == before


def test_calls_that_are_wrong_change_nothing() -> None:
    scene = Scene()
    scene.claim()
    scene.run("first", PREFIX)
    before = (len(scene.sink.events), scene.runtime.ledger.free_blocks, scene.runtime.ledger.protected_blocks)
    with pytest.raises(UsageError, match="used before"):
        scene.ask("first", new(2))
    with pytest.raises(UsageError, match="no request"):
        scene.runtime.finish("nobody")
    with pytest.raises(ClaimError):
        scene.runtime.cancel_claim("c", owner_scope="thief")
    with pytest.raises(UsageError, match="at least the content"):
        MicroRequest(request_id="x", identity=IDENTITY, content=PREFIX, live_plan=LivePlan(chunk_blocks=(3,)))
    assert before == (len(scene.sink.events), scene.runtime.ledger.free_blocks, scene.runtime.ledger.protected_blocks)


def test_owners_hear_of_claims_that_gave_way() -> None:
    scene = Scene("demote, refuse", mode="demotable")
    scene.claim()
    scene.run("first", PREFIX)
    scene.run("big", new(12))
    receipts = [receipt for receipt in scene.runtime.take_receipts() if receipt.claim_id == "c"]
    assert [(receipt.outcome, receipt.caused_by_request_id) for receipt in receipts] == [(Outcome.DEMOTED, "big")]
    assert scene.runtime.take_receipts() == []


def test_soft_claims_go_after_unclaimed_ones_and_their_loss_is_told() -> None:
    scene = Scene(mode="hard_protected")
    scene.mode = ProtectionMode.SOFT_PRIORITY
    scene.claim()
    scene.run("liked", PREFIX)
    scene.run("other", new(8))
    scene.run("next", new(8, 5000))
    assert scene.count(E.CLAIM_HARMED) == 0
    scene.run("more", new(16, 7000))
    assert scene.count(E.CLAIM_HARMED) == 1


def test_a_claim_that_came_back_is_offloaded_again_without_new_room_in_the_tier() -> None:
    scene = Scene("offload_resident, refuse", mode="offloadable", tier=8)
    scene.claim()
    scene.run("first", PREFIX)
    for turn in range(3):  # the tier is as large as the claim, and it keeps the rows that it gave back
        assert scene.run(f"big {turn}", new(16, 1000 + 100 * turn)).outcome is Outcome.SERVED
        assert scene.tier.free_blocks == 0
        scene.run(f"again {turn}", PREFIX)
    assert scene.count(E.CLAIM_OFFLOADED) == scene.count(E.CLAIM_RESTORED) == 3
    scene.runtime.cancel_claim("c", owner_scope="owner")
    assert scene.tier.free_blocks == scene.runtime.ledger.host_free_blocks == 8


def test_rows_that_left_the_tier_count_as_new_there_again() -> None:
    scene = Scene("offload_resident, refuse", mode="offloadable", tier=10)
    scene.claim()
    scene.claim("on the same prefix")
    scene.run("first", PREFIX)
    ledger = scene.runtime.ledger
    assert ledger.tier_blocks(["c", "on the same prefix"]) == 8
    scene.run("big", new(16))
    scene.run("again", PREFIX)
    assert ledger.tier_blocks(["c"]) == 0
    scene.runtime.cancel_claim("on the same prefix", owner_scope="owner")
    assert ledger.tier_blocks(["c"]) == 0  # the other one's rows are there still
    scene.tier.clear()
    assert (ledger.tier_blocks(["c"]), ledger.host_free_blocks) == (8, 10)


def _said(scene: Scene) -> list[tuple[str, str | None]]:
    """Every event of a claim, and every block taken from a resident, in order."""
    return [
        (event.event_type.value, event.claim_id)
        for event in scene.sink.events
        if event.event_type.is_claim_event
        or (event.event_type is E.VICTIM_SELECTED and event.fields["victim_reason"] == "cached_prefix_reuse")
    ]


def test_a_hard_claim_that_only_loses_blocks_beyond_its_predicate_is_demoted_before_the_first() -> None:
    scene = Scene("harm, refuse")
    scene.claim(required=5)
    scene.run("first", PREFIX)
    assert scene.run("big", new(10)).blocking_claim_ids == ("c",)
    said = _said(scene)
    first = said.index(("allocation_victim_selected", None))
    assert ("resident_claim_demoted", "c") in said[:first]
    assert scene.count(E.CLAIM_HARMED) == scene.count(E.CLAIM_BLOCK_LOST) == 0
    assert scene.count(E.CLAIM_BLOCK_LOST_AFTER_RELEASE) == 2
    receipts = [receipt for receipt in scene.runtime.take_receipts() if receipt.claim_id == "c"]
    assert [(receipt.outcome, receipt.caused_by_request_id) for receipt in receipts] == [(Outcome.DEMOTED, "big")]


def test_a_hard_claim_that_is_broken_is_harmed_before_any_of_its_blocks_goes() -> None:
    scene = Scene("harm, refuse")
    scene.claim(required=5)
    scene.run("first", PREFIX)
    scene.run("big", new(13))
    said = _said(scene)
    first = said.index(("allocation_victim_selected", None))
    assert said[first - 1] == ("resident_claim_harmed", "c")
    assert sum(name == "allocation_victim_selected" for name, _ in said) == 5
    assert scene.count(E.CLAIM_BLOCK_LOST) == 0


def test_of_two_broken_claims_that_share_blocks_neither_loses_one_while_it_stands() -> None:
    scene = Scene("harm, refuse")
    scene.claim("long", required=8)
    keys = content_keys(IDENTITY, PREFIX)
    scene.runtime.submit_claim(
        ResidentClaim(
            claim_id="late part",
            owner_scope="owner",
            cache_identity=IDENTITY,
            object_id="prefix-0",
            materialization_predicate=contiguous_range(3, 2),
            footprint_blocks=5,
            protection_mode=ProtectionMode.HARD_PROTECTED,
            block_hashes=tuple(str(key[1]) for key in keys[3:]),
        )
    )
    scene.run("first", PREFIX)
    scene.run("big", new(16))
    said = _said(scene)
    first = said.index(("allocation_victim_selected", None))
    ended = {claim for name, claim in said[:first] if name in ("resident_claim_harmed", "resident_claim_demoted")}
    assert ended == {"long", "late part"}
    assert scene.count(E.CLAIM_BLOCK_LOST) == 0


def test_of_the_claims_whose_time_is_over_the_fewest_expire_for_a_request_and_the_others_by_time() -> None:
    scene = Scene("expire, refuse", mode="expiring")
    for index, blocks in enumerate((4, 6, 6)):
        content = new(blocks, 100 * index)
        scene.claim(f"c{index}", content=content, duration_s=10.0)
        scene.run(f"r{index}", content)
    scene.now_s = 10.0  # and nobody calls tick
    assert scene.run("big", new(5)).outcome is Outcome.SERVED
    expired = [event for event in scene.sink.events if event.event_type is E.CLAIM_EXPIRED]
    assert [(event.claim_id, event.request_id, event.fields["release_reason"]) for event in expired] == [
        ("c2", "big", "pressure"),
        ("c0", None, "duration_elapsed"),
        ("c1", None, "duration_elapsed"),
    ]
    assert expired[0].fields["arbiter_action"] == "expire_resident_claim"
    assert scene.runtime.work("big").decision.action.value == "expire_resident_claim"  # type: ignore[union-attr]
    said = [event.event_type for event in scene.sink.events]
    assert said.index(E.CLAIM_EXPIRED) < said.index(E.CLAIM_BLOCK_LOST_AFTER_RELEASE)
    outcomes = [receipt.outcome for receipt in scene.runtime.take_receipts() if receipt.claim_id]
    assert outcomes == [Outcome.EXPIRED] * 3


@pytest.mark.parametrize("line", ["refuse", "demote, refuse", "bound_active_live, expire, refuse"])
def test_a_claim_whose_time_is_over_is_in_nobodys_way_whatever_the_line_says(line: str) -> None:
    scene = Scene(line, mode="demotable")
    scene.claim(duration_s=10.0)
    scene.run("first", PREFIX)
    scene.now_s = 10.0
    receipt = scene.run("big", new(16), min_arena_blocks=2)
    assert (receipt.outcome, receipt.blocking_claim_ids) == (Outcome.SERVED, ())
    assert scene.count(E.CLAIM_EXPIRED) == 1
    assert scene.count(E.CLAIM_DEMOTED) == 0
