"""Rows that say in their bits which row they are: position, layer, key or value, head and version, for any dtype.

Bits, not values, are compared everywhere, so a row that was converted, rounded or taken from a neighbour is found. No
pattern is a NaN, so that a NaN in the run can only be a poisoned dead row.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import torch

from tenure.kv.geometry import CacheGeometry, LayerGeometry, LayerKind
from tenure.pool import Arena, HostBlock

LARGEST_FINITE = 31744
"""Sixteen-bit patterns below this are finite in float16 and in bfloat16."""
INTEGERS = {torch.float32: torch.int32, torch.bfloat16: torch.int16, torch.float16: torch.int16}
DTYPES = tuple(INTEGERS)


@dataclass(frozen=True)
class Shape:
    """Pooled layers as `(heads, key dim, value dim)`; `windowed` adds a sliding layer that must not be pooled."""

    layers: tuple[tuple[int, int, int], ...]
    windowed: bool = False

    def geometry(self, dtype: torch.dtype) -> CacheGeometry:
        layers = [
            LayerGeometry(index=index, kind=LayerKind.FULL, kv_heads=heads, key_dim=key_dim, value_dim=value_dim)
            for index, (heads, key_dim, value_dim) in enumerate(self.layers)
        ]
        if self.windowed:
            layers.append(
                LayerGeometry(
                    index=len(layers), kind=LayerKind.SLIDING, kv_heads=1, key_dim=2, value_dim=2, window_rows=4
                )
            )
        name = str(dtype).removeprefix("torch.")
        return CacheGeometry(layers=tuple(layers), dtype=name, element_bytes=dtype.itemsize)


UNIFORM = Shape(layers=((2, 2, 2), (2, 2, 2)))
MIXED = Shape(layers=((2, 2, 3), (1, 3, 3), (2, 3, 2)), windowed=True)
SHAPES = (UNIFORM, MIXED)


@lru_cache(maxsize=4096)
def _row_bits(  # noqa: PLR0917 - a cache key is positional
    plane: int, heads: int, dim: int, positions: tuple[int, ...], versions: tuple[int, ...], dtype: torch.dtype
) -> torch.Tensor:

    position = torch.tensor(positions, dtype=torch.int64).view(1, -1, 1)
    version = torch.tensor(versions, dtype=torch.int64).view(1, -1, 1)
    head = torch.arange(heads).view(-1, 1, 1)
    place = torch.arange(dim).view(1, 1, -1)
    owner = (version % 900) * 32 + plane * 4 + head
    mixed = (position * 7919 + version * 104729 + plane * 331 + head * 17 + place * 13) % LARGEST_FINITE
    pattern = torch.where(place == 0, position.expand_as(mixed), torch.where(place == 1, owner, mixed))
    negative = (position + place) % 2
    wide = dtype.itemsize == 4
    bits = pattern * 2**16 + mixed - negative * 2**31 if wide else pattern - negative * 2**15
    return bits.to(INTEGERS[dtype]).unsqueeze(0)


def row_bits(
    *, plane: int, heads: int, dim: int, positions: Sequence[int], versions: Sequence[int], dtype: torch.dtype
) -> torch.Tensor:
    """The rows `[1, H, T, D]` of one (layer, key or value) plane, as integers of the element's size. Do not modify."""
    return _row_bits(plane, heads, dim, tuple(positions), tuple(versions), dtype)


def layer_rows(
    shape: Shape, ordinal: int, *, positions: Sequence[int], versions: Sequence[int], dtype: torch.dtype
) -> tuple[torch.Tensor, torch.Tensor]:
    """Keys and values that a forward would hand to a pooled layer."""
    heads, key_dim, value_dim = shape.layers[ordinal]
    keys, values = (
        row_bits(
            plane=2 * ordinal + kind, heads=heads, dim=dim, positions=positions, versions=versions, dtype=dtype
        ).view(dtype)
        for kind, dim in enumerate((key_dim, value_dim))
    )
    return keys, values


def bits_of(tensor: torch.Tensor) -> torch.Tensor:
    """The raw bits of a float tensor."""
    return tensor.contiguous().view(INTEGERS[tensor.dtype])


def assert_rows_are(
    arena: Arena, shape: Shape, *, slots: Sequence[int], positions: Sequence[int], versions: Sequence[int]
) -> None:
    """Every plane holds exactly these rows at these slots, bit for bit."""
    index = torch.tensor(list(slots), dtype=torch.int64)
    for ordinal in range(len(shape.layers)):
        wanted = layer_rows(shape, ordinal, positions=positions, versions=versions, dtype=arena.dtype)
        for held, rows in zip((arena.keys(ordinal), arena.values(ordinal)), wanted, strict=True):
            assert torch.equal(bits_of(held.index_select(2, index)), bits_of(rows)), f"layer {ordinal} differs"


def assert_host_block_is(arena: Arena, shape: Shape, host: HostBlock, *, first: int, versions: Sequence[int]) -> None:
    """A host block holds exactly the rows from position `first` on, bit for bit."""
    host.wait()
    positions = range(first, first + len(versions))
    for group, view in zip(arena.layout.groups, host.views, strict=True):
        planes = [2 * layer for layer in group.key_layers] + [2 * layer + 1 for layer in group.value_layers]
        for tensor, plane in zip(view, planes, strict=True):
            wanted = row_bits(
                plane=plane,
                heads=group.heads,
                dim=group.head_dim,
                positions=positions,
                versions=versions,
                dtype=arena.dtype,
            )
            assert torch.equal(bits_of(tensor), wanted[0]), f"plane {plane} of the host block at {first} differs"
