"""What a check is: data that says when it applies, and one function that drives a subject and returns a judge.

A judge is a pure function from a trace to a finding, so the same judge that failed the whole trace can be asked about
parts of it: that is how a failing trace is shrunk to the events that show the fault.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from tenure.conformance.bench import Bench
from tenure.conformance.finding import Finding
from tenure.conformance.profiles import Profile
from tenure.conformance.subject import Capabilities, Feature
from tenure.conformance.trace import Trace

Judge = Callable[[Trace], Finding]


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """One thing that is asked of a runtime.

    Attributes:
        check_id: stable and unique; what `expected_failures` names.
        title: the clause's demand in one line.
        clauses: every clause that it can find broken.
        profile: the weakest profile that asks for it.
        drive: puts a fresh subject under the situation and returns the judge of what it wrote.
        modes: protection modes that the subject must offer.
        actions: contract actions that the subject must be able to take.
        features: see `Feature`.
        predicates: predicate types that it must offer.
        rests_on: checks that must have passed; otherwise this one is `blocked`.
    """

    check_id: str
    title: str
    clauses: tuple[str, ...]
    profile: Profile
    drive: Callable[[Bench], Judge]
    modes: frozenset[str] = frozenset()
    actions: frozenset[str] = frozenset()
    features: frozenset[Feature] = frozenset()
    predicates: frozenset[str] = frozenset()
    rests_on: tuple[str, ...] = ()

    def missing_from(self, has: Capabilities) -> list[str]:
        """What the subject would have to expose for this check, and does not."""
        return sorted(
            [f"mode {name}" for name in self.modes - has.protection_modes]
            + [f"action {name}" for name in self.actions - has.actions]
            + [f"feature {name}" for name in self.features - has.features]
            + [f"predicate {name}" for name in self.predicates - has.predicates]
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class TraceRule:
    """One thing that is asked of every trace, whoever drove the runtime.

    Attributes:
        check_id, title, clauses, profile: as for a `Check`.
        judge: inconclusive when the trace has no occasion for the rule.
    """

    check_id: str
    title: str
    clauses: tuple[str, ...]
    profile: Profile
    judge: Judge
