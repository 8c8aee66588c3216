from __future__ import annotations

import errno
import json
import logging
import os
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from claims_world import World, make_claim
from tenure.claims import Event, EventType
from tenure.claims.event_fields import EVENTS, FIELDS, FieldKind, FieldSpec
from tenure.claims.events import FieldValue
from tenure.claims.telemetry import FaultPolicy, JsonLinesTelemetry, MemoryTelemetry
from tenure.claims.trace import read_trace
from tenure.errors import DiskFullError, TraceError


def a_file_writer(path: Path, **options: Any) -> JsonLinesTelemetry:
    ticks = iter(range(10**9))
    return JsonLinesTelemetry(path, run_id='run "1"', policy="100%", clock_ns=lambda: next(ticks), **options)


def _values(spec: FieldSpec) -> st.SearchStrategy[Any]:
    text = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=8)
    kinds: dict[FieldKind, st.SearchStrategy[Any]] = {
        FieldKind.TEXT: st.sampled_from(spec.choices) if spec.choices else text,
        FieldKind.COUNT: st.integers(0, 10**12),
        FieldKind.NUMBER: st.one_of(st.integers(-5, 5), st.floats(allow_nan=False, allow_infinity=False)),
        FieldKind.FLAG: st.booleans(),
        FieldKind.TEXT_LIST: st.lists(text, max_size=3),
        FieldKind.COUNT_LIST: st.lists(st.integers(0, 99), max_size=3),
        FieldKind.RECORD: st.dictionaries(text, st.integers(), max_size=2),
        FieldKind.RECORD_LIST: st.lists(st.dictionaries(text, st.integers(), max_size=2), max_size=2),
    }
    return st.one_of(st.none(), kinds[spec.kind]) if spec.nullable else kinds[spec.kind]


@st.composite
def well_formed_events(draw: st.DrawFn) -> tuple[EventType, dict[str, FieldValue], dict[str, str | None]]:
    """Any event type, with all its required fields and some optional ones, about anybody."""
    event_type = draw(st.sampled_from([event for event in EventType if event is not EventType.TELEMETRY_GAP]))
    spec = EVENTS[event_type]
    names = [*spec.required, *(name for name in spec.optional if draw(st.booleans()))]
    who = {
        "claim_id": draw(st.sampled_from(["c%1", 'c"2']) if spec.names_claim else st.sampled_from([None, "c"])),
        "prefix_id": draw(st.sampled_from([None, "präfix"])),
        "request_id": draw(st.just("r1") if spec.names_request else st.sampled_from([None, "r"])),
    }
    return event_type, {name: draw(_values(FIELDS[name])) for name in names}, who


@pytest.mark.clause("TNR-EVT-001", "TNR-EVT-002")
@given(events=st.lists(well_formed_events(), min_size=1, max_size=12), batch_events=st.integers(1, 5))
def test_a_written_batch_reads_back_as_the_same_events(
    tmp_path_factory: pytest.TempPathFactory, events: list[Any], batch_events: int
) -> None:
    path = tmp_path_factory.mktemp("trace") / "events.jsonl"
    writer = a_file_writer(path, usable_blocks=80, batch_events=batch_events)
    memory = MemoryTelemetry(
        run_id='run "1"', policy="100%", clock_ns=iter(range(99)).__next__, usable_blocks=80, on_fault=FaultPolicy.COUNT
    )
    for event_type, fields, who in events:
        assert writer.emit(event_type, fields, **who) == memory.emit(event_type, fields, **who)
    writer.close()
    assert read_trace(path) == memory.events
    assert path.read_text() == memory.to_json_lines()


@pytest.mark.clause("TNR-EVT-001")
@pytest.mark.parametrize(
    ("fields", "named"),
    [({"victim_reason": None}, "victim_reason"), ({"physical_block_id": -1}, "physical_block_id"),
     ({"is_protected_resident": 0}, "is_protected_resident"), ({"physical_block_id": True}, "physical_block_id"),
     ({"victim_reason": "bad luck"}, "victim_reason"), ({"mood": 1}, "mood")],
)  # fmt: skip
def test_a_malformed_event_is_named_in_tests_and_written_and_counted_in_service(
    tmp_path: Path, fields: dict[str, Any], named: str
) -> None:
    whole = {"physical_block_id": 1, "is_protected_resident": False, "victim_reason": "free_uncached"}
    fields = {name: value for name, value in (whole | fields).items() if value is not None}
    memory = MemoryTelemetry(run_id="run", policy="p", clock_ns=lambda: 0)
    with pytest.raises(TraceError, match=named) as caught:
        memory.emit(EventType.VICTIM_SELECTED, fields)
    assert (caught.value.field, memory.events) == (named, [])
    writer = a_file_writer(tmp_path / "t.jsonl")
    writer.emit(EventType.VICTIM_SELECTED, fields)
    writer.close()
    assert writer.faults == 1
    assert named in str(writer.first_fault)
    assert json.loads((tmp_path / "t.jsonl").read_text())["event"] == "allocation_victim_selected"


@pytest.mark.clause("TNR-EVT-003")
def test_an_event_out_of_order_raises_in_tests_and_is_counted_in_service(tmp_path: Path) -> None:
    fields = {
        "restoration_failure_reason": "x",
        "outcome_type": "harm",
        "outcome_claim_id": "c",
        "offload_generation": 1,
    }
    memory = MemoryTelemetry(run_id="run", policy="p", clock_ns=lambda: 0)
    with pytest.raises(TraceError, match="nobody submitted it"):
        memory.emit(EventType.CLAIM_RESTORATION_FAILED, fields, claim_id="c")
    writer = a_file_writer(tmp_path / "t.jsonl")
    writer.emit(EventType.CLAIM_RESTORATION_FAILED, fields, claim_id="c")
    assert writer.faults == 1
    writer.close()


