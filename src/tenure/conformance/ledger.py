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
#: Events that say that one block of one claim goes; the victim line, where there is one, comes after.
LOSSES = (EventType.CLAIM_HARMED, EventType.CLAIM_BLOCK_LOST, EventType.CLAIM_BLOCK_LOST_AFTER_RELEASE)
REQUEST_ENDS = (EventType.REQUEST_FINISHED, EventType.REQUEST_FAILED, EventType.REQUEST_REFUSED)
#: Modes in which a victim may never break the predicate of an unreleased claim, reported or not.
PROTECTING_MODES = frozenset({"hard_protected", "demotable", "offloadable", "expiring"})
#: States of a recovered claim whose rows are in the slower tier.
AWAY_STATES = frozenset({"offloaded", "restore_required"})
#: Why a block was taken, when taking it evicted nothing.
NOTHING_EVICTED = "free_uncached"

_PREDICATE = re.compile(r"(leading_prefix_at_least|contiguous_range)\((?:(\d+),\s*)?(\d+)\)")


@dataclass(slots=True)
class ClaimView:
    """One claim as the trace tells it.

    Attributes:
        required: logical positions that must survive; None when the trace never told the predicate.
        blocks: logical position -> physical block, of those said to be cached.
        accepted, released, harmed, refused, offloaded: the event that said so; `offloaded` only while it is away.
        broken: the event that took the predicate while the runtime was responsible, when one did.
        untold: whether rows were cached already when it was accepted, so that some of its blocks may never be
            told; false again when a block line of its own follows the acceptance at once.
        ever_blocks: whether the trace ever told blocks of this claim. If not, its predicate cannot be judged.
        given_up: physical block -> logical position, of blocks that the claim was said to lose while it stood, until
            they hold other rows. A victim line that follows is still a line about this claim's block.
    """

    claim_id: str
    prefix_id: str | None = None
    mode: str | None = None
    required: range | None = None
    footprint_blocks: int | None = None
    revision: int | None = None
    accepted: TraceEvent | None = None
    released: TraceEvent | None = None
    harmed: TraceEvent | None = None
    refused: TraceEvent | None = None
    offloaded: TraceEvent | None = None
    broken: TraceEvent | None = None
    untold: bool = False
    ever_blocks: bool = False
    blocks: dict[int, int] = field(default_factory=dict)
    given_up: dict[int, int] = field(default_factory=dict)

    @property
    def responsible(self) -> bool:
        """Accepted, and neither released nor harmed."""
        return self.accepted is not None and self.released is None and self.harmed is None

    def holds(self, *, lost: frozenset[int] = frozenset()) -> bool:
        """Whether the cached positions, less those `lost`, satisfy the predicate. Unknown counts as not."""
        return self.required is not None and (self.blocks.keys() - lost).issuperset(self.required)

    def positions_in(self, physical: int) -> frozenset[int]:
        """The logical positions whose rows are in a physical block."""
        if physical not in self.blocks.values():
            return frozenset()
        return frozenset(position for position, block in self.blocks.items() if block == physical)


def required_positions(text: str) -> range | None:
    """The positions that a predicate in its textual form requires; None when it is not of that form."""
    match = _PREDICATE.fullmatch(text.strip())
    if match is None or (match[1] == "contiguous_range") == (match[2] is None):
        return None
    start = int(match[2]) if match[2] is not None else 0
    return range(start, start + int(match[3]))


