"""Runtimes that are wrong about losses and harm, or about the trace itself."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

from tenure.conformance.subject import ClaimAsk, FaultAsk, RequestAnswer, RequestAsk, RequestOutcome
from tenure.conformance.zoo.toy import ToyRuntime
from tenure.conformance.zoo.toy_claims import RELEASED_STATES, ToyClaim
from tenure.conformance.zoo.toy_requests import Fit, ToyRequest


class _NoProtection(ToyRuntime):
    def _evictable(self, protected: set[int], keep: Iterable[int] = ()) -> list[int]:
        return super()._evictable(set(), keep)


class SilentEvictor(_NoProtection):
    """Accepts claims, evicts them under pressure and says nothing."""

    def _tell_loss(self, claim: ToyClaim, key: int, *, request_id: str | None, harm_cause: str) -> None:
        if claim.state in RELEASED_STATES:
            super()._tell_loss(claim, key, request_id=request_id, harm_cause=harm_cause)


class MetadataOnly(_NoProtection):
    """Accepts hard claims, protects nothing, and reports every harm honestly."""


class LateDemoter(ToyRuntime):
    """Takes a demotable claim's blocks first and demotes it afterwards."""

    def __init__(self, *given: object) -> None:
        super().__init__(*given)  # type: ignore[arg-type]
        self._giving_way: list[ToyClaim] = []

    def _make_room(self, action: str, fit: Fit) -> None:
        if action == "demote_resident_claim":
            self._giving_way = self._fewest(frozenset({"demotable"}), fit.shortfall_blocks)
        else:
            super()._make_room(action, fit)

    def _protects(self, claim: ToyClaim) -> bool:
        return super()._protects(claim) and claim not in self._giving_way

    def _tell_loss(self, claim: ToyClaim, key: int, *, request_id: str | None, harm_cause: str) -> None:
        if claim not in self._giving_way:
            super()._tell_loss(claim, key, request_id=request_id, harm_cause=harm_cause)

    def _admit(self, request: ToyRequest, fit: Fit) -> None:
        super()._admit(request, fit)
        for claim in self._giving_way:
            self._end(claim, "demoted", "resident_claim_demoted", release_reason="pressure")
        self._giving_way = []


class HarmWithoutAcceptance(ToyRuntime):
    """Calls every replaced block a harm to somebody."""

    def _evict(self, key: int, *, request_id: str | None, harm_cause: str) -> None:
        if not any(key in claim.keys for claim in self._claims.values()):
            ask = self._ghost()
            self._end(ToyClaim(ask, (key,), self._now_s), "harmed", "resident_claim_harmed", **_harm())
        super()._evict(key, request_id=request_id, harm_cause=harm_cause)

    @staticmethod
    def _ghost() -> ClaimAsk:
        return ClaimAsk(
            claim_id="claim:ghost",
            owner_scope="nobody",
            prefix_id="ghost",
            content=(0,),
            footprint_blocks=1,
            protection_mode="hard_protected",
            required_blocks=1,
        )


class HarmAfterRelease(ToyRuntime):
    """Reports harm for what a demoted or expired claim loses."""

    def _tell_loss(self, claim: ToyClaim, key: int, *, request_id: str | None, harm_cause: str) -> None:
        if claim.state in RELEASED_STATES:
            self._end(claim, "harmed", "resident_claim_harmed", **_harm())
        else:
            super()._tell_loss(claim, key, request_id=request_id, harm_cause=harm_cause)


class DoubleHarm(ToyRuntime):
    """Reports one harm twice."""

    def _tell_loss(self, claim: ToyClaim, key: int, *, request_id: str | None, harm_cause: str) -> None:
        before = claim.state
        super()._tell_loss(claim, key, request_id=request_id, harm_cause=harm_cause)
        if claim.state == "harmed" and before != "harmed":
            self._end(claim, "harmed", "resident_claim_harmed", **_harm())


class HarmCrier(ToyRuntime):
    """Reports harm for any lost block of a claim, needed or not."""

    def _tell_loss(self, claim: ToyClaim, key: int, *, request_id: str | None, harm_cause: str) -> None:
        if claim.responsible:
            position = claim.first_position + claim.keys.index(key)
            where = {"physical_block_id": self._cached[key], "logical_block_position": position}
            self._end(claim, "harmed", "resident_claim_harmed", **_harm(**where))
        else:
            super()._tell_loss(claim, key, request_id=request_id, harm_cause=harm_cause)


class EarlyHarm(ToyRuntime):
    """Reports harm to a claim whose predicate never held."""

    def _tell_loss(self, claim: ToyClaim, key: int, *, request_id: str | None, harm_cause: str) -> None:
        if claim.state == "accepted":
            position = claim.first_position + claim.keys.index(key)
            where = _harm(physical_block_id=self._cached[key], logical_block_position=position)
            self._end(claim, "harmed", "resident_claim_harmed", **where)
        else:
            super()._tell_loss(claim, key, request_id=request_id, harm_cause=harm_cause)


