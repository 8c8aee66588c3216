"""What a KV cache must do to be one: the rules as data, the events that show it, and the checker that judges them."""

from tenure.kv.semantics.checker import SemanticsChecker, Violation, check, minimal_witness
from tenure.kv.semantics.events import (
    Begin,
    Counts,
    Crop,
    Done,
    Drop,
    Event,
    Finish,
    Fork,
    Padding,
    Read,
    Refusal,
    Reset,
    RowKey,
    Sizes,
    Torn,
    Write,
)
from tenure.kv.semantics.rules import RULES, Origin, Rule, RuleId
from tenure.kv.semantics.shrink import shrink

__all__ = [
    "RULES",
    "Begin",
    "Counts",
    "Crop",
    "Done",
    "Drop",
    "Event",
    "Finish",
    "Fork",
    "Origin",
    "Padding",
    "Read",
    "Refusal",
    "Reset",
    "RowKey",
    "Rule",
    "RuleId",
    "SemanticsChecker",
    "Sizes",
    "Torn",
    "Violation",
    "Write",
    "check",
    "minimal_witness",
    "shrink",
]
