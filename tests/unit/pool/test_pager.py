"""The pager's refusals word by word, and the failures that the state machine is unlikely to meet often."""

from __future__ import annotations

import re

import pytest
import torch

from pool_faults import Fault
from pool_pagers import PagerUnderTest, small_pager
from tenure.errors import (
    CapacityError,
    HostTierFullError,
    InternalError,
    PlanError,
    PoolSizeError,
    TransferError,
    UsageError,
)
from tenure.kv.residency import BlockIndex, Plan
from tenure.pool import BlockEvicted, BlockRecalled, BlockSealed, Cropped, PoolEvent


def plan(tested: PagerUnderTest, *, evict: tuple[int, ...] = (), recall: tuple[int, ...] = ()) -> Plan:
    return Plan(epoch=tested.pager.epoch, evict=tuple(map(BlockIndex, evict)), recall=tuple(map(BlockIndex, recall)))


def filled(rows: int = 24, **options: object) -> PagerUnderTest:
    """Six blocks' worth of rows in a pool of four blocks, unless told otherwise."""
    tested = small_pager(**options)  # type: ignore[arg-type]
    for _ in range(rows):
        tested.append(1)
    return tested


# What construction refuses.


@pytest.mark.parametrize("blocks", [0, 1, 3])
def test_an_arena_below_the_minimum_is_refused_with_the_minimum(blocks: int) -> None:
    with pytest.raises(PoolSizeError, match=rf"a pool of {blocks * 4} rows .* at least 16 rows \(1 sink, 1 tail"):
        small_pager(blocks=blocks)


def test_an_arena_of_the_minimum_makes_progress_for_ever() -> None:
    tested = filled(200)
    assert tested.pager.resident_rows <= 16
    tested.check()


@pytest.mark.parametrize("name", ["sink_blocks", "tail_blocks"])
def test_a_negative_protection_is_refused(name: str) -> None:
    with pytest.raises(PoolSizeError, match=rf"{name}=-1.* must be 0 or more"):
        small_pager(**{name: -1})  # type: ignore[arg-type]


# Every message: what happened, what was expected, what to do.


def test_a_plan_for_another_epoch_is_refused_with_both_epochs() -> None:
    tested = filled()
    stale = Plan(epoch=tested.pager.epoch - 1)
    with pytest.raises(PlanError, match=r"made for epoch \d+, the pool is at epoch \d+; plan again from view\(\)"):
        tested.pager.apply(stale)


@pytest.mark.parametrize("block", [0, 4, 5])
def test_a_protected_block_is_never_a_victim(block: int) -> None:
    tested = filled(25, tail_blocks=2, blocks=5)
    with pytest.raises(PlanError, match=f"block {block} is a sink, in the tail window or the head, and is never a"):
        tested.pager.apply(plan(tested, evict=(block,)))


def test_a_block_that_is_away_cannot_be_evicted_and_one_that_is_here_cannot_be_recalled() -> None:
    tested = filled()
    away = next(block for block in range(6) if not tested.resident(block))
    with pytest.raises(PlanError, match=f"block {away} has no resident row to evict"):
        tested.pager.apply(plan(tested, evict=(away,)))
    with pytest.raises(PlanError, match="block 0 is resident already"):
        tested.pager.apply(plan(tested, recall=(0,)))


@pytest.mark.parametrize("block", [-1, 6, 99])
def test_a_block_that_does_not_exist_is_named_with_how_many_there_are(block: int) -> None:
    tested = filled()
    unknown = rf"block {block} is not a sealed block of this sequence, which has 6"
    for call in (
        lambda: tested.pager.apply(plan(tested, evict=(block,))),
        lambda: tested.pager.apply(plan(tested, recall=(block,))),
        lambda: tested.pager.resident_rows_after(plan(tested, recall=(block,))),
        lambda: tested.pager.host_block(block),
        lambda: tested.pager.promote_rows([block * 4]),
    ):
        with pytest.raises(PlanError, match=unknown):
            call()


def test_slots_of_a_block_beyond_the_head_are_refused_not_guessed() -> None:
    tested = filled(25)
    assert len(tested.pager.resident_slots(6)) == 1
    for block in (7, -1):
        with pytest.raises(PlanError, match=f"block {block} is not"):
            tested.pager.resident_slots(block)


def test_a_recall_that_does_not_fit_says_how_many_rows_there_would_be() -> None:
    tested = filled()
    away = tuple(block for block in range(6) if not tested.resident(block))
    with pytest.raises(PlanError, match=r"24 rows would be resident in an arena of 16 .*evict more or recall less"):
        tested.pager.apply(plan(tested, recall=away))


