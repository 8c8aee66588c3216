"""Which claims would have to give way: as few as possible, and none that would not help."""

from __future__ import annotations

import heapq
from bisect import bisect_left
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence, Set
from itertools import combinations
from typing import Protocol

from tenure.arbiter.entries import Block
from tenure.arbiter.standing import CLOSELY_SHARED, NO_REUSE, Footing, Group, Reuse, Shelf, Shelves, Signature, Standing

#: Up to this many claims that share blocks closely, all their subsets are tried, and the answer is the smallest there is.
#: Beyond it the smallest set is a densest-subgraph problem (NP-hard), and the answer is only minimal: see `fewest`.
EXACT_ENTANGLED = CLOSELY_SHARED


class StandingView(Protocol):
    """What this module asks of a view; `PoolLedger` answers it."""

    @property
    def shelves(self) -> Shelves:
        """Claims by what each alone would free."""
        ...

    def shared_blocks(self, *, pinned: bool) -> Mapping[Signature, int]:
        """Blocks on which several claims stand, idle or in active use, by the shelves of these claims."""
        ...

    def shelf_of(self, claim_id: str) -> Shelf:
        """Where a claim is."""
        ...

    def shared_by(self, claim_id: str) -> Collection[Block]:
        """Blocks that a claim shares with others."""
        ...

    def pinned_alone(self, claim_id: str) -> int:
        """Blocks in active use on which only this claim stands."""
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
) -> tuple[str, ...] | None:
    """The fewest claims of `shelves` that free at least `blocks` by giving way; None when all of them would not.

    Guarantees: no claim in the answer could be left out. Its size is the smallest possible while at most
    `EXACT_ENTANGLED` candidates share blocks closely with others or have blocks that the request uses, and it is no
    larger than that number plus one; a block that more claims share frees nothing for a smaller answer. Among equally
    few, the last one taken is the smallest that suffices, and of equal claims the newest gives way first. Nothing is
    changed.

    Args:
        view: how the claims stand.
        blocks: how many must come free, > 0.
        shelves: whose claims may be taken.
        reuse: blocks that the request uses as they are; they would not come free for it.
        counts_pinned: whether blocks in active use count as free-able: the answer is then for when that work ended.

    Cost: O(answer x log claims), None in O(shelves), as long as the blocks that each claim has alone are enough, also
    where all claims share some. Beyond that, O(claims that share + blocks that they share).
    """
    if freeable(view, shelves=shelves, reuse=reuse, counts_pinned=counts_pinned) < blocks:
        return None
    chosen = Candidates(view, shelves=shelves, reuse=reuse, counts_pinned=counts_pinned).cover(blocks)
    return None if chosen is None else tuple(sorted(chosen))


def freeable(view: StandingView, *, shelves: Collection[Shelf], reuse: Reuse, counts_pinned: bool) -> int:
    """What all claims of `shelves` together would free. Exact. O(shelves + claims whose blocks the request uses)."""
    among = frozenset(shelves)
    total = 0
    for shelf in among:
        total += view.shelves.listed_blocks(shelf)
    total += _within(view.shared_blocks(pinned=False), among)
    if reuse.idle_protected_blocks:
        total -= _reused(view, reuse.idle, among)
    if counts_pinned:
        total += sum(view.shelves.pinned_blocks(shelf) for shelf in among)
        total += _within(view.shared_blocks(pinned=True), among) - _reused(view, reuse.pinned, among)
    return total


def _within(shared: Mapping[Signature, int], among: Signature) -> int:
    return sum([blocks for signature, blocks in shared.items() if signature <= among])


def _reused(view: StandingView, footing: Footing, among: Signature) -> int:
    alone = sum([blocks for claim, blocks in footing.alone.items() if view.shelf_of(claim) in among])
    return alone + _within(footing.shared, among)


