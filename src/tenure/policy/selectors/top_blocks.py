"""The best blocks under the budget: protections first, NaN lowest, ties to the older choice, hysteresis."""

from __future__ import annotations

import math
from collections.abc import Sequence
from enum import Enum

from tenure.errors import PolicyError
from tenure.kv.residency import BlockIndex, BlockView, Plan, ResidencyView

DEFAULT_MARGIN = 0.05
"""A host-backed block must score this much better, relative to its own score, than the resident one it replaces."""


class Room(Enum):
    """What a selection may do with free rows."""

    FILL = "fill"
    """Recall into free rows as well: the better use of memory that is paid for."""
    KEEP = "keep"
    """Only swap one for one, so that the number of resident rows stays as it was already announced."""


def select_top_blocks(
    view: ResidencyView,
    scores: Sequence[float],
    *,
    margin: float = DEFAULT_MARGIN,
    room: Room = Room.FILL,
) -> Plan:
    """Plan the residency of the best-scoring blocks. Pure; O(blocks log blocks).

    1. Blocks with the lowest scores leave until `view.appending_rows` fit.
    2. With `Room.FILL`, the best host-backed blocks are recalled into rows that are free.
    3. The best host-backed block replaces the worst resident one while it is better by more than `margin`; equal or
       barely better sets move nothing.

    Protected blocks never leave. NaN ranks below every number. Between equal scores the block that is resident stays,
    and the older (lower) index wins. Raises `PolicyError` when there is not one score a block.
    """
    if len(scores) != len(view.blocks):
        raise PolicyError(f"{len(scores)} scores for {len(view.blocks)} blocks; a scorer must answer one a block")
    rank = {block.index: _rank(score) for block, score in zip(view.blocks, scores, strict=True)}
    staying = sorted((b for b in view.blocks if b.evictable), key=lambda b: (rank[b.index], -b.index))
    waiting = sorted(
        (b for b in view.blocks if b.host_backed and b.resident_rows == 0), key=lambda b: (-rank[b.index], b.index)
    )
    evict: list[BlockIndex] = []
    recall: list[BlockIndex] = []
    free_rows = view.free_rows
    while free_rows < 0 and staying:
        victim = staying.pop(0)
        evict.append(victim.index)
        free_rows += victim.resident_rows
    if room is Room.FILL:
        while waiting and waiting[0].written_rows <= free_rows:
            block = waiting.pop(0)
            recall.append(block.index)
            free_rows -= block.written_rows
    for victim, better in zip(staying, waiting, strict=False):
        if victim.resident_rows != better.written_rows or not _is_better(
            rank[better.index], rank[victim.index], margin
        ):
            break
        evict.append(victim.index)
        recall.append(better.index)
    return Plan(
        epoch=view.epoch,
        evict=tuple(evict),
        recall=tuple(recall),
        appending_rows=view.appending_rows,
        reason="reselect",
    )


def _rank(score: float) -> float:
    return -math.inf if math.isnan(score) else score


def _is_better(candidate: float, incumbent: float, margin: float) -> bool:
    if candidate <= incumbent:
        return False
    if math.isinf(candidate) or math.isinf(incumbent):
        return True
    return candidate - incumbent > margin * abs(candidate)


def lowest_first(view: ResidencyView, scores: dict[int, float]) -> list[BlockIndex]:
    """Order victims by what was last known of them; a block newer than the scores goes last, ties go oldest first."""

    def key(block: BlockView) -> tuple[float, int]:
        known = scores.get(block.index)
        return (math.inf if known is None else _rank(known), block.index)

    return [block.index for block in sorted(view.blocks, key=key)]
