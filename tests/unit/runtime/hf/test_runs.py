"""Stock models over dense runs: exact, alone or together, and without a trace of a forward that died."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from transformers import DynamicCache

from tenure.errors import CapacityError, GeometryError, PolicyError, UsageError
from tenure.kv.geometry import geometry_from_config
from tenure.models.tiny import tiny_model
from tenure.pool import Arena, layout_for
from tenure.runtime.hf.attention import ATTEND_ATTRIBUTE, EAGER, GROUPED, watch_queries
from tenure.runtime.hf.runs import SequenceRows, forward_many, forward_one, require_poolable_runs

FULL_FAMILIES = ["llama", "qwen2", "qwen3", "mistral", "phi3"]
LENGTHS = [200, 1, 37, 90, 2]


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    torch.set_num_threads(1)
    with torch.no_grad():
        yield


def watched(family: str = "llama", *, dtype: torch.dtype = torch.float32) -> Any:
    model = tiny_model(family).to(dtype)
    watch_queries(model.config, required=False)
    return model


def tokens(count: int, *, seed: int = 0) -> list[int]:
    return torch.randint(4, 120, (count,), generator=torch.Generator().manual_seed(seed)).tolist()


def poisoned_arena(model: Any, *, capacity_rows: int = 256) -> Arena:
    """An arena in which any row that was not written by the sequence would turn everything into NaN."""
    layout = layout_for(geometry_from_config(model.config, dtype="float32"), block_size=8)
    arena = Arena(layout, capacity_rows=capacity_rows, dtype=model.dtype, device="cpu")
    arena.poison(range(capacity_rows))
    return arena


def read_full(model: Any, cache: DynamicCache, ids: list[int]) -> torch.Tensor:
    return model(torch.tensor([ids]), past_key_values=cache, logits_to_keep=1).logits[0, -1]


def pairs(model: Any, count: int) -> list[tuple[SequenceRows, DynamicCache]]:
    """Sequences of different lengths, each with a full cache that has read the same."""
    made = []
    for index, length in enumerate(LENGTHS[:count]):
        sequence, full = SequenceRows(poisoned_arena(model)), DynamicCache(config=model.config)
        forward_one(model, sequence, tokens(length, seed=index))
        read_full(model, full, tokens(length, seed=index))
        made.append((sequence, full))
    return made


def break_layer(model: Any, monkeypatch: pytest.MonkeyPatch, index: int = 1) -> None:
    def fail(*_args: Any, **_kwargs: Any) -> None:
        raise RuntimeError("the layer died")

    monkeypatch.setattr(model.model.layers[index].mlp, "forward", fail)


@pytest.mark.parametrize("family", FULL_FAMILIES)
def test_one_sequence_is_bit_identical_to_a_full_cache_that_read_the_same_parts(family: str) -> None:
    model, ids = watched(family), tokens(150)
    sequence, full, start = SequenceRows(poisoned_arena(model)), DynamicCache(config=model.config), 0
    for part in (60, 1, 1, 33, 7, 1, 1, 46):
        chunk = ids[start : start + part]
        assert torch.equal(forward_one(model, sequence, chunk), read_full(model, full, chunk))
        start += part
        assert sequence.rows == start


def test_a_model_that_nobody_watches_reads_one_sequence_too() -> None:
    model = tiny_model("llama")
    logits = forward_one(model, SequenceRows(poisoned_arena(model)), tokens(20))
    assert torch.equal(logits, read_full(model, DynamicCache(config=model.config), tokens(20)))


def test_the_arena_may_be_replaced_between_forwards() -> None:
    model, full = watched(), DynamicCache(config=tiny_model("llama").config)
    sequence, larger = SequenceRows(poisoned_arena(model, capacity_rows=32)), poisoned_arena(model)
    forward_one(model, sequence, tokens(30))
    read_full(model, full, tokens(30))
    larger.load_rows(0, sequence.arena.save_rows(range(30)))
    sequence.arena = larger
    assert torch.equal(forward_one(model, sequence, tokens(40, seed=1)), read_full(model, full, tokens(40, seed=1)))


@pytest.mark.parametrize("count", [1, 2, 3, 4, 5])
@pytest.mark.parametrize("family", FULL_FAMILIES)
def test_sequences_of_any_lengths_share_a_forward_and_get_what_each_gets_alone(family: str, count: int) -> None:
    model = watched(family)
    made = pairs(model, count)
    for step in range(4):
        ids = tokens(count, seed=100 + step)
        together = forward_many(model, [sequence for sequence, _ in made], ids)
        alone = torch.stack([read_full(model, full, [token]) for (_, full), token in zip(made, ids, strict=True)])
        torch.testing.assert_close(together, alone, rtol=0, atol=1e-4)
        assert torch.equal(together.argmax(-1), alone.argmax(-1))
    assert [sequence.rows for sequence, _ in made] == [length + 4 for length in LENGTHS[:count]]


@pytest.mark.parametrize("implementation", [EAGER, GROUPED])
def test_every_attention_function_of_ours_lets_sequences_share_a_forward(implementation: str) -> None:
    model = watched("qwen3")
    made = pairs(model, 3)
    model.config._attn_implementation = implementation
    together = forward_many(model, [sequence for sequence, _ in made], [5, 6, 7])
    alone = torch.stack([read_full(model, full, [token]) for (_, full), token in zip(made, [5, 6, 7], strict=True)])
    torch.testing.assert_close(together, alone, rtol=0, atol=1e-4)


def test_sequences_share_a_forward_in_bfloat16() -> None:
    model = watched("qwen3", dtype=torch.bfloat16)
    made = pairs(model, 4)
    together = forward_many(model, [sequence for sequence, _ in made], [5, 6, 7, 8])
    alone = [read_full(model, full, [token]) for (_, full), token in zip(made, [5, 6, 7, 8], strict=True)]
    assert together.dtype == torch.bfloat16
    similar = torch.nn.functional.cosine_similarity(together.float(), torch.stack(alone).float())
    assert similar.min() > 0.999


def test_tokens_read_together_and_alone_may_alternate() -> None:
    model = watched()
    made = pairs(model, 2)
    sequences = [sequence for sequence, _ in made]
    forward_many(model, sequences, [5, 6])
    forward_one(model, sequences[1], [7, 8, 9])
    logits = forward_many(model, sequences, [10, 11])
    for (_, full), ids, own in zip(made, [[5, 10], [6, 7, 8, 9, 11]], logits, strict=True):
        torch.testing.assert_close(own, read_full(model, full, ids), rtol=0, atol=1e-4)


def test_where_frequencies_follow_the_longest_position_sequences_on_both_sides_get_their_own() -> None:
    model = tiny_model("phi3")
    config = model.config
    half = config.hidden_size // config.num_attention_heads // 2
    config.original_max_position_embeddings = 64
    config.rope_parameters = {
        "rope_type": "longrope",
        "rope_theta": 10000.0,
        "short_factor": [1.0] * half,
        "long_factor": [4.0] * half,
        "original_max_position_embeddings": 64,
    }
    torch.manual_seed(0)
    model = type(model)(config).eval()
    assert config.rope_parameters["original_max_position_embeddings"] == 64
    watch_queries(config)
    made = pairs(model, 4)
    for chosen in ([0, 1, 2], [1, 2], [0, 3]):
        ids = tokens(len(chosen), seed=50)
        together = forward_many(model, [made[index][0] for index in chosen], ids)
        alone = torch.stack([read_full(model, made[i][1], [t]) for i, t in zip(chosen, ids, strict=True)])
        torch.testing.assert_close(together, alone, rtol=0, atol=1e-4)


def test_a_forward_that_dies_leaves_one_sequence_as_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    model = watched()
    [(sequence, full)] = pairs(model, 1)
    with monkeypatch.context() as patch:
        break_layer(model, patch)
        with pytest.raises(RuntimeError, match="the layer died"):
            forward_one(model, sequence, tokens(9, seed=5))
    assert sequence.rows == LENGTHS[0]
    assert torch.equal(forward_one(model, sequence, tokens(4)), read_full(model, full, tokens(4)))


@pytest.mark.parametrize("index", [0, 1])
def test_a_forward_that_dies_leaves_every_sequence_as_it_was(monkeypatch: pytest.MonkeyPatch, index: int) -> None:
    model = watched()
    made = pairs(model, 3)
    sequences = [sequence for sequence, _ in made]
    with monkeypatch.context() as patch:
        break_layer(model, patch, index)
        with pytest.raises(RuntimeError, match="the layer died"):
            forward_many(model, sequences, [90, 91, 92])
    assert [sequence.rows for sequence in sequences] == LENGTHS[:3]
    together = forward_many(model, sequences, [5, 6, 7])
    for own, (_, full), token in zip(together, made, [5, 6, 7], strict=True):
        torch.testing.assert_close(own, read_full(model, full, [token]), rtol=0, atol=1e-4)


def test_more_rows_than_the_arena_has_slots_are_refused_with_numbers_and_nothing_is_written() -> None:
    model = watched()
    sequence = SequenceRows(poisoned_arena(model, capacity_rows=16))
    forward_one(model, sequence, tokens(10))
    with pytest.raises(CapacityError, match="has 10 rows and is to get 7 more, but its arena has slots for 16"):
        forward_one(model, sequence, tokens(7))
    forward_one(model, sequence, tokens(6))
    roomy = SequenceRows(poisoned_arena(model))
    with pytest.raises(CapacityError, match="sequence 1 of this forward has 16 rows"):
        forward_many(model, [roomy, sequence], [5, 6])
    assert (roomy.rows, sequence.rows) == (0, 16)
    assert roomy.arena.keys(0).isnan().all()


def test_a_foreign_attention_implementation_is_refused_by_name() -> None:
    model = watched()
    sequences = [sequence for sequence, _ in pairs(model, 2)]
    model.config._attn_implementation = "flash_attention_2"
    with pytest.raises(PolicyError, match="'flash_attention_2' reads one dense run"):
        forward_many(model, sequences, [5, 6])
    model.config._attn_implementation = "sdpa"
    with pytest.raises(PolicyError, match="call watch_queries"):
        forward_many(model, sequences, [5, 6])
    assert [sequence.rows for sequence in sequences] == LENGTHS[:2]


@pytest.mark.parametrize("index", [0, 2])
def test_an_architecture_beside_the_attention_interface_is_refused_instead_of_answering_nonsense(
    monkeypatch: pytest.MonkeyPatch, index: int
) -> None:
    model = watched()
    sequences = [sequence for sequence, _ in pairs(model, 2)]
    attention = model.model.layers[index].self_attn

    def own_attention(hidden_states: Any, past_key_values: Any, **_kwargs: Any) -> tuple[Any, None]:
        heads = hidden_states.view(2, 1, 4, -1).transpose(1, 2)[:, :2]
        past_key_values.update(heads, heads, attention.layer_idx)
        return hidden_states, None

    monkeypatch.setattr(attention, "forward", own_attention)
    with pytest.raises(PolicyError, match=f"layer {index} of this model does not use"):
        forward_many(model, sequences, [5, 6])
    assert [sequence.rows for sequence in sequences] == LENGTHS[:2]


def test_attention_that_asks_for_more_than_a_softmax_over_rows_is_refused() -> None:
    from tenure.runtime.hf.attention import _tapped_eager

    key = torch.zeros(1, 1, 1, 4)
    setattr(key, ATTEND_ATTRIBUTE, lambda query, scaling: query)
    with pytest.raises(PolicyError, match="asks for softcap"):
        _tapped_eager(torch.nn.Module(), key, key, key, None, softcap=30.0)


def test_only_models_of_full_attention_are_let_in() -> None:
    for family in FULL_FAMILIES:
        require_poolable_runs(tiny_model(family).config)
    with pytest.raises(GeometryError, match=r"2 of the model's 4 layers \(the first is layer 0\).* but sliding"):
        require_poolable_runs(tiny_model("gemma3").config)
    with pytest.raises(GeometryError, match="2 of the model's 2 layers"):
        require_poolable_runs(tiny_model("mistral-sliding").config)


def test_an_arena_of_another_model_is_refused() -> None:
    gemma, llama = watched("gemma3"), watched()
    with pytest.raises(GeometryError, match="has 4 layers, and the arena planes for 2 of full attention"):
        forward_one(gemma, SequenceRows(poisoned_arena(gemma)), [5])
    with pytest.raises(GeometryError, match="has 3 layers"):
        forward_one(llama, SequenceRows(poisoned_arena(watched("qwen2"))), [5])


def test_what_cannot_be_meant_is_refused_and_changes_nothing() -> None:
    model = watched()
    first, second = (sequence for sequence, _ in pairs(model, 2))
    for sequences, ids, said in (
        ([first, second], [5], "1 ids were passed for 2 sequences"),
        ([], [], "0 ids were passed for 0"),
        ([first, first], [5, 6], "the same or share an arena"),
        ([first, SequenceRows(first.arena)], [5, 6], "the same or share an arena"),
        ([first, second], [5, 128], "128 is no token id"),
        ([first], [-1], "-1 is no token id"),
    ):
        with pytest.raises(UsageError, match=said):
            forward_many(model, sequences, ids)
    with pytest.raises(UsageError, match="nothing to read"):
        forward_one(model, first, [])
    assert (first.rows, second.rows) == (200, 1)
