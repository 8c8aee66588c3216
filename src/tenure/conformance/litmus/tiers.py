"""Checks about the slower tier: what leaves comes back before it is reused, or its failure is told."""

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
    harms_of,
    lost_blocks,
    proof,
    served,
    taken_from,
)
from tenure.conformance.profiles import Profile
from tenure.conformance.subject import Content, Feature, RequestAnswer
from tenure.conformance.trace import Trace

_E = EventType
_ANSWERS = (_E.REQUEST_ADMITTED, *WAITING)
_OTHER = "claim:b"
_REUSE = "reuse-request"
_NOT_OFFLOADED = "The claim was not offloaded, so there was nothing to restore."
_CLAIM_OUTCOMES = (_E.CLAIM_RESTORATION_FAILED, _E.CLAIM_DEMOTED, _E.CLAIM_EXPIRED, _E.CLAIM_HARMED)


def _offload(bench: Bench, *, host_of_80: int = 80) -> tuple[Content, RequestAnswer, RequestAnswer]:
    """An offloadable claim of 60 gives way to 70 active. Its content, the first answer to it, the active answer."""
    bench.begin(conflict_actions=("offload_resident", "refuse_active"), host_of_80=host_of_80)
    content = bench.content(60)
    bench.claim(content, claim_id=CLAIM, mode="offloadable")
    first = bench.serve(content, request_id="resident-request")
    active = bench.serve(bench.content(70), request_id=ACTIVE)
    return content, first, active


def restored_before_reuse(bench: Bench) -> Judge:
    """An offloaded claim is still answered for: it comes back from its tier before it is reused, and is the same."""
    content, first, active = _offload(bench)
    reuse = bench.serve(content, request_id=_REUSE)

    def judge(trace: Trace) -> Finding:
        offloaded = trace.first(_E.CLAIM_OFFLOADED, claim_id=CLAIM)
        if offloaded is None or not served(active):
            return inconclusive(_NOT_OFFLOADED)
        harms = harms_of(trace, CLAIM)
        if harms or reuse.outcome is not SERVED or not (reuse.reused_blocks is None or reuse.reused_blocks):
            return failed(
                "TNR-TIER-001",
                what=f"After {offloaded.brief()} had moved it away, {_REUSE} for its content was {reuse.outcome} and found "
                f"{counted(reuse.reused_blocks or 0, 'block')}; {counted(len(harms), 'event')} reported harm.",
                why="Offloading is no release: the claim is still answered for, and its rows come back for the reuse.",
                at=proof(trace, offloaded, *trace.of(*_ANSWERS, request_id=_REUSE), *harms[:1]),
            )
        steps = [
            trace.first(kind, claim_id=CLAIM)
            for kind in (_E.CLAIM_RESTORE_REQUIRED, _E.CLAIM_RESTORED, _E.CLAIM_REUSE_AFTER_RESTORE)
        ]
        found = [event for event in steps if event is not None]
        if len(found) < len(steps) or found != sorted(found, key=lambda event: event.index):
            told = ", ".join(event.brief() for event in sorted(found, key=lambda event: event.index))
            return failed(
                "TNR-TIER-003",
                what=f"{CLAIM} was offloaded by {offloaded.brief()} and reused by {_REUSE}; what the trace tells of its way back "
                f"is, in order: {told or 'nothing'}.",
                why="Within one generation the order is offloaded, restore required, restored, reused.",
                at=proof(trace, offloaded, *found),
            )
        if first.output is not None and first.output != reuse.output:
            return failed(
                "TNR-TIER-006",
                what=f"{_REUSE} asks for the content of {CLAIM} after it was restored, and its output differs from that of "
                "resident-request, which asked for the same before the rows had left.",
                why="Restored rows give the same output as rows that never left the device.",
                at=proof(
                    trace,
                    offloaded,
                    *found,
                    *trace.of(_E.REQUEST_ADMITTED, request_id="resident-request"),
                    *trace.of(_E.REQUEST_ADMITTED, request_id=_REUSE),
                ),
            )
        return passed(f"It was restored before the reuse, which found {reuse.reused_blocks} blocks.")

    return judge


def offloaded_takes_no_room(bench: Bench) -> Judge:
    """An offloaded claim holds nothing on the device: another hard claim of its size is accepted."""
    _, _, active = _offload(bench)
    answer = bench.claim(bench.content(60), claim_id=_OTHER)

    def judge(trace: Trace) -> Finding:
        offloaded = trace.first(_E.CLAIM_OFFLOADED, claim_id=CLAIM)
        if offloaded is None or not served(active):
            return inconclusive(_NOT_OFFLOADED)
        if answer.decision == REJECTED:
            return failed(
                "TNR-TIER-007",
                what=f"The {bench.blocks(60)} blocks of {CLAIM} are offloaded and nothing else is claimed of "
                f"{bench.usable_blocks}; {_OTHER}, on {bench.blocks(60)} blocks, was rejected: {answer.reason}.",
                why="Blocks in a lower tier do not count as protected on the device.",
                at=proof(trace, offloaded, *trace.of(_E.CLAIM_REJECTED, claim_id=_OTHER)),
            )
        return passed(f"The other claim was {answer.decision}.")

    return judge


