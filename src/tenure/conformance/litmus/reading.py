"""What several checks read off a trace or a subject in the same way."""

from __future__ import annotations

from tenure.claims.event_types import EventType
from tenure.conformance.bench import Bench
from tenure.conformance.finding import Finding, inconclusive
from tenure.conformance.ledger import ACCEPTANCES, LOSSES, Ledger, evicted_block
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


def proof(trace: Trace, *events: TraceEvent | None, claim_id: str | None = CLAIM) -> tuple[int, ...]:
    """Indices to show for a fault: these events, and before them what the claim was accepted on. None is left out."""
    accepted = None if claim_id is None else trace.first(*ACCEPTANCES, claim_id=claim_id)
    return tuple(sorted({event.index for event in (accepted, *events) if event is not None}))


def taken_from(trace: Trace, request_id: str, *, claim_id: str = CLAIM) -> TraceEvent | None:
    """The first event that takes a block of the claim for this request, or of anybody when the trace tells no claim's."""
    ledger = Ledger()
    for event in trace:
        physical = evicted_block(event)
        claim = ledger.claims.get(claim_id)
        if physical is None or event.request_id != request_id or claim is None:
            ledger.apply(event)
            continue
        if not claim.ever_blocks or claim.positions_in(physical) or physical in claim.given_up:
            return event
        ledger.apply(event)
    return None


def block_line(trace: Trace, position: int, *, claim_id: str = CLAIM) -> TraceEvent | None:
    """The last line that says that this position of the claim is cached."""
    lines = trace.of(EventType.BLOCK_MATERIALIZED, claim_id=claim_id)
    return next((line for line in reversed(lines) if line.count("logical_block_position") == position), None)


def loss_of(trace: Trace, position: int, *, claim_id: str = CLAIM) -> TraceEvent | None:
    """The event that takes this position of the claim: a loss of the claim's own, or a victim that held it."""
    ledger = Ledger()
    for event in trace:
        claim, physical = ledger.claims.get(claim_id), evicted_block(event)
        if claim is not None and physical is not None and position in claim.positions_in(physical):
            return event
        told = event.kind in LOSSES and event.claim_id == claim_id
        if told and event.count("logical_block_position") == position:
            return event
        ledger.apply(event)
    return None
