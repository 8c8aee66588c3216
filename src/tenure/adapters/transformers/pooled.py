"""Our own `PooledCache` as a subject: with room for everything, and with less, so that blocks are evicted."""

from __future__ import annotations

import random
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
            max_operations=14 if pool_rows == roomy else 36,
            move_rows=None if pool_rows == roomy else _move_rows,
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


def _move_rows(cache: Any, choice: int) -> None:
    """Evict some blocks, recall others into the room there is, then drop or promote single rows."""
    from tenure.kv.residency import Plan

    source = random.Random(choice)
    pager = cache.pager
    view = pager.view()
    evict = [block.index for block in view.blocks if block.evictable and source.random() < 0.5]
    freed_rows = sum(block.resident_rows for block in view.blocks if block.index in evict)
    recall = []
    for block in view.blocks:
        missing_rows = block.written_rows - block.resident_rows
        if missing_rows and block.index not in evict and missing_rows <= view.free_rows + freed_rows:
            recall.append(block.index)
            freed_rows -= missing_rows
    pager.apply(Plan(epoch=view.epoch, evict=tuple(evict), recall=tuple(recall), reason="rows moved by a check"))
    thinned = [
        block.index * view.block_size + source.randrange(view.block_size)
        for block in pager.view().blocks
        if block.evictable and block.resident_rows == view.block_size and source.random() < 0.3
    ]
    pager.drop_rows(thinned)
