from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from tenure.cli.grade import subject_named
from tenure.cli.main import build_app
from tenure.conformance.subject import RequestAsk, Setup
from tenure.conformance.zoo.toy import ToyRuntime
from tenure.errors import TraceError, UsageError


def run(*arguments: str) -> tuple[int, str, BaseException | None]:
    result = CliRunner().invoke(build_app(), ["grade", *arguments])
    return result.exit_code, result.output, result.exception


def trace_file(path: Path, *, drop: int | None = None) -> Path:
    subject = ToyRuntime(Setup())
    subject.start_request(RequestAsk(request_id="r", content=(1, 2, 3), live_blocks=3))
    records = [record for number, record in enumerate(subject.events()) if number != drop]
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return path


def test_a_kept_profile_exits_with_0_and_writes_what_was_asked_for(tmp_path: Path) -> None:
    code, output, _ = run(
        "micro", "--profile", "observe", "--report", str(tmp_path), "--json", str(tmp_path / "r.json")
    )
    assert code == 0
    assert "micro keeps observe." in output
    assert json.loads((tmp_path / "r.json").read_text())["profiles"] == {"observe": "kept"}
    assert (tmp_path / "badge.svg").exists()


def test_a_broken_clause_exits_with_1_and_shows_the_proof() -> None:
    code, output, _ = run("zoo:small-pool", "--profile", "observe")
    assert code == 1
    assert "TNR-CAP-004" in output
    assert "from run usable-blocks-true" in output


def test_an_expected_failure_exits_with_0() -> None:
    code, output, _ = run(
        "zoo:tenant-mixer", "--profile", "observe", "--expect", "tenants-do-not-share=one tenant only"
    )
    assert code == 0, output
    assert "xfail" in output


def test_a_factory_in_a_module_is_graded() -> None:
    code, output, _ = run("tenure.conformance.zoo.toy:ToyRuntime", "--profile", "observe")
    assert code == 0, output


def test_a_recorded_trace_exits_with_0_or_1(tmp_path: Path) -> None:
    assert run("--trace", str(trace_file(tmp_path / "good.jsonl")))[0] == 0
    code, output, _ = run("--trace", str(trace_file(tmp_path / "bad.jsonl", drop=1)))
    assert code == 1
    assert "TNR-EVT-002" in output


@pytest.mark.parametrize(
    "arguments",
    [
        (),
        ("micro", "--trace", "x"),
        ("zoo:nobody",),
        ("zoo:all", "--profile", "hard"),
        ("no-such-module:factory",),
        ("tenure.errors:nothing",),
        ("justaname",),
        ("os:getcwd",),
        ("json:dumps",),
        ("builtins:str",),
        ("micro", "--profile", "harder"),
        ("micro", "--expect", "L1"),
        ("micro", "--expect", "L99=never heard of"),
        ("--trace", "/does/not/exist"),
    ],
)
def test_wrong_input_is_a_usage_error_that_the_frame_turns_into_exit_code_2(arguments: tuple[str, ...]) -> None:
    _, _, error = run(*arguments)
    assert isinstance(error, UsageError)
    assert str(error)


def test_a_truncated_trace_names_its_line(tmp_path: Path) -> None:
    path = trace_file(tmp_path / "cut.jsonl")
    path.write_text(path.read_text()[:-30])
    _, _, error = run("--trace", str(path))
    assert isinstance(error, TraceError)
    assert "line" in str(error)


def test_micro_is_not_imported_before_it_is_asked_for() -> None:
    assert subject_named("zoo:wedge").__name__ == "Wedge"  # type: ignore[attr-defined]


def test_a_module_in_the_current_folder_is_found_as_a_console_script_starts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "engine_of_mine.py").write_text("from tenure.conformance.zoo.toy import ToyRuntime as factory\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [entry for entry in sys.path if entry not in ("", str(tmp_path))])
    code, output, _ = run("engine_of_mine:factory", "--profile", "observe")
    assert code == 0, output


def test_a_module_that_breaks_while_it_is_imported_is_wrong_input_in_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "broken_engine.py").write_text("raise RuntimeError('no driver\\nfound')\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    _, _, error = run("broken_engine:factory")
    assert isinstance(error, UsageError)
    assert "RuntimeError: no driver found" in str(error)
    assert "\n" not in str(error)


def test_a_stale_announcement_says_that_it_is_the_reason_for_exit_code_1() -> None:
    code, output, _ = run("micro", "--profile", "observe", "--expect", "L1=was broken once")
    assert code == 1
    assert "exit code 1: L1 passed although a failure of it was announced (was broken once)" in output


def test_a_trace_that_ends_in_the_middle_says_what_it_leaves_open(tmp_path: Path) -> None:
    code, output, _ = run("--trace", str(trace_file(tmp_path / "t.jsonl")))
    assert code == 0
    assert "left open at its end: request r (running)" in output
    assert "cut off" in output
