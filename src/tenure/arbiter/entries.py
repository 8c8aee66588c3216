"""What `PoolLedger` keeps of a block and of a claim, and the totals that follow from them.

A reserving claim stands on some blocks alone and shares others. Only the first kind is counted claim by claim; shared
blocks are counted by the shelves of their claims, so a system prompt under ten thousand claims changes one total when a
request begins to use it, and not ten thousand places in an order.
"""

from __future__ import annotations

import enum
from collections import Counter
from collections.abc import Hashable, Iterable
from dataclasses import dataclass, field

from tenure.arbiter.standing import CLOSELY_SHARED, Group, Shelf, Signature, Standing


class Tie(enum.Enum):
    """What a block does to the claims on it."""

    NONE = 0  #: one claim, or none
    CLOSE = 1  #: few share it
    WIDE = 2  #: many share it


def tie_of(holders: int) -> Tie:
    """How a block with so many reserving claims ties them."""
    if holders < 2:
        return Tie.NONE
    return Tie.CLOSE if holders <= CLOSELY_SHARED else Tie.WIDE


@dataclass(slots=True, eq=False)
class Claim:
    """A claim. `blocks` is all it stands on; `shared` is the part under other reserving claims too, by block id."""

    claim_id: str
    shelf: Shelf
    order: int
    ends_at_s: float | None
    blocks: set[Hashable] = field(default_factory=set)
    shared: dict[Hashable, Block] = field(default_factory=dict)
    closely_shared_blocks: int = 0
    alone_idle_blocks: int = 0
    alone_pinned_blocks: int = 0
    alone_copied_blocks: int = 0

    @property
    def standing(self) -> Standing:
        """What it alone would free now, with its place in the order."""
        return (self.alone_idle_blocks, self.order, self.claim_id)

    @property
    def widely_shared_blocks(self) -> int:
        """Blocks that it shares with many."""
        return len(self.shared) - self.closely_shared_blocks

    def bind(self, block: Block, tie: Tie, *, by: int) -> None:
        """This claim is tied by that block (`by` is 1) or no more (-1)."""
        if tie is Tie.NONE:
            return
        if by > 0:
            self.shared[block.block_id] = block
        else:
            del self.shared[block.block_id]
        if tie is Tie.CLOSE:
            self.closely_shared_blocks += by


@dataclass(slots=True, eq=False)
class Block:
    """A block that is in use or holds something."""

    block_id: Hashable
    pins: int = 0
    is_copied: bool = False
    reserving: dict[str, Claim] = field(default_factory=dict)
    yielding: dict[str, Claim] = field(default_factory=dict)
    _on_shelves: dict[Shelf, int] | None = None
    _signature: Signature | None = None
    _group: Group | None = None

    @property
    def holders(self) -> int:
        """How many reserving claims stand on it."""
        return len(self.reserving)

    @property
    def group(self) -> Group:
        """Those claims. O(claims) after they changed, O(1) from then on."""
        if self._group is None:
            self._group = frozenset(self.reserving)
        return self._group

    @property
    def signature(self) -> Signature:
        """The shelves of these claims. O(shelves)."""
        if self._signature is None:
            self._signature = frozenset(self._on_shelves or (claim.shelf for claim in self.reserving.values()))
        return self._signature

    def join(self, claim: Claim) -> Iterable[Claim]:
        """A reserving claim stands on it now. Returns whose place may have changed: at most `CLOSELY_SHARED + 1`."""
        was = tie_of(len(self.reserving))
        before = tuple(self.reserving.values()) if was is not Tie.WIDE else ()
        self.reserving[claim.claim_id] = claim
        self._group = None
        self._shelve(claim.shelf, by=1)
        return self._retie(claim, was, before, by=1)

    def leave(self, claim: Claim) -> Iterable[Claim]:
        """A reserving claim stands on it no more. Returns whose place may have changed, as `join`."""
        was = tie_of(len(self.reserving))
        del self.reserving[claim.claim_id]
        self._group = None
        self._shelve(claim.shelf, by=-1)
        now = tie_of(len(self.reserving))
        before = tuple(self.reserving.values()) if now is not Tie.WIDE else ()
        return self._retie(claim, was, before, by=-1)

    def _retie(self, claim: Claim, was: Tie, others: tuple[Claim, ...], *, by: int) -> Iterable[Claim]:
        """The claim comes or goes; where that makes the block another kind of tie, the others are bound anew."""
        now = tie_of(len(self.reserving))
        claim.bind(self, now if by > 0 else was, by=by)
        if was is now:
            return (claim,)
        for other in others:
            other.bind(self, was, by=-1)
            other.bind(self, now, by=1)
        return (claim, *others)

    def reshelve(self, old: Shelf, new: Shelf) -> None:
        """One of several claims on it moved to another shelf."""
        self._shelve(old, by=-1)
        self._shelve(new, by=1)

    def _shelve(self, shelf: Shelf, *, by: int) -> None:
        """Count claims by shelf, where there are several: most blocks never have two and should stay small."""
        if len(self.reserving) < 2:
            self._on_shelves = self._signature = None
            return
        on = self._on_shelves
        if on is None:
            self._on_shelves = dict(Counter(claim.shelf for claim in self.reserving.values()))
            self._signature = None
            return
        count = on.get(shelf, 0) + by
        if count:
            on[shelf] = count
        else:
            del on[shelf]
        if not count or (by > 0 and count == 1):
            self._signature = None


@dataclass(slots=True)
class Tally:
    """Totals of a pool. `count` is called with -1 before a block changes and with 1 afterwards."""

    pinned_blocks: int = 0
    protected_pinned_blocks: int = 0
    protected_idle_blocks: int = 0
    yielding_idle_blocks: int = 0
    unclaimed_idle_blocks: int = 0
    shared_idle: dict[Signature, int] = field(default_factory=dict)
    shared_pinned: dict[Signature, int] = field(default_factory=dict)

    def count(self, block: Block, *, by: int) -> None:
        """Add or take one block from every total it belongs to, its claim's own ones included. O(1)."""
        holders = len(block.reserving)
        if block.pins:
            self.pinned_blocks += by
            self.protected_pinned_blocks += by if holders else 0
        elif holders:
            self.protected_idle_blocks += by
        elif block.yielding:
            self.yielding_idle_blocks += by
        else:
            self.unclaimed_idle_blocks += by
        if holders == 1:
            self._count_alone(next(iter(block.reserving.values())), block, by=by)
        elif holders:
            shared = self.shared_pinned if block.pins else self.shared_idle
            blocks = shared.get(block.signature, 0) + by
            if blocks:
                shared[block.signature] = blocks
            else:
                del shared[block.signature]

    @staticmethod
    def _count_alone(claim: Claim, block: Block, *, by: int) -> None:
        if block.pins:
            claim.alone_pinned_blocks += by
        else:
            claim.alone_idle_blocks += by
        if block.is_copied:
            claim.alone_copied_blocks += by
