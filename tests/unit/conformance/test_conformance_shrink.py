from __future__ import annotations

import pytest

from tenure.claims.event_types import EventType
from tenure.conformance import grade
from tenure.conformance.grade import grade_trace
from tenure.conformance.rules import TRACE_RULES
from tenure.conformance.shrink import shrink
from tenure.conformance.subject import ClaimAsk, RequestAsk, Setup
from tenure.conformance.trace import Trace, trace_of
from tenure.conformance.zoo import zoo_member
from tenure.conformance.zoo.toy import ToyRuntime

RULES = {rule.check_id: rule for rule in TRACE_RULES}


def pressed(kind: type[ToyRuntime]) -> Trace:
    """A demotable claim of 60 of 80 blocks, then 70 active, among neighbours that have nothing to do with it."""
    subject = kind(Setup(conflict_actions=("demote_resident_claim",)))
    for size in (3, 5):
        subject.apply_pressure(blocks=size)
    content = tuple(range(60))
    subject.submit_claim(
        ClaimAsk(
            claim_id="claim:a",
            owner_scope="o",
            prefix_id="p",
            content=content,
            footprint_blocks=60,
            protection_mode="demotable",
            required_blocks=60,
        )
    )
    for name, labels in (("first", content), ("active", tuple(range(100, 170)))):
        subject.start_request(RequestAsk(request_id=name, content=labels, live_blocks=len(labels)))
        subject.finish_request(name)
    return trace_of(subject.events())


def late_demoter() -> type[ToyRuntime]:
    factory = zoo_member("late-demoter").factory
    assert isinstance(factory, type)
    assert issubclass(factory, ToyRuntime)
    return factory


def test_a_shrunk_trace_shows_the_same_fault_and_leaves_the_bystanders_out() -> None:
    trace, rule = pressed(late_demoter()), RULES["trace-release-first"]
    fault = rule.judge(trace)
    assert fault.failed
    part = shrink(trace, rule.judge, fault)
    assert rule.judge(part).same_fault(fault)
    assert len(part) < len(trace) / 2
    assert not [event for event in part if (event.request_id or "").startswith("neighbour")]


def test_no_single_event_can_be_left_out_of_what_was_shrunk_but_for_lives_of_those_it_names() -> None:
    trace, rule = pressed(late_demoter()), RULES["trace-release-first"]
    fault = rule.judge(trace)
    part = shrink(trace, rule.judge, fault)
    blocks = [event for event in part if event.kind is EventType.BLOCK_MATERIALIZED]
    assert len(blocks) == 60
    for event in blocks:
        fewer = part.within(other.index for other in part if other is not event)
        assert not rule.judge(fewer).same_fault(fault)


def test_the_release_that_excuses_a_loss_is_never_shrunk_away() -> None:
    trace = pressed(ToyRuntime)
    for rule in TRACE_RULES:
        assert not rule.judge(trace).failed
    without = trace.within(event.index for event in trace if event.kind is not EventType.CLAIM_DEMOTED)
    faults = {rule.check_id: rule.judge(without) for rule in TRACE_RULES if rule.judge(without).failed}
    assert (
        "trace-after-release-means-it" in faults
    )  # leaving the excuse out makes another fault, which is why it stays in
    fault = faults["trace-after-release-means-it"]
    part = shrink(without, RULES["trace-after-release-means-it"].judge, fault)
    lives = [
        event.kind for event in part if event.claim_id == "claim:a" and event.kind is not EventType.BLOCK_MATERIALIZED
    ]
    assert EventType.CLAIM_SUBMITTED in lives
    assert EventType.CLAIM_ACCEPTED in lives


def test_a_part_of_a_trace_is_not_failed_for_the_numbers_that_were_left_out() -> None:
    trace = pressed(ToyRuntime)
    part = trace.within(range(0, len(trace), 3))
    assert not RULES["trace-sequence-unbroken"].judge(part).failed


@pytest.mark.parametrize("name", ["silent-evictor", "event-dropper", "nameless-refuser", "hides-the-failure"])
def test_witnesses_are_parts_of_the_trace_that_they_are_from(name: str) -> None:
    member = zoo_member(name)
    for result in grade(member.factory, profiles=member.profiles).failures:
        assert result.witness is not None
        numbers = [record["event_sequence"] for record in result.witness.records]
        assert numbers == sorted(numbers, key=int)  # type: ignore[call-overload]


def test_a_witness_of_a_trace_rule_fails_alone_when_it_is_graded_as_a_trace() -> None:
    verdict = grade_trace(pressed(late_demoter()))
    result = next(r for r in verdict.failures if r.check_id == "trace-release-first")
    assert result.witness is not None
    again = RULES["trace-release-first"].judge(trace_of(result.witness.records))
    assert again.clause_id == result.broken_clause
