"""What an application submits, and what a runtime keeps of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import Any

from tenure.claims.modes import ClaimState, DecisionKind, DecisionReason, ProtectionMode, parse_mode
from tenure.claims.predicate import MaterializationPredicate, parse_predicate
from tenure.claims.validation import (
    require_count,
    require_finite,
    require_known_fields,
    require_present,
    require_seconds,
    require_text,
    shown,
)
from tenure.errors import ClaimError
from tenure.kv.identity import CacheIdentity


@dataclass(frozen=True, slots=True, kw_only=True)
class ResidentClaim:
    """A promise that an application asks for: keep this prefix in this shape, on these terms.

    The claim covers `footprint_positions`, of which the predicate's `required_positions` decide whether it is kept.

    Attributes:
        claim_id: stable, unique for ever in one runtime, and not the id of a request.
        owner_scope: who may renew or cancel it, such as "session:tenant-a:user-7".
        cache_identity: which KV state is meant.
        object_id: the reusable prefix. Claims on one object of one identity share its blocks, position by position.
        materialization_predicate: what must survive.
        footprint_blocks: how many blocks are to be held, not fewer than the predicate requires.
        protection_mode: on what terms.
        duration_s: seconds from acceptance until responsibility ends; None for no end. `EXPIRING` needs one.
        revision: 1 for a new claim; a renewal carries a higher one.
        fallback_mode: the weaker mode that the owner would take instead of a rejection, None for none.
        block_hashes: chained hashes of the footprint's blocks in order, which let claims on different objects
            share blocks; None to share by `object_id` alone.
        predicted_value, confidence: inputs to a policy. No clause depends on them.

    Raises:
        ClaimError: the error names the field and the clause.
    """

    claim_id: str
    owner_scope: str
    cache_identity: CacheIdentity
    object_id: str
    materialization_predicate: MaterializationPredicate
    footprint_blocks: int
    protection_mode: ProtectionMode
    duration_s: float | None = None
    revision: int = 1
    fallback_mode: ProtectionMode | None = None
    block_hashes: tuple[str, ...] | None = None
    predicted_value: float = 1.0
    confidence: float = 1.0

    def __post_init__(self) -> None:
        for name in ("claim_id", "owner_scope", "object_id"):
            require_text(name, getattr(self, name), clause="TNR-ACC-001")
        _require_type("cache_identity", self.cache_identity, CacheIdentity)
        _require_type("materialization_predicate", self.materialization_predicate, MaterializationPredicate)
        _require_type("protection_mode", self.protection_mode, ProtectionMode)
        if self.fallback_mode is not None:
            _require_type("fallback_mode", self.fallback_mode, ProtectionMode)
        self._check_footprint()
        self._check_terms()

    def _check_footprint(self) -> None:
        require_count("footprint_blocks", self.footprint_blocks, minimum=1, clause="TNR-ACC-002")
        required = self.materialization_predicate.required_blocks
        if self.footprint_blocks < required:
            message = (
                f"{self.footprint_blocks} blocks cannot hold the {required} that "
                f"{self.materialization_predicate.as_text()} requires; ask for at least {required}"
            )
            raise ClaimError(message, field="footprint_blocks", clause="TNR-ACC-002")
        if self.block_hashes is None:
            return
        given: object = self.block_hashes
        if not isinstance(given, tuple) or any(not isinstance(item, str) or not item for item in given):
            raise ClaimError("must be a tuple of non-empty strings", field="block_hashes", clause="TNR-ACC-002")
        if len(self.block_hashes) != self.footprint_blocks:
            message = f"{len(self.block_hashes)} hashes for a footprint of {self.footprint_blocks} blocks"
            raise ClaimError(message, field="block_hashes", clause="TNR-ACC-002")
        if len(set(self.block_hashes)) != len(self.block_hashes):
            message = "names one block twice; chain each hash to its parent"
            raise ClaimError(message, field="block_hashes", clause="TNR-ACC-002")

    def _check_terms(self) -> None:
        require_count("revision", self.revision, minimum=1, clause="TNR-LIFE-003")
        if self.duration_s is not None:
            require_seconds("duration_s", self.duration_s, clause="TNR-ACC-003")
        elif self.protection_mode is ProtectionMode.EXPIRING:
            raise ClaimError("mode expiring needs a duration", field="duration_s", clause="TNR-ACC-003")
        require_finite("predicted_value", self.predicted_value, clause="TNR-ACC-001")
        confidence = require_finite("confidence", self.confidence, clause="TNR-ACC-001")
        if not 0 <= confidence <= 1:
            raise ClaimError(f"must be from 0 to 1, got {self.confidence}", field="confidence", clause="TNR-ACC-001")

    @property
    def footprint_positions(self) -> range:
        """Logical positions of the blocks that the claim covers, the required ones first."""
        start_block = self.materialization_predicate.start_block
        return range(start_block, start_block + self.footprint_blocks)

    def clipped(self, footprint_blocks: int) -> ResidentClaim:
        """The same claim with only the first `footprint_blocks` covered. ClaimError below the predicate's blocks."""
        hashes = None if self.block_hashes is None else self.block_hashes[:footprint_blocks]
        return replace(self, footprint_blocks=footprint_blocks, block_hashes=hashes)

    def to_record(self) -> dict[str, Any]:
        """A JSON-ready mapping of every field; `from_record` reads it back."""
        return {
            "claim_id": self.claim_id,
            "owner_scope": self.owner_scope,
            "cache_identity": self.cache_identity.to_record(),
            "object_id": self.object_id,
            "materialization_predicate": self.materialization_predicate.to_record(),
            "footprint_blocks": self.footprint_blocks,
            "protection_mode": self.protection_mode.value,
            "duration_s": self.duration_s,
            "revision": self.revision,
            "fallback_mode": None if self.fallback_mode is None else self.fallback_mode.value,
            "block_hashes": None if self.block_hashes is None else list(self.block_hashes),
            "predicted_value": self.predicted_value,
            "confidence": self.confidence,
        }

    @classmethod
    def from_record(cls, record: Mapping[str, Any]) -> ResidentClaim:
        """The claim that `to_record` wrote, or that an application sent as JSON.

        The predicate may also be given in its textual form.

        Raises:
            ClaimError: a missing, unknown or malformed field; the error names it.
        """
        known = frozenset(field.name for field in fields(cls))
        require_known_fields(record, known=known, of="a claim", clause="TNR-ACC-001")
        require_present(record, needed=_NEEDED_IN_RECORD, of="the claim", clause="TNR-ACC-001")
        given = dict(record)
        given["cache_identity"] = CacheIdentity.from_record(_require_mapping(record, "cache_identity"))
        predicate = record["materialization_predicate"]
        given["materialization_predicate"] = (
            parse_predicate(predicate)
            if isinstance(predicate, str)
            else MaterializationPredicate.from_record(_require_mapping(record, "materialization_predicate"))
        )
        given["protection_mode"] = parse_mode(record["protection_mode"])
        if record.get("fallback_mode") is not None:
            given["fallback_mode"] = parse_mode(record["fallback_mode"], field="fallback_mode")
        if isinstance(record.get("block_hashes"), list):
            given["block_hashes"] = tuple(record["block_hashes"])
        return cls(**given)


