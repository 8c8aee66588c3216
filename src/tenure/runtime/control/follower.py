"""Keeps the ledger in step with the claims, from the claims' own events: there is no second bookkeeping to drift."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from tenure.arbiter.ledger import PoolLedger
from tenure.claims.event_types import EventType
from tenure.claims.events import FieldValue
from tenure.claims.lifecycle import HOST_STATES
from tenure.claims.modes import ProtectionMode
from tenure.claims.telemetry import EventSink

_ENDS = frozenset({EventType.CLAIM_DEMOTED, EventType.CLAIM_EXPIRED, EventType.CLAIM_RELEASED, EventType.CLAIM_HARMED})
_BEGINS = frozenset({EventType.CLAIM_ACCEPTED, EventType.CLAIM_CONDITIONALLY_ACCEPTED})

_OFF_DEVICE = frozenset(state.value for state in HOST_STATES)


class LedgerFollower:
    """An event sink that forwards every event and then moves the ledger to where the event says the claim is.

    Args:
        sink: where the events go.
        ledger: what follows them.
        on_end: told of every claim that ends.
        on_harm: told of every claim that is harmed: its id, why, and because of which request.
    """

    def __init__(
        self,
        sink: EventSink,
        ledger: PoolLedger,
        *,
        on_end: Callable[[str], None],
        on_harm: Callable[[str, str, str | None], None],
    ) -> None:
        self._sink = sink
        self._ledger = ledger
        self._on_end = on_end
        self._on_harm = on_harm
        self.off_device: set[str] = set()

    def resize(self, usable_blocks: int) -> None:
        """Events say from now on that so many blocks are usable, where the sink writes that down."""
        if hasattr(self._sink, "usable_blocks"):
            self._sink.usable_blocks = usable_blocks

    def emit(
        self,
        event_type: EventType,
        fields: Mapping[str, FieldValue] | None = None,
        *,
        claim_id: str | None = None,
        prefix_id: str | None = None,
        request_id: str | None = None,
    ) -> int:
        """Forward an event, then follow it. Returns its number."""
        said = {} if fields is None else fields
        number = self._sink.emit(event_type, said, claim_id=claim_id, prefix_id=prefix_id, request_id=request_id)
        if claim_id is not None and event_type.is_claim_event:
            self._follow(event_type, said, claim_id)
            if event_type is EventType.CLAIM_HARMED:
                self._on_harm(claim_id, str(said["harm_cause"]), request_id)
        return number

    def _follow(self, event_type: EventType, said: Mapping[str, FieldValue], claim_id: str) -> None:
        if event_type in _BEGINS:
            mode = ProtectionMode(str(said["protection_mode"]))
            self._ledger.add_claim(claim_id, mode=mode, ends_at_s=_seconds(said.get("expires_at_s")))
        elif event_type is EventType.CLAIM_RECOVERED:
            self._recover(said, claim_id)
        elif event_type in _ENDS:
            if self._ledger.has_claim(claim_id):
                self._ledger.drop_claim(claim_id)
            self.off_device.discard(claim_id)
            self._on_end(claim_id)
        elif event_type in (EventType.CLAIM_MATERIALIZED, EventType.CLAIM_RESTORED):
            self.off_device.discard(claim_id)
            self._ledger.mark(claim_id, is_whole=True)
        elif event_type is EventType.CLAIM_OFFLOADED:
            self.off_device.add(claim_id)
            self._ledger.let_go(claim_id, tuple(self._ledger.held_blocks(claim_id)))
            self._ledger.mark(claim_id, is_whole=False)
        elif event_type is EventType.CLAIM_BLOCK_LOST:
            self._ledger.let_go(claim_id, [int(str(said["physical_block_id"]))])
        elif event_type is EventType.CLAIM_RENEWED:
            self._ledger.set_end(claim_id, _seconds(said.get("expires_at_s")))

    def _recover(self, said: Mapping[str, FieldValue], claim_id: str) -> None:
        mode = ProtectionMode(str(said["protection_mode"]))
        self._ledger.add_claim(claim_id, mode=mode, ends_at_s=_seconds(said.get("expires_at_s")))
        if said.get("claim_status") in _OFF_DEVICE:
            self.off_device.add(claim_id)


def _seconds(value: FieldValue) -> float | None:
    return float(value) if isinstance(value, int | float) else None
