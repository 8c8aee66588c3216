from __future__ import annotations

import pytest
import torch

from pool_rows import MIXED, assert_rows_are, layer_rows
from tenure.errors import GeometryError, InternalError, PoolSizeError
from tenure.pool import Arena, layout_for
from tenure.pool.arena import contiguous_runs


def arena(*, rows: int = 16, dtype: torch.dtype = torch.float32) -> Arena:
    return Arena(layout_for(MIXED.geometry(dtype), block_size=4), capacity_rows=rows, dtype=dtype, device="cpu")


def write(made: Arena, *, rows: int, first_slot: int = 0) -> None:
    for ordinal in range(3):
        keys, values = layer_rows(MIXED, ordinal, positions=range(rows), versions=[1] * rows, dtype=made.dtype)
        made.write(ordinal, first_slot, keys, values)


def test_device_bytes_are_the_rows_times_their_bytes() -> None:
    made = arena(dtype=torch.bfloat16)
    assert made.device_bytes == 16 * made.layout.bytes_per_row(torch.bfloat16) == 16 * 2 * (10 + 6 + 10)


def test_layers_of_different_shapes_do_not_touch_each_other() -> None:
    made = arena()
    write(made, rows=5)
    assert_rows_are(made, MIXED, slots=range(5), positions=range(5), versions=[1] * 5)
    assert made.keys(0).shape == (1, 2, 16, 2)
    assert made.values(0).shape == (1, 2, 16, 3)
    assert made.keys(1).shape == (1, 1, 16, 3)


@pytest.mark.parametrize(
    ("keys", "values"),
    [
        ((1, 1, 4, 2), (1, 2, 4, 3)),
        ((1, 2, 4, 2), (1, 2, 1, 3)),
        ((1, 2, 4, 2), (1, 2, 4, 1)),
        ((2, 2, 4, 2), (2, 2, 4, 3)),
    ],
)
def test_rows_of_another_shape_are_refused_and_not_broadcast(keys: tuple[int, ...], values: tuple[int, ...]) -> None:
    made = arena()
    with pytest.raises(GeometryError, match=r"pooled layer 0 wrote keys .*this arena holds keys \[1, 2, rows, 2\]"):
        made.write(0, 0, torch.ones(keys), torch.ones(values))
    assert not made.keys(0).any()


def test_rows_of_another_dtype_are_refused_and_not_rounded() -> None:
    made = arena(dtype=torch.bfloat16)
    with pytest.raises(GeometryError, match=r"torch.float32.*of torch.bfloat16"):
        made.write(0, 0, torch.ones(1, 2, 1, 2), torch.ones(1, 2, 1, 3))


def test_rows_are_stored_without_their_autograd_history() -> None:
    # A forward outside no_grad() would otherwise chain every step's graph to the arena, for the life of the cache.
    made = arena()
    made.write(0, 0, torch.ones(1, 2, 1, 2, requires_grad=True) * 2, torch.ones(1, 2, 1, 3, requires_grad=True))
    assert not any(plane.requires_grad for plane in made.planes)
    assert made.keys(0)[0, 0, 0, 0] == 2


def test_rows_beyond_the_arena_are_refused() -> None:
    made = arena(rows=16)
    with pytest.raises(InternalError, match="17 rows appended to a run of 0 in an arena of 16"):
        made.append_positions(0, 17)
    assert made.resident_rows == 0


def test_a_device_without_that_much_memory_is_told_in_rows_and_bytes() -> None:
    with pytest.raises(PoolSizeError, match=r"cpu gave no [\d,]+\.\d MiB for an arena of \d+ rows; ask for a smaller"):
        arena(rows=2**50)


@pytest.mark.parametrize(("source", "target", "rows"), [(0, 2, 5), (2, 0, 5), (0, 8, 4), (3, 3, 2)])
def test_rows_move_also_where_source_and_target_overlap(source: int, target: int, rows: int) -> None:
    made = arena()
    write(made, rows=8)
    made.move_rows(range(source, source + rows), range(target, target + rows))
    assert_rows_are(
        made,
        MIXED,
        slots=range(target, target + rows),
        positions=range(source, source + rows),
        versions=[1] * rows,
    )


def test_saved_rows_come_back_after_anything() -> None:
    made = arena()
    write(made, rows=8)
    saved = made.save_rows(range(3, 7))
    made.poison(range(16))
    made.load_rows(1, saved)
    assert_rows_are(made, MIXED, slots=range(1, 5), positions=range(3, 7), versions=[1] * 4)


def test_pairs_that_advance_together_are_one_run() -> None:
    assert list(contiguous_runs([0, 1, 2, 7, 8, 3], [5, 6, 7, 8, 9, 1])) == [(0, 5, 3), (7, 8, 2), (3, 1, 1)]
    assert list(contiguous_runs([], [])) == []
    assert list(contiguous_runs([2, 1, 0], [0, 1, 2])) == [(2, 0, 1), (1, 1, 1), (0, 2, 1)]


def test_an_arena_made_in_inference_mode_can_be_written_outside_it() -> None:
    with torch.inference_mode():
        made = arena()
    write(made, rows=3)
    assert_rows_are(made, MIXED, slots=range(3), positions=range(3), versions=[1] * 3)
