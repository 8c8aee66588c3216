"""Hugging Face Transformers models on the pool."""

from tenure.runtime.hf.cache import CacheStatistics, PooledCache, PooledLayer
from tenure.runtime.hf.compiled import CompiledDecoder

__all__ = ["CacheStatistics", "CompiledDecoder", "PooledCache", "PooledLayer"]
