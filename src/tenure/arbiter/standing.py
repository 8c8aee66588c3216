"""How blocks and claims stand: who would have to give way for a block, and what each claim alone would free."""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType

from tenure.claims.modes import ProtectionMode

#: Claims that stand on the same blocks. The empty group is that of idle blocks nobody claimed.
Group = frozenset[str]
NOBODY: Group = frozenset()

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


@dataclass(frozen=True, slots=True, kw_only=True)
class Reuse:
    """Resident blocks that a request would use as they are. Made by `PoolLedger.reuse_of`.

    Args:
        unclaimed_blocks: idle ones under nobody's claim; using them takes them from the evictable ones.
        pinned_blocks: ones that other active work uses already.
        pinned_protected_blocks: those of them that a reserving claim stands on.
        idle_protected_blocks: idle ones under a reserving claim.
        idle_by_group: idle ones that somebody claimed, by who stands on them.
    """

    unclaimed_blocks: int = 0
    pinned_blocks: int = 0
    pinned_protected_blocks: int = 0
    idle_protected_blocks: int = 0
    idle_by_group: Mapping[Group, int] = field(default_factory=lambda: MappingProxyType({}))

    @property
    def idle_evictable_blocks(self) -> int:
        """Idle ones that could have been evicted: unclaimed, or under claims that reserve nothing."""
        return self.unclaimed_blocks + sum(self.idle_by_group.values()) - self.idle_protected_blocks

    @property
    def total_blocks(self) -> int:
        """All resident blocks that need no new room."""
        return self.unclaimed_blocks + self.pinned_blocks + sum(self.idle_by_group.values())


NO_REUSE = Reuse()


@dataclass(frozen=True, slots=True)
class _Place:
    shelf: Shelf
    standing: Standing
    is_entangled: bool


class Shelves:
    """Every claim that would free something, on its shelf, the smallest gain first. Reading is O(1), `place` and
    `remove` are O(log claims) comparisons."""

    def __init__(self) -> None:
        self._places: dict[str, _Place] = {}
        self._listed: dict[Shelf, list[Standing]] = {}
        self._listed_blocks: dict[Shelf, int] = {}
        self._entangled: dict[Shelf, dict[str, None]] = {}
        self._occupied: dict[Shelf, int] = {}

    def listed(self, shelf: Shelf) -> Sequence[Standing]:
        """Claims of a shelf by what each alone would free, the smallest first; those that would free nothing are not."""
        return self._listed.get(shelf, ())

    def listed_blocks(self, shelf: Shelf) -> int:
        """What all claims of `listed(shelf)` together would free."""
        return self._listed_blocks.get(shelf, 0)

    def entangled(self, shelf: Shelf) -> Collection[str]:
        """Claims of a shelf that share idle blocks with others: together they free more than their listed gains."""
        return self._entangled.get(shelf, {})

    def occupied(self) -> Collection[Shelf]:
        """The shelves on which some claim would free something, alone or with others; not to be changed."""
        return self._occupied

    def place(self, shelf: Shelf, standing: Standing, *, is_entangled: bool) -> None:
        """Put a claim where its standing belongs, away from where it was."""
        gain, _, claim_id = standing
        place = _Place(shelf, standing, is_entangled)
        if self._places.get(claim_id) == place:
            return
        self.remove(claim_id)
        self._places[claim_id] = place
        if is_entangled:
            self._entangled.setdefault(shelf, {})[claim_id] = None
            self._occupy(shelf, by=1)
        if gain:
            insort(self._listed.setdefault(shelf, []), standing)
            self._listed_blocks[shelf] = self._listed_blocks.get(shelf, 0) + gain
            self._occupy(shelf, by=1)

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
            self._occupy(shelf, by=-1)
        if place.is_entangled:
            del self._entangled[shelf][claim_id]
            self._occupy(shelf, by=-1)

    def _occupy(self, shelf: Shelf, *, by: int) -> None:
        self._occupied[shelf] = self._occupied.get(shelf, 0) + by
        if not self._occupied[shelf]:
            del self._occupied[shelf]
