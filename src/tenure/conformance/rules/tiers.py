"""Rules about the slower tier: generations, the order of restoration, and what a failed one owes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from types import MappingProxyType

from tenure.claims.event_types import EventType
from tenure.conformance.check import TraceRule
from tenure.conformance.finding import Finding, failed
from tenure.conformance.ledger import AWAY_STATES
from tenure.conformance.profiles import Profile
from tenure.conformance.rules.base import Rule, kept, moments, trace_rule
from tenure.conformance.trace import Trace, TraceEvent

_E = EventType
#: Each step of a restoration and the one that must come before it within the same generation.
_BEFORE: Mapping[EventType, EventType] = MappingProxyType(
    {
        _E.CLAIM_RESTORE_REQUIRED: _E.CLAIM_OFFLOADED,
        _E.CLAIM_RESTORED: _E.CLAIM_RESTORE_REQUIRED,
        _E.CLAIM_RESTORATION_FAILED: _E.CLAIM_RESTORE_REQUIRED,
        _E.CLAIM_REUSE_AFTER_RESTORE: _E.CLAIM_RESTORED,
    }
)
_OUTCOMES: Mapping[str, EventType] = MappingProxyType(
    {
        "refusal": _E.REQUEST_REFUSED,
        "demotion": _E.CLAIM_DEMOTED,
        "expiry": _E.CLAIM_EXPIRED,
        "harm": _E.CLAIM_HARMED,
    }
)


def _generations(trace: Trace) -> Iterator[Finding]:
    current: dict[str, int] = {}
    for event, ledger in moments(trace):
        if ledger.takes_over(event) and event.claim_id is not None:
            current[event.claim_id] = event.count("offload_generation") or 0
        if event.claim_id is None or event.kind not in {_E.CLAIM_OFFLOADED, *_BEFORE}:
            continue
        known = current.get(event.claim_id, 0)
        wanted = known + 1 if event.kind is _E.CLAIM_OFFLOADED else known
        told = event.count("offload_generation")
        if told != wanted:
            clause = "TNR-TIER-004" if event.kind is _E.CLAIM_OFFLOADED else "TNR-EVT-004"
            yield failed(
                clause,
                what=f"Event {event.brief()} names offload generation {told} where it is {wanted}.",
                why="Generations count from 1, each offload begins the next, and every tier event names the current.",
                at=(event.index,),
            )
        else:
            yield kept()
        current[event.claim_id] = wanted


def _restoration_order(trace: Trace) -> Iterator[Finding]:
    last: dict[tuple[str, int | None], EventType] = {}
    for event, ledger in moments(trace):
        if ledger.takes_over(event) and event.claim_id is not None and event.text("claim_status") in AWAY_STATES:
            last[event.claim_id, event.count("offload_generation")] = _E.CLAIM_OFFLOADED
        if event.claim_id is None or event.kind is None or event.kind not in {_E.CLAIM_OFFLOADED, *_BEFORE}:
            continue
        key = (event.claim_id, event.count("offload_generation"))
        needed, found = _BEFORE.get(event.kind), last.get(key)
        repeated = event.kind is _E.CLAIM_RESTORE_REQUIRED and found is _E.CLAIM_RESTORATION_FAILED
        again = event.kind is _E.CLAIM_REUSE_AFTER_RESTORE and found is _E.CLAIM_REUSE_AFTER_RESTORE
        if needed is not None and found is not needed and not repeated and not again:
            yield failed(
                "TNR-TIER-003",
                what=f"Event {event.brief()} comes in offload generation {key[1]} after "
                f"{'no event of that generation' if found is None else found.value}, where {needed.value} must come first.",
                why="Within one generation the order is offloaded, restore required, restored, reused.",
                at=(event.index,),
            )
        else:
            yield kept()
        last[key] = event.kind


def _restored_means_it(trace: Trace) -> Iterator[Finding]:
    for event in trace:
        if event.kind is not _E.CLAIM_RESTORED:
            continue
        source = event.text("restoration_source")
        if event.flag("restored_from_offload_tier") is not True or source == "recompute":
            yield failed(
                "TNR-TIER-005",
                what=f"Event {event.brief()} is called a restoration, and "
                + (
                    "does not say whether the rows came from the tier."
                    if source is None and event.flag("restored_from_offload_tier") is None
                    else f"says that the rows come from {source or 'elsewhere'} and restored_from_offload_tier is "
                    f"{event.flag('restored_from_offload_tier')}."
                ),
                why="Recomputed rows are not reported as restored: that is the miss the claim was to prevent.",
                at=(event.index,),
            )
        else:
            yield kept()


def _failure_has_outcome(trace: Trace) -> Iterator[Finding]:
    for event in trace.of(_E.CLAIM_RESTORATION_FAILED):
        outcome = _outcome_of(trace, event)
        if outcome is None:
            yield failed(
                "TNR-LOAD-001",
                what=f"Event {event.brief()} announces {event.text('outcome_type')}, and no such event of that claim "
                "follows.",
                why="A failed restoration leads to refusal, demotion, expiry or harm, and that is an event too.",
                at=(event.index,),
            )
        else:
            yield kept()


def _failure_blames_its_claim(trace: Trace) -> Iterator[Finding]:
    for event in trace.of(_E.CLAIM_RESTORATION_FAILED):
        told = event.text("outcome_claim_id")
        outcome = _outcome_of(trace, event)
        blamed = () if outcome is None else outcome.names("blocking_claim_ids") or ()
        strangers = sorted({told, *blamed} - {event.claim_id, None}, key=str)
        if strangers:
            yield failed(
                "TNR-LOAD-002",
                what=f"Event {event.brief()} is followed by an outcome for {', '.join(map(str, strangers))}.",
                why="A failed restoration of one claim leads to no outcome for another.",
                at=(event.index,) if outcome is None else (event.index, outcome.index),
            )
        else:
            yield kept()


def _outcome_of(trace: Trace, failure: TraceEvent) -> TraceEvent | None:
    kind = _OUTCOMES.get(failure.text("outcome_type") or "")
    for event in trace:
        if event.index <= failure.index or event.kind is not kind or kind is None:
            continue
        if kind is _E.REQUEST_REFUSED:
            names = {event.text("outcome_claim_id"), *(event.names("blocking_claim_ids") or ())}
            linked = event.count("restoration_failure_event_sequence") == failure.sequence
            if (linked or failure.claim_id in names) and failure.request_id in {None, event.request_id}:
                return event
        elif event.claim_id == failure.claim_id:
            return event
    return None


_RESTORE = "tier event"
_FAILURE = "failed restoration"
_SPECS: tuple[tuple[Rule, str, str, str, str], ...] = (
    (
        _restoration_order,
        "trace-restoration-order",
        "A claim is restored before it is reused",
        "TNR-TIER-003",
        _RESTORE,
    ),
    (
        _restored_means_it,
        "trace-restored-means-it",
        "Recomputed rows are not called restored",
        "TNR-TIER-005",
        "restoration",
    ),
    (_failure_has_outcome, "trace-failure-has-outcome", "A failed restore has an outcome", "TNR-LOAD-001", _FAILURE),
    (
        _failure_blames_its_claim,
        "trace-failure-blames-its-claim",
        "A failed restore blames the claim that it was for",
        "TNR-LOAD-002",
        _FAILURE,
    ),
)
RULES: tuple[TraceRule, ...] = (
    trace_rule(
        _generations,
        check_id="trace-offload-generations",
        title="Tier events name the current offload generation, counted from 1",
        clauses=("TNR-EVT-004", "TNR-TIER-004"),
        occasion=_RESTORE,
        profile=Profile.TIERED,
    ),
    *(
        trace_rule(rule, check_id=check_id, title=title, clauses=(clause,), occasion=occasion, profile=Profile.TIERED)
        for rule, check_id, title, clause, occasion in _SPECS
    ),
)
