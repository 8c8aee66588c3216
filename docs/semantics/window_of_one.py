"""A window of one row keeps `keys[:, :, -1 + 1 :]`, which is `keys[:, :, 0:]`: every row there ever was."""

import torch
from transformers import DynamicCache, MistralConfig

config = MistralConfig(hidden_size=16, num_hidden_layers=1, num_attention_heads=2, sliding_window=1)
cache = DynamicCache(config=config)
for position in range(4):
    row = torch.full((1, 1, 1, 1), float(position))  # each row holds its position
    announced, first = cache.get_mask_sizes(1, 0)
    keys, _ = cache.update(row, row, 0)
    print("announced", list(range(first, first + announced)), "returned", [int(key) for key in keys.flatten()])