def no_offload_without_room(bench: Bench) -> Judge:
    """A claim is not offloaded to a tier that cannot hold it."""
    content, _, active = _offload(bench, host_of_80=10)
    lost, host_blocks = lost_blocks(bench, content), bench.capabilities.host_tier_blocks

    def judge(trace: Trace) -> Finding:
        if trace.first(_E.CLAIM_MATERIALIZED, claim_id=CLAIM) is None:
            return inconclusive(NOT_PARKED)
        if host_blocks is not None and host_blocks >= len(content):
            return inconclusive(f"The slower tier has its own size of {host_blocks} blocks, so the claim fits it.")
        offloaded = trace.first(_E.CLAIM_OFFLOADED, claim_id=CLAIM)
        if offloaded is not None or served(active) or lost:
            return failed(
                "TNR-TIER-002",
                what=f"{CLAIM} requires {bench.blocks(60)} blocks and the slower tier holds {bench.blocks(10)}: the claim was "
                f"{'not ' if offloaded is None else ''}offloaded, {ACTIVE} was {active.outcome}, and a later request misses "
                f"{counted(lost or 0, 'block')} of the claim.",
                why="A claim is offloaded only with every required block restorable.",
                at=proof(trace, offloaded, taken_from(trace, ACTIVE)),
            )
        return passed(f"It was not offloaded; the request was {active.outcome}.")

    return judge


def restore_failure_told(bench: Bench) -> Judge:
    """A restore that fails is told with its outcome, and recomputing is not passed off as keeping the claim."""
    content, first, active = _offload(bench)
    bench.fail_restore(claim_id=CLAIM)
    reuse = bench.serve(content, request_id=_REUSE)

    def judge(trace: Trace) -> Finding:
        offloaded = trace.first(_E.CLAIM_OFFLOADED, claim_id=CLAIM)
        if offloaded is None or not served(active):
            return inconclusive(_NOT_OFFLOADED)
        failure = trace.first(_E.CLAIM_RESTORATION_FAILED, claim_id=CLAIM)
        restored = trace.of(_E.CLAIM_RESTORED, _E.CLAIM_REUSE_AFTER_RESTORE, claim_id=CLAIM, request_id=_REUSE)
        if restored:
            return failed(
                "TNR-LOAD-003",
                what=f"The restore of {CLAIM} was made to fail, and event {restored[0].brief()} counts it as restored.",
                why="Recomputing after a failed load does not satisfy the claim.",
                at=proof(trace, offloaded, restored[0]),
            )
        if failure is None:
            return failed(
                "TNR-LOAD-001",
                what=f"The restore of {CLAIM} was made to fail, {_REUSE} was {reuse.outcome}, and no "
                "resident_claim_restoration_failed tells it.",
                why="A failed restoration is reported with its outcome.",
                at=proof(trace, offloaded, *trace.of(*_ANSWERS, request_id=_REUSE)),
            )
        if reuse.outcome is SERVED and first.output is not None and first.output != reuse.output:
            return failed(
                "TNR-LOAD-003",
                what=f"After {failure.brief()} the request was served, with another output than before the rows had left.",
                why="A request that recomputes after a failed load gives the same output as without the failure.",
                at=proof(trace, offloaded, failure, *trace.of(*_ANSWERS, request_id=_REUSE)),
            )
        return passed(f"The failure was told as {failure.text('outcome_type')}; the request was {reuse.outcome}.")

    return judge


