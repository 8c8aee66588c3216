"""Rules about how a claim moves: order, acceptance, materialization, renewal, and its end by reset or restart."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from types import MappingProxyType

from tenure.claims.event_types import EventType
from tenure.conformance.check import TraceRule
from tenure.conformance.finding import Finding, counted, failed
from tenure.conformance.ledger import ACCEPTANCES, AWAY_STATES, ENDINGS, Ledger
from tenure.conformance.profiles import Profile
from tenure.conformance.rules.base import about, kept, moments, trace_rule
from tenure.conformance.trace import Trace, TraceEvent

_E = EventType
#: Where a claim stands, in the examiner's own coarse words, and what may be said of it there. Written from the spec,
#: independently of the table that runtimes share.
_UNKNOWN, _ASKED, _REJECTED, _LIVE = "unknown", "asked", "rejected", "live"
_AWAY, _COMING, _OVER, _SILENT = "away", "coming", "over", "silent"
_IN_WORDS: Mapping[str, str] = MappingProxyType(
    {
        _UNKNOWN: "was never submitted",
        _ASKED: "is submitted and not accepted",
        _REJECTED: "is rejected",
        _LIVE: "stands accepted",
        _AWAY: "is offloaded",
        _COMING: "is being restored",
        _OVER: "is released, demoted or expired",
        _SILENT: "is harmed",
    }
)
_MAY_FOLLOW: Mapping[tuple[str, EventType], str] = MappingProxyType(
    {
        (_UNKNOWN, _E.CLAIM_SUBMITTED): _ASKED,
        (_ASKED, _E.CLAIM_ACCEPTED): _LIVE,
        (_ASKED, _E.CLAIM_CONDITIONALLY_ACCEPTED): _LIVE,
        (_ASKED, _E.CLAIM_REJECTED): _REJECTED,
        (_REJECTED, _E.CLAIM_SUBMITTED): _ASKED,  # nothing was promised, so it may be asked for again
        (_ASKED, _E.CLAIM_RELEASED): _OVER,
        (_LIVE, _E.CLAIM_MATERIALIZED): _LIVE,
        (_LIVE, _E.CLAIM_BLOCK_LOST): _LIVE,
        (_LIVE, _E.CLAIM_REUSE_AFTER_RESTORE): _LIVE,
        (_LIVE, _E.CLAIM_OFFLOADED): _AWAY,
        (_AWAY, _E.CLAIM_RESTORE_REQUIRED): _COMING,
        (_COMING, _E.CLAIM_RESTORED): _LIVE,
        (_COMING, _E.CLAIM_RESTORATION_FAILED): _AWAY,
        (_OVER, _E.CLAIM_BLOCK_LOST_AFTER_RELEASE): _OVER,
        **{
            (state, event): target
            for state in (_LIVE, _AWAY, _COMING)
            for event, target in (
                (_E.CLAIM_RENEWED, state),
                (_E.CLAIM_RECOVERED, state),
                (_E.CLAIM_DEMOTED, _OVER),
                (_E.CLAIM_EXPIRED, _OVER),
                (_E.CLAIM_RELEASED, _OVER),
                (_E.CLAIM_HARMED, _SILENT),
            )
        },
    }
)


def _in_order(trace: Trace) -> Iterator[Finding]:
    states: dict[str, str] = {}
    since: dict[str, TraceEvent] = {}
    for event, ledger in moments(trace):
        if ledger.takes_over(event) and event.claim_id is not None:
            states[event.claim_id] = _AWAY if event.text("claim_status") in AWAY_STATES else _LIVE
            since[event.claim_id] = event
            yield kept()
            continue
        if event.kind is None or not event.kind.is_claim_event or event.claim_id is None:
            continue
        state = states.get(event.claim_id, _UNKNOWN)
        target = _MAY_FOLLOW.get((state, event.kind))
        if target is not None:
            if target != state:
                since[event.claim_id] = event
            states[event.claim_id] = target
            yield kept()
        elif not (state in {_OVER, _SILENT} and event.kind in {_E.CLAIM_SUBMITTED, *ACCEPTANCES}):
            yield failed(
                "TNR-EVT-003",
                what=f"Event {event.brief()} comes while {event.claim_id} {_IN_WORDS[state]}"
                f"{f', since {since[event.claim_id].brief()}' if event.claim_id in since else ''}.",
                why="The events of a claim follow the transition table, which has no such step from there.",
                at=(since[event.claim_id].index, event.index) if event.claim_id in since else (event.index,),
            )


def _id_used_once(trace: Trace) -> Iterator[Finding]:
    ended: dict[str, TraceEvent] = {}
    for event in trace:
        if event.claim_id is None:
            continue
        if event.kind in ENDINGS:
            ended.setdefault(event.claim_id, event)
            yield kept()
        elif event.kind in {_E.CLAIM_SUBMITTED, *ACCEPTANCES} and event.claim_id in ended:
            end = ended[event.claim_id]
            yield failed(
                "TNR-LIFE-002",
                what=f"Event {event.brief()} begins a claim whose id was ended by {end.brief()}.",
                why="The id of an ended claim is not used again, or one name would tell two stories.",
                at=(end.index, event.index),
            )


def _materialized_true(trace: Trace) -> Iterator[Finding]:
    for event, ledger in moments(trace):
        claim = ledger.view(event)
        if event.kind is not _E.CLAIM_MATERIALIZED or claim is None:
            continue
        completing = _next_block_of(trace, event)
        known = claim.ever_blocks or completing is not None
        if known and not ledger.uncertain and not claim.untold and claim.required is not None:
            missing = set(claim.required) - claim.blocks.keys() - ({completing} if completing is not None else set())
            if missing or event.flag("predicate_satisfied") is False:
                yield failed(
                    "TNR-MAT-002",
                    what=f"Event {event.brief()} comes while "
                    + (
                        f"{counted(len(missing), 'required position')} of {event.claim_id} "
                        f"{'is' if len(missing) == 1 else 'are'} not cached, the first of them {min(missing)}."
                        if missing
                        else "it says itself that the predicate is not satisfied."
                    ),
                    why="A predicate holds exactly while every position that it requires survives; a count decides "
                    "nothing.",
                    at=about(ledger, (event.claim_id,), event),
                )
                continue
            yield kept()


def _next_block_of(trace: Trace, event: TraceEvent) -> int | None:
    """The position of the block line right after `event`, if it is the claim's: it may complete the predicate."""
    following = next((later for later in trace if later.index > event.index), None)
    if following is None or following.kind is not _E.BLOCK_MATERIALIZED or following.claim_id != event.claim_id:
        return None
    return following.count("logical_block_position")


