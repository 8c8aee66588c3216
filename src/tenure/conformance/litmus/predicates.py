"""Checks about predicates and harm, with blocks lost one by one: L6 and its counterparts."""

from __future__ import annotations

from tenure.claims.event_types import EventType
from tenure.conformance.bench import Bench
from tenure.conformance.check import Check, Judge
from tenure.conformance.finding import Finding, failed, inconclusive, passed
from tenure.conformance.litmus.reading import CLAIM, NOT_PARKED, block_line, harms_of, loss_of, proof, served
from tenure.conformance.litmus.terms import HARD
from tenure.conformance.profiles import Profile
from tenure.conformance.subject import Feature
from tenure.conformance.trace import Trace

_E = EventType
_OTHER = "claim:b"


def survivors_can_miss_the_prefix(bench: Bench) -> Judge:
    """L6: with block 0 lost, as many blocks as are required survive, and the predicate is false all the same."""
    bench.begin()
    size = bench.blocks(60)
    content = bench.content(60)
    parked = bench.park(content, claim_id=CLAIM, required=size - 1)
    bench.lose_block(0, claim_id=CLAIM)
    found = bench.reused(content)

    def judge(trace: Trace) -> Finding:
        if not parked or trace.first(_E.CLAIM_MATERIALIZED, claim_id=CLAIM) is None:
            return inconclusive("The claim was not materialized, so there was nothing to lose.")
        if found:
            return inconclusive(f"Block 0 was to be lost, and a request still finds {found} leading blocks.")
        if not harms_of(trace, CLAIM):
            return failed(
                "TNR-MAT-002",
                what=f"{CLAIM} requires its first {size - 1} of {size} blocks. Position 0 is lost and the other {size - 1} "
                "survive, and no harm is told.",
                why="The predicate holds only while every required position survives, however many survive.",
                at=proof(trace, block_line(trace, 0), loss_of(trace, 0)),
            )
        return passed(f"Harm was told with {size - 1} of {size} blocks surviving, because block 0 is not among them.")

    return judge


def tail_loss_is_no_harm(bench: Bench) -> Judge:
    """The counterpart of L6: a lost block beyond the predicate is told, and is no harm."""
    bench.begin()
    size = bench.blocks(60)
    parked = bench.park(bench.content(60), claim_id=CLAIM, required=size - 1)
    bench.lose_block(size - 1, claim_id=CLAIM)

    def judge(trace: Trace) -> Finding:
        if not parked or trace.first(_E.CLAIM_MATERIALIZED, claim_id=CLAIM) is None:
            return inconclusive("The claim was not materialized, so there was nothing to lose.")
        harms = harms_of(trace, CLAIM)
        if harms:
            return failed(
                "TNR-MAT-004",
                what=f"Only position {size - 1} is lost, {size - 1} leading blocks are required and survive, and event "
                f"{harms[0].brief()} reports harm.",
                why="A loss that leaves the predicate true is no harm.",
                at=proof(trace, harms[0]),
            )
        if trace.first(_E.CLAIM_BLOCK_LOST, claim_id=CLAIM) is None:
            return failed(
                "TNR-HRM-007",
                what=f"Position {size - 1} of {CLAIM}, which stands, is lost, and no resident_claim_block_lost tells it.",
                why="Every loss of a block that a live claim covers is in the trace.",
                at=proof(trace, block_line(trace, size - 1), loss_of(trace, size - 1)),
            )
        return passed("The loss was told as a loss, and not as harm.")

    return judge


def harm_names_its_claim(bench: Bench) -> Judge:
    """Of two claims one loses its first block: that one is harmed, the other is not."""
    bench.begin()
    parked = bench.park(bench.content(20), claim_id=_OTHER) and bench.park(bench.content(20), claim_id=CLAIM)
    bench.lose_block(0, claim_id=CLAIM)

    def judge(trace: Trace) -> Finding:
        if not parked:
            return inconclusive(NOT_PARKED)
        own, other = harms_of(trace, CLAIM), harms_of(trace, _OTHER)
        if other:
            return failed(
                "TNR-HRM-006",
                what=f"{CLAIM} lost its position 0, and event {other[0].brief()} reports harm to {_OTHER}.",
                why="Harm names the claim whose predicate broke, and no other.",
                at=proof(trace, block_line(trace, 0), other[0]),
            )
        if not own:
            return failed(
                "TNR-HRM-002",
                what=f"{CLAIM} lost its position 0, which its predicate requires, and no harm is told.",
                why="An accepted, unreleased claim that loses its predicate is reported as harmed.",
                at=proof(trace, block_line(trace, 0), loss_of(trace, 0)),
            )
        return passed(f"Harm was told for {CLAIM} only.")

    return judge


def never_held_is_no_harm(bench: Bench) -> Judge:
    """Half of a claim's content is cached, and a block of it is lost: nothing was kept yet, so nothing is harmed."""
    bench.begin()
    content = bench.content(20)
    answer = bench.claim(content, claim_id=CLAIM)
    cached = bench.serve(content[: len(content) // 2])
    bench.lose_block(0, claim_id=CLAIM)

    def judge(trace: Trace) -> Finding:
        harms = harms_of(trace, CLAIM)
        if harms:
            return failed(
                "TNR-HRM-005",
                what=f"{len(content) // 2} of the {len(content)} blocks that {CLAIM} requires were ever cached, position 0 "
                f"of them was lost, and event {harms[0].brief()} reports harm.",
                why="A claim whose predicate never held is not harmed.",
                at=proof(trace, block_line(trace, 0), *trace.of(_E.BLOCK_MATERIALIZED, claim_id=CLAIM)[-1:], harms[0]),
            )
        if not served(cached) or trace.first(_E.CLAIM_BLOCK_LOST, claim_id=CLAIM) is None:
            return inconclusive(f"The claim was {answer.decision}, and no loss of a block of it is told.")
        return passed("The loss was told, and not as harm.")

    return judge


CHECKS: tuple[Check, ...] = (
    Check(
        check_id="L6",
        title="As many survivors as required can still miss the prefix",
        clauses=("TNR-MAT-002",),
        profile=Profile.LEASE,
        drive=survivors_can_miss_the_prefix,
        modes=HARD,
        features=frozenset({Feature.LOSE_BLOCK, Feature.REUSED_BLOCKS}),
        rests_on=("claim-accepted",),
    ),
    Check(
        check_id="tail-loss-is-no-harm",
        title="A lost block beyond the predicate is told, and is no harm",
        clauses=("TNR-MAT-004", "TNR-HRM-007"),
        profile=Profile.LEASE,
        drive=tail_loss_is_no_harm,
        modes=HARD,
        features=frozenset({Feature.LOSE_BLOCK}),
        rests_on=("claim-accepted",),
    ),
    Check(
        check_id="harm-names-its-claim",
        title="Harm names the claim that lost its predicate, and no other",
        clauses=("TNR-HRM-002", "TNR-HRM-006"),
        profile=Profile.LEASE,
        drive=harm_names_its_claim,
        modes=HARD,
        features=frozenset({Feature.LOSE_BLOCK}),
        rests_on=("claim-accepted",),
    ),
    Check(
        check_id="never-held-is-no-harm",
        title="A claim whose predicate never held is not harmed",
        clauses=("TNR-HRM-005",),
        profile=Profile.LEASE,
        drive=never_held_is_no_harm,
        modes=HARD,
        features=frozenset({Feature.LOSE_BLOCK}),
        rests_on=("claim-accepted",),
    ),
)
