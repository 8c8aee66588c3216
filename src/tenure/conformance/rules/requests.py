"""Rules about requests: what a refusal or deferral owes, that its numbers add up, and that it took nothing."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from types import MappingProxyType

from tenure.claims.event_types import EventType
from tenure.conformance.check import TraceRule
from tenure.conformance.finding import Finding, failed, listed
from tenure.conformance.ledger import PROTECTING_MODES, WAITING, Ledger, evicted_block
from tenure.conformance.profiles import Profile
from tenure.conformance.rules.base import Rule, kept, moments, trace_rule
from tenure.conformance.trace import Trace, TraceEvent

_E = EventType
_ENDED: Mapping[EventType, str] = MappingProxyType(
    {
        _E.REQUEST_REFUSED: "refused",
        _E.REQUEST_ROUTED: "routed",
        _E.REQUEST_FINISHED: "served",
        _E.REQUEST_FAILED: "failed",
    }
)
_OPEN = frozenset({_E.REQUEST_SUBMITTED, _E.REQUEST_ADMITTED, _E.REQUEST_DEFERRED, _E.ACTIVE_LIVE_BOUNDED})
INFEASIBLE = "infeasible_preserve_resident_and_active"
FEASIBLE = "feasible_preserve_resident_and_active"


def _nothing_after_the_end(trace: Trace) -> Iterator[Finding]:
    ended: dict[str, TraceEvent] = {}
    for event in trace:
        if event.request_id is None or event.kind not in {*_ENDED, *_OPEN}:
            continue
        if event.request_id in ended:
            end = ended[event.request_id]
            yield failed(
                "TNR-EVT-005",
                what=f"Event {event.brief()} comes after {end.brief()} had ended that request.",
                why="Nothing follows for a request after it was refused, routed, served or failed.",
                at=(end.index, event.index),
            )
        elif event.kind in _ENDED:
            ended[event.request_id] = event
            yield kept()


def _conflicts(trace: Trace) -> Iterator[tuple[TraceEvent, Ledger, int]]:
    """Refusals and deferrals with their shortfall, those aside that follow from a failed restoration."""
    for event, ledger in moments(trace):
        if event.kind in WAITING and event.text("outcome_claim_id") is None:
            yield event, ledger, event.count("capacity_shortfall_blocks") or 0


def _conflict_told(trace: Trace) -> Iterator[Finding]:
    for event, _, shortfall_blocks in _conflicts(trace):
        wanted = INFEASIBLE if shortfall_blocks else FEASIBLE
        told = event.text("feasibility")
        wrong = [] if event.names("blocking_claim_ids") is not None else ["does not say which claims are in the way"]
        if event.text("arbiter_action") is None:
            wrong.append("names no action of the contract")
        if told != wanted:
            wrong.append(
                f"tells feasibility {told} with capacity_shortfall_blocks {shortfall_blocks}, which is {wanted}"
            )
        if wrong:
            yield failed(
                "TNR-ARB-001",
                what=f"Event {event.brief()} {' and '.join(wrong)}.",
                why="A request that does not fit is answered by an action of the contract, and reported with the conflict: "
                "its shortfall, whether it is feasible, and the claims in the way.",
                at=(event.index,),
            )
        else:
            yield kept()


def _blockers_block(trace: Trace) -> Iterator[Finding]:
    for event, ledger, shortfall_blocks in _conflicts(trace):
        named = event.names("blocking_claim_ids") or ()
        for claim_id in named:
            claim = ledger.claims.get(claim_id)
            if claim is None or not claim.responsible or claim.mode not in PROTECTING_MODES or claim.offloaded:
                yield _misnamed(event, f"claim {claim_id}, which protects nothing on the device at that moment")
            elif not ledger.running and _freed(ledger, frozenset(named) - {claim_id}) >= shortfall_blocks:
                yield _misnamed(
                    event, f"claim {claim_id}, without which the others named already make up the shortfall"
                )
        if named and not shortfall_blocks:
            yield _misnamed(event, f"{listed(named)} as blocking although its shortfall is 0")
        yield kept()


def _misnamed(event: TraceEvent, whom: str) -> Finding:
    return failed(
        "TNR-ARB-004",
        what=f"Event {event.brief()} names {whom}.",
        why="A conflict names the smallest set of claims without which the request would fit, and nobody else.",
        at=(event.index,),
    )


def _freed(ledger: Ledger, claim_ids: frozenset[str]) -> int:
    return len(ledger.protected_blocks()) - len(ledger.protected_blocks(besides=claim_ids))


def _numbers_add_up(trace: Trace) -> Iterator[Finding]:
    for event, _, shortfall_blocks in _conflicts(trace):
        together, usable = event.count("resident_plus_active_blocks"), event.count("usable_blocks")
        parts = [event.count(name) for name in ("protected_resident_blocks", "active_other_live_blocks")]
        required = event.count("active_live_blocks_required")
        if together is None or usable is None or required is None:
            continue
        most = required + sum(part for part in parts if part is not None)
        at_most_known = all(part is not None for part in parts)
        wrong = ""
        if shortfall_blocks != max(0, together - usable):
            wrong = (
                f"a shortfall of {shortfall_blocks}, where max(0, {together} - {usable}) is {max(0, together - usable)}"
            )
        elif at_most_known and together > most:
            wrong = f"a part of each that makes at most {most}: {parts[0]} protected, {parts[1]} of others, {required} required"
        if wrong:
            yield failed(
                "TNR-ARB-005",
                what=f"Event {event.brief()} tells {together} protected and active blocks together, {usable} usable, and "
                f"{wrong}.",
                why="The shortfall is protected plus all active blocks, shared ones once, minus the usable ones.",
                at=(event.index,),
            )
        else:
            yield kept()


def _refused_took_nothing(trace: Trace) -> Iterator[Finding]:
    victims: dict[str, TraceEvent] = {}
    admitted: set[str] = set()
    for event in trace:
        name = event.request_id
        if name is None:
            continue
        if event.kind is _E.REQUEST_ADMITTED:
            admitted.add(name)
        elif evicted_block(event) is not None:
            victims.setdefault(name, event)
        elif event.kind is _E.REQUEST_REFUSED and name not in admitted:
            if name in victims:
                yield _took(victims[name], event)
            yield kept()
    refused = {e.request_id: e for e in trace.of(_E.REQUEST_REFUSED) if e.request_id not in admitted}
    for event in trace:
        if evicted_block(event) is not None and event.request_id in refused:
            yield _took(event, refused[event.request_id])


def _took(victim: TraceEvent, refusal: TraceEvent) -> Finding:
    return failed(
        "TNR-ARB-008",
        what=f"Event {victim.brief()} takes a block for a request that {refusal.brief()} refuses.",
        why="A refused request takes no block.",
        at=tuple(sorted((victim.index, refusal.index))),
    )


def _bounded_stays_bounded(trace: Trace) -> Iterator[Finding]:
    bounds: dict[str, TraceEvent] = {}
    for event in trace:
        name = event.request_id
        if name is not None and event.kind is _E.ACTIVE_LIVE_BOUNDED:
            bounds[name] = event
        bound = None if name is None or name not in bounds else bounds[name].count("active_live_blocks_bounded")
        holds = event.count("active_live_blocks_current")
        if name is None or bound is None or holds is None or event.kind is not _E.REQUEST_ADMITTED:
            continue
        if holds > bound:
            yield failed(
                "TNR-ARB-011",
                what=f"Event {event.brief()} holds {holds} live blocks after {bounds[name].brief()} bounded it to "
                f"{bound}.",
                why="A request that is reported as bounded never holds more than the reported bound.",
                at=(bounds[name].index, event.index),
            )
        else:
            yield kept()


_CONFLICT = "refusal or deferral"
_ABOUT = MappingProxyType({_CONFLICT: frozenset(WAITING)})
_SPECS: tuple[tuple[Rule, str, str, str, str, Profile], ...] = (
    (
        _nothing_after_the_end,
        "trace-request-order",
        "Nothing follows the end of a request",
        "TNR-EVT-005",
        "ended request",
        Profile.OBSERVE,
    ),
    (
        _conflict_told,
        "trace-conflict-told",
        "A conflict is reported with its action, feasibility and numbers",
        "TNR-ARB-001",
        _CONFLICT,
        Profile.HARD,
    ),
    (
        _blockers_block,
        "trace-blockers-block",
        "Only claims that are in the way are named as blocking",
        "TNR-ARB-004",
        _CONFLICT,
        Profile.HARD,
    ),
    (
        _numbers_add_up,
        "trace-shortfall-adds-up",
        "The numbers of a conflict add up to its shortfall",
        "TNR-ARB-005",
        _CONFLICT,
        Profile.HARD,
    ),
    (
        _refused_took_nothing,
        "trace-refused-took-nothing",
        "A refused request takes no block",
        "TNR-ARB-008",
        "refusal",
        Profile.HARD,
    ),
    (
        _bounded_stays_bounded,
        "trace-bound-kept",
        "A bounded request stays within its bound",
        "TNR-ARB-011",
        "bounded request that was admitted",
        Profile.BOUNDED,
    ),
)
RULES: tuple[TraceRule, ...] = tuple(
    trace_rule(
        rule,
        check_id=check_id,
        title=title,
        clauses=(clause,),
        occasion=occasion,
        kinds=_ABOUT.get(occasion, frozenset()),
        profile=profile,
    )
    for rule, check_id, title, clause, occasion, profile in _SPECS
)
