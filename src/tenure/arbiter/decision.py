"""What is asked of the arbiter and what it answers: plain values that can be printed, stored and compared."""

from __future__ import annotations

import enum
from dataclasses import dataclass, field

from tenure.arbiter.pressure import LivePlan, Pressure
from tenure.arbiter.standing import NO_REUSE, Reuse
from tenure.claims.modes import Action, Feasibility, Outcome
from tenure.errors import PolicyError


class Reason(enum.StrEnum):
    """Why a decision is what it is. Published strings where there is one."""

    FITS = "fits"
    ROOM_WAS_MADE = "room_was_made"
    SMALLER_ARENA = "active_live_bounded"
    LIVE_EXCEEDS_HEADROOM = "active_live_exceeds_resident_headroom"
    WAITS_FOR_HEADROOM = "deferred_until_headroom"
    WAITS_FOR_ACTIVE = "deferred_until_active_work_ends"
    ACTIVE_WORK_IN_THE_WAY = "other_active_work_exceeds_headroom"
    LARGER_THAN_POOL = "request_exceeds_usable_blocks"
    ROUTED = "routed_to_other_kv_budget"
    CAPACITY_ADDED = "usable_blocks_increased"


@dataclass(frozen=True, slots=True, kw_only=True)
class Route:
    """Another worker that could serve the request, as a cluster layer offers it. Lower cost is tried first."""

    target: str
    cost: float


@dataclass(frozen=True, slots=True, kw_only=True)
class ActiveRequest:
    """One request that wants to run.

    Args:
        request_id: names it in receipts and events.
        live_plan: its chunk schedule.
        reuse: resident blocks that it would use as they are.
        wants_reuse: whether its own rows should stay for others.
        tries: how often it was deferred already.
        waited_s: since it was deferred first.
        min_arena_blocks: the smallest arena in which it can run with recall; None when it cannot be bounded.
        may_recompute: whether chunks may be freed and computed again.
        may_offload: whether its own rows may live in the slower tier while it runs.
        routes: other workers that would take it.
    """

    request_id: str
    live_plan: LivePlan
    reuse: Reuse = NO_REUSE
    wants_reuse: bool = True
    tries: int = 0
    waited_s: float = 0.0
    min_arena_blocks: int | None = None
    may_recompute: bool = False
    may_offload: bool = False
    routes: tuple[Route, ...] = ()
    required_blocks: int = field(init=False)

    def __post_init__(self) -> None:
        if self.min_arena_blocks is not None and self.min_arena_blocks <= 0:
            raise PolicyError(f"min_arena_blocks must be > 0 or None, got {self.min_arena_blocks} [TNR-ARB-012]")
        if self.tries < 0 or not self.waited_s >= 0:
            raise PolicyError(f"tries and waited_s must be >= 0, got {self.tries} and {self.waited_s} [TNR-ARB-010]")
        required_blocks = max(self.live_plan.max_live_blocks, self.reuse.total_blocks)
        object.__setattr__(self, "required_blocks", required_blocks)


@dataclass(frozen=True, slots=True, kw_only=True)
class ResidencyPlan:
    """What the runtime must do, in this order: every release before the loss that it excuses. Empty: nothing changes.

    Args:
        expire: the fewest of the claims whose time has run out that make the room.
        demote: claims that give up their protection.
        offload: claims whose blocks move to the slower tier.
        harm: accepted claims that are broken on purpose, because the operator's line says so. Each ends in an event
            before its first block goes: harm by a block that its predicate needs, demotion where none such is taken.
        evict_blocks: idle blocks to take, in the runtime's own order, once the claims above gave way; unclaimed first.
        live_blocks: what the request may hold at once on the device.
        uses_reuse: whether it runs on the resident blocks it named.
        offload_active_blocks: of its own rows, how many live in the slower tier at most.
        add_blocks: by how much the pool grows first.
        route: where the request goes instead.
    """

    expire: tuple[str, ...] = ()
    demote: tuple[str, ...] = ()
    offload: tuple[str, ...] = ()
    harm: tuple[str, ...] = ()
    evict_blocks: int = 0
    live_blocks: int = 0
    uses_reuse: bool = True
    offload_active_blocks: int = 0
    add_blocks: int = 0
    route: Route | None = None

    @property
    def claims(self) -> tuple[str, ...]:
        """Every claim that the plan touches, sorted."""
        return tuple(sorted((*self.expire, *self.demote, *self.offload, *self.harm)))


NO_CHANGE = ResidencyPlan()


@dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    """What happens to a request, why, and at whose expense.

    Args:
        request_id: whose.
        outcome: served, bounded, deferred, refused or routed.
        actions: everything that is done, claim side first; the last one says what happens to the request.
        reason: in a published or otherwise fixed string.
        pressure: the inequality as it stood.
        plan: what to apply; empty when nothing may change.
        admits_reuse: whether the request's rows may stay for others afterwards.
        blocking_claim_ids: the fewest claims whose release would have admitted the request, sorted. Where other active
            work has to end as well, the fewest that would still stand in the way after it ended.
        waits_for_active_blocks: what other active work would have to give back even if no claim stood in the way.
        line: which line of the policy was read: a protection mode, `active`, or empty when everything fitted.
        retry_after_s: when the time of the last blocking claim is up; None when there is none, or one has no known end.
    """

    request_id: str
    outcome: Outcome
    actions: tuple[Action, ...]
    reason: Reason
    pressure: Pressure
    plan: ResidencyPlan = NO_CHANGE
    admits_reuse: bool = False
    blocking_claim_ids: tuple[str, ...] = ()
    waits_for_active_blocks: int = 0
    line: str = ""
    retry_after_s: float | None = None

    @property
    def action(self) -> Action:
        """The action that resolved the conflict: the first claim-side one, else what the request pays."""
        return self.actions[0]

    @property
    def is_admitted(self) -> bool:
        """Whether the request runs here now."""
        return self.outcome in (Outcome.SERVED, Outcome.BOUNDED)

    @property
    def shortfall_blocks(self) -> int:
        """By how much protected + active exceeds usable, other active work counted."""
        return self.pressure.shortfall_blocks

    @property
    def feasibility(self) -> Feasibility:
        """The published verdict on the inequality."""
        return self.pressure.feasibility

    def describe(self) -> str:
        """One line for a log or a terminal."""
        p = self.pressure
        blocked = f", blocked by {', '.join(self.blocking_claim_ids)}" if self.blocking_claim_ids else ""
        return (
            f"{self.request_id}: {' + '.join(self.actions)} ({self.reason}); protected {p.protected_blocks} + active "
            f"{p.active_blocks} + required {p.required_blocks} - shared {p.overlap_blocks} against {p.usable_blocks} "
            f"usable, short by {p.shortfall_blocks}{blocked}"
        )
