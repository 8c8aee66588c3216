"""The geometry against what Transformers really builds and really fills, for tiny models of each family."""

from __future__ import annotations

from typing import Any

import pytest

from tenure.errors import GeometryError
from tenure.kv.geometry import LayerKind, geometry_from_config

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

TINY: dict[str, Any] = {
    "vocab_size": 64,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "max_position_embeddings": 64,
}
FULL, SLIDING, CHUNKED = LayerKind.FULL, LayerKind.SLIDING, LayerKind.CHUNKED
RECURRENT, SHARED, NONE = LayerKind.RECURRENT, LayerKind.SHARED, LayerKind.NONE

FAMILIES: dict[str, tuple[str, dict[str, Any], list[LayerKind]]] = {
    "Llama": ("LlamaConfig", {}, [FULL] * 4),
    "Qwen2": ("Qwen2Config", {}, [FULL] * 4),
    "Qwen2 with windows": (
        "Qwen2Config",
        {"use_sliding_window": True, "sliding_window": 8, "max_window_layers": 2},
        [FULL, FULL, SLIDING, SLIDING],
    ),
    "Qwen3": ("Qwen3Config", {"head_dim": 16}, [FULL] * 4),
    "Gemma 2": ("Gemma2Config", {"sliding_window": 8, "head_dim": 16}, [SLIDING, FULL] * 2),
    "Gemma 3": (
        "Gemma3TextConfig",
        {"sliding_window": 8, "head_dim": 16, "num_hidden_layers": 7},
        [SLIDING] * 5 + [FULL, SLIDING],
    ),
    "Gemma 4": (
        "Gemma4TextConfig",
        {"sliding_window": 8, "head_dim": 8, "global_head_dim": 16, "num_hidden_layers": 6},
        [SLIDING] * 5 + [FULL],
    ),
    "Gemma 3n": (
        "Gemma3nTextConfig",
        {
            "layer_types": ["sliding_attention", "full_attention"] * 2,
            "num_kv_shared_layers": 2,
            "sliding_window": 8,
            "head_dim": 8,
            "hidden_size_per_layer_input": 8,
            "vocab_size_per_layer_input": 64,
            "laurel_rank": 4,
        },
        [SLIDING, FULL, SHARED, SHARED],
    ),
    "Mistral": ("MistralConfig", {"sliding_window": 8}, [SLIDING] * 4),
    "Mistral without a window": ("MistralConfig", {"sliding_window": None}, [FULL] * 4),
    "Phi-3": ("Phi3Config", {"sliding_window": None}, [FULL] * 4),
    "Llama 4": ("Llama4TextConfig", {"head_dim": 8, "attention_chunk_size": 8}, [CHUNKED] * 3 + [FULL]),
    "Qwen3-Next": ("Qwen3NextConfig", {"head_dim": 8}, [RECURRENT] * 3 + [FULL]),
    "Nemotron-H": ("NemotronHConfig", {"head_dim": 8}, [RECURRENT, NONE, FULL, NONE]),
    "GPT-BigCode": ("GPTBigCodeConfig", {"num_key_value_heads": None, "multi_query": True}, [FULL] * 4),
    "GPT-2": ("GPT2Config", {"num_key_value_heads": None}, [FULL] * 4),
    "Falcon": ("FalconConfig", {"num_key_value_heads": None, "multi_query": True}, [FULL] * 4),
    "Falcon's newer form": (
        "FalconConfig",
        {"num_key_value_heads": None, "num_kv_heads": 2, "new_decoder_architecture": True},
        [FULL] * 4,
    ),
}
#: How Transformers calls what we describe; the two ring layers differ only in their mask.
LAYER_CLASS = {
    FULL: "DynamicLayer",
    SLIDING: "DynamicSlidingWindowLayer",
    CHUNKED: "DynamicSlidingWindowLayer",
    RECURRENT: "LinearAttentionLayer",
    SHARED: "DummyLayer",
    NONE: "DummyLayer",
}


def tiny_config(family: str) -> Any:
    name, fields, _ = FAMILIES[family]
    return getattr(transformers, name)(**{k: v for k, v in (TINY | fields).items() if v is not None or k in fields})


@pytest.mark.parametrize("family", FAMILIES)
def test_every_layer_is_of_the_kind_that_transformers_builds(family: str) -> None:
    config = tiny_config(family)
    layers = geometry_from_config(config, dtype="float32").layers
    assert [layer.kind for layer in layers] == FAMILIES[family][2]
    cache = transformers.DynamicCache(config=config)
    assert [LAYER_CLASS[layer.kind] for layer in layers] == [type(layer).__name__ for layer in cache.layers]
    windows = [getattr(layer, "sliding_window", None) for layer in cache.layers]
    assert [layer.window_rows for layer in layers] == windows


@pytest.mark.parametrize("family", FAMILIES)
def test_every_layer_fills_the_bytes_that_the_geometry_says(family: str) -> None:
    config = tiny_config(family)
    geometry = geometry_from_config(config, dtype="float32")
    torch.manual_seed(0)
    model = transformers.AutoModelForCausalLM.from_config(config).eval()
    cache = transformers.DynamicCache(config=config)
    with torch.no_grad():
        model(torch.tensor([[3, 4, 5, 6, 7], [8, 9, 10, 11, 12]]), past_key_values=cache, use_cache=True)
    for layer, filled in zip(geometry.layers, cache.layers, strict=True):
        if layer.stores_rows:
            assert filled.keys.shape == (2, layer.kv_heads, 5, layer.key_dim)
            assert filled.values.shape == (2, layer.kv_heads, 5, layer.value_dim)
    held = [layer for layer, seen in zip(cache.layers, geometry.layers, strict=True) if seen.stores_rows]
    assert geometry.context_bytes(5, sequences=2) == sum(layer.keys.nbytes + layer.values.nbytes for layer in held)


@pytest.mark.parametrize(
    ("name", "fields", "words"),
    [
        ("DeepseekV3Config", {}, "latent"),
        ("FalconH1Config", {}, "hybrid"),
        ("RwkvConfig", {"num_attention_heads": None, "num_key_value_heads": None}, "recurrent"),
        ("MiMoV2FlashConfig", {}, "twice"),
        ("T5Config", {"num_key_value_heads": None}, "encoder-decoder"),
    ],
)
def test_families_that_cannot_be_described_are_refused(name: str, fields: dict[str, Any], words: str) -> None:
    config = getattr(transformers, name)(**{k: v for k, v in (TINY | fields).items() if v is not None})
    with pytest.raises(GeometryError, match=words):
        geometry_from_config(config, dtype="float32")


def test_the_text_part_of_a_vision_model_is_described() -> None:
    config = transformers.Gemma3Config(text_config=tiny_config("Gemma 3").to_dict())
    assert [layer.kind for layer in geometry_from_config(config, dtype="float32").layers] == FAMILIES["Gemma 3"][2]
