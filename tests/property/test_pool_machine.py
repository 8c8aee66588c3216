"""The pool and its host tier against counts: grants, budgets and buffers add up whatever is opened, fed and closed."""

from __future__ import annotations

import torch
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from pool_rows import MIXED
from tenure.errors import CapacityError, HostTierFullError, InternalError, PoolSizeError
from tenure.pool import HostBlock, HostTier, Pager, Pool, layout_for

MINIMUM_BLOCKS = 4
BLOCK_SIZE = 2


class PoolMachine(RuleBasedStateMachine):
    @initialize(usable_blocks=st.integers(1, 16), host_blocks=st.one_of(st.none(), st.integers(0, 10)))
    def make(self, usable_blocks: int, host_blocks: int | None) -> None:
        geometry = MIXED.geometry(torch.bfloat16)
        budget = None if host_blocks is None else host_blocks * geometry.pooled_block_bytes(BLOCK_SIZE) + 1
        self.pool = Pool(
            geometry, usable_blocks=usable_blocks, dtype=torch.bfloat16, block_size=BLOCK_SIZE, host_bytes=budget
        )
        self.usable, self.host_blocks = usable_blocks, host_blocks
        self.open: list[tuple[Pager, int]] = []

    @property
    def granted(self) -> int:
        return sum(blocks for _, blocks in self.open)

    @property
    def sealed(self) -> int:
        return sum(pager.logical_rows // BLOCK_SIZE for pager, _ in self.open)

    @rule(blocks=st.one_of(st.none(), st.integers(-1, 9)))
    def begin_a_sequence(self, blocks: int | None) -> None:
        wanted = self.usable - self.granted if blocks is None else blocks
        try:
            pager = self.pool.open(capacity_blocks=blocks, sink_blocks=1, tail_blocks=1)
        except CapacityError:
            assert wanted > self.usable - self.granted or self.usable == self.granted
        except PoolSizeError:
            assert wanted < MINIMUM_BLOCKS
        else:
            assert MINIMUM_BLOCKS <= wanted <= self.usable - self.granted
            self.open.append((pager, wanted))

    @precondition(lambda self: self.open)
    @rule(data=st.data(), rows=st.integers(1, 6))
    def append(self, data: st.DataObject, rows: int) -> None:
        pager, _ = data.draw(st.sampled_from(self.open))
        rows = min(rows, pager.max_append_rows)
        pager.apply(pager.plan_room(rows))
        sealing = (pager.logical_rows + rows) // BLOCK_SIZE - pager.logical_rows // BLOCK_SIZE
        before = pager.logical_rows
        try:
            pager.begin_append(rows)
        except HostTierFullError:
            assert self.host_blocks is not None
            assert self.sealed + sealing > self.host_blocks
            assert pager.logical_rows == before
        else:
            assert self.host_blocks is None or self.sealed + sealing <= self.host_blocks
            pager.commit_append()

    @precondition(lambda self: self.open)
    @rule(data=st.data())
    def crop(self, data: st.DataObject) -> None:
        pager, _ = data.draw(st.sampled_from(self.open))
        pager.crop(data.draw(st.integers(0, pager.logical_rows)))

    @precondition(lambda self: self.open)
    @rule(data=st.data())
    def end_a_sequence(self, data: st.DataObject) -> None:
        index = data.draw(st.integers(0, len(self.open) - 1))
        pager, _ = self.open.pop(index)
        self.pool.close(pager)
        for again in (pager, object()):
            try:
                self.pool.close(again)  # type: ignore[arg-type]
            except InternalError:
                continue
            raise AssertionError("a sequence was closed that is not open")

    @invariant()
    def everything_adds_up(self) -> None:
        self.pool.check_invariants()
        statistics = self.pool.statistics()
        assert statistics.granted_blocks == self.granted <= self.usable
        assert statistics.sequences == len(self.open)
        assert statistics.host.used_blocks == self.sealed
        assert statistics.host.used_bytes == self.sealed * self.pool.host.block_bytes
        assert statistics.host.used_bytes <= statistics.host.peak_bytes <= statistics.host.allocated_bytes
        if self.host_blocks is not None:
            assert statistics.host.allocated_bytes <= self.host_blocks * self.pool.host.block_bytes
        resident_blocks = sum(-(-pager.resident_rows // BLOCK_SIZE) for pager, _ in self.open)
        assert resident_blocks <= self.usable


class HostTierMachine(RuleBasedStateMachine):
    @initialize(budget_blocks=st.one_of(st.none(), st.integers(0, 8)))
    def make(self, budget_blocks: int | None) -> None:
        layout = layout_for(MIXED.geometry(torch.float16), block_size=BLOCK_SIZE)
        budget = None if budget_blocks is None else budget_blocks * layout.bytes_per_block(torch.float16)
        self.tier = HostTier(layout, dtype=torch.float16, budget_bytes=budget)
        self.budget_blocks = budget_blocks
        self.held: dict[int, HostBlock] = {}
        self.number = self.peak = 0

    @rule(blocks=st.integers(0, 5))
    def allocate(self, blocks: int) -> None:
        fits = self.budget_blocks is None or len(self.held) + blocks <= self.budget_blocks
        try:
            taken = self.tier.allocate_many(blocks)
        except HostTierFullError:
            assert not fits
            return
        assert fits
        for block in taken:
            self.number += 1
            block.buffer.fill_(float(self.number))
            self.held[self.number] = block
        self.peak = max(self.peak, len(self.held))

    @precondition(lambda self: self.held)
    @rule(data=st.data())
    def free(self, data: st.DataObject) -> None:
        self.tier.free(self.held.pop(data.draw(st.sampled_from(sorted(self.held)))))

    @invariant()
    def no_two_blocks_share_a_byte(self) -> None:
        self.tier.check_invariants()
        for number, block in self.held.items():
            assert (block.buffer == float(number)).all()
        statistics = self.tier.statistics()
        assert statistics.used_blocks == len(self.held)
        assert statistics.peak_bytes == self.peak * self.tier.block_bytes


TestPoolMachine = PoolMachine.TestCase
TestPoolMachine.settings = settings(stateful_step_count=30)
TestHostTierMachine = HostTierMachine.TestCase
TestHostTierMachine.settings = settings(stateful_step_count=30)
