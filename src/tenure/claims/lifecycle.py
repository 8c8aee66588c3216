"""How a claim and an active request move: one table each, complete. What is not in a table is illegal."""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from types import MappingProxyType

from tenure.claims.event_types import EventType
from tenure.claims.modes import ClaimState
from tenure.errors import ClaimError

_S = ClaimState
_E = EventType

#: Every legal step of a claim. None is the state of a claim that nobody has submitted.
TRANSITIONS: Mapping[tuple[ClaimState | None, EventType], ClaimState] = MappingProxyType(
    {
        (None, _E.CLAIM_SUBMITTED): _S.SUBMITTED,
        (_S.SUBMITTED, _E.CLAIM_ACCEPTED): _S.ACCEPTED,
        (_S.SUBMITTED, _E.CLAIM_CONDITIONALLY_ACCEPTED): _S.CONDITIONALLY_ACCEPTED,
        (_S.SUBMITTED, _E.CLAIM_REJECTED): _S.REFUSED,
        # Nothing is owed for a rejected claim, so it may be asked for again.
        (_S.REFUSED, _E.CLAIM_SUBMITTED): _S.SUBMITTED,
        # Accepted, and not yet whole. There is no harm from here: what never held cannot be broken.
        (_S.ACCEPTED, _E.CLAIM_MATERIALIZED): _S.MATERIALIZED,
        (_S.ACCEPTED, _E.CLAIM_RENEWED): _S.ACCEPTED,
        (_S.ACCEPTED, _E.CLAIM_BLOCK_LOST): _S.ACCEPTED,
        (_S.ACCEPTED, _E.CLAIM_DEMOTED): _S.DEMOTED,
        (_S.ACCEPTED, _E.CLAIM_EXPIRED): _S.EXPIRED,
        (_S.ACCEPTED, _E.CLAIM_RELEASED): _S.RELEASED,
        (_S.CONDITIONALLY_ACCEPTED, _E.CLAIM_MATERIALIZED): _S.MATERIALIZED,
        (_S.CONDITIONALLY_ACCEPTED, _E.CLAIM_RENEWED): _S.CONDITIONALLY_ACCEPTED,
        (_S.CONDITIONALLY_ACCEPTED, _E.CLAIM_BLOCK_LOST): _S.CONDITIONALLY_ACCEPTED,
        (_S.CONDITIONALLY_ACCEPTED, _E.CLAIM_DEMOTED): _S.DEMOTED,
        (_S.CONDITIONALLY_ACCEPTED, _E.CLAIM_EXPIRED): _S.EXPIRED,
        (_S.CONDITIONALLY_ACCEPTED, _E.CLAIM_RELEASED): _S.RELEASED,
        # The predicate holds on the device.
        (_S.MATERIALIZED, _E.CLAIM_RENEWED): _S.MATERIALIZED,
        (_S.MATERIALIZED, _E.CLAIM_BLOCK_LOST): _S.MATERIALIZED,
        (_S.MATERIALIZED, _E.CLAIM_OFFLOADED): _S.OFFLOADED,
        (_S.MATERIALIZED, _E.CLAIM_DEMOTED): _S.DEMOTED,
        (_S.MATERIALIZED, _E.CLAIM_EXPIRED): _S.EXPIRED,
        (_S.MATERIALIZED, _E.CLAIM_RELEASED): _S.RELEASED,
        (_S.MATERIALIZED, _E.CLAIM_HARMED): _S.HARMED,
        # Off the device, restorable: the runtime still answers for it.
        (_S.OFFLOADED, _E.CLAIM_RENEWED): _S.OFFLOADED,
        (_S.OFFLOADED, _E.CLAIM_RESTORE_REQUIRED): _S.RESTORING,
        (_S.OFFLOADED, _E.CLAIM_DEMOTED): _S.DEMOTED,
        (_S.OFFLOADED, _E.CLAIM_EXPIRED): _S.EXPIRED,
        (_S.OFFLOADED, _E.CLAIM_RELEASED): _S.RELEASED,
        (_S.OFFLOADED, _E.CLAIM_HARMED): _S.HARMED,
        # A restoration is under way. Failing puts the claim back; what follows from it is a step of its own.
        (_S.RESTORING, _E.CLAIM_RENEWED): _S.RESTORING,
        (_S.RESTORING, _E.CLAIM_RESTORED): _S.RESTORED,
        (_S.RESTORING, _E.CLAIM_RESTORATION_FAILED): _S.OFFLOADED,
        (_S.RESTORING, _E.CLAIM_DEMOTED): _S.DEMOTED,
        (_S.RESTORING, _E.CLAIM_EXPIRED): _S.EXPIRED,
        (_S.RESTORING, _E.CLAIM_RELEASED): _S.RELEASED,
        (_S.RESTORING, _E.CLAIM_HARMED): _S.HARMED,
        # Back on the device; the first reuse makes it an ordinary resident again.
        (_S.RESTORED, _E.CLAIM_REUSE_AFTER_RESTORE): _S.MATERIALIZED,
        (_S.RESTORED, _E.CLAIM_RENEWED): _S.RESTORED,
        (_S.RESTORED, _E.CLAIM_BLOCK_LOST): _S.RESTORED,
        (_S.RESTORED, _E.CLAIM_OFFLOADED): _S.OFFLOADED,
        (_S.RESTORED, _E.CLAIM_DEMOTED): _S.DEMOTED,
        (_S.RESTORED, _E.CLAIM_EXPIRED): _S.EXPIRED,
        (_S.RESTORED, _E.CLAIM_RELEASED): _S.RELEASED,
        (_S.RESTORED, _E.CLAIM_HARMED): _S.HARMED,
        # A restart found the claim in its journal. In a trace that begins there, this is the first word about it.
        (_S.ACCEPTED, _E.CLAIM_RECOVERED): _S.ACCEPTED,
        (_S.CONDITIONALLY_ACCEPTED, _E.CLAIM_RECOVERED): _S.CONDITIONALLY_ACCEPTED,
        (_S.MATERIALIZED, _E.CLAIM_RECOVERED): _S.MATERIALIZED,
        (_S.OFFLOADED, _E.CLAIM_RECOVERED): _S.OFFLOADED,
        (_S.RESTORING, _E.CLAIM_RECOVERED): _S.OFFLOADED,
        (_S.RESTORED, _E.CLAIM_RECOVERED): _S.RESTORED,
        # Released claims may lose their blocks, and it is said. Harmed claims have nothing more to say.
        (_S.DEMOTED, _E.CLAIM_BLOCK_LOST_AFTER_RELEASE): _S.DEMOTED,
        (_S.EXPIRED, _E.CLAIM_BLOCK_LOST_AFTER_RELEASE): _S.EXPIRED,
        (_S.RELEASED, _E.CLAIM_BLOCK_LOST_AFTER_RELEASE): _S.RELEASED,
    }
)

