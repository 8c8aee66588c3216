"""What a runtime says about requests: the fields of events and the receipts, from decisions alone."""

from __future__ import annotations

from collections.abc import Sequence

from tenure.arbiter.decision import Decision, Reason
from tenure.claims.event_types import EventType
from tenure.claims.events import FieldValue
from tenure.claims.modes import Action, Feasibility, Outcome, Tier
from tenure.claims.objects import ClaimStatus
from tenure.claims.receipts import NextStep, Receipt, ReceiptNumbers, ReceiptTokens
from tenure.runtime.control.work import Standing, Work

Fields = dict[str, FieldValue]

_NEXT = {
    Outcome.DEFERRED: NextStep.WILL_BE_DECIDED_AGAIN,
    Outcome.REFUSED: NextStep.RETRY_LATER,
}


def _active(work: Work, decision: Decision) -> Fields:
    plan = work.request.live_plan
    return {
        "active_live_blocks_required": decision.pressure.required_blocks,
        "active_live_blocks_current": decision.plan.live_blocks if decision.is_admitted else 0,
        "active_other_live_blocks": decision.pressure.active_blocks,
        "active_attention_mode": plan.attention_mode.value,
        "active_chunks": list(plan.chunk_blocks),
        "arbiter_action": decision.action.value,
        "future_reuse_requested": work.request.wants_reuse,
        "future_reuse_admitted": decision.admits_reuse,
    }


def _numbers(decision: Decision) -> Fields:
    pressure = decision.pressure
    return {
        "protected_resident_blocks": pressure.protected_blocks,
        "resident_plus_active_blocks": pressure.resident_plus_active_blocks,
        "capacity_shortfall_blocks": pressure.shortfall_blocks,
        "feasibility": pressure.feasibility.value,
    }


def _takeable_blocks(decision: Decision) -> int:
    pressure = decision.pressure
    return max(0, pressure.free_blocks - pressure.outstanding_blocks + pressure.evictable_blocks)


def conflict(work: Work, decision: Decision, blocking: Sequence[ClaimStatus]) -> Fields:
    """Of a deferral or a refusal: who is in the way, and by how much it does not fit."""
    fields = _active(work, decision) | _numbers(decision)
    fields["blocking_claim_ids"] = list(decision.blocking_claim_ids)
    fields["blocking_prefix_ids"] = sorted({status.claim.object_id for status in blocking})
    fields["protected_resident_claims"] = [_standing(status) for status in blocking]
    fields["free_blocks_before_allocate"] = _takeable_blocks(decision)
    fields["defer_attempts"] = work.tries
    fields["retry_after_s"] = decision.retry_after_s
    if decision.is_admitted:  # it was running and was paused: it would fit as things stand, and is tried again later
        fields |= {"arbiter_action": Action.OFFLOAD_ACTIVE.value, "future_reuse_admitted": False}
        fields["active_live_blocks_current"] = 0
    return fields


def paused(work: Work, decision: Decision) -> Fields:
    """Of a running request whose rows all leave the device until it is admitted again."""
    return {
        "active_live_blocks_required": decision.pressure.required_blocks,
        "active_live_blocks_bounded": 0,
        "arbiter_action": Action.OFFLOAD_ACTIVE.value,
        "destination_tier": Tier.HOST.value,
        "block_count_footprint": len(work.slots),
    }


def _standing(status: ClaimStatus) -> Fields:
    claim = status.claim
    return {
        "claim_id": claim.claim_id,
        "prefix_id": claim.object_id,
        "protection_mode": claim.protection_mode.value,
        "resident_blocks_materialized": status.surviving_blocks,
        "resident_blocks_required": claim.materialization_predicate.required_blocks,
        "predicate": claim.materialization_predicate.as_text(),
        "predicate_materialized": status.surviving_required_blocks == claim.materialization_predicate.required_blocks,
    }


def admitted(work: Work, decision: Decision) -> Fields:
    """Of an admission. `evicted_blocks` is what the plan allowed to be taken from residents."""
    fields = _active(work, decision) | _numbers(decision)
    fields["free_blocks_before_allocate"] = _takeable_blocks(decision)
    fields["reused_blocks"] = work.reused_blocks
    fields["evicted_blocks"] = decision.plan.evict_blocks
    if decision.blocking_claim_ids:
        fields["blocking_claim_ids"] = list(decision.blocking_claim_ids)
    return fields


def bounded(work: Work, decision: Decision) -> tuple[EventType, Fields]:
    """Of a request that runs in less than it asked for: which event says so, and what it says."""
    plan, request = decision.plan, work.request
    required = decision.pressure.required_blocks
    fields: Fields = {
        "active_live_blocks_required": required,
        "active_live_blocks_bounded": plan.live_blocks,
        "arbiter_action": decision.actions[-1].value,
        "capacity_shortfall_blocks": decision.shortfall_blocks,
        "blocking_claim_ids": list(decision.blocking_claim_ids),
    }
    if Action.OFFLOAD_ACTIVE in decision.actions:
        fields["destination_tier"] = Tier.HOST.value
        fields["block_count_footprint"] = plan.offload_active_blocks
        return EventType.ACTIVE_LIVE_OFFLOADED, fields
    if Action.RECOMPUTE_SPLIT in decision.actions:
        fields["recomputed_blocks"] = request.live_plan.total_blocks
        fields["active_chunks"] = list(request.live_plan.chunk_blocks)
        return EventType.ACTIVE_LIVE_SPLIT, fields
    return EventType.ACTIVE_LIVE_BOUNDED, fields


