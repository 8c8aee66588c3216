"""How the work on a model (fetching, converting) shows itself while it lasts."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Protocol

from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, ProgressColumn, SpinnerColumn, TextColumn
from rich.progress import TimeElapsedColumn as ElapsedColumn

#: Called with the number of bytes done so far.
Advance = Callable[[int], None]


class Reporter(Protocol):
    """What the loader tells about its work. Nothing it says changes what the loader does."""

    def say(self, text: str) -> None:
        """One line that stays: something was rebuilt, or is being waited for."""

    def stage(self, text: str, *, total_bytes: int | None = None) -> AbstractContextManager[Advance]:
        """Work that may take longer than a second; the yielded function is told the bytes done where they are known."""


class TerminalReporter:
    """Lines and progress bars on stderr. Where stderr is no terminal, one line a stage and no bar."""

    def __init__(self, console: Console | None = None) -> None:
        self._console = Console(file=sys.stderr, highlight=False) if console is None else console

    def say(self, text: str) -> None:
        """Print `text` as a line of its own."""
        self._console.print(text, markup=False)

    @contextmanager
    def stage(self, text: str, *, total_bytes: int | None = None) -> Iterator[Advance]:
        """Show `text` with a bar where `total_bytes` is known, with a spinner where not, until the block ends."""
        if not self._console.is_terminal:
            self.say(f"{text} ...")
            yield lambda _done_bytes: None
            return
        columns: list[ProgressColumn] = [SpinnerColumn(), TextColumn("{task.description}", markup=False)]
        if total_bytes is not None:
            columns += [BarColumn(), DownloadColumn()]
        with Progress(*columns, ElapsedColumn(), console=self._console) as bars:
            task = bars.add_task(text, total=total_bytes)
            yield lambda done_bytes: bars.update(task, completed=done_bytes)
            bars.update(task, completed=total_bytes if total_bytes is not None else 1, total=total_bytes or 1)


class SilentReporter:
    """Says nothing."""

    def say(self, text: str) -> None:
        """Drop `text`."""

    @contextmanager
    def stage(self, text: str, *, total_bytes: int | None = None) -> Iterator[Advance]:
        """Run the block without showing anything."""
        yield lambda _done_bytes: None
