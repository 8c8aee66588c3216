"""The incrementally kept view, against a recount from scratch after every step."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from tenure.arbiter.ledger import PoolLedger
from tenure.arbiter.standing import CLOSELY_SHARED, Shelf
from tenure.claims.modes import ProtectionMode
from tenure.errors import PlanError

USABLE = 24


class LedgerMachine(RuleBasedStateMachine):
    """Random moves; every total is recounted from a plain model that scans."""

    def __init__(self) -> None:
        super().__init__()
        self.ledger = PoolLedger(usable_blocks=USABLE)
        self.pins: dict[int, int] = {}
        self.claims: dict[str, tuple[ProtectionMode, set[int]]] = {}
        self.ends: dict[str, float | None] = {}
        self.copied: set[int] = set()
        self.marked_at_s = 0.0
        self.next_block = 0
        self.next_claim = 0

    @rule(blocks=st.integers(1, 6))
    def occupy(self, blocks: int) -> None:
        names = range(self.next_block, self.next_block + blocks)
        if blocks > USABLE - len(self.pins):
            with pytest.raises(PlanError):
                self.ledger.occupy(names)
            return
        self.ledger.occupy(names)
        self.pins.update(dict.fromkeys(names, 1))
        self.next_block += blocks

    @precondition(lambda self: self.pins)
    @rule(data=st.data(), by=st.sampled_from([1, -1]))
    def change_pins(self, data: st.DataObject, by: int) -> None:
        chosen = data.draw(st.sets(st.sampled_from(sorted(self.pins)), max_size=5))
        if by < 0 and any(self.pins[block] == 0 for block in chosen):
            with pytest.raises(PlanError):
                self.ledger.unpin(sorted(chosen))
            return
        (self.ledger.pin if by > 0 else self.ledger.unpin)(sorted(chosen))
        for block in chosen:
            self.pins[block] += by

    @precondition(lambda self: self.pins)
    @rule(data=st.data())
    def vacate(self, data: st.DataObject) -> None:
        chosen = data.draw(st.sets(st.sampled_from(sorted(self.pins)), max_size=4))
        guarded = {block for mode, held in self.claims.values() if mode.reserves_blocks for block in held}
        if any(self.pins[block] or block in guarded for block in chosen):
            with pytest.raises(PlanError):
                self.ledger.vacate(sorted(chosen))
            return
        self.ledger.vacate(sorted(chosen))
        for block in chosen:
            del self.pins[block]
            self.copied.discard(block)
        for _, held in self.claims.values():
            held.difference_update(chosen)

    @rule(mode=st.sampled_from(ProtectionMode))
    def add_claim(self, mode: ProtectionMode) -> None:
        name = f"c{self.next_claim}"
        self.next_claim += 1
        self.ledger.add_claim(name, mode=mode)
        self.claims[name] = (mode, set())
        self.ends[name] = None

    @precondition(lambda self: self.pins and self.claims)
    @rule(data=st.data(), holds=st.booleans())
    def change_holders(self, data: st.DataObject, holds: bool) -> None:
        name = data.draw(st.sampled_from(sorted(self.claims)))
        chosen = data.draw(st.sets(st.sampled_from(sorted(self.pins)), max_size=8))
        held = self.claims[name][1]
        if holds:
            self.ledger.hold(name, sorted(chosen))
            held |= chosen
        else:
            self.ledger.let_go(name, sorted(chosen))
            held.difference_update(chosen)

    @precondition(lambda self: self.claims)
    @rule(data=st.data(), whole=st.booleans(), ends=st.booleans())
    def end_or_mark(self, data: st.DataObject, whole: bool, ends: bool) -> None:
        name = data.draw(st.sampled_from(sorted(self.claims)))
        if ends:
            self.ledger.drop_claim(name)
            del self.claims[name], self.ends[name]
        else:
            self.ledger.mark(name, is_whole=whole)

    @rule()
    def share_one_block_widely(self) -> None:
        """As a system prompt is: more claims stand on it than any search would combine."""
        if len(self.pins) >= USABLE:
            return
        block = self.next_block
        self.occupy(1)
        for _ in range(CLOSELY_SHARED + 1):
            name = f"c{self.next_claim}"
            self.add_claim(ProtectionMode.HARD_PROTECTED)
            self.ledger.hold(name, [block])
            self.claims[name][1].add(block)

    @precondition(lambda self: self.pins)
    @rule(data=st.data(), exist=st.booleans())
    def note_copies(self, data: st.DataObject, exist: bool) -> None:
        chosen = data.draw(st.sets(st.sampled_from(sorted(self.pins)), max_size=4))
        self.ledger.note_copies(sorted(chosen), exist=exist)
        self.copied = self.copied | chosen if exist else self.copied - chosen

    @rule(by=st.integers(0, 3))
    def time_passes(self, by: int) -> None:
        self.marked_at_s += by
        self.ledger.mark_due(now_s=self.marked_at_s)

    @precondition(lambda self: self.claims)
    @rule(data=st.data(), after=st.none() | st.integers(1, 5))
    def renew(self, data: st.DataObject, after: int | None) -> None:
        name = data.draw(st.sampled_from(sorted(self.claims)))
        self.ends[name] = None if after is None else self.marked_at_s + after
        self.ledger.set_end(name, self.ends[name])

    def _holders(self, block: int, *, reserving: bool) -> frozenset[str]:
        return frozenset(
            name for name, (mode, held) in self.claims.items() if block in held and mode.reserves_blocks is reserving
        )

    @invariant()
    def every_total_is_what_a_recount_says(self) -> None:
        ledger = self.ledger
        idle = [block for block, pins in self.pins.items() if not pins]
        hard_idle = [block for block in idle if self._holders(block, reserving=True)]
        soft_idle = [block for block in idle if block not in hard_idle and self._holders(block, reserving=False)]
        assert ledger.free_blocks == USABLE - len(self.pins)
        assert ledger.active_blocks == len(self.pins) - len(idle)
        assert ledger.protected_blocks == sum(bool(self._holders(block, reserving=True)) for block in self.pins)
        assert ledger.yielding_blocks == len(soft_idle)
        assert ledger.unclaimed_blocks == len(idle) - len(hard_idle) - len(soft_idle)

    @invariant()
    def every_shelf_lists_what_each_claim_alone_would_free(self) -> None:
        shelves = self.ledger.shelves
        groups = {block: self._holders(block, reserving=True) for block in self.pins}
        for name, (mode, held) in self.claims.items():
            shelf = self.ledger.shelf_of(name)
            assert shelf.mode is mode
            listed = [standing for standing in shelves.listed(shelf) if standing[2] == name]
            own = [block for block, group in groups.items() if group == {name}]
            alone = sum(not self.pins[block] for block in own)
            assert [standing[0] for standing in listed] == ([alone] if alone else [])
            assert (name in shelves.pinned(shelf)) is (len(own) > alone)
            assert self.ledger.pinned_alone(name) == len(own) - alone
            sharers = [len(groups[block]) for block in held if name in groups[block] and len(groups[block]) > 1]
            assert (name in shelves.entangled(shelf)) is any(count <= CLOSELY_SHARED for count in sharers)
            assert (name in shelves.widely_sharing(shelf)) is any(count > CLOSELY_SHARED for count in sharers)
            assert (shelf in shelves.occupied()) or not (alone or sharers)

    @invariant()
    def every_shelf_adds_up(self) -> None:
        shelves = self.ledger.shelves
        for shelf in {self.ledger.shelf_of(name) for name in self.claims}:
            listed = shelves.listed(shelf)
            assert list(listed) == sorted(listed)
            assert shelves.listed_blocks(shelf) == sum(standing[0] for standing in listed)
            assert shelves.pinned_blocks(shelf) == sum(self.ledger.pinned_alone(name) for name in shelves.pinned(shelf))

    @invariant()
    def shared_blocks_are_counted_by_the_shelves_of_their_claims(self) -> None:
        wanted: tuple[Counter[frozenset[Shelf]], Counter[frozenset[Shelf]]] = (Counter(), Counter())
        for block, pins in self.pins.items():
            group = self._holders(block, reserving=True)
            if len(group) > 1:
                wanted[pins > 0][frozenset(self.ledger.shelf_of(name) for name in group)] += 1
        assert self.ledger.shared_blocks(pinned=False) == wanted[0]
        assert self.ledger.shared_blocks(pinned=True) == wanted[1]

    @invariant()
    def the_tier_is_asked_for_each_row_that_it_does_not_have_once(self) -> None:
        reserving = [name for name, (mode, _) in self.claims.items() if mode.reserves_blocks]
        for chosen in (*((name,) for name in reserving), tuple(reserving)):
            held = set().union(*(self.claims[name][1] for name in chosen)) if chosen else set()
            assert self.ledger.tier_blocks(chosen) == len(held - self.copied)

    @invariant()
    def claims_whose_time_is_over_are_marked(self) -> None:
        for name, end in self.ends.items():
            assert self.ledger.shelf_of(name).is_due is (end is not None and end <= self.marked_at_s)


LedgerMachine.TestCase.settings = settings(max_examples=60, stateful_step_count=40)
TestLedger = LedgerMachine.TestCase
