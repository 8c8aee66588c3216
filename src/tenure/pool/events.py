"""What the pool did: one value a change, handed to a listener after the change has taken effect."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class BlockSealed:
    """A block became full; its rows are on the host from now on and never change again."""

    block: int
    logical_rows: int


@dataclass(frozen=True, slots=True)
class BlockEvicted:
    """A block's `rows` device rows were given up. The host holds them."""

    block: int
    rows: int
    reason: str
    logical_rows: int


@dataclass(frozen=True, slots=True)
class BlockRecalled:
    """`rows` rows of a block came back to the device."""

    block: int
    rows: int
    reason: str
    logical_rows: int


@dataclass(frozen=True, slots=True)
class Cropped:
    """The sequence was cut back to `logical_rows`; blocks that reached beyond it are gone or unsealed."""

    previous_logical_rows: int
    logical_rows: int


PoolEvent = BlockSealed | BlockEvicted | BlockRecalled | Cropped
Listener = Callable[[PoolEvent], None]
