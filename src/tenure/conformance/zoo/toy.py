"""The toy: a small correct runtime for the zoo to break, and the first subject that the suite must pass.

`toy_claims` knows claims and blocks, `toy_requests` requests and conflicts, and this the slower tier, time, failures, reset
and restart. Order within one call is the contract's: a release is told before the loss it excuses, a restore before the reuse.
"""

from __future__ import annotations

from tenure.conformance.subject import Fault, FaultAsk, RequestOutcome, Setup
from tenure.conformance.zoo.toy_claims import ToyClaim
from tenure.conformance.zoo.toy_requests import Fit, ToyRequest, ToyRequests
from tenure.errors import ClaimError, UsageError


class ToyRuntime(ToyRequests):
    """The unbroken toy. Implements `tenure.conformance.subject.Subject` with every feature."""

    def __init__(self, setup: Setup) -> None:
        super().__init__(setup)
        self._restore_faults: set[str] = set()

    # The slower tier ----------------------------------------------------------------------------------------------

    def _restore(self, request: ToyRequest, fit: Fit) -> bool:
        """Bring back what the request reuses. False when that failed, and then the request was told so."""
        if not fit.restorable_blocks:
            return True
        wanted = fit.keys[fit.reused_blocks : fit.reused_blocks + fit.restorable_blocks]
        claims = [c for c in self._claims.values() if c.state == "offloaded" and set(wanted) & set(c.keys)]
        for claim in claims:
            self._emit(
                "resident_claim_restore_required",
                claim=claim,
                request_id=request.ask.request_id,
                cache_tier="host_offload_tier",
            )
            if claim.ask.claim_id in self._restore_faults:
                self._restore_faults.discard(claim.ask.claim_id)
                self._fail_restore(request, claim, fit)
                return False
        blocks = self._take(len(wanted), request_id=request.ask.request_id, keep=fit.keys[: fit.reused_blocks])
        for claim in claims:
            claim.state = "materialized"
        for offset, (key, physical) in enumerate(zip(wanted, blocks, strict=True)):
            self._cache_block(key, physical, fit.reused_blocks + offset, request.ask.request_id)
        for claim in claims:
            self._host.difference_update(claim.keys)
            self._tell_restored(request, claim)
        return True

    def _tell_restored(self, request: ToyRequest, claim: ToyClaim) -> None:
        for event in ("resident_claim_restored", "resident_claim_reuse_after_restore"):
            self._emit(
                event,
                claim=claim,
                request_id=request.ask.request_id,
                source_tier="host_offload_tier",
                destination_tier="gpu_kv_cache",
                restored_from_offload_tier=True,
                restoration_source="offload_tier",
            )

    def _fail_restore(self, request: ToyRequest, claim: ToyClaim, fit: Fit) -> None:
        failure_sequence = self._sequence
        self._emit(
            "resident_claim_restoration_failed",
            claim=claim,
            request_id=request.ask.request_id,
            outcome_type="refusal",
            outcome_claim_id=claim.ask.claim_id,
            restoration_failure_reason="controlled_unavailable",
            injected_restoration_failure=True,
        )
        self._refuse(request, fit, [claim], "refuse_active", failure_sequence)

    # Time, failures, reset and restart ----------------------------------------------------------------------------

    def _retry_deferred(self) -> None:
        for request in list(self._requests.values()):
            if request.outcome is RequestOutcome.DEFERRED and request.deferred_at_s is not None:
                fit = self._fit(request.ask)
                if not fit.shortfall_blocks:
                    self._try(request)
                elif self._now_s - request.deferred_at_s >= self.setup.defer_limit_s:
                    request.attempts += 1
                    self._refuse(request, fit, self._blocking(fit), "refuse_active")

    def advance_clock(self, *, seconds: float) -> None:
        """Expire what is over, then see to those that wait."""
        self._now_s += seconds
        for claim in self._claims.values():
            duration_s = claim.ask.duration_s
            if claim.responsible and duration_s is not None and self._now_s - claim.accepted_at_s >= duration_s:
                self._end(claim, "expired", "resident_claim_expired", release_reason="duration_elapsed")
        self._retry_deferred()

    def inject_failure(self, ask: FaultAsk) -> None:
        """Lose a block now, or make the claim's next restore fail."""
        claim = self._claims.get(ask.claim_id)
        if claim is None:
            raise ClaimError(f"claim_id: {ask.claim_id!r} is unknown")
        if ask.fault is Fault.FAIL_RESTORE:
            self._restore_faults.add(ask.claim_id)
        elif ask.position is None or not self._can_lose(claim, ask.position):
            raise UsageError(f"position: {ask.position} of claim {ask.claim_id!r} is not cached, or is in use")
        else:
            self._evict(claim.keys[ask.position], request_id=None, harm_cause="fault")

    def _can_lose(self, claim: ToyClaim, position: int) -> bool:
        key = claim.keys[position] if 0 <= position < len(claim.keys) else None
        return key in self._cached and not self._users[key]

    def reset(self) -> None:
        """Demote every claim, say so, then drop the cache."""
        self._end_all("runtime_reset")
        self._emit("runtime_reset", live_claims=0, reason="operator")
        for key in [key for key in self._cached if not self._users[key]]:
            self._evict(key, request_id=None, harm_cause="evicted_under_pressure")
        self._host.clear()

    def _end_all(self, release_reason: str) -> None:
        for claim in self._claims.values():
            if claim.responsible:
                self._end(claim, "demoted", "resident_claim_demoted", release_reason=release_reason)

    def restart(self) -> None:
        """The device is empty after a crash; the accepted claims, which are durable, are ended and said so."""
        live_claims = sum(claim.responsible for claim in self._claims.values())
        self._requests.clear()
        self._empty_device()
        self._host.clear()
        self._emit(
            "runtime_restarted",
            runtime_name="toy",
            spec_version="2026.1",
            runtime_generation=2,
            live_claims=live_claims,
        )
        self._end_all("runtime_shutdown")
