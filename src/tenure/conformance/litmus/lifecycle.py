"""Checks about how claims are shared, renewed, released, and ended by reset and restart."""

from __future__ import annotations

from tenure.claims.event_types import EventType
from tenure.conformance.bench import REJECTED, Bench
from tenure.conformance.check import Check, Judge
from tenure.conformance.finding import Finding, counted, failed, inconclusive, listed, passed
from tenure.conformance.ledger import ACCEPTANCES, ENDINGS
from tenure.conformance.litmus.reading import ACTIVE, CLAIM, NOT_PARKED, lost_blocks, proof, served, taken_from
from tenure.conformance.litmus.terms import HARD, ON_CLAIMS, RELEASE
from tenure.conformance.profiles import Profile
from tenure.conformance.subject import Feature
from tenure.conformance.trace import Trace

_E = EventType
_OTHER = "claim:b"


def shared_counted_once(bench: Bench) -> Judge:
    """Two claims on the same 60 blocks protect 60 blocks, so both fit a pool of 80."""
    bench.begin()
    content = bench.content(60)
    parked = bench.park(content, claim_id=CLAIM)
    second = bench.claim(content, claim_id=_OTHER)

    def judge(trace: Trace) -> Finding:
        if not parked:
            return inconclusive(NOT_PARKED)
        if second.decision != "accepted":
            return failed(
                "TNR-CAP-002",
                what=f"{CLAIM} covers {len(content)} of {bench.usable_blocks} blocks; {_OTHER}, which covers the same ones, "
                f"was {second.decision}: {second.reason}.",
                why="A block that several claims cover is counted as protected once.",
                at=proof(trace, *trace.of(claim_id=_OTHER)[-1:]),
            )
        return passed("Both claims on the same blocks were accepted.")

    return judge


def shared_outlives_a_release(bench: Bench) -> Judge:
    """Releasing one of two claims on the same blocks leaves them protected by the other."""
    bench.begin(conflict_actions=("refuse_active",))
    content = bench.content(60)
    parked = bench.park(content, claim_id=CLAIM)
    second = bench.claim(content, claim_id=_OTHER)
    if parked:
        bench.release(CLAIM)
    active = bench.serve(bench.content(70), request_id=ACTIVE)
    lost = lost_blocks(bench, content)

    def judge(trace: Trace) -> Finding:
        if not parked or second.decision == REJECTED:
            return inconclusive(f"The second claim on the same blocks was {second.decision}.")
        if served(active) or lost:
            return failed(
                "TNR-CAP-003",
                what=f"{CLAIM} and {_OTHER} cover the same {len(content)} blocks, and only {CLAIM} was released; {ACTIVE} was "
                f"{active.outcome}, and a later request misses {lost} of the blocks that {_OTHER} still covers.",
                why="A block that several claims cover stays protected until the last of them has ended.",
                at=proof(
                    trace,
                    trace.first(*ACCEPTANCES, claim_id=_OTHER),
                    *trace.of(_E.CLAIM_RELEASED),
                    taken_from(trace, ACTIVE, claim_id=_OTHER),
                ),
            )
        refusal = trace.first(_E.REQUEST_REFUSED, request_id=ACTIVE)
        named = () if refusal is None else refusal.names("blocking_claim_ids") or ()
        if refusal is not None and named != (_OTHER,):
            return failed(
                "TNR-ARB-004",
                what=f"{CLAIM} was released and only {_OTHER} still protects; event {refusal.brief()} names {listed(named)} as "
                "blocking.",
                why="A refusal because of claims names the smallest set of claims without which it would fit.",
                at=proof(trace, trace.first(*ACCEPTANCES, claim_id=_OTHER), *trace.of(_E.CLAIM_RELEASED), refusal),
            )
        return passed(f"The blocks stayed, and {_OTHER} was named.")

    return judge


