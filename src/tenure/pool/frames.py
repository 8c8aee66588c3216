"""The device memory of a runtime in which many sequences live: one arena, cut into frames of one block each.

The caller names blocks; where they lie is settled here. Those of an open run lie side by side in the order asked for, so
that attention over them is over one contiguous view. Opening a run may move any block; windows of other runs follow.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch

from tenure.errors import CapacityError, InternalError, PoolSizeError, UsageError
from tenure.pool.arena import Arena
from tenure.pool.host import HostBlock
from tenure.pool.layout import ArenaLayout
from tenure.pool.transfer import Transfer, transfer_for
from tenure.pool.windows import ArenaWindow, Arrangement, arrange, carry_out_moves


class BlockRun:
    """Blocks that lie side by side while the run is open. Made by `BlockFrames.open_run`, ended by `close_run`."""

    __slots__ = ("_window", "block_ids", "closed")

    def __init__(self, block_ids: tuple[int, ...], window: ArenaWindow) -> None:
        self.block_ids = block_ids
        self.closed = False
        self._window = window

    @property
    def window(self) -> ArenaWindow:
        """All rows of the run, an arena; block `block_ids[i]` is rows `[i * block_size, (i + 1) * block_size)`.

        Raises `UsageError` once the run is closed.
        """
        if self.closed:
            raise UsageError(f"this run of {len(self.block_ids)} blocks was closed; open it again for a new window")
        return self._window


class BlockFrames:
    """A fixed number of frames, each of which holds one named block or nothing.

    Guarantees: every block keeps its bytes until it is written, released or the target of a copy, wherever it is moved;
    the blocks of an open run are side by side in their order; a call that raises has changed no mapping, no window and
    no block but the one a copy was going to. After a move that could not be undone every change raises `InternalError`.

    `usable_blocks` is the number of frames. `poison_released` fills frames that hold nothing any more with NaN, for
    tests. Every copy between these rows and a host, also those of pagers on windows, must go through `transfer`
    (default: `transfer_for(device)`), or rows are moved while another stream still reads them. Not thread-safe.
    Raises `PoolSizeError` for fewer than 1 block, or when the device has not that much memory.
    """

    def __init__(
        self,
        layout: ArenaLayout,
        *,
        usable_blocks: int,
        dtype: torch.dtype,
        device: torch.device | str,
        transfer: Transfer | None = None,
        poison_released: bool = False,
    ) -> None:
        if usable_blocks < 1:
            raise PoolSizeError(f"usable_blocks is {usable_blocks}; a runtime needs at least 1")
        self.layout = layout
        self._arena = Arena(layout, capacity_rows=usable_blocks * layout.block_size, dtype=dtype, device=device)
        self.transfer = transfer_for(self._arena.device) if transfer is None else transfer
        self.moved_blocks = 0
        self._poisons = poison_released
        self._frame_of: dict[int, int] = {}
        self._run_of: dict[int, BlockRun] = {}
        self._unusable: str | None = None

    @property
    def usable_blocks(self) -> int:
        """Number of frames."""
        return self._arena.capacity_rows // self.layout.block_size

    @property
    def used_blocks(self) -> int:
        """Frames that hold a block."""
        return len(self._frame_of)

    @property
    def free_blocks(self) -> int:
        """Frames that hold nothing."""
        return self.usable_blocks - self.used_blocks

    @property
    def device_bytes(self) -> int:
        """Bytes of device memory that the frames take, used or not."""
        return self._arena.device_bytes

    @property
    def device(self) -> torch.device:
        """Where the rows are."""
        return self._arena.device

    @property
    def dtype(self) -> torch.dtype:
        """Of the rows."""
        return self._arena.dtype

    @property
    def block_ids(self) -> frozenset[int]:
        """Blocks that have a frame. O(blocks)."""
        return frozenset(self._frame_of)

    def __contains__(self, block_id: int) -> bool:
        return block_id in self._frame_of

    def open_run(self, block_ids: Sequence[int]) -> BlockRun:
        """Bring blocks side by side, in this order; an id without a frame gets one, with arbitrary bytes.

        Succeeds whenever enough frames are free. Of all places that no open run is in the way of, takes one with the
        fewest block copies; only where there is none do other runs make way. `moved_blocks` counts the copies.
        To page blocks in that will be in a run, open the run first: they then arrive where they belong.

        Raises `UsageError` when an id is named twice, is in an open run already, or none is given; `CapacityError` when
        more new ids are named than frames are free; `PoolSizeError` when the device has no room for the few blocks that
        must be parked (never while nothing moves in a circle); `TransferError` when a copy fails.
        O(frames + runs²), and the bytes of the blocks that move.
        """
        self._require_usable()
        ids = tuple(block_ids)
        self._require_openable(ids)
        runs = sorted(self._runs(), key=lambda run: run.window.first_row)
        idle = [False] * self.usable_blocks
        for block in self._frame_of.keys() - self._run_of.keys() - set(ids):
            idle[self._frame_of[block]] = True
        arrangement = arrange(
            [self._frame_of.get(block) for block in ids],
            idle=idle,
            runs=[(self._frame(run.block_ids[0]), len(run.block_ids)) for run in runs],
        )
        # Whatever a pager may write next, or a move overwrites now, must have been read by the copies out of it.
        self.transfer.before_overwrite()
        return self._place(ids, arrangement)

    def close_run(self, run: BlockRun) -> None:
        """Let the blocks of a run be moved apart; they keep their bytes. The run and its window have no rows any more.

        A pager on the window can then only be closed, which touches no row of these blocks.
        Raises `UsageError` when the run is not open here. O(open blocks).
        """
        if run not in self._runs():
            raise UsageError(f"a run of {len(run.block_ids)} blocks was closed twice, or belongs to other frames")
        self._run_of = {block: other for block, other in self._run_of.items() if other is not run}
        run.window.shut()
        run.closed = True

    def release(self, block_ids: Sequence[int]) -> None:
        """Free the frames of blocks, whose ids may be used anew.

        Raises `InternalError` when an id is unknown, named twice or in an open run; nothing is changed then.
        """
        self._require_usable()
        held = [block for block in block_ids if block in self._run_of]
        if held or len(set(block_ids)) != len(block_ids):
            raise InternalError(f"blocks {list(block_ids)} were released, of which {held} are in an open run")
        frames = [self._frame(block) for block in block_ids]
        # Their next owner writes without waiting, as a pager does behind its run.
        self.transfer.before_overwrite()
        for block in block_ids:
            del self._frame_of[block]
        self._poison(frames)

    def copy_block(self, source_id: int, target_id: int) -> None:
        """Make a block's rows those of another. A target without a frame gets one.

        Raises `InternalError` when the source is unknown, `CapacityError` when no frame is free.
        """
        self._require_usable()
        source, target = self._frame(source_id), self._frame_or_free(target_id)
        self.transfer.before_overwrite()
        if source != target:
            self._arena.move_rows(self._rows(source), self._rows(target))
        self._frame_of[target_id] = target

    def page_out(self, block_id: int, host: HostBlock) -> None:
        """Copy a block's rows to the host. Raises `InternalError` when it is unknown, and what the transfer raises."""
        self._require_usable()
        self.transfer.page_out(self._arena, self._rows(self._frame(block_id)), host)

    def page_in(self, host: HostBlock, block_id: int) -> None:
        """Make a block's rows those that the host holds. An id without a frame gets one.

        Raises `CapacityError` when no frame is free, and what the transfer raises: a new id has no frame then, and an
        old one arbitrary bytes.
        """
        self._require_usable()
        frame = self._frame_or_free(block_id)
        self.transfer.before_overwrite()
        try:
            self.transfer.page_in(host, range(self.layout.block_size), self._arena, self._rows(frame))
        except BaseException:
            if block_id not in self._frame_of:
                self._poison([frame])
            raise
        self._frame_of[block_id] = frame

    def read_block(self, block_id: int) -> tuple[torch.Tensor, ...]:
        """A copy of a block's rows, `[P, H, block_size, D]` a plane group. Raises `InternalError` when it is unknown."""
        return self._arena.save_rows(self._rows(self._frame(block_id)))

    def grow(self, blocks: int) -> None:
        """Add frames. Every block keeps its bytes, and windows their rows. O(bytes), with old and new memory held.

        Raises `PoolSizeError` for fewer than 1 block, or when the device has not that much memory; nothing is changed.
        """
        self._require_usable()
        if blocks < 1:
            raise PoolSizeError(f"grow({blocks}) adds no block; ask for at least 1")
        arena = self._arena
        rows = arena.capacity_rows + blocks * self.layout.block_size
        larger = Arena(self.layout, capacity_rows=rows, dtype=arena.dtype, device=arena.device)
        # The old memory goes back to the allocator, which knows nothing of the copy stream that may still read it.
        self.transfer.before_overwrite()
        larger.load_rows(0, arena.planes)
        try:
            self._look_at(larger)
        except BaseException:
            self._look_at(arena)
            raise

    def check_invariants(self) -> None:
        """Raise `InternalError` unless every block has one frame and every open run lies where its window says."""
        self._require_usable()
        size, problems, frames = self.layout.block_size, [], set(self._frame_of.values())
        if len(frames) != self.used_blocks or not frames <= set(range(self.usable_blocks)):
            problems.append(f"two blocks have the same frame, or one is beyond the {self.usable_blocks} frames")
        if self._run_of != {block: run for run in self._runs() for block in run.block_ids}:
            problems.append("a block is in two open runs")
        for run in self._runs():
            window = run.window
            if any(self._frame(b) * size != window.first_row + i * size for i, b in enumerate(run.block_ids)):
                problems.append(f"blocks {list(run.block_ids)} are not side by side from row {window.first_row} on")
            for plane, base in zip(window.planes, self._arena.planes, strict=True):
                if plane.data_ptr() != base[:, :, window.first_row :].data_ptr():
                    problems.append(f"the window of blocks {list(run.block_ids)} looks at other memory")
        if problems:
            raise InternalError("; ".join(problems))

    def _require_usable(self) -> None:
        if self._unusable is not None:
            raise InternalError(self._unusable)

    def _require_openable(self, ids: tuple[int, ...]) -> None:
        if not ids or len(set(ids)) != len(ids):
            raise UsageError(f"a run of blocks {list(ids)} was asked for; name at least one block, and none twice")
        taken = [block for block in ids if block in self._run_of]
        if taken:
            raise UsageError(f"blocks {taken} are in an open run already; close it, or copy the blocks")
        new_blocks = sum(1 for block in ids if block not in self._frame_of)
        if new_blocks > self.free_blocks:
            raise CapacityError(
                f"a run of {len(ids)} blocks needs {new_blocks} more frames, but {self.used_blocks} of "
                f"{self.usable_blocks} are used and {self.free_blocks} free; release blocks or page some out first"
            )

    def _frame(self, block_id: int) -> int:
        frame = self._frame_of.get(block_id)
        if frame is None:
            raise InternalError(f"block {block_id} has no frame; {self.used_blocks} blocks have one")
        return frame

    def _frame_or_free(self, block_id: int) -> int:
        """Where a block is, or the last free frame: runs start lower down and grow upwards. O(frames)."""
        if block_id in self._frame_of:
            return self._frame_of[block_id]
        if not self.free_blocks:
            raise CapacityError(f"block {block_id} needs a frame, but all {self.usable_blocks} are used; release some")
        return max(set(range(self.usable_blocks)) - set(self._frame_of.values()))

    def _rows(self, frame: int) -> range:
        return range(frame * self.layout.block_size, (frame + 1) * self.layout.block_size)

    def _runs(self) -> list[BlockRun]:
        return list(dict.fromkeys(self._run_of.values()))

    def _look_at(self, arena: Arena) -> None:
        """Make an arena that holds every block in its frame the base, and put every window where its blocks are."""
        self._arena = arena
        for run in self._runs():
            run.window.rebase(self._rows(self._frame(run.block_ids[0])).start, base=arena)

    def _place(self, ids: tuple[int, ...], arrangement: Arrangement) -> BlockRun:
        """Carry out an arrangement, or leave every block and window where it was."""
        first_row, rows = (blocks * self.layout.block_size for blocks in (arrangement.start, len(ids)))
        opened = BlockRun(ids, ArenaWindow(self._arena, first_row=first_row, capacity_rows=rows))
        before = self._frame_of, self._run_of
        placed, moves = {block: arrangement.start + i for i, block in enumerate(ids)}, arrangement.moves
        after = {block: moves.get(frame, frame) for block, frame in self._frame_of.items()} | placed

        def commit() -> None:
            self._frame_of, self._run_of = after, before[1] | dict.fromkeys(ids, opened)
            self._look_at(self._arena)

        def take_back() -> None:
            self._frame_of, self._run_of = before
            self._look_at(self._arena)

        try:
            self.moved_blocks += carry_out_moves(moves, arena=self._arena, commit=commit, take_back=take_back)
        except InternalError as error:
            self._unusable = str(error)
            raise
        self._poison({*before[0].values(), *placed.values()} - {after[block] for block in before[0]})
        return opened

    def _poison(self, frames: Iterable[int]) -> None:
        if self._poisons:
            for frame in frames:
                self._arena.poison(self._rows(frame))
