"""Where rows live: arena, host tier, transfers, pager, sizing."""

from tenure.pool.arena import Arena
from tenure.pool.events import BlockEvicted, BlockRecalled, BlockSealed, Cropped, Listener, PoolEvent
from tenure.pool.frames import BlockFrames, BlockRun
from tenure.pool.host import HostBlock, HostStatistics, HostTier
from tenure.pool.layout import ArenaLayout, PlaneGroup, layout_for
from tenure.pool.pager import Pager
from tenure.pool.planning import SINK_BLOCKS, TAIL_BLOCKS, minimum_blocks
from tenure.pool.pool import Pool, PoolStatistics
from tenure.pool.run import PagerStatistics
from tenure.pool.sizing import (
    BLOCK_SIZES,
    LEAST_CHOSEN_BLOCKS,
    PoolSizeWarning,
    PoolSizing,
    available_host_bytes,
    chosen_block_size,
    free_device_bytes,
    size_pool,
)
from tenure.pool.transfer import DirectTransfer, StreamTransfer, Transfer, transfer_for
from tenure.pool.windows import ArenaWindow

__all__ = [
    "BLOCK_SIZES",
    "LEAST_CHOSEN_BLOCKS",
    "SINK_BLOCKS",
    "TAIL_BLOCKS",
    "Arena",
    "ArenaLayout",
    "ArenaWindow",
    "BlockEvicted",
    "BlockFrames",
    "BlockRecalled",
    "BlockRun",
    "BlockSealed",
    "Cropped",
    "DirectTransfer",
    "HostBlock",
    "HostStatistics",
    "HostTier",
    "Listener",
    "Pager",
    "PagerStatistics",
    "PlaneGroup",
    "Pool",
    "PoolEvent",
    "PoolSizeWarning",
    "PoolSizing",
    "PoolStatistics",
    "StreamTransfer",
    "Transfer",
    "available_host_bytes",
    "chosen_block_size",
    "free_device_bytes",
    "layout_for",
    "minimum_blocks",
    "size_pool",
    "transfer_for",
]
