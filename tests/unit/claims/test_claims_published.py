"""What is published about the contract: clauses, schema, pages. Each must be current, and each clause checked."""

from __future__ import annotations

import ast
import dataclasses
import importlib.util
import json
import re
import runpy
from pathlib import Path
from types import ModuleType

import jsonschema
import pytest

from claims_world import World, make_claim
from tenure.claims import AttentionMode, ClaimState
from tenure.claims.clauses import CheckedBy, clause, specification
from tenure.claims.event_fields import EVENTS, FIELDS
from tenure.claims.event_types import EventType
from tenure.claims.lifecycle import RequestState
from tenure.claims.modes import Outcome
from tenure.claims.receipts import Receipt, ReceiptNumbers, ReceiptTokens
from tenure.claims.reconstruction import reconstruct
from tenure.claims.trace import read_trace
from tenure.errors import ContractError

ROOT = Path(__file__).parents[3]
CLAUSE_ID = re.compile(r"TNR-[A-Z]+-\d{3}")


def script(path: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location("a_script", ROOT / path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_page_and_the_packaged_copy_of_the_clauses_are_current() -> None:
    build = script("spec/build.py")
    spec = build.load()
    assert build.PAGE.read_text() == build.page(spec), "run python spec/build.py"
    assert build.PACKAGED.read_text() == build.packaged(spec), "run python spec/build.py"


def test_the_contract_page_and_the_schema_are_current() -> None:
    build = script("docs/build_contract.py")
    assert build.PAGE.read_text() == build.page(build.PAGE.read_text()), "run python docs/build_contract.py"
    assert build.SCHEMA.read_text() == build.schema(), "run python docs/build_contract.py"
    assert build.RECEIPT_SCHEMA.read_text() == build.published_receipt_schema(), "run python docs/build_contract.py"


def test_clauses_are_numbered_without_gaps_and_end_like_sentences() -> None:
    seen: dict[str, int] = {}
    for clause_id, found in specification().clauses.items():
        area, number = clause_id.rsplit("-", 1)
        assert int(number) == seen.get(area, 0) + 1
        seen[area] = int(number)
        for text in (found.sentence, found.rationale):
            assert text.endswith(".")
        assert found.source
        assert found.checked_by
    with pytest.raises(ContractError, match="TNR-XXX-001"):
        clause("TNR-XXX-001")


def marked_clauses() -> set[str]:
    """The clauses that some test of this project names in `@pytest.mark.clause(...)`."""
    found: set[str] = set()
    for path in (ROOT / "tests").rglob("test_*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and ast.unparse(node.func) == "pytest.mark.clause":
                found.update(ast.literal_eval(argument) for argument in node.args)
    return found


def test_every_clause_that_tests_can_tell_has_a_test_and_every_marked_clause_exists() -> None:
    marked = marked_clauses()
    clauses = specification().clauses
    assert marked <= set(clauses)
    told_by_tests = {name for name, found in clauses.items() if CheckedBy.TESTS in found.checked_by}
    assert told_by_tests - marked == set()


@pytest.mark.clause("TNR-ARB-012")
def test_a_window_of_zero_blocks_is_zero_and_not_the_absence_of_one() -> None:
    pressure = pytest.importorskip("tenure.arbiter.pressure", reason="the arbiter is not part of this build")
    window = AttentionMode.SLIDING_WINDOW
    plan = pressure.LivePlan(chunk_blocks=(20, 20), attention_mode=window, window_blocks=0)
    assert plan.live_blocks_by_step() == (0, 0)


def test_every_clause_that_the_suite_can_tell_has_a_check_and_every_check_a_clause() -> None:
    suite = pytest.importorskip("tenure.conformance.suite", reason="the conformance suite is not part of this build")
    by_check = suite.clauses_by_check()
    assert all(by_check.values()), "a check that names no clause"
    checked = {name for names in by_check.values() for name in names}
    clauses = specification().clauses
    assert checked <= set(clauses)
    told_by_suite = {name for name, found in clauses.items() if CheckedBy.CONFORMANCE in found.checked_by}
    assert told_by_suite - checked == set(), "say so in spec/, or write the check"


def test_the_code_cites_only_clauses_that_exist() -> None:
    cited = {name for path in (ROOT / "src").rglob("*.py") for name in CLAUSE_ID.findall(path.read_text())}
    assert cited
    assert cited <= set(specification().clauses)


def test_the_tables_of_events_use_every_field_and_no_other() -> None:
    used = {name for spec in EVENTS.values() for name in (*spec.required, *spec.optional)}
    assert used == set(FIELDS)
    for spec in EVENTS.values():
        assert not set(spec.required) & set(spec.optional)


def test_the_schema_takes_what_is_written_and_refuses_what_is_not() -> None:
    schema = json.loads((ROOT / "src/tenure/claims/event.schema.json").read_text())
    validator = jsonschema.Draft202012Validator(schema)
    validator.check_schema(schema)
    world = World(usable_blocks=6)
    claim = make_claim(duration_s=9.0)
    world.hold(claim)
    world.submit(make_claim("claim:b"))
    world.take(claim, 0, physical_block_id=3)
    records = [json.loads(line) for line in world.trace.to_json_lines().splitlines()]
    for record in records:
        validator.validate(record)
    for spoiled in (
        records[0] | {"mood": "good"},
        records[0] | {"event": "block_removed"},
        records[0] | {"claim_id": None},
        {name: value for name, value in records[0].items() if name != "event_sequence"},
        records[-1] | {"harm_cause": "bad luck"},
    ):
        assert not validator.is_valid(spoiled)


def test_the_schema_of_receipts_knows_every_field_and_takes_every_receipt() -> None:
    schema = json.loads((ROOT / "src/tenure/claims/receipt.schema.json").read_text())
    validator = jsonschema.Draft202012Validator(schema)
    validator.check_schema(schema)
    assert set(schema["properties"]) == {field.name for field in dataclasses.fields(Receipt)}
    assert set(schema["properties"]["numbers"]["properties"]) == {f.name for f in dataclasses.fields(ReceiptNumbers)}
    assert set(schema["properties"]["tokens"]["properties"]) == {f.name for f in dataclasses.fields(ReceiptTokens)}
    world = World(usable_blocks=6)
    receipts = [world.submit(make_claim(duration_s=9.0)), world.submit(make_claim("claim:b"))]
    receipts.append(
        Receipt(
            outcome=Outcome.BOUNDED,
            reason="active_live_bounded",
            request_id="r",
            tokens=ReceiptTokens(reused_tokens=16),
            is_exact=False,
            failure="no host memory",
        )
    )
    for receipt in receipts:
        validator.validate(receipt.to_record())
    assert receipts[-1].to_record()["is_exact"] is False
    assert not validator.is_valid(receipts[-1].to_record() | {"mood": "good"})
    assert not validator.is_valid(
        {"outcome": "served", "reason": "fits", "blocking_claim_ids": [], "next_step": "nothing"}
    )


def test_the_example_of_the_contract_page_runs_and_runs_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    [code] = re.findall(r"```python\n(.*?)```", (ROOT / "docs" / "contract.md").read_text(), re.DOTALL)
    (tmp_path / "example.py").write_text(code)
    monkeypatch.chdir(tmp_path)
    for first in (EventType.RUNTIME_STARTED, EventType.RUNTIME_RESTARTED):
        names = runpy.run_path("example.py")
        assert names["receipt"].accepted
        events = read_trace(names["trace_path"])
        assert (events[0].event_type, events[-1].event_type) == (first, EventType.RUNTIME_SHUTDOWN)
        [run] = reconstruct(events)
        assert not run.violations
        [claim], [request] = run.claims.values(), run.requests.values()
        assert (claim.state, request.state) == (ClaimState.DEMOTED, RequestState.SERVED)