def failure_blames_the_right_claim(bench: Bench) -> Judge:
    """Of two offloaded claims one fails to come back: the other is restored, and nothing is said against it."""
    bench.begin(conflict_actions=("offload_resident", "refuse_active"), host_of_80=80)
    contents = {name: bench.content(30) for name in (CLAIM, _OTHER)}
    for name, content in contents.items():
        bench.park(content, claim_id=name, mode="offloadable")
    active = bench.serve(bench.content(75), request_id=ACTIVE)
    bench.fail_restore(claim_id=CLAIM)
    bench.serve(contents[CLAIM], request_id=_REUSE)
    other = bench.serve(contents[_OTHER], request_id="other-request")

    def judge(trace: Trace) -> Finding:
        away = {event.claim_id for event in trace.of(_E.CLAIM_OFFLOADED)}
        if away != {CLAIM, _OTHER} or not served(active):
            return inconclusive(f"Not both claims were offloaded: {sorted(map(str, away))}.")
        against = trace.of(*_CLAIM_OUTCOMES, claim_id=_OTHER)
        refusals = [e for e in trace.of(_E.REQUEST_REFUSED) if _OTHER in (e.names("blocking_claim_ids") or ())]
        if against or refusals or other.outcome is not SERVED:
            events = (*against, *refusals)
            return failed(
                "TNR-LOAD-002",
                what=f"Only the restore of {CLAIM} was made to fail; {listed(event.brief() for event in events[:2])} "
                f"held it against {_OTHER}, whose own reuse was {other.outcome}.",
                why="A failed restoration of one claim leads to no outcome for another.",
                at=proof(
                    trace,
                    trace.first(*ACCEPTANCES, claim_id=_OTHER),
                    trace.first(_E.CLAIM_RESTORATION_FAILED, claim_id=CLAIM),
                    *events[:2],
                ),
            )
        if trace.first(_E.CLAIM_RESTORATION_FAILED, claim_id=CLAIM) is None:
            return inconclusive("The failure was not told for the claim that it was for.")
        return passed("Only the claim whose restore failed was named, and the other was restored.")

    return judge


def unclaimed_failure_is_nobodys(bench: Bench) -> Judge:
    """Rows in the slower tier that no claim covers any more cause no claim event when they cannot be loaded."""
    content, _, active = _offload(bench)
    bench.fail_restore(claim_id=CLAIM)
    bench.release(CLAIM)
    since = len(bench.trace())
    reuse = bench.serve(content, request_id=_REUSE)

    def judge(trace: Trace) -> Finding:
        if trace.first(_E.CLAIM_OFFLOADED, claim_id=CLAIM) is None or not served(active):
            return inconclusive(_NOT_OFFLOADED)
        after = [event for event in trace.of(*_CLAIM_OUTCOMES, _E.CLAIM_RESTORED) if event.index >= since]
        if after:
            return failed(
                "TNR-LOAD-004",
                what=f"{CLAIM} was released, and event {after[0].brief()} still speaks for it when its old rows are "
                "loaded.",
                why="Loading rows that no claim covers leads to no claim event.",
                at=proof(trace, *trace.of(_E.CLAIM_RELEASED, claim_id=CLAIM), after[0]),
            )
        return passed(f"The request was {reuse.outcome}, and no claim event followed.")

    return judge


_ACTIONS = frozenset({"offload_resident"})
_MODES = frozenset({"offloadable"})
_FAULT = frozenset({Feature.FAIL_RESTORE})
_ON_RESTORE = ("claim-accepted", "restored-before-reuse")


def _tiered(check_id: str, title: str, clauses: tuple[str, ...], drive: object, **more: object) -> Check:
    terms: dict[str, object] = {
        "profile": Profile.TIERED,
        "modes": _MODES,
        "actions": _ACTIONS,
        "rests_on": ("claim-accepted",),
    }
    return Check(check_id=check_id, title=title, clauses=clauses, drive=drive, **(terms | more))  # type: ignore[arg-type]


CHECKS: tuple[Check, ...] = (
    _tiered(
        "restored-before-reuse",
        "An offloaded claim comes back before it is reused, and is the same",
        ("TNR-TIER-001", "TNR-TIER-003", "TNR-TIER-006"),
        restored_before_reuse,
    ),
    _tiered(
        "offloaded-takes-no-room",
        "An offloaded claim holds nothing on the device",
        ("TNR-TIER-007",),
        offloaded_takes_no_room,
        modes=_MODES | {"hard_protected"},
    ),
    _tiered(
        "no-offload-without-room",
        "A claim is not offloaded to a tier that cannot hold it",
        ("TNR-TIER-002",),
        no_offload_without_room,
        actions=_ACTIONS | {"refuse_active"},
    ),
    _tiered(
        "restore-failure-told",
        "A failed restore is told with its outcome, and recomputing does not satisfy the claim",
        ("TNR-LOAD-001", "TNR-LOAD-003"),
        restore_failure_told,
        features=_FAULT,
        rests_on=_ON_RESTORE,
    ),
    _tiered(
        "failure-blames-the-right-claim",
        "A failed restore is held against no other claim",
        ("TNR-LOAD-002",),
        failure_blames_the_right_claim,
        features=_FAULT,
        rests_on=_ON_RESTORE,
    ),
    _tiered(
        "unclaimed-failure-is-nobodys",
        "Loading rows that no claim covers leads to no claim event",
        ("TNR-LOAD-004",),
        unclaimed_failure_is_nobodys,
        features=_FAULT | {Feature.OWNER_RELEASE},
        rests_on=_ON_RESTORE,
    ),
)