def owner_release_ends(bench: Bench) -> Judge:
    """A released claim protects nothing more, and its later losses are losses after release."""
    bench.begin(conflict_actions=("refuse_active",))
    content = bench.content(60)
    parked = bench.park(content, claim_id=CLAIM)
    if parked:
        bench.release(CLAIM)
    active = bench.serve(bench.content(70), request_id=ACTIVE)

    def judge(trace: Trace) -> Finding:
        if not parked:
            return inconclusive(NOT_PARKED)
        if trace.first(_E.CLAIM_RELEASED, claim_id=CLAIM) is None:
            return failed(
                "TNR-LIFE-004",
                what=f"The owner of {CLAIM} released it, and no event says so.",
                why="A cancellation is reported as released.",
                at=proof(trace, *trace.of(claim_id=CLAIM)[-1:]),
            )
        if not served(active):
            return failed(
                "TNR-PRG-002",
                what=f"{CLAIM}, the only claim, was released; {ACTIVE} then asks for {bench.blocks(70)} of "
                f"{bench.usable_blocks} blocks and was {active.outcome}.",
                why="A request that fits is served once the claims in its way have ended.",
                at=proof(trace, *trace.of(_E.CLAIM_RELEASED, _E.REQUEST_REFUSED, _E.REQUEST_DEFERRED)),
            )
        return passed("It was told as released, and the request was served.")

    return judge


def ended_id_not_reused(bench: Bench) -> Judge:
    """The id of a released claim is not accepted for another one."""
    bench.begin()
    parked = bench.park(bench.content(20), claim_id=CLAIM)
    if parked:
        bench.release(CLAIM)
    again = bench.claim(bench.content(20), claim_id=CLAIM, revision=2)

    def judge(trace: Trace) -> Finding:
        if not parked:
            return inconclusive(NOT_PARKED)
        if again.decision != REJECTED:
            return failed(
                "TNR-LIFE-002",
                what=f"{CLAIM} was released, and another claim under that id was {again.decision}.",
                why="The id of an ended claim is not used for another claim.",
                at=tuple(event.index for event in trace.of(_E.CLAIM_RELEASED, *ACCEPTANCES, claim_id=CLAIM)),
            )
        return passed(f"The second claim under that id was rejected: {again.reason}.")

    return judge


def renewal_extends(bench: Bench) -> Judge:
    """A renewal in time moves the end: the claim stands past its first duration and ends after the second."""
    bench.begin(conflict_actions=("refuse_active",))
    content = bench.content(60)
    parked = bench.park(content, claim_id=CLAIM, mode="expiring", duration_s=10.0)
    bench.pass_time(seconds=6.0)
    renewed = bench.claim(content, claim_id=CLAIM, mode="expiring", duration_s=10.0, revision=2)
    bench.pass_time(seconds=6.0)
    early = bench.serve(bench.content(70), request_id="early-request")
    bench.pass_time(seconds=6.0)
    late = bench.serve(bench.content(70), request_id="late-request")

    def judge(trace: Trace) -> Finding:
        if not parked or renewed.decision == REJECTED:
            return inconclusive(f"The renewal was {renewed.decision}: {renewed.reason}.")
        expired = trace.of(_E.CLAIM_EXPIRED, claim_id=CLAIM)
        if served(early) or not served(late) or len(expired) != 1:
            return failed(
                "TNR-LIFE-005",
                what=f"{CLAIM} was accepted for 10 s and renewed for 10 s at 6 s, so it ends at 16 s; early-request, which does "
                f"not fit beside it, was {early.outcome} at 12 s, late-request {late.outcome} at 18 s, and "
                f"{counted(len(expired), 'event')} expired the claim.",
                why="A claim stands until the duration in force has passed and is then expired, once.",
                at=proof(
                    trace,
                    trace.first(_E.CLAIM_RENEWED, claim_id=CLAIM),
                    taken_from(trace, "early-request"),
                    *trace.of(_E.REQUEST_ADMITTED, _E.REQUEST_REFUSED, request_id="early-request"),
                    *trace.of(_E.REQUEST_ADMITTED, _E.REQUEST_REFUSED, request_id="late-request"),
                    *expired,
                ),
            )
        return passed("It stood at 12 s and was expired at 18 s.")

    return judge


