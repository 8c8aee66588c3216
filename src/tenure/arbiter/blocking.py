"""Which claims would have to give way: as few as possible, and none that would not help."""

from __future__ import annotations

import heapq
from bisect import bisect_left
from collections.abc import Collection, Iterator, Mapping, Sequence, Set
from itertools import combinations
from typing import Protocol

from tenure.arbiter.standing import NO_REUSE, Group, Reuse, Shelf, Shelves, Standing

#: Up to this many claims that share blocks, all their subsets are tried, and the answer is the smallest there is.
#: Beyond it the smallest set is a densest-subgraph problem (NP-hard), and the answer is only minimal: see `fewest`.
EXACT_ENTANGLED = 8


class StandingView(Protocol):
    """What this module asks of a view; `PoolLedger` answers it."""

    @property
    def shelves(self) -> Shelves:
        """Claims by what each alone would free."""
        ...

    @property
    def shared_blocks(self) -> int:
        """Idle blocks on which several claims stand."""
        ...

    def shelf_of(self, claim_id: str) -> Shelf:
        """Where a claim is."""
        ...

    def groups_of(self, claim_id: str) -> frozenset[Group]:
        """Groups a claim stands in."""
        ...

    def idle_in(self, group: Group) -> int:
        """Idle blocks of a group."""
        ...

    def pinned_in(self, group: Group) -> int:
        """Blocks of a group in active use."""
        ...

    def pinned_claims(self) -> tuple[str, ...]:
        """Claims with blocks in active use."""
        ...

    def standing_of(self, claim_id: str) -> Standing:
        """What a claim alone would free, and its place in the order."""
        ...


def fewest(
    view: StandingView,
    *,
    blocks: int,
    shelves: Collection[Shelf],
    reuse: Reuse = NO_REUSE,
    counts_pinned: bool = False,
    at_most_each: int | None = None,
) -> tuple[str, ...] | None:
    """The fewest claims of `shelves` that free at least `blocks` by giving way; None when all of them would not.

    Guarantees: no claim in the answer could be left out. Its size is the smallest possible while at most
    `EXACT_ENTANGLED` candidates share blocks with others or with the request. Among equally few, the last one taken is the smallest that
    suffices, and of equal claims the newest gives way first. Nothing is changed.

    Args:
        view: how the claims stand.
        blocks: how many must come free, > 0.
        shelves: whose claims may be taken.
        reuse: blocks that the request uses as they are; they would not come free for it.
        counts_pinned: whether blocks in active use count as free-able: the answer is then for when that work ended.
        at_most_each: claims that would free more are passed over (a slower tier with little room).

    Cost: O(answer x log claims), also where many claims share blocks, as long as the blocks that each has alone are
    enough; beyond that, the groups of those that share.
    """
    adjusted = _adjusted(view, shelves=shelves, reuse=reuse, counts_pinned=counts_pinned)
    listed_blocks = sum(view.shelves.listed_blocks(shelf) for shelf in shelves)
    if not adjusted and listed_blocks + view.shared_blocks < blocks:
        return None
    plain = _Plain(view, shelves=shelves, without=adjusted, at_most_each=at_most_each)
    entangled_claims = sum(len(view.shelves.entangled(shelf)) for shelf in shelves)
    if not adjusted and not entangled_claims:
        chosen = plain.cover(blocks)
        return None if chosen is None else tuple(sorted(chosen))
    if entangled_claims > EXACT_ENTANGLED:
        # Many claims share something, a system prompt say: what each alone frees is usually enough.
        chosen = plain.cover(blocks)
        if chosen is not None:
            return _without_waste(view, chosen, plain, blocks=blocks, reuse=reuse, counts_pinned=counts_pinned)
    special = adjusted.union(*(view.shelves.entangled(shelf) for shelf in shelves))
    return _with_special(view, special, plain, blocks=blocks, reuse=reuse, counts_pinned=counts_pinned)


