from __future__ import annotations

import pytest
import torch

from pool_rows import MIXED, UNIFORM
from tenure.errors import GeometryError
from tenure.kv.geometry import CacheGeometry, LayerGeometry, LayerKind
from tenure.pool import layout_for


def test_layers_of_one_shape_share_one_tensor_keys_first() -> None:
    layout = layout_for(UNIFORM.geometry(torch.float32), block_size=4)
    (group,) = layout.groups
    assert (group.key_layers, group.value_layers, group.planes) == ((0, 1), (0, 1), 4)


def test_keys_and_values_of_different_shapes_fall_into_different_groups() -> None:
    layout = layout_for(MIXED.geometry(torch.float32), block_size=4)
    shapes = {(g.heads, g.head_dim): (g.key_layers, g.value_layers) for g in layout.groups}
    assert shapes == {(2, 2): ((0,), (2,)), (1, 3): ((1,), (1,)), (2, 3): ((2,), (0,))}


def test_layers_that_are_not_full_attention_are_left_out() -> None:
    assert layout_for(MIXED.geometry(torch.float32), block_size=4).layer_indices == (0, 1, 2)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_bytes_agree_with_the_geometry(dtype: torch.dtype) -> None:
    geometry = MIXED.geometry(dtype)
    layout = layout_for(geometry, block_size=16)
    assert layout.bytes_per_row(dtype) == geometry.pooled_row_bytes
    assert layout.bytes_per_block(dtype) == geometry.pooled_block_bytes(16)


@pytest.mark.parametrize("block_size", [0, -4])
def test_a_block_size_below_one_is_refused(block_size: int) -> None:
    with pytest.raises(GeometryError, match=f"block_size is {block_size}; it must be at least 1 row"):
        layout_for(UNIFORM.geometry(torch.float32), block_size=block_size)


def test_a_model_with_nothing_to_pool_is_refused_with_its_kinds() -> None:
    layer = LayerGeometry(index=0, kind=LayerKind.SLIDING, kv_heads=1, key_dim=2, value_dim=2, window_rows=8)
    with pytest.raises(
        GeometryError, match=r"none of the model's 1 layers is full attention .*sliding.*nothing to pool"
    ):
        layout_for(CacheGeometry(layers=(layer,), dtype="float32", element_bytes=4), block_size=4)
