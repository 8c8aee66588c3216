"""The registry against a model of it that keeps sets: whatever is done, promises, counts and events agree."""

from __future__ import annotations

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from claims_world import IDENTITY, World, make_claim
from tenure.claims import (
    CapacitySnapshot,
    ClaimState,
    EventType,
    Outcome,
    ProtectionMode,
    ResidentClaim,
    contiguous_range,
    leading_prefix_at_least,
)
from tenure.claims.blocks import BlockKey, block_keys, object_block_key
from tenure.claims.journal import MemoryJournal
from tenure.claims.lifecycle import DEVICE_STATES, HOST_STATES, TERMINAL_STATES
from tenure.claims.modes import RestorationOutcome, Tier
from tenure.claims.reconstruction import reconstruct
from tenure.claims.trace import parse_trace
from tenure.errors import UsageError

USABLE_BLOCKS = 10
OBJECTS = ("x", "y")
BLOCKS_OF_AN_OBJECT = 7
MODES = st.sampled_from([mode for mode in ProtectionMode if mode is not ProtectionMode.ROUTED_REUSE])
PREDICATES = st.one_of(
    st.builds(leading_prefix_at_least, st.integers(0, 4)),
    st.builds(contiguous_range, st.integers(0, 3), st.integers(1, 3)),
)