def test_a_plan_that_does_not_make_the_room_it_says_is_refused() -> None:
    tested = filled()
    recalled = next(block for block in range(6) if not tested.resident(block))
    lying = Plan(epoch=tested.pager.epoch, evict=(BlockIndex(4),), recall=(BlockIndex(recalled),), appending_rows=8)
    with pytest.raises(PlanError, match="with 8 more to be appended"):
        tested.pager.apply(lying)


def test_an_append_that_can_never_fit_says_how_many_rows_can() -> None:
    tested = filled()
    with pytest.raises(CapacityError, match=r"13 rows cannot be appended: the pool holds 16 rows.*at most 4 rows"):
        tested.pager.plan_room(13)
    with pytest.raises(CapacityError, match="room for -1 rows was asked for; expected 0 or more"):
        tested.pager.plan_room(-1)


def test_an_append_without_room_says_what_to_call_first() -> None:
    tested = filled(16)
    with pytest.raises(CapacityError, match=r"3 rows do not fit behind 16 resident rows .*apply plan_room\(3\) first"):
        tested.pager.begin_append(3)
    with pytest.raises(CapacityError, match="an append of 0 rows was asked for; at least 1"):
        tested.pager.begin_append(0)


def test_a_crop_outside_the_sequence_says_how_long_it_is() -> None:
    tested = filled(10)
    for target in (-1, 11):
        with pytest.raises(CapacityError, match=f"cannot crop to {target} rows: the sequence has 10; expected 0"):
            tested.pager.crop(target)


def test_rows_that_cannot_be_dropped_or_promoted_are_named() -> None:
    tested = filled(24, blocks=5)
    free = next(block for block in range(1, 4) if tested.resident(block))
    first = free * 4
    tested.pager.drop_rows([first + 1])
    with pytest.raises(PlanError, match=rf"offset \[1\] of block {free} are not resident"):
        tested.pager.drop_rows([first, first + 1])
    with pytest.raises(PlanError, match=rf"offset \[0, 2\] of block {free} are resident already"):
        tested.pager.promote_rows([first, first + 1, first + 2])
    with pytest.raises(PlanError, match="position 5 is named twice"):
        tested.pager.promote_rows([5, 5])
    with pytest.raises(PlanError, match="rows of block 0 cannot be dropped: it is a sink"):
        tested.pager.drop_rows([0])
    tested.check()


def test_a_victim_order_that_names_an_unknown_block_is_refused() -> None:
    tested = filled(16)
    for unknown in (-1, 99):
        with pytest.raises(PlanError, match=rf"names block {unknown}; the sequence has blocks 0 to 3"):
            tested.pager.plan_room(1, order=lambda _, unknown=unknown: [BlockIndex(unknown)])


def test_a_victim_order_may_name_a_block_twice_and_frees_it_once() -> None:
    tested = filled(20, blocks=5)
    room = tested.pager.plan_room(5, order=lambda _: [BlockIndex(b) for b in (2, 2, 0, 1, 3)])
    assert room.evict == (2, 1)


# All or nothing.


def test_a_refused_begin_keeps_the_append_that_was_begun() -> None:
    tested = small_pager(blocks=4, host_blocks=1)
    slot = tested.pager.begin_append(4)
    tested.write(slot, 4)
    for rows, error in ((0, CapacityError), (17, CapacityError), (8, HostTierFullError)):
        with pytest.raises(error):
            tested.pager.begin_append(rows)
    tested.pager.commit_append()
    tested.versions = [1] * 4
    tested.check()


def test_beginning_again_reuses_the_host_blocks_of_the_abandoned_append() -> None:
    tested = small_pager(blocks=4, host_blocks=1)
    tested.pager.begin_append(4)
    tested.append(4)
    assert tested.pager.host.statistics().used_blocks == 1
    tested.check()


def test_an_append_waits_for_no_copy() -> None:
    tested = small_pager()
    tested.faults.arm(Fault(copy=0))
    tested.pager.begin_append(9)
    assert not tested.faults.fired


