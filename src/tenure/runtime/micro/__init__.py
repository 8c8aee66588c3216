"""The block-only reference runtime: no tensors, no tokens, deterministic."""
