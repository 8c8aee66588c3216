"""The incrementally kept view, against a recount from scratch after every step."""

from __future__ import annotations

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from tenure.arbiter.ledger import PoolLedger
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
        for _, held in self.claims.values():
            held.difference_update(chosen)

    @rule(mode=st.sampled_from(ProtectionMode))
    def add_claim(self, mode: ProtectionMode) -> None:
        name = f"c{self.next_claim}"
        self.next_claim += 1
        self.ledger.add_claim(name, mode=mode)
        self.claims[name] = (mode, set())

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
    @rule(data=st.data(), due=st.booleans(), ends=st.booleans())
    def end_or_mark(self, data: st.DataObject, due: bool, ends: bool) -> None:
        name = data.draw(st.sampled_from(sorted(self.claims)))
        if ends:
            self.ledger.drop_claim(name)
            del self.claims[name]
        else:
            self.ledger.mark(name, is_due=due)

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
        ledger = self.ledger
        idle = [block for block, pins in self.pins.items() if not pins]
        groups = [self._holders(b, reserving=True) or self._holders(b, reserving=False) for b in idle]
        assert ledger.shared_blocks == sum(len(group) > 1 for group in groups)
        for name, (mode, _) in self.claims.items():
            alone = sum(group == {name} for group in groups)
            shared = any(name in group and len(group) > 1 for group in groups)
            shelf = ledger.shelf_of(name)
            assert shelf.mode is mode
            listed = [standing for standing in ledger.shelves.listed(shelf) if standing[2] == name]
            assert (name in ledger.shelves.entangled(shelf)) is shared
            assert [standing[0] for standing in listed] == ([alone] if alone else [])
            assert list(ledger.shelves.listed(shelf)) == sorted(ledger.shelves.listed(shelf))
            assert ledger.shelves.listed_blocks(shelf) == sum(standing[0] for standing in ledger.shelves.listed(shelf))


LedgerMachine.TestCase.settings = settings(max_examples=60, stateful_step_count=40)
TestLedger = LedgerMachine.TestCase
