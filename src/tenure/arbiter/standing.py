"""How blocks and claims stand: who would have to give way for a block, and what each claim alone would free."""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Collection, Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType

from tenure.claims.modes import ProtectionMode

#: Reserving claims that stand on the same block: all of them have to give way before it may go.
Group = frozenset[str]

#: Up to this many claims on a block, it ties them *closely*: they are known to each other's search. A block that more
#: claims share is *widely* shared. It frees nothing for any answer of fewer claims, and it costs the same to use, let go
#: or claim however many they are.
CLOSELY_SHARED = 8

#: (blocks that are idle and nobody else's, order of arrival, claim id): what a claim would free by giving way.
Standing = tuple[int, int, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Shelf:
    """Claims that give way alike.

    Args:
        mode: on what terms they were accepted.
        is_due: whether their promised time has run out.
        is_whole: whether their predicate holds on the device. Only a whole claim can be offloaded and restored.
    """

    mode: ProtectionMode
    is_due: bool = False
    is_whole: bool = False
    _hash: int = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        # Every decision looks shelves up many times, and hashing an enum member runs Python code.
        object.__setattr__(self, "_hash", hash((self.mode, self.is_due, self.is_whole)))

    def __hash__(self) -> int:
        return self._hash


#: The shelves of the claims that share a block. There are few of them however many claims share however many blocks.
Signature = frozenset[Shelf]


@dataclass(frozen=True, slots=True, kw_only=True)
class Footing:
    """Blocks under reserving claims, by who would have to give way.

    Args:
        alone: blocks on which one claim stands, by that claim.
        shared: blocks on which several stand, by the shelves that these are on.
    """

    alone: Mapping[str, int] = field(default_factory=lambda: MappingProxyType({}))
    shared: Mapping[Signature, int] = field(default_factory=lambda: MappingProxyType({}))


@dataclass(frozen=True, slots=True, kw_only=True)
class Reuse:
    """Resident blocks that a request would use as they are. Made by `PoolLedger.reuse_of`.

    Args:
        evictable_blocks: idle ones under no reserving claim; using them takes them from the evictable ones.
        pinned_blocks: ones that other active work uses already.
        pinned_protected_blocks: those of them that a reserving claim stands on.
        idle_protected_blocks: idle ones under a reserving claim.
        idle: how these stand.
        pinned: how `pinned_protected_blocks` stand.
        shared_block_ids: blocks of both kinds on which several claims stand.
    """

    evictable_blocks: int = 0
    pinned_blocks: int = 0
    pinned_protected_blocks: int = 0
    idle_protected_blocks: int = 0
    idle: Footing = Footing()
    pinned: Footing = Footing()
    shared_block_ids: frozenset[Hashable] = frozenset()

    @property
    def total_blocks(self) -> int:
        """All resident blocks that need no new room."""
        return self.evictable_blocks + self.idle_protected_blocks + self.pinned_blocks


NO_REUSE = Reuse()


@dataclass(frozen=True, slots=True)
class _Place:
    shelf: Shelf
    standing: Standing
    pinned_blocks: int
    is_entangled: bool
    shares_widely: bool

    @property
    def is_seen(self) -> bool:
        return bool(self.standing[0] or self.is_entangled or self.shares_widely)


class Shelves:
    """Every reserving claim that would free something, on its shelf, the smallest gain first. Reading is O(1), `place`
    and `remove` are O(log claims) comparisons."""

    def __init__(self) -> None:
        self._places: dict[str, _Place] = {}
        self._listed: dict[Shelf, list[Standing]] = {}
        self._listed_blocks: dict[Shelf, int] = {}
        self._pinned: dict[Shelf, dict[str, None]] = {}
        self._pinned_blocks: dict[Shelf, int] = {}
        self._entangled: dict[Shelf, dict[str, None]] = {}
        self._wide: dict[Shelf, dict[str, None]] = {}
        self._occupied: dict[Shelf, int] = {}

    def listed(self, shelf: Shelf) -> Sequence[Standing]:
        """Claims of a shelf by what each alone would free, the smallest first; those that would free nothing are not."""
        return self._listed.get(shelf, ())

    def listed_blocks(self, shelf: Shelf) -> int:
        """What all claims of `listed(shelf)` together would free, shared blocks left out."""
        return self._listed_blocks.get(shelf, 0)

    def pinned(self, shelf: Shelf) -> Collection[str]:
        """Claims of a shelf with blocks in active use on which nobody else stands."""
        return self._pinned.get(shelf, {})

    def pinned_blocks(self, shelf: Shelf) -> int:
        """How many blocks those are together."""
        return self._pinned_blocks.get(shelf, 0)

    def entangled(self, shelf: Shelf) -> Collection[str]:
        """Claims of a shelf that share a block closely: together they may free more than their listed gains."""
        return self._entangled.get(shelf, {})

    def widely_sharing(self, shelf: Shelf) -> Collection[str]:
        """Claims of a shelf that stand on a widely shared block."""
        return self._wide.get(shelf, {})

    def occupied(self) -> Collection[Shelf]:
        """The shelves on which some claim might free something, alone or with others; not to be changed."""
        return self._occupied

    def in_use(self) -> Collection[Shelf]:
        """The shelves on which some claim alone has blocks in active use; not to be changed."""
        return self._pinned

    def place(
        self, shelf: Shelf, standing: Standing, *, pinned_blocks: int, is_entangled: bool, shares_widely: bool
    ) -> None:
        """Put a claim where its standing belongs, away from where it was."""
        gain, _, claim_id = standing
        place = _Place(shelf, standing, pinned_blocks, is_entangled, shares_widely)
        if self._places.get(claim_id) == place:
            return
        self.remove(claim_id)
        self._places[claim_id] = place
        if is_entangled:
            self._entangled.setdefault(shelf, {})[claim_id] = None
        if shares_widely:
            self._wide.setdefault(shelf, {})[claim_id] = None
        if pinned_blocks:
            self._pinned.setdefault(shelf, {})[claim_id] = None
            self._pinned_blocks[shelf] = self._pinned_blocks.get(shelf, 0) + pinned_blocks
        if gain:
            insort(self._listed.setdefault(shelf, []), standing)
            self._listed_blocks[shelf] = self._listed_blocks.get(shelf, 0) + gain
        if place.is_seen:
            self._occupied[shelf] = self._occupied.get(shelf, 0) + 1

    def remove(self, claim_id: str) -> None:
        """Take a claim off its shelf; one that is on none changes nothing."""
        place = self._places.pop(claim_id, None)
        if place is None:
            return
        shelf, standing = place.shelf, place.standing
        if standing[0]:
            listed = self._listed[shelf]
            del listed[bisect_left(listed, standing)]
            self._listed_blocks[shelf] -= standing[0]
        if place.pinned_blocks:
            _discard(self._pinned, shelf, claim_id)
            self._pinned_blocks[shelf] -= place.pinned_blocks
        if place.is_entangled:
            _discard(self._entangled, shelf, claim_id)
        if place.shares_widely:
            _discard(self._wide, shelf, claim_id)
        if place.is_seen:
            self._occupied[shelf] -= 1
            if not self._occupied[shelf]:
                del self._occupied[shelf]


def _discard(members: dict[Shelf, dict[str, None]], shelf: Shelf, claim_id: str) -> None:
    del members[shelf][claim_id]
    if not members[shelf]:
        del members[shelf]
