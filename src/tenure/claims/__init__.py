"""What was promised: claims, predicates, lifecycle, events, receipts, registry. No tensors here.

Vocabulary: `modes` (enums), `predicate`, `objects` (claim, decision, status), `event_types`, `event_fields`, `events`,
`lifecycle` (the transition tables), `order` (which event may follow which), `receipts`, `clock`.
"""

from __future__ import annotations

from tenure.claims.clock import Clock, StepClock
from tenure.claims.event_types import EventType
from tenure.claims.events import Event
from tenure.claims.modes import (
    Action,
    AttentionMode,
    ClaimState,
    DecisionKind,
    DecisionReason,
    Feasibility,
    HarmCause,
    Outcome,
    ProtectionMode,
    ReleaseReason,
    Tier,
    VictimReason,
)
from tenure.claims.objects import CapacitySnapshot, ClaimDecision, ClaimStatus, ResidentClaim
from tenure.claims.predicate import (
    MaterializationPredicate,
    PredicateResult,
    PredicateType,
    contiguous_range,
    leading_prefix_at_least,
    parse_predicate,
)
from tenure.claims.receipts import NextStep, Receipt, ReceiptNumbers

__all__ = [
    "Action",
    "AttentionMode",
    "CapacitySnapshot",
    "ClaimDecision",
    "ClaimState",
    "ClaimStatus",
    "Clock",
    "DecisionKind",
    "DecisionReason",
    "Event",
    "EventType",
    "Feasibility",
    "HarmCause",
    "MaterializationPredicate",
    "NextStep",
    "Outcome",
    "PredicateResult",
    "PredicateType",
    "ProtectionMode",
    "Receipt",
    "ReceiptNumbers",
    "ReleaseReason",
    "ResidentClaim",
    "StepClock",
    "Tier",
    "VictimReason",
    "contiguous_range",
    "leading_prefix_at_least",
    "parse_predicate",
]
