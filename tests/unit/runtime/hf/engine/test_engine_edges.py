"""One bad request stops nobody else: odd input, hooks and adapters that raise, lines that must move on."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from engine_kit import assert_consistent, cold, make_engine
from session_kit import some_ids
from tenure.arbiter.decision import Route
from tenure.arbiter.rules import action_policy
from tenure.claims.modes import Outcome
from tenure.claims.receipts import NextStep
from tenure.errors import ClaimError, InternalError, PoolSizeError, UsageError
from tenure.runtime.hf.engine import RequestState
from tenure.runtime.hf.engine.line import OVERTAKERS
from tenure.runtime.hf.engine.runners import StreamedRunner
from tenure.runtime.hf.sampling import Sampling
from tenure.runtime.hf.session_values import ContextLimitWarning


@contextlib.contextmanager
def an_adapter_that_raises() -> Iterator[None]:
    raise RuntimeError("no such weights")
    yield


def test_logits_that_are_no_numbers_fail_their_own_request_only() -> None:
    engine = make_engine()
    good = engine.submit(some_ids(6), max_new_tokens=5)
    bad = engine.submit(some_ids(7, seed=1), max_new_tokens=5, sampling=Sampling(temperature=1.0))
    while not (good.token_ids and bad.token_ids):
        engine.step()
    runner = engine.computer.answers[bad.request_id].runner
    runner.logits = torch.full_like(runner.logits, float("nan"))  # type: ignore[union-attr, misc, arg-type]
    assert good.result() == cold(some_ids(6), 5)
    assert bad.state is RequestState.FAILED
    assert_consistent(engine)


def test_an_adapter_that_raises_fails_its_own_requests_only() -> None:
    engine = make_engine(adapters={"broken": an_adapter_that_raises})
    good = engine.submit(some_ids(6), max_new_tokens=3)
    bad = engine.submit(some_ids(6), max_new_tokens=3, adapter_id="broken")
    assert good.result() == cold(some_ids(6), 3)
    assert bad.state is RequestState.FAILED
    assert "no such weights" in bad.receipt.reason


def test_an_adapter_that_raises_while_decoding_fails_its_own_requests_only() -> None:
    armed: list[bool] = []

    @contextlib.contextmanager
    def later() -> Iterator[None]:
        if armed:
            raise RuntimeError("unloaded")
        yield

    engine = make_engine(adapters={"later": later})
    bad = engine.submit(some_ids(6), max_new_tokens=9, adapter_id="later")
    while not bad.token_ids:
        engine.step()
    armed.append(True)
    good = engine.submit(some_ids(6), max_new_tokens=3)
    assert good.result() == cold(some_ids(6), 3)
    assert bad.state is RequestState.FAILED


WRONG: list[tuple[dict[str, Any], str]] = [
    ({"prompt": {"input_ids": [1, 2]}}, "pass its input_ids"),
    ({"prompt": None}, "is no list of token ids"),
    ({"prompt": 7}, "is no list of token ids"),
    ({"prompt": torch.tensor([[1, 2]])}, "one flat list"),
    ({"prompt": [1.5, 2.0]}, "is no token id"),
    ({"max_new_tokens": 1.5}, "max_new_tokens is 1.5"),
    ({"max_new_tokens": -1}, "max_new_tokens is -1"),
    ({"seed": "x"}, "seed is 'x'"),
    ({"priority": "high"}, "priority is 'high'"),
    ({"sampling": None}, "sampling is None"),
    ({"request_id": 5}, "request_id is 5"),
    ({"stop_ids": 5}, "int is no list of token ids"),
]


@pytest.mark.parametrize(("wrong", "says"), WRONG, ids=[says for _, says in WRONG])
def test_odd_input_is_one_clear_error_and_changes_nothing(wrong: dict[str, Any], says: str) -> None:
    engine = make_engine()
    before = len(engine.sink.events)  # type: ignore[attr-defined]
    with pytest.raises(UsageError, match=says):
        engine.submit(**{"prompt": some_ids(5), **wrong})
    assert len(engine.sink.events) == before  # type: ignore[attr-defined]
    assert engine.submit(some_ids(5), max_new_tokens=2).result() == cold(some_ids(5), 2)


@pytest.mark.parametrize("wrong", [{"footprint_blocks": "3"}, {"footprint_blocks": -1}, {"required_blocks": 1.0}])
def test_odd_numbers_of_a_claim_name_their_field(wrong: dict[str, Any]) -> None:
    with pytest.raises(ClaimError, match=next(iter(wrong))):
        make_engine().claim(some_ids(12), **wrong)


@pytest.mark.parametrize("fallback", ["offloadable", "routed_reuse"])
def test_a_fallback_that_cannot_be_kept_is_refused_as_the_mode_would_be(fallback: str) -> None:
    with pytest.raises(ClaimError, match=fallback):
        make_engine().claim(some_ids(12), fallback_mode=fallback)


def test_a_request_that_can_never_fit_is_told_to_come_back_smaller() -> None:
    engine = make_engine(usable_blocks=4)
    receipt = engine.submit(some_ids(60), max_new_tokens=1).receipt
    assert receipt.outcome is Outcome.REFUSED
    assert receipt.next_step is NextStep.RESUBMIT_SMALLER


def test_a_request_beyond_what_the_model_was_trained_on_is_announced_once() -> None:
    engine = make_engine()
    with pytest.warns(ContextLimitWarning, match="may grow to 9005 tokens"):
        engine.submit(some_ids(5), max_new_tokens=9000)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        engine.submit(some_ids(5), max_new_tokens=9000)


def test_a_hook_that_raises_does_not_undo_a_route(caplog: pytest.LogCaptureFixture) -> None:
    def broken(_request: Any, _route: Any) -> None:
        raise RuntimeError("the router is down")

    engine = make_engine(
        usable_blocks=8,
        router=lambda _terms: [Route(target="w", cost=1.0)],
        on_route=broken,
        policy=action_policy({"hard_protected": "defer 5s, route_elsewhere, refuse"}),
    )
    engine.park(some_ids(24))[1].result()
    waiting = [engine.submit(some_ids(20, seed=seed), max_new_tokens=1) for seed in (1, 2)]
    engine.clock.now_s = 6.0  # type: ignore[attr-defined]
    engine.run()
    assert [request.state for request in waiting] == [RequestState.ROUTED] * 2
    assert {request.receipt.route_target for request in waiting} == {"w"}
    assert "the router is down" in caplog.text


def test_no_memory_to_bring_blocks_together_fails_the_request_and_gives_everything_back(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    engine = make_engine(usable_blocks=8)

    def full(_ids: Any) -> None:
        raise PoolSizeError("the device gave no memory")

    with monkeypatch.context() as patch:
        patch.setattr(engine.rows.frames, "open_run", full)
        request = engine.submit(some_ids(10), max_new_tokens=2, request_id="q")
    assert request.state is RequestState.FAILED
    assert_consistent(engine)
    assert engine.submit(some_ids(10), max_new_tokens=2).result() == cold(some_ids(10), 2)


def test_hundreds_of_requests_that_cannot_begin_all_fail(monkeypatch: pytest.MonkeyPatch) -> None:
    engine = make_engine(usable_blocks=4, max_waiting=2000, policy=action_policy(max_deferred_requests=2000))
    first = engine.submit(some_ids(12), max_new_tokens=4)
    others = [engine.submit(some_ids(12, seed=seed), max_new_tokens=4) for seed in range(1, 700)]

    def broken(*_arguments: Any) -> None:
        raise RuntimeError("cannot begin")

    monkeypatch.setattr(engine.computer, "_runner", broken)
    first.cancel()
    engine.run()
    assert {request.state for request in others} == {RequestState.FAILED}


def test_streamed_rows_that_were_altered_on_the_host_fail_the_request() -> None:
    engine = make_engine(
        usable_blocks=16, host_blocks=40, policy=action_policy({"hard_protected": "offload_active, refuse"})
    )
    engine.park(some_ids(40))[1].result()
    request = engine.submit(some_ids(50, seed=1), max_new_tokens=6)
    assert request.receipt.outcome is Outcome.BOUNDED
    while not request.token_ids:
        engine.step()
    runner = engine.computer.answers[request.request_id].runner
    assert isinstance(runner, StreamedRunner)
    runner._streamed.full_blocks[0].buffer[0] += 1
    engine.run()
    assert request.state is RequestState.FAILED
    assert "RowsLostError" in request.receipt.reason


def test_a_parked_prefix_is_never_read_in_an_arena_that_leaves_nothing_behind() -> None:
    engine = make_engine(usable_blocks=16, host_blocks=40, policy=action_policy({"active": "offload_active, refuse"}))
    busy = engine.submit(some_ids(40), max_new_tokens=3)
    _, reading = engine.park(some_ids(24, seed=1))
    bounded = engine.submit(some_ids(24, seed=2), max_new_tokens=1)
    assert bounded.receipt.outcome is Outcome.BOUNDED
    engine.run()
    assert busy.state is RequestState.DONE
    assert reading.receipt.outcome is not Outcome.BOUNDED


def test_a_park_that_fails_keeps_no_claim() -> None:
    def broken(_terms: Any) -> Any:
        raise RuntimeError("no router")

    engine = make_engine(router=broken)
    with pytest.raises(RuntimeError, match="no router"):
        engine.park(some_ids(12), claim_id="c")
    assert engine.claim_receipts("c")[-1].outcome is Outcome.RELEASED


def test_a_claim_on_a_request_is_under_its_salt_and_adapter() -> None:
    engine = make_engine()
    request = engine.submit(some_ids(12), max_new_tokens=1, salt="b", adapter_id="louder")
    request.result()
    claim = engine.claim(request)
    assert claim.claim.cache_identity == engine.cache_identity("b", "louder")
    assert claim.status.surviving_required_blocks == 3
    with pytest.raises(UsageError, match="ran under salt 'b'"):
        engine.claim(request, salt="a")


def test_receipts_of_a_live_claim_are_never_forgotten_and_never_pile_up() -> None:
    engine = make_engine()
    claim = engine.claim(some_ids(8))
    for number in range(70):
        engine._records.note(SimpleNamespace(claim_id=claim.claim_id, number=number))  # type: ignore[arg-type]
    assert len(claim.receipts) == 64
    assert claim.receipts[0].outcome is Outcome.ACCEPTED
    for number in range(4200):
        engine._records.note(SimpleNamespace(claim_id=f"rejected-{number}"))  # type: ignore[arg-type]
    assert claim.receipts[0].outcome is Outcome.ACCEPTED


def test_a_request_that_waits_is_overtaken_a_bounded_number_of_times() -> None:
    engine = make_engine(usable_blocks=8, policy=action_policy({"active": "defer 1000s, refuse"}))
    running = [engine.submit(some_ids(8, seed=90), max_new_tokens=3)]
    large = engine.submit(some_ids(26), max_new_tokens=1, priority=1)
    assert large.state is RequestState.WAITING
    passed = 0
    for seed in range(40):
        small = engine.submit(some_ids(8, seed=seed), max_new_tokens=3)
        passed += small.state is RequestState.RUNNING and large.state is RequestState.WAITING
        running.append(small)
        engine.step()
        engine.step()
    assert passed <= OVERTAKERS
    queued = [request for request in running if request.request_id in engine._line]
    assert all(request.receipt.reason == "queued_behind_waiting_requests" for request in queued)
    engine.run()
    assert large.state is RequestState.DONE
    assert {request.state for request in running} == {RequestState.DONE}


def test_one_who_stands_in_line_can_leave_it_and_is_told() -> None:
    engine = make_engine(usable_blocks=8, policy=action_policy({"active": "defer 1000s, refuse"}))
    engine.submit(some_ids(8, seed=90), max_new_tokens=12)
    large = engine.submit(some_ids(26), max_new_tokens=1)
    engine._line._overtaken[large.request_id] = OVERTAKERS
    small = engine.submit(some_ids(4), max_new_tokens=1)
    assert small.receipt.next_step is NextStep.WILL_BE_DECIDED_AGAIN
    with pytest.raises(UsageError, match="only one that runs"):
        engine.pause(small.request_id)
    assert small.cancel().reason == "cancelled"
    last = engine.submit(some_ids(4), max_new_tokens=1)
    engine.shutdown()
    assert (small.state, last.state) == (RequestState.CANCELLED, RequestState.FAILED)


def test_a_warning_that_is_an_error_leaves_no_request_behind() -> None:
    engine = make_engine()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(ContextLimitWarning):
            engine.submit(some_ids(5), max_new_tokens=9000)
    assert not engine.requests
    engine.run()


def test_a_claim_and_a_request_that_stands_in_line_never_share_an_id() -> None:
    engine = make_engine(usable_blocks=8, policy=action_policy({"active": "defer 1000s, refuse"}))
    engine.claim(some_ids(4), claim_id="c", mode="best_effort")
    engine.submit(some_ids(8, seed=90), max_new_tokens=12)
    large = engine.submit(some_ids(26), max_new_tokens=1)
    engine._line._overtaken[large.request_id] = OVERTAKERS
    engine.submit(some_ids(4), max_new_tokens=1, request_id="q")
    with pytest.raises(ClaimError, match="is the id of a request"):
        engine.claim(some_ids(8), claim_id="q")
    with pytest.raises(UsageError, match="is the id of a claim"):
        engine.submit(some_ids(4), request_id="c")


def test_one_who_is_let_out_of_the_line_and_cannot_be_sent_fails_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    engine = make_engine(usable_blocks=8, policy=action_policy({"active": "defer 1000s, refuse"}))
    engine.submit(some_ids(8, seed=90), max_new_tokens=3)
    large = engine.submit(some_ids(26), max_new_tokens=1)
    engine._line._overtaken[large.request_id] = OVERTAKERS
    queued = engine.submit(some_ids(4), max_new_tokens=1)

    def broken(_terms: Any) -> None:
        raise RuntimeError("not now")

    monkeypatch.setattr(engine.plane, "submit", broken)
    engine.run()
    assert large.state is RequestState.DONE
    assert (queued.state, queued.receipt.reason) == (RequestState.FAILED, "RuntimeError: not now")


def test_books_that_do_not_agree_are_noticed() -> None:
    engine = make_engine()
    engine.submit(some_ids(12), max_new_tokens=1).result()
    engine.check_invariants()
    engine.rows.frames.release([next(iter(engine.rows.frames.block_ids))])
    with pytest.raises(InternalError, match="are known and have no frame"):
        engine.check_invariants()
