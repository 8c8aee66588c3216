"""One pooled layer, in the shape that Transformers expects of a cache's layer."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from transformers.cache_utils import CacheLayerMixin

from tenure.errors import UsageError

if TYPE_CHECKING:
    from tenure.runtime.hf.cache import PooledCache


class PooledLayer(CacheLayerMixin):  # type: ignore[misc]
    """One full-attention layer of a `PooledCache`. All state is the cache's; this is the shape Transformers expects."""

    is_sliding = False
    is_croppable = True

    def __init__(self, cache: PooledCache, ordinal: int) -> None:
        super().__init__()
        self._cache = cache
        self._ordinal = ordinal
        self.is_initialized = True

    def lazy_initialization(self, key_states: torch.Tensor, value_states: torch.Tensor) -> None:
        """Nothing to do: the pool is allocated by the first forward."""

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *args: Any, **kwargs: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Write this layer's rows and return the dense view of all resident rows, the new ones last."""
        return self._cache.append_layer(self._ordinal, key_states, value_states)

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        """`(resident rows including the query's, logical minus resident rows)` as they will be. A pure question."""
        return self._cache.mask_sizes(query_length)

    def get_seq_length(self) -> int:
        """Logical rows: what positions are counted from."""
        return self._cache.logical_rows

    def get_max_length(self) -> int:
        """-1, Transformers' word for no maximum."""
        return -1

    def crop(self, tokens_to_remove: int) -> None:
        """Refused: layers of one cache are cropped together, by the cache."""
        raise UsageError(f"crop({tokens_to_remove}) was called on one layer; call it on the cache")
