"""Checks about what is decided when it does not fit: progress, names, numbers, and that nothing is taken."""

from __future__ import annotations

from tenure.claims.event_types import EventType
from tenure.conformance.bench import REJECTED, Bench
from tenure.conformance.check import Check, Judge
from tenure.conformance.finding import Finding, counted, failed, inconclusive, listed, passed
from tenure.conformance.ledger import ACCEPTANCES, ENDINGS, WAITING
from tenure.conformance.litmus.reading import (
    ACTIVE,
    CLAIM,
    DEFERRED,
    NOT_PARKED,
    REFUSED,
    RUNNING,
    SERVED,
    lost_blocks,
    proof,
    served,
    taken_from,
    victims_of,
)
from tenure.conformance.litmus.terms import (
    HOLD,
    ON_L3,
    RELEASE,
    hard,
)
from tenure.conformance.subject import Feature
from tenure.conformance.trace import Trace, TraceEvent

_E = EventType
_B, _C = "claim:b", "claim:c"


def progress_under_full_protection(bench: Bench) -> Judge:
    """Hard claims fill the pool, one block is asked for: an answer comes, and service once a claim has ended."""
    bench.begin(conflict_actions=("refuse_active",))
    half = bench.usable_blocks // 2
    labels = bench.content(80)
    parked = bench.park(labels[:half], claim_id=CLAIM) and bench.park(labels[half:], claim_id=_B)
    first = bench.serve(bench.content(2)[:1], request_id="one-block")
    if parked:
        bench.release(_B)
    bench.pass_time(seconds=0.0)
    second = bench.serve(bench.content(2)[:1], request_id="one-block-again")

    def judge(trace: Trace) -> Finding:
        if not parked:
            return inconclusive("The pool could not be filled with hard claims.")
        answers = trace.of(*WAITING, request_id="one-block")
        if first.outcome not in {REFUSED, DEFERRED} or not answers:
            return failed(
                "TNR-PRG-001",
                what=f"{CLAIM} and {_B} hard-protect all {bench.usable_blocks} blocks; one-block, which needs one more, was "
                f"{first.outcome}, and {counted(len(answers), 'event')} refused or deferred it.",
                why="A request is answered by a refusal or deferral that is told, also when hard claims fill the pool.",
                at=proof(
                    trace,
                    trace.first(*ACCEPTANCES, claim_id=_B),
                    taken_from(trace, "one-block", claim_id=CLAIM) or taken_from(trace, "one-block", claim_id=_B),
                    *trace.of(_E.REQUEST_ADMITTED, request_id="one-block"),
                    *answers,
                ),
            )
        if second.outcome is not SERVED:
            return failed(
                "TNR-PRG-002",
                what=f"{_B} was released, which is half of the pool, and after it one-block-again, which needs one block, "
                f"is {second.outcome}.",
                why="A request that fits is served once the claims in its way have ended.",
                at=proof(
                    trace,
                    trace.first(_E.CLAIM_RELEASED, claim_id=_B),
                    *trace.of(*WAITING, request_id="one-block-again"),
                ),
            )
        return passed(f"It was {first.outcome}, and served once a claim was released.")

    return judge


def own_claim_blocks_nobody(bench: Bench) -> Judge:
    """A request that reuses 60 claimed blocks and needs 15 more fits 80, because shared blocks are there once."""
    bench.begin(conflict_actions=("refuse_active",))
    content = bench.content(60)
    parked = bench.park(content, claim_id=CLAIM)
    answer = bench.serve((*content, *bench.content(15)), request_id=ACTIVE)

    def judge(trace: Trace) -> Finding:
        if not parked:
            return inconclusive(NOT_PARKED)
        if not served(answer):
            waiting = trace.of(*WAITING, request_id=ACTIVE)
            blamed = any(CLAIM in (event.names("blocking_claim_ids") or ()) for event in waiting)
            return failed(
                "TNR-ARB-009" if blamed else "TNR-CAP-006",
                what=f"{ACTIVE} reuses the {len(content)} blocks of {CLAIM} and needs {bench.blocks(15)} more, which fits "
                f"{bench.usable_blocks}, and was {answer.outcome}.",
                why="A block that a claim protects and a request uses is counted once, so a claim never blocks its "
                "own reuse.",
                at=proof(trace, *waiting),
            )
        return passed(f"It was served, and found {answer.reused_blocks} blocks.")

    return judge


def _waiting(trace: Trace) -> TraceEvent | None:
    return trace.first(*WAITING, request_id=ACTIVE)


def _held_by_other(trace: Trace) -> list[TraceEvent]:
    return trace.of(_E.REQUEST_ADMITTED, request_id="other-request")


