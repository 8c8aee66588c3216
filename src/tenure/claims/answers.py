"""Receipts and errors that the registry gives: one function an answer."""

from __future__ import annotations

from tenure.claims.coverage import Coverage, LiveClaim
from tenure.claims.modes import Action, ClaimState, DecisionKind, DecisionReason, Outcome
from tenure.claims.objects import CapacitySnapshot, ClaimDecision, ResidentClaim
from tenure.claims.receipts import NextStep, Receipt, ReceiptNumbers
from tenure.errors import ClaimError


def granted(
    live: LiveClaim,
    decision: ClaimDecision,
    *,
    asked: ResidentClaim,
    coverage: Coverage,
    capacity: CapacitySnapshot,
) -> Receipt:
    """For a claim that was accepted, conditionally or not."""
    conditional = decision.decision is DecisionKind.CONDITIONALLY_ACCEPTED
    return Receipt(
        outcome=Outcome.CLIPPED if conditional else Outcome.ACCEPTED,
        reason=decision.reason.value,
        claim_id=asked.claim_id,
        revision=asked.revision,
        numbers=_numbers(asked, decision, coverage, capacity),
        granted_mode=live.claim.protection_mode,
        state=live.state,
        next_step=_held(live),
    )


def rejected(
    claim: ResidentClaim,
    decision: ClaimDecision,
    *,
    coverage: Coverage,
    capacity: CapacitySnapshot,
    blocking: tuple[str, ...],
    free_at_s: float | None,
) -> Receipt:
    """For a claim that was not accepted. `free_at_s` is when the last of the claims in `blocking` ends by itself."""
    short = decision.shortfall_blocks
    next_step = NextStep.RESUBMIT_SMALLER if claim.footprint_blocks > short > 0 else NextStep.NOTHING
    return Receipt(
        outcome=Outcome.REJECTED,
        reason=decision.reason.value,
        claim_id=claim.claim_id,
        revision=claim.revision,
        numbers=_numbers(claim, decision, coverage, capacity),
        state=ClaimState.REFUSED,
        blocking_claim_ids=blocking,
        next_step=NextStep.RETRY_LATER if blocking else next_step,
        retry_after_s=None if free_at_s is None else free_at_s - decision.decided_at_s,
    )


def renewed(live: LiveClaim) -> Receipt:
    """For a renewal that was taken."""
    return Receipt(
        outcome=Outcome.RENEWED,
        reason="newer_revision",
        claim_id=live.claim.claim_id,
        revision=live.claim.revision,
        granted_mode=live.claim.protection_mode,
        state=live.state,
        next_step=_held(live),
    )


def not_renewed(claim_id: str, *, revision: int, state: ClaimState, reason: DecisionReason) -> Receipt:
    """For a renewal that came too late, or with a revision that is not newer. States the revision in force."""
    return Receipt(outcome=Outcome.REJECTED, reason=reason.value, claim_id=claim_id, revision=revision, state=state)


def already_held(live: LiveClaim, *, asked: ResidentClaim, coverage: Coverage, capacity: CapacitySnapshot) -> Receipt:
    """For a submission that was answered before: what is held, and nothing is changed."""
    held = live.claim
    as_asked = (asked.footprint_blocks, asked.protection_mode) == (held.footprint_blocks, held.protection_mode)
    return Receipt(
        outcome=Outcome.ACCEPTED if as_asked else Outcome.CLIPPED,
        reason=DecisionReason.ALREADY_HELD.value,
        claim_id=held.claim_id,
        revision=held.revision,
        numbers=ReceiptNumbers(
            requested_blocks=asked.footprint_blocks,
            granted_blocks=held.footprint_blocks,
            protected_blocks=coverage.protected_blocks,
            active_live_blocks=capacity.active_live_blocks,
            usable_blocks=capacity.usable_blocks,
            shortfall_blocks=0,
            owed_blocks=coverage.owed_blocks,
        ),
        granted_mode=held.protection_mode,
        state=live.state,
        next_step=_held(live),
    )


def is_repeated(asked: ResidentClaim, held: ResidentClaim) -> bool:
    """Whether `asked` is the very submission that `held` is the answer to, at the revision in force."""
    return (asked.revision, asked.duration_s) == (held.revision, held.duration_s) and _other_promise(
        asked, held
    ) is None


def released(
    live: LiveClaim, outcome: Outcome, reason: str, *, request_id: str | None, action: Action | None
) -> Receipt:
    """For a claim that was demoted, expired or cancelled."""
    return Receipt(
        outcome=outcome,
        reason=reason,
        claim_id=live.claim.claim_id,
        revision=live.claim.revision,
        state=live.state,
        action=action,
        next_step=NextStep.RECOMPUTE_ON_REUSE,
        caused_by_request_id=request_id,
    )


def check_same_promise(asked: ResidentClaim, held: ResidentClaim) -> None:
    """Nothing when a renewal asks for the promise that is held; ClaimError naming the field otherwise.

    What was clipped or downgraded at acceptance may be asked for again, and stays as it was granted.
    """
    other = _other_promise(asked, held)
    if other is not None:
        raise other


def _other_promise(asked: ResidentClaim, held: ResidentClaim) -> ClaimError | None:
    for name in ("cache_identity", "object_id", "materialization_predicate"):
        if getattr(asked, name) != getattr(held, name):
            return _changed(name, getattr(held, name))
    if asked.footprint_blocks < held.footprint_blocks:
        return _changed("footprint_blocks", held.footprint_blocks)
    if held.protection_mode not in (asked.protection_mode, asked.fallback_mode):
        return _changed("protection_mode", held.protection_mode.value)
    common = held.footprint_blocks
    if held.block_hashes is not None and (asked.block_hashes or ())[:common] != held.block_hashes:
        return _changed("block_hashes", f"{common} hashes")
    return None


def no_such_claim(claim_id: str) -> ClaimError:
    """For an id that means nothing to whoever asks: unknown, forgotten, or somebody else's, all alike."""
    message = f"there is no claim {claim_id!r} here; it never existed, ended and left nothing, or is not yours"
    return ClaimError(message, field="claim_id", clause="TNR-ISO-002")


def _changed(field: str, held: object) -> ClaimError:
    return ClaimError(
        f"a renewal may not change it from {held}; submit a new claim", field=field, clause="TNR-LIFE-003"
    )


def _held(live: LiveClaim) -> NextStep:
    return NextStep.HELD_UNTIL_RELEASE if live.expires_at_s is None else NextStep.HELD_UNTIL_EXPIRY


def _numbers(
    claim: ResidentClaim, decision: ClaimDecision, coverage: Coverage, capacity: CapacitySnapshot
) -> ReceiptNumbers:
    return ReceiptNumbers(
        requested_blocks=claim.footprint_blocks,
        granted_blocks=decision.granted_footprint_blocks,
        protected_blocks=coverage.protected_blocks,
        active_live_blocks=capacity.active_live_blocks,
        usable_blocks=capacity.usable_blocks,
        shortfall_blocks=decision.shortfall_blocks,
        owed_blocks=coverage.owed_blocks,
    )
