from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from tenure.errors import GeometryError, UsageError
from tenure.kv.geometry import (
    CacheGeometry,
    LayerGeometry,
    LayerKind,
    format_bytes,
    geometry_from_config,
    trained_rows,
)


def config(**fields: Any) -> SimpleNamespace:
    base: dict[str, Any] = {
        "model_type": "made_up",
        "num_hidden_layers": 4,
        "num_attention_heads": 8,
        "num_key_value_heads": 2,
        "hidden_size": 64,
    }
    return SimpleNamespace(**(base | fields))


def test_a_row_counts_keys_and_values_of_every_pooled_layer() -> None:
    # The shape of SmolLM2-135M: 30 layers, 3 key-value heads of 64, so 45 KiB a row in float32.
    geometry = geometry_from_config(
        config(num_hidden_layers=30, num_attention_heads=9, num_key_value_heads=3, hidden_size=576), dtype="float32"
    )
    assert geometry.pooled_row_bytes == 30 * 3 * (64 + 64) * 4 == 46_080
    assert geometry.pooled_block_bytes(64) == 64 * 46_080
    assert geometry.pooled_context_bytes(1024, sequences=3) == 3 * 1024 * 46_080
    assert geometry.context_bytes(1024, sequences=3) == 3 * 1024 * 46_080


def test_the_footprint_is_linear_in_layers_sequences_rows_heads_and_dims() -> None:
    def footprint(*, layers: int = 2, sequences: int = 3, rows: int = 5, heads: int = 7, dim: int = 11) -> int:
        geometry = geometry_from_config(
            config(num_hidden_layers=layers, num_key_value_heads=heads, head_dim=dim), dtype="bfloat16"
        )
        return geometry.context_bytes(rows, sequences=sequences)

    base = footprint()
    assert base == 2 * 3 * 5 * 7 * (11 + 11) * 2
    doubled = [footprint(layers=4), footprint(sequences=6), footprint(rows=10), footprint(heads=14), footprint(dim=22)]
    assert doubled == [2 * base] * 5


def test_windows_cap_what_their_layers_keep_and_are_not_pooled() -> None:
    geometry = geometry_from_config(
        config(
            layer_types=["sliding_attention", "full_attention", "chunked_attention", "linear_attention"],
            sliding_window=16,
            attention_chunk_size=32,
        ),
        dtype="float32",
    )
    row_bytes = 2 * (8 + 8) * 4
    assert [layer.index for layer in geometry.pooled_layers] == [1]
    assert [layer.window_rows for layer in geometry.layers] == [16, None, 32, None]
    assert geometry.context_bytes(100) == (16 + 100 + 32) * row_bytes
    assert geometry.context_bytes(10) == (10 + 10 + 10) * row_bytes
    assert geometry.pooled_context_bytes(100) == 100 * row_bytes


def test_a_window_without_layer_types_makes_every_layer_sliding() -> None:
    geometry = geometry_from_config(config(sliding_window=128), dtype="float32")
    assert {layer.kind for layer in geometry.layers} == {LayerKind.SLIDING}
    assert geometry.pooled_row_bytes == 0


def test_layers_that_reuse_another_layers_rows_cost_nothing() -> None:
    geometry = geometry_from_config(config(kv_sharing_modes=[None, "store", "reuse", "reuse"]), dtype="float32")
    assert [layer.kind for layer in geometry.layers[2:]] == [LayerKind.SHARED, LayerKind.SHARED]
    assert geometry.context_bytes(10) == 2 * 10 * 2 * 16 * 4


def test_layers_may_each_have_a_shape_of_their_own() -> None:
    views = [config(head_dim=8), config(head_dim=16, num_key_value_heads=1), config(head_dim=8), config(v_head_dim=4)]
    geometry = geometry_from_config(config(per_layer_config=views), dtype="float16")
    assert [(layer.kv_heads, layer.key_dim, layer.value_dim) for layer in geometry.layers] == [
        (2, 8, 8),
        (1, 16, 16),
        (2, 8, 8),
        (2, 8, 4),
    ]


def test_the_text_part_of_a_larger_configuration_is_what_is_described() -> None:
    def get_text_config(*, decoder: bool) -> SimpleNamespace:
        return config(num_hidden_layers=3 if decoder else 99)

    outer = SimpleNamespace(model_type="outer", get_text_config=get_text_config)
    assert len(geometry_from_config(outer, dtype="float32").layers) == 3


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"layer_types": ["full_attention", "indexed_attention"] * 2}, ["Layer 1", "indexed_attention"]),
        ({"layer_types": ["full_attention", "full_attention", "hybrid", "hybrid"]}, ["Layer 2", "hybrid"]),
        ({"layer_types": ["full_attention"]}, ["4", "1 layer_types"]),
        ({"kv_lora_rank": 512}, ["Layer 0", "latent", "512"]),
        ({"layer_types": ["sliding_attention"] * 4}, ["Layer 0", "sliding_window"]),
        ({"layer_types": ["sliding_attention"] * 4, "sliding_window": 0}, ["Layer 0", "sliding_window", "0"]),
        ({"hidden_size": 63}, ["63", "8"]),
        ({"num_key_value_heads": -1}, ["num_key_value_heads", "-1"]),
        ({"num_hidden_layers": None}, ["num_hidden_layers"]),
        ({"per_layer_config": [config()]}, ["per_layer_config", "1"]),
        ({"is_encoder_decoder": True}, ["encoder-decoder"]),
    ],
)
def test_what_cannot_be_described_is_refused_by_name(fields: dict[str, Any], words: list[str]) -> None:
    with pytest.raises(GeometryError) as refusal:
        geometry_from_config(config(**fields), dtype="float32")
    assert [word for word in ["made_up", *words] if word not in str(refusal.value)] == []