class Ledger:
    """Replays a trace event by event. `see` an event with it before `apply`, to know how things stood.

    `uncertain` is true after a reset beside work in flight: which of its blocks are still cached is not told.
    `running` are the requests in flight: blocks that they use stay even when every claim on them ends.
    A trace that begins with a restart may recover claims that an earlier trace accepted: from there they are accepted.
    A block line binds to the claim that it names, and to every claim on the prefix that it names, so that both ways of
    writing a shared block are understood.
    """

    def __init__(self) -> None:
        self.claims: dict[str, ClaimView] = {}
        self.running: set[str] = set()
        self.uncertain = False
        self._begins_restarted = False
        self._prefixes: dict[str, dict[int, int]] = {}
        self._hashes: dict[int, str] = {}
        self._cached: set[int] = set()

    def claim(self, claim_id: str) -> ClaimView:
        """The view of a claim; a new one when the trace has not named it."""
        return self.claims.setdefault(claim_id, ClaimView(claim_id))

    def view(self, event: TraceEvent) -> ClaimView | None:
        """The claim that an event is about, if it names one that is known."""
        return None if event.claim_id is None else self.claims.get(event.claim_id)

    def takes_over(self, event: TraceEvent) -> bool:
        """Whether the event is the first word here of a claim that a run before this trace accepted."""
        unknown = event.claim_id is not None and event.claim_id not in self.claims
        return self._begins_restarted and unknown and event.kind is EventType.CLAIM_RECOVERED

    def protected_blocks(self, *, besides: frozenset[str] = frozenset()) -> set[int]:
        """Physical blocks that unreleased claims of a protecting mode hold; a shared block once."""
        return {
            block
            for claim in self.claims.values()
            if claim.responsible and claim.offloaded is None and claim.mode in PROTECTING_MODES
            if claim.claim_id not in besides
            for block in claim.blocks.values()
        }

    def broken_by(self, event: TraceEvent) -> list[ClaimView]:
        """Claims that the runtime answers for, whose predicate holds now and no longer after this event."""
        if event.kind is EventType.VICTIM_SELECTED:
            physical = evicted_block(event)
            if physical is None:
                return []
            return [c for c in self.claims.values() if self._breaks(c, c.positions_in(physical))]
        claim = self.view(event) if event.kind is EventType.CLAIM_BLOCK_LOST else None
        if claim is None:
            return []
        position = event.count("logical_block_position")
        return [claim] if position is not None and self._breaks(claim, frozenset({position})) else []

    @staticmethod
    def _breaks(claim: ClaimView, lost: frozenset[int]) -> bool:
        at_stake = bool(lost) and claim.responsible and claim.offloaded is None
        return at_stake and claim.holds() and not claim.holds(lost=lost)

    def apply(self, event: TraceEvent) -> None:
        """Take the event as true."""
        if event.index == 0:
            self._begins_restarted = event.kind is EventType.RUNTIME_RESTARTED
        if self.takes_over(event) and event.claim_id is not None:
            self._take_over(event, self.claim(event.claim_id))
        for claim in self.broken_by(event):
            claim.broken = event
        if event.kind is EventType.BLOCK_MATERIALIZED:
            self._cache(event)
        elif event.kind is EventType.VICTIM_SELECTED:
            self._evict(evicted_block(event))
        elif event.kind is EventType.REQUEST_ADMITTED and event.request_id is not None:
            self.running.add(event.request_id)
        elif event.kind in REQUEST_ENDS and event.request_id is not None:
            self.running.discard(event.request_id)
        elif event.kind in (EventType.RUNTIME_RESTARTED, EventType.RUNTIME_RESET):
            self._forget_blocks()
            self.uncertain = bool(self.running) and event.kind is EventType.RUNTIME_RESET
            if event.kind is EventType.RUNTIME_RESTARTED:
                self.running.clear()
        elif event.kind is not None and event.kind.is_claim_event and event.claim_id is not None:
            self._claim_event(event, self.claim(event.claim_id))

    def _cache(self, event: TraceEvent) -> None:
        physical, position = event.count("physical_block_id"), event.count("logical_block_position")
        if physical is None or position is None:
            return
        self._cached.add(physical)
        self._forget_given_up(physical)
        told_hash, known_hash = event.text("block_hash"), self._hashes.get(physical)
        if told_hash is not None:
            if known_hash not in (None, told_hash):
                self._evict(physical)  # it holds other rows now, whatever became of the old ones
            self._hashes[physical] = told_hash
        prefix_id = event.text("prefix_id")
        if prefix_id is not None:
            self._prefixes.setdefault(prefix_id, {})[position] = physical
        for claim in self.claims.values():
            if claim.released is not None or claim.harmed is not None or claim.refused is not None:
                continue
            named = claim.claim_id == event.claim_id
            if named and claim.accepted is not None and event.index == claim.accepted.index + 1:
                claim.untold = False  # right after its acceptance: these are the rows that it found
            if named or (prefix_id is not None and claim.prefix_id == prefix_id and _covers(claim, position)):
                claim.blocks[position] = physical
                claim.ever_blocks = True

    def _evict(self, physical: int | None) -> None:
        if physical is None:
            return
        self._hashes.pop(physical, None)
        self._cached.discard(physical)
        self._forget_given_up(physical)
        for claim in self.claims.values():
            for position in claim.positions_in(physical):
                del claim.blocks[position]
        for positions in self._prefixes.values():
            if physical in positions.values():
                for position in [p for p, block in positions.items() if block == physical]:
                    del positions[position]

    def _forget_given_up(self, physical: int) -> None:
        for claim in self.claims.values():
            claim.given_up.pop(physical, None)

    def _forget_blocks(self) -> None:
        """After a restart or a reset nothing is known of the device until it is told again."""
        self._prefixes.clear()
        self._hashes.clear()
        self._cached.clear()
        for claim in self.claims.values():
            claim.blocks.clear()
            claim.given_up.clear()
            claim.ever_blocks = False

    def _claim_event(self, event: TraceEvent, claim: ClaimView) -> None:
        kind = event.kind
        if kind in (EventType.CLAIM_SUBMITTED, *ACCEPTANCES, EventType.CLAIM_RENEWED):
            _take_terms(event, claim)
        if kind in ACCEPTANCES:
            claim.accepted, claim.released, claim.harmed, claim.refused, claim.broken = event, None, None, None, None
            claim.untold = bool(self._cached)
            self._adopt_cached(claim)
        elif kind is EventType.CLAIM_REJECTED:
            claim.refused = event
        elif kind in RELEASES:
            claim.released = claim.released or event
        elif kind is EventType.CLAIM_HARMED:
            claim.harmed = claim.harmed or event
        elif kind is EventType.CLAIM_OFFLOADED:
            claim.offloaded = event
            self._leave(claim)
        elif kind is EventType.CLAIM_RESTORED:
            claim.offloaded = None
            self._adopt_restored(event, claim)
        if kind in LOSSES:
            position = event.count("logical_block_position")
            physical = None if position is None else claim.blocks.pop(position, None)
            if kind is EventType.CLAIM_BLOCK_LOST and position is not None and physical is not None:
                claim.given_up[physical] = position

    @staticmethod
    def _take_over(event: TraceEvent, claim: ClaimView) -> None:
        """Of a claim from before this trace neither its predicate nor its blocks are known until they are told."""
        _take_terms(event, claim)
        claim.accepted, claim.untold = event, True
        if event.text("claim_status") in AWAY_STATES:
            claim.offloaded = event

    def _leave(self, claim: ClaimView) -> None:
        """The claim's blocks leave the device, those aside that another claim holds."""
        left = set(claim.blocks.values())
        claim.blocks.clear()
        for physical in left - {block for other in self.claims.values() for block in other.blocks.values()}:
            self._evict(physical)

    def _adopt_cached(self, claim: ClaimView) -> None:
        for position, physical in self._prefixes.get(claim.prefix_id or "", {}).items():
            if _covers(claim, position):
                claim.blocks.setdefault(position, physical)
                claim.ever_blocks = True

    @staticmethod
    def _adopt_restored(event: TraceEvent, claim: ClaimView) -> None:
        ids = event.fields.get("block_ids")
        if claim.required is None or not isinstance(ids, list | tuple):
            return
        for position, physical in enumerate(ids, start=claim.required.start):
            if isinstance(physical, int):
                claim.blocks.setdefault(position, physical)


def _covers(claim: ClaimView, position: int) -> bool:
    first = 0 if claim.required is None else claim.required.start
    return position >= first and (claim.footprint_blocks is None or position < first + claim.footprint_blocks)


def _take_terms(event: TraceEvent, claim: ClaimView) -> None:
    claim.prefix_id = event.text("prefix_id") or claim.prefix_id
    claim.mode = event.text("protection_mode") or event.text("requested_protection_mode") or claim.mode
    for value, name in ((event.count("revision"), "revision"), (event.count("footprint_blocks"), "footprint_blocks")):
        if value is not None:
            setattr(claim, name, value)
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
