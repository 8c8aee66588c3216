"""Hugging Face Transformers models on the pool."""

from tenure.runtime.hf.cache import CacheStatistics, PooledCache, PooledLayer
from tenure.runtime.hf.compiled import CompiledDecoder
from tenure.runtime.hf.sampling import Sampling
from tenure.runtime.hf.session import (
    BlockPlace,
    ContextLimitWarning,
    ReplyEnd,
    ReplyStatistics,
    Session,
    SessionStatistics,
)

__all__ = [
    "BlockPlace",
    "CacheStatistics",
    "CompiledDecoder",
    "ContextLimitWarning",
    "PooledCache",
    "PooledLayer",
    "ReplyEnd",
    "ReplyStatistics",
    "Sampling",
    "Session",
    "SessionStatistics",
]
