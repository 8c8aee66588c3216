"""Runtimes that are wrong about acceptance, materialization and the life of claims. One docstring line says how."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from tenure.conformance.subject import ClaimAnswer, ClaimAsk, IdentityAsk
from tenure.conformance.zoo.toy import ToyRuntime
from tenure.conformance.zoo.toy_claims import PROTECTING_MODES, ToyClaim
from tenure.errors import ClaimError


class OverAcceptor(ToyRuntime):
    """Accepts every claim, whatever is promised already."""

    def _footprint_that_fits(self, ask: ClaimAsk) -> int:
        return ask.footprint_blocks


class IdleAcceptor(ToyRuntime):
    """Forgets the work in flight when it accepts a claim."""

    def _footprint_that_fits(self, ask: ClaimAsk) -> int:
        taken = {k for c in self._claims.values() if self._protects(c) for k in c.keys}
        room = self.setup.usable_blocks - len(taken.difference(self._footprint(ask)))
        return min(ask.footprint_blocks, room)


class SumCounter(ToyRuntime):
    """Adds footprints up, so a block that two claims share counts twice."""

    def _footprint_that_fits(self, ask: ClaimAsk) -> int:
        promised = sum(len(c.keys) for c in self._claims.values() if self._protects(c))
        room = self.setup.usable_blocks - promised - self._live_now()
        return min(ask.footprint_blocks, max(0, room))


class QuietClipper(ToyRuntime):
    """Clips a claim to what fits and calls that accepted."""

    def _accept(self, claim: ToyClaim) -> ClaimAnswer:
        answer = super()._accept(claim)
        return ClaimAnswer(decision="accepted", reason="accepted", accepted_blocks=answer.accepted_blocks)

    def _emit(self, event: str, fields: Mapping[str, object] | None = None, /, **more: object) -> None:
        told = event.replace("conditionally_accepted", "accepted")
        super()._emit(told, fields, **more)  # type: ignore[arg-type]  # passed on as it came


class TakesAnyMode(ToyRuntime):
    """Takes an unknown protection mode for one that it understands."""

    overlooked_fields = frozenset({"protection_mode"})


class TakesAnyPredicate(ToyRuntime):
    """Takes an unknown predicate for one that it understands."""

    overlooked_fields = frozenset({"predicate_type"})


class TakesAnyFootprint(ToyRuntime):
    """Accepts a claim whose footprint cannot hold its predicate."""

    overlooked_fields = frozenset({"footprint_blocks"})

    def submit_claim(self, ask: ClaimAsk) -> ClaimAnswer:
        """Require what there is, rather than what was asked for."""
        return super().submit_claim(replace(ask, required_blocks=min(ask.required_blocks, ask.footprint_blocks)))


class TakesAnyDuration(ToyRuntime):
    """Accepts durations that are negative or no number."""

    overlooked_fields = frozenset({"duration_s"})


class QuietRelease(ToyRuntime):
    """Lets an owner release a claim and does not tell it."""

    def _end(self, claim: ToyClaim, state: str, event: str, *, request_id: str | None = None, **more: object) -> None:
        if event == "resident_claim_released":
            claim.state = state
        else:
            super()._end(claim, state, event, request_id=request_id, **more)


class ReleasedInName(ToyRuntime):
    """Tells a release and goes on protecting the rows."""

    def _protects(self, claim: ToyClaim) -> bool:
        return super()._protects(claim) or claim.state == "released"


class BlockCounter(ToyRuntime):
    """Takes a number of surviving blocks for the predicate."""

    def _predicate_holds(self, claim: ToyClaim, positions: set[int]) -> bool:
        return len(positions) >= claim.ask.required_blocks


class NeverMaterialized(ToyRuntime):
    """Never says that a predicate became true."""

    def _emit(self, event: str, fields: Mapping[str, object] | None = None, /, **more: object) -> None:
        if event != "resident_claim_materialized":
            super()._emit(event, fields, **more)  # type: ignore[arg-type]


class EarlyMaterialized(ToyRuntime):
    """Calls a claim materialized with its first cached block."""

    def _tell_materialized(self, claim: ToyClaim) -> None:
        if claim.state in {"accepted", "conditionally_accepted"} and self._positions(claim):
            claim.state = "materialized"
            self._emit("resident_claim_materialized", claim=claim, predicate_satisfied=True)


class MaterializedFirst(ToyRuntime):
    """Says that a claim is materialized before it has accepted it."""

    def _accept(self, claim: ToyClaim) -> ClaimAnswer:
        self._emit("resident_claim_materialized", claim=claim)
        return super()._accept(claim)


class RevisionReplayer(ToyRuntime):
    """Renews with whatever revision comes."""

    def _renew(self, held: ToyClaim, ask: ClaimAsk) -> ClaimAnswer:
        if not held.responsible:
            return super()._renew(held, ask)
        held.ask = replace(held.ask, revision=ask.revision, duration_s=ask.duration_s)
        held.accepted_at_s = self._now_s
        self._emit("resident_claim_renewed", claim=held)
        return ClaimAnswer(decision="accepted", reason="renewed", accepted_blocks=len(held.keys))


class LateRenewer(ToyRuntime):
    """Lets a renewal that comes at the very end win the race."""

    def advance_clock(self, *, seconds: float) -> None:
        """Expire only what was over before this moment."""
        for claim in self._claims.values():
            ends_at_s = claim.accepted_at_s + (claim.ask.duration_s or 0.0)
            if claim.responsible and claim.ask.duration_s is not None and self._now_s + seconds == ends_at_s:
                claim.accepted_at_s += 1e-9
        super().advance_clock(seconds=seconds)


class IdReuser(ToyRuntime):
    """Takes the id of an ended claim for a new one."""

    def submit_claim(self, ask: ClaimAsk) -> ClaimAnswer:
        """Forget the ended claim of that id first."""
        held = self._claims.get(ask.claim_id)
        if held is not None and not held.responsible:
            del self._claims[ask.claim_id]
        return super().submit_claim(ask)


class AnyoneReleases(ToyRuntime):
    """Lets anybody release anybody's claim."""

    def release_claim(self, claim_id: str, *, owner_scope: str) -> None:
        """Ask nobody who they are."""
        claim = self._claims.get(claim_id)
        if claim is None:
            raise ClaimError(f"claim_id: {claim_id!r} is unknown to {owner_scope!r}")
        super().release_claim(claim_id, owner_scope=claim.ask.owner_scope)


