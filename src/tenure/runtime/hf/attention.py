"""Attention functions: a tap for the model's own queries, and a grouped decode for caches without a mask.

Transformers looks an attention function up by the name in `config._attn_implementation`. `watch_queries` puts a name of
ours there, under which the stock function is registered with a tap in front of it and the stock mask function beside
it. So every architecture that the attention interface serves is tapped, results are bit-identical, and a forward with
any other cache takes the stock path after one attribute look-up a layer.

The tap knows which cache a call belongs to because the key tensor that the cache returned carries it: attention
functions receive that very object. No state is shared between sequences or threads.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import torch
from torch.nn.functional import scaled_dot_product_attention
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import AttentionMaskInterface, eager_mask, sdpa_mask
from transformers.modeling_utils import AttentionInterface

from tenure.errors import PolicyError, UsageError

TAP_ATTRIBUTE = "tenure_tap"
"""Set on the key tensor that a pooled layer returns; holds a callable `(query, scaling) -> None`."""

ATTEND_ATTRIBUTE = "tenure_attend"
"""Set on the key tensor of a cache that computes the attention itself; holds an `Attend`."""

SDPA = "tenure_sdpa"
EAGER = "tenure_eager"
GROUPED = "tenure_grouped"

_TAPPED = {"sdpa": SDPA, "eager": EAGER, SDPA: SDPA, EAGER: EAGER, GROUPED: GROUPED}

QueryTap = Callable[[torch.Tensor, float], None]

Attend = Callable[[torch.Tensor, float], torch.Tensor]
"""`(query [B, H*G, T, D], scaling) -> [B, T, H*G, D]`: attention over rows that only the cache can find."""


def watch_queries(config: Any, *, required: bool = True) -> None:
    """Make the model of this configuration hand its queries to whichever cache asks for them.

    Mutates `config._attn_implementation` (which is never saved with a model); the attention computed is the same.
    `config` must be the model's own configuration object. Idempotent. Raises `PolicyError` for an attention
    implementation that cannot be tapped, and has changed nothing then; with `required=False` it leaves such a one alone.
    """
    decoder = config.get_text_config(decoder=True)
    parts = {id(part): part for part in (config, decoder)}.values()
    wanted = [part for part in parts if part._attn_implementation is not None]  # noqa: SLF001 - it has no public name
    foreign = next((part for part in wanted if part._attn_implementation not in _TAPPED), None)  # noqa: SLF001
    if foreign is not None:
        if not required:
            return
        raise PolicyError(
            f"attention implementation {foreign._attn_implementation!r} cannot be tapped for queries; load the "  # noqa: SLF001
            "model with attn_implementation='sdpa' (or 'eager'), or use policy='recency', which needs no queries"
        )
    for part in wanted:
        part._attn_implementation = _TAPPED[part._attn_implementation]  # noqa: SLF001


def require_own_attention(config: Any) -> None:
    """Raise `PolicyError` unless the model of this configuration runs the attention functions of this module."""
    name = config.get_text_config(decoder=True)._attn_implementation  # noqa: SLF001 - it has no public name
    if name in _TAPPED.values():
        return
    advice = (
        "call watch_queries(model.config) first"
        if name in _TAPPED
        else "load the model with attn_implementation='sdpa' (or 'eager'), or run sequences one at a time with forward_one"
    )
    raise PolicyError(
        f"attention implementation {name!r} reads one dense run of rows; sequences that share a forward, or whose rows "
        f"are streamed, need Tenure's: {advice}"
    )


class ResidentOffset(int):
    """How far the rows of a pool that has let rows go lie behind their positions. Its mask must not look at padding."""


def _refusing_padding(mask: Callable[..., Any]) -> Callable[..., Any]:
    """A mask function that refuses padding where the pool's rows are no longer where the padding mask would look."""

    def checked(*args: Any, **kwargs: Any) -> Any:
        padding = kwargs.get("attention_mask")
        if isinstance(kwargs.get("kv_offset"), ResidentOffset) and padding is not None and not bool(padding.all()):
            raise UsageError(
                "this prompt is padded, and not all of it fits into the pool: the mask would hide other rows than the "
                "padding's. One sequence needs no padding: pass its tokens alone, without an attention_mask that has zeros"
            )
        return mask(*args, **kwargs)

    return checked


