"""What a trace says was where: the examiner's own replay of claims, blocks and requests.

It believes block events over claim events: a claim's predicate holds when the blocks that were said to be cached, less
the victims that were said to be taken, satisfy it. That is how a claim event that lies is found out.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field

from tenure.claims.event_types import EventType
from tenure.conformance.trace import Trace, TraceEvent

ACCEPTANCES = (EventType.CLAIM_ACCEPTED, EventType.CLAIM_CONDITIONALLY_ACCEPTED)
RELEASES = (EventType.CLAIM_DEMOTED, EventType.CLAIM_EXPIRED, EventType.CLAIM_RELEASED)
ENDINGS = (*RELEASES, EventType.CLAIM_HARMED)
WAITING = (EventType.REQUEST_DEFERRED, EventType.REQUEST_REFUSED)
#: Modes in which a victim may never break the predicate of an unreleased claim, reported or not.
PROTECTING_MODES = frozenset({"hard_protected", "demotable", "offloadable", "expiring"})
#: Why a block was taken, when taking it evicted nothing.
NOTHING_EVICTED = "free_uncached"

_PREDICATE = re.compile(r"(leading_prefix_at_least|contiguous_range)\((?:(\d+),\s*)?(\d+)\)")


@dataclass(slots=True)
class ClaimView:
    """One claim as the trace tells it.

    Attributes:
        required: logical positions that must survive; None when the trace never told the predicate.
        blocks: logical position -> physical block, of those said to be cached.
        away: the positions that were moved to a slower tier, while the claim is offloaded.
        held: whether the predicate held at some time since acceptance.
    """

    claim_id: str
    mode: str | None = None
    required: range | None = None
    accepted: TraceEvent | None = None
    released: TraceEvent | None = None
    harmed: TraceEvent | None = None
    refused: TraceEvent | None = None
    revision: int | None = None
    offloaded: TraceEvent | None = None
    held: bool = False
    blocks: dict[int, int] = field(default_factory=dict)

    @property
    def responsible(self) -> bool:
        """Accepted, and neither released nor harmed."""
        return self.accepted is not None and self.released is None and self.harmed is None

    def holds(self, *, without: int | None = None) -> bool:
        """Whether the cached blocks, less physical block `without`, satisfy the predicate. Unknown counts as not."""
        if self.required is None:
            return False
        kept = {position for position, physical in self.blocks.items() if physical != without}
        return kept.issuperset(self.required)

    def leading_blocks(self) -> int:
        """How many blocks from the first on are cached without a hole."""
        count = 0
        while count in self.blocks:
            count += 1
        return count


def required_positions(text: str) -> range | None:
    """The positions that a predicate in its textual form requires; None when it is not of that form."""
    match = _PREDICATE.fullmatch(text.strip())
    if match is None or (match[1] == "contiguous_range") == (match[2] is None):
        return None
    start = int(match[2]) if match[2] is not None else 0
    return range(start, start + int(match[3]))


class Ledger:
    """Replays a trace event by event. `see` an event with it before `apply`, to know how things stood."""

    def __init__(self) -> None:
        self.claims: dict[str, ClaimView] = {}
        self.cached: set[int] = set()
        self.materialized_events = 0

    def claim(self, claim_id: str) -> ClaimView:
        """The view of a claim; a new one when the trace has not named it."""
        return self.claims.setdefault(claim_id, ClaimView(claim_id))

    def view(self, event: TraceEvent) -> ClaimView | None:
        """The claim that an event is about, if it names one that is known."""
        return None if event.claim_id is None else self.claims.get(event.claim_id)

    def holders(self, physical: int) -> list[tuple[ClaimView, int]]:
        """Claims, and the position in each, whose rows are in a physical block."""
        return [
            (claim, position)
            for claim in self.claims.values()
            for position, block in claim.blocks.items()
            if block == physical
        ]

    def protected_blocks(self, *, besides: frozenset[str] = frozenset()) -> set[int]:
        """Physical blocks that unreleased claims of a protecting mode hold; a shared block once."""
        return {
            block
            for claim in self.claims.values()
            if claim.responsible and claim.mode in PROTECTING_MODES and claim.claim_id not in besides
            for block in claim.blocks.values()
        }

    def broken_by(self, event: TraceEvent) -> list[ClaimView]:
        """Unreleased claims whose predicate holds now and no longer once this victim is gone."""
        physical = evicted_block(event)
        if physical is None:
            return []
        return [
            claim
            for claim, _ in self.holders(physical)
            if claim.responsible and claim.holds() and not claim.holds(without=physical)
        ]

    def apply(self, event: TraceEvent) -> None:
        """Take the event as true."""
        if event.kind is EventType.BLOCK_MATERIALIZED:
            self._cache(event)
        elif event.kind is EventType.VICTIM_SELECTED:
            self._evict(evicted_block(event))
        elif event.kind in (EventType.RUNTIME_RESTARTED, EventType.RUNTIME_RESET):
            self._forget_blocks()
        elif event.kind is not None and event.kind.is_claim_event and event.claim_id is not None:
            self._claim_event(event, self.claim(event.claim_id))

    def _cache(self, event: TraceEvent) -> None:
        physical, position = event.count("physical_block_id"), event.count("logical_block_position")
        self.materialized_events += 1
        if physical is None:
            return
        self.cached.add(physical)
        if event.claim_id is not None and position is not None:
            claim = self.claim(event.claim_id)
            claim.blocks[position] = physical
            claim.held = claim.held or (claim.responsible and claim.holds())

    def _evict(self, physical: int | None) -> None:
        if physical is None:
            return
        self.cached.discard(physical)
        for claim, position in self.holders(physical):
            del claim.blocks[position]

    def _forget_blocks(self) -> None:
        self.cached.clear()
        for claim in self.claims.values():
            claim.blocks.clear()

    def _claim_event(self, event: TraceEvent, claim: ClaimView) -> None:
        if event.kind in ACCEPTANCES:
            claim.accepted, claim.released, claim.harmed, claim.refused = event, None, None, None
        elif event.kind is EventType.CLAIM_REJECTED:
            claim.refused = event
        elif event.kind in RELEASES:
            claim.released = claim.released or event
        elif event.kind is EventType.CLAIM_HARMED:
            claim.harmed = claim.harmed or event
        elif event.kind is EventType.CLAIM_OFFLOADED:
            claim.offloaded = event
            claim.blocks.clear()
        elif event.kind is EventType.CLAIM_RESTORED:
            claim.offloaded = None
        if event.kind in (*ACCEPTANCES, EventType.CLAIM_RENEWED):
            self._terms(event, claim)
        claim.held = claim.held or (claim.responsible and claim.holds())

    @staticmethod
    def _terms(event: TraceEvent, claim: ClaimView) -> None:
        claim.mode = event.text("protection_mode") or claim.mode
        revision = event.count("claim_revision") if event.count("revision") is None else event.count("revision")
        claim.revision = claim.revision if revision is None else revision
        text = event.text("materialization_predicate") or event.text("predicate")
        if text is not None and required_positions(text) is not None:
            claim.required = required_positions(text)


def evicted_block(event: TraceEvent) -> int | None:
    """The physical block whose cached rows this event ends; None when it ends none."""
    if event.kind is not EventType.VICTIM_SELECTED or event.text("victim_reason") == NOTHING_EVICTED:
        return None
    return event.count("physical_block_id")


def replay(trace: Trace) -> Ledger:
    """The ledger after the whole trace."""
    ledger = Ledger()
    for event in trace:
        ledger.apply(event)
    return ledger
