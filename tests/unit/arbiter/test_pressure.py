"""The inequality, against the published schedule and against a step-by-step count."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tenure.arbiter.pressure import LivePlan, Pressure, even_chunks, explain_labels
from tenure.claims.modes import AttentionMode, Feasibility
from tenure.errors import PolicyError

BULKY = (20, 20, 20, 10)


def test_full_attention_accumulates_over_chunks() -> None:
    plan = LivePlan(chunk_blocks=BULKY)
    assert plan.live_blocks_by_step() == (20, 40, 60, 70)
    assert plan.max_live_blocks == 70
    assert plan.blocked_step(headroom_blocks=20) == 2
    assert plan.blocked_step(headroom_blocks=70) is None


def test_a_sliding_window_keeps_its_window_and_no_more() -> None:
    plan = LivePlan(chunk_blocks=BULKY, attention_mode=AttentionMode.SLIDING_WINDOW, window_blocks=20)
    assert plan.live_blocks_by_step() == (20, 20, 20, 20)


def test_a_window_of_zero_keeps_nothing() -> None:
    plan = LivePlan(chunk_blocks=BULKY, attention_mode=AttentionMode.SLIDING_WINDOW, window_blocks=0)
    assert plan.live_blocks_by_step() == (0, 0, 0, 0)
    assert plan.blocked_step(headroom_blocks=0) is None


def test_recompute_keeps_one_chunk() -> None:
    plan = LivePlan(chunk_blocks=BULKY, attention_mode=AttentionMode.RECOMPUTE_FREE_BETWEEN_CHUNKS)
    assert plan.live_blocks_by_step() == BULKY
    assert plan.max_live_blocks == 20


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({"chunk_blocks": (1.5,)}, "chunk_blocks"),
        ({"chunk_blocks": (float("nan"),)}, "chunk_blocks"),
        ({"chunk_blocks": (True,)}, "chunk_blocks"),
        ({"chunk_blocks": 5}, "chunk_blocks"),
        ({"chunk_blocks": (3,), "attention_mode": "nope"}, "attention_mode"),
        ({"chunk_blocks": (3,), "attention_mode": None}, "attention_mode"),
        ({"chunk_blocks": (5,), "attention_mode": "sliding_window", "window_blocks": float("nan")}, "window_blocks"),
        ({"chunk_blocks": (5,), "attention_mode": "sliding_window", "window_blocks": 1.0}, "window_blocks"),
        ({"chunk_blocks": ()}, "chunk_blocks"),
        ({"chunk_blocks": (5, 0)}, "chunk_blocks"),
        ({"chunk_blocks": (5,), "window_blocks": 3}, "window_blocks"),
        ({"chunk_blocks": (5,), "attention_mode": AttentionMode.SLIDING_WINDOW}, "window_blocks"),
        ({"chunk_blocks": (5,), "attention_mode": AttentionMode.SLIDING_WINDOW, "window_blocks": -1}, "window_blocks"),
    ],
)
def test_a_wrong_schedule_is_refused_by_field_and_clause(fields: dict[str, object], named: str) -> None:
    with pytest.raises(PolicyError, match=rf"^{named}\b.*TNR-(CAP-001|ARB-012)"):
        LivePlan(**fields)  # type: ignore[arg-type]


def test_an_attention_mode_may_be_given_by_its_published_name() -> None:
    plan = LivePlan(chunk_blocks=(3, 5), attention_mode="sliding_window", window_blocks=1)  # type: ignore[arg-type]
    assert plan.attention_mode is AttentionMode.SLIDING_WINDOW
    assert plan.live_blocks_by_step() == (1, 1)


@given(
    chunks=st.lists(st.integers(1, 30), min_size=1, max_size=8),
    mode=st.sampled_from(AttentionMode),
    window=st.integers(0, 60),
)
def test_live_blocks_equal_a_count_of_what_is_still_kept(chunks: list[int], mode: AttentionMode, window: int) -> None:
    windowed = mode is AttentionMode.SLIDING_WINDOW
    plan = LivePlan(chunk_blocks=tuple(chunks), attention_mode=mode, window_blocks=window if windowed else None)
    kept: list[int] = []
    computed = 0
    for step, chunk in enumerate(chunks):
        fresh = list(range(computed, computed + chunk))
        computed += chunk
        kept = fresh if mode is AttentionMode.RECOMPUTE_FREE_BETWEEN_CHUNKS else kept + fresh
        if windowed:
            kept = [position for position in kept if position >= computed - window]
        assert plan.live_blocks_by_step()[step] == len(kept)


@given(total=st.integers(1, 500), chunk=st.integers(1, 100))
def test_even_chunks_add_up(total: int, chunk: int) -> None:
    chunks = even_chunks(total_blocks=total, chunk_blocks=chunk)
    assert sum(chunks) == total
    assert max(chunks) <= chunk
    assert all(size == chunk for size in chunks[:-1])


def _pressure(*, usable: int, other: int = 0, overlap: int = 0) -> Pressure:
    return Pressure(
        usable_blocks=usable,
        protected_blocks=60,
        active_blocks=other,
        required_blocks=70,
        overlap_blocks=overlap,
        free_blocks=0,
        evictable_blocks=0,
        outstanding_blocks=0,
    )


@pytest.mark.parametrize(("usable", "short"), [(80, 50), (90, 40), (100, 30), (110, 20), (120, 10), (130, 0), (150, 0)])
def test_the_published_shortfalls_come_out(usable: int, short: int) -> None:
    pressure = _pressure(usable=usable)
    assert pressure.shortfall_blocks == short
    assert pressure.feasibility is (Feasibility.INFEASIBLE if short else Feasibility.FEASIBLE)


def test_other_active_work_and_shared_blocks_are_counted() -> None:
    assert _pressure(usable=130, other=25).shortfall_blocks == 25
    assert _pressure(usable=130, other=25, overlap=25).shortfall_blocks == 0


def test_the_bulky_schedule_earns_all_six_labels() -> None:
    assert set(explain_labels(LivePlan(chunk_blocks=BULKY), headroom_blocks=20)) == {
        "active_live_kv_accumulation",
        "protected_resident_headroom_exhausted",
        "active_admission_blocked",
        "resident_protection_requires_deferral",
        "chunking_not_live_bounding",
        "physical_capacity_infeasible",
    }
    assert explain_labels(LivePlan(chunk_blocks=(10,)), headroom_blocks=20) == ()
