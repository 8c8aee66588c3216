"""`attention_mass`: the attention that the model's own recent queries would put on each block, on the device or not.

For query `q` of head `h` in layer `l` and block `b`::

    mass[l, h, q, b] = sum over rows j of b of  exp(scaling * q.k_j)  /  sum over all rows
    seen(b)          = combine over l of max over h of  max over q of  decay^(age of q) * mass[l, h, q, b]
    score(b)         = max over d = 0, +-1, ... of  near_share^(|d| * block_size / near_rows) * seen(b + d)

One look of one head is enough to keep a block: retrieval is done by a few heads, for the few words of a question that
name what is asked for, and a mean over heads or a sum over queries drowns them in the looks that every token takes. And what
stands next to a match belongs to it: what is recited next has not been attended to yet, and a fact that a block border cuts
is matched on one side only. So a block inherits from those up to `near_rows` away (not from the sink, which is
looked at for being first; and what stands before a match gets less of very short blocks, see `LEAST_LEAD_ROWS`).

Keys are those that attention itself uses (after RoPE, of the model being served), so no second model and no proxy is
involved. Cost: one `[G*W, D] x [D, R]` product a block, layer and key-value head; all keys are read once.

Source of the idea: softmax mass of recent queries as in SnapKV (arXiv 2404.14469, section 3), applied to blocks and to
rows that are not on the device. What was tried for each option is in dev/LOG.md.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch

from tenure.errors import PolicyError
from tenure.kv.residency import ResidencyView
from tenure.policy.scorers.base import KeySource, RecentQueries

COMBINATIONS = ("max", "mean", "top")
LEAST_LEAD_ROWS = 16
"""Towards what stands before a match, blocks shorter than this count as this long: with blocks of 8 in a pool of 128 rows, a
match would else take as many blocks before itself as behind, and what is recited next found no place (dev/LOG.md)."""


@dataclass(frozen=True, slots=True)
class _Reach:
    """How far a match lends, in blocks, and the share that is left after each."""

    blocks: int
    share: float

    @classmethod
    def of(cls, near_rows: int, near_share: float, block_rows: int) -> _Reach:
        return cls(blocks=-(-near_rows // block_rows), share=near_share ** (block_rows / near_rows))


class AttentionMassScorer:
    """See the module. `query_rows` recent queries count, each a factor `decay` less than the next newer one.

    `combine` over layers: "max", "mean", or "top", the mean of the best `top_layers`.
    """

    name = "attention_mass"

    def __init__(
        self,
        *,
        query_rows: int = 32,
        decay: float = 0.95,
        combine: str = "max",
        top_layers: int = 8,
        near_rows: int = 64,
        near_share: float = 0.5,
    ) -> None:
        if query_rows < 1:
            raise PolicyError(f"attention_mass: query_rows is {query_rows}; it needs at least 1 recent query")
        if not 0 < decay <= 1:
            raise PolicyError(f"attention_mass: decay is {decay}; expected above 0 and at most 1")
        if near_rows < 0 or not 0 <= near_share < 1:
            raise PolicyError(
                f"attention_mass: near_rows={near_rows}, near_share={near_share}; expected 0 rows or more and "
                "a share from 0 to below 1"
            )
        if combine not in COMBINATIONS:
            raise PolicyError(f"attention_mass: combine is {combine!r}; expected one of {', '.join(COMBINATIONS)}")
        self.query_rows = query_rows
        self.decay = decay
        self.combine = combine
        self.top_layers = top_layers
        self.near_rows = near_rows
        self.near_share = near_share

    def score(self, view: ResidencyView, keys: KeySource, queries: RecentQueries) -> list[float]:
        """One score a block, in `[0, 1]`; NaN for all before the first query."""
        if not view.blocks or not queries.rows:
            return [math.nan] * len(view.blocks)
        per_group = self._log_masses(view, keys, queries)
        by_layer = torch.cat([self._combine_heads(log_mass, window=queries.rows) for log_mass in per_group])
        if self.combine == "max":
            scores = by_layer.amax(dim=0)
        elif self.combine == "mean":
            scores = by_layer.mean(dim=0)
        else:
            scores = by_layer.topk(min(self.top_layers, by_layer.shape[0]), dim=0).values.mean(dim=0)
        return self._near([float(score) for score in scores.tolist()], view)

    def _near(self, seen: list[float], view: ResidencyView) -> list[float]:
        if not self.near_rows:
            return seen
        behind = _Reach.of(self.near_rows, self.near_share, view.block_size)
        ahead = _Reach.of(self.near_rows, self.near_share, max(view.block_size, LEAST_LEAD_ROWS))
        # A sink is looked at for being first, not for what it says: nothing follows from it. The tail stays anyway.
        passed_on = [0.0 if block.protected else mass for block, mass in zip(view.blocks, seen, strict=True)]
        scores = []
        for index, own in enumerate(seen):
            before = (passed_on[index - d] * behind.share**d for d in range(min(behind.blocks, index) + 1))
            last = len(seen) - 1
            after = (passed_on[index + d] * ahead.share**d for d in range(1, min(ahead.blocks, last - index) + 1))
            scores.append(max(own, *before, *after))
        return scores

    def _log_masses(self, view: ResidencyView, keys: KeySource, queries: RecentQueries) -> list[torch.Tensor]:
        """Unnormalised log mass, one `[blocks, L, H, G*W]` tensor a plane group."""
        stacked: dict[int, tuple[torch.Tensor, tuple[int, int]]] = {}
        columns: list[list[torch.Tensor]] = []
        for block in view.blocks:
            for index, group in enumerate(keys.block_keys(block.index)):
                layers, heads, rows, dim = group.keys.shape
                if index not in stacked:
                    stacked[index] = (_stack(queries, group.layers, heads), (layers, heads))
                    columns.append([])
                query = stacked[index][0]
                flat = group.keys.to(query.device, non_blocking=True).reshape(layers * heads, rows, dim)
                scores = torch.bmm(query, flat.to(query.dtype).transpose(1, 2))
                columns[index].append(scores.float().logsumexp(dim=-1))
        return [
            torch.stack(column).view(len(column), *shape, -1)
            for column, (_, shape) in zip(columns, stacked.values(), strict=True)
        ]

    def _combine_heads(self, log_mass: torch.Tensor, *, window: int) -> torch.Tensor:
        """`[blocks, L, H, G*W]` to `[L, blocks]`: softmax over blocks, then the decayed maximum over queries and heads."""
        blocks, layers, heads, _ = log_mass.shape
        mass = log_mass.softmax(dim=0).view(blocks, layers, heads, -1, window)
        ages = torch.arange(window - 1, -1, -1, device=mass.device, dtype=mass.dtype)
        return (mass * self.decay**ages).flatten(2).amax(dim=-1).transpose(0, 1)

    def forget(self, first_block: int) -> None:
        """Nothing is remembered."""


def _stack(queries: RecentQueries, layers: tuple[int, ...], heads: int) -> torch.Tensor:
    """Scaled queries of some layers as `[L * H, G * W, D]`; query head `h * G + g` reads key-value head `h`."""
    parts = []
    for layer in layers:
        query = queries.by_layer[layer] * queries.scaling[layer]
        query_heads, window, dim = query.shape
        parts.append(query.reshape(heads, query_heads // heads * window, dim))
    return torch.cat(parts)
