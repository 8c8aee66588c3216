"""Where a sequence's rows are, and how that may change: the view that planners read and the plan that they return.

A planner is a pure function from a `ResidencyView` to a `Plan`. Only the pool applies plans. Both are plain values
without tensors, so the same planner serves a test, the Hugging Face runtime and a serving engine.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from enum import Enum
from typing import NewType

from tenure.errors import PlanError

Position = NewType("Position", int)
"""Logical index of a token in its sequence, 0-based."""

Slot = NewType("Slot", int)
"""Physical index of a row inside an arena. It has no meaning to attention."""

BlockIndex = NewType("BlockIndex", int)
"""Logical index of a block in its sequence: block `b` holds positions `[b * block_size, (b + 1) * block_size)`."""


class Residence(Enum):
    """Where a block's rows can be had."""

    RESIDENT = "resident"
    """All rows are on the device; the host may hold a copy too."""
    PARTIAL = "partial"
    """Some rows are on the device; the host holds all of them."""
    HOST_BACKED = "host-backed"
    """Only the host tier holds the rows."""
    LOST = "lost"
    """Nowhere. Never true of a sealed block."""


@dataclass(frozen=True, slots=True)
class BlockView:
    """One block as a planner sees it.

    `written_rows` is how many of its positions exist at all (less than the block size for the head only);
    `resident_rows` how many of those are on the device.
    """

    index: BlockIndex
    written_rows: int
    resident_rows: int
    host_backed: bool
    protected: bool

    @property
    def residence(self) -> Residence:
        """Where the rows of this block can be had."""
        if self.written_rows and self.resident_rows == self.written_rows:
            return Residence.RESIDENT
        if self.host_backed:
            return Residence.PARTIAL if self.resident_rows else Residence.HOST_BACKED
        return Residence.LOST if self.written_rows > self.resident_rows else Residence.RESIDENT

    @property
    def evictable(self) -> bool:
        """True when evicting this block frees rows and loses nothing."""
        return self.host_backed and not self.protected and self.resident_rows > 0


@dataclass(frozen=True, slots=True)
class ResidencyView:
    """A snapshot of one sequence's residency; `epoch` says which state it was taken from.

    `appending_rows` is how many rows are about to be appended: protection is computed as of after that append, so
    that a batch never makes room by evicting what it is about to need.
    """

    epoch: int
    block_size: int
    logical_rows: int
    resident_rows: int
    capacity_rows: int
    appending_rows: int
    blocks: tuple[BlockView, ...]

    @property
    def free_rows(self) -> int:
        """Rows of the arena that neither resident rows nor those about to be appended take; negative when short."""
        return self.capacity_rows - self.resident_rows - self.appending_rows


@dataclass(frozen=True, slots=True)
class Plan:
    """A change of residency: what leaves the device and what comes back. Printable; applied all or nothing.

    `epoch` is that of the view it was made from; a plan for another state is refused. `appending_rows` says for which
    append room is made: protection is judged as of after it, as in the view.
    """

    epoch: int
    evict: tuple[BlockIndex, ...] = ()
    recall: tuple[BlockIndex, ...] = ()
    appending_rows: int = 0
    reason: str = field(default="", compare=False)

    def __post_init__(self) -> None:
        for name, blocks in (("evict", self.evict), ("recall", self.recall)):
            if len(set(blocks)) != len(blocks):
                raise PlanError(f"plan names a block twice under {name}: {blocks}; each block at most once")
        both = set(self.evict) & set(self.recall)
        if both:
            raise PlanError(f"plan both evicts and recalls block(s) {sorted(both)}; a block can do one of them")

    def __bool__(self) -> bool:
        """False for a plan that moves nothing."""
        return bool(self.evict or self.recall)

    def __str__(self) -> str:
        if not self:
            return "plan: nothing to move"
        parts = [
            f"{verb} {summarize_blocks(blocks)}"
            for verb, blocks in (("evict", self.evict), ("recall", self.recall))
            if blocks
        ]
        return "plan: " + ", ".join(parts) + (f" ({self.reason})" if self.reason else "")


def summarize_blocks(blocks: Iterable[int]) -> str:
    """Return block numbers as compact ranges: `3, 7-9`."""
    ordered = sorted(blocks)
    parts: list[str] = []
    start = end = None
    for block in ordered:
        if end is not None and block == end + 1:
            end = block
            continue
        if start is not None:
            parts.append(str(start) if start == end else f"{start}-{end}")
        start = end = block
    if start is not None:
        parts.append(str(start) if start == end else f"{start}-{end}")
    return ", ".join(parts)
