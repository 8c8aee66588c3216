"""The layers that are not pooled: what they hold, so that it can be put back.

Transformers' windowed layers never write into their tensors but replace them, so holding on to what was there costs no
copy.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from transformers.cache_utils import DummyLayer, DynamicSlidingWindowLayer

from tenure.errors import UsageError
from tenure.runtime.hf.layer import PooledLayer

if TYPE_CHECKING:
    from tenure.runtime.hf.cache import PooledCache


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


def require_croppable(cache: PooledCache, removed_rows: int) -> None:
    """Raise `UsageError` when a native layer cannot take back its last `removed_rows` rows. Changes nothing.

    Transformers' windowed layer cuts what it still holds, whether or not that is enough to go back by that many rows (see
    docs/semantics.md); so the rows that the layer would need are counted here.
    """
    for index, layer in enumerate(cache.layers):
        if not removed_rows or isinstance(layer, PooledLayer):
            continue
        window = getattr(layer, "sliding_window", None)
        if window is None:
            can_go_back = bool(getattr(layer, "is_croppable", False))
        else:
            seen_rows = layer.get_seq_length()
            held_rows = layer.keys.shape[-2] if layer.is_initialized else 0
            can_go_back = held_rows - removed_rows >= min(window - 1, seen_rows - removed_rows)
        if not can_go_back:
            raise UsageError(
                f"crop(-{removed_rows}): native layer {index} ({type(layer).__name__}) has forgotten what it would go "
                "back to; call activate_past_recording() before the tokens that may be dropped"
            )


def crop_native(cache: PooledCache, removed_rows: int) -> None:
    """Take the last `removed_rows` rows back from the native layers, after `require_croppable`."""
    for layer in cache.layers:
        if isinstance(layer, PooledLayer) or not getattr(layer, "is_initialized", True):
            continue
        # With nothing to remove, a layer that records lets go of what it kept for this; others have nothing to do.
        if removed_rows or getattr(layer, "record_past", False):
            layer.crop(-removed_rows)
