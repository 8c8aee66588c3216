from __future__ import annotations

from collections import Counter

import pytest

from tenure.adapters.transformers.operations import (
    CropRows,
    Extend,
    FinishSequence,
    Menu,
    MoveRows,
    Operation,
    Prefill,
    RecordPast,
    Reorder,
    Repeat,
    ResetCache,
    Select,
    merge,
    random_operations,
    simpler,
)

EVERYTHING = Menu(
    kinds=frozenset(
        {Prefill, Extend, CropRows, Select, Reorder, Repeat, FinishSequence, ResetCache, RecordPast, MoveRows}
    ),
    max_batch=3,
    max_rows=12,
)


def test_the_operations_are_a_function_of_the_seed() -> None:
    assert random_operations(7, EVERYTHING) == random_operations(7, EVERYTHING)
    assert len({random_operations(seed, EVERYTHING) for seed in range(50)}) == 50


def test_every_kind_on_the_menu_comes_up_and_no_other() -> None:
    drawn = Counter(type(op) for seed in range(200) for op in random_operations(seed, EVERYTHING))
    assert set(drawn) == EVERYTHING.kinds
    fewer = Menu(kinds=frozenset({Prefill, Extend, CropRows}), max_batch=1, max_rows=12)
    assert {type(op) for seed in range(50) for op in random_operations(seed, fewer)} == fewer.kinds


def test_the_menu_bounds_batches_writes_and_runs() -> None:
    menu = Menu(kinds=EVERYTHING.kinds, max_batch=2, max_rows=40, max_write_rows=4, max_operations=6)
    runs = [random_operations(seed, menu) for seed in range(200)]
    prefills = [op for run in runs for op in run if isinstance(op, Prefill)]
    assert {len(op.padding_rows) for op in prefills} == {1, 2}
    within = sum(op.rows <= 4 for op in prefills)
    assert 0.8 < within / len(prefills) < 1  # now and then more than must be taken, to see it refused
    assert max(len(run) for run in runs) <= 2 * (6 + 1)


@pytest.mark.parametrize(
    "operation",
    [
        Prefill(5, (0, 3, 1)),
        Extend(4, amplitude=2.0),
        CropRows(3),
        Select((2, 0)),
        Reorder((1, 1, 0)),
        Repeat(2),
        FinishSequence(2),
        MoveRows(17),
        ResetCache(),
        RecordPast(),
    ],
)
def test_simpler_operations_are_of_the_same_kind_and_simplifying_ends(operation: Operation) -> None:
    seen = {operation}
    frontier = [operation]
    while frontier:
        offered = list(simpler(frontier.pop()))
        assert {type(other) for other in offered} <= {type(operation)}
        frontier += [other for other in offered if other not in seen]
        seen.update(offered)
    assert len(seen) < 1000


def test_simplifying_reaches_the_simplest_of_each_kind() -> None:
    def simplest(operation: Operation) -> Operation:
        while offered := list(simpler(operation)):
            operation = offered[-1]
        return operation

    assert simplest(Prefill(5, (0, 3, 1))) == Prefill(1, (0,))
    assert simplest(Extend(4, amplitude=2.0)) == Extend(1)
    assert simplest(Reorder((1, 1, 0))) == Reorder((0,))


def test_writes_in_a_row_are_merged_and_nothing_else() -> None:
    assert merge(Prefill(2, (0, 1)), Extend(3)) == Prefill(5, (0, 1))
    assert merge(Extend(2, amplitude=2.0), Extend(1)) == Extend(3, amplitude=2.0)
    assert merge(Extend(1), Extend(1, amplitude=2.0)) is None
    assert merge(Extend(1), CropRows(1)) is None
    assert merge(CropRows(1), CropRows(1)) is None


def test_operations_read_like_sentences() -> None:
    said = [Prefill(1), Prefill(3, (0, 2)), Extend(), Extend(2, amplitude=2.0), CropRows(2), Select((1,)), Repeat(2)]
    assert [str(operation) for operation in said] == [
        "prefill 1 row of 1 sequence",
        "prefill 3 rows of 2 sequences, left padding [0, 2]",
        "decode 1 row",
        "append 2 rows, 2 times as large as the prefill's",
        "crop 2 rows",
        "batch-select [1] (a drop)",
        "repeat each sequence 2 times (a fork)",
    ]
