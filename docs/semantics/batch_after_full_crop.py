"""`DynamicLayer` skips batch operations while it holds 0 rows, and then refuses the batch that was asked for."""

import torch
from transformers import DynamicCache

row = torch.ones(1, 1, 1, 8)  # batch, heads, rows, elements
for operation, sequences, after in (
    (lambda cache: cache.batch_select_indices(torch.tensor([0])), 2, 1),
    (lambda cache: cache.batch_repeat_interleave(2), 1, 2),
):
    cache = DynamicCache()
    cache.update(row.repeat(sequences, 1, 1, 1), row.repeat(sequences, 1, 1, 1), 0)
    cache.crop(-1)
    operation(cache)
    print(f"{sequences} -> {after} sequences asked for, the layer has shape {tuple(cache.layers[0].keys.shape)}")
    try:
        cache.update(row.repeat(after, 1, 1, 1), row.repeat(after, 1, 1, 1), 0)
    except RuntimeError as error:
        print("RuntimeError:", error)
