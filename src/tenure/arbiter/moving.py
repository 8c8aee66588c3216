"""Which claims give way where some can only move to the slower tier: they must make the room, and fit there."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Collection, Iterable, Sequence
from itertools import chain, combinations, islice
from typing import Protocol

from tenure.arbiter.blocking import EXACT_ENTANGLED, Candidates, StandingView, fewest, freed_by
from tenure.arbiter.standing import NO_REUSE, Reuse, Shelf

#: Of more candidates than can be tried in every combination, so many of the largest and of the smallest are looked at.
LOOKED_AT = 64


class TierView(StandingView, Protocol):
    """What this module asks of a view beyond who is in the way."""

    def tier_blocks(self, claim_ids: Iterable[str]) -> int:
        """New room in the slower tier that these claims need together."""
        ...


def fewest_that_fit(
    view: TierView,
    *,
    blocks: int,
    shelves: Collection[Shelf],
    moving: Collection[Shelf],
    room_blocks: int,
    reuse: Reuse = NO_REUSE,
) -> tuple[str, ...] | None:
    """As `fewest`, but the chosen claims of the shelves in `moving` must fit into `room_blocks` of the slower tier.

    Guarantees: what is returned makes the room and fits, and no claim in it could be left out. It is the fewest there
    are, and None means that no choice would do, while there are at most `EXACT_ENTANGLED` candidates, or while the
    answer without a tier fits as it is. Otherwise this is a knapsack with two sides: claims are taken greedily, the
    largest that fit first, then the smallest first, and the smaller answer is returned.

    Cost: that of `fewest`; where its answer does not fit, 2 ** `EXACT_ENTANGLED` sets or O(`LOOKED_AT`) claims more.
    """

    def fits(chosen: Iterable[str]) -> bool:
        return view.tier_blocks(claim for claim in chosen if view.shelf_of(claim) in moving) <= room_blocks

    wanted = fewest(view, blocks=blocks, shelves=shelves, reuse=reuse)
    if wanted is None or fits(wanted):
        return wanted
    candidates = Candidates(view, shelves=shelves, reuse=reuse)
    few = candidates.everybody(at_most=EXACT_ENTANGLED)
    if few is not None:
        gains = candidates.gains(frozenset(few))
        subsets = chain.from_iterable(combinations(few, size) for size in range(1, len(few) + 1))
        found = (subset for subset in subsets if freed_by(frozenset(subset), gains) >= blocks and fits(subset))
        chosen = next(found, None)
        return None if chosen is None else tuple(sorted(chosen))
    staying = [shelf for shelf in shelves if shelf not in moving]
    tries = [
        _greedy(view, ordered, blocks=blocks, staying=staying, room_blocks=room_blocks, reuse=reuse)
        for ordered in _orders(view, moving, candidates, room_blocks)
    ]
    answers = [candidates.without_waste(chosen, blocks) for chosen in tries if chosen is not None]
    shortest = min(answers, key=len, default=None)
    return None if shortest is None else tuple(sorted(shortest))


def _orders(
    view: TierView, moving: Collection[Shelf], candidates: Candidates, room_blocks: int
) -> list[list[tuple[str, int]]]:
    """Claims that must move, with what each frees alone: the largest that the room could take first, and the reverse."""
    found: dict[str, int] = {}
    for shelf in moving:
        listed = view.shelves.listed(shelf)
        fitting = bisect_left(listed, (room_blocks + 1, -1, ""))
        largest = (listed[at] for at in range(fitting - 1, -1, -1))
        # Larger ones fit only where the tier has their rows already.
        for standing in chain(islice(largest, LOOKED_AT), listed[:LOOKED_AT], listed[fitting : fitting + LOOKED_AT]):
            found[standing[2]] = candidates.alone(standing[2])
    ordered = sorted(((claim, gain) for claim, gain in found.items() if gain > 0), key=lambda pair: (-pair[1], pair[0]))
    return [ordered, ordered[::-1]]


def _greedy(
    view: TierView,
    ordered: Sequence[tuple[str, int]],
    *,
    blocks: int,
    staying: Collection[Shelf],
    room_blocks: int,
    reuse: Reuse,
) -> list[str] | None:
    """Take claims that fit in this order, until those that need not move can make the rest of the room."""
    chosen: list[str] = []
    still, left = blocks, room_blocks
    for claim, gain in ordered:
        moves = view.tier_blocks((claim,))
        if moves > left:
            continue
        chosen.append(claim)
        still -= gain
        left -= moves
        rest = fewest(view, blocks=still, shelves=staying, reuse=reuse) if still > 0 else ()
        if rest is not None:
            return [*chosen, *rest]
    return None
