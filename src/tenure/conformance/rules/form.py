"""Rules about the trace as a document: whole, in order, well-formed."""

from __future__ import annotations

from collections.abc import Iterator

from tenure.claims.event_types import WITHDRAWN_EVENTS, EventType
from tenure.claims.events import Event
from tenure.conformance.check import TraceRule
from tenure.conformance.finding import Finding, failed
from tenure.conformance.profiles import Profile
from tenure.conformance.rules.base import kept, moments, trace_rule
from tenure.conformance.trace import Trace, TraceEvent
from tenure.errors import TraceError


def _well_formed(trace: Trace) -> Iterator[Finding]:
    for event in trace:
        if event.name in WITHDRAWN_EVENTS:
            continue
        try:
            Event.from_record(event.fields)
        except TraceError as error:
            yield failed(
                "TNR-EVT-001",
                what=f"Event {event.brief()} is not of its form: {error}.",
                why="Every event carries the common fields and those of its type, so that nothing has to be guessed.",
                at=(event.index,),
            )
        else:
            yield kept()


def _unbroken(trace: Trace) -> Iterator[Finding]:
    before: TraceEvent | None = None
    last_index = -1
    for event in trace:
        neighbours = event.index == last_index + 1  # in a part of a trace, not all are
        last_index = event.index
        if event.name in WITHDRAWN_EVENTS and event.sequence is None:
            continue
        expected = 0 if before is None else (before.sequence or 0) + 1
        told_lost = event.count("lost_events") if event.kind is EventType.TELEMETRY_GAP else 0
        if neighbours and event.sequence != expected + (told_lost or 0):
            yield failed(
                "TNR-EVT-002",
                what=f"Event {event.brief()} has event_sequence {event.sequence} where {expected} comes next.",
                why="Numbers run from 0 without gaps or repeats, because a gap is where a loss would hide.",
                at=(event.index,) if before is None else (before.index, event.index),
            )
            return
        yield kept()
        before = event


def _named_before(trace: Trace) -> Iterator[Finding]:
    for event, ledger in moments(trace):
        named = set(event.names("blocking_claim_ids") or ())
        begins = event.kind is EventType.CLAIM_SUBMITTED or ledger.takes_over(event)
        if not begins and event.claim_id is not None:
            named.add(event.claim_id)
        for claim_id in sorted(named):
            if claim_id in ledger.claims:
                yield kept()
            else:
                yield failed(
                    "TNR-EVT-007",
                    what=f"Event {event.brief()} names claim {claim_id}, which no event before it submits.",
                    why="A claim is named before what it accounts for; afterwards anything can be explained.",
                    at=(event.index,),
                )


RULES: tuple[TraceRule, ...] = (
    trace_rule(
        _well_formed,
        check_id="trace-events-well-formed",
        title="Every event carries the fields of its type, in their shapes",
        clauses=("TNR-EVT-001",),
        occasion="event",
        profile=Profile.OBSERVE,
    ),
    trace_rule(
        _unbroken,
        check_id="trace-sequence-unbroken",
        title="Sequence numbers run from 0 without gaps or repeats",
        clauses=("TNR-EVT-002",),
        occasion="event",
        profile=Profile.OBSERVE,
    ),
    trace_rule(
        _named_before,
        check_id="trace-no-post-hoc-claim",
        title="A claim is named before the events that it accounts for",
        clauses=("TNR-EVT-007",),
        occasion="event that names a claim",
        profile=Profile.LEASE,
    ),
)
