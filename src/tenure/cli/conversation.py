"""The conversation behind `tenure chat`: lines in, replies streamed out, commands that begin with a slash."""

from __future__ import annotations

import contextlib
import math
import signal
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType
from typing import TextIO

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from tenure.errors import ResourceError, UsageError
from tenure.kv.residency import Residence
from tenure.policy import SCORERS
from tenure.runtime.hf import BlockPlace, ContextLimitWarning, ReplyEnd, Session, SessionStatistics

_BAR_AFTER_S = 1.0
_CELLS = {Residence.RESIDENT: "█", Residence.PARTIAL: "▒", Residence.HOST_BACKED: "░", Residence.LOST: "!"}
_CELLS_PER_LINE = 64
_SHOWN_BLOCKS = 8
_SNIPPET_CHARACTERS = 60


class Conversation:
    """Reads lines until they end, and does what each says. A line that fails says why, and the conversation goes on."""

    def __init__(self, session: Session, *, console: Console, max_new_tokens: int, lines: TextIO | None = None) -> None:
        self.session = session
        self._console = console
        self._max_new_tokens = max_new_tokens
        self._lines = sys.stdin if lines is None else lines
        self._commands: dict[str, tuple[str, str, Callable[[str], None]]] = {
            "/save": ("FILE", "write the session to a file", self._save),
            "/load": ("FILE", "go on with a session that was saved with this model", self._load),
            "/where": ("", "show where every block is", self._where),
            "/policy": ("NAME", f"change what decides which blocks stay: {', '.join(SCORERS)}", self._policy),
            "/undo": ("", "take back the last turn and its reply", self._undo),
            "/help": ("", "show this", self._help),
            "/quit": ("", "leave; so do Ctrl-C and Ctrl-D at the prompt", self._help),
        }

    def run(self, *, title: str) -> None:
        """The whole conversation, until the lines end, Ctrl-C or Ctrl-D at the prompt, or `/quit`."""
        self._say(f"{title} · {'; '.join(self.session.cache.sizing.notes)} · policy {self.session.cache.policy.scorer}")
        self._say("/help lists commands, Ctrl-C stops a reply, Ctrl-D leaves")
        while (line := self._next_line()) is not None:
            text = line.strip()
            if text == "/quit":
                return
            if not text:
                continue
            try:
                self._obey(text)
            except (UsageError, ResourceError) as error:
                self._console.print(f"tenure: {error}", style="red", markup=False, soft_wrap=True)

    def _next_line(self) -> str | None:
        try:
            if self._lines is sys.stdin and sys.stdin.isatty():
                return self._console.input("[bold green]you >[/] ")
            line = self._lines.readline()
            if not line:
                return None
            self._console.print(f"you > {line.rstrip()}", style="bold", markup=False, soft_wrap=True)
        except (EOFError, KeyboardInterrupt):
            self._console.print()
            return None
        return line

    def _obey(self, text: str) -> None:
        name, _, argument = text.partition(" ")
        if not text.startswith("/") or text.startswith("//"):
            self._turn(text.removeprefix("/") if text.startswith("//") else text)
        elif name in self._commands:
            self._commands[name][2](argument.strip())
        else:
            raise UsageError(
                f"{name} is no command; there are {', '.join(self._commands)}. Begin a message with // to say /"
            )

    def _turn(self, text: str) -> None:
        before = self.session.statistics()
        try:
            with self._stopping(), self._limit_shown():
                with self._reading() as progress:
                    reply = self.session.say(text, max_new_tokens=self._max_new_tokens, progress=progress)
                for piece in reply:
                    self._console.out(_printable(piece), end="", highlight=False)
                    self._console.file.flush()
        except KeyboardInterrupt:
            # A second Ctrl-C, while the forward that the first one waits for still ran: that forward left no trace.
            pass
        self._console.print()
        self._status(before)

    @contextlib.contextmanager
    def _stopping(self) -> Iterator[None]:
        """Inside it, the first Ctrl-C asks the session to stop after the forward under way; a second one interrupts it."""
        asked = False

        def stop(_signal: int, _frame: FrameType | None) -> None:
            nonlocal asked
            if asked:
                raise KeyboardInterrupt
            asked = True
            self.session.stop()

        previous = signal.signal(signal.SIGINT, stop)
        try:
            yield
        finally:
            signal.signal(signal.SIGINT, previous)

    @contextlib.contextmanager
    def _limit_shown(self) -> Iterator[None]:
        """Inside it, the warning that the context outgrew its model is one line in the conversation."""
        with warnings.catch_warnings():
            warnings.simplefilter("always", ContextLimitWarning)
            others = warnings.showwarning

            def show(message: Warning | str, category: type[Warning], *rest: object, **options: object) -> None:
                if issubclass(category, ContextLimitWarning):
                    self._console.print(f"note: {message}", style="yellow", markup=False, soft_wrap=True)
                else:
                    others(message, category, *rest, **options)  # type: ignore[arg-type]

            warnings.showwarning = show
            yield

    @contextlib.contextmanager
    def _reading(self) -> Iterator[Callable[[int, int], None]]:
        """Yields a progress callback that shows a bar once reading has taken a second and is not done."""
        columns = (TextColumn("reading"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        bar = Progress(*columns, console=self._console, transient=True)
        task = bar.add_task("reading", start=True)
        started, shown = time.monotonic(), False

        def advance(done: int, total: int) -> None:
            nonlocal shown
            bar.update(task, completed=done, total=total)
            if not shown and time.monotonic() - started > _BAR_AFTER_S and done < total and self._console.is_terminal:
                shown = True
                bar.start()

        try:
            yield advance
        finally:
            if shown:
                bar.stop()

    def _status(self, before: SessionStatistics) -> None:
        now = self.session.statistics()
        recalled = now.cache.pager.blocks_recalled - before.cache.pager.blocks_recalled
        evicted = now.cache.pager.blocks_evicted - before.cache.pager.blocks_evicted
        parts = [
            f"{now.logical_rows:,} tokens",
            f"blocks {now.resident_blocks} device, {now.host_only_blocks} host",
            f"moved {recalled} in, {evicted} out",
        ]
        reply = now.reply if now.reply is not before.reply else None
        if reply is None:
            parts.append("no reply")
        else:
            parts.append(f"{reply.tokens_per_s:.1f} tokens/s")
            if reply.end is not ReplyEnd.STOP_TOKEN:
                parts.append("stopped" if reply.end is ReplyEnd.STOPPED else f"cut at {reply.tokens} tokens")
        self._say(" · ".join(parts))

    def _save(self, argument: str) -> None:
        path = _path(argument, "/save")
        written = self.session.save(path)
        self._say(f"saved: {path} ({self.session.logical_rows:,} tokens, {written / 2**20:,.1f} MiB)")

    def _load(self, argument: str) -> None:
        path = _path(argument, "/load")
        old = self.session
        self.session = Session.load(path, old.model, old.tokenizer, identity=old.identity)
        self._say(f"loaded: {path} ({self.session.logical_rows:,} tokens, policy {self.session.cache.policy.scorer})")

    def _policy(self, argument: str) -> None:
        if argument:
            self.session.use_policy(argument)
        self._say(f"policy {self.session.cache.policy.scorer} (there are {', '.join(SCORERS)})")

    def _undo(self, _argument: str) -> None:
        self._say(f"took back {self.session.undo():,} tokens; {self.session.logical_rows:,} are left")

    def _help(self, _argument: str) -> None:
        table = Table(box=None, show_header=False)
        for name, (argument, text, _) in self._commands.items():
            table.add_row(f"{name} {argument}".strip(), text)
        self._console.print(table)

    def _where(self, _argument: str) -> None:
        places = self.session.where()
        for first in range(0, len(places), _CELLS_PER_LINE):
            line = places[first : first + _CELLS_PER_LINE]
            cells = "".join(_CELLS[place.residence] for place in line)
            self._console.print(f"{line[0].first_position:>8,} {cells}", markup=False)
        block_size = self.session.cache.block_size
        self._say(f"a cell is a block of {block_size} tokens: █ on the device, ░ on the host, ▒ in part")
        ranked = sorted((p for p in places if p.score is not None), key=_by_score, reverse=True)
        if ranked:
            self._console.print(self._ranking(ranked[:_SHOWN_BLOCKS]))

    def _ranking(self, places: list[BlockPlace]) -> Table:
        table = Table(title="blocks that scored best when last ranked", title_justify="left")
        for name in ("block", "positions", "where", "score", "text"):
            table.add_column(name, justify="right" if name in {"block", "score"} else "left")
        for place in places:
            text = " ".join(_printable(self.session.text_of(place)).split())[:_SNIPPET_CHARACTERS]
            positions = f"{place.first_position:,}-{place.stop_position - 1:,}"
            table.add_row(str(place.index), positions, place.residence.value, f"{place.score:.3g}", _escaped(text))
        return table

    def _say(self, text: str) -> None:
        self._console.print(text, style="dim", markup=False, soft_wrap=True)


def _by_score(place: BlockPlace) -> float:
    score = place.score
    return float("-inf") if score is None or math.isnan(score) else score


def _path(argument: str, command: str) -> Path:
    if not argument:
        raise UsageError(f"{command} needs the name of a file")
    return Path(argument).expanduser()


def _printable(text: str) -> str:
    """A model's text without the characters that would command the terminal."""
    return "".join(
        letter if letter.isprintable() or letter in "\n\t" else "\N{REPLACEMENT CHARACTER}" for letter in text
    )


def _escaped(text: str) -> str:
    from rich.markup import escape

    return escape(text)
