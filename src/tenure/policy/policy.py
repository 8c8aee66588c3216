"""A policy: which scorer, how eager, how often. Plain settings; the state of a sequence lives in its `Reselector`."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from tenure.errors import PolicyError
from tenure.kv.residency import BlockIndex, Plan, ResidencyView
from tenure.policy.scorers import KeySource, RecentQueries, Scorer, make_scorer
from tenure.policy.selectors.top_blocks import DEFAULT_MARGIN, Room, lowest_first, select_top_blocks

DEFAULT_INTERVAL_ROWS = 64
DEFAULT_SCORING_SHARE = 0.05


@dataclass(frozen=True, slots=True)
class Policy:
    """Settings of a policy, validated.

    Residency is reselected once `interval_rows` rows have been appended since the last time. With a `scoring_share`,
    it also waits until the last scoring's cost is at most that share of the decode time since; None makes the
    interval exact, and with it the output independent of how fast the machine is.
    """

    scorer: str = "attention_mass"
    options: Mapping[str, Any] = field(default_factory=dict)
    margin: float = DEFAULT_MARGIN
    interval_rows: int = DEFAULT_INTERVAL_ROWS
    scoring_share: float | None = DEFAULT_SCORING_SHARE

    def __post_init__(self) -> None:
        make_scorer(self.scorer, **self.options)
        if self.interval_rows < 1:
            raise PolicyError(f"interval_rows is {self.interval_rows}; it must be at least 1")
        if self.margin < 0:
            raise PolicyError(f"margin is {self.margin}; it must be 0 or more")
        if self.scoring_share is not None and not 0 < self.scoring_share < 1:
            raise PolicyError(f"scoring_share is {self.scoring_share}; expected between 0 and 1, or None")


@dataclass(frozen=True, slots=True)
class ReselectStatistics:
    """What choosing has cost. `decode_s` is time inside forwards of one row."""

    reselects: int
    blocks_recalled: int
    scoring_s: float
    decode_s: float

    @property
    def scoring_share(self) -> float:
        """Scoring time over scoring and decode time."""
        total = self.scoring_s + self.decode_s
        return self.scoring_s / total if total else 0.0


@dataclass(frozen=True, slots=True)
class ReselectorState:
    """What a `Reselector` remembers, to be written down. What its scorer keeps is computed again from the keys."""

    scores: Mapping[int, float]
    rows_since: int
    decode_s_since: float
    last_cost_s: float
    statistics: ReselectStatistics


class Reselector:
    """One sequence's choosing: when to score, what was last known of each block, and the plans that follow."""

    def __init__(self, policy: Policy, *, clock: Callable[[], float] = time.perf_counter) -> None:
        self.policy = policy
        self.scorer: Scorer = make_scorer(policy.scorer, **policy.options)
        self.scores: dict[int, float] = {}
        self._clock = clock
        self._rows_since = 0
        self._decode_s_since = 0.0
        self._last_cost_s = 0.0
        self._is_paused = False
        self._reselects = self._recalled = 0
        self._scoring_s = self._decode_s = 0.0

    @property
    def due(self) -> bool:
        """Whether it is time to reselect of one's own accord."""
        if self._is_paused or self.policy.scorer == "recency" or self._rows_since < self.policy.interval_rows:
            return False
        share = self.policy.scoring_share
        return share is None or self._last_cost_s <= share * (self._last_cost_s + self._decode_s_since)

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        """Inside it nothing is due: whoever reads a turn will ask for a reselect when it has been read."""
        self._is_paused = True
        try:
            yield
        finally:
            self._is_paused = False

    def note_append(self, rows: int, *, decode_s: float = 0.0) -> None:
        """Count appended rows, and the time of the forward when it was a decode step."""
        self._rows_since += rows
        self._decode_s_since += decode_s
        self._decode_s += decode_s

    def skip(self) -> None:
        """Count a reselect that had nothing to choose from: everything is resident."""
        self._rows_since = 0
        self._decode_s_since = 0.0

    def victim_order(self, view: ResidencyView) -> list[BlockIndex]:
        """Who goes first when room is needed between two reselects."""
        return lowest_first(view, self.scores)

    def plan(self, view: ResidencyView, keys: KeySource, queries: RecentQueries, *, room: Room) -> Plan:
        """Score all blocks and plan the best residency. Remembers the scores; moves nothing."""
        started = self._clock()
        scores = self.scorer.score(view, keys, queries)
        plan = select_top_blocks(view, scores, margin=self.policy.margin, room=room)
        self.scores = {block.index: score for block, score in zip(view.blocks, scores, strict=True)}
        self._last_cost_s = self._clock() - started
        self._scoring_s += self._last_cost_s
        self._rows_since = 0
        self._decode_s_since = 0.0
        self._reselects += 1
        return plan

    def note_recalled(self, blocks: int) -> None:
        """Count blocks that a plan of this reselector brought back: a plan may be dropped, or fail."""
        self._recalled += blocks

    def forget(self, first_block: int) -> None:
        """Drop everything known of `first_block` and later blocks, whose rows are about to be others."""
        self.scores = {block: score for block, score in self.scores.items() if block < first_block}
        self.scorer.forget(first_block)

    def statistics(self) -> ReselectStatistics:
        """What choosing has cost so far."""
        return ReselectStatistics(
            reselects=self._reselects,
            blocks_recalled=self._recalled,
            scoring_s=self._scoring_s,
            decode_s=self._decode_s,
        )

    def state(self) -> ReselectorState:
        """What is remembered now."""
        return ReselectorState(
            scores=dict(self.scores),
            rows_since=self._rows_since,
            decode_s_since=self._decode_s_since,
            last_cost_s=self._last_cost_s,
            statistics=self.statistics(),
        )

    def restore(self, state: ReselectorState) -> None:
        """Remember what `state` says, and nothing else."""
        self.scores = dict(state.scores)
        self._rows_since = state.rows_since
        self._decode_s_since, self._last_cost_s = state.decode_s_since, state.last_cost_s
        self._reselects, self._recalled = state.statistics.reselects, state.statistics.blocks_recalled
        self._scoring_s, self._decode_s = state.statistics.scoring_s, state.statistics.decode_s
        self.scorer.forget(0)


def as_policy(policy: Policy | str) -> Policy:
    """A policy by name, or the policy itself. Raises `PolicyError` for an unknown name."""
    return policy if isinstance(policy, Policy) else Policy(scorer=policy)
