from __future__ import annotations

import random
from collections.abc import Mapping, Sequence

import pytest
import torch

from pool_faults import Fault, Faults, FaultyTransfer
from pool_pagers import PagerUnderTest
from pool_rows import MIXED, UNIFORM, assert_rows_are, bits_of, layer_rows
from tenure.errors import CapacityError, InternalError, PoolSizeError, TransferError, UsageError
from tenure.pool import Arena, HostTier, Pager, layout_for
from tenure.pool.frames import BlockFrames, BlockRun
from tenure.pool.windows import ArenaWindow, FrameCopy, arrange, ordered_copies

SIZE = 4


class FailingMoves:
    """Breaks off copies between frames, from the n-th window rebase or plane copy on."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.faults = Faults()
        real = torch.Tensor.copy_

        def copy_(tensor: torch.Tensor, source: torch.Tensor, non_blocking: bool = False) -> torch.Tensor:
            if self.faults.due:
                tensor.fill_(float("nan"))
                self.faults.fail()
            return real(tensor, source, non_blocking)

        monkeypatch.setattr(torch.Tensor, "copy_", copy_)


def frames(
    blocks: int = 8, *, dtype: torch.dtype = torch.float32, faults: Faults | None = None, poisons: bool = False
) -> BlockFrames:
    return BlockFrames(
        layout_for(MIXED.geometry(dtype), block_size=SIZE),
        usable_blocks=blocks,
        dtype=dtype,
        device="cpu",
        transfer=None if faults is None else FaultyTransfer(faults),
        poison_released=poisons,
    )


def fill(run: BlockRun) -> None:
    """Rows of block `b` are those of positions from `100 * b` on."""
    for ordinal in range(len(MIXED.layers)):
        for index, block in enumerate(run.block_ids):
            positions = range(100 * block, 100 * block + SIZE)
            keys, values = layer_rows(MIXED, ordinal, positions=positions, versions=[1] * SIZE, dtype=run.window.dtype)
            run.window.write(ordinal, index * SIZE, keys, values)


def opened(made: BlockFrames, *ids: int) -> BlockRun:
    run = made.open_run(ids)
    fill(run)
    return run


def scattered(made: BlockFrames, *ids: int) -> None:
    """Idle blocks in these frames, from frame 0 on; an id below zero leaves its frame free."""
    run = opened(made, *ids)
    made.close_run(run)
    made.release([block for block in ids if block < 0])


def assert_holds(run: BlockRun) -> None:
    positions = [100 * block + row for block in run.block_ids for row in range(SIZE)]
    assert_rows_are(run.window, MIXED, slots=range(len(positions)), positions=positions, versions=[1] * len(positions))


def snapshot(made: BlockFrames, *ids: int) -> list[torch.Tensor]:
    return [bits_of(plane) for block in ids for plane in made.read_block(block)]


def assert_same(before: Sequence[torch.Tensor], after: Sequence[torch.Tensor]) -> None:
    assert len(before) == len(after)
    assert all(torch.equal(one, other) for one, other in zip(before, after, strict=True))


def hosts(made: BlockFrames) -> HostTier:
    return HostTier(made.layout, dtype=torch.float32)


def test_a_window_is_rows_of_its_base_and_no_memory_of_its_own() -> None:
    base = Arena(
        layout_for(MIXED.geometry(torch.float32), block_size=SIZE), capacity_rows=16, dtype=torch.float32, device="cpu"
    )
    window = ArenaWindow(base, first_row=4, capacity_rows=8)
    window.keys(0).fill_(3)
    assert base.keys(0)[0, 0, :, 0].tolist() == [0] * 4 + [3] * 8 + [0] * 4
    assert window.device_bytes == base.device_bytes // 2
    window.rebase(8)
    assert window.keys(0)[0, 0, :, 0].tolist() == [3] * 4 + [0] * 4
    with pytest.raises(InternalError, match="a window of 8 rows from row 9 on an arena of 16"):
        window.rebase(9)
    assert window.first_row == 8


def test_a_window_made_in_inference_mode_can_be_written_outside_it() -> None:
    made = frames()
    with torch.inference_mode():
        run = made.open_run([1, 2])
    fill(run)
    assert_holds(run)


def test_blocks_of_a_run_lie_side_by_side_in_the_order_asked_for() -> None:
    made = frames()
    made.close_run(opened(made, 1, 2, 3, 4))
    run = made.open_run([3, 1, 4, 2])
    assert_holds(run)
    assert run.window.capacity_rows == 16
    assert (made.used_blocks, made.free_blocks, made.usable_blocks) == (4, 4, 8)
    assert made.device_bytes == 8 * made.layout.bytes_per_block(torch.float32)
    made.check_invariants()


def test_a_run_that_is_reopened_with_room_behind_it_costs_no_copy() -> None:
    made = frames()
    made.close_run(opened(made, 1, 2, 3))
    run = made.open_run([1, 2, 3, 9])
    assert made.moved_blocks == 0
    fill(run)
    assert_holds(run)


def test_idle_blocks_behind_a_run_make_way_for_it() -> None:
    made = frames(6)
    scattered(made, 1, 2, 3, 7, -1, -2)
    run = made.open_run([1, 2, 3, 4])
    assert made.moved_blocks == 1
    assert run.window.first_row == 0
    fill(run)
    assert_holds(run)
    assert_holds(made.open_run([7]))


def test_the_window_with_the_fewest_copies_is_taken() -> None:
    made = frames(10)
    scattered(made, 1, 7, 8, 9, 2, 3, 4, -1, -2, -3)
    run = made.open_run([1, 2, 3, 4])
    assert made.moved_blocks == 2  # 1 joins the three others, and 9 makes way for it
    assert run.window.first_row == 3 * SIZE
    assert_holds(run)
    assert_holds(made.open_run([7, 8]))
    assert_holds(made.open_run([9]))


def test_open_runs_make_way_where_the_free_frames_are_scattered_and_their_windows_follow() -> None:
    made = frames(9)
    scattered(made, 1, -1, 2, -2, -3, 3, 4, -4, 5)
    runs = [made.open_run(ids) for ids in ([1], [2], [3, 4], [5])]
    assert made.moved_blocks == 0
    big = opened(made, 11, 12, 13, 14)
    assert made.free_blocks == 0
    made.check_invariants()
    for run in [*runs, big]:
        assert_holds(run)
    assert made.moved_blocks > 0


def test_no_run_moves_where_the_window_fits_between_them() -> None:
    made = frames(8)
    scattered(made, 1, -1, -2, 2, 5, 6, 7, 3)
    runs = [made.open_run([block]) for block in (1, 2, 3)]
    rows = [run.window.first_row for run in runs]
    opened(made, 11, 12)
    big = made.open_run([5, 7, 6])
    assert [run.window.first_row for run in runs] == rows
    assert_holds(big)


def test_a_full_memory_can_be_opened_in_any_order() -> None:
    made = frames(12)
    made.close_run(opened(made, *range(12)))
    order = list(range(12))
    for seed in range(20):
        random.Random(seed).shuffle(order)
        run = made.open_run(order)
        assert_holds(run)
        made.check_invariants()
        made.close_run(run)


def test_too_many_new_blocks_are_refused_with_numbers_and_nothing_is_changed() -> None:
    made = frames(4)
    made.close_run(opened(made, 1, 2))
    with pytest.raises(CapacityError, match="a run of 4 blocks needs 3 more frames, but 2 of 4 are used and 2 free"):
        made.open_run([1, 5, 6, 7])
    assert made.used_blocks == 2
    assert_holds(made.open_run([1, 2]))


def test_a_block_is_in_one_open_run_at_most() -> None:
    made = frames()
    opened(made, 1, 2)
    for ids, message in (([2, 3], r"blocks \[2\] are in an open run"), ([4, 4], "none twice"), ([], "at least one")):
        with pytest.raises(UsageError, match=message):
            made.open_run(ids)
    assert made.used_blocks == 2
    made.check_invariants()


def test_a_closed_run_has_no_rows_that_anybody_could_reach() -> None:
    made = frames()
    run = opened(made, 1, 2)
    window = run.window
    before = snapshot(made, 1, 2)
    made.close_run(run)
    assert run.closed
    with pytest.raises(UsageError, match="this run of 2 blocks was closed"):
        _ = run.window
    with pytest.raises(UsageError, match="closed twice"):
        made.close_run(run)
    with pytest.raises(RuntimeError):
        window.write(0, 0, torch.ones(1, 2, 1, 2), torch.ones(1, 2, 1, 3))
    assert window.device_bytes == 0
    assert_same(before, snapshot(made, 1, 2))


def test_a_run_of_other_frames_is_refused() -> None:
    made = frames()
    run = opened(frames(), 1)
    with pytest.raises(UsageError, match="belongs to other frames"):
        made.close_run(run)
    assert not run.closed


def test_released_blocks_are_filled_with_nan_when_asked_and_so_is_what_moves_leave() -> None:
    made = frames(5, poisons=True)
    scattered(made, 1, -1, 2, 3, -2)
    made.release([3])
    made.close_run(made.open_run([2, 1]))
    held = torch.zeros(5 * SIZE, dtype=torch.bool)
    for plane in made._arena.planes:
        dead = plane.isnan().all(dim=3).all(dim=1).all(dim=0)
        held |= ~dead
        assert not plane[:, :, ~dead].isnan().any()
    assert held.sum() == 2 * SIZE
    assert_holds(made.open_run([2, 1]))


@pytest.mark.parametrize(("ids", "message"), [([1], "of which"), ([9], "block 9 has no frame"), ([3, 3], "released")])
def test_what_cannot_be_released_is_refused_and_nothing_is_changed(ids: list[int], message: str) -> None:
    made = frames()
    run = opened(made, 1, 2)
    made.close_run(opened(made, 3))
    with pytest.raises(InternalError, match=message):
        made.release([3, *ids] if ids != [3, 3] else ids)
    assert made.used_blocks == 3
    assert_holds(run)
    assert_holds(made.open_run([3]))


def test_a_copied_block_has_all_rows_of_its_source_also_a_new_one() -> None:
    made = frames(4)
    made.close_run(opened(made, 1, 2))
    made.copy_block(1, 2)
    made.copy_block(1, 7)
    made.copy_block(1, 1)
    assert_same(snapshot(made, 1, 1), snapshot(made, 2, 7))
    made.copy_block(1, 8)
    with pytest.raises(CapacityError, match="block 9 needs a frame, but all 4 are used"):
        made.copy_block(1, 9)
    with pytest.raises(InternalError, match="block 5 has no frame"):
        made.copy_block(5, 1)


def test_a_block_comes_back_from_the_host_bit_for_bit_under_any_name() -> None:
    made = frames()
    host = hosts(made).allocate()
    made.close_run(opened(made, 1, 2))
    before = snapshot(made, 2)
    made.page_out(2, host)
    made.release([2])
    made.page_in(host, 5)
    made.page_in(host, 1)
    assert_same([*before, *before], snapshot(made, 5, 1))
    run = made.open_run([8, 9])
    made.page_in(host, 9)
    assert_same(before, snapshot(made, 9))
    assert torch.equal(run.window.keys(0)[:, :, SIZE:], made.read_block(9)[0][0].unsqueeze(0))


def test_a_block_pages_in_only_where_a_frame_is_free() -> None:
    made = frames(1)
    host = hosts(made).allocate()
    made.page_in(host, 1)
    with pytest.raises(CapacityError, match="block 2 needs a frame"):
        made.page_in(host, 2)
    with pytest.raises(InternalError, match="block 2 has no frame"):
        made.page_out(2, host)


@pytest.mark.parametrize("error", [OSError, KeyboardInterrupt])
def test_a_failing_page_in_or_page_out_changes_no_mapping(error: type[BaseException]) -> None:
    faults = Faults()
    made = frames(faults=faults, poisons=True)
    host = hosts(made).allocate()
    made.close_run(opened(made, 1, 2))
    made.page_out(1, host)
    before = snapshot(made, 1, 2)
    for copy in (0, 1):  # the wait before it, and the copy itself
        faults.arm(Fault(copy=copy, error=error))
        with pytest.raises(error):
            made.page_in(host, 7)
    faults.arm(Fault(copy=0, error=error))
    with pytest.raises(error):
        made.page_out(2, host)
    faults.arm(Fault(copy=0, error=error))
    with pytest.raises(error):
        made.release([1])
    faults.arm(None)
    assert made.used_blocks == 2
    assert all(plane[:, :, -SIZE:].isnan().all() for plane in made._arena.planes)
    assert_same(before, snapshot(made, 1, 2))
    made.check_invariants()


@pytest.mark.parametrize("error", [OSError, KeyboardInterrupt])
def test_a_move_that_breaks_off_is_undone_wherever_it_does(
    monkeypatch: pytest.MonkeyPatch, error: type[BaseException]
) -> None:
    made = frames(7)
    scattered(made, 1, -1, 2, 3, -2, 4, 5)
    middle = made.open_run([2, 3])
    failing = FailingMoves(monkeypatch)
    before = snapshot(made, 1, 2, 3, 4, 5)
    copy = 0
    while True:
        failing.faults.arm(Fault(copy=copy, error=error))
        try:
            run = made.open_run([5, 9, 1, 8, 4])
        except (TransferError, KeyboardInterrupt):
            failing.faults.arm(None)
        else:
            failing.faults.arm(None)
            break
        assert made.moved_blocks == 0
        assert made.used_blocks == 5
        made.check_invariants()
        assert_same(before, snapshot(made, 1, 2, 3, 4, 5))
        assert_holds(middle)
        copy += 1
    assert copy > 6
    assert run.block_ids == (5, 9, 1, 8, 4)
    assert_same(before, snapshot(made, 1, 2, 3, 4, 5))


@pytest.mark.parametrize("change", ["open", "grow"])
def test_windows_that_were_moved_before_an_interrupt_are_moved_back(
    monkeypatch: pytest.MonkeyPatch, change: str
) -> None:
    made = frames(9)
    scattered(made, 1, -1, 2, -2, 3, -3, 4, -4, 5)
    runs = [made.open_run([block]) for block in range(1, 6)]
    faults, real = Faults(), ArenaWindow.rebase

    def rebase(window: ArenaWindow, first_row: int, *, base: Arena | None = None) -> None:
        real(window, first_row, base=base)
        if faults.due:
            faults.fail()

    monkeypatch.setattr(ArenaWindow, "rebase", rebase)
    for copy in range(5):
        faults.arm(Fault(copy=copy, error=KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            made.open_run([11, 12, 13]) if change == "open" else made.grow(1)
        faults.arm(None)
        made.check_invariants()
        assert (made.used_blocks, made.usable_blocks) == (5, 9)
        for run in runs:
            assert_holds(run)


def test_copies_out_are_waited_for_before_any_row_can_be_written() -> None:
    made = frames(4)
    waits: list[int] = []
    made.transfer.before_overwrite = lambda: waits.append(1)  # type: ignore[method-assign]
    made.close_run(opened(made, 1, 2))
    made.copy_block(1, 3)
    made.page_in(hosts(made).allocate(), 3)
    made.release([3])
    made.grow(1)
    assert len(waits) == 5


def test_frames_whose_moves_could_not_be_undone_refuse_every_change(monkeypatch: pytest.MonkeyPatch) -> None:
    made = frames(7)
    scattered(made, 1, -1, 2, 3)
    failing = FailingMoves(monkeypatch)
    failing.faults.arm(Fault(copy=3, lasting=True))
    with pytest.raises(InternalError, match="undoing it failed too"):
        made.open_run([3, 1, 2])
    failing.faults.arm(None)
    for change in (lambda: made.open_run([1]), lambda: made.release([1]), lambda: made.grow(1)):
        with pytest.raises(InternalError, match="can no longer be used"):
            change()


def test_growing_keeps_every_byte_and_every_window() -> None:
    made = frames(3)
    run = opened(made, 1, 2)
    made.close_run(opened(made, 3))
    made.grow(2)
    assert (made.usable_blocks, made.free_blocks) == (5, 2)
    assert made.device_bytes == 5 * made.layout.bytes_per_block(torch.float32)
    made.check_invariants()
    assert_holds(run)
    assert_holds(made.open_run([3]))
    fill(run)
    opened(made, 4, 5)
    assert_holds(run)


@pytest.mark.parametrize(("blocks", "message"), [(0, r"grow\(0\) adds no block"), (2**50, "cpu gave no")])
def test_a_growth_that_cannot_be_changes_nothing(blocks: int, message: str) -> None:
    made = frames(3)
    run = opened(made, 1, 2)
    with pytest.raises(PoolSizeError, match=message):
        made.grow(blocks)
    assert made.usable_blocks == 3
    assert_holds(run)


def test_frames_below_one_are_refused() -> None:
    with pytest.raises(PoolSizeError, match="usable_blocks is 0"):
        frames(0)


def drive(pager: PagerUnderTest, *, between: Sequence[object]) -> list[tuple[list[int], list[torch.Tensor]]]:
    """Appends, evictions, recalls and crops, with something done between any two; what is resident after each."""
    steps = [
        lambda: pager.append(6),
        lambda: pager.append(9, version=2),
        lambda: pager.append(8, version=3),
        lambda: pager.pager.promote_rows([5]),
        lambda: pager.crop(19),
        lambda: pager.append(4, version=4),
        lambda: pager.crop(9),
        lambda: pager.append(11, version=5),
    ]
    seen = []
    for index, step in enumerate(steps):
        step()
        disturb = between[index % len(between)] if between else None
        if callable(disturb):
            disturb()
        pager.check()
        rows = pager.pager.resident_rows
        planes = [bits_of(plane[:, :, :rows]).clone() for plane in pager.pager.arena.planes]
        seen.append((list(pager.pager.arena.positions), planes))
    return seen


def pager_on(arena: Arena) -> PagerUnderTest:
    host = HostTier(arena.layout, dtype=arena.dtype)
    return PagerUnderTest(
        pager=Pager(arena, host, sink_blocks=1, tail_blocks=1, poison_dead_rows=True), shape=UNIFORM, faults=Faults()
    )


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_pager_on_a_window_that_is_moved_about_holds_the_bytes_that_it_would_hold_on_its_own_arena(
    dtype: torch.dtype,
) -> None:
    layout = layout_for(UNIFORM.geometry(dtype), block_size=SIZE)
    alone = drive(pager_on(Arena(layout, capacity_rows=5 * SIZE, dtype=dtype, device="cpu")), between=[])
    made = BlockFrames(layout, usable_blocks=12, dtype=dtype, device="cpu", poison_released=True)
    made.close_run(made.open_run([1]))
    run = made.open_run(range(10, 15))
    starts = {run.window.first_row}
    open_runs: list[BlockRun] = []

    def crowd() -> None:
        """Fill all frames but those of the run with one other run: it moves to one end or stays there."""
        for other in open_runs:
            made.close_run(other)
            made.release(other.block_ids)
        open_runs[:] = [made.open_run(range(20, 20 + made.free_blocks))]
        starts.add(run.window.first_row)

    def scatter() -> None:
        """Leave frames free on both sides, none of them wide enough."""
        for other in open_runs:
            made.close_run(other)
        ids = [block for other in open_runs for block in other.block_ids]
        made.release(ids[::2])
        open_runs[:] = [made.open_run([block]) for block in ids[1::2]]
        open_runs.append(made.open_run([40, 41]))
        starts.add(run.window.first_row)

    def widen() -> None:
        made.grow(1)
        starts.add(run.window.first_row)

    together = drive(pager_on(run.window), between=[crowd, scatter, widen])
    made.check_invariants()
    assert len(starts) > 1
    for (positions, planes), (expected_positions, expected) in zip(together, alone, strict=True):
        assert positions == expected_positions
        assert_same(expected, planes)


def test_an_append_that_was_begun_before_the_window_was_moved_ends_where_it_should() -> None:
    layout = layout_for(UNIFORM.geometry(torch.float32), block_size=SIZE)
    made = BlockFrames(layout, usable_blocks=10, dtype=torch.float32, device="cpu", poison_released=True)
    made.close_run(made.open_run([1]))
    run = made.open_run(range(10, 15))
    pager = pager_on(run.window)
    pager.append(7)
    slot, before = pager.pager.begin_append(6), run.window.first_row
    made.open_run(range(20, 24))
    assert run.window.first_row != before
    pager.write(slot, 6)
    pager.pager.commit_append()
    pager.versions += [1] * 6
    pager.check()


def test_a_pager_that_is_closed_after_its_run_leaves_the_blocks_as_they_are() -> None:
    layout = layout_for(UNIFORM.geometry(torch.float32), block_size=SIZE)
    made = BlockFrames(layout, usable_blocks=5, dtype=torch.float32, device="cpu")
    run = made.open_run(range(5))
    pager = pager_on(run.window)
    pager.append(10)
    before = snapshot(made, 0, 1, 2)
    made.close_run(run)
    pager.pager.close()
    assert_same(before, snapshot(made, 0, 1, 2))


def carried_out(moves: Mapping[int, int], *, total: int) -> tuple[list[int], list[FrameCopy]]:
    """What is in each frame after the copies, each of which must neither overlap itself nor write what is still needed."""
    parking = total + 1
    memory = [*range(total), *[-1] * (parking + 4 - total)]
    copies = ordered_copies(moves, parking=parking)
    for copy in copies:
        assert abs(copy.source - copy.target) >= copy.frames
        memory[copy.target : copy.target + copy.frames] = memory[copy.source : copy.source + copy.frames]
    return memory[:total], copies


@pytest.mark.parametrize("shift", [1, 3, 7, -1, -2, -5])
def test_a_slide_over_itself_takes_copies_of_as_many_frames_as_it_slides(shift: int) -> None:
    moves = {frame: frame + shift for frame in range(8, 18)}
    memory, copies = carried_out(moves, total=30)
    assert memory[8 + shift : 18 + shift] == list(range(8, 18))
    assert len(copies) == -(-10 // abs(shift))
    assert all(copy.target < 30 for copy in copies)


def test_blocks_that_go_round_in_a_circle_are_parked_a_few_at_a_time() -> None:
    swap = {frame: (frame + 6) % 12 for frame in range(12)}
    memory, copies = carried_out(swap, total=12)
    assert memory == [*range(6, 12), *range(6)]
    assert len(copies) == 6  # four and then two are parked, their places filled and their blocks brought back
    assert max(copy.frames for copy in copies) == 4


def test_any_moves_end_where_they_should() -> None:
    for seed in range(300):
        chance = random.Random(seed)
        total = chance.randint(1, 12)
        count = chance.randint(0, total)
        moves = dict(zip(chance.sample(range(total), count), chance.sample(range(total), count), strict=True))
        moves = {source: target for source, target in moves.items() if source != target}
        memory, _ = carried_out(moves, total=total)
        assert all(memory[target] == source for source, target in moves.items())


def test_displaced_blocks_go_to_free_frames_before_they_go_where_others_leave() -> None:
    # The block at frame 4 goes to frame 1; whoever is at 1 could swap places with it, or go to the free frame 3.
    found = arrange([0, 4, 2], idle=[False, True, False, False, False], runs=[])
    assert (found.start, dict(found.moves)) == (0, {4: 1, 1: 3})


def cheapest(wanted: Sequence[int | None], idle: Sequence[bool], runs: Sequence[tuple[int, int]]) -> int | None:
    """Fewest copies of a window between the runs, by trying all."""
    closed = {frame for first, frames in runs for frame in range(first, first + frames)}
    costs = []
    for start in range(len(idle) - len(wanted) + 1):
        window = range(start, start + len(wanted))
        if closed.isdisjoint(window):
            moving = sum(1 for i, frame in enumerate(wanted) if frame not in (None, start + i))
            costs.append(moving + sum(idle[frame] for frame in window))
    return min(costs, default=None)


def test_a_place_is_found_whenever_there_is_one_and_it_is_the_cheapest_between_the_runs() -> None:
    pushed = 0
    for seed in range(600):
        chance = random.Random(seed)
        total = chance.randint(1, 14)
        kinds = [chance.choice("..iiwr") for _ in range(total)]
        runs = [(frame, 1) for frame in range(total) if kinds[frame] == "r"]
        existing = [frame for frame in range(total) if kinds[frame] == "w"]
        chance.shuffle(existing)
        wanted: list[int | None] = [*existing, *[None] * chance.randint(0, kinds.count("."))]
        chance.shuffle(wanted)
        if not wanted:
            continue
        idle = [kind == "i" for kind in kinds]
        found = arrange(wanted, idle=idle, runs=runs)
        expected = cheapest(wanted, idle, runs)
        assert len(set(found.moves.values())) == len(found.moves)
        staying = {frame for frame in range(total) if kinds[frame] != "."} - found.moves.keys()
        assert staying.isdisjoint(found.moves.values())
        assert all(0 <= target < total for target in found.moves.values())
        ends = [None if frame is None else found.moves.get(frame, frame) - index for index, frame in enumerate(wanted)]
        assert {end for end in ends if end is not None} <= {found.start}
        if expected is None:
            pushed += 1
        else:
            assert len(found.moves) == expected
    assert pushed > 20
