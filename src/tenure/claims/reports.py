"""What the events about a claim say: one function a kind of event."""

from __future__ import annotations

from tenure.claims.coverage import Coverage, LiveClaim
from tenure.claims.event_types import EventType
from tenure.claims.events import FieldValue
from tenure.claims.lifecycle import next_state
from tenure.claims.modes import Action, ClaimRegistration, HarmCause, ReleaseReason, Tier
from tenure.claims.objects import ClaimDecision, ResidentClaim

Fields = dict[str, FieldValue]


def submitted(claim: ResidentClaim) -> Fields:
    """Of a claim that was asked for."""
    return {
        "owner_scope": claim.owner_scope,
        "revision": claim.revision,
        "requested_footprint_blocks": claim.footprint_blocks,
        "requested_protection_mode": claim.protection_mode.value,
        "materialization_predicate": claim.materialization_predicate.as_text(),
        "cache_identity": claim.cache_identity.as_text(),
        "duration_s": claim.duration_s,
        "predicted_value": claim.predicted_value,
        "confidence": claim.confidence,
        "claim_registration": ClaimRegistration.PRE_REGISTERED.value,
    }


def accepted(live: LiveClaim, decision: ClaimDecision, *, asked: ResidentClaim, coverage: Coverage) -> Fields:
    """Of an acceptance, conditional or not."""
    claim = live.claim
    fields: Fields = {
        "revision": claim.revision,
        "footprint_blocks": claim.footprint_blocks,
        "protection_mode": claim.protection_mode.value,
        "resident_blocks_required": claim.materialization_predicate.required_blocks,
        "expires_at_s": live.expires_at_s,
        "clock_s": decision.decided_at_s,
        "predicted_value": claim.predicted_value,
        "confidence": claim.confidence,
        "protected_resident_blocks": coverage.protected_blocks,
        "owed_resident_blocks": coverage.owed_blocks,
        "decision_reason": decision.reason.value,
    }
    if claim.footprint_blocks != asked.footprint_blocks or claim.protection_mode is not asked.protection_mode:
        fields["requested_footprint_blocks"] = asked.footprint_blocks
        fields["requested_protection_mode"] = asked.protection_mode.value
        fields["capacity_shortfall_blocks"] = decision.shortfall_blocks
    return fields


def rejected(claim: ResidentClaim, decision: ClaimDecision, *, coverage: Coverage) -> Fields:
    """Of a rejection."""
    return {
        "revision": claim.revision,
        "decision_reason": decision.reason.value,
        "clock_s": decision.decided_at_s,
        "capacity_shortfall_blocks": decision.shortfall_blocks,
        "protected_resident_blocks": coverage.protected_blocks,
        "owed_resident_blocks": coverage.owed_blocks,
        "requested_footprint_blocks": claim.footprint_blocks,
        "requested_protection_mode": claim.protection_mode.value,
    }


def predicate(live: LiveClaim) -> Fields:
    """How much of the claim is on the device now."""
    return {
        "resident_blocks_required": live.claim.materialization_predicate.required_blocks,
        "resident_blocks_materialized": live.surviving_blocks,
        "leading_blocks_survived": live.leading_blocks,
    }


def materialized(live: LiveClaim) -> Fields:
    """Of a predicate that became true."""
    return {
        "materialization_predicate": live.claim.materialization_predicate.as_text(),
        "predicate_satisfied": True,
        "protection_mode": live.claim.protection_mode.value,
        **predicate(live),
    }


def released(
    live: LiveClaim,
    reason: ReleaseReason,
    *,
    now_s: float,
    action: Action | None = None,
    failure_sequence: int | None = None,
) -> Fields:
    """Of a demotion, an expiry or a cancellation."""
    fields: Fields = {
        "release_reason": reason.value,
        "protection_mode": live.claim.protection_mode.value,
        "resident_blocks_materialized": live.surviving_blocks,
        "clock_s": now_s,
        "revision": live.claim.revision,
    }
    if action is not None:
        fields["arbiter_action"] = action.value
    if failure_sequence is not None:
        fields["restoration_failure_event_sequence"] = failure_sequence
    return fields


def harmed(
    live: LiveClaim,
    cause: HarmCause,
    *,
    physical_block_id: int | None = None,
    position: int | None = None,
    failure_sequence: int | None = None,
) -> Fields:
    """Of a harm. The numbers are those after the loss."""
    claim = live.claim
    fields: Fields = {
        "harm_cause": cause.value,
        "harm_permitted": claim.protection_mode.permits_unreleased_loss,
        "protection_mode": claim.protection_mode.value,
        "predicate_before": True,
        "predicate_after": False,
        "materialization_predicate": claim.materialization_predicate.as_text(),
        "value_lost": claim.predicted_value,
        **predicate(live),
    }
    if physical_block_id is not None:
        fields["physical_block_id"] = physical_block_id
    if position is not None:
        fields["logical_block_position"] = position
    if failure_sequence is not None:
        fields["restoration_failure_event_sequence"] = failure_sequence
    return fields


def block_lost(live: LiveClaim, *, position: int, physical_block_id: int | None) -> Fields:
    """Of a block of a live or released claim that goes. The numbers are those after the loss."""
    fields: Fields = {
        "logical_block_position": position,
        "claim_status": live.state.value,
        "protection_mode": live.claim.protection_mode.value,
        **predicate(live),
    }
    if physical_block_id is not None:
        fields["physical_block_id"] = physical_block_id
    return fields


def offloaded(live: LiveClaim, *, block_ids: tuple[int, ...], action: Action | None) -> Fields:
    """Of a claim whose blocks leave the device."""
    fields: Fields = {
        "offload_generation": live.offload_generation,
        "block_count_footprint": live.surviving_blocks,
        "source_tier": Tier.DEVICE.value,
        "destination_tier": Tier.HOST.value,
        "restoration_required": True,
        "protection_mode": live.claim.protection_mode.value,
        "materialization_predicate": live.claim.materialization_predicate.as_text(),
    }
    if block_ids:
        fields["block_ids"] = list(block_ids)
    if action is not None:
        fields["arbiter_action"] = action.value
    return fields


def recovered(live: LiveClaim, *, now_s: float) -> Fields:
    """Of a claim that a restart found in its journal."""
    return {
        "claim_status": next_state(live.state, EventType.CLAIM_RECOVERED, claim_id=live.claim.claim_id).value,
        "revision": live.claim.revision,
        "expires_at_s": live.expires_at_s,
        "clock_s": now_s,
        "protection_mode": live.claim.protection_mode.value,
        "footprint_blocks": live.claim.footprint_blocks,
        "offload_generation": live.offload_generation,
    }
