"""Small pagers for tests, and appends in one call."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch

from pool_faults import Faults, FaultyArena, FaultyTransfer
from pool_rows import UNIFORM, Shape, assert_host_block_is, assert_rows_are, layer_rows
from tenure.pool import HostTier, Pager, PoolEvent, layout_for


@dataclass
class PagerUnderTest:
    """A pager of 4-row blocks whose rows say which they are; every copy can be made to fail."""

    pager: Pager
    shape: Shape
    faults: Faults
    events: list[PoolEvent] = field(default_factory=list)
    versions: list[int] = field(default_factory=list)

    def append(self, rows: int, *, version: int = 1) -> None:
        """Make room, write every layer and commit."""
        self.pager.apply(self.pager.plan_room(rows))
        self.write(self.pager.begin_append(rows), rows, version=version)
        self.pager.commit_append()
        self.versions += [version] * rows

    def write(self, first_slot: int, rows: int, *, version: int = 1) -> None:
        first = self.pager.logical_rows
        for ordinal in range(len(self.shape.layers)):
            keys, values = layer_rows(
                self.shape,
                ordinal,
                positions=range(first, first + rows),
                versions=[version] * rows,
                dtype=self.pager.arena.dtype,
            )
            self.pager.arena.write(ordinal, first_slot, keys, values)

    def crop(self, logical_rows: int) -> None:
        self.pager.crop(logical_rows)
        del self.versions[logical_rows:]

    def resident(self, block: int) -> int:
        """Resident rows of a block."""
        return len(self.pager.resident_slots(block))

    def check(self) -> None:
        """Every row that is held anywhere is itself, bit for bit."""
        pager = self.pager
        pager.check_invariants()
        positions = pager.arena.positions
        versions = [self.versions[position] for position in positions]
        assert_rows_are(pager.arena, self.shape, slots=range(len(positions)), positions=positions, versions=versions)
        size = pager.block_size
        for block in range(pager.sealed_blocks):
            of_block = self.versions[block * size : (block + 1) * size]
            assert_host_block_is(
                pager.arena, self.shape, pager.host_block(block), first=block * size, versions=of_block
            )


def small_pager(
    *,
    blocks: int = 4,
    block_size: int = 4,
    sink_blocks: int = 1,
    tail_blocks: int = 1,
    dtype: torch.dtype = torch.float32,
    shape: Shape = UNIFORM,
    host_blocks: int | None = None,
    **options: Any,
) -> PagerUnderTest:
    """A pager over `blocks` blocks, with one sink and one tail block unless told otherwise."""
    layout = layout_for(shape.geometry(dtype), block_size=block_size)
    faults = Faults()
    arena = FaultyArena(layout, capacity_rows=blocks * block_size, dtype=dtype, device="cpu")
    arena.faults = faults
    budget = None if host_blocks is None else host_blocks * layout.bytes_per_block(dtype)
    events: list[PoolEvent] = []
    options = {"transfer": FaultyTransfer(faults), "listener": events.append, "poison_dead_rows": True} | options
    pager = Pager(
        arena,
        HostTier(layout, dtype=dtype, budget_bytes=budget),
        sink_blocks=sink_blocks,
        tail_blocks=tail_blocks,
        **options,
    )
    return PagerUnderTest(pager=pager, shape=shape, faults=faults, events=events)