def blocking_set_minimal(bench: Bench) -> Judge:
    """Claims of 30, 20 and 10; 25 blocks are missing: only the claim of 30 is in the way alone."""
    bench.begin(conflict_actions=("refuse_active",))
    parked = [
        bench.park(bench.content(size), claim_id=claim_id) for claim_id, size in ((_B, 20), (_C, 10), (CLAIM, 30))
    ]
    bench.serve(bench.content(45), request_id=ACTIVE)

    def judge(trace: Trace) -> Finding:
        event = _waiting(trace)
        if not all(parked) or event is None:
            return inconclusive("The request that was not to fit was neither refused nor deferred.")
        named = event.names("blocking_claim_ids")
        if named != (CLAIM,):
            return failed(
                "TNR-ARB-004",
                what=f"{_B}, {_C} and {CLAIM} hold {bench.blocks(20)}, {bench.blocks(10)} and {bench.blocks(30)} blocks, "
                f"{bench.blocks(25)} are missing, so {CLAIM} alone is in the way; the event names "
                f"{listed(named or ())} as blocking.",
                why="A conflict names the smallest set of claims without which the request would fit.",
                at=proof(trace, *(trace.first(*ACCEPTANCES, claim_id=name) for name in (_B, _C)), event),
            )
        return passed("Only the claim that is in the way alone was named.")

    return judge


def nobody_blamed_for_other_work(bench: Bench) -> Judge:
    """What does not fit because of work in flight is not blamed on a claim whose end would not help."""
    bench.begin(conflict_actions=("refuse_active",))
    parked = bench.park(bench.content(5), claim_id=CLAIM)
    running = bench.start(bench.content(60), request_id="other-request")
    bench.start(bench.content(30), request_id=ACTIVE)
    bench.finish("other-request")

    def judge(trace: Trace) -> Finding:
        event = _waiting(trace)
        if not parked or running.outcome is not RUNNING or event is None:
            return inconclusive("No request was refused or deferred because of work in flight.")
        named = event.names("blocking_claim_ids")
        if named:
            return failed(
                "TNR-ARB-004",
                what=f"other-request holds {bench.blocks(60)} blocks and {CLAIM} {bench.blocks(5)}; {bench.blocks(30)} more "
                f"do not fit {bench.usable_blocks} even without the claim, and {listed(named)} is named as blocking.",
                why="A conflict names no claim when claims are not the cause.",
                at=proof(trace, *_held_by_other(trace), event),
            )
        return passed("No claim was named.")

    return judge


def shortfall_counts_other_work(bench: Bench) -> Judge:
    """40 claimed, 30 live in another request, 20 asked for in 80: 10 are missing."""
    bench.begin(conflict_actions=("refuse_active",))
    parked = bench.park(bench.content(40), claim_id=CLAIM)
    running = bench.start(bench.content(30), request_id="other-request")
    bench.start(bench.content(20), request_id=ACTIVE)
    bench.finish("other-request")
    missing = bench.blocks(40) + bench.blocks(30) + bench.blocks(20) - bench.usable_blocks

    def judge(trace: Trace) -> Finding:
        event = _waiting(trace)
        if not parked or running.outcome is not RUNNING or event is None:
            return inconclusive("No request was refused or deferred beside work in flight.")
        told = event.count("capacity_shortfall_blocks")
        if told != missing:
            return failed(
                "TNR-ARB-005",
                what=f"{CLAIM} protects {bench.blocks(40)} blocks, other-request holds {bench.blocks(30)} and {ACTIVE} asks "
                f"for {bench.blocks(20)} of {bench.usable_blocks}: {missing} are missing, and the event tells {told}.",
                why="The shortfall counts all active blocks, those of other requests included.",
                at=proof(trace, *_held_by_other(trace), event),
            )
        return passed(f"The shortfall of {missing} was told.")

    return judge


def chunks_bound_nothing(bench: Bench) -> Judge:
    """60 protected, 70 active in chunks of 20, 20, 20, 10 under full attention: it does not fit at any pace."""
    bench.begin(conflict_actions=("refuse_active",))
    resident = bench.content(60)
    parked = bench.park(resident, claim_id=CLAIM)
    content = bench.content(70)
    step = bench.blocks(20)
    chunks = (step, step, step, len(content) - 3 * step)
    answer = bench.serve(content, request_id=ACTIVE, chunks=chunks)
    lost = lost_blocks(bench, resident)

    def judge(trace: Trace) -> Finding:
        if not parked:
            return inconclusive(NOT_PARKED)
        admitted = trace.of(_E.REQUEST_ADMITTED, request_id=ACTIVE)
        if served(answer) or lost or admitted:
            return failed(
                "TNR-CAP-001",
                what=f"{bench.blocks(60)} blocks of {CLAIM} and {len(content)} of {ACTIVE}, in chunks of "
                f"{listed(map(str, chunks))}, do not fit {bench.usable_blocks}; {counted(len(admitted), 'event')} admitted "
                f"the request, it was {answer.outcome}, and {counted(lost or 0, 'protected block')} went.",
                why="Feasibility counts active blocks at their peak, which chunks do not lower under full attention.",
                at=proof(trace, *admitted[:1]),
            )
        return passed(f"It was {answer.outcome} before its first chunk.")

    return judge