#: States in which the runtime answers for the claim.
RESPONSIBLE_STATES = frozenset(
    {
        _S.ACCEPTED,
        _S.CONDITIONALLY_ACCEPTED,
        _S.MATERIALIZED,
        _S.OFFLOADED,
        _S.RESTORING,
        _S.RESTORED,
    }
)

#: States in which the predicate holds on the device, so that losing a required block is harm.
DEVICE_STATES = frozenset({_S.MATERIALIZED, _S.RESTORED})

#: States in which the blocks are in a lower tier and take no room on the device.
HOST_STATES = frozenset({_S.OFFLOADED, _S.RESTORING})

#: States that a claim never leaves.
TERMINAL_STATES = frozenset({_S.DEMOTED, _S.EXPIRED, _S.RELEASED, _S.HARMED})

#: The terminal states that excuse a later loss (TNR-HRM-004).
RELEASED_STATES = frozenset({_S.DEMOTED, _S.EXPIRED, _S.RELEASED})


def next_state(state: ClaimState | None, event_type: EventType, *, claim_id: str) -> ClaimState:
    """The state that `event_type` leads to from `state`. Changes nothing.

    Raises:
        ClaimError: the table has no such step. The message lists the steps that it has.
    """
    found = TRANSITIONS.get((state, event_type))
    if found is not None:
        return found
    legal = ", ".join(event.value for (source, event) in TRANSITIONS if source is state) or "nothing"
    where = "is unknown" if state is None else f"is {state.value}"
    message = f"claim {claim_id!r} {where}, and {event_type.value} cannot follow; only {legal} can"
    raise ClaimError(message, field="event", clause="TNR-LIFE-001")


class RequestState(StrEnum):
    """Where an active request stands."""

    WAITING = "waiting"
    DEFERRED = "deferred"
    RUNNING = "running"
    SERVED = "served"
    REFUSED = "refused"
    ROUTED = "routed"
    FAILED = "failed"


_R = RequestState

#: Every legal step of an active request. A published trace begins without `active_request_submitted`.
REQUEST_TRANSITIONS: Mapping[tuple[RequestState | None, EventType], RequestState] = MappingProxyType(
    {
        (None, _E.REQUEST_SUBMITTED): _R.WAITING,
        **{
            (state, event): target
            for state in (None, _R.WAITING, _R.DEFERRED)
            for event, target in (
                (_E.REQUEST_ADMITTED, _R.RUNNING),
                (_E.REQUEST_DEFERRED, _R.DEFERRED),
                (_E.REQUEST_REFUSED, _R.REFUSED),
                (_E.REQUEST_ROUTED, _R.ROUTED),
            )
        },
        (_R.RUNNING, _E.REQUEST_ADMITTED): _R.RUNNING,
        (_R.RUNNING, _E.REQUEST_DEFERRED): _R.DEFERRED,
        (_R.RUNNING, _E.REQUEST_REFUSED): _R.REFUSED,
        (_R.RUNNING, _E.REQUEST_FINISHED): _R.SERVED,
        (_R.RUNNING, _E.REQUEST_FAILED): _R.FAILED,
        (_R.WAITING, _E.REQUEST_FAILED): _R.FAILED,
        (_R.DEFERRED, _E.REQUEST_FAILED): _R.FAILED,
        **{
            (state, event): state
            for state in (_R.WAITING, _R.DEFERRED, _R.RUNNING)
            for event in (_E.ACTIVE_LIVE_BOUNDED, _E.ACTIVE_LIVE_OFFLOADED, _E.ACTIVE_LIVE_SPLIT)
        },
    }
)


def mermaid_diagram() -> str:
    """The claim's transition table as a Mermaid state diagram, one arrow a pair of states. Deterministic."""
    arrows: dict[tuple[str, str], list[str]] = {}
    for (source, event), target in TRANSITIONS.items():
        start = "[*]" if source is None else source.value
        label = event.value.removeprefix("resident_claim_")
        arrows.setdefault((start, target.value), []).append(label)
    lines = ["stateDiagram-v2"]
    lines += [f"    {start} --> {end}: {', '.join(labels)}" for (start, end), labels in arrows.items() if start != end]
    ends = (state for state in ClaimState if state in TERMINAL_STATES or state is ClaimState.REFUSED)
    lines += [f"    {state.value} --> [*]" for state in ends]
    return "\n".join(lines)
