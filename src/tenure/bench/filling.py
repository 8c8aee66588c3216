"""Fill caches with random rows, so that a long context can be timed without hours of prefill."""

from __future__ import annotations

from typing import Any

import torch

from tenure.runtime.hf import PooledCache

FILL_ROWS = 512


def random_rows(model: Any, rows: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Keys and values `[1, H, rows, D]` of the model's shape: standard normal, the same for every call."""
    config = model.config.get_text_config(decoder=True)
    head_dim = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    shape = (1, config.num_key_value_heads, rows, head_dim)
    generator = torch.Generator().manual_seed(0)
    device, dtype = model.device, model.dtype
    keys = torch.randn(shape, generator=generator).to(device, dtype)
    return keys, torch.randn(shape, generator=generator).to(device, dtype)


def fill_stock(cache: Any, model: Any, logical_rows: int) -> None:
    """Write random rows to every layer of a framework cache. O(rows)."""
    keys, values = random_rows(model, FILL_ROWS)
    repeats = -(-logical_rows // FILL_ROWS)
    keys = keys.repeat(1, 1, repeats, 1)[:, :, :logical_rows]
    values = values.repeat(1, 1, repeats, 1)[:, :, :logical_rows]
    for layer in range(model.config.get_text_config(decoder=True).num_hidden_layers):
        cache.update(keys, values, layer)


def fill_pooled(cache: PooledCache, model: Any, logical_rows: int) -> None:
    """Append random rows through the pool, batch by batch, as a prefill does: evicting, sealing, writing through."""
    pager = cache.open(dtype=model.dtype, device=model.device)
    keys, values = random_rows(model, FILL_ROWS)
    layers = len(pager.arena.layout.layer_indices)
    left = logical_rows
    while left:
        rows = min(left, FILL_ROWS, pager.max_append_rows)
        pager.apply(pager.plan_room(rows))
        slot = pager.begin_append(rows)
        for layer in range(layers):
            pager.arena.write(layer, slot, keys[:, :, :rows], values[:, :, :rows])
        pager.commit_append()
        left -= rows
