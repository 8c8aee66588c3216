"""A sliding layer that was told to record after its window was full crops rows that it no longer has."""

import torch
from transformers import DynamicCache, MistralConfig

config = MistralConfig(hidden_size=16, num_hidden_layers=1, num_attention_heads=2, sliding_window=4)
cache = DynamicCache(config=config)
rows = torch.arange(4.0).view(1, 1, 4, 1)  # each row holds its position
cache.update(rows, rows, 0)
try:
    cache.crop(-1)
except RuntimeError as error:
    print("RuntimeError:", error)
cache.activate_past_recording()  # what the message asks for
cache.crop(-1)
announced, first = cache.get_mask_sizes(1, 0)
keys, _ = cache.update(rows[:, :, 3:], rows[:, :, 3:], 0)
print("rows announced for the next read:", list(range(first, first + announced)))
print("rows that it returned:           ", [int(key) for key in keys.flatten()])
