"""Hugging Face Transformers: its caches, driven and judged by the rules of `tenure.kv.semantics`.

Importing this package imports neither torch nor transformers; building a subject does.
"""