class SilentReset(ToyRuntime):
    """Clears its claims on a reset and says nothing of them."""

    def _end_all(self, release_reason: str) -> None:
        if release_reason != "runtime_reset":
            super()._end_all(release_reason)
            return
        for claim in self._claims.values():
            claim.state = "forgotten"


class AmnesiacRestart(ToyRuntime):
    """Comes back from a restart without its claims."""

    def _end_all(self, release_reason: str) -> None:
        if release_reason == "runtime_reset":
            super()._end_all(release_reason)
        else:
            self._claims.clear()


class SharedDropper(ToyRuntime):
    """Releases a shared block with the first of its claims."""

    def release_claim(self, claim_id: str, *, owner_scope: str) -> None:
        """Let go of the rows, whoever else claims them."""
        super().release_claim(claim_id, owner_scope=owner_scope)
        self._let_go = getattr(self, "_let_go", set()) | set(self._claims[claim_id].keys)

    def _evictable(self, protected: set[int], keep: object = ()) -> list[int]:
        let_go: set[int] = getattr(self, "_let_go", set())
        return super()._evictable(protected - let_go, keep)  # type: ignore[arg-type]


class TenantMixer(ToyRuntime):
    """Finds rows by their tokens alone, whoever's they are."""

    def _keys(self, identity: IdentityAsk, content: tuple[int, ...]) -> tuple[int, ...]:
        return super()._keys(IdentityAsk(adapter_id=identity.adapter_id), content)


class AdapterMixer(ToyRuntime):
    """Forgets the adapter in the identity of rows."""

    def _keys(self, identity: IdentityAsk, content: tuple[int, ...]) -> tuple[int, ...]:
        return super()._keys(IdentityAsk(salt_namespace=identity.salt_namespace), content)


class OneAdapter(ToyRuntime):
    """Knows that there is an adapter, and not which one."""

    def _keys(self, identity: IdentityAsk, content: tuple[int, ...]) -> tuple[int, ...]:
        adapter_id = None if identity.adapter_id is None else "some-adapter"
        return super()._keys(IdentityAsk(salt_namespace=identity.salt_namespace, adapter_id=adapter_id), content)


class SoftAsHard(ToyRuntime):
    """Protects a soft claim as if it were hard."""

    def _protects(self, claim: ToyClaim) -> bool:
        return super()._protects(claim) or (claim.responsible and claim.ask.protection_mode == "soft_priority")


class SoftIgnorer(ToyRuntime):
    """Takes soft priorities and does nothing with them."""

    def _victim_rank(self, key: int) -> int:
        return 0


class OrderOnly(ToyRuntime):
    """Accepts hard claims and puts them last in the order of victims; when it takes them, it says so."""

    def _evictable(self, protected: set[int], keep: object = ()) -> list[int]:
        free = super()._evictable(set(), keep)  # type: ignore[arg-type]
        return sorted(free, key=lambda key: key in protected)

    def _footprint_that_fits(self, ask: ClaimAsk) -> int:
        return super()._footprint_that_fits(ask) if ask.protection_mode in PROTECTING_MODES else ask.footprint_blocks


class SmallPool(ToyRuntime):
    """Counts a block as usable that it can never give out."""

    def _empty_device(self) -> None:
        super()._empty_device()
        self._free.pop()
