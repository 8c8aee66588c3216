"""A trace on disk: read whole or refused. A line that is torn, missing, repeated or out of place is an error."""

from __future__ import annotations

import io
import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from tenure.claims.aliases import in_present_words
from tenure.claims.event_types import WITHDRAWN_EVENTS, EventType
from tenure.claims.events import Event
from tenure.errors import TraceError


def read_trace(path: Path) -> list[Event]:
    """Every event of the file, in order. A file may hold several runs, one after the other.

    Raises:
        TraceError: the file cannot be read, holds nothing, or is torn, truncated in the middle or reordered; the
            message names the line and the clause.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        message = f"{path} cannot be read as a trace: {error}"
        raise TraceError(message) from error
    events = list(parse_trace(io.StringIO(text, newline="\n")))
    if not events:
        message = f"{path} holds no event; a trace has one JSON object a line"
        raise TraceError(message)
    return events


def parse_trace(lines: Iterable[str]) -> Iterator[Event]:
    """The events of lines, checked one by one: each ends in a line break, or the last is whole without it.

    Withdrawn events are passed over, and their numbers count. Raises TraceError as `read_trace`.
    """
    expected: dict[str, int] = {}
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        record = _parse_line(number, line)
        if record.get("event") in WITHDRAWN_EVENTS:
            _pass_over(record, number, expected)
            continue
        try:
            event = Event.from_record(in_present_words(record))
        except TraceError as error:
            raise TraceError(f"line {number}: {error}", field=error.field) from error
        _check_sequence(event, number, expected)
        yield event


def _parse_line(number: int, line: str) -> dict[str, Any]:
    try:
        record = json.loads(line)
    except ValueError as error:
        what = f"is no JSON ({error})" if line.endswith("\n") else "is torn"
        message = f"line {number} {what}: {line[:60]!r}"
        raise TraceError(message, field="line", clause="TNR-EVT-001") from error
    if not isinstance(record, dict):
        raise TraceError(f"line {number} is no JSON object: {line[:60]!r}", field="line", clause="TNR-EVT-001")
    return record


def _pass_over(record: dict[str, Any], number: int, expected: dict[str, int]) -> None:
    """Count a withdrawn event that has a number; nothing else is asked of it."""
    run_id, found = record.get("run_id"), record.get("event_sequence")
    if isinstance(run_id, str) and isinstance(found, int) and not isinstance(found, bool):
        _expect(run_id, found, last=found, number=number, expected=expected)


def _check_sequence(event: Event, number: int, expected: dict[str, int]) -> None:
    """Nothing when the event is the next one of its run; TraceError otherwise."""
    found = event.event_sequence
    first = found
    if event.event_type is EventType.TELEMETRY_GAP:
        first = int(str(event.fields["first_lost_event_sequence"]))
        if found - first + 1 != event.fields["lost_events"]:
            message = f"line {number}: a gap from {first} to {found} is not {event.fields['lost_events']} events"
            raise TraceError(message, field="lost_events", clause="TNR-EVT-002")
    _expect(event.run_id, first, last=found, number=number, expected=expected)


def _expect(run_id: str, first: int, *, last: int, number: int, expected: dict[str, int]) -> None:
    """Note that a run's events from `first` to `last` are told; TraceError when another one comes next."""
    wanted = expected.get(run_id, 0)
    if first != wanted:
        what = "missing" if first > wanted else "repeated, or in the wrong order"
        message = f"line {number} of run {run_id!r} is event {last}, but {wanted} comes next: events are {what}"
        raise TraceError(message, field="event_sequence", clause="TNR-EVT-002")
    expected[run_id] = last + 1
