"""docs/semantics.md says what the rules and the stored verdicts say, and every stored witness is explained."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest

from tenure.kv.semantics import RULES

ROOT = Path(__file__).parents[4]


@pytest.fixture
def build(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    spec = importlib.util.spec_from_file_location("build_semantics", ROOT / "docs" / "build_semantics.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "build_semantics", module)  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


def test_the_generated_parts_of_the_semantics_page_are_current(build: ModuleType) -> None:
    text = build.PAGE.read_text(encoding="utf-8")
    assert text == build.page(text), "run python docs/build_semantics.py"


def test_every_rule_is_on_the_page(build: ModuleType) -> None:
    text = build.PAGE.read_text(encoding="utf-8")
    assert [rule.value for rule in RULES if f"| `{rule.value}` |" not in text] == []


def test_every_stored_witness_belongs_to_a_finding_and_every_finding_has_a_witness(build: ModuleType) -> None:
    found = [(build.finding_of(*witness), witness) for witness in build.witnesses()]
    assert [(subject, rule, said["finding"]) for cause, (subject, rule, said) in found if cause is None] == []
    assert {cause.name for cause, _ in found} == {finding.name for finding in build.FINDINGS}


def test_a_witness_that_no_finding_explains_is_noticed(build: ModuleType) -> None:
    assert build.finding_of("transformers:DynamicCache", "KV-APPEND", {"finding": "something new"}) is None


def test_every_program_in_the_folder_is_shown_by_a_finding(build: ModuleType) -> None:
    shown = [program for finding in build.FINDINGS for program in finding.programs]
    assert sorted(shown) == sorted(path.stem for path in build.STORE.glob("*.py"))
    assert sorted(shown) == sorted(path.stem for path in build.STORE.glob("*.txt"))
