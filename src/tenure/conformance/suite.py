"""The suite: every check there is, which clauses each can find broken, and the suite's own version."""

from __future__ import annotations

from collections.abc import Iterable

from tenure.conformance.check import Check, TraceRule
from tenure.conformance.litmus import LITMUS
from tenure.conformance.profiles import Profile, contained
from tenure.conformance.rules import TRACE_RULES

#: Goes up when a check is added, removed, or decides differently. A verdict says which one gave it.
SUITE_VERSION = "2026.1.1"
#: The edition of the contract that the checks are written against.
SPEC_EDITION = "2026.1"


def all_checks() -> tuple[Check | TraceRule, ...]:
    """Driven checks first, then trace rules; the order of every report."""
    return (*LITMUS, *TRACE_RULES)


def clauses_by_check() -> dict[str, tuple[str, ...]]:
    """check id -> the clauses that it can find broken."""
    return {check.check_id: check.clauses for check in all_checks()}


def profiles_asking(clause_id: str) -> tuple[Profile, ...]:
    """Every profile with a check that can find this clause broken, in the order of `Profile`."""
    asking = {check.profile for check in all_checks() if clause_id in check.clauses}
    return tuple(profile for profile in Profile if profile in asking)


def profiles_covered(profiles: Iterable[Profile]) -> frozenset[Profile]:
    """The profiles and everything that they contain: whose checks have to be run."""
    return frozenset(one for profile in profiles for one in contained(profile))