def can_free(view: StandingView, *, blocks: int, shelves: Collection[Shelf], reuse: Reuse, counts_pinned: bool) -> bool:
    """Whether all claims of `shelves` together would free `blocks`. O(shelves) when no claims share blocks."""
    is_simple = not reuse.idle_by_group and not counts_pinned
    if is_simple and not any(view.shelves.entangled(shelf) for shelf in shelves):
        return sum(view.shelves.listed_blocks(shelf) for shelf in shelves) >= blocks
    return fewest(view, blocks=blocks, shelves=shelves, reuse=reuse, counts_pinned=counts_pinned) is not None


def _adjusted(view: StandingView, *, shelves: Collection[Shelf], reuse: Reuse, counts_pinned: bool) -> frozenset[str]:
    """Claims that would free less than listed, because the request uses their blocks, or more, once work ended."""
    others = {claim for group in reuse.idle_by_group for claim in group}
    if counts_pinned:
        others.update(view.pinned_claims())
    return frozenset(claim for claim in others if view.shelf_of(claim) in shelves)


def _without_waste(
    view: StandingView, chosen: Sequence[str], plain: _Plain, *, blocks: int, reuse: Reuse, counts_pinned: bool
) -> tuple[str, ...]:
    """The chosen claims less those that are not needed, now that blocks shared among them come free as well."""
    gains = _gains(view, frozenset(chosen), reuse=reuse, counts_pinned=counts_pinned)
    return tuple(_pruned(sorted(chosen), gains, filled=(), plain=plain, blocks=blocks))


def _with_special(
    view: StandingView,
    special: frozenset[str],
    plain: _Plain,
    *,
    blocks: int,
    reuse: Reuse,
    counts_pinned: bool,
) -> tuple[str, ...] | None:
    """Claims whose gain is not simply what the shelf says, exactly for few of them and minimally for many."""
    plain = plain.without(special)
    gains = _gains(view, special, reuse=reuse, counts_pinned=counts_pinned)
    if plain.at_most_blocks + sum(gains.values()) < blocks:
        return None
    limit = plain.at_most_each
    if limit is not None:
        alone = {claim: sum(n for group, n in gains.items() if claim in group) for claim in special}
        special = frozenset(claim for claim in special if alone[claim] <= limit)
        gains = {group: n for group, n in gains.items() if group <= special}
    ordered = sorted(special, key=lambda claim: (-view.standing_of(claim)[1], claim))
    if len(ordered) <= EXACT_ENTANGLED:
        return _exact(ordered, gains, plain, blocks)
    return _minimal(ordered, gains, plain, blocks)


def _gains(view: StandingView, special: Set[str], *, reuse: Reuse, counts_pinned: bool) -> Mapping[Group, int]:
    """Blocks by the claims that would all have to give way for them, of the special candidates only."""
    gains: dict[Group, int] = {}
    for claim in special:
        for group in view.groups_of(claim):
            if group in gains or not group <= special:
                continue
            blocks = view.idle_in(group) - reuse.idle_by_group.get(group, 0)
            if counts_pinned:
                blocks += view.pinned_in(group)
            if blocks > 0:
                gains[group] = blocks
    return gains


