"""Checks about claims that only advise: they change the order of victims, block nobody, and their loss is told."""

from __future__ import annotations

from tenure.claims.event_types import EventType
from tenure.conformance.bench import Bench
from tenure.conformance.check import Check, Judge
from tenure.conformance.finding import Finding, failed, inconclusive, passed
from tenure.conformance.litmus.reading import (
    ACTIVE,
    CLAIM,
    NOT_PARKED,
    harms_of,
    lost_blocks,
    proof,
    served,
    taken_from,
)
from tenure.conformance.profiles import Profile
from tenure.conformance.subject import Feature
from tenure.conformance.trace import Trace

_E = EventType


def _lost_of_two(bench: Bench, *, claimed: str) -> tuple[int | None, int | None]:
    """An older and a newer prefix of 30, one, both or none soft-claimed, then 40 of pressure: blocks lost of each.

    Each is asked for on a subject of its own, because asking for lost blocks takes room from the others.
    """
    lost: list[int | None] = []
    for probed in ("older", "newer"):
        bench.begin()
        contents = {"older": bench.content(30), "newer": bench.content(30)}
        for name, content in contents.items():
            if claimed in {name, "both"}:
                bench.claim(content, claim_id=f"claim:{name}", mode="soft_priority")
            bench.serve(content)
        bench.serve(bench.content(40), request_id=ACTIVE)
        lost.append(lost_blocks(bench, contents[probed]))
    return lost[0], lost[1]


def soft_moves_the_order(bench: Bench) -> Judge:
    """Whichever of two prefixes is claimed outlasts the other; with neither or both claimed, age decides as before."""
    neither = _lost_of_two(bench, claimed="neither")
    both = _lost_of_two(bench, claimed="both")
    newer = _lost_of_two(bench, claimed="newer")
    older = _lost_of_two(bench, claimed="older")

    def judge(_: Trace) -> Finding:
        cases = {"neither": neither, "both": both, "the newer": newer, "the older": older}
        told = "blocks lost of the older and the newer prefix with " + ", ".join(
            f"{claimed} claimed: {lost[0]} and {lost[1]}" for claimed, lost in cases.items()
        )
        if None in {*neither, *both, *newer, *older} or not (neither[0] or neither[1]):
            return inconclusive(f"Nothing was taken, or it cannot be told; {told}.")
        if older[0] or newer[1]:
            return failed(
                "TNR-ARB-013",
                what=f"The soft-claimed prefix was taken while an unclaimed one could be; {told}.",
                why="Of the residents that may be taken, those of a soft claim are taken after unclaimed ones.",
            )
        if both != neither:
            return failed(
                "TNR-ARB-013",
                what=f"Claiming both alike changed who is taken; {told}.",
                why="Equal priority leaves the order as it is.",
            )
        return passed(f"The claimed prefix outlasts the other, whichever it is; {told}.")

    return judge


def _advisory_blocks_nobody(bench: Bench, mode: str) -> Judge:
    bench.begin(conflict_actions=("refuse_active",))
    content = bench.content(60)
    parked = bench.park(content, claim_id=CLAIM, mode=mode)
    active = bench.serve(bench.content(70), request_id=ACTIVE)
    lost = lost_blocks(bench, content)

    def judge(trace: Trace) -> Finding:
        if not parked:
            return inconclusive(NOT_PARKED)
        accepted = trace.first(_E.CLAIM_ACCEPTED, claim_id=CLAIM)
        if not served(active) or (accepted is not None and accepted.text("protection_mode") != mode):
            return failed(
                "TNR-ARB-014",
                what=f"{CLAIM} was submitted as {mode} and stands as "
                f"{'untold' if accepted is None else accepted.text('protection_mode')}; {ACTIVE}, which needs its blocks, was "
                f"{active.outcome}.",
                why="An advisory claim causes no request to be refused or deferred.",
                at=proof(trace, *trace.of(_E.REQUEST_REFUSED, _E.REQUEST_DEFERRED, request_id=ACTIVE)),
            )
        if not lost:
            return inconclusive("The request was served and no claimed block was taken for it.")
        if not harms_of(trace, CLAIM):
            return failed(
                "TNR-HRM-002",
                what=f"{CLAIM} was accepted as {mode}; a later request misses {lost} of its blocks, which {ACTIVE} took, and no "
                "harm was told.",
                why="An accepted claim that loses its predicate unreleased is reported as harmed, whatever its mode.",
                at=proof(trace, taken_from(trace, ACTIVE)),
            )
        return passed(f"The request was served, {lost} claimed blocks were taken for it, and that was told.")

    return judge


def soft_blocks_nobody(bench: Bench) -> Judge:
    """A soft claim gives way to active work, and its loss is told."""
    return _advisory_blocks_nobody(bench, "soft_priority")


def best_effort_blocks_nobody(bench: Bench) -> Judge:
    """A best-effort claim gives way to active work, and its loss is told."""
    return _advisory_blocks_nobody(bench, "best_effort")


_SOFT = frozenset({"soft_priority"})
_TELLS = frozenset({Feature.REUSED_BLOCKS})

CHECKS: tuple[Check, ...] = (
    Check(
        check_id="soft-moves-the-order",
        title="A soft claim is taken after unclaimed residents",
        clauses=("TNR-ARB-013",),
        profile=Profile.SOFT,
        drive=soft_moves_the_order,
        modes=_SOFT,
        features=_TELLS,
        rests_on=("request-served",),
    ),
    Check(
        check_id="soft-blocks-nobody",
        title="A soft claim blocks no request, and its loss is told",
        clauses=("TNR-ARB-014", "TNR-HRM-002"),
        profile=Profile.SOFT,
        drive=soft_blocks_nobody,
        modes=_SOFT,
        features=_TELLS,
        rests_on=("request-served",),
    ),
    Check(
        check_id="best-effort-blocks-nobody",
        title="A best-effort claim blocks no request, and its loss is told",
        clauses=("TNR-ARB-014", "TNR-HRM-002"),
        profile=Profile.SOFT,
        drive=best_effort_blocks_nobody,
        modes=frozenset({"best_effort"}),
        features=_TELLS,
        rests_on=("request-served",),
    ),
)
