"""Whether a claim can be accepted, on which terms, and on which numbers. Pure: nothing is remembered or changed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from tenure.claims.modes import DecisionKind, DecisionReason, ProtectionMode
from tenure.claims.objects import CapacitySnapshot, ClaimDecision, ResidentClaim


@dataclass(frozen=True, slots=True, kw_only=True)
class AcceptanceLimits:
    """What the operator allows.

    Attributes:
        claim_budget_blocks: most blocks that may be owed to all claims together, None for all usable ones.
        max_live_claims: most claims at once.
        supported_modes: the modes that this runtime implements.
    """

    claim_budget_blocks: int | None
    max_live_claims: int
    supported_modes: frozenset[ProtectionMode]


@dataclass(frozen=True, slots=True, kw_only=True)
class Holdings:
    """What is promised already: owed blocks, shared ones once, and how many claims are live."""

    owed_blocks: int
    live_claims: int


def decide(
    claim: ResidentClaim,
    *,
    new_blocks: int,
    is_new: Sequence[bool],
    holdings: Holdings,
    capacity: CapacitySnapshot,
    limits: AcceptanceLimits,
    now_s: float,
) -> ClaimDecision:
    """How to answer `claim`.

    It is accepted as it is if the inequality holds with it and the budget allows it; otherwise for as many of its
    leading blocks as fit, not fewer than its predicate requires; otherwise in the fallback mode that its owner named,
    if that one reserves nothing; otherwise rejected, with the number of blocks that were missing.

    Args:
        claim: what was asked for.
        new_blocks: how many blocks of the claim no reserving claim covers yet.
        is_new: for each block that the claim covers, whether it is one of those. May be left empty when the claim
            cannot be `worth_clipping`.
        holdings, capacity, limits: what is promised, what there is, what is allowed.
        now_s: the clock.

    Cost: linear in the footprint only when the claim does not fit.
    """
    if holdings.live_claims >= limits.max_live_claims:
        return _rejected(claim, DecisionReason.TOO_MANY_CLAIMS, now_s=now_s)
    mode, downgraded = claim.protection_mode, False
    if mode not in limits.supported_modes:
        if claim.fallback_mode is None or claim.fallback_mode not in limits.supported_modes:
            return _rejected(claim, DecisionReason.MODE_NOT_SUPPORTED, now_s=now_s)
        mode, downgraded = claim.fallback_mode, True
    fitting = DecisionReason.FITS if mode.reserves_blocks else DecisionReason.RESERVES_NOTHING
    if downgraded:
        fitting = DecisionReason.MODE_DOWNGRADED
    room, limit = _room_blocks(holdings, capacity, limits)
    shortfall = max(0, new_blocks - room)
    if shortfall == 0 or not mode.reserves_blocks:
        return _granted(claim, fitting, mode=mode, footprint_blocks=claim.footprint_blocks, now_s=now_s)
    clipped = _blocks_that_fit(is_new, room)
    if clipped >= max(1, claim.materialization_predicate.required_blocks):
        reason = DecisionReason.FOOTPRINT_CLIPPED
        return _granted(claim, reason, mode=mode, footprint_blocks=clipped, now_s=now_s, shortfall_blocks=shortfall)
    fallback = claim.fallback_mode
    if fallback is not None and not fallback.reserves_blocks and fallback in limits.supported_modes:
        return _granted(
            claim,
            DecisionReason.MODE_DOWNGRADED,
            mode=fallback,
            footprint_blocks=claim.footprint_blocks,
            now_s=now_s,
            shortfall_blocks=shortfall,
        )
    return _rejected(claim, limit, now_s=now_s, shortfall_blocks=shortfall)


def most_blocks(capacity: CapacitySnapshot | None, limits: AcceptanceLimits) -> int | None:
    """The most blocks that may be owed to all claims together, never below zero. None when nothing limits them."""
    budget = limits.claim_budget_blocks
    if capacity is None:
        return budget
    physical = max(0, capacity.usable_blocks - capacity.active_live_blocks)
    return physical if budget is None else min(physical, budget)


def worth_clipping(claim: ResidentClaim, *, capacity: CapacitySnapshot, limits: AcceptanceLimits) -> bool:
    """Whether some of the claim's blocks could be granted in a reserving mode, were nothing else promised.

    Cost: constant, so that a claim which can never fit is answered without naming its blocks.
    """
    most = most_blocks(capacity, limits)
    return most is None or claim.materialization_predicate.required_blocks <= most


def _room_blocks(
    holdings: Holdings, capacity: CapacitySnapshot, limits: AcceptanceLimits
) -> tuple[int, DecisionReason]:
    """How many more blocks can be protected, and which limit says so. Below zero when too much is promised already."""
    physical = capacity.usable_blocks - capacity.active_live_blocks - holdings.owed_blocks
    if limits.claim_budget_blocks is not None:
        budgeted = limits.claim_budget_blocks - holdings.owed_blocks
        if budgeted < physical:
            return budgeted, DecisionReason.OVER_BUDGET
    return physical, DecisionReason.OVER_CAPACITY


def _blocks_that_fit(is_new: Sequence[bool], room_blocks: int) -> int:
    """How many leading blocks of the footprint can be covered with `room_blocks` new ones."""
    if room_blocks < 0:
        return 0
    left = room_blocks
    for index, new in enumerate(is_new):
        if left < new:
            return index
        left -= new
    return len(is_new)


def _granted(
    claim: ResidentClaim,
    reason: DecisionReason,
    *,
    mode: ProtectionMode,
    footprint_blocks: int,
    now_s: float,
    shortfall_blocks: int = 0,
) -> ClaimDecision:
    as_asked = mode is claim.protection_mode and footprint_blocks == claim.footprint_blocks
    return ClaimDecision(
        claim_id=claim.claim_id,
        revision=claim.revision,
        decision=DecisionKind.ACCEPTED if as_asked else DecisionKind.CONDITIONALLY_ACCEPTED,
        reason=reason,
        decided_at_s=now_s,
        granted_footprint_blocks=footprint_blocks,
        granted_mode=mode,
        shortfall_blocks=shortfall_blocks,
    )


def _rejected(
    claim: ResidentClaim, reason: DecisionReason, *, now_s: float, shortfall_blocks: int = 0
) -> ClaimDecision:
    return ClaimDecision(
        claim_id=claim.claim_id,
        revision=claim.revision,
        decision=DecisionKind.REJECTED,
        reason=reason,
        decided_at_s=now_s,
        granted_footprint_blocks=0,
        granted_mode=None,
        shortfall_blocks=shortfall_blocks,
    )
