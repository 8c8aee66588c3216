"""`Cache.crop` goes layer by layer: when a sliding layer refuses, the layers before it are cropped already."""

import torch
from transformers import DynamicCache, Qwen2Config

shape = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "num_key_value_heads": 2}
window = {"use_sliding_window": True, "sliding_window": 4, "layer_types": ["full_attention", "sliding_attention"]}
cache = DynamicCache(config=Qwen2Config(**shape, **window))
rows = torch.ones(1, 2, 4, 8)
for layer in (0, 1):
    cache.update(rows, rows, layer)
print("is_croppable:", cache.is_croppable)
try:
    cache.crop(-1)
except RuntimeError as error:
    print("RuntimeError:", str(error)[:77], "...")
print("rows by layer after the refusal:", [cache.get_seq_length(layer) for layer in (0, 1)])
