"""The selector: protections, order, ties, hysteresis, and what it may do with free rows."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tenure.errors import PolicyError
from tenure.kv.residency import BlockIndex, BlockView, ResidencyView
from tenure.policy.selectors.top_blocks import Room, lowest_first, select_top_blocks

NAN = math.nan


def view(
    residency: str, *, capacity_blocks: int | None = None, appending_rows: int = 0, sinks: int = 0, tail: int = 0
) -> ResidencyView:
    """One letter a block of four rows: `R` resident, `-` host only, a digit for that many rows, `h` a head of one."""
    blocks = []
    sealed = len(residency.rstrip("h"))
    for index, letter in enumerate(residency):
        rows = {"R": 4, "-": 0, "h": 1}.get(letter)
        blocks.append(
            BlockView(
                index=BlockIndex(index),
                written_rows=1 if letter == "h" else 4,
                resident_rows=int(letter) if rows is None else rows,
                host_backed=letter != "h",
                protected=letter == "h" or index < sinks or index >= sealed - tail,
            )
        )
    resident_rows = sum(block.resident_rows for block in blocks)
    return ResidencyView(
        epoch=3,
        block_size=4,
        logical_rows=sum(block.written_rows for block in blocks),
        resident_rows=resident_rows,
        capacity_rows=resident_rows + appending_rows if capacity_blocks is None else 4 * capacity_blocks,
        appending_rows=appending_rows,
        blocks=tuple(blocks),
    )


def chosen(state: ResidencyView, scores: list[float], **options: object) -> tuple[tuple[int, ...], tuple[int, ...]]:
    plan = select_top_blocks(state, scores, **options)  # type: ignore[arg-type]
    assert plan.epoch == state.epoch
    return plan.evict, plan.recall


def test_the_best_block_that_is_away_replaces_the_worst_that_is_here() -> None:
    assert chosen(view("RRR--"), [3, 1, 2, 4, 0]) == ((1,), (3,))


def test_swaps_go_on_while_they_are_worth_it() -> None:
    assert chosen(view("RRR---"), [1, 2, 5, 6, 7, 4]) == ((0, 1), (4, 3))


def test_protected_blocks_never_leave_whatever_their_scores() -> None:
    assert chosen(view("RRR--RRh", sinks=1, tail=2), [0, 5, 6, 9, 9, 0, 0, 0]) == ((1, 2), (3, 4))
    assert chosen(view("RR-h", sinks=2), [0, 0, 9, 0]) == ((), ())


def test_nothing_better_moves_nothing() -> None:
    assert not select_top_blocks(view("RRR--"), [3, 3, 3, 2, 1])
    assert not select_top_blocks(view("RRR"), [3, NAN, 1])
    assert not select_top_blocks(view("---", capacity_blocks=0), [3, 2, 1])
    assert not select_top_blocks(view(""), [])


def test_equal_scores_keep_what_is_resident() -> None:
    assert chosen(view("R-R-"), [1, 1, 1, 1], margin=0.0) == ((), ())


def test_among_equals_the_older_block_stays_and_the_older_block_comes() -> None:
    assert chosen(view("RRR-"), [1, 1, 1, 5]) == ((2,), (3,))
    assert chosen(view("R---"), [1, 5, 5, 5]) == ((0,), (1,))


def test_a_block_that_is_barely_better_stays_away() -> None:
    assert chosen(view("R-"), [1.0, 1.04], margin=0.05) == ((), ())
    assert chosen(view("R-"), [1.0, 1.06], margin=0.05) == ((0,), (1,))
    assert chosen(view("R-"), [-1.0, -0.97], margin=0.05) == ((), ())
    assert chosen(view("R-"), [-1.0, -0.9], margin=0.05) == ((0,), (1,))
    assert chosen(view("R-"), [0.0, 1e-9], margin=0.05) == ((0,), (1,))


def test_a_swap_never_comes_back_by_itself() -> None:
    scores = [1.0, 1.06]
    assert chosen(view("R-"), scores) == ((0,), (1,))
    assert chosen(view("-R"), scores) == ((), ())


def test_nan_is_lowest_and_infinite_scores_are_ordered() -> None:
    assert chosen(view("RR-"), [NAN, 0.0, -5.0]) == ((0,), (2,))
    assert chosen(view("R--"), [0.0, NAN, NAN]) == ((), ())
    assert chosen(view("R-"), [NAN, NAN]) == ((), ())
    assert chosen(view("R-"), [NAN, -math.inf]) == ((), ())
    assert chosen(view("RR-"), [math.inf, 1.0, math.inf]) == ((1,), (2,))


def test_free_rows_are_filled_best_first_or_kept() -> None:
    state = view("R---", capacity_blocks=3)
    assert chosen(state, [9, 1, 3, 2]) == ((), (2, 3))
    assert chosen(state, [9, 1, 3, 2], room=Room.KEEP) == ((), ())
    assert chosen(state, [2, 1, 3, 9], room=Room.KEEP) == ((0,), (3,))


def test_free_rows_that_hold_no_whole_block_stay_free() -> None:
    state = view("R-", capacity_blocks=2, appending_rows=1)
    assert chosen(state, [1, 0]) == ((), ())


def test_room_for_the_append_is_made_by_the_lowest_scores() -> None:
    assert chosen(view("RRR-", capacity_blocks=3, appending_rows=1), [2, 1, 3, 0]) == ((1,), ())
    assert chosen(view("RRRR", capacity_blocks=4, appending_rows=5), [2, 1, 3, 0]) == ((3, 1), ())


def test_a_partly_resident_block_does_not_stop_better_swaps() -> None:
    # Rows can be dropped one by one; a partial block with the lowest score once ended every reselect at its first step.
    assert chosen(view("2R-R"), [0, 1, 9, 5], room=Room.KEEP) == ((1,), (2,))


def test_a_partly_resident_block_is_completed_where_there_is_room() -> None:
    state = view("R2-", capacity_blocks=2)
    assert chosen(state, [5, 9, 1]) == ((), (1,))
    assert chosen(state, [5, 9, 1], room=Room.KEEP) == ((), ())


def test_a_partly_resident_block_leaves_for_a_better_one_that_needs_its_rows() -> None:
    assert chosen(view("2--", capacity_blocks=1), [1, 9, 8]) == ((0,), (1,))


def test_a_completed_block_is_not_a_victim_of_the_same_plan() -> None:
    assert chosen(view("R2-", capacity_blocks=2), [5, 0, 0]) == ((), (1,))


def test_a_protected_block_that_is_away_comes_first() -> None:
    # After a crop the new tail window may be on the host; the next append needs it whatever its score.
    assert chosen(view("RR--", capacity_blocks=3, tail=1), [5, 5, 9, NAN]) == ((1,), (3, 2))


@pytest.mark.parametrize("scores", [[1.0], [1.0, 2.0, 3.0], []])
def test_a_scorer_must_answer_one_score_a_block(scores: list[float]) -> None:
    with pytest.raises(PolicyError, match=f"{len(scores)} scores for 2 blocks; a scorer must answer one a block"):
        select_top_blocks(view("R-"), scores)


def test_a_plan_for_the_append_says_so() -> None:
    plan = select_top_blocks(view("RR-", appending_rows=2, capacity_blocks=2), [1, 2, 0])
    assert plan.appending_rows == 2


SCORES = st.one_of(st.floats(-5, 5), st.sampled_from([NAN, math.inf, -math.inf, 0.0]))


@given(
    residency=st.text("RR--13", max_size=10),
    data=st.data(),
    spare_rows=st.integers(0, 12),
    appending_rows=st.integers(0, 6),
    room=st.sampled_from(Room),
    margin=st.sampled_from([0.0, 0.05, 1.0]),
)
def test_a_plan_fits_moves_only_what_it_may_and_leaves_nothing_to_do(
    *, residency: str, data: st.DataObject, spare_rows: int, appending_rows: int, room: Room, margin: float
) -> None:
    sinks, tail = data.draw(st.integers(0, 2)), data.draw(st.integers(0, 2))
    state = view(residency, sinks=sinks, tail=tail)
    state = ResidencyView(
        epoch=state.epoch,
        block_size=4,
        logical_rows=state.logical_rows,
        resident_rows=state.resident_rows,
        capacity_rows=state.resident_rows + spare_rows,
        appending_rows=appending_rows,
        blocks=state.blocks,
    )
    scores = data.draw(st.lists(SCORES, min_size=len(residency), max_size=len(residency)))
    plan = select_top_blocks(state, scores, margin=margin, room=room)
    blocks = {block.index: block for block in state.blocks}
    assert all(blocks[index].evictable for index in plan.evict)
    assert all(blocks[index].resident_rows < 4 for index in plan.recall)
    freed = sum(blocks[index].resident_rows for index in plan.evict)
    gained = sum(4 - blocks[index].resident_rows for index in plan.recall)
    evictable = sum(block.resident_rows for block in state.blocks if block.evictable)
    if state.free_rows + evictable >= 0:
        assert gained - freed <= state.free_rows
    if room is Room.KEEP and state.free_rows >= 0:
        assert gained == freed
    after = tuple(
        BlockView(
            index=block.index,
            written_rows=4,
            resident_rows=0 if block.index in plan.evict else 4 if block.index in plan.recall else block.resident_rows,
            host_backed=True,
            protected=block.protected,
        )
        for block in state.blocks
    )
    if state.free_rows + evictable >= 0:
        settled = ResidencyView(
            epoch=4,
            block_size=4,
            logical_rows=state.logical_rows,
            resident_rows=state.resident_rows - freed + gained,
            capacity_rows=state.capacity_rows,
            appending_rows=appending_rows,
            blocks=after,
        )
        assert not select_top_blocks(settled, scores, margin=margin, room=room), "the same scores moved blocks again"


def test_victims_between_reselects_are_the_lowest_known_and_unknown_ones_go_last() -> None:
    state = view("RRRRR")
    assert lowest_first(state, {0: 2.0, 1: 1.0, 3: NAN, 4: 1.0}) == [3, 1, 4, 0, 2]
    assert lowest_first(state, {}) == [0, 1, 2, 3, 4]
