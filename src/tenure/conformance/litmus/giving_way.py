"""Checks about who gives way and how: no more claims than needed, deferrals that end, bounds that hold."""

from __future__ import annotations

from tenure.claims.event_types import EventType
from tenure.conformance.bench import Bench
from tenure.conformance.check import Check, Judge
from tenure.conformance.finding import Finding, counted, failed, inconclusive, listed, passed
from tenure.conformance.ledger import ACCEPTANCES, WAITING
from tenure.conformance.litmus.reading import (
    ACTIVE,
    CLAIM,
    DEFERRED,
    NOT_PARKED,
    SERVED,
    lost_blocks,
    proof,
    served,
    taken_from,
)
from tenure.conformance.litmus.terms import (
    DEFER,
    DEMOTABLE,
    DEMOTE,
    HARD,
    ON_L4,
    REFUSE,
    RELEASE,
    hard,
)
from tenure.conformance.profiles import Profile
from tenure.conformance.reconstruct import reconstruct
from tenure.conformance.subject import Feature, RequestOutcome
from tenure.conformance.trace import Trace

_E = EventType
_B, _C = "claim:b", "claim:c"


def demotes_the_fewest(bench: Bench) -> Judge:
    """Three demotable claims of 20, 10 blocks missing: one gives way."""
    bench.begin(conflict_actions=("demote_resident_claim", "refuse_active"))
    parked = [bench.park(bench.content(20), claim_id=name, mode="demotable") for name in (CLAIM, _B, _C)]
    answer = bench.serve(bench.content(30), request_id=ACTIVE)

    def judge(trace: Trace) -> Finding:
        demoted = trace.of(_E.CLAIM_DEMOTED)
        if not all(parked) or not served(answer) or not demoted:
            return inconclusive(f"The request was {answer.outcome} with {len(demoted)} demotions.")
        if len(demoted) > 1:
            return failed(
                "TNR-ARB-007",
                what=f"{ACTIVE} lacks {bench.blocks(10)} blocks and each of three claims holds {bench.blocks(20)}, so one "
                f"makes room; {listed(sorted(str(event.claim_id) for event in demoted))} were demoted.",
                why="Demotion under pressure ends no more claims than are needed to make room.",
                at=proof(trace, *demoted, *trace.of(_E.REQUEST_ADMITTED, request_id=ACTIVE)),
            )
        return passed("One claim was demoted.")

    return judge


def no_demotion_in_vain(bench: Bench) -> Judge:
    """A demotable claim is left alone when its end would not make room."""
    bench.begin(conflict_actions=("demote_resident_claim", "refuse_active"))
    parked = bench.park(bench.content(20), claim_id=CLAIM, mode="demotable")
    parked = bench.park(bench.content(50), claim_id=_B) and parked
    answer = bench.serve(bench.content(60), request_id=ACTIVE)

    def judge(trace: Trace) -> Finding:
        if not parked:
            return inconclusive(NOT_PARKED)
        demoted = trace.of(_E.CLAIM_DEMOTED, _E.CLAIM_EXPIRED)
        if demoted and not served(answer):
            return failed(
                "TNR-ARB-007",
                what=f"Event {demoted[0].brief()} ends a claim of {bench.blocks(20)} blocks for {ACTIVE}, which needs "
                f"{bench.blocks(60)} beside the {bench.blocks(50)} of {_B}, cannot fit so, and was {answer.outcome}.",
                why="No claim is demoted when that would not make room.",
                at=proof(
                    trace,
                    trace.first(*ACCEPTANCES, claim_id=_B),
                    demoted[0],
                    *trace.of(*WAITING, request_id=ACTIVE),
                ),
            )
        if served(answer):
            return inconclusive("The request was served, so it was not beyond what demotion frees.")
        return passed(f"The request was {answer.outcome}, and the demotable claim was left alone.")

    return judge


def refusal_is_the_last_resort(bench: Bench) -> Judge:
    """With demotion allowed first and enough to make room, the request is served."""
    bench.begin(conflict_actions=("demote_resident_claim", "refuse_active"))
    parked = bench.park(bench.content(60), claim_id=CLAIM, mode="demotable")
    answer = bench.serve(bench.content(70), request_id=ACTIVE)

    def judge(trace: Trace) -> Finding:
        if not parked:
            return inconclusive(NOT_PARKED)
        if not served(answer):
            return failed(
                "TNR-PRG-003",
                what=f"{CLAIM} was accepted as demotable on {bench.blocks(60)} blocks; demoting it was allowed and would have "
                f"made room for the {bench.blocks(70)} of {ACTIVE}, which was {answer.outcome}.",
                why="A request is refused only if no action that the policy allows would serve it.",
                at=proof(trace, *trace.of(*WAITING, request_id=ACTIVE)),
            )
        return passed("The claim was demoted and the request served.")

    return judge


def _deferred(bench: Bench, *, defer_limit_s: float) -> tuple[bool, RequestOutcome]:
    bench.begin(conflict_actions=("defer_active",), defer_limit_s=defer_limit_s)
    parked = bench.park(bench.content(60), claim_id=CLAIM)
    return parked, bench.start(bench.content(70), request_id=ACTIVE).outcome


