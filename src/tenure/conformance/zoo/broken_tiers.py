"""Runtimes that are wrong about the slower tier: what leaves, what comes back, and what a failure owes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from tenure.conformance.zoo.toy import ToyRuntime
from tenure.conformance.zoo.toy_claims import ToyClaim
from tenure.conformance.zoo.toy_requests import Fit, ToyRequest

_RESTORED = "resident_claim_restored"
_REUSED = "resident_claim_reuse_after_restore"
_FAILED = "resident_claim_restoration_failed"


class OffloadIsGoodbye(ToyRuntime):
    """Treats an offload as a release: nothing comes back, and nothing is said."""

    def _offload(self, claim: ToyClaim) -> None:
        super()._offload(claim)
        self._host.clear()

    def _fit(self, ask: object) -> Fit:
        self._host.clear()
        return super()._fit(ask)  # type: ignore[arg-type]


class OffloadsToNowhere(ToyRuntime):
    """Offloads to a tier that has no room."""

    def _make_room(self, action: str, fit: Fit) -> None:
        if action == "offload_resident":
            for claim in self._fewest(frozenset({"offloadable"}), fit.shortfall_blocks):
                self._offload(claim)
        else:
            super()._make_room(action, fit)


class CountsTheOffloaded(ToyRuntime):
    """Counts offloaded blocks as protected on the device when it accepts a claim."""

    def _footprint_that_fits(self, ask: object) -> int:
        return max(0, super()._footprint_that_fits(ask) - len(self._host))  # type: ignore[arg-type]


class RestoresAfterReuse(ToyRuntime):
    """Reports the reuse of an offloaded claim before its restoration."""

    def _tell_restored(self, request: ToyRequest, claim: ToyClaim) -> None:
        first = len(self._trace)
        super()._tell_restored(request, claim)
        restored, reused = self._trace[first:]
        for record in (restored, reused):
            name = _REUSED if record["event"] == _RESTORED else _RESTORED
            record["event"] = name


class RecomputeAsRestore(ToyRuntime):
    """Computes lost rows again and files it as a restoration."""

    def _emit(self, event: str, fields: Mapping[str, object] | None = None, /, **more: object) -> None:
        if event == _RESTORED:
            more["restoration_source"] = "recompute"
        super()._emit(event, fields, **more)  # type: ignore[arg-type]


class HidesTheFailure(ToyRuntime):
    """Computes rows again after a failed restore and counts the claim as satisfied."""

    def _fail_restore(self, request: ToyRequest, claim: ToyClaim, fit: Fit) -> None:
        self._tell_restored(request, claim)
        claim.state = "materialized"
        self._admit(request, fit)


class CorruptRestore(ToyRuntime):
    """Brings back other bytes than it took away."""

    def _admit(self, request: ToyRequest, fit: Fit) -> None:
        super()._admit(request, fit)
        if any(record["event"] == _RESTORED for record in self._trace):
            request.output = f"not {request.output}"


class FailureWithoutOutcome(ToyRuntime):
    """Reports a failed restore and leaves it at that."""

    def _fail_restore(self, request: ToyRequest, claim: ToyClaim, fit: Fit) -> None:
        mark = len(self._trace)
        super()._fail_restore(request, claim, fit)
        del self._trace[mark + 1 :]
        self._sequence = mark + 1


class SilentFailure(ToyRuntime):
    """Refuses after a failed restore without saying that it failed."""

    def _emit(self, event: str, fields: Mapping[str, object] | None = None, /, **more: object) -> None:
        if event != _FAILED:
            super()._emit(event, fields, **more)  # type: ignore[arg-type]


class BlamesTheNeighbour(ToyRuntime):
    """Holds the failed restore of one claim against another."""

    def _refuse(self, request: ToyRequest, fit: Fit, blocking: Sequence[ToyClaim], *more: object) -> None:
        others = [c for c in self._claims.values() if c.responsible and c not in blocking]
        blamed = others[:1] if more[1:] and others else blocking
        super()._refuse(request, fit, blamed, *more)  # type: ignore[arg-type]


class StuckGeneration(ToyRuntime):
    """Calls every offload the first one, counting from 0."""

    def _offload(self, claim: ToyClaim) -> None:
        claim.generation = -1
        super()._offload(claim)


class MixesGenerations(ToyRuntime):
    """Names another offload than the current one when it restores."""

    def _tell_restored(self, request: ToyRequest, claim: ToyClaim) -> None:
        claim.generation += 1
        super()._tell_restored(request, claim)
        claim.generation -= 1


class SpeaksForTheReleased(ToyRuntime):
    """Reports failed loads of rows that no claim covers any more against the claim that once did."""

    def _restore(self, request: ToyRequest, fit: Fit) -> bool:
        for claim in self._claims.values():
            if claim.state == "released" and fit.restorable_blocks and claim.ask.claim_id in self._restore_faults:
                self._fail_restore(request, claim, fit)
                return False
        return super()._restore(request, fit)
