"""The JSON Schema of a receipt: one shape for claims and requests, in the library and wherever receipts are sent."""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from types import MappingProxyType
from typing import Any

from tenure.claims.clauses import specification
from tenure.claims.modes import Action, ClaimState, Outcome, ProtectionMode, Tier
from tenure.claims.receipts import NextStep

_TEXT: Mapping[str, Any] = MappingProxyType({"type": "string", "minLength": 1})
_COUNT: Mapping[str, Any] = MappingProxyType({"type": "integer", "minimum": 0})


def _words(vocabulary: type[StrEnum]) -> dict[str, Any]:
    return {"enum": [member.value for member in vocabulary]}


#: Every number of `numbers`, and what it counts.
NUMBERS: Mapping[str, str] = MappingProxyType(
    {
        "requested_blocks": "blocks that were asked for",
        "granted_blocks": "blocks that are held",
        "protected_blocks": "blocks on the device that live reserving claims keep there, shared ones once",
        "active_live_blocks": "blocks that all other work in flight needs",
        "usable_blocks": "blocks that can really be allocated",
        "shortfall_blocks": "blocks that were missing",
        "owed_blocks": "blocks that live reserving claims are owed, computed yet or not; for a claim only",
    }
)
#: Every number of `tokens`, and what it counts.
TOKENS: Mapping[str, str] = MappingProxyType(
    {
        "reused_tokens": "tokens of the prompt whose rows were on the device, and were not computed",
        "restored_tokens": "tokens of the prompt whose rows came back from a slower tier, and were not computed",
        "recomputed_tokens": "tokens computed again: their rows could not be brought back, or the request keeps none",
    }
)
#: Every field of a receipt: its shape, and what it says.
RECEIPT_FIELDS: Mapping[str, tuple[dict[str, Any], str]] = MappingProxyType(
    {
        "outcome": (_words(Outcome), "what happened"),
        "reason": (dict(_TEXT), "why"),
        "claim_id": (dict(_TEXT), "the claim that is answered"),
        "request_id": (dict(_TEXT), "the request that is answered"),
        "revision": ({"type": "integer", "minimum": 1}, "of the claim"),
        "numbers": (
            {
                "type": "object",
                "properties": {name: {**_COUNT, "description": says} for name, says in NUMBERS.items()},
                "required": [name for name in NUMBERS if name != "owed_blocks"],
                "additionalProperties": False,
            },
            "what the answer rests on, in blocks, where room was at stake",
        ),
        "tokens": (
            {
                "type": "object",
                "properties": {name: {**_COUNT, "description": says} for name, says in TOKENS.items()},
                "required": list(TOKENS),
                "additionalProperties": False,
            },
            "what became of a request's prompt, where it runs",
        ),
        "is_exact": (
            {"type": "boolean"},
            "whether every token attends over all rows before it; false: in a smaller arena, with recall",
        ),
        "granted_mode": (_words(ProtectionMode), "the terms that the runtime answers for"),
        "state": (_words(ClaimState), "the claim's state after this answer"),
        "action": (_words(Action), "the contract action that was taken"),
        "blocking_claim_ids": (
            {"type": "array", "items": dict(_TEXT), "uniqueItems": True},
            "the smallest set of claims without which there would have been room, sorted",
        ),
        "next_step": (_words(NextStep), "what happens next"),
        "retry_after_s": ({"type": "number", "minimum": 0}, "how long to wait before it is worth asking again"),
        "tier": (_words(Tier), "where the claim's blocks are, when that changed"),
        "caused_by_request_id": (dict(_TEXT), "the request for which a claim gave way"),
        "route_target": (dict(_TEXT), "the worker that the request went to"),
        "failure": (dict(_TEXT), "what went wrong on the way, where the outcome is not what was tried first"),
    }
)


def receipt_schema() -> dict[str, Any]:
    """The schema (draft 2020-12) of `Receipt.to_record()`. Published as `receipt.schema.json` beside this."""
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": f"A receipt: the answer to a claim or a request, edition {specification().edition}",
        "type": "object",
        "properties": {name: {**shape, "description": says} for name, (shape, says) in RECEIPT_FIELDS.items()},
        "required": ["outcome", "reason", "blocking_claim_ids", "next_step"],
        "anyOf": [{"required": ["claim_id"]}, {"required": ["request_id"]}],
        "additionalProperties": False,
    }
