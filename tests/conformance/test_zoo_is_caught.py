"""The suite can fail: every check fails somebody, every clause is broken by somebody, and the unbroken toy by nothing."""

from __future__ import annotations

import functools
import re

import pytest

from tenure.claims.clauses import CheckedBy, specification
from tenure.conformance import ProfileOutcome, Status, Verdict, grade
from tenure.conformance.report.page import SHOWN_WITNESS_EVENTS
from tenure.conformance.suite import SPEC_EDITION, all_checks, clauses_by_check
from tenure.conformance.zoo import UNBROKEN, ZOO

BLOCK_LINE, VICTIM_LINE = "resident_block_materialized", "allocation_victim_selected"


@functools.cache
def verdict_of(name: str) -> Verdict:
    member = ZOO[name]
    return grade(member.factory, profiles=member.profiles, name=name)


@pytest.mark.parametrize("name", sorted(ZOO))
def test_a_broken_runtime_is_failed_with_the_clause_that_it_breaks(name: str) -> None:
    verdict = verdict_of(name)
    assert ZOO[name].clause_id in verdict.broken_clauses
    assert verdict.exit_code == 1
    assert not [result for result in verdict.results if result.status is Status.ERROR]
    for result in verdict.failures:
        assert result.broken_clause in result.clauses
        assert result.what.endswith(".")
        assert result.why.endswith(".")
        assert result.witness is not None
        assert len(result.witness.records) <= result.witness.shrunk_from


#: Claims that these speak of without ever having accepted them in their trace: that is what is wrong with them.
UNACCEPTED = frozenset({"harm-without-acceptance", "post-hoc-namer"})
ACCEPTED = ("resident_claim_accepted", "resident_claim_conditionally_accepted", "resident_claim_rejected")


@pytest.mark.parametrize("name", sorted(ZOO))
def test_a_proof_shows_what_its_two_sentences_speak_of(name: str) -> None:
    for result in verdict_of(name).failures:
        assert result.witness is not None
        lines, records = result.witness.lines, result.witness.records
        where = f"{name}, {result.check_id}: {result.what}"
        assert records, where
        assert len(lines) <= SHOWN_WITNESS_EVENTS, where
        for number in re.findall(r"#(\d+) ", result.what):
            assert any(line.startswith(f"#{number} ") for line in lines), f"{where}: #{number} is not shown"
        for claim_id in set(re.findall(r"claim:\w+", result.what)):
            shown = [record for record in records if record["claim_id"] == claim_id and record["event"] in ACCEPTED]
            assert shown or name in UNACCEPTED, f"{where}: on what terms {claim_id} stands is not shown"
        assert not re.search(r"\bNone\b|\[\]|\['|Ask\(|[^\w]-1\b|\b1 events\b|  ", result.what), where


@pytest.mark.parametrize("name", sorted(ZOO))
def test_a_block_that_is_taken_in_a_proof_is_shown_to_hold_rows_before(name: str) -> None:
    for result in verdict_of(name).failures:
        assert result.witness is not None
        told = [record["physical_block_id"] for record in result.witness.records if record["event"] == BLOCK_LINE]
        for record in result.witness.records:
            if record["event"] == VICTIM_LINE and record["victim_reason"] == "cached_prefix_reuse":
                assert record["physical_block_id"] in told, f"{name}, {result.check_id}: {record}"


def test_the_proof_against_a_silent_evictor_can_be_followed_line_by_line() -> None:
    result = next(r for r in verdict_of_all("silent-evictor").failures if r.check_id == "L3")
    assert result.witness is not None
    assert [record["event"] for record in result.witness.records[:6]] == [
        "resident_claim_submitted",
        "resident_claim_accepted",
        BLOCK_LINE,
        "resident_claim_materialized",
        "active_request_admitted",
        VICTIM_LINE,
    ]
    assert "claim:a was accepted as hard_protected on 60 blocks" in result.what


def verdict_of_all(name: str) -> Verdict:
    return grade(ZOO[name].factory, profiles=["hard"], name=name)


def test_the_unbroken_toy_keeps_every_profile_and_leaves_no_check_without_an_occasion() -> None:
    verdict = grade(UNBROKEN.factory)
    assert [(r.check_id, r.status) for r in verdict.results if r.status is not Status.PASS] == []
    assert set(verdict.outcomes.values()) == {ProfileOutcome.KEPT}
    assert verdict.exit_code == 0


def test_every_check_fails_at_least_one_broken_runtime() -> None:
    failed = {result.check_id for name in ZOO for result in verdict_of(name).failures}
    assert clauses_by_check().keys() - failed == set()


def test_every_clause_of_a_check_is_found_broken_in_at_least_one_runtime() -> None:
    broken = {clause_id for name in ZOO for clause_id in verdict_of(name).broken_clauses}
    claimed = {clause_id for clauses in clauses_by_check().values() for clause_id in clauses}
    assert claimed - broken == set()


def test_the_clauses_that_the_suite_can_tell_are_those_that_its_checks_name() -> None:
    clauses = specification().clauses
    told = {name for name, found in clauses.items() if CheckedBy.CONFORMANCE in found.checked_by}
    named = {clause_id for check in all_checks() for clause_id in check.clauses}
    assert named == told
    assert specification().edition == SPEC_EDITION


def test_the_zoo_has_at_least_the_twelve_that_were_asked_for() -> None:
    assert {
        "silent-evictor",
        "counts-blocks",
        "late-demoter",
        "harm-without-acceptance",
        "harm-after-release",
        "wrong-harm",
        "recompute-as-restore",
        "nameless-refuser",
        "wedge",
        "event-dropper",
        "over-acceptor",
        "revision-replayer",
    } <= ZOO.keys()
