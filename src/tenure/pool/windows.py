"""Windows onto a larger arena, and where the next one goes: which blocks move, and in which order they are copied.

Frame `f` is the place of one block: rows `[f * block_size, (f + 1) * block_size)`. All is computed before a byte moves.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate

import torch

from tenure.errors import InternalError, TransferError
from tenure.pool.arena import Arena

PARKING_FRAMES = 4
"""Blocks that go round in a circle leave the arena, at most this many at a time, until their places are vacated."""


class ArenaWindow(Arena):
    """Consecutive rows `[first_row, first_row + capacity_rows)` of another arena, as an arena.

    Guarantees: no memory of its own and no copy; slot `s` is always the base's row `first_row + s`, so a pager on a
    window never sees it being moved. Tensors taken from it before a `rebase` are stale after it: ask again each time.
    """

    def __init__(self, base: Arena, *, first_row: int, capacity_rows: int) -> None:
        self.layout = base.layout
        self.capacity_rows = capacity_rows
        self.dtype = base.dtype
        self.device = base.device
        self.positions: list[int] = []
        self._base = base
        self.rebase(first_row, base=base)

    def rebase(self, first_row: int, *, base: Arena | None = None) -> None:
        """Look at other rows from now on, of `base` when given: the rows were moved there. Package-internal.

        Raises `InternalError` when they are not all within the base; nothing is changed then.
        """
        base = self._base if base is None else base
        if not 0 <= first_row <= base.capacity_rows - self.capacity_rows:
            raise InternalError(
                f"a window of {self.capacity_rows} rows from row {first_row} on an arena of {base.capacity_rows}"
            )
        # As in Arena: a view made in inference mode must not be one that a later forward cannot write to.
        with torch.inference_mode(mode=False):
            self._look_at(tuple(plane.narrow(2, first_row, self.capacity_rows) for plane in base.planes))
        self._base = base
        self.first_row = first_row

    def shut(self) -> None:
        """Have no row from now on, so that a stale holder fails instead of reaching rows of others. Package-internal."""
        self.capacity_rows = 0
        # New tensors, not empty views: those would keep the base's memory alive.
        self._look_at(tuple(plane.new_empty((*plane.shape[:2], 0, plane.shape[3])) for plane in self.planes))

    def _look_at(self, planes: tuple[torch.Tensor, ...]) -> None:
        self.planes = planes
        self._keys = self._layer_views(kind="key")
        self._values = self._layer_views(kind="value")


@dataclass(frozen=True, slots=True)
class FrameCopy:
    """Frames `[source, source + frames)` go to `[target, target + frames)`, which is dead and disjoint from them."""

    source: int
    target: int
    frames: int


@dataclass(frozen=True, slots=True)
class Arrangement:
    """The frame where the window starts, and for every block that must move the frame that it leaves and takes."""

    start: int
    moves: Mapping[int, int]


class _Costs:
    """Block copies that a window of `wanted` costs at each start. `idle` says which frames hold other blocks at rest."""

    def __init__(self, wanted: Sequence[int | None], *, idle: Sequence[bool]) -> None:
        self.frames = len(idle)
        self.wanted_frames = len(wanted)
        self.existing = sum(1 for frame in wanted if frame is not None)
        self.staying = Counter(frame - index for index, frame in enumerate(wanted) if frame is not None)
        self._idle_before = [0, *accumulate(idle)]

    def idle_in(self, first: int, frames: int) -> int:
        """Idle blocks that must leave `frames` frames."""
        return self._idle_before[first + frames] - self._idle_before[first]

    def window(self, start: int) -> int:
        """Copies for a window at `start`: wanted blocks that are elsewhere, and idle blocks that are in the way."""
        return self.existing - self.staying[start] + self.idle_in(start, self.wanted_frames)

    def in_place(self) -> int | None:
        """The start that costs nothing because every block is where it belongs; None when there is none."""
        (start, staying), *others = self.staying.most_common(2) or [(-1, 0)]
        fits = not others and 0 <= start <= self.frames - self.wanted_frames
        return start if staying and fits and not self.idle_in(start, self.wanted_frames) else None


def arrange(wanted: Sequence[int | None], *, idle: Sequence[bool], runs: Sequence[tuple[int, int]]) -> Arrangement:
    """Choose the window for blocks at frames `wanted` (None: a new block) that costs the fewest block copies.

    `idle[f]` says that frame f holds a block that is neither wanted nor in a run; `runs` are `(first frame, frames)`
    in ascending order, and stay where they are whenever the window fits between them. The blocks must fit in all.
    O(frames + runs²).
    """
    costs = _Costs(wanted, idle=idle)
    start = _between_runs(costs, idle=idle, runs=runs)
    run_starts = [first for first, _ in runs]
    if start is None:
        start, run_starts = _pushing_runs(costs, runs=runs)
    moves = {frame: start + index for index, frame in enumerate(wanted) if frame is not None}
    for (first, frames), new_first in zip(runs, run_starts, strict=True):
        moves |= {first + index: new_first + index for index in range(frames)}
    claimed = {*moves.values(), *range(start, start + len(wanted))}
    displaced = [frame for frame, is_idle in enumerate(idle) if is_idle and frame in claimed]
    moves |= dict(zip(displaced, _refuges(len(displaced), claimed, moves, idle), strict=True))
    moves = {source: target for source, target in moves.items() if source != target}
    return Arrangement(start=start, moves=moves)


def _between_runs(costs: _Costs, *, idle: Sequence[bool], runs: Sequence[tuple[int, int]]) -> int | None:
    """The cheapest start that no run is in the way of; None when there is none.

    Among equals, where most wanted blocks stay; then where the window, and whoever is before it, have most room to grow.
    """
    in_place = costs.in_place()
    if in_place is not None and not any(first - costs.wanted_frames < in_place < first + n for first, n in runs):
        return in_place
    room_before, room_behind = _rooms(idle, runs)
    best: tuple[int, int, int, int] | None = None
    gap_start = 0
    for run_start, run_frames in [*runs, (costs.frames, 0)]:
        for start in range(gap_start, run_start - costs.wanted_frames + 1):
            room = min(room_before[start], room_behind[start + costs.wanted_frames])
            key = (costs.window(start), -costs.staying[start], -room, start)
            best = key if best is None or key < best else best
        gap_start = run_start + run_frames
    return None if best is None else best[-1]


def _rooms(idle: Sequence[bool], runs: Sequence[tuple[int, int]]) -> tuple[list[int], list[int]]:
    """How many frames are unused right before each frame (all, when there is nobody before it), and from it on."""
    taken = list(idle)
    for first, frames in runs:
        taken[first : first + frames] = [True] * frames
    total = len(taken)
    before = accumulate(taken, lambda room, is_taken: 0 if is_taken else min(room + 1, total), initial=total)
    behind = accumulate(reversed(taken), lambda room, is_taken: 0 if is_taken else room + 1, initial=0)
    return list(before), list(behind)[::-1]


def _pushing_runs(costs: _Costs, *, runs: Sequence[tuple[int, int]]) -> tuple[int, list[int]]:
    """The cheapest start where runs must make way, and their new starts. Runs keep their order.

    Tried for each pair of neighbours: to move only the left ones, only the right ones, and where most wanted blocks
    stay; each as far as it can be.
    """
    total, window = costs.frames, costs.wanted_frames
    run_frames = [frames for _, frames in runs]
    favourites = [start for start, _ in costs.staying.most_common(1)]
    found: list[tuple[int, int, list[int]]] = []
    for index in range(len(runs) + 1):
        lowest, highest = sum(run_frames[:index]), total - window - sum(run_frames[index:])
        left_end = sum(runs[index - 1]) if index else 0
        right_start = runs[index][0] if index < len(runs) else total
        for candidate in {left_end, right_start - window, *favourites}:
            start = min(max(candidate, lowest), highest)
            starts = _pushed(runs, index, start, window)
            cost = costs.window(start)
            for (old, frames), new in zip(runs, starts, strict=True):
                cost += frames * (old != new) + costs.idle_in(new, frames)
            found.append((cost, start, starts))
    _, start, starts = min(found)
    return start, starts


def _pushed(runs: Sequence[tuple[int, int]], index: int, start: int, window: int) -> list[int]:
    """Where runs start when those before `index` end by `start` and the others begin behind the window."""
    left, right, limit = list[int](), list[int](), start
    for first, frames in reversed(runs[:index]):
        limit = min(first, limit - frames)
        left.append(limit)
    limit = start + window
    for first, frames in runs[index:]:
        right.append(max(first, limit))
        limit = right[-1] + frames
    return [*reversed(left), *right]


def _refuges(count: int, claimed: set[int], moves: Mapping[int, int], idle: Sequence[bool]) -> list[int]:
    """Frames for displaced idle blocks, ascending: those that are free already, from the top; then vacated ones."""
    if not count:
        return []
    open_frames = [frame for frame in range(len(idle)) if frame not in claimed and not idle[frame]]
    open_frames.sort(key=lambda frame: (frame in moves, -frame))
    return sorted(open_frames[:count])


def ordered_copies(moves: Mapping[int, int], *, parking: int) -> list[FrameCopy]:
    """Copies that carry out `moves` (frame to frame) one after the other, neighbours joined. O(moves).

    Guarantees: each copy writes only frames whose blocks have left, and not those that it reads; so any one can be
    repeated, and undone while later ones are undone first. A slide by `d` frames takes
    copies of `d`. Frames from `parking` on, which must not border on a frame that moves, stand for `PARKING_FRAMES` of
    temporary memory, for blocks that go round in a circle.
    """
    pending = dict(moves)
    source_of = {target: source for source, target in moves.items()}
    ready = [source for source, target in pending.items() if target not in pending]
    copies: list[FrameCopy] = []
    while pending:
        if ready:
            source = ready.pop()
            if source not in pending or pending[source] in pending:
                continue
            first, frames = _joined(pending, source)
            target = pending[first]
        else:
            # Every move that is left waits for another one. Once some of a circle are parked, all of it can go.
            first, frames = min(pending), 1
            while frames < PARKING_FRAMES and pending.get(first + frames) == pending[first] + frames:
                frames += 1
            target = parking
        copies.append(FrameCopy(first, target, frames))
        for index in range(frames):
            wanted = pending.pop(first + index)
            if target == parking:
                pending[parking + index] = wanted
                source_of[wanted] = parking + index
        ready.extend(source_of[frame] for frame in range(first, first + frames) if source_of.get(frame) in pending)
    return copies


def _joined(pending: Mapping[int, int], source: int) -> tuple[int, int]:
    """The longest run of moves around a ready one that advance together and are all ready: its start and length."""
    shift = pending[source] - source

    def joins(frame: int) -> bool:
        return pending.get(frame) == frame + shift and frame + shift not in pending

    first, stop = source, source + 1
    while joins(first - 1):
        first -= 1
    while joins(stop):
        stop += 1
    return first, stop - first


def carry_out_moves(
    moves: Mapping[int, int], *, arena: Arena, commit: Callable[[], None], take_back: Callable[[], None]
) -> int:
    """Move blocks between frames and then `commit`; or put all bytes back, `take_back` and raise. Returns the copies.

    Raises `PoolSizeError` when there is no memory to park blocks in, before anything is touched; `TransferError` when a
    copy fails; `InternalError` when blocks could not be put back.
    """
    frames, size = arena.capacity_rows // arena.layout.block_size, arena.layout.block_size
    copies = ordered_copies(moves, parking=frames + 1)
    parked = max((copy.target + copy.frames - frames - 1 for copy in copies), default=0)
    parking = Arena(arena.layout, capacity_rows=max(0, parked) * size, dtype=arena.dtype, device=arena.device)

    def transfer(source: int, target: int, blocks: int) -> None:
        (taken, first), (written, start) = (
            (arena, frame * size) if frame < frames else (parking, (frame - frames - 1) * size)
            for frame in (source, target)
        )
        for read, write in zip(taken.planes, written.planes, strict=True):
            write.narrow(2, start, blocks * size).copy_(read.narrow(2, first, blocks * size))

    done: list[FrameCopy] = []
    try:
        for copy in copies:
            transfer(copy.source, copy.target, copy.frames)
            done.append(copy)
        commit()
    except BaseException as error:
        try:
            # The last one first. A copy that was broken off wrote only where nothing was.
            for copy in reversed(done):
                transfer(copy.target, copy.source, copy.frames)
            take_back()
        except BaseException as second:
            raise InternalError(
                f"moving blocks failed ({error!r}) and undoing it failed too ({second!r}): rows on the device cannot "
                "be trusted. These frames can no longer be used; host copies are intact"
            ) from error
        if not isinstance(error, Exception):
            raise
        raise TransferError(f"moving {len(moves)} blocks failed ({error}) and was undone") from error
    return sum(copy.frames for copy in copies)
