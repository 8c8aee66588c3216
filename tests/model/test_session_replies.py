"""Sessions on tiny models: reading, replying, stopping, cutting back."""

from __future__ import annotations

from itertools import islice
from typing import Any

import pytest
import torch
from transformers import DynamicCache

from session_kit import EAGER, POOL_ROWS, byte_tokenizer, some_ids, tiny_session
from tenure.errors import CapacityError, HostTierFullError, PolicyError, UsageError
from tenure.kv.residency import Residence
from tenure.models import FAMILIES, tiny_model
from tenure.runtime.hf import ContextLimitWarning, ReplyEnd, Sampling

POOLED = [family for family in FAMILIES if family != "mistral-sliding"]  # a window in every layer: nothing to pool


def stock_reply(model: Any, ids: list[int], tokens: int, *, read_rows: int) -> list[int]:
    """Greedy decoding with the framework's own full cache, fed in the same batches."""
    cache, reply = DynamicCache(config=model.config), []
    with torch.no_grad():
        batches = [ids[:-1][i : i + read_rows] for i in range(0, len(ids) - 1, read_rows)]
        for batch in [*batches, ids[-1:]]:
            logits = model(torch.tensor([batch]), past_key_values=cache, logits_to_keep=1).logits
        for _ in range(tokens):
            reply.append(int(logits[0, -1].argmax()))
            logits = model(torch.tensor([[reply[-1]]]), past_key_values=cache, logits_to_keep=1).logits
    return reply


@pytest.mark.parametrize("family", POOLED)
def test_a_reply_is_that_of_the_full_cache_while_everything_fits(family: str) -> None:
    model, ids = tiny_model(family), some_ids(30)
    session = tiny_session(model=model, pool=128)
    session.append(ids)
    reply = list(session.generate(max_new_tokens=20))
    assert reply == stock_reply(tiny_model(family), ids, 20, read_rows=8)
    assert session.token_ids == (*ids, *reply)
    session.check_invariants()


@pytest.mark.parametrize("family", POOLED)
def test_a_context_of_many_pools_is_read_and_continued(family: str) -> None:
    session = tiny_session(family)
    assert session.append(some_ids(5 * POOL_ROWS)) == 5 * POOL_ROWS
    reply = list(session.generate(max_new_tokens=20))
    assert len(reply) == 20
    assert session.last_reply is not None
    assert (session.last_reply.tokens, session.last_reply.end) == (20, ReplyEnd.TOKEN_LIMIT)
    assert session.statistics().cache.pager.resident_rows <= POOL_ROWS
    session.check_invariants()


def test_the_first_token_of_a_reply_sees_the_rows_that_were_recalled_for_it(monkeypatch: pytest.MonkeyPatch) -> None:
    session = tiny_session()
    session.append(some_ids(100))
    order: list[tuple[str, int]] = []
    reselect, forward = session.cache.reselect, session._sequence.forward
    monkeypatch.setattr(session.cache, "reselect", lambda: (order.append(("reselect", 0)), reselect())[1])
    monkeypatch.setattr(session._sequence, "forward", lambda ids: (order.append(("read", len(ids))), forward(ids))[1])
    session.append(some_ids(20, seed=1))
    turn = [("read", 8), ("read", 8), ("read", 3)]
    assert order == [*turn, ("reselect", 0), *turn, ("read", 1)]


def test_recency_chooses_nothing_by_what_a_turn_asks_for() -> None:
    session = tiny_session(policy="recency")
    session.append(some_ids(100))
    assert session.statistics().cache.reselect.reselects == 0


def test_progress_is_told_after_every_batch() -> None:
    heard: list[tuple[int, int]] = []
    tiny_session().append(some_ids(20), progress=lambda done, total: heard.append((done, total)))
    assert heard == [(8, 20), (16, 20), (19, 20), (20, 20)]


def test_stop_ends_a_reply_after_the_token_under_way() -> None:
    session = tiny_session()
    session.append(some_ids(40))
    reply = []
    for token in session.generate(max_new_tokens=30):
        reply.append(token)
        if len(reply) == 5:
            session.stop()
    assert len(reply) == 5
    assert session.token_ids[40:] == tuple(reply)
    assert session.last_reply is not None
    assert session.last_reply.end is ReplyEnd.STOPPED
    session.check_invariants()


def test_a_stopped_reply_continues_as_if_it_had_not_been() -> None:
    whole, cut = tiny_session(), tiny_session()
    for session in (whole, cut):
        session.append(some_ids(60))
    expected = list(whole.generate(max_new_tokens=24))
    first = list(islice(cut.generate(max_new_tokens=24), 10))
    assert [*first, *cut.generate(max_new_tokens=14)] == expected


