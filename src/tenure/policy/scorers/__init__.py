"""Scorers: one file a method, each with its source and formula."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tenure.errors import PolicyError
from tenure.policy.scorers.attention_mass import AttentionMassScorer
from tenure.policy.scorers.base import KeyGroup, KeySource, RecentQueries, Scorer
from tenure.policy.scorers.key_bounds import KeyBoundsScorer
from tenure.policy.scorers.pooled_cosine import PooledCosineScorer
from tenure.policy.scorers.recency import RecencyScorer

__all__ = [
    "SCORERS",
    "AttentionMassScorer",
    "KeyBoundsScorer",
    "KeyGroup",
    "KeySource",
    "PooledCosineScorer",
    "RecencyScorer",
    "RecentQueries",
    "Scorer",
    "make_scorer",
]

SCORERS: dict[str, Callable[..., Scorer]] = {
    "attention_mass": AttentionMassScorer,
    "pooled_cosine": PooledCosineScorer,
    "key_bounds": KeyBoundsScorer,
    "recency": RecencyScorer,
}


def make_scorer(name: str, **options: Any) -> Scorer:
    """Construct a scorer by name. Raises `PolicyError` for an unknown name or option."""
    if name not in SCORERS:
        raise PolicyError(f"no policy is called {name!r}; choose one of: {', '.join(SCORERS)}")
    try:
        return SCORERS[name](**options)
    except TypeError as error:
        raise PolicyError(f"policy {name}: {error}") from error
