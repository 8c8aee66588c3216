"""Carrying out a move: rows are copied so that every one can be put back, and what is known of them changes last.

Whatever goes wrong, and wherever, the way back is the same: sealed rows are rewritten from their host copies and the
head's rows, which exist nowhere else, from a copy taken before the first row was touched. So it does not matter how far
a copy had come, and an interrupt is no special case.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

from tenure.errors import InternalError
from tenure.pool.arena import Arena
from tenure.pool.host import HostBlock
from tenure.pool.moves import Move, SealedBlock
from tenure.pool.transfer import Transfer


@dataclass(frozen=True, slots=True)
class Arrival:
    """Rows `offsets` of a host block that land at `slots`."""

    host: HostBlock
    offsets: Sequence[int]
    slots: Sequence[int]


def carry_out(
    move: Move,
    arrivals: Sequence[Arrival],
    *,
    arena: Arena,
    transfer: Transfer,
    blocks: Sequence[SealedBlock],
    head_rows: int,
    commit: Callable[[], None],
) -> None:
    """Copy rows as `move` says and then `commit`, or leave every row of the run as it was and raise what went wrong.

    `blocks`, `head_rows` and the arena's positions describe the run before the move. Costs one copy of the head's rows
    when they must move or may be overwritten. Raises `InternalError` when rows could not be put back.
    """
    positions = arena.positions
    head = range(len(positions) - head_rows, len(positions))
    written = {slot for arrival in arrivals for slot in arrival.slots}
    written.update(move.fill_targets, move.head_targets)
    moves_head = bool(move.head_targets) and move.head_targets != head
    saved: tuple[torch.Tensor, ...] | None = None
    touched = False
    try:
        transfer.before_overwrite()
        if moves_head or not written.isdisjoint(head):
            saved = arena.save_rows(head)
        touched = True
        # Fills first: where a cut run needs room, the rows that return land on the slots that the fills come from.
        arena.move_rows(move.fill_sources, move.fill_targets)
        for arrival in arrivals:
            transfer.page_in(arrival.host, arrival.offsets, arena, arrival.slots)
        if moves_head and saved is not None:
            arena.load_rows(move.head_targets[0], saved)
        commit()
    except BaseException as error:
        if touched:
            try:
                _put_back([slot for slot in sorted(written) if slot < head.start], positions, blocks, arena, transfer)
                if saved is not None:
                    arena.load_rows(head.start, saved)
            except BaseException as second:
                raise InternalError(
                    f"a move failed ({error!r}) and undoing it failed too ({second!r}): the arena's rows cannot be "
                    "trusted. This sequence can no longer be used until reset(); host copies are intact"
                ) from error
        raise


def _put_back(
    slots: Sequence[int], positions: Sequence[int], blocks: Sequence[SealedBlock], arena: Arena, transfer: Transfer
) -> None:
    """Rewrite sealed rows of the run from the host."""
    block_size = arena.layout.block_size
    by_block: dict[int, list[int]] = {}
    for slot in slots:
        by_block.setdefault(positions[slot] // block_size, []).append(slot)
    for block, held in by_block.items():
        offsets = [positions[slot] % block_size for slot in held]
        transfer.page_in(blocks[block].host, offsets, arena, held)