class RegistryMachine(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.journal = MemoryJournal()
        self.world = World(usable_blocks=USABLE_BLOCKS, journal=self.journal, clock_id="one")
        self.granted: dict[str, ResidentClaim] = {}
        self.number = 0

    @initialize()
    def start(self) -> None:
        self.world.registry.start(runtime_name="machine")

    def live(self) -> dict[str, ClaimState]:
        return {status.claim.claim_id: status.state for status in self.world.registry.live()}

    def pick(self, index: int) -> str:
        return sorted(self.live())[index % len(self.live())]

    @rule(
        mode=MODES,
        predicate=PREDICATES,
        extra=st.integers(0, 3),
        object_id=st.sampled_from(OBJECTS),
        active=st.integers(0, 6),
        duration_s=st.one_of(st.none(), st.integers(1, 5).map(float)),
        fallback=st.sampled_from([None, ProtectionMode.SOFT_PRIORITY]),
    )
    def submit(self, mode, predicate, extra, object_id, active, duration_s, fallback) -> None:  # type: ignore[no-untyped-def]  # noqa: PLR0917
        self.number += 1
        claim = make_claim(
            f"claim:{self.number}",
            object_id=object_id,
            materialization_predicate=predicate,
            footprint_blocks=max(1, predicate.required_blocks) + extra,
            protection_mode=mode,
            duration_s=5.0 if duration_s is None and mode is ProtectionMode.EXPIRING else duration_s,
            fallback_mode=fallback,
        )
        receipt = self.world.submit(claim, active_live_blocks=active)
        if receipt.outcome is Outcome.REJECTED:
            assert receipt.numbers is not None
            assert receipt.numbers.shortfall_blocks > 0
            return
        granted = self.world.registry.status(claim.claim_id).claim
        assert granted.footprint_blocks >= predicate.required_blocks
        assert granted.protection_mode in (mode, fallback)
        self.granted[claim.claim_id] = granted
        if granted.protection_mode.reserves_blocks:
            assert len(self.model_owed()) + active <= USABLE_BLOCKS

    @rule(object_id=st.sampled_from(OBJECTS), position=st.integers(0, BLOCKS_OF_AN_OBJECT - 1))
    def bring_a_block(self, object_id: str, position: int) -> None:
        key = object_block_key(IDENTITY, object_id, position)
        self.world.device.add(key)
        self.world.registry.block_arrived(key)

    @precondition(lambda self: self.world.device)
    @rule(index=st.integers(0, 99))
    def take_a_block(self, index: int) -> None:
        key = sorted(self.world.device)[index % len(self.world.device)]
        held = {name for name, state in self.live().items() if state in DEVICE_STATES}
        covering = set(self.world.registry.covering(key))
        before = len(self.world.trace.events)
        self.world.registry.tick()
        was_protected = self.world.registry.is_protected(key)
        assert self.world.take_key(key) == was_protected
        said = self.world.trace.events[before:]
        harmed = {event.claim_id for event in said if event.event_type is EventType.CLAIM_HARMED}
        expired = {event.claim_id for event in said if event.event_type is EventType.CLAIM_EXPIRED}
        position = int(key[1])
        must = {
            name
            for name in (held & covering) - expired
            if position in self.granted[name].materialization_predicate.required_positions
        }
        assert harmed == must

    @precondition(lambda self: self.live())
    @rule(index=st.integers(0, 99), how=st.sampled_from(["demote", "expire", "cancel"]))
    def release(self, index: int, how: str) -> None:
        claim_id = self.pick(index)
        if how == "cancel":
            self.world.registry.tick()
            if claim_id in self.live():
                self.world.registry.cancel(claim_id, owner_scope=self.granted[claim_id].owner_scope)
        else:
            getattr(self.world.registry, how)(claim_id)
        assert claim_id not in self.live()

    @precondition(lambda self: any(state in DEVICE_STATES for state in self.live().values()))
    @rule(index=st.integers(0, 99), takes_blocks=st.booleans())
    def offload(self, index: int, takes_blocks: bool) -> None:
        candidates = sorted(name for name, state in self.live().items() if state in DEVICE_STATES)
        claim_id = candidates[index % len(candidates)]
        self.world.registry.offload(claim_id)
        if takes_blocks:
            for key in block_keys(self.granted[claim_id]):
                if key in self.world.device and not self.world.registry.is_protected(key):
                    self.world.take_key(key)

    @precondition(lambda self: any(state in HOST_STATES for state in self.live().values()))
    @rule(index=st.integers(0, 99), outcome=st.sampled_from([None, *RestorationOutcome]))
    def restore(self, index: int, outcome: RestorationOutcome | None) -> None:
        candidates = sorted(name for name, state in self.live().items() if state in HOST_STATES)
        claim_id = candidates[index % len(candidates)]
        self.world.registry.require_restore(claim_id, request_id="r")
        if outcome is not None:
            self.world.registry.restoration_failed(claim_id, failure="injected", outcome=outcome, injected=True)
            return
        keys = block_keys(self.granted[claim_id])
        for key in keys:
            self.world.device.add(key)
            self.world.registry.block_arrived(key)
        self.world.registry.restored(claim_id, request_id="r")
        self.world.registry.reused(claim_id, request_id="r")

    @rule(steps=st.integers(0, 3))
    def let_time_pass(self, steps: int) -> None:
        self.world.clock.advance(steps)
        now = self.world.clock()
        due = {
            s.claim.claim_id for s in self.world.registry.live() if s.expires_at_s is not None and s.expires_at_s <= now
        }
        assert {receipt.claim_id for receipt in self.world.registry.tick()} == due

    @rule(kind=st.sampled_from(["reset", "shutdown"]))
    def end_everything(self, kind: str) -> None:
        getattr(self.world.registry, kind)("machine")
        assert not self.live()
        if kind == "shutdown":
            with pytest.raises(UsageError):
                self.world.submit(make_claim("claim:late"))
            self.restart(Tier.DEVICE)

    @rule(tier=st.sampled_from([None, Tier.DEVICE, Tier.HOST]), usable_blocks=st.sampled_from([None, 0, 4, 7, 10]))
    def restart(self, tier: Tier | None, usable_blocks: int | None = None) -> None:
        before = self.live()
        device = self.world.device if tier is Tier.DEVICE else set()
        self.world = World(usable_blocks=USABLE_BLOCKS, journal=self.journal, clock_id="one", clock=self.world.clock)
        self.world.device = device
        self.world.registry._resident = device
        capacity = None if usable_blocks is None else CapacitySnapshot(usable_blocks=usable_blocks)
        receipts = self.world.registry.start(runtime_name="machine", survivors=lambda _: tier, capacity=capacity)
        assert usable_blocks is None or len(self.model_owed()) <= usable_blocks
        assert {receipt.claim_id for receipt in receipts} == set(before)
        ended = {receipt.claim_id for receipt in receipts if receipt.state in TERMINAL_STATES}
        assert set(self.live()) == set(before) - ended

    def model_owed(self) -> set[BlockKey]:
        union: set[BlockKey] = set()
        for name, state in self.live().items():
            mode = self.granted[name].protection_mode
            if mode.reserves_blocks and (mode is not ProtectionMode.OFFLOADABLE or state not in HOST_STATES):
                union.update(block_keys(self.granted[name]))
        return union

    def model_protected(self) -> set[BlockKey]:
        union: set[BlockKey] = set()
        for name, state in self.live().items():
            if state not in HOST_STATES and self.granted[name].protection_mode.reserves_blocks:
                union.update(block_keys(self.granted[name]))
        return union & self.world.device

    @invariant()
    def the_owed_blocks_are_the_union_of_what_is_promised_and_the_protected_ones_what_of_it_is_there(self) -> None:
        assert self.world.registry.owed_blocks == len(self.model_owed())
        assert self.world.registry.protected_blocks == len(self.model_protected())
        for object_id in OBJECTS:
            for position in range(BLOCKS_OF_AN_OBJECT):
                key = object_block_key(IDENTITY, object_id, position)
                covering = [self.granted[name] for name in self.world.registry.covering(key)]
                on_device = [c for c in covering if self.live()[c.claim_id] not in HOST_STATES]
                modes = {claim.protection_mode for claim in on_device}
                assert self.world.registry.is_protected(key) == any(mode.reserves_blocks for mode in modes)
                assert self.world.registry.is_hard_protected(key) == (ProtectionMode.HARD_PROTECTED in modes)

    @invariant()
    def each_live_claim_says_what_is_on_the_device_and_materialized_means_its_predicate_holds(self) -> None:
        for status in self.world.registry.live():
            keys = dict(zip(status.claim.footprint_positions, block_keys(status.claim), strict=True))
            there = {position for position, key in keys.items() if key in self.world.device}
            if status.state in HOST_STATES:
                continue
            assert status.surviving_blocks == len(there)
            holds = set(status.claim.materialization_predicate.required_positions) <= there
            assert holds == (status.state in DEVICE_STATES)

    @invariant()
    def the_journal_knows_the_live_claims(self) -> None:
        assert {entry.claim.claim_id: entry.state for entry in self.journal.live()} == self.live()

    def teardown(self) -> None:
        events = list(parse_trace(self.world.trace.to_json_lines().splitlines(keepends=True)))
        for run in reconstruct(events):
            assert not run.violations
            told = {name: claim.state for name, claim in run.claims.items() if claim.live}
            assert told == self.live()


RegistryMachine.TestCase.settings = settings(stateful_step_count=30)
TestRegistryMachine = RegistryMachine.TestCase
