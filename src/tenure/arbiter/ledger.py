"""The view that decisions are made on, kept up to date by whoever moves blocks, so that no decision scans the pool.

Every block the runtime has in use is here with two facts: how many active requests use it, and which claims stand on
it. Blocks that the same claims stand on form a *group*; only counts per group are kept in order. A block gives way
only when all claims of its group do, which is why blocks that two claims share are counted once and never sold twice.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable
from dataclasses import dataclass, field
from types import MappingProxyType

from tenure.arbiter.pressure import Pressure
from tenure.arbiter.standing import NO_REUSE, NOBODY, Group, Reuse, Shelf, Shelves, Standing
from tenure.claims.modes import ProtectionMode
from tenure.errors import PlanError


@dataclass(slots=True)
class _Block:
    pins: int = 0
    reserving: Group = NOBODY
    yielding: Group = NOBODY

    @property
    def group(self) -> Group:
        """Who has to give way before the block may go: reserving claims first, the others only without them."""
        return self.reserving or self.yielding


@dataclass(slots=True)
class _Claim:
    claim_id: str
    shelf: Shelf
    order: int
    ends_at_s: float | None
    blocks: set[Hashable] = field(default_factory=set)
    groups: set[Group] = field(default_factory=set)


class PoolLedger:
    """Counts of a pool by who needs the blocks, and claims in the order in which they would give way.

    Guarantees: `free + unclaimed + yielding + protected idle + pinned == usable` after every call; a block under a
    reserving claim, or in use, cannot be vacated; a failed call changes nothing. All questions that `decide` asks are
    O(1) or O(log claims); a change costs O(blocks changed + claims touched x log claims).

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
        self._blocks: dict[Hashable, _Block] = {}
        self._claims: dict[str, _Claim] = {}
        self._idle: dict[Group, int] = {NOBODY: 0}
        self._pinned: dict[Group, int] = {NOBODY: 0}
        self._protected_idle = 0
        self._protected_pinned = 0
        self._pinned_total = 0
        self._yielding_idle = 0
        self._shared_idle = 0
        self._shelves = Shelves()
        self._arrivals = 0

    # --- what decisions ask -------------------------------------------------------------------------------------

    @property
    def free_blocks(self) -> int:
        """Blocks that hold nothing, the promised ones included."""
        return self.usable_blocks - len(self._blocks)

    @property
    def unclaimed_blocks(self) -> int:
        """Idle blocks that nobody claimed: the ordinary victims."""
        return self._idle[NOBODY]

    @property
    def yielding_blocks(self) -> int:
        """Idle blocks on which only claims stand that reserve nothing."""
        return self._yielding_idle

    @property
    def protected_blocks(self) -> int:
        """Blocks under at least one reserving claim, each once, in use or idle."""
        return self._protected_idle + self._protected_pinned

    @property
    def active_blocks(self) -> int:
        """Blocks that active work uses or was promised."""
        return self._pinned_total + self.outstanding_blocks

    def pressure(self, *, required_blocks: int, reuse: Reuse = NO_REUSE) -> Pressure:
        """The inequality for a request that needs `required_blocks` live at once, the reused ones included."""
        overlap = self._protected_pinned + reuse.idle_protected_blocks + reuse.pinned_blocks
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

    @property
    def shared_blocks(self) -> int:
        """Idle blocks on which several claims stand: what no claim alone would free."""
        return self._shared_idle

    def shelf_of(self, claim_id: str) -> Shelf:
        """The shelf a claim is on."""
        return self._claim(claim_id).shelf

    def groups_of(self, claim_id: str) -> frozenset[Group]:
        """The groups of blocks that a claim stands on and that only it, or only it with others, keeps from going."""
        return frozenset(self._claim(claim_id).groups)

    def idle_in(self, group: Group) -> int:
        """Idle blocks of a group."""
        return self._idle.get(group, 0)

    def pinned_in(self, group: Group) -> int:
        """Blocks of a group that active work uses: they are idle, and protected, once it ends."""
        return self._pinned.get(group, 0)

    def pinned_claims(self) -> tuple[str, ...]:
        """Reserving claims with blocks in active use, sorted. O(such groups)."""
        return tuple(sorted({claim for group, blocks in self._pinned.items() if blocks for claim in group}))

    def standing_of(self, claim_id: str) -> Standing:
        """What a claim alone would free now, with its place in the order."""
        claim = self._claim(claim_id)
        return (self.idle_in(frozenset((claim_id,))), claim.order, claim_id)

    def claim_blocks(self, claim_id: str) -> int:
        """How many resident blocks a claim stands on, in use or idle. O(1)."""
        return len(self._claim(claim_id).blocks)

    @property
    def active_unprotected_blocks(self) -> int:
        """Blocks that active work uses or was promised and that no reserving claim covers. For acceptance."""
        return self.active_blocks - self._protected_pinned

    def ends_at_s(self, claim_id: str) -> float | None:
        """When the promised time of a claim runs out, on the clock the runtime passes in; None for no end."""
        return self._claim(claim_id).ends_at_s

    def reuse_of(self, blocks: Iterable[Hashable]) -> Reuse:
        """How these resident blocks stand, for a request that would use them. O(blocks)."""
        unclaimed = pinned = pinned_protected = idle_protected = 0
        by_group: dict[Group, int] = {}
        for block_id in blocks:
            block = self._block(block_id)
            if block.pins:
                pinned += 1
                pinned_protected += bool(block.reserving)
            elif block.group:
                by_group[block.group] = by_group.get(block.group, 0) + 1
                idle_protected += bool(block.reserving)
            else:
                unclaimed += 1
        return Reuse(
            unclaimed_blocks=unclaimed,
            pinned_blocks=pinned,
            pinned_protected_blocks=pinned_protected,
            idle_protected_blocks=idle_protected,
            idle_by_group=MappingProxyType(by_group),
        )

    def holders(self, block_id: Hashable) -> Group:
        """Every claim that stands on a block, whatever its mode."""
        block = self._block(block_id)
        return block.reserving | block.yielding

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
            self._blocks[block_id] = _Block(pins=1)
        self._pinned[NOBODY] += len(taken)
        self._pinned_total += len(taken)

    def pin(self, blocks: Iterable[Hashable]) -> None:
        """One more active request uses these resident blocks."""
        self._change_pins([(block_id, self._block(block_id)) for block_id in blocks], by=1)

    def unpin(self, blocks: Iterable[Hashable]) -> None:
        """One active request fewer uses these blocks; unused ones stay resident until they are vacated."""
        found = [(block_id, self._block(block_id)) for block_id in blocks]
        for block_id, block in found:
            if not block.pins:
                raise PlanError(f"block {block_id!r} is not in use, so it cannot be let go")
        self._change_pins(found, by=-1)

    def vacate(self, blocks: Iterable[Hashable]) -> None:
        """These idle blocks hold nothing any more. Raises PlanError when one is in use or under a reserving claim.

        Claims that reserve nothing simply lose their hold; whoever calls this has told them before.
        """
        found = [(block_id, self._block(block_id)) for block_id in blocks]
        for block_id, block in found:
            if block.pins:
                raise PlanError(f"block {block_id!r} is used by {block.pins} active requests, so it cannot be vacated")
            if block.reserving:
                raise PlanError(
                    f"block {block_id!r} is under {', '.join(sorted(block.reserving))}: "
                    "a release, an offload or a harm has to come before the loss"
                )
        touched: set[str] = set()
        for block_id, block in found:
            self._count(block, by=-1)
            touched |= block.yielding
            for claim_id in block.yielding:
                self._claims[claim_id].blocks.discard(block_id)
            self._regroup(block.yielding)
            del self._blocks[block_id]
        self._relist(touched)

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
        self._claims[claim_id] = _Claim(claim_id, Shelf(mode=mode), self._arrivals, ends_at_s)
        self._arrivals += 1

    def has_claim(self, claim_id: str) -> bool:
        """Whether a claim is in the ledger."""
        return claim_id in self._claims

    def held_blocks(self, claim_id: str) -> frozenset[Hashable]:
        """The resident blocks that a claim stands on."""
        return frozenset(self._claim(claim_id).blocks)

    def hold(self, claim_id: str, blocks: Iterable[Hashable]) -> None:
        """A claim now stands on these resident blocks too. Holding a block twice changes nothing."""
        claim = self._claim(claim_id)
        found = [(block_id, self._block(block_id)) for block_id in blocks]
        fresh = [(block_id, block) for block_id, block in found if block_id not in claim.blocks]
        self._change_holders(fresh, claim, holds=True)

    def let_go(self, claim_id: str, blocks: Iterable[Hashable]) -> None:
        """A claim no longer stands on these blocks: they were lost or moved, and that was reported."""
        claim = self._claim(claim_id)
        found = [(block_id, self._block(block_id)) for block_id in blocks if block_id in claim.blocks]
        self._change_holders(found, claim, holds=False)

    def drop_claim(self, claim_id: str) -> None:
        """A claim ended: its blocks stay resident, under whoever else claims them. O(its blocks)."""
        self.let_go(claim_id, tuple(self._claim(claim_id).blocks))
        self._shelves.remove(claim_id)
        del self._claims[claim_id]

    def mark(self, claim_id: str, *, is_due: bool | None = None, is_whole: bool | None = None) -> None:
        """The promised time of a claim has run out, its predicate came to hold, or the contrary. None: as it was."""
        claim = self._claim(claim_id)
        claim.shelf = Shelf(
            mode=claim.shelf.mode,
            is_due=claim.shelf.is_due if is_due is None else is_due,
            is_whole=claim.shelf.is_whole if is_whole is None else is_whole,
        )
        self._relist({claim_id})

    def set_end(self, claim_id: str, ends_at_s: float | None) -> None:
        """A renewal moved the end of a claim."""
        self._claim(claim_id).ends_at_s = ends_at_s

    # --- bookkeeping --------------------------------------------------------------------------------------------

    def _claim(self, claim_id: str) -> _Claim:
        try:
            return self._claims[claim_id]
        except KeyError:
            raise PlanError(f"claim {claim_id!r} is not in the ledger") from None

    def _block(self, block_id: Hashable) -> _Block:
        try:
            return self._blocks[block_id]
        except KeyError:
            raise PlanError(f"block {block_id!r} is not resident") from None

    def _count(self, block: _Block, *, by: int) -> None:
        """Add or take one block from every total it belongs to."""
        group = block.group
        counts = self._pinned if block.pins else self._idle
        counts[group] = counts.get(group, 0) + by
        if len(group) > 1 and not block.pins:
            self._shared_idle += by
        if block.pins:
            self._pinned_total += by
            self._protected_pinned += by if block.reserving else 0
        elif block.reserving:
            self._protected_idle += by
        elif block.yielding:
            self._yielding_idle += by

    def _regroup(self, group: Group) -> None:
        """After counts changed: a group without blocks is forgotten, one with blocks is known to its claims."""
        if not group:
            return
        exists = self._idle.get(group, 0) + self._pinned.get(group, 0) > 0
        for claim_id in group:
            groups = self._claims[claim_id].groups
            if exists:
                groups.add(group)
            else:
                groups.discard(group)
        if not exists:
            self._idle.pop(group, None)
            self._pinned.pop(group, None)

    def _change_pins(self, found: list[tuple[Hashable, _Block]], *, by: int) -> None:
        touched: set[str] = set()
        for _, block in found:
            was_pinned = block.pins > 0
            if was_pinned == (block.pins + by > 0):
                block.pins += by
                continue
            self._count(block, by=-1)
            block.pins += by
            self._count(block, by=1)
            touched |= block.group
        self._relist(touched)

    def _change_holders(self, found: list[tuple[Hashable, _Block]], claim: _Claim, *, holds: bool) -> None:
        own = frozenset((claim.claim_id,))
        touched: set[str] = {claim.claim_id}
        changed: set[Group] = set()
        for block_id, block in found:
            self._count(block, by=-1)
            changed.add(block.group)
            held = block.reserving if claim.shelf.mode.reserves_blocks else block.yielding
            held = held | own if holds else held - own
            if claim.shelf.mode.reserves_blocks:
                block.reserving = held
            else:
                block.yielding = held
            self._count(block, by=1)
            changed.add(block.group)
            if holds:
                claim.blocks.add(block_id)
            else:
                claim.blocks.discard(block_id)
        for group in changed:
            self._regroup(group)
            touched |= group
        self._relist(touched)

    def _relist(self, touched: Iterable[str]) -> None:
        """Put claims back where their new counts belong. O(claims x log claims)."""
        for claim_id in touched:
            claim = self._claims[claim_id]
            is_entangled = any(len(group) > 1 and self._idle.get(group, 0) for group in claim.groups)
            self._shelves.place(claim.shelf, self.standing_of(claim_id), is_entangled=is_entangled)
