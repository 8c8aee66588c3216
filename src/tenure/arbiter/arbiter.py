"""What happens when protected + active > usable: one pure function.

How the lines of several modes are read together (`rules.py` has the lines):

1. What fits is served. Idle blocks that nobody claimed are the first to go, then those of claims that reserve
   nothing, in the runtime's order; no claim that reserves is touched.
2. Otherwise stage by stage. In a stage every mode, weakest first, offers its claim-side steps; as soon as the claims
   offered so far can make the room, the fewest of them do, and nothing else happens. A stronger mode is never
   touched when weaker ones suffice, and no claim is touched when it would not help.
3. If they cannot, the request pays by the request-side step that ends the stage in the *governing* line: the line of
   the strongest mode that has to give way, or the `active` line when other active work is what is in the way.
4. When all lines are spent the request is refused, with the claims that block it and the true shortfall.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Protocol

from tenure.arbiter.blocking import fewest, freeable
from tenure.arbiter.decision import ActiveRequest, Decision, Reason, ResidencyPlan
from tenure.arbiter.moving import TierView, fewest_that_fit
from tenure.arbiter.pressure import Pressure
from tenure.arbiter.rules import STRENGTH_ORDER, ActionPolicy, Line, ReuseAdmission, Step
from tenure.arbiter.standing import NO_REUSE, Reuse, Shelf
from tenure.claims.modes import Action, Outcome, ProtectionMode


class PressureView(TierView, Protocol):
    """All that a decision reads. `PoolLedger` answers it without scanning; a runtime may bring its own."""

    usable_blocks: int
    host_free_blocks: int
    addable_blocks: int
    outstanding_blocks: int
    deferred_requests: int

    @property
    def free_blocks(self) -> int:
        """Blocks that hold nothing."""
        ...

    def pressure(self, *, required_blocks: int, reuse: Reuse = NO_REUSE) -> Pressure:
        """The inequality for one request."""
        ...

    def ends_at_s(self, claim_id: str) -> float | None:
        """When a claim's time runs out."""
        ...


def decide(view: PressureView, request: ActiveRequest, policy: ActionPolicy, *, now_s: float = 0.0) -> Decision:
    """What to do with `request`. Pure: reads `view`, changes nothing, has no clock and no randomness.

    Guarantees: the plan, applied, makes room for what it grants; an accepted claim is only ever touched by a step in
    its own mode's line; a decision that does not admit has an empty plan; the same arguments give the same decision.

    Args:
        view: the pool as it stands.
        request: what wants to run.
        policy: the operator's lines.
        now_s: on the runtime's clock, for `retry_after_s` only.

    Cost: O(1) when it fits; else O(claims in the answer x log claims), however large the pool is.
    """
    pressure = view.pressure(required_blocks=request.required_blocks, reuse=request.reuse)
    case = _Case(view, request, policy, pressure, now_s)
    if case.lacking_blocks <= 0:
        return case.served(ResidencyPlan(), made_room=False)
    return case.resolve()


