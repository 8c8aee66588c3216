"""The clauses of the contract, as data. `spec/` is where they are written; this reads the packaged copy."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from functools import cache
from importlib.resources import files
from types import MappingProxyType

from tenure.errors import ContractError


class Level(StrEnum):
    """How binding a clause is, in the words of RFC 2119."""

    MUST = "MUST"
    MUST_NOT = "MUST NOT"
    SHOULD = "SHOULD"
    MAY = "MAY"


class CheckedBy(StrEnum):
    """Who can tell whether a clause is kept."""

    CONFORMANCE = "conformance"
    """A check of the conformance suite, on any runtime."""
    TESTS = "tests"
    """A test of this project that carries `@pytest.mark.clause(id)`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Clause:
    """One sentence of the contract.

    Attributes:
        clause_id: such as "TNR-ACC-004". It never changes its meaning within an edition.
        area: title of its area.
        level: how binding it is.
        sentence: what is always so (MUST) or never so (MUST NOT).
        rationale: why.
        source: where it comes from.
        checked_by: who can tell whether it is kept.
    """

    clause_id: str
    area: str
    level: Level
    sentence: str
    rationale: str
    source: str
    checked_by: frozenset[CheckedBy]


@dataclass(frozen=True, slots=True, kw_only=True)
class Specification:
    """One edition of the contract: its name, and its clauses by id in reading order."""

    edition: str
    clauses: Mapping[str, Clause]


@cache
def specification() -> Specification:
    """The edition that this version of the package follows. Read once."""
    raw = json.loads(files("tenure.claims").joinpath("clauses.json").read_text())
    clauses = {
        entry["id"]: Clause(
            clause_id=entry["id"],
            area=area["title"],
            level=Level(entry["level"]),
            sentence=entry["sentence"],
            rationale=entry["rationale"],
            source=entry["source"],
            checked_by=frozenset(CheckedBy(name) for name in entry["checked_by"]),
        )
        for area in raw["areas"]
        for entry in area["clause"]
    }
    return Specification(edition=raw["edition"], clauses=MappingProxyType(clauses))


def clause(clause_id: str) -> Clause:
    """The clause with that id. Raises ContractError when this edition has none."""
    spec = specification()
    if clause_id not in spec.clauses:
        message = f"{clause_id!r} is no clause of edition {spec.edition}"
        raise ContractError(message, field="clause_id")
    return spec.clauses[clause_id]
