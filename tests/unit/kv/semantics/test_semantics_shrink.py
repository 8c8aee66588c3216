from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from tenure.kv.semantics import shrink


@given(items=st.lists(st.integers(0, 30), max_size=40), needed=st.sets(st.integers(0, 30), max_size=4))
def test_what_is_left_is_exactly_what_is_needed(items: list[int], needed: set[int]) -> None:
    def fails(candidate: tuple[int, ...]) -> bool:
        return needed <= set(candidate)

    left = shrink(items, fails)
    if needed <= set(items):
        assert sorted(left) == sorted(needed)
    else:
        assert left == tuple(items)


def test_items_are_made_simpler_as_far_as_the_failure_allows() -> None:
    left = shrink([9, 40, 7], lambda items: sum(items) > 30, simpler=lambda item: (item // 2, item - 1))
    assert left == (31,)


def test_simplifying_one_item_may_make_another_one_superfluous() -> None:
    def fails(items: tuple[int, ...]) -> bool:
        return 5 in items or (8 in items and 1 in items)

    assert shrink([8, 1], fails, simpler=lambda item: (5,) if item == 8 else ()) == (5,)


def test_neighbours_are_merged_where_one_item_does_for_both() -> None:
    left = shrink([5, 0, 6, 2], lambda items: sum(items) >= 11, merge=lambda one, other: one + other)
    assert left == (11,)


def test_neighbours_that_cannot_be_merged_stay() -> None:
    left = shrink([5, 6], lambda items: sum(items) >= 11, merge=lambda one, other: None)
    assert left == (5, 6)
