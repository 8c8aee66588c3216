"""Grades a subject, or a recorded trace. Plain functions and data: no test runner, no files, no clock."""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import replace

from tenure.conformance.bench import Bench
from tenure.conformance.check import Check, Judge, TraceRule
from tenure.conformance.finding import Finding, Status, in_one_line
from tenure.conformance.litmus import LITMUS
from tenure.conformance.profiles import Profile, profile_named
from tenure.conformance.reconstruct import reconstruct
from tenure.conformance.rules import TRACE_RULES
from tenure.conformance.shrink import shrink
from tenure.conformance.subject import Capabilities, Setup, SubjectFactory
from tenure.conformance.suite import SPEC_EDITION, SUITE_VERSION, clauses_by_check, profiles_covered
from tenure.conformance.trace import Trace, brief_lines
from tenure.conformance.verdict import CheckResult, Verdict, Witness
from tenure.errors import UsageError

_STOPPED_BY: Mapping[Status, Status] = {
    Status.FAIL: Status.BLOCKED,
    Status.XFAIL: Status.BLOCKED,
    Status.ERROR: Status.BLOCKED,
    Status.BLOCKED: Status.BLOCKED,
    Status.NOT_EXPOSED: Status.NOT_EXPOSED,
    Status.INCONCLUSIVE: Status.INCONCLUSIVE,
}


def grade(
    factory: SubjectFactory,
    *,
    profiles: Iterable[Profile | str] | None = None,
    expected_failures: Mapping[str, str] | None = None,
    name: str | None = None,
) -> Verdict:
    """Grade the runtime that `factory` makes, one fresh subject a check.

    Args:
        factory: makes a fresh subject for a `Setup`.
        profiles: what to grade it as; what it declares, when None.
        expected_failures: check id -> reason. Such a check still runs: failing it is `xfail`, passing it `xpass`.
        name: how the report calls it; its own name, when None.

    Returns:
        The verdict, with one result for each check of the profiles and of those that they contain.

    Raises:
        UsageError: an unknown profile or check id, a reason that is empty, a factory that fails or makes no subject, or
            a subject that declares no profile when none was asked for.
    """
    expected = _expectations(expected_failures)
    has = _capabilities_of(factory)
    asked = _profiles(has.profiles if profiles is None else profiles)
    covered = profiles_covered(asked)
    examination = _Examination(factory, has, expected)
    for check in LITMUS:
        if check.profile in covered:
            examination.drive(check)
    for rule in TRACE_RULES:
        if rule.profile in covered:
            examination.read(rule, without_occasion=Status.NOT_APPLICABLE)
    return examination.verdict(has, has.name if name is None else name, asked)


def grade_trace(
    trace: Trace,
    *,
    profiles: Iterable[Profile | str] | None = None,
    expected_failures: Mapping[str, str] | None = None,
    name: str = "trace",
) -> Verdict:
    """Grade a recorded trace by the trace rules alone. It can break a profile and never keep one.

    Each run in it is judged by itself, and a proof names the run that it is from.

    Args and errors as for `grade`; every profile, when None.
    """
    asked = _profiles(Profile if profiles is None else profiles)
    covered = profiles_covered(asked)
    examination = _Examination(None, None, _expectations(expected_failures))
    runs = trace.runs()
    for run_id, part in runs.items():
        examination.traces.append((name if len(runs) == 1 else f"{name}, run {run_id}", part))
    for rule in TRACE_RULES:
        if rule.profile in covered:
            examination.read(rule, without_occasion=Status.INCONCLUSIVE)
    left_open = [(run_id, reconstruct(part).left_open) for run_id, part in runs.items()]
    return examination.verdict(
        None,
        name,
        asked,
        left_open=tuple(
            f"{what}{'' if len(runs) == 1 else f' of run {run_id}'}" for run_id, a in left_open for what in a
        ),
    )


def _capabilities_of(factory: SubjectFactory) -> Capabilities:
    """What a first subject says of itself. Whatever goes wrong here is a factory that cannot be graded."""
    try:
        subject = factory(Setup())
    except Exception as error:
        raise UsageError(f"the factory failed for {Setup()}: {in_one_line(error)}") from error
    try:
        has = subject.capabilities
        if not isinstance(has, Capabilities):
            raise TypeError(f"its capabilities are of type {type(has).__name__}")
    except Exception as error:
        made = type(subject).__name__
        raise UsageError(f"the factory made no subject but {made}: {in_one_line(error)}") from error
    finally:
        with contextlib.suppress(Exception):  # what cannot be closed is told by the first check
            subject.close()
    return has


def _profiles(given: Iterable[Profile | str]) -> tuple[Profile, ...]:
    profiles = tuple(dict.fromkeys(profile_named(str(name)) for name in given))
    if not profiles:
        raise UsageError("profiles: the subject declares none; say which to grade it as")
    return profiles


