"""`tenure bench arbiter`: a small run has every figure, and its rows say what was decided."""

from __future__ import annotations

from tenure.bench.arbiter import BARS, run


def test_a_small_run_has_every_figure_and_says_what_was_decided() -> None:
    report = run(repeats=20, scale=50, quick=True)
    assert set(report.figures) == {bar.figure for bar in BARS}
    assert all(value > 0 for value in report.figures.values())
    decided = {row["arm"]: row.get("outcome") for row in report.rows if str(row["arm"]).startswith("decide")}
    assert decided["decide: fits"] == "served"
    assert decided["decide: one claim gives way"] == "served"
    assert decided["decide: refused by one claim"] == "refused"
    arms = [str(row["arm"]) for row in report.rows]
    assert sum(arm.startswith("admit a claim") for arm in arms) == 3  # the figure, less than it and more
    assert sum("all claims share" in arm for arm in arms) == 4
    assert sum("harm reported" in arm for arm in arms) == 2
    assert set(report.as_json()) >= {"figures", "rows", "environment"}
