"""The litmus tests L1 to L7 and C1: 60 residents, 70 active, 80 usable, each made able to fail."""

from __future__ import annotations

from tenure.claims.event_types import EventType
from tenure.conformance.bench import Bench
from tenure.conformance.check import Check, Judge
from tenure.conformance.finding import Finding, counted, failed, inconclusive, listed, passed
from tenure.conformance.litmus.reading import (
    ACTIVE,
    CLAIM,
    NOT_PARKED,
    REFUSED,
    harms_of,
    lost_blocks,
    proof,
    served,
    taken_from,
    victims_of,
)
from tenure.conformance.litmus.terms import HARD, REFUSE
from tenure.conformance.profiles import Profile
from tenure.conformance.reconstruct import reconstruct
from tenure.conformance.subject import Feature, RequestAnswer
from tenure.conformance.trace import Trace

_E = EventType
_ANY_CLAIM_OUTCOME = (_E.CLAIM_ACCEPTED, _E.CLAIM_HARMED, _E.CLAIM_DEMOTED, _E.CLAIM_EXPIRED, _E.CLAIM_BLOCK_LOST)


def no_claim_no_harm(bench: Bench) -> Judge:
    """L1: unclaimed residents are replaced, and nobody calls it harm."""
    bench.begin()
    resident = bench.content(60)
    bench.serve(resident, request_id="resident-request")
    active = bench.serve(bench.content(70), request_id=ACTIVE)
    lost = lost_blocks(bench, resident)

    def judge(trace: Trace) -> Finding:
        told = trace.of(*_ANY_CLAIM_OUTCOME)
        if told:
            return failed(
                "TNR-HRM-001",
                what=f"Nobody submitted a claim, and event {told[0].brief()} speaks of one.",
                why="Without an accepted claim the loss of a block is ordinary replacement.",
                at=(told[0].index,),
            )
        if not served(active) or not (lost or victims_of(trace, ACTIVE)):
            return inconclusive(f"The active request was {active.outcome} and no resident block was replaced.")
        return passed(f"{lost} resident blocks were replaced, and no claim event was written.")

    return judge


def no_admit_is_no_protection(bench: Bench) -> Judge:
    """L2: a request whose rows are not kept still takes its live blocks from residents."""
    bench.begin()
    resident, content = bench.content(60), bench.content(70)
    bench.serve(resident, request_id="resident-request")
    active = bench.serve(content, request_id=ACTIVE, future_reuse=False)
    lost, kept = lost_blocks(bench, resident), bench.reused(content)

    def judge(trace: Trace) -> Finding:
        denied = trace.of(_E.FUTURE_REUSE_DENIED, request_id=ACTIVE)
        taken = len(victims_of(trace, ACTIVE))
        if not served(active) or not (lost or taken):
            return inconclusive(f"The active request was {active.outcome} and no resident block was replaced.")
        if kept or len(denied) != 1:
            return failed(
                "TNR-ARB-006",
                what=f"{ACTIVE} asked for none of its blocks to be kept; {counted(len(denied), 'event')} denied their "
                f"reuse, and a later request found {counted(kept or 0, 'block')} of them.",
                why="Denied reuse is told once and kept, and it protects no resident.",
                at=proof(trace, *denied, *trace.of(_E.BLOCK_MATERIALIZED, request_id=ACTIVE)[:1], claim_id=None),
            )
        claims = trace.of(_E.CLAIM_ACCEPTED, _E.REQUEST_REFUSED)
        if claims:
            return failed(
                "TNR-ARB-006",
                what=f"Event {claims[0].brief()} turns denied reuse into protection that nobody asked for.",
                why="Denying future reuse is not presented as protection of residents.",
                at=(claims[0].index,),
            )
        return passed(
            f"Its reuse was denied once, and {max(taken, lost or 0)} resident blocks were taken all the same."
        )

    return judge


def _conflict(bench: Bench) -> tuple[bool, RequestAnswer, int | None]:
    """60 hard-claimed residents, then 70 active. Whether it was parked, the answer, and residents lost."""
    bench.begin(conflict_actions=("refuse_active",))
    resident = bench.content(60)
    parked = bench.park(resident, claim_id=CLAIM)
    active = bench.serve(bench.content(70), request_id=ACTIVE)
    return parked, active, lost_blocks(bench, resident)


