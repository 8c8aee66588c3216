"""A small world for tests of claims: one identity, a registry whose device is a set, and every event in memory."""

from __future__ import annotations

from typing import Any

from tenure.claims import (
    CapacitySnapshot,
    Event,
    EventType,
    ProtectionMode,
    Receipt,
    ResidentClaim,
    StepClock,
    leading_prefix_at_least,
)
from tenure.claims.blocks import BlockKey, block_keys, object_block_key
from tenure.claims.journal import Journal
from tenure.claims.registry import ClaimRegistry
from tenure.claims.telemetry import MemoryTelemetry
from tenure.kv.identity import CacheIdentity

IDENTITY = CacheIdentity(
    cache_key_domain="vllm-prefix-hash", model_id="tiny", tokenizer_id="tiny", salt_namespace="tenant-a", block_size=16
)


def make_claim(claim_id: str = "claim:a", **changes: Any) -> ResidentClaim:
    """A hard claim on three of five leading blocks, unless `changes` say otherwise."""
    fields: dict[str, Any] = {
        "claim_id": claim_id,
        "owner_scope": "session:tenant-a:user-7",
        "cache_identity": IDENTITY,
        "object_id": f"prefix-of-{claim_id}",
        "materialization_predicate": leading_prefix_at_least(3),
        "footprint_blocks": 5,
        "protection_mode": ProtectionMode.HARD_PROTECTED,
    }
    return ResidentClaim(**(fields | changes))


class World:
    """A registry, its clock, its device and its trace."""

    def __init__(
        self, *, usable_blocks: int = 80, journal: Journal | None = None, clock: StepClock | None = None, **options: Any
    ) -> None:
        self.usable_blocks = usable_blocks
        self.clock = StepClock() if clock is None else clock
        self.device: set[BlockKey] = set()
        self.trace = MemoryTelemetry(
            run_id="run", policy="test", clock_ns=lambda: int(self.clock() * 1e9), usable_blocks=usable_blocks
        )
        self.registry = ClaimRegistry(
            sink=self.trace, clock=self.clock, resident=self.device, journal=journal, **options
        )

    def submit(self, claim: ResidentClaim, *, active_live_blocks: int = 0) -> Receipt:
        capacity = CapacitySnapshot(usable_blocks=self.usable_blocks, active_live_blocks=active_live_blocks)
        return self.registry.submit(claim, capacity=capacity)

    def hold(self, claim: ResidentClaim) -> Receipt:
        """Submit the claim and bring all its blocks to the device."""
        receipt = self.submit(claim)
        self.bring(claim)
        return receipt

    def bring(self, claim: ResidentClaim) -> None:
        for key in block_keys(claim):
            self.device.add(key)
            self.registry.block_arrived(key)

    def take(self, claim: ResidentClaim, position: int, **options: Any) -> bool:
        """Take one block of the claim's object from the device."""
        return self.take_key(object_block_key(claim.cache_identity, claim.object_id, position), **options)

    def take_key(self, key: BlockKey, **options: Any) -> bool:
        protected = self.registry.block_leaving(key, **options)
        self.device.discard(key)
        return protected

    def events(self, *kinds: EventType) -> list[Event]:
        return [event for event in self.trace.events if not kinds or event.event_type in kinds]

    def story(self, claim_id: str) -> list[str]:
        """The claim's events by short name, in order."""
        found = [event for event in self.trace.events if event.claim_id == claim_id]
        return [event.event_type.value.removeprefix("resident_claim_") for event in found]