def deferral_ends(bench: Bench) -> Judge:
    """A deferred request that never fits is refused when its bound has passed."""
    parked, first = _deferred(bench, defer_limit_s=30.0)
    bench.pass_time(seconds=31.0)
    last = bench.finish(ACTIVE).outcome

    def judge(trace: Trace) -> Finding:
        if not parked or first is not DEFERRED or trace.first(_E.REQUEST_DEFERRED, request_id=ACTIVE) is None:
            return inconclusive(f"The request was {first}, not deferred.")
        if trace.first(_E.REQUEST_REFUSED, _E.REQUEST_ROUTED, request_id=ACTIVE) is None or last is DEFERRED:
            return failed(
                "TNR-ARB-010",
                what=f"{ACTIVE} may be deferred for 30 s; 31 s after its deferral it is {last}, and no event admits, refuses "
                "or routes it.",
                why="A deferred request is admitted, refused or routed after a stated bound at the latest.",
                at=proof(trace, *trace.of(_E.REQUEST_DEFERRED, request_id=ACTIVE)),
            )
        return passed("It was refused when its bound had passed.")

    return judge


def deferred_then_served(bench: Bench) -> Judge:
    """A deferred request is served once the claim in its way was released, and the trace tells both."""
    parked, first = _deferred(bench, defer_limit_s=3600.0)
    if parked:
        bench.release(CLAIM)
    bench.pass_time(seconds=1.0)
    last = bench.finish(ACTIVE).outcome

    def judge(trace: Trace) -> Finding:
        if not parked or first is not DEFERRED:
            return inconclusive(f"The request was {first}, not deferred.")
        if last is not SERVED:
            return failed(
                "TNR-PRG-002",
                what=f"{CLAIM}, which was in the way of {ACTIVE}, was released, and the deferred request is {last}.",
                why="A request that fits is served once the claims in its way have ended.",
                at=proof(trace, *trace.of(_E.CLAIM_RELEASED, _E.REQUEST_DEFERRED)),
            )
        told = reconstruct(trace).requests.get(ACTIVE)
        if told is None or told.outcome != "served" or not told.deferrals:
            return failed(
                "TNR-EVT-008",
                what=f"{ACTIVE} was deferred and then served; from the trace alone it is "
                f"{'untold' if told is None else told.outcome} after "
                f"{counted(0 if told is None else told.deferrals, 'deferral')}.",
                why="The trace alone is enough to reconstruct the outcome of every request.",
                at=tuple(event.index for event in trace.of(request_id=ACTIVE)[:2]),
            )
        return passed("It was served after a deferral, and the trace tells both.")

    return judge


def bounded_is_bounded(bench: Bench) -> Judge:
    """60 protected and 70 active: the request is served in the 20 that are left, and the claim stays."""
    bench.begin(conflict_actions=("bound_active_live",))
    resident = bench.content(60)
    parked = bench.park(resident, claim_id=CLAIM)
    answer = bench.serve(bench.content(70), request_id=ACTIVE)
    lost = lost_blocks(bench, resident)
    room = bench.usable_blocks - bench.blocks(60)

    def judge(trace: Trace) -> Finding:
        event = trace.first(_E.ACTIVE_LIVE_BOUNDED, request_id=ACTIVE)
        if not parked or event is None or not served(answer):
            return inconclusive(f"The request was {answer.outcome} and {'not ' if event is None else ''}bounded.")
        bound = event.count("active_live_blocks_bounded")
        if lost or bound is None or bound > room:
            return failed(
                "TNR-ARB-011",
                what=f"{room} blocks are left beside {CLAIM}; {ACTIVE} was bounded to {bound}, and "
                f"{counted(lost or 0, 'claimed block')} went for it.",
                why="A bounded request never holds more live blocks than its bound, and the bound is what fits.",
                at=proof(trace, event, taken_from(trace, ACTIVE), *trace.of(_E.REQUEST_ADMITTED, request_id=ACTIVE)),
            )
        return passed(f"It was served in {bound} blocks, and the claim is whole.")

    return judge


CHECKS: tuple[Check, ...] = (
    hard(
        "demotes-the-fewest",
        "No more claims are demoted than are needed",
        ("TNR-ARB-007",),
        demotes_the_fewest,
        modes=DEMOTABLE,
        actions=DEMOTE,
        rests_on=ON_L4,
    ),
    hard(
        "no-demotion-in-vain",
        "No claim is demoted when that makes no room",
        ("TNR-ARB-007",),
        no_demotion_in_vain,
        modes=DEMOTABLE | HARD,
        actions=DEMOTE | REFUSE,
    ),
    hard(
        "refusal-is-the-last-resort",
        "A request is refused only when nothing allowed would serve it",
        ("TNR-PRG-003",),
        refusal_is_the_last_resort,
        modes=DEMOTABLE,
        actions=DEMOTE | REFUSE,
    ),
    hard(
        "deferral-ends",
        "A deferral ends after its bound",
        ("TNR-ARB-010",),
        deferral_ends,
        actions=DEFER,
        features=frozenset({Feature.CLOCK}),
    ),
    hard(
        "deferred-then-served",
        "A deferred request is served once the claim in its way has ended",
        ("TNR-PRG-002", "TNR-EVT-008"),
        deferred_then_served,
        actions=DEFER,
        features=RELEASE | {Feature.CLOCK},
    ),
    hard(
        "bounded-is-bounded",
        "A bounded request is served in what is left, and the claim stays",
        ("TNR-ARB-011",),
        bounded_is_bounded,
        profile=Profile.BOUNDED,
        actions=frozenset({"bound_active_live"}),
    ),
)
