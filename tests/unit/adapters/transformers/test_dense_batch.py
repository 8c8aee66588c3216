from __future__ import annotations

from tenure.adapters.transformers.batch import Batch
from tenure.kv.semantics import Begin, Crop, Drop, Finish, Fork


def slots(batch: Batch) -> list[list[int | None]]:
    return [sequence.slots for sequence in batch.sequences]


def test_left_padding_shifts_a_sequence_and_does_not_count() -> None:
    batch = Batch()
    assert batch.begin(2) == [Begin(0), Begin(1)]
    batch.append(3, padding_rows=(0, 2))
    batch.append(1, padding_rows=(0, 0))
    assert slots(batch) == [[0, 1, 2, 3], [None, None, 0, 1]]
    assert [sequence.logical_rows for sequence in batch.sequences] == [4, 2]
    assert batch.physical_rows == 4


def test_a_physical_count_is_translated_into_the_rows_of_the_sequence() -> None:
    batch = Batch()
    batch.begin(1)
    batch.append(4, padding_rows=(2,))
    counted = [batch.sequences[0].rows_among(rows) for rows in range(7)]
    assert counted == [0, 0, 0, 1, 2, 3, 4]  # past the end every row counts, so that a count too high stays too high


def test_a_finished_sequence_is_fed_padding_and_a_crop_takes_that_first() -> None:
    batch = Batch()
    batch.begin(2)
    batch.append(2, padding_rows=(0, 0))
    assert batch.finish(1) == [Finish(1)]
    batch.append(2, padding_rows=(0, 0))
    assert slots(batch) == [[0, 1, 2, 3], [0, 1, None, None]]
    assert batch.take_back(3) == [Crop(0, 3), Crop(1, 1)]
    assert slots(batch) == [[0], [0]]


def test_rearranging_drops_forks_and_permutes() -> None:
    batch = Batch()
    batch.begin(3)
    batch.append(1, padding_rows=(0, 0, 0))
    assert batch.rearrange([2, 0, 2]) == [Drop(1), Fork(2, 3)]
    assert [sequence.number for sequence in batch.sequences] == [2, 0, 3]
    batch.append(1, padding_rows=(0, 0, 0))
    assert slots(batch) == [[0, 1]] * 3


def test_numbers_are_never_given_twice() -> None:
    batch = Batch()
    batch.begin(2)
    batch.clear()
    assert batch.physical_rows == 0
    assert batch.begin(1) == [Begin(2)]