class WrongHarm(ToyRuntime):
    """Reports the harm of one claim under the name of another."""

    def _end(self, claim: ToyClaim, state: str, event: str, *, request_id: str | None = None, **more: object) -> None:
        others = [c for c in self._claims.values() if c is not claim and c.responsible]
        if state == "harmed" and others:
            self._emit(event, more, claim=others[0], request_id=request_id)
            claim.state = others[0].state = "harmed"
        else:
            super()._end(claim, state, event, request_id=request_id, **more)


class QuietTail(ToyRuntime):
    """Says nothing of a lost block that the predicate does not need."""

    def _emit(self, event: str, fields: Mapping[str, object] | None = None, /, **more: object) -> None:
        if event != "resident_claim_block_lost":
            super()._emit(event, fields, **more)  # type: ignore[arg-type]


class MisnamedLoss(ToyRuntime):
    """Calls every loss a loss after release, as the published prototype does."""

    def _emit(self, event: str, fields: Mapping[str, object] | None = None, /, **more: object) -> None:
        told = "resident_claim_block_lost_after_release" if event == "resident_claim_block_lost" else event
        super()._emit(told, fields, **more)  # type: ignore[arg-type]


class FlagAfterCleanup(ToyRuntime):
    """Computes is_protected_resident when the claim was cleaned up already, so that it is never true."""

    def _emit(self, event: str, fields: Mapping[str, object] | None = None, /, **more: object) -> None:
        if event == "allocation_victim_selected":
            more["is_protected_resident"] = False
        super()._emit(event, fields, **more)  # type: ignore[arg-type]


class EventDropper(ToyRuntime):
    """Loses every seventh event."""

    def _emit(self, event: str, fields: Mapping[str, object] | None = None, /, **more: object) -> None:
        super()._emit(event, fields, **more)  # type: ignore[arg-type]
        if self._sequence % 7 == 0:
            self._trace.pop()


class VagueEvents(ToyRuntime):
    """Leaves the reason out of its releases."""

    def _emit(self, event: str, fields: Mapping[str, object] | None = None, /, **more: object) -> None:
        super()._emit(event, fields, **more)  # type: ignore[arg-type]
        self._trace[-1].pop("release_reason", None)


class PostHocNamer(ToyRuntime):
    """Writes down that it accepted a claim only when somebody is refused because of it."""

    def __init__(self, *given: object) -> None:
        super().__init__(*given)  # type: ignore[arg-type]
        self._held_back: list[tuple[str, Mapping[str, object] | None, dict[str, object]]] = []

    def _emit(self, event: str, fields: Mapping[str, object] | None = None, /, **more: object) -> None:
        if event in {"resident_claim_submitted", "resident_claim_accepted", "resident_claim_materialized"}:
            self._held_back.append((event, fields, more))
            return
        super()._emit(event, fields, **more)  # type: ignore[arg-type]
        if event == "active_request_refused":
            for earlier, its_fields, its_more in self._held_back:
                super()._emit(earlier, its_fields, **its_more)  # type: ignore[arg-type]
            self._held_back.clear()


class RefusedThenServed(ToyRuntime):
    """Ends a request that it refused as if it had served it."""

    def finish_request(self, request_id: str) -> RequestAnswer:
        """Say that it was finished, whatever became of it."""
        request = self._requests.get(request_id)
        if request is not None and request.outcome is RequestOutcome.REFUSED:
            self._emit("active_request_finished", request_id=request_id)
        return super().finish_request(request_id)


class UntoldRequests(ToyRuntime):
    """Answers its callers and keeps refusals out of the trace."""

    def start_request(self, ask: RequestAsk) -> RequestAnswer:
        """Answer, and take the refusal back out of the trace."""
        answer = super().start_request(ask)
        if self._trace and self._trace[-1]["event"] == "active_request_refused":
            self._trace.pop()
            self._sequence -= 1
        return answer


class DeafToFaults(ToyRuntime):
    """Goes on calling a claim materialized when the memory under it is gone."""

    def inject_failure(self, ask: FaultAsk) -> None:
        """Lose the block, and tell a loss that changes nothing."""
        claim = self._claims[ask.claim_id]
        before = claim.ask
        if ask.position is not None:
            claim.ask = replace(before, required_blocks=0)
        super().inject_failure(ask)
        claim.ask = before


def _harm(**where: int) -> dict[str, Any]:
    told = {"harm_cause": "evicted_under_pressure", "harm_permitted": False, "predicate_before": True}
    return told | {"predicate_after": False} | where
