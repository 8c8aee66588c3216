"""What happened to every claim and every request, from the trace alone."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from tenure.claims.event_types import EventType as E
from tenure.claims.events import Event
from tenure.claims.lifecycle import RESPONSIBLE_STATES, RequestState
from tenure.claims.modes import ClaimState, VictimReason
from tenure.claims.narration import tell
from tenure.claims.order import OrderGuard, OrderViolation


@dataclass(slots=True, kw_only=True)
class ClaimOutcome:
    """How one claim stands at the end of a trace.

    Attributes:
        state: where it stands; None when its events follow no table.
        revision, protection_mode, footprint_blocks: as last granted.
        lost_blocks: how many of its blocks went while the runtime answered for it, offloads not counted.
        harm_sequence: the number of the event that reported harm, None when there was none.
        release_sequence: the number of the event that released it, None when there was none.
        blocked_request_ids: the requests that were refused, deferred or routed because of it.
        story: one sentence an event, in order.
    """

    claim_id: str
    prefix_id: str | None = None
    state: ClaimState | None = None
    revision: int | None = None
    protection_mode: str | None = None
    footprint_blocks: int | None = None
    lost_blocks: int = 0
    harm_sequence: int | None = None
    release_sequence: int | None = None
    blocked_request_ids: list[str] = field(default_factory=list)
    story: list[str] = field(default_factory=list)

    @property
    def kept(self) -> bool:
        """Whether the runtime answers for it still, or ended it before anything broke."""
        return self.harm_sequence is None

    @property
    def live(self) -> bool:
        """Whether the runtime still answers for it."""
        return self.state in RESPONSIBLE_STATES


_WORDS = {RequestState.RUNNING: "admitted", RequestState.DEFERRED: "still waiting"}


@dataclass(slots=True, kw_only=True)
class RequestOutcome:
    """How one request stands at the end of a trace.

    Attributes:
        state: where it stands; a request that was deferred and then served is served.
        deferrals: how often it was deferred.
        action: the last action of the contract that was taken for it.
        blocking_claim_ids, capacity_shortfall_blocks, feasibility: of the last conflict that it met.
        future_reuse_admitted: whether its rows are reusable; None when that was not said.
        victim_blocks: blocks that were taken for it.
        cached_victim_blocks: how many of them held a reusable prefix.
        protected_victim_blocks: how many of them a live reserving claim protected.
        story: one sentence an event, in order.
    """

    request_id: str
    state: RequestState | None = None
    deferrals: int = 0
    action: str | None = None
    blocking_claim_ids: tuple[str, ...] = ()
    capacity_shortfall_blocks: int | None = None
    feasibility: str | None = None
    future_reuse_admitted: bool | None = None
    victim_blocks: int = 0
    cached_victim_blocks: int = 0
    protected_victim_blocks: int = 0
    story: list[str] = field(default_factory=list)

    @property
    def served(self) -> bool:
        """Whether it got the room it needed, at once or after waiting."""
        return self.state in (RequestState.RUNNING, RequestState.SERVED)

    @property
    def verdict(self) -> str:
        """Its end in words."""
        waited = f" after {self.deferrals} deferral{'s' * (self.deferrals != 1)}" if self.deferrals else ""
        if self.state is None:
            return "unknown"
        return f"{_WORDS.get(self.state, self.state.value)}{waited}"


@dataclass(slots=True, kw_only=True)
class Reconstruction:
    """Everything that one run's events say.

    Attributes:
        violations: events that could not come where they came, with their numbers.
        lost_events: events that the writer reported as lost; if not zero, outcomes may be incomplete.
    """

    run_id: str
    policy: str
    usable_blocks: int | None
    events: int = 0
    claims: dict[str, ClaimOutcome] = field(default_factory=dict)
    requests: dict[str, RequestOutcome] = field(default_factory=dict)
    violations: list[tuple[int, OrderViolation]] = field(default_factory=list)
    lost_events: int = 0
    materialized_blocks: int = 0


def reconstruct(events: Iterable[Event]) -> list[Reconstruction]:
    """What happened in each run of a trace, in the order in which the runs begin. Cost: linear."""
    runs: dict[str, _Run] = {}
    for event in events:
        run = runs.get(event.run_id)
        if run is None:
            run = runs[event.run_id] = _Run(event)
        run.take(event)
    return [run.result for run in runs.values()]


_RELEASES = frozenset({E.CLAIM_DEMOTED, E.CLAIM_EXPIRED, E.CLAIM_RELEASED})
_CONFLICTS = frozenset({E.REQUEST_DEFERRED, E.REQUEST_REFUSED, E.REQUEST_ROUTED})


class _Run:
    def __init__(self, first: Event) -> None:
        self.result = Reconstruction(run_id=first.run_id, policy=first.policy, usable_blocks=first.usable_blocks)
        self._guard = OrderGuard()

    def take(self, event: Event) -> None:
        result = self.result
        result.events += 1
        result.policy, result.usable_blocks = event.policy, event.usable_blocks
        violation = self._guard.observe(
            event.event_type, claim_id=event.claim_id, request_id=event.request_id, fields=event.fields
        )
        if violation is not None:
            result.violations.append((event.event_sequence, violation))
        if event.event_type is E.TELEMETRY_GAP:
            result.lost_events += int(str(event.fields["lost_events"]))
        if event.event_type is E.BLOCK_MATERIALIZED:
            result.materialized_blocks += 1
        if event.event_type.is_claim_event and event.claim_id is not None:
            self._take_claim_event(event, event.claim_id)
        elif event.request_id is not None:
            self._take_request_event(event, event.request_id)

    def _take_claim_event(self, event: Event, claim_id: str) -> None:
        claim = self.result.claims.setdefault(claim_id, ClaimOutcome(claim_id=claim_id))
        claim.prefix_id = event.prefix_id if event.prefix_id is not None else claim.prefix_id
        claim.state = self._guard.claim_state(claim_id)
        fields = event.fields
        if "revision" in fields:
            claim.revision = int(str(fields["revision"]))
        if "footprint_blocks" in fields:
            claim.footprint_blocks = int(str(fields["footprint_blocks"]))
        if "protection_mode" in fields:
            claim.protection_mode = str(fields["protection_mode"])
        if event.event_type in (E.CLAIM_BLOCK_LOST, E.CLAIM_HARMED):
            claim.lost_blocks += 1
        if event.event_type is E.CLAIM_HARMED and claim.harm_sequence is None:
            claim.harm_sequence = event.event_sequence
        if event.event_type in _RELEASES and claim.release_sequence is None:
            claim.release_sequence = event.event_sequence
        claim.story.append(tell(event))

    def _take_request_event(self, event: Event, request_id: str) -> None:
        request = self.result.requests.setdefault(request_id, RequestOutcome(request_id=request_id))
        if event.event_type is E.VICTIM_SELECTED:
            request.victim_blocks += 1
            request.cached_victim_blocks += event.fields["victim_reason"] == VictimReason.CACHED_PREFIX_REUSE.value
            request.protected_victim_blocks += event.fields["is_protected_resident"] is True
            return
        if event.event_type is E.BLOCK_MATERIALIZED:
            return
        request.state = self._guard.request_state(request_id)
        request.deferrals += event.event_type is E.REQUEST_DEFERRED
        if "arbiter_action" in event.fields:
            request.action = str(event.fields["arbiter_action"])
        if event.event_type in (E.FUTURE_REUSE_ADMITTED, E.FUTURE_REUSE_DENIED):
            denied = event.event_type is E.FUTURE_REUSE_DENIED or request.future_reuse_admitted is False
            request.future_reuse_admitted = not denied
        if event.event_type in _CONFLICTS:
            self._take_conflict(event, request)
        request.story.append(tell(event))

    def _take_conflict(self, event: Event, request: RequestOutcome) -> None:
        blocking = event.fields["blocking_claim_ids"]
        request.blocking_claim_ids = tuple(blocking) if isinstance(blocking, list | tuple) else ()
        request.capacity_shortfall_blocks = int(str(event.fields["capacity_shortfall_blocks"]))
        if "feasibility" in event.fields:
            request.feasibility = str(event.fields["feasibility"])
        for claim_id in request.blocking_claim_ids:
            claim = self.result.claims.setdefault(claim_id, ClaimOutcome(claim_id=claim_id))
            if request.request_id not in claim.blocked_request_ids:
                claim.blocked_request_ids.append(request.request_id)
