"""When it does not fit: every action of the policy on real rows, what its receipt says, and what is there afterwards."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch

from engine_kit import assert_consistent, cold, make_engine, no_dead_row_is_read
from session_kit import some_ids
from tenure.arbiter.decision import Route
from tenure.arbiter.rules import action_policy
from tenure.claims.modes import ClaimState, Outcome
from tenure.errors import ClaimError, PolicyError, PoolSizeError, UsageError
from tenure.runtime.hf.engine import Claim, Engine, Request, RequestRefusedError, RequestState

#: The published scenario: 60 blocks are protected, 70 are asked for, 80 can be used.
RESIDENT, ACTIVE, USABLE = some_ids(240, seed=60), some_ids(276, seed=70), 80
NEW_TOKENS = 5  # the last one's row is never computed, so the request takes 276 + 4 rows


@pytest.fixture(autouse=True)
def _no_released_row_is_ever_read() -> Iterator[None]:
    with no_dead_row_is_read():
        yield


# --- every action at 60/70/80 ---------------------------------------------------------------------------------------


def scene(line: str, *, mode: str, **options: Any) -> tuple[Engine, Claim, Request]:
    """The resident parked, its time over where it has one, and the active request submitted."""
    settings = {"usable_blocks": USABLE, "chunk_rows": 64, "host_blocks": 140, "policy": action_policy({mode: line})}
    engine = make_engine(**{**settings, **options})
    claim, parked = engine.park(RESIDENT, mode=mode, duration_s=5.0 if mode == "expiring" else None, claim_id="c")
    parked.result()
    assert engine.plane.ledger.protected_blocks == 60
    engine.clock.now_s = 6.0  # type: ignore[attr-defined]
    return engine, claim, engine.submit(ACTIVE, request_id="r", max_new_tokens=NEW_TOKENS)


def made_room(action: str) -> tuple[str, str, str, int, int, bool]:
    return "served", action, "room_was_made", 70, 0, True


def in_less(action: str, *, recomputed: int = 0, is_exact: bool = True) -> tuple[str, str, str, int, int, bool]:
    return "bounded", action, "active_live_bounded", 20, recomputed, is_exact


#: line, mode: the request's outcome, action, reason, granted, recomputed and exactness; the claim's last outcome; then the
#: tokens that the resident's next use finds on the device or brings back.
ACTIONS: dict[str, tuple[str, tuple[str, str, str, int, int, bool], str, tuple[int, int]]] = {
    "demote, refuse": ("demotable", made_room("demote_resident_claim"), "demoted", (40, 0)),
    "expire, refuse": ("expiring", made_room("expire_resident_claim"), "expired", (40, 0)),
    "offload_resident, refuse": ("offloadable", made_room("offload_resident"), "offloaded", (0, 240)),
    "harm": ("hard_protected", made_room("serve_active_evict_resident"), "harmed", (40, 0)),
    "add_capacity, refuse": (
        "hard_protected",
        ("served", "capacity_required", "usable_blocks_increased", 70, 0, True),
        "accepted",
        (240, 0),
    ),
    "bound_active_live, refuse": ("hard_protected", in_less("bound_active_live", is_exact=False), "accepted", (240, 0)),
    "offload_active, refuse": ("hard_protected", in_less("offload_active"), "accepted", (240, 0)),
    "recompute_split, refuse": (
        "hard_protected",
        in_less("recompute_split", recomputed=276 + 277 + 278 + 279),
        "accepted",
        (240, 0),
    ),
}


@pytest.mark.parametrize("line", ACTIONS)
def test_a_request_of_70_beside_60_of_80_is_answered_as_the_line_says(line: str) -> None:
    mode, (outcome, action, reason, granted, recomputed, is_exact), claim_outcome, (reused, restored) = ACTIONS[line]
    engine, claim, request = scene(line, mode=mode, addable_blocks=60)
    answer = request.result()
    assert len(answer) == NEW_TOKENS
    if is_exact:
        assert answer == cold(ACTIVE, NEW_TOKENS, chunk_rows=64)
    assert request.receipt.to_record() == {
        "outcome": outcome,
        "reason": reason,
        "request_id": "r",
        "is_exact": is_exact,
        "action": action,
        "numbers": {
            "requested_blocks": 70,
            "granted_blocks": granted,
            "protected_blocks": 60,
            "active_live_blocks": 0,
            "usable_blocks": 130 if line.startswith("add") else 80,  # with those that were added
            "shortfall_blocks": 50,
        },
        "tokens": {"reused_tokens": 0, "restored_tokens": 0, "recomputed_tokens": recomputed},
        "blocking_claim_ids": [] if line.startswith("add") else ["c"],
        "next_step": "nothing",
    }
    assert claim.receipt.outcome == claim_outcome
    assert claim.receipt.caused_by_request_id == (None if claim_outcome == "accepted" else "r")
    assert_consistent(engine)
    assert engine.rows.borrowed_blocks == 0
    again = [*RESIDENT, *ACTIVE[:8]]
    later = engine.submit(again, max_new_tokens=4)
    assert later.result() == cold(again, 4, chunk_rows=64)
    assert later.receipt.tokens is not None
    assert (later.receipt.tokens.reused_tokens, later.receipt.tokens.restored_tokens) == (reused, restored)
    if claim_outcome in ("accepted", "offloaded"):
        assert claim.status.state is ClaimState.MATERIALIZED
        assert engine.plane.ledger.protected_blocks == 60
    assert_consistent(engine)


@pytest.mark.parametrize("line", ["refuse", "defer 1, refuse", "defer 2s, refuse"])
def test_a_refused_request_is_told_the_numbers_and_who_was_in_the_way_and_nobody_lost_anything(line: str) -> None:
    engine, claim, request = scene(line, mode="hard_protected")
    with pytest.raises(RequestRefusedError, match="short by 50; because of c; next: retry later"):
        request.result()
    record = request.receipt.to_record()
    assert (record["outcome"], record["action"]) == ("refused", "refuse_active")
    assert record["reason"] == "active_live_exceeds_resident_headroom"
    assert record["numbers"]["granted_blocks"] == 0  # type: ignore[index]
    assert "tokens" not in record
    assert "is_exact" not in record
    assert claim.status.state is ClaimState.MATERIALIZED
    assert engine.rows.frames.used_blocks == 60
    assert_consistent(engine)


def test_a_request_that_must_not_be_bounded_is_refused_where_only_that_would_help() -> None:
    for line in ("bound_active_live, refuse", "offload_active, refuse", "recompute_split, refuse"):
        engine = make_engine(host_blocks=64, policy=action_policy({"hard_protected": line}))
        engine.park(some_ids(64))
        engine.run()
        assert engine.submit(some_ids(64, seed=1), may_be_bounded=False).state is RequestState.REFUSED
        assert_consistent(engine)


def test_a_request_without_host_memory_falls_through_to_what_needs_none() -> None:
    policy = action_policy({"hard_protected": "bound_active_live, offload_active, recompute_split, refuse"})
    engine = make_engine(host_blocks=4, policy=policy)
    engine.park(some_ids(64))
    engine.run()
    ids = some_ids(40, seed=1)
    request = engine.submit(ids, max_new_tokens=4)
    assert request.receipt.action == "recompute_split"
    assert "needs 11 host blocks" in str(request.receipt.failure)
    assert request.result() == cold(ids, 4)
    assert_consistent(engine)


@pytest.mark.parametrize("step", ["bound_active_live", "offload_active"])
def test_a_policy_that_needs_a_host_is_refused_where_there_is_none(step: str) -> None:
    with pytest.raises(PolicyError, match=f"the policy says {step}.*host_blocks is 0"):
        make_engine(policy=action_policy({"hard_protected": f"{step}, refuse"}))


# --- other workers, more memory ---------------------------------------------------------------------------------------


def test_a_request_goes_to_the_cheapest_worker_that_the_router_offers_and_the_hook_is_told() -> None:
    gone: list[tuple[str, str]] = []
    engine, claim, request = scene(
        "route_elsewhere, refuse",
        mode="hard_protected",
        router=lambda terms: [Route(target="far", cost=9.0), Route(target=f"near-{len(terms.keys)}", cost=1.0)],
        on_route=lambda request, route: gone.append((request.request_id, route.target)),
    )
    assert request.state is RequestState.ROUTED
    assert gone == [("r", "near-69")]
    assert (request.receipt.outcome, request.receipt.action) == (Outcome.ROUTED, "route_elsewhere")
    with pytest.raises(UsageError, match="was routed"):
        request.result()
    assert claim.status.state is ClaimState.MATERIALIZED
    assert_consistent(engine)


def test_the_hook_of_a_route_may_cancel_and_submit_others() -> None:
    def took(request: Request, _route: Route) -> None:
        if engine.plane.waiting:
            engine.cancel("later")
            engine.submit(some_ids(8, seed=5), request_id=f"instead of {request.request_id}", max_new_tokens=1)

    lines = {"hard_protected": "defer 2s, route_elsewhere, refuse"}
    engine = make_engine(policy=action_policy(lines), router=lambda _: [Route(target="w", cost=1.0)], on_route=took)
    engine.park(some_ids(64))
    engine.run()
    engine.submit(some_ids(64, seed=1), request_id="sooner", max_new_tokens=1)
    engine.clock.now_s = 1.0  # type: ignore[attr-defined]
    engine.submit(some_ids(64, seed=1), request_id="later", max_new_tokens=1)
    engine.run()
    assert [engine.receipt(name).outcome for name in ("sooner", "later")] == [Outcome.ROUTED, Outcome.FAILED]
    assert engine.receipt("instead of sooner").outcome is Outcome.SERVED
    assert_consistent(engine)


def test_added_capacity_is_kept_and_never_more_than_was_allowed() -> None:
    policy = action_policy({"hard_protected": "add_capacity, refuse", "active": "add_capacity, refuse"})
    engine = make_engine(policy=policy, addable_blocks=12)
    engine.park(some_ids(64))
    engine.run()
    ids = some_ids(60, seed=1)
    request = engine.submit(ids, max_new_tokens=3)
    assert (engine.plane.ledger.usable_blocks, engine.plane.ledger.addable_blocks) == (32, 4)
    assert request.result() == cold(ids, 3)
    assert engine.submit(some_ids(84, seed=2), may_be_bounded=False).state is RequestState.REFUSED
    assert engine.plane.ledger.usable_blocks == 32
    assert_consistent(engine)


def test_memory_that_the_device_does_not_have_after_all_leaves_the_next_step_of_the_line(monkeypatch: Any) -> None:
    engine = make_engine(policy=action_policy({"hard_protected": "add_capacity, refuse"}), addable_blocks=12)
    claim, _ = engine.park(some_ids(64))
    engine.run()

    def full(_blocks: int) -> None:
        raise PoolSizeError("the device has no 8 blocks more")

    monkeypatch.setattr(engine.rows.frames, "grow", full)
    request = engine.submit(some_ids(60, seed=1), max_new_tokens=3)
    assert request.state is RequestState.REFUSED
    assert request.receipt.failure == "the device has no 8 blocks more"
    assert claim.status.state is ClaimState.MATERIALIZED
    assert_consistent(engine)


def test_a_request_that_is_refused_for_its_rows_after_the_pool_grew_leaves_pool_and_ledger_agreed() -> None:
    lines = {"offloadable": "offload_resident, refuse", "hard_protected": "add_capacity, refuse"}
    engine = make_engine(policy=action_policy(lines), host_blocks=24, addable_blocks=12)
    away, _ = engine.park(some_ids(48), mode="offloadable")
    engine.run()
    engine.submit(some_ids(96, seed=1), max_new_tokens=0).result()
    assert away.status.state is ClaimState.OFFLOADED
    engine.park(some_ids(64, seed=2))
    engine.run()
    engine.plane.fail_next_restore(away.claim_id)
    request = engine.submit(some_ids(48), max_new_tokens=1)
    assert request.state is RequestState.REFUSED
    assert_consistent(engine)
    assert engine.submit(some_ids(48), max_new_tokens=4).result() == cold(some_ids(48), 4)
    assert_consistent(engine)


# --- time -----------------------------------------------------------------------------------------------------------


def test_a_deferred_request_waits_as_long_as_its_line_says_and_is_then_refused() -> None:
    engine, _, request = scene("defer 2s, refuse", mode="hard_protected")
    assert (request.receipt.outcome, request.receipt.action) == (Outcome.DEFERRED, "defer_active")
    assert request.receipt.next_step == "will_be_decided_again"
    engine.clock.now_s = 7.9  # type: ignore[attr-defined]
    engine.step()
    assert request.state is RequestState.WAITING
    engine.run()
    assert request.state is RequestState.REFUSED
    assert 8.0 <= request.ended_s <= 8.6  # type: ignore[operator]  # looked at every half second


def test_a_deferred_request_is_served_when_the_claim_in_its_way_is_released() -> None:
    engine, claim, request = scene("defer 30s, refuse", mode="hard_protected")
    claim.release()
    assert request.state is RequestState.RUNNING
    assert request.result() == cold(ACTIVE, NEW_TOKENS, chunk_rows=64)
    assert_consistent(engine)


def test_a_claim_ends_by_the_clock_and_whoever_waited_for_it_is_served() -> None:
    engine = make_engine()
    claim, _ = engine.park(some_ids(64), mode="expiring", duration_s=9.0)
    engine.run()
    engine.clock.now_s = 4.0  # type: ignore[attr-defined]
    request = engine.submit(some_ids(64, seed=1), max_new_tokens=3)
    assert request.receipt.outcome is Outcome.DEFERRED
    assert request.receipt.retry_after_s == 5.0
    assert request.result() == cold(some_ids(64, seed=1), 3)
    assert request.admitted_s == pytest.approx(9.0, abs=0.1)
    assert claim.receipt.outcome is Outcome.EXPIRED
    with pytest.raises(ClaimError, match="ended"):
        claim.release()


def test_a_renewed_claim_lives_on() -> None:
    engine = make_engine()
    claim, _ = engine.park(some_ids(16), mode="expiring", duration_s=2.0, claim_id="c", object_id="o")
    engine.run()
    engine.clock.now_s = 1.0  # type: ignore[attr-defined]
    again = engine.claim(some_ids(16), mode="expiring", duration_s=5.0, claim_id="c", object_id="o", revision=2)
    assert again.receipt.outcome is Outcome.RENEWED
    engine.clock.now_s = 5.0  # type: ignore[attr-defined]
    engine.step()
    assert claim.status.state is ClaimState.MATERIALIZED
    engine.clock.now_s = 6.1  # type: ignore[attr-defined]
    engine.step()
    assert claim.receipt.outcome is Outcome.EXPIRED


# --- pausing --------------------------------------------------------------------------------------------------------


def _run_until(engine: Engine, request: Request, *, told: int) -> None:
    while len(request.token_ids) < told:
        engine.step()


def _logits(engine: Engine, request: Request) -> torch.Tensor:
    runner = engine.computer.answers[request.request_id].runner
    assert runner is not None
    assert runner.logits is not None
    return runner.logits


@pytest.mark.parametrize("told", [1, 3, 6])
def test_a_paused_request_goes_on_bit_for_bit_where_it_stopped(told: int) -> None:
    engine, calm, ids = make_engine(host_blocks=24), make_engine(), some_ids(21)
    request, undisturbed = (each.submit(ids, max_new_tokens=9) for each in (engine, calm))
    _run_until(engine, request, told=told)
    _run_until(calm, undisturbed, told=told)
    before = _logits(engine, request)
    slots = engine.plane.work(request.request_id).slots
    rows = [engine.rows.frames.read_block(slot.block_id) for slot in slots[:5]]
    receipt = engine.pause(request.request_id)
    assert (receipt.outcome, receipt.action) == (Outcome.DEFERRED, "offload_active")
    assert (receipt.is_exact, receipt.tokens) == (None, None)
    filler = engine.submit(some_ids(90, seed=1), max_new_tokens=7)  # nothing of it is left on the device
    _run_until(engine, filler, told=1)
    filler.cancel()
    assert request.state is RequestState.RUNNING
    assert _logits(engine, request) is before
    slots = engine.plane.work(request.request_id).slots
    back = [engine.rows.frames.read_block(slot.block_id) for slot in slots[:5]]
    assert all(torch.equal(*pair) for was, now in zip(rows, back, strict=True) for pair in zip(was, now, strict=True))
    while not request.state.is_over:
        assert torch.equal(_logits(engine, request), _logits(calm, undisturbed))
        engine.step()
        calm.step()
    assert request.result() == undisturbed.result()
    assert request.receipt.tokens is not None
    assert request.receipt.tokens.recomputed_tokens == 0
    assert engine.rows.borrowed_blocks == 0
    assert_consistent(engine)


def test_only_what_runs_in_full_can_be_paused() -> None:
    engine = make_engine(host_blocks=64, policy=action_policy({"active": "bound_active_live, defer 9s, refuse"}))
    over = engine.submit(some_ids(4), max_new_tokens=1)
    over.result()
    bounded = engine.submit(some_ids(120), max_new_tokens=1)
    for request in (over, bounded):
        with pytest.raises(UsageError):
            engine.pause(request.request_id)
    bounded.result()
    paused = engine.submit(some_ids(8), max_new_tokens=3)
    engine.pause(paused.request_id)
    with pytest.raises(UsageError, match="only one that runs in full can be paused"):
        engine.pause(paused.request_id)
    assert paused.result() == cold(some_ids(8), 3)


def test_a_request_that_was_paused_amid_a_block_which_another_one_completed_goes_on_behind_it() -> None:
    engine, ids = make_engine(host_blocks=24, chunk_rows=6), some_ids(12)
    request = engine.submit(ids, max_new_tokens=4, keep_for_reuse=False)
    engine.step()
    engine.pause(request.request_id)
    engine.submit(ids[:8], max_new_tokens=0).result()
    engine.plane.retry()
    runner = engine.computer.answers[request.request_id].runner
    assert runner is not None
    assert runner.rows == 8  # its own six rows, and two that are in a block of the cache, which nobody writes again
    assert request.result() == cold(ids, 4)


def test_a_paused_request_that_comes_back_in_less_begins_anew_and_says_so() -> None:
    lines = {"hard_protected": "recompute_split, refuse"}
    engine, ids = make_engine(host_blocks=24, policy=action_policy(lines)), some_ids(40)
    engine.claim(some_ids(48, seed=1))
    request = engine.submit(ids, max_new_tokens=6, keep_for_reuse=False)
    _run_until(engine, request, told=2)
    engine.pause(request.request_id)
    engine.submit(some_ids(48, seed=1), max_new_tokens=0)
    engine.submit(some_ids(8, seed=2), max_new_tokens=9)
    while request.state is RequestState.WAITING:
        engine.step()
    assert request.receipt.outcome is Outcome.BOUNDED
    assert engine.rows.host.used_bytes == 0
    assert request.result() == cold(ids, 6)
    assert request.receipt.tokens is not None
    assert request.receipt.tokens.recomputed_tokens == 42 + sum(range(42, 45))  # its rows, then all for each token
    engine.run()
    assert_consistent(engine)
