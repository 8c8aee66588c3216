"""What a relocation does to the run, computed in full before a byte is touched."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

from tenure.errors import PlanError
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
    head_targets: range

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
        head_targets=range(new_body_rows, new_body_rows + head_rows),
    )


def rows_by_block(positions: Iterable[int], *, block_size: int) -> dict[int, list[int]]:
    """Group positions into ascending offsets by block. Raises `PlanError` for a position that is named twice."""
    rows: dict[int, list[int]] = {}
    ordered = sorted(positions)
    for before, after in pairwise(ordered):
        if before == after:
            raise PlanError(f"position {before} is named twice; each row at most once")
    for position in ordered:
        rows.setdefault(position // block_size, []).append(position % block_size)
    return rows


def _compact(pairs: list[tuple[int, int]], block_size: int) -> tuple[Sequence[int], Sequence[int]]:
    """Represent a block's rows as ranges where they are whole and contiguous, which keeps the common case small."""
    offsets = [offset for offset, _ in pairs]
    slots = [slot for _, slot in pairs]
    if len(pairs) == block_size and slots[-1] - slots[0] == block_size - 1 and slots == sorted(slots):
        return range(block_size), range(slots[0], slots[0] + block_size)
    return offsets, slots


def problems_of(
    blocks: Sequence[SealedBlock],
    positions: Sequence[int],
    *,
    capacity_rows: int,
    logical_rows: int,
    block_size: int,
    sink_blocks: int,
) -> list[str]:
    """What is wrong with a run, one sentence a fault; empty when every residency invariant holds. O(rows)."""
    problems = []
    if len(positions) > capacity_rows:
        problems.append(f"{len(positions)} rows are resident in an arena of {capacity_rows}")
    if len(set(positions)) != len(positions):
        problems.append("a position is resident twice")
    head = list(range(logical_rows - logical_rows % block_size, logical_rows))
    if list(positions[len(positions) - len(head) :]) != head:
        problems.append("the head's rows are not last in the run, in position order")
    if len(blocks) != logical_rows // block_size:
        problems.append(f"{len(blocks)} sealed blocks for {logical_rows} rows")
    claimed = 0
    for index, block in enumerate(blocks):
        claimed += len(block.slots)
        expected = [index * block_size + offset for offset in block.offsets]
        if [positions[slot] for slot in block.slots if slot < len(positions)] != expected:
            problems.append(f"the slots of block {index} hold other positions than its own")
        if index < sink_blocks and len(block.slots) != block_size:
            problems.append(f"sink block {index} is not resident")
    if claimed + len(head) != len(positions):
        problems.append(f"blocks claim {claimed} slots and the head {len(head)}, but {len(positions)} are in use")
    return problems
