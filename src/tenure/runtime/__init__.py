"""Things that run: `micro` (blocks only, the reference) and `hf` (Transformers models on the pool)."""
