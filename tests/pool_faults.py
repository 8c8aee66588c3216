"""Copies that fail on request: the n-th one, once or from then on, by an error or an interrupt, half way through."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from tenure.pool import Arena, DirectTransfer, HostBlock


@dataclass(frozen=True)
class Fault:
    """Which copy fails (0 is the next one), with what, and whether all later copies fail too."""

    copy: int
    error: type[BaseException] = OSError
    lasting: bool = False


class Faults:
    """Counts copies of one operation and says when one must fail."""

    def __init__(self) -> None:
        self.fault: Fault | None = None
        self.copies = 0
        self.fired = 0

    def arm(self, fault: Fault | None) -> None:
        self.fault, self.copies, self.fired = fault, 0, 0

    @property
    def due(self) -> bool:
        """Count one copy; true when it must fail."""
        if self.fault is None:
            return False
        at, self.copies = self.copies, self.copies + 1
        fails = at == self.fault.copy or (self.fault.lasting and at > self.fault.copy)
        self.fired += fails
        return fails

    def fail(self) -> None:
        if self.fault is not None:
            raise self.fault.error("injected fault")


class FaultyTransfer(DirectTransfer):
    """A direct transfer whose failing copies leave garbage where they were to write."""

    def __init__(self, faults: Faults) -> None:
        self.faults = faults

    def page_out(self, arena: Arena, slots: Sequence[int], block: HostBlock) -> None:
        if self.faults.due:
            block.buffer.fill_(float("nan"))
            self.faults.fail()
        super().page_out(arena, slots, block)

    def page_in(self, block: HostBlock, offsets: Sequence[int], arena: Arena, slots: Sequence[int]) -> None:
        if self.faults.due:
            for slot in slots:
                arena.planes[0].narrow(2, slot, 1).fill_(float("nan"))
            self.faults.fail()
        super().page_in(block, offsets, arena, slots)

    def before_overwrite(self) -> None:
        if self.faults.due:
            self.faults.fail()


class FaultyArena(Arena):
    """An arena whose failing moves stop after the first plane group."""

    faults: Faults | None = None

    def move_rows(self, sources: Sequence[int], targets: Sequence[int]) -> None:
        if not sources or self.faults is None or not self.faults.due:
            super().move_rows(sources, targets)
            return
        planes, self.planes = self.planes, self.planes[: len(self.planes) // 2]
        try:
            super().move_rows(sources, targets)
        finally:
            self.planes = planes
        self.faults.fail()
