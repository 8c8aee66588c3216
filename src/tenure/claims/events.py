"""One line of a trace as a value: built checked, written as JSON, read back checked."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from tenure.claims.event_fields import COMMON_FIELDS, EVENTS, FIELDS, SCHEMA_VERSION, FieldKind, FieldSpec
from tenure.claims.event_types import EventType, event_type_of
from tenure.errors import TraceError

FieldValue = bool | int | float | str | list[Any] | Mapping[str, Any] | None

_CLAUSE = "TNR-EVT-001"


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """Something that happened, complete enough to be understood without its neighbours.

    Attributes:
        event_type: what happened.
        event_sequence: its place in the run. Order is this number and nothing else.
        timestamp_ns: when, on the writer's clock.
        run_id, policy, usable_blocks: in what run, under which policy, with how many blocks (None: unknown).
        claim_id, prefix_id, request_id: whom it is about. `request_id` is a live request, never a prefix.
        fields: what `EVENTS` lists for the event type.
    """

    event_type: EventType
    event_sequence: int
    timestamp_ns: int
    run_id: str
    policy: str
    usable_blocks: int | None = None
    claim_id: str | None = None
    prefix_id: str | None = None
    request_id: str | None = None
    fields: Mapping[str, FieldValue] = field(default_factory=dict)

    def check(self) -> Event:
        """This event, which says all that its type must say and nothing that it may not.

        Raises:
            TraceError: naming the field that is missing, unknown, or of another shape.
        """
        spec = EVENTS[self.event_type]
        for name in _COMMON_NAMES:
            _check_field(name, getattr(self, name), COMMON_FIELDS[name], self)
        for name, wanted in (("claim_id", spec.names_claim), ("request_id", spec.names_request)):
            if wanted and getattr(self, name) is None:
                raise TraceError(f"{self} must say whom it is about", field=name, clause=_CLAUSE)
        for name in spec.required:
            if name not in self.fields:
                raise TraceError(f"is missing from {self}", field=name, clause=_CLAUSE)
        for name, value in self.fields.items():
            if name not in spec.required and name not in spec.optional:
                raise TraceError(f"is no field of {self.event_type.value}", field=name, clause=_CLAUSE)
            _check_field(name, value, FIELDS[name], self)
        return self

    def __str__(self) -> str:
        return f"event {self.event_sequence} ({self.event_type.value})"

    def to_record(self) -> dict[str, Any]:
        """The flat, JSON-ready mapping that a trace line holds."""
        record: dict[str, Any] = {
            "schema_version": SCHEMA_VERSION,
            "event": self.event_type.value,
            "event_sequence": self.event_sequence,
            "timestamp_ns": self.timestamp_ns,
            "run_id": self.run_id,
            "policy": self.policy,
            "usable_blocks": self.usable_blocks,
            "claim_id": self.claim_id,
            "prefix_id": self.prefix_id,
            "request_id": self.request_id,
        }
        record.update(self.fields)
        return record

    def to_json_line(self) -> str:
        """One line of compact JSON, keys in the order of `to_record`, without the line break."""
        return json.dumps(self.to_record(), separators=(",", ":"), allow_nan=False)

    @classmethod
    def from_record(cls, record: Mapping[str, Any]) -> Event:
        """The event that `to_record` wrote, checked.

        Raises:
            TraceError: an unknown event, or a field that is missing, unknown or of another shape.
        """
        name = record.get("event")
        kind = event_type_of(name) if isinstance(name, str) else None
        if kind is None:
            raise TraceError(f"{name!r} is no event of the contract", field="event", clause=_CLAUSE)
        if record.get("schema_version") != SCHEMA_VERSION:
            message = f"is {record.get('schema_version')!r}; this reads version {SCHEMA_VERSION}"
            raise TraceError(message, field="schema_version", clause=_CLAUSE)
        for common in COMMON_FIELDS:
            if common not in record:
                raise TraceError(f"is missing from the {name} event", field=common, clause=_CLAUSE)
        return cls(
            event_type=kind,
            fields={key: value for key, value in record.items() if key not in COMMON_FIELDS},
            **{key: record[key] for key in _COMMON_NAMES},
        ).check()


_COMMON_NAMES = tuple(name for name in COMMON_FIELDS if name not in ("schema_version", "event"))


def _check_field(name: str, value: object, spec: FieldSpec, event: Event) -> None:
    if value is None and spec.nullable:
        return
    if not has_shape(spec.kind, value):
        message = f"must be {spec.kind.value}{' or null' if spec.nullable else ''} in {event}, got {value!r}"
        raise TraceError(message, field=name, clause=_CLAUSE)
    if spec.choices and value not in spec.choices:
        message = f"is {value!r} in {event}; it is one of {', '.join(spec.choices)}"
        raise TraceError(message, field=name, clause=_CLAUSE)


def has_shape(kind: FieldKind, value: object) -> bool:
    """Whether `value` is of that kind. Null is of no kind."""
    return _SHAPES[kind](value)


def _is_count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


_SHAPES: Mapping[FieldKind, Callable[[object], bool]] = {
    FieldKind.TEXT: lambda value: isinstance(value, str) and bool(value),
    FieldKind.COUNT: _is_count,
    FieldKind.NUMBER: _is_number,
    FieldKind.FLAG: lambda value: isinstance(value, bool),
    FieldKind.TEXT_LIST: lambda value: (
        isinstance(value, list | tuple) and all(isinstance(item, str) and item for item in value)
    ),
    FieldKind.COUNT_LIST: lambda value: isinstance(value, list | tuple) and all(_is_count(item) for item in value),
    FieldKind.RECORD: lambda value: isinstance(value, Mapping),
    FieldKind.RECORD_LIST: lambda value: (
        isinstance(value, list | tuple) and all(isinstance(item, Mapping) for item in value)
    ),
}
