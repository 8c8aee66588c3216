"""What a KV cache is: geometry, identity, semantics, and the vocabulary of residency. No tensors here."""
