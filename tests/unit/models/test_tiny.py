from __future__ import annotations

import pytest
import torch

from tenure.errors import ModelError
from tenure.models.tiny import FAMILIES, SLIDING_WINDOW_ROWS, VOCAB_SIZE, tiny_model

PROMPT = torch.tensor([[5, 17, 99, 3, 42, 8]])


@pytest.mark.parametrize("family", FAMILIES)
def test_a_tiny_model_generates_and_is_the_same_each_time(family: str) -> None:
    first, second = tiny_model(family), tiny_model(family)
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), second.parameters(), strict=True))
    assert {parameter.dtype for parameter in first.parameters()} == {torch.float32}
    assert not first.training
    ids = first.generate(PROMPT, max_new_tokens=3 * SLIDING_WINDOW_ROWS, do_sample=False)
    assert ids.shape == (1, PROMPT.shape[1] + 3 * SLIDING_WINDOW_ROWS), "no token may end a generation early"
    assert int(ids.max()) < VOCAB_SIZE


@pytest.mark.parametrize("family", FAMILIES)
def test_a_tiny_model_notices_a_change_far_back_in_a_full_attention_layer(family: str) -> None:
    model = tiny_model(family)
    changed = PROMPT.clone()
    changed[0, 0] += 1
    with torch.no_grad():
        difference = (model(PROMPT).logits - model(changed).logits)[0, -1].abs().max()
    assert float(difference) > 1e-3, "weights so small that attention is uniform would hide lost rows"


@pytest.mark.parametrize(
    ("family", "layer_windows"),
    [
        ("llama", [None, None, None]),
        ("gemma3", [SLIDING_WINDOW_ROWS, None, SLIDING_WINDOW_ROWS, None]),
        ("mistral", [None, None]),
        ("mistral-sliding", [SLIDING_WINDOW_ROWS] * 2),
    ],
)
def test_the_caches_that_transformers_makes_show_the_familys_geometry(
    family: str, layer_windows: list[int | None]
) -> None:
    with torch.no_grad():
        cache = tiny_model(family)(PROMPT, use_cache=True).past_key_values
    assert [getattr(layer, "sliding_window", None) for layer in cache.layers] == layer_windows
    assert cache.layers[0].keys.shape[1] == 2, "key-value heads are fewer than the 4 query heads"


def test_another_seed_gives_other_weights_and_the_global_generator_is_untouched() -> None:
    before = torch.random.get_rng_state()
    a, b = tiny_model("llama", seed=0), tiny_model("llama", seed=1)
    assert torch.equal(before, torch.random.get_rng_state())
    assert not torch.equal(a.get_input_embeddings().weight, b.get_input_embeddings().weight)


def test_an_unknown_family_is_refused_with_the_names_that_exist() -> None:
    with pytest.raises(ModelError, match="mistral-sliding"):
        tiny_model("mamba")
