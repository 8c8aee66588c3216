"""The published mechanism model, run through the arbiter: each mechanism is one line of policy, priced afterwards.

Source: resident-claims reference simulator, mechanisms table of its default 60/70/80 scenario. `docs/arbiter.md` shows
our table beside the published one and explains every difference.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

from tenure.arbiter.arbiter import decide
from tenure.arbiter.decision import ActiveRequest, Decision, Route
from tenure.arbiter.ledger import PoolLedger
from tenure.arbiter.pressure import LivePlan
from tenure.arbiter.rules import ReuseAdmission, action_policy
from tenure.claims.modes import Action, Outcome, ProtectionMode


class Mechanism(enum.StrEnum):
    """The published names."""

    NATIVE_EVICTION = "native_eviction"
    RESIDENT_VICTIM_EXCLUSION = "resident_victim_exclusion"
    WRITE_NO_ADMIT_ONLY = "write_no_admit_only"
    ORDINARY_CHUNKING = "ordinary_chunking"
    ACTIVE_DEFERRAL = "active_deferral"
    RESIDENT_RESERVE = "resident_reserve"
    OFFLOAD_RESIDENT = "offload_resident"
    OFFLOAD_ACTIVE = "offload_active"
    BOUNDED_ACTIVE_LIVE = "bounded_active_live"
    RECOMPUTE_SPLIT = "recompute_split"
    ROUTE_ELSEWHERE = "route_elsewhere"
    RELAX_RESIDENT_PROTECTION = "relax_resident_protection"
    CAPACITY_SCALING = "capacity_scaling"
    ORACLE_ARBITER = "oracle_arbiter"


#: Each mechanism as the operator's line for the residents' mode.
MECHANISM_LINES: Mapping[Mechanism, str] = MappingProxyType(
    {
        Mechanism.NATIVE_EVICTION: "harm",
        Mechanism.RESIDENT_VICTIM_EXCLUSION: "refuse",
        Mechanism.WRITE_NO_ADMIT_ONLY: "harm",
        Mechanism.ORDINARY_CHUNKING: "harm",
        Mechanism.ACTIVE_DEFERRAL: "defer 1, refuse",
        Mechanism.RESIDENT_RESERVE: "refuse",
        Mechanism.OFFLOAD_RESIDENT: "offload_resident, refuse",
        Mechanism.OFFLOAD_ACTIVE: "offload_active, refuse",
        Mechanism.BOUNDED_ACTIVE_LIVE: "bound_active_live, refuse",
        Mechanism.RECOMPUTE_SPLIT: "recompute_split, refuse",
        Mechanism.ROUTE_ELSEWHERE: "route_elsewhere, refuse",
        Mechanism.RELAX_RESIDENT_PROTECTION: "demote, refuse",
        Mechanism.CAPACITY_SCALING: "add_capacity, refuse",
    }
)


@dataclass(frozen=True, slots=True, kw_only=True)
class CostModel:
    """What each action costs, in the value unit of the scenario. Defaults as published."""

    defer_step: float = 1.0
    resident_offload_block: float = 0.05
    active_offload_block: float = 0.05
    recompute_block: float = 0.10
    route: float = 4.0
    extra_capacity_block: float = 0.20


@dataclass(frozen=True, slots=True, kw_only=True)
class Resident:
    """A protected prefix and what it is worth while its predicate holds. All its blocks are required."""

    claim_id: str
    blocks: int
    value: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Scenario:
    """Residents that are protected, and one request that does not fit beside them. Defaults as published."""

    residents: tuple[Resident, ...] = (
        Resident(claim_id="small_hot", blocks=30, value=9.0),
        Resident(claim_id="small_warm", blocks=30, value=8.0),
    )
    live_plan: LivePlan = field(default_factory=lambda: LivePlan(chunk_blocks=(20, 20, 20, 10)))
    service_value: float = 0.0
    reuse_value: float = 13.0
    usable_blocks: int = 80


@dataclass(frozen=True, slots=True, kw_only=True)
class MechanismResult:
    """What one mechanism does to a scenario.

    `value_lost` is what residents lost; it is harm only in `harmed`, where no release came first. Neither is taken off
    the utility: a lost resident already counts as 0 (as published).
    """

    mechanism: Mechanism
    decision: Decision
    resident_survives: bool
    active_served: bool
    reuse_admitted: bool
    harmed: bool
    value_lost: float
    cost: float
    utility: float


def run_mechanism(
    mechanism: Mechanism, scenario: Scenario | None = None, *, costs: CostModel | None = None
) -> MechanismResult:
    """What `mechanism` makes of `scenario`: a real decision on a real ledger, then its price."""
    scene = scenario if scenario is not None else Scenario()
    prices = costs if costs is not None else CostModel()
    if mechanism is Mechanism.ORACLE_ARBITER:
        results = [run_mechanism(other, scene, costs=prices) for other in MECHANISM_LINES]
        # The best a single local decision can do: waiting needs somebody else to end something first.
        now = [result for result in results if result.decision.outcome is not Outcome.DEFERRED]
        return max(now, key=lambda result: (result.utility, result.resident_survives, result.active_served))
    ledger = _filled(scene, mechanism)
    never = mechanism is Mechanism.WRITE_NO_ADMIT_ONLY
    policy = action_policy(
        {"hard_protected": MECHANISM_LINES[mechanism]},
        reuse_admission=ReuseAdmission.NEVER if never else ReuseAdmission.ALWAYS,
    )
    request = ActiveRequest(
        request_id="active",
        live_plan=scene.live_plan,
        min_arena_blocks=scene.live_plan.max_chunk_blocks,
        may_recompute=True,
        may_offload=True,
        routes=(Route(target="other-worker", cost=prices.route),),
    )
    decision = decide(ledger, request, policy)
    return _priced(mechanism, decision, scene, prices)


def _filled(scene: Scenario, mechanism: Mechanism) -> PoolLedger:
    """A pool in which the scenario's residents are whole, with the means that the mechanism has."""
    ledger = PoolLedger(
        usable_blocks=scene.usable_blocks,
        host_free_blocks=sum(resident.blocks for resident in scene.residents) + scene.live_plan.total_blocks,
        addable_blocks=scene.live_plan.total_blocks if mechanism is Mechanism.CAPACITY_SCALING else 0,
    )
    for resident in scene.residents:
        blocks = [(resident.claim_id, position) for position in range(resident.blocks)]
        ledger.occupy(blocks)
        ledger.unpin(blocks)
        ledger.add_claim(resident.claim_id, mode=ProtectionMode.HARD_PROTECTED)
        ledger.hold(resident.claim_id, blocks)
        ledger.mark(resident.claim_id, is_whole=True)
    return ledger


