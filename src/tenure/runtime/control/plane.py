"""The control plane: the contract kept to the letter, over rows that somebody else holds.

It computes nothing and decides nothing by itself: `tenure.arbiter` decides, `tenure.claims` keeps the promises and
their record, a `DataPlane` has the rows, and this module carries decisions out in the order that the contract demands.
"""

from __future__ import annotations

from collections.abc import Sequence

from tenure.arbiter.rules import ActionPolicy, action_policy
from tenure.claims.blocks import BlockKey, block_keys
from tenure.claims.clock import Clock
from tenure.claims.event_types import EventType
from tenure.claims.journal import Journal
from tenure.claims.modes import RestorationOutcome, Tier
from tenure.claims.objects import CapacitySnapshot, ClaimStatus, ResidentClaim
from tenure.claims.receipts import Receipt
from tenure.claims.telemetry import EventSink
from tenure.errors import ClaimError, UsageError
from tenure.runtime.control import reports
from tenure.runtime.control.admission import Admission
from tenure.runtime.control.data import DataPlane
from tenure.runtime.control.residency import Residency
from tenure.runtime.control.tier import ClaimTier
from tenure.runtime.control.work import RequestTerms, Standing, Work

#: What a request that is over, or was never known, is not in.
UNDER_WAY = (Standing.RUNNING, Standing.DEFERRED)


