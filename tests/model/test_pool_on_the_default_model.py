"""The pool under the real default model: what relocation costs, what recall brings back, what compiling changes."""

from __future__ import annotations

import random
from collections.abc import Iterator
from typing import Any

import pytest
import torch

from tenure.kv.residency import BlockIndex, Plan
from tenure.models import LoadedModel, load, text_ids
from tenure.policy import Policy
from tenure.runtime.hf import CompiledDecoder, PooledCache

pytestmark = pytest.mark.model

FLIP_TOKENS = 1200
PART = 100


@pytest.fixture(scope="module")
def loaded() -> LoadedModel:
    return load()


@pytest.fixture(autouse=True)
def _quiet() -> Iterator[None]:
    torch.set_num_threads(2)
    with torch.no_grad():
        yield


def shuffle_slots(cache: PooledCache, rng: random.Random) -> None:
    """Send every block that may leave to the host and bring all back in another order."""
    blocks = [block.index for block in cache.view().blocks if block.evictable]
    cache.pager.apply(Plan(epoch=cache.pager.epoch, evict=tuple(blocks)))
    order: list[BlockIndex] = rng.sample(blocks, len(blocks))
    for block in order:
        cache.pager.apply(Plan(epoch=cache.pager.epoch, recall=(block,)))


@pytest.mark.parametrize(("dtype", "bar"), [("float32", 0.002), ("bfloat16", 0.02)])
def test_shuffled_slots_flip_hardly_any_argmax_over_1200_tokens(dtype: str, bar: float) -> None:
    if dtype == "bfloat16" and not torch.cpu._is_avx512_bf16_supported():
        pytest.skip("this processor emulates bfloat16 products: 1,200 tokens take over ten minutes")
    loaded = load(dtype=dtype)
    ids = torch.tensor([text_ids(loaded.tokenizer, FLIP_TOKENS)])
    rng = random.Random(12345)
    still = PooledCache(loaded.model.config, pool=2048, policy="recency")
    moved = PooledCache(loaded.model.config, pool=2048, policy="recency")
    flips = 0
    for part in torch.split(ids, PART, dim=1):
        expected = loaded.model(part, past_key_values=still).logits.argmax(dim=-1)
        flips += int((loaded.model(part, past_key_values=moved).logits.argmax(dim=-1) != expected).sum())
        shuffle_slots(moved, rng)
    assert sorted(moved.pager.arena.positions) == list(range(FLIP_TOKENS))
    assert moved.pager.arena.positions != list(range(FLIP_TOKENS))
    assert flips / FLIP_TOKENS <= bar


def hits_after_reselect(loaded: LoadedModel, policy: str) -> int:
    """A 48-token needle at 30 % of 1,500 tokens, pool 256: right predictions of its last 16, asked by its first 32."""
    needle = random.Random(7).sample(range(4000, 20000), 48)
    ids = text_ids(loaded.tokenizer, 1500)
    ids[450:498] = needle
    cache = PooledCache(loaded.model.config, pool=256, policy=Policy(policy, scoring_share=None))
    for part in torch.split(torch.tensor([ids]), cache.max_append_rows, dim=1):
        loaded.model(part, past_key_values=cache, logits_to_keep=1)
    question = torch.tensor([needle])
    loaded.model(question[:, :31], past_key_values=cache, logits_to_keep=1)
    cache.reselect()
    cache.check_invariants()
    predicted = loaded.model(question[:, 31:47], past_key_values=cache).logits[0].argmax(dim=-1)
    return int((predicted == question[0, 32:]).sum())


def test_a_needle_that_left_the_device_is_recited_with_attention_mass_and_lost_with_recency(
    loaded: LoadedModel,
) -> None:
    assert hits_after_reselect(loaded, "attention_mass") >= 10
    assert hits_after_reselect(loaded, "recency") <= 2


@pytest.mark.slow
def test_compiled_decode_agrees_with_eager_and_is_not_compiled_again_as_the_context_grows(loaded: LoadedModel) -> None:
    ids = text_ids(loaded.tokenizer, 420)
    policy = Policy(scoring_share=None, interval_rows=16)
    caches = [PooledCache(loaded.model.config, pool=256, policy=policy) for _ in range(2)]
    for cache in caches:
        for part in torch.split(torch.tensor([ids[:380]]), cache.max_append_rows, dim=1):
            loaded.model(part, past_key_values=cache, logits_to_keep=1)
    eager, compiled = caches
    compilations: list[Any] = []

    def counting_backend(graph: Any, inputs: Any) -> Any:
        compilations.append(len(inputs))
        return graph.forward

    # The graph is what may not be made again; which code generator turns it into machine code does not matter here.
    decoder = CompiledDecoder(loaded.model, compiled, backend=counting_backend)
    for token in ids[380:]:
        expected = loaded.model(torch.tensor([[token]]), past_key_values=eager).logits
        torch.testing.assert_close(decoder.step(token), expected, rtol=0, atol=2e-3)
    assert len(compilations) == 1
    assert eager.pager.arena.positions == compiled.pager.arena.positions
    assert eager.statistics().reselect.reselects == compiled.statistics().reselect.reselects > 1
    compiled.check_invariants()
