"""The programs of docs/semantics.md still print what the page says, and the lines it blames are where it says."""

from __future__ import annotations

import importlib.util
import inspect
import json
import runpy
import sys
import warnings
from functools import reduce
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

ROOT = Path(__file__).parents[4]
STORE = ROOT / "docs" / "semantics"
PROGRAMS = sorted(path.stem for path in STORE.glob("*.py"))
RECORDED: dict[str, str] = json.loads((STORE / "verdicts.json").read_text(encoding="utf-8"))["environment"]
INSTALLED = {"torch": torch.__version__, "transformers": transformers.__version__}


def other_versions() -> list[str]:
    """What is installed in another version than the page speaks of; builds of torch for other devices are the same."""
    return [
        f"{name} {version} (the page was written with {RECORDED[name]})"
        for name, version in INSTALLED.items()
        if version.partition("+")[0] != RECORDED[name].partition("+")[0]
    ]


@pytest.mark.parametrize("program", PROGRAMS)
def test_a_reproduction_prints_what_the_page_says(program: str, capsys: pytest.CaptureFixture[str]) -> None:
    expected = (STORE / f"{program}.txt").read_text(encoding="utf-8")
    with torch.random.fork_rng(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Transformers' own, about tiny configurations
        try:
            runpy.run_path(str(STORE / f"{program}.py"), run_name="__main__")
            printed = capsys.readouterr().out
        except Exception as error:
            if not other_versions():
                raise
            printed = f"{type(error).__name__}: {error}"
    if printed != expected and other_versions():
        pytest.skip(f"no longer shown as on the page with {', '.join(other_versions())}: {printed!r}")
    assert printed == expected, f"run python docs/build_semantics.py --record if {program} is meant to print this"


@pytest.mark.parametrize("program", PROGRAMS)
def test_a_reproduction_does_without_tenure(program: str) -> None:
    assert "tenure" not in (STORE / f"{program}.py").read_text(encoding="utf-8")


def findings() -> list[Any]:
    spec = importlib.util.spec_from_file_location("build_semantics_for_findings", ROOT / "docs" / "build_semantics.py")
    assert spec is not None
    assert spec.loader is not None
    module: ModuleType = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    try:
        spec.loader.exec_module(module)
    finally:
        del sys.modules[spec.name]
    return list(module.FINDINGS)


@pytest.mark.parametrize("finding", findings(), ids=lambda finding: finding.name)
def test_the_line_of_cause_is_where_the_page_says(finding: Any) -> None:
    if any(version.startswith("transformers ") for version in other_versions()):
        pytest.skip(f"line numbers are those of another version: {', '.join(other_versions())}")
    blamed = reduce(getattr, finding.where.split("."), transformers.cache_utils)
    lines, first = inspect.getsourcelines(blamed)
    place = finding.line_number - first
    assert 0 <= place < len(lines)
    assert lines[place].strip() == finding.line
