"""No accepted claim is ever lost silently: random work on the reference runtime, watched from outside.

The watcher looks into the block store itself, before and after each step, and shares no code with what keeps promises:
a claim whose required blocks were all there, and now are not, must have ended (or left the device) in an event, and
that event must come before the line of the first of its required blocks that was taken. Of a hard claim, no block of
its whole footprint may be taken for a request before such an event.

`TENURE_SOAK_STEPS` sets the number of steps (100,000 without it) and `TENURE_SOAK_SEED` where they begin.
"""

from __future__ import annotations

import os
import random
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from tenure.arbiter.decision import Route
from tenure.arbiter.pressure import LivePlan, even_chunks
from tenure.arbiter.rules import ReuseAdmission, action_policy
from tenure.claims.blocks import BlockKey, block_keys
from tenure.claims.event_types import EventType
from tenure.claims.events import FieldValue
from tenure.claims.modes import AttentionMode, ProtectionMode, RestorationOutcome
from tenure.claims.objects import ResidentClaim
from tenure.claims.predicate import contiguous_range, leading_prefix_at_least
from tenure.errors import ClaimError, UsageError
from tenure.kv.identity import CacheIdentity
from tenure.runtime.control.store import Slot
from tenure.runtime.control.tier import ClaimTier
from tenure.runtime.control.work import Standing
from tenure.runtime.micro.content import content_keys
from tenure.runtime.micro.runtime import MicroRequest, MicroRuntime

E = EventType
STEPS = int(os.environ.get("TENURE_SOAK_STEPS", "100000"))
SEED = int(os.environ.get("TENURE_SOAK_SEED", "0"))
EPISODE_STEPS = 500
ENDS = frozenset({E.CLAIM_DEMOTED, E.CLAIM_EXPIRED, E.CLAIM_RELEASED, E.CLAIM_HARMED})
LINES = (
    "refuse",
    "expire, demote, refuse",
    "expire, demote, defer 5s, refuse",
    "expire, offload_resident, defer 3, refuse",
    "offload_resident, defer 2, demote, refuse",
    "offload_resident, demote, refuse",
    "bound_active_live, defer 4, refuse",
    "defer 2, harm",
    "offload_active, recompute_split, route_elsewhere, refuse",
)
IDENTITIES = tuple(
    CacheIdentity(cache_key_domain="d", model_id="m", tokenizer_id="t", salt_namespace=salt, block_size=16)
    for salt in ("a", "b")
)


class Recorder:
    """A sink that keeps this step's events."""

    def __init__(self) -> None:
        self.step: list[tuple[EventType, Mapping[str, FieldValue], str | None, str | None]] = []
        self.sequence = 0

    def emit(
        self,
        event_type: EventType,
        fields: Mapping[str, FieldValue] | None = None,
        *,
        claim_id: str | None = None,
        prefix_id: str | None = None,
        request_id: str | None = None,
    ) -> int:
        del prefix_id
        self.step.append((event_type, fields or {}, claim_id, request_id))
        self.sequence += 1
        return self.sequence - 1


@dataclass
class Watched:
    """An accepted claim, as its owner knows it."""

    required: tuple[BlockKey, ...]
    is_whole: bool = False
    is_away: bool = False


