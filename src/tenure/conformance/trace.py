"""A trace as the examiner reads it: flat records in the order they were written, names in one spelling.

Nothing here decides whether a trace is good. A file that cannot be a trace (a torn line, sequence numbers that run
backwards) is refused with its line number; a trace with a missing number is read, and the checks fail it. A file may
hold several runs, one after the other or mixed; each is a trace of its own.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType

from tenure.claims.aliases import in_present_words
from tenure.claims.event_types import EventType, event_type_of
from tenure.errors import TraceError

CLAUSE_ORDER = "TNR-EVT-002"
CLAUSE_FORM = "TNR-EVT-001"


@dataclass(frozen=True, slots=True)
class TraceEvent:
    """One line of a trace.

    Args:
        index: its place in the whole trace. It stays the same when a trace is shrunk, so it identifies the event.
        kind: what it says; None for a name that the vocabulary does not have.
        name: the name as written.
        claim_id: the claim that it is about.
        request_id: the request that it is about, or on whose behalf it happened.
        fields: the whole record, with older spellings of modes and actions in the words of today.
    """

    index: int
    kind: EventType | None
    name: str
    claim_id: str | None
    request_id: str | None
    fields: Mapping[str, object]

    @property
    def sequence(self) -> int | None:
        """Its `event_sequence`."""
        return self.count("event_sequence")

    def text(self, field: str) -> str | None:
        """The field when it is text, else None."""
        return _text(self.fields.get(field))

    def count(self, field: str) -> int | None:
        """The field when it is a whole number (a bool is none), else None."""
        value = self.fields.get(field)
        return value if isinstance(value, int) and not isinstance(value, bool) else None

    def flag(self, field: str) -> bool | None:
        """The field when it is true or false, else None."""
        value = self.fields.get(field)
        return value if isinstance(value, bool) else None

    def names(self, field: str) -> tuple[str, ...] | None:
        """The field when it is a list of texts, else None."""
        value = self.fields.get(field)
        if isinstance(value, list | tuple) and all(isinstance(item, str) for item in value):
            return tuple(value)
        return None

    def brief(self) -> str:
        """The event in one line: its number, its name, and who it is about."""
        number = self.index if self.sequence is None else self.sequence
        where = (("logical_block_position", "position"), ("physical_block_id", "block"))
        return " ".join(
            text
            for text in (
                f"#{number}",
                self.name,
                self.claim_id,
                self.request_id and f"for {self.request_id}",
                *self._details(where),
            )
            if text
        )

    def told(self) -> str:
        """`brief`, and what else a reader needs of it to follow a proof: terms, reasons, numbers of a conflict."""
        more = () if self.kind is None else _TOLD.get(self.kind, ())
        return " ".join((self.brief(), *self._details(more)))

    def _details(self, fields: Iterable[tuple[str, str]]) -> Iterator[str]:
        for field, short in fields:
            value = self.fields.get(field)
            if isinstance(value, list | tuple):
                yield f"{short}={','.join(map(str, value)) or 'nobody'}"
            elif value is not None:
                yield f"{short}={value}"


_TERMS = (("protection_mode", "mode"), ("footprint_blocks", "footprint"), ("resident_blocks_required", "required"))
_RELEASE = (("release_reason", "because"),)
_TIER = (("offload_generation", "generation"), ("restoration_source", "source"), ("outcome_type", "outcome"))
_CONFLICT = (
    ("arbiter_action", "action"),
    ("active_live_blocks_required", "needs"),
    ("capacity_shortfall_blocks", "shortfall"),
    ("blocking_claim_ids", "blocking"),
)
#: What `TraceEvent.told` adds to the line of an event: field -> the short name that it is shown under.
_TOLD: Mapping[EventType, tuple[tuple[str, str], ...]] = MappingProxyType(
    {
        EventType.CLAIM_SUBMITTED: (
            ("requested_protection_mode", "mode"),
            ("requested_footprint_blocks", "footprint"),
            ("materialization_predicate", "predicate"),
            ("duration_s", "duration_s"),
            ("revision", "revision"),
        ),
        EventType.CLAIM_ACCEPTED: _TERMS,
        EventType.CLAIM_CONDITIONALLY_ACCEPTED: _TERMS,
        EventType.CLAIM_REJECTED: (("decision_reason", "because"),),
        EventType.CLAIM_RENEWED: (("revision", "revision"), ("expires_at_s", "expires_at_s")),
        EventType.CLAIM_DEMOTED: _RELEASE,
        EventType.CLAIM_EXPIRED: _RELEASE,
        EventType.CLAIM_RELEASED: _RELEASE,
        EventType.CLAIM_HARMED: (("harm_cause", "because"),),
        EventType.CLAIM_OFFLOADED: _TIER,
        EventType.CLAIM_RESTORE_REQUIRED: _TIER,
        EventType.CLAIM_RESTORED: _TIER,
        EventType.CLAIM_REUSE_AFTER_RESTORE: _TIER,
        EventType.CLAIM_RESTORATION_FAILED: (*_TIER, ("outcome_claim_id", "for_claim")),
        EventType.REQUEST_ADMITTED: (
            ("active_live_blocks_required", "needs"),
            ("active_live_blocks_current", "holds"),
            ("reused_blocks", "reused"),
        ),
        EventType.REQUEST_DEFERRED: _CONFLICT,
        EventType.REQUEST_REFUSED: (*_CONFLICT, ("outcome_claim_id", "for_claim")),
        EventType.ACTIVE_LIVE_BOUNDED: (
            ("active_live_blocks_required", "needs"),
            ("active_live_blocks_bounded", "bound"),
        ),
        EventType.VICTIM_SELECTED: (("is_protected_resident", "protected"), ("victim_reason", "reason")),
    }
)


class Trace(Sequence[TraceEvent]):
    """Events in the order they were written. Immutable; part of a trace is a trace."""

    def __init__(self, events: Iterable[TraceEvent]) -> None:
        self._events = tuple(events)
        self.kinds = frozenset(event.kind for event in self._events)

    def __getitem__(self, index: int) -> TraceEvent:  # type: ignore[override]  # slices are not offered
        return self._events[index]

    def __len__(self) -> int:
        return len(self._events)

    def __iter__(self) -> Iterator[TraceEvent]:
        return iter(self._events)

    def of(self, *kinds: EventType, claim_id: str | None = None, request_id: str | None = None) -> list[TraceEvent]:
        """Events of these kinds (any, when none is given), of this claim and this request when named."""
        return [
            event
            for event in self._events
            if (not kinds or event.kind in kinds)
            and (claim_id is None or event.claim_id == claim_id)
            and (request_id is None or event.request_id == request_id)
        ]

    def first(self, *kinds: EventType, claim_id: str | None = None, request_id: str | None = None) -> TraceEvent | None:
        """The first of `of`, or None."""
        return next(iter(self.of(*kinds, claim_id=claim_id, request_id=request_id)), None)

    def within(self, indices: Iterable[int]) -> Trace:
        """The events with these indices, in order."""
        wanted = frozenset(indices)
        return Trace(event for event in self._events if event.index in wanted)

    def runs(self) -> dict[str, Trace]:
        """The trace of each run by its `run_id`, events counted from 0 in each; "" for events that name no run."""
        parts: dict[str, list[TraceEvent]] = {}
        for event in self._events:
            part = parts.setdefault(event.text("run_id") or "", [])
            part.append(event if event.index == len(part) else replace(event, index=len(part)))
        return {run_id: Trace(part) for run_id, part in parts.items()}


def brief_lines(trace: Trace) -> tuple[str, ...]:
    """The trace in lines for people: one an event, and one for a run of block lines about the same claim or request."""
    lines: list[str] = []
    for (kind, _, _), group in itertools.groupby(trace, key=lambda e: (e.kind, e.claim_id, e.request_id)):
        events = list(group)
        if kind not in _BLOCK_LINES or len(events) < 3:
            lines += [event.told() for event in events]
        else:
            lines += [events[0].told(), f"… {len(events) - 2} more of these …", events[-1].told()]
    return tuple(lines)


_BLOCK_LINES = frozenset(
    {
        EventType.BLOCK_MATERIALIZED,
        EventType.VICTIM_SELECTED,
        EventType.CLAIM_BLOCK_LOST,
        EventType.CLAIM_BLOCK_LOST_AFTER_RELEASE,
    }
)


def trace_of(records: Iterable[Mapping[str, object]]) -> Trace:
    """The trace that a running subject wrote. Never raises on bad content: the checks are there to say so."""
    return Trace(_event(index, record) for index, record in enumerate(records))


def _event(index: int, record: Mapping[str, object]) -> TraceEvent:
    name, claim_id, request_id = (_text(record.get(field)) for field in ("event", "claim_id", "request_id"))
    return TraceEvent(index, event_type_of(name or ""), name or "", claim_id, request_id, in_present_words(record))


def _text(value: object) -> str | None:
    return value if isinstance(value, str) else None


def read_trace(path: Path) -> Trace:
    """The trace in a JSON Lines file, with every run that is in it; `Trace.runs` tells them apart.

    Raises:
        TraceError: no such file, a line that is no JSON object, an event without a name, a last line that was cut off,
            or `event_sequence` running backwards within a run. The message names the line, the field and the clause.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise TraceError(f"{path} cannot be read as a trace: {error}", field="file", clause=CLAUSE_FORM) from error
    if not text.strip():
        raise TraceError(f"{path} holds no event; a trace has one JSON object a line", field="file", clause=CLAUSE_FORM)
    events: list[TraceEvent] = []
    latest: dict[str | None, int] = {}
    for number, line in enumerate(text.split("\n"), start=1):  # and at nothing else that Unicode calls a line end
        if line.strip():
            event = _event(len(events), _record(path, number, line))
            events.append(event)
            _check_order(path, number, event, latest)
    return Trace(events)


def _record(path: Path, number: int, line: str) -> Mapping[str, object]:
    try:
        record = json.loads(line)
    except json.JSONDecodeError as error:
        message = f"{path} line {number} is no JSON ({error.msg} at column {error.colno}): cut off or damaged"
        raise TraceError(message, field="line", clause=CLAUSE_FORM) from error
    if not isinstance(record, dict) or not isinstance(record.get("event"), str):
        message = f"{path} line {number} is no event: it needs a JSON object with the text field 'event'"
        raise TraceError(message, field="event", clause=CLAUSE_FORM)
    return record


def _check_order(path: Path, number: int, event: TraceEvent, latest: dict[str | None, int]) -> None:
    """Note the event's number as the latest of its run; TraceError when that run was further already."""
    run_id, now = event.text("run_id"), event.sequence
    if now is None:
        return
    before = latest.get(run_id)
    if before is not None and now <= before:
        message = (
            f"{path} line {number} of run {run_id!r} has {now} after {before}: reordered, or one run is told twice"
        )
        raise TraceError(message, field="event_sequence", clause=CLAUSE_ORDER)
    latest[run_id] = now
