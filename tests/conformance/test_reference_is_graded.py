"""The reference runtime keeps what it declares, in well under the half minute that the suite may take."""

from __future__ import annotations

import time

from tenure.conformance import ProfileOutcome, Status, grade
from tenure.conformance.suite import all_checks
from tenure.runtime.micro.subject import subject_factory

#: Processor seconds; the contract's bar is 30 s of wall clock for the whole suite.
BAR_S = 30.0


def test_the_reference_passes_every_check_within_its_time() -> None:
    before = time.process_time()
    verdict = grade(subject_factory)
    taken_s = time.process_time() - before
    assert [(r.check_id, r.status, r.what) for r in verdict.results if r.status is not Status.PASS] == []
    assert len(verdict.results) == len(all_checks())
    assert set(verdict.outcomes.values()) == {ProfileOutcome.KEPT}
    assert taken_s < BAR_S
