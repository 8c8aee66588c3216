"""The operator's lines: what can be written, and what is refused with the reason."""

from __future__ import annotations

import pytest

from tenure.arbiter.rules import DEFAULT_LINES, STRENGTH_ORDER, action_policy, parse_line
from tenure.claims.modes import Action, ProtectionMode
from tenure.errors import PolicyError


def test_a_line_is_read_into_stages() -> None:
    line = parse_line("expire, demote, defer 3, harm, refuse")
    assert [[step.action for step in stage.claim_side] for stage in line.stages] == [
        [Action.EXPIRE_RESIDENT_CLAIM, Action.DEMOTE_RESIDENT_CLAIM],
        [Action.SERVE_ACTIVE_EVICT_RESIDENT],
    ]
    assert line.stages[0].request_side is not None
    assert line.stages[0].request_side.max_tries == 3


def test_a_line_prints_as_it_is_read() -> None:
    for text in DEFAULT_LINES.values():
        assert str(parse_line(text)) == text
    assert str(parse_line("defer 2.5s,refuse")) == "defer 2.5s, refuse"


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("", "at least one step"),
        ("evaporate", "'evaporate' is no step"),
        ("defer, refuse", "needs a bound"),
        ("defer 0, refuse", "whole tries"),
        ("defer 1.5, refuse", "whole tries"),
        ("refuse, demote", "nothing can come after refuse"),
        ("demote, demote", "there twice"),
        ("demote 3", "takes no number"),
        ("defer -1", "is no step"),
    ],
)
def test_a_wrong_line_is_refused_with_the_step(text: str, named: str) -> None:
    with pytest.raises(PolicyError, match=rf"{named}.*\[TNR-(ARB|PRG)-\d+\]$"):
        parse_line(text)


def test_an_unknown_mode_is_refused() -> None:
    with pytest.raises(PolicyError, match="'gentle' is no protection mode"):
        action_policy({"gentle": "refuse"})


def test_a_mode_that_reserves_nothing_cannot_be_a_reason_to_refuse() -> None:
    with pytest.raises(PolicyError, match="soft_priority reserves nothing"):
        action_policy({"soft_priority": "refuse"})


def test_the_active_line_has_no_claims_to_take() -> None:
    with pytest.raises(PolicyError, match="active"):
        action_policy({"active": "demote, refuse"})


def test_every_mode_has_a_place_and_a_default_that_breaks_no_promise() -> None:
    assert set(STRENGTH_ORDER) == {mode for mode in ProtectionMode if mode.reserves_blocks}
    policy = action_policy()
    for mode in STRENGTH_ORDER:
        actions = [step.action for step in policy.line(mode).steps]
        assert Action.SERVE_ACTIVE_EVICT_RESIDENT not in actions
        assert mode is not ProtectionMode.HARD_PROTECTED or Action.DEMOTE_RESIDENT_CLAIM not in actions
    assert "hard_protected" in policy.describe()