@pytest.mark.parametrize("error", [OSError, KeyboardInterrupt])
@pytest.mark.parametrize("copy", range(6))
def test_a_swap_that_fails_at_any_copy_leaves_every_row_where_it_was(copy: int, error: type[BaseException]) -> None:
    tested = filled(26, blocks=5)
    away = next(block for block in range(6) if not tested.resident(block))
    here = [block for block in range(1, 5) if tested.resident(block)]
    positions, epoch = list(tested.pager.arena.positions), tested.pager.epoch
    tested.faults.arm(Fault(copy=copy, error=error))
    swap = plan(tested, evict=tuple(here), recall=(away,))
    try:
        tested.pager.apply(swap)
    except (TransferError, KeyboardInterrupt):
        assert (tested.pager.arena.positions, tested.pager.epoch) == (positions, epoch)
    else:
        assert not tested.faults.fired
    tested.check()


def test_a_move_that_stops_between_two_layers_destroys_no_row() -> None:
    # Undoing by copying backwards would write the evicted block's rows over live ones in the layers not yet moved.
    tested = filled(20, blocks=5)
    tested.faults.arm(Fault(copy=1, error=KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        tested.pager.apply(plan(tested, evict=(1,)))
    assert tested.faults.fired
    tested.check()


@pytest.mark.parametrize("target", [5, 8, 11])
@pytest.mark.parametrize("copy", range(4))
def test_a_crop_that_fails_at_any_copy_leaves_every_row_where_it_was(copy: int, target: int) -> None:
    tested = filled(26, blocks=5)
    tested.faults.arm(Fault(copy=copy))
    message = ""
    try:
        tested.pager.crop(target)
    except TransferError as error:
        message = str(error)
    if tested.faults.fired:
        assert re.search(rf"cropping to {target} rows failed .*still has 26 rows", message)
    else:
        del tested.versions[target:]
    tested.check()


def test_a_run_that_could_not_be_put_back_is_refused_until_reset() -> None:
    tested = filled(24)
    away = next(block for block in range(6) if not tested.resident(block))
    tested.faults.arm(Fault(copy=1, lasting=True))
    with pytest.raises(InternalError, match=r"undoing it failed too.*host copies are intact"):
        tested.pager.apply(plan(tested, evict=(3,) if tested.resident(3) else (4,), recall=(away,)))
    tested.faults.arm(None)
    with pytest.raises(InternalError, match="can no longer be used until reset"):
        tested.pager.begin_append(1)
    tested.pager.reset()
    tested.versions = []
    tested.append(6, version=2)
    tested.check()


def test_a_failed_write_through_discards_the_append_and_its_host_blocks() -> None:
    tested = filled(6)
    tested.write(tested.pager.begin_append(6), 6)
    tested.faults.arm(Fault(copy=1))
    with pytest.raises(
        TransferError, match=r"the 6 appended row\(s\) were discarded and the sequence is back at 6 rows"
    ):
        tested.pager.commit_append()
    assert tested.pager.host.statistics().used_blocks == 1
    tested.check()
    tested.append(6)
    tested.check()


def test_nothing_to_drop_or_promote_changes_nothing() -> None:
    tested = filled(20)
    epoch = tested.pager.epoch
    tested.pager.drop_rows([])
    tested.pager.promote_rows(iter(()))
    assert tested.pager.epoch == epoch


# Crops.


def test_a_crop_whose_rows_find_no_room_evicts_the_oldest_unprotected_blocks() -> None:
    tested = filled(40, blocks=5, tail_blocks=2)
    tested.crop(24)
    tested.pager.apply(plan(tested, recall=(1, 2, 3, 4)))
    assert tested.pager.resident_rows == tested.pager.arena.capacity_rows
    tested.events.clear()
    tested.crop(23)
    tested.check()
    assert tested.events == [
        BlockEvicted(block=1, rows=4, reason="room for the cropped head", logical_rows=24),
        Cropped(previous_logical_rows=24, logical_rows=23),
    ]


def test_a_crop_into_an_evicted_block_brings_its_first_rows_back_from_the_host() -> None:
    tested = filled(40)
    assert tested.resident(3) == 0
    tested.crop(14)
    assert tested.resident(3) == 2
    assert tested.pager.arena.positions[-2:] == [12, 13]
    tested.check()
    tested.append(3, version=7)
    tested.check()


def test_a_crop_gives_host_blocks_back_and_they_are_reused() -> None:
    tested = filled(40)
    tested.crop(9)
    assert tested.pager.host.statistics().used_blocks == 2
    held = tested.pager.host.statistics().allocated_bytes
    for _ in range(30):
        tested.append(1, version=2)
    assert tested.pager.host.statistics().allocated_bytes == held
    tested.check()


# Events.


def test_events_tell_every_change_in_order() -> None:
    tested = filled(16)
    tested.events.clear()
    tested.append(1)
    tested.pager.apply(plan(tested, evict=(2,), recall=(1,)))
    tested.pager.reset()
    assert tested.events == [
        BlockEvicted(block=1, rows=4, reason="room for 1 row(s)", logical_rows=16),
        BlockEvicted(block=2, rows=4, reason="", logical_rows=17),
        BlockRecalled(block=1, rows=4, reason="", logical_rows=17),
        Cropped(previous_logical_rows=17, logical_rows=0),
    ]


def test_a_listener_that_raises_still_hears_every_event_and_the_change_stands() -> None:
    heard: list[PoolEvent] = []

    def complain(event: PoolEvent) -> None:
        heard.append(event)
        raise LookupError(f"no place for {event}")

    tested = small_pager(listener=complain)
    tested.write(tested.pager.begin_append(9), 9)
    with pytest.raises(LookupError, match="block=0"):
        tested.pager.commit_append()
    assert heard == [BlockSealed(block=0, logical_rows=9), BlockSealed(block=1, logical_rows=9)]
    tested.versions = [1] * 9
    tested.check()


def test_a_listener_may_ask_and_change_the_pager_that_calls_it() -> None:
    tested = small_pager(blocks=5)
    tested.pager.listener = lambda event: (
        tested.pager.drop_rows([4]) if isinstance(event, BlockSealed) and event.block == 3 else None
    )
    tested.append(16)
    assert 4 not in tested.pager.arena.positions
    tested.check()


# The end.


def test_a_closed_sequence_refuses_every_change() -> None:
    tested = filled(20)
    tested.pager.close()
    assert tested.pager.host.used_bytes == 0
    for call in (
        lambda: tested.pager.begin_append(1),
        lambda: tested.pager.apply(Plan(epoch=tested.pager.epoch)),
        lambda: tested.pager.crop(0),
        lambda: tested.pager.promote_rows([]),
        lambda: tested.pager.drop_rows([]),
        tested.pager.commit_append,
    ):
        with pytest.raises(UsageError, match="was closed and its memory given back; open another one"):
            call()


def test_counters_count_each_copy_once() -> None:
    tested = filled(20)
    row_bytes = tested.pager.host.block_bytes // 4
    counts = tested.pager.statistics()
    assert counts.bytes_out == 5 * 4 * row_bytes
    assert counts.bytes_in == 0
    tested.pager.apply(plan(tested, evict=(3,), recall=(1,)))
    tested.pager.drop_rows([4])
    tested.pager.promote_rows([4])
    counts = tested.pager.statistics()
    assert (counts.bytes_out, counts.bytes_in) == (20 * row_bytes, 5 * row_bytes)
    assert counts.host_only_blocks == tested.pager.host_only_blocks == 1
    assert (counts.sealed_blocks, counts.capacity_rows) == (5, 16)


def test_check_invariants_finds_each_kind_of_damage() -> None:
    for damage, what in (
        (lambda t: t.pager.arena.positions.append(3), "a position is resident twice"),
        (lambda t: t.pager.arena.positions.reverse(), "the head's rows are not last"),
        (lambda t: t.pager.arena.positions.extend(range(100, 140)), "56 rows are resident in an arena of 16"),
        (lambda t: t.pager._run.blocks.pop(), "4 sealed blocks for 22 rows"),
        (lambda t: setattr(t.pager._run.blocks[0], "slots", []), "sink block 0 is not resident"),
        (lambda t: setattr(t.pager._run.blocks[4], "slots", []), "but 16 are in use"),
    ):
        tested = filled(22)
        tested.pager.apply(tested.pager.plan_room(2))
        tested.pager.promote_rows([5, 6][: 16 - tested.pager.resident_rows])
        damage(tested)
        with pytest.raises(InternalError, match=re.escape(what)):
            tested.pager.check_invariants()


def test_dead_rows_are_poisoned_where_asked() -> None:
    tested = filled(16)
    tested.pager.apply(plan(tested, evict=(1,)))
    for plane in tested.pager.arena.planes:
        assert plane[:, :, 12:].isnan().all()
        assert not plane[:, :, :12].isnan().any()


@pytest.mark.parametrize("mode", [torch.inference_mode, torch.no_grad, torch.enable_grad])
def test_one_sequence_can_be_used_inside_and_outside_inference_mode(mode: type) -> None:
    tested = small_pager()
    with mode():
        tested.append(14)
        tested.append(4)
    tested.append(4)
    with mode():
        tested.crop(6)
        tested.append(4, version=3)
    tested.check()
