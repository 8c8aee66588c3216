"""Where events go: in memory for tests and the reference runtime, to a file of JSON Lines in service."""

from __future__ import annotations

import logging
import os
from collections import defaultdict
from collections.abc import Callable, Mapping
from enum import Enum
from pathlib import Path
from types import MappingProxyType
from typing import Protocol

from tenure.claims.encoding import EncodedBatch, PendingEvent, encode_lines
from tenure.claims.event_types import EventType
from tenure.claims.events import Event, FieldValue
from tenure.claims.lifecycle import REQUEST_TRANSITIONS
from tenure.claims.order import OrderGuard
from tenure.errors import DiskFullError, TraceError

#: Nanoseconds of some clock, for people who read traces. It decides no order. `time.time_ns` is one.
ClockNs = Callable[[], int]

_NO_FIELDS: Mapping[str, FieldValue] = MappingProxyType({})
_ORDERED = frozenset(event for event in EventType if event.is_claim_event) | {event for _, event in REQUEST_TRANSITIONS}
_LOG = logging.getLogger(__name__)


class EventSink(Protocol):
    """Takes events in the order in which they happen. Never raises because of where they go."""

    def emit(
        self,
        event_type: EventType,
        fields: Mapping[str, FieldValue] = _NO_FIELDS,
        *,
        claim_id: str | None = None,
        prefix_id: str | None = None,
        request_id: str | None = None,
    ) -> int:
        """Take note of an event and return its sequence number. `fields` is handed over: do not change it later."""
        ...


class FaultPolicy(Enum):
    """What becomes of an event that is malformed or out of order, which is a fault of the runtime."""

    COUNT = "count"
    """Written as it is, counted, and logged once. For service: telemetry never changes control flow."""
    RAISE = "raise"
    """TraceError at once. For tests and the reference runtime."""


class MemoryTelemetry:
    """Keeps every event as a checked value, in order.

    With `FaultPolicy.RAISE`, the default, a malformed event or one out of order raises TraceError and is not kept.

    Args:
        run_id: which run the events belong to.
        policy: name of the policy in force.
        clock_ns: what the events are stamped with.
        usable_blocks: what is written in every event from now on; may be set later. None while unknown.
        on_fault: what becomes of faulty events.
        keep_events: about how many of the newest are kept; None for all.
    """

    def __init__(
        self,
        *,
        run_id: str,
        policy: str,
        clock_ns: ClockNs,
        usable_blocks: int | None = None,
        on_fault: FaultPolicy = FaultPolicy.RAISE,
        keep_events: int | None = None,
    ) -> None:
        self.events: list[Event] = []
        self._keep_events = keep_events
        self._sequence = 0
        self.faults: list[str] = []
        self.usable_blocks = usable_blocks
        self._run_id = run_id
        self._policy = policy
        self._clock_ns = clock_ns
        self._on_fault = on_fault
        self._guard = OrderGuard()

    def emit(
        self,
        event_type: EventType,
        fields: Mapping[str, FieldValue] = _NO_FIELDS,
        *,
        claim_id: str | None = None,
        prefix_id: str | None = None,
        request_id: str | None = None,
    ) -> int:
        """Keep an event and return its sequence number.

        Raises:
            TraceError: under `FaultPolicy.RAISE`, when it is malformed or out of order; it is then not kept.
        """
        event = Event(
            event_type=event_type,
            event_sequence=self._sequence,
            timestamp_ns=self._clock_ns(),
            run_id=self._run_id,
            policy=self._policy,
            usable_blocks=self.usable_blocks,
            claim_id=claim_id,
            prefix_id=prefix_id,
            request_id=request_id,
            fields=dict(fields),
        )
        try:
            event.check()
            violation = self._guard.observe(event_type, claim_id=claim_id, request_id=request_id, fields=fields)
            if violation is not None:
                raise TraceError(violation.message, field="event", clause=violation.clause)
        except TraceError as fault:
            if self._on_fault is FaultPolicy.RAISE:
                raise
            self.faults.append(str(fault))
        self.events.append(event)
        self._sequence += 1
        if self._keep_events is not None and len(self.events) > 2 * self._keep_events:
            del self.events[: -self._keep_events]  # rarely, so that an event costs the same however many are kept
        return event.event_sequence

    def to_json_lines(self) -> str:
        """The trace so far, as a file of it would read."""
        return "".join(event.to_json_line() + "\n" for event in self.events)


