"""What happened, from the trace alone: the outcome of every claim and every request, whatever their ids."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from tenure.claims.event_types import EventType
from tenure.conformance.trace import Trace, TraceEvent

_E = EventType
_CLAIM_STATE: Mapping[EventType, str] = MappingProxyType(
    {
        _E.CLAIM_SUBMITTED: "submitted",
        _E.CLAIM_RECOVERED: "recovered",
        _E.CLAIM_ACCEPTED: "accepted",
        _E.CLAIM_CONDITIONALLY_ACCEPTED: "conditionally_accepted",
        _E.CLAIM_REJECTED: "refused",
        _E.CLAIM_MATERIALIZED: "materialized",
        _E.CLAIM_DEMOTED: "demoted",
        _E.CLAIM_EXPIRED: "expired",
        _E.CLAIM_RELEASED: "released",
        _E.CLAIM_HARMED: "harmed",
        _E.CLAIM_OFFLOADED: "offloaded",
        _E.CLAIM_RESTORED: "materialized",
    }
)
_REQUEST_OUTCOME: Mapping[EventType, str] = MappingProxyType(
    {
        _E.REQUEST_SUBMITTED: "waiting",
        _E.REQUEST_ADMITTED: "running",
        _E.REQUEST_DEFERRED: "deferred",
        _E.REQUEST_REFUSED: "refused",
        _E.REQUEST_ROUTED: "routed",
        _E.REQUEST_FINISHED: "served",
        _E.REQUEST_FAILED: "failed",
    }
)
_ENDED_CLAIM = frozenset({"refused", "demoted", "expired", "released", "harmed"})
_ENDED_REQUEST = frozenset({"refused", "routed", "served", "failed"})


@dataclass(frozen=True, slots=True, kw_only=True)
class RequestStory:
    """How a request ended, and what was in its way at its last refusal or deferral."""

    outcome: str
    deferrals: int = 0
    blocking_claim_ids: tuple[str, ...] = ()
    shortfall_blocks: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ClaimStory:
    """How a claim stands at the end of the trace."""

    state: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Story:
    """The outcome of everything that the trace names."""

    claims: Mapping[str, ClaimStory]
    requests: Mapping[str, RequestStory]

    @property
    def left_open(self) -> tuple[str, ...]:
        """Every claim and request that the trace does not end, with how it stands there."""
        claims = [(f"claim {name}", story.state) for name, story in self.claims.items()]
        requests = [(f"request {name}", story.outcome) for name, story in self.requests.items()]
        still = [one for one in claims if one[1] not in _ENDED_CLAIM]
        still += [one for one in requests if one[1] not in _ENDED_REQUEST]
        return tuple(f"{who} ({how})" for who, how in still)

    def outcome_counts(self) -> dict[str, int]:
        """How many claims and requests ended how: `claim harmed`, `request served after deferral`, …"""
        counts: dict[str, int] = {}
        for claim in self.claims.values():
            counts[f"claim {claim.state}"] = counts.get(f"claim {claim.state}", 0) + 1
        for request in self.requests.values():
            after = " after deferral" if request.deferrals and request.outcome != "deferred" else ""
            name = f"request {request.outcome}{after}"
            counts[name] = counts.get(name, 0) + 1
        return dict(sorted(counts.items()))


def reconstruct(trace: Trace) -> Story:
    """The outcome of every claim and request, from nothing but the trace. Cost: linear in its events."""
    claims: dict[str, ClaimStory] = {}
    requests: dict[str, RequestStory] = {}
    for event in trace:
        state = None if event.kind is None else _CLAIM_STATE.get(event.kind)
        if state is not None and event.claim_id is not None:
            claims[event.claim_id] = ClaimStory(state=state)
        outcome = None if event.kind is None else _REQUEST_OUTCOME.get(event.kind)
        if outcome is not None and event.request_id is not None:
            requests[event.request_id] = _continue(requests.get(event.request_id), event, outcome)
    return Story(claims=MappingProxyType(claims), requests=MappingProxyType(requests))


def _continue(before: RequestStory | None, event: TraceEvent, outcome: str) -> RequestStory:
    deferrals = 0 if before is None else before.deferrals
    if outcome in {"deferred", "refused"}:
        return RequestStory(
            outcome=outcome,
            deferrals=deferrals + (outcome == "deferred"),
            blocking_claim_ids=event.names("blocking_claim_ids") or (),
            shortfall_blocks=event.count("capacity_shortfall_blocks"),
        )
    return RequestStory(outcome=outcome, deferrals=deferrals)
