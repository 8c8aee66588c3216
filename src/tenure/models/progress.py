"""How the work on a model (fetching, converting, loading) shows itself while it lasts."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Protocol

from rich.console import Console
from rich.progress import (
    BarColumn,
    DownloadColumn,
    Progress,
    ProgressColumn,
    SpinnerColumn,
    TextColumn,
    TimeElapsedColumn,
)

#: Called with the number of bytes done so far.
Advance = Callable[[int], None]
#: Work that ends sooner is not worth a line.
QUIET_S = 1.0


class Reporter(Protocol):
    """What the loader tells about its work. Nothing it says changes what the loader does."""

    def say(self, text: str) -> None:
        """One line that stays: something was rebuilt, or is being waited for."""

    def stage(self, text: str, *, total_bytes: int | None = None) -> AbstractContextManager[Advance]:
        """Work that may take longer than a second; what it yields is told the bytes done, where they are known."""


class TerminalReporter:
    """Lines and progress bars on stderr. A stage that ends within `quiet_s` shows nothing.

    Where stderr is no terminal, a stage that lasts longer is one line without a bar. The stream is the one that
    `sys.stderr` is when the reporter is made.
    """

    def __init__(self, console: Console | None = None, *, quiet_s: float = QUIET_S) -> None:
        self._console = Console(file=sys.stderr, highlight=False) if console is None else console
        self._quiet_s = quiet_s

    def say(self, text: str) -> None:
        """Print `text` as one line, however long."""
        self._console.print(text, markup=False, soft_wrap=True)

    @contextmanager
    def stage(self, text: str, *, total_bytes: int | None = None) -> Iterator[Advance]:
        """Show `text` with a bar where `total_bytes` is known, with a spinner where not, until the block ends."""
        columns: list[ProgressColumn] = [SpinnerColumn(), TextColumn("{task.description}", markup=False)]
        if total_bytes is not None:
            columns += [BarColumn(), DownloadColumn()]
        bars = Progress(
            *columns, TimeElapsedColumn(), console=self._console, redirect_stdout=False, redirect_stderr=False
        )
        task = bars.add_task(text, total=total_bytes)
        show: Callable[[], None] = bars.start if self._console.is_terminal else lambda: self.say(f"{text} ...")
        timer = threading.Timer(self._quiet_s, show)
        timer.daemon = True
        timer.start()
        try:
            yield lambda done_bytes: bars.update(task, completed=done_bytes)
            done = total_bytes if total_bytes is not None else 1
            bars.update(task, completed=done, total=done)
        finally:
            timer.cancel()
            timer.join()
            if bars.live.is_started:
                bars.stop()


class SilentReporter:
    """Says nothing."""

    def say(self, text: str) -> None:
        """Drop `text`."""

    @contextmanager
    def stage(self, text: str, *, total_bytes: int | None = None) -> Iterator[Advance]:
        """Run the block without showing anything."""
        yield lambda _done_bytes: None
