"""The names of everything that a trace may say, and the older spellings that reading accepts."""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from types import MappingProxyType


class EventType(StrEnum):
    """One kind of line in a trace. The value is the published string wherever one was published."""

    # A claim's life.
    CLAIM_SUBMITTED = "resident_claim_submitted"
    CLAIM_ACCEPTED = "resident_claim_accepted"
    CLAIM_CONDITIONALLY_ACCEPTED = "resident_claim_conditionally_accepted"
    CLAIM_REJECTED = "resident_claim_rejected"
    CLAIM_MATERIALIZED = "resident_claim_materialized"
    CLAIM_RENEWED = "resident_claim_renewed"
    CLAIM_DEMOTED = "resident_claim_demoted"
    CLAIM_EXPIRED = "resident_claim_expired"
    CLAIM_RELEASED = "resident_claim_released"
    CLAIM_HARMED = "resident_claim_harmed"
    CLAIM_BLOCK_LOST = "resident_claim_block_lost"
    CLAIM_BLOCK_LOST_AFTER_RELEASE = "resident_claim_block_lost_after_release"
    CLAIM_OFFLOADED = "resident_claim_offloaded"
    CLAIM_RESTORE_REQUIRED = "resident_claim_restore_required"
    CLAIM_RESTORED = "resident_claim_restored"
    CLAIM_REUSE_AFTER_RESTORE = "resident_claim_reuse_after_restore"
    CLAIM_RESTORATION_FAILED = "resident_claim_restoration_failed"
    CLAIM_RECOVERED = "resident_claim_recovered"
    # An active request's life.
    REQUEST_SUBMITTED = "active_request_submitted"
    REQUEST_ADMITTED = "active_request_admitted"
    REQUEST_DEFERRED = "active_request_deferred"
    REQUEST_REFUSED = "active_request_refused"
    REQUEST_ROUTED = "active_request_routed"
    REQUEST_FINISHED = "active_request_finished"
    REQUEST_FAILED = "active_request_failed"
    ACTIVE_LIVE_BOUNDED = "active_live_bounded"
    ACTIVE_LIVE_OFFLOADED = "active_live_offloaded"
    ACTIVE_LIVE_SPLIT = "active_live_split"
    FUTURE_REUSE_ADMITTED = "future_reuse_admitted"
    FUTURE_REUSE_DENIED = "future_reuse_denied"
    # Blocks.
    BLOCK_MATERIALIZED = "resident_block_materialized"
    VICTIM_SELECTED = "allocation_victim_selected"
    # The runtime itself.
    RUNTIME_STARTED = "runtime_started"
    RUNTIME_RESTARTED = "runtime_restarted"
    RUNTIME_RESET = "runtime_reset"
    RUNTIME_SHUTDOWN = "runtime_shutdown"
    TELEMETRY_GAP = "telemetry_gap"

    @property
    def is_claim_event(self) -> bool:
        """Whether the event is a step in the life of the claim that it names."""
        return self.value.startswith("resident_claim_")


#: Other spellings of the same event. Reading a trace accepts them, writing never produces them.
EVENT_ALIASES: Mapping[str, EventType] = MappingProxyType(
    {
        "resident_claim_created": EventType.CLAIM_SUBMITTED,
        "resident_claim_refused": EventType.CLAIM_REJECTED,
        "resident_claim_relaxed": EventType.CLAIM_DEMOTED,
        "claim_submitted": EventType.CLAIM_SUBMITTED,
        "claim_accepted": EventType.CLAIM_ACCEPTED,
        "claim_rejected": EventType.CLAIM_REJECTED,
        "claim_harmed": EventType.CLAIM_HARMED,
        "claim_demoted": EventType.CLAIM_DEMOTED,
        "claim_expired": EventType.CLAIM_EXPIRED,
        "claim_offloaded": EventType.CLAIM_OFFLOADED,
        "predicate_materialized": EventType.CLAIM_MATERIALIZED,
        "restore_required_for_reuse": EventType.CLAIM_RESTORE_REQUIRED,
        "claim_restored_before_reuse": EventType.CLAIM_RESTORED,
        "reuse_consumed_restored_state": EventType.CLAIM_REUSE_AFTER_RESTORE,
        "restoration_failed": EventType.CLAIM_RESTORATION_FAILED,
        "scheduler_resident_claim_restoration_failed": EventType.CLAIM_RESTORATION_FAILED,
        "active_refused": EventType.REQUEST_REFUSED,
        "scheduler_active_request_refused": EventType.REQUEST_REFUSED,
        "active_deferred": EventType.REQUEST_DEFERRED,
        "request_submitted": EventType.REQUEST_SUBMITTED,
        "request_finished": EventType.REQUEST_FINISHED,
    }
)

#: Published names that say nothing here, with the reason. A reader skips them.
WITHDRAWN_EVENTS: Mapping[str, str] = MappingProxyType(
    {
        "resident_claim_preserved": "the refused or deferred request already names the claims that held (TNR-ARB-004)",
    }
)


def event_type_of(name: str) -> EventType | None:
    """The event that `name` means, an older spelling included; None when no event has that name."""
    if name in EVENT_ALIASES:
        return EVENT_ALIASES[name]
    try:
        return EventType(name)
    except ValueError:
        return None
