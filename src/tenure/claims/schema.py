"""The JSON Schema of a trace line, made from the tables that the writer and the reader check by."""

from __future__ import annotations

from typing import Any

from tenure.claims.clauses import specification
from tenure.claims.event_fields import COMMON_FIELDS, EVENTS, FIELDS, SCHEMA_VERSION, FieldKind, FieldSpec

_SHAPES: dict[FieldKind, dict[str, Any]] = {
    FieldKind.TEXT: {"type": "string", "minLength": 1},
    FieldKind.COUNT: {"type": "integer", "minimum": 0},
    FieldKind.NUMBER: {"type": "number"},
    FieldKind.FLAG: {"type": "boolean"},
    FieldKind.TEXT_LIST: {"type": "array", "items": {"type": "string", "minLength": 1}},
    FieldKind.COUNT_LIST: {"type": "array", "items": {"type": "integer", "minimum": 0}},
    FieldKind.RECORD: {"type": "object"},
    FieldKind.RECORD_LIST: {"type": "array", "items": {"type": "object"}},
}


def event_schema() -> dict[str, Any]:
    """The schema (draft 2020-12) that every line of a trace follows. Published as `event.schema.json` beside this."""
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": f"One event of a resident-claim trace, edition {specification().edition}",
        "type": "object",
        "required": list(COMMON_FIELDS),
        "properties": {"event": {"enum": [event.value for event in EVENTS]}},
        "oneOf": [
            {
                "title": spec.when,
                "properties": {
                    **{name: _shape(field) for name, field in COMMON_FIELDS.items()},
                    "schema_version": {"const": SCHEMA_VERSION},
                    "event": {"const": event.value},
                    **({"claim_id": {"type": "string", "minLength": 1}} if spec.names_claim else {}),
                    **({"request_id": {"type": "string", "minLength": 1}} if spec.names_request else {}),
                    **{name: _shape(FIELDS[name]) for name in (*spec.required, *spec.optional)},
                },
                "required": list(spec.required),
                "additionalProperties": False,
            }
            for event, spec in EVENTS.items()
        ],
    }


def _shape(spec: FieldSpec) -> dict[str, Any]:
    shape: dict[str, Any] = {"enum": list(spec.choices)} if spec.choices else dict(_SHAPES[spec.kind])
    if spec.nullable:
        shape = {"anyOf": [shape, {"type": "null"}]}
    return {**shape, "description": spec.meaning}
