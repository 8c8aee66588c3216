"""A static sliding layer smaller than the model's window lets rows go that the model still attends to."""

import torch
from transformers import MistralConfig, StaticCache

config = MistralConfig(hidden_size=16, num_hidden_layers=1, num_attention_heads=2, sliding_window=16)
cache = StaticCache(config=config, max_cache_len=12)
rows = torch.arange(13.0).view(1, 1, 13, 1)  # each row holds its position
cache.update(rows[:, :, :12], rows[:, :, :12], 0)
keys, _ = cache.update(rows[:, :, 12:], rows[:, :, 12:], 0)
print("window of the model:", config.sliding_window, "rows counted:", cache.get_seq_length())
print("positions that the 13th row can see:", [int(key) for key in keys.flatten()])
