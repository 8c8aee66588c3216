"""Which claims cover which block, and what of each claim is on the device: constant work for each block that moves."""

from __future__ import annotations

from collections.abc import Container
from dataclasses import dataclass, field

from tenure.claims.blocks import BlockKey, block_keys, block_names
from tenure.claims.lifecycle import DEVICE_STATES, HOST_STATES, RESPONSIBLE_STATES
from tenure.claims.modes import ClaimState, ProtectionMode
from tenure.claims.objects import ClaimStatus, ResidentClaim


@dataclass(slots=True, eq=False)
class LiveClaim:
    """One accepted claim, as it stands. Changed by the registry alone.

    Attributes:
        missing: positions of the footprint that are not on the device.
        leading_blocks: unbroken run of blocks on the device from the first one covered.
        missing_required: how many of the predicate's blocks are not on the device.
    """

    claim: ResidentClaim
    keys: tuple[BlockKey, ...]
    state: ClaimState
    accepted_at_s: float
    expires_at_s: float | None
    missing: set[int]
    missing_required: int
    leading_blocks: int
    offload_generation: int = 0
    ended_at_s: float | None = None
    end_reason: str | None = None
    last_restoration_failure: int | None = None
    _positions: dict[BlockKey, int] = field(default_factory=dict)

    @classmethod
    def begin(
        cls,
        claim: ResidentClaim,
        *,
        state: ClaimState,
        accepted_at_s: float,
        expires_at_s: float | None,
        resident: Container[BlockKey],
        keys: tuple[BlockKey, ...] | None = None,
    ) -> LiveClaim:
        """The claim with what `resident` holds of it now. Cost: linear in the footprint."""
        named = block_keys(claim) if keys is None else keys
        begun = cls(
            claim=claim, keys=named, state=state, accepted_at_s=accepted_at_s, expires_at_s=expires_at_s,
            missing=set(), missing_required=0, leading_blocks=0,
        )  # fmt: skip
        begun.look_again(resident)
        return begun

    def look_again(self, resident: Container[BlockKey]) -> None:
        """Take stock of what is on the device. Cost: linear in the footprint."""
        first = self.claim.materialization_predicate.start_block
        required = self.claim.materialization_predicate.required_blocks
        self.missing = {position for position, key in enumerate(self.keys, first) if key not in resident}
        if len(self.missing) == len(self.keys):
            self.missing_required, self.leading_blocks = required, 0
            return
        self.missing_required = sum(1 for position in self.missing if position < first + required)
        self.leading_blocks = min(self.missing) - first if self.missing else len(self.keys)

    @property
    def holds(self) -> bool:
        """Whether the predicate is true on the device."""
        return self.missing_required == 0

    @property
    def owes(self) -> bool:
        """Whether the blocks count as owed now: a live claim in a reserving mode, there yet or not.

        An offloadable claim that is in a lower tier is kept there by its own terms, and takes no room (TNR-TIER-007).
        Any other claim that is there, as a restart may leave it, is owed its room on the device.
        """
        mode = self.claim.protection_mode
        if not mode.reserves_blocks or self.state not in RESPONSIBLE_STATES:
            return False
        return mode is not ProtectionMode.OFFLOADABLE or self.state not in HOST_STATES

    @property
    def reserves(self) -> bool:
        """Whether blocks on the device count as protected now: a live claim in a reserving mode, not in a lower tier."""
        return self.owes and self.state not in HOST_STATES

    @property
    def is_hard(self) -> bool:
        """Whether the blocks may not be taken without an event first."""
        return self.reserves and self.claim.protection_mode is ProtectionMode.HARD_PROTECTED

    @property
    def surviving_blocks(self) -> int:
        """How many blocks of the footprint are on the device."""
        return len(self.keys) - len(self.missing)

    def position_of(self, key: BlockKey) -> int:
        """The logical position of a block that this claim covers. Cost: constant after the first call."""
        if self.claim.block_hashes is None:
            return int(key[1])
        if not self._positions:
            self._positions = {key: at for at, key in enumerate(self.keys, self.claim.footprint_positions.start)}
        return self._positions[key]

    def lose(self, position: int) -> bool:
        """Note that a block goes, and say whether it was there."""
        if position in self.missing:
            return False
        self.missing.add(position)
        offset = position - self.claim.footprint_positions.start
        if offset < self.claim.materialization_predicate.required_blocks:
            self.missing_required += 1
        self.leading_blocks = min(self.leading_blocks, offset)
        return True

    def gain(self, position: int) -> None:
        """Note that a block is on the device."""
        if position not in self.missing:
            return
        self.missing.discard(position)
        first = self.claim.footprint_positions.start
        if position - first < self.claim.materialization_predicate.required_blocks:
            self.missing_required -= 1
        while self.leading_blocks < len(self.keys) and first + self.leading_blocks not in self.missing:
            self.leading_blocks += 1

    def breaks_without(self, position: int) -> bool:
        """Whether losing that block would make a true predicate false."""
        offset = position - self.claim.footprint_positions.start
        return (
            self.state in DEVICE_STATES
            and self.holds
            and offset < self.claim.materialization_predicate.required_blocks
            and position not in self.missing
        )

    def status(self) -> ClaimStatus:
        """The claim now, as a value."""
        return ClaimStatus(
            claim=self.claim,
            state=self.state,
            accepted_at_s=self.accepted_at_s,
            expires_at_s=self.expires_at_s,
            ended_at_s=self.ended_at_s,
            end_reason=self.end_reason,
            surviving_required_blocks=self.claim.materialization_predicate.required_blocks - self.missing_required,
            surviving_blocks=self.surviving_blocks,
            offload_generation=self.offload_generation,
        )