def _priced(mechanism: Mechanism, decision: Decision, scene: Scenario, prices: CostModel) -> MechanismResult:
    plan = decision.plan
    lost = {*plan.demote, *plan.expire, *plan.harm}
    value_lost = sum(resident.value for resident in scene.residents if resident.claim_id in lost)
    resident_value = sum(resident.value for resident in scene.residents) - value_lost
    offloaded = sum(resident.blocks for resident in scene.residents if resident.claim_id in plan.offload)
    cost = offloaded * prices.resident_offload_block + plan.add_blocks * prices.extra_capacity_block
    cost += plan.offload_active_blocks * prices.active_offload_block
    cost += prices.route if plan.route is not None else 0.0
    if Action.RECOMPUTE_SPLIT in decision.actions:
        cost += scene.live_plan.total_blocks * prices.recompute_block
    if Action.BOUND_ACTIVE_LIVE in decision.actions:
        cost += (scene.live_plan.max_live_blocks - plan.live_blocks) * prices.recompute_block
    served = decision.is_admitted or decision.outcome is Outcome.ROUTED
    reuse_admitted = decision.admits_reuse
    if decision.outcome is Outcome.DEFERRED:
        # The residents' owners use and release them within the step it waits for; then it is served like any other.
        served, reuse_admitted, cost = True, True, cost + prices.defer_step
    utility = resident_value - cost + (scene.service_value if served else 0.0)
    utility += scene.reuse_value if reuse_admitted else 0.0
    return MechanismResult(
        mechanism=mechanism,
        decision=decision,
        resident_survives=not lost,
        active_served=served,
        reuse_admitted=reuse_admitted,
        harmed=bool(plan.harm),
        value_lost=value_lost,
        cost=cost,
        utility=utility,
    )
