"""Rows that are used again: the tokens of a cold run, never another tenant's, counted once, and taken in a stated order."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch

from engine_kit import BLOCK_SIZE, cold, make_engine, no_dead_row_is_read
from session_kit import some_ids
from tenure.arbiter.rules import ReuseAdmission, action_policy
from tenure.claims.event_types import EventType
from tenure.claims.modes import ClaimState, Outcome
from tenure.errors import ClaimError, UsageError
from tenure.runtime.hf.engine import Engine, Request, RequestState


def reused_tokens(request: Request) -> int:
    assert request.receipt.tokens is not None
    return request.receipt.tokens.reused_tokens


def cached_rows(engine: Engine, ids: list[int], **options: Any) -> list[tuple[torch.Tensor, ...]]:
    """The rows of the full blocks of a prefix that can be found, as they lie on the device."""
    claim = engine.claim(ids, mode="best_effort", **options)
    keys = [key for key in map(engine.plane._residency.store.find, _keys_of(claim.claim)) if key is not None]
    claim.release()
    return [engine.rows.frames.read_block(slot.block_id) for slot in keys]


def _keys_of(claim: Any) -> list[Any]:
    from tenure.claims.blocks import block_keys

    return list(block_keys(claim))


def evicted(engine: Engine) -> list[tuple[str, int]]:
    """What was taken from the cache, in order: whose block, and which of its blocks."""
    return [
        (str(event.prefix_id), event.fields["logical_block_position"])  # type: ignore[misc]
        for event in engine.sink.events  # type: ignore[attr-defined]
        if event.event_type is EventType.VICTIM_SELECTED and event.fields["victim_reason"] == "cached_prefix_reuse"
    ]


@pytest.fixture(autouse=True)
def _no_released_row_is_ever_read() -> Iterator[None]:
    with no_dead_row_is_read():
        yield


# --- reuse gives what a cold run gives ------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", [0, 1, 3, 4, 9])
def test_a_prefix_that_nobody_uses_is_adopted_in_place_and_gives_the_tokens_of_a_cold_run(suffix: int) -> None:
    engine, prefix = make_engine(), some_ids(16)
    engine.submit(prefix, max_new_tokens=0).result()
    ids = [*prefix, *some_ids(suffix, seed=5)]
    request = engine.submit(ids, max_new_tokens=8)
    assert engine.plane.work(request.request_id).copied_blocks == 0
    assert request.result() == cold(ids, 8)
    assert reused_tokens(request) == 16
    engine.check_invariants()


@pytest.mark.parametrize("suffix", [0, 1, 4, 9])
def test_a_prefix_that_a_running_request_uses_is_copied_and_both_give_the_tokens_of_a_cold_run(suffix: int) -> None:
    engine, prefix = make_engine(), some_ids(16)
    first = engine.submit([*prefix, 7], max_new_tokens=12)
    while not first.token_ids:
        engine.step()
    ids = [*prefix, *some_ids(suffix, seed=5)]
    second = engine.submit(ids, max_new_tokens=8)
    assert engine.plane.work(second.request_id).copied_blocks == 4
    assert second.result() == cold(ids, 8)
    assert first.result() == cold([*prefix, 7], 12)
    assert reused_tokens(second) == 16


def test_a_copy_outlives_the_request_that_it_was_taken_from() -> None:
    engine, prefix = make_engine(), some_ids(16)
    first = engine.submit([*prefix, 7], max_new_tokens=12)
    while not first.token_ids:
        engine.step()
    second = engine.submit([*prefix, 9], max_new_tokens=8)
    first.cancel()
    assert second.result() == cold([*prefix, 9], 8)


def test_a_prefix_partly_in_use_is_copied_where_it_is_and_adopted_where_it_is_not() -> None:
    engine, prefix = make_engine(usable_blocks=32), some_ids(24)
    engine.submit(prefix, max_new_tokens=0).result()
    busy = engine.submit([*prefix[:8], 3], max_new_tokens=12)
    request = engine.submit([*prefix, 5], max_new_tokens=6)
    assert engine.plane.work(request.request_id).copied_blocks == 2
    assert request.result() == cold([*prefix, 5], 6)
    assert busy.result() == cold([*prefix[:8], 3], 12)
    assert reused_tokens(request) == 24


def test_a_prompt_that_is_wholly_cached_is_answered_and_not_a_byte_of_it_changes() -> None:
    engine, prefix = make_engine(), some_ids(16)
    engine.submit(prefix, max_new_tokens=0).result()
    before = cached_rows(engine, prefix)
    request = engine.submit(prefix, max_new_tokens=5)
    assert request.result() == cold(prefix, 5)
    assert reused_tokens(request) == 16
    after = cached_rows(engine, prefix)
    assert len(before) == len(after) == 4
    assert all(
        torch.equal(*pair) for was, now in zip(before, after, strict=True) for pair in zip(was, now, strict=True)
    )


def test_what_a_request_generated_is_reused_in_the_next_turn() -> None:
    engine, ids = make_engine(), some_ids(10)
    answer = engine.submit(ids, max_new_tokens=11).result()
    turn = [*ids, *answer, *some_ids(3, seed=2)]
    request = engine.submit(turn, max_new_tokens=6)
    assert request.result() == cold(turn, 6)
    assert reused_tokens(request) == 20  # 10 + 11 rows, of which the last token's was never computed: five full blocks


def test_two_requests_that_read_the_same_prompt_at_once_leave_it_in_the_cache_once() -> None:
    engine, ids = make_engine(), some_ids(16)
    requests = [engine.submit(ids, max_new_tokens=3) for _ in range(2)]
    assert [request.result() for request in requests] == [cold(ids, 3)] * 2
    engine.check_invariants()
    assert engine.rows.frames.used_blocks == 4
    assert reused_tokens(engine.submit(ids, max_new_tokens=0)) == 16
    engine.run()


def test_sessions_in_one_batch_each_get_the_tokens_of_a_cold_run() -> None:
    engine, shared = make_engine(usable_blocks=48), some_ids(12)
    prompts = [[*shared, *some_ids(length, seed=length)] for length in (1, 4, 7)]
    prompts += [some_ids(length, seed=length) for length in (3, 8, 17)]
    engine.submit(shared, max_new_tokens=0).result()
    requests: list[Request] = []
    for prompt in prompts:
        requests.append(engine.submit(prompt, max_new_tokens=10))
        engine.step()
    engine.run()
    for request, prompt in zip(requests, prompts, strict=True):
        assert request.result() == cold(prompt, 10)
    engine.check_invariants()


def test_requests_whose_blocks_are_moved_while_they_decode_give_the_tokens_of_a_cold_run() -> None:
    engine = make_engine()
    prompts = [some_ids(12, seed=seed) for seed in range(4)]
    requests = [engine.submit(prompt, max_new_tokens=13, keep_for_reuse=False) for prompt in prompts]
    while not all(request.token_ids for request in requests):
        engine.step()
    runs = engine.rows._runs
    requests.sort(key=lambda request: runs[request.request_id].window.first_row)
    for request in requests[::2]:  # leaves two holes of six blocks
        request.cancel()
    wide = engine.submit(some_ids(40, seed=9), max_new_tokens=9)
    assert engine.rows.frames.moved_blocks > 0
    assert wide.result() == cold(some_ids(40, seed=9), 9)
    for request in requests[1::2]:
        assert request.result() == cold(list(request.prompt_ids), 13)


# --- what is never crossed ------------------------------------------------------------------------------------------


def test_another_salt_finds_nothing_and_computes_its_own() -> None:
    engine, ids = make_engine(), some_ids(16)
    ours = engine.submit(ids, max_new_tokens=4, salt="ours")
    ours.result()
    theirs = engine.submit(ids, max_new_tokens=4, salt="theirs")
    assert theirs.result() == cold(ids, 4)
    assert reused_tokens(theirs) == 0
    again = engine.submit(ids, max_new_tokens=4, salt="ours")
    assert again.result() == cold(ids, 4)
    assert reused_tokens(again) == 16


def test_rows_of_an_adapter_serve_no_other_and_each_gives_its_own_tokens() -> None:
    engine, ids = make_engine(usable_blocks=48), some_ids(16)
    names = [None, "louder", "softer"]
    answers = {name: cold(ids, 6, adapter_id=name) for name in names}
    assert len({tuple(answer) for answer in answers.values()}) == 3
    for reused in (0, 16):
        requests = {name: engine.submit(ids, max_new_tokens=6, adapter_id=name) for name in names}
        engine.run()
        for name, request in requests.items():
            assert request.result() == answers[name]
            assert reused_tokens(request) == reused


def test_a_claim_under_another_salt_does_not_protect_these_rows() -> None:
    engine, ids = make_engine(), some_ids(16)
    claim = engine.claim(ids, salt="theirs")
    engine.submit(ids, max_new_tokens=0, salt="ours").result()
    assert claim.status.state is ClaimState.ACCEPTED
    assert engine.plane.ledger.protected_blocks == 0
    engine.submit(ids, max_new_tokens=0, salt="theirs").result()
    assert engine.claim_status(claim.claim_id).state is ClaimState.MATERIALIZED


# --- claims count rows once -----------------------------------------------------------------------------------------


def test_rows_that_several_claims_cover_count_once_and_stay_until_the_last_ends() -> None:
    engine, ids = make_engine(), some_ids(32)
    whole, _ = engine.park(ids)
    part = engine.claim(ids[:16])
    engine.run()
    ledger = engine.plane.ledger
    assert ledger.protected_blocks == 8
    whole.release()
    assert ledger.protected_blocks == 4
    engine.submit(some_ids(80, seed=1), max_new_tokens=0).result()
    assert part.status.state is ClaimState.MATERIALIZED
    assert reused_tokens(engine.submit(ids[:16], max_new_tokens=0)) == 16
    engine.run()
    part.release()
    assert ledger.protected_blocks == 0


def test_a_request_on_a_claimed_prefix_needs_room_for_its_own_rows_only() -> None:
    engine, ids = make_engine(), some_ids(64)
    engine.park(ids)
    engine.run()
    first = engine.submit([*ids, 5], max_new_tokens=24)
    assert first.state is RequestState.RUNNING
    assert first.receipt.numbers is not None
    assert (first.receipt.numbers.requested_blocks, first.receipt.numbers.protected_blocks) == (22, 16)
    assert first.result() == cold([*ids, 5], 24)
    assert engine.plane.ledger.protected_blocks == 16


def test_a_finished_request_can_be_claimed_with_its_answer() -> None:
    engine, ids = make_engine(), some_ids(10)
    request = engine.submit(ids, max_new_tokens=7)
    request.result()
    claim = engine.claim(request)
    assert claim.claim.footprint_blocks == 4
    assert claim.status.state is ClaimState.MATERIALIZED
    assert engine.plane.ledger.protected_blocks == 4


# --- who is taken ---------------------------------------------------------------------------------------------------


def _park_three(engine: Engine) -> dict[str, list[int]]:
    prefixes = {name: some_ids(16, seed=seed) for seed, name in enumerate("abc")}
    for ids in prefixes.values():
        engine.submit(ids, max_new_tokens=0).result()
    return prefixes


def _held(engine: Engine, prefixes: dict[str, list[int]]) -> dict[str, int]:
    return {name: len(cached_rows(engine, ids)) for name, ids in prefixes.items()}


def test_the_longest_unused_goes_first_and_of_a_sequence_the_last_block() -> None:
    engine = make_engine(usable_blocks=12)
    prefixes = _park_three(engine)
    engine.submit(prefixes["a"], max_new_tokens=0).result()  # used again: b is now the longest unused
    assert engine.rows.frames.free_blocks == 0
    engine.submit(some_ids(24, seed=9), max_new_tokens=0, keep_for_reuse=False).result()
    assert _held(engine, prefixes) == {"a": 4, "b": 0, "c": 2}
    assert [position for _, position in evicted(engine)] == [3, 2, 1, 0, 3, 2]
    request = engine.submit([*prefixes["c"], 5], max_new_tokens=3)
    assert request.result() == cold([*prefixes["c"], 5], 3)
    assert reused_tokens(request) == 8


def test_free_blocks_are_taken_before_any_that_is_cached() -> None:
    engine = make_engine(usable_blocks=16)
    prefixes = _park_three(engine)
    engine.submit(some_ids(16, seed=9), max_new_tokens=0).result()
    assert evicted(engine) == []
    assert _held(engine, prefixes) == {"a": 4, "b": 4, "c": 4}


def test_a_claimed_prefix_is_never_taken_however_long_it_was_not_used() -> None:
    engine = make_engine(usable_blocks=12, policy=action_policy({"hard_protected": "refuse", "active": "refuse"}))
    prefixes = _park_three(engine)
    engine.claim(prefixes["a"])
    for seed in range(9, 15):
        assert engine.submit(some_ids(32, seed=seed), max_new_tokens=0).result() == []
    refused = engine.submit(some_ids(36, seed=20), max_new_tokens=0, may_be_bounded=False)
    assert refused.state is RequestState.REFUSED
    assert _held(engine, prefixes)["a"] == 4


def test_a_claim_that_reserves_nothing_is_taken_after_the_unclaimed_and_says_so() -> None:
    engine = make_engine(usable_blocks=12)
    prefixes = _park_three(engine)
    observed = engine.claim(prefixes["a"], mode="best_effort")
    soft = engine.claim(prefixes["b"], mode="soft_priority")
    engine.submit(some_ids(16, seed=9), max_new_tokens=0, keep_for_reuse=False).result()
    assert (observed.status.state, soft.status.state) == (ClaimState.MATERIALIZED, ClaimState.MATERIALIZED)
    engine.submit(some_ids(32, seed=8), max_new_tokens=0, keep_for_reuse=False).result()
    assert observed.receipt.outcome is Outcome.HARMED
    assert soft.status.state is ClaimState.MATERIALIZED
    engine.submit(some_ids(48, seed=7), max_new_tokens=0, keep_for_reuse=False).result()
    assert soft.receipt.outcome is Outcome.HARMED


# --- what is not kept -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("by", ["request", "policy"])
def test_rows_that_shall_not_be_kept_are_gone_when_the_request_ends_and_do_not_hurt_what_was_there(by: str) -> None:
    never = action_policy(reuse_admission=ReuseAdmission.NEVER)
    engine, ids = make_engine(), some_ids(16)
    engine.submit(ids, max_new_tokens=0).result()
    if by == "policy":
        engine.plane.policy = never
    longer = [*ids, *some_ids(12, seed=1)]
    request = engine.submit(longer, max_new_tokens=4, keep_for_reuse=by == "policy")
    assert request.result() == cold(longer, 4)
    assert reused_tokens(request) == 16
    assert engine.rows.frames.used_blocks == 4
    assert engine.plane.ledger.free_blocks == 20


def test_rows_are_kept_only_when_nobody_gave_way_if_the_policy_says_so() -> None:
    engine = make_engine(usable_blocks=8, policy=action_policy(reuse_admission=ReuseAdmission.IF_FREE))
    first, second = some_ids(20), some_ids(20, seed=1)
    engine.submit(first, max_new_tokens=0).result()
    engine.submit(second, max_new_tokens=0).result()
    assert len(cached_rows(engine, first)) == 3
    assert cached_rows(engine, second) == []


# --- claims that cannot be ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("ids", "options", "message"),
    [
        (some_ids(18), {"footprint_blocks": 5}, "asks for 5 blocks of a prefix that has 4 full blocks of 4 tokens"),
        (some_ids(3), {}, "a prefix that has 0 full blocks"),
        (some_ids(16), {"footprint_blocks": 0}, "footprint_blocks"),
        (some_ids(16), {"required_blocks": 5}, "4 blocks cannot hold the 5"),
        (some_ids(16), {"mode": "routed_reuse"}, "this runtime has none"),
        (some_ids(16), {"mode": "offloadable"}, "host_blocks is 0"),
        (some_ids(16), {"mode": "eternal"}, "'eternal' is no protection mode"),
        (some_ids(16), {"mode": "expiring"}, "duration_s"),
        (some_ids(16), {"claim_id": "ended"}, "'ended' is not available"),
        (some_ids(16), {"claim_id": "r"}, "'r' is the id of a request"),
        (some_ids(16), {"claim_id": "over"}, "'over' is the id of a request"),
    ],
)
def test_a_claim_that_cannot_be_is_an_error_and_changes_nothing(ids: Any, options: Any, message: str) -> None:
    engine = make_engine()
    engine.claim(some_ids(8, seed=3), claim_id="ended").release()
    engine.submit(some_ids(4), request_id="over", max_new_tokens=1).result()
    engine.submit(some_ids(8), request_id="r", max_new_tokens=2)
    before = (len(engine.sink.events), list(engine.plane.registry.live()), engine.requests)  # type: ignore[attr-defined]
    for call in (engine.claim, engine.park):
        with pytest.raises(ClaimError, match=message):
            call(ids, **options)
    assert before == (len(engine.sink.events), list(engine.plane.registry.live()), engine.requests)  # type: ignore[attr-defined]
    engine.run()


def test_a_request_under_way_cannot_be_claimed_and_nobody_releases_what_another_owns() -> None:
    engine = make_engine()
    request = engine.submit(some_ids(8), max_new_tokens=2)
    with pytest.raises(UsageError, match="is running, and its prefix still grows"):
        engine.claim(request)
    claim = engine.claim(some_ids(8), owner_scope="ours")
    with pytest.raises(ClaimError):
        engine.release(claim.claim_id, owner_scope="theirs")
    assert claim.status.state is ClaimState.ACCEPTED
    assert claim.release().outcome is Outcome.RELEASED
    with pytest.raises(ClaimError):
        claim.release()
    with pytest.raises(UsageError, match="'nobody' was submitted"):
        engine.claim_receipts("nobody")
    engine.run()


def test_a_claim_beyond_what_is_usable_is_rejected_and_its_prefix_is_read_all_the_same() -> None:
    engine = make_engine()
    engine.claim(some_ids(64))
    claim, request = engine.park(some_ids(64, seed=1))
    assert claim.receipt.outcome is Outcome.REJECTED
    assert request.result() == []
    assert engine.submit(some_ids(64, seed=1), max_new_tokens=2).result() == cold(some_ids(64, seed=1), 2)
    engine.check_invariants()


def test_a_claim_on_an_answer_covers_only_tokens_whose_rows_were_computed() -> None:
    engine = make_engine(usable_blocks=20)
    prompt = some_ids(10)
    request = engine.submit(prompt, max_new_tokens=BLOCK_SIZE * 3 - 10, stop_ids=())
    request.result()
    assert (len(prompt) + len(request.token_ids)) % BLOCK_SIZE == 0
    claim = engine.claim(request)
    assert claim.claim.footprint_blocks == 2
    assert claim.status.surviving_required_blocks == 2


def test_the_trace_tells_the_size_of_a_pool_that_has_grown() -> None:
    engine = make_engine(usable_blocks=4, addable_blocks=8, policy=action_policy({"active": "add_capacity, refuse"}))
    engine.submit(some_ids(BLOCK_SIZE * 6), max_new_tokens=1).result()
    assert engine.sink.usable_blocks == engine.plane.ledger.usable_blocks > 4