def renewal_races_expiry(bench: Bench) -> Judge:
    """A renewal that arrives at the very end comes too late."""
    bench.begin(conflict_actions=("refuse_active",))
    content = bench.content(60)
    parked = bench.park(content, claim_id=CLAIM, mode="expiring", duration_s=10.0)
    bench.pass_time(seconds=10.0)
    renewed = bench.claim(content, claim_id=CLAIM, mode="expiring", duration_s=10.0, revision=2)

    def judge(trace: Trace) -> Finding:
        if not parked:
            return inconclusive(NOT_PARKED)
        expired = trace.first(_E.CLAIM_EXPIRED, claim_id=CLAIM)
        if renewed.decision != REJECTED or expired is None:
            return failed(
                "TNR-LIFE-005",
                what=f"{CLAIM} was accepted for 10 s; a renewal that came 10 s later was {renewed.decision}, and "
                f"{'no event' if expired is None else 'an event'} expired the claim.",
                why="A claim expires once its duration has passed, and a renewal at or after that moment comes too late.",
                at=proof(trace, *trace.of(_E.CLAIM_RENEWED, claim_id=CLAIM), expired, trace.of(*ACCEPTANCES)[-1]),
            )
        return passed(f"The claim expired, and the renewal was rejected: {renewed.reason}.")

    return judge


def old_revision_renews_nothing(bench: Bench) -> Judge:
    """Replaying revision 1 or 2 when 2 is in force does not move the end."""
    bench.begin(conflict_actions=("refuse_active",))
    content = bench.content(60)
    parked = bench.park(content, claim_id=CLAIM, mode="expiring", duration_s=10.0)
    bench.pass_time(seconds=5.0)
    bench.claim(content, claim_id=CLAIM, mode="expiring", duration_s=10.0, revision=2)
    bench.pass_time(seconds=5.0)
    replays = [
        bench.claim(content, claim_id=CLAIM, mode="expiring", duration_s=100.0, revision=number) for number in (1, 2)
    ]
    bench.pass_time(seconds=6.0)

    def judge(trace: Trace) -> Finding:
        if not parked or trace.first(_E.CLAIM_RENEWED, claim_id=CLAIM) is None:
            return inconclusive("The first renewal, with a higher revision, was not accepted.")
        taken = [answer.decision for answer in replays if answer.decision != REJECTED]
        expired = trace.first(_E.CLAIM_EXPIRED, claim_id=CLAIM)
        if taken or expired is None:
            return failed(
                "TNR-LIFE-003",
                what=f"With revision 2 of {CLAIM} in force, a replay of revision 1 was {replays[0].decision} and one of 2 was "
                f"{replays[1].decision}; 11 s after revision 2 came for 10 s the claim is "
                f"{'not ' if expired is None else ''}expired.",
                why="An equal or lower revision renews nothing.",
                at=proof(trace, *trace.of(_E.CLAIM_RENEWED, claim_id=CLAIM), expired),
            )
        return passed("Both replays were rejected, and the claim expired when revision 2 ended.")

    return judge


def reset_ends_claims(bench: Bench) -> Judge:
    """After a reset no claim stands, each end was told, and the rows are gone."""
    bench.begin()
    content = bench.content(20)
    parked = bench.park(content, claim_id=CLAIM)
    bench.subject.reset()
    found = bench.reused(content)

    def judge(trace: Trace) -> Finding:
        if not parked:
            return inconclusive(NOT_PARKED)
        ends = trace.of(*ENDINGS, claim_id=CLAIM)
        if len(ends) != 1:
            return failed(
                "TNR-LIFE-007",
                what=f"The cache was reset while {CLAIM} stood; {counted(len(ends), 'event')} ended the claim, and a later "
                f"request finds {found} of its {len(content)} blocks.",
                why="Reset ends every live claim with one event, before its rows go.",
                at=tuple(event.index for event in (*trace.of(*ACCEPTANCES), *ends, *trace.of(_E.RUNTIME_RESET))),
            )
        return passed(f"The claim was ended by {ends[0].name}.")

    return judge


