"""What blocks that come and go do to claims, and how claims end: the part of the registry that is about losses."""

from __future__ import annotations

from collections.abc import Iterable

from tenure.claims import answers, reports
from tenure.claims.blocks import BlockKey
from tenure.claims.book import ClaimBook, Step
from tenure.claims.clock import Clock
from tenure.claims.coverage import LiveClaim
from tenure.claims.event_types import EventType
from tenure.claims.lifecycle import HOST_STATES, RELEASED_STATES, TERMINAL_STATES
from tenure.claims.modes import Action, ClaimState, HarmCause, Outcome, ReleaseReason
from tenure.claims.receipts import Receipt

_RELEASES = {
    EventType.CLAIM_DEMOTED: Outcome.DEMOTED,
    EventType.CLAIM_EXPIRED: Outcome.EXPIRED,
    EventType.CLAIM_RELEASED: Outcome.RELEASED,
}


class BlockMoves:
    """Blocks arrive and leave; whatever that does to a claim is reported before it happens."""

    _book: ClaimBook
    _clock: Clock

    def block_arrived(self, key: BlockKey) -> None:
        """Note that a block is on the device, and report every claim whose predicate that makes true."""
        covering = self._book.coverage.covering(key)
        if covering:
            self._book.coverage.note(key, is_present=True)
        for live in covering:
            if live.state in TERMINAL_STATES:
                continue
            live.gain(live.position_of(key))
            if live.holds and live.state in (ClaimState.ACCEPTED, ClaimState.CONDITIONALLY_ACCEPTED):
                step = Step(live=live, event_type=EventType.CLAIM_MATERIALIZED, fields=reports.materialized(live))
                self._book.take([step], now_s=self._clock())

    def blocks_arrived(self, keys: Iterable[BlockKey]) -> None:
        """Note that blocks are on the device, as `block_arrived` for each."""
        for key in keys:
            self.block_arrived(key)

    def block_leaving(
        self,
        key: BlockKey,
        *,
        request_id: str | None = None,
        physical_block_id: int | None = None,
        cause: HarmCause = HarmCause.EVICTED_UNDER_PRESSURE,
    ) -> bool:
        """Note that a block is about to leave the device, and report what that does to every claim that covers it.

        Returns: whether a live reserving claim protected the block until now, for `is_protected_resident`.
        Cost: one look-up when no claim covers the block; otherwise one event for each claim that does.
        """
        covering = self._book.coverage.covering(key)
        if not covering:
            return False
        protected = self._book.coverage.is_protected(key)
        now_s = self._clock()
        due = [
            live
            for live in covering
            if live.ended_at_s is None and live.expires_at_s is not None and live.expires_at_s <= now_s
        ]
        if due:
            self._release(due, EventType.CLAIM_EXPIRED, ReleaseReason.DURATION_ELAPSED)
        self._book.coverage.note(key, is_present=False)
        for live in covering:
            self._lose(live, live.position_of(key), request_id, physical_block_id, cause)
        return protected

    def _release(
        self,
        claims: list[LiveClaim],
        event_type: EventType,
        reason: ReleaseReason,
        *,
        request_id: str | None = None,
        action: Action | None = None,
    ) -> list[Receipt]:
        now_s = self._clock()
        steps = [
            Step(
                live=live,
                event_type=event_type,
                fields=reports.released(live, reason, now_s=now_s, action=action),
                request_id=request_id,
                end_reason=reason.value,
            )
            for live in claims
        ]
        self._book.take(steps, now_s=now_s)
        return [
            answers.released(live, _RELEASES[event_type], reason.value, request_id=request_id, action=action)
            for live in claims
        ]

    def _lose(
        self,
        live: LiveClaim,
        position: int,
        request_id: str | None,
        physical_block_id: int | None,
        cause: HarmCause,
    ) -> None:
        breaks = live.breaks_without(position)
        if not live.lose(position) or live.state in HOST_STATES:
            return
        if breaks:
            fields = reports.harmed(live, cause, physical_block_id=physical_block_id, position=position)
            step = Step(live=live, event_type=EventType.CLAIM_HARMED, fields=fields, request_id=request_id,
                        end_reason=cause.value)  # fmt: skip
            self._book.take([step], now_s=self._clock())
        elif live.state in RELEASED_STATES:
            fields = reports.block_lost(live, position=position, physical_block_id=physical_block_id)
            self._book.report(EventType.CLAIM_BLOCK_LOST_AFTER_RELEASE, fields, claim=live, request_id=request_id)
        elif live.state not in TERMINAL_STATES:
            fields = reports.block_lost(live, position=position, physical_block_id=physical_block_id)
            fields["predicate_satisfied"] = live.holds
            self._book.report(EventType.CLAIM_BLOCK_LOST, fields, claim=live, request_id=request_id)
        if live.ended_at_s is not None:
            self._book.forget_if_gone(live)
