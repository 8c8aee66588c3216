"""The pager: which rows of one sequence are on the device, and every way in which that changes.

State changes only through `append` (in three steps, so that a model's forward can run in between), `apply` a plan,
`drop_rows`, `promote_rows`, `crop` and `reset`. Each is all-or-nothing: it either completes and emits its events, or
raises and leaves what can be observed as it was. (An append that was begun and not committed is not part of the state:
whatever moves rows abandons it, also when the move fails.)

Layout of the run (see `tenure.pool.arena`): the rows of sealed blocks in any order, then the head's rows in position
order. Evicting leaves holes; recalled rows fill them, what is left over is filled with the last rows before the head,
and the head moves up.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from tenure.errors import CapacityError, InternalError, PlanError, PoolSizeError
from tenure.kv.residency import BlockIndex, BlockView, Plan, ResidencyView
from tenure.pool.arena import Arena
from tenure.pool.events import BlockEvicted, BlockRecalled, BlockSealed, Cropped, Listener, PoolEvent
from tenure.pool.host import HostBlock, HostTier
from tenure.pool.moves import SealedBlock, problems_of, rows_by_block
from tenure.pool.planning import (
    SINK_BLOCKS,
    TAIL_BLOCKS,
    VictimOrder,
    choose_victims,
    minimum_blocks,
    oldest_first,
    plan_append,
)
from tenure.pool.run import PagerStatistics, Run
from tenure.pool.transfer import Transfer, transfer_for


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
        self.transfer = transfer_for(arena.device) if transfer is None else transfer
        self._run = Run(arena, host, self.transfer, poison_dead_rows=poison_dead_rows)

    @property
    def logical_rows(self) -> int:
        """Rows of the sequence, wherever they are."""
        return self._run.logical_rows

    @property
    def epoch(self) -> int:
        """Grows with every change; a plan for another epoch is refused."""
        return self._run.counts.epoch

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
        return len(self._run.blocks)

    @property
    def host_only_blocks(self) -> int:
        """Sealed blocks without a single row on the device. O(blocks)."""
        return sum(1 for block in self._run.blocks if not block.slots)

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
            for index, block in enumerate(self._run.blocks)
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
        """The host copy of a sealed block; wait on it before reading. Raises `PlanError` for any other block."""
        self._require_known(block)
        return self._run.blocks[block].host

    def resident_slots(self, block: int) -> Sequence[int]:
        """Slots of a block's resident rows in position order; empty when it is host-only.

        Raises `PlanError` for a block that does not exist.
        """
        if block != len(self._run.blocks):
            self._require_known(block)
            return self._run.blocks[block].slots
        first = self.resident_rows - self.head_rows
        return range(first, first + self.head_rows)

    def plan_room(self, rows: int, *, order: VictimOrder = oldest_first) -> Plan:
        """Plan what must move before `rows` rows can be appended. Pure; O(blocks).

        Blocks of the tail window that a crop or a restore left on the host are recalled; victims are taken in `order`.
        Raises `CapacityError` when even evicting everything unprotected would not make room.
        """
        if rows < 0:
            raise CapacityError(f"room for {rows} rows was asked for; expected 0 or more")
        if self._is_roomy(rows):
            return Plan(epoch=self.epoch)
        view = self.view(appending_rows=rows)
        return plan_append(view, tail_blocks=self.tail_blocks, max_append_rows=self.max_append_rows, order=order)

    def _is_roomy(self, rows: int) -> bool:
        """The common case in O(1): the rows fit and the tail window is whole."""
        if self.resident_rows + rows > self.arena.capacity_rows:
            return False
        head = (self.logical_rows + rows) // self.block_size
        tail = self._run.blocks[max(0, head - self.tail_blocks) : head]
        return all(len(block.slots) == self.block_size for block in tail)

    def resident_rows_after(self, plan: Plan) -> int:
        """Rows that would be resident after a plan. Pure. Raises `PlanError` for a block that is not sealed."""
        for block in (*plan.evict, *plan.recall):
            self._require_known(block)
        freed = sum(len(self._run.blocks[block].slots) for block in plan.evict)
        gained = sum(self.block_size - len(self._run.blocks[block].slots) for block in plan.recall)
        return self.resident_rows - freed + gained

    def begin_append(self, rows: int) -> int:
        """Make sure that `rows` rows can be written, and return the first slot to write them at.

        Room must be there already (apply `plan_room` first). Takes the host blocks that sealing will need, so that
        `commit_append` cannot run out of them. An earlier append that was begun and not committed is abandoned.
        Raises `HostTierFullError`, `CapacityError` or `TransferError`; nothing is changed then.
        """
        self._run.require_usable()
        if rows < 1:
            raise CapacityError(f"an append of {rows} rows was asked for; at least 1 is needed")
        if self.resident_rows + rows > self.arena.capacity_rows:
            raise CapacityError(
                f"{rows} rows do not fit behind {self.resident_rows} resident rows in an arena of "
                f"{self.arena.capacity_rows}; apply plan_room({rows}) first"
            )
        self._run.begin(rows)
        return self.resident_rows

    def commit_append(self) -> None:
        """Make the rows that every layer has written part of the sequence, and write full blocks through to the host.

        Raises `TransferError` when a copy fails; the sequence is then as before `begin_append`.
        """
        self._run.require_usable()
        sealed = self._run.append()
        self._emit([BlockSealed(block=block, logical_rows=self.logical_rows) for block in sealed])

    def abandon_append(self) -> None:
        """Forget an append that was begun and not committed; its rows were never part of the run."""
        self._run.abandon()

    def apply(self, plan: Plan) -> None:
        """Carry out a plan, all or nothing, and emit one event a block.

        Raises `PlanError` when the plan was made for another state, names a block that cannot move, or does not fit;
        `TransferError` when a copy fails. Nothing has changed in either case.
        """
        self._run.require_usable()
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
            if not self._run.blocks[block].slots:
                raise PlanError(f"block {block} has no resident row to evict; {plan}")
            leaving[block] = self._run.blocks[block].offsets
        arriving: dict[int, Sequence[int]] = {}
        for block in plan.recall:
            self._require_known(block)
            missing = self._missing_offsets(block)
            if not missing:
                raise PlanError(f"block {block} is resident already and cannot be recalled; {plan}")
            arriving[block] = missing
        self._relocate(leaving, arriving, reason=plan.reason, appending_rows=plan.appending_rows)

    def drop_rows(self, positions: Iterable[int], *, reason: str = "rows dropped") -> None:
        """Give up single rows of the device; the host keeps them. All or nothing. O(resident rows).

        Raises `PlanError` for a row that is not resident, not sealed, or in a protected block.
        """
        self._run.require_usable()
        leaving = rows_by_block(positions, block_size=self.block_size)
        for block, offsets in leaving.items():
            self._require_known(block)
            if self.is_protected(block):
                raise PlanError(
                    f"rows of block {block} cannot be dropped: it is a sink, in the tail window or the head"
                )
            absent = sorted(set(offsets) - set(self._run.blocks[block].offsets))
            if absent:
                raise PlanError(f"row(s) at offset {absent} of block {block} are not resident and cannot be dropped")
        self._relocate(leaving, {}, reason=reason)

    def promote_rows(self, positions: Iterable[int], *, reason: str = "rows promoted") -> None:
        """Bring single rows back from the host. All or nothing. O(resident rows).

        Raises `PlanError` for a row that is resident already or not sealed, or when they do not fit.
        """
        self._run.require_usable()
        arriving = rows_by_block(positions, block_size=self.block_size)
        for block, offsets in arriving.items():
            self._require_known(block)
            present = sorted(set(offsets) & set(self._run.blocks[block].offsets))
            if present:
                raise PlanError(f"row(s) at offset {present} of block {block} are resident already")
        self._relocate({}, arriving, reason=reason)

    def _missing_offsets(self, block: int) -> Sequence[int]:
        present = self._run.blocks[block].offsets
        if not present:
            return range(self.block_size)
        return sorted(set(range(self.block_size)) - set(present))

    def _require_known(self, block: int) -> None:
        if not 0 <= block < len(self._run.blocks):
            raise PlanError(f"block {block} is not a sealed block of this sequence, which has {len(self._run.blocks)}")

    def _relocate(
        self,
        leaving: Mapping[int, Sequence[int]],
        arriving: Mapping[int, Sequence[int]],
        *,
        reason: str,
        appending_rows: int = 0,
    ) -> None:
        if not leaving and not arriving:
            return
        self._run.relocate(leaving, arriving, spare_rows=appending_rows)
        logical_rows = self.logical_rows
        self._emit(
            [
                *(BlockEvicted(block, len(rows), reason, logical_rows) for block, rows in leaving.items()),
                *(BlockRecalled(block, len(rows), reason, logical_rows) for block, rows in arriving.items()),
            ]
        )

    def crop(self, logical_rows: int) -> None:
        """Cut the sequence back to its first `logical_rows` rows. All or nothing.

        Within the head this only shortens the run. Further back, the block that becomes the head again is unsealed: its
        first rows return to the end of the run (from its host copy, which is then given up), and every later block is
        dropped from device and host. Where those rows find no room, the oldest unprotected blocks are evicted.
        Raises `CapacityError` for a target outside `[0, logical_rows]`, `TransferError` when a copy fails.
        """
        self._run.require_usable()
        if not 0 <= logical_rows <= self.logical_rows:
            raise CapacityError(
                f"cannot crop to {logical_rows} rows: the sequence has {self.logical_rows}; expected 0 to that many"
            )
        previous = self.logical_rows
        if logical_rows == previous:
            return
        evicted: list[PoolEvent] = []
        if logical_rows >= previous - self.head_rows:
            self._run.shorten(logical_rows)
        else:
            evicted = self._cut(logical_rows)
        self._emit([*evicted, Cropped(previous_logical_rows=previous, logical_rows=logical_rows)])

    def _cut(self, logical_rows: int) -> list[PoolEvent]:
        previous = self.logical_rows
        staying, kept_rows = divmod(logical_rows, self.block_size)
        staying_rows = sum(len(block.slots) for block in self._run.blocks[:staying])
        short_rows = staying_rows + kept_rows - self.arena.capacity_rows
        victims = choose_victims(self.view(appending_rows=logical_rows - previous), short_rows, oldest_first)
        events: list[PoolEvent] = [
            BlockEvicted(block, len(self._run.blocks[block].slots), "room for the cropped head", previous)
            for block in victims
        ]
        self._run.cut(logical_rows, victims=victims)
        return events

    def adopt(self, blocks: Sequence[SealedBlock], *, logical_rows: int, positions: Sequence[int]) -> None:
        """Become the sequence that `blocks` and `positions` describe, paging resident rows in; see `tenure.pool.image`.

        The pager must be empty and the host blocks filled. Raises `TransferError` when a copy fails; it is empty then.
        """
        self._run.require_usable()
        self._run.adopt(blocks, logical_rows=logical_rows, positions=positions)

    def reset(self) -> None:
        """Forget the sequence and give its host blocks back. Counters go on; a sequence that broke works again."""
        previous = self.logical_rows
        self._run.clear()
        self._tell_cleared(previous)

    def close(self) -> None:
        """Reset, and refuse every change from now on. The pool calls it when the sequence ends."""
        previous = self.logical_rows
        self._run.close()
        self._tell_cleared(previous)

    def _tell_cleared(self, previous: int) -> None:
        if previous:
            self._emit([Cropped(previous_logical_rows=previous, logical_rows=0)])

    def _emit(self, events: Iterable[PoolEvent]) -> None:
        """Tell the listener. The change stands; an error of the listener's reaches the caller after the last event."""
        if self.listener is None:
            return
        first_error: Exception | None = None
        for event in events:
            try:
                self.listener(event)
            except Exception as error:
                first_error = error if first_error is None else first_error
        if first_error is not None:
            raise first_error

    def statistics(self) -> PagerStatistics:
        """Counts so far and the state now. O(blocks)."""
        return self._run.statistics()

    def check_invariants(self) -> None:
        """Raise `InternalError` unless DESIGN's residency invariants hold. O(resident rows)."""
        problems = problems_of(
            self._run.blocks,
            self.arena.positions,
            capacity_rows=self.arena.capacity_rows,
            logical_rows=self.logical_rows,
            block_size=self.block_size,
            sink_blocks=self.sink_blocks,
        )
        if problems:
            raise InternalError("; ".join(problems))
