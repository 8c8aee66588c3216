"""Greedy and sampled choice."""

from __future__ import annotations

import pytest
import torch

from tenure.errors import UsageError
from tenure.runtime.hf.sampling import Sampling, pick_token

LOGITS = torch.log(torch.tensor([0.1, 0.5, 0.15, 0.25]))


def draws(sampling: Sampling, *, seed: int = 0, count: int = 400) -> list[int]:
    generator = torch.Generator().manual_seed(seed)
    return [pick_token(LOGITS, sampling, generator) for _ in range(count)]


def test_temperature_zero_takes_the_best_and_draws_nothing() -> None:
    generator = torch.Generator().manual_seed(3)
    before = generator.get_state()
    assert pick_token(LOGITS, Sampling(), generator) == 1
    assert torch.equal(generator.get_state(), before)


def test_a_nucleus_holds_the_token_that_reaches_its_mass_and_none_after_it() -> None:
    assert set(draws(Sampling(temperature=1.0, top_p=0.7))) == {1, 3}
    assert set(draws(Sampling(temperature=1.0, top_p=0.5))) == {1}
    assert set(draws(Sampling(temperature=1.0))) == {0, 1, 2, 3}


def test_frequencies_follow_the_temperature() -> None:
    shares = {t: draws(Sampling(temperature=t), count=2000).count(1) / 2000 for t in (0.5, 1.0)}
    squares = LOGITS.exp() ** 2
    assert shares[1.0] == pytest.approx(0.5, abs=0.04)
    assert shares[0.5] == pytest.approx(float(squares[1] / squares.sum()), abs=0.04)


def test_a_seed_fixes_the_draws() -> None:
    assert draws(Sampling(temperature=1.0), seed=7) == draws(Sampling(temperature=1.0), seed=7)
    assert draws(Sampling(temperature=1.0), seed=7) != draws(Sampling(temperature=1.0), seed=8)


@pytest.mark.parametrize(
    "wrong", [{"temperature": -0.1}, {"temperature": float("nan")}, {"top_p": 0.0}, {"top_p": 1.5}]
)
def test_settings_that_mean_nothing_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(UsageError, match="expected"):
        Sampling(**wrong)
