"""How a trace rule is written: a generator that yields a finding for each occasion that the trace gives it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

from tenure.claims.event_types import EventType
from tenure.conformance.check import TraceRule
from tenure.conformance.finding import Finding, Status, inconclusive, passed
from tenure.conformance.ledger import Ledger
from tenure.conformance.profiles import Profile
from tenure.conformance.trace import Trace, TraceEvent

#: Yields `kept()` for an occasion on which the rule was kept, and a failure for one on which it was not.
Rule = Callable[[Trace], Iterator[Finding]]


def moments(trace: Trace) -> Iterator[tuple[TraceEvent, Ledger]]:
    """Each event with the ledger as it stood just before it."""
    ledger = Ledger()
    for event in trace:
        yield event, ledger
        ledger.apply(event)


def about(ledger: Ledger, claim_ids: Iterable[str | None], *events: TraceEvent) -> tuple[int, ...]:
    """Indices to show for a fault: the events, and what each of the claims was accepted on."""
    views = [ledger.claims[name] for name in claim_ids if name is not None and name in ledger.claims]
    accepted = [view.accepted for view in views if view.accepted is not None]
    return tuple(sorted({event.index for event in (*accepted, *events)}))


_KEPT = passed("")


def kept() -> Finding:
    """One occasion, and nothing to object."""
    return _KEPT


def trace_rule(
    rule: Rule,
    *,
    check_id: str,
    title: str,
    clauses: tuple[str, ...],
    occasion: str,
    profile: Profile,
    kinds: frozenset[EventType] = frozenset(),
) -> TraceRule:
    """The rule as something to be graded. Its verdict is its first failure.

    Without any occasion (`occasion` says in words what that would be) it is inconclusive, so that a trace in which
    nothing happened keeps no clause. A trace with no event of these `kinds` is not even replayed.
    """

    def judge(trace: Trace) -> Finding:
        occasions = 0
        for finding in rule(trace) if not kinds or kinds & trace.kinds else ():
            if finding.status is Status.FAIL:
                return finding
            occasions += 1
        if not occasions:
            return inconclusive(f"The trace has no occasion for it: no {occasion}.")
        return passed(f"{occasions} x {occasion}, each as it must be.")

    return TraceRule(check_id=check_id, title=title, clauses=clauses, profile=profile, judge=judge)
