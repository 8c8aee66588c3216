"""Which event may follow which: the order rules of a trace, followed one event at a time."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import TypeVar

from tenure.claims.event_types import EventType
from tenure.claims.events import FieldValue
from tenure.claims.lifecycle import REQUEST_TRANSITIONS, RESPONSIBLE_STATES, TERMINAL_STATES, TRANSITIONS, RequestState
from tenure.claims.modes import ClaimState

_State = TypeVar("_State")
_ENDS = TERMINAL_STATES | {ClaimState.REFUSED}
_NO_FIELDS: Mapping[str, FieldValue] = MappingProxyType({})
_FINAL_REQUEST_STATES = frozenset({RequestState.SERVED, RequestState.REFUSED, RequestState.ROUTED, RequestState.FAILED})
_TIER_EVENTS = frozenset(
    {
        EventType.CLAIM_OFFLOADED,
        EventType.CLAIM_RESTORE_REQUIRED,
        EventType.CLAIM_RESTORED,
        EventType.CLAIM_REUSE_AFTER_RESTORE,
        EventType.CLAIM_RESTORATION_FAILED,
    }
)


@dataclass(frozen=True, slots=True, kw_only=True)
class OrderViolation:
    """An event that could not come where it came, and the clause that says so."""

    clause: str
    message: str


class OrderGuard:
    """Follows a run and says, for each event, whether it may come now.

    Guarantees that a claim moves only along `TRANSITIONS` and a request along `REQUEST_TRANSITIONS`, so that acceptance
    comes before materialization, release before the loss it excuses, offload before restore_required before restored
    before reuse within one offload generation, and nothing after an end.

    Cost per event: constant. Ended claims and requests are remembered up to `remembered_ends`; what ended longer ago
    than that is unknown again, so a long-lived runtime stays within its memory.

    Args:
        remembered_ends: how many ended claims, and how many ended requests, are kept in mind.
    """

    def __init__(self, *, remembered_ends: int = 65_536) -> None:
        self._remembered_ends = remembered_ends
        self._claims: dict[str, ClaimState] = {}
        self._ended_claims: OrderedDict[str, ClaimState] = OrderedDict()
        self._generations: dict[str, int] = {}
        self._requests: dict[str, RequestState] = {}
        self._ended_requests: OrderedDict[str, RequestState] = OrderedDict()

    def claim_state(self, claim_id: str) -> ClaimState | None:
        """Where the claim stands after the events seen so far; None when it is unknown."""
        return self._claims.get(claim_id, self._ended_claims.get(claim_id))

    def request_state(self, request_id: str) -> RequestState | None:
        """Where the request stands after the events seen so far; None when it is unknown."""
        return self._requests.get(request_id, self._ended_requests.get(request_id))

    def observe(
        self,
        event_type: EventType,
        *,
        claim_id: str | None = None,
        request_id: str | None = None,
        fields: Mapping[str, FieldValue] = _NO_FIELDS,
    ) -> OrderViolation | None:
        """None when the event may come now, which is then noted; otherwise what is wrong, and nothing changes."""
        if event_type.is_claim_event and claim_id is not None:
            return self._observe_claim(event_type, claim_id, fields)
        if request_id is not None and event_type in _REQUEST_EVENTS:
            return self._observe_request(event_type, request_id)
        return None

    def _observe_claim(
        self, event_type: EventType, claim_id: str, fields: Mapping[str, FieldValue]
    ) -> OrderViolation | None:
        state = self.claim_state(claim_id)
        if event_type is EventType.CLAIM_RECOVERED and state is None:
            return self._adopt(claim_id, fields)
        target = TRANSITIONS.get((state, event_type))
        if target is None:
            where = "nobody submitted it" if state is None else f"it is {state.value}"
            message = f"{event_type.value} for claim {claim_id!r}, but {where}"
            return OrderViolation(clause="TNR-EVT-003", message=message)
        if event_type in _TIER_EVENTS:
            violation = self._check_generation(event_type, claim_id, fields.get("offload_generation"))
            if violation is not None:
                return violation
        if target in _ENDS:
            self._claims.pop(claim_id, None)
            self._generations.pop(claim_id, None)
            _remember(self._ended_claims, claim_id, target, limit=self._remembered_ends)
        else:
            self._ended_claims.pop(claim_id, None)
            self._claims[claim_id] = target
        return None

    def _adopt(self, claim_id: str, fields: Mapping[str, FieldValue]) -> OrderViolation | None:
        status, generation = fields.get("claim_status"), fields.get("offload_generation", 0)
        if status not in RESPONSIBLE_STATES or not isinstance(generation, int):
            message = f"claim {claim_id!r} was recovered as {status!r}, which is no state that a runtime answers for"
            return OrderViolation(clause="TNR-LIFE-008", message=message)
        self._claims[claim_id] = ClaimState(str(status))
        self._generations[claim_id] = generation
        return None

    def _check_generation(self, event_type: EventType, claim_id: str, generation: FieldValue) -> OrderViolation | None:
        known = self._generations.get(claim_id, 0)
        wanted = known + 1 if event_type is EventType.CLAIM_OFFLOADED else known
        if generation != wanted:
            message = f"{event_type.value} for claim {claim_id!r} names offload generation {generation}, not {wanted}"
            return OrderViolation(clause="TNR-EVT-004", message=message)
        self._generations[claim_id] = wanted
        return None

    def _observe_request(self, event_type: EventType, request_id: str) -> OrderViolation | None:
        state = self.request_state(request_id)
        target = REQUEST_TRANSITIONS.get((state, event_type))
        if target is None:
            where = "it is unknown" if state is None else f"it is {state.value}"
            message = f"{event_type.value} for request {request_id!r}, but {where}"
            return OrderViolation(clause="TNR-EVT-005", message=message)
        if target in _FINAL_REQUEST_STATES:
            self._requests.pop(request_id, None)
            _remember(self._ended_requests, request_id, target, limit=self._remembered_ends)
        else:
            self._requests[request_id] = target
        return None


_REQUEST_EVENTS = frozenset(event for (_, event) in REQUEST_TRANSITIONS)


def _remember(ended: OrderedDict[str, _State], name: str, state: _State, *, limit: int) -> None:
    ended[name] = state
    if len(ended) > limit:
        ended.popitem(last=False)
