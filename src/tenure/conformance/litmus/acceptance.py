"""Checks about the first answers: what fits is served, what is accepted fits, and wrong asks change nothing."""

from __future__ import annotations

from tenure.claims.event_types import EventType
from tenure.conformance.bench import REJECTED, Bench
from tenure.conformance.check import Check, Judge
from tenure.conformance.finding import Finding, counted, failed, inconclusive, listed, passed
from tenure.conformance.ledger import ACCEPTANCES, WAITING
from tenure.conformance.litmus.reading import (
    ACTIVE,
    CLAIM,
    NOT_PARKED,
    SERVED,
    lost_blocks,
    proof,
    served,
    taken_from,
)
from tenure.conformance.litmus.terms import HARD
from tenure.conformance.profiles import Profile
from tenure.conformance.subject import ClaimAnswer, Feature
from tenure.conformance.trace import Trace

_E = EventType
_OTHER = "claim:b"
_ANSWERS = (_E.REQUEST_ADMITTED, *WAITING)


def request_served(bench: Bench) -> Judge:
    """The primitive under everything: a small request in an empty pool is served."""
    bench.begin()
    answer = bench.serve(bench.content(10), request_id=ACTIVE)

    def judge(trace: Trace) -> Finding:
        if answer.outcome is not SERVED:
            return failed(
                "TNR-ARB-002",
                what=f"A request of {bench.blocks(10)} blocks in an empty pool of {bench.usable_blocks} was "
                f"{answer.outcome}: {answer.reason}.",
                why="When everything fits, the request is served.",
                at=proof(trace, *trace.of(request_id=ACTIVE)[-1:], claim_id=None),
            )
        if not trace:
            return failed(
                "TNR-EVT-008",
                what="A request was served, and the trace is empty.",
                why="The trace alone is enough to reconstruct the outcome of every request.",
            )
        return passed("It was served, and the trace has events of it.")

    return judge


def usable_blocks_true(bench: Bench) -> Judge:
    """A request of exactly the usable blocks is served, one of a block more is not, and events tell that number."""
    bench.begin()
    usable = bench.usable_blocks
    over = bench.start((*bench.content(80), *bench.content(80)[:1]), request_id="one-too-many")
    trace_over = bench.trace()
    bench.begin()
    exact = bench.serve(bench.content(80), request_id=ACTIVE)

    def judge(trace: Trace) -> Finding:
        told = sorted({str(event.fields.get("usable_blocks")) for event in (*trace, *trace_over)} - {str(usable)})
        if not served(exact) or served(over) or told:
            return failed(
                "TNR-CAP-004",
                what=f"{usable} usable blocks are stated. In an empty pool a request of {usable} was {exact.outcome} and "
                f"one of {usable + 1} was {over.outcome}; events tell {listed(told) if told else usable} usable blocks.",
                why="usable_blocks is the number of blocks that can really be allocated: so many are served, one more is "
                "not, and events tell the same number.",
                at=proof(trace, *trace.of(*_ANSWERS, request_id=ACTIVE)[:1], claim_id=None),
            )
        return passed(f"{usable} blocks can be had, and no more.")

    return judge


def _one_claim(bench: Bench) -> ClaimAnswer:
    """A claim of 10 in an empty pool, in the strongest mode there is, and a request that caches its content."""
    bench.begin()
    content = bench.content(10)
    modes = bench.capabilities.protection_modes
    mode = next((m for m in ("hard_protected", "demotable", "offloadable", "expiring") if m in modes), None)
    answer = bench.claim(content, claim_id=CLAIM, mode=mode or min(modes, default="hard_protected"))
    bench.serve(content, request_id=ACTIVE)
    return answer


