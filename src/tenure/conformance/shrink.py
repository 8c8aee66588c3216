"""Shrinks a failing trace to few events that still show the same fault.

What is never removed: the events at fault, and every step in the life of the claims and requests that they name, since
without a release, say, another fault than the one that was found would appear. Everything else is removed by delta
debugging: Zeller and Hildebrandt, "Simplifying and Isolating Failure-Inducing Input", IEEE TSE 28(2), 2002.
"""

from __future__ import annotations

from tenure.claims.event_types import EventType
from tenure.conformance.check import Judge
from tenure.conformance.finding import Finding
from tenure.conformance.trace import Trace, TraceEvent

_BLOCK_LINES = frozenset(
    {
        EventType.BLOCK_MATERIALIZED,
        EventType.VICTIM_SELECTED,
        EventType.CLAIM_BLOCK_LOST,
        EventType.CLAIM_BLOCK_LOST_AFTER_RELEASE,
    }
)


def shrink(trace: Trace, judge: Judge, fault: Finding) -> Trace:
    """A part of `trace` on which `judge` finds the same clause broken at the same events, one-minimal where it can be.

    Returns the whole trace when not even all of it shows the fault (which then lies in answers, not in events).
    Cost: O(n²) calls of the judge at worst, O(log n) when the core alone shows the fault.
    """
    if not judge(trace).same_fault(fault):
        return trace
    core = _core(trace, fault)
    rest = [event.index for event in trace if event.index not in core]
    chunk = max(1, len(rest))
    while rest:
        for start in range(0, len(rest), chunk):
            fewer = rest[:start] + rest[start + chunk :]
            if judge(trace.within((*core, *fewer))).same_fault(fault):
                rest = fewer
                break
        else:
            if chunk == 1:
                break
            chunk = (chunk + 1) // 2
            continue
        chunk = max(1, min(chunk, len(rest)))
    return trace.within((*core, *rest))


def _core(trace: Trace, fault: Finding) -> frozenset[int]:
    at = [event for event in trace if event.index in fault.at]
    claims = {name for event in at for name in _claims_of(event)}
    requests = {event.request_id for event in at} - {None}
    return frozenset(
        event.index
        for event in trace
        if event in at
        or (
            event.kind not in _BLOCK_LINES
            and (not at or event.claim_id in claims or (event.claim_id is None and event.request_id in requests))
        )
    )


def _claims_of(event: TraceEvent) -> set[str]:
    return {event.claim_id} - {None} | set(event.names("blocking_claim_ids") or ())  # type: ignore[return-value]
