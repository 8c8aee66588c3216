"""The caches that Transformers ships, as subjects: full and windowed layers, dynamic, static and quantized."""

from __future__ import annotations

from functools import cache, partial
from typing import Any

from tenure.adapters.transformers.subjects import (
    CAPACITY_ROWS,
    WINDOW_ROWS,
    BuiltCache,
    Subject,
    build_for,
)

_FULL, _SLIDING = "full_attention", "sliding_attention"
#: Three layers, two key-value heads of 32 elements: enough for every rule, and for a row pattern.
_SHAPE: dict[str, Any] = {
    "vocab_size": 8,
    "hidden_size": 128,
    "intermediate_size": 8,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
#: Class of the configuration and what sets the family apart. The order of full and sliding layers matters for crops.
_FAMILIES: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": ("LlamaConfig", {}),
    "gemma3": (
        "Gemma3TextConfig",
        {"head_dim": 32, "sliding_window": WINDOW_ROWS, "layer_types": [_SLIDING, _SLIDING, _FULL]},
    ),
    "qwen2": (
        "Qwen2Config",
        {
            "use_sliding_window": True,
            "sliding_window": WINDOW_ROWS,
            "layer_types": [_FULL, _SLIDING, _SLIDING],
        },
    ),
    "mistral": ("MistralConfig", {"sliding_window": WINDOW_ROWS}),
    "mistral-window-1": ("MistralConfig", {"sliding_window": 1}),
    "mistral-window-16": ("MistralConfig", {"sliding_window": 16}),
    "llama4": (
        "Llama4TextConfig",
        {
            "head_dim": 32,
            "attention_chunk_size": WINDOW_ROWS,
            "layer_types": ["chunked_attention", "chunked_attention", _FULL],
        },
    ),
}


@cache
def tiny_config(family: str) -> Any:
    """A configuration with the attention geometry of `family`, no weights attached. One object a family."""
    import transformers

    name, fields = _FAMILIES[family]
    return getattr(transformers, name)(**_SHAPE, **fields)


def stock_subjects() -> tuple[Subject, ...]:
    """Every cache class of Transformers with the layer layouts that it treats differently."""
    return (*_dynamic(), *_static(), *_quantized())


def _dynamic() -> tuple[Subject, ...]:
    layouts = {
        "": ("llama", "three layers of full attention"),
        "/gemma3": ("gemma3", f"two sliding layers (window {WINDOW_ROWS}), then a full one"),
        "/qwen2": ("qwen2", f"a full layer, then two sliding ones (window {WINDOW_ROWS})"),
        "/mistral": ("mistral", f"three sliding layers (window {WINDOW_ROWS})"),
        "/window-1": ("mistral-window-1", "three sliding layers that see the newest row only"),
        "/llama4": ("llama4", f"two chunked layers (chunks of {WINDOW_ROWS}), then a full one"),
    }
    lazy = Subject(
        name="transformers:DynamicCache/lazy",
        summary="made without a configuration, so that layers appear as they are written",
        build=_build_lazily,
    )
    return (
        *(
            Subject(name=f"transformers:DynamicCache{suffix}", summary=summary, build=partial(_build_dynamic, family))
            for suffix, (family, summary) in layouts.items()
        ),
        lazy,
    )


def _build_dynamic(family: str) -> BuiltCache:
    from transformers import DynamicCache

    return build_for(tiny_config(family), lambda config: DynamicCache(config=config))


def _build_lazily() -> BuiltCache:
    from transformers import DynamicCache

    return build_for(tiny_config("llama"), lambda _: DynamicCache())


def _static() -> tuple[Subject, ...]:
    layouts = {
        "": ("llama", f"three layers of full attention, capacity {CAPACITY_ROWS}"),
        "/gemma3": ("gemma3", f"two sliding layers (window {WINDOW_ROWS}), then a full one, capacity {CAPACITY_ROWS}"),
        "/qwen2": ("qwen2", f"a full layer, then two sliding ones (window {WINDOW_ROWS}), capacity {CAPACITY_ROWS}"),
        "/mistral": ("mistral", f"three sliding layers (window {WINDOW_ROWS}), capacity {CAPACITY_ROWS}"),
        "/window-16": (
            "mistral-window-16",
            f"three sliding layers whose window, 16, exceeds the capacity, {CAPACITY_ROWS}",
        ),
        "/llama4": (
            "llama4",
            f"two chunked layers (chunks of {WINDOW_ROWS}), then a full one, capacity {CAPACITY_ROWS}",
        ),
    }
    return tuple(
        Subject(
            name=f"transformers:StaticCache{suffix}",
            summary=summary,
            build=partial(_build_static, family),
            capacity_rows=CAPACITY_ROWS,
            fixed_batch=True,
        )
        for suffix, (family, summary) in layouts.items()
    )


def _build_static(family: str) -> BuiltCache:
    from transformers import StaticCache

    return build_for(tiny_config(family), lambda config: StaticCache(config=config, max_cache_len=CAPACITY_ROWS))


#: A 4-bit step over the range of a group, which is 2 · 1.25 amplitudes, is 2.5 / 15; rounding costs half of it, and as
#: rows are read and quantized again with every flush, twice that is allowed.
_FOUR_BIT_TOLERANCE = 2.5 / 15
#: e4m3 has 3 bits of mantissa: half a step is 1/16 of an element of at most 1.25 amplitudes; and the scale rounds.
_FP8_TOLERANCE = 0.1


def _quantized() -> tuple[Subject, ...]:
    group: dict[str, Any] = {"nbits": 4, "q_group_size": 64, "residual_length": 4}
    # HQQ packs groups in pairs: with groups of 32 a row of two heads is a pair, so any number of rows will do.
    by_row = {"axis_key": 1, "axis_value": 1, "q_group_size": 32}
    backends: dict[str, tuple[str, float, dict[str, Any]]] = {
        "fp8": ("8-bit floating point, one scale a tensor", _FP8_TOLERANCE, {}),
        "quanto": ("4 bits in groups of 64, 4 residual rows", _FOUR_BIT_TOLERANCE, group),
        "hqq": ("4 bits in groups of 32, 4 residual rows", _FOUR_BIT_TOLERANCE, {**group, **by_row}),
    }
    return tuple(
        Subject(
            name=f"transformers:QuantizedCache/{backend}",
            summary=f"{summary}; lossy: elements may be off by {tolerance:.2f} of the largest amplitude",
            build=partial(_build_quantized, backend, options),
            tolerance=tolerance,
            unavailable=partial(_missing_backend, backend),
        )
        for backend, (summary, tolerance, options) in backends.items()
    )


def _missing_backend(backend: str) -> str | None:
    from transformers.utils import is_hqq_available, is_optimum_quanto_available

    if backend == "quanto" and not is_optimum_quanto_available():
        return "its backend is not installed: pip install optimum optimum-quanto"
    if backend == "hqq" and not is_hqq_available():
        return "its backend is not installed: pip install hqq"
    return None


def _build_quantized(backend: str, options: dict[str, Any]) -> BuiltCache:
    from transformers import QuantizedCache

    return build_for(tiny_config("llama"), lambda config: QuantizedCache(backend, config=config, **options))
