"""The layers that are not pooled: what they hold, so that it can be put back.

Transformers' windowed layers never write into their tensors but replace them, so holding on to what was there costs no
copy.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from transformers.cache_utils import DummyLayer, DynamicSlidingWindowLayer

from tenure.runtime.hf.cache import PooledCache, PooledLayer


@dataclass(frozen=True, slots=True)
class NativeState:
    """What one native layer holds: its rows `[1, H, rows, D]`, None before the first; how many it has seen in all."""

    layer_index: int
    keys: torch.Tensor | None
    values: torch.Tensor | None
    seen_rows: int


def native_layers(cache: PooledCache) -> list[tuple[int, Any]]:
    """The layers that keep a window of rows beside the pool, with their index in the model."""
    return [(index, layer) for index, layer in enumerate(cache.layers) if type(layer) is DynamicSlidingWindowLayer]


def opaque_layers(cache: PooledCache) -> list[str]:
    """Names of layers whose state is neither rows in the pool nor a window: it can be neither put back nor saved."""
    known = (PooledLayer, DynamicSlidingWindowLayer, DummyLayer)
    return [f"{index} ({type(layer).__name__})" for index, layer in enumerate(cache.layers) if type(layer) not in known]


def native_states(cache: PooledCache) -> list[NativeState]:
    """What the native layers hold now, by reference."""
    return [
        NativeState(
            layer_index=index,
            keys=layer.keys if layer.is_initialized else None,
            values=layer.values if layer.is_initialized else None,
            seen_rows=layer.cumulative_length,
        )
        for index, layer in native_layers(cache)
    ]


def put_back(cache: PooledCache, states: Sequence[NativeState]) -> None:
    """Make the native layers hold what `states` says."""
    for state in states:
        layer = cache.layers[state.layer_index]
        if state.keys is None or state.values is None:
            layer.reset()
            continue
        if not layer.is_initialized:
            layer.lazy_initialization(state.keys, state.values)
        layer.keys, layer.values, layer.cumulative_length = state.keys, state.values, state.seen_rows
