"""The frames against a dict from block to random bits: whatever is opened, moved and copied, every block keeps its own."""

from __future__ import annotations

import torch
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from pool_faults import Fault, Faults, FaultyTransfer
from pool_rows import DTYPES, INTEGERS, LARGEST_FINITE, Shape, bits_of
from tenure.errors import CapacityError, InternalError, UsageError
from tenure.pool import HostBlock, HostTier, layout_for
from tenure.pool.frames import BlockFrames, BlockRun

BLOCK_SIZE = 2
SHAPES = (Shape(layers=((1, 2, 2), (1, 2, 2))), Shape(layers=((1, 2, 3), (1, 3, 3)), windowed=True))
IDS = st.integers(0, 15)
Bits = tuple[torch.Tensor, ...]


class FramesMachine(RuleBasedStateMachine):
    @initialize(
        blocks=st.integers(1, 10), dtype=st.sampled_from(DTYPES), shape=st.sampled_from(SHAPES), poisons=st.booleans()
    )
    def make(self, blocks: int, dtype: torch.dtype, shape: Shape, poisons: bool) -> None:
        layout = layout_for(shape.geometry(dtype), block_size=BLOCK_SIZE)
        self.faults = Faults()
        self.frames = BlockFrames(
            layout,
            usable_blocks=blocks,
            dtype=dtype,
            device="cpu",
            transfer=FaultyTransfer(self.faults),
            poison_released=poisons,
        )
        self.dtype, self.blocks = dtype, blocks
        self.random = torch.Generator().manual_seed(0)
        self.held: dict[int, Bits] = {}
        self.runs: list[BlockRun] = []
        self.tier = HostTier(layout, dtype=dtype)
        self.paged: list[tuple[HostBlock, Bits]] = []

    @property
    def open_blocks(self) -> set[int]:
        return {block for run in self.runs for block in run.block_ids}

    @property
    def idle_blocks(self) -> list[int]:
        return sorted(self.held.keys() - self.open_blocks)

    def write(self, run: BlockRun, index: int) -> None:
        """Random bits into one block of a run, through its window's layers."""
        rows = slice(index * BLOCK_SIZE, (index + 1) * BLOCK_SIZE)
        for ordinal in range(len(run.window.layout.layer_indices)):
            keys, values = (
                torch.randint(0, LARGEST_FINITE, (1, 1, BLOCK_SIZE, held.shape[3]), generator=self.random)
                .to(INTEGERS[self.dtype])
                .view(self.dtype)
                for held in (run.window.keys(ordinal), run.window.values(ordinal))
            )
            run.window.write(ordinal, rows.start, keys, values)
        self.held[run.block_ids[index]] = tuple(bits_of(plane[:, :, rows]).clone() for plane in run.window.planes)

    @rule(data=st.data(), known=st.integers(0, 8), added=st.integers(0, 6))
    def open_a_run(self, data: st.DataObject, known: int, added: int) -> None:
        idle = data.draw(st.permutations(self.idle_blocks), label="idle")[:known]
        new = [block for block in range(100) if block not in self.held][:added]
        ids = data.draw(st.permutations([*idle, *new]), label="ids")
        if not ids:
            return
        fits = len(new) <= self.blocks - len(self.held)
        before = self.where_runs_are()
        try:
            run = self.frames.open_run(ids)
        except CapacityError:
            assert not fits
            assert self.where_runs_are() == before
            return
        assert fits
        assert run.block_ids == tuple(ids)
        self.runs.append(run)
        for block in new:
            self.write(run, ids.index(block))

    @rule(ids=st.lists(IDS, max_size=3))
    def open_a_run_that_cannot_be(self, ids: list[int]) -> None:
        if ids and len(set(ids)) == len(ids) and self.open_blocks.isdisjoint(ids):
            ids.append(ids[0])
        before = self.where_runs_are()
        try:
            self.frames.open_run(ids)
        except UsageError:
            assert self.where_runs_are() == before
            return
        raise AssertionError("a run was opened that cannot be")

    def where_runs_are(self) -> list[int]:
        return [self.frames.moved_blocks, *(run.window.first_row for run in self.runs)]

    @precondition(lambda self: self.runs)
    @rule(data=st.data())
    def close_a_run(self, data: st.DataObject) -> None:
        run = self.runs.pop(data.draw(st.integers(0, len(self.runs) - 1)))
        self.frames.close_run(run)
        assert run.closed

    @precondition(lambda self: self.runs)
    @rule(data=st.data())
    def write_through_a_window(self, data: st.DataObject) -> None:
        run = data.draw(st.sampled_from(self.runs))
        self.write(run, data.draw(st.integers(0, len(run.block_ids) - 1)))

    @precondition(lambda self: self.idle_blocks)
    @rule(data=st.data())
    def release(self, data: st.DataObject) -> None:
        ids = data.draw(st.lists(st.sampled_from(self.idle_blocks), unique=True, min_size=1), label="ids")
        self.frames.release(ids)
        for block in ids:
            del self.held[block]

    @rule(ids=st.lists(IDS, min_size=1, max_size=3, unique=True))
    def release_what_cannot_be(self, ids: list[int]) -> None:
        if set(ids) <= set(self.idle_blocks):
            ids.append(ids[0])
        try:
            self.frames.release(ids)
        except InternalError:
            return
        raise AssertionError("blocks were released that cannot be")

    @precondition(lambda self: self.held)
    @rule(data=st.data(), copied=IDS)
    def copy_a_block(self, data: st.DataObject, copied: int) -> None:
        source = data.draw(st.sampled_from(sorted(self.held)), label="source")
        fits = copied in self.held or len(self.held) < self.blocks
        try:
            self.frames.copy_block(source, copied)
        except CapacityError:
            assert not fits
        else:
            assert fits
            self.held[copied] = self.held[source]

    @precondition(lambda self: self.held)
    @rule(data=st.data(), fails=st.booleans())
    def page_out(self, data: st.DataObject, fails: bool) -> None:
        block = data.draw(st.sampled_from(sorted(self.held)), label="block")
        host = self.tier.allocate()
        self.faults.arm(Fault(copy=0) if fails else None)
        try:
            self.frames.page_out(block, host)
        except OSError:
            assert fails
            self.tier.free(host)
        else:
            self.paged.append((host, self.held[block]))
        self.faults.arm(None)

    @precondition(lambda self: self.paged)
    @rule(data=st.data(), block=IDS, fails=st.booleans())
    def page_in(self, data: st.DataObject, block: int, fails: bool) -> None:
        host, bits = data.draw(st.sampled_from(self.paged))
        is_new = block not in self.held
        fits = not is_new or len(self.held) < self.blocks
        # What a failed copy leaves in a block that was there already is nobody's business, so only new ones fail here.
        self.faults.arm(Fault(copy=1) if fails and is_new else None)
        try:
            self.frames.page_in(host, block)
        except CapacityError:
            assert not fits
        except OSError:
            assert fits
        else:
            assert fits
            self.held[block] = bits
        self.faults.arm(None)

    @precondition(lambda self: self.blocks < 14)
    @rule(blocks=st.integers(1, 2))
    def grow(self, blocks: int) -> None:
        self.frames.grow(blocks)
        self.blocks += blocks

    @invariant()
    def every_block_has_its_own_bits(self) -> None:
        for block, bits in self.held.items():
            for held, wanted in zip(self.frames.read_block(block), bits, strict=True):
                assert torch.equal(bits_of(held), wanted), f"block {block} differs"

    @invariant()
    def runs_are_side_by_side_and_their_windows_show_them(self) -> None:
        taken: set[int] = set()
        for run in self.runs:
            window = run.window
            rows = set(range(window.first_row, window.first_row + window.capacity_rows))
            assert window.capacity_rows == len(run.block_ids) * BLOCK_SIZE
            assert taken.isdisjoint(rows)
            taken |= rows
            for group, plane in enumerate(window.planes):
                wanted = torch.cat([self.held[block][group] for block in run.block_ids], dim=2)
                assert torch.equal(bits_of(plane), wanted)

    @invariant()
    def everything_adds_up(self) -> None:
        self.frames.check_invariants()
        assert (self.frames.used_blocks, self.frames.usable_blocks) == (len(self.held), self.blocks)
        assert self.frames.free_blocks == self.blocks - len(self.held)


TestFramesMachine = FramesMachine.TestCase
TestFramesMachine.settings = settings(stateful_step_count=30)
