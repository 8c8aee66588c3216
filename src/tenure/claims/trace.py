"""A trace on disk: read whole or refused. A line that is torn, missing, repeated or out of place is an error."""

from __future__ import annotations

import io
import json
from collections.abc import Iterable, Iterator
from pathlib import Path

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
    """The events of lines that each end in a line break, checked one by one. Raises TraceError as `read_trace`."""
    expected: dict[str, int] = {}
    for number, line in enumerate(lines, 1):
        if not line.endswith("\n"):
            raise TraceError(f"line {number} is torn: {line[:60]!r}", field="line", clause="TNR-EVT-001")
        if not line.strip():
            continue
        event = _parse_line(number, line)
        if event is None:
            continue
        _check_sequence(event, number, expected)
        yield event


def _parse_line(number: int, line: str) -> Event | None:
    try:
        record = json.loads(line)
    except ValueError as error:
        message = f"line {number} is no JSON ({error}): {line[:60]!r}"
        raise TraceError(message, field="line", clause="TNR-EVT-001") from error
    if not isinstance(record, dict):
        raise TraceError(f"line {number} is no JSON object: {line[:60]!r}", field="line", clause="TNR-EVT-001")
    if record.get("event") in WITHDRAWN_EVENTS:
        return None
    try:
        return Event.from_record(record)
    except TraceError as error:
        raise TraceError(f"line {number}: {error}", field=error.field) from error


def _check_sequence(event: Event, number: int, expected: dict[str, int]) -> None:
    """Nothing when the event is the next one of its run; TraceError otherwise."""
    wanted = expected.get(event.run_id, 0)
    found = event.event_sequence
    first = found
    if event.event_type is EventType.TELEMETRY_GAP:
        first = int(str(event.fields["first_lost_event_sequence"]))
        if found - first + 1 != event.fields["lost_events"]:
            message = f"line {number}: a gap from {first} to {found} is not {event.fields['lost_events']} events"
            raise TraceError(message, field="lost_events", clause="TNR-EVT-002")
    if first != wanted:
        what = "missing" if first > wanted else "repeated, or in the wrong order"
        message = f"line {number} of run {event.run_id!r} is event {found}, but {wanted} comes next: events are {what}"
        raise TraceError(message, field="event_sequence", clause="TNR-EVT-002")
    expected[event.run_id] = found + 1
