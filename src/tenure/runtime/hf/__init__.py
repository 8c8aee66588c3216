"""Hugging Face Transformers models on the pool."""

from tenure.runtime.hf.cache import CacheStatistics, PooledCache, PooledLayer

__all__ = ["CacheStatistics", "PooledCache", "PooledLayer"]
