"""The view that decisions are made on, kept up to date by whoever moves blocks, so that no decision scans the pool.

Every block the runtime has in use is here with two facts: how many active requests use it, and which claims stand on
it. A block gives way only when all reserving claims on it do, which is why blocks that two claims share are counted
once and never sold twice. `entries.py` has what is kept of each block and claim.
"""

from __future__ import annotations

import heapq
from collections.abc import Collection, Hashable, Iterable, Mapping
from types import MappingProxyType

from tenure.arbiter.entries import Block, Claim, Tally
from tenure.arbiter.pressure import Pressure
from tenure.arbiter.standing import NO_REUSE, Footing, Group, Reuse, Shelf, Shelves, Signature, Standing
from tenure.claims.modes import ProtectionMode
from tenure.errors import PlanError


class PoolLedger:
    """Counts of a pool by who needs the blocks, and claims in the order in which they would give way.

    Guarantees: `free + unclaimed + yielding + protected idle + pinned == usable` after every call; a block under a
    reserving claim, or in use, cannot be vacated; a failed call changes nothing. All questions that `decide` asks are
    O(1) or O(log claims). A change costs O(blocks changed x log claims), however many claims share these blocks.

    Args:
        usable_blocks: what can really be allocated (an engine's null block is not usable).
        host_free_blocks: room in the slower tier; 0 is no tier.
        addable_blocks: by how much the operator lets the pool grow under pressure.
    """

    def __init__(self, *, usable_blocks: int, host_free_blocks: int = 0, addable_blocks: int = 0) -> None:
        if min(usable_blocks, host_free_blocks, addable_blocks) < 0:
            raise PlanError(f"block counts must be >= 0, got {usable_blocks}, {host_free_blocks}, {addable_blocks}")
        self.usable_blocks = usable_blocks
        self.host_free_blocks = host_free_blocks
        self.addable_blocks = addable_blocks
        self.outstanding_blocks = 0
        self.deferred_requests = 0
        self._blocks: dict[Hashable, Block] = {}
        self._claims: dict[str, Claim] = {}
        self._tally = Tally()
        self._shelves = Shelves()
        self._arrivals = 0
        self._ends: list[tuple[float, str]] = []

    # --- what decisions ask -------------------------------------------------------------------------------------

    @property
    def free_blocks(self) -> int:
        """Blocks that hold nothing, the promised ones included."""
        return self.usable_blocks - len(self._blocks)

    @property
    def unclaimed_blocks(self) -> int:
        """Idle blocks that nobody claimed: the ordinary victims."""
        return self._tally.unclaimed_idle_blocks

    @property
    def yielding_blocks(self) -> int:
        """Idle blocks on which only claims stand that reserve nothing."""
        return self._tally.yielding_idle_blocks

    @property
    def protected_blocks(self) -> int:
        """Blocks under at least one reserving claim, each once, in use or idle."""
        return self._tally.protected_idle_blocks + self._tally.protected_pinned_blocks

    @property
    def active_blocks(self) -> int:
        """Blocks that active work uses or was promised."""
        return self._tally.pinned_blocks + self.outstanding_blocks

    def pressure(self, *, required_blocks: int, reuse: Reuse = NO_REUSE) -> Pressure:
        """The inequality for a request that needs `required_blocks` live at once, the reused ones included."""
        overlap = self._tally.protected_pinned_blocks + reuse.idle_protected_blocks + reuse.pinned_blocks
        return Pressure(
            usable_blocks=self.usable_blocks,
            protected_blocks=self.protected_blocks,
            active_blocks=self.active_blocks,
            required_blocks=required_blocks,
            overlap_blocks=overlap,
            free_blocks=self.free_blocks,
            evictable_blocks=self.unclaimed_blocks + self.yielding_blocks,
            outstanding_blocks=self.outstanding_blocks,
        )

    @property
    def shelves(self) -> Shelves:
        """Claims in the order in which they would give way; to be read only."""
        return self._shelves

    def shared_blocks(self, *, pinned: bool) -> Mapping[Signature, int]:
        """Blocks on which several claims stand, by the shelves of these: the idle ones, or those in active use."""
        return self._tally.shared_pinned if pinned else self._tally.shared_idle

    def shelf_of(self, claim_id: str) -> Shelf:
        """The shelf a claim is on."""
        return self._claim(claim_id).shelf

    def standing_of(self, claim_id: str) -> Standing:
        """What a claim alone would free now, with its place in the order. One that reserves nothing frees nothing."""
        return self._claim(claim_id).standing

    def pinned_alone(self, claim_id: str) -> int:
        """Blocks in active use on which only this claim stands: idle, and protected, once that work ends."""
        return self._claim(claim_id).alone_pinned_blocks

    def shared_by(self, claim_id: str) -> Collection[Block]:
        """The blocks that a claim shares with other reserving claims; to be read only."""
        return self._claim(claim_id).shared.values()

    def claim_blocks(self, claim_id: str) -> int:
        """How many resident blocks a claim stands on, in use or idle. O(1)."""
        return len(self._claim(claim_id).blocks)

    def tier_blocks(self, claim_ids: Iterable[str]) -> int:
        """New room in the slower tier for the rows of these claims together: what they share, and what it has already,
        is not counted again. O(claims + blocks that they share)."""
        claims = [self._claim(claim_id) for claim_id in claim_ids]
        alone = sum(len(claim.blocks) - len(claim.shared) - claim.alone_copied_blocks for claim in claims)
        shared = {block_id for claim in claims for block_id, block in claim.shared.items() if not block.is_copied}
        return alone + len(shared)

    @property
    def active_unprotected_blocks(self) -> int:
        """Blocks that active work uses or was promised and that no reserving claim covers. For acceptance."""
        return self.active_blocks - self._tally.protected_pinned_blocks

    def ends_at_s(self, claim_id: str) -> float | None:
        """When the promised time of a claim runs out, on the clock the runtime passes in; None for no end."""
        return self._claim(claim_id).ends_at_s

    def reuse_of(self, blocks: Iterable[Hashable]) -> Reuse:
        """How these resident blocks stand, for a request that would use them. O(blocks)."""
        evictable = pinned = pinned_protected = idle_protected = 0
        idle_alone: dict[str, int] = {}
        pinned_alone: dict[str, int] = {}
        idle_shared: dict[Signature, int] = {}
        pinned_shared: dict[Signature, int] = {}
        shared_ids: list[Hashable] = []
        for block_id in blocks:
            block = self._block(block_id)
            in_use, holders = block.pins > 0, len(block.reserving)
            pinned += in_use
            if not holders:
                evictable += not in_use
                continue
            pinned_protected += in_use
            idle_protected += not in_use
            if holders == 1:
                alone = pinned_alone if in_use else idle_alone
                claim_id = next(iter(block.reserving))
                alone[claim_id] = alone.get(claim_id, 0) + 1
            else:
                shared = pinned_shared if in_use else idle_shared
                shared[block.signature] = shared.get(block.signature, 0) + 1
                shared_ids.append(block_id)
        return Reuse(
            evictable_blocks=evictable,
            pinned_blocks=pinned,
            pinned_protected_blocks=pinned_protected,
            idle_protected_blocks=idle_protected,
            idle=Footing(alone=MappingProxyType(idle_alone), shared=MappingProxyType(idle_shared)),
            pinned=Footing(alone=MappingProxyType(pinned_alone), shared=MappingProxyType(pinned_shared)),
            shared_block_ids=frozenset(shared_ids),
        )

    def holders(self, block_id: Hashable) -> Group:
        """Every claim that stands on a block, whatever its mode. O(claims on it)."""
        block = self._block(block_id)
        return block.group.union(block.yielding)

    def is_kept(self, block_id: Hashable, *, against: Collection[str] = ()) -> bool:
        """Whether a reserving claim other than these stands on a block. O(these), however many claims share it."""
        reserving = self._block(block_id).reserving
        return len(reserving) > len(against) or any(claim_id not in against for claim_id in reserving)

    def yielding_modes(self, block_id: Hashable) -> frozenset[ProtectionMode]:
        """The modes of the claims on a block that reserve nothing."""
        return frozenset(claim.shelf.mode for claim in self._block(block_id).yielding.values())

    def pins(self, block_id: Hashable) -> int:
        """How many active requests use a block."""
        return self._block(block_id).pins

    # --- blocks -------------------------------------------------------------------------------------------------

    def occupy(self, blocks: Iterable[Hashable]) -> None:
        """Free blocks are now in use by one active request. Raises PlanError when there are not enough."""
        taken = list(blocks)
        if len(taken) > self.free_blocks or len(set(taken)) < len(taken) or any(b in self._blocks for b in taken):
            raise PlanError(
                f"cannot occupy {len(taken)} blocks: {self.free_blocks} are free, and each may be named once"
            )
        for block_id in taken:
            self._blocks[block_id] = Block(block_id, pins=1)
        self._tally.pinned_blocks += len(taken)

    def pin(self, blocks: Iterable[Hashable]) -> None:
        """One more active request uses these resident blocks, each named once."""
        self._change_pins(self._found_once(blocks), by=1)

    def unpin(self, blocks: Iterable[Hashable]) -> None:
        """One active request fewer uses these blocks; unused ones stay resident until they are vacated."""
        found = self._found_once(blocks)
        for block_id, block in found:
            if not block.pins:
                raise PlanError(f"block {block_id!r} is not in use, so it cannot be let go")
        self._change_pins(found, by=-1)

    def vacate(self, blocks: Iterable[Hashable]) -> None:
        """These idle blocks hold nothing any more. Raises PlanError when one is in use or under a reserving claim.

        Claims that reserve nothing simply lose their hold; whoever calls this has told them before.
        """
        found = self._found_once(blocks)
        for block_id, block in found:
            if block.pins:
                raise PlanError(f"block {block_id!r} is used by {block.pins} active requests, so it cannot be vacated")
            if block.reserving:
                raise PlanError(
                    f"block {block_id!r} is under {_some(block.group)}: "
                    "a release, an offload or a harm has to come before the loss"
                )
        for block_id, block in found:
            self._tally.count(block, by=-1)
            for claim in block.yielding.values():
                claim.blocks.discard(block_id)
            del self._blocks[block_id]

    def note_copies(self, blocks: Iterable[Hashable], *, exist: bool) -> None:
        """The slower tier has the rows of these resident blocks too, or no longer has them. O(blocks)."""
        for block in [self._block(block_id) for block_id in blocks]:
            self._tally.count(block, by=-1)
            block.is_copied = exist
            self._tally.count(block, by=1)

    def promise(self, blocks: int) -> None:
        """An admitted request will allocate this many blocks later (negative: it has, or gave them back)."""
        if self.outstanding_blocks + blocks < 0:
            raise PlanError(f"only {self.outstanding_blocks} blocks are promised, cannot take back {-blocks}")
        self.outstanding_blocks += blocks

    def grow(self, blocks: int) -> None:
        """Capacity was added: so many more usable blocks, and so many fewer that may still be added."""
        if not 0 <= blocks <= self.addable_blocks:
            raise PlanError(f"{blocks} blocks cannot be added: from 0 to {self.addable_blocks} may be")
        self.usable_blocks += blocks
        self.addable_blocks -= blocks

    # --- claims -------------------------------------------------------------------------------------------------

    def add_claim(self, claim_id: str, *, mode: ProtectionMode, ends_at_s: float | None = None) -> None:
        """A claim that was accepted. It stands on nothing yet."""
        if claim_id in self._claims:
            raise PlanError(f"claim {claim_id!r} is in the ledger already")
        self._claims[claim_id] = Claim(claim_id, Shelf(mode=mode), self._arrivals, ends_at_s=None)
        self._arrivals += 1
        self.set_end(claim_id, ends_at_s)

    def has_claim(self, claim_id: str) -> bool:
        """Whether a claim is in the ledger."""
        return claim_id in self._claims

    def held_blocks(self, claim_id: str) -> frozenset[Hashable]:
        """The resident blocks that a claim stands on."""
        return frozenset(self._claim(claim_id).blocks)

    def hold(self, claim_id: str, blocks: Iterable[Hashable]) -> None:
        """A claim now stands on these resident blocks too. Holding a block twice changes nothing."""
        claim = self._claim(claim_id)
        found = [(block_id, self._block(block_id)) for block_id in dict.fromkeys(blocks)]
        fresh = [(block_id, block) for block_id, block in found if block_id not in claim.blocks]
        self._change_holders(fresh, claim, holds=True)

    def let_go(self, claim_id: str, blocks: Iterable[Hashable]) -> None:
        """A claim no longer stands on these blocks: they were lost or moved, and that was reported."""
        claim = self._claim(claim_id)
        named = dict.fromkeys(blocks)
        found = [(block_id, self._block(block_id)) for block_id in named if block_id in claim.blocks]
        self._change_holders(found, claim, holds=False)

    def drop_claim(self, claim_id: str) -> None:
        """A claim ended: its blocks stay resident, under whoever else claims them. O(its blocks)."""
        self.let_go(claim_id, tuple(self._claim(claim_id).blocks))
        self._shelves.remove(claim_id)
        del self._claims[claim_id]

    def mark(self, claim_id: str, *, is_due: bool | None = None, is_whole: bool | None = None) -> None:
        """The promised time of a claim has run out, its predicate came to hold, or the contrary. None: as it was."""
        claim = self._claim(claim_id)
        old = claim.shelf
        new = Shelf(
            mode=old.mode,
            is_due=old.is_due if is_due is None else is_due,
            is_whole=old.is_whole if is_whole is None else is_whole,
        )
        if new == old:
            return
        claim.shelf = new
        for block in claim.shared.values():
            self._tally.count(block, by=-1)
            block.reshelve(old, new)
            self._tally.count(block, by=1)
        self._relist([claim])

    def set_end(self, claim_id: str, ends_at_s: float | None) -> None:
        """When the promised time of a claim runs out, at first or after a renewal; None for no end."""
        claim = self._claim(claim_id)
        claim.ends_at_s = ends_at_s
        if ends_at_s is not None:
            heapq.heappush(self._ends, (ends_at_s, claim_id))
        self.mark(claim_id, is_due=False)

    def mark_due(self, *, now_s: float) -> bool:
        """Mark every claim whose time has run out; whether any claim is marked for the first time. O(1) if none."""
        found = False
        while self._ends and self._ends[0][0] <= now_s:
            end, claim_id = heapq.heappop(self._ends)
            claim = self._claims.get(claim_id)
            if claim is not None and claim.ends_at_s == end:
                self.mark(claim_id, is_due=True)
                found = True
        return found

    # --- bookkeeping --------------------------------------------------------------------------------------------

    def _claim(self, claim_id: str) -> Claim:
        try:
            return self._claims[claim_id]
        except KeyError:
            raise PlanError(f"claim {claim_id!r} is not in the ledger") from None

    def _block(self, block_id: Hashable) -> Block:
        try:
            return self._blocks[block_id]
        except KeyError:
            raise PlanError(f"block {block_id!r} is not resident") from None

    def _found_once(self, blocks: Iterable[Hashable]) -> list[tuple[Hashable, Block]]:
        found = {}
        for block_id in blocks:
            if block_id in found:
                raise PlanError(f"block {block_id!r} was named twice; each may be named once")
            found[block_id] = self._block(block_id)
        return list(found.items())

    def _change_pins(self, found: list[tuple[Hashable, Block]], *, by: int) -> None:
        touched: dict[str, Claim] = {}
        for _, block in found:
            if (block.pins > 0) == (block.pins + by > 0):
                block.pins += by
                continue
            self._tally.count(block, by=-1)
            block.pins += by
            self._tally.count(block, by=1)
            if block.holders == 1:
                touched.update(block.reserving)
        self._relist(touched.values())

    def _change_holders(self, found: list[tuple[Hashable, Block]], claim: Claim, *, holds: bool) -> None:
        touched = {claim.claim_id: claim}
        for block_id, block in found:
            self._tally.count(block, by=-1)
            if not claim.shelf.mode.reserves_blocks:
                if holds:
                    block.yielding[claim.claim_id] = claim
                else:
                    del block.yielding[claim.claim_id]
            else:
                moved = block.join(claim) if holds else block.leave(claim)
                touched.update((other.claim_id, other) for other in moved)
            self._tally.count(block, by=1)
            if holds:
                claim.blocks.add(block_id)
            else:
                claim.blocks.discard(block_id)
        self._relist(touched.values())

    def _relist(self, touched: Iterable[Claim]) -> None:
        """Put reserving claims back where their new counts belong. O(claims x log claims)."""
        for claim in touched:
            if claim.shelf.mode.reserves_blocks:
                self._shelves.place(
                    claim.shelf,
                    claim.standing,
                    pinned_blocks=claim.alone_pinned_blocks,
                    is_entangled=claim.closely_shared_blocks > 0,
                    shares_widely=claim.widely_shared_blocks > 0,
                )


def _some(claims: Group) -> str:
    """The names of a few claims, and how many more there are."""
    shown = ", ".join(sorted(claims)[:8])
    return shown if len(claims) <= 8 else f"{shown} and {len(claims) - 8} more"
