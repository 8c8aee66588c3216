"""An FP8 layer scales by its first write: whatever is larger later is cut off at that size."""

import torch
from transformers import LlamaConfig, QuantizedCache

config = LlamaConfig(hidden_size=16, num_hidden_layers=1, num_attention_heads=2, num_key_value_heads=2)
cache = QuantizedCache("fp8", config=config)
first, later = torch.full((1, 2, 1, 8), 1.0), torch.full((1, 2, 1, 8), 2.0)
cache.update(first, first, 0)
keys, _ = cache.update(later, later, 0)
print("written 1.0 then 2.0, read", keys[0, 0, :, 0].tolist())