def claim_accepted(bench: Bench) -> Judge:
    """The primitive under every claim check: a claim that fits is accepted, and the trace says so."""
    answer = _one_claim(bench)

    def judge(trace: Trace) -> Finding:
        if answer.decision == REJECTED:
            return inconclusive(f"A claim of {bench.blocks(10)} in an empty pool was rejected: {answer.reason}.")
        if trace.first(*ACCEPTANCES, claim_id=CLAIM) is None:
            return failed(
                "TNR-EVT-008",
                what=f"The caller was told that {CLAIM} was {answer.decision}, and no event of the trace accepts it.",
                why="The trace alone is enough to reconstruct the outcome of every claim.",
            )
        return passed("It was accepted, and that was told.")

    return judge


def materialization_told(bench: Bench) -> Judge:
    """Once its content is cached the claim is materialized, after its acceptance, and the trace says so."""
    answer = _one_claim(bench)

    def judge(trace: Trace) -> Finding:
        accepted = trace.first(*ACCEPTANCES, claim_id=CLAIM)
        request = trace.first(_E.REQUEST_ADMITTED, request_id=ACTIVE)
        if answer.decision == REJECTED or accepted is None or request is None:
            return inconclusive("The claim was not accepted, or the request that was to cache it not admitted.")
        materialized = trace.first(_E.CLAIM_MATERIALIZED, claim_id=CLAIM)
        if materialized is None or materialized.index < accepted.index:
            return failed(
                "TNR-MAT-003",
                what=f"The content of {CLAIM} was cached after its acceptance, and "
                + ("no event says" if materialized is None else f"{materialized.brief()} said before its acceptance")
                + " that it is materialized.",
                why="A claim is reported as materialized when its predicate becomes true after acceptance.",
                at=proof(trace, materialized, *trace.of(_E.BLOCK_MATERIALIZED, claim_id=CLAIM)[-1:], request),
            )
        return passed("Its materialization was told after its acceptance.")

    return judge


def over_budget_rejected(bench: Bench) -> Judge:
    """Two hard claims that together exceed the pool are not both accepted."""
    first, second = _two_claims(bench, required_of_second=40)

    def judge(trace: Trace) -> Finding:
        if first.decision == REJECTED:
            return inconclusive(f"The first claim was rejected: {first.reason}.")
        if second.decision != REJECTED:
            return failed(
                "TNR-ACC-004",
                what=f"{CLAIM} on {bench.blocks(60)} and {_OTHER} on {bench.blocks(40)} blocks, all required, were both "
                f"accepted in a pool of {bench.usable_blocks}.",
                why="A claim is accepted only if all live reserving claims together still fit.",
                at=tuple(event.index for event in trace.of(*ACCEPTANCES)),
            )
        return passed(f"The second claim was rejected: {second.reason}.")

    return judge


def _two_claims(bench: Bench, *, required_of_second: int) -> tuple[ClaimAnswer, ClaimAnswer]:
    bench.begin()
    first = bench.claim(bench.content(60), claim_id=CLAIM)
    second = bench.claim(bench.content(40), claim_id=_OTHER, required=bench.blocks(required_of_second))
    return first, second


def partial_acceptance_told(bench: Bench) -> Judge:
    """A second claim that fits only in part is rejected, or clipped in words and numbers."""
    first, second = _two_claims(bench, required_of_second=10)
    room, asked, needed = bench.usable_blocks - bench.blocks(60), bench.blocks(40), bench.blocks(10)

    def judge(trace: Trace) -> Finding:
        if first.decision == REJECTED:
            return inconclusive(f"The first claim was rejected: {first.reason}.")
        event = trace.first(*ACCEPTANCES, claim_id=_OTHER)
        told = None if event is None else event.count("footprint_blocks")
        if second.decision == REJECTED:
            return passed(f"It was rejected, which is allowed: {second.reason}.")
        granted = second.accepted_blocks
        if told is not None and told > room:
            return failed(
                "TNR-ACC-004",
                what=f"{bench.blocks(60)} of {bench.usable_blocks} blocks were promised to {CLAIM}, and {told} of the "
                f"{asked} that {_OTHER} asks for were accepted where {room} are left.",
                why="A claim is accepted only if all live reserving claims together still fit.",
                at=proof(trace, event),
            )
        conditional = second.decision == "conditionally_accepted" and event is not None
        if not conditional or event is None or event.kind is not _E.CLAIM_CONDITIONALLY_ACCEPTED or granted != told:
            return failed(
                "TNR-ACC-007",
                what=f"{_OTHER} asks for {asked} blocks and {room} are left beside {CLAIM}: the answer is "
                f"{second.decision} of {granted}, the trace tells "
                f"{'nothing' if event is None else f'{event.name} of {told}'}.",
                why="A partial acceptance is conditional, and states what was granted.",
                at=proof(trace, event),
            )
        if told is None or told < needed:
            return failed(
                "TNR-ACC-007",
                what=f"{told} blocks were granted, and the predicate requires {needed}.",
                why="A conditional acceptance covers at least what the predicate requires.",
                at=(event.index,),
            )
        return passed(f"{told} of {asked} blocks were granted, as a conditional acceptance.")

    return judge


