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
    """Recall into free rows as well, also what partly resident blocks lack: memory that is paid for should be used."""
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
    2. The best block that is not wholly resident comes, and then the next best, while room can be made for it: from
       free rows (`Room.FILL` only) and from the worst resident blocks that it beats by more than `margin`. With
       `Room.KEEP`, whole blocks replace whole blocks one for one. Equal or barely better sets move nothing, and the
       same scores move nothing the second time.

    Protected blocks never leave, and come first where they are away. NaN ranks below every number. Between equal scores
    the block that is resident stays, and the older (lower) index wins. Raises `PolicyError` when there is not one score
    a block.
    """
    if len(scores) != len(view.blocks):
        raise PolicyError(f"{len(scores)} scores for {len(view.blocks)} blocks; a scorer must answer one a block")
    rank = {
        block.index: math.inf if _must_come(block) else _rank(score)
        for block, score in zip(view.blocks, scores, strict=True)
    }
    staying = sorted((b for b in view.blocks if b.evictable), key=lambda b: (rank[b.index], -b.index))
    free_rows = view.free_rows
    evict: dict[BlockIndex, None] = {}
    next_victim = 0
    while free_rows < 0 and next_victim < len(staying):
        evict[staying[next_victim].index] = None
        free_rows += staying[next_victim].resident_rows
        next_victim += 1
    staying = staying[next_victim:]
    waiting = [b for b in view.blocks if b.host_backed and b.resident_rows < b.written_rows]
    waiting.sort(key=lambda b: (not b.protected, -rank[b.index], b.index))
    if room is Room.KEEP:
        free_rows = 0
        staying = [block for block in staying if block.resident_rows == block.written_rows]
        waiting = [block for block in waiting if block.resident_rows == 0]
    recall: dict[BlockIndex, None] = {}
    next_victim = 0
    for block in waiting:
        if block.index in evict:
            continue
        spare_rows = free_rows - (block.written_rows - block.resident_rows)
        victims: list[BlockIndex] = []
        for victim in staying[next_victim:] if spare_rows < 0 else ():
            if spare_rows >= 0 or not _is_better(rank[block.index], rank[victim.index], margin):
                break
            next_victim += 1
            if victim.index != block.index and victim.index not in recall:
                victims.append(victim.index)
                spare_rows += victim.resident_rows
        if spare_rows < 0:
            break
        recall[block.index] = None
        evict.update(dict.fromkeys(victims))
        free_rows = spare_rows
    return Plan(
        epoch=view.epoch,
        evict=tuple(evict),
        recall=tuple(recall),
        appending_rows=view.appending_rows,
        reason="reselect",
    )


def _must_come(block: BlockView) -> bool:
    return block.protected and block.host_backed and block.resident_rows < block.written_rows


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
