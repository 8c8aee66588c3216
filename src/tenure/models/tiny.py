"""Models small enough for a unit test, with the attention geometry of the real families, weights random but fixed.

They are for testing what moves rows, not for what they say: two to four layers, a vocabulary of 128, and weights drawn
wide enough that attention is not uniform and the logits of two contexts differ.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tenure.errors import ModelError

if TYPE_CHECKING:
    from transformers import PreTrainedModel

VOCAB_SIZE = 128
#: Window of the families with sliding layers: small, so that a test crosses it in a few tokens.
SLIDING_WINDOW_ROWS = 16

_COMMON: dict[str, Any] = {
    "vocab_size": VOCAB_SIZE,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 8192,
    "initializer_range": 0.3,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": None,
    "tie_word_embeddings": False,
}

_FULL, _SLIDING = "full_attention", "sliding_attention"

#: Configuration class of Transformers and what sets the family apart. `-sliding`: a window in every layer.
_FAMILIES: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": ("LlamaConfig", {"num_hidden_layers": 3}),
    "qwen2": ("Qwen2Config", {"num_hidden_layers": 2}),
    "qwen3": ("Qwen3Config", {"num_hidden_layers": 2, "head_dim": 16}),
    "gemma3": (
        "Gemma3TextConfig",
        {
            "num_hidden_layers": 4,
            "head_dim": 16,
            "query_pre_attn_scalar": 16,
            "sliding_window": SLIDING_WINDOW_ROWS,
            "layer_types": [_SLIDING, _FULL, _SLIDING, _FULL],
        },
    ),
    "mistral": ("MistralConfig", {"num_hidden_layers": 2, "sliding_window": None}),
    "mistral-sliding": ("MistralConfig", {"num_hidden_layers": 2, "sliding_window": SLIDING_WINDOW_ROWS}),
    "phi3": (
        "Phi3Config",
        {"num_hidden_layers": 2, "sliding_window": None, "original_max_position_embeddings": 8192},
    ),
}

#: The names that `tiny_model` knows, in a fixed order.
FAMILIES: tuple[str, ...] = tuple(_FAMILIES)


def tiny_model(family: str, *, seed: int = 0) -> PreTrainedModel:
    """A randomly initialised model of `family`'s geometry: float32, on the CPU, in evaluation mode.

    The same family and seed give the same weights, and torch's global random state is left as it was. No token ends a
    generation, so `generate(max_new_tokens=n)` always gives n. Raises `ModelError` for a name not in `FAMILIES`.
    """
    if family not in _FAMILIES:
        message = f"unknown family {family!r}; there are tiny models of {', '.join(FAMILIES)}"
        raise ModelError(message)
    import torch
    import transformers

    class_name, own = _FAMILIES[family]
    config = getattr(transformers, class_name)(**{**_COMMON, **own})
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model: PreTrainedModel = transformers.AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    return model.eval()