def claims_stay_accepted(bench: Bench) -> Judge:
    """While a refused request is told of a conflict, the claims in its way stay what they were."""
    bench.begin(conflict_actions=("refuse_active",))
    content = bench.content(60)
    first = bench.claim(content, claim_id=CLAIM)
    bench.serve(content)
    refusals = [bench.serve(bench.content(70)).outcome for _ in range(3)]
    found = bench.reused(content)

    def judge(trace: Trace) -> Finding:
        if first.decision == REJECTED or REFUSED not in refusals:
            return inconclusive(f"The claim was {first.decision}, the requests {listed(refusals)}.")
        if found != len(content) or set(refusals) != {REFUSED}:
            return failed(
                "TNR-ARB-008",
                what=f"Three requests that do not fit beside {CLAIM} were {listed(refusals)}; a later request for the claimed "
                + (
                    f"content finds {found} of its {len(content)} blocks."
                    if found is not None
                    else "content is not served."
                ),
                why="Refusals take no block, so the claim and its reuse are as they were, however often it is asked.",
                at=proof(trace, *trace.of(_E.REQUEST_REFUSED)),
            )
        return passed("Three refusals took nothing.")

    return judge


def tail_stands_too(bench: Bench) -> Judge:
    """60 hard-claimed, of which 50 are required, and 25 active in 80: the blocks beyond the predicate are no reserve."""
    bench.begin(conflict_actions=("refuse_active",))
    resident = bench.content(60)
    parked = bench.park(resident, claim_id=CLAIM, required=bench.blocks(50))
    answer = bench.serve(bench.content(25), request_id=ACTIVE)
    lost = lost_blocks(bench, resident)

    def judge(trace: Trace) -> Finding:
        accepted = trace.first(*ACCEPTANCES, claim_id=CLAIM)
        granted = None if accepted is None else accepted.count("footprint_blocks")
        if not parked or granted != len(resident):
            return inconclusive(f"No hard claim on {len(resident)} blocks was accepted whole and cached.")
        taken = trace.of(_E.CLAIM_BLOCK_LOST, claim_id=CLAIM, request_id=ACTIVE) or victims_of(trace, ACTIVE)
        ended = trace.first(*ENDINGS, _E.CLAIM_OFFLOADED, claim_id=CLAIM)
        if ended is None and (served(answer) or lost):
            return failed(
                "TNR-ARB-003",
                what=f"{CLAIM} is hard_protected on {len(resident)} blocks, {bench.blocks(50)} of them required, and "
                f"{ACTIVE} asks for {bench.blocks(25)} of {bench.usable_blocks}: it was {answer.outcome}, a later request "
                f"misses {lost} of the claimed blocks, and no event ends or moves the claim.",
                why="A hard claim protects its whole footprint: what it covers beyond its predicate is taken only after "
                "an event that ends or moves the claim.",
                at=proof(trace, *taken[:1], *trace.of(_E.REQUEST_ADMITTED, request_id=ACTIVE)),
            )
        return passed(f"The request was {answer.outcome}, and the claim kept all {len(resident)} blocks.")

    return judge


CHECKS: tuple[Check, ...] = (
    hard(
        "progress-under-full-protection",
        "Hard claims that fill the pool never wedge the runtime",
        ("TNR-PRG-001", "TNR-PRG-002"),
        progress_under_full_protection,
        features=RELEASE,
    ),
    hard(
        "hard-tail-stands",
        "A hard claim protects what it covers beyond its predicate",
        ("TNR-ARB-003",),
        tail_stands_too,
        features=frozenset({Feature.REUSED_BLOCKS}),
    ),
    hard(
        "own-claim-blocks-nobody",
        "A claim never blocks its own reuse",
        ("TNR-ARB-009", "TNR-CAP-006"),
        own_claim_blocks_nobody,
    ),
    hard(
        "blocking-set-minimal",
        "The smallest set of claims in the way is named",
        ("TNR-ARB-004",),
        blocking_set_minimal,
    ),
    hard(
        "nobody-blamed-for-other-work",
        "No claim is named when claims are not the cause",
        ("TNR-ARB-004",),
        nobody_blamed_for_other_work,
        features=HOLD,
    ),
    hard(
        "shortfall-counts-other-work",
        "The shortfall counts work in flight",
        ("TNR-ARB-005",),
        shortfall_counts_other_work,
        features=HOLD,
    ),
    hard(
        "chunks-bound-nothing",
        "Chunks do not bound live blocks under full attention",
        ("TNR-CAP-001",),
        chunks_bound_nothing,
        rests_on=ON_L3,
    ),
    hard(
        "refusals-take-nothing",
        "A refused request takes no block, however often it is asked",
        ("TNR-ARB-008",),
        claims_stay_accepted,
        features=frozenset({Feature.REUSED_BLOCKS}),
        rests_on=ON_L3,
    ),
)