_NEEDED_IN_RECORD = frozenset(
    {
        "claim_id",
        "owner_scope",
        "cache_identity",
        "object_id",
        "materialization_predicate",
        "footprint_blocks",
        "protection_mode",
    }
)


@dataclass(frozen=True, slots=True, kw_only=True)
class CapacitySnapshot:
    """What the pool held at one moment, in blocks. The numbers that acceptance is decided on.

    Attributes:
        usable_blocks: what can really be allocated: a runtime's null block is not counted (TNR-CAP-004).
        active_live_blocks: needed by all work in flight, at its peak.

    Raises:
        ClaimError: a number is negative or no whole number.
    """

    usable_blocks: int
    active_live_blocks: int = 0

    def __post_init__(self) -> None:
        require_count("usable_blocks", self.usable_blocks, minimum=0, clause="TNR-CAP-004")
        require_count("active_live_blocks", self.active_live_blocks, minimum=0, clause="TNR-CAP-001")

    def shortfall_blocks(self, protected_blocks: int) -> int:
        """By how many blocks protected + active exceeds usable; zero when both fit."""
        return max(0, protected_blocks + self.active_live_blocks - self.usable_blocks)


@dataclass(frozen=True, slots=True, kw_only=True)
class ClaimDecision:
    """How the runtime answered a claim, with what it granted.

    Attributes:
        claim_id, revision: which claim.
        decision: accepted, conditionally accepted or rejected.
        reason: why.
        decided_at_s: the registry's clock at that moment.
        granted_footprint_blocks: what is covered; 0 when rejected.
        granted_mode: on what terms; None when rejected.
        shortfall_blocks: how many blocks were missing for the claim as it was asked for.
    """

    claim_id: str
    revision: int
    decision: DecisionKind
    reason: DecisionReason
    decided_at_s: float
    granted_footprint_blocks: int
    granted_mode: ProtectionMode | None
    shortfall_blocks: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class ClaimStatus:
    """One claim as the registry knows it now. A value: it does not change when the claim does.

    Attributes:
        claim: as granted, so with the footprint and the mode that the runtime answers for.
        state: where it stands.
        accepted_at_s: when responsibility began.
        expires_at_s: when it ends by itself, None for never.
        ended_at_s: when it ended, None while it lives.
        end_reason: a `ReleaseReason`, `HarmCause` or `DecisionReason` value, None while it lives.
        surviving_required_blocks: how many of the predicate's blocks are on the device.
        surviving_blocks: how many of the footprint's blocks are on the device.
        offload_generation: how often it was offloaded.
    """

    claim: ResidentClaim
    state: ClaimState
    accepted_at_s: float | None
    expires_at_s: float | None
    ended_at_s: float | None
    end_reason: str | None
    surviving_required_blocks: int
    surviving_blocks: int
    offload_generation: int

    @property
    def under_runtime_responsibility(self) -> bool:
        """Accepted, and neither released nor harmed. Offloading is no release (TNR-TIER-001)."""
        return self.accepted_at_s is not None and self.ended_at_s is None


def _require_type(field: str, value: object, wanted: type) -> None:
    if not isinstance(value, wanted):
        raise ClaimError(f"must be a {wanted.__name__}, got {shown(value)}", field=field, clause="TNR-ACC-001")


def _require_mapping(record: Mapping[str, Any], field: str) -> Mapping[str, Any]:
    value = record[field]
    if not isinstance(value, Mapping):
        raise ClaimError(f"must be an object, got {shown(value)}", field=field, clause="TNR-ACC-001")
    return value
