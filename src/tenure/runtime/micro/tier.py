"""The slower tier of the reference runtime: rows of offloaded claims, kept bit for bit, with failures on demand."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass

from tenure.claims.blocks import BlockKey
from tenure.errors import HostTierFullError, TransferError


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredClaim:
    """What the tier holds of one claim: rows by block name, and which offload brought them."""

    offload_generation: int
    rows: Mapping[BlockKey, str]


class HostTier:
    """Holds at most `usable_blocks` blocks, each content once however many claims need it.

    A failed store or load changes nothing. `fail_next_load` makes exactly one load of one claim fail.
    """

    def __init__(self, usable_blocks: int) -> None:
        self.usable_blocks = usable_blocks
        self._claims: dict[str, StoredClaim] = {}
        self._holders: dict[BlockKey, int] = {}
        self._failing: dict[str, str] = {}
        self._on_change: Callable[[Collection[BlockKey]], None] = _nobody

    def watch(self, on_change: Callable[[Collection[BlockKey]], None]) -> None:
        """Call `on_change` with the contents that came or went, after each change. The last one to watch is called."""
        self._on_change = on_change

    @property
    def free_blocks(self) -> int:
        """Room that is left."""
        return self.usable_blocks - len(self._holders)

    def __contains__(self, key: BlockKey) -> bool:
        return key in self._holders

    def new_blocks(self, keys: set[BlockKey]) -> int:
        """How many of these contents are not here yet."""
        return sum(key not in self._holders for key in keys)

    def store(self, claim_id: str, *, offload_generation: int, rows: Mapping[BlockKey, str]) -> None:
        """Keep a claim's rows. Raises HostTierFullError, and keeps nothing, when there is no room."""
        wanted = self.new_blocks(set(rows))
        if wanted > self.free_blocks:
            raise HostTierFullError(
                f"{claim_id} needs {wanted} blocks of the slower tier and {self.free_blocks} of "
                f"{self.usable_blocks} are free"
            )
        before = self._claims.get(claim_id)
        self._forget(claim_id)
        self._claims[claim_id] = StoredClaim(offload_generation=offload_generation, rows=dict(rows))
        for key in rows:
            self._holders[key] = self._holders.get(key, 0) + 1
        self._on_change({*rows, *(before.rows if before is not None else ())})

    def load(self, claim_id: str) -> StoredClaim:
        """A claim's rows, which stay here too. Raises TransferError when they cannot be had."""
        reason = self._failing.pop(claim_id, None)
        if reason is not None:
            raise TransferError(reason)
        if claim_id not in self._claims:
            raise TransferError(f"the slower tier holds nothing of {claim_id}")
        return self._claims[claim_id]

    def holds(self, claim_id: str) -> bool:
        """Whether the tier has rows of this claim."""
        return claim_id in self._claims

    def holders(self) -> tuple[str, ...]:
        """Everyone whose rows are here, in the order in which they came."""
        return tuple(self._claims)

    def drop(self, claim_id: str) -> None:
        """Forget a claim's rows, if there are any."""
        stored = self._claims.get(claim_id)
        self._forget(claim_id)
        if stored is not None:
            self._on_change(stored.rows.keys())

    def _forget(self, claim_id: str) -> None:
        stored = self._claims.pop(claim_id, None)
        for key in stored.rows if stored is not None else ():
            self._holders[key] -= 1
            if not self._holders[key]:
                del self._holders[key]

    def fail_next_load(self, claim_id: str, *, reason: str) -> None:
        """The next load of this claim fails, once."""
        self._failing[claim_id] = reason

    def clear(self) -> None:
        """Lose everything, as a crash of the machine would."""
        lost = list(self._holders)
        self._claims.clear()
        self._holders.clear()
        self._failing.clear()
        self._on_change(lost)


def _nobody(keys: Collection[BlockKey]) -> None:
    """Until a runtime watches."""