def active_work_counts(bench: Bench) -> Judge:
    """A claim that does not fit beside work in flight is not accepted whole."""
    bench.begin()
    running = bench.start(bench.content(50), request_id=ACTIVE)
    answer = bench.claim(bench.content(40), claim_id=CLAIM)
    bench.finish(ACTIVE)

    def judge(trace: Trace) -> Finding:
        if not served(running):
            return inconclusive(f"The request that was to be in flight was {running.outcome}.")
        if answer.decision != REJECTED:
            return failed(
                "TNR-ACC-004",
                what=f"While {ACTIVE} held {bench.blocks(50)} of {bench.usable_blocks} blocks, {CLAIM} on "
                f"{bench.blocks(40)} others, all required, was {answer.decision}.",
                why="Active live blocks count when a claim is accepted.",
                at=proof(trace, *trace.of(*_ANSWERS, _E.REQUEST_FINISHED, request_id=ACTIVE)),
            )
        return passed(f"The claim was rejected: {answer.reason}.")

    return judge


def feasible_coexists(bench: Bench) -> Judge:
    """Below capacity nothing gives way: the request is served and the claim stays."""
    bench.begin()
    content = bench.content(30)
    parked = bench.park(content, claim_id=CLAIM)
    answer = bench.serve(bench.content(50), request_id=ACTIVE)
    lost = lost_blocks(bench, content)

    def judge(trace: Trace) -> Finding:
        if not parked:
            return inconclusive(NOT_PARKED)
        ended = trace.of(_E.CLAIM_DEMOTED, _E.CLAIM_EXPIRED, _E.CLAIM_HARMED, _E.CLAIM_OFFLOADED, claim_id=CLAIM)
        if not served(answer) or ended or lost:
            return failed(
                "TNR-ARB-002",
                what=f"{bench.blocks(30)} blocks of {CLAIM} and {bench.blocks(50)} of {ACTIVE} fit "
                f"{bench.usable_blocks}; the request was {answer.outcome}, {counted(lost or 0, 'claimed block')} went, "
                f"and {counted(len(ended), 'event')} moved or ended the claim.",
                why="When everything fits, the request is served and every claim is preserved.",
                at=proof(trace, *trace.of(*_ANSWERS, request_id=ACTIVE)[:1], taken_from(trace, ACTIVE), *ended),
            )
        return passed("The request was served and the claim preserved.")

    return judge


