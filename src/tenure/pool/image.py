"""One sequence of a pager as values that can be written down, and back.

What is written: which position is at which slot, the head's rows, and the host copy of every sealed block. The device
rows of sealed blocks are not, because the host copy is the same bytes; they are paged in again at the slots where they
were. The order of slots is kept because attention sums in it: a sequence that is put back goes on bit-identically.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch

from tenure.errors import CapacityError, PlanError
from tenure.pool.host import HostBlock
from tenure.pool.moves import SealedBlock
from tenure.pool.pager import Pager


def slot_positions(pager: Pager) -> list[int]:
    """The position of the row at each slot of the run."""
    return list(pager.arena.positions)


def head_rows(pager: Pager) -> tuple[torch.Tensor, ...]:
    """The head's rows, a copy on the host: one `[P, H, head_rows, D]` tensor a plane group."""
    first = pager.resident_rows - pager.head_rows
    return tuple(plane.narrow(2, first, pager.head_rows).cpu().clone() for plane in pager.arena.planes)


def restore(
    pager: Pager,
    *,
    logical_rows: int,
    positions: Sequence[int],
    head: Sequence[torch.Tensor],
    fill_block: Callable[[int, HostBlock], None],
) -> None:
    """Make an empty pager the sequence that was written down. All or nothing.

    `positions` and `head` are what `slot_positions` and `head_rows` gave; `fill_block(block, host)` writes a sealed
    block's bytes to `host.buffer` and may raise. No event is emitted: nothing happened to the sequence.
    Raises `CapacityError` when the pager holds a sequence or has too few rows, `PlanError` for positions that no pager
    could have, `HostTierFullError`, and what `fill_block` raises.
    """
    if pager.logical_rows:
        raise CapacityError(
            f"the pager already holds a sequence of {pager.logical_rows} rows; restore into an empty one"
        )
    if len(positions) > pager.arena.capacity_rows:
        raise CapacityError(
            f"the sequence had {len(positions)} resident rows, the pool holds {pager.arena.capacity_rows}; restore it "
            "with a pool at least as large"
        )
    slots = _slots_by_block(pager, logical_rows, positions)
    sealed_rows = len(slots) * pager.block_size
    blocks: list[SealedBlock] = []
    try:
        for index, pairs in enumerate(slots):
            host = pager.host.allocate()
            offsets, at = [offset for offset, _ in pairs], [slot for _, slot in pairs]
            blocks.append(SealedBlock(host=host, offsets=offsets, slots=at))
            fill_block(index, host)
        pager.adopt(blocks, logical_rows=logical_rows, positions=positions)
    except BaseException:
        for block in blocks:
            pager.host.free(block.host)
        raise
    first = len(positions) - (logical_rows - sealed_rows)
    for plane, rows in zip(pager.arena.planes, head, strict=True):
        plane.narrow(2, first, rows.shape[2]).copy_(rows)


def _slots_by_block(pager: Pager, logical_rows: int, positions: Sequence[int]) -> list[list[tuple[int, int]]]:
    """`(offset, slot)` of the resident rows of each sealed block, by offset. Raises `PlanError` for an impossible run."""
    size = pager.block_size
    sealed_rows = logical_rows // size * size
    head = list(range(sealed_rows, logical_rows))
    body_rows = len(positions) - len(head)
    if body_rows < 0 or list(positions[body_rows:]) != head:
        raise PlanError(f"the run does not end with the head's rows {sealed_rows} to {logical_rows}, in order")
    body = positions[:body_rows]
    if len(set(body)) != len(body) or any(not 0 <= position < sealed_rows for position in body):
        raise PlanError(f"the run names a position twice, or one outside the {sealed_rows} rows of its sealed blocks")
    slots: list[list[tuple[int, int]]] = [[] for _ in range(logical_rows // size)]
    for slot, position in enumerate(body):
        slots[position // size].append((position % size, slot))
    if any(len(pairs) != size for pairs in slots[: pager.sink_blocks]):
        raise PlanError("a sink block is not resident")
    return [sorted(pairs) for pairs in slots]
