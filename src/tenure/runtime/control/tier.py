"""The slower tier as the control plane sees it: which claims have rows there, each content once, failures on demand."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass

from tenure.claims.blocks import BlockKey
from tenure.errors import HostTierFullError, RowsLostError, TransferError


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredClaim:
    """What the tier holds of one claim: rows by block name, and which offload brought them."""

    offload_generation: int
    rows: Mapping[BlockKey, object]


class InjectedFailureError(TransferError):
    """A transfer that failed because somebody asked for it, to see what follows."""


class ClaimTier:
    """Holds at most `usable_blocks` blocks, each content once however many claims need it.

    A failed store or load changes nothing. `fail_next_load` makes exactly one load of one claim fail. Rows are opaque:
    whoever holds them says with `discard` what becomes of a content that nobody needs any more, and with `verify` (which
    raises `TransferError`) whether it is still what was stored. `borrowed` says how many blocks of the same memory are in
    use by others.
    """

    def __init__(
        self,
        usable_blocks: int,
        *,
        verify: Callable[[object], None] | None = None,
        discard: Callable[[object], None] | None = None,
        borrowed: Callable[[], int] = lambda: 0,
    ) -> None:
        self.usable_blocks = usable_blocks
        self._verify = _accept if verify is None else verify
        self._discard = _accept if discard is None else discard
        self._borrowed = borrowed
        self._claims: dict[str, StoredClaim] = {}
        self._rows: dict[BlockKey, object] = {}
        self._holders: dict[BlockKey, int] = {}
        self._failing: dict[str, str] = {}
        self._on_change: Callable[[Collection[BlockKey]], None] = _nobody

    def watch(self, on_change: Callable[[Collection[BlockKey]], None]) -> None:
        """Call `on_change` with the contents that came or went, after each change. The last one to watch is called."""
        self._on_change = on_change

    @property
    def free_blocks(self) -> int:
        """Room that is left."""
        return max(0, self.usable_blocks - len(self._holders) - self._borrowed())

    @property
    def held_blocks(self) -> int:
        """Contents that are here."""
        return len(self._holders)

    def __contains__(self, key: BlockKey) -> bool:
        return key in self._holders

    def new_blocks(self, keys: set[BlockKey]) -> int:
        """How many of these contents are not here yet."""
        return sum(key not in self._holders for key in keys)

    def store(self, claim_id: str, *, offload_generation: int, rows: Mapping[BlockKey, object]) -> None:
        """Keep a claim's rows. Raises HostTierFullError, and keeps nothing, when there is no room."""
        self.save(claim_id, offload_generation=offload_generation, keys=rows, save=rows.__getitem__)

    def save(
        self,
        claim_id: str,
        *,
        offload_generation: int,
        keys: Iterable[BlockKey],
        save: Callable[[BlockKey], object],
    ) -> None:
        """Keep a claim's rows; `save` brings those of a content that is not here yet, and is called for no other.

        Raises HostTierFullError when there is no room, and what `save` raises; the tier is as before then.
        """
        wanted = list(dict.fromkeys(keys))
        new = [key for key in wanted if key not in self._holders]
        if len(new) > self.free_blocks:
            raise HostTierFullError(
                f"{claim_id} needs {len(new)} blocks of the slower tier and {self.free_blocks} of "
                f"{self.usable_blocks} are free"
            )
        brought: dict[BlockKey, object] = {}
        try:
            for key in new:
                brought[key] = save(key)
        except BaseException:
            for saved in brought.values():
                self._discard(saved)
            raise
        self._rows.update(brought)
        for key in wanted:
            self._holders[key] = self._holders.get(key, 0) + 1
        before = self._claims.get(claim_id)
        self._forget(claim_id)
        self._claims[claim_id] = StoredClaim(
            offload_generation=offload_generation, rows={key: self._rows[key] for key in wanted}
        )
        self._on_change({*wanted, *(before.rows if before is not None else ())})

    def load(self, claim_id: str) -> StoredClaim:
        """A claim's rows, which stay here too. Raises TransferError when they cannot be had as they were stored."""
        reason = self._failing.pop(claim_id, None)
        if reason is not None:
            raise InjectedFailureError(reason)
        if claim_id not in self._claims:
            raise RowsLostError(f"the slower tier holds nothing of {claim_id}")
        stored = self._claims[claim_id]
        for saved in stored.rows.values():
            self._verify(saved)
        return stored

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
                self._discard(self._rows.pop(key))

    def fail_next_load(self, claim_id: str, *, reason: str) -> None:
        """The next load of this claim fails, once."""
        self._failing[claim_id] = reason

    def borrowed_changed(self) -> None:
        """Others took or gave back blocks of the same memory: whoever watches looks again."""
        self._on_change(())

    def clear(self) -> None:
        """Lose everything, as a crash of the machine would."""
        lost = list(self._holders)
        for saved in self._rows.values():
            self._discard(saved)
        self._claims.clear()
        self._rows.clear()
        self._holders.clear()
        self._failing.clear()
        self._on_change(lost)


def _nobody(keys: Collection[BlockKey]) -> None:
    """Until a runtime watches."""


def _accept(saved: object) -> None:
    """Rows that need no care."""
