"""The pool: one device budget in blocks, and one host tier, shared by the arenas of all sequences."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from tenure.errors import CapacityError, InternalError, PoolSizeError
from tenure.kv.geometry import CacheGeometry
from tenure.pool.arena import Arena
from tenure.pool.events import Listener
from tenure.pool.host import HostStatistics, HostTier
from tenure.pool.layout import ArenaLayout, layout_for
from tenure.pool.pager import Pager
from tenure.pool.planning import SINK_BLOCKS, TAIL_BLOCKS
from tenure.pool.sizing import BLOCK_SIZES
from tenure.pool.transfer import Transfer


@dataclass(frozen=True, slots=True)
class PoolStatistics:
    """What the pool has given out, and what the host holds for it."""

    usable_blocks: int
    granted_blocks: int
    sequences: int
    device_bytes: int
    host: HostStatistics


class Pool:
    """Grants arenas out of `usable_blocks`, never more than that in sum.

    `dtype` and `device` are those of the rows. `host_bytes` bounds the host tier (None: the machine's memory does).
    Host memory is page-locked when the device is CUDA.
    """

    def __init__(
        self,
        geometry: CacheGeometry,
        *,
        usable_blocks: int,
        dtype: torch.dtype,
        device: torch.device | str = "cpu",
        block_size: int = BLOCK_SIZES[0],
        host_bytes: int | None = None,
    ) -> None:
        if usable_blocks < 1:
            raise PoolSizeError(f"usable_blocks is {usable_blocks}; a pool needs at least 1")
        self.layout: ArenaLayout = layout_for(geometry, block_size=block_size)
        self.usable_blocks = usable_blocks
        self.dtype = dtype
        self.device = torch.device(device)
        pinned = self.device.type == "cuda"
        self.host = HostTier(self.layout, dtype=dtype, budget_bytes=host_bytes, pinned=pinned)
        self._pagers: list[Pager] = []

    @property
    def granted_blocks(self) -> int:
        """Blocks that open sequences may fill."""
        return sum(pager.arena.capacity_rows for pager in self._pagers) // self.layout.block_size

    @property
    def free_blocks(self) -> int:
        """Blocks that can still be granted."""
        return self.usable_blocks - self.granted_blocks

    def open(
        self,
        *,
        capacity_blocks: int | None = None,
        transfer: Transfer | None = None,
        sink_blocks: int = SINK_BLOCKS,
        tail_blocks: int = TAIL_BLOCKS,
        listener: Listener | None = None,
        poison_dead_rows: bool = False,
    ) -> Pager:
        """Grant an arena of `capacity_blocks` (default: all that is free) to a new sequence.

        Raises `CapacityError` when that many are not free, `PoolSizeError` when they are too few to make progress.
        """
        capacity_blocks = self.free_blocks if capacity_blocks is None else capacity_blocks
        if capacity_blocks > self.free_blocks or (capacity_blocks < 1 and not self.free_blocks):
            raise CapacityError(
                f"a sequence asked for {capacity_blocks} blocks; {self.granted_blocks} of {self.usable_blocks} are "
                f"granted and {self.free_blocks} free. Close a sequence or ask for less."
            )
        if capacity_blocks < 1:
            raise PoolSizeError(f"a sequence asked for {capacity_blocks} blocks; it needs at least 1 to hold a row")
        arena = Arena(
            self.layout,
            capacity_rows=capacity_blocks * self.layout.block_size,
            dtype=self.dtype,
            device=self.device,
        )
        pager = Pager(
            arena,
            self.host,
            transfer=transfer,
            sink_blocks=sink_blocks,
            tail_blocks=tail_blocks,
            listener=listener,
            poison_dead_rows=poison_dead_rows,
        )
        self._pagers.append(pager)
        return pager

    def close(self, pager: Pager) -> None:
        """End a sequence: its host blocks and its grant return to the pool."""
        if pager not in self._pagers:
            raise InternalError("a sequence was closed twice, or belongs to another pool")
        pager.close()
        self._pagers.remove(pager)

    def statistics(self) -> PoolStatistics:
        """A snapshot of grants and of the host tier."""
        return PoolStatistics(
            usable_blocks=self.usable_blocks,
            granted_blocks=self.granted_blocks,
            sequences=len(self._pagers),
            device_bytes=sum(pager.arena.device_bytes for pager in self._pagers),
            host=self.host.statistics(),
        )

    def check_invariants(self) -> None:
        """Raise `InternalError` unless every invariant of the pool and its sequences holds."""
        if self.granted_blocks > self.usable_blocks:
            raise InternalError(f"{self.granted_blocks} blocks are granted of {self.usable_blocks}")
        self.host.check_invariants()
        for pager in self._pagers:
            pager.check_invariants()
