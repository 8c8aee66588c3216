"""One event in one sentence."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType

from tenure.claims.event_types import EventType as E
from tenure.claims.events import Event

_Teller = Callable[[Event], str]


def tell(event: Event) -> str:
    """The event in words, with its number and the numbers that it carries."""
    teller = _TELLERS.get(event.event_type)
    words = event.event_type.value.replace("_", " ") if teller is None else teller(event)
    cause = f", for request {event.request_id}" if event.event_type.is_claim_event and event.request_id else ""
    return f"[{event.event_sequence}] {words}{cause}"


def _of(event: Event, name: str) -> object:
    return event.fields.get(name, "?")


def _names(event: Event) -> str:
    blocking = event.fields.get("blocking_claim_ids")
    return f" because of {', '.join(blocking)}" if isinstance(blocking, list | tuple) and blocking else ""


def _conflict(word: str) -> _Teller:
    def teller(event: Event) -> str:
        return (
            f"{word} ({_of(event, 'arbiter_action')}){_names(event)}: "
            f"short by {_of(event, 'capacity_shortfall_blocks')} blocks"
        )

    return teller


def _released(word: str) -> _Teller:
    def teller(event: Event) -> str:
        return f"{word} ({_of(event, 'release_reason')}) with {_of(event, 'resident_blocks_materialized')} blocks held"

    return teller


def _lost(word: str) -> _Teller:
    def teller(event: Event) -> str:
        left = _of(event, "leading_blocks_survived")
        return f"lost block {_of(event, 'logical_block_position')} {word}; {left} leading blocks are left"

    return teller


def _shrunk(word: str) -> _Teller:
    def teller(event: Event) -> str:
        return (
            f"{word}: {_of(event, 'active_live_blocks_required')} live blocks become "
            f"{_of(event, 'active_live_blocks_bounded')}"
        )

    return teller


_TELLERS: Mapping[E, _Teller] = MappingProxyType(
    {
        E.CLAIM_SUBMITTED: lambda e: (
            f"submitted by {_of(e, 'owner_scope')}: {_of(e, 'requested_footprint_blocks')} blocks, "
            f"{_of(e, 'materialization_predicate')}, {_of(e, 'requested_protection_mode')}"
        ),
        E.CLAIM_ACCEPTED: lambda e: f"accepted for {_of(e, 'footprint_blocks')} blocks as {_of(e, 'protection_mode')}",
        E.CLAIM_CONDITIONALLY_ACCEPTED: lambda e: (
            f"accepted for {_of(e, 'footprint_blocks')} of {_of(e, 'requested_footprint_blocks')} blocks as "
            f"{_of(e, 'protection_mode')} instead of {_of(e, 'requested_protection_mode')} "
            f"({_of(e, 'decision_reason')})"
        ),
        E.CLAIM_REJECTED: lambda e: (
            f"rejected ({_of(e, 'decision_reason')}), short by {_of(e, 'capacity_shortfall_blocks')} blocks"
        ),
        E.CLAIM_MATERIALIZED: lambda e: f"materialized: {_of(e, 'materialization_predicate')} holds",
        E.CLAIM_RENEWED: lambda e: f"renewed as revision {_of(e, 'revision')} until {_of(e, 'expires_at_s')} s",
        E.CLAIM_DEMOTED: _released("demoted"),
        E.CLAIM_EXPIRED: _released("expired"),
        E.CLAIM_RELEASED: _released("released"),
        E.CLAIM_HARMED: lambda e: (
            f"HARMED ({_of(e, 'harm_cause')}): {_of(e, 'materialization_predicate')} no longer holds, "
            f"{_of(e, 'leading_blocks_survived')} leading blocks are left, value {_of(e, 'value_lost')} lost"
        ),
        E.CLAIM_BLOCK_LOST: _lost("without harm"),
        E.CLAIM_BLOCK_LOST_AFTER_RELEASE: _lost("after its release"),
        E.CLAIM_OFFLOADED: lambda e: (
            f"offloaded to {_of(e, 'destination_tier')}, generation {_of(e, 'offload_generation')}"
        ),
        E.CLAIM_RESTORE_REQUIRED: lambda e: f"restoration begun, generation {_of(e, 'offload_generation')}",
        E.CLAIM_RESTORED: lambda e: (
            f"restored from {_of(e, 'restoration_source')}, generation {_of(e, 'offload_generation')}"
        ),
        E.CLAIM_REUSE_AFTER_RESTORE: lambda e: f"reused after restoration, generation {_of(e, 'offload_generation')}",
        E.CLAIM_RESTORATION_FAILED: lambda e: (
            f"restoration failed ({_of(e, 'restoration_failure_reason')}), followed by {_of(e, 'outcome_type')}"
        ),
        E.CLAIM_RECOVERED: lambda e: f"found in the journal after a restart, {_of(e, 'claim_status')}",
        E.REQUEST_SUBMITTED: lambda e: f"submitted, needs {_of(e, 'active_live_blocks_required')} live blocks",
        E.REQUEST_ADMITTED: lambda e: (
            f"admitted ({_of(e, 'arbiter_action')}), needs {_of(e, 'active_live_blocks_required')} live blocks, "
            f"{_of(e, 'free_blocks_before_allocate')} were free"
        ),
        E.REQUEST_DEFERRED: _conflict("deferred"),
        E.REQUEST_REFUSED: _conflict("refused"),
        E.REQUEST_ROUTED: lambda e: f"routed to {_of(e, 'route_target')}{_names(e)}",
        E.REQUEST_FINISHED: lambda _: "finished",
        E.REQUEST_FAILED: lambda e: f"failed: {_of(e, 'failure_reason')}",
        E.ACTIVE_LIVE_BOUNDED: _shrunk("bounded"),
        E.ACTIVE_LIVE_OFFLOADED: _shrunk("its own rows offloaded"),
        E.ACTIVE_LIVE_SPLIT: _shrunk("split"),
        E.FUTURE_REUSE_ADMITTED: lambda _: "its rows will be reusable",
        E.FUTURE_REUSE_DENIED: lambda _: "its rows will not be reusable",
    }
)