def routed(decision: Decision) -> Fields:
    """Of a request that goes to another worker."""
    route = decision.plan.route
    return {
        "arbiter_action": decision.action.value,
        "route_target": "" if route is None else route.target,
        "route_cost": None if route is None else route.cost,
        "capacity_shortfall_blocks": decision.shortfall_blocks,
        "blocking_claim_ids": list(decision.blocking_claim_ids),
        "active_live_blocks_required": decision.pressure.required_blocks,
    }


def reuse(work: Work, decision: Decision, *, tokens: int) -> Fields:
    """Of the answer to whether a served request's rows may stay."""
    action = Action.SERVE_ACTIVE_NO_ADMIT if not decision.admits_reuse else decision.actions[-1]
    return {
        "future_reuse_requested": work.request.wants_reuse,
        "future_reuse_admitted": decision.admits_reuse,
        "arbiter_action": action.value,
        "num_tokens_to_cache": tokens,
    }


def unrestorable(work: Work, decision: Decision, status: ClaimStatus, *, failure: int | None) -> Fields:
    """Of a refusal because the claimed rows could not be brought back. Nothing was taken for it."""
    fields = conflict(work, decision, [status])
    fields["arbiter_action"] = Action.REFUSE_ACTIVE.value
    fields["active_live_blocks_current"] = 0
    fields["future_reuse_admitted"] = False
    fields["feasibility"] = Feasibility.INFEASIBLE_RESTORE.value
    fields["blocking_claim_ids"] = [status.claim.claim_id]
    fields["outcome_claim_id"] = status.claim.claim_id
    fields["restoration_failure_event_sequence"] = failure if failure is not None else 0
    return fields


def unrestorable_receipt(decision: Decision, claim_id: str) -> Receipt:
    """The answer to a request whose claimed rows could not be brought back."""
    return Receipt(
        outcome=Outcome.REFUSED,
        reason="restore_unavailable_refuse",
        request_id=decision.request_id,
        action=Action.REFUSE_ACTIVE,
        blocking_claim_ids=(claim_id,),
        next_step=NextStep.RETRY_LATER,
    )


def failed(work: Work, reason: str) -> Receipt:
    """The answer to a request that ended before it was served."""
    return Receipt(outcome=Outcome.FAILED, reason=reason, request_id=work.request_id)


def receipt(work: Work, *, block_size: int) -> Receipt:
    """How a request stands, on the numbers that its last decision rests on."""
    decision = work.decision
    if decision is None:
        return Receipt(outcome=Outcome.FAILED, reason="never_decided", request_id=work.request_id)
    pressure = decision.pressure
    is_paused = decision.is_admitted and work.standing is Standing.DEFERRED
    outcome = Outcome.DEFERRED if is_paused else decision.outcome
    runs = decision.is_admitted and not is_paused
    tokens = None
    if runs:
        tokens = ReceiptTokens(
            reused_tokens=work.reused_blocks * block_size,
            restored_tokens=work.restored_blocks * block_size,
            recomputed_tokens=work.recomputed_tokens,
        )
    return Receipt(
        outcome=outcome,
        reason="paused" if is_paused else decision.reason.value,
        request_id=decision.request_id,
        numbers=ReceiptNumbers(
            requested_blocks=pressure.required_blocks,
            granted_blocks=decision.plan.live_blocks if runs else 0,
            protected_blocks=pressure.protected_blocks,
            active_live_blocks=pressure.active_blocks,
            usable_blocks=pressure.usable_blocks + decision.plan.add_blocks,
            shortfall_blocks=pressure.shortfall_blocks,
        ),
        tokens=tokens,
        is_exact=decision.actions[-1] is not Action.BOUND_ACTIVE_LIVE if runs else None,
        action=Action.OFFLOAD_ACTIVE if is_paused else _action(decision),
        blocking_claim_ids=decision.blocking_claim_ids,
        next_step=_next_step(decision, outcome),
        retry_after_s=decision.retry_after_s,
        failure=work.failure,
        route_target=None if decision.plan.route is None else decision.plan.route.target,
    )


def _next_step(decision: Decision, outcome: Outcome) -> NextStep:
    if outcome is Outcome.REFUSED and decision.reason is Reason.LARGER_THAN_POOL:
        return NextStep.RESUBMIT_SMALLER  # it would never fit, however long it waited
    return _NEXT.get(outcome, NextStep.NOTHING)


def _action(decision: Decision) -> Action:
    """What resolved the conflict; for a request that runs in less, how it does."""
    return decision.actions[-1] if decision.outcome is Outcome.BOUNDED else decision.action
