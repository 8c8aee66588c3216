"""What the next step computes: one part of one prompt, and one token of everybody who decodes.

A prompt is read in parts, between which everybody else's next token is decoded, so that a long prompt holds nobody up for
longer than one part. Of several prompts, the one of the highest priority is read, and of equal ones the one that was
served longest ago; every `PATIENCE`-th part goes to the one that was served longest ago whatever its priority, so that
none waits for ever.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

PATIENCE = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """A prompt that is being read. `served_at` is the number of the step in which it last got a part (or came)."""

    request_id: str
    priority: int
    served_at: int


def next_reader(readings: Iterable[Reading], *, step: int) -> str | None:
    """Whose prompt is read in this step; None when there is none. O(prompts)."""
    waiting = list(readings)
    if not waiting:
        return None
    if step % PATIENCE == PATIENCE - 1:
        return min(waiting, key=lambda reading: (reading.served_at, -reading.priority)).request_id
    return min(waiting, key=lambda reading: (-reading.priority, reading.served_at)).request_id
