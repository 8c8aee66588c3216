"""How a claim leaves the device and comes back: the part of the registry that is about tiers."""

from __future__ import annotations

from collections.abc import Container

from tenure.claims import reports
from tenure.claims.blocks import BlockKey
from tenure.claims.book import ClaimBook, Step
from tenure.claims.clock import Clock
from tenure.claims.coverage import LiveClaim
from tenure.claims.event_types import EventType
from tenure.claims.lifecycle import next_state
from tenure.claims.modes import (
    Action,
    ClaimState,
    HarmCause,
    Outcome,
    ReleaseReason,
    RestorationOutcome,
    RestorationSource,
    Tier,
)
from tenure.claims.receipts import NextStep, Receipt
from tenure.claims.validation import require_text
from tenure.errors import ClaimError


class TierMoves:
    """Offload, restore, and what a failed restoration leads to. Offloading is no release: the runtime still answers.

    The runtime calls each method at the moment it names: `offload` before the first block leaves the device, `restored`
    once every required block is back and in `resident`, `reused` when a request uses the prefix.
    """

    _book: ClaimBook
    _clock: Clock
    _resident: Container[BlockKey]

    def offload(
        self,
        claim_id: str,
        *,
        request_id: str | None = None,
        block_ids: tuple[int, ...] = (),
        action: Action | None = Action.OFFLOAD_RESIDENT,
    ) -> Receipt:
        """Note that the claim's blocks are about to leave the device, restorable. They stop counting as protected.

        Raises:
            ClaimError: the claim is not live, or its predicate does not hold on the device.
        """
        live = self._book.live_one(claim_id)
        next_state(live.state, EventType.CLAIM_OFFLOADED, claim_id=claim_id)
        live.offload_generation += 1
        fields = reports.offloaded(live, block_ids=block_ids, action=action)
        self._step(live, EventType.CLAIM_OFFLOADED, fields, request_id)
        return _receipt(live, Outcome.OFFLOADED, "moved_to_host_tier", request_id=request_id, tier=Tier.HOST)

    def require_restore(self, claim_id: str, *, request_id: str | None = None) -> None:
        """Note that somebody wants to reuse an offloaded claim. Raises ClaimError when it is not offloaded."""
        live = self._book.live_one(claim_id)
        fields: reports.Fields = {"offload_generation": live.offload_generation, "cache_tier": Tier.HOST.value}
        self._step(live, EventType.CLAIM_RESTORE_REQUIRED, fields, request_id)

    def restored(self, claim_id: str, *, request_id: str | None = None, block_ids: tuple[int, ...] = ()) -> Receipt:
        """Note that the claim's blocks came back from the tier. They count as protected again.

        Cost: linear in the footprint.

        Raises:
            ClaimError: no restoration was begun, or a required block is not in `resident`; nothing was changed.
        """
        live = self._book.live_one(claim_id)
        next_state(live.state, EventType.CLAIM_RESTORED, claim_id=claim_id)
        positions = live.claim.footprint_positions
        required = live.claim.materialization_predicate.required_blocks
        absent = [at for at, key in zip(positions, live.keys[:required], strict=False) if key not in self._resident]
        if absent:
            message = f"{len(absent)} of {required} required blocks are not on the device, the first is {absent[0]}"
            raise ClaimError(message, field="predicate_satisfied", clause="TNR-TIER-003")
        live.look_again(self._resident)
        fields: reports.Fields = {
            "offload_generation": live.offload_generation,
            "source_tier": Tier.HOST.value,
            "destination_tier": Tier.DEVICE.value,
            "restored_from_offload_tier": True,
            "restoration_source": RestorationSource.OFFLOAD_TIER.value,
            "predicate_satisfied": True,
            "block_count_footprint": live.surviving_blocks,
        }
        if block_ids:
            fields["block_ids"] = list(block_ids)
        self._step(live, EventType.CLAIM_RESTORED, fields, request_id)
        return _receipt(live, Outcome.RESTORED, "restored_from_host_tier", request_id=request_id, tier=Tier.DEVICE)

    def reused(self, claim_id: str, *, request_id: str, reused_blocks: int | None = None) -> None:
        """Note that a request reused the prefix. The first reuse after a restoration is reported; others need no event.

        Raises:
            ClaimError: the claim is not live, or is in a lower tier: a reuse before the restoration is none.
        """
        live = self._book.live_one(claim_id)
        if live.state in (ClaimState.OFFLOADED, ClaimState.RESTORING):
            message = f"claim {claim_id!r} is {live.state.value}; restore it before it is reused"
            raise ClaimError(message, field="event", clause="TNR-TIER-003")
        if live.state is not ClaimState.RESTORED:
            return
        fields: reports.Fields = {"offload_generation": live.offload_generation, "predicate_satisfied": live.holds}
        if reused_blocks is not None:
            fields["reused_blocks"] = reused_blocks
        self._step(live, EventType.CLAIM_REUSE_AFTER_RESTORE, fields, request_id)

    def restoration_failed(
        self,
        claim_id: str,
        *,
        failure: str,
        outcome: RestorationOutcome,
        request_id: str | None = None,
        injected: bool = False,
    ) -> Receipt:
        """Note that the blocks could not be brought back, and what follows from it for the same claim (TNR-LOAD-001).

        Demotion, expiry and harm are reported here. A refusal is the request's: emit `active_request_refused` with
        `restoration_failure_event_sequence` from `last_restoration_failure`; the claim stays offloaded.

        Raises:
            ClaimError: no restoration was begun for this claim.
        """
        live = self._book.live_one(claim_id)
        require_text("restoration_failure_reason", failure, clause="TNR-LOAD-001")
        fields: reports.Fields = {
            "offload_generation": live.offload_generation,
            "restoration_failure_reason": failure,
            "outcome_type": outcome.value,
            "outcome_claim_id": claim_id,
            "injected_restoration_failure": injected,
        }
        number = self._step(live, EventType.CLAIM_RESTORATION_FAILED, fields, request_id)
        live.last_restoration_failure = number
        return self._after_failure(live, outcome, number, request_id)

    def last_restoration_failure(self, claim_id: str) -> int | None:
        """The number of the last `restoration_failed` event of a live claim, None when there was none."""
        return self._book.live_one(claim_id).last_restoration_failure

    def tier_lost(self, claim_id: str) -> Receipt:
        """Report the blocks of an offloaded claim as gone from their tier: it is harmed. ClaimError if it is not."""
        live = self._book.live_one(claim_id)
        if live.state not in (ClaimState.OFFLOADED, ClaimState.RESTORING):
            message = f"claim {claim_id!r} is {live.state.value}, and has nothing in a lower tier"
            raise ClaimError(message, field="event", clause="TNR-LIFE-001")
        return self._harm(live, HarmCause.TIER_LOST, None, None)

    def _after_failure(
        self, live: LiveClaim, outcome: RestorationOutcome, number: int, request_id: str | None
    ) -> Receipt:
        if outcome is RestorationOutcome.REFUSAL:
            return _receipt(live, Outcome.FAILED, "restoration_failed", request_id=request_id, tier=Tier.HOST)
        if outcome is RestorationOutcome.HARM:
            return self._harm(live, HarmCause.RESTORATION_FAILED, request_id, number)
        demotes = outcome is RestorationOutcome.DEMOTION
        event = EventType.CLAIM_DEMOTED if demotes else EventType.CLAIM_EXPIRED
        reason = ReleaseReason.RESTORATION_FAILED
        fields = reports.released(live, reason, now_s=self._clock(), failure_sequence=number)
        self._step(live, event, fields, request_id, end_reason=reason.value)
        result = Outcome.DEMOTED if demotes else Outcome.EXPIRED
        return _receipt(live, result, reason.value, request_id=request_id)

    def _harm(self, live: LiveClaim, cause: HarmCause, request_id: str | None, number: int | None) -> Receipt:
        live.look_again(frozenset())
        fields = reports.harmed(live, cause, failure_sequence=number)
        self._step(live, EventType.CLAIM_HARMED, fields, request_id, end_reason=cause.value)
        return _receipt(live, Outcome.HARMED, cause.value, request_id=request_id)

    def _step(
        self,
        live: LiveClaim,
        event_type: EventType,
        fields: reports.Fields,
        request_id: str | None,
        *,
        end_reason: str | None = None,
    ) -> int:
        step = Step(live=live, event_type=event_type, fields=fields, request_id=request_id, end_reason=end_reason)
        return self._book.take([step], now_s=self._clock())[0]


_NEXT = {
    Outcome.OFFLOADED: NextStep.RESTORE_BEFORE_REUSE,
    Outcome.RESTORED: NextStep.NOTHING,
    Outcome.FAILED: NextStep.RETRY_LATER,
}


def _receipt(
    live: LiveClaim, outcome: Outcome, reason: str, *, request_id: str | None, tier: Tier | None = None
) -> Receipt:
    return Receipt(
        outcome=outcome,
        reason=reason,
        claim_id=live.claim.claim_id,
        revision=live.claim.revision,
        state=live.state,
        next_step=_NEXT.get(outcome, NextStep.RECOMPUTE_ON_REUSE),
        tier=tier,
        caused_by_request_id=request_id,
    )
