"""Bugs of KVFlash that concern the runtime: each test is named after what went wrong (docs/kvflash-bugs.md)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import DynamicCache

from tenure.errors import SessionFileError
from tenure.models.tiny import tiny_model
from tenure.policy import Policy
from tenure.runtime.hf import CompiledDecoder, PooledCache, Session

FIXED = Policy(scoring_share=None, interval_rows=8)


@pytest.fixture(autouse=True)
def _no_grad() -> Any:
    torch.set_num_threads(1)
    with torch.no_grad():
        yield


def ids(count: int, *, seed: int = 0) -> list[int]:
    return torch.randint(4, 120, (count,), generator=torch.Generator().manual_seed(seed)).tolist()


def full_session(model: Any, rows: int = 400) -> Session:
    session = Session(model, None, pool=128, policy=FIXED)
    session.append(ids(rows))
    return session


def test_a_session_can_be_saved_after_evictions(tmp_path: Path) -> None:
    model = tiny_model("llama")
    session = full_session(model)
    assert session.cache.pager.host_only_blocks
    session.save(tmp_path / "one")
    session.append(ids(200, seed=1))
    session.save(tmp_path / "two")
    assert Session.load(tmp_path / "two", model, None).token_ids == session.token_ids


def test_whatever_can_be_saved_can_be_restored(tmp_path: Path) -> None:
    model = tiny_model("llama")
    for rows in (1, 7, 8, 9, 128, 129, 400):
        session = full_session(model, rows)
        session.save(tmp_path / str(rows))
        restored = Session.load(tmp_path / str(rows), model, None)
        assert restored.cache.pager.arena.positions == session.cache.pager.arena.positions
        restored.check_invariants()


def test_a_restored_session_keeps_its_tokens(tmp_path: Path) -> None:
    model = tiny_model("llama")
    session = full_session(model)
    session.save(tmp_path / "file")
    restored = Session.load(tmp_path / "file", model, None)
    assert restored.token_ids == tuple(ids(400))
    assert list(restored.generate(max_new_tokens=12)) == list(session.generate(max_new_tokens=12))


def test_a_session_file_with_wrong_counts_is_refused(tmp_path: Path) -> None:
    model = tiny_model("llama")
    full_session(model).save(tmp_path / "file")
    data = (tmp_path / "file").read_bytes()
    for broken in (data[:-1], data[: len(data) // 2], data + b"\0", data[:8]):
        (tmp_path / "broken").write_bytes(broken)
        with pytest.raises(SessionFileError):
            Session.load(tmp_path / "broken", model, None)


def test_a_compiled_step_sees_the_rows_appended_since() -> None:
    model, tokens = tiny_model("llama"), ids(40)
    cache, full = PooledCache(model.config, pool=128, block_size=8), DynamicCache(config=model.config)
    for one in (cache, full):
        model(torch.tensor([tokens[:10]]), past_key_values=one)
    decoder = CompiledDecoder(model, cache, backend="eager")
    for token in tokens[10:]:
        expected = model(torch.tensor([[token]]), past_key_values=full).logits
        torch.testing.assert_close(decoder.step(token), expected, rtol=0, atol=1e-4)


def test_a_compiled_decode_is_scored_by_its_own_latest_queries_and_not_by_cropped_ones() -> None:
    model, tokens = tiny_model("llama"), ids(90)
    eager, compiled = (PooledCache(model.config, pool=128, block_size=8) for _ in range(2))
    for one in (eager, compiled):
        model(torch.tensor([tokens[:60]]), past_key_values=one)
    decoder = CompiledDecoder(model, compiled, backend="eager")

    def agree() -> None:
        seen, expected = (cache.queries.recent(32) for cache in (compiled, eager))
        assert seen is not None
        assert expected is not None
        last = expected.by_layer[1][:, -seen.rows :]
        torch.testing.assert_close(seen.by_layer[1], last, rtol=0, atol=1e-4)

    for token in tokens[60:]:
        model(torch.tensor([[token]]), past_key_values=eager)
        decoder.step(token)
    agree()
    decoder.step(5)
    decoder.step(6)
    compiled.crop(-2)
    agree()


def test_a_compiled_step_leaves_the_models_attention_as_it_was_and_follows_a_change_of_policy() -> None:
    model = tiny_model("llama")
    cache = PooledCache(model.config, pool=128, block_size=8, policy="recency")
    model(torch.tensor([ids(200)[:60]]), past_key_values=cache)
    decoder = CompiledDecoder(model, cache, backend="eager")
    model.config._attn_implementation = "tenure_grouped"
    decoder.step(3)
    assert model.config._attn_implementation == "tenure_grouped"
    cache.use_policy(FIXED)
    for token in ids(100, seed=3):
        decoder.step(token)
    assert cache.statistics().reselect.reselects > 1


def test_assisted_generation_counts_towards_reselects() -> None:
    model, assistant = tiny_model("llama"), tiny_model("llama", seed=1)
    cache = PooledCache(model.config, pool=128, block_size=8, policy=FIXED)
    prompt = torch.tensor([ids(30)])
    model.generate(
        prompt,
        attention_mask=torch.ones_like(prompt),
        past_key_values=cache,
        assistant_model=assistant,
        max_new_tokens=200,
        do_sample=False,
    )
    cache.check_invariants()
    assert cache.statistics().pager.host_only_blocks
    assert cache.statistics().reselect.reselects > 5


def test_reset_forgets_scores_and_queries() -> None:
    model = tiny_model("llama")
    cache = PooledCache(model.config, pool=128, policy=FIXED)
    for index in range(5):
        model(torch.tensor([ids(60, seed=index)]), past_key_values=cache)
    cache.reselect()
    assert cache.reselector.scores
    cache.reset()
    assert not cache.reselector.scores
    assert cache.queries.recent(1) is None


def test_a_prompt_of_one_token_runs() -> None:
    model = tiny_model("llama")
    prompt = torch.tensor([[7]])
    options: dict[str, Any] = {"attention_mask": torch.ones_like(prompt), "max_new_tokens": 20, "do_sample": False}
    pooled = model.generate(prompt, past_key_values=PooledCache(model.config, pool=56), **options)
    assert torch.equal(pooled, model.generate(prompt, **options))


def test_a_reselect_after_a_turn_uses_the_turns_own_queries() -> None:
    model = tiny_model("llama")
    session = full_session(model)
    seen: list[torch.Tensor] = []
    scorer = session.cache.reselector.scorer
    original = scorer.score

    def watched(view: Any, keys: Any, queries: Any) -> list[float]:
        seen.append(queries.by_layer[0].clone())
        return original(view, keys, queries)

    scorer.score = watched  # type: ignore[method-assign]
    other = full_session(model)
    session.append(ids(40, seed=8))
    other.append(ids(40, seed=8)[:-1])
    mine = other.cache.queries.recent(32)
    assert mine is not None
    assert seen[0].shape == mine.by_layer[0].shape
    assert not torch.equal(seen[0][:, -1], torch.zeros_like(seen[0][:, -1]))
    torch.testing.assert_close(seen[0], first_reading(model), rtol=0, atol=1e-4)


def first_reading(model: Any) -> torch.Tensor:
    """Queries of the turn's tokens before its last one, read straight after the same 400 rows."""
    session = full_session(model)
    model(torch.tensor([ids(40, seed=8)[:-1]]), past_key_values=session.cache)
    recent = session.cache.queries.recent(32)
    if recent is None:
        raise RuntimeError("no query reached the tap")
    return recent.by_layer[0]


def test_every_emitted_token_has_its_row() -> None:
    model = tiny_model("llama")
    session = full_session(model, 50)
    for count, _ in enumerate(session.generate(max_new_tokens=10, stop_ids=()), start=1):
        assert session.cache.get_seq_length() == 50 + count == session.logical_rows