def test_an_unknown_dtype_is_refused_with_the_known_ones() -> None:
    with pytest.raises(UsageError, match=r"float3.*bfloat16"):
        geometry_from_config(config(), dtype="float3")


@pytest.mark.parametrize(
    "fields",
    [
        {"kind": LayerKind.FULL},
        {"kind": LayerKind.FULL, "kv_heads": 1, "key_dim": 1, "value_dim": 1, "window_rows": 4},
        {"kind": LayerKind.SLIDING, "kv_heads": 1, "key_dim": 1, "value_dim": 1},
        {"kind": LayerKind.SLIDING, "kv_heads": 1, "key_dim": 1, "value_dim": 1, "window_rows": 0},
        {"kind": LayerKind.RECURRENT, "kv_heads": 1},
        {"kind": LayerKind.NONE, "index": -1},
    ],
)
def test_a_layer_whose_numbers_do_not_fit_its_kind_is_refused(fields: dict[str, Any]) -> None:
    with pytest.raises(GeometryError):
        LayerGeometry(**({"index": 0} | fields))


@pytest.mark.parametrize(
    ("kind", "window_rows", "seen_from"),
    [
        (LayerKind.FULL, None, [0, 0, 0, 0, 0, 0]),
        (LayerKind.SLIDING, 3, [0, 0, 0, 1, 2, 3]),
        (LayerKind.CHUNKED, 3, [0, 0, 0, 3, 3, 3]),
        (LayerKind.SLIDING, 1, [0, 1, 2, 3, 4, 5]),
    ],
)
def test_a_query_sees_back_to_the_start_its_window_or_its_chunk(
    kind: LayerKind, window_rows: int | None, seen_from: list[int]
) -> None:
    layer = LayerGeometry(index=0, kind=kind, kv_heads=1, key_dim=1, value_dim=1, window_rows=window_rows)
    assert [layer.visible_from(position) for position in range(6)] == seen_from


def test_layers_out_of_order_or_none_at_all_are_refused() -> None:
    layer = LayerGeometry(index=1, kind=LayerKind.NONE)
    for layers in ((), (layer,)):
        with pytest.raises(GeometryError):
            CacheGeometry(layers=layers, dtype="float32", element_bytes=4)


def test_byte_counts_below_zero_rows_are_refused() -> None:
    geometry = geometry_from_config(config(), dtype="float32")
    for call in (
        lambda: geometry.pooled_block_bytes(0),
        lambda: geometry.context_bytes(-1),
        lambda: geometry.pooled_context_bytes(1, sequences=-1),
    ):
        with pytest.raises(UsageError):
            call()


def test_the_description_names_the_kinds_and_the_cost_of_a_row() -> None:
    geometry = geometry_from_config(
        config(layer_types=["sliding_attention", "full_attention"] * 2, sliding_window=1024), dtype="bfloat16"
    )
    assert geometry.describe() == (
        "4 layers, bfloat16 (2 bytes an element): 2 sliding of 1,024 rows (2 key-value heads of 8), "
        "2 full (2 key-value heads of 8)\n"
        "pooled: 2 layers, 128 bytes a row, 8 KiB a block of 64, 4 MiB at 32,768 rows"
    )


@pytest.mark.parametrize(
    ("count", "text"),
    [(0, "0 bytes"), (1023, "1023 bytes"), (23_040, "22.5 KiB"), (1 << 20, "1 MiB"), (5 << 40, "5,120 GiB")],
)
def test_byte_counts_are_written_with_binary_units(count: int, text: str) -> None:
    assert format_bytes(count) == text


@pytest.mark.parametrize(
    "fields",
    [
        {"model_type": "bloom"},
        {"model_type": "mpt"},
        {"model_type": "gpt_neo"},
        {"model_type": "falcon", "alibi": True},
    ],
)
def test_attention_that_depends_on_where_a_row_lies_is_refused(fields: dict[str, object]) -> None:
    config = SimpleNamespace(num_hidden_layers=2, hidden_size=64, num_attention_heads=4, **fields)
    with pytest.raises(GeometryError, match="a pool moves rows"):
        geometry_from_config(config, dtype="float32")


def test_a_model_that_does_not_say_how_long_it_was_trained_asks_for_the_context() -> None:
    assert trained_rows(SimpleNamespace(model_type="x", n_positions=512)) == 512
    with pytest.raises(GeometryError, match="pass context_rows"):
        trained_rows(SimpleNamespace(model_type="x"))
