"""What must survive for a claim to be worth anything: a shape of blocks, never a count of them."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum

from tenure.claims.validation import require_count, require_known_fields, require_present
from tenure.errors import ClaimError

_CLAUSE = "TNR-MAT-001"
_TEXT = re.compile(r"\s*(?P<name>[a-z_]+)\s*\(\s*(?P<first>\d{1,19})\s*(?:,\s*(?P<second>\d{1,19})\s*)?\)\s*")
_RECORD_FIELDS = frozenset({"predicate_type", "required_blocks", "start_block"})


class PredicateType(StrEnum):
    """The shapes that a claim may ask for."""

    LEADING_PREFIX_AT_LEAST = "leading_prefix_at_least"
    CONTIGUOUS_RANGE = "contiguous_range"


@dataclass(frozen=True, slots=True, kw_only=True)
class PredicateResult:
    """How a set of surviving blocks stands against a predicate.

    Attributes:
        materialized: whether the predicate holds.
        surviving_blocks: distinct surviving positions. Information only; it decides nothing.
        leading_blocks: the largest k for which blocks 0 to k-1 all survive.
        required_blocks: what the predicate asks for.
    """

    materialized: bool
    surviving_blocks: int
    leading_blocks: int
    required_blocks: int

    def to_record(self) -> dict[str, bool | int]:
        """A JSON-ready mapping with the four published keys."""
        return {
            "materialized": self.materialized,
            "surviving_blocks": self.surviving_blocks,
            "leading_blocks": self.leading_blocks,
            "required_blocks": self.required_blocks,
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class MaterializationPredicate:
    """Holds if, and only if, every block of `required_positions` survives.

    Build one with `leading_prefix_at_least` or `contiguous_range`, or read one with `parse_predicate`.

    Attributes:
        predicate_type: the shape.
        required_blocks: how many consecutive blocks, zero or more. Zero always holds.
        start_block: the first of them; zero for a leading prefix.

    Raises:
        ClaimError: an unknown type, a negative number, or a leading prefix that does not start at zero.
    """

    predicate_type: PredicateType
    required_blocks: int
    start_block: int = 0

    def __post_init__(self) -> None:
        kind: object = self.predicate_type
        if not isinstance(kind, PredicateType):
            names = ", ".join(kind.value for kind in PredicateType)
            message = f"{self.predicate_type!r} is no predicate; use one of {names}"
            raise ClaimError(message, field="predicate_type", clause=_CLAUSE)
        require_count("required_blocks", self.required_blocks, minimum=0, clause=_CLAUSE)
        require_count("start_block", self.start_block, minimum=0, clause=_CLAUSE)
        if self.predicate_type is PredicateType.LEADING_PREFIX_AT_LEAST and self.start_block != 0:
            message = f"a leading prefix starts at block 0, got {self.start_block}; use contiguous_range"
            raise ClaimError(message, field="start_block", clause=_CLAUSE)

    @property
    def required_positions(self) -> range:
        """The logical block positions that must all survive. A block outside may be lost without harm."""
        return range(self.start_block, self.start_block + self.required_blocks)

    def evaluate(self, surviving_positions: Iterable[int]) -> PredicateResult:
        """How `surviving_positions` (logical block positions, repeats collapse) stand against this predicate.

        Cost: linear in the number of positions.
        """
        surviving = frozenset(surviving_positions)
        leading = 0
        while leading in surviving:
            leading += 1
        return PredicateResult(
            materialized=all(position in surviving for position in self.required_positions),
            surviving_blocks=len(surviving),
            leading_blocks=leading,
            required_blocks=self.required_blocks,
        )

    def as_text(self) -> str:
        """The form used in traces: `leading_prefix_at_least(8)` or `contiguous_range(4,8)`."""
        if self.predicate_type is PredicateType.LEADING_PREFIX_AT_LEAST:
            return f"{self.predicate_type.value}({self.required_blocks})"
        return f"{self.predicate_type.value}({self.start_block},{self.required_blocks})"

    def to_record(self) -> dict[str, str | int]:
        """A JSON-ready mapping with the three published keys."""
        return {
            "predicate_type": self.predicate_type.value,
            "required_blocks": self.required_blocks,
            "start_block": self.start_block,
        }

    @classmethod
    def from_record(cls, record: Mapping[str, object]) -> MaterializationPredicate:
        """The predicate that `to_record` wrote. Raises ClaimError on a missing, unknown or malformed field."""
        require_known_fields(record, known=_RECORD_FIELDS, of="a predicate", clause=_CLAUSE)
        require_present(record, needed=_RECORD_FIELDS - {"start_block"}, of="the predicate", clause=_CLAUSE)
        return cls(
            predicate_type=_predicate_type(str(record["predicate_type"])),
            required_blocks=record["required_blocks"],  # type: ignore[arg-type]  # checked in __post_init__
            start_block=record.get("start_block", 0),  # type: ignore[arg-type]
        )


def leading_prefix_at_least(required_blocks: int) -> MaterializationPredicate:
    """Blocks 0 to `required_blocks` - 1 must all survive."""
    return MaterializationPredicate(
        predicate_type=PredicateType.LEADING_PREFIX_AT_LEAST, required_blocks=required_blocks
    )


def contiguous_range(start_block: int, required_blocks: int) -> MaterializationPredicate:
    """Blocks `start_block` to `start_block + required_blocks` - 1 must all survive."""
    return MaterializationPredicate(
        predicate_type=PredicateType.CONTIGUOUS_RANGE, required_blocks=required_blocks, start_block=start_block
    )


def parse_predicate(text: str) -> MaterializationPredicate:
    """The predicate that `text` names, in the form of `as_text`. A bare number is no predicate.

    Raises:
        ClaimError: not of that form, an unknown name, or the wrong number of arguments.
    """
    match = _TEXT.fullmatch(str(text))
    if match is None:
        message = f"{text!r} is no predicate; write leading_prefix_at_least(8) or contiguous_range(4,8)"
        raise ClaimError(message, field="materialization_predicate", clause=_CLAUSE)
    kind = _predicate_type(match["name"])
    first, second = int(match["first"]), match["second"]
    if kind is PredicateType.LEADING_PREFIX_AT_LEAST and second is None:
        return leading_prefix_at_least(first)
    if kind is not PredicateType.LEADING_PREFIX_AT_LEAST and second is not None:
        return contiguous_range(first, int(second))
    wanted = "one number" if kind is PredicateType.LEADING_PREFIX_AT_LEAST else "a start and a number of blocks"
    message = f"{kind.value} takes {wanted}, got {text!r}"
    raise ClaimError(message, field="materialization_predicate", clause=_CLAUSE)


def _predicate_type(name: str) -> PredicateType:
    try:
        return PredicateType(name)
    except ValueError:
        names = ", ".join(kind.value for kind in PredicateType)
        message = f"{name!r} is no predicate; use one of {names}"
        raise ClaimError(message, field="predicate_type", clause=_CLAUSE) from None
