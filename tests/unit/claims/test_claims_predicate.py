from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tenure.claims import (
    MaterializationPredicate,
    PredicateType,
    contiguous_range,
    leading_prefix_at_least,
    parse_predicate,
)
from tenure.errors import ClaimError

positions = st.frozensets(st.integers(0, 12))
predicates = st.one_of(
    st.builds(leading_prefix_at_least, st.integers(0, 10)),
    st.builds(contiguous_range, st.integers(0, 8), st.integers(0, 8)),
)


@pytest.mark.clause("TNR-MAT-002")
@pytest.mark.parametrize(
    ("surviving", "required", "holds", "leading"),
    [
        (range(1, 61), 60, False, 0),
        (range(1, 60), 60, False, 0),
        (range(60), 60, True, 60),
        (range(69), 60, True, 69),
        ([*range(1, 70)], 60, False, 0),
        ([0, 1, 2, 8, 9, 10], 3, True, 3),
        (range(1, 6), 4, False, 0),
        ([0, 2, 3, 4], 3, False, 1),
        ([0, 0, 1, 1], 2, True, 2),
        ([], 0, True, 0),
    ],
)
def test_a_leading_prefix_needs_its_first_blocks_and_no_number_of_others(
    surviving: list[int], required: int, holds: bool, leading: int
) -> None:
    result = leading_prefix_at_least(required).evaluate(surviving)
    assert (result.materialized, result.leading_blocks) == (holds, leading)
    assert result.surviving_blocks == len(set(surviving))


@pytest.mark.clause("TNR-MAT-002")
@given(predicates, positions)
def test_a_predicate_holds_exactly_when_every_required_position_survives(
    predicate: MaterializationPredicate, surviving: frozenset[int]
) -> None:
    assert predicate.evaluate(surviving).materialized == set(predicate.required_positions).issubset(surviving)


@given(predicates)
def test_text_and_record_come_back_as_they_went(predicate: MaterializationPredicate) -> None:
    assert parse_predicate(predicate.as_text()) == predicate
    assert MaterializationPredicate.from_record(predicate.to_record()) == predicate


@pytest.mark.clause("TNR-MAT-001")
@pytest.mark.parametrize(
    "text",
    ["8", "60 blocks", "leading_prefix_at_least", "leading_prefix_at_least(-1)", "leading_prefix_at_least(1,2)",
     "contiguous_range(4)", "resident_blocks_materialized(60)", "", "leading_prefix_at_least(8) or so"],
)  # fmt: skip
def test_a_count_and_anything_else_is_no_predicate(text: str) -> None:
    with pytest.raises(ClaimError) as caught:
        parse_predicate(text)
    assert caught.value.clause == "TNR-MAT-001"


@pytest.mark.clause("TNR-MAT-001")
def test_negative_numbers_and_a_shifted_prefix_are_named() -> None:
    with pytest.raises(ClaimError, match="required_blocks"):
        leading_prefix_at_least(-1)
    with pytest.raises(ClaimError, match="start_block"):
        contiguous_range(-1, 2)
    with pytest.raises(ClaimError, match="start_block"):
        MaterializationPredicate(predicate_type=PredicateType.LEADING_PREFIX_AT_LEAST, required_blocks=3, start_block=1)
    with pytest.raises(ClaimError, match="blocks_survived"):
        MaterializationPredicate.from_record({"predicate_type": "blocks_survived", "required_blocks": 3})
