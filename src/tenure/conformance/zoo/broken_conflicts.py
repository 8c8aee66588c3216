"""Runtimes that are wrong about conflicts: who is named, what is counted, how much gives way, and whether it ends."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

from tenure.conformance.subject import RequestAnswer, RequestAsk, RequestOutcome
from tenure.conformance.zoo.toy import ToyRuntime
from tenure.conformance.zoo.toy_claims import ToyClaim
from tenure.conformance.zoo.toy_requests import Fit, ToyRequest

_DEMOTED = "resident_claim_demoted"


class NamelessRefuser(ToyRuntime):
    """Refuses because of claims and names none."""

    def _blocking(self, fit: Fit) -> list[ToyClaim]:
        return []


class BlamesEverybody(ToyRuntime):
    """Names every protecting claim as blocking."""

    def _blocking(self, fit: Fit) -> list[ToyClaim]:
        return [claim for claim in self._claims.values() if self._protects(claim)]


class BlamesBystanders(ToyRuntime):
    """Names a claim when only other work is in the way."""

    def _blocking(self, fit: Fit) -> list[ToyClaim]:
        found = super()._blocking(fit)
        return found or [claim for claim in self._claims.values() if self._protects(claim)][:1]


class ShortfallAlone(ToyRuntime):
    """Leaves other running requests out of the shortfall."""

    def _conflict(self, fit: Fit, blocking: Sequence[ToyClaim]) -> dict[str, object]:
        told = super()._conflict(fit, blocking)
        together = len(self._protected_keys()) + fit.new_blocks
        missing = max(0, together - self.setup.usable_blocks)
        return told | {"resident_plus_active_blocks": together, "capacity_shortfall_blocks": missing}


class UntoldConflict(ToyRuntime):
    """Says of a conflict that everything fits."""

    def _conflict(self, fit: Fit, blocking: Sequence[ToyClaim]) -> dict[str, object]:
        return super()._conflict(fit, blocking) | {"feasibility": "feasible_preserve_resident_and_active"}


class Wedge(ToyRuntime):
    """Waits without a word when hard claims fill the pool."""

    def _refuse(self, request: ToyRequest, fit: Fit, *more: object) -> None:
        if len(self._protected_keys()) < self.setup.usable_blocks:
            super()._refuse(request, fit, *more)  # type: ignore[arg-type]


class Stubborn(ToyRuntime):
    """Goes on refusing once it has refused, whatever has ended since."""

    _refused_once = False

    def _refuse(self, request: ToyRequest, fit: Fit, *more: object) -> None:
        self._refused_once = True
        super()._refuse(request, fit, *more)  # type: ignore[arg-type]

    def _fit(self, ask: RequestAsk) -> Fit:
        fit = super()._fit(ask)
        return replace(fit, available_blocks=0) if self._refused_once else fit


class LazyRefuser(ToyRuntime):
    """Refuses at once, whatever else the policy allows."""

    def _make_room(self, action: str, fit: Fit) -> None:
        if action != "demote_resident_claim" or len(self._claims) != 1:
            super()._make_room(action, fit)


class RefusesWhatFits(ToyRuntime):
    """Refuses a request that fits, because somebody has a claim."""

    def _fit(self, ask: RequestAsk) -> Fit:
        fit = super()._fit(ask)
        if any(self._protects(claim) for claim in self._claims.values()) and not fit.reused_blocks:
            return replace(fit, available_blocks=max(0, fit.available_blocks - 1))
        return fit


class ServesNobody(ToyRuntime):
    """Refuses every request, in an empty pool too."""

    def _fit(self, ask: RequestAsk) -> Fit:
        return replace(super()._fit(ask), available_blocks=0)


class OwnClaimBlocks(ToyRuntime):
    """Counts the blocks of a claim against the request that reuses them."""

    def _fit(self, ask: RequestAsk) -> Fit:
        fit = super()._fit(ask)
        own = sum(key in self._protected_keys() for key in fit.keys[: fit.reused_blocks])
        return replace(fit, available_blocks=max(0, fit.available_blocks - own))


class ReuseTwice(ToyRuntime):
    """Counts reused blocks as new ones, and names nobody."""

    def _fit(self, ask: RequestAsk) -> Fit:
        fit = super()._fit(ask)
        return replace(fit, available_blocks=max(0, fit.available_blocks - fit.reused_blocks))

    def _blocking(self, fit: Fit) -> list[ToyClaim]:
        return [] if fit.reused_blocks else super()._blocking(fit)


class DemotesEverybody(ToyRuntime):
    """Demotes every demotable claim when one would do."""

    def _make_room(self, action: str, fit: Fit) -> None:
        if action == "demote_resident_claim" and self._fewest(frozenset({"demotable"}), fit.shortfall_blocks):
            for claim in self._claims.values():
                if self._protects(claim) and claim.ask.protection_mode == "demotable":
                    self._end(claim, "demoted", _DEMOTED, release_reason="pressure")
        else:
            super()._make_room(action, fit)


class DemotesInVain(ToyRuntime):
    """Demotes what there is, although it does not make room."""

    def _make_room(self, action: str, fit: Fit) -> None:
        super()._make_room(action, fit)
        for claim in self._claims.values():
            demotable = self._protects(claim) and claim.ask.protection_mode == "demotable"
            if demotable and action == "demote_resident_claim" and self._fit_is_short(fit):
                self._end(claim, "demoted", _DEMOTED, release_reason="pressure")

    def _fit_is_short(self, fit: Fit) -> bool:
        return fit.new_blocks > len(self._free) + len(self._evictable(self._protected_keys()))


class RefusedButEvicts(ToyRuntime):
    """Makes room for a request by evicting, and then refuses it."""

    def _refuse(self, request: ToyRequest, fit: Fit, *more: object) -> None:
        for key in self._evictable(self._protected_keys())[:1]:
            self._evict(key, request_id=request.ask.request_id, harm_cause="evicted_under_pressure")
        super()._refuse(request, fit, *more)  # type: ignore[arg-type]


class ForgetsTheDeferred(ToyRuntime):
    """Defers and never looks again."""

    def _retry_deferred(self) -> None:
        return


class NeverRefusesTheDeferred(ToyRuntime):
    """Defers without a bound."""

    def _retry_deferred(self) -> None:
        for request in self._requests.values():
            if request.outcome is RequestOutcome.DEFERRED:
                request.deferred_at_s = self._now_s
        super()._retry_deferred()


class ChunkOptimist(ToyRuntime):
    """Admits a full-attention request by its largest chunk."""

    def _fit(self, ask: RequestAsk) -> Fit:
        fit = super()._fit(ask)
        return replace(fit, live_blocks=max(ask.chunk_blocks)) if ask.chunk_blocks else fit


class BoundInName(ToyRuntime):
    """Announces a bound and takes blocks beyond it, from claims if it must."""

    _bounding = False

    def _bound(self, request: ToyRequest, fit: Fit) -> Fit:
        super()._bound(request, fit)
        self._bounding = True
        return replace(fit, available_blocks=fit.new_blocks)

    def _evictable(self, protected: set[int], keep: Iterable[int] = ()) -> list[int]:
        return super()._evictable(set() if self._bounding else protected, keep)


class NoAdmitInName(ToyRuntime):
    """Says that reuse is denied and keeps the rows all the same."""

    def start_request(self, ask: RequestAsk) -> RequestAnswer:
        """Run it as if it had asked for its rows to be kept."""
        self._wanted_denied = not ask.future_reuse
        return super().start_request(replace(ask, future_reuse=True))

    def _emit(self, event: str, fields: Mapping[str, object] | None = None, /, **more: object) -> None:
        if event == "future_reuse_admitted" and self._wanted_denied:
            told = {"future_reuse_requested": False, "future_reuse_admitted": False}
            event, more = "future_reuse_denied", more | told
        super()._emit(event, fields, **more)  # type: ignore[arg-type]


class HardVictim(ToyRuntime):
    """Takes the last block of a hard claim as an ordinary victim, when nothing else is left."""

    def _evictable(self, protected: set[int], keep: Iterable[int] = ()) -> list[int]:
        found = super()._evictable(protected, keep)
        last = [claim.keys[-1] for claim in self._claims.values() if self._protects(claim)]
        return found + [key for key in last if key in self._cached and key not in keep and not self._users[key]]

    def _tell_loss(self, claim: ToyClaim, key: int, *, request_id: str | None, harm_cause: str) -> None:
        if not claim.responsible:
            super()._tell_loss(claim, key, request_id=request_id, harm_cause=harm_cause)


class HardTailGiver(ToyRuntime):
    """Takes what a hard claim covers beyond its predicate when a request needs room, and tells it as a harmless loss."""

    def _evictable(self, protected: set[int], keep: Iterable[int] = ()) -> list[int]:
        hard = [c for c in self._claims.values() if self._protects(c) and c.ask.protection_mode == "hard_protected"]
        promised = {key for claim in hard for key in claim.keys[: claim.ask.required_blocks]}
        tails = {key for claim in hard for key in claim.keys} - promised
        return super()._evictable(protected, keep) + super()._evictable(set(self._cached) - tails, keep)
