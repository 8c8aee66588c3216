from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from claims_world import World, make_claim


@pytest.fixture
def trace_file(tmp_path: Path) -> Path:
    world = World(usable_blocks=6)
    claim = make_claim()
    world.hold(claim)
    world.submit(make_claim("claim:b"))
    world.take(claim, 0, request_id="active")
    path = tmp_path / "trace.jsonl"
    path.write_text(world.trace.to_json_lines())
    return path


def tenure(*arguments: str) -> subprocess.CompletedProcess[str]:
    code = "from tenure.cli.main import main; main()"
    return subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=False)


def test_a_trace_is_told_claim_by_claim(trace_file: Path) -> None:
    done = tenure("trace", str(trace_file))
    assert done.returncode == 0
    assert "claim claim:a: harmed, BROKEN" in done.stdout
    assert "rejected (protected_plus_active_exceeds_usable), short by 4 blocks" in done.stdout
    one = tenure("trace", str(trace_file), "--claim", "claim:b")
    assert "claim:a" not in one.stdout.split("\n\n", 1)[1]


def test_the_outcomes_come_as_json_too(trace_file: Path) -> None:
    [run] = json.loads(tenure("trace", str(trace_file), "--json").stdout)
    assert (run["claims"]["claim:a"]["state"], run["claims"]["claim:a"]["kept"]) == ("harmed", False)


def test_an_event_out_of_order_is_exit_code_one(trace_file: Path) -> None:
    lines = trace_file.read_text().splitlines()
    records = [json.loads(line) for line in lines]
    records[0]["event_sequence"], records[1]["event_sequence"] = 1, 0
    trace_file.write_text("".join(json.dumps(record) + "\n" for record in [records[1], records[0], *records[2:]]))
    done = tenure("trace", str(trace_file))
    assert done.returncode == 1
    assert "OUT OF ORDER at event 0 [TNR-EVT-003]" in done.stdout


@pytest.mark.parametrize("arguments", [["trace", "no-such-file"], ["trace", "FILE", "--claim", "claim:none"]])
def test_wrong_input_is_one_line_and_exit_code_two(trace_file: Path, arguments: list[str]) -> None:
    done = tenure(*[str(trace_file) if argument == "FILE" else argument for argument in arguments])
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert done.stderr.startswith("tenure: ")


def test_what_a_trace_leaves_open_is_told_at_its_end_and_in_the_json(trace_file: Path) -> None:
    lines = trace_file.read_text().splitlines(keepends=True)
    assert "left open" not in tenure("trace", str(trace_file)).stdout
    cut = next(number for number, line in enumerate(lines) if "resident_claim_materialized" in line) + 1
    started = json.loads(lines[0]) | {"event": "active_request_submitted", "request_id": "r", "claim_id": None}
    asked = {name: started[name] for name in list(started)[:10]} | {"active_live_blocks_required": 1}
    trace_file.write_text("".join(lines[:cut]) + json.dumps(asked | {"event_sequence": cut}) + "\n")
    told = tenure("trace", str(trace_file)).stdout
    assert "left open at its end: claim claim:a (materialized), request r (waiting)" in told
    assert "cut off" in told
    [run] = json.loads(tenure("trace", str(trace_file), "--json").stdout)
    assert run["left_open"] == ["claim claim:a (materialized)", "request r (waiting)"]