def _expectations(given: Mapping[str, str] | None) -> Mapping[str, str]:
    expected = dict(given or {})
    unknown = sorted(expected.keys() - clauses_by_check().keys())
    if unknown:
        raise UsageError(f"expected_failures: {', '.join(unknown)} is no check of suite {SUITE_VERSION}")
    unexplained = sorted(check_id for check_id, reason in expected.items() if not reason.strip())
    if unexplained:
        raise UsageError(f"expected_failures: {', '.join(unexplained)} needs a reason")
    return expected


class _Examination:
    """One grading in progress: the results so far, and every trace that was written for them."""

    def __init__(self, factory: SubjectFactory | None, has: Capabilities | None, expected: Mapping[str, str]) -> None:
        self._factory = factory
        self._has = has
        self._expected = expected
        self.results: dict[str, CheckResult] = {}
        self.traces: list[tuple[str, Trace]] = []

    def drive(self, check: Check) -> None:
        """Put a fresh subject through a check and judge it."""
        stopped = self._stopped(check)
        if stopped is not None or self._factory is None:
            self._note(check, stopped or _result(check, Status.NOT_APPLICABLE, "There is no subject to drive."))
            return
        bench = Bench(self._factory)
        try:
            try:
                judge = check.drive(bench)
                traces = bench.traces()
                finding = judge(traces[-1])
            finally:
                bench.close()
        except Exception as error:
            self._note(check, _result(check, Status.ERROR, f"{type(error).__name__}: {error}"))
            return
        self.traces += [(check.check_id, trace) for trace in traces]
        self._note(check, _judged(check, finding, judge, check.check_id, traces[-1]))

    def read(self, rule: TraceRule, *, without_occasion: Status) -> None:
        """Judge every trace by a rule: the first failure decides, then any pass."""
        best: Finding | None = None
        for name, trace in self.traces:
            finding = rule.judge(trace)
            if finding.failed:
                self._note(rule, _judged(rule, finding, rule.judge, name, trace))
                return
            if best is None or finding.status is Status.PASS:
                best = finding
        if best is None or best.status is not Status.PASS:
            what = f"No occasion for it in {len(self.traces)} traces." if best is None else best.what
            self._note(rule, _result(rule, without_occasion, what))
        else:
            self._note(rule, _result(rule, Status.PASS, best.what))

    def verdict(
        self, has: Capabilities | None, name: str, asked: tuple[Profile, ...], *, left_open: tuple[str, ...] = ()
    ) -> Verdict:
        """Everything so far as one value."""
        counts: Counter[str] = Counter()
        for _, trace in self.traces:
            counts.update(reconstruct(trace).outcome_counts())
        return Verdict(
            subject=has,
            subject_name=name,
            profiles=asked,
            results=tuple(self.results.values()),
            suite_version=SUITE_VERSION,
            spec_edition=SPEC_EDITION,
            outcome_counts=dict(sorted(counts.items())),
            trace_events=sum(len(trace) for _, trace in self.traces),
            left_open=left_open,
        )

    def _stopped(self, check: Check) -> CheckResult | None:
        missing = [] if self._has is None else check.missing_from(self._has)
        if missing:
            return _result(check, Status.NOT_EXPOSED, f"The subject does not expose {', '.join(missing)}.")
        for below in check.rests_on:
            found = self.results.get(below)
            status = None if found is None else _STOPPED_BY.get(found.status)
            if found is not None and status is not None:
                return _result(check, status, f"It rests on {below}, which is {found.status.value}.")
        return None

    def _note(self, check: Check | TraceRule, result: CheckResult) -> None:
        reason = self._expected.get(check.check_id)
        if reason is not None:
            turned = {Status.FAIL: Status.XFAIL, Status.PASS: Status.XPASS}.get(result.status, result.status)
            result = replace(result, status=turned, expected=reason)
        self.results[check.check_id] = result


def _result(check: Check | TraceRule, status: Status, what: str) -> CheckResult:
    return CheckResult(
        check_id=check.check_id,
        title=check.title,
        clauses=check.clauses,
        profile=check.profile,
        status=status,
        what=what,
    )


def _judged(check: Check | TraceRule, finding: Finding, judge: Judge, name: str, trace: Trace) -> CheckResult:
    result = _result(check, finding.status, finding.what)
    if not finding.failed:
        return result
    part = shrink(trace, judge, finding)
    witness = Witness(
        trace_name=name,
        lines=brief_lines(part),
        records=tuple(event.fields for event in part),
        shrunk_from=len(trace),
    )
    return replace(result, why=finding.why, broken_clause=finding.clause_id, witness=witness)