class _Case:
    """One request against one view. Holds what the steps share; nothing outlives the decision."""

    def __init__(
        self, view: PressureView, request: ActiveRequest, policy: ActionPolicy, pressure: Pressure, now_s: float
    ) -> None:
        self.view = view
        self.request = request
        self.policy = policy
        self.pressure = pressure
        self.now_s = now_s
        self.empty_blocks = view.free_blocks - view.outstanding_blocks
        self.new_blocks = request.required_blocks - request.reuse.total_blocks
        evictable = pressure.evictable_blocks - request.reuse.evictable_blocks
        self.lacking_blocks = self.new_blocks - self.empty_blocks - evictable
        self.shelves: dict[ProtectionMode, list[Shelf]] = {}
        self.offers: dict[Shelf, list[Action]] = {}
        self.line_name = ""
        self._blocking: tuple[str, ...] | None = None

    # --- the lines ----------------------------------------------------------------------------------------------

    def resolve(self) -> Decision:
        """Read the lines, stage by stage, until one of them has an answer."""
        for shelf in self.view.shelves.occupied():
            if not shelf.mode.reserves_blocks:
                continue  # its blocks are evictable already, in their order
            self.shelves.setdefault(shelf.mode, []).append(shelf)
        lines = [(mode, self.policy.line(mode)) for mode in STRENGTH_ORDER if mode in self.shelves]
        governing: Line | None = None
        stages = max([len(line.stages) for _, line in lines], default=0)
        index = 0
        while index < stages or governing is None or index < len(governing.stages):
            decision = self._claims_give_way(lines, index)
            if decision is not None:
                return decision
            if governing is None:
                self.line_name, governing = self._governing()
            if index < len(governing.stages):
                step = governing.stages[index].request_side
                decision = None if step is None else self._request_pays(step)
                if decision is not None:
                    return decision
            index += 1
        return self._refused()

    def _claims_give_way(self, lines: list[tuple[ProtectionMode, Line]], index: int) -> Decision | None:
        for mode, line in lines:
            if index >= len(line.stages):
                continue
            for step in line.stages[index].claim_side:
                self._offer(mode, step.action)
                plan = self._room_plan(self.lacking_blocks, reuse=self.request.reuse)
                if plan is not None:
                    self.line_name = mode.value
                    return self.served(plan, made_room=True)
        return None

    def _offer(self, mode: ProtectionMode, action: Action) -> None:
        for shelf in self.shelves[mode]:
            if action is Action.EXPIRE_RESIDENT_CLAIM and not shelf.is_due:
                continue
            if action is Action.OFFLOAD_RESIDENT and not shelf.is_whole:
                continue
            self.offers.setdefault(shelf, []).append(action)

    def _governing(self) -> tuple[str, Line]:
        """The line of the strongest mode that has to give way, weaker ones first; the `active` line if none does."""
        if not self.blocking_claim_ids:
            return "active", self.policy.active_line
        lacking, later = self._blocked_by
        present = [mode for mode in STRENGTH_ORDER if later or mode in self.shelves]
        shelves: list[Shelf] = []
        for mode in present[:-1]:
            shelves += self._shelves_of(mode, later=later)
            if freeable(self.view, shelves=shelves, reuse=self.request.reuse, counts_pinned=later) >= lacking:
                return mode.value, self.policy.line(mode)
        return present[-1].value, self.policy.line(present[-1])

    def _shelves_of(self, mode: ProtectionMode, *, later: bool) -> list[Shelf]:
        """Shelves of a mode with candidates now; `later` adds those whose claims are all in active use now."""
        shelves = self.shelves.get(mode, [])
        if not later:
            return shelves
        in_use = (shelf for shelf in self.view.shelves.in_use() if shelf.mode is mode and shelf not in shelves)
        return [*shelves, *in_use]

    # --- claims give way ----------------------------------------------------------------------------------------

    def _room_plan(self, blocks: int, *, reuse: Reuse) -> ResidencyPlan | None:
        """The fewest offered claims that free `blocks`, each by the first action in its line that can be done."""
        moving = [shelf for shelf, actions in self.offers.items() if actions == [Action.OFFLOAD_RESIDENT]]
        chosen = fewest_that_fit(
            self.view,
            blocks=blocks,
            shelves=self.offers,
            moving=moving,
            room_blocks=self.view.host_free_blocks,
            reuse=reuse,
        )
        return None if chosen is None else self._assign(chosen, reuse=reuse)

    def _assign(self, chosen: tuple[str, ...], *, reuse: Reuse) -> ResidencyPlan:
        """Who does what: the first action offered that can be done, claims that can only be offloaded first."""
        sides: dict[Action, list[str]] = {}
        moved: list[str] = []
        for claim_id in sorted(chosen, key=lambda claim: len(self.offers[self.view.shelf_of(claim)])):
            for action in self.offers[self.view.shelf_of(claim_id)]:
                if action is Action.OFFLOAD_RESIDENT:
                    if self.view.tier_blocks((*moved, claim_id)) > self.view.host_free_blocks:
                        continue
                    moved.append(claim_id)
                sides.setdefault(action, []).append(claim_id)
                break
        return ResidencyPlan(
            expire=tuple(sorted(sides.get(Action.EXPIRE_RESIDENT_CLAIM, ()))),
            demote=tuple(sorted(sides.get(Action.DEMOTE_RESIDENT_CLAIM, ()))),
            offload=tuple(sorted(sides.get(Action.OFFLOAD_RESIDENT, ()))),
            harm=tuple(sorted(sides.get(Action.SERVE_ACTIVE_EVICT_RESIDENT, ()))),
            uses_reuse=reuse is self.request.reuse,
        )

    # --- the request pays ---------------------------------------------------------------------------------------

    def _request_pays(self, step: Step) -> Decision | None:
        request = self.request
        match step.action:
            case Action.BOUND_ACTIVE_LIVE if request.min_arena_blocks is not None:
                return self._in_less(request.min_arena_blocks, Action.BOUND_ACTIVE_LIVE)
            case Action.RECOMPUTE_SPLIT if request.may_recompute:
                return self._in_less(request.live_plan.max_chunk_blocks, Action.RECOMPUTE_SPLIT)
            case Action.OFFLOAD_ACTIVE if request.may_offload:
                return self._in_less(request.live_plan.max_chunk_blocks, Action.OFFLOAD_ACTIVE)
            case Action.ROUTE_ELSEWHERE if request.routes:
                return self._routed()
            case Action.CAPACITY_REQUIRED if self.view.addable_blocks >= self.lacking_blocks:
                return self._grown()
            case _:
                return self._deferred(step)

    def _deferred(self, step: Step) -> Decision | None:
        if step.action is not Action.DEFER_ACTIVE or not self._may_wait(step):
            return None
        reason = Reason.WAITS_FOR_HEADROOM if self.blocking_claim_ids else Reason.WAITS_FOR_ACTIVE
        return self._unserved(Outcome.DEFERRED, Action.DEFER_ACTIVE, reason)

    def _in_less(self, least_blocks: int, action: Action) -> Decision | None:
        """Run in fewer blocks than the schedule wants, in an arena of its own; None if even the least does not fit."""
        room = self.empty_blocks + self.pressure.evictable_blocks
        if least_blocks >= self.request.required_blocks:
            return None
        plan: ResidencyPlan | None = ResidencyPlan()
        if room < least_blocks:
            plan = self._room_plan(least_blocks - room, reuse=NO_REUSE)
        granted = max(least_blocks, min(room, self.request.required_blocks - 1))
        spilled = self.request.required_blocks - granted if action is Action.OFFLOAD_ACTIVE else 0
        if plan is None or spilled + self.view.tier_blocks(plan.offload) > self.view.host_free_blocks:
            return None
        plan = replace(
            plan,
            live_blocks=granted,
            uses_reuse=False,
            offload_active_blocks=spilled,
            evict_blocks=max(0, granted - self.empty_blocks),
        )
        return Decision(
            request_id=self.request.request_id,
            outcome=Outcome.BOUNDED,
            actions=(*_claim_actions(plan), action),
            reason=Reason.SMALLER_ARENA,
            pressure=self.pressure,
            plan=plan,
            blocking_claim_ids=self.blocking_claim_ids,
            waits_for_active_blocks=self.waits_for_active_blocks,
            line=self.line_name,
        )

    def _routed(self) -> Decision:
        route = min(self.request.routes, key=lambda route: (route.cost, route.target))
        plan = ResidencyPlan(route=route, uses_reuse=False)
        decision = self._unserved(Outcome.ROUTED, Action.ROUTE_ELSEWHERE, Reason.ROUTED)
        return replace(decision, plan=plan)

    def _grown(self) -> Decision:
        plan = ResidencyPlan(add_blocks=self.lacking_blocks)
        decision = self.served(plan, made_room=False)
        actions = (Action.CAPACITY_REQUIRED, *decision.actions)
        return replace(decision, actions=actions, reason=Reason.CAPACITY_ADDED, line=self.line_name)

    def _may_wait(self, step: Step) -> bool:
        """Whether waiting is allowed still, and could end well: a request larger than the pool never fits."""
        request = self.request
        if request.required_blocks > self.view.usable_blocks + self.view.addable_blocks:
            return False
        if request.tries == 0 and self.view.deferred_requests >= self.policy.max_deferred_requests:
            return False
        in_time = step.max_wait_s is None or request.tries == 0 or request.waited_s < step.max_wait_s
        return in_time and (step.max_tries is None or request.tries < step.max_tries)

    # --- answers ------------------------------------------------------------------------------------------------

    def served(self, plan: ResidencyPlan, *, made_room: bool) -> Decision:
        """The request runs in full."""
        evict_blocks = max(0, self.new_blocks - self.empty_blocks - plan.add_blocks)
        plan = replace(plan, evict_blocks=evict_blocks, live_blocks=self.request.required_blocks)
        admits = self.request.wants_reuse and (
            self.policy.reuse_admission is ReuseAdmission.ALWAYS
            or (self.policy.reuse_admission is ReuseAdmission.IF_FREE and not evict_blocks)
        )
        serving = [Action.SERVE_ACTIVE_EVICT_RESIDENT if evict_blocks else Action.SERVE_ACTIVE_PRESERVE_RESIDENT]
        if self.request.wants_reuse and not admits:
            serving.append(Action.SERVE_ACTIVE_NO_ADMIT)
        return Decision(
            request_id=self.request.request_id,
            outcome=Outcome.SERVED,
            actions=(*(action for action in _claim_actions(plan) if action not in serving), *serving),
            reason=Reason.ROOM_WAS_MADE if made_room else Reason.FITS,
            pressure=self.pressure,
            plan=plan,
            admits_reuse=admits,
            blocking_claim_ids=plan.claims,
            line=self.line_name,
        )

    def _refused(self) -> Decision:
        if self.request.required_blocks > self.view.usable_blocks:
            reason = Reason.LARGER_THAN_POOL
        elif self.blocking_claim_ids:
            reason = Reason.LIVE_EXCEEDS_HEADROOM
        else:
            reason = Reason.ACTIVE_WORK_IN_THE_WAY
        return self._unserved(Outcome.REFUSED, Action.REFUSE_ACTIVE, reason)

    def _unserved(self, outcome: Outcome, action: Action, reason: Reason) -> Decision:
        return Decision(
            request_id=self.request.request_id,
            outcome=outcome,
            actions=(action,),
            reason=reason,
            pressure=self.pressure,
            blocking_claim_ids=self.blocking_claim_ids,
            waits_for_active_blocks=self.waits_for_active_blocks,
            line=self.line_name,
            retry_after_s=self._retry_after_s(),
        )

    def _retry_after_s(self) -> float | None:
        """When all blocking claims have ended by themselves: every one of them is needed, so the last one counts."""
        ends = [self.view.ends_at_s(claim) for claim in self.blocking_claim_ids]
        known = [end for end in ends if end is not None]
        return max(0.0, max(known) - self.now_s) if known and len(known) == len(ends) else None

    @property
    def waits_for_active_blocks(self) -> int:
        """What other active work has to give back even with no claim in the way."""
        wanted = self.request.required_blocks + self.pressure.active_blocks - self.request.reuse.pinned_blocks
        return max(0, wanted - self.view.usable_blocks)

    @property
    def _blocked_by(self) -> tuple[int, bool]:
        """How many protected blocks are in the way, and whether only after other active work ended."""
        if not self.waits_for_active_blocks:
            return self.pressure.shortfall_blocks, False
        reuse = self.request.reuse
        left = self.pressure.protected_blocks - reuse.idle_protected_blocks - reuse.pinned_protected_blocks
        return self.request.required_blocks + left - self.view.usable_blocks, True

    @property
    def blocking_claim_ids(self) -> tuple[str, ...]:
        """See `Decision.blocking_claim_ids`. Computed once, and only when something is in the way."""
        if self._blocking is None:
            blocks, later = self._blocked_by
            found = None
            if blocks > 0 and self.request.required_blocks <= self.view.usable_blocks:
                shelves = [shelf for mode in STRENGTH_ORDER for shelf in self._shelves_of(mode, later=later)]
                reuse = self.request.reuse
                found = fewest(self.view, blocks=blocks, shelves=shelves, reuse=reuse, counts_pinned=later)
            self._blocking = found if found is not None else ()
        return self._blocking


def _claim_actions(plan: ResidencyPlan) -> tuple[Action, ...]:
    sides = (
        (plan.expire, Action.EXPIRE_RESIDENT_CLAIM),
        (plan.demote, Action.DEMOTE_RESIDENT_CLAIM),
        (plan.offload, Action.OFFLOAD_RESIDENT),
        (plan.harm, Action.SERVE_ACTIVE_EVICT_RESIDENT),
    )
    return tuple(action for claims, action in sides if claims)
