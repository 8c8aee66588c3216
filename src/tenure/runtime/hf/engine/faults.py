"""Transfers that fail because somebody asked for it, one point at a time: how a runtime behaves then is part of it."""

from __future__ import annotations

import enum
from collections import Counter

from tenure.errors import HostTierFullError, UsageError
from tenure.runtime.control.tier import InjectedFailureError


class FaultPoint(enum.StrEnum):
    """Where rows can be lost between device and host."""

    SAVE = "save"  #: a copy from the device to the host fails
    LOAD = "load"  #: a copy back to the device fails
    CORRUPT = "corrupt"  #: a byte of rows on the host changes after they were saved
    LOSE = "lose"  #: rows on the host are gone
    HOST_MEMORY = "host_memory"  #: the host has no memory for a request that needs some


class TransferFaults:
    """Arms points to fail, once each. Nothing fails unless it was armed."""

    def __init__(self) -> None:
        self._armed: dict[FaultPoint, list[int]] = {point: [] for point in FaultPoint}
        self.happened: Counter[FaultPoint] = Counter()

    def arm(self, point: FaultPoint | str, *, after: int = 0) -> None:
        """Make the point fail once, after `after` more passes without a failure. Raises UsageError for an unknown one."""
        try:
            known = FaultPoint(point)
        except ValueError:
            raise UsageError(f"{point!r} is no fault; use one of {', '.join(FaultPoint)}") from None
        if after < 0:
            raise UsageError(f"a fault cannot happen {after} passes from now; expected 0 or more")
        self._armed[known].append(after)

    def disarm(self) -> None:
        """What was armed and has not happened does not happen any more."""
        for waiting in self._armed.values():
            waiting.clear()

    def strikes(self, point: FaultPoint) -> bool:
        """Whether the point fails at this pass. Counts it as one."""
        armed = self._armed[point]
        if not armed:
            return False
        if armed[0] > 0:
            armed[0] -= 1
            return False
        armed.pop(0)
        self.happened[point] += 1
        return True

    def check(self, point: FaultPoint) -> None:
        """Raise what a real failure of this point raises, when it is to fail now."""
        if not self.strikes(point):
            return
        if point is FaultPoint.HOST_MEMORY:
            raise HostTierFullError("the host gave no memory for a request's own rows (injected)")
        raise InjectedFailureError(f"a transfer failed at {point.value} (injected)")