@dataclass
class Episode:
    """One runtime under one random policy."""

    rng: random.Random
    clock_s: float = 0.0
    claims: dict[str, Watched] = field(default_factory=dict)
    running: list[str] = field(default_factory=list)
    counts: Counter[str] = field(default_factory=Counter)
    asked: dict[str, tuple[BlockKey, ...]] = field(default_factory=dict)
    submitted: dict[str, ResidentClaim] = field(default_factory=dict)
    contents: dict[str, tuple[CacheIdentity, tuple[int, ...]]] = field(default_factory=dict)
    serial: int = 0

    def __post_init__(self) -> None:
        rng = self.rng
        lines = {mode.value: rng.choice(LINES) for mode in ProtectionMode if mode.reserves_blocks}
        self.sink = Recorder()
        self.tier = ClaimTier(rng.choice((0, 10, 40, 40)))
        self.runtime = MicroRuntime(
            usable_blocks=rng.choice((8, 16, 24)),
            clock=lambda: self.clock_s,
            sink=self.sink,
            policy=action_policy(lines, reuse_admission=rng.choice(list(ReuseAdmission)), max_deferred_requests=3),
            tier=self.tier,
            restore_failure=rng.choice(list(RestorationOutcome)),
        )
        self.store = self.runtime._residency.store

    # --- what happens ---------------------------------------------------------------------------------------------

    def act(self) -> None:
        """One random thing."""
        kind = self.rng.random()
        if kind < 0.15:
            self._claim()
        elif kind < 0.55:
            self._request()
        elif kind < 0.8 and self.running:
            self.runtime.finish(self.running.pop(self.rng.randrange(len(self.running))))
        elif kind < 0.9:
            self.clock_s += self.rng.choice((0.5, 1.0, 4.0))
            self.runtime.tick()
        else:
            self._rarely()

    def _content(self) -> tuple[int, ...]:
        """A few contents that share prefixes."""
        family, length, fork = self.rng.randrange(4), self.rng.choice((1, 3, 5, 7, 10)), self.rng.randrange(2)
        return tuple(family * 100 + at + (50 * fork if at >= 4 else 0) for at in range(length))

    def _identity(self) -> CacheIdentity:
        return IDENTITIES[self.rng.random() < 0.1]

    def _claim(self) -> None:
        rng, content, identity = self.rng, self._content(), self._identity()
        start = rng.choice((0, 0, min(2, len(content) - 1)))
        footprint = rng.randint(1, len(content) - start)
        needed = rng.randint(0, footprint)
        keys = content_keys(identity, content)[start : start + footprint]
        claim_id = f"c{self.serial}"
        self.serial += 1
        mode = rng.choice(list(ProtectionMode))
        claim = ResidentClaim(
            claim_id=claim_id,
            owner_scope="owner",
            cache_identity=identity,
            object_id=f"{content}",
            materialization_predicate=contiguous_range(start, needed) if start else leading_prefix_at_least(needed),
            footprint_blocks=footprint,
            protection_mode=mode,
            duration_s=rng.choice((1.0, 5.0)) if mode is ProtectionMode.EXPIRING or rng.random() < 0.6 else None,
            revision=rng.randint(1, 2),
            fallback_mode=rng.choice((None, ProtectionMode.SOFT_PRIORITY)),
            block_hashes=tuple(str(key[1]) for key in keys),
        )
        if self.claims and rng.random() < 0.2:
            claim_id = rng.choice(sorted(self.claims))
            claim = replace(self.submitted[claim_id], revision=rng.randint(1, 4), duration_s=rng.choice((0.5, 3.0)))
        else:
            self.asked[claim_id], self.submitted[claim_id] = keys[:needed], claim
            self.contents[claim_id] = (identity, content)
        try:
            receipt = self.runtime.submit_claim(claim, object_blocks=len(content))
        except ClaimError:
            self.counts["claim error"] += 1
        else:
            self.counts[f"claim {receipt.outcome}"] += 1

    def _request(self) -> None:
        rng, content, identity = self.rng, self._content(), self._identity()
        away = [name for name, watched in sorted(self.claims.items()) if watched.is_away]
        if away and rng.random() < 0.6:
            identity, content = self.contents[rng.choice(away)]
        total = len(content) + rng.randint(0, 3)
        mode = rng.choice((AttentionMode.FULL_ATTENTION,) * 6 + tuple(AttentionMode))
        request_id = f"r{self.serial}"
        self.serial += 1
        receipt = self.runtime.start(
            MicroRequest(
                request_id=request_id,
                identity=identity,
                content=content,
                live_plan=LivePlan(
                    chunk_blocks=even_chunks(total_blocks=total, chunk_blocks=rng.randint(1, total)),
                    attention_mode=mode,
                    window_blocks=rng.randint(0, 4) if mode is AttentionMode.SLIDING_WINDOW else None,
                ),
                wants_reuse=rng.random() < 0.8,
                min_arena_blocks=rng.choice((None, 2)),
                may_recompute=rng.random() < 0.3,
                may_offload=rng.random() < 0.3,
                routes=(Route(target="w", cost=1.0),) if rng.random() < 0.5 else (),
            )
        )
        self.counts[f"request {receipt.outcome}"] += 1
        if self.runtime.work(request_id).standing is Standing.RUNNING:
            self.running.append(request_id)

    def _rarely(self) -> None:
        kind, names = self.rng.random(), sorted(self.claims)
        try:
            if kind < 0.25 and names:
                self.runtime.cancel_claim(self.rng.choice(names), owner_scope=self.rng.choice(("owner", "thief")))
            elif kind < 0.7 and names:
                away = [name for name in names if self.claims[name].is_away]
                self.runtime.fail_next_restore(self.rng.choice(away or names))
            elif kind < 0.95 and names:
                self.runtime.lose_block(self.rng.choice(names), position=self.rng.randrange(6))
            elif kind > 0.99:
                self.runtime.reset()
        except UsageError:
            self.counts["usage error"] += 1

    # --- what is watched ------------------------------------------------------------------------------------------

    def step(self) -> None:
        """Act, then hold what happened against the store as it was and is."""
        block_of = {key: slot.block_id for key, slot in self.store._by_key.items()}
        waiting = list(self.runtime._admission.waiting)
        whole = {name for name, watched in self.claims.items() if watched.is_whole and not watched.is_away}
        hard = self._hard_blocks(block_of)
        self.sink.step.clear()
        self.act()
        for request_id in waiting:  # a deferred request that was admitted meanwhile
            if self.runtime.work(request_id).standing is Standing.RUNNING:
                self.running.append(request_id)
        self._check_order(whole, hard, block_of)
        self._check_store()
        self._check_counts()

    def _hard_blocks(self, block_of: dict[BlockKey, int]) -> dict[str, set[int]]:
        """What is on the device of the claims that were accepted as hard, by claim."""
        statuses = [self.runtime.registry.status(name) for name, watched in self.claims.items() if not watched.is_away]
        return {
            status.claim.claim_id: {block_of[key] for key in block_keys(status.claim) if key in block_of}
            for status in statuses
            if status.claim.protection_mode is ProtectionMode.HARD_PROTECTED
        }

    def _check_order(self, whole: set[str], hard: dict[str, set[int]], block_of: dict[BlockKey, int]) -> None:
        """Through this step's events in order: no required block of a standing claim is taken."""
        required_in = {name: {block_of[key] for key in self.claims[name].required} for name in whole}
        for event, fields, claim_id, request_id in self.sink.step:
            if claim_id is not None and event.is_claim_event:
                self._follow(event, claim_id, required_in)
                if claim_id not in self.claims or self.claims[claim_id].is_away:
                    hard.pop(claim_id, None)
            elif event is E.VICTIM_SELECTED and fields["victim_reason"] == "cached_prefix_reuse":
                block = fields["physical_block_id"]
                for name, blocks in required_in.items():
                    assert block not in blocks, f"block {block} of standing claim {name} was taken in silence"
                for name, blocks in hard.items() if request_id is not None else ():
                    assert block not in blocks, f"block {block} of hard claim {name} was taken while the claim stood"
            elif event is E.BLOCK_MATERIALIZED:
                for blocks in (*required_in.values(), *hard.values()):
                    blocks.discard(int(str(fields["physical_block_id"])))

    def _follow(self, event: EventType, claim_id: str, required_in: dict[str, set[int]]) -> None:
        self.counts[event.value] += 1
        if event in (E.CLAIM_ACCEPTED, E.CLAIM_CONDITIONALLY_ACCEPTED):
            assert claim_id not in self.claims, f"{claim_id} was accepted twice"
            self.claims[claim_id] = Watched(required=self.asked[claim_id])
        elif event in ENDS:
            assert claim_id in self.claims, f"{event} for {claim_id}, which is not accepted or has ended"
            del self.claims[claim_id]
            required_in.pop(claim_id, None)
        elif event is E.CLAIM_OFFLOADED:
            self.claims[claim_id].is_away = True
            required_in.pop(claim_id, None)
        elif event is E.CLAIM_RESTORED:
            self.claims[claim_id].is_away = False

    def _check_store(self) -> None:
        """A claim that was whole and did not end is whole still; one that is away can be had from the tier."""
        cached = self.store._by_key
        for name, watched in self.claims.items():
            if watched.is_away:
                stored = self.tier.load(name) if name not in self.tier._failing else self.tier._claims[name]
                assert set(watched.required) <= set(stored.rows), f"{name} is offloaded and cannot be restored"
                continue
            is_whole = all(key in cached for key in watched.required)
            assert is_whole or not watched.is_whole, f"{name} lost its predicate, and no event says so"
            watched.is_whole = is_whole

    def _check_counts(self) -> None:
        """The ledger and the registry agree with the store, and nothing is counted twice."""
        ledger, store = self.runtime.ledger, self.store
        assert ledger.free_blocks == store.free_blocks
        assert ledger.usable_blocks == store.free_blocks + len(store)
        in_use = sum(self.runtime.work(request_id).peak_live_blocks for request_id in self.running)
        assert ledger.active_blocks <= in_use
        protected = {
            slot.block_id
            for slot in store.published()
            if slot.key is not None and self.runtime.registry.is_protected(slot.key)
        }
        assert ledger.protected_blocks == len(protected)
        assert ledger.deferred_requests == len(self.runtime._admission.waiting)


