"""`pooled_cosine`: cosine between the last query and each block's pooled key, KVFlash's `qk` policy.

For block `b`, layer `l`, key-value head `k`::

    pooled[b, l, k] = normalise(sum over rows j of b of k_j)         (x / (|x| + 1e-6), once, when the block is sealed)
    score(b)        = mean over l of max over query heads h of  normalise(q[l, h]) . pooled[b, l, head of h]

Source: Luce-Org/lucebox pull request 385 (commit 11d81417), target-QK scoring. A block whose pooled key is not finite
scores below the cosine's floor (there: a missing key once scored 0 and beat real, negative ones).
"""

from __future__ import annotations

import math
from collections.abc import Iterable

import torch

from tenure.kv.residency import ResidencyView
from tenure.policy.scorers.base import KeySource, RecentQueries

EPSILON = 1e-6
MISSING = -2.0
"""Score of a block without a usable pooled key: strictly below any cosine."""


class PooledCosineScorer:
    """See the module. Pooled keys of sealed blocks are computed once and kept (`L * H * D` numbers a block)."""

    name = "pooled_cosine"
    query_rows = 1

    def __init__(self) -> None:
        self._pooled: dict[int, list[torch.Tensor]] = {}

    def score(self, view: ResidencyView, keys: KeySource, queries: RecentQueries) -> list[float]:
        """One score a block in [-1, 1], or -2 for a block that cannot be scored."""
        if not queries.rows:
            return [math.nan] * len(view.blocks)
        last = [_normalise(query[:, -1]) for query in queries.by_layer]
        return [self._score_block(pooled, last) for pooled in self._all_pooled(view, keys)]

    def _all_pooled(self, view: ResidencyView, keys: KeySource) -> Iterable[list[torch.Tensor]]:
        for block in view.blocks:
            if block.index in self._pooled:
                yield self._pooled[block.index]
                continue
            by_layer: dict[int, torch.Tensor] = {}
            for group in keys.block_keys(block.index):
                by_layer.update(zip(group.layers, _normalise(group.keys.float().sum(dim=2)), strict=True))
            pooled = [by_layer[layer] for layer in sorted(by_layer)]
            if block.written_rows == view.block_size:
                self._pooled[block.index] = pooled
            yield pooled

    @staticmethod
    def _score_block(pooled: list[torch.Tensor], last: list[torch.Tensor]) -> float:
        total = 0.0
        for key, query in zip(pooled, last, strict=True):
            heads, dim = key.shape
            cosines = torch.einsum("hgd,hd->hg", query.view(heads, -1, dim), key.to(query.device))
            total += float(cosines.max())
        return total / len(pooled) if math.isfinite(total) else MISSING

    def forget(self, first_block: int) -> None:
        """Drop pooled keys of blocks that are about to be rewritten."""
        self._pooled = {block: pooled for block, pooled in self._pooled.items() if block < first_block}


def _normalise(vectors: torch.Tensor) -> torch.Tensor:
    vectors = vectors.float()
    return torch.div(vectors, vectors.norm(dim=-1, keepdim=True) + EPSILON)