def restart_answers(bench: Bench) -> Judge:
    """After a restart an acknowledged claim is recovered or ended, once, and what is recovered is kept."""
    bench.begin()
    content = bench.content(20)
    parked = bench.park(content, claim_id=CLAIM)
    before = len(bench.trace())
    bench.subject.restart()
    found = bench.reused(content)

    def judge(trace: Trace) -> Finding:
        if not parked:
            return inconclusive(NOT_PARKED)
        after = [event for event in trace.of(*ENDINGS, _E.CLAIM_RECOVERED, claim_id=CLAIM) if event.index >= before]
        ends = [event for event in after if event.kind in ENDINGS]
        recovered_and_lost = bool(after) and not ends and found is not None and found < len(content)
        if not after or len(ends) > 1 or recovered_and_lost:
            return failed(
                "TNR-LIFE-008",
                what=f"The runtime was restarted while {CLAIM} stood; after it {counted(len(after) - len(ends), 'event')} "
                f"recovered the claim, {counted(len(ends), 'event')} ended it, and a request finds {found} of its "
                f"{len(content)} blocks.",
                why="After a restart every acknowledged claim is recovered or ended, by an event, once.",
                at=proof(trace, *trace.of(_E.RUNTIME_RESTARTED), *after),
            )
        return passed(f"The claim was answered for by {after[-1].name}.")

    return judge


_EXPIRING = frozenset({"expiring"})
_RENEWAL = frozenset({Feature.CLOCK, Feature.REVISIONS})

CHECKS: tuple[Check, ...] = (
    Check(
        check_id="shared-counted-once",
        title="A block that two claims cover is counted once",
        clauses=("TNR-CAP-002",),
        profile=Profile.LEASE,
        drive=shared_counted_once,
        modes=HARD,
        rests_on=ON_CLAIMS,
    ),
    Check(
        check_id="shared-outlives-a-release",
        title="A shared block stays protected until the last claim has ended",
        clauses=("TNR-CAP-003", "TNR-ARB-004"),
        profile=Profile.HARD,
        drive=shared_outlives_a_release,
        modes=HARD,
        features=RELEASE,
        rests_on=("claim-accepted", "L3"),
    ),
    Check(
        check_id="owner-release-ends",
        title="A released claim protects nothing more",
        clauses=("TNR-LIFE-004", "TNR-PRG-002"),
        profile=Profile.LEASE,
        drive=owner_release_ends,
        modes=HARD,
        features=RELEASE,
        rests_on=ON_CLAIMS,
    ),
    Check(
        check_id="ended-id-not-reused",
        title="The id of an ended claim is not used again",
        clauses=("TNR-LIFE-002",),
        profile=Profile.LEASE,
        drive=ended_id_not_reused,
        modes=HARD,
        features=RELEASE,
        rests_on=ON_CLAIMS,
    ),
    Check(
        check_id="renewal-extends",
        title="A renewal in time moves the end",
        clauses=("TNR-LIFE-005",),
        profile=Profile.LEASE,
        drive=renewal_extends,
        modes=_EXPIRING,
        features=_RENEWAL,
        rests_on=("claim-accepted", "L5"),
    ),
    Check(
        check_id="renewal-races-expiry",
        title="A renewal at the very end comes too late",
        clauses=("TNR-LIFE-005",),
        profile=Profile.LEASE,
        drive=renewal_races_expiry,
        modes=_EXPIRING,
        features=_RENEWAL,
        rests_on=ON_CLAIMS,
    ),
    Check(
        check_id="old-revision-renews-nothing",
        title="A replayed older revision renews nothing",
        clauses=("TNR-LIFE-003",),
        profile=Profile.LEASE,
        drive=old_revision_renews_nothing,
        modes=_EXPIRING,
        features=_RENEWAL,
        rests_on=ON_CLAIMS,
    ),
    Check(
        check_id="reset-ends-claims",
        title="A reset ends every claim with an event",
        clauses=("TNR-LIFE-007",),
        profile=Profile.LEASE,
        drive=reset_ends_claims,
        modes=HARD,
        features=frozenset({Feature.RESET}),
        rests_on=ON_CLAIMS,
    ),
    Check(
        check_id="restart-answers",
        title="A restart recovers or ends every acknowledged claim",
        clauses=("TNR-LIFE-008",),
        profile=Profile.LEASE,
        drive=restart_answers,
        modes=HARD,
        features=frozenset({Feature.RESTART}),
        rests_on=ON_CLAIMS,
    ),
)