class ControlPlane:
    """Prefix cache, active requests, claims and a slower tier, on one pool of blocks.

    Guarantees: whatever is asked, every request is answered (served, bounded, deferred and later decided, refused or
    routed); a running request never runs out of room, because all it needs is taken when it is admitted; a transfer that
    fails ends in an explicit outcome; a call that raises has changed nothing. One thread.

    Args:
        usable_blocks: blocks that residents and active work share.
        data: where the rows are.
        clock: seconds that never go back; see `StepClock`. After moving it, call `tick`.
        sink: where events go.
        name: of the runtime, in its trace.
        policy: what is tried when it does not fit.
        block_size: tokens a block, for the record only.
        tier: the slower tier; None for none. Hand the old one to a new runtime to model rows that survive a restart.
        addable_blocks: by how much the pool may grow under `add_capacity`.
        journal: where claims are kept over a restart; None for memory.
        clock_id: what tells this clock from another one, so that durations survive a restart; see `ClaimRegistry`.
        claim_budget_blocks: most blocks that claims may protect together; None for all.
        restore_failure: what follows when offloaded rows cannot be brought back now. Rows that are lost for good harm
            their claim where this says `refusal`: there is nothing to wait for.
    """

    def __init__(
        self,
        *,
        usable_blocks: int,
        data: DataPlane,
        clock: Clock,
        sink: EventSink,
        name: str,
        policy: ActionPolicy | None = None,
        block_size: int = 16,
        tier: ClaimTier | None = None,
        addable_blocks: int = 0,
        journal: Journal | None = None,
        clock_id: str | None = None,
        claim_budget_blocks: int | None = None,
        restore_failure: RestorationOutcome = RestorationOutcome.REFUSAL,
    ) -> None:
        self.block_size = block_size
        self.tier = tier if tier is not None else ClaimTier(0)
        self._clock = clock
        self._residency = Residency(
            usable_blocks=usable_blocks,
            data=data,
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
        self._admission = Admission(
            self._residency,
            data,
            policy=policy if policy is not None else action_policy(),
            clock=clock,
            restore_failure=restore_failure,
            block_size=block_size,
        )
        self._admission.outbox += self.registry.start(
            runtime_name=name,
            block_size_tokens=block_size,
            survivors=self._surviving_tier,
            capacity=CapacitySnapshot(usable_blocks=usable_blocks),
        )
        self._drop_what_nobody_owns()

    @property
    def policy(self) -> ActionPolicy:
        """What is tried when it does not fit; a new one counts from the next decision on."""
        return self._admission.policy

    @policy.setter
    def policy(self, policy: ActionPolicy) -> None:
        self._admission.policy = policy

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
            claim: with the `block_hashes` of its content, as the runtime names them.
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
        self._admission.outbox += self.registry.tick()
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
        receipts, self._admission.outbox = [*self._admission.outbox, *self._residency.take_receipts()], []
        return receipts

    # --- requests -----------------------------------------------------------------------------------------------

    def submit(self, request: RequestTerms) -> Receipt:
        """Admit, bound, defer, refuse or route a request. When admitted, its rows are placed and it is under way.

        Raises:
            UsageError: the id was used before, by a request or a claim, or the runtime was shut down.
        """
        self.registry.check_not_shut_down()
        if self.registry.was_accepted(request.request_id):
            raise UsageError(f"request_id {request.request_id!r} is the id of a claim; give the request another")
        if request.request_id in self._works:
            raise UsageError(f"request_id {request.request_id!r} was used before; give every request its own")
        work = Work(request=request, arrived_at_s=self._clock())
        self._works[request.request_id] = work
        self._sink.emit(
            EventType.REQUEST_SUBMITTED,
            {"active_live_blocks_required": request.live_plan.max_live_blocks},
            request_id=request.request_id,
            prefix_id=work.prefix_id,
        )
        self._admission.decide(work)
        return self.receipt(request.request_id)

    def seal(self, request_id: str, *, blocks: int, generated: Sequence[BlockKey] = ()) -> None:
        """The first `blocks` blocks of a request are computed: others may find them, where that was admitted.

        `generated` names full blocks behind the prompt's and those named before, as they come to be.
        """
        work = self.work(request_id)
        work.keys += tuple(generated)
        if work.decision is None or not work.decision.admits_reuse:
            return
        for position in range(work.sealed_blocks, min(blocks, len(work.keys))):
            slot = work.slots[position]
            if slot.key is None:
                self._residency.publish(slot, work.keys[position], position=position, prefix_id=work.prefix_id)
        work.sealed_blocks = max(work.sealed_blocks, min(blocks, len(work.keys)))

    def finish(self, request_id: str) -> Receipt:
        """End a request in flight: its blocks become reusable or free, then waiting requests are tried again.

        For a request that is not in flight, how it stands; nothing changes. Raises UsageError for an unknown one.
        """
        work = self.work(request_id)
        if work.standing is Standing.RUNNING:
            work.standing = Standing.SERVED
            self._admission.give_back(work)
            fields = {"reused_blocks": work.reused_blocks}
            self._sink.emit(EventType.REQUEST_FINISHED, fields, request_id=request_id)
            self._retry_waiting()
        return self.receipt(request_id)

    def withdraw(self, request_id: str, *, reason: str = "withdrawn") -> Receipt:
        """End a request that waits, because whoever sent it no longer does: it fails, and others are tried.

        For a request that does not wait, how it stands; nothing changes. Raises UsageError for an unknown one.
        """
        work = self.work(request_id)
        if work.standing is Standing.DEFERRED:
            self.fail(request_id, reason=reason)
        return self.receipt(request_id)

    def fail(self, request_id: str, *, reason: str) -> Receipt:
        """End a request that waits or runs, everything it held given back. For one that is over, how it stands."""
        work = self.work(request_id)
        if work.standing in UNDER_WAY:
            self._fail(work, reason)
            self._retry_waiting()
        return self.receipt(request_id)

    def pause(self, request_id: str) -> Receipt:
        """Let go of everything that a running request holds on the device; it waits to be admitted again.

        Requests that waited before it are tried first, at once; it is itself at the next occasion.

        The data plane must have kept its rows elsewhere before, and brings back in `place` what is not cached then.
        Raises UsageError for a request that does not run.
        """
        work = self.work(request_id)
        if work.standing is not Standing.RUNNING or work.decision is None:
            raise UsageError(f"request {request_id!r} is {work.standing.value}; only a running one can be paused")
        self._sink.emit(EventType.ACTIVE_LIVE_OFFLOADED, reports.paused(work, work.decision), request_id=request_id)
        others = self.waiting
        self._admission.pause(work)
        self._retry(others)
        return self.receipt(request_id)

    def expire_due(self) -> bool:
        """End claims whose time is over; when there were any, try waiting requests again. Constant when there is none."""
        ended = self.registry.tick()
        if ended:
            self._admission.outbox += ended
            self._retry_waiting()
        return bool(ended)

    def retry(self) -> None:
        """Try waiting requests again, as after every change that could help them."""
        self._retry_waiting()

    def work(self, request_id: str) -> Work:
        """How a request stands. Raises UsageError for an unknown one."""
        try:
            return self._works[request_id]
        except KeyError:
            raise UsageError(f"no request {request_id!r} was started") from None

    @property
    def block_ids(self) -> frozenset[int]:
        """Blocks that hold something, in use or idle. O(blocks)."""
        return frozenset(self._residency.store)

    def knows(self, request_id: str) -> bool:
        """Whether there is a record of this request."""
        return request_id in self._works

    def forget(self, request_id: str) -> None:
        """Drop the record of a request that is over, so that long runs stay within their memory."""
        if self.work(request_id).standing not in UNDER_WAY:
            del self._works[request_id]

    @property
    def waiting(self) -> tuple[Work, ...]:
        """Requests that wait, in the order in which they are tried."""
        return tuple(sorted(self._admission.waiting.values(), key=lambda work: -work.request.priority))

    def tick(self) -> None:
        """Do what falls due: claims whose time is over end, waiting requests are admitted or refused."""
        self._admission.outbox += self.registry.tick()
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
        self._admission.outbox += self.registry.reset(reason)
        self._residency.drop_cache()
        self._retry_waiting()

    def shutdown(self, reason: str = "operator") -> None:
        """End requests in flight or waiting as failed and every claim with an event. Nothing is taken on afterwards.

        Raises:
            UsageError: the runtime was shut down before.
        """
        self.registry.check_not_shut_down()
        for work in list(self._works.values()):
            if work.standing in UNDER_WAY:
                self._fail(work, reason)
        self._admission.outbox += self.registry.shutdown(reason)

    def _fail(self, work: Work, reason: str) -> None:
        work.standing = Standing.FAILED
        self._admission.give_back(work)
        self._admission.no_longer_waits(work)
        self._sink.emit(EventType.REQUEST_FAILED, {"failure_reason": reason}, request_id=work.request_id)
        work.receipt = reports.failed(work, reason)

    def _retry_waiting(self) -> None:
        """Try waiting requests once each, the highest priority first and then the longest waiting."""
        self._retry(self.waiting)

    def _retry(self, works: Sequence[Work]) -> None:
        for work in works:
            if work.standing is Standing.DEFERRED:  # one tried before it may have ended it
                self._admission.decide(work)

    def receipt(self, request_id: str) -> Receipt:
        """How a request stands, on the numbers of its last decision. Raises UsageError for an unknown one."""
        work = self.work(request_id)
        return work.receipt if work.receipt is not None else reports.receipt(work, block_size=self.block_size)
