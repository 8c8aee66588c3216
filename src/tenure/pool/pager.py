"""The pager: which rows of one sequence are on the device, and every way in which that changes.

State changes only through `append` (in three steps, so that a model's forward can run in between), `apply` a plan,
`drop_rows`, `promote_rows` and `crop`. Each is all-or-nothing: it either completes and emits its events, or raises and
leaves what can be observed as it was.

Layout of the run (see `tenure.pool.arena`): the rows of sealed blocks in any order, then the head's rows in position
order. Evicting leaves holes; recalled rows fill them, what is left over is filled with the last rows before the head,
and the head moves up.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

from tenure.errors import CapacityError, InternalError, PlanError, PoolSizeError, TenureError, TransferError
from tenure.kv.residency import BlockIndex, BlockView, Plan, ResidencyView, summarize_blocks
from tenure.pool.arena import Arena
from tenure.pool.events import BlockEvicted, BlockRecalled, BlockSealed, Cropped, Listener, PoolEvent
from tenure.pool.host import HostBlock, HostTier
from tenure.pool.moves import Move, SealedBlock, plan_move
from tenure.pool.transfer import Transfer, transfer_for

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


@dataclass(frozen=True, slots=True)
class PagerStatistics:
    """Counts since construction, and the state now. Bytes count each copy once."""

    logical_rows: int
    resident_rows: int
    capacity_rows: int
    sealed_blocks: int
    host_only_blocks: int
    blocks_evicted: int
    blocks_recalled: int
    bytes_out: int
    bytes_in: int
    epoch: int


class Pager:
    """Keeps one sequence's rows within an arena, sealed blocks written through to the host.

    Guarantees: resident rows never exceed the arena; sealed blocks are resident or host-backed, never lost; sinks, tail
    window and head are never victims; `epoch` grows with every change, so a plan for an earlier state is refused.

    Raises `PoolSizeError` when the arena is below `minimum_blocks`.
    """

    def __init__(
        self,
        arena: Arena,
        host: HostTier,
        *,
        transfer: Transfer | None = None,
        sink_blocks: int = SINK_BLOCKS,
        tail_blocks: int = TAIL_BLOCKS,
        listener: Listener | None = None,
        poison_dead_rows: bool = False,
    ) -> None:
        self.block_size = arena.layout.block_size
        if sink_blocks < 0 or tail_blocks < 0:
            raise PoolSizeError(f"sink_blocks={sink_blocks} and tail_blocks={tail_blocks} must be 0 or more")
        least_rows = minimum_blocks(sink_blocks=sink_blocks, tail_blocks=tail_blocks) * self.block_size
        if arena.capacity_rows < least_rows or arena.capacity_rows % self.block_size:
            raise PoolSizeError(
                f"a pool of {arena.capacity_rows} rows cannot work with blocks of {self.block_size}: it must be a "
                f"multiple of the block size and at least {least_rows} rows ({sink_blocks} sink, {tail_blocks} tail, "
                "the head and one block that can be evicted)"
            )
        self.arena = arena
        self.host = host
        self.sink_blocks = sink_blocks
        self.tail_blocks = tail_blocks
        self.listener = listener
        self.logical_rows = 0
        self.epoch = 0
        self.transfer = transfer_for(arena.device) if transfer is None else transfer
        self._poison = poison_dead_rows
        self._blocks: list[SealedBlock] = []
        self._pending_rows = 0
        self._pending_hosts: list[HostBlock] = []
        self._broken: str | None = None
        self._evicted = self._recalled = self._bytes_out = self._bytes_in = 0

    @property
    def resident_rows(self) -> int:
        """Rows on the device."""
        return self.arena.resident_rows

    @property
    def head_rows(self) -> int:
        """Rows written to the block that is being appended to."""
        return self.logical_rows % self.block_size

    @property
    def sealed_blocks(self) -> int:
        """Number of full blocks."""
        return len(self._blocks)

    @property
    def host_only_blocks(self) -> int:
        """Sealed blocks without a single row on the device. O(blocks)."""
        return sum(1 for block in self._blocks if not block.slots)

    @property
    def max_append_rows(self) -> int:
        """Rows that can always be appended in one forward without evicting any of them. Source: KVFlash PR 468."""
        blocks = self.arena.capacity_rows // self.block_size
        return (blocks - self.sink_blocks - self.tail_blocks - 1) * self.block_size

    def is_protected(self, block: int, *, appending_rows: int = 0) -> bool:
        """Whether a block is a sink, in the tail window or the head, as of after `appending_rows` more rows."""
        head = (self.logical_rows + appending_rows) // self.block_size
        return block < self.sink_blocks or block >= head - self.tail_blocks

    def view(self, *, appending_rows: int = 0) -> ResidencyView:
        """A snapshot for planners. O(blocks)."""
        size = self.block_size
        blocks = [
            BlockView(
                index=BlockIndex(index),
                written_rows=size,
                resident_rows=len(block.slots),
                host_backed=True,
                protected=self.is_protected(index, appending_rows=appending_rows),
            )
            for index, block in enumerate(self._blocks)
        ]
        if self.head_rows:
            head = BlockView(
                index=BlockIndex(len(blocks)),
                written_rows=self.head_rows,
                resident_rows=self.head_rows,
                host_backed=False,
                protected=True,
            )
            blocks.append(head)
        return ResidencyView(
            epoch=self.epoch,
            block_size=size,
            logical_rows=self.logical_rows,
            resident_rows=self.resident_rows,
            capacity_rows=self.arena.capacity_rows,
            appending_rows=appending_rows,
            blocks=tuple(blocks),
        )

    def host_block(self, block: int) -> HostBlock:
        """The host copy of a sealed block. Wait on it before reading its bytes."""
        return self._blocks[block].host

    def resident_slots(self, block: int) -> Sequence[int]:
        """Slots of a block's resident rows in position order; empty when it is host-only."""
        if block < len(self._blocks):
            return self._blocks[block].slots
        first = self.resident_rows - self.head_rows
        return range(first, first + self.head_rows)

    def plan_room(self, rows: int, *, order: VictimOrder = oldest_first) -> Plan:
        """Plan what must move before `rows` rows can be appended. Pure; O(blocks).

        Blocks of the tail window that a crop or a restore left on the host are recalled; victims are taken in `order`.
        Raises `CapacityError` when even evicting everything unprotected would not make room.
        """
        if self._is_roomy(rows):
            return Plan(epoch=self.epoch)
        view = self.view(appending_rows=rows)
        missing = [
            block for block in view.blocks if block.resident_rows < block.written_rows and self._in_tail(block, rows)
        ]
        recalled_rows = sum(block.written_rows - block.resident_rows for block in missing)
        short_rows = recalled_rows - view.free_rows
        victims: list[BlockIndex] = []
        for index in order(view) if short_rows > 0 else ():
            if short_rows <= 0:
                break
            if view.blocks[index].evictable:
                victims.append(index)
                short_rows -= view.blocks[index].resident_rows
        if short_rows > 0:
            raise CapacityError(
                f"{rows} rows cannot be appended: the pool holds {self.arena.capacity_rows} rows, {self.resident_rows} "
                f"are resident and only {sum(b.resident_rows for b in view.blocks if b.evictable)} of them may be "
                f"evicted. Append at most {self.max_append_rows} rows at a time (generate(..., "
                f"prefill_chunk_size={self.max_append_rows}) does that), or make the pool larger."
            )
        return Plan(
            epoch=self.epoch,
            evict=tuple(victims),
            recall=tuple(block.index for block in missing),
            appending_rows=rows,
            reason=f"room for {rows} row(s)",
        )

    def _is_roomy(self, rows: int) -> bool:
        """The common case in O(1): the rows fit and the tail window is whole."""
        if self.resident_rows + rows > self.arena.capacity_rows:
            return False
        head = (self.logical_rows + rows) // self.block_size
        tail = self._blocks[max(0, head - self.tail_blocks) : head]
        return all(len(block.slots) == self.block_size for block in tail)

    def _in_tail(self, block: BlockView, rows: int) -> bool:
        return block.index >= (self.logical_rows + rows) // self.block_size - self.tail_blocks

    def resident_rows_after(self, plan: Plan) -> int:
        """Rows that would be resident after a plan. Pure."""
        freed = sum(len(self._blocks[block].slots) for block in plan.evict)
        gained = sum(self.block_size - len(self._blocks[block].slots) for block in plan.recall)
        return self.resident_rows - freed + gained

    def begin_append(self, rows: int) -> int:
        """Make sure that `rows` rows can be written, and return the first slot to write them at.

        Room must be there already (apply `plan_room` first). Takes the host blocks that sealing will need, so that
        `commit_append` cannot run out of them. An earlier append that was begun and not committed is abandoned.
        Raises `HostTierFullError` or `CapacityError`; nothing is changed then.
        """
        self._require_whole()
        self.abandon_append()
        if rows < 1:
            raise CapacityError(f"an append of {rows} rows was asked for; at least 1 is needed")
        if self.resident_rows + rows > self.arena.capacity_rows:
            raise CapacityError(
                f"{rows} rows do not fit behind {self.resident_rows} resident rows in an arena of "
                f"{self.arena.capacity_rows}; apply plan_room({rows}) first"
            )
        sealing = (self.logical_rows + rows) // self.block_size - len(self._blocks)
        self.host.require(sealing)
        hosts: list[HostBlock] = []
        try:
            for _ in range(sealing):
                hosts.append(self.host.allocate())  # noqa: PERF401 - a partial list must be given back on failure
        except TenureError:
            for host in hosts:
                self.host.free(host)
            raise
        self.transfer.before_overwrite()
        self._pending_rows, self._pending_hosts = rows, hosts
        return self.resident_rows

    def commit_append(self) -> None:
        """Make the rows that every layer has written part of the sequence, and write full blocks through to the host.

        Raises `TransferError` when a copy fails; the sequence is then as before `begin_append`.
        """
        rows, hosts = self._pending_rows, self._pending_hosts
        if not rows:
            raise InternalError("commit_append without begin_append")
        first_slot = self.resident_rows - self.head_rows
        sealed: list[SealedBlock] = []
        try:
            for index, host in enumerate(hosts):
                slots = range(first_slot + index * self.block_size, first_slot + (index + 1) * self.block_size)
                self.transfer.page_out(self.arena, slots, host)
                sealed.append(SealedBlock(host=host, offsets=range(self.block_size), slots=slots))
        except Exception as error:
            self.abandon_append()
            raise TransferError(
                f"copying a sealed block to the host failed ({error}); the {rows} appended row(s) were discarded and "
                f"the sequence is back at {self.logical_rows} rows"
            ) from error
        self.arena.append_positions(self.logical_rows, rows)
        first_sealed = len(self._blocks)
        self.logical_rows += rows
        self._blocks.extend(sealed)
        self._pending_rows, self._pending_hosts = 0, []
        self.epoch += 1
        self._bytes_out += len(sealed) * self.host.block_bytes
        for index in range(first_sealed, len(self._blocks)):
            self._emit(BlockSealed(block=index, logical_rows=self.logical_rows))

    def abandon_append(self) -> None:
        """Forget an append that was begun and not committed; its rows were never part of the run."""
        hosts, self._pending_hosts, self._pending_rows = self._pending_hosts, [], 0
        for host in hosts:
            self.host.free(host)

    def apply(self, plan: Plan) -> None:
        """Carry out a plan, all or nothing, and emit one event a block.

        Raises `PlanError` when the plan was made for another state, names a block that cannot move, or does not fit;
        `TransferError` when a copy fails. Nothing has changed in either case.
        """
        self._require_whole()
        if plan.epoch != self.epoch:
            raise PlanError(
                f"the plan was made for epoch {plan.epoch}, the pool is at epoch {self.epoch}; plan again from view()"
            )
        if not plan:
            return
        leaving: dict[int, Sequence[int]] = {}
        for block in plan.evict:
            self._require_known(block)
            if self.is_protected(block, appending_rows=plan.appending_rows):
                raise PlanError(
                    f"block {block} is a sink, in the tail window or the head, and is never a victim; {plan}"
                )
            if not self._blocks[block].slots:
                raise PlanError(f"block {block} has no resident row to evict; {plan}")
            leaving[block] = self._blocks[block].offsets
        arriving: dict[int, Sequence[int]] = {}
        for block in plan.recall:
            self._require_known(block)
            missing = self._missing_offsets(block)
            if not missing:
                raise PlanError(f"block {block} is resident already and cannot be recalled; {plan}")
            arriving[block] = missing
        self._relocate(leaving, arriving, reason=plan.reason)

    def drop_rows(self, positions: Iterable[int], *, reason: str = "rows dropped") -> None:
        """Give up single rows of the device; the host keeps them. All or nothing. O(resident rows).

        Raises `PlanError` for a row that is not resident, not sealed, or in a protected block.
        """
        self._require_whole()
        leaving = self._by_block(positions)
        for block, offsets in leaving.items():
            self._require_known(block)
            if self.is_protected(block):
                raise PlanError(
                    f"rows of block {block} cannot be dropped: it is a sink, in the tail window or the head"
                )
            absent = sorted(set(offsets) - set(self._blocks[block].offsets))
            if absent:
                raise PlanError(f"row(s) at offset {absent} of block {block} are not resident and cannot be dropped")
        self._relocate(leaving, {}, reason=reason)

    def promote_rows(self, positions: Iterable[int], *, reason: str = "rows promoted") -> None:
        """Bring single rows back from the host. All or nothing. O(resident rows).

        Raises `PlanError` for a row that is resident already or not sealed, or when they do not fit.
        """
        self._require_whole()
        arriving = self._by_block(positions)
        for block, offsets in arriving.items():
            self._require_known(block)
            present = sorted(set(offsets) & set(self._blocks[block].offsets))
            if present:
                raise PlanError(f"row(s) at offset {present} of block {block} are resident already")
        self._relocate({}, arriving, reason=reason)

    def _by_block(self, positions: Iterable[int]) -> dict[int, list[int]]:
        rows: dict[int, list[int]] = {}
        ordered = sorted(positions)
        for before, after in pairwise(ordered):
            if before == after:
                raise PlanError(f"position {before} is named twice; each row at most once")
        for position in ordered:
            rows.setdefault(position // self.block_size, []).append(position % self.block_size)
        return rows

    def _missing_offsets(self, block: int) -> Sequence[int]:
        present = self._blocks[block].offsets
        if not present:
            return range(self.block_size)
        return sorted(set(range(self.block_size)) - set(present))

    def _require_known(self, block: int) -> None:
        if not 0 <= block < len(self._blocks):
            raise PlanError(f"block {block} is not a sealed block of this sequence, which has {len(self._blocks)}")

    def _require_whole(self) -> None:
        if self._broken:
            raise InternalError(self._broken)

    def _relocate(
        self, leaving: Mapping[int, Sequence[int]], arriving: Mapping[int, Sequence[int]], *, reason: str
    ) -> None:
        """Move rows out and in. Everything is computed first, then copied with an undo log, then committed."""
        move = plan_move(
            self._blocks,
            self.arena.positions,
            head_rows=self.head_rows,
            block_size=self.block_size,
            leaving=leaving,
            arriving=arriving,
        )
        if move.resident_rows > self.arena.capacity_rows:
            raise PlanError(
                f"{move.resident_rows} rows would be resident in an arena of {self.arena.capacity_rows}; "
                f"evict {summarize_blocks(leaving) or 'nothing'}, recall {summarize_blocks(arriving)} does not fit"
            )
        self.abandon_append()
        self.transfer.before_overwrite()
        self._copy(move, leaving, arriving)
        gone = range(move.resident_rows, self.resident_rows)
        self.arena.positions = move.positions
        for block, (offsets, slots) in move.blocks.items():
            self._blocks[block] = replace(self._blocks[block], offsets=offsets, slots=slots)
        self.epoch += 1
        row_bytes = self.host.block_bytes // self.block_size
        self._bytes_in += sum(len(offsets) for offsets in arriving.values()) * row_bytes
        self._evicted += len(leaving)
        self._recalled += len(arriving)
        if self._poison:
            self.arena.poison(gone)
        for block, offsets in leaving.items():
            self._emit(BlockEvicted(block=block, rows=len(offsets), reason=reason, logical_rows=self.logical_rows))
        for block, offsets in arriving.items():
            self._emit(BlockRecalled(block=block, rows=len(offsets), reason=reason, logical_rows=self.logical_rows))

    def _copy(self, move: Move, leaving: Mapping[int, Sequence[int]], arriving: Mapping[int, Sequence[int]]) -> None:
        undo: list[Callable[[], None]] = []

        def restore_evicted() -> None:
            for block, offsets in leaving.items():
                held = self._blocks[block]
                slots = [held.slots[bisect_left(held.offsets, offset)] for offset in offsets]
                self.transfer.page_in(held.host, offsets, self.arena, slots)

        try:
            undo.append(restore_evicted)
            if move.head_first:
                undo.append(lambda: self.arena.move_rows(move.head_targets, move.head_sources))
                self.arena.move_rows(move.head_sources, move.head_targets)
            for block, offsets in arriving.items():
                self.transfer.page_in(self._blocks[block].host, offsets, self.arena, move.arrival_slots[block])
            undo.append(lambda: self.arena.move_rows(move.fill_targets, move.fill_sources))
            self.arena.move_rows(move.fill_sources, move.fill_targets)
            if not move.head_first:
                undo.append(lambda: self.arena.move_rows(move.head_targets, move.head_sources))
                self.arena.move_rows(move.head_sources, move.head_targets)
        except BaseException as error:
            self._roll_back(undo, error)
            if isinstance(error, Exception):
                raise TransferError(
                    f"moving rows failed ({error}); evicting {summarize_blocks(leaving) or 'nothing'} and recalling "
                    f"{summarize_blocks(arriving) or 'nothing'} was undone"
                ) from error
            raise

    def _roll_back(self, undo: list[Callable[[], None]], cause: BaseException) -> None:
        try:
            for step in reversed(undo):
                step()
        except BaseException as error:
            self._broken = (
                f"a move failed ({cause}) and undoing it failed too ({error}): the arena's rows cannot be trusted. "
                "This sequence can no longer be used; host copies are intact"
            )
            raise InternalError(self._broken) from cause

    def crop(self, logical_rows: int) -> None:
        """Cut the sequence back to its first `logical_rows` rows. All or nothing.

        Within the head this only shortens the run. Further back, the block that becomes the head again is unsealed: its
        first rows return to the end of the run (from its host copy, which is then given up), and every later block is
        dropped from device and host.
        Raises `CapacityError` for a target outside `[0, logical_rows]`, `TransferError` when a copy fails.
        """
        self._require_whole()
        if not 0 <= logical_rows <= self.logical_rows:
            raise CapacityError(f"cannot crop to {logical_rows} rows: the sequence has {self.logical_rows}")
        previous = self.logical_rows
        if logical_rows == previous:
            return
        self.abandon_append()
        head_start = previous - self.head_rows
        if logical_rows >= head_start:
            self.arena.drop_last(previous - logical_rows)
            self.logical_rows = logical_rows
        else:
            self._crop_to_sealed(logical_rows)
        self.epoch += 1
        if self._poison:
            self.arena.poison(range(self.resident_rows, self.arena.capacity_rows))
        self._emit(Cropped(previous_logical_rows=previous, logical_rows=logical_rows))

    def _crop_to_sealed(self, logical_rows: int) -> None:
        first_dropped, kept_rows = divmod(logical_rows, self.block_size)
        dropped = self._blocks[first_dropped:]
        leaving = {first_dropped + i: block.offsets for i, block in enumerate(dropped) if block.slots}
        # The old head is dropped with them; its bytes are nowhere else, so they are kept aside until all has gone well.
        old_head = range(self.resident_rows - self.head_rows, self.resident_rows)
        saved = [plane[:, :, old_head.start : old_head.stop].clone() for plane in self.arena.planes]
        body = self.arena.positions[: old_head.start]
        move = plan_move(self._blocks, body, head_rows=0, block_size=self.block_size, leaving=leaving, arriving={})
        new_head = range(move.resident_rows, move.resident_rows + kept_rows)
        undo: list[Callable[[], None]] = []

        def restore() -> None:
            for index, block in enumerate(dropped):
                if leaving.get(first_dropped + index):
                    self.transfer.page_in(block.host, block.offsets, self.arena, block.slots)
            for plane, rows in zip(self.arena.planes, saved, strict=True):
                plane[:, :, old_head.start : old_head.stop].copy_(rows)

        self.transfer.before_overwrite()
        try:
            undo.append(restore)
            undo.append(lambda: self.arena.move_rows(move.fill_targets, move.fill_sources))
            self.arena.move_rows(move.fill_sources, move.fill_targets)
            if kept_rows:
                self.transfer.page_in(dropped[0].host, range(kept_rows), self.arena, new_head)
        except BaseException as error:
            self._roll_back(undo, error)
            if isinstance(error, Exception):
                raise TransferError(
                    f"cropping to {logical_rows} rows failed ({error}) and was undone; the sequence still has "
                    f"{self.logical_rows} rows"
                ) from error
            raise
        self.arena.positions = [*move.positions, *range(logical_rows - kept_rows, logical_rows)]
        for block, (offsets, slots) in move.blocks.items():
            if block < first_dropped:
                self._blocks[block] = replace(self._blocks[block], offsets=offsets, slots=slots)
        del self._blocks[first_dropped:]
        self.logical_rows = logical_rows
        for given_up in dropped:
            self.host.free(given_up.host)

    def adopt(self, blocks: Sequence[SealedBlock], *, logical_rows: int, positions: Sequence[int]) -> None:
        """Become the sequence that `blocks` and `positions` describe, paging resident rows in; see `tenure.pool.image`.

        The pager must be empty and the host blocks filled. Raises `TransferError` when a copy fails; it is empty then.
        """
        self.transfer.before_overwrite()
        try:
            for block in blocks:
                if block.slots:
                    self.transfer.page_in(block.host, block.offsets, self.arena, block.slots)
        except Exception as error:
            raise TransferError(f"paging in a restored sequence failed ({error}); the pager is still empty") from error
        self._blocks = [replace(block) for block in blocks]
        self.arena.positions = list(positions)
        self.logical_rows = logical_rows
        self.epoch += 1

    def reset(self) -> None:
        """Forget the sequence and give its host blocks back. Counters go on."""
        self.abandon_append()
        for block in self._blocks:
            self.host.free(block.host)
        self._blocks = []
        self.arena.positions = []
        self.logical_rows = 0
        self._broken = None
        self.epoch += 1
        if self._poison:
            self.arena.poison(range(self.arena.capacity_rows))

    def _emit(self, event: PoolEvent) -> None:
        if self.listener is not None:
            self.listener(event)

    def statistics(self) -> PagerStatistics:
        """Counts so far and the state now. O(blocks)."""
        return PagerStatistics(
            logical_rows=self.logical_rows,
            resident_rows=self.resident_rows,
            capacity_rows=self.arena.capacity_rows,
            sealed_blocks=len(self._blocks),
            host_only_blocks=self.host_only_blocks,
            blocks_evicted=self._evicted,
            blocks_recalled=self._recalled,
            bytes_out=self._bytes_out,
            bytes_in=self._bytes_in,
            epoch=self.epoch,
        )

    def check_invariants(self) -> None:
        """Raise `InternalError` unless DESIGN's residency invariants hold. O(resident rows)."""
        positions = self.arena.positions
        problems = []
        if len(positions) > self.arena.capacity_rows:
            problems.append(f"{len(positions)} rows are resident in an arena of {self.arena.capacity_rows}")
        if len(set(positions)) != len(positions):
            problems.append("a position is resident twice")
        head = list(range(self.logical_rows - self.head_rows, self.logical_rows))
        if positions[len(positions) - len(head) :] != head:
            problems.append("the head's rows are not last in the run, in position order")
        if len(self._blocks) != self.logical_rows // self.block_size:
            problems.append(f"{len(self._blocks)} sealed blocks for {self.logical_rows} rows")
        claimed = 0
        for index, block in enumerate(self._blocks):
            claimed += len(block.slots)
            expected = [index * self.block_size + offset for offset in block.offsets]
            if [positions[slot] for slot in block.slots] != expected:
                problems.append(f"the slots of block {index} hold other positions than its own")
            if index < self.sink_blocks and len(block.slots) != self.block_size:
                problems.append(f"sink block {index} is not resident")
        if claimed + len(head) != len(positions):
            problems.append(f"blocks claim {claimed} slots and the head {len(head)}, but {len(positions)} are in use")
        if problems:
            raise InternalError("; ".join(problems))