class JsonLinesTelemetry:
    """Appends every event to a file, one JSON object a line.

    Guarantees that `emit` never raises and never waits for more than one write: events gather until there are
    `batch_events` of them, and are then encoded and written together. What cannot be written is counted, logged once,
    and reported in the trace by a `telemetry_gap` event as soon as writing works again; lines are never torn by a full
    disk. A process that is killed loses at most the events that had gathered. Use one thread, or a lock of your own.

    Args:
        path: the file. A torn last line, left by a crash, is dropped first.
        run_id, policy, clock_ns, usable_blocks: as for `MemoryTelemetry`.
        batch_events: how many events gather before they are written. Larger batches fall out of the processor's
            caches and cost more for each event, not less.

    Raises:
        DiskFullError: the file cannot be opened for writing.
    """

    def __init__(
        self,
        path: Path,
        *,
        run_id: str,
        policy: str,
        clock_ns: ClockNs,
        usable_blocks: int | None = None,
        batch_events: int = 256,
    ) -> None:
        self.faults = 0
        self.first_fault: str | None = None
        self.lost_events = 0
        self._run_id = run_id
        self._policy = policy
        self._usable_blocks = usable_blocks
        self._clock_ns = clock_ns
        self._batch_events = batch_events
        self._guard = OrderGuard()
        self._next_sequence = 0
        self._first_pending = 0
        self._pending: defaultdict[EventType, list[PendingEvent]] = defaultdict(list)
        self._first_unreported: int | None = None
        self._last_unreported = 0
        self._was_logged = False
        try:
            self._file = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
            self._end = _drop_torn_line(self._file)
        except OSError as error:
            message = f"cannot write the trace {path}: {error.strerror}; choose another place or free some room"
            raise DiskFullError(message) from error

    @property
    def usable_blocks(self) -> int | None:
        """What is written in every event from now on."""
        return self._usable_blocks

    @usable_blocks.setter
    def usable_blocks(self, blocks: int | None) -> None:
        self.flush()
        self._usable_blocks = blocks

    def emit(
        self,
        event_type: EventType,
        fields: Mapping[str, FieldValue] = _NO_FIELDS,
        *,
        claim_id: str | None = None,
        prefix_id: str | None = None,
        request_id: str | None = None,
    ) -> int:
        """Take an event and return its sequence number. Never raises. `fields` is handed over."""
        sequence = self._next_sequence
        self._next_sequence = sequence + 1
        if event_type in _ORDERED:
            violation = self._guard.observe(event_type, claim_id=claim_id, request_id=request_id, fields=fields)
            if violation is not None:
                self._note_fault(violation.message)
        self._pending[event_type].append(
            (event_type, fields, sequence, self._clock_ns(), claim_id, prefix_id, request_id)
        )
        if sequence - self._first_pending + 1 >= self._batch_events:
            self.flush()
        return sequence

    def flush(self) -> None:
        """Write what has gathered. Never raises; what cannot be written is counted in `lost_events`."""
        batch, first, self._pending = self._pending, self._first_pending, defaultdict(list)
        self._first_pending = self._next_sequence
        if not batch:
            return
        encoded = self._encode(batch, first)
        for fault in encoded.faults:
            self._note_fault(fault)
        data = encoded.data
        if self._first_unreported is not None:
            data = self._gap_line() + data
        if self._write(data):
            self._first_unreported = None
            return
        self.lost_events += self._next_sequence - first
        if self._first_unreported is None:
            self._first_unreported = first
        self._last_unreported = self._next_sequence - 1

    def close(self) -> None:
        """Write what has gathered and close the file. Emitting afterwards is a mistake of the caller."""
        self.flush()
        os.close(self._file)

    def _gap_line(self) -> bytes:
        first, last = self._first_unreported, self._last_unreported
        fields: dict[str, FieldValue] = {
            "lost_events": 0 if first is None else last - first + 1,
            "first_lost_event_sequence": first,
            "reason": "the trace could not be written",
        }
        gap: PendingEvent = (EventType.TELEMETRY_GAP, fields, last, self._clock_ns(), None, None, None)
        return self._encode({EventType.TELEMETRY_GAP: [gap]}, last).data

    def _encode(self, batch: Mapping[EventType, list[PendingEvent]], first_sequence: int) -> EncodedBatch:
        return encode_lines(
            batch,
            first_sequence=first_sequence,
            run_id=self._run_id,
            policy=self._policy,
            usable_blocks=self._usable_blocks,
        )

    def _write(self, data: bytes) -> bool:
        """Whether all of `data` is in the file. If not, none of it is."""
        done = 0
        try:
            while done < len(data):
                done += os.pwrite(self._file, data[done:], self._end + done)
        except OSError as error:
            self._withdraw(error)
            return False
        self._end += done
        return True

    def _withdraw(self, error: OSError) -> None:
        try:
            os.ftruncate(self._file, self._end)
        except OSError as second:
            error.add_note(f"and the torn line could not be withdrawn: {second}")
        if not self._was_logged:
            self._was_logged = True
            _LOG.error("the trace cannot be written (%s); events are counted and the gap will be in the trace", error)

    def _note_fault(self, message: str) -> None:
        self.faults += 1
        if self.first_fault is None:
            self.first_fault = message
            _LOG.error("a faulty event was written; further ones are only counted: %s", message)


def _drop_torn_line(file: int) -> int:
    """The end of the last whole line; what follows it is cut off. Cost: the length of the torn line."""
    end = os.lseek(file, 0, os.SEEK_END)
    step = 4096
    while end > 0:
        start = max(0, end - step)
        found = os.pread(file, end - start, start).rfind(b"\n")
        if found >= 0:
            end = start + found + 1
            break
        end = start
    os.ftruncate(file, end)
    return end