def wrong_asks_rejected(bench: Bench) -> Judge:
    """Malformed claims are refused, and nothing is accepted because of them."""
    bench.begin()
    content = bench.content(10)
    size = len(content)
    wrong = {
        "an unknown mode": ("TNR-ACC-006", bench.claim(content, claim_id="claim:w1", mode="wished_for")),
        "an unknown predicate": (
            "TNR-ACC-001",
            bench.claim(content, claim_id="claim:w2", predicate_type="block_count"),
        ),
        "a predicate longer than its footprint": (
            "TNR-ACC-002",
            bench.claim(content, claim_id="claim:w3", required=size, footprint=size - 1),
        ),
        "a negative predicate": ("TNR-ACC-001", bench.claim(content, claim_id="claim:w4", required=-1)),
        "a duration that is no number": (
            "TNR-ACC-003",
            bench.claim(content, claim_id="claim:w5", duration_s=float("nan")),
        ),
        "a negative duration": ("TNR-ACC-003", bench.claim(content, claim_id="claim:w6", duration_s=-1.0)),
    }

    def judge(trace: Trace) -> Finding:
        for number, (ask, (clause, answer)) in enumerate(wrong.items(), start=1):
            if answer.decision != REJECTED:
                return failed(
                    clause,
                    what=f"claim:w{number}, with {ask}, was {answer.decision}.",
                    why="A malformed claim is refused with the name of the field, and changes nothing.",
                    at=proof(trace, claim_id=f"claim:w{number}"),
                )
        accepted = trace.of(*ACCEPTANCES)
        if accepted:
            return failed(
                "TNR-ACC-001",
                what=f"Every malformed claim was answered as rejected, and event {accepted[0].brief()} accepts one.",
                why="A malformed claim changes nothing.",
                at=(accepted[0].index,),
            )
        return passed(f"{len(wrong)} malformed claims were refused, and none left a trace of acceptance.")

    return judge


_CLAIMS = frozenset({Feature.CLAIMS})

CHECKS: tuple[Check, ...] = (
    Check(
        check_id="request-served",
        title="A small request in an empty pool is served",
        clauses=("TNR-ARB-002", "TNR-EVT-008"),
        profile=Profile.OBSERVE,
        drive=request_served,
    ),
    Check(
        check_id="usable-blocks-true",
        title="usable_blocks can really be allocated",
        clauses=("TNR-CAP-004",),
        profile=Profile.OBSERVE,
        drive=usable_blocks_true,
        rests_on=("request-served",),
    ),
    Check(
        check_id="claim-accepted",
        title="A claim that fits is accepted, and that is told",
        clauses=("TNR-EVT-008",),
        profile=Profile.LEASE,
        drive=claim_accepted,
        features=_CLAIMS,
        rests_on=("request-served",),
    ),
    Check(
        check_id="materialization-told",
        title="A claim is materialized once its content is cached, and that is told",
        clauses=("TNR-MAT-003",),
        profile=Profile.LEASE,
        drive=materialization_told,
        features=_CLAIMS,
        rests_on=("claim-accepted",),
    ),
    Check(
        check_id="over-budget-rejected",
        title="Claims that together exceed the pool are not both accepted",
        clauses=("TNR-ACC-004",),
        profile=Profile.LEASE,
        drive=over_budget_rejected,
        modes=HARD,
        rests_on=("claim-accepted",),
    ),
    Check(
        check_id="partial-acceptance-told",
        title="A partial acceptance says so and states what was granted",
        clauses=("TNR-ACC-004", "TNR-ACC-007"),
        profile=Profile.LEASE,
        drive=partial_acceptance_told,
        modes=HARD,
        rests_on=("claim-accepted",),
    ),
    Check(
        check_id="active-work-counts",
        title="Work in flight counts when a claim is accepted",
        clauses=("TNR-ACC-004",),
        profile=Profile.HARD,
        drive=active_work_counts,
        modes=HARD,
        features=frozenset({Feature.HOLD_REQUESTS}),
        rests_on=("claim-accepted",),
    ),
    Check(
        check_id="feasible-coexists",
        title="When everything fits, the request is served and the claim preserved",
        clauses=("TNR-ARB-002",),
        profile=Profile.LEASE,
        drive=feasible_coexists,
        modes=HARD,
        rests_on=("claim-accepted",),
    ),
    Check(
        check_id="wrong-asks-rejected",
        title="Malformed claims are refused and change nothing",
        clauses=("TNR-ACC-001", "TNR-ACC-002", "TNR-ACC-003", "TNR-ACC-006"),
        profile=Profile.LEASE,
        drive=wrong_asks_rejected,
        modes=HARD,
        rests_on=("claim-accepted",),
    ),
)
