"""Run a subject through many random lists of operations, and say of every rule: kept, broken, or not exercised."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from enum import Enum

from tenure.adapters.transformers.driver import menu_of, run
from tenure.adapters.transformers.operations import Menu, Operation, merge, random_operations, simpler
from tenure.adapters.transformers.subjects import Subject
from tenure.errors import UsageError
from tenure.kv.semantics import RULES, RuleId, Violation, minimal_witness, shrink

#: Failing runs of one kind that are cut down before their kind is taken as known; more would find the same again.
_SHRUNK_PER_KIND = 4
#: Witnesses that a verdict keeps, the shortest ones.
_WITNESSES_KEPT = 4


class Outcome(Enum):
    """What became of one rule."""

    KEPT = "kept"
    BROKEN = "broken"
    NOT_EXERCISED = "not exercised"


@dataclass(frozen=True, slots=True)
class Witness:
    """The shortest list of operations found that breaks the rule in this way, and what the checker said to it."""

    operations: tuple[Operation, ...]
    violation: Violation
    seed: int

    def to_record(self) -> dict[str, object]:
        """JSON-ready."""
        return {
            "seed": self.seed,
            "operations": [str(operation) for operation in self.operations],
            "finding": self.violation.message,
            "events": [str(event) for event in self.violation.witness],
        }


@dataclass(frozen=True, slots=True)
class RuleVerdict:
    """One rule: how often it was put to a test that could have failed, and how it was broken if it was."""

    rule: RuleId
    exercised: int
    witnesses: tuple[Witness, ...] = ()

    @property
    def outcome(self) -> Outcome:
        """Broken as soon as there is a witness; kept only if the rule was tested."""
        if self.witnesses:
            return Outcome.BROKEN
        return Outcome.KEPT if self.exercised else Outcome.NOT_EXERCISED

    def to_record(self) -> dict[str, object]:
        """JSON-ready."""
        return {
            "rule": self.rule.value,
            "sentence": RULES[self.rule].sentence,
            "outcome": self.outcome.value,
            "exercised": self.exercised,
            "witnesses": [witness.to_record() for witness in self.witnesses],
        }


@dataclass(frozen=True, slots=True)
class SubjectVerdict:
    """All rules for one subject. `skipped` says why it could not be checked; it then has no rules.

    `failed_runs` of `seeds` runs broke a rule; a run stops at its first violation.
    """

    subject: Subject
    seeds: int
    rules: tuple[RuleVerdict, ...] = ()
    failed_runs: int = 0
    skipped: str | None = None

    @property
    def broken(self) -> tuple[RuleVerdict, ...]:
        """The broken rules."""
        return tuple(verdict for verdict in self.rules if verdict.outcome is Outcome.BROKEN)

    def of(self, rule: RuleId) -> RuleVerdict:
        """The verdict on one rule. Raises `UsageError` if the subject was skipped."""
        for verdict in self.rules:
            if verdict.rule is rule:
                return verdict
        raise UsageError(f"{self.subject.name} was not checked: {self.skipped}.")

    def to_record(self) -> dict[str, object]:
        """JSON-ready."""
        return {
            "subject": self.subject.name,
            "summary": self.subject.summary,
            "tolerance": self.subject.tolerance,
            "seeds": self.seeds,
            "failed_runs": self.failed_runs,
            "skipped": self.skipped,
            "rules": [verdict.to_record() for verdict in self.rules],
        }


@dataclass(slots=True)
class _Findings:
    """Witnesses of one check, by rule; at most one for each kind of finding and of operations."""

    by_kind: dict[tuple[RuleId, str, tuple[str, ...]], Witness] = field(default_factory=dict)
    shrunk: Counter[tuple[RuleId, str]] = field(default_factory=Counter)

    def add(self, witness: Witness) -> None:
        names = tuple(type(operation).__name__ for operation in witness.operations)
        kind = (witness.violation.rule.id, kind_of(witness.violation), names)
        known = self.by_kind.get(kind)
        if known is None or len(witness.operations) < len(known.operations):
            self.by_kind[kind] = witness

    def of(self, rule: RuleId) -> tuple[Witness, ...]:
        witnesses = [witness for kind, witness in self.by_kind.items() if kind[0] is rule]
        return tuple(sorted(witnesses, key=lambda witness: len(witness.operations))[:_WITNESSES_KEPT])


def check_subject(
    subject: Subject, *, seeds: int, on_progress: Callable[[int], object] = lambda _: None
) -> SubjectVerdict:
    """Seeds 0 to `seeds` - 1, one random list of operations each, every failure cut down to a shortest list.

    A function of the subject and the number of seeds alone. Each run costs some ten forwards of a tiny cache; a failing
    kind costs about a hundred runs more. `on_progress` is told how many seeds are done.
    Raises `UsageError` for fewer than one seed.
    """
    if seeds < 1:
        raise UsageError(f"At least 1 seed is needed, got {seeds}.")
    reason = subject.unavailable()
    if reason is not None:
        return SubjectVerdict(subject=subject, seeds=seeds, skipped=reason)
    menu = menu_of(subject)
    exercised: Counter[RuleId] = Counter()
    findings = _Findings()
    failed_runs = 0
    for seed in range(seeds):
        failed_runs += _check_seed(subject, menu, seed, exercised, findings)
        on_progress(seed + 1)
    rules = tuple(RuleVerdict(rule=rule, exercised=exercised[rule], witnesses=findings.of(rule)) for rule in RULES)
    return SubjectVerdict(subject=subject, seeds=seeds, rules=rules, failed_runs=failed_runs)


def _check_seed(subject: Subject, menu: Menu, seed: int, exercised: Counter[RuleId], findings: _Findings) -> bool:
    """One run; whether it broke a rule."""
    operations = random_operations(seed, menu)
    result = run(subject, operations)
    exercised.update(result.exercised)
    violation = result.violation
    if violation is None:
        return False
    kind = (violation.rule.id, kind_of(violation))
    if findings.shrunk[kind] < _SHRUNK_PER_KIND:
        findings.shrunk[kind] += 1
        findings.add(_shortest(subject, operations, violation, seed))
    return True


def _shortest(subject: Subject, operations: Sequence[Operation], violation: Violation, seed: int) -> Witness:
    """Cut the operations down as long as they break the same rule in the same way.

    A violation that was put down to an operation may turn out to need another one, or none: what is left tells.
    """

    def still_fails(candidate: tuple[Operation, ...]) -> bool:
        found = run(subject, candidate).violation
        return found is not None and _is_same_fault(found, violation)

    shortest = shrink(operations, still_fails, simpler=simpler, merge=merge)
    found = run(subject, shortest).violation
    if found is None:
        raise UsageError(f"{subject.name} does not behave the same twice: seed {seed} failed once and then did not.")
    layers = subject.build().geometry.layers
    return Witness(operations=shortest, violation=minimal_witness(found, layers=layers), seed=seed)


def _is_same_fault(found: Violation, original: Violation) -> bool:
    if kind_of(found) != kind_of(original):
        return False
    return original.since is not None or (found.since is None and found.rule is original.rule)


def kind_of(violation: Violation) -> str:
    """The finding without its numbers and without what it was put down to: what two runs have in common."""
    text = re.split(r"; | \(all was well", violation.message, maxsplit=1)[0]
    return re.sub(r"[-\d.:e]*\d[-\d.:e]*", "#", text)
