"""Rules about losses: what is harm, what is not, and that a release comes before what it excuses."""

from __future__ import annotations

from collections.abc import Iterator
from types import MappingProxyType

from tenure.claims.event_types import EventType
from tenure.conformance.check import TraceRule
from tenure.conformance.finding import Finding, failed, listed
from tenure.conformance.ledger import LOSSES, PROTECTING_MODES, RELEASES, WAITING, ClaimView, evicted_block
from tenure.conformance.profiles import Profile
from tenure.conformance.rules.base import Rule, about, kept, moments, trace_rule
from tenure.conformance.trace import Trace, TraceEvent

_E = EventType


def _acceptance_before_harm(trace: Trace) -> Iterator[Finding]:
    for event, ledger in moments(trace):
        if event.kind is not _E.CLAIM_HARMED:
            continue
        claim = ledger.view(event)
        if claim is None or claim.accepted is None:
            yield failed(
                "TNR-HRM-001",
                what=f"Event {event.brief()} reports harm to a claim that was never accepted.",
                why="Without acceptance there is no responsibility, so the loss is ordinary replacement.",
                at=(event.index,),
            )
        else:
            yield kept()


def _losses_reported(trace: Trace) -> Iterator[Finding]:
    for event, ledger in moments(trace):
        for claim in ledger.broken_by(event):
            yield failed(
                "TNR-HRM-002",
                what=f"Event {event.brief()} takes a block without which {_predicate(claim)} of claim {claim.claim_id} "
                "is false, and no harm was reported before it.",
                why="An accepted claim that was not released and loses its predicate is reported as harmed, before "
                "the block that breaks it.",
                at=_at(claim, event),
            )
        if event.kind in LOSSES or evicted_block(event) is not None:
            yield kept()


def _every_loss_told(trace: Trace) -> Iterator[Finding]:
    for event, ledger in moments(trace):
        physical = evicted_block(event)
        if physical is None:
            continue
        for claim in ledger.claims.values():
            positions = claim.positions_in(physical)
            if claim.responsible and claim.offloaded is None and positions:
                yield failed(
                    "TNR-HRM-007",
                    what=f"Event {event.brief()} takes position {min(positions)} of claim {claim.claim_id}, "
                    "and no event of that claim says so.",
                    why="Every loss of a block that a live claim covers is in the trace, harmless ones too.",
                    at=_at(claim, event),
                )
        yield kept()


def _release_first(trace: Trace) -> Iterator[Finding]:
    for event, ledger in moments(trace):
        claim = ledger.view(event)
        if claim is None:
            continue
        if event.kind in RELEASES and claim.accepted is not None:
            if claim.broken is not None and claim.harmed is None:
                yield failed(
                    "TNR-HRM-004",
                    what=f"Event {event.brief()} releases the claim after {claim.broken.brief()} had taken its "
                    "predicate.",
                    why="A release comes before every loss that it excuses; afterwards it is an excuse.",
                    at=(claim.broken.index, event.index),
                )
            else:
                yield kept()
        elif event.kind is _E.CLAIM_HARMED and claim.released is not None:
            yield failed(
                "TNR-HRM-004",
                what=f"Event {event.brief()} reports harm after {claim.released.brief()} had released the claim.",
                why="A loss after the release is reported as that, and is no harm.",
                at=(claim.released.index, event.index),
            )


def _released_losses_told(trace: Trace) -> Iterator[Finding]:
    for event, ledger in moments(trace):
        physical = evicted_block(event)
        for claim in ledger.claims.values():
            if physical is not None and claim.released is not None and claim.positions_in(physical):
                yield failed(
                    "TNR-HRM-004",
                    what=f"Event {event.brief()} takes position {min(claim.positions_in(physical))} of claim "
                    f"{claim.claim_id}, which {claim.released.brief()} had released, and the loss is not told.",
                    why="A loss that a release excuses is reported as a loss after release.",
                    at=(claim.released.index, event.index),
                )
        if event.kind is _E.CLAIM_BLOCK_LOST_AFTER_RELEASE:
            yield kept()


def _after_release_means_it(trace: Trace) -> Iterator[Finding]:
    for event, ledger in moments(trace):
        if event.kind is not _E.CLAIM_BLOCK_LOST_AFTER_RELEASE:
            continue
        claim = ledger.view(event)
        if claim is None or claim.released is None:
            yield failed(
                "TNR-HRM-008",
                what=f"Event {event.brief()} calls it a loss after release, and no release of that claim came before.",
                why="A loss is called that only for a claim that was released.",
                at=(event.index,),
            )
        else:
            yield kept()


