"""`StaticLayer.update` counts the rows before it writes them, so a write that is refused is counted too."""

import torch
from transformers import LlamaConfig, StaticCache

config = LlamaConfig(hidden_size=16, num_hidden_layers=1, num_attention_heads=2, num_key_value_heads=2)
cache = StaticCache(config=config, max_cache_len=12)
rows = torch.ones(1, 2, 9, 8)
cache.update(rows[:, :, :4], rows[:, :, :4], 0)
try:
    cache.update(rows, rows, 0)
except IndexError as error:
    print("IndexError:", error)
print("rows counted:", int(cache.get_seq_length()), "rows written:", int(cache.layers[0].keys[0, 0, :, 0].sum()))
try:
    cache.update(rows[:, :, :1], rows[:, :, :1], 0)
except IndexError as error:
    print("one more row, for which there is room: IndexError:", error)
