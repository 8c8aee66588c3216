"""Hugging Face Transformers models on the pool."""
