"""The scene of `tenure pressure` on a tiny model: what each action did to both, and that nobody lost anything unsaid."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from tenure.bench.pressure_actions import (
    ACTIONS,
    FAULT_ACTIONS,
    ActionRow,
    SweepRow,
    fault_point,
    run_action,
    run_fault,
    sweep,
    sweep_sizes,
)
from tenure.bench.pressure_plot import draw_sweep
from tenure.bench.pressure_scene import ColdAnswers, Scene, Sizes, SkippingClock, cold_answers, text_scene, tiny_scene
from tenure.claims.event_types import EventType
from tenure.conformance import grade_trace
from tenure.conformance.trace import read_trace
from tenure.conformance.verdict import ProfileOutcome
from tenure.errors import DiskFullError, UsageError
from tenure.runtime.hf.engine import FaultPoint

BLOCK = 16


@pytest.fixture(scope="module", autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="module")
def scene() -> Scene:
    return tiny_scene(Sizes())


@pytest.fixture(scope="module")
def cold(scene: Scene) -> ColdAnswers:
    return cold_answers(scene)


@pytest.fixture(scope="module")
def rows(scene: Scene, cold: ColdAnswers) -> dict[str, ActionRow]:
    return {name: run_action(name, scene, cold) for name in ACTIONS}


#: Per action: what became of the prefix, its claim, the request; blocks left; tokens that a later question finds.
OUTCOMES = {
    "native": ("lost 50 of 60, silently", "none", "served", 10, 10 * BLOCK),
    "no_admit": ("lost 50 of 60, silently", "none", "served", 10, 10 * BLOCK),
    "refuse": ("kept 60 of 60", "accepted", "refused", 60, 60 * BLOCK),
    "defer": ("released, lost 50 of 60", "released", "deferred, served", 10, 60 * BLOCK),
    "defer_bound": ("kept 60 of 60", "accepted", "deferred, refused", 60, 60 * BLOCK),
    "demote": ("demoted, lost 50 of 60", "demoted", "served", 10, 10 * BLOCK),
    "expire": ("expired, lost 50 of 60", "expired", "served", 10, 10 * BLOCK),
    "offload_resident": ("offloaded, restored 60", "restored", "served", 0, 60 * BLOCK),
    "offload_active": ("kept 60 of 60", "accepted", "bounded to 20", 60, 60 * BLOCK),
    "bound_active_live": ("kept 60 of 60", "accepted", "bounded to 20", 60, 60 * BLOCK),
    "recompute_split": ("kept 60 of 60", "accepted", "bounded to 20", 60, 60 * BLOCK),
    "route_elsewhere": ("kept 60 of 60", "accepted", "routed", 60, 60 * BLOCK),
    "add_capacity": ("kept 60 of 60", "accepted", "served", 60, 60 * BLOCK),
    "harm": ("harmed, lost 50 of 60", "harmed", "served", 10, 10 * BLOCK),
}


def test_every_action_has_an_outcome_here_and_native_comes_first() -> None:
    assert list(ACTIONS) == list(OUTCOMES)
    assert next(iter(ACTIONS)) == "native"


@pytest.mark.parametrize("name", OUTCOMES)
def test_an_action_does_to_both_what_it_says(rows: dict[str, ActionRow], name: str) -> None:
    row = rows[name]
    assert (row.resident, row.claim, row.active, row.resident_left, row.reuse_tokens) == OUTCOMES[name]


@pytest.mark.parametrize("name", OUTCOMES)
def test_every_exact_answer_is_the_cold_one_and_no_accepted_claim_is_lost_silently(
    rows: dict[str, ActionRow], name: str
) -> None:
    row = rows[name]
    assert not row.lost_silently
    assert not row.is_wrong
    assert row.reuse_is_cold
    if row.active not in {"refused", "deferred, refused", "routed"}:
        assert row.tokens_per_s is not None
        assert row.is_exact is (name != "bound_active_live")
        assert row.answer_is_cold or not row.is_exact


def test_the_refusal_says_the_numbers(rows: dict[str, ActionRow]) -> None:
    refused = next(event for event in rows["refuse"].events if event.event_type is EventType.REQUEST_REFUSED)
    assert refused.request_id == "active"
    assert refused.claim_id is None
    wanted = {
        "blocking_claim_ids": ["claim:resident"],
        "protected_resident_blocks": 60,
        "active_live_blocks_required": 70,
        "active_live_blocks_current": 0,
        "resident_plus_active_blocks": 130,
        "capacity_shortfall_blocks": 50,
        "free_blocks_before_allocate": 20,
        "feasibility": "infeasible_preserve_resident_and_active",
        "future_reuse_requested": True,
        "future_reuse_admitted": False,
    }
    assert {name: refused.fields[name] for name in wanted} == wanted
    assert refused.usable_blocks == 80
    assert "short by 50" in rows["refuse"].receipt


def test_harm_is_said_before_the_first_block_goes(rows: dict[str, ActionRow]) -> None:
    order = [event.event_type for event in rows["harm"].events]
    assert EventType.CLAIM_HARMED in order
    blocks = [
        event
        for event in rows["harm"].events
        if event.event_type is EventType.VICTIM_SELECTED and event.fields["victim_reason"] == "cached_prefix_reuse"
    ]
    assert order.index(EventType.CLAIM_HARMED) < blocks[0].event_sequence


def test_without_admission_the_request_is_not_reusable_and_the_prefix_is_lost_all_the_same(
    rows: dict[str, ActionRow],
) -> None:
    def reusable(name: str) -> bool:
        asked = [event for event in rows[name].events if event.request_id == "active"]
        return any(event.event_type is EventType.FUTURE_REUSE_ADMITTED for event in asked)

    assert reusable("native")
    assert not reusable("no_admit")
    assert rows["native"].victims == rows["no_admit"].victims == 50


def test_the_events_of_all_rows_are_whole_traces_in_which_the_examiner_finds_nothing_broken(
    rows: dict[str, ActionRow], tmp_path: Path
) -> None:
    trace = tmp_path / "trace.jsonl"
    trace.write_text("".join(event.to_json_line() + "\n" for row in rows.values() for event in row.events))
    read = read_trace(trace)
    assert len(read.runs()) == len(ACTIONS)
    verdict = grade_trace(read, name="pressure")
    assert ProfileOutcome.BROKEN not in verdict.outcomes.values()
    assert verdict.left_open == ()


# --- faults ---------------------------------------------------------------------------------------------------------

#: Per fault: what the row says of the prefix and, in parts, what was told.
FAULTS = {
    FaultPoint.SAVE: ("kept 60 of 60", ("request refused", "a transfer failed at save", "reuse served")),
    FaultPoint.LOAD: ("offloaded 60, demoted", ("claim demoted (restoration_failed)", "reuse served")),
    FaultPoint.CORRUPT: ("offloaded 60, harmed", ("claim harmed (restoration_failed)", "reuse served")),
    FaultPoint.LOSE: ("offloaded 60, harmed", ("claim harmed (restoration_failed)", "reuse served")),
    FaultPoint.HOST_MEMORY: ("kept 60 of 60", ("request refused", "the host gave no memory", "reuse served")),
}


@pytest.mark.parametrize("point", list(FaultPoint))
def test_a_transfer_that_fails_ends_in_an_explicit_outcome_and_cold_answers(
    scene: Scene, cold: ColdAnswers, point: FaultPoint
) -> None:
    found = run_fault(point, scene, cold)
    assert [row.action for row in found] == list(FAULT_ACTIONS[point])
    for row in found:
        resident, told = FAULTS[point]
        assert row.fault_happened
        assert row.resident == resident
        assert [part for part in told if part not in row.told] == []
        assert not row.is_wrong
        assert row.reuse_is_cold
        assert row.answer_is_cold in {True, None}


def test_an_action_that_never_passes_by_a_fault_is_refused(scene: Scene, cold: ColdAnswers) -> None:
    with pytest.raises(UsageError, match="refuse passes by no load; offload_resident would"):
        run_action("refuse", scene, cold, fault=FaultPoint.LOAD)
    with pytest.raises(UsageError, match="'pray' is no action"):
        run_action("pray", scene, cold)
    with pytest.raises(UsageError, match="'flood' is no fault; use one of save"):
        fault_point("flood")


# --- the sweep ------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def swept(scene: Scene) -> list[SweepRow]:
    return sweep(scene)


POOLS = (80, 90, 100, 110, 120, 130, 150)
LOST = (50, 40, 30, 20, 10, 0, 0)


def arm(rows: list[SweepRow], name: str) -> list[SweepRow]:
    found = [row for row in rows if row.arm == name]
    assert tuple(row.usable_blocks for row in found) == POOLS
    return found


@pytest.mark.parametrize("name", ["native", "no_admit"])
def test_without_a_claim_what_does_not_fit_is_lost_and_the_request_is_always_served(
    swept: list[SweepRow], name: str
) -> None:
    found = arm(swept, name)
    assert tuple(row.victims for row in found) == LOST
    assert tuple(row.remaining for row in found) == tuple(60 - lost for lost in LOST)
    assert all(row.is_served for row in found)
    assert tuple(row.free_before for row in found) == POOLS
    assert {row.shortfall_blocks for row in found} == {0}


def test_with_a_hard_claim_nothing_is_lost_and_the_request_is_refused_until_both_fit(swept: list[SweepRow]) -> None:
    found = arm(swept, "refuse")
    assert {row.victims for row in found} == {0}
    assert {row.remaining for row in found} == {60}
    assert tuple(row.is_served for row in found) == (False,) * 5 + (True,) * 2
    assert tuple(row.shortfall_blocks for row in found) == LOST
    assert tuple(row.free_before for row in found) == (20, 30, 40, 50, 60, 70, 90)


def test_the_sweep_is_a_picture_or_says_why_not(swept: list[SweepRow], tmp_path: Path) -> None:
    draw_sweep(swept, Sizes(), tmp_path / "sweep.png")
    assert (tmp_path / "sweep.png").read_bytes().startswith(b"\x89PNG")
    with pytest.raises(DiskFullError, match="could not be written"):
        draw_sweep(swept, Sizes(), tmp_path / "nowhere" / "sweep.png")


def test_the_sweep_goes_from_the_scene_to_room_for_everybody_at_any_size() -> None:
    assert sweep_sizes(Sizes()) == POOLS
    assert sweep_sizes(Sizes(resident_blocks=6, active_blocks=7, usable_blocks=10)) == (10, 11, 12, 13, 15)


# --- sizes ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        ({"resident_blocks": 0}, "sizes count from 1, got 0 resident"),
        ({"active_blocks": 90}, "needs 90 blocks and 80 are usable: it could not run even alone"),
        ({"resident_blocks": 90}, "would be rejected, short by 10; park at most 78"),
        ({"resident_blocks": 79}, "leaves 1 of 80, and a question about it needs 2"),
        ({"active_blocks": 1}, "hold no prompt beside 16 new tokens"),
    ],
)
def test_sizes_that_cannot_be_played_are_refused_with_numbers(sizes: dict[str, int], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        Sizes(**sizes)


def test_a_pool_with_room_for_everybody_is_no_pressure() -> None:
    with pytest.raises(UsageError, match=r"60 \+ 70 blocks fit into 130.*fewer than 130"):
        Sizes(usable_blocks=130).require_pressure()


class LetterTokenizer:
    """One id a character."""

    def encode(self, text: str, *, add_special_tokens: bool) -> list[int]:
        del add_special_tokens
        return [ord(letter) % 128 for letter in text]


def test_a_scene_of_text_has_a_prefix_and_another_prompt_of_exactly_these_lengths(scene: Scene) -> None:
    text = text_scene(scene.model, LetterTokenizer(), Sizes())
    assert (len(text.resident), len(text.active), len(text.question)) == (960, 1104, 16)
    assert text.resident[:BLOCK] != text.active[:BLOCK]
    with pytest.raises(UsageError, match=r"needs 112000 tokens in one sequence and the model takes 8192"):
        text_scene(scene.model, LetterTokenizer(), Sizes(block_size=1600))


def test_skipped_time_is_later_at_once() -> None:
    clock = SkippingClock()
    before = clock()
    clock.skip(100.0)
    assert 100.0 <= clock() - before < 200.0
