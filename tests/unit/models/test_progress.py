from __future__ import annotations

import io
import threading

import pytest
from rich.console import Console

from tenure.models.progress import SilentReporter, TerminalReporter


def reporter_on(output: io.StringIO, *, is_terminal: bool, quiet_s: float) -> TerminalReporter:
    console = Console(file=output, force_terminal=is_terminal, width=80, highlight=False)
    return TerminalReporter(console, quiet_s=quiet_s)


class NoticedOutput(io.StringIO):
    """Sets an event when something is written, so that a test need not sleep."""

    def __init__(self) -> None:
        super().__init__()
        self.written = threading.Event()

    def write(self, text: str) -> int:
        self.written.set()
        return super().write(text)


@pytest.mark.parametrize("is_terminal", [True, False])
def test_a_stage_that_ends_soon_shows_nothing(is_terminal: bool) -> None:
    output = io.StringIO()
    with reporter_on(output, is_terminal=is_terminal, quiet_s=60).stage("Checking", total_bytes=100) as advance:
        advance(50)
    assert output.getvalue() == ""


def test_a_stage_that_lasts_is_one_line_where_there_is_no_terminal() -> None:
    output = NoticedOutput()
    with reporter_on(output, is_terminal=False, quiet_s=0).stage("Downloading [x]", total_bytes=100) as advance:
        assert output.written.wait(10)
        advance(50)
    assert output.getvalue() == "Downloading [x] ...\n"


def test_a_stage_that_lasts_is_a_bar_with_bytes_on_a_terminal() -> None:
    output = NoticedOutput()
    with reporter_on(output, is_terminal=True, quiet_s=0).stage("Downloading", total_bytes=2_000_000) as advance:
        assert output.written.wait(10)
        advance(1_000_000)
    assert "Downloading" in output.getvalue()
    assert "2.0/2.0 MB" in output.getvalue(), "the bar ends full"


def test_an_error_ends_the_bar_and_passes_through() -> None:
    output = NoticedOutput()

    def interrupted_stage() -> None:
        with reporter_on(output, is_terminal=True, quiet_s=0).stage("Converting"):
            assert output.written.wait(10)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted_stage()
    assert output.getvalue().endswith("\x1b[?25h"), "the cursor is shown again"


def test_what_is_said_is_one_line_however_long() -> None:
    output = io.StringIO()
    reporter_on(output, is_terminal=False, quiet_s=60).say("word " * 60 + "[bold]end")
    assert output.getvalue().count("\n") == 1
    assert "[bold]end" in output.getvalue()


def test_the_silent_reporter_is_silent(capsys: pytest.CaptureFixture[str]) -> None:
    reporter = SilentReporter()
    reporter.say("x")
    with reporter.stage("y", total_bytes=1) as advance:
        advance(1)
    assert capsys.readouterr() == ("", "")
