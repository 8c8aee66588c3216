"""The suite can fail: every check fails somebody, every clause is broken by somebody, and the unbroken toy by nothing."""

from __future__ import annotations

import functools

import pytest

from tenure.claims.clauses import CheckedBy, specification
from tenure.conformance import ProfileOutcome, Status, Verdict, grade
from tenure.conformance.suite import SPEC_EDITION, all_checks, clauses_by_check
from tenure.conformance.zoo import UNBROKEN, ZOO


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
