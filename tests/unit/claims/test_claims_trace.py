from __future__ import annotations

import json
from pathlib import Path

import pytest

from claims_world import World, make_claim
from tenure.claims import ClaimState, EventType
from tenure.claims.event_fields import EVENTS
from tenure.claims.lifecycle import RequestState
from tenure.claims.reconstruction import reconstruct
from tenure.claims.trace import parse_trace, read_trace
from tenure.errors import TraceError

CONFLICT = {
    "active_live_blocks_required": 70, "active_live_blocks_current": 0, "blocking_claim_ids": ["claim:a"],
    "blocking_prefix_ids": ["prefix-of-claim:a"], "protected_resident_blocks": 60, "protected_resident_claims": [],
    "resident_plus_active_blocks": 130, "capacity_shortfall_blocks": 50, "free_blocks_before_allocate": 20,
    "feasibility": "infeasible_preserve_resident_and_active",
}  # fmt: skip


def a_story() -> World:
    """A claim held against one request, another that waits and is served, and a harm."""
    world = World()
    emit = world.trace.emit
    emit(EventType.RUNTIME_STARTED, {"runtime_name": "test", "spec_version": "2026.1"})
    claim = make_claim()
    world.hold(claim)
    emit(EventType.REQUEST_SUBMITTED, {"active_live_blocks_required": 70}, request_id="1-98f251b5")
    emit(EventType.REQUEST_REFUSED, CONFLICT | {"arbiter_action": "refuse_active"}, request_id="1-98f251b5")
    for attempt in (1, 2):
        fields = CONFLICT | {"arbiter_action": "defer_active", "defer_attempts": attempt}
        emit(EventType.REQUEST_DEFERRED, fields, request_id="2-late")
    protected = world.take(claim, 0, request_id="2-late", physical_block_id=7)
    victim = {"physical_block_id": 7, "is_protected_resident": protected, "victim_reason": "cached_prefix_reuse"}
    emit(EventType.VICTIM_SELECTED, victim, request_id="2-late")
    emit(
        EventType.REQUEST_ADMITTED,
        {"active_live_blocks_required": 70, "active_live_blocks_current": 70, "free_blocks_before_allocate": 79,
         "arbiter_action": "serve_active_evict_resident"},
        request_id="2-late",
    )  # fmt: skip
    emit(EventType.REQUEST_FINISHED, request_id="2-late")
    emit(
        EventType.FUTURE_REUSE_DENIED,
        {"future_reuse_requested": True, "future_reuse_admitted": False, "arbiter_action": "serve_active_no_admit"},
        request_id="2-late",
    )
    return world


@pytest.mark.clause("TNR-EVT-008")
def test_every_outcome_is_in_the_trace_whatever_the_requests_are_called() -> None:
    [run] = reconstruct(parse_trace(a_story().trace.to_json_lines().splitlines(keepends=True)))
    refused, late = run.requests["1-98f251b5"], run.requests["2-late"]
    assert (refused.state, refused.served, refused.verdict) == (RequestState.REFUSED, False, "refused")
    assert (refused.blocking_claim_ids, refused.capacity_shortfall_blocks) == (("claim:a",), 50)
    assert (late.served, late.verdict) == (True, "served after 2 deferrals")
    assert (late.victim_blocks, late.cached_victim_blocks, late.protected_victim_blocks) == (1, 1, 1)
    assert late.future_reuse_admitted is False
    claim = run.claims["claim:a"]
    assert (claim.state, claim.kept, claim.live, claim.lost_blocks) == (ClaimState.HARMED, False, False, 1)
    assert claim.blocked_request_ids == ["1-98f251b5", "2-late"]
    assert not run.violations


def test_each_event_is_told_in_words_with_its_number() -> None:
    [run] = reconstruct(a_story().trace.events)
    story = "\n".join(run.claims["claim:a"].story)
    assert "accepted for 5 blocks as hard_protected" in story
    assert "HARMED (evicted_under_pressure): leading_prefix_at_least(3) no longer holds" in story
    assert "short by 50 blocks" in run.requests["1-98f251b5"].story[1]


@pytest.mark.clause("TNR-EVT-003")
def test_a_release_after_the_loss_is_found_out_of_order() -> None:
    world = World()
    claim = make_claim()
    world.hold(claim)
    world.registry.demote("claim:a")
    world.take(claim, 0)
    lines = world.trace.to_json_lines().splitlines()
    demoted, lost = (json.loads(line) for line in lines[-2:])
    demoted["event_sequence"], lost["event_sequence"] = lost["event_sequence"], demoted["event_sequence"]
    swapped = [*lines[:-2], json.dumps(lost), json.dumps(demoted)]
    [run] = reconstruct(parse_trace([line + "\n" for line in swapped]))
    assert [sequence for sequence, _ in run.violations] == [lost["event_sequence"]]
    assert run.violations[0][1].clause == "TNR-EVT-003"


@pytest.mark.clause("TNR-EVT-001", "TNR-EVT-002")
@pytest.mark.parametrize(
    ("spoil", "named"),
    [(lambda lines: lines[:2] + lines[3:], "missing"), (lambda lines: [*lines[:2], lines[1], *lines[2:]], "repeated"),
     (lambda lines: [lines[1], lines[0], *lines[2:]], "missing"), (lambda lines: [*lines[:-1], lines[-1][:20]], "torn"),
     (lambda lines: [lines[0], "{nonsense\n"], "no JSON"), (lambda lines: [lines[0], "[1]\n"], "no JSON object"),
     (lambda lines: [lines[0].replace("runtime_started", "block_removed")], "no event"),
     (lambda lines: [lines[0].replace('"spec_version":"2026.1"', '"spec_version":7')], "spec_version"),
     (lambda lines: [lines[0].replace('"schema_version":1', '"schema_version":2')], "schema_version")],
)  # fmt: skip
def test_a_torn_truncated_or_reordered_trace_is_refused_with_its_line(
    spoil: object, named: str, tmp_path: Path
) -> None:
    lines = a_story().trace.to_json_lines().splitlines(keepends=True)
    path = tmp_path / "t.jsonl"
    path.write_text("".join(spoil(lines)))  # type: ignore[operator]
    with pytest.raises(TraceError, match=named) as caught:
        read_trace(path)
    assert "line" in str(caught.value)


def test_a_file_that_is_no_trace_is_refused(tmp_path: Path) -> None:
    (tmp_path / "empty").write_text("")
    (tmp_path / "binary").write_bytes(b"\xff\xfe\x00")
    for name in ("empty", "binary", "missing"):
        with pytest.raises(TraceError, match=name):
            read_trace(tmp_path / name)


def test_a_withdrawn_event_is_skipped() -> None:
    [line] = World().trace.to_json_lines().splitlines(keepends=True) or ['{"event":"resident_claim_preserved"}\n']
    assert list(parse_trace([line])) == []


def test_two_runs_in_one_file_are_told_apart() -> None:
    lines = a_story().trace.to_json_lines()
    both = lines + lines.replace('"run_id":"run"', '"run_id":"second"')
    assert [run.run_id for run in reconstruct(parse_trace(both.splitlines(keepends=True)))] == ["run", "second"]


def test_every_event_type_says_when_it_is_written() -> None:
    assert set(EVENTS) == set(EventType)
    assert all(spec.when for spec in EVENTS.values())