def _harm_once(trace: Trace) -> Iterator[Finding]:
    for event, ledger in moments(trace):
        claim = ledger.view(event)
        if event.kind is _E.CLAIM_HARMED and claim is not None:
            if claim.harmed is not None:
                yield failed(
                    "TNR-HRM-003",
                    what=f"Event {event.brief()} reports the harm of {claim.harmed.brief()} again.",
                    why="One promise breaks once.",
                    at=(claim.harmed.index, event.index),
                )
            else:
                yield kept()


def _judged_harms(trace: Trace) -> Iterator[tuple[TraceEvent, ClaimView, frozenset[int]]]:
    """First harms of accepted claims whose blocks the trace tells, with the positions that they say are lost."""
    for event, ledger in moments(trace):
        claim = ledger.view(event)
        if event.kind is not _E.CLAIM_HARMED or claim is None or not claim.responsible or not claim.ever_blocks:
            continue
        if ledger.uncertain or claim.untold:
            continue
        physical, position = event.count("physical_block_id"), event.count("logical_block_position")
        if physical is not None:
            lost = claim.positions_in(physical)
        else:
            lost = frozenset() if position is None else frozenset({position}) & claim.blocks.keys()
        yield event, claim, lost


def _harm_held_before(trace: Trace) -> Iterator[Finding]:
    for event, claim, _ in _judged_harms(trace):
        if claim.offloaded is None and claim.broken is None and not claim.holds():
            yield failed(
                "TNR-HRM-005",
                what=f"Event {event.brief()} reports harm while {len(claim.blocks)} blocks of the claim are cached, "
                f"with which {_predicate(claim)} does not hold, nor did it before.",
                why="What never held cannot be broken.",
                at=_at(claim, event),
            )
        else:
            yield kept()


def _harm_breaks(trace: Trace) -> Iterator[Finding]:
    for event, claim, lost in _judged_harms(trace):
        if lost and claim.holds(lost=lost):
            yield failed(
                "TNR-MAT-004",
                what=f"Event {event.brief()} reports harm for the loss of position {min(lost)}, without which "
                f"{_predicate(claim)} still holds.",
                why="A loss that leaves the predicate true is no harm.",
                at=_at(claim, event),
            )
        else:
            yield kept()


def _harm_names_the_broken(trace: Trace) -> Iterator[Finding]:
    for event, claim, lost in _judged_harms(trace):
        told_a_block = event.count("physical_block_id") is not None or event.count("logical_block_position") is not None
        if told_a_block and not lost and claim.holds():
            yield failed(
                "TNR-HRM-006",
                what=f"Event {event.brief()} reports harm to {claim.claim_id} by the loss of a block that none of its rows are "
                f"in, and its {_predicate(claim)} still holds.",
                why="Harm names the claim whose predicate broke, and no other.",
                at=_at(claim, event),
            )
        else:
            yield kept()


def _hard_is_no_victim(trace: Trace) -> Iterator[Finding]:
    for event, ledger in moments(trace):
        for claim in ledger.claims.values():
            if claim.mode != "hard_protected" or not _on_device(claim):
                continue
            position = _taken_from(claim, event)
            if position is not None:
                yield failed(
                    "TNR-ARB-003",
                    what=f"Event {event.brief()} takes position {position} of hard claim {claim.claim_id}, which "
                    "nothing had demoted, expired, released, offloaded or harmed.",
                    why="A block of a live hard claim is taken only after an event that ends or moves that claim; "
                    "telling the loss of the block is none.",
                    at=_at(claim, event),
                )
        if evicted_block(event) is not None or event.kind in WAITING:
            yield kept()


def _taken_from(claim: ClaimView, event: TraceEvent) -> int | None:
    """The position of the claim that this event takes for a request; None when it takes none.

    A loss that is told with a request, and a victim that a request takes although its loss was told, are taken as much
    as a victim of which nothing was said. Without any request a told loss is a fault, and nobody took the block.
    """
    if event.kind is _E.CLAIM_BLOCK_LOST and event.claim_id == claim.claim_id and event.request_id is not None:
        return event.count("logical_block_position")
    physical = evicted_block(event)
    if physical is None:
        return None
    given_up = claim.given_up.get(physical) if event.request_id is not None else None
    return min(claim.positions_in(physical), default=given_up)


