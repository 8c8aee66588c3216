"""The pager against a dictionary: whatever is asked of it, in whatever order, and whichever copy fails.

The model is two sets and a dictionary: which positions exist and with which version of their rows, which of them are
resident, which blocks are sealed. Every row carries its own position, layer, head and version in its bits, so a row
that went astray cannot be mistaken for another one.

After a failed call everything that can be observed must be as it was: positions, bytes on the device and on the host,
counters, epoch, view and events. Only an append that was begun and not committed may be gone, and only when rows were
about to move.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import torch
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from pool_faults import Fault, Faults, FaultyArena, FaultyTransfer
from pool_rows import DTYPES, SHAPES, Shape, assert_host_block_is, assert_rows_are, bits_of, layer_rows
from tenure.errors import CapacityError, HostTierFullError, InternalError, PlanError, TransferError
from tenure.kv.residency import BlockIndex, Plan, Residence, ResidencyView
from tenure.pool import (
    BlockEvicted,
    BlockRecalled,
    BlockSealed,
    Cropped,
    HostTier,
    Pager,
    PoolEvent,
    layout_for,
    minimum_blocks,
)

FAULTS = st.one_of(
    st.none(),
    st.none(),
    st.builds(
        Fault,
        copy=st.integers(0, 5),
        error=st.sampled_from([OSError, RuntimeError, KeyboardInterrupt]),
        lasting=st.sampled_from([False, False, False, True]),
    ),
)


@dataclass
class Pending:
    """An append that was begun: its rows may be committed once every layer has written them."""

    rows: int
    version: int
    written: bool


class PagerMachine(RuleBasedStateMachine):
    @initialize(
        shape=st.sampled_from(SHAPES),
        dtype=st.sampled_from(DTYPES),
        block_size=st.integers(1, 4),
        sink_blocks=st.integers(0, 2),
        tail_blocks=st.integers(0, 2),
        spare_blocks=st.integers(0, 3),
        host_blocks=st.one_of(st.none(), st.none(), st.none(), st.integers(0, 12)),
        first_blocks=st.integers(0, 12),
    )
    def open(
        self,
        *,
        shape: Shape,
        dtype: torch.dtype,
        block_size: int,
        sink_blocks: int,
        tail_blocks: int,
        spare_blocks: int,
        host_blocks: int | None,
        first_blocks: int,
    ) -> None:
        layout = layout_for(shape.geometry(dtype), block_size=block_size)
        blocks = minimum_blocks(sink_blocks=sink_blocks, tail_blocks=tail_blocks) + spare_blocks
        budget = None if host_blocks is None else host_blocks * layout.bytes_per_block(dtype)
        self.faults = Faults()
        arena = FaultyArena(layout, capacity_rows=blocks * block_size, dtype=dtype, device="cpu")
        arena.faults = self.faults
        self.host = HostTier(layout, dtype=dtype, budget_bytes=budget)
        self.events: list[PoolEvent] = []
        self.pager = Pager(
            arena,
            self.host,
            transfer=FaultyTransfer(self.faults),
            sink_blocks=sink_blocks,
            tail_blocks=tail_blocks,
            listener=self.events.append,
            poison_dead_rows=True,
        )
        self.shape, self.dtype, self.size, self.host_blocks = shape, dtype, block_size, host_blocks
        self.sinks, self.tail, self.capacity_rows = sink_blocks, tail_blocks, blocks * block_size
        self.versions: dict[int, int] = {}
        self.resident: set[int] = set()
        self.pending: Pending | None = None
        self.version = self.epoch = 0
        self.evicted = self.recalled = self.bytes_out = self.bytes_in = 0
        self.expected_events: list[PoolEvent] = []
        if host_blocks is None or host_blocks > first_blocks:
            self.decode(rows=first_blocks * block_size)

    # What the model knows.

    @property
    def logical(self) -> int:
        return len(self.versions)

    @property
    def sealed(self) -> int:
        return self.logical // self.size

    def rows_of(self, block: int) -> set[int]:
        return set(range(block * self.size, min((block + 1) * self.size, self.logical)))

    def held(self, block: int) -> set[int]:
        return self.rows_of(block) & self.resident

    def protected(self, block: int, *, logical: int) -> bool:
        return block < self.sinks or block >= logical // self.size - self.tail

    # How an operation is tried.

    def observe(self) -> tuple[Any, ...]:
        arena, rows = self.pager.arena, self.pager.resident_rows
        device = [bits_of(plane[:, :, :rows]).tolist() for plane in arena.planes]
        hosts = [bits_of(self.pager.host_block(block).buffer).tolist() for block in range(self.pager.sealed_blocks)]
        state = (list(arena.positions), self.pager.statistics(), self.pager.view(), list(self.events))
        return (*state, device, hosts)

    def attempt(
        self, operation: Callable[[], object], *, fault: Fault | None = None, error: type[Exception] | None = None
    ) -> bool:
        """Run what must succeed, or fail by the injected fault, or fail by `error`; true if it succeeded."""
        before, pending_hosts = self.observe(), self.host.used_bytes
        self.faults.arm(fault)
        caught: BaseException | None = None
        try:
            operation()
        except (Exception, KeyboardInterrupt) as raised:
            caught = raised
        fired = self.faults.fired
        self.faults.arm(None)
        if caught is None:
            assert error is None, f"{error} was expected"
            return True
        if error is not None and not fired:
            assert isinstance(caught, error), repr(caught)
            assert self.observe() == before
            assert self.host.used_bytes == pending_hosts, "a refused call took or gave back host blocks"
            return False
        assert fired, f"no copy failed, and yet: {caught!r}"
        if isinstance(caught, InternalError):
            self.start_over_after_a_failed_rollback(fault)
            return False
        wanted = KeyboardInterrupt if fault is not None and fault.error is KeyboardInterrupt else TransferError
        assert type(caught) is wanted, repr(caught)
        assert self.observe() == before
        self.pending = None
        self.pager.abandon_append()
        return False

    def start_over_after_a_failed_rollback(self, fault: Fault | None) -> None:
        assert fault is not None
        assert fault.lasting, "a single failed copy must be undone"
        self.check_host_bytes()
        for refused in (
            lambda: self.pager.begin_append(1),
            lambda: self.pager.apply(Plan(epoch=self.pager.epoch)),
            lambda: self.pager.crop(0),
            lambda: self.pager.drop_rows([0]),
            lambda: self.pager.promote_rows([0]),
        ):
            try:
                refused()
            except InternalError as error:
                assert "can no longer be used" in str(error)  # noqa: PT017 - a machine's rule has no pytest.raises
            else:
                raise AssertionError("a sequence with untrusted rows was still served")
        self.forget_everything()

    def forget_everything(self) -> None:
        if self.logical:
            self.expected_events.append(Cropped(previous_logical_rows=self.logical, logical_rows=0))
        self.pager.reset()
        self.versions, self.resident, self.pending = {}, set(), None
        self.epoch += 1

    def moved(self, leaving: dict[int, set[int]], arriving: dict[int, set[int]], *, reason: str) -> None:
        """Account for a relocation that succeeded."""
        self.pending = None
        self.epoch += 1
        for block, rows in leaving.items():
            self.resident -= rows
            self.expected_events.append(
                BlockEvicted(block=block, rows=len(rows), reason=reason, logical_rows=self.logical)
            )
        for block, rows in arriving.items():
            self.resident |= rows
            self.bytes_in += len(rows) * self.host.block_bytes // self.size
            self.expected_events.append(
                BlockRecalled(block=block, rows=len(rows), reason=reason, logical_rows=self.logical)
            )
        self.evicted += len(leaving)
        self.recalled += len(arriving)

    # Operations.

    @rule(data=st.data(), stop=st.sampled_from(["commit"] * 5 + ["plan", "begin", "half", "written"]), fault=FAULTS)
    def append(self, data: st.DataObject, stop: str, fault: Fault | None) -> None:
        most = self.pager.max_append_rows
        rows = data.draw(st.one_of(st.integers(1, most + self.size + 1), st.just(most)), label="rows")
        order = data.draw(st.permutations(range(self.sealed + bool(self.logical % self.size))), label="order")
        if not self.make_room(rows, order, most=most, fault=fault) or stop == "plan":
            return
        sealing = (self.logical + rows) // self.size - self.sealed
        full = self.host_blocks is not None and self.sealed + sealing > self.host_blocks
        first_slot = self.pager.resident_rows
        began: list[int] = []
        if not self.attempt(
            lambda: began.append(self.pager.begin_append(rows)),
            fault=fault,
            error=HostTierFullError if full else None,
        ):
            return
        assert began == [first_slot]
        self.version += 1
        self.pending = Pending(rows=rows, version=self.version, written=False)
        if stop != "begin":
            self.write(layers=1 if stop == "half" else len(self.shape.layers), first_slot=first_slot)
        if stop == "commit":
            self.commit(fault=fault)

    @rule(blocks=st.integers(1, 4), more_rows=st.integers(0, 3))
    def go_on(self, blocks: int, more_rows: int) -> None:
        """Decode as long as the host tier can take it."""
        rows = blocks * self.size + more_rows
        if self.host_blocks is not None:
            rows = min(rows, (self.host_blocks + 1) * self.size - 1 - self.logical)
        self.decode(rows=rows)

    def decode(self, *, rows: int) -> None:
        for _ in range(rows):
            view = list(range(self.sealed + bool(self.logical % self.size)))
            assert self.make_room(1, view, most=self.pager.max_append_rows, fault=None)
            first_slot = self.pager.begin_append(1)
            self.version += 1
            self.pending = Pending(rows=1, version=self.version, written=False)
            self.write(layers=len(self.shape.layers), first_slot=first_slot)
            self.commit(fault=None, watched=False)

    def make_room(self, rows: int, order: list[int], *, most: int, fault: Fault | None) -> bool:
        after = self.logical + rows
        protected = [block for block in range(self.sealed) if self.protected(block, logical=after)]
        needed = len(protected) * self.size + self.logical % self.size + rows
        planned: list[Plan] = []

        def victims(view: ResidencyView) -> Iterable[BlockIndex]:
            assert len(view.blocks) == len(order)
            return (BlockIndex(block) for block in order)

        def plan() -> None:
            planned.append(self.pager.plan_room(rows, order=victims))

        if not self.attempt(plan, error=CapacityError if needed > self.capacity_rows else None):
            assert rows > most, "an append of max_append_rows was refused"
            return False
        (room,) = planned
        tail = {block for block in range(self.sealed) if block >= after // self.size - self.tail}
        missing = {block for block in tail if len(self.held(block)) < self.size}
        assert set(room.recall) == missing
        short_rows = len(self.resident) + rows - self.capacity_rows
        short_rows += sum(self.size - len(self.held(block)) for block in missing)
        willing = [block for block in order if block < self.sealed and block not in protected and self.held(block)]
        assert list(room.evict) == willing[: len(room.evict)], "victims were not taken in the given order"
        freed = [len(self.held(block)) for block in room.evict]
        assert sum(freed) >= short_rows
        assert sum(freed[:-1]) < max(short_rows, 1), "more was evicted than needed"
        return self.carry_out(room, fault=fault)

    def carry_out(self, plan: Plan, *, fault: Fault | None) -> bool:
        leaving = {int(block): self.held(block) for block in plan.evict}
        arriving = {int(block): self.rows_of(block) - self.resident for block in plan.recall}
        if not self.attempt(lambda: self.pager.apply(plan), fault=fault):
            return False
        if plan:
            self.moved(leaving, arriving, reason=plan.reason)
        return True

    def write(self, *, layers: int, first_slot: int) -> None:
        pending = self.pending
        assert pending is not None
        positions = range(self.logical, self.logical + pending.rows)
        versions = [pending.version] * pending.rows
        for ordinal in range(layers):
            keys, values = layer_rows(self.shape, ordinal, positions=positions, versions=versions, dtype=self.dtype)
            self.pager.arena.write(ordinal, first_slot, keys, values)
        pending.written = layers == len(self.shape.layers)

    def commit(self, *, fault: Fault | None, watched: bool = True) -> None:
        pending = self.pending
        assert pending is not None
        sealed_before = self.sealed
        if not watched:
            self.pager.commit_append()
        elif not self.attempt(self.pager.commit_append, fault=fault):
            return
        for position in range(self.logical, self.logical + pending.rows):
            self.versions[position] = pending.version
            self.resident.add(position)
        self.pending = None
        self.epoch += 1
        self.bytes_out += (self.sealed - sealed_before) * self.host.block_bytes
        self.expected_events += [
            BlockSealed(block=block, logical_rows=self.logical) for block in range(sealed_before, self.sealed)
        ]

    @precondition(lambda self: self.pending is not None and self.pending.written)
    @rule(fault=FAULTS)
    def commit_what_was_begun(self, fault: Fault | None) -> None:
        self.commit(fault=fault)

    @rule(number=st.integers(1, 3))
    def refuse_what_makes_no_sense(self, number: int) -> None:
        if self.pending is None:
            self.attempt(self.pager.commit_append, error=InternalError)
        too_many = self.capacity_rows - len(self.resident) + number
        for rows in (1 - number, too_many):
            self.attempt(lambda rows=rows: self.pager.begin_append(rows), error=CapacityError)
        for target in (self.logical + number, -number):
            self.attempt(lambda target=target: self.pager.crop(target), error=CapacityError)

    @precondition(lambda self: self.pending is not None)
    @rule()
    def abandon(self) -> None:
        self.pager.abandon_append()
        self.pending = None

    @precondition(lambda self: self.sealed > 0)
    @rule(data=st.data(), fault=FAULTS)
    def swap(self, data: st.DataObject, fault: Fault | None) -> None:
        """A plan that fits, or does not by the number of rows alone."""
        appending_rows = data.draw(st.integers(0, 2 * self.size), label="appending rows")
        after = self.logical + appending_rows
        victims = [b for b in range(self.sealed) if self.held(b) and not self.protected(b, logical=after)]
        away = [b for b in range(self.sealed) if len(self.held(b)) < self.size]
        evict = data.draw(st.lists(st.sampled_from(victims), unique=True) if victims else st.just([]), label="evict")
        away = [block for block in away if block not in evict]
        recall = data.draw(st.lists(st.sampled_from(away), unique=True) if away else st.just([]), label="recall")
        plan = Plan(
            epoch=self.pager.epoch,
            evict=tuple(map(BlockIndex, evict)),
            recall=tuple(map(BlockIndex, recall)),
            appending_rows=appending_rows,
            reason="drawn",
        )
        rows_after = len(self.resident) - sum(len(self.held(b)) for b in evict)
        rows_after += sum(self.size - len(self.held(b)) for b in recall)
        assert self.pager.resident_rows_after(plan) == rows_after
        if plan and rows_after + appending_rows > self.capacity_rows:
            self.attempt(lambda: self.pager.apply(plan), error=PlanError)
        else:
            self.carry_out(plan, fault=fault)

    @precondition(lambda self: self.sealed > 0)
    @rule(data=st.data(), fault=FAULTS)
    def fill_up(self, data: st.DataObject, fault: Fault | None) -> None:
        self.recall_all_that_fits(data, fault=fault)

    def recall_all_that_fits(self, data: st.DataObject, *, fault: Fault | None, below: int | None = None) -> None:
        blocks = range(self.sealed if below is None else below)
        away = [block for block in blocks if len(self.held(block)) < self.size]
        free_rows = self.capacity_rows - len(self.resident)
        recall: list[BlockIndex] = []
        for block in data.draw(st.permutations(away), label="recall"):
            if self.size - len(self.held(block)) <= free_rows:
                free_rows -= self.size - len(self.held(block))
                recall.append(BlockIndex(block))
        self.carry_out(Plan(epoch=self.pager.epoch, recall=tuple(recall), reason="fill"), fault=fault)

    @rule(data=st.data())
    def refuse_a_bad_plan(self, data: st.DataObject) -> None:
        epoch = self.pager.epoch
        resident = [b for b in range(self.sealed) if len(self.held(b)) == self.size]
        protected = [b for b in range(self.sealed + 1) if self.protected(b, logical=self.logical)]
        away = [b for b in range(self.sealed) if not self.held(b)]
        bad = [
            Plan(epoch=epoch + 1, evict=(BlockIndex(0),)),
            Plan(epoch=epoch - 1),
            Plan(epoch=epoch, evict=(BlockIndex(self.sealed),)),
            Plan(epoch=epoch, recall=(BlockIndex(self.sealed),)),
            Plan(epoch=epoch, recall=(BlockIndex(-1),)),
            *(Plan(epoch=epoch, recall=(BlockIndex(block),)) for block in resident),
            *(Plan(epoch=epoch, evict=(BlockIndex(block),)) for block in [*protected, *away]),
        ]
        plan = data.draw(st.sampled_from(bad), label="plan")
        self.attempt(lambda: self.pager.apply(plan), error=PlanError)

    def by_block(self, positions: Iterable[int]) -> dict[int, set[int]]:
        rows: dict[int, set[int]] = {}
        for position in sorted(positions):
            rows.setdefault(position // self.size, set()).add(position)
        return rows

    @precondition(lambda self: self.sealed > 0)
    @rule(data=st.data(), fault=FAULTS)
    def drop_rows(self, data: st.DataObject, fault: Fault | None) -> None:
        able = [p for p in self.resident if not self.protected(p // self.size, logical=self.logical)]
        rows = data.draw(st.lists(st.sampled_from(sorted(able)), unique=True) if able else st.just([]), label="rows")
        if self.attempt(lambda: self.pager.drop_rows(iter(rows), reason="r"), fault=fault) and rows:
            self.moved(self.by_block(rows), {}, reason="r")

    @precondition(lambda self: self.sealed > 0)
    @rule(data=st.data(), fault=FAULTS)
    def promote_rows(self, data: st.DataObject, fault: Fault | None) -> None:
        away = sorted(set(range(self.sealed * self.size)) - self.resident)
        rows = data.draw(st.lists(st.sampled_from(away), unique=True) if away else st.just([]), label="rows")
        if len(self.resident) + len(rows) > self.capacity_rows:
            self.attempt(lambda: self.pager.promote_rows(rows), error=PlanError)
        elif self.attempt(lambda: self.pager.promote_rows(rows, reason="r"), fault=fault) and rows:
            self.moved({}, self.by_block(rows), reason="r")

    @rule(data=st.data())
    def refuse_bad_rows(self, data: st.DataObject) -> None:
        everywhere = st.integers(-2, self.logical + self.size)
        position = data.draw(everywhere, label="position")
        sealed = 0 <= position < self.sealed * self.size
        able = sealed and not self.protected(position // self.size, logical=self.logical) and position in self.resident
        if not able:
            self.attempt(lambda: self.pager.drop_rows([position]), error=PlanError)
        if not sealed or position in self.resident:
            self.attempt(lambda: self.pager.promote_rows([position]), error=PlanError)
        self.attempt(lambda: self.pager.promote_rows([position, position]), error=PlanError)

    @precondition(lambda self: self.sealed > 0)
    @rule(data=st.data(), fault=FAULTS)
    def crop(self, data: st.DataObject, fault: Fault | None) -> None:
        head_start = self.sealed * self.size
        near = st.integers(max(0, head_start - 2 * self.size), self.logical)
        self.cut_back(data.draw(st.one_of(near, near, st.integers(0, self.logical)), label="target"), fault=fault)

    @precondition(lambda self: self.sealed > 2)
    @rule(data=st.data(), fault=FAULTS)
    def crop_a_full_arena(self, data: st.DataObject, fault: Fault | None) -> None:
        """Back among blocks that are away, fill the arena with others, and back again: rows return and find no room."""
        away = [block for block in range(1, self.sealed) if not self.held(block)] or [self.sealed - 1]
        block = data.draw(st.one_of(st.just(max(away)), st.sampled_from(away)), label="block")
        self.cut_back((block + 1) * self.size, fault=None)
        self.recall_all_that_fits(data, fault=None, below=block)
        self.cut_back(data.draw(st.integers(block * self.size, self.logical), label="target"), fault=fault)

    def cut_back(self, target: int, *, fault: Fault | None) -> None:
        head_start = self.sealed * self.size
        previous = self.logical
        first_dropped, kept_rows = divmod(target, self.size)
        leaving: dict[int, set[int]] = {}
        if target < head_start:
            staying = {p for p in self.resident if p < first_dropped * self.size}
            short_rows = len(staying) + kept_rows - self.capacity_rows
            for block in range(first_dropped):
                if short_rows > 0 and self.held(block) and not self.protected(block, logical=target):
                    leaving[block] = self.held(block)
                    short_rows -= len(leaving[block])
        if not self.attempt(lambda: self.pager.crop(target), fault=fault) or target == previous:
            return
        self.pending = None
        self.epoch += 1
        for block, rows in leaving.items():
            self.resident -= rows
            self.evicted += 1
            self.expected_events.append(
                BlockEvicted(block=block, rows=len(rows), reason="room for the cropped head", logical_rows=previous)
            )
        if target < head_start:
            self.bytes_in += kept_rows * self.host.block_bytes // self.size
        self.versions = {position: version for position, version in self.versions.items() if position < target}
        self.resident = {p for p in self.resident if p < target}
        self.resident |= set(range(target - kept_rows, target))
        self.expected_events.append(Cropped(previous_logical_rows=previous, logical_rows=target))

    @precondition(lambda self: self.logical > self.capacity_rows)
    @rule()
    def reset(self) -> None:
        self.forget_everything()

    # What must hold after every step.

    @invariant()
    def the_pager_finds_no_fault_with_itself(self) -> None:
        self.pager.check_invariants()
        self.host.check_invariants()

    @invariant()
    def resident_rows_are_the_models_each_in_one_slot(self) -> None:
        positions = self.pager.arena.positions
        assert len(positions) == len(set(positions)) <= self.capacity_rows
        assert set(positions) == self.resident
        head = list(range(self.sealed * self.size, self.logical))
        assert positions[len(positions) - len(head) :] == head
        for block in range(self.sealed + 1):
            slots = self.pager.resident_slots(block)
            assert [positions[slot] for slot in slots] == sorted(self.held(block))

    @invariant()
    def every_resident_row_has_its_own_bits(self) -> None:
        positions = self.pager.arena.positions
        versions = [self.versions[position] for position in positions]
        assert_rows_are(
            self.pager.arena, self.shape, slots=range(len(positions)), positions=positions, versions=versions
        )
        for plane in self.pager.arena.planes:
            assert not plane[:, :, : len(positions)].isnan().any()

    @invariant()
    def check_host_bytes(self) -> None:
        for block in range(self.sealed):
            versions = [self.versions[position] for position in sorted(self.rows_of(block))]
            assert_host_block_is(
                self.pager.arena,
                self.shape,
                self.pager.host_block(block),
                first=block * self.size,
                versions=versions,
            )

    @invariant()
    def nothing_is_lost_and_sinks_stay(self) -> None:
        view = self.pager.view()
        assert view.logical_rows == self.logical
        assert [block.resident_rows for block in view.blocks] == [len(self.held(b)) for b in range(len(view.blocks))]
        for block in view.blocks:
            assert block.residence is not Residence.LOST
            assert block.protected == self.protected(block.index, logical=self.logical)
            if block.index < self.sinks:
                assert block.residence is Residence.RESIDENT

    @invariant()
    def counters_and_events_tell_what_happened(self) -> None:
        assert self.events == self.expected_events
        counts = self.pager.statistics()
        assert (counts.epoch, counts.logical_rows, counts.resident_rows) == (
            self.epoch,
            self.logical,
            len(self.resident),
        )
        assert (counts.blocks_evicted, counts.blocks_recalled) == (self.evicted, self.recalled)
        assert (counts.bytes_out, counts.bytes_in) == (self.bytes_out, self.bytes_in)
        assert counts.host_only_blocks == sum(1 for block in range(self.sealed) if not self.held(block))
        pending_blocks = 0
        if self.pending is not None:
            pending_blocks = (self.logical + self.pending.rows) // self.size - self.sealed
        assert self.host.used_bytes == (self.sealed + pending_blocks) * self.host.block_bytes


TestPagerMachine = PagerMachine.TestCase
TestPagerMachine.settings = settings(stateful_step_count=30)
