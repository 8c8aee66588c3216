"""What several checks read off a trace or a subject in the same way."""

from __future__ import annotations

from tenure.claims.event_types import EventType
from tenure.conformance.bench import Bench
from tenure.conformance.finding import Finding, inconclusive
from tenure.conformance.ledger import evicted_block
from tenure.conformance.subject import Content, RequestAnswer, RequestOutcome
from tenure.conformance.trace import Trace, TraceEvent

SERVED = RequestOutcome.SERVED
REFUSED = RequestOutcome.REFUSED
DEFERRED = RequestOutcome.DEFERRED
RUNNING = RequestOutcome.RUNNING

CLAIM = "claim:a"
ACTIVE = "active-request"
NOT_PARKED = "The resident could not be claimed and cached, so there was nothing to put under pressure."


def victims_of(trace: Trace, request_id: str | None = None) -> list[TraceEvent]:
    """Events that took a cached block, for this request when one is named."""
    return [
        event
        for event in trace
        if evicted_block(event) is not None and (request_id is None or event.request_id == request_id)
    ]


def harms_of(trace: Trace, claim_id: str | None = None) -> list[TraceEvent]:
    """Harm events, of this claim when one is named."""
    return trace.of(EventType.CLAIM_HARMED, claim_id=claim_id)


def lost_blocks(bench: Bench, content: Content) -> int | None:
    """How many leading blocks of the content a later request does not find. None when that cannot be told.

    Asked of the cache by a request, so it holds whatever the events say.
    """
    reused = bench.reused(content)
    return None if reused is None else max(0, len(content) - reused)


def served(answer: RequestAnswer) -> bool:
    """Whether the request was carried out or is being carried out."""
    return answer.outcome in {SERVED, RUNNING}


def not_reached(what: str) -> Finding:
    """The finding for a situation that did not come about."""
    return inconclusive(what)
