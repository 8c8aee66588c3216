"""`key_bounds`: an upper bound of the last query's dot product with any key of a block.

For block `b`, layer `l`, head `h`, with per-channel bounds `low <= k_j <= high` over the block's rows::

    bound[l, h, b] = sum over channels c of max(q_c * low_c, q_c * high_c)
    score(b)       = mean over l of max over query heads h of bound[l, h, b]

Source: Quest (arXiv 2406.10774, section 3.3). Bounds of sealed blocks are computed once and kept (2 * L * H * D numbers
a block). The bound is loose after RoPE, whose rotating channels span both signs within a block: see
`tenure bench recall`.
"""

from __future__ import annotations

import math

import torch

from tenure.kv.residency import ResidencyView
from tenure.policy.scorers.base import KeySource, RecentQueries


class KeyBoundsScorer:
    """See the module."""

    name = "key_bounds"
    query_rows = 1

    def __init__(self) -> None:
        self._bounds: dict[int, list[tuple[torch.Tensor, torch.Tensor]]] = {}

    def score(self, view: ResidencyView, keys: KeySource, queries: RecentQueries) -> list[float]:
        """One score a block, in units of the attention logit."""
        if not queries.rows:
            return [math.nan] * len(view.blocks)
        scores = []
        for block in view.blocks:
            bounds = self._bounds.get(block.index)
            if bounds is None:
                bounds = _bounds_of(keys, block.index)
                if block.written_rows == view.block_size:
                    self._bounds[block.index] = bounds
            scores.append(_score_block(bounds, queries))
        return scores

    def forget(self, first_block: int) -> None:
        """Drop bounds of blocks that are about to be rewritten."""
        self._bounds = {block: bounds for block, bounds in self._bounds.items() if block < first_block}


def _bounds_of(keys: KeySource, block: int) -> list[tuple[torch.Tensor, torch.Tensor]]:
    by_layer: dict[int, tuple[torch.Tensor, torch.Tensor]] = {}
    for group in keys.block_keys(block):
        low, high = group.keys.float().aminmax(dim=2)
        for plane, layer in enumerate(group.layers):
            by_layer[layer] = (low[plane], high[plane])
    return [by_layer[layer] for layer in sorted(by_layer)]


def _score_block(bounds: list[tuple[torch.Tensor, torch.Tensor]], queries: RecentQueries) -> float:
    total = 0.0
    for (low, high), query, scaling in zip(bounds, queries.by_layer, queries.scaling, strict=True):
        heads, dim = low.shape
        last = query[:, -1].float().view(heads, -1, dim) * scaling
        products = (last * low.to(last.device).unsqueeze(1), last * high.to(last.device).unsqueeze(1))
        total += float(torch.maximum(*products).sum(dim=-1).max())
    return total / len(bounds)