def _flag_before_cleanup(trace: Trace) -> Iterator[Finding]:
    lost_just_now: dict[int, set[str]] = {}
    for event, ledger in moments(trace):
        claim, physical = ledger.view(event), evicted_block(event)
        if event.kind in LOSSES and claim is not None and claim.mode in PROTECTING_MODES and _on_device(claim):
            block = event.count("physical_block_id")
            if block is not None:
                lost_just_now.setdefault(block, set()).add(claim.claim_id)
        if physical is None:
            continue
        covering = lost_just_now.pop(physical, set()) | {
            one.claim_id
            for one in ledger.claims.values()
            if _on_device(one) and one.mode in PROTECTING_MODES and one.positions_in(physical)
        }
        protected = bool(covering)
        if event.flag("is_protected_resident") is not protected:
            yield failed(
                "TNR-EVT-009",
                what=f"Event {event.brief()} has is_protected_resident {event.flag('is_protected_resident')}, and just "
                "before anything was said of its loss the block was covered by "
                f"{f'{listed(sorted(covering))}, which stood' if protected else 'no live reserving claim'}.",
                why="The flag tells how the block stood before anything was cleaned up for it.",
                at=about(ledger, covering, event),
            )
        else:
            yield kept()


def _on_device(claim: ClaimView) -> bool:
    return claim.responsible and claim.offloaded is None


def _predicate(claim: ClaimView) -> str:
    if claim.required is None:
        return "its predicate"
    if claim.required.start == 0:
        return f"leading_prefix_at_least({len(claim.required)})"
    return f"contiguous_range({claim.required.start},{len(claim.required)})"


def _at(claim: ClaimView, event: TraceEvent) -> tuple[int, ...]:
    return (event.index,) if claim.accepted is None else (claim.accepted.index, event.index)


_HARM = "harm event"
_ABOUT = MappingProxyType(
    {
        _HARM: frozenset({_E.CLAIM_HARMED}),
        "loss of a cached block": frozenset({_E.VICTIM_SELECTED, *LOSSES}),
        "release": frozenset(RELEASES),
        "loss after a release": frozenset({_E.VICTIM_SELECTED, _E.CLAIM_BLOCK_LOST_AFTER_RELEASE}),
        "victim or refusal": frozenset({_E.VICTIM_SELECTED, _E.CLAIM_BLOCK_LOST, *WAITING}),
        "victim": frozenset({_E.VICTIM_SELECTED}),
    }
)
_LOSS = "loss of a cached block"
_SPECS: tuple[tuple[Rule, str, str, str, str, Profile], ...] = (
    (
        _acceptance_before_harm,
        "trace-no-acceptance-no-harm",
        "Only an accepted claim can be harmed",
        "TNR-HRM-001",
        _HARM,
        Profile.OBSERVE,
    ),
    (
        _losses_reported,
        "trace-loss-reported",
        "A claim that loses its predicate is reported as harmed, before the block goes",
        "TNR-HRM-002",
        _LOSS,
        Profile.LEASE,
    ),
    (
        _every_loss_told,
        "trace-every-loss-told",
        "Every loss of a block that a live claim covers is told",
        "TNR-HRM-007",
        _LOSS,
        Profile.LEASE,
    ),
    (
        _release_first,
        "trace-release-first",
        "A release comes before the loss that it excuses, and such a loss is no harm",
        "TNR-HRM-004",
        "release",
        Profile.LEASE,
    ),
    (
        _released_losses_told,
        "trace-released-loss-told",
        "A loss that a release excuses is told as that",
        "TNR-HRM-004",
        "loss after a release",
        Profile.LEASE,
    ),
    (
        _after_release_means_it,
        "trace-after-release-means-it",
        "A loss after release needs a release",
        "TNR-HRM-008",
        "loss after a release",
        Profile.LEASE,
    ),
    (_harm_once, "trace-harm-once", "A claim is harmed once", "TNR-HRM-003", _HARM, Profile.LEASE),
    (
        _harm_held_before,
        "trace-harm-held-before",
        "What never held cannot be harmed",
        "TNR-HRM-005",
        _HARM,
        Profile.LEASE,
    ),
    (
        _harm_breaks,
        "trace-harm-breaks",
        "A loss that leaves the predicate true is no harm",
        "TNR-MAT-004",
        _HARM,
        Profile.LEASE,
    ),
    (
        _harm_names_the_broken,
        "trace-harm-names-the-broken",
        "Harm names the claim whose predicate broke",
        "TNR-HRM-006",
        _HARM,
        Profile.LEASE,
    ),
    (
        _hard_is_no_victim,
        "trace-hard-is-no-victim",
        "A hard claim is no victim without an event of its own first",
        "TNR-ARB-003",
        "victim or refusal",
        Profile.HARD,
    ),
    (
        _flag_before_cleanup,
        "trace-victim-flag",
        "is_protected_resident tells how the block stood before",
        "TNR-EVT-009",
        "victim",
        Profile.OBSERVE,
    ),
)
RULES: tuple[TraceRule, ...] = tuple(
    trace_rule(
        rule,
        check_id=check_id,
        title=title,
        clauses=(clause,),
        occasion=occasion,
        kinds=_ABOUT[occasion],
        profile=profile,
    )
    for rule, check_id, title, clause, occasion, profile in _SPECS
)
