"""`tenure trace` and `tenure grade --trace` read the same files: what one takes for a trace, the other does too."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from claims_world import World, make_claim
from tenure.cli.main import build_app
from tenure.errors import TraceError

Records = list[dict[str, Any]]


def a_run(run_id: str = "run") -> Records:
    """One claim that is held and then harmed by a request."""
    world = World(usable_blocks=6)
    world.hold(make_claim())
    world.take(make_claim(), 0, request_id="active")
    return [json.loads(line) | {"run_id": run_id} for line in world.trace.to_json_lines().splitlines()]


def lines_of(records: Records) -> str:
    return "".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records)


def two_runs() -> str:
    return lines_of([*a_run("monday"), *a_run("tuesday")])


def two_runs_interleaved() -> str:
    return lines_of([record for pair in zip(a_run("left"), a_run("right"), strict=True) for record in pair])


def with_a_withdrawn_event() -> str:
    records = a_run()
    records.insert(2, records[1] | {"event": "resident_claim_preserved"})
    return lines_of([record | {"event_sequence": number} for number, record in enumerate(records)])


def with_a_withdrawn_event_without_a_number() -> str:
    records = a_run()
    records.insert(2, {"event": "resident_claim_preserved"})
    return lines_of(records)


def with_a_line_separator_in_a_name() -> str:
    return lines_of([record | ({"claim_id": "a\u2028b"} if record["claim_id"] else {}) for record in a_run()])


def without_the_last_line_end() -> str:
    return lines_of(a_run())[:-1]


def with_published_modes() -> str:
    renamed = {"hard_protected": "hard_exclude"}
    names = ("protection_mode", "requested_protection_mode")
    return lines_of(
        [r | {n: renamed.get(r[n], r[n]) for n in names if n in r} for r in a_run()],
    )


def torn() -> str:
    return lines_of(a_run())[:-20]


def one_run_twice() -> str:
    return lines_of([*a_run(), *a_run()])


def reordered() -> str:
    records = a_run()
    records[1], records[2] = records[2], records[1]
    return lines_of(records)


def a_list() -> str:
    return "[1, 2]\n"


def exit_code(*arguments: str) -> int:
    result = CliRunner().invoke(build_app(), list(arguments))
    if isinstance(result.exception, TraceError):
        return 2
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result.exit_code


@pytest.mark.parametrize(
    "make",
    [
        two_runs,
        two_runs_interleaved,
        with_a_withdrawn_event,
        with_a_withdrawn_event_without_a_number,
        with_a_line_separator_in_a_name,
        without_the_last_line_end,
        with_published_modes,
    ],
)
def test_what_is_a_trace_is_one_to_both(make: Callable[[], str], tmp_path: Path) -> None:
    path = tmp_path / "t.jsonl"
    path.write_text(make(), encoding="utf-8")
    assert exit_code("trace", str(path)) == 0
    assert exit_code("grade", "--trace", str(path), "--profile", "observe") == 0


@pytest.mark.parametrize("make", [torn, one_run_twice, reordered, a_list])
def test_what_is_none_is_none_to_both(make: Callable[[], str], tmp_path: Path) -> None:
    path = tmp_path / "t.jsonl"
    path.write_text(make(), encoding="utf-8")
    assert exit_code("trace", str(path)) == 2
    assert exit_code("grade", "--trace", str(path)) == 2


def test_each_run_of_a_file_is_graded_by_itself_and_named_in_the_proof(tmp_path: Path) -> None:
    broken = a_run("tuesday")
    broken[-1]["event_sequence"] += 1
    path = tmp_path / "t.jsonl"
    path.write_text(lines_of([*a_run("monday"), *broken]))
    result = CliRunner().invoke(build_app(), ["grade", "--trace", str(path)])
    assert result.exit_code == 1
    assert "from run t.jsonl, run tuesday" in result.output