def test_no_accepted_claim_is_lost_silently_in_random_work() -> None:
    counts: Counter[str] = Counter()
    for start in range(0, STEPS, EPISODE_STEPS):
        episode = Episode(random.Random(SEED + start))
        for at in range(min(EPISODE_STEPS, STEPS - start)):
            try:
                episode.step()
            except Exception as error:
                error.add_note(f"TENURE_SOAK_SEED={SEED + start}, step {at} of the episode")
                raise
        counts += episode.counts
    if STEPS >= 100_000:  # the run means something only if everything it is about really happened, and often
        for event in (*ENDS, E.CLAIM_OFFLOADED, E.CLAIM_RESTORED, E.CLAIM_RESTORATION_FAILED, E.CLAIM_RENEWED):
            assert counts[event.value] >= 50, f"{event.value} happened {counts[event.value]} times"
        for outcome in ("served", "bounded", "deferred", "refused", "routed"):
            assert counts[f"request {outcome}"] >= 50, f"{outcome} happened {counts[f'request {outcome}']} times"
    print(dict(sorted(counts.items())))  # noqa: T201 - what a long run is run for


def _break_silently(episode: Episode) -> None:
    """Make the runtime evict the oldest block, whoever claims it, and tell nobody."""
    residency = episode.runtime._residency
    residency._victim_rank = lambda slot, harms: 0  # type: ignore[method-assign]
    residency._leave = lambda slot, **_: False  # type: ignore[method-assign]
    empty = residency._empty

    def empty_whatever(slot: Slot) -> None:
        for claim_id in residency.ledger.holders(slot.block_id):
            residency.ledger.let_go(claim_id, [slot.block_id])
        empty(slot)

    residency._empty = empty_whatever  # type: ignore[method-assign]


def test_the_watcher_notices_a_runtime_that_evicts_in_silence() -> None:
    caught = 0
    for seed in range(20):
        episode = Episode(random.Random(seed))
        _break_silently(episode)
        try:
            for _ in range(EPISODE_STEPS):
                episode.step()
        except AssertionError as error:
            caught += "in silence" in str(error) or "no event says so" in str(error)
    assert caught >= 10  # in the others chance let it take only what nobody needed
