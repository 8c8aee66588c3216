"""What can be asked of the registry without changing anything."""

from __future__ import annotations

from collections.abc import Iterator

from tenure.claims import answers
from tenure.claims.blocks import BlockKey
from tenure.claims.book import ClaimBook
from tenure.claims.lifecycle import TERMINAL_STATES
from tenure.claims.objects import ClaimStatus


class ClaimQueries:
    """Pure questions. Those about one block cost one look-up, whatever the number of claims."""

    _book: ClaimBook

    def is_protected(self, key: BlockKey) -> bool:
        """Whether a live claim in a reserving mode covers the block. Cost: one look-up."""
        return self._book.coverage.is_protected(key)

    def is_hard_protected(self, key: BlockKey) -> bool:
        """Whether a live hard_protected claim covers the block, so that it may be no victim. Cost: one look-up."""
        return self._book.coverage.is_hard_protected(key)

    def covering(self, key: BlockKey) -> tuple[str, ...]:
        """Ids of the live claims that cover the block, in order of acceptance."""
        found = self._book.coverage.covering(key)
        return tuple(live.claim.claim_id for live in found if live.state not in TERMINAL_STATES)

    @property
    def owed_blocks(self) -> int:
        """Blocks that live reserving claims are owed on the device, shared ones once, computed yet or not.

        What is accepted is decided on this number: owed + active <= usable. Offloadable claims in a lower tier are kept
        there by their terms, and are not counted.
        """
        return self._book.coverage.owed_blocks

    @property
    def protected_blocks(self) -> int:
        """Blocks on the device that live reserving claims keep there, shared ones once. At most `owed_blocks`."""
        return self._book.coverage.protected_blocks

    @property
    def live_claims(self) -> int:
        """How many claims the runtime answers for."""
        return len(self._book)

    @property
    def next_expiry_s(self) -> float | None:
        """When the next claim expires by itself, None when none will."""
        return self._book.next_expiry_s()

    def live(self) -> Iterator[ClaimStatus]:
        """Every claim that the runtime answers for, in order of acceptance."""
        return (live.status() for live in self._book.live())

    def was_accepted(self, claim_id: str) -> bool:
        """Whether a claim of that id was accepted at any time. Cost: one look-up in the journal."""
        return self._book.journal.ever_accepted(claim_id)

    def status(self, claim_id: str) -> ClaimStatus:
        """A live claim, or one that ended and still has blocks on the device. Raises ClaimError for any other."""
        found = self._book.find(claim_id)
        if found is None:
            raise answers.no_such_claim(claim_id)
        return found.status()

    def exclusive_blocks(self, claim_id: str) -> int:
        """Blocks that would no longer be owed if this claim ended. Cost: linear in its footprint."""
        return self._book.coverage.exclusive_blocks(self._book.live_one(claim_id))

    def held_blocks(self, claim_id: str) -> tuple[BlockKey, ...]:
        """The live claim's blocks that are on the device, in order of position. Cost: linear in its footprint.

        A claim may be accepted on rows that are there already. Emit `resident_block_materialized` with the claim's id for
        each of them right after such an acceptance, or a reader of the trace cannot tell which blocks it covers.
        """
        live = self._book.live_one(claim_id)
        positions = live.claim.footprint_positions
        return tuple(key for at, key in zip(positions, live.keys, strict=True) if at not in live.missing)

    def smallest_blocking_set(self, blocks: int) -> tuple[str, ...]:
        """The fewest claims whose end would free that many owed blocks, sorted; empty when no set would."""
        return self._book.smallest_blocking_set(blocks)