class _Plain:
    """Candidates that share nothing, largest first, read from the shelves only as far as needed."""

    def __init__(
        self, view: StandingView, *, shelves: Collection[Shelf], without: Collection[str], at_most_each: int | None
    ) -> None:
        self._lists = [listed for listed in (view.shelves.listed(shelf) for shelf in shelves) if listed]
        self._view = view
        self._shelves = shelves
        self._without = without
        self.at_most_each = at_most_each
        self.at_most_blocks = sum(view.shelves.listed_blocks(shelf) for shelf in shelves)
        self._largest: list[Standing] = []
        self._source = self._descending()

    def without(self, claims: Collection[str]) -> _Plain:
        """The same candidates less these."""
        if len(claims) == len(self._without):
            return self
        return _Plain(self._view, shelves=self._shelves, without=claims, at_most_each=self.at_most_each)

    def _descending(self) -> Iterator[Standing]:
        for standing in heapq.merge(*(reversed(listed) for listed in self._lists), reverse=True):
            if standing[2] not in self._without and (self.at_most_each is None or standing[0] <= self.at_most_each):
                yield standing

    def _at(self, index: int) -> Standing | None:
        while len(self._largest) <= index:
            following = next(self._source, None)
            if following is None:
                return None
            self._largest.append(following)
        return self._largest[index]

    def cover(self, blocks: int, *, at_most_claims: int | None = None) -> list[str] | None:
        """The fewest claims that free `blocks`; None when all of them, or `at_most_claims`, do not."""
        taken: list[str] = []
        still = blocks
        while still > 0:
            if at_most_claims is not None and len(taken) >= at_most_claims:
                return None
            largest = self._at(len(taken))
            if largest is None:
                return None
            if largest[0] >= still:
                taken.append(self._smallest_that_frees(still, largest))
                return taken
            taken.append(largest[2])
            still -= largest[0]
        return taken

    def gains_of(self, claims: Collection[str]) -> dict[str, int]:
        """What each of these candidates frees alone."""
        return {claim: self._view.standing_of(claim)[0] for claim in claims}

    def _smallest_that_frees(self, blocks: int, largest: Standing) -> str:
        best = largest
        for listed in self._lists:
            for index in range(bisect_left(listed, (blocks, -1, "")), len(listed)):
                standing = listed[index]
                if standing[0] >= best[0]:
                    break
                if standing[2] not in self._without:
                    best = standing
                    break
        return best[2]


def _freed(chosen: Collection[str], gains: Mapping[Group, int]) -> int:
    return sum(blocks for group, blocks in gains.items() if group.issubset(chosen))


def _exact(special: Sequence[str], gains: Mapping[Group, int], plain: _Plain, blocks: int) -> tuple[str, ...] | None:
    """Every subset of the special candidates, filled up with plain ones; the smallest of all that suffice."""
    best: list[str] | None = None
    for size in range(len(special) + 1):
        if best is not None and size >= len(best):
            break
        for subset in combinations(special, size):
            room = None if best is None else len(best) - 1 - size
            filled = plain.cover(blocks - _freed(frozenset(subset), gains), at_most_claims=room)
            if filled is not None:
                best = [*subset, *filled]
    return None if best is None else tuple(sorted(best))


def _minimal(special: Sequence[str], gains: Mapping[Group, int], plain: _Plain, blocks: int) -> tuple[str, ...] | None:
    """Plain claims alone, or all special ones filled up and then pruned of what can be left out: the smaller answer."""
    alone = plain.cover(blocks)
    filled = plain.cover(blocks - sum(gains.values()))
    if filled is None:
        return None if alone is None else tuple(sorted(alone))
    mixed = _pruned(special, gains, filled=filled, plain=plain, blocks=blocks)
    smaller = mixed if alone is None or len(mixed) < len(alone) else alone
    return tuple(sorted(smaller))


def _pruned(
    special: Sequence[str], gains: Mapping[Group, int], *, filled: Sequence[str], plain: _Plain, blocks: int
) -> list[str]:
    """The claims that cannot be left out any more, after the ones of least worth were."""
    plain_gain = plain.gains_of(filled)
    groups_of: dict[str, list[Group]] = {claim: [] for claim in special}
    for group in gains:
        for claim in group:
            groups_of[claim].append(group)
    worth: dict[str, float] = {claim: sum(gains[g] / len(g) for g in groups_of[claim]) for claim in special}
    worth.update(plain_gain)
    chosen = set(worth)
    freed = sum(gains.values()) + sum(plain_gain.values())
    for claim in sorted(chosen, key=lambda claim: (worth[claim], claim)):
        loss = plain_gain.get(claim)
        if loss is None:
            loss = sum(gains[group] for group in groups_of[claim] if group <= chosen)
        if freed - loss >= blocks:
            chosen.discard(claim)
            freed -= loss
    return sorted(chosen)
