"""`PooledCache` under stock Transformers models: tiny random ones of every family, no download needed."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import pytest
import torch
from transformers import DynamicCache

from tenure.errors import (
    CapacityError,
    GeometryError,
    PolicyError,
    PoolSizeError,
    TenureError,
    TransferError,
    UsageError,
)
from tenure.models.tiny import tiny_model
from tenure.policy import Policy
from tenure.pool import BlockEvicted, BlockRecalled, DirectTransfer
from tenure.runtime.hf import PooledCache
from tenure.runtime.hf.scoring import PagerKeys

FAMILIES = ["llama", "qwen2", "qwen3", "gemma3", "mistral", "phi3"]
POLICIES = ["attention_mass", "recency"]
FIXED = Policy(scoring_share=None, interval_rows=8)


@pytest.fixture(autouse=True)
def _no_grad() -> Any:
    torch.set_num_threads(1)
    with torch.no_grad():
        yield


def tokens(count: int, *, seed: int = 0) -> torch.Tensor:
    return torch.randint(4, 120, (1, count), generator=torch.Generator().manual_seed(seed))


def run(model: Any, cache: Any, ids: torch.Tensor, parts: list[int]) -> torch.Tensor:
    """Logits of every token, read in parts of the given sizes."""
    outputs = [model(part, past_key_values=cache).logits for part in torch.split(ids, parts, dim=1)]
    return torch.cat(outputs, dim=1)


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("family", FAMILIES)
def test_while_everything_fits_logits_are_bit_identical_to_the_full_cache(family: str, policy: str) -> None:
    model, ids = tiny_model(family), tokens(100)
    parts = [30, 1, 1, 1, 17, 1, 30, 1, 1, 17]
    full = run(model, DynamicCache(config=model.config), ids, parts)
    pooled = run(model, PooledCache(model.config, pool=256, policy=policy), ids, parts)
    assert torch.equal(full, pooled)


@pytest.mark.parametrize("family", FAMILIES)
def test_generate_with_room_for_everything_gives_the_full_caches_tokens(family: str) -> None:
    model, ids = tiny_model(family), tokens(40)
    options: dict[str, Any] = {"max_new_tokens": 40, "do_sample": False, "attention_mask": torch.ones_like(ids)}
    expected = model.generate(ids, **options)
    assert torch.equal(model.generate(ids, past_key_values=PooledCache(model.config, pool=256), **options), expected)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_small_pool_keeps_its_bound_and_its_invariants_at_any_context(family: str) -> None:
    model = tiny_model(family)
    cache = PooledCache(model.config, pool=128, policy=FIXED, poison_dead_rows=True)
    for index in range(8):
        logits = run(model, cache, tokens(70, seed=index), [50, 11, *[1] * 9])
        assert torch.isfinite(logits).all()
        cache.check_invariants()
        assert cache.statistics().pager.resident_rows <= 128
    assert cache.get_seq_length() == 8 * 70


def test_a_prompt_longer_than_the_pool_is_read_in_parts_by_stock_generate() -> None:
    model, ids = tiny_model("llama"), tokens(300)
    cache = PooledCache(model.config, pool=128)
    answer = model.generate(
        ids,
        attention_mask=torch.ones_like(ids),
        past_key_values=cache,
        prefill_chunk_size=cache.max_append_rows,
        max_new_tokens=20,
        do_sample=False,
    )
    assert answer.shape == (1, 320)
    assert cache.statistics().pager.resident_rows <= 128


def test_the_order_of_slots_has_no_meaning_to_attention() -> None:
    # The promise behind swapping: rows may move. Reference: the same rows, never moved.
    model, ids = tiny_model("llama"), tokens(128)
    still, moved = (PooledCache(model.config, pool=256, block_size=8, policy="recency") for _ in range(2))
    for cache in (still, moved):
        run(model, cache, ids, [128])
    pager = moved.pager
    for block in (3, 6, 2, 9):
        pager.apply(type(pager.plan_room(1))(epoch=pager.epoch, evict=(block,)))
    for block in (9, 3, 2, 6):
        pager.apply(type(pager.plan_room(1))(epoch=pager.epoch, recall=(block,)))
    assert pager.arena.positions != still.pager.arena.positions
    question = tokens(12, seed=9)
    torch.testing.assert_close(run(model, moved, question, [12]), run(model, still, question, [12]), rtol=0, atol=1e-4)


@pytest.mark.parametrize("family", ["llama", "qwen3", "phi3"])
@pytest.mark.parametrize("back", [1, 5, 9, 40])
def test_cropping_goes_back_exactly_even_across_the_heads_start(family: str, back: int) -> None:
    model, ids, more = tiny_model(family), tokens(90), tokens(20, seed=5)
    cache = PooledCache(model.config, pool=256, block_size=8)
    run(model, cache, ids, [90])
    run(model, cache, tokens(back, seed=3), [back])
    cache.crop(-back)
    cache.check_invariants()
    straight = PooledCache(model.config, pool=256, block_size=8)
    run(model, straight, ids, [90])
    torch.testing.assert_close(run(model, cache, more, [20]), run(model, straight, more, [20]), rtol=0, atol=1e-5)


def test_assisted_generation_which_crops_rejected_tokens_gives_the_plain_answer() -> None:
    model, assistant, ids = tiny_model("llama"), tiny_model("llama", seed=1), tokens(30)
    options: dict[str, Any] = {"max_new_tokens": 30, "do_sample": False, "attention_mask": torch.ones_like(ids)}
    expected = model.generate(ids, **options)
    cache = PooledCache(model.config, pool=256, block_size=8)
    answer = model.generate(ids, past_key_values=cache, assistant_model=assistant, **options)
    assert torch.equal(answer, expected)
    cache.check_invariants()


def test_sliding_layers_refuse_to_crop_what_they_have_forgotten_and_nothing_changes() -> None:
    model = tiny_model("gemma3")
    cache = PooledCache(model.config, pool=256)
    run(model, cache, tokens(100), [100])
    with pytest.raises(UsageError, match="activate_past_recording"):
        cache.crop(-3)
    assert cache.get_seq_length() == 100
    cache.check_invariants()


def test_a_model_without_a_growing_layer_is_refused_with_its_layer_kinds() -> None:
    with pytest.raises(GeometryError, match="sliding"):
        PooledCache(tiny_model("mistral-sliding").config, pool=256)


def test_a_batch_of_two_is_refused_and_says_what_to_do() -> None:
    model = tiny_model("llama")
    cache = PooledCache(model.config, pool=256)
    with pytest.raises(UsageError, match=r"batch of 2 sequences.*a PooledCache of its own"):
        model(tokens(5).repeat(2, 1), past_key_values=cache)
    with pytest.raises(UsageError, match="3 sequences"):
        cache.batch_repeat_interleave(3)


def test_a_prompt_beyond_the_pool_in_one_forward_is_refused_and_names_the_way_out() -> None:
    model = tiny_model("llama")
    cache = PooledCache(model.config, pool=128)
    run(model, cache, tokens(20), [20])
    with pytest.raises(CapacityError, match=f"prefill_chunk_size={cache.max_append_rows}"):
        model(tokens(400), past_key_values=cache)
    assert cache.get_seq_length() == 20
    cache.check_invariants()


def test_a_first_prompt_beyond_the_pool_is_refused_too() -> None:
    model = tiny_model("llama")
    cache = PooledCache(model.config, pool=128)
    with pytest.raises(CapacityError, match="prefill_chunk_size"):
        model(tokens(400), past_key_values=cache)
    assert cache.get_seq_length() == 0


@pytest.mark.parametrize("pool", [0, -1, "0", "12abc", "101%", "55", 1e3, None, True])
def test_a_pool_that_is_no_size_or_below_the_minimum_is_refused(pool: Any) -> None:
    with pytest.raises(PoolSizeError):
        PooledCache(tiny_model("llama").config, pool=pool)


def test_an_unknown_policy_is_refused_with_the_known_ones() -> None:
    with pytest.raises(PolicyError, match="attention_mass, pooled_cosine, key_bounds, recency"):
        PooledCache(tiny_model("llama").config, pool=256, policy="best")


def test_a_cache_made_from_a_copy_of_the_configuration_is_refused_by_the_first_forward() -> None:
    import copy

    model = tiny_model("llama")
    cache = PooledCache(copy.deepcopy(model.config), pool=128)
    with pytest.raises(PolicyError, match="another configuration object"):
        run(model, cache, tokens(40), [40])
    assert cache.get_seq_length() == 0


def test_a_model_with_one_pooled_layer_is_refused_by_its_second_forward() -> None:
    import copy

    config = copy.deepcopy(tiny_model("llama").config)
    config.num_hidden_layers = 1
    cache = PooledCache(config, pool=128)
    rows = torch.zeros((1, config.num_key_value_heads, 4, config.head_dim))
    cache.update(rows, rows, 0)
    with pytest.raises(PolicyError, match="does not show them"):
        cache.update(rows, rows, 0)
    assert cache.get_seq_length() == 4


def test_a_policy_that_has_not_seen_a_query_yet_moves_nothing() -> None:
    model = tiny_model("llama")
    cache = PooledCache(model.config, pool=128, policy="recency")
    for index in range(6):
        run(model, cache, tokens(40, seed=index), [40])
    cache.use_policy(FIXED)
    assert not cache.reselect()
    run(model, cache, tokens(5), [5])
    assert cache.reselect()


@pytest.mark.parametrize("failure", ["a batch", "a prompt longer than the pool", "a full host tier"])
def test_a_refused_forward_leaves_the_layers_beside_the_pool_as_they_were(failure: str) -> None:
    model = tiny_model("gemma3")
    row_bytes = PooledCache(model.config, pool=128).geometry.pooled_row_bytes
    cache = PooledCache(model.config, pool=128, policy=FIXED, block_size=8, host_bytes=8 * 8 * row_bytes)
    reference = PooledCache(model.config, pool=128, policy=FIXED, block_size=8)
    run(model, cache, tokens(60), [60])
    run(model, reference, tokens(60), [60])
    refused = {
        "a batch": torch.zeros((2, 3), dtype=torch.long),
        "a prompt longer than the pool": tokens(200, seed=1),
        "a full host tier": tokens(16, seed=1),
    }[failure]
    with pytest.raises(TenureError), torch.no_grad():
        model(refused, past_key_values=cache)
    lengths = {layer.get_seq_length() for layer in cache.layers}
    assert lengths == {60}
    after, expected = (run(model, each, tokens(2, seed=5), [2]) for each in (cache, reference))
    assert torch.equal(after[-1], expected[-1])


def test_a_forward_that_dies_in_the_model_is_taken_back_by_the_next_one(monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny_model("gemma3")
    cache, reference = (PooledCache(model.config, pool=128, policy=FIXED, block_size=8) for _ in range(2))
    for each in (cache, reference):
        run(model, each, tokens(60), [60])

    def dies(*_arguments: object, **_options: object) -> None:
        raise RuntimeError("out of memory")

    with monkeypatch.context() as patch:
        patch.setattr(model.model.layers[-1].mlp, "forward", dies)
        patch.setattr(model.model.layers[1].mlp, "forward", dies)
        with pytest.raises(RuntimeError, match="out of memory"):
            run(model, cache, tokens(3, seed=9), [3])
    with pytest.raises(UsageError, match="at 60 rows again: run this forward again"):
        run(model, cache, tokens(2, seed=5), [2])
    assert cache.get_seq_length() == 60
    after, expected = (run(model, each, tokens(2, seed=5), [2]) for each in (cache, reference))
    assert torch.equal(after[-1], expected[-1])


def test_padding_is_refused_once_rows_have_left_the_pool() -> None:
    model = tiny_model("llama")
    cache = PooledCache(model.config, pool=56, block_size=8)
    mask = torch.ones((1, 40), dtype=torch.long)
    mask[0, :6] = 0
    with torch.no_grad():
        model(tokens(40), attention_mask=mask, past_key_values=cache)
        mask = torch.cat([mask, torch.ones((1, 16), dtype=torch.long)], dim=1)
        model(tokens(16, seed=1), attention_mask=mask, past_key_values=cache)
        mask = torch.cat([mask, torch.ones((1, 8), dtype=torch.long)], dim=1)
        with pytest.raises(UsageError, match="padded"):
            model(tokens(8, seed=2), attention_mask=mask, past_key_values=cache)
    assert cache.get_seq_length() == 56


def test_reselecting_after_a_crop_goes_by_the_queries_that_are_left() -> None:
    model = tiny_model("llama")
    cache = PooledCache(model.config, pool=128, policy=FIXED)
    for index in range(6):
        run(model, cache, tokens(40, seed=index), [40])
    before = cache.queries.recent(32)
    cache.crop(-5)
    after = cache.queries.recent(32)
    assert before is not None
    assert after is not None
    assert torch.equal(after.by_layer[0], before.by_layer[0][:, :-5])
    assert cache.reselect()
    cache.crop(-40)
    assert not cache.reselect()
    cache.check_invariants()


def test_an_attention_that_cannot_be_tapped_is_refused_unless_no_queries_are_needed() -> None:
    model = tiny_model("llama")
    model.config._attn_implementation = "flex_attention"
    with pytest.raises(PolicyError, match="flex_attention"):
        PooledCache(model.config, pool=128)
    PooledCache(model.config, pool=128, policy="recency")
    assert model.config._attn_implementation == "flex_attention"


@pytest.mark.parametrize("family", ["llama", "gemma3"])
def test_the_tap_works_with_eager_attention_and_changes_no_bit(family: str) -> None:
    model, ids = tiny_model(family), tokens(60)
    model.set_attn_implementation("eager")
    full = run(model, DynamicCache(config=model.config), ids, [40, 1, 19])
    cache = PooledCache(model.config, pool=256)
    assert torch.equal(run(model, cache, ids, [40, 1, 19]), full)
    assert cache.queries.recent(32) is not None


def test_a_policy_without_queries_taps_nothing() -> None:
    model = tiny_model("llama")
    cache = PooledCache(model.config, pool=256, policy="recency")
    run(model, cache, tokens(30), [30])
    assert not cache.queries.connected
    assert cache.queries.recent(1) is None


def test_tapped_queries_are_the_last_ones_in_order() -> None:
    model, ids = tiny_model("llama"), tokens(60)
    parts = PooledCache(model.config, pool=256), PooledCache(model.config, pool=256)
    run(model, parts[0], ids, [60])
    run(model, parts[1], ids, [20, 1, 1, 9, 29])
    once, pieces = (cache.queries.recent(32) for cache in parts)
    assert once is not None
    assert pieces is not None
    assert once.rows == pieces.rows == 32
    for one, other in zip(once.by_layer, pieces.by_layer, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-4)


class FailingTransfer(DirectTransfer):
    """Fails the n-th copy in a direction, once."""

    def __init__(self) -> None:
        self.out_left: int | None = None
        self.in_left: int | None = None

    def page_out(self, *args: Any) -> None:
        if self.out_left is not None:
            self.out_left -= 1
            if self.out_left < 0:
                self.out_left = None
                raise RuntimeError("injected: device to host")
        super().page_out(*args)

    def page_in(self, *args: Any) -> None:
        if self.in_left is not None:
            self.in_left -= 1
            if self.in_left < 0:
                self.in_left = None
                raise RuntimeError("injected: host to device")
        super().page_in(*args)


def test_a_failed_write_through_discards_the_forward_and_the_same_tokens_can_be_read_again() -> None:
    model, ids, transfer = tiny_model("llama"), tokens(40), FailingTransfer()
    cache = PooledCache(model.config, pool=128, block_size=8, transfer=transfer)
    run(model, cache, ids[:, :20], [20])
    transfer.out_left = 1
    with pytest.raises(TransferError, match="back at 20 rows"):
        model(ids[:, 20:40], past_key_values=cache)
    assert cache.get_seq_length() == 20
    cache.check_invariants()
    straight = run(model, DynamicCache(config=model.config), ids, [20, 20])
    assert torch.equal(model(ids[:, 20:40], past_key_values=cache).logits, straight[:, 20:])


def test_a_failed_recall_is_undone_and_the_next_reselect_works() -> None:
    model, transfer = tiny_model("llama"), FailingTransfer()
    cache = PooledCache(model.config, pool=128, block_size=8, policy=FIXED, transfer=transfer)
    for index in range(6):
        run(model, cache, tokens(40, seed=index), [40])
    before = list(cache.pager.arena.positions)
    planes = [plane.clone() for plane in cache.pager.arena.planes]
    transfer.in_left = 0
    with pytest.raises(TransferError, match="was undone"):
        cache.pager.apply(
            type(cache.pager.plan_room(1))(epoch=cache.pager.epoch, evict=(_victim(cache),), recall=(_waiting(cache),))
        )
    assert cache.pager.arena.positions == before
    assert all(torch.equal(now, then) for now, then in zip(cache.pager.arena.planes, planes, strict=True))
    cache.reselect()
    cache.check_invariants()


def _victim(cache: PooledCache) -> Any:
    return next(block.index for block in cache.view().blocks if block.evictable)


def _waiting(cache: PooledCache) -> Any:
    return next(block.index for block in cache.view().blocks if block.resident_rows == 0)


def test_reselecting_happens_every_interval_counted_from_the_last_one() -> None:
    # KVFlash tested `generated % interval` while the interval grew, so that its triggers came in clusters.
    model = tiny_model("llama")
    cache = PooledCache(model.config, pool=128, block_size=8, policy=FIXED)
    for index in range(6):
        run(model, cache, tokens(40, seed=index), [40])
    counts = []
    for step in range(40):
        run(model, cache, tokens(1, seed=step), [1])
        counts.append(cache.statistics().reselect.reselects)
    rises = [step for step in range(1, 40) if counts[step] > counts[step - 1]]
    assert {later - earlier for earlier, later in pairwise(rises)} == {8}


def test_events_tell_what_left_and_what_came_back() -> None:
    model = tiny_model("llama")
    events: list[Any] = []
    cache = PooledCache(model.config, pool=128, block_size=8, policy=FIXED, listener=events.append)
    for index in range(10):
        run(model, cache, tokens(40, seed=index), [31] + [1] * 9)
    resident: set[int] = {block.index for block in cache.view().blocks if block.resident_rows}
    told = set(range(cache.pager.sealed_blocks + 1))
    for event in events:
        if isinstance(event, BlockEvicted):
            told.discard(event.block)
        elif isinstance(event, BlockRecalled):
            told.add(event.block)
    assert told - resident <= {cache.pager.sealed_blocks}


def test_reset_forgets_the_sequence_and_starts_again_bit_identically() -> None:
    model, ids = tiny_model("gemma3"), tokens(60)
    cache = PooledCache(model.config, pool=128)
    for index in range(4):
        run(model, cache, tokens(60, seed=index), [60])
    cache.reset()
    assert cache.get_seq_length() == 0
    assert cache.statistics().host.used_blocks == 0
    assert torch.equal(run(model, cache, ids, [60]), run(model, DynamicCache(config=model.config), ids, [60]))


def test_a_forward_that_dies_half_way_leaves_no_trace() -> None:
    model, ids = tiny_model("llama"), tokens(40)
    cache = PooledCache(model.config, pool=128, block_size=8)
    run(model, cache, ids[:, :20], [20])
    broken = model.model.layers[1].mlp.register_forward_hook(lambda *_: (_ for _ in ()).throw(RuntimeError("dies")))
    with pytest.raises(RuntimeError, match="dies"):
        model(ids[:, 20:], past_key_values=cache)
    broken.remove()
    assert cache.get_seq_length() == 20
    straight = run(model, DynamicCache(config=model.config), ids, [20, 20])
    assert torch.equal(model(ids[:, 20:], past_key_values=cache).logits, straight[:, 20:])
    assert cache.statistics().host.used_blocks == 5


def test_a_cache_may_be_filled_in_inference_mode_and_used_outside_of_it() -> None:
    model, ids = tiny_model("llama"), tokens(40)
    cache = PooledCache(model.config, pool=128)
    with torch.inference_mode():
        run(model, cache, ids[:, :20], [20])
    assert torch.isfinite(run(model, cache, ids[:, 20:], [20])).all()


def test_two_caches_of_one_model_do_not_see_each_others_queries_or_rows() -> None:
    model = tiny_model("llama")
    together = [PooledCache(model.config, pool=128, policy=FIXED) for _ in range(2)]
    alone = [PooledCache(model.config, pool=128, policy=FIXED) for _ in range(2)]
    turns = [tokens(24, seed=index) for index in range(12)]
    for turn in turns:
        for index, cache in enumerate(together):
            run(model, cache, turn + index, [20, 1, 1, 1, 1])
    for index, cache in enumerate(alone):
        for turn in turns:
            run(model, cache, turn + index, [20, 1, 1, 1, 1])
    for one, other in zip(together, alone, strict=True):
        assert one.pager.arena.positions == other.pager.arena.positions
        assert all(torch.equal(a, b) for a, b in zip(one.pager.arena.planes, other.pager.arena.planes, strict=True))


def test_scores_are_the_same_from_the_arena_and_from_the_host() -> None:
    model = tiny_model("llama")
    cache = PooledCache(model.config, pool=128, policy=FIXED, block_size=8)
    for index in range(6):
        run(model, cache, tokens(40, seed=index), [40])
    cache.reselect()
    run(model, cache, tokens(3), [1, 1, 1])
    queries, view = cache.queries.recent(32), cache.view()
    assert queries is not None
    sources = (PagerKeys(cache.pager, prefer_arena=prefers) for prefers in (False, True))
    from_host, from_arena = (cache.reselector.scorer.score(view, keys, queries) for keys in sources)
    assert from_arena == pytest.approx(from_host, rel=1e-5)