def hard_conflict_is_explicit(bench: Bench) -> Judge:
    """L3: what does not fit is refused, with the claim in the way by name and the true shortfall."""
    parked, active, lost = _conflict(bench)
    usable, required = bench.usable_blocks, bench.blocks(70)
    shortfall = bench.blocks(60) + required - usable

    def judge(trace: Trace) -> Finding:
        if not parked:
            return inconclusive(NOT_PARKED)
        refusal = trace.first(_E.REQUEST_REFUSED, request_id=ACTIVE)
        if served(active) or lost:
            taken = taken_from(trace, ACTIVE)
            return failed(
                "TNR-ARB-003",
                what=f"{CLAIM} was accepted as hard_protected on {bench.blocks(60)} blocks, and {ACTIVE} asks for "
                f"{required} of {usable}: it was {active.outcome}, and a later request misses {lost} of the claimed "
                f"blocks{f', the first of them taken by {taken.brief()}' if taken is not None else ''}.",
                why="No block of a live hard claim is taken without an event that ends or moves the claim first.",
                at=proof(trace, taken, *trace.of(_E.REQUEST_ADMITTED, request_id=ACTIVE)),
            )
        if refusal is None or active.outcome is not REFUSED:
            return failed(
                "TNR-ARB-001",
                what=f"{bench.blocks(60)} blocks of {CLAIM} and {required} of {ACTIVE} do not fit {usable}; the caller was "
                f"told that the request was {active.outcome}, and {'no' if refusal is None else 'an'} event refuses it.",
                why="What does not fit is answered by an action of the contract, and reported with the conflict.",
                at=proof(trace, refusal, *trace.of(request_id=ACTIVE)[-1:]),
            )
        named = refusal.names("blocking_claim_ids")
        if named != (CLAIM,):
            return failed(
                "TNR-ARB-004",
                what=f"Event {refusal.brief()} names {listed(named or ())} as blocking, and only {CLAIM} is in the way.",
                why="A refusal because of claims names the smallest set of claims without which it would fit.",
                at=proof(trace, refusal),
            )
        if refusal.count("capacity_shortfall_blocks") != shortfall:
            return failed(
                "TNR-ARB-005",
                what=f"Event {refusal.brief()} tells a shortfall of {refusal.fields.get('capacity_shortfall_blocks')} "
                f"blocks; {bench.blocks(60)} of {CLAIM} + {required} of {ACTIVE} - {usable} usable is {shortfall}.",
                why="The shortfall is protected plus active blocks minus the usable ones.",
                at=proof(trace, refusal),
            )
        return passed(f"Refused with shortfall {shortfall}, {CLAIM} named, no claimed block taken.")

    return judge


def _release_before_loss(bench: Bench, release: EventType, active: RequestAnswer, lost: int | None) -> Judge:
    def judge(trace: Trace) -> Finding:
        events = trace.of(release, claim_id=CLAIM)
        harms = harms_of(trace, CLAIM)
        told = trace.of(_E.CLAIM_BLOCK_LOST, _E.CLAIM_BLOCK_LOST_AFTER_RELEASE, claim_id=CLAIM)
        taken = taken_from(trace, ACTIVE)
        losses = [*told, *(() if taken is None else (taken,))]
        if harms:
            return failed(
                "TNR-HRM-004",
                what=f"Event {harms[0].brief()} reports harm to a claim that was to give way by a release, and "
                + (
                    f"{events[0].brief()} had released it."
                    if events and events[0].index < harms[0].index
                    else f"no {release.value} came before it."
                ),
                why="A claim gives way by a release that comes before its losses, and is then not harmed by them.",
                at=proof(trace, *events[:1], harms[0]),
            )
        first = min(losses, key=lambda event: event.index, default=None)
        if first is not None and (not events or events[0].index > first.index):
            return failed(
                "TNR-HRM-004",
                what=f"Event {first.brief()} is the first loss of a block of {CLAIM}, and "
                + (f"only then {events[0].brief()} releases the claim." if events else f"no {release.value} is told."),
                why="A release comes before every loss that it excuses.",
                at=proof(trace, first, *events[:1]),
            )
        if len(events) != 1 or not served(active) or not (losses or lost):
            return inconclusive(
                f"{len(events)} x {release.value}, the active request was {active.outcome}, {len(losses)} losses."
            )
        return passed(f"{release.value} came before the first of the losses, and no harm was told.")

    return judge


def demotion_before_loss(bench: Bench) -> Judge:
    """L4: a demotable claim gives way, and says so before any of its blocks goes."""
    bench.begin(conflict_actions=("demote_resident_claim",))
    resident = bench.content(60)
    bench.park(resident, claim_id=CLAIM, mode="demotable")
    active = bench.serve(bench.content(70), request_id=ACTIVE)
    return _release_before_loss(bench, _E.CLAIM_DEMOTED, active, lost_blocks(bench, resident))


def expiry_before_loss(bench: Bench) -> Judge:
    """L5: a claim whose time is over is expired by an event, and only then loses blocks."""
    bench.begin(conflict_actions=("refuse_active",))
    resident = bench.content(60)
    bench.park(resident, claim_id=CLAIM, mode="expiring", duration_s=10.0)
    bench.pass_time(seconds=11.0)
    active = bench.serve(bench.content(70), request_id=ACTIVE)
    return _release_before_loss(bench, _E.CLAIM_EXPIRED, active, lost_blocks(bench, resident))


