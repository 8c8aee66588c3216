"""The host tier: host memory that holds sealed blocks, bit for bit, under a byte budget."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from tenure.errors import HostTierFullError, InternalError, PoolSizeError
from tenure.pool.layout import ArenaLayout

SLAB_BYTES = 32 * 2**20
"""Blocks are carved from slabs of about this size: few enough allocations (pinning one costs milliseconds, and fresh
pages cost a fault each), small enough that a short conversation does not reserve much."""


class HostBlock:
    """One block's rows on the host: a contiguous buffer, seen as one `[P, H, block_size, D]` tensor a plane group.

    `busy_until` is None, or the event after which no copy out of or into the buffer is under way (a device with its own
    copy stream sets it, in both directions).
    """

    __slots__ = ("buffer", "busy_until", "views")

    def __init__(self, buffer: torch.Tensor, views: tuple[torch.Tensor, ...]) -> None:
        self.buffer = buffer
        self.views = views
        self.busy_until: torch.cuda.Event | None = None

    def wait(self) -> None:
        """Return once the bytes can be read or written by the host."""
        if self.busy_until is not None:
            self.busy_until.synchronize()
            self.busy_until = None


@dataclass(frozen=True, slots=True)
class HostStatistics:
    """What the host tier holds. `allocated_bytes` includes room that is set aside in slabs but holds no block."""

    used_blocks: int
    used_bytes: int
    allocated_bytes: int
    budget_bytes: int | None
    peak_bytes: int


class HostTier:
    """Hands out block buffers under a byte budget, and never drops one silently.

    Guarantees: `used_bytes` is exactly blocks in use times bytes a block, and never exceeds the budget; a buffer that
    was freed is reused before more memory is taken. `budget_bytes=None` means no limit but the machine's.
    Buffers are page-locked when `pinned` is true (needs a CUDA device). Not thread-safe.
    """

    def __init__(
        self, layout: ArenaLayout, *, dtype: torch.dtype, budget_bytes: int | None = None, pinned: bool = False
    ) -> None:
        if budget_bytes is not None and budget_bytes < 0:
            raise PoolSizeError(f"host budget is {budget_bytes} bytes; it must be 0 or more, or None for no limit")
        self.layout = layout
        self.dtype = dtype
        self.budget_bytes = budget_bytes
        self.pinned = pinned
        self.block_bytes = layout.bytes_per_block(dtype)
        self._free: list[HostBlock] = []
        self._uncarved: list[torch.Tensor] = []
        self._used: set[HostBlock] = set()
        self._allocated_blocks = 0
        self._peak_blocks = 0

    @property
    def used_bytes(self) -> int:
        """Bytes of blocks in use."""
        return len(self._used) * self.block_bytes

    def require(self, blocks: int) -> None:
        """Raise `HostTierFullError` unless `blocks` more blocks fit the budget. Changes nothing."""
        if self.budget_bytes is None:
            return
        wanted = self.used_bytes + blocks * self.block_bytes
        if wanted > self.budget_bytes:
            raise HostTierFullError(
                f"the host tier holds {len(self._used)} blocks ({_mib(self.used_bytes)}) and must take {blocks} more "
                f"({_mib(blocks * self.block_bytes)}), but its budget is {_mib(self.budget_bytes)}; no block was "
                f"dropped. Raise host_bytes to at least {wanted} or end the sequence."
            )

    def allocate(self) -> HostBlock:
        """Take one block buffer; its bytes are arbitrary until written.

        Raises `HostTierFullError` when the budget is spent or the machine has no memory left; nothing is changed then.
        """
        self.require(1)
        block = self._free.pop() if self._free else self._carve()
        self._used.add(block)
        self._peak_blocks = max(self._peak_blocks, len(self._used))
        return block

    def allocate_many(self, blocks: int) -> list[HostBlock]:
        """Take several block buffers, or none. Raises as `allocate` does."""
        self.require(blocks)
        taken: list[HostBlock] = []
        try:
            while len(taken) < blocks:
                taken.append(self.allocate())
        except BaseException:
            for block in taken:
                self.free(block)
            raise
        return taken

    def free(self, block: HostBlock) -> None:
        """Give a buffer back. Waits for a copy out of or into it that is still under way."""
        if block not in self._used:
            raise InternalError("a host block was freed twice, or belongs to another tier")
        block.wait()
        self._used.remove(block)
        self._free.append(block)

    def _carve(self) -> HostBlock:
        """Cut the next block from the newest slab, or a new one. O(1), so that small blocks do not stall a step."""
        if not self._uncarved:
            self._uncarved.append(self._new_slab())
        slab, elements = self._uncarved.pop(), self.layout.elements_per_block
        if slab.numel() > elements:
            self._uncarved.append(slab[elements:])
        buffer = slab[:elements]
        return HostBlock(buffer, self.layout.block_views(buffer))

    def _new_slab(self) -> torch.Tensor:
        """Memory for as many blocks as a slab and the budget take; half as many, and so on, where there is less."""
        slab_blocks = max(1, SLAB_BYTES // self.block_bytes)
        if self.budget_bytes is not None:
            slab_blocks = max(1, min(slab_blocks, self.budget_bytes // self.block_bytes - self._allocated_blocks))
        while True:
            try:
                with torch.inference_mode(mode=False):
                    elements = slab_blocks * self.layout.elements_per_block
                    slab = torch.empty(elements, dtype=self.dtype, pin_memory=self.pinned)
            except (RuntimeError, MemoryError) as error:
                if slab_blocks == 1:
                    kind = "page-locked host" if self.pinned else "host"
                    held = _mib(self._allocated_blocks * self.block_bytes)
                    raise HostTierFullError(
                        f"the machine gave no {_mib(self.block_bytes)} of {kind} memory for one more block ({held} "
                        "are held); no block was dropped. Free host memory or end a sequence."
                    ) from error
                slab_blocks //= 2
            else:
                self._allocated_blocks += slab_blocks
                return slab

    def statistics(self) -> HostStatistics:
        """A snapshot of what is held."""
        return HostStatistics(
            used_blocks=len(self._used),
            used_bytes=self.used_bytes,
            allocated_bytes=self._allocated_blocks * self.block_bytes,
            budget_bytes=self.budget_bytes,
            peak_bytes=self._peak_blocks * self.block_bytes,
        )

    def check_invariants(self) -> None:
        """Raise `InternalError` unless the accounting is exact."""
        uncarved = sum(slab.numel() for slab in self._uncarved) // self.layout.elements_per_block
        if len(self._used) + len(self._free) + uncarved != self._allocated_blocks:
            raise InternalError(
                f"host tier allocated {self._allocated_blocks} blocks, but {len(self._used)} are used, "
                f"{len(self._free)} free and {uncarved} not handed out yet"
            )
        if self.budget_bytes is not None and self.used_bytes > self.budget_bytes:
            raise InternalError(f"host tier uses {self.used_bytes} of {self.budget_bytes} bytes")


def _mib(amount_bytes: int) -> str:
    return f"{amount_bytes / 2**20:.1f} MiB"