def _tap(key: torch.Tensor, query: torch.Tensor, scaling: float | None) -> None:
    tap: QueryTap | None = getattr(key, TAP_ATTRIBUTE, None)
    if tap is not None:
        tap(query, query.shape[-1] ** -0.5 if scaling is None else scaling)


_NOT_ATTENDED = ("softcap", "position_bias", "s_aux")
"""What a model may ask of its attention function and an `Attend` does not compute."""


def _attended(attend: Attend, query: torch.Tensor, scaling: float | None, options: dict[str, Any]) -> torch.Tensor:
    asked = [name for name in _NOT_ATTENDED if options.get(name) is not None]
    if asked:
        raise PolicyError(
            f"this model's attention asks for {', '.join(asked)}, which sequences that share a forward, or whose rows "
            "are streamed, do not get; run it one sequence at a time with forward_one"
        )
    return attend(query, query.shape[-1] ** -0.5 if scaling is None else scaling)


def _tapped_sdpa(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float | None = None,
    **kwargs: Any,
) -> tuple[torch.Tensor, None]:
    attend: Attend | None = getattr(key, ATTEND_ATTRIBUTE, None)
    if attend is not None:
        return _attended(attend, query, scaling, kwargs), None
    _tap(key, query, scaling)
    output: tuple[torch.Tensor, None] = sdpa_attention_forward(
        module, query, key, value, attention_mask, scaling=scaling, **kwargs
    )
    return output


def _tapped_eager(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float | None = None,
    **kwargs: Any,
) -> tuple[torch.Tensor, Any]:
    attend: Attend | None = getattr(key, ATTEND_ATTRIBUTE, None)
    if attend is not None:
        return _attended(attend, query, scaling, kwargs), None
    _tap(key, query, scaling)
    # Eager attention is not in the registry: each model file has its own, under this name.
    stock = getattr(sys.modules[type(module).__module__], "eager_attention_forward", None)
    if stock is None:
        raise PolicyError(
            f"{type(module).__name__} has no eager attention function to call; load the model with "
            "attn_implementation='sdpa', or use policy='recency'"
        )
    output: tuple[torch.Tensor, Any] = stock(module, query, key, value, attention_mask, scaling=scaling, **kwargs)
    return output


def grouped_attention(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float | None = None,
    **kwargs: Any,
) -> tuple[torch.Tensor, None]:
    """Decode with a group's query heads as query rows: no key is repeated, and keys are read once a group.

    Equal to the stock function up to the order of summation, so not bit-identical; other query counts take the stock
    path. Register name: `tenure_grouped`. `query` is `[B, H*G, T, D]`, `key` and `value` `[B, H, S, D]`.
    """
    attend: Attend | None = getattr(key, ATTEND_ATTRIBUTE, None)
    if attend is not None:
        return _attended(attend, query, scaling, kwargs), None
    rings = kwargs.pop("query_rings", ())
    ring_slot = kwargs.pop("query_ring_slot", None)
    if rings:
        # A compiled decode cannot carry the tap on a tensor; it passes fixed buffers down instead.
        rings[module.layer_idx].index_copy_(1, ring_slot, query[0])
    batch, query_heads, query_rows, head_dim = query.shape
    kv_heads = key.shape[1]
    shared_mask = attention_mask is None or attention_mask.shape[1] == 1
    if query_rows != 1 or query_heads == kv_heads or not shared_mask or kwargs.get("position_bias") is not None:
        return _tapped_sdpa(module, query, key, value, attention_mask, scaling=scaling, **kwargs)
    _tap(key, query, scaling)
    rows = query.view(batch, kv_heads, query_heads // kv_heads, head_dim)
    mixed = scaled_dot_product_attention(rows, key, value, attn_mask=attention_mask, scale=scaling)
    return mixed.reshape(batch, 1, query_heads, value.shape[-1]), None


for _name, _function, _mask in (
    (SDPA, _tapped_sdpa, sdpa_mask),
    (EAGER, _tapped_eager, eager_mask),
    (GROUPED, grouped_attention, sdpa_mask),
):
    AttentionInterface.register(_name, _function)
    AttentionMaskInterface.register(_name, _refusing_padding(_mask))
