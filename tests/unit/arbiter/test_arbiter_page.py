"""docs/arbiter.md says what the code does: its tables are built from the code and must be found there as they are."""

from __future__ import annotations

from pathlib import Path

from tenure.arbiter.mechanisms import MECHANISM_LINES, Mechanism, run_mechanism
from tenure.arbiter.rules import DEFAULT_LINES

PAGE = Path(__file__).parents[3] / "docs" / "arbiter.md"

#: Utility in the published model, where one was published.
PUBLISHED = {
    Mechanism.NATIVE_EVICTION: 13,
    Mechanism.RESIDENT_VICTIM_EXCLUSION: 17,
    Mechanism.WRITE_NO_ADMIT_ONLY: 0,
    Mechanism.ORDINARY_CHUNKING: 13,
    Mechanism.ACTIVE_DEFERRAL: 16,
    Mechanism.RESIDENT_RESERVE: 17,
    Mechanism.OFFLOAD_RESIDENT: 27,
    Mechanism.OFFLOAD_ACTIVE: 14.5,
    Mechanism.BOUNDED_ACTIVE_LIVE: 12,
    Mechanism.RECOMPUTE_SPLIT: 10,
    Mechanism.ROUTE_ELSEWHERE: 13,
    Mechanism.RELAX_RESIDENT_PROTECTION: 13,
    Mechanism.CAPACITY_SCALING: 20,
}


def mechanism_table() -> str:
    """The mechanism table as Markdown."""
    lines = [
        "| mechanism | line of the residents' mode | what is done | residents | request | cost | utility | published |",
        "| --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for mechanism, line in MECHANISM_LINES.items():
        result = run_mechanism(mechanism)
        kept = "kept" if result.resident_survives else ("harmed" if result.harmed else "released, then lost")
        served = result.decision.outcome.value + (", reusable" if result.reuse_admitted else "")
        actions = " + ".join(f"`{action}`" for action in result.decision.actions)
        lines.append(
            f"| {mechanism} | `{line}` | {actions} | {kept} | {served} | {result.cost:g} | {result.utility:g} "
            f"| {PUBLISHED[mechanism]:g} |"
        )
    return "\n".join(lines)


def default_lines() -> str:
    """The default policy as the operator would write it."""
    width = max(len(name) for name in DEFAULT_LINES)
    return "\n".join(f'{name:<{width}} = "{line}"' for name, line in DEFAULT_LINES.items())


def test_the_mechanism_table_on_the_page_is_current() -> None:
    assert mechanism_table() in PAGE.read_text(encoding="utf-8")


def test_the_default_lines_on_the_page_are_current() -> None:
    assert default_lines() in PAGE.read_text(encoding="utf-8")
