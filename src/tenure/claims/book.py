"""The claims of one runtime and how they move: each step is checked, journalled, reported, counted, in that order."""

from __future__ import annotations

import heapq
import logging
from bisect import bisect_left, insort
from collections import OrderedDict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from tenure.claims.coverage import Coverage, FreedBlocks, LiveClaim
from tenure.claims.event_types import EventType
from tenure.claims.events import FieldValue
from tenure.claims.journal import EndedClaim, Journal, JournalEntry
from tenure.claims.lifecycle import TERMINAL_STATES, next_state
from tenure.claims.objects import ResidentClaim
from tenure.claims.telemetry import EventSink
from tenure.errors import ClaimError, DiskFullError

_LOG = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """One event about one claim that is about to happen.

    `end_reason` is given when the event ends the claim.
    """

    live: LiveClaim
    event_type: EventType
    fields: Mapping[str, FieldValue]
    request_id: str | None = None
    end_reason: str | None = None


class ClaimBook:
    """Every claim that the runtime answers for, and those that ended lately.

    Guarantees that a claim moves only along the transition table; that each step is in the journal before it is
    reported; and that a step which the table does not have, or an acceptance that cannot be journalled, changes
    nothing. The end of a claim is never held up by a full disk: it is journalled again with the next step.

    Args:
        sink: where events go.
        journal: where claims are kept across a restart.
        remembered_ends: how many ended claims that still have blocks on the device are remembered, so that the loss of
            those blocks can be reported as a loss after release.
    """

    def __init__(self, *, sink: EventSink, journal: Journal, remembered_ends: int) -> None:
        self.coverage = Coverage()
        self.journal = journal
        self._sink = sink
        self._remembered_ends = remembered_ends
        self._live: dict[str, LiveClaim] = {}
        self._ended: OrderedDict[str, LiveClaim] = OrderedDict()
        self._expiries: list[tuple[float, str]] = []
        self._largest_first: list[tuple[int, str]] = []
        self._unjournalled: dict[str, JournalEntry] = {}

    def __len__(self) -> int:
        return len(self._live)

    def live(self) -> Iterator[LiveClaim]:
        """Every claim that the runtime answers for, in order of acceptance."""
        return iter(self._live.values())

    def find(self, claim_id: str) -> LiveClaim | None:
        """The live or lately ended claim of that id, or None."""
        return self._live.get(claim_id, self._ended.get(claim_id))

    def live_one(self, claim_id: str) -> LiveClaim:
        """The live claim of that id. Raises ClaimError when there is none."""
        live = self._live.get(claim_id)
        if live is None:
            message = f"no live claim has the id {claim_id!r}"
            raise ClaimError(message, field="claim_id", clause="TNR-LIFE-001")
        return live

    def ended(self, claim_id: str) -> EndedClaim | None:
        """How the claim of that id ended, None when it is live or never was."""
        behind = self._unjournalled.get(claim_id)
        if behind is not None and behind.ended_at_s is not None:
            return EndedClaim(owner_scope=behind.claim.owner_scope, revision=behind.claim.revision, state=behind.state)
        return self.journal.ended(claim_id)

    def open(self, live: LiveClaim, *, now_s: float) -> None:
        """Journal a newly accepted claim and cover its blocks. Raises DiskFullError, and changes nothing."""
        self._settle_debts()
        self.journal.accept(_entry(live, now_s=now_s))
        self.adopt(live)

    def adopt(self, live: LiveClaim) -> None:
        """Cover the blocks of a claim that is in the journal already."""
        self._live[live.claim.claim_id] = live
        self.coverage.add(live)
        insort(self._largest_first, (-live.claim.footprint_blocks, live.claim.claim_id))
        self.watch_expiry(live)

    def watch_expiry(self, live: LiveClaim) -> None:
        """See to it that the claim is among those that are due once its duration has passed."""
        if live.expires_at_s is not None:
            heapq.heappush(self._expiries, (live.expires_at_s, live.claim.claim_id))

    def due(self, *, now_s: float) -> list[LiveClaim]:
        """The claims whose duration has passed, soonest first. Asking again gives only newer ones."""
        found: dict[str, LiveClaim] = {}
        while self._expiries and self._expiries[0][0] <= now_s:
            _, claim_id = heapq.heappop(self._expiries)
            live = self._live.get(claim_id)
            if live is not None and live.expires_at_s is not None and live.expires_at_s <= now_s:
                found[claim_id] = live
        return list(found.values())

    def next_expiry_s(self) -> float | None:
        """When the next claim expires, None when none will."""
        while self._expiries:
            expires_at_s, claim_id = self._expiries[0]
            live = self._live.get(claim_id)
            if live is not None and live.expires_at_s == expires_at_s:
                return expires_at_s
            heapq.heappop(self._expiries)
        return None

    def report(
        self,
        event_type: EventType,
        fields: Mapping[str, FieldValue],
        *,
        claim: LiveClaim,
        request_id: str | None = None,
    ) -> int:
        """Emit an event about a claim that moves it nowhere."""
        return self._sink.emit(
            event_type,
            fields,
            claim_id=claim.claim.claim_id,
            prefix_id=claim.claim.object_id,
            request_id=request_id,
        )

    def take(self, steps: Sequence[Step], *, now_s: float) -> list[int]:
        """Take steps together: all are legal and journalled, or none is taken. Returns the events' numbers.

        Raises:
            ClaimError: the transition table has no such step; nothing was changed.
        """
        targets = [next_state(step.live.state, step.event_type, claim_id=step.live.claim.claim_id) for step in steps]
        ends = [now_s if target in TERMINAL_STATES else None for target in targets]
        self._journal(
            [
                replace(_entry(step.live, now_s=now_s), state=target, ended_at_s=ended_at_s, end_reason=step.end_reason)
                for step, target, ended_at_s in zip(steps, targets, ends, strict=True)
            ]
        )
        numbers = []
        for step, target, ended_at_s in zip(steps, targets, ends, strict=True):
            numbers.append(self.report(step.event_type, step.fields, claim=step.live, request_id=step.request_id))
            self.coverage.change(step.live, target)
            if ended_at_s is not None:
                step.live.ended_at_s, step.live.end_reason = ended_at_s, step.end_reason
                self._close(step.live)
        return numbers

    def renew(self, live: LiveClaim, claim: ResidentClaim, *, now_s: float) -> None:
        """Hold a live claim on the terms of `claim`, its newer revision, from now on.

        Raises:
            DiskFullError: the renewal cannot be journalled; nothing was changed.
        """
        state = next_state(live.state, EventType.CLAIM_RENEWED, claim_id=claim.claim_id)
        expires_at_s = None if claim.duration_s is None else now_s + claim.duration_s
        self._settle_debts()
        self.journal.update([replace(_entry(live, now_s=now_s), claim=claim, state=state, expires_at_s=expires_at_s)])
        live.claim, live.state, live.expires_at_s = claim, state, expires_at_s
        self.watch_expiry(live)
        fields: dict[str, FieldValue] = {
            "revision": claim.revision,
            "expires_at_s": expires_at_s,
            "clock_s": now_s,
            "duration_s": claim.duration_s,
        }
        self.report(EventType.CLAIM_RENEWED, fields, claim=live)

    def forget_if_gone(self, live: LiveClaim) -> None:
        """Let go of an ended claim of which nothing is left on the device."""
        if live.surviving_blocks == 0 and self._ended.pop(live.claim.claim_id, None) is not None:
            self.coverage.remove(live)

    def smallest_blocking_set(self, blocks: int) -> tuple[str, ...]:
        """The fewest claims whose end would free that many owed blocks, sorted; empty when no set would.

        Exactly the fewest when no two claims share a block; otherwise a set from which none can be left out. Cost: the
        footprints of the largest claims, down to the last one that is needed.
        """
        chosen = self.first_that_free(blocks, (self._live[claim_id] for _, claim_id in self._largest_first))
        return tuple(sorted(live.claim.claim_id for live in chosen))

    def first_that_free(self, blocks: int, order: Iterable[LiveClaim]) -> list[LiveClaim]:
        """Of live claims, as few of the first as free that many owed blocks, none of them needlessly.

        Empty when all of them would not do. Cost: the footprints of the claims in `order`, down to the last one needed.
        """
        if blocks > self.coverage.owed_blocks:
            return []
        freed = FreedBlocks(self.coverage)
        chosen: list[LiveClaim] = []
        for live in order:
            if freed.blocks >= blocks:
                break
            if live.owes:
                chosen.append(live)
                freed.add(live)
        needed = []
        for live in chosen[::-1]:
            freed.take_back(live)
            if freed.blocks < blocks:
                freed.add(live)
                needed.append(live)
        return needed[::-1]

    def ends_at_s(self, claim_ids: Iterable[str]) -> float | None:
        """When the last of these live claims expires by itself, None when one of them never does or there is none."""
        ends = [self._live[claim_id].expires_at_s for claim_id in claim_ids]
        known = [end for end in ends if end is not None]
        return max(known) if known and len(known) == len(ends) else None

    def _close(self, live: LiveClaim) -> None:
        claim_id = live.claim.claim_id
        del self._live[claim_id]
        del self._largest_first[bisect_left(self._largest_first, (-live.claim.footprint_blocks, claim_id))]
        if live.surviving_blocks == 0:
            self.coverage.remove(live)
            return
        self._ended[claim_id] = live
        if len(self._ended) > self._remembered_ends:
            _, forgotten = self._ended.popitem(last=False)
            self.coverage.remove(forgotten)

    def _journal(self, entries: Iterable[JournalEntry]) -> None:
        """Journal entries, or remember to do it: a promise that ends may not be held up by a full disk."""
        wanted = self._unjournalled | {entry.claim.claim_id: entry for entry in entries}
        if not wanted:
            return
        try:
            self.journal.update(wanted.values())
        except DiskFullError as error:
            if not self._unjournalled:
                _LOG.error("the journal is behind, and will be brought up to date with the next step: %s", error)
            self._unjournalled = wanted
            return
        self._unjournalled = {}

    def _settle_debts(self) -> None:
        if self._unjournalled:
            self.journal.update(self._unjournalled.values())
            self._unjournalled = {}


def _entry(live: LiveClaim, *, now_s: float) -> JournalEntry:
    return JournalEntry(
        claim=live.claim,
        state=live.state,
        accepted_at_s=live.accepted_at_s,
        expires_at_s=live.expires_at_s,
        noted_at_s=now_s,
        offload_generation=live.offload_generation,
        ended_at_s=live.ended_at_s,
        end_reason=live.end_reason,
    )
