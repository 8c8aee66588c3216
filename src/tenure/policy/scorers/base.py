"""What a scorer is given and what it answers.

Axis letters: `L` pooled layers of one shape, `H` key-value heads, `G` query heads a key-value head, `W` recent queries,
`R` rows of a block, `D` head dim.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch

from tenure.kv.residency import ResidencyView


@dataclass(frozen=True, slots=True)
class KeyGroup:
    """Keys of one block for the layers that share a shape: `keys` is `[L, H, R, D]`, `layers` their ordinals."""

    layers: tuple[int, ...]
    keys: torch.Tensor


class KeySource(Protocol):
    """Where a scorer reads keys, wherever they are."""

    def block_keys(self, block: int) -> Sequence[KeyGroup]:
        """All keys of a block as written (after RoPE), from the host copy or the device. Do not modify."""


@dataclass(frozen=True, slots=True)
class RecentQueries:
    """The model's own last queries, after RoPE, newest last.

    `by_layer[ordinal]` is `[H * G, W, D]` on the device where the layer ran; `scaling` is what that layer's attention
    multiplies scores with.
    """

    by_layer: tuple[torch.Tensor, ...]
    scaling: tuple[float, ...]

    @property
    def rows(self) -> int:
        """Number of queries `W`; 0 before the first forward."""
        return self.by_layer[0].shape[1] if self.by_layer else 0


class Scorer(Protocol):
    """Ranks all blocks of a sequence by how much they matter now.

    `query_rows` is how many recent queries the scorer reads; 0 means that it needs none and the tap stays off.
    """

    name: str
    query_rows: int

    def score(self, view: ResidencyView, keys: KeySource, queries: RecentQueries) -> list[float]:
        """One score a block of `view.blocks`, higher is more worth keeping. NaN counts as lowest."""

    def forget(self, first_block: int) -> None:
        """Drop what was remembered about `first_block` and later ones: their keys are about to be others."""