def trace_reconstructs(bench: Bench) -> Judge:
    """L7: somebody who has only the trace finds out what the caller was told."""
    parked, active, _ = _conflict(bench)

    def judge(trace: Trace) -> Finding:
        if not parked:
            return inconclusive(NOT_PARKED)
        told = reconstruct(trace)
        request, claim = told.requests.get(ACTIVE), told.claims.get(CLAIM)
        want = ("refused", (CLAIM,)) if active.outcome is REFUSED else (active.outcome.value, ())
        seen = (None, ()) if request is None else (request.outcome, request.blocking_claim_ids)
        if claim is None or claim.state != "materialized" or seen != want:
            return failed(
                "TNR-EVT-008",
                what=f"The caller was told that {ACTIVE} was {_ending(*want)}, and nobody that {CLAIM} had ended; from the "
                f"trace alone the request is {_ending(*seen)}, and the claim is {'untold' if claim is None else claim.state}.",
                why="The trace alone is enough to reconstruct the outcome of every claim and every request.",
                at=proof(
                    trace, *trace.of(_E.REQUEST_ADMITTED, _E.REQUEST_REFUSED, request_id=ACTIVE), *harms_of(trace)
                ),
            )
        return passed(f"The trace alone tells {seen[0]} because of {CLAIM}, as the caller was told.")

    return judge


def _ending(outcome: str | None, blocking: tuple[str, ...]) -> str:
    because = f" because of {listed(blocking)}" if blocking else " with no claim named" if outcome == "refused" else ""
    return f"{outcome or 'untold'}{because}"


def order_is_no_protection(bench: Bench) -> Judge:
    """C1: a hard claim must stand where an order of victims has run out."""
    kept_by_order = _kept(bench, active_of_80=40)
    kept_under_all = _kept(bench, active_of_80=75)

    def judge(trace: Trace) -> Finding:
        if kept_by_order is None or kept_under_all is None:
            return inconclusive("The resident could not be claimed, or the subject cannot tell what it still has.")
        harms, taken = harms_of(trace, CLAIM), taken_from(trace, ACTIVE)
        if not kept_under_all:
            return failed(
                "TNR-ACC-008",
                what=f"{CLAIM} was accepted as hard_protected. "
                + (
                    "It survives a request that other blocks can make room for, but"
                    if kept_by_order
                    else "It loses blocks to a request that other blocks could make room for, and"
                )
                + " once no other block is left its own are taken"
                + (f", as {taken.brief()} shows." if taken is not None else "."),
                why="A hard claim is not kept by an order of victims only: an order runs out.",
                at=proof(trace, taken, *harms[:1]),
            )
        return passed("It stands when other blocks can be taken, and when none can.")

    return judge


def _kept(bench: Bench, *, active_of_80: int) -> bool | None:
    """30 claimed and 30 unclaimed residents under this much active work: whether the claimed are all there after it."""
    bench.begin(conflict_actions=("refuse_active",))
    claimed = bench.content(30)
    if not bench.park(claimed, claim_id=CLAIM):
        return None
    bench.serve(bench.content(30))
    bench.serve(bench.content(active_of_80), request_id=ACTIVE)
    lost = lost_blocks(bench, claimed)
    return None if lost is None else lost == 0


_PRESSURE = frozenset({Feature.REUSED_BLOCKS})

CHECKS: tuple[Check, ...] = (
    Check(
        check_id="L1",
        title="Without an accepted claim there is no harm",
        clauses=("TNR-HRM-001",),
        profile=Profile.OBSERVE,
        drive=no_claim_no_harm,
        rests_on=("request-served",),
    ),
    Check(
        check_id="L2",
        title="Denying future reuse is no protection of residents",
        clauses=("TNR-ARB-006",),
        profile=Profile.OBSERVE,
        drive=no_admit_is_no_protection,
        features=_PRESSURE,
        rests_on=("request-served",),
    ),
    Check(
        check_id="L3",
        title="A hard claim makes infeasibility explicit",
        clauses=("TNR-ARB-001", "TNR-ARB-003", "TNR-ARB-004", "TNR-ARB-005", "TNR-CAP-001"),
        profile=Profile.HARD,
        drive=hard_conflict_is_explicit,
        modes=HARD,
        actions=REFUSE,
        rests_on=("claim-accepted",),
    ),
    Check(
        check_id="L4",
        title="Demotion comes before the loss",
        clauses=("TNR-HRM-004",),
        profile=Profile.LEASE,
        drive=demotion_before_loss,
        modes=frozenset({"demotable"}),
        actions=frozenset({"demote_resident_claim"}),
        rests_on=("claim-accepted",),
    ),
    Check(
        check_id="L5",
        title="Expiry comes before the loss",
        clauses=("TNR-HRM-004",),
        profile=Profile.LEASE,
        drive=expiry_before_loss,
        modes=frozenset({"expiring"}),
        features=frozenset({Feature.CLOCK}),
        rests_on=("claim-accepted",),
    ),
    Check(
        check_id="L7",
        title="The trace alone reconstructs the outcome",
        clauses=("TNR-EVT-008",),
        profile=Profile.HARD,
        drive=trace_reconstructs,
        modes=HARD,
        actions=REFUSE,
        rests_on=("claim-accepted",),
    ),
    Check(
        check_id="C1",
        title="An order of victims is no hard protection",
        clauses=("TNR-ACC-008",),
        profile=Profile.HARD,
        drive=order_is_no_protection,
        modes=HARD,
        features=_PRESSURE,
        rests_on=("claim-accepted",),
    ),
)
