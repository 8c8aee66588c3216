"""Blocks, claims and tiers, moved together: nothing leaves before somebody was told."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from tenure.arbiter.decision import ResidencyPlan
from tenure.arbiter.ledger import PoolLedger
from tenure.arbiter.standing import Reuse
from tenure.claims.blocks import BlockKey, block_keys
from tenure.claims.clock import Clock
from tenure.claims.event_types import EventType
from tenure.claims.journal import Journal
from tenure.claims.lifecycle import DEVICE_STATES
from tenure.claims.modes import Action, ClaimState, HarmCause, Outcome, ProtectionMode, VictimReason
from tenure.claims.objects import CapacitySnapshot, ClaimStatus, ResidentClaim
from tenure.claims.receipts import NextStep, Receipt
from tenure.claims.registry import ClaimRegistry
from tenure.claims.telemetry import EventSink
from tenure.errors import RowsLostError, TransferError, UsageError
from tenure.runtime.control.data import DataPlane
from tenure.runtime.control.follower import LedgerFollower
from tenure.runtime.control.store import BlockStore, Slot
from tenure.runtime.control.tier import ClaimTier, InjectedFailureError, StoredClaim

_RANKS = {ProtectionMode.BEST_EFFORT: 1, ProtectionMode.ROUTED_REUSE: 1, ProtectionMode.SOFT_PRIORITY: 2}


@dataclass(frozen=True, slots=True)
class _ResidentKeys:
    """What the registry asks: is this block on the device?"""

    store: BlockStore

    def __contains__(self, key: object) -> bool:
        return isinstance(key, tuple) and self.store.find(key) is not None


@dataclass(frozen=True, slots=True)
class LoadFailure:
    """Why offloaded rows cannot be had: for now, or for good (`is_lost`)."""

    why: str
    is_lost: bool
    is_injected: bool


class Residency:
    """The state of a runtime without its requests.

    Guarantees: the ledger, the registry and the store agree after every call; a block under a live reserving claim is
    evicted only by a plan that named the claim for harm, and that claim has ended in an event before the first of its
    blocks goes; each loss is reported before it happens.

    Args:
        usable_blocks: blocks that residents and active work share.
        data: where the rows are.
        tier: the slower tier.
        addable_blocks: by how much the pool may grow.
        clock: seconds that never go back.
        sink: where events go.
        journal: where claims are kept over a restart; None for memory.
        clock_id: what tells this clock from another one, so that durations survive a restart.
        claim_budget_blocks: most blocks that claims may protect; None for all.
    """

    def __init__(
        self,
        *,
        usable_blocks: int,
        data: DataPlane,
        tier: ClaimTier,
        addable_blocks: int,
        clock: Clock,
        sink: EventSink,
        journal: Journal | None,
        clock_id: str | None,
        claim_budget_blocks: int | None,
    ) -> None:
        self.store = BlockStore(usable_blocks)
        self.data = data
        self.tier = tier
        self._rank = 0
        self._outbox: list[Receipt] = []
        self.ledger = PoolLedger(
            usable_blocks=usable_blocks, host_free_blocks=tier.free_blocks, addable_blocks=addable_blocks
        )
        tier.watch(self._follow_tier)
        self.sink = LedgerFollower(sink, self.ledger, on_end=self._claim_ended, on_harm=self._claim_harmed)
        self.registry = ClaimRegistry(
            sink=self.sink,
            clock=clock,
            resident=_ResidentKeys(self.store),
            journal=journal,
            clock_id=clock_id,
            claim_budget_blocks=claim_budget_blocks,
        )

    # --- claims -------------------------------------------------------------------------------------------------

    def submit(self, claim: ResidentClaim, *, object_blocks: int | None) -> Receipt:
        """Accept, renew or reject a claim, and let it stand on what of it is cached."""
        is_known = self.ledger.has_claim(claim.claim_id)
        receipt = self.registry.submit(claim, capacity=self._capacity_for(claim), object_blocks=object_blocks)
        if receipt.accepted and not is_known and receipt.numbers is not None:
            covered = block_keys(claim)[: receipt.numbers.granted_blocks]
            self._stand_on(claim.claim_id, covered)
        return receipt

    def _capacity_for(self, claim: ResidentClaim) -> CapacitySnapshot:
        """What is usable and in use now; blocks that the claim would cover itself are not counted against it."""
        own = 0
        for key in block_keys(claim):
            slot = self.store.find(key)
            own += slot is not None and slot.users > 0 and not self.registry.is_protected(key)
        return CapacitySnapshot(
            usable_blocks=self.ledger.usable_blocks,
            active_live_blocks=max(0, self.ledger.active_unprotected_blocks - own),
        )

    def _stand_on(self, claim_id: str, keys: Iterable[BlockKey]) -> None:
        """Cover what is cached already, and say so block by block: no later event would tell a reader of the trace."""
        slots = [slot for slot in map(self.store.find, keys) if slot is not None]
        self.ledger.hold(claim_id, [slot.block_id for slot in slots])
        prefix_id = self.registry.status(claim_id).claim.object_id
        for slot in slots:
            self._report_materialized(slot, claim_id=claim_id, prefix_id=prefix_id)

    def _report_materialized(self, slot: Slot, *, claim_id: str | None, prefix_id: str) -> None:
        self.sink.emit(
            EventType.BLOCK_MATERIALIZED,
            {
                "logical_block_position": slot.position,
                "physical_block_id": slot.block_id,
                "block_hash": None if slot.key is None else slot.key[1],
                "ref_count": slot.users,
                "is_protected_resident": slot.key is not None and self.registry.is_protected(slot.key),
            },
            claim_id=claim_id,
            prefix_id=prefix_id,
        )

    def _claim_ended(self, claim_id: str) -> None:
        self.tier.drop(claim_id)

    def _claim_harmed(self, claim_id: str, cause: str, request_id: str | None) -> None:
        """The owner of a claim that was broken hears of it, whatever broke it."""
        self._outbox.append(
            Receipt(
                outcome=Outcome.HARMED,
                reason=cause,
                claim_id=claim_id,
                state=ClaimState.HARMED,
                caused_by_request_id=request_id,
                next_step=NextStep.RECOMPUTE_ON_REUSE,
            )
        )

    def _follow_tier(self, keys: Iterable[BlockKey]) -> None:
        """The ledger knows how much room the tier has, and which blocks would need none of it."""
        self.ledger.host_free_blocks = self.tier.free_blocks
        for key in keys:
            slot = self.store.find(key)
            if slot is not None:
                self.ledger.note_copies([slot.block_id], exist=key in self.tier)

    def take_receipts(self) -> list[Receipt]:
        """Receipts of claims that gave way while blocks were taken. Empties the box."""
        receipts, self._outbox = self._outbox, []
        return receipts

    def statuses(self, claim_ids: Iterable[str]) -> list[ClaimStatus]:
        """How these live claims stand."""
        return [self.registry.status(claim_id) for claim_id in claim_ids]

    # --- blocks -------------------------------------------------------------------------------------------------

    def reuse_of(self, slots: Sequence[Slot]) -> Reuse:
        """How these cached blocks stand for a request that would use them."""
        return self.ledger.reuse_of(slot.block_id for slot in slots)

    def use(self, slots: Sequence[Slot]) -> None:
        """A request uses these cached blocks."""
        for slot in slots:
            self.store.use(slot)
        self.ledger.pin([slot.block_id for slot in slots])

    def allocate(self, blocks: int, *, request_id: str) -> list[Slot]:
        """Free blocks for a request; each is reported."""
        taken = self.store.take_free(blocks)
        self.ledger.occupy([slot.block_id for slot in taken])
        for slot in taken:
            rank = self._next_rank()
            self._report_victim(slot, VictimReason.FREE_UNCACHED, protected=False, request_id=request_id, rank=rank)
        return taken

    def begin_allocation(self) -> None:
        """The next blocks taken count their place in the order of victims from 0."""
        self._rank = 0

    def _next_rank(self) -> int:
        self._rank += 1
        return self._rank - 1

    def evict(self, blocks: int, *, request_id: str, harms: frozenset[str] = frozenset()) -> list[Slot]:
        """Take the next victims for a request: unclaimed ones first. Claims in `harms` may be broken, and hear it."""
        if not blocks:
            return []
        victims = self.store.victims(blocks, rank_of=lambda slot: self._victim_rank(slot, harms))
        for slot in self._breaking_first(victims, harms, request_id=request_id) if harms else victims:
            protected = self._leave(slot, request_id=request_id, cause=HarmCause.EVICTED_UNDER_PRESSURE)
            self._report_victim(
                slot,
                VictimReason.CACHED_PREFIX_REUSE,
                protected=protected,
                request_id=request_id,
                rank=self._next_rank(),
            )
            self._empty(slot)
        taken = self.store.take_free(blocks)
        self.ledger.occupy([slot.block_id for slot in taken])
        return taken

    def _victim_rank(self, slot: Slot, harms: frozenset[str]) -> int | None:
        if self.ledger.is_kept(slot.block_id, against=harms):
            return None
        if harms and self.ledger.is_kept(slot.block_id):
            return 3
        return max((_RANKS[mode] for mode in self.ledger.yielding_modes(slot.block_id)), default=0)

    def _breaking_first(self, victims: list[Slot], harms: frozenset[str], *, request_id: str) -> list[Slot]:
        """The victims in an order in which each claim of `harms` has ended before its first block goes.

        A claim whose predicate breaks is harmed by the first of its blocks that goes: one that it needs. One that would
        keep its predicate, or never had it, is not harmed but gives way all the same, so it is demoted first.
        """
        needed = {claim_id: self._needed(claim_id) for claim_id in harms}
        standing, first = set(harms), list[Slot]()
        for slot in victims:
            struck = standing.intersection(self.ledger.holders(slot.block_id))
            if struck and all(slot.key in needed[claim_id] for claim_id in struck):
                first.append(slot)
                standing -= struck
        for claim_id in sorted(standing):
            receipt = self.registry.demote(claim_id, request_id=request_id, action=Action.SERVE_ACTIVE_EVICT_RESIDENT)
            self._outbox.append(receipt)
        ahead = {slot.block_id for slot in first}
        return [*first, *(slot for slot in victims if slot.block_id not in ahead)]

    def _needed(self, claim_id: str) -> frozenset[BlockKey]:
        """The blocks whose loss would break a claim; none where its predicate does not hold."""
        status = self.registry.status(claim_id)
        if status.state not in DEVICE_STATES:
            return frozenset()
        return frozenset(block_keys(status.claim)[: status.claim.materialization_predicate.required_blocks])

    def lose(self, slot: Slot) -> None:
        """A block is gone at once, as by a memory error: reported as a fault, then it holds nothing."""
        if slot.users:
            raise UsageError(f"block {slot.block_id} is used by {slot.users} requests; lose one that is idle")
        protected = self._leave(slot, request_id=None, cause=HarmCause.FAULT)
        for claim_id in self.ledger.holders(slot.block_id):
            self.ledger.let_go(claim_id, [slot.block_id])
        self._report_victim(slot, VictimReason.CACHED_PREFIX_REUSE, protected=protected, request_id=None, rank=0)
        self._empty(slot)

    def _leave(self, slot: Slot, *, request_id: str | None, cause: HarmCause) -> bool:
        if slot.key is None:
            return False
        return self.registry.block_leaving(
            slot.key, request_id=request_id, physical_block_id=slot.block_id, cause=cause
        )

    def _empty(self, slot: Slot) -> None:
        self.ledger.vacate([slot.block_id])
        self.store.evict(slot)
        self.data.vacate([slot.block_id])

    def let_go(self, slots: Sequence[Slot]) -> None:
        """A request no longer uses these blocks; the last one becomes the first victim."""
        freed = []
        for slot in reversed(slots):
            self.ledger.unpin([slot.block_id])
            if self.store.let_go(slot):
                self.ledger.vacate([slot.block_id])
                freed.append(slot.block_id)
        if freed:
            self.data.vacate(freed)

    def publish(self, slot: Slot, key: BlockKey, *, position: int, prefix_id: str) -> bool:
        """Make a block findable, and tell every claim that it completes. False when the content is cached already."""
        if not self.store.publish(slot, key=key, position=position, prefix_id=prefix_id):
            return False
        covering = self.registry.covering(key)
        for status in self.statuses(covering):
            self._report_materialized(slot, claim_id=status.claim.claim_id, prefix_id=status.claim.object_id)
        if not covering:
            self._report_materialized(slot, claim_id=None, prefix_id=prefix_id)
        self.registry.block_arrived(key)
        self.ledger.note_copies([slot.block_id], exist=key in self.tier)
        for claim_id in covering:
            if claim_id not in self.sink.off_device:
                self.ledger.hold(claim_id, [slot.block_id])
        return True

    def _report_victim(
        self, slot: Slot, reason: VictimReason, *, protected: bool, request_id: str | None, rank: int
    ) -> None:
        self.sink.emit(
            EventType.VICTIM_SELECTED,
            {
                "physical_block_id": slot.block_id,
                "is_protected_resident": protected,
                "victim_reason": reason.value,
                "logical_block_position": slot.position,
                "block_hash": None if slot.key is None else str(slot.key[1]),
                "ref_count": 0,
                "free_queue_rank": rank,
            },
            prefix_id=slot.prefix_id,
            request_id=request_id,
        )

    # --- making room --------------------------------------------------------------------------------------------

    def give_way(self, plan: ResidencyPlan, *, request_id: str) -> list[Receipt]:
        """Carry out the claims' side of a plan, each release before any loss. Returns their owners' receipts."""
        receipts = [self.registry.expire(claim_id, request_id=request_id) for claim_id in plan.expire]
        receipts += [self.registry.demote(claim_id, request_id=request_id) for claim_id in plan.demote]
        receipts += [self._offload(claim_id, request_id=request_id) for claim_id in plan.offload]
        self.grow(plan.add_blocks)
        return receipts

    def grow(self, blocks: int) -> None:
        """The data plane has so many blocks more (0: nothing changes)."""
        if blocks:
            self.store.grow(blocks)
            self.ledger.grow(blocks)
            self.sink.resize(self.ledger.usable_blocks)

    def copy_out(self, claim_ids: Sequence[str]) -> None:
        """Copy what these claims hold to the slower tier, before anything is said of it; all of them, or none.

        Nothing has left the device then, and no claim stands differently. Raises `TransferError`, `HostTierFullError`.
        """
        copied: list[str] = []
        try:
            for claim_id in claim_ids:
                held = {slot.key: slot for slot in self._held(claim_id) if slot.key is not None}
                self.tier.save(
                    claim_id,
                    offload_generation=self.registry.status(claim_id).offload_generation + 1,
                    keys=held,
                    save=lambda key, held=held: self.data.save(key, held[key]),  # type: ignore[misc]
                )
                copied.append(claim_id)
        except BaseException:
            self.drop_copies(copied)
            raise

    def drop_copies(self, claim_ids: Sequence[str]) -> None:
        """Forget copies of claims whose rows are on the device after all."""
        for claim_id in claim_ids:
            self.tier.drop(claim_id)

    def _held(self, claim_id: str) -> list[Slot]:
        held = [self.store.slot(int(str(block_id))) for block_id in self.ledger.held_blocks(claim_id)]
        held.sort(key=lambda slot: slot.position if slot.position is not None else 0)
        return held

    def _offload(self, claim_id: str, *, request_id: str) -> Receipt:
        """The claim's rows are in the slower tier (`copy_out`): say so, then let them go from the device."""
        held = self._held(claim_id)
        own = frozenset((claim_id,))
        leaving = [slot for slot in held if not slot.users and self._is_held_by_none_but(own, slot)]
        receipt = self.registry.offload(
            claim_id, request_id=request_id, block_ids=tuple(slot.block_id for slot in leaving)
        )
        for slot in leaving:
            self._leave(slot, request_id=request_id, cause=HarmCause.EVICTED_UNDER_PRESSURE)
            self._empty(slot)
        return receipt

    def _is_held_by_none_but(self, own: frozenset[str], slot: Slot) -> bool:
        ledger = self.ledger
        return not ledger.is_kept(slot.block_id, against=own) and not ledger.yielding_modes(slot.block_id)

    # --- bringing back ------------------------------------------------------------------------------------------

    def wanted_claims(self, keys: Sequence[BlockKey], *, cached_blocks: int) -> list[str]:
        """Offloaded claims that a request on `keys` could restore whole, in order of acceptance."""
        missing = keys[cached_blocks:]
        found = dict.fromkeys(claim_id for key in missing for claim_id in self.registry.covering(key))
        present = frozenset(keys)
        return [
            status.claim.claim_id
            for status in self.statuses(claim_id for claim_id in found if claim_id in self.sink.off_device)
            if present.issuperset(block_keys(status.claim)[: status.claim.materialization_predicate.required_blocks])
        ]

    def load(self, claim_ids: Iterable[str]) -> tuple[dict[str, StoredClaim], dict[str, LoadFailure]]:
        """What the tier gives of each claim, and for the others why not. Reports nothing."""
        loaded: dict[str, StoredClaim] = {}
        failed: dict[str, LoadFailure] = {}
        for claim_id in claim_ids:
            try:
                loaded[claim_id] = self.tier.load(claim_id)
            except TransferError as error:
                failed[claim_id] = failure_of(error)
        return loaded, failed

    def finish_restore(self, claim_id: str, *, request_id: str, reused_blocks: int) -> Receipt:
        """The claim's rows are back: it is protected again, and the request that wanted it reuses it."""
        status = self.registry.status(claim_id)
        keys = block_keys(status.claim)
        slots = [slot for slot in (self.store.find(key) for key in keys) if slot is not None]
        receipt = self.registry.restored(
            claim_id, request_id=request_id, block_ids=tuple(slot.block_id for slot in slots)
        )
        self.ledger.hold(claim_id, [slot.block_id for slot in slots])
        self.registry.reused(claim_id, request_id=request_id, reused_blocks=reused_blocks)
        return receipt

    # --- emptying -----------------------------------------------------------------------------------------------

    def drop_cache(self) -> None:
        """Empty the cache after every claim ended: idle blocks go, ones in use can no longer be found."""
        for slot in list(self.store.published()):
            self._leave(slot, request_id=None, cause=HarmCause.FAULT)
            if slot.users:
                self.store.unpublish(slot)
            else:
                self._empty(slot)


def failure_of(error: TransferError) -> LoadFailure:
    """What a failed transfer means for the rows that it should have brought back."""
    return LoadFailure(
        why=str(error),
        is_lost=isinstance(error, RowsLostError),
        is_injected=isinstance(error, InjectedFailureError),
    )
