"""The published regime and prefill-admission tables, cell by cell."""

from __future__ import annotations

import pytest

from tenure.errors import PolicyError
from tenure.runtime.micro.regimes import (
    ACCEPTANCE_POLICIES,
    REGIMES,
    Regime,
    cached_tokens,
    run_prefill_admission,
    run_regime,
    value_of,
)

NATIVE, DENSITY, NAIVE, COMPLETE, ORACLE = ACCEPTANCE_POLICIES
BY_NAME: dict[str, Regime] = {regime.name: regime for regime in REGIMES}

THRESHOLDED = {
    "fair_share_fragmentation": {NATIVE: 8, DENSITY: 18, NAIVE: 0, COMPLETE: 18, ORACLE: 18},
    "footprint_pressure_density": {NATIVE: 0, DENSITY: 17, NAIVE: 0, COMPLETE: 13, ORACLE: 17},
    "complete_beats_naive": {NAIVE: 0, COMPLETE: 15},
    "fairness_tax_density_wins": {NATIVE: 38, DENSITY: 38, NAIVE: 0, COMPLETE: 24, ORACLE: 38},
    "priority_only_not_pin": {DENSITY: 0},
}
ABSTRACT = {
    "fair_share_fragmentation": {NATIVE: 12, NAIVE: 13.9, COMPLETE: 12},
    "footprint_pressure_density": {NATIVE: 11.142857, NAIVE: 19.561905, DENSITY: 17, COMPLETE: 13, ORACLE: 17},
    "fairness_tax_density_wins": {NAIVE: 34.65},
}


@pytest.mark.parametrize(
    ("regime", "policy", "score"),
    [(regime, policy, score) for regime, row in THRESHOLDED.items() for policy, score in row.items()],
)
def test_a_regime_is_worth_what_was_published(regime: str, policy: str, score: float) -> None:
    assert run_regime(BY_NAME[regime], policy).thresholded == score


@pytest.mark.parametrize(
    ("regime", "policy", "score"),
    [(regime, policy, score) for regime, row in ABSTRACT.items() for policy, score in row.items()],
)
def test_the_block_count_says_what_was_published_and_misleads(regime: str, policy: str, score: float) -> None:
    assert run_regime(BY_NAME[regime], policy).abstract == pytest.approx(score, abs=1e-6)


def test_under_loose_pressure_doing_nothing_is_best() -> None:
    scores = {
        policy: run_regime(BY_NAME["native_loose_pressure"], policy).thresholded for policy in ACCEPTANCE_POLICIES
    }
    assert scores[NATIVE] == max(scores.values()) == 19


def test_an_order_is_no_protection() -> None:
    score = run_regime(BY_NAME["priority_only_not_pin"], DENSITY)
    assert score.thresholded == 0
    assert score.abstract > 0  # nearly all of it is there, and none of it is worth anything


def test_1104_cached_tokens_are_worth_nothing_and_1280_are_worth_18() -> None:
    prefixes = BY_NAME["fair_share_fragmentation"].prefixes
    fair_share = {"A": 30, "B": 20, "C": 19}  # the runs of the published live trace
    complete = {"A": 40, "B": 40, "C": 0}
    assert (cached_tokens(fair_share), value_of(prefixes, fair_share)) == (1104, 0)
    assert (cached_tokens(complete), value_of(prefixes, complete)) == (1280, 18)


@pytest.mark.parametrize(
    ("policy", "resident", "active", "broken", "net"),
    [
        ("cache_all", 0, 13, ("small_hot", "small_warm"), -17),
        ("disposable", 17, 0, (), 0),
        ("density_gated", 17, 0, (), 0),
    ],
)
def test_the_prefill_admission_table(
    policy: str, resident: float, active: float, broken: tuple[str, ...], net: float
) -> None:
    score = run_prefill_admission(policy)
    assert (score.resident_value, score.active_value, score.broken, score.resident_net) == (
        resident,
        active,
        broken,
        net,
    )


def test_an_unknown_policy_is_refused_with_the_known_ones() -> None:
    with pytest.raises(PolicyError, match="value_density"):
        run_regime(REGIMES[0], "generous")
    with pytest.raises(PolicyError, match="density_gated"):
        run_prefill_admission("generous")
