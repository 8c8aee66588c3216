"""The reference runtime: blocks only, deterministic, and the contract kept to the letter.

It computes nothing and decides nothing by itself: `tenure.arbiter` decides, `tenure.claims` keeps the promises and
their record, and this module carries decisions out in the order that the contract demands.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from tenure.arbiter.arbiter import decide
from tenure.arbiter.decision import ActiveRequest, Decision, ResidencyPlan
from tenure.arbiter.rules import ActionPolicy, action_policy
from tenure.claims.blocks import BlockKey, block_keys
from tenure.claims.clock import Clock
from tenure.claims.event_types import EventType
from tenure.claims.journal import Journal
from tenure.claims.modes import Outcome, RestorationOutcome, Tier
from tenure.claims.objects import CapacitySnapshot, ClaimStatus, ResidentClaim
from tenure.claims.receipts import Receipt
from tenure.claims.telemetry import EventSink
from tenure.errors import ClaimError, UsageError
from tenure.runtime.micro import reports
from tenure.runtime.micro.cache import Slot, compute_rows, content_keys
from tenure.runtime.micro.request import MicroRequest, Standing, Work, digest
from tenure.runtime.micro.residency import Residency
from tenure.runtime.micro.tier import HostTier, StoredClaim


class MicroRuntime:
    """Prefix cache, active requests, claims and a slower tier, on one pool of blocks.

    Guarantees: whatever is asked, every request is answered (served, bounded, deferred and later decided, refused or
    routed); a running request never runs out of room, because all it needs is taken when it is admitted; a call that
    raises has changed nothing. One thread.

    Args:
        usable_blocks: blocks that residents and active work share.
        clock: seconds that never go back; see `StepClock`. After moving it, call `tick`.
        sink: where events go.
        policy: what is tried when it does not fit.
        block_size: tokens a block, for the record only.
        tier: the slower tier; None for none. Hand the old one to a new runtime to model rows that survive a restart.
        addable_blocks: by how much the pool may grow under `add_capacity`.
        journal: where claims are kept over a restart; None for memory.
        clock_id: what tells this clock from another one, so that durations survive a restart; see `ClaimRegistry`.
        claim_budget_blocks: most blocks that claims may protect together; None for all.
        restore_failure: what follows when offloaded rows cannot be brought back.
    """

    def __init__(
        self,
        *,
        usable_blocks: int,
        clock: Clock,
        sink: EventSink,
        policy: ActionPolicy | None = None,
        block_size: int = 16,
        tier: HostTier | None = None,
        addable_blocks: int = 0,
        journal: Journal | None = None,
        clock_id: str | None = None,
        claim_budget_blocks: int | None = None,
        restore_failure: RestorationOutcome = RestorationOutcome.REFUSAL,
    ) -> None:
        self.policy = policy if policy is not None else action_policy()
        self.block_size = block_size
        self.tier = tier if tier is not None else HostTier(0)
        self._clock = clock
        self._restore_failure = restore_failure
        self._residency = Residency(
            usable_blocks=usable_blocks,
            tier=self.tier,
            addable_blocks=addable_blocks,
            clock=clock,
            sink=sink,
            journal=journal,
            clock_id=clock_id,
            claim_budget_blocks=claim_budget_blocks,
        )
        self.ledger = self._residency.ledger
        self.registry = self._residency.registry
        self._sink = self._residency.sink
        self._works: dict[str, Work] = {}
        self._waiting: dict[str, Work] = {}
        self._outbox: list[Receipt] = []
        self._outbox += self.registry.start(
            runtime_name="micro",
            block_size_tokens=block_size,
            survivors=self._surviving_tier,
            capacity=CapacitySnapshot(usable_blocks=usable_blocks),
        )
        self._drop_what_nobody_owns()

    def _surviving_tier(self, status: ClaimStatus) -> Tier | None:
        """Device rows are gone after a restart; a tier that was handed over still has its own, those of a claim that
        had come back from it included: rows are copied, never moved."""
        return Tier.HOST if self.tier.holds(status.claim.claim_id) else None

    def _drop_what_nobody_owns(self) -> None:
        """Free what a tier that was handed over still holds of requests that crashed and claims that ended."""
        owners = {status.claim.claim_id for status in self.registry.live()}
        for holder in self.tier.holders():
            if holder not in owners:
                self.tier.drop(holder)

    # --- claims -------------------------------------------------------------------------------------------------

    def submit_claim(self, claim: ResidentClaim, *, object_blocks: int | None = None) -> Receipt:
        """Accept, accept on lesser terms, renew or reject a claim.

        Args:
            claim: with the `block_hashes` of its content, as `content_keys` names them.
            object_blocks: how many blocks the content has, where that is known.

        Raises:
            ClaimError: as the registry does, and for the id of a request.
            UsageError: the runtime was shut down.
        """
        self.registry.check_not_shut_down()
        self.registry.check_footprint(claim, object_blocks=object_blocks)
        if claim.claim_id in self._works:
            message = f"{claim.claim_id!r} is the id of a request; give the claim another, or the trace mixes them up"
            raise ClaimError(message, field="claim_id", clause="TNR-ACC-001")
        self._outbox += self.registry.tick()
        receipt = self._residency.submit(claim, object_blocks=object_blocks)
        self.tick()
        return receipt

    def cancel_claim(self, claim_id: str, *, owner_scope: str) -> Receipt:
        """End a claim at its owner's request, then try waiting requests again."""
        receipt = self.registry.cancel(claim_id, owner_scope=owner_scope)
        self._retry_waiting()
        return receipt

    def take_receipts(self) -> list[Receipt]:
        """Receipts that nobody was there to receive: claims that ended by themselves or gave way. Empties the box."""
        receipts, self._outbox = self._outbox, []
        return receipts

    # --- requests -----------------------------------------------------------------------------------------------

    def start(self, request: MicroRequest) -> Receipt:
        """Admit, bound, defer, refuse or route a request. When admitted it computes its content and stays in flight.

        Raises:
            UsageError: the id was used before, by a request or a claim, or the runtime was shut down.
        """
        self.registry.check_not_shut_down()
        if self.registry.was_accepted(request.request_id):
            raise UsageError(f"request_id {request.request_id!r} is the id of a claim; give the request another")
        if request.request_id in self._works:
            raise UsageError(f"request_id {request.request_id!r} was used before; give every request its own")
        keys = content_keys(request.identity, request.content)
        prefix_id = request.prefix_id or (f"prefix:{keys[-1][1]}" if keys else f"prefix:{request.request_id}")
        work = Work(request=request, keys=keys, prefix_id=prefix_id, arrived_at_s=self._clock())
        self._works[request.request_id] = work
        self._sink.emit(
            EventType.REQUEST_SUBMITTED,
            {"active_live_blocks_required": request.live_plan.max_live_blocks},
            request_id=request.request_id,
            prefix_id=prefix_id,
        )
        self._try(work)
        return self._receipt(work)

    def finish(self, request_id: str) -> Receipt:
        """End a request in flight: its blocks become reusable or free, then waiting requests are tried again.

        For a request that is not in flight, how it stands; nothing changes. Raises UsageError for an unknown one.
        """
        work = self.work(request_id)
        if work.standing is Standing.RUNNING:
            work.standing = Standing.SERVED
            self._give_back(work)
            fields = {"reused_blocks": work.reused_blocks}
            self._sink.emit(EventType.REQUEST_FINISHED, fields, request_id=request_id)
            self._retry_waiting()
        return self._receipt(work)

    def withdraw(self, request_id: str) -> Receipt:
        """End a request that waits, because whoever sent it no longer does: it fails, and others are tried.

        For a request that does not wait, how it stands; nothing changes. Raises UsageError for an unknown one.
        """
        work = self.work(request_id)
        if work.standing is Standing.DEFERRED:
            self._fail(work, "withdrawn")
            self._retry_waiting()
        return self._receipt(work)

    def run(self, request: MicroRequest) -> Receipt:
        """`start`, and `finish` at once if it was admitted."""
        receipt = self.start(request)
        return self.finish(request.request_id) if receipt.outcome in (Outcome.SERVED, Outcome.BOUNDED) else receipt

    def work(self, request_id: str) -> Work:
        """How a request stands. Raises UsageError for an unknown one."""
        try:
            return self._works[request_id]
        except KeyError:
            raise UsageError(f"no request {request_id!r} was started") from None

    def forget(self, request_id: str) -> None:
        """Drop the record of a request that is over, so that long runs stay within their memory."""
        if self.work(request_id).standing not in (Standing.RUNNING, Standing.DEFERRED):
            del self._works[request_id]

    def tick(self) -> None:
        """Do what falls due: claims whose time is over end, waiting requests are admitted or refused."""
        self._outbox += self.registry.tick()
        self._retry_waiting()

    # --- faults and ends ----------------------------------------------------------------------------------------

    def lose_block(self, claim_id: str, *, position: int) -> None:
        """One idle block of a claim is gone at once. Raises UsageError when it is not on the device, or in use."""
        status = self.registry.status(claim_id)
        key = dict(zip(status.claim.footprint_positions, block_keys(status.claim), strict=True)).get(position)
        slot = None if key is None else self._residency.store.find(key)
        if slot is None:
            raise UsageError(f"claim {claim_id!r} has no block at position {position} on the device")
        self._residency.lose(slot)
        self._retry_waiting()

    def fail_next_restore(self, claim_id: str, *, reason: str = "controlled_unavailable") -> None:
        """The next restoration of this claim fails, once."""
        self.tier.fail_next_load(claim_id, reason=reason)

    def reset(self, reason: str = "operator") -> None:
        """End every claim with an event, then empty the cache. Requests in flight go on."""
        self._outbox += self.registry.reset(reason)
        self._residency.drop_cache()
        self._retry_waiting()

    def shutdown(self, reason: str = "operator") -> None:
        """End requests in flight or waiting as failed and every claim with an event. Nothing is taken on afterwards.

        Raises:
            UsageError: the runtime was shut down before.
        """
        self.registry.check_not_shut_down()
        for work in list(self._works.values()):
            if work.standing in (Standing.RUNNING, Standing.DEFERRED):
                self._fail(work, reason)
        self._outbox += self.registry.shutdown(reason)

    def _fail(self, work: Work, reason: str) -> None:
        request_id = work.request.request_id
        work.standing = Standing.FAILED
        self._give_back(work)
        self._no_longer_waits(work)
        self._sink.emit(EventType.REQUEST_FAILED, {"failure_reason": reason}, request_id=request_id)
        work.receipt = Receipt(outcome=Outcome.FAILED, reason=reason, request_id=request_id)

    def _give_back(self, work: Work) -> None:
        """Let go of what a request held, on the device and of its own in the slower tier."""
        self._residency.let_go(work.slots)
        self.tier.drop(_own_rows(work.request.request_id))
        work.slots = []

    def _no_longer_waits(self, work: Work) -> None:
        if self._waiting.pop(work.request.request_id, None) is not None:
            self.ledger.deferred_requests -= 1

    # --- admission ----------------------------------------------------------------------------------------------

    def _retry_waiting(self) -> None:
        """Try waiting requests once each, the longest waiting first."""
        for work in list(self._waiting.values()):
            self._try(work)

    def _try(self, work: Work) -> None:
        cached = self._residency.store.leading_run(work.keys) if work.request.keeps_everything else []
        decision = self._decide(work, cached)
        work.decision = decision
        if decision.outcome is Outcome.DEFERRED:
            self._defer(work, decision)
            return
        self._no_longer_waits(work)
        if decision.outcome is Outcome.REFUSED:
            work.standing = Standing.REFUSED
            self._emit_conflict(EventType.REQUEST_REFUSED, work, decision)
        elif decision.outcome is Outcome.ROUTED:
            work.standing = Standing.ROUTED
            self._sink.emit(EventType.REQUEST_ROUTED, reports.routed(decision), request_id=work.request.request_id)
        elif decision.plan.uses_reuse:
            self._admit(work, decision, cached)
        else:
            self._admit_bounded(work, decision)

    def _decide(self, work: Work, cached: list[Slot]) -> Decision:
        """The decision, after every claim whose time is over has ended.

        Where its line says `expire`, the fewest of them that make the room end for this request, and say so; the others
        end by time at the same moment (TNR-LIFE-005), whatever their lines say.
        """
        self.ledger.mark_due(now_s=self._clock())
        decision = decide(self.ledger, self._ask(work, cached), self.policy, now_s=self._clock())
        due = ResidencyPlan(expire=decision.plan.expire)
        if due.expire and decision.outcome is Outcome.SERVED and decision.plan.claims == due.claims:
            self._outbox += self._residency.give_way(due, request_id=work.request.request_id)
            self._outbox += self.registry.tick()
            return replace(decision, plan=replace(decision.plan, expire=()))
        ended = self.registry.tick()
        self._outbox += ended
        if not ended:
            return decision
        return decide(self.ledger, self._ask(work, cached), self.policy, now_s=self._clock())

    def _ask(self, work: Work, cached: list[Slot]) -> ActiveRequest:
        request = work.request
        waited_s = 0.0 if work.deferred_at_s is None else self._clock() - work.deferred_at_s
        return ActiveRequest(
            request_id=request.request_id,
            live_plan=request.live_plan,
            reuse=self._residency.reuse_of(cached),
            wants_reuse=request.wants_reuse and request.keeps_everything,
            tries=work.tries,
            waited_s=waited_s,
            min_arena_blocks=request.min_arena_blocks,
            may_recompute=request.may_recompute,
            may_offload=request.may_offload,
            routes=request.routes,
        )

    def _defer(self, work: Work, decision: Decision) -> None:
        work.tries += 1
        if work.deferred_at_s is None:
            work.deferred_at_s = self._clock()
            self._waiting[work.request.request_id] = work
            self.ledger.deferred_requests += 1
        self._emit_conflict(EventType.REQUEST_DEFERRED, work, decision)

    def _admit(self, work: Work, decision: Decision, cached: list[Slot]) -> None:
        """Serve in full: restorations are known to succeed or fail before anything is taken."""
        request_id = work.request.request_id
        keys = work.keys if work.request.keeps_everything else ()
        wanted = self._residency.wanted_claims(keys, cached_blocks=len(cached))
        loaded, failed = self._residency.load(wanted)
        if failed and self._restore_failure is RestorationOutcome.REFUSAL:
            self._refuse_unrestorable(work, decision, *min(failed.items()))
            return
        for claim_id, why in failed.items():
            self.registry.require_restore(claim_id, request_id=request_id)
            self._outbox.append(self._restoration_failed(claim_id, why, request_id))
        for claim_id in loaded:
            self.registry.require_restore(claim_id, request_id=request_id)
        self._residency.use(cached)
        self._outbox += self._residency.give_way(decision.plan, request_id=request_id)
        fresh = self._take(decision.plan.live_blocks - len(cached), decision, request_id=request_id)
        work.slots = [*cached, *fresh]
        work.standing, work.reused_blocks = Standing.RUNNING, len(cached)
        work.peak_live_blocks = decision.plan.live_blocks
        self._sink.emit(EventType.REQUEST_ADMITTED, reports.admitted(work, decision), request_id=request_id)
        self._compute(work, decision, restored=_rows_of(loaded))
        for claim_id in loaded:
            reused = len(cached) + work.restored_blocks
            receipt = self._residency.finish_restore(claim_id, request_id=request_id, reused_blocks=reused)
            self._outbox.append(receipt)

    def _take(self, blocks: int, decision: Decision, *, request_id: str) -> list[Slot]:
        """Free blocks first, then as many victims as the plan allows."""
        residency = self._residency
        residency.begin_allocation()
        from_free = min(blocks, residency.store.free_blocks)
        taken = residency.allocate(from_free, request_id=request_id)
        harms = frozenset(decision.plan.harm)
        taken += residency.evict(blocks - from_free, request_id=request_id, harms=harms)
        self._outbox += residency.take_receipts()
        return taken

    def _compute(self, work: Work, decision: Decision, *, restored: Mapping[BlockKey, str]) -> None:
        """Fill the request's blocks, and make its content findable where it was admitted."""
        for position, (key, slot) in enumerate(zip(work.keys, work.slots, strict=False)):
            if position < work.reused_blocks:
                continue
            found = restored.get(key)
            slot.rows = compute_rows(key) if found is None else found
            work.restored_blocks += found is not None
            if decision.admits_reuse or found is not None:
                self._residency.publish(slot, key, position=position, prefix_id=work.prefix_id)
        if work.request.keeps_everything:
            read = [slot.rows for slot in work.slots[: len(work.keys)]]
        else:
            read = [compute_rows(key) for key in work.keys]  # each was there when it was read, and went again
        work.output = digest(read, content=work.request.content)
        self._report_reuse(work, decision)

    def _admit_bounded(self, work: Work, decision: Decision) -> None:
        """Serve in an arena of its own, smaller than the schedule: nothing of it can be kept for others."""
        request_id, plan = work.request.request_id, decision.plan
        self._outbox += self._residency.give_way(plan, request_id=request_id)
        rows = {key: compute_rows(key) for key in work.keys}
        if plan.offload_active_blocks:
            spilled = dict(list(rows.items())[: plan.offload_active_blocks])
            self.tier.store(_own_rows(request_id), offload_generation=0, rows=spilled)
        work.slots = self._take(plan.live_blocks, decision, request_id=request_id)
        work.standing, work.peak_live_blocks = Standing.RUNNING, plan.live_blocks
        event, fields = reports.bounded(work, decision)
        self._sink.emit(event, fields, request_id=request_id)
        self._sink.emit(EventType.REQUEST_ADMITTED, reports.admitted(work, decision), request_id=request_id)
        work.output = digest(list(rows.values()), content=work.request.content)
        self._report_reuse(work, decision)

    def _report_reuse(self, work: Work, decision: Decision) -> None:
        event = EventType.FUTURE_REUSE_ADMITTED if decision.admits_reuse else EventType.FUTURE_REUSE_DENIED
        fields = reports.reuse(work, decision, tokens=len(work.keys) * self.block_size)
        self._sink.emit(event, fields, request_id=work.request.request_id)

    # --- restorations that fail ---------------------------------------------------------------------------------

    def _restoration_failed(self, claim_id: str, why: str, request_id: str) -> Receipt:
        return self.registry.restoration_failed(
            claim_id, failure=why, outcome=self._restore_failure, request_id=request_id, injected=True
        )

    def _refuse_unrestorable(self, work: Work, decision: Decision, claim_id: str, why: str) -> None:
        request_id = work.request.request_id
        self.registry.require_restore(claim_id, request_id=request_id)
        self._outbox.append(self._restoration_failed(claim_id, why, request_id))
        work.standing = Standing.REFUSED
        fields = reports.unrestorable(
            work, decision, self.registry.status(claim_id), failure=self.registry.last_restoration_failure(claim_id)
        )
        self._sink.emit(EventType.REQUEST_REFUSED, fields, request_id=request_id)
        work.receipt = reports.unrestorable_receipt(decision, claim_id)

    # --- answers ------------------------------------------------------------------------------------------------

    def _emit_conflict(self, event: EventType, work: Work, decision: Decision) -> None:
        blocking = self._residency.statuses(decision.blocking_claim_ids)
        fields = reports.conflict(work, decision, blocking)
        self._sink.emit(event, fields, request_id=work.request.request_id)

    def _receipt(self, work: Work) -> Receipt:
        if work.receipt is not None:
            return work.receipt
        if work.decision is None:
            return Receipt(outcome=Outcome.FAILED, reason="never_decided", request_id=work.request.request_id)
        return reports.receipt(work.decision)


def _own_rows(request_id: str) -> str:
    return f"request:{request_id}"


def _rows_of(loaded: Mapping[str, StoredClaim]) -> dict[BlockKey, str]:
    return {key: rows for stored in loaded.values() for key, rows in stored.rows.items()}
