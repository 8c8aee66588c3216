"""`tenure check`: whether a cache keeps the rules of a KV cache."""

from __future__ import annotations

import json
import platform
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from tenure import __version__
from tenure.cli.targets import require_writable
from tenure.errors import UsageError

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

    from tenure.adapters.transformers.checks import SubjectVerdict
    from tenure.adapters.transformers.subjects import Subject

EXIT_BROKEN = 1
_DEFAULT_SEEDS = 100


def register(app: typer.Typer) -> None:
    """Add `tenure check` to the application."""

    @app.command()
    def check(
        subjects: Annotated[
            list[str] | None,
            typer.Argument(help="transformers:DynamicCache, 'tenure:*', or module:factory for a cache of your own."),
        ] = None,
        *,
        seeds: Annotated[int, typer.Option(min=1, help="Random lists of operations to run.")] = _DEFAULT_SEEDS,
        json_file: Annotated[Path | None, typer.Option("--json", help="Write the verdicts to this file.")] = None,
        show_list: Annotated[bool, typer.Option("--list", help="List the caches that have a name, and exit.")] = False,
    ) -> None:
        """Drive a cache with random prefill, decode, crop, batch and reset operations, and judge it rule by rule.

        Exit code 0: every rule that was tested is kept. 1: a rule is broken. 2: wrong input, or nothing to check.
        """
        from rich.console import Console

        console = Console()
        if show_list:
            _print_list(console)
            return
        _require_packages()
        wanted = _subjects_named(subjects)
        if json_file is not None:
            require_writable(json_file)
        verdicts = []
        for subject in wanted:
            verdicts.append(_checked(subject, seeds))
            _print_verdict(console, verdicts[-1])
        if len(verdicts) > 1:
            _print_summary(console, verdicts)
        if json_file is not None:
            _write_json(json_file, verdicts)
        if all(verdict.skipped is not None for verdict in verdicts):
            reasons = "; ".join(f"{verdict.subject.name}: {verdict.skipped}" for verdict in verdicts)
            raise UsageError(f"Nothing was checked. {reasons}.")
        if any(verdict.broken for verdict in verdicts):
            raise typer.Exit(EXIT_BROKEN)


def _require_packages() -> None:
    try:
        import torch  # noqa: F401
        import transformers  # noqa: F401
    except ImportError as error:
        raise UsageError(
            f"`tenure check` drives real caches and needs {error.name}: pip install 'tenure[hf]'."
        ) from error


def _subjects_named(patterns: Sequence[str] | None) -> list[Subject]:
    from tenure.adapters.transformers.subjects import find_subjects

    if not patterns:
        raise UsageError("Say which cache to check, such as transformers:DynamicCache; `tenure check --list` has all.")
    found = {subject.name: subject for pattern in patterns for subject in find_subjects(pattern)}
    return list(found.values())


def _checked(subject: Subject, seeds: int) -> SubjectVerdict:
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    from tenure.adapters.transformers.checks import check_subject

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    console = Console(stderr=True)
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
        task = progress.add_task(f"Checking {subject.name}", total=seeds)
        return check_subject(subject, seeds=seeds, on_progress=lambda done: progress.update(task, completed=done))


def _print_list(console: Console) -> None:
    from rich.table import Table

    from tenure.adapters.transformers.subjects import all_subjects

    table = Table("name", "what it is", title="Caches that can be checked by name")
    for subject in all_subjects():
        table.add_row(subject.name, subject.summary)
    console.print(table)


_COLOURS = {"kept": "green", "broken": "red", "not exercised": "dim"}


def _print_verdict(console: Console, verdict: SubjectVerdict) -> None:
    from rich.markup import escape

    subject = verdict.subject
    if verdict.skipped is not None:
        console.print(f"[bold]{escape(subject.name)}[/bold]: skipped, {escape(verdict.skipped)}.\n")
        return
    console.print(f"[bold]{escape(subject.name)}[/bold]: {escape(subject.summary)}")
    console.print(_rules_table(verdict))
    stops = " A run ends where it breaks one." if verdict.failed_runs else ""
    console.print(f"{verdict.failed_runs} of {verdict.seeds} runs broke a rule.{stops}")
    if any(rule_verdict.outcome.value == "not exercised" for rule_verdict in verdict.rules):
        console.print("Not exercised: nothing that was done with this cache could have broken the rule.")
    for rule_verdict in verdict.broken:
        for number, witness in enumerate(rule_verdict.witnesses, start=1):
            console.print(
                f"\n[red]{rule_verdict.rule.value}[/red], witness {number} (cut down from seed {witness.seed}):"
            )
            for place, operation in enumerate(witness.operations, start=1):
                console.print(f"  {place}. {escape(str(operation))}")
            console.print(f"  => {escape(witness.violation.message)}", soft_wrap=True)
    console.print()


def _rules_table(verdict: SubjectVerdict) -> Table:
    from rich.table import Table

    table = Table("rule", "verdict", "tests", "what the rule says")
    for column in table.columns[:3]:
        column.no_wrap = True
    table.columns[2].justify = "right"
    for rule_verdict in verdict.rules:
        outcome = rule_verdict.outcome.value
        sentence = str(rule_verdict.to_record()["sentence"])
        colour = _COLOURS[outcome]
        table.add_row(
            rule_verdict.rule.value, f"[{colour}]{outcome}[/{colour}]", f"{rule_verdict.exercised:,}", sentence
        )
    return table


def _print_summary(console: Console, verdicts: Sequence[SubjectVerdict]) -> None:
    """One row a cache, so that nobody has to scroll back through the tables of twenty."""
    from rich.table import Table

    table = Table("cache", "failed runs", "broken rules")
    table.columns[0].no_wrap = True
    table.columns[1].justify = "right"
    for verdict in verdicts:
        if verdict.skipped is not None:
            table.add_row(verdict.subject.name, "-", "[dim]skipped[/dim]")
            continue
        broken = ", ".join(rule_verdict.rule.value for rule_verdict in verdict.broken)
        table.add_row(
            verdict.subject.name,
            f"{verdict.failed_runs} of {verdict.seeds}",
            f"[red]{broken}[/red]" if broken else "[green]none[/green]",
        )
    console.print(table)


def _write_json(path: Path, verdicts: Sequence[SubjectVerdict]) -> None:
    import torch
    import transformers

    record = {
        "environment": {
            "tenure": __version__,
            "python": platform.python_version(),
            "torch": torch.__version__,
            "transformers": transformers.__version__,
        },
        "subjects": [verdict.to_record() for verdict in verdicts],
    }
    unfinished = path.with_name(f"{path.name}.part")
    try:
        unfinished.write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
        unfinished.replace(path)
    except OSError as error:
        unfinished.unlink(missing_ok=True)
        raise UsageError(f"Cannot write {path}: {error.strerror}.") from error
