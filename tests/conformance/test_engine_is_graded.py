"""The engine keeps every profile on real rows: here those of a tiny model, in `tenure grade hf` those of the default one."""

from __future__ import annotations

from tenure.conformance import ProfileOutcome, Status, grade
from tenure.conformance.suite import all_checks
from tenure.models.tiny import tiny_model
from tenure.runtime.hf.engine.subject import factory_for


def test_the_engine_passes_every_check_on_real_rows() -> None:
    verdict = grade(factory_for(tiny_model("llama")))
    assert [(r.check_id, r.status, r.what) for r in verdict.results if r.status is not Status.PASS] == []
    assert len(verdict.results) == len(all_checks())
    assert set(verdict.outcomes.values()) == {ProfileOutcome.KEPT}
