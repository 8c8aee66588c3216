"""Requests of the engine: streamed fairly, in order of priority, bounded in number, and ended cleanly wherever they are."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from engine_kit import MODEL, cold, make_engine
from session_kit import some_ids
from tenure.arbiter.rules import action_policy
from tenure.claims.modes import Outcome
from tenure.errors import QueueFullError, UsageError
from tenure.runtime.hf.engine import Engine, Request, RequestRefusedError, RequestState
from tenure.runtime.hf.sampling import Sampling


def assert_nothing_is_held(engine: Engine) -> None:
    engine.check_invariants()
    assert engine.rows.frames.used_blocks == 0
    assert engine.plane.ledger.free_blocks == engine.rows.frames.usable_blocks
    assert engine.rows.tier.free_blocks == engine.rows.tier.usable_blocks
    assert engine.rows.host.used_bytes == engine.rows.borrowed_blocks == 0
    assert not engine.requests
    assert not engine.computer.answers
    assert not engine.plane.waiting
    assert engine.sink.faults == []  # type: ignore[attr-defined]


# --- streaming ----------------------------------------------------------------------------------------------------


def test_several_callers_read_one_request_and_all_see_the_same_tokens() -> None:
    request = make_engine().submit(some_ids(10), max_new_tokens=8)
    first, second = request.tokens(), request.tokens()
    heard = [next(first), next(first), next(second), next(first)]
    assert [heard[0], heard[1], heard[3]] == cold(some_ids(10), 8)[:3]
    assert heard[2] == heard[0]
    assert list(second) == cold(some_ids(10), 8)[1:]
    assert list(first) == cold(some_ids(10), 8)[3:]
    assert request.result() == cold(some_ids(10), 8)


def test_reading_one_request_brings_the_others_on() -> None:
    engine = make_engine()
    one, two = (engine.submit(some_ids(9, seed=seed), max_new_tokens=6) for seed in (1, 2))
    assert one.result() == cold(some_ids(9, seed=1), 6)
    assert len(two.token_ids) >= 4
    assert two.result() == cold(some_ids(9, seed=2), 6)


def test_times_are_those_of_the_engines_clock() -> None:
    engine = make_engine()
    engine.clock.now_s = 5.0  # type: ignore[attr-defined]
    request = engine.submit(some_ids(5), max_new_tokens=2)
    assert (request.submitted_s, request.admitted_s, request.first_token_s, request.ttft_s) == (5.0, 5.0, None, None)
    engine.clock.now_s = 7.5  # type: ignore[attr-defined]
    request.result()
    assert (request.first_token_s, request.ttft_s, request.ended_s) == (7.5, 2.5, 7.5)


# --- fairness -----------------------------------------------------------------------------------------------------


def test_a_long_prompt_holds_up_nobodys_next_token() -> None:
    engine, told = make_engine(usable_blocks=48), []
    short = engine.submit(some_ids(4), max_new_tokens=12, on_token=lambda _: told.append("short"))
    engine.step()
    long = engine.submit(some_ids(80, seed=1), max_new_tokens=3, on_token=lambda _: told.append("long"))
    engine.run()
    assert told.index("long") >= 10  # ten parts of the long prompt, and a token of the short one after each
    assert short.result() == cold(some_ids(4), 12)
    assert long.result() == cold(some_ids(80, seed=1), 3)


def test_a_prompt_of_low_priority_is_read_however_many_important_ones_come() -> None:
    engine = make_engine(usable_blocks=200)
    humble = engine.submit(some_ids(40), max_new_tokens=1, priority=-1)
    for seed in range(1, 40):  # an important prompt of one part for each step
        engine.submit(some_ids(8, seed=seed), max_new_tokens=1, priority=5)
        engine.step()
    assert humble.state is RequestState.DONE
    engine.run()


def test_of_two_prompts_the_more_important_is_read_first() -> None:
    engine, told = make_engine(usable_blocks=48), []
    for name, priority in (("low", 0), ("high", 1)):
        ids = some_ids(40, seed=priority)
        engine.submit(ids, max_new_tokens=1, priority=priority, on_token=lambda _, name=name: told.append(name))
    engine.run()
    assert told == ["high", "low"]


def test_of_those_that_wait_the_most_important_comes_in_first_and_equals_in_their_order() -> None:
    engine, begun = make_engine(), []
    busy = engine.submit(some_ids(80), max_new_tokens=16)
    assert busy.state is RequestState.RUNNING
    for name, priority in (("a", 0), ("b", 3), ("c", 3), ("d", 1)):
        ids = some_ids(60, seed=ord(name))
        listen = lambda _, name=name: begun.append(name)
        engine.submit(ids, request_id=name, max_new_tokens=1, priority=priority, on_token=listen)
    assert [request.state for request in engine.requests[1:]] == [RequestState.WAITING] * 4
    engine.run()
    assert begun == ["b", "c", "d", "a"]


# --- the queue ----------------------------------------------------------------------------------------------------


def test_a_full_queue_refuses_one_more_and_nothing_has_changed() -> None:
    engine = make_engine(max_waiting=1)
    engine.submit(some_ids(80), max_new_tokens=16)
    engine.submit(some_ids(80, seed=1), max_new_tokens=16)
    before = (engine.requests, len(engine.sink.events), engine.rows.frames.used_blocks)  # type: ignore[attr-defined]
    with pytest.raises(QueueFullError, match=r"1 requests wait already \(max_waiting\)"):
        engine.submit(some_ids(5), request_id="late")
    with pytest.raises(QueueFullError):
        engine.park(some_ids(8), claim_id="parked")
    assert before == (engine.requests, len(engine.sink.events), engine.rows.frames.used_blocks)  # type: ignore[attr-defined]
    assert not list(engine.plane.registry.live())
    engine.run()
    assert engine.submit(some_ids(5), request_id="late", max_new_tokens=2).result() == cold(some_ids(5), 2)


def test_a_queue_of_no_length_is_an_error_of_the_operator() -> None:
    with pytest.raises(UsageError, match="max_waiting=0 must be 1 or more each"):
        make_engine(max_waiting=0)


# --- cancelling ---------------------------------------------------------------------------------------------------

Reach = Callable[[Engine], Request]


def _waiting(engine: Engine) -> Request:
    engine.submit(some_ids(80), max_new_tokens=16, request_id="busy", keep_for_reuse=False)
    return engine.submit(some_ids(80, seed=1), max_new_tokens=16, keep_for_reuse=False)


def _before_the_first_part(engine: Engine) -> Request:
    return engine.submit(some_ids(40), max_new_tokens=8, keep_for_reuse=False)


def _in_the_prompt(engine: Engine) -> Request:
    request = _before_the_first_part(engine)
    engine.step()
    assert engine.computer.answers[request.request_id].runner.unread  # type: ignore[union-attr]
    return request


def _decoding(engine: Engine) -> Request:
    request = _before_the_first_part(engine)
    while len(request.token_ids) < 3:
        engine.step()
    return request


def _paused(engine: Engine) -> Request:
    request = _decoding(engine)
    engine.pause(request.request_id)
    assert request.state is RequestState.WAITING
    return request


def _paused_in_the_prompt(engine: Engine) -> Request:
    request = _in_the_prompt(engine)
    engine.pause(request.request_id)
    return request


def _bounded(steps: int) -> Reach:
    def reach(engine: Engine) -> Request:
        request = engine.submit(some_ids(100), max_new_tokens=8)
        assert request.receipt.outcome is Outcome.BOUNDED
        for _ in range(steps):
            engine.step()
        assert not request.state.is_over
        return request

    return reach


POINTS: dict[str, tuple[Reach, str]] = {
    "waiting": (_waiting, "defer 30s, refuse"),
    "before the first part": (_before_the_first_part, "refuse"),
    "in the prompt": (_in_the_prompt, "refuse"),
    "decoding": (_decoding, "refuse"),
    "paused": (_paused, "defer 30s, refuse"),
    "paused in the prompt": (_paused_in_the_prompt, "defer 30s, refuse"),
    "recall, in the prompt": (_bounded(3), "bound_active_live, refuse"),
    "recall, decoding": (_bounded(18), "bound_active_live, refuse"),
    "streamed, in the prompt": (_bounded(2), "offload_active, refuse"),
    "streamed, decoding": (_bounded(18), "offload_active, refuse"),
    "recomputed": (_bounded(2), "recompute_split, refuse"),
}


@pytest.mark.parametrize("point", POINTS)
def test_a_request_can_be_cancelled_wherever_it_is_and_everything_is_returned(point: str) -> None:
    reach, line = POINTS[point]
    engine = make_engine(host_blocks=64, policy=action_policy({"active": line}))
    request = reach(engine)
    receipt = request.cancel()
    assert (receipt.outcome, receipt.reason) == (Outcome.FAILED, "cancelled")
    assert request.state is RequestState.CANCELLED
    assert request.receipt is receipt
    with pytest.raises(UsageError, match="is over: it was cancelled; only a request that waits or runs"):
        request.cancel()
    with pytest.raises(UsageError, match=f"was cancelled; it has {len(request.token_ids)} tokens"):
        request.result()
    if point == "waiting":
        engine.cancel("busy")
    assert_nothing_is_held(engine)


@pytest.mark.parametrize("at", [1, 3, 6])
def test_a_request_can_be_cancelled_by_whoever_hears_its_token(at: int) -> None:
    engine, heard = make_engine(), []

    def listen(token: int) -> None:
        heard.append(token)
        if len(heard) == at:
            engine.cancel("loud")

    engine.submit(some_ids(10), request_id="loud", max_new_tokens=6, keep_for_reuse=False, on_token=listen)
    other = engine.submit(some_ids(10, seed=1), max_new_tokens=6, keep_for_reuse=False)
    engine.run()
    assert heard == cold(some_ids(10), 6)[:at]
    assert other.result() == cold(some_ids(10, seed=1), 6)
    assert_nothing_is_held(engine)


@pytest.mark.parametrize("order", [("killer", "victim"), ("victim", "killer")])
def test_whoever_hears_a_token_may_cancel_another_request(order: tuple[str, str]) -> None:
    engine = make_engine()

    def listen(_token: int) -> None:
        if engine.requests and "victim" in [request.request_id for request in engine.requests]:
            engine.cancel("victim")

    for name in order:
        listener = listen if name == "killer" else None
        engine.submit(some_ids(4), request_id=name, max_new_tokens=4, keep_for_reuse=False, on_token=listener)
    [killer] = [request for request in engine.requests if request.request_id == "killer"]
    assert killer.result() == cold(some_ids(4), 4)
    assert_nothing_is_held(engine)


@pytest.mark.parametrize("at", [1, 2, 5])
def test_a_request_can_be_paused_by_whoever_hears_its_token_and_no_token_comes_twice(at: int) -> None:
    engine, heard = make_engine(host_blocks=24), []

    def listen(token: int) -> None:
        heard.append(token)
        if len(heard) == at:
            engine.pause("loud")

    request = engine.submit(some_ids(10), request_id="loud", max_new_tokens=5, on_token=listen)
    assert request.result() == heard == cold(some_ids(10), 5)


def test_a_room_that_a_cancelled_request_leaves_is_given_to_the_next() -> None:
    engine = make_engine()
    busy = engine.submit(some_ids(80), max_new_tokens=16)
    next_one = engine.submit(some_ids(60, seed=1), max_new_tokens=2)
    busy.cancel()
    assert next_one.state is RequestState.RUNNING


# --- what is refused ------------------------------------------------------------------------------------------------


def test_unknown_requests_have_no_receipt_and_cannot_be_ended() -> None:
    engine = make_engine()
    for call in (engine.receipt, engine.cancel, engine.pause):
        with pytest.raises(UsageError, match="nobody"):
            call("nobody")


@pytest.mark.parametrize(
    ("prompt", "options", "message"),
    [
        ([], {}, "empty"),
        ([1, 2, 128], {}, "128 is no token id"),
        ([1, -1], {}, "-1 is no token id"),
        ("text", {}, "no tokenizer"),
        ([1, 2], {"max_new_tokens": -1}, "max_new_tokens is -1"),
        ([1, 2], {"adapter_id": "nobody"}, "'nobody' is not known"),
        ([1, 2], {"request_id": "used"}, "'used' was used before"),
        ([1, 2], {"request_id": "over"}, "'over' was used before"),
        ([1, 2], {"request_id": "claimed"}, "'claimed' is the id of a claim"),
    ],
)
def test_what_cannot_be_asked_is_an_error_and_changes_nothing(prompt: Any, options: Any, message: str) -> None:
    engine = make_engine()
    engine.submit(some_ids(4), request_id="over", max_new_tokens=1).result()
    engine.claim(some_ids(8, seed=4), claim_id="claimed")
    engine.submit(some_ids(4), request_id="used", max_new_tokens=2)
    before = (engine.requests, len(engine.sink.events), engine.plane.ledger.free_blocks)  # type: ignore[attr-defined]
    with pytest.raises(UsageError, match=message):
        engine.submit(prompt, **options)
    assert before == (engine.requests, len(engine.sink.events), engine.plane.ledger.free_blocks)  # type: ignore[attr-defined]
    engine.run()


def test_names_that_callers_chose_are_not_given_to_others() -> None:
    engine = make_engine()
    engine.submit(some_ids(4), request_id="request-1", max_new_tokens=1)
    assert engine.submit(some_ids(4), max_new_tokens=1).request_id != "request-1"
    engine.claim(some_ids(8), claim_id="claim-3")
    claims = [engine.claim(some_ids(8, seed=seed)) for seed in (1, 2, 3)]
    assert len({"claim-3", *(claim.claim_id for claim in claims)}) == 4
    assert all(claim.receipt.accepted for claim in claims)
    engine.run()


def test_a_request_that_can_never_fit_is_refused_at_once_with_the_numbers() -> None:
    engine = make_engine(policy=action_policy({"active": "defer 30s, refuse"}))
    request = engine.submit(some_ids(90), max_new_tokens=8, may_be_bounded=False)
    assert request.state is RequestState.REFUSED
    with pytest.raises(RequestRefusedError, match=r"request_exceeds_usable_blocks.*asked for 25 blocks") as caught:
        request.result()
    assert caught.value.receipt is request.receipt
    assert request.receipt.numbers is not None
    assert request.receipt.numbers.usable_blocks == 24
    assert_nothing_is_held(engine)


def test_a_shutdown_ends_what_runs_and_what_waits_and_takes_nothing_on() -> None:
    engine = make_engine()
    running = engine.submit(some_ids(80), max_new_tokens=16, keep_for_reuse=False)
    waiting = engine.submit(some_ids(80, seed=1), max_new_tokens=16, keep_for_reuse=False)
    engine.step()
    engine.shutdown()
    assert (running.state, waiting.state) == (RequestState.FAILED, RequestState.FAILED)
    with pytest.raises(UsageError, match="shut down"):
        engine.submit(some_ids(4))
    engine.run()
    assert_nothing_is_held(engine)


# --- what is answered -----------------------------------------------------------------------------------------------


def test_a_seed_makes_sampling_reproducible_whoever_runs_beside_it() -> None:
    def sampled(seed: int, *, beside: bool) -> list[int]:
        engine = make_engine()
        if beside:
            engine.submit(some_ids(7, seed=3), max_new_tokens=6, sampling=Sampling(temperature=1.0), seed=9)
        sampling = Sampling(temperature=1.5, top_p=0.9)
        return engine.submit(some_ids(10), max_new_tokens=12, sampling=sampling, seed=seed).result()

    assert sampled(1, beside=False) == sampled(1, beside=True)
    assert len({tuple(sampled(seed, beside=False)) for seed in range(4)}) > 1


def test_a_stop_id_ends_the_answer_and_is_not_part_of_it() -> None:
    whole = cold(some_ids(10), 8)
    stop = next(token for index, token in enumerate(whole) if index >= 2 and token not in whole[:index])
    engine = make_engine()
    request = engine.submit(some_ids(10), max_new_tokens=8, stop_ids=[stop], keep_for_reuse=False)
    assert request.result() == whole[: whole.index(stop)]
    assert request.receipt.outcome is Outcome.SERVED
    assert_nothing_is_held(engine)


def test_no_new_tokens_only_reads_the_prompt_so_that_others_may_use_it() -> None:
    engine = make_engine()
    for _ in range(2):  # the second finds all of it
        assert engine.submit(some_ids(16), max_new_tokens=0).result() == []
    request = engine.submit(some_ids(16), max_new_tokens=4)
    assert request.result() == cold(some_ids(16), 4)
    assert request.receipt.to_record()["tokens"]["reused_tokens"] == 16  # type: ignore[index]


def test_a_request_of_one_token_in_one_row_is_answered() -> None:
    assert make_engine(usable_blocks=1).submit([5], max_new_tokens=3).result() == cold([5], 3)
    assert torch.isfinite(MODEL(torch.tensor([[5]])).logits).all()
