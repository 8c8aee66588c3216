"""Transfers, forwards and listeners that fail: always an explicit outcome, nothing half done, the right tokens."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

import engine_kit
from engine_kit import MODEL, assert_consistent, cold, no_dead_row_is_read
from session_kit import some_ids
from tenure.arbiter.rules import action_policy
from tenure.claims.event_types import EventType
from tenure.claims.modes import ClaimState, RestorationOutcome
from tenure.errors import HostTierFullError, TransferError, UsageError
from tenure.runtime.hf.engine import (
    Claim,
    Engine,
    FaultPoint,
    Request,
    RequestFailedError,
    RequestState,
    TransferFaults,
)

make_engine = functools.partial(engine_kit.make_engine, host_blocks=64)
PREFIX, OTHER, BYSTANDER = some_ids(40), some_ids(64, seed=1), some_ids(16, seed=2)


def events(engine: Engine, claim: Claim) -> list[str]:
    return [e.event_type.value for e in engine.sink.events if e.claim_id == claim.claim_id]  # type: ignore[attr-defined]


def requests_said(engine: Engine, request: Request) -> set[EventType]:
    return {e.event_type for e in engine.sink.events if e.request_id == request.request_id}  # type: ignore[attr-defined]


@pytest.fixture(autouse=True)
def _no_released_row_is_ever_read() -> Iterator[None]:
    with no_dead_row_is_read():
        yield


class Scene:
    """A bystander whom nothing may touch, an offloadable prefix of ten blocks, and a request that needs sixteen."""

    def __init__(self, line: str = "offload_resident, refuse", **options: Any) -> None:
        self.faults = TransferFaults()
        policy = action_policy({"offloadable": line, "hard_protected": "refuse", "active": "refuse"})
        self.engine = make_engine(policy=policy, faults=self.faults, **options)
        self.bystander, _ = self.engine.park(BYSTANDER)
        self.claim, _ = self.engine.park(PREFIX, mode="offloadable")
        self.engine.run()
        assert self.engine.plane.ledger.protected_blocks == 14
        self.told_bystander = events(self.engine, self.bystander)

    def ask(self, ids: list[int] = OTHER) -> Request:
        request = self.engine.submit(ids, max_new_tokens=4, keep_for_reuse=False)
        self.engine.run()
        return request

    def check(self) -> None:
        """Nothing is half done, and the bystander has every row still."""
        assert_consistent(self.engine)
        assert self.bystander.status.state is ClaimState.MATERIALIZED
        assert events(self.engine, self.bystander) == self.told_bystander
        again = self.engine.submit([*BYSTANDER, 5], max_new_tokens=3)
        assert again.result() == cold([*BYSTANDER, 5], 3)
        assert again.receipt.tokens is not None
        assert again.receipt.tokens.reused_tokens == 16
        assert_consistent(self.engine)


# --- offloading -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("after", [0, 1, 5, 9])
def test_a_copy_that_fails_while_a_claim_is_offloaded_leaves_it_there_and_the_request_is_told(after: int) -> None:
    scene = Scene()
    scene.faults.arm("save", after=after)
    request = scene.ask()
    assert scene.faults.happened[FaultPoint.SAVE] == 1
    assert request.state is RequestState.REFUSED
    assert "failed at save" in str(request.receipt.failure)
    assert scene.claim.status.state is ClaimState.MATERIALIZED
    assert "resident_claim_offloaded" not in events(scene.engine, scene.claim)
    assert scene.engine.rows.host.used_bytes == 0
    scene.check()
    assert scene.ask().result() == cold(OTHER, 4)  # the next time it works
    assert scene.claim.status.state is ClaimState.OFFLOADED
    scene.check()


@pytest.mark.parametrize("after", [0, 9])
def test_a_copy_that_fails_leaves_the_next_step_of_the_line(after: int) -> None:
    scene = Scene("offload_resident, demote, refuse")
    scene.faults.arm("save", after=after)
    request = scene.ask()
    assert request.result() == cold(OTHER, 4)
    assert request.receipt.action == "demote_resident_claim"
    assert "failed at save" in str(request.receipt.failure)
    assert scene.claim.receipt.outcome == "demoted"
    scene.check()


# --- restoring ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("point", ["corrupt", "lose"])
@pytest.mark.parametrize("after", [0, 4, 9])
def test_rows_that_are_lost_on_the_host_end_the_claim_and_are_computed_again(point: str, after: int) -> None:
    scene = Scene()
    scene.faults.arm(point, after=after)
    assert scene.ask().result() == cold(OTHER, 4)
    assert scene.claim.status.state is ClaimState.OFFLOADED
    request = scene.ask([*PREFIX, 7])
    assert request.result() == cold([*PREFIX, 7], 4)
    assert scene.claim.receipt.outcome == "harmed"
    told = events(scene.engine, scene.claim)
    assert told.index("resident_claim_restoration_failed") < told.index("resident_claim_harmed")
    assert "resident_claim_restored" not in told
    assert request.receipt.tokens is not None
    assert (request.receipt.tokens.restored_tokens, request.receipt.tokens.recomputed_tokens) == (0, 40)
    assert scene.engine.rows.host.used_bytes == 0
    scene.check()


@pytest.mark.parametrize("outcome", list(RestorationOutcome))
@pytest.mark.parametrize("after", [0, 5, 9])
def test_a_copy_back_that_fails_ends_the_claim_by_name_and_the_request_computes_what_is_missing(
    outcome: RestorationOutcome, after: int
) -> None:
    scene = Scene(restore_failure=outcome)
    scene.ask()
    scene.faults.arm("load", after=after)
    request = scene.ask([*PREFIX, 7])
    assert scene.faults.happened[FaultPoint.LOAD] == 1
    told = events(scene.engine, scene.claim)
    assert told.count("resident_claim_restoration_failed") == 1
    assert "resident_claim_restored" not in told
    assert request.state is RequestState.DONE
    assert request.result() == cold([*PREFIX, 7], 4)
    assert request.receipt.tokens is not None
    assert (request.receipt.tokens.restored_tokens, request.receipt.tokens.recomputed_tokens) == (0, 40)
    ends = {"refusal": "demoted", "demotion": "demoted", "expiry": "expired", "harm": "harmed"}
    assert scene.claim.receipt.outcome == ends[outcome.value]
    assert scene.engine.rows.host.used_bytes == 0
    scene.check()


def test_rows_that_come_back_at_the_second_attempt_are_those_that_were_saved() -> None:
    scene = Scene()
    scene.ask()
    scene.engine.plane.fail_next_restore(scene.claim.claim_id)
    refused = scene.ask([*PREFIX, 7])
    assert refused.state is RequestState.REFUSED
    assert refused.receipt.blocking_claim_ids == (scene.claim.claim_id,)
    assert scene.claim.status.state is ClaimState.OFFLOADED
    scene.check()
    request = scene.ask([*PREFIX, 7])
    assert request.result() == cold([*PREFIX, 7], 4)
    assert request.receipt.tokens is not None
    assert request.receipt.tokens.restored_tokens == 40
    assert scene.claim.status.state is ClaimState.MATERIALIZED
    scene.check()


def test_of_two_claims_only_the_one_whose_rows_are_lost_ends() -> None:
    scene = Scene()
    second, _ = scene.engine.park(OTHER[:24], mode="offloadable")
    scene.engine.run()
    scene.faults.arm("lose", after=3)
    scene.ask(some_ids(72, seed=8))
    states = [scene.claim.status.state, second.status.state]
    assert states == [ClaimState.OFFLOADED, ClaimState.OFFLOADED]
    scene.ask([*PREFIX, 7])
    scene.ask([*OTHER[:24], 7])
    ended = [claim for claim in (scene.claim, second) if claim.receipt.outcome == "harmed"]
    kept = second if ended == [scene.claim] else scene.claim
    assert len(ended) == 1
    assert kept.status.state is ClaimState.MATERIALIZED
    scene.check()


# --- requests that run in less ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("step", ["bound_active_live", "offload_active"])
def test_a_host_without_memory_for_a_bounded_request_leaves_the_next_step_of_the_line(step: str) -> None:
    faults = TransferFaults()
    policy = action_policy({"hard_protected": f"{step}, recompute_split, refuse"})
    engine = make_engine(policy=policy, faults=faults, least_arena_blocks=12)
    claim, _ = engine.park(PREFIX)
    engine.run()
    faults.arm("host_memory")
    ids = some_ids(80, seed=3)
    first = engine.submit(ids, max_new_tokens=4)
    assert first.receipt.action == "recompute_split"
    assert "the host gave no memory" in str(first.receipt.failure)
    assert first.result() == cold(ids, 4)
    second = engine.submit(ids, max_new_tokens=4)
    assert second.receipt.action == step  # a failure is not held against the next one
    assert len(second.result()) == 4
    assert claim.status.state is ClaimState.MATERIALIZED
    assert engine.rows.borrowed_blocks == engine.rows.host.used_bytes == 0
    assert_consistent(engine)


def test_faults_that_nobody_passes_do_nothing_and_can_be_taken_back() -> None:
    scene = Scene()
    for point in FaultPoint:
        scene.faults.arm(point)
    scene.faults.disarm()
    assert scene.ask().result() == cold(OTHER, 4)
    assert scene.ask([*PREFIX, 7]).result() == cold([*PREFIX, 7], 4)
    assert not scene.faults.happened
    with pytest.raises(UsageError, match="'fire' is no fault"):
        scene.faults.arm("fire")
    with pytest.raises(UsageError, match="-1 passes from now"):
        scene.faults.arm("save", after=-1)
    scene.check()


# --- pausing --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("point", ["corrupt", "lose", "load"])
@pytest.mark.parametrize(("steps", "rows", "kept"), [(0, 0, False), (1, 8, False), (3, 22, False), (3, 22, True)])
def test_a_paused_request_whose_rows_cannot_come_back_computes_them_again_and_says_how_many(
    point: str, steps: int, rows: int, kept: bool
) -> None:
    faults = TransferFaults()
    engine, ids = make_engine(host_blocks=24, faults=faults), some_ids(21)
    request = engine.submit(ids, max_new_tokens=6, keep_for_reuse=kept)
    for _ in range(steps):
        engine.step()
    if point != "load":
        faults.arm(point)
    engine.pause(request.request_id)
    if point == "load":
        faults.arm(point)
    assert request.result() == cold(ids, 6)
    assert request.receipt.tokens is not None
    lost = sum(faults.happened.values()) > 0
    again = rows - 20 if kept else rows  # five full blocks are in the cache still
    assert request.receipt.tokens.recomputed_tokens == (again if lost else 0)
    assert lost == (steps > 0)
    assert engine.rows.host.used_bytes == 0
    assert_consistent(engine)


def test_pausing_changes_nothing_where_the_host_has_no_room_or_a_copy_fails() -> None:
    faults = TransferFaults()
    engine, ids = make_engine(host_blocks=5, faults=faults), some_ids(21)
    request = engine.submit(ids, max_new_tokens=6)
    while not request.token_ids:
        engine.step()
    with pytest.raises(HostTierFullError, match="needs 6 host blocks and 5 of 5 are free"):
        engine.pause(request.request_id)
    request.cancel()
    request = engine.submit(ids[:9], max_new_tokens=6)
    while not request.token_ids:
        engine.step()
    for after in range(3):
        faults.arm("save", after=after)
        with pytest.raises(TransferError, match="failed at save"):
            engine.pause(request.request_id)
        assert (request.state, engine.rows.host.used_bytes) == (RequestState.RUNNING, 0)
    assert request.result() == cold(ids[:9], 6)
    assert_consistent(engine)


@pytest.mark.parametrize("point", ["save", "load", "corrupt", "lose"])
@pytest.mark.parametrize("after", [0, 2, 5])
def test_a_fault_of_a_paused_request_touches_no_claim_and_no_other_request(point: str, after: int) -> None:
    scene = Scene()
    beside = scene.engine.submit([*BYSTANDER, 9], max_new_tokens=8, keep_for_reuse=False)
    request = scene.engine.submit(some_ids(7, seed=4), max_new_tokens=4, keep_for_reuse=False)
    while len(request.token_ids) < 2:
        scene.engine.step()
    scene.faults.arm(point, after=after)
    try:
        scene.engine.pause(request.request_id)
    except TransferError:
        assert request.state is RequestState.RUNNING
    assert_consistent(scene.engine)
    scene.engine.run()
    assert request.result() == cold(some_ids(7, seed=4), 4)
    assert beside.result() == cold([*BYSTANDER, 9], 8)
    assert scene.claim.status.state is ClaimState.MATERIALIZED
    assert EventType.REQUEST_FAILED not in requests_said(scene.engine, request)
    scene.faults.disarm()
    scene.check()


# --- forwards and listeners --------------------------------------------------------------------------------------------


@contextmanager
def raising_on(token: int) -> Iterator[None]:
    """A forward that reads this token raises."""

    def refuse(_module: Any, _arguments: Any, options: dict[str, Any]) -> None:
        if bool((options["input_ids"] == token).any()):
            raise RuntimeError(f"the kernel fell over token {token}")

    hook = MODEL.register_forward_pre_hook(refuse, with_kwargs=True)
    try:
        yield
    finally:
        hook.remove()


@pytest.mark.parametrize("when", ["prompt", "decoding"])
def test_a_forward_that_raises_fails_its_own_request_and_no_other(when: str) -> None:
    engine = make_engine()
    bad = some_ids(10)
    fatal = 0 if when == "prompt" else cold(bad, 8)[3]
    bad = [*bad[:-1], 0] if when == "prompt" else bad
    good = next(ids for seed in range(1, 99) if fatal not in [*(ids := some_ids(10, seed=seed)), *cold(ids, 8)])
    failing = engine.submit(bad, max_new_tokens=8, keep_for_reuse=False)
    fine = engine.submit(good, max_new_tokens=8, keep_for_reuse=False)
    with raising_on(fatal):
        engine.run()
    assert failing.state is RequestState.FAILED
    with pytest.raises(RequestFailedError, match=f"the kernel fell over token {fatal}"):
        failing.result()
    assert failing.token_ids == ([] if when == "prompt" else cold(bad, 8)[:4])
    assert fine.result() == cold(good, 8)
    assert_consistent(engine)
    assert engine.rows.frames.used_blocks == 0


def test_a_listener_that_raises_fails_its_own_request_and_no_other() -> None:
    engine = make_engine()

    def listen(_token: int) -> None:
        raise ValueError("the connection is gone")

    deaf = engine.submit(some_ids(10), max_new_tokens=4, keep_for_reuse=False, on_token=listen)
    fine = engine.submit(some_ids(10, seed=1), max_new_tokens=4, keep_for_reuse=False)
    engine.run()
    assert deaf.state is RequestState.FAILED
    assert deaf.receipt.reason == "ValueError: the connection is gone"
    assert fine.result() == cold(some_ids(10, seed=1), 4)
    assert_consistent(engine)
    assert engine.rows.frames.used_blocks == 0


@pytest.mark.parametrize("at", [1, 4])
def test_an_interrupt_while_a_token_is_told_costs_no_token_and_repeats_none(at: int) -> None:
    engine, heard = make_engine(), []

    def listen(token: int) -> None:
        heard.append(token)
        if len(heard) == at:
            raise KeyboardInterrupt

    request = engine.submit(some_ids(10), max_new_tokens=4, on_token=listen)
    with pytest.raises(KeyboardInterrupt):
        engine.run()
    assert request.result() == heard == cold(some_ids(10), 4)


def test_a_request_that_a_listener_pauses_and_that_comes_back_without_its_rows_at_once_reads_them_first() -> None:
    faults = TransferFaults()
    engine, ids = make_engine(faults=faults), some_ids(10)

    def listen(_token: int) -> None:
        if len(request.token_ids) == 2:
            faults.arm("lose")
            engine.pause(request.request_id)
            engine.plane.retry()

    request = engine.submit(ids, max_new_tokens=5, keep_for_reuse=False, on_token=listen)
    beside = engine.submit(some_ids(9, seed=1), max_new_tokens=6, keep_for_reuse=False)
    assert request.result() == cold(ids, 5)
    assert faults.happened[FaultPoint.LOSE] == 1
    assert beside.result() == cold(some_ids(9, seed=1), 6)
    assert_consistent(engine)
