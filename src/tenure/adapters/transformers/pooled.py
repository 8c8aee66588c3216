"""Our own `PooledCache` as a subject: with room for everything, and with less, so that blocks are evicted."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

from tenure.adapters.transformers.stock import tiny_config
from tenure.adapters.transformers.subjects import BuiltCache, Subject, build_for

#: Small blocks, so that a short run seals, evicts and crops across several.
_BLOCK_SIZE = 2
#: 16 resident rows are 8 blocks: 1 sink, 4 of the tail and the head are not to be moved, and 2 blocks make room.
_TIGHT_WRITE_ROWS = 4
#: More than any run needs, and little enough that the host tier is set up quickly.
_HOST_BYTES = 1 << 20


def pooled_subjects() -> tuple[Subject, ...]:
    """`tenure:PooledCache` with room, under eviction, and beside native sliding layers."""
    roomy, tight = 128, 16
    variants = {
        "": ("llama", roomy, "three pooled layers with room for everything"),
        "/evicting": ("llama", tight, f"three pooled layers, {tight} resident rows"),
        "/gemma3": ("gemma3", tight, f"two native sliding layers, then a pooled one, {tight} resident rows"),
        "/qwen2": ("qwen2", roomy, "a pooled layer with room for everything, then two native sliding ones"),
    }
    return tuple(
        Subject(
            name=f"tenure:PooledCache{suffix}",
            summary=f"{summary}, blocks of {_BLOCK_SIZE}",
            build=partial(_build, family, pool_rows),
            max_batch=1,
            max_rows=48,
            max_write_rows=None if pool_rows == roomy else _TIGHT_WRITE_ROWS,
            positions=None if pool_rows == roomy else _positions,
        )
        for suffix, (family, pool_rows, summary) in variants.items()
    )


def _build(family: str, pool_rows: int) -> BuiltCache:
    from tenure.runtime.hf import PooledCache

    def make(config: Any) -> PooledCache:
        return PooledCache(
            config,
            pool=pool_rows,
            policy="recency",
            block_size=_BLOCK_SIZE,
            host_bytes=_HOST_BYTES,
            poison_dead_rows=True,
        )

    return build_for(tiny_config(family), make)


def _positions(cache: Any, layer_index: int, first_position: int, returned_rows: int) -> Sequence[int]:
    """Which position each returned row stands for: the arena's own book for a pooled layer, then the rows under way."""
    from tenure.runtime.hf import PooledLayer

    if not isinstance(cache.layers[layer_index], PooledLayer):
        return range(first_position, first_position + returned_rows)
    settled = cache.pager.arena.positions
    under_way = range(cache.logical_rows, cache.logical_rows + max(0, returned_rows - len(settled)))
    return (*settled, *under_way)[:returned_rows]