@pytest.mark.clause("TNR-EVT-010")
def test_claim_events_name_a_request_only_where_a_request_caused_them() -> None:
    world = World()
    claim = make_claim()
    world.hold(claim)
    world.take(claim, 0, request_id="active")
    named = {event.event_type.value: event.request_id for event in world.events()}
    assert named.pop("resident_claim_harmed") == "active"
    assert set(named.values()) == {None}


class FailingDisk:
    """Stands in for os.pwrite: writes half of what it is given and then fails, while `full`."""

    def __init__(self) -> None:
        self.full = False
        self._real = os.pwrite

    def __call__(self, file: int, data: bytes, offset: int) -> int:
        if not self.full:
            return self._real(file, data, offset)
        if len(data) < 10:
            raise OSError(errno.ENOSPC, "No space left on device")
        return self._real(file, data[: len(data) // 2], offset)


@pytest.mark.clause("TNR-EVT-002", "TNR-EVT-006")
def test_a_full_disk_is_logged_once_counted_and_told_in_the_trace_and_tears_no_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    disk = FailingDisk()
    monkeypatch.setattr(os, "pwrite", disk)
    path = tmp_path / "t.jsonl"
    writer = a_file_writer(path, batch_events=2)
    request = {"active_live_blocks_required": 1}
    with caplog.at_level(logging.ERROR):
        for number in range(10):
            disk.full = 2 <= number < 8
            assert writer.emit(EventType.REQUEST_SUBMITTED, request, request_id=f"r{number}") == number
            assert path.read_bytes().endswith(b"\n") or not path.read_bytes()
    writer.close()
    events = read_trace(path)
    assert [event.event_sequence for event in events] == [0, 1, 7, 8, 9]
    assert events[2].event_type is EventType.TELEMETRY_GAP
    assert (events[2].fields["lost_events"], events[2].fields["first_lost_event_sequence"]) == (6, 2)
    assert (writer.lost_events, len(caplog.records)) == (6, 1)


@pytest.mark.clause("TNR-EVT-006")
def test_a_registry_decides_the_same_whether_or_not_its_trace_can_be_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def story(disk: FailingDisk, name: str) -> list[str]:
        monkeypatch.setattr(os, "pwrite", disk)
        world = World(usable_blocks=12)
        world.registry._sink = world.registry._book._sink = a_file_writer(tmp_path / name, batch_events=1)
        receipts = [world.submit(make_claim(f"claim:{number}", duration_s=5.0)) for number in range(4)]
        world.clock.advance(5)
        receipts += world.registry.tick()
        return [receipt.sentence() for receipt in receipts]

    healthy, full = FailingDisk(), FailingDisk()
    full.full = True
    assert story(healthy, "healthy.jsonl") == story(full, "full.jsonl")
    assert (tmp_path / "full.jsonl").read_bytes() == b""


def test_a_line_torn_by_a_crash_is_dropped_when_the_file_is_opened_again(tmp_path: Path) -> None:
    path = tmp_path / "t.jsonl"
    writer = a_file_writer(path)
    writer.emit(EventType.REQUEST_SUBMITTED, {"active_live_blocks_required": 1}, request_id="r")
    writer.close()
    whole = path.read_bytes()
    path.write_bytes(whole + b'{"event":"active_re' + b"x" * 9000)
    a_file_writer(path).close()
    assert path.read_bytes() == whole


def test_a_place_that_cannot_be_written_is_a_resource_error(tmp_path: Path) -> None:
    with pytest.raises(DiskFullError, match="choose another place"):
        a_file_writer(tmp_path / "no" / "such" / "folder.jsonl")


def test_usable_blocks_are_those_of_the_moment(tmp_path: Path) -> None:
    writer = a_file_writer(tmp_path / "t.jsonl", usable_blocks=80)
    writer.emit(EventType.REQUEST_SUBMITTED, {"active_live_blocks_required": 1}, request_id="r1")
    writer.usable_blocks = 90
    writer.emit(EventType.REQUEST_SUBMITTED, {"active_live_blocks_required": 1}, request_id="r2")
    writer.close()
    assert [event.usable_blocks for event in read_trace(tmp_path / "t.jsonl")] == [80, 90]


def test_a_record_with_an_older_event_name_is_understood() -> None:
    memory = MemoryTelemetry(run_id="run", policy="p", clock_ns=lambda: 0, on_fault=FaultPolicy.COUNT)
    memory.emit(EventType.REQUEST_SUBMITTED, {"active_live_blocks_required": 1}, request_id="r")
    record = memory.events[0].to_record() | {"event": "request_submitted"}
    assert Event.from_record(record) == memory.events[0]
    with pytest.raises(TraceError, match="no event"):
        Event.from_record(record | {"event": "block_removed"})


def test_memory_that_is_bounded_keeps_the_newest_events_and_their_numbers() -> None:
    memory = MemoryTelemetry(run_id="run", policy="p", clock_ns=lambda: 0, keep_events=3)
    for number in range(20):
        memory.emit(EventType.REQUEST_SUBMITTED, {"active_live_blocks_required": 1}, request_id=f"r{number}")
    assert 3 <= len(memory.events) <= 6
    assert [event.event_sequence for event in memory.events] == list(range(20))[-len(memory.events) :]
