"""When a sequence is scored again: rows since the last time, and a share of decode time on a clock that is told."""

from __future__ import annotations

import pytest

from pool_pagers import PagerUnderTest, small_pager
from tenure.errors import PolicyError
from tenure.policy import Policy, RecentQueries, Reselector, Room, as_policy

NO_QUERIES = RecentQueries(by_layer=(), scaling=())


class Clock:
    """A clock that advances when told, and by `cost_s` while a plan is made."""

    def __init__(self, *, cost_s: float = 0.0) -> None:
        self.now_s, self.cost_s = 0.0, cost_s

    def __call__(self) -> float:
        self.now_s += self.cost_s
        return self.now_s


class NoKeys:
    def block_keys(self, block: int) -> list[object]:
        raise AssertionError("no keys are needed before the first query")


def reselector(*, cost_s: float = 0.0, **settings: object) -> Reselector:
    policy = Policy(**({"interval_rows": 4} | settings))  # type: ignore[arg-type]
    return Reselector(policy, clock=Clock(cost_s=cost_s))


def make_plan(chosen: Reselector) -> None:
    tested: PagerUnderTest = small_pager()
    tested.append(8)
    chosen.plan(tested.pager.view(), NoKeys(), NO_QUERIES, room=Room.FILL)  # type: ignore[arg-type]


def test_it_is_due_after_the_interval_and_not_before() -> None:
    chosen = reselector(scoring_share=None)
    due = []
    for _ in range(9):
        chosen.note_append(1)
        due.append(chosen.due)
        if chosen.due:
            make_plan(chosen)
    assert due == [False, False, False, True, False, False, False, True, False]


def test_rows_of_a_prompt_count_too() -> None:
    chosen = reselector(scoring_share=None)
    chosen.note_append(100)
    assert chosen.due
    make_plan(chosen)
    assert not chosen.due


def test_scoring_waits_until_it_is_a_small_share_of_decode_time() -> None:
    chosen = reselector(cost_s=1.0, scoring_share=0.05)
    chosen.note_append(4, decode_s=0.4)
    assert chosen.due, "the cost is unknown before the first time"
    make_plan(chosen)
    for step in range(1, 40):
        chosen.note_append(1, decode_s=0.5)
        assert chosen.due == (step * 0.5 >= 19), f"1 s of scoring after {step * 0.5} s of decoding"


def test_triggers_never_cluster_as_the_cost_grows() -> None:
    # A growing interval that is tested by modulo fires several times within a few tokens.
    clock = Clock()
    chosen = Reselector(Policy(interval_rows=8), clock=clock)
    last, gaps = 0, []
    for step in range(1, 3000):
        clock.cost_s = 0.001 * step
        chosen.note_append(1, decode_s=0.1)
        if chosen.due:
            gaps.append(step - last)
            last = step
            make_plan(chosen)
    assert min(gaps) >= 8
    assert gaps == sorted(gaps)


def test_a_reselect_with_nothing_to_choose_from_starts_the_interval_again() -> None:
    chosen = reselector(scoring_share=None)
    chosen.note_append(4)
    chosen.skip()
    assert not chosen.due
    assert chosen.statistics().reselects == 0


def test_recency_is_never_due() -> None:
    chosen = reselector(scorer="recency")
    chosen.note_append(1000)
    assert not chosen.due


def test_costs_are_added_up() -> None:
    chosen = reselector(cost_s=0.25)
    chosen.note_append(1, decode_s=0.5)
    make_plan(chosen)
    make_plan(chosen)
    counts = chosen.statistics()
    assert (counts.reselects, counts.scoring_s, counts.decode_s) == (2, 0.5, 0.5)
    assert counts.scoring_share == 0.5


def test_scores_of_blocks_that_are_about_to_be_others_are_forgotten() -> None:
    chosen = reselector()
    chosen.scores = {0: 1.0, 1: 2.0, 2: 3.0}
    chosen.forget(1)
    assert chosen.scores == {0: 1.0}


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"interval_rows": 0}, "interval_rows is 0; it must be at least 1"),
        ({"margin": -0.1}, "margin is -0.1; it must be 0 or more"),
        ({"scoring_share": 0.0}, "scoring_share is 0.0; expected between 0 and 1, or None"),
        ({"scoring_share": 1.0}, "scoring_share is 1.0"),
        ({"scorer": "drafter"}, "no policy is called 'drafter'"),
    ],
)
def test_settings_that_make_no_sense_are_refused(settings: dict[str, object], message: str) -> None:
    with pytest.raises(PolicyError, match=message):
        Policy(**settings)  # type: ignore[arg-type]


def test_a_policy_may_be_named_or_given() -> None:
    assert as_policy("recency") == Policy(scorer="recency")
    policy = Policy(margin=0.2)
    assert as_policy(policy) is policy
