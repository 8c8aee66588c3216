"""A record in the words of today, whatever spelling of them it was written in."""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from types import MappingProxyType
from typing import Any

from tenure.claims.event_fields import FIELDS
from tenure.claims.modes import ACTION_ALIASES, MODE_ALIASES, Action, ProtectionMode

_VOCABULARIES: tuple[tuple[type[StrEnum], Mapping[str, StrEnum]], ...] = (
    (ProtectionMode, MODE_ALIASES),
    (Action, ACTION_ALIASES),
)
#: Fields that hold a word of a vocabulary with older spellings -> those spellings.
_ALIASES_OF: Mapping[str, Mapping[str, StrEnum]] = MappingProxyType(
    {
        name: aliases
        for name, spec in FIELDS.items()
        for vocabulary, aliases in _VOCABULARIES
        if spec.choices == tuple(member.value for member in vocabulary)
    }
)


def in_present_words(record: Mapping[str, Any]) -> dict[str, Any]:
    """A copy of a trace record with older spellings of modes and actions replaced, in nested records too.

    Reading accepts them and writing never produces them; the names of events have their own table
    (`tenure.claims.event_types.EVENT_ALIASES`). What is no older spelling is left as it is, wrong values included.
    """
    return {name: _present(name, value) for name, value in record.items()}


def _present(name: str, value: Any) -> Any:
    if isinstance(value, str):
        aliases = _ALIASES_OF.get(name)
        return value if aliases is None or value not in aliases else aliases[value].value
    if isinstance(value, list | tuple):
        return [in_present_words(item) if isinstance(item, Mapping) else item for item in value]
    return value
