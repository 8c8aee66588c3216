"""How a field of a contract object is checked: one function a kind, each naming the field and the clause."""

from __future__ import annotations

import math
from collections.abc import Mapping

from tenure.errors import ClaimError

#: What a journal can hold.
_MAX_COUNT = 2**63 - 1


def require_text(field: str, value: object, *, clause: str) -> str:
    """`value`, which is a non-empty string without line breaks; ClaimError otherwise."""
    if not isinstance(value, str) or not value.strip():
        raise ClaimError(f"must be a non-empty string, got {shown(value)}", field=field, clause=clause)
    if "\n" in value or "\r" in value:
        raise ClaimError(f"may not hold a line break, got {shown(value)}", field=field, clause=clause)
    return value


def require_count(field: str, value: object, *, minimum: int, clause: str) -> int:
    """`value`, which is a whole number from `minimum` to 2**63 - 1; ClaimError otherwise. A bool is no number."""
    if type(value) is not int:
        raise ClaimError(f"must be a whole number, got {shown(value)}", field=field, clause=clause)
    if value < minimum:
        raise ClaimError(f"must be at least {minimum}, got {shown(value)}", field=field, clause=clause)
    if value > _MAX_COUNT:
        raise ClaimError(f"must be at most {_MAX_COUNT}, got {shown(value)}", field=field, clause=clause)
    return value


def require_seconds(field: str, value: object, *, clause: str) -> float:
    """`value`, which is a finite number of seconds above zero; ClaimError otherwise, for NaN and infinity too."""
    number = require_finite(field, value, clause=clause)
    if number <= 0:
        raise ClaimError(f"must be above zero seconds, got {shown(value)}", field=field, clause=clause)
    return number


def require_finite(field: str, value: object, *, clause: str) -> float:
    """`value` as a float, which is neither NaN nor infinite; ClaimError otherwise. A bool is no number."""
    if isinstance(value, int | float) and not isinstance(value, bool):
        try:
            number = float(value)
        except OverflowError:
            number = math.inf
        if math.isfinite(number):
            return number
    raise ClaimError(f"must be a finite number, got {shown(value)}", field=field, clause=clause)


def require_known_fields(record: Mapping[str, object], *, known: frozenset[str], of: str, clause: str) -> None:
    """Nothing, when every key of `record` is in `known`; ClaimError naming the first stranger otherwise."""
    for name in record:
        if name not in known:
            raise ClaimError(f"is no field of {of}; it has {', '.join(sorted(known))}", field=name, clause=clause)


def require_present(record: Mapping[str, object], *, needed: frozenset[str], of: str, clause: str) -> None:
    """Nothing, when `record` has every key in `needed`; ClaimError naming the first missing one otherwise."""
    for name in sorted(needed):
        if name not in record:
            raise ClaimError(f"is missing from {of}", field=name, clause=clause)


def shown(value: object) -> str:
    """The value in a message, in a few words however large it is."""
    try:
        text = repr(value)
    except ValueError:  # Python writes no integer of more than a few thousand digits
        return "a number too large to write down"
    return text if len(text) <= 80 else f"{text[:60]}... ({len(text)} characters)"
