"""What the control plane asks of whatever holds the rows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from tenure.arbiter.decision import Decision
from tenure.claims.blocks import BlockKey
from tenure.runtime.control.store import Slot
from tenure.runtime.control.work import Work

#: A block's rows in the slower tier, as the data plane keeps them: opaque to the control plane.
SavedRows = object


@dataclass(frozen=True, slots=True, kw_only=True)
class Placement:
    """Where the rows of an admitted request come from. Blocks of `work.slots` that are named nowhere are computed.

    Args:
        adopted: blocks that are used as they are.
        copies: (from, to): blocks that other work in flight uses, copied into blocks of the request's own.
        restored: rows from the slower tier, by the block of the request that receives them.
    """

    adopted: tuple[Slot, ...] = ()
    copies: tuple[tuple[Slot, Slot], ...] = ()
    restored: Mapping[int, SavedRows] = field(default_factory=dict)


class DataPlane(Protocol):
    """Holds rows by block id, and moves them when it is told to. A method that raises has changed nothing.

    Errors of transfers are `TransferError`, a slower tier without room is `HostTierFullError`; anything else is a bug.
    """

    @property
    def shares_blocks_in_use(self) -> bool:
        """Whether a block that one request uses can serve another in place; otherwise its rows are copied."""
        ...

    def reserve(self, work: Work, decision: Decision) -> None:
        """Take the host memory that a bounded request will need, before anybody gives way for it. `leave` returns it."""
        ...

    def place(self, work: Work, placement: Placement) -> None:
        """Give an admitted request its blocks, `work.slots`, with the rows that need not be computed."""
        ...

    def begin(self, work: Work) -> None:
        """The request is admitted and placed: compute the rest, now or step by step."""
        ...

    def leave(self, work: Work) -> None:
        """The request ends, however it does: its blocks are about to be let go."""
        ...

    def vacate(self, block_ids: Sequence[int]) -> None:
        """These blocks hold nothing any more; nobody may read their rows again."""
        ...

    def add_blocks(self, blocks: int) -> None:
        """The pool grows by so many blocks."""
        ...

    def save(self, key: BlockKey, slot: Slot) -> SavedRows:
        """Copy a block's rows to the slower tier. They stay on the device too."""
        ...

    def verify(self, saved: SavedRows) -> None:
        """Raise `TransferError` when saved rows are not, byte for byte, what was saved."""
        ...

    def discard(self, saved: SavedRows) -> None:
        """Nobody needs these saved rows any more."""
        ...
