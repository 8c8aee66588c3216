"""The reference runtime under the examiner: every profile it declares is kept."""

from __future__ import annotations

import pytest

from tenure.claims.modes import ProtectionMode
from tenure.conformance.finding import Status
from tenure.conformance.grade import grade
from tenure.conformance.subject import RequestAsk, Setup, Subject
from tenure.errors import UsageError
from tenure.runtime.control.subject import policy_of
from tenure.runtime.micro.subject import subject_factory


def test_the_reference_keeps_every_profile_that_it_declares() -> None:
    verdict = grade(subject_factory)
    assert {result.check_id: result.what for result in verdict.results if result.status is not Status.PASS} == {}
    assert len(verdict.results) >= 80


def test_what_a_check_wants_tried_becomes_one_line_a_mode() -> None:
    setup = Setup(conflict_actions=("demote_resident_claim", "defer_active", "refuse_active"), defer_limit_s=2.0)
    policy = policy_of(setup)
    assert str(policy.line(ProtectionMode.DEMOTABLE)) == "demote, defer 2s, refuse"
    assert str(policy.line(ProtectionMode.HARD_PROTECTED)) == "defer 2s, refuse"
    with pytest.raises(UsageError, match="not asked for"):
        policy_of(Setup(conflict_actions=("route_elsewhere",)))


def test_the_adapter_is_a_subject() -> None:
    subject: Subject = subject_factory(Setup())
    assert subject.capabilities.usable_blocks == 80


def test_an_unknown_attention_mode_is_refused_and_nothing_is_started() -> None:
    subject = subject_factory(Setup())
    before = len(subject.events())
    with pytest.raises(UsageError, match="attention_mode 'nope'"):
        subject.start_request(RequestAsk(request_id="r", content=(1, 2), live_blocks=2, attention_mode="nope"))
    assert len(subject.events()) == before
