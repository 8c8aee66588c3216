"""Many events to JSON at once, column by column.

Encoding events one by one takes several microseconds each. A batch holds few kinds of events, so those of one kind are
turned into columns, each column is checked and encoded by functions that loop in C, and one template a kind makes the
lines; a column that says the same in every line becomes part of the template. The bytes are those of
`Event.to_json_line`.
"""

from __future__ import annotations

import json
import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from json.encoder import encode_basestring_ascii
from operator import itemgetter
from typing import Any

from tenure.claims.event_fields import EVENTS, FIELDS, SCHEMA_VERSION, FieldKind
from tenure.claims.event_types import EventType
from tenure.claims.events import Event, FieldValue, has_shape
from tenure.errors import TraceError

#: event type, fields, sequence, timestamp_ns, claim id, prefix id, request id.
PendingEvent = tuple[EventType, Mapping[str, FieldValue], int, int, str | None, str | None, str | None]

#: `json.dumps` with options of its own builds an encoder each time, which costs more than these values do.
_ENCODE = json.JSONEncoder(separators=(",", ":"), allow_nan=False).encode
_FLAG_TEXT = {True: "true", False: "false", None: "null"}


@dataclass(frozen=True, slots=True, kw_only=True)
class EncodedBatch:
    """The lines of a batch, and what was wrong with events that were written all the same."""

    data: bytes
    faults: tuple[str, ...]


def encode_lines(
    batch: Mapping[EventType, Sequence[PendingEvent]],
    *,
    first_sequence: int,
    run_id: str,
    policy: str,
    usable_blocks: int | None,
) -> EncodedBatch:
    """The events, given by type, as lines of JSON in the order of their numbers. Never raises.

    The numbers are those from `first_sequence` on, each once. A malformed event is written as well as can be and named
    in `faults`.
    """
    faults: list[str] = []
    common = _common_text(run_id=run_id, policy=policy, usable_blocks=usable_blocks)

    def encode(event_type: EventType, events: Sequence[PendingEvent]) -> list[str]:
        encoded = _encode_group(event_type, events, common)
        if encoded is None:
            return _encode_singly(events, run_id=run_id, policy=policy, usable_blocks=usable_blocks, faults=faults)
        return encoded

    if len(batch) == 1:
        ((event_type, events),) = batch.items()
        lines = encode(event_type, events)
    else:
        lines = [""] * sum(map(len, batch.values()))
        for event_type, events in batch.items():
            for event, line in zip(events, encode(event_type, events), strict=True):
                lines[event[2] - first_sequence] = line
    return EncodedBatch(data="".join(lines).encode(), faults=tuple(faults))


def _encode_group(event_type: EventType, events: Sequence[PendingEvent], common: str) -> list[str] | None:
    """The lines of events of one type; None when those with equally many fields are not alike and well-formed."""
    _, fields, sequences, timestamps, claim_ids, prefix_ids, request_ids = zip(*events, strict=True)
    if len(set(map(len, fields))) > 1:
        return _encode_by_number_of_fields(event_type, events, common)
    names = tuple(fields[0])
    spec = EVENTS[event_type]
    if not set(spec.required).issubset(names) or not set(names).issubset((*spec.required, *spec.optional)):
        return None
    if (spec.names_claim and None in claim_ids) or (spec.names_request and None in request_ids):
        return None
    identifiers = (("claim_id", claim_ids), ("prefix_id", prefix_ids), ("request_id", request_ids))
    try:
        encoded = [(name, _encode_text(values, choices=(), nullable=True)) for name, values in identifiers]
        if names:
            columns = zip(names, _columns(fields, names), strict=True)
            encoded += [(name, _encode_column(name, values)) for name, values in columns]
    except (_UnlikeError, KeyError, TypeError, ValueError):
        return None
    head = f'{{"schema_version":{SCHEMA_VERSION},"event":"{event_type.value}"'
    template = f'{head},"event_sequence":%s,"timestamp_ns":%s,{common}'
    varying: list[Iterable[Any]] = [sequences, timestamps]
    for name, column in encoded:
        if isinstance(column, str):
            template += f',"{name}":{column.replace("%", "%%")}'
        else:
            template += f',"{name}":%s'
            varying.append(column)
    return list(map(f"{template}}}\n".__mod__, zip(*varying, strict=True)))


