"""A sequence on the host, streamed through an arena much smaller than itself, is read exactly."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from transformers import DynamicCache

from tenure.errors import CapacityError, GeometryError, InternalError, PolicyError, PoolSizeError, UsageError
from tenure.kv.geometry import geometry_from_config
from tenure.models.tiny import tiny_model
from tenure.pool import Arena, ArenaLayout, DirectTransfer, HostBlock, HostTier, PlaneGroup, layout_for
from tenure.runtime.hf import streamed as streamed_module
from tenure.runtime.hf.attention import EAGER, watch_queries
from tenure.runtime.hf.streamed import StreamedRows, _planes, forward_streamed

BLOCK_SIZE = 8


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    torch.set_num_threads(1)
    with torch.no_grad():
        yield


def watched(family: str = "llama", *, dtype: torch.dtype = torch.float32) -> Any:
    model = tiny_model(family).to(dtype)
    watch_queries(model.config, required=False)
    return model


def tokens(count: int, *, seed: int = 0) -> list[int]:
    return torch.randint(4, 120, (count,), generator=torch.Generator().manual_seed(seed)).tolist()


def stream(model: Any, *, capacity_rows: int = 24, blocks: int = 40, transfer: Any = None) -> StreamedRows:
    layout = layout_for(geometry_from_config(model.config, dtype="float32"), block_size=BLOCK_SIZE)
    arena = Arena(layout, capacity_rows=capacity_rows, dtype=model.dtype, device="cpu")
    arena.poison(range(capacity_rows))
    host = HostTier(layout, dtype=model.dtype)
    return StreamedRows(arena, host, transfer=transfer or DirectTransfer(), blocks=host.allocate_many(blocks))


def read(model: Any, streamed: StreamedRows, ids: list[int]) -> torch.Tensor:
    """Read all of `ids` in the largest parts, with every slot that holds no row poisoned before each."""
    logits = torch.empty(0)
    while ids:
        part, ids = ids[: streamed.max_append_rows], ids[streamed.max_append_rows :]
        streamed.arena.poison(range(streamed.open_rows, streamed.arena.capacity_rows))
        logits = forward_streamed(model, streamed, part)
    return logits


def read_full(model: Any, cache: DynamicCache, ids: list[int]) -> torch.Tensor:
    return model(torch.tensor([ids]), past_key_values=cache, logits_to_keep=1).logits[0, -1]


def assert_near(left: torch.Tensor, right: torch.Tensor) -> None:
    torch.testing.assert_close(left, right, rtol=0, atol=1e-4)


@pytest.mark.parametrize("capacity_rows", [16, 24, 37, 64])
@pytest.mark.parametrize("family", ["llama", "qwen3", "phi3"])
def test_a_sequence_ten_times_the_arena_gets_the_full_caches_logits_and_greedy_tokens(
    family: str, capacity_rows: int
) -> None:
    model = watched(family)
    streamed, full = stream(model, capacity_rows=capacity_rows), DynamicCache(config=model.config)
    own, expected = read(model, streamed, tokens(170)), read_full(model, full, tokens(170))
    assert_near(own, expected)
    for _ in range(30):
        assert int(own.argmax()) == int(expected.argmax())
        token = int(expected.argmax())
        own, expected = read(model, streamed, [token]), read_full(model, full, [token])
        assert_near(own, expected)
    assert streamed.rows == 200
    assert len(streamed.full_blocks) == 25
    streamed.verify()


def test_parts_of_any_size_give_the_same_answer() -> None:
    model, ids = watched(), tokens(90)
    streamed, full, start = stream(model, capacity_rows=40), DynamicCache(config=model.config), 0
    for part in (1, 6, 1, 8, 16, 9, 1, 7, 25, 16):
        chunk = ids[start : start + part]
        assert_near(forward_streamed(model, streamed, chunk), read_full(model, full, chunk))
        start += part
        assert (streamed.rows, streamed.open_rows, len(streamed.full_blocks)) == (start, start % 8, start // 8)


def test_scores_are_made_in_pieces_when_there_are_many(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(streamed_module, "SCORE_ELEMENTS", 4 * 20 * 3)
    model, streamed = watched(), stream(watched(), capacity_rows=40)
    assert_near(read(model, streamed, tokens(100)), read_full(model, DynamicCache(), tokens(100)))


def test_eager_attention_and_bfloat16_stream_too() -> None:
    model = watched("qwen3")
    model.config._attn_implementation = EAGER
    assert_near(read(model, stream(model), tokens(60)), read_full(model, DynamicCache(), tokens(60)))
    half = watched("qwen3", dtype=torch.bfloat16)
    own, expected = read(half, stream(half), tokens(60)), read_full(half, DynamicCache(), tokens(60))
    assert own.dtype == torch.bfloat16
    assert torch.nn.functional.cosine_similarity(own.float(), expected.float(), dim=0) > 0.999


def test_the_arena_keeps_no_row_of_a_full_block() -> None:
    model, full = watched(), DynamicCache()
    streamed = stream(model)
    read(model, streamed, tokens(50))
    streamed.arena.poison(range(streamed.open_rows, streamed.arena.capacity_rows))
    read_full(model, full, tokens(50))
    assert_near(forward_streamed(model, streamed, [5]), read_full(model, full, [5]))


def test_more_rows_than_leave_room_to_stream_are_refused_with_the_part_size() -> None:
    model = watched()
    streamed = stream(model, capacity_rows=24)
    assert streamed.max_append_rows == 24
    forward_streamed(model, streamed, tokens(11))
    assert streamed.max_append_rows == 24 - 3 - 8
    with pytest.raises(CapacityError, match=r"14 rows in one forward .* in parts of at most 13"):
        forward_streamed(model, streamed, tokens(14))
    assert streamed.rows == 11
    forward_streamed(model, streamed, tokens(13))


def test_rows_beyond_the_reserved_blocks_are_refused_and_all_up_to_there_are_taken() -> None:
    model = watched()
    streamed = stream(model, blocks=2)
    read(model, streamed, tokens(20))
    with pytest.raises(CapacityError, match="2 host blocks of 8 were reserved for 23"):
        forward_streamed(model, streamed, tokens(4))
    forward_streamed(model, streamed, tokens(3))
    assert (streamed.rows, streamed.max_append_rows) == (23, 0)


def test_a_forward_that_dies_leaves_the_sequence_as_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    model, full = watched(), DynamicCache()
    streamed = stream(model)
    read(model, streamed, tokens(45))
    read_full(model, full, tokens(45))

    def fail(*_args: Any, **_kwargs: Any) -> None:
        raise RuntimeError("the layer died")

    with monkeypatch.context() as patch:
        patch.setattr(model.model.layers[1].mlp, "forward", fail)
        with pytest.raises(RuntimeError, match="the layer died"):
            forward_streamed(model, streamed, tokens(9, seed=4))
    assert (streamed.rows, len(streamed.full_blocks)) == (45, 5)
    streamed.verify()
    assert_near(forward_streamed(model, streamed, tokens(9)), read_full(model, full, tokens(9)))


class FailingTransfer(DirectTransfer):
    """Fails at the copies out that it is told to, after half the work."""

    def __init__(self) -> None:
        self.fails_in: int | None = None

    def page_out(self, arena: Arena, slots: Any, block: HostBlock) -> None:
        if self.fails_in == 0:
            super().page_out(arena, slots[:3], block)
            raise RuntimeError("the copy died")
        self.fails_in = None if self.fails_in is None else self.fails_in - 1
        super().page_out(arena, slots, block)


@pytest.mark.parametrize("fails_in", [0, 1])
def test_a_copy_to_the_host_that_dies_leaves_the_sequence_as_it_was(fails_in: int) -> None:
    model, full, transfer = watched(), DynamicCache(), FailingTransfer()
    streamed = stream(model, capacity_rows=40, transfer=transfer)
    read(model, streamed, tokens(45))
    read_full(model, full, tokens(45))
    transfer.fails_in = fails_in
    with pytest.raises(RuntimeError, match="the copy died"):
        forward_streamed(model, streamed, tokens(20, seed=4))
    transfer.fails_in = None
    assert (streamed.rows, len(streamed.full_blocks)) == (45, 5)
    assert_near(forward_streamed(model, streamed, tokens(20)), read_full(model, full, tokens(20)))


def test_rows_that_cannot_be_moved_to_the_front_leave_the_open_block_as_it_was(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model, full = watched(), DynamicCache()
    streamed = stream(model, capacity_rows=40)
    read(model, streamed, tokens(45))
    read_full(model, full, tokens(45))

    def fail(self: Arena, _sources: Any, _targets: Any) -> None:
        self.poison(range(2))
        raise RuntimeError("the move died")

    with monkeypatch.context() as patch:
        patch.setattr(Arena, "move_rows", fail)
        with pytest.raises(RuntimeError, match="the move died"):
            forward_streamed(model, streamed, tokens(9, seed=4))
    assert streamed.rows == 45
    assert_near(forward_streamed(model, streamed, [7]), read_full(model, full, [7]))


def test_a_host_block_that_something_else_wrote_to_is_named() -> None:
    model = watched()
    streamed = stream(model)
    read(model, streamed, tokens(50))
    streamed.verify()
    streamed.full_blocks[3].buffer[11] += 1
    with pytest.raises(InternalError, match=r"host block\(s\) \[3\] of 6 of this sequence of 50 rows"):
        streamed.verify()


def test_a_released_sequence_hands_its_blocks_back_to_the_caller_and_answers_nothing_more() -> None:
    model = watched()
    layout = layout_for(geometry_from_config(model.config, dtype="float32"), block_size=BLOCK_SIZE)
    host = HostTier(layout, dtype=torch.float32)
    blocks = host.allocate_many(6)
    arena = Arena(layout, capacity_rows=24, dtype=torch.float32, device="cpu")
    streamed = StreamedRows(arena, host, transfer=DirectTransfer(), blocks=blocks)
    read(model, streamed, tokens(30))
    used_bytes = host.used_bytes
    assert list(streamed.release()) == blocks
    assert host.used_bytes == used_bytes
    for call in (lambda: forward_streamed(model, streamed, [5]), streamed.verify, streamed.release):
        with pytest.raises(UsageError, match="was released"):
            call()


def test_an_arena_below_two_blocks_or_a_host_tier_of_another_kind_is_refused() -> None:
    model = watched()
    with pytest.raises(PoolSizeError, match="make it at least 16 rows"):
        stream(model, capacity_rows=15)
    streamed = stream(model)
    half = HostTier(streamed.arena.layout, dtype=torch.bfloat16)
    with pytest.raises(GeometryError, match=r"torch\.bfloat16, the arena takes blocks of 8 of torch\.float32"):
        StreamedRows(streamed.arena, half, transfer=DirectTransfer(), blocks=[])
    host = HostTier(streamed.arena.layout, dtype=torch.float32)
    with pytest.raises(UsageError, match="passed twice"):
        StreamedRows(streamed.arena, host, transfer=DirectTransfer(), blocks=[host.allocate()] * 2)


def test_a_foreign_attention_implementation_is_refused_by_name() -> None:
    model = watched()
    streamed = stream(model)
    model.config._attn_implementation = "flex_attention"
    with pytest.raises(PolicyError, match="'flex_attention'"):
        forward_streamed(model, streamed, [5])
    assert streamed.rows == 0


def test_planes_are_found_where_keys_and_values_have_different_shapes() -> None:
    wide = PlaneGroup(heads=2, head_dim=16, key_layers=(0, 1, 2), value_layers=(1,))
    narrow = PlaneGroup(heads=2, head_dim=8, key_layers=(), value_layers=(0, 2))
    layout = ArenaLayout(groups=(wide, narrow), layer_indices=(0, 1, 2), block_size=4)
    assert _planes(layout, kind="key") == {0: (0, 0), 1: (0, 1), 2: (0, 2)}
    assert _planes(layout, kind="value") == {0: (1, 0), 1: (0, 3), 2: (1, 1)}