@dataclass(slots=True, eq=False)
class _SharedBlock:
    """A block that several claims cover, with how many of them owe and reserve it, and whether it is on the device."""

    claims: dict[str, LiveClaim]
    owing: int
    reserving: int
    hard: int
    present: bool


class Coverage:
    """The claims of every covered block, and how many blocks are owed and protected, shared ones counted once.

    Cost: linear in the footprint when a claim comes, goes or changes what it reserves; constant to ask about a block,
    whatever the number of claims.
    """

    def __init__(self) -> None:
        self._blocks: dict[BlockKey, LiveClaim | _SharedBlock] = {}
        self._owed_blocks = 0
        self._protected_blocks = 0

    @property
    def owed_blocks(self) -> int:
        """How many blocks live reserving claims are owed on the device, shared ones once, there yet or not."""
        return self._owed_blocks

    @property
    def protected_blocks(self) -> int:
        """How many blocks that are on the device live reserving claims cover there, shared ones once."""
        return self._protected_blocks

    def add(self, live: LiveClaim) -> None:
        """Cover the blocks of a claim that is not covered yet."""
        if self._blocks.keys().isdisjoint(live.keys):
            self._blocks.update(dict.fromkeys(live.keys, live))
            self._owed_blocks += len(live.keys) if live.owes else 0
            self._protected_blocks += live.surviving_blocks if live.reserves else 0
            return
        for position, key in enumerate(live.keys, live.claim.footprint_positions.start):
            self._add_block(key, live, is_present=position not in live.missing)

    def remove(self, live: LiveClaim) -> None:
        """Forget a claim. It must reserve nothing any more: see `change`."""
        for key in live.keys:
            found = self._blocks.get(key)
            if isinstance(found, _SharedBlock):
                found.claims.pop(live.claim.claim_id, None)
            if found is live or (isinstance(found, _SharedBlock) and not found.claims):
                del self._blocks[key]

    def change(self, live: LiveClaim, state: ClaimState) -> None:
        """Move a covered claim to `state`, and count its blocks as owed and protected or not, as that state demands."""
        owed, reserved, was_hard = live.owes, live.reserves, live.is_hard
        live.state = state
        owing, reserving, hard = live.owes - owed, live.reserves - reserved, live.is_hard - was_hard
        if owing == reserving == 0:
            return
        for position, key in enumerate(live.keys, live.claim.footprint_positions.start):
            found = self._blocks.get(key)
            if found is live:
                self._owed_blocks += owing
                self._protected_blocks += reserving if position not in live.missing else 0
            elif isinstance(found, _SharedBlock):
                self._count(found, owing=owing, reserving=reserving, hard=hard)

    def note(self, key: BlockKey, *, is_present: bool) -> None:
        """Count a covered block that comes to the device or leaves it. To be called before its claims are told."""
        found = self._blocks.get(key)
        if isinstance(found, _SharedBlock):
            changed = is_present - found.present
            found.present = is_present
            self._protected_blocks += changed if found.reserving else 0
        elif found is not None and found.reserves:
            self._protected_blocks += is_present - (found.position_of(key) not in found.missing)

    def unowed(self, keys: tuple[BlockKey, ...]) -> list[bool]:
        """For each block, whether no live claim is owed it. Cost: linear."""
        if self._blocks.keys().isdisjoint(keys):
            return [True] * len(keys)
        return [not self.owing(key) for key in keys]

    def owed_among(self, claim: ResidentClaim) -> int:
        """How many of the blocks that `claim` would cover are owed already.

        Cost: linear in the footprint or in the number of covered blocks, whichever is less.
        """
        if claim.footprint_blocks <= len(self._blocks):
            return sum(self.owing(key) > 0 for key in block_keys(claim))
        scope, names = block_names(claim)
        return sum(key[0] == scope and key[1] in names and self.owing(key) > 0 for key in self._blocks)

    def is_protected(self, key: BlockKey) -> bool:
        """Whether a live reserving claim covers the block."""
        found = self._blocks.get(key)
        if found is None:
            return False
        return found.reserving > 0 if isinstance(found, _SharedBlock) else found.reserves

    def is_hard_protected(self, key: BlockKey) -> bool:
        """Whether a live hard_protected claim covers the block."""
        found = self._blocks.get(key)
        if found is None:
            return False
        return found.hard > 0 if isinstance(found, _SharedBlock) else found.is_hard

    def covering(self, key: BlockKey) -> tuple[LiveClaim, ...]:
        """The claims that cover the block, in the order in which they were accepted."""
        found = self._blocks.get(key)
        if found is None:
            return ()
        return tuple(found.claims.values()) if isinstance(found, _SharedBlock) else (found,)

    def exclusive_blocks(self, live: LiveClaim) -> int:
        """How many blocks would no longer be owed if this claim ended. Cost: linear in the footprint."""
        return sum(1 for key in live.keys if self.owing(key) == 1) if live.owes else 0

    def owing(self, key: BlockKey) -> int:
        """How many live claims are owed the block."""
        found = self._blocks.get(key)
        if found is None:
            return 0
        return found.owing if isinstance(found, _SharedBlock) else int(found.owes)

    def _add_block(self, key: BlockKey, live: LiveClaim, *, is_present: bool) -> None:
        found = self._blocks.get(key)
        if found is None:
            self._blocks[key] = live
            self._owed_blocks += live.owes
            self._protected_blocks += live.reserves and is_present
            return
        if not isinstance(found, _SharedBlock):
            found = _SharedBlock(
                {found.claim.claim_id: found},
                owing=int(found.owes),
                reserving=int(found.reserves),
                hard=int(found.is_hard),
                present=is_present,
            )
            self._blocks[key] = found
        found.claims[live.claim.claim_id] = live
        self._count(found, owing=int(live.owes), reserving=int(live.reserves), hard=int(live.is_hard))

    def _count(self, shared: _SharedBlock, *, owing: int, reserving: int, hard: int) -> None:
        was_owed, was_protected = shared.owing > 0, shared.reserving > 0
        shared.owing += owing
        shared.reserving += reserving
        shared.hard += hard
        self._owed_blocks += (shared.owing > 0) - was_owed
        if shared.present:
            self._protected_blocks += (shared.reserving > 0) - was_protected


class FreedBlocks:
    """How many blocks would no longer be owed if a set of claims ended, while the set is put together.

    Cost of adding a claim or taking it back: linear in its footprint.
    """

    def __init__(self, coverage: Coverage) -> None:
        self.blocks = 0
        self._coverage = coverage
        self._leaving: dict[BlockKey, int] = {}

    def add(self, live: LiveClaim) -> None:
        """Let a claim that owes blocks and is not in the set end too."""
        for key in live.keys:
            number = self._leaving[key] = self._leaving.get(key, 0) + 1
            self.blocks += number == self._coverage.owing(key)

    def take_back(self, live: LiveClaim) -> None:
        """Let a claim of the set stay after all."""
        for key in live.keys:
            self.blocks -= self._leaving[key] == self._coverage.owing(key)
            self._leaving[key] -= 1