def _encode_by_number_of_fields(event_type: EventType, events: Sequence[PendingEvent], common: str) -> list[str] | None:
    groups: defaultdict[int, list[int]] = defaultdict(list)
    for index, event in enumerate(events):
        groups[len(event[1])].append(index)
    lines = [""] * len(events)
    for indices in groups.values():
        encoded = _encode_group(event_type, [events[index] for index in indices], common)
        if encoded is None:
            return None
        for index, line in zip(indices, encoded, strict=True):
            lines[index] = line
    return lines


def _encode_singly(
    events: Sequence[PendingEvent], *, run_id: str, policy: str, usable_blocks: int | None, faults: list[str]
) -> list[str]:
    lines = []
    for event_type, fields, sequence, timestamp_ns, claim_id, prefix_id, request_id in events:
        event = Event(
            event_type=event_type,
            event_sequence=sequence,
            timestamp_ns=timestamp_ns,
            run_id=run_id,
            policy=policy,
            usable_blocks=usable_blocks,
            claim_id=claim_id,
            prefix_id=prefix_id,
            request_id=request_id,
            fields=fields,
        )
        try:
            event.check()
        except TraceError as fault:
            faults.append(str(fault))
        lines.append(json.dumps(event.to_record(), separators=(",", ":"), default=repr) + "\n")
    return lines


def _common_text(*, run_id: str, policy: str, usable_blocks: int | None) -> str:
    """The part of a line that is the same in every event of a batch, with `%` doubled for the template."""
    text = f'"run_id":{json.dumps(run_id)},"policy":{json.dumps(policy)},"usable_blocks":{json.dumps(usable_blocks)}'
    return text.replace("%", "%%")


def _columns(records: Sequence[Mapping[str, FieldValue]], names: tuple[str, ...]) -> Iterable[tuple[Any, ...]]:
    """The values of each name over all records. Raises KeyError when a record has other names."""
    if len(names) == 1:
        return [tuple(map(itemgetter(names[0]), records))]
    return zip(*map(itemgetter(*names), records), strict=True)


class _UnlikeError(Exception):
    """The values of a column are not all of its kind."""


def _encode_column(name: str, values: tuple[Any, ...]) -> str | Iterable[Any]:
    """The values as JSON: one string when they are all alike, otherwise one each."""
    spec = FIELDS[name]
    types = set(map(type, values))
    if spec.kind is FieldKind.TEXT:
        return _encode_text(values, choices=spec.choices, nullable=spec.nullable)
    if types == {int} and spec.kind in (FieldKind.COUNT, FieldKind.NUMBER):
        if spec.kind is FieldKind.COUNT and min(values) < 0:
            raise _UnlikeError
        return str(values[0]) if values.count(values[0]) == len(values) else values
    if types == {bool} and spec.kind is FieldKind.FLAG:
        if values.count(values[0]) == len(values):
            return _FLAG_TEXT[values[0]]
        return map(_FLAG_TEXT.__getitem__, values)
    if types == {float} and spec.kind is FieldKind.NUMBER and all(map(math.isfinite, values)):
        return map(repr, values)
    if spec.kind in (FieldKind.TEXT_LIST, FieldKind.COUNT_LIST, FieldKind.RECORD_LIST, FieldKind.RECORD) or (
        spec.nullable and type(None) in types
    ):
        if not all((value is None and spec.nullable) or has_shape(spec.kind, value) for value in values):
            raise _UnlikeError
        return map(_compact_json, values)
    raise _UnlikeError


def _encode_text(values: tuple[Any, ...], *, choices: tuple[str, ...], nullable: bool) -> str | Iterable[str]:
    distinct = set(values)
    if choices and not distinct.issubset(choices if not nullable else (*choices, None)):
        raise _UnlikeError
    table: dict[str | None, str] = {}
    if None in distinct:
        if not nullable:
            raise _UnlikeError
        distinct.discard(None)
        table[None] = "null"
    if "" in distinct:
        raise _UnlikeError
    if len(distinct) + len(table) == 1:
        return table[None] if table else encode_basestring_ascii(values[0])
    if not table and len(distinct) * 2 > len(values):
        return map(encode_basestring_ascii, values)
    table.update(zip(distinct, map(encode_basestring_ascii, distinct), strict=True))
    return map(table.__getitem__, values)


def _compact_json(value: FieldValue) -> str:
    return _ENCODE(value)