def test_stop_ends_the_reading_of_a_turn_and_keeps_what_was_read() -> None:
    session, ids = tiny_session(), some_ids(40)
    read = session.append(ids, progress=lambda done, _total: session.stop() if done == 16 else None)
    assert read == 16
    assert session.token_ids == tuple(ids[:16])
    session.check_invariants()
    assert session.append(ids[16:]) == 24


def test_a_stop_token_ends_a_reply_and_is_no_part_of_it() -> None:
    probe = tiny_session()
    probe.append(some_ids(20))
    reply = list(probe.generate(max_new_tokens=12))
    session = tiny_session()
    session.append(some_ids(20))
    stop = reply[6]
    assert list(session.generate(max_new_tokens=12, stop_ids=[stop])) == reply[: reply.index(stop)]
    assert session.last_reply is not None
    assert session.last_reply.end is ReplyEnd.STOP_TOKEN
    session.check_invariants()


def test_a_seed_fixes_sampled_replies() -> None:
    def reply(seed: int) -> list[int]:
        session = tiny_session(seed=seed, sampling=Sampling(temperature=1.0, top_p=0.9))
        session.append(some_ids(30))
        return list(session.generate(max_new_tokens=20))

    assert reply(1) == reply(1)
    assert reply(1) != reply(2)


def test_say_writes_turns_by_the_template_and_closes_replies_however_they_ended() -> None:
    tokenizer = byte_tokenizer()
    session = tiny_session(tokenizer=tokenizer, system="be brief")
    first = "".join(session.say("hello", max_new_tokens=5))
    second = "".join(session.say("again", max_new_tokens=5))
    assert first
    text = tokenizer.decode(session.token_ids)
    assert text.startswith("<|start|>system\nbe brief<|end|>\n<|start|>user\nhello<|end|>\n<|start|>assistant\n")
    assert "<|end|>\n<|start|>user\nagain<|end|>\n<|start|>assistant\n" in text
    assert tokenizer.decode(session.token_ids[-5:], skip_special_tokens=True) == second
    assert len(session.turn_starts) == 2
    session.check_invariants()


def test_undo_takes_back_a_turn_and_its_reply() -> None:
    session = tiny_session(tokenizer=byte_tokenizer(), pool=256)
    list(session.say("hello there", max_new_tokens=5))
    before = session.token_ids
    expected = "".join(session.say("what", max_new_tokens=7))
    removed = session.undo()
    assert session.token_ids == before
    assert removed > 7
    session.check_invariants()
    assert "".join(session.say("what", max_new_tokens=7)) == expected
    session.undo()
    session.undo()
    assert session.token_ids == ()
    with pytest.raises(UsageError, match="no turn to take back"):
        session.undo()


def test_a_cut_session_reads_its_last_token_again_before_it_goes_on() -> None:
    cut, straight = tiny_session(pool=128), tiny_session(pool=128)
    ids = some_ids(30)
    cut.append(ids)
    list(cut.generate(max_new_tokens=9))
    cut.crop(30)
    straight.append(ids)
    assert list(cut.generate(max_new_tokens=9)) == list(straight.generate(max_new_tokens=9))
    with pytest.raises(CapacityError, match="it has 39"):
        cut.crop(40)


def test_decoding_goes_on_after_a_cut_when_a_choice_of_blocks_is_due_and_no_query_was_seen() -> None:
    session = tiny_session()
    session.append(some_ids(80))
    list(session.generate(max_new_tokens=2))
    session.crop(40)
    assert not session.cache.can_score
    assert len(list(session.generate(max_new_tokens=10))) == 10
    session.check_invariants()


def test_where_names_every_block_with_its_place_score_and_text() -> None:
    tokenizer = byte_tokenizer()
    session = tiny_session(tokenizer=tokenizer)
    session.append("abcdefghijklmnopqrstuvwxyz" * 3)
    places = session.where()
    assert [place.index for place in places] == list(range(20))
    assert (places[0].first_position, places[-1].stop_position) == (0, 78)
    assert {place.residence for place in places} == {Residence.RESIDENT, Residence.HOST_BACKED}
    assert session.text_of(places[1]) == "efgh"
    assert any(place.score is not None for place in places)
    statistics = session.statistics()
    assert statistics.resident_blocks + statistics.host_only_blocks == 20


def test_a_context_past_the_trained_limit_warns_once_with_the_numbers() -> None:
    model = tiny_model("llama")
    model.config.max_position_embeddings = 32
    session = tiny_session(model=model)
    session.append(some_ids(20))
    with pytest.warns(ContextLimitWarning, match=r"grows to 36 .* up to 32") as caught:
        session.append(some_ids(40))
    assert len(caught) == 1
    session.append(some_ids(10))


