"""Quantized layers inherit `crop` and the batch operations, which see only what is not quantized yet."""

import torch
from transformers.cache_utils import Fp8QuantizedLayer, QuantizedLayer


class WithoutLoss(QuantizedLayer):
    """What the layers of quanto and hqq derive from; quantizing is left out."""

    def _quantize(self, tensor, axis):
        return tensor

    def _dequantize(self, tensor):
        return tensor


def attempt(operation, *arguments):
    """What came of a call, in words."""
    try:
        operation(*arguments)
    except (IndexError, RuntimeError) as error:
        return f"{type(error).__name__}: {error}"
    return "no error"


rows = torch.ones(2, 2, 4, 8)  # batch, heads, rows, elements
for layer_class in (Fp8QuantizedLayer, WithoutLoss):
    for name, argument, sequences in (
        ("crop", -1, 2),
        ("batch_select_indices", torch.tensor([0]), 1),
        ("batch_repeat_interleave", 2, 4),
    ):
        layer = layer_class()
        layer.update(rows[:, :, :3], rows[:, :, :3])
        layer.update(rows[:, :, 3:], rows[:, :, 3:])
        print(f"{layer_class.__name__}.{name}: {attempt(getattr(layer, name), argument)}")
        row = torch.ones(sequences, 2, 1, 8)
        print(f"    rows counted: {layer.get_seq_length()}; next write: {attempt(layer.update, row, row)}")
