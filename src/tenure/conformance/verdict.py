"""The verdict: one result a check, one of three values a profile, and what follows for the caller."""

from __future__ import annotations

import enum
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

from tenure.conformance.finding import Status
from tenure.conformance.profiles import Profile, contained, strongest, weakest
from tenure.conformance.subject import Capabilities

#: What a pass does not prove; printed with every verdict.
WHAT_A_PASS_DOES_NOT_PROVE = (
    "A failure proves that a clause was broken in the trace that is shown with it. A pass proves that it was not "
    "broken in the situations that the suite drove, with the events that the subject wrote: not in every situation, "
    "not under concurrency, not with real tensors unless the subject has them, and nothing about speed."
)

#: Findings that leave a profile open: neither kept nor broken.
_OPEN = frozenset({Status.NOT_EXPOSED, Status.BLOCKED, Status.INCONCLUSIVE, Status.ERROR})
_BROKEN = frozenset({Status.FAIL, Status.XFAIL})
_WORST_FIRST = (
    Status.FAIL,
    Status.ERROR,
    Status.XPASS,
    Status.BLOCKED,
    Status.INCONCLUSIVE,
    Status.NOT_EXPOSED,
)
#: The reason for an exit code names this many checks of a status, and counts the others.
_NAMED_CHECKS = 3


class ProfileOutcome(enum.StrEnum):
    """Three values: what was not seen is not claimed."""

    KEPT = "kept"  #: every check that it asks for passed
    BROKEN = "broken"  #: at least one of them failed, expected or not
    UNDETERMINED = "undetermined"  #: none failed, and not all could be seen


@dataclass(frozen=True, slots=True, kw_only=True)
class Witness:
    """The shrunk trace of a failure.

    Attributes:
        trace_name: which run it is from.
        lines: each event in one line.
        records: the same events in full.
        shrunk_from: how many events the whole trace had.
    """

    trace_name: str
    lines: tuple[str, ...]
    records: tuple[Mapping[str, object], ...]
    shrunk_from: int


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckResult:
    """How one check ended.

    Attributes:
        check_id, title, clauses, profile: of the check.
        status: see `Status`.
        what: what was seen; for a check that did not run, why not.
        why: what the clause asks for, when it failed.
        broken_clause: the clause that is broken, when it failed.
        expected: why its author expects a failure, when they do.
        witness: the shrunk trace, when it failed.
    """

    check_id: str
    title: str
    clauses: tuple[str, ...]
    profile: Profile
    status: Status
    what: str
    why: str = ""
    broken_clause: str | None = None
    expected: str | None = None
    witness: Witness | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """What the suite says of a subject.

    Attributes:
        subject: what it is and exposes; None for a recorded trace.
        subject_name: how the caller named it.
        profiles: what it was graded as.
        results: one a check, in the suite's order.
        suite_version, spec_edition: of the suite and of the contract.
        outcome_counts: how many claims and requests ended how, in all traces together.
        trace_events: how many events were read.
        left_open: claims and requests that a recorded trace does not end; empty for a graded runtime.
    """

    subject: Capabilities | None
    subject_name: str
    profiles: tuple[Profile, ...]
    results: tuple[CheckResult, ...]
    suite_version: str
    spec_edition: str
    outcome_counts: Mapping[str, int]
    trace_events: int
    left_open: tuple[str, ...] = ()

    def outcome(self, profile: Profile) -> ProfileOutcome:
        """Whether a profile is kept. A recorded trace can break one, and never keep one."""
        wanted = contained(profile)
        statuses = [result.status for result in self.results if result.profile in wanted]
        if any(status in _BROKEN for status in statuses):
            return ProfileOutcome.BROKEN
        if self.subject is None or not statuses or any(status in _OPEN for status in statuses):
            return ProfileOutcome.UNDETERMINED
        return ProfileOutcome.KEPT

    @property
    def outcomes(self) -> dict[Profile, ProfileOutcome]:
        """Of every profile whose checks were run: those asked for and those that they contain."""
        run = {one for profile in self.profiles for one in contained(profile)}
        return {profile: self.outcome(profile) for profile in Profile if profile in run}

    @property
    def strongest_kept(self) -> tuple[Profile, ...]:
        """The kept profiles that no other kept one contains."""
        return strongest(p for p, outcome in self.outcomes.items() if outcome is ProfileOutcome.KEPT)

    @property
    def weakest_broken(self) -> tuple[Profile, ...]:
        """The broken profiles that contain no other broken one."""
        return weakest(p for p, outcome in self.outcomes.items() if outcome is ProfileOutcome.BROKEN)

    @property
    def broken_clauses(self) -> tuple[str, ...]:
        """Every clause that was found broken, sorted."""
        return tuple(sorted({r.broken_clause for r in self.results if r.broken_clause is not None}))

    @property
    def failures(self) -> tuple[CheckResult, ...]:
        """What failed and was not expected to."""
        return tuple(result for result in self.results if result.status is Status.FAIL)

    @property
    def status_counts(self) -> dict[str, int]:
        """How many checks ended how, every status named."""
        counts = Counter(result.status for result in self.results)
        return {status.value: counts[status] for status in Status}

    @property
    def exit_code(self) -> int:
        """0 when every profile asked for is kept, or broken as expected and no further; else 1.

        For a recorded trace, which can keep nothing, 0 when it breaks no clause unexpectedly.
        """
        return 1 if self._spoiling() else 0

    @property
    def exit_reason(self) -> str:
        """Why the exit code is not 0, in one line that names the checks; empty when it is 0."""
        told: list[str] = []
        for status, results in self._spoiling().items():
            if status is Status.XPASS:
                told += [
                    f"{result.check_id} passed although a failure of it was announced ({result.expected}): "
                    "take the announcement back"
                    for result in results
                ]
            else:
                names = ", ".join(result.check_id for result in results[:_NAMED_CHECKS])
                more = f" and {len(results) - _NAMED_CHECKS} more" if len(results) > _NAMED_CHECKS else ""
                told.append(f"{status.value}: {names}{more}")
        return "; ".join(told)

    def _spoiling(self) -> dict[Status, list[CheckResult]]:
        """The results that keep the exit code from being 0, worst status first."""
        asked = {one for profile in self.profiles for one in contained(profile)}
        bad = {Status.FAIL, Status.XPASS, Status.ERROR}
        if self.subject is not None:
            bad |= _OPEN
        found: dict[Status, list[CheckResult]] = {}
        for status in _WORST_FIRST:
            results = [r for r in self.results if r.status is status and status in bad and r.profile in asked]
            if results:
                found[status] = results
        return found