def _materialized_told(trace: Trace) -> Iterator[Finding]:
    told: dict[str, TraceEvent] = {}
    due: dict[str, TraceEvent] = {}
    for event, ledger in moments(trace):
        if event.kind is _E.CLAIM_MATERIALIZED and event.claim_id is not None:
            if event.claim_id in told:
                yield failed(
                    "TNR-MAT-003",
                    what=f"Event {event.brief()} calls the claim materialized again after {told[event.claim_id].brief()}, and nothing "
                    "was lost in between.",
                    why="A claim is reported as materialized once for each time that its predicate becomes true.",
                    at=about(ledger, (event.claim_id,), told[event.claim_id], event),
                )
            else:
                yield kept()
            told[event.claim_id] = event
        for claim in ledger.claims.values():
            if claim.responsible and claim.offloaded is None and claim.holds():
                due.setdefault(claim.claim_id, event)
        if event.kind in _REQUEST_ENDS:
            for claim_id in sorted(due.keys() - told.keys()):
                since = due[claim_id]
                yield failed(
                    "TNR-MAT-003",
                    what=f"All required blocks of claim {claim_id} were cached before {since.brief()}, "
                    f"and until {event.brief()} no event says that it is materialized.",
                    why="The moment at which a predicate becomes true decides whether a later loss is harm.",
                    at=about(ledger, (claim_id,), since, event),
                )


_REQUEST_ENDS = (_E.REQUEST_FINISHED, _E.REQUEST_REFUSED, _E.REQUEST_DEFERRED)


def _conditions_told(trace: Trace) -> Iterator[Finding]:
    asked: dict[str, TraceEvent] = {}
    for event, ledger in moments(trace):
        claim_id = event.claim_id
        if event.kind is _E.CLAIM_SUBMITTED and claim_id is not None:
            asked[claim_id] = event
        if event.kind not in ACCEPTANCES or claim_id is None or claim_id not in asked:
            continue
        ask, required = asked[claim_id], ledger.claim(claim_id).required
        wanted, granted = ask.count("requested_footprint_blocks"), event.count("footprint_blocks")
        weaker = ask.text("requested_protection_mode") != event.text("protection_mode")
        less = wanted is not None and granted is not None and granted < wanted
        too_few = required is not None and granted is not None and granted < len(required)
        conditional = event.kind is _E.CLAIM_CONDITIONALLY_ACCEPTED
        if too_few or (less or weaker) != conditional:
            yield failed(
                "TNR-ACC-007",
                what=f"Event {event.brief()} grants {granted} of the {wanted} blocks that {ask.brief()} asks for, as "
                f"{event.text('protection_mode')} where {ask.text('requested_protection_mode')} is asked for"
                + (f", and {len(required or ())} are required." if too_few else "."),
                why="Less than was asked for is a conditional acceptance that says so, and never less than the "
                "predicate requires.",
                at=(ask.index, event.index),
            )
        else:
            yield kept()


