"""Planning room for an append: what may leave, who goes first, and when it cannot be done. Pure."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from tenure.errors import CapacityError, PlanError
from tenure.kv.residency import BlockIndex, Plan, ResidencyView

SINK_BLOCKS = 1
"""First blocks that are never victims (attention sinks: StreamingLLM, arXiv 2309.17453; KVFlash's default)."""
TAIL_BLOCKS = 4
"""Blocks before the head that are never victims (KVFlash's default)."""

VictimOrder = Callable[[ResidencyView], Iterable[BlockIndex]]
"""Orders blocks by who goes first. Blocks that cannot be evicted are skipped by the caller."""


def minimum_blocks(*, sink_blocks: int, tail_blocks: int) -> int:
    """Blocks below which a pool cannot make progress: the protected ones, the head, and one that can be a victim."""
    return sink_blocks + tail_blocks + 2


def oldest_first(view: ResidencyView) -> Iterable[BlockIndex]:
    """Order victims by position, oldest first: what remains is a sink and a sliding window."""
    return (block.index for block in view.blocks)


def choose_victims(view: ResidencyView, short_rows: int, order: VictimOrder) -> tuple[BlockIndex, ...]:
    """Take victims in `order` until `short_rows` rows come free; no more than needed, fewer when there are no more.

    A block that `order` names again is skipped. Raises `PlanError` when it names one that does not exist.
    """
    victims: dict[BlockIndex, None] = {}
    for index in order(view) if short_rows > 0 else ():
        if not 0 <= index < len(view.blocks):
            raise PlanError(
                f"the victim order names block {index}; the sequence has blocks 0 to {len(view.blocks) - 1}"
            )
        block = view.blocks[index]
        if block.evictable and index not in victims:
            victims[index] = None
            short_rows -= block.resident_rows
            if short_rows <= 0:
                break
    return tuple(victims)


def plan_append(view: ResidencyView, *, tail_blocks: int, max_append_rows: int, order: VictimOrder) -> Plan:
    """Plan what must move before `view.appending_rows` rows can be appended.

    Blocks of the tail window that are not whole are recalled; victims are taken in `order`.
    Raises `CapacityError` when even evicting everything unprotected would not make room.
    """
    rows = view.appending_rows
    first_tail = (view.logical_rows + rows) // view.block_size - tail_blocks
    missing = [block for block in view.blocks[max(0, first_tail) :] if block.resident_rows < block.written_rows]
    recalled_rows = sum(block.written_rows - block.resident_rows for block in missing)
    short_rows = recalled_rows - view.free_rows
    evictable_rows = sum(block.resident_rows for block in view.blocks if block.evictable)
    victims = choose_victims(view, short_rows, order)
    if short_rows > sum(view.blocks[index].resident_rows for index in victims):
        raise CapacityError(
            f"{rows} rows cannot be appended: the pool holds {view.capacity_rows} rows, {view.resident_rows} "
            f"are resident and only {evictable_rows} of them may be evicted. Append at most {max_append_rows} rows at "
            f"a time (generate(..., prefill_chunk_size={max_append_rows}) does that, though not with an assistant), or make "
            "the pool larger."
        )
    return Plan(
        epoch=view.epoch,
        evict=victims,
        recall=tuple(block.index for block in missing),
        appending_rows=rows,
        reason=f"room for {rows} row(s)",
    )
