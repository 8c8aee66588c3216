"""`python -m tenure.models`: what `make setup` runs."""

from __future__ import annotations

import importlib
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tenure.errors import DiskFullError, ModelError

command = importlib.import_module("tenure.models.__main__")


@pytest.fixture(autouse=True)
def same_signal_handler() -> Iterator[None]:
    before = signal.getsignal(signal.SIGTERM)
    yield
    signal.signal(signal.SIGTERM, before)


def answer_with(monkeypatch: pytest.MonkeyPatch, answer: Path | BaseException) -> list[dict[str, Any]]:
    asked: list[dict[str, Any]] = []

    def prepare(**options: Any) -> Path:
        asked.append(options)
        if isinstance(answer, BaseException):
            raise answer
        return answer

    monkeypatch.setattr(command, "prepare_default", prepare)
    return asked


def test_it_says_where_the_model_is_and_checks_every_byte(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = answer_with(monkeypatch, Path("/cache/models/x"))
    assert command.main([]) == 0
    assert capsys.readouterr().err == "SmolLM2-135M-Instruct is ready in /cache/models/x\n"
    assert [options["every_byte"] for options in asked] == [True]


@pytest.mark.parametrize("error", [ModelError("no network" * 20), DiskFullError("no room")])
def test_what_cannot_be_done_is_one_line_and_exit_code_two(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], error: Exception
) -> None:
    answer_with(monkeypatch, error)
    assert command.main([]) == 2
    assert capsys.readouterr().err == f"tenure: {error}\n"


def test_an_interrupt_is_one_line_and_exit_code_130(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    answer_with(monkeypatch, KeyboardInterrupt())
    assert command.main([]) == 130
    assert capsys.readouterr().err == "tenure: interrupted; nothing was kept\n"


def test_a_request_to_end_is_an_interrupt(monkeypatch: pytest.MonkeyPatch) -> None:
    def prepare(**_options: Any) -> Path:
        signal.raise_signal(signal.SIGTERM)
        return Path()

    monkeypatch.setattr(command, "prepare_default", prepare)
    assert command.main([]) == 130


def test_arguments_are_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert command.main(["gpt2"]) == 2
    assert "takes no arguments, not 'gpt2'" in capsys.readouterr().err


def test_importing_the_package_imports_neither_torch_nor_transformers() -> None:
    code = "import sys, tenure.models; sys.exit('torch' in sys.modules or 'transformers' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