def _renewals(trace: Trace) -> Iterator[Finding]:
    for event, ledger in moments(trace):
        claim = ledger.view(event)
        if event.kind is not _E.CLAIM_RENEWED or claim is None:
            continue
        revision = event.count("revision")
        if revision is not None and claim.revision is not None and revision <= claim.revision:
            yield failed(
                "TNR-LIFE-003",
                what=f"Event {event.brief()} renews with revision {revision} while {claim.revision} is in force.",
                why="Only a higher revision renews, so that a replayed message extends nothing.",
                at=about(ledger, (event.claim_id,), event),
            )
        else:
            yield kept()


def _ends_by_reset(trace: Trace) -> Iterator[Finding]:
    for event, ledger in moments(trace):
        if event.kind in {_E.RUNTIME_RESET, _E.RUNTIME_SHUTDOWN}:
            live = _live(ledger)
            if live:
                yield failed(
                    "TNR-LIFE-007",
                    what=f"Event {event.brief()} comes while {', '.join(live)} stands accepted and not ended.",
                    why="Reset and shutdown end every live claim with an event before its rows go.",
                    at=about(ledger, live, event),
                )
            else:
                yield kept()


def _survives_restart(trace: Trace) -> Iterator[Finding]:
    for event, ledger in moments(trace):
        if event.kind is not _E.RUNTIME_RESTARTED:
            continue
        later = [e for e in trace if e.index > event.index]
        for claim_id in _live(ledger):
            answers = [e for e in later if e.claim_id == claim_id and e.kind in {*ENDINGS, _E.CLAIM_RECOVERED}]
            ends = [e for e in answers if e.kind in ENDINGS]
            if not answers or len(ends) > 1:
                yield failed(
                    "TNR-LIFE-008",
                    what=f"Claim {claim_id} stood at {event.brief()}; after it {counted(len(answers) - len(ends), 'event')} "
                    f"recovered the claim and {counted(len(ends), 'event')} ended it.",
                    why="After a restart every live claim is either recovered or ended, by an event, once.",
                    at=about(ledger, (claim_id,), event, *answers),
                )
            else:
                yield kept()


def _live(ledger: Ledger) -> list[str]:
    return sorted(claim.claim_id for claim in ledger.claims.values() if claim.responsible)


_SPECS = (
    (_in_order, "trace-claim-order", "The events of a claim follow the transition table", "TNR-EVT-003", "claim event"),
    (_id_used_once, "trace-claim-id-once", "The id of an ended claim is not used again", "TNR-LIFE-002", "ended claim"),
    (
        _materialized_true,
        "trace-materialized-true",
        "A claim is called materialized only while every required block is cached",
        "TNR-MAT-002",
        "materialization",
    ),
    (
        _materialized_told,
        "trace-materialized-told",
        "A predicate that becomes true is reported, once",
        "TNR-MAT-003",
        "materialization",
    ),
    (
        _conditions_told,
        "trace-conditions-told",
        "An acceptance of less than was asked for says so",
        "TNR-ACC-007",
        "acceptance after a submission",
    ),
    (_renewals, "trace-renewal-higher", "Only a higher revision renews", "TNR-LIFE-003", "renewal"),
    (_ends_by_reset, "trace-reset-ends-claims", "Reset and shutdown end claims first", "TNR-LIFE-007", "reset"),
    (
        _survives_restart,
        "trace-restart-answers",
        "A restart recovers or ends each live claim",
        "TNR-LIFE-008",
        "restart",
    ),
)
_ABOUT: Mapping[str, frozenset[EventType]] = MappingProxyType(
    {
        "ended claim": frozenset(ENDINGS),
        "acceptance after a submission": frozenset(ACCEPTANCES),
        "renewal": frozenset({_E.CLAIM_RENEWED}),
        "reset": frozenset({_E.RUNTIME_RESET, _E.RUNTIME_SHUTDOWN}),
        "restart": frozenset({_E.RUNTIME_RESTARTED}),
    }
)
RULES: tuple[TraceRule, ...] = tuple(
    trace_rule(
        rule,
        check_id=check_id,
        title=title,
        clauses=(clause,),
        occasion=occasion,
        kinds=_ABOUT.get(occasion, frozenset()),
        profile=Profile.LEASE,
    )
    for rule, check_id, title, clause, occasion in _SPECS
)
