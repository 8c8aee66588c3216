from __future__ import annotations

import json
import math
from typing import Any

import pytest

from claims_world import make_claim
from tenure.claims import ProtectionMode, ResidentClaim, StepClock, contiguous_range, leading_prefix_at_least
from tenure.claims.modes import ACTION_ALIASES, MODE_ALIASES, Action, parse_action, parse_mode
from tenure.errors import ClaimError


@pytest.mark.clause("TNR-ACC-001")
@pytest.mark.parametrize(
    ("field", "value"),
    [("claim_id", ""), ("owner_scope", None), ("object_id", "a\nb"), ("cache_identity", "text"),
     ("materialization_predicate", 60), ("protection_mode", "hard_protected"), ("fallback_mode", "none"),
     ("confidence", 1.5), ("predicted_value", math.nan)],
)  # fmt: skip
def test_a_malformed_field_is_named_with_its_clause(field: str, value: object) -> None:
    with pytest.raises(ClaimError, match=field) as caught:
        make_claim(**{field: value})
    assert (caught.value.field, caught.value.clause) == (field, "TNR-ACC-001")


@pytest.mark.clause("TNR-ACC-002")
@pytest.mark.parametrize("footprint", [2, 0, -1, 2.5, True])
def test_a_footprint_below_the_predicate_is_refused(footprint: Any) -> None:
    with pytest.raises(ClaimError, match="footprint_blocks") as caught:
        make_claim(footprint_blocks=footprint)
    assert caught.value.clause == "TNR-ACC-002"


@pytest.mark.clause("TNR-ACC-002")
@pytest.mark.parametrize("hashes", [("a",), ("a", "b", "c", "d", "a"), ("a", "b", "c", "d", ""), ["a"] * 5])
def test_block_hashes_name_each_block_of_the_footprint_once(hashes: Any) -> None:
    with pytest.raises(ClaimError, match="block_hashes"):
        make_claim(block_hashes=hashes)


@pytest.mark.clause("TNR-ACC-003")
@pytest.mark.parametrize("duration", [0, -1.0, math.nan, math.inf, True, "10"])
def test_a_duration_is_a_finite_number_of_seconds_above_zero(duration: Any) -> None:
    with pytest.raises(ClaimError, match="duration_s") as caught:
        make_claim(duration_s=duration)
    assert caught.value.clause == "TNR-ACC-003"


@pytest.mark.clause("TNR-ACC-003")
def test_an_expiring_claim_needs_a_duration() -> None:
    with pytest.raises(ClaimError, match="duration_s"):
        make_claim(protection_mode=ProtectionMode.EXPIRING)


@pytest.mark.clause("TNR-LIFE-006")
def test_a_duration_in_steps_becomes_seconds_of_the_same_clock() -> None:
    clock = StepClock(seconds_per_step=0.25)
    assert clock.duration_s(10) == 2.5
    assert clock.advance(10) == 2.5
    with pytest.raises(ClaimError, match="duration_steps"):
        clock.duration_s(0)
    with pytest.raises(ClaimError, match="steps"):
        clock.advance(-1)


def test_the_required_blocks_come_first_in_the_footprint() -> None:
    claim = make_claim(materialization_predicate=contiguous_range(4, 2), footprint_blocks=3)
    assert claim.footprint_positions == range(4, 7)
    assert claim.materialization_predicate.required_positions == range(4, 6)


def test_a_record_survives_json() -> None:
    claim = make_claim(
        duration_s=10.0, fallback_mode=ProtectionMode.SOFT_PRIORITY, block_hashes=("a", "b", "c", "d", "e"), revision=3
    )
    assert ResidentClaim.from_record(json.loads(json.dumps(claim.to_record()))) == claim


@pytest.mark.clause("TNR-ACC-001")
def test_an_unknown_or_missing_field_of_a_record_is_named() -> None:
    with pytest.raises(ClaimError, match="colour"):
        ResidentClaim.from_record(make_claim().to_record() | {"colour": "red"})
    record = make_claim().to_record()
    del record["owner_scope"]
    with pytest.raises(ClaimError, match="owner_scope"):
        ResidentClaim.from_record(record)


@pytest.mark.clause("TNR-ACC-001")
@pytest.mark.parametrize("field", sorted(make_claim().to_record()))
@pytest.mark.parametrize(
    "value",
    [[], {}, ["x"], {"a": 1}, -1, math.nan, "", "zzz", True, 10**400, -(10**400), 10**5000],
    ids=("list", "object", "text in a list", "a", "-1", "nan", "empty", "zzz", "true", "huge", "-huge", "huger"),
)
def test_no_value_of_a_record_is_anything_but_taken_or_refused_by_name(field: str, value: Any) -> None:
    refusals: list[ClaimError] = []
    try:
        ResidentClaim.from_record(make_claim().to_record() | {field: value})
    except ClaimError as error:
        refusals.append(error)
    parts = ("a", "block_size", "predicate_type") if isinstance(value, dict) else ()
    assert all(error.field in (field, *parts) and error.clause for error in refusals)


@pytest.mark.clause("TNR-ACC-006")
def test_a_fallback_that_is_no_mode_is_named_as_the_fallback() -> None:
    with pytest.raises(ClaimError) as caught:
        ResidentClaim.from_record(make_claim().to_record() | {"fallback_mode": ["soft_priority"]})
    assert (caught.value.field, caught.value.clause) == ("fallback_mode", "TNR-ACC-006")


def test_a_record_may_give_its_predicate_as_text_and_its_mode_by_an_older_name() -> None:
    record = make_claim().to_record()
    record |= {"materialization_predicate": "leading_prefix_at_least(2)", "protection_mode": "hard_exclude"}
    claim = ResidentClaim.from_record(record)
    assert claim.materialization_predicate == leading_prefix_at_least(2)
    assert claim.protection_mode is ProtectionMode.HARD_PROTECTED


@pytest.mark.clause("TNR-ACC-006")
def test_an_unknown_mode_is_refused_and_lists_the_known_ones() -> None:
    with pytest.raises(ClaimError, match="soft_priority") as caught:
        parse_mode("pinned")
    assert caught.value.field == "protection_mode"


def test_every_alias_is_a_spelling_of_its_own() -> None:
    assert not set(MODE_ALIASES) & {mode.value for mode in ProtectionMode}
    assert not set(ACTION_ALIASES) & {action.value for action in Action}
    assert parse_action("relax_resident_claim") is Action.DEMOTE_RESIDENT_CLAIM
    with pytest.raises(ClaimError, match="arbiter_action"):
        parse_action("pray")
