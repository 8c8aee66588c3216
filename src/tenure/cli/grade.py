"""`tenure grade`: whether a runtime, or a recorded trace, keeps the contract."""

from __future__ import annotations

import importlib
import platform
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tenure import __version__
from tenure.errors import UsageError

if TYPE_CHECKING:
    from tenure.conformance.subject import SubjectFactory
    from tenure.conformance.verdict import Verdict

EXIT_BROKEN = 1
ZOO_PREFIX = "zoo:"
#: Names that stand for a factory in the package.
BUILT_IN = {
    "micro": "tenure.runtime.micro.subject:subject_factory",
    "hf": "tenure.cli.subjects:engine_on_the_default_model",
}


def register(app: typer.Typer) -> None:
    """Add `tenure grade` to the application."""

    @app.command()
    def grade(
        subject: Annotated[str, typer.Argument(help="micro, hf, zoo:NAME, zoo:all, or module:factory.")] = "",
        *,
        trace: Annotated[Path | None, typer.Option(help="Grade a recorded trace instead of a runtime.")] = None,
        profile: Annotated[list[str], typer.Option(help="Grade as this; repeatable.")] = [],  # noqa: B006 - typer's way
        expect: Annotated[list[str], typer.Option(help="CHECK=REASON: a failure that is expected.")] = [],  # noqa: B006
        report: Annotated[Path | None, typer.Option(help="Folder for the report: JSON, JUnit, pages, badge.")] = None,
        json_file: Annotated[Path | None, typer.Option("--json", help="Write report.json to this file.")] = None,
    ) -> None:
        """Grade a runtime, or a recorded trace, against the contract of resident claims.

        Exit code 0: the profiles are kept. 1: a clause is broken, or not everything could be seen. 2: wrong input.
        """
        if bool(subject) == (trace is not None):
            raise UsageError(
                "say what to grade: a subject (micro, hf, zoo:NAME, zoo:all, module:factory) or --trace FILE"
            )
        if subject == f"{ZOO_PREFIX}all":
            if profile or expect or report or json_file:
                raise UsageError("zoo:all takes no option: each member is graded as what it breaks")
            raise typer.Exit(_grade_zoo())
        started = time.perf_counter()
        verdict = _verdict(subject, trace, profiles=profile, expected_failures=_expectations(expect))
        environment = {
            "tenure": __version__,
            "python": platform.python_version(),
            "system": f"{platform.system()} {platform.machine()}",
            "duration_s": round(time.perf_counter() - started, 3),
        }
        _show(verdict)
        _write(verdict, environment, directory=report, json_file=json_file)
        raise typer.Exit(verdict.exit_code)


def _verdict(subject: str, trace: Path | None, *, profiles: list[str], expected_failures: dict[str, str]) -> Verdict:
    from tenure.conformance import grade, grade_trace, read_trace

    asked = profiles or None
    if trace is not None:
        return grade_trace(read_trace(trace), profiles=asked, expected_failures=expected_failures, name=trace.name)
    return grade(subject_named(subject), profiles=asked, expected_failures=expected_failures, name=subject)


def subject_named(name: str) -> SubjectFactory:
    """The factory that a name on the command line stands for.

    Raises:
        UsageError: an unknown zoo member, a module that cannot be imported, or a factory that is not in it.
    """
    if name.startswith(ZOO_PREFIX):
        from tenure.conformance.zoo import zoo_member

        return zoo_member(name.removeprefix(ZOO_PREFIX)).factory
    module_name, colon, factory_name = BUILT_IN.get(name, name).partition(":")
    if not (module_name and colon and factory_name):
        raise UsageError(f"{name!r} is no subject; use micro, hf, zoo:NAME, zoo:all, or module:factory")
    if name not in BUILT_IN:
        _look_in_current_folder()
    try:
        found: Any = importlib.import_module(module_name)
    except Exception as error:  # a module may raise anything while it is imported
        told = " ".join(f"{type(error).__name__}: {error}".split())
        raise UsageError(f"{name!r}: module {module_name} cannot be imported: {told}") from error
    for part in factory_name.split("."):
        found = getattr(found, part, None)
    if not isinstance(found, Callable):  # type: ignore[arg-type]  # the abstract class is what is asked for
        raise UsageError(f"{name!r}: {module_name} has no callable {factory_name}")
    factory: SubjectFactory = found
    return factory


def _look_in_current_folder() -> None:
    """Find modules of the current folder whether this was started as `tenure` or as `python -m tenure`."""
    here = str(Path.cwd())
    if here not in sys.path and "" not in sys.path:
        sys.path.insert(0, here)


def _expectations(given: list[str]) -> dict[str, str]:
    pairs = [text.partition("=") for text in given]
    for check_id, equals, reason in pairs:
        if not (check_id.strip() and equals and reason.strip()):
            raise UsageError(f"--expect {check_id}{equals}{reason}: write CHECK=REASON")
    return {check_id.strip(): reason.strip() for check_id, _, reason in pairs}


def _grade_zoo() -> int:
    """Grade every broken runtime; 0 when each is failed with its clause and the unbroken one keeps everything."""
    from tenure.conformance import ProfileOutcome, grade
    from tenure.conformance.zoo import UNBROKEN, ZOO

    missed = 0
    for member in ZOO.values():
        verdict = grade(member.factory, profiles=member.profiles, name=member.name)
        caught = member.clause_id in verdict.broken_clauses
        missed += not caught
        typer.echo(f"{'caught' if caught else 'MISSED':8} {member.clause_id:14} {member.name}: {member.does}")
    unbroken = grade(UNBROKEN.factory, name=UNBROKEN.name)
    kept = all(outcome is ProfileOutcome.KEPT for outcome in unbroken.outcomes.values())
    typer.echo(
        f"{len(ZOO) - missed} of {len(ZOO)} caught; the unbroken runtime {'keeps' if kept else 'BREAKS'} its profiles"
    )
    return 0 if kept and not missed else EXIT_BROKEN


def _show(verdict: Verdict) -> None:
    from tenure.conformance.report.page import further_lines, headline, witness_lines

    for result in verdict.results:
        if result.status.value != "pass":
            typer.echo(f"{result.status.value:15} {result.check_id}: {result.what} {result.why}".rstrip())
            if result.witness is not None:
                typer.echo(f"{'':15} breaks {result.broken_clause}; from run {result.witness.trace_name}:")
            for line in witness_lines(result):
                typer.echo(f"{'':17} {line}")
    typer.echo(", ".join(f"{count} {status}" for status, count in verdict.status_counts.items() if count))
    for profile, outcome in verdict.outcomes.items():
        typer.echo(f"{profile.value:10} {outcome.value}")
    typer.echo(headline(verdict))
    for line in further_lines(verdict):
        typer.echo(line)


def _write(verdict: Verdict, environment: dict[str, object], *, directory: Path | None, json_file: Path | None) -> None:
    from tenure.conformance.report import report_json, write_report

    if directory is not None:
        write_report(verdict, directory, environment=environment)
        typer.echo(f"report in {directory}")
    if json_file is not None:
        try:
            json_file.write_text(report_json(verdict, environment=environment), encoding="utf-8")
        except OSError as error:
            raise UsageError(f"--json {json_file}: {error}") from error
