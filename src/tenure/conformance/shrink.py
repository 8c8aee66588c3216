"""Shrinks a failing trace to few events that still show the same fault.

What is never removed: the events at fault; the line that says which rows are in a block that one of them takes; and every
step in the life of the claims and requests that they name or take from, since without a release, say, another fault than
the one that was found would appear. Everything else is removed by delta debugging: Zeller and Hildebrandt, "Simplifying and Isolating Failure-Inducing Input", IEEE TSE 28(2), 2002.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from tenure.claims.event_types import EventType
from tenure.conformance.check import Judge
from tenure.conformance.finding import Finding
from tenure.conformance.ledger import Ledger, evicted_block
from tenure.conformance.trace import Trace, TraceEvent

_BLOCK_LINES = frozenset(
    {
        EventType.BLOCK_MATERIALIZED,
        EventType.VICTIM_SELECTED,
        EventType.CLAIM_BLOCK_LOST,
        EventType.CLAIM_BLOCK_LOST_AFTER_RELEASE,
    }
)


def shrink(trace: Trace, judge: Judge, fault: Finding) -> Trace:
    """A part of `trace` on which `judge` finds the same clause broken at the same events, one-minimal where it can be.

    Returns the whole trace when not even all of it shows the fault (which then lies in answers, not in events).
    Cost: O(n²) calls of the judge at worst, O(log n) when the core alone shows the fault.
    """
    if not judge(trace).same_fault(fault):
        return trace
    core = _core(trace, fault)
    rest = [event.index for event in trace if event.index not in core]
    chunk = max(1, len(rest))
    while rest:
        for start in range(0, len(rest), chunk):
            fewer = rest[:start] + rest[start + chunk :]
            if judge(trace.within((*core, *fewer))).same_fault(fault):
                rest = fewer
                break
        else:
            if chunk == 1:
                break
            chunk = (chunk + 1) // 2
            continue
        chunk = max(1, min(chunk, len(rest)))
    return trace.within((*core, *rest))


def _core(trace: Trace, fault: Finding) -> frozenset[int]:
    """Indices that stay, whatever else goes: the faults, the blocks that they are about, and the lives that they end.

    Of what comes after the last fault, one event of each kind in a life says as much as all of them.
    """
    faults = frozenset(fault.at)
    found = _Named()
    ledger = Ledger()
    lines: dict[int, dict[str | None, TraceEvent]] = {}  # physical block -> whose -> the line since it was last taken
    for event in trace:
        physical = event.count("physical_block_id")
        if event.index in faults:
            found.take(event, ledger, {} if physical is None else lines.get(physical, {}))
        ledger.apply(event)
        if physical is not None and event.kind is EventType.BLOCK_MATERIALIZED:
            lines.setdefault(physical, {})[event.claim_id] = event
        elif physical is not None and evicted_block(event) is not None:
            lines.pop(physical, None)
    last_fault = max(faults, default=-1)
    seen: set[tuple[EventType | None, str | None, str | None]] = set()
    core = set(found.lines)
    for event in trace:
        if event.index in faults:
            core.add(event.index)
        elif event.kind not in _BLOCK_LINES and (not faults or found.is_about(event)):
            step = (event.kind, event.claim_id, event.request_id)
            if event.index < last_fault or step not in seen:
                core.add(event.index)
            if event.index > last_fault:
                seen.add(step)
    return frozenset(core)


@dataclass(slots=True)
class _Named:
    """Whose lives a fault is about, and the block lines that say where the blocks that it takes came from."""

    claims: set[str] = field(default_factory=set)
    requests: set[str] = field(default_factory=set)
    lines: set[int] = field(default_factory=set)

    def take(self, event: TraceEvent, ledger: Ledger, lines: Mapping[str | None, TraceEvent]) -> None:
        """Note whom and what an event at fault names, as things stood before it; `lines` are those of its block."""
        holders = _holders(event, ledger)
        self.claims |= {name for name in (event.claim_id, *(event.names("blocking_claim_ids") or ()), *holders) if name}
        self.requests |= {event.request_id} if event.request_id is not None else set()
        if event.kind is not EventType.BLOCK_MATERIALIZED:
            own = [lines[name] for name in (*holders, event.claim_id) if name is not None and name in lines]
            self.lines |= {line.index for line in own or lines.values()}

    def is_about(self, event: TraceEvent) -> bool:
        """Whether the event is a step in one of those lives."""
        return event.claim_id in self.claims or (event.claim_id is None and event.request_id in self.requests)


def _holders(event: TraceEvent, ledger: Ledger) -> list[str]:
    """The claims whose rows are in the block that this event is about, as far as the trace tells."""
    physical = event.count("physical_block_id")
    if physical is None or event.kind is EventType.BLOCK_MATERIALIZED:
        return []
    return [c.claim_id for c in ledger.claims.values() if c.positions_in(physical) or physical in c.given_up]
