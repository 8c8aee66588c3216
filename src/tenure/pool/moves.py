"""What a relocation does to the run, computed in full before a byte is touched."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from tenure.pool.host import HostBlock


@dataclass(slots=True)
class SealedBlock:
    """A sealed block: which of its rows are resident (`offsets`, ascending), at which `slots`, and its host copy."""

    host: HostBlock
    offsets: Sequence[int]
    slots: Sequence[int]


@dataclass(frozen=True, slots=True)
class Move:
    """Everything that a relocation does to the run, computed before anything is touched."""

    positions: list[int]
    blocks: dict[int, tuple[Sequence[int], Sequence[int]]]
    arrival_slots: dict[int, Sequence[int]]
    fill_sources: Sequence[int]
    fill_targets: Sequence[int]
    head_sources: Sequence[int]
    head_targets: Sequence[int]
    head_first: bool

    @property
    def resident_rows(self) -> int:
        """Rows in the new run."""
        return len(self.positions)


def plan_move(
    blocks: Sequence[SealedBlock],
    positions: list[int],
    *,
    head_rows: int,
    block_size: int,
    leaving: Mapping[int, Sequence[int]],
    arriving: Mapping[int, Sequence[int]],
) -> Move:
    """Compute the new run: arrivals take the first holes, the last rows before the head fill the rest. O(rows)."""
    body_rows = len(positions) - head_rows
    holes: list[int] = []
    for block, offsets in leaving.items():
        held = blocks[block]
        whole = len(offsets) == len(held.offsets)
        holes.extend(held.slots if whole else (held.slots[bisect_left(held.offsets, o)] for o in offsets))
    holes.sort()
    arriving_rows = sum(len(offsets) for offsets in arriving.values())
    new_body_rows = body_rows - len(holes) + arriving_rows
    landing = [*holes[:arriving_rows], *range(body_rows, body_rows + arriving_rows - len(holes))]
    left_over = holes[arriving_rows:]

    moved = positions[:body_rows]
    moved.extend([0] * (new_body_rows - body_rows))
    arrival_slots: dict[int, Sequence[int]] = {}
    taken = 0
    for block, offsets in arriving.items():
        slots = landing[taken : taken + len(offsets)]
        taken += len(offsets)
        arrival_slots[block] = slots
        for offset, slot in zip(offsets, slots, strict=True):
            moved[slot] = block * block_size + offset
    fill_targets = [slot for slot in left_over if slot < new_body_rows]
    vacated = set(left_over)
    fill_sources = [slot for slot in range(new_body_rows, body_rows) if slot not in vacated]
    for source, target in zip(fill_sources, fill_targets, strict=True):
        moved[target] = moved[source]
    del moved[new_body_rows:]

    touched = {*leaving, *arriving, *(moved[slot] // block_size for slot in fill_targets)}
    slots_of: dict[int, list[tuple[int, int]]] = {block: [] for block in touched}
    for slot, position in enumerate(moved):
        block = position // block_size
        if block in slots_of:
            slots_of[block].append((position % block_size, slot))
    residency = {block: _compact(sorted(pairs), block_size) for block, pairs in slots_of.items()}
    return Move(
        positions=[*moved, *positions[body_rows:]],
        blocks=residency,
        arrival_slots=arrival_slots,
        fill_sources=fill_sources,
        fill_targets=fill_targets,
        head_sources=range(body_rows, body_rows + head_rows),
        head_targets=range(new_body_rows, new_body_rows + head_rows),
        head_first=new_body_rows > body_rows,
    )


def _compact(pairs: list[tuple[int, int]], block_size: int) -> tuple[Sequence[int], Sequence[int]]:
    """Represent a block's rows as ranges where they are whole and contiguous, which keeps the common case small."""
    offsets = [offset for offset, _ in pairs]
    slots = [slot for _, slot in pairs]
    if len(pairs) == block_size and slots[-1] - slots[0] == block_size - 1 and slots == sorted(slots):
        return range(block_size), range(slots[0], slots[0] + block_size)
    return offsets, slots
