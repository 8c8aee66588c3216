"""The run of one sequence: its rows, its sealed blocks and their host copies, and the three ways in which they change.

`append`, `relocate` and `cut` are all or nothing: whichever copy fails, and wherever an interrupt strikes, what was
known before is known again and every row is where it was. What may move, and who is told, is the pager's to say.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from tenure.errors import InternalError, PlanError, TransferError, UsageError
from tenure.kv.residency import summarize_blocks
from tenure.pool.arena import Arena
from tenure.pool.host import HostBlock, HostTier
from tenure.pool.moves import Move, SealedBlock, plan_move
from tenure.pool.relocation import Arrival, carry_out
from tenure.pool.transfer import Transfer


@dataclass(frozen=True, slots=True)
class RunCounts:
    """What has happened to a run since it was made. `epoch` grows by one with every change."""

    epoch: int = 0
    blocks_evicted: int = 0
    blocks_recalled: int = 0
    bytes_out: int = 0
    bytes_in: int = 0


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


class Run:
    """Rows in an arena, sealed blocks in a host tier, and the copies between them.

    Guarantees: a failed change leaves rows, blocks and counts as they were; when rows could not be put back, every
    later change raises `InternalError` until `clear`.
    """

    def __init__(self, arena: Arena, host: HostTier, transfer: Transfer, *, poison_dead_rows: bool) -> None:
        self.arena = arena
        self.host = host
        self.transfer = transfer
        self.block_size = arena.layout.block_size
        self.logical_rows = 0
        self.blocks: list[SealedBlock] = []
        self.counts = RunCounts()
        self._poisons = poison_dead_rows
        self._pending_rows = 0
        self._pending_hosts: list[HostBlock] = []
        self._unusable: str | None = None
        self._closed = False

    @property
    def head_rows(self) -> int:
        """Rows of the block that is being appended to."""
        return self.logical_rows % self.block_size

    def require_usable(self) -> None:
        """Raise `UsageError` after `close`, `InternalError` after a move that could not be undone."""
        if self._closed:
            raise UsageError("this sequence was closed and its memory given back; open another one")
        if self._unusable is not None:
            raise InternalError(self._unusable)

    def begin(self, rows: int) -> None:
        """Take the host blocks that sealing after `rows` more rows will need; those of an earlier `begin` are reused.

        Raises `HostTierFullError`; nothing is changed then.
        """
        # No waiting for copies out here, or every token would wait for the last sealed block: new rows go behind the run, and
        # whatever makes a slot behind the run free again (a move, a clear) has waited itself.
        sealing = (self.logical_rows + rows) // self.block_size - len(self.blocks)
        kept, surplus = self._pending_hosts[:sealing], self._pending_hosts[sealing:]
        self._pending_hosts = kept + self.host.allocate_many(sealing - len(kept))
        self._pending_rows = rows
        for host in surplus:
            self.host.free(host)

    def append(self) -> range:
        """Make the rows begun part of the run and write full blocks through; return the blocks that were sealed.

        Raises `TransferError` when a copy fails; the append is then abandoned. O(rows appended).
        """
        rows, hosts = self._pending_rows, self._pending_hosts
        if not rows:
            raise InternalError("commit_append without begin_append")
        logical_rows, resident_rows, counts = self.logical_rows, self.arena.resident_rows, self.counts
        sealing = range(len(self.blocks), len(self.blocks) + len(hosts))
        first_slot, size = resident_rows - self.head_rows, self.block_size
        try:
            sealed: list[SealedBlock] = []
            for index, host in enumerate(hosts):
                slots = range(first_slot + index * size, first_slot + (index + 1) * size)
                self.transfer.page_out(self.arena, slots, host)
                sealed.append(SealedBlock(host=host, offsets=range(size), slots=slots))
            self.arena.append_positions(logical_rows, rows)
            self.blocks.extend(sealed)
            self.logical_rows += rows
            self.counts = replace(
                counts, epoch=counts.epoch + 1, bytes_out=counts.bytes_out + len(sealed) * self.host.block_bytes
            )
            self._pending_rows, self._pending_hosts = 0, []
        except BaseException as error:
            del self.arena.positions[resident_rows:], self.blocks[sealing.start :]
            self.logical_rows, self.counts, self._pending_hosts = logical_rows, counts, hosts
            self.abandon()
            if not isinstance(error, Exception):
                raise
            raise TransferError(
                f"copying a sealed block to the host failed ({error}); the {rows} appended row(s) were discarded and "
                f"the sequence is back at {logical_rows} rows"
            ) from error
        return sealing

    def abandon(self) -> None:
        """Forget an append that was begun; its rows were never part of the run."""
        hosts, self._pending_hosts, self._pending_rows = self._pending_hosts, [], 0
        for host in hosts:
            self.host.free(host)

    def relocate(
        self, leaving: Mapping[int, Sequence[int]], arriving: Mapping[int, Sequence[int]], *, spare_rows: int
    ) -> None:
        """Move rows (offsets by block) out and in, with `spare_rows` free afterwards. O(resident rows).

        Raises `PlanError` when they do not fit, `TransferError` when a copy fails.
        """
        move = plan_move(
            self.blocks,
            self.arena.positions,
            head_rows=self.head_rows,
            block_size=self.block_size,
            leaving=leaving,
            arriving=arriving,
        )
        moved = (
            f"evicting {summarize_blocks(leaving) or 'nothing'} and recalling {summarize_blocks(arriving) or 'nothing'}"
        )
        if move.resident_rows + spare_rows > self.arena.capacity_rows:
            raise PlanError(
                f"{move.resident_rows} rows would be resident in an arena of {self.arena.capacity_rows} after {moved}, "
                f"with {spare_rows} more to be appended; evict more or recall less"
            )
        arrivals = [Arrival(self.blocks[b].host, offsets, move.arrival_slots[b]) for b, offsets in arriving.items()]
        arrived_rows = sum(len(offsets) for offsets in arriving.values())

        def commit() -> None:
            self._install(move, arrived_rows=arrived_rows, evicted=len(leaving), recalled=len(arriving))

        self._carry_out(move, arrivals, commit, what=moved)

    def shorten(self, logical_rows: int) -> None:
        """Drop the head's last rows, down to `logical_rows`. O(rows dropped)."""
        self.abandon()
        self.arena.drop_last(self.logical_rows - logical_rows)
        self.logical_rows = logical_rows
        self.counts = replace(self.counts, epoch=self.counts.epoch + 1)
        self._poison(range(self.arena.resident_rows, self.arena.capacity_rows))

    def cut(self, logical_rows: int, *, victims: Sequence[int]) -> None:
        """Cut the run back into its sealed blocks and evict `victims` for the rows that return. O(resident rows).

        Raises `TransferError` when a copy fails.
        """
        first_dropped, kept_rows = divmod(logical_rows, self.block_size)
        dropped = self.blocks[first_dropped:]
        leaving = {first_dropped + i: block.offsets for i, block in enumerate(dropped) if block.slots}
        leaving |= {block: self.blocks[block].offsets for block in victims}
        body = self.arena.positions[: self.arena.resident_rows - self.head_rows]
        move = plan_move(self.blocks, body, head_rows=0, block_size=self.block_size, leaving=leaving, arriving={})
        new_head = range(move.resident_rows, move.resident_rows + kept_rows)
        arrivals = [Arrival(dropped[0].host, range(kept_rows), new_head)] if kept_rows else []
        move = replace(move, positions=[*move.positions, *range(logical_rows - kept_rows, logical_rows)])

        def commit() -> None:
            self._install(move, arrived_rows=kept_rows, evicted=len(victims), sealed_blocks=first_dropped)
            self.logical_rows = logical_rows

        self._carry_out(move, arrivals, commit, what=f"cropping to {logical_rows} rows")
        for given_up in dropped:
            self.host.free(given_up.host)

    def adopt(self, blocks: Sequence[SealedBlock], *, logical_rows: int, positions: Sequence[int]) -> None:
        """Become the run that `blocks` and `positions` describe, paging its rows in. The run must be empty.

        Raises `TransferError` when a copy fails; the run is empty then. O(resident rows).
        """
        self.abandon()
        try:
            self.transfer.before_overwrite()
            for block in blocks:
                if block.slots:
                    self.transfer.page_in(block.host, block.offsets, self.arena, block.slots)
        except Exception as error:
            raise TransferError(f"paging in a restored sequence failed ({error}); the pager is still empty") from error
        self.blocks = [replace(block) for block in blocks]
        self.arena.positions = list(positions)
        self.logical_rows = logical_rows
        self.counts = replace(self.counts, epoch=self.counts.epoch + 1)

    def clear(self) -> None:
        """Forget everything and give the host blocks back. Counts go on; a run that broke works again."""
        self.abandon()
        self.transfer.before_overwrite()
        self.logical_rows, self.arena.positions, self._unusable = 0, [], None
        self.counts = replace(self.counts, epoch=self.counts.epoch + 1)
        while self.blocks:
            self.host.free(self.blocks.pop().host)
        self._poison(range(self.arena.capacity_rows))

    def close(self) -> None:
        """Clear, and refuse every change from now on."""
        self.clear()
        self._closed = True

    def statistics(self) -> PagerStatistics:
        """Counts so far and the state now. O(blocks)."""
        return PagerStatistics(
            logical_rows=self.logical_rows,
            resident_rows=self.arena.resident_rows,
            capacity_rows=self.arena.capacity_rows,
            sealed_blocks=len(self.blocks),
            host_only_blocks=sum(1 for block in self.blocks if not block.slots),
            blocks_evicted=self.counts.blocks_evicted,
            blocks_recalled=self.counts.blocks_recalled,
            bytes_out=self.counts.bytes_out,
            bytes_in=self.counts.bytes_in,
            epoch=self.counts.epoch,
        )

    def _install(
        self, move: Move, *, arrived_rows: int, evicted: int, recalled: int = 0, sealed_blocks: int | None = None
    ) -> None:
        """Make a move's outcome the state. Lists are replaced, not changed, so that the way back is an assignment."""
        blocks = self.blocks[:sealed_blocks]
        for block, (offsets, slots) in move.blocks.items():
            if block < len(blocks):
                blocks[block] = replace(blocks[block], offsets=offsets, slots=slots)
        counts = self.counts
        self.blocks = blocks
        self.arena.positions = move.positions
        self.counts = replace(
            counts,
            epoch=counts.epoch + 1,
            blocks_evicted=counts.blocks_evicted + evicted,
            blocks_recalled=counts.blocks_recalled + recalled,
            bytes_in=counts.bytes_in + arrived_rows * (self.host.block_bytes // self.block_size),
        )

    def _carry_out(self, move: Move, arrivals: Sequence[Arrival], commit: Callable[[], None], *, what: str) -> None:
        self.abandon()
        arena = self.arena
        before = (arena.positions, self.blocks, self.logical_rows, self.counts)
        rows_before = arena.resident_rows
        try:
            carry_out(
                move,
                arrivals,
                arena=arena,
                transfer=self.transfer,
                blocks=self.blocks,
                head_rows=self.head_rows,
                commit=commit,
            )
        except BaseException as error:
            arena.positions, self.blocks, self.logical_rows, self.counts = before
            if isinstance(error, InternalError):
                self._unusable = str(error)
            if isinstance(error, InternalError) or not isinstance(error, Exception):
                raise
            raise TransferError(
                f"{what} failed ({error}) and was undone; the sequence still has {self.logical_rows} rows, "
                f"{arena.resident_rows} of them resident"
            ) from error
        self._poison(range(arena.resident_rows, max(rows_before, arena.resident_rows)))

    def _poison(self, slots: range) -> None:
        if self._poisons:
            self.arena.poison(slots)