class Candidates:
    """The claims of some shelves, for one request: what each would free for it, alone and with others."""

    def __init__(
        self, view: StandingView, *, shelves: Collection[Shelf], reuse: Reuse = NO_REUSE, counts_pinned: bool = False
    ) -> None:
        self._view = view
        self._shelves = frozenset(shelves)
        self._reuse = reuse
        self._counts_pinned = counts_pinned
        self._plain = _Plain(view, shelves=self._shelves, without=self._adjusted())
        entangled = (view.shelves.entangled(shelf) for shelf in self._shelves)
        self._special = self._plain.excluded.union(*entangled)

    def _adjusted(self) -> frozenset[str]:
        """Claims that would free less than listed, because the request uses their blocks, or more, once work ended."""
        found = {claim for claim in self._reuse.idle.alone if self._view.shelf_of(claim) in self._shelves}
        if self._counts_pinned:
            found.update(*(self._view.shelves.pinned(shelf) for shelf in self._shelves))
        return frozenset(found)

    def everybody(self, *, at_most: int) -> list[str] | None:
        """All candidates, the newest first; None when there are more than `at_most`. O(at_most)."""
        found = set(self._special)
        for shelf in self._shelves:
            if len(self._view.shelves.widely_sharing(shelf)) + len(self._view.shelves.listed(shelf)) > 2 * at_most:
                return None
            found.update(self._view.shelves.widely_sharing(shelf))
            found.update(standing[2] for standing in self._view.shelves.listed(shelf))
        return self._newest_first(found) if len(found) <= at_most else None

    def cover(self, blocks: int) -> list[str] | None:
        """See `fewest`. None only when all of them would not do."""
        if len(self._special) <= EXACT_ENTANGLED:
            chosen = self._best(self._special, self.gains(self._special), blocks)
            if chosen is not None:
                # Fewer claims than that hold no widely shared block among them.
                return chosen if len(chosen) <= CLOSELY_SHARED else self.without_waste(chosen, blocks)
        else:  # what each alone frees is usually enough
            adjusted = self._plain.excluded
            alone = {frozenset((claim,)): gain for claim in adjusted if (gain := self.alone(claim)) > 0}
            chosen = self._best(adjusted, alone, blocks)
            if chosen is not None:
                return self.without_waste(chosen, blocks)
        sharing = (self._view.shelves.widely_sharing(shelf) for shelf in self._shelves)
        special = self._special.union(*sharing)
        return _minimal(self._newest_first(special), self.gains(special), self._plain.without(special), blocks)

    def _best(self, special: frozenset[str], gains: Mapping[Group, int], blocks: int) -> list[str] | None:
        """Few special candidates in every combination, many of them minimally, filled up with plain ones."""
        plain = self._plain.without(special)
        if not special:
            return plain.cover(blocks)
        ordered = self._newest_first(special)
        return (_exact if len(ordered) <= EXACT_ENTANGLED else _minimal)(ordered, gains, plain, blocks)

    def _newest_first(self, claims: Iterable[str]) -> list[str]:
        return sorted(claims, key=lambda claim: (-self._view.standing_of(claim)[1], claim))

    def alone(self, claim: str) -> int:
        """What a claim frees for this request without anybody else."""
        blocks = self._view.standing_of(claim)[0] - self._reuse.idle.alone.get(claim, 0)
        if self._counts_pinned:
            blocks += self._view.pinned_alone(claim) - self._reuse.pinned.alone.get(claim, 0)
        return blocks

    def gains(self, claims: Set[str]) -> dict[Group, int]:
        """Blocks by the claims that would all have to give way for them, of these claims only."""
        gains = {frozenset((claim,)): gain for claim in claims if (gain := self.alone(claim)) > 0}
        seen: set[int] = set()
        for claim in claims:
            for block in self._view.shared_by(claim):
                if block.holders > len(claims) or id(block) in seen:
                    continue
                seen.add(id(block))
                comes_free = self._counts_pinned or not block.pins
                if comes_free and block.block_id not in self._reuse.shared_block_ids and block.group <= claims:
                    gains[block.group] = gains.get(block.group, 0) + 1
        return gains

    def without_waste(self, chosen: Sequence[str], blocks: int) -> list[str]:
        """The chosen claims less those that are not needed, now that blocks shared among them come free as well."""
        gains = self.gains(frozenset(chosen))
        return _pruned(sorted(chosen), gains, filled=(), plain=self._plain, blocks=blocks)


class _Plain:
    """Candidates that free just what the shelf says, largest first, read from the shelves only as far as needed."""

    def __init__(self, view: StandingView, *, shelves: Collection[Shelf], without: frozenset[str]) -> None:
        self._lists = [listed for listed in (view.shelves.listed(shelf) for shelf in shelves) if listed]
        self._view = view
        self._shelves = shelves
        self.excluded = without
        self._largest: list[Standing] = []
        self._source = self._descending()

    def without(self, claims: frozenset[str]) -> _Plain:
        """The same candidates less these."""
        if claims == self.excluded:
            return self
        return _Plain(self._view, shelves=self._shelves, without=claims)

    def _descending(self) -> Iterator[Standing]:
        for standing in heapq.merge(*(reversed(listed) for listed in self._lists), reverse=True):
            if standing[2] not in self.excluded:
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
                if standing[2] not in self.excluded:
                    best = standing
                    break
        return best[2]


def freed_by(chosen: Collection[str], gains: Mapping[Group, int]) -> int:
    """What these claims free together, of `gains`."""
    return sum(blocks for group, blocks in gains.items() if group.issubset(chosen))


def _exact(special: Sequence[str], gains: Mapping[Group, int], plain: _Plain, blocks: int) -> list[str] | None:
    """Every subset of the special candidates, filled up with plain ones; the smallest of all that suffice."""
    best: list[str] | None = None
    for size in range(len(special) + 1):
        if best is not None and size >= len(best):
            break
        for subset in combinations(special, size):
            room = None if best is None else len(best) - 1 - size
            filled = plain.cover(blocks - freed_by(frozenset(subset), gains), at_most_claims=room)
            if filled is not None:
                best = [*subset, *filled]
    return best


def _minimal(special: Sequence[str], gains: Mapping[Group, int], plain: _Plain, blocks: int) -> list[str] | None:
    """Plain claims alone, or all special ones filled up and then pruned of what can be left out: the smaller answer."""
    alone = plain.cover(blocks)
    filled = plain.cover(blocks - sum(gains.values()))
    if filled is None:
        return alone
    mixed = _pruned(special, gains, filled=filled, plain=plain, blocks=blocks)
    return mixed if alone is None or len(mixed) < len(alone) else alone


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
