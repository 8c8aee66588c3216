"""Hugging Face Transformers models on the pool."""

from tenure.runtime.hf.cache import CacheStatistics, PooledCache
from tenure.runtime.hf.compiled import CompiledDecoder
from tenure.runtime.hf.engine import Claim, Engine, Request, RequestState
from tenure.runtime.hf.layer import PooledLayer
from tenure.runtime.hf.sampling import Sampling
from tenure.runtime.hf.session import Session
from tenure.runtime.hf.session_values import (
    BlockPlace,
    ContextLimitWarning,
    ReplyEnd,
    ReplyStatistics,
    SessionStatistics,
)

__all__ = [
    "BlockPlace",
    "CacheStatistics",
    "Claim",
    "CompiledDecoder",
    "ContextLimitWarning",
    "Engine",
    "PooledCache",
    "PooledLayer",
    "ReplyEnd",
    "ReplyStatistics",
    "Request",
    "RequestState",
    "Sampling",
    "Session",
    "SessionStatistics",
]
