"""How one request gets in: decided, prepared, placed, and said; or not, with everything as it was."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from tenure.arbiter.arbiter import decide
from tenure.arbiter.decision import ActiveRequest, Decision, ResidencyPlan
from tenure.arbiter.rules import ActionPolicy
from tenure.claims.blocks import block_keys
from tenure.claims.clock import Clock
from tenure.claims.event_types import EventType
from tenure.claims.modes import Outcome, RestorationOutcome
from tenure.claims.receipts import Receipt
from tenure.errors import HostTierFullError, PoolSizeError, TransferError
from tenure.runtime.control import reports
from tenure.runtime.control.data import DataPlane, Placement, SavedRows
from tenure.runtime.control.residency import LoadFailure, Residency, failure_of
from tenure.runtime.control.store import Slot
from tenure.runtime.control.tier import StoredClaim
from tenure.runtime.control.work import Standing, Work


class Admission:
    """Carries decisions about requests out, each in the order that the contract demands.

    Guarantees: what can fail for want of memory is tried before anybody gives way; a request holds blocks only while it
    runs; a transfer that fails ends in an event for each claim and for the request. `outbox` collects receipts of claims.
    `waiting` holds the requests that were deferred.
    """

    def __init__(
        self,
        residency: Residency,
        data: DataPlane,
        *,
        policy: ActionPolicy,
        clock: Clock,
        restore_failure: RestorationOutcome,
        block_size: int,
    ) -> None:
        self.residency = residency
        self.outbox: list[Receipt] = []
        self.waiting: dict[str, Work] = {}
        self._data = data
        self.policy = policy
        self._clock = clock
        self._restore_failure = restore_failure
        self._block_size = block_size
        self._sink = residency.sink

    def decide(self, work: Work) -> None:
        """Decide, and carry the decision out. When copying to the slower tier fails, decide again as if it were full; when
        the pool cannot grow, as if that were not allowed, from then on."""
        cached = self.residency.store.leading_run(work.keys) if work.request.keeps_everything else []
        decision = self._prepared(work, cached)
        work.decision = decision
        if decision.outcome is Outcome.DEFERRED:
            self.defer(work, decision)
            return
        self.no_longer_waits(work)
        if decision.outcome is Outcome.REFUSED:
            work.standing = Standing.REFUSED
            self._data.leave(work)
            self._emit_conflict(EventType.REQUEST_REFUSED, work, decision)
        elif decision.outcome is Outcome.ROUTED:
            work.standing = Standing.ROUTED
            self._data.leave(work)
            self._sink.emit(EventType.REQUEST_ROUTED, reports.routed(decision), request_id=work.request_id)
        elif decision.plan.uses_reuse:
            self._admit(work, decision, cached)
        else:
            self._admit_bounded(work, decision)

    def _prepared(self, work: Work, cached: list[Slot]) -> Decision:
        without_tier = False
        while True:
            decision = self._decide(work, cached, without_tier=without_tier)
            try:
                self._prepare(work, decision)
            except PoolSizeError as error:
                work.failure = str(error)
                self.residency.ledger.addable_blocks = 0
            except (TransferError, HostTierFullError) as error:
                if without_tier:
                    raise
                work.failure, without_tier = str(error), True
            else:
                return decision

    def _prepare(self, work: Work, decision: Decision) -> None:
        """Do all that can fail for want of memory before anybody gives way. Raises with nothing changed."""
        plan = decision.plan
        if not decision.is_admitted:
            return
        if plan.offload:
            self.residency.copy_out(plan.offload)
        try:
            if not plan.uses_reuse:
                self._data.reserve(work, decision)
            if plan.add_blocks:
                self._data.add_blocks(plan.add_blocks)
        except BaseException:
            self.residency.drop_copies(plan.offload)
            raise

    def _adoptable(self, cached: list[Slot]) -> list[Slot]:
        if self._data.shares_blocks_in_use:
            return cached
        return [slot for slot in cached if not slot.users]

    def _decide(self, work: Work, cached: list[Slot], *, without_tier: bool = False) -> Decision:
        """The decision, after every claim whose time is over has ended.

        Where its line says `expire`, the fewest of them that make the room end for this request, and say so; the others
        end by time at the same moment (TNR-LIFE-005), whatever their lines say.
        """
        self.residency.ledger.mark_due(now_s=self._clock())
        decision = self._decide_once(work, cached, without_tier=without_tier)
        due = ResidencyPlan(expire=decision.plan.expire)
        if due.expire and decision.outcome is Outcome.SERVED and decision.plan.claims == due.claims:
            self.outbox += self.residency.give_way(due, request_id=work.request_id)
            self.outbox += self.residency.registry.tick()
            return replace(decision, plan=replace(decision.plan, expire=()))
        ended = self.residency.registry.tick()
        self.outbox += ended
        return self._decide_once(work, cached, without_tier=without_tier) if ended else decision

    def _decide_once(self, work: Work, cached: list[Slot], *, without_tier: bool) -> Decision:
        ask = self._ask(work, cached, without_tier=without_tier)
        if not without_tier:
            return decide(self.residency.ledger, ask, self.policy, now_s=self._clock())
        room = self.residency.ledger.host_free_blocks
        self.residency.ledger.host_free_blocks = 0
        try:
            return decide(self.residency.ledger, ask, self.policy, now_s=self._clock())
        finally:
            self.residency.ledger.host_free_blocks = room

    def _ask(self, work: Work, cached: list[Slot], *, without_tier: bool) -> ActiveRequest:
        request = work.request
        waited_s = 0.0 if work.deferred_at_s is None else self._clock() - work.deferred_at_s
        return ActiveRequest(
            request_id=request.request_id,
            live_plan=request.live_plan,
            reuse=self.residency.reuse_of(self._adoptable(cached)),
            wants_reuse=request.wants_reuse and request.keeps_everything,
            tries=work.tries,
            waited_s=waited_s,
            min_arena_blocks=None if without_tier else request.min_arena_blocks,
            may_recompute=request.may_recompute,
            may_offload=request.may_offload and not without_tier,
            routes=request.routes,
        )

    def defer(self, work: Work, decision: Decision) -> None:
        """The request waits, and is told what for."""
        work.tries += 1
        if work.deferred_at_s is None:
            work.deferred_at_s = self._clock()
            self.waiting[work.request_id] = work
            self.residency.ledger.deferred_requests += 1
        self._emit_conflict(EventType.REQUEST_DEFERRED, work, decision)

    def _admit(self, work: Work, decision: Decision, cached: list[Slot]) -> None:
        """Serve in full: restorations are known to succeed or fail before anything is taken."""
        request_id = work.request_id
        keys = work.keys if work.request.keeps_everything else ()
        wanted = self.residency.wanted_claims(keys, cached_blocks=len(cached))
        loaded, failed = self.residency.load(wanted)
        if self._refuses(failed):
            self._refuse_unrestorable(work, decision, failed)
            return
        self._report_failures(failed, work, cached_blocks=len(cached))
        for claim_id in loaded:
            self.residency.registry.require_restore(claim_id, request_id=request_id)
        adopted = self._adoptable(cached)
        self.residency.use(adopted)
        self.outbox += self.residency.give_way(decision.plan, request_id=request_id)
        fresh = self._take(decision.plan.live_blocks - len(adopted), decision, request_id=request_id)
        placement = self._placement(work, cached=cached, adopted=adopted, fresh=fresh, loaded=loaded)
        try:
            try:
                self._data.place(work, placement)
            except TransferError as error:
                if not loaded:
                    raise
                placement, loaded = self._without_restored(work, placement, loaded, failure_of(error)), {}
                self._data.place(work, placement)
        except TransferError as error:
            self._not_placed(work, failure_of(error))
            return
        self._serve(work, decision, placement, loaded)

    def _without_restored(
        self, work: Work, placement: Placement, loaded: Mapping[str, StoredClaim], failure: LoadFailure
    ) -> Placement:
        """Rows of claims did not arrive in the blocks that were taken for them. The claims end and say so, and the request
        computes what they covered under its own name: it has the blocks, so it cannot be refused any more (TNR-ARB-008).
        """
        outcome = self._outcome_of(failure)
        ends = RestorationOutcome.DEMOTION if outcome is RestorationOutcome.REFUSAL else outcome
        for claim_id in loaded:
            self._restoration_failed(claim_id, failure, ends, work)
        work.recomputed_tokens += len(placement.restored) * self._block_size
        work.failure = failure.why
        lost = placement.restored.keys()
        work.present = frozenset(at for at in work.present if work.slots[at].block_id not in lost)
        work.restored_blocks = 0
        return replace(placement, restored={})

    def _placement(
        self,
        work: Work,
        *,
        cached: list[Slot],
        adopted: list[Slot],
        fresh: list[Slot],
        loaded: Mapping[str, StoredClaim],
    ) -> Placement:
        """Which block of the request holds what: adopted ones in place, the fresh ones between and behind them."""
        mine, new = {slot.block_id for slot in adopted}, iter(fresh)
        slots = [slot if slot.block_id in mine else next(new) for slot in cached]
        copies = tuple((source, target) for source, target in zip(cached, slots, strict=True) if source is not target)
        work.slots = [*slots, *new]
        rows = {key: saved for stored in loaded.values() for key, saved in stored.rows.items()}
        behind = zip(work.keys[len(cached) :], work.slots[len(cached) :], strict=False)
        restored: dict[int, SavedRows] = {slot.block_id: rows[key] for key, slot in behind if key in rows}
        work.present = frozenset(
            position for position, slot in enumerate(work.slots) if position < len(cached) or slot.block_id in restored
        )
        if not work.pauses:
            work.reused_blocks, work.copied_blocks = len(cached), len(copies)
            work.restored_blocks = len(restored)
        return Placement(adopted=tuple(adopted), copies=copies, restored=restored)

    def _serve(self, work: Work, decision: Decision, placement: Placement, loaded: Mapping[str, StoredClaim]) -> None:
        """The rows are in place: say so, make what came back findable, and let the rest be computed."""
        request_id = work.request_id
        work.standing = Standing.RUNNING
        work.peak_live_blocks = decision.plan.live_blocks
        self._sink.emit(EventType.REQUEST_ADMITTED, reports.admitted(work, decision), request_id=request_id)
        for position, slot in enumerate(work.slots):
            if slot.block_id in placement.restored:
                key = work.keys[position]
                self.residency.publish(slot, key, position=position, prefix_id=work.prefix_id)
        self._data.begin(work)
        self._report_reuse(work, decision)
        for claim_id in loaded:
            reused = work.reused_blocks + len(placement.restored)
            self.outbox.append(self.residency.finish_restore(claim_id, request_id=request_id, reused_blocks=reused))

    def _take(self, blocks: int, decision: Decision, *, request_id: str) -> list[Slot]:
        """Free blocks first, then as many victims as the plan allows."""
        residency = self.residency
        residency.begin_allocation()
        from_free = min(blocks, residency.store.free_blocks)
        taken = residency.allocate(from_free, request_id=request_id)
        harms = frozenset(decision.plan.harm)
        taken += residency.evict(blocks - from_free, request_id=request_id, harms=harms)
        self.outbox += residency.take_receipts()
        return taken

    def _admit_bounded(self, work: Work, decision: Decision) -> None:
        """Serve in an arena of its own, smaller than the schedule: nothing of it can be kept for others."""
        request_id, plan = work.request_id, decision.plan
        self.outbox += self.residency.give_way(plan, request_id=request_id)
        work.slots = self._take(plan.live_blocks, decision, request_id=request_id)
        try:
            self._data.place(work, Placement())
        except TransferError as error:
            self._not_placed(work, failure_of(error))
            return
        work.standing, work.peak_live_blocks = Standing.RUNNING, plan.live_blocks
        event, fields = reports.bounded(work, decision)
        self._sink.emit(event, fields, request_id=request_id)
        self._sink.emit(EventType.REQUEST_ADMITTED, reports.admitted(work, decision), request_id=request_id)
        self._data.begin(work)
        self._report_reuse(work, decision)

    def _report_reuse(self, work: Work, decision: Decision) -> None:
        event = EventType.FUTURE_REUSE_ADMITTED if decision.admits_reuse else EventType.FUTURE_REUSE_DENIED
        fields = reports.reuse(work, decision, tokens=len(work.request.keys) * self._block_size)
        self._sink.emit(event, fields, request_id=work.request_id)

    # --- restorations and placements that fail --------------------------------------------------------------------

    def _outcome_of(self, failure: LoadFailure) -> RestorationOutcome:
        """Rows that are lost for good end their claim: refusing would promise that they come back."""
        if failure.is_lost and self._restore_failure is RestorationOutcome.REFUSAL:
            return RestorationOutcome.HARM
        return self._restore_failure

    def _refuses(self, failed: Mapping[str, LoadFailure]) -> bool:
        return any(self._outcome_of(failure) is RestorationOutcome.REFUSAL for failure in failed.values())

    def _report_failures(self, failed: Mapping[str, LoadFailure], work: Work, *, cached_blocks: int) -> None:
        """The claims end; what they covered and nobody else has is computed again, under the request's own name."""
        asked = set(work.keys[cached_blocks:])
        for claim_id, failure in failed.items():
            covered = asked.intersection(block_keys(self.residency.registry.status(claim_id).claim))
            work.recomputed_tokens += len(covered) * self._block_size
            self.residency.registry.require_restore(claim_id, request_id=work.request_id)
            self._restoration_failed(claim_id, failure, self._outcome_of(failure), work)

    def _restoration_failed(self, claim_id: str, failure: LoadFailure, outcome: RestorationOutcome, work: Work) -> None:
        receipt = self.residency.registry.restoration_failed(
            claim_id, failure=failure.why, outcome=outcome, request_id=work.request_id, injected=failure.is_injected
        )
        if outcome is not RestorationOutcome.HARM:  # every harm has told its owner already
            self.outbox.append(receipt)

    def _refuse_unrestorable(self, work: Work, decision: Decision, failed: Mapping[str, LoadFailure]) -> None:
        """Nothing was taken yet: the first claim whose rows may still come back says why the request is refused."""
        refusing = min(name for name, why in failed.items() if self._outcome_of(why) is RestorationOutcome.REFUSAL)
        ending = {name: why for name, why in failed.items() if self._outcome_of(why) is not RestorationOutcome.REFUSAL}
        self._report_failures(ending, work, cached_blocks=0)
        self.residency.registry.require_restore(refusing, request_id=work.request_id)
        self._restoration_failed(refusing, failed[refusing], RestorationOutcome.REFUSAL, work)
        self.residency.drop_copies(decision.plan.offload)
        self.residency.grow(decision.plan.add_blocks)  # the pool has grown, and stays so for the next one
        self._refuse_for(work, decision, refusing)

    def _refuse_for(self, work: Work, decision: Decision, claim_id: str) -> None:
        work.standing = Standing.REFUSED
        self._data.leave(work)
        fields = reports.unrestorable(
            work,
            decision,
            self.residency.registry.status(claim_id),
            failure=self.residency.registry.last_restoration_failure(claim_id),
        )
        self._sink.emit(EventType.REQUEST_REFUSED, fields, request_id=work.request_id)
        work.receipt = reports.unrestorable_receipt(decision, claim_id)

    def _not_placed(self, work: Work, failure: LoadFailure) -> None:
        """Rows did not arrive in the blocks that were taken for them: all are given back, and the request fails."""
        self.give_back(work)
        work.standing = Standing.FAILED
        self._sink.emit(EventType.REQUEST_FAILED, {"failure_reason": failure.why}, request_id=work.request_id)
        work.receipt = reports.failed(work, failure.why)

    def pause(self, work: Work) -> None:
        """Let go of a running request's blocks; it waits, and is told how things stand for it then."""
        self.residency.let_go(work.slots)
        work.slots = []
        work.sealed_blocks = 0
        work.pauses += 1
        work.standing = Standing.DEFERRED
        work.deferred_at_s, work.tries = None, 0
        cached = self.residency.store.leading_run(work.keys)
        work.decision = self._decide_once(work, cached, without_tier=False)
        self.defer(work, work.decision)

    # --- leaving ------------------------------------------------------------------------------------------------

    def give_back(self, work: Work) -> None:
        """Let go of what a request held, on the device and of its own in the slower tier."""
        self._data.leave(work)
        self.residency.let_go(work.slots)
        work.slots = []

    def no_longer_waits(self, work: Work) -> None:
        """A deferred request was decided, or withdrawn."""
        if self.waiting.pop(work.request_id, None) is not None:
            self.residency.ledger.deferred_requests -= 1

    def _emit_conflict(self, event: EventType, work: Work, decision: Decision) -> None:
        blocking = self.residency.statuses(decision.blocking_claim_ids)
        fields = reports.conflict(work, decision, blocking)
        self._sink.emit(event, fields, request_id=work.request_id)
