"""How rows are laid out: which (layer, key or value) planes share one tensor, and what a block looks like on the host.

Axis letters: `P` planes, `H` key-value heads, `R` rows, `D` head dim.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from tenure.errors import GeometryError
from tenure.kv.geometry import CacheGeometry, LayerKind


@dataclass(frozen=True, slots=True)
class PlaneGroup:
    """Planes of equal shape, kept in one tensor `[P, H, R, D]`: first all keys, then all values.

    `key_layers` and `value_layers` name, plane by plane, the pooled layer (by ordinal) that the plane belongs to.
    Keys come first so that a block's keys of all layers are one contiguous `[P_keys * H, R, D]`, which a scorer can
    multiply with in a single call.
    """

    heads: int
    head_dim: int
    key_layers: tuple[int, ...]
    value_layers: tuple[int, ...]

    @property
    def planes(self) -> int:
        """Number of planes `P`."""
        return len(self.key_layers) + len(self.value_layers)

    @property
    def elements_per_row(self) -> int:
        """Elements that one row takes in this group."""
        return self.planes * self.heads * self.head_dim


@dataclass(frozen=True, slots=True)
class ArenaLayout:
    """The pooled layers of a model, grouped by shape.

    `layer_indices[ordinal]` is the model's layer index of the pooled layer `ordinal`.
    """

    groups: tuple[PlaneGroup, ...]
    layer_indices: tuple[int, ...]
    block_size: int

    @property
    def elements_per_row(self) -> int:
        """Elements of one row across all pooled layers."""
        return sum(group.elements_per_row for group in self.groups)

    @property
    def elements_per_block(self) -> int:
        """Elements of one block across all pooled layers."""
        return self.elements_per_row * self.block_size

    def bytes_per_row(self, dtype: torch.dtype) -> int:
        """Bytes of one row across all pooled layers."""
        return self.elements_per_row * dtype.itemsize

    def bytes_per_block(self, dtype: torch.dtype) -> int:
        """Bytes of one block across all pooled layers."""
        return self.elements_per_block * dtype.itemsize

    def block_views(self, buffer: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """View a flat buffer of `elements_per_block` elements as one `[P, H, block_size, D]` tensor a group."""
        views, start = [], 0
        for group in self.groups:
            shape = (group.planes, group.heads, self.block_size, group.head_dim)
            stop = start + math.prod(shape)
            views.append(buffer[start:stop].view(shape))
            start = stop
        return tuple(views)


def layout_for(geometry: CacheGeometry, *, block_size: int) -> ArenaLayout:
    """Group the full-attention layers of `geometry` by shape.

    Raises `GeometryError` when the model has no full-attention layer (there is nothing that grows with the context)
    or `block_size` is not positive.
    """
    if block_size < 1:
        raise GeometryError(f"block_size is {block_size}; it must be at least 1 row")
    pooled = [layer for layer in geometry.layers if layer.kind is LayerKind.FULL]
    if not pooled:
        kinds = sorted({layer.kind.value for layer in geometry.layers})
        raise GeometryError(
            f"none of the model's {len(geometry.layers)} layers is full attention (they are: {', '.join(kinds)}); "
            "its cache does not grow with the context, so there is nothing to pool. Use the framework's own cache."
        )
    keys: dict[tuple[int, int], list[int]] = {}
    values: dict[tuple[int, int], list[int]] = {}
    for ordinal, layer in enumerate(pooled):
        keys.setdefault((layer.kv_heads, layer.key_dim), []).append(ordinal)
        values.setdefault((layer.kv_heads, layer.value_dim), []).append(ordinal)
    shapes: Sequence[tuple[int, int]] = list(dict.fromkeys([*keys, *values]))
    groups = tuple(
        PlaneGroup(
            heads=heads,
            head_dim=head_dim,
            key_layers=tuple(keys.get((heads, head_dim), ())),
            value_layers=tuple(values.get((heads, head_dim), ())),
        )
        for heads, head_dim in shapes
    )
    return ArenaLayout(groups=groups, layer_indices=tuple(layer.index for layer in pooled), block_size=block_size)