def test_a_cache_that_another_forward_has_used_is_noticed_with_numbers() -> None:
    session = tiny_session()
    session.append(some_ids(10))
    session.model(torch.tensor([[5, 6]]), past_key_values=session.cache)
    for call in (lambda: session.append([7]), session.generate, lambda: session.crop(4), session.reselect):
        with pytest.raises(UsageError, match=r"knows 10 tokens, .* holds rows of 12"):
            call()


def test_a_session_that_changes_under_a_reply_is_noticed() -> None:
    session = tiny_session()
    session.append(some_ids(10))
    reply = session.generate(max_new_tokens=5)
    next(reply)
    session.append([7])
    with pytest.raises(UsageError, match="while a reply was being streamed"):
        next(reply)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (lambda s: s.append([]), "nothing to read"),
        (lambda s: s.append([3, 128]), "128 is no token id"),
        (lambda s: s.append([-1]), "-1 is no token id"),
        (lambda s: s.append("text"), "no tokenizer"),
        (lambda s: s.say("text"), "no tokenizer"),
        (lambda s: s.generate(), "nothing to continue"),
        (lambda s: s.generate(max_new_tokens=0), "max_new_tokens is 0"),
    ],
)
def test_calls_that_mean_nothing_are_refused_and_change_nothing(wrong: Any, message: str) -> None:
    session = tiny_session()
    with pytest.raises(UsageError, match=message):
        wrong(session)
    assert session.token_ids == ()
    session.check_invariants()


def test_an_unknown_policy_leaves_the_old_one() -> None:
    session = tiny_session()
    with pytest.raises(PolicyError, match="no policy is called"):
        session.use_policy("clairvoyance")
    assert session.cache.policy == EAGER


def test_a_session_that_began_with_recency_can_change_to_a_policy_that_needs_queries() -> None:
    session = tiny_session(policy="recency")
    session.append(some_ids(60))
    session.use_policy(EAGER)
    session.append(some_ids(12, seed=1))
    assert session.statistics().cache.reselect.reselects == 1
    assert session.cache.can_score


@pytest.mark.parametrize("layer", [0, 1, -1])
def test_a_forward_that_dies_while_blocks_move_leaves_every_row_where_it_can_be_had(layer: int) -> None:
    session = tiny_session()
    session.append(some_ids(60))

    def die(*_args: Any) -> None:
        raise RuntimeError("boom")

    hook = session.model.model.layers[layer].register_forward_hook(die)
    with pytest.raises(RuntimeError, match="boom"):
        session.append(some_ids(8, seed=1))
    hook.remove()
    assert session.token_ids == tuple(some_ids(60))
    session.check_invariants()
    assert len(list(session.generate(max_new_tokens=12))) == 12


@pytest.mark.parametrize("family", ["llama", "gemma3"])
@pytest.mark.parametrize("layer", [0, 1, -1])
@pytest.mark.parametrize("failure", [RuntimeError("boom"), KeyboardInterrupt()])
def test_a_forward_that_dies_at_any_layer_leaves_no_trace(family: str, layer: int, failure: BaseException) -> None:
    session, twin = tiny_session(family, pool=128), tiny_session(family, pool=128)
    for each in (session, twin):
        each.append(some_ids(50))

    def die(*_args: Any) -> None:
        raise failure

    hook = session.model.model.layers[layer].register_forward_hook(die)
    with pytest.raises(type(failure)):
        next(session.generate())
    with pytest.raises(type(failure)):
        session.append(some_ids(20, seed=1))
    hook.remove()
    assert session.token_ids == tuple(some_ids(50))
    session.check_invariants()
    assert list(session.generate(max_new_tokens=12)) == list(twin.generate(max_new_tokens=12))


def test_a_full_host_tier_stops_the_reading_where_it_is() -> None:
    model = tiny_model("llama")
    block_bytes = tiny_session(model=model).cache.pager.host.block_bytes
    session = tiny_session(model=model, host_bytes=10 * block_bytes)
    with pytest.raises(HostTierFullError, match="no block was dropped"):
        session.append(some_ids(60))
    assert session.logical_rows == 40
    session.check_invariants()


def test_a_bad_read_rows_is_refused() -> None:
    with pytest.raises(UsageError, match="read_rows is 0"):
        tiny_session(read_rows=0)
    assert tiny_session(read_rows=1000).read_rows == tiny_session().cache.pager.max_append_rows
