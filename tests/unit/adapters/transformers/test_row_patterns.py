from __future__ import annotations

import pytest

from tenure.errors import UsageError
from tenure.kv.semantics import Padding, Torn

torch = pytest.importorskip("torch")

from tenure.adapters.transformers.patterns import PATTERN_DIM, Altered, RowBook, RowTag, Unreadable  # noqa: E402


def book_with(rows: int, *, tolerance: float = 0.0, amplitude: float = 1.0) -> tuple[RowBook, list[RowTag], list]:
    book = RowBook(heads=2, dim=PATTERN_DIM, tolerance=tolerance)
    tags = [book.tag(sequence=0, layer=1, position=position) for position in range(rows)]
    return book, tags, list(book.rows([[tag.serial for tag in tags]], amplitude=amplitude))


def test_rows_are_recognised_wherever_they_stand() -> None:
    book, tags, (keys, values) = book_with(5)
    assert keys.shape == values.shape == (1, 2, 5, PATTERN_DIM)
    assert book.recognise(keys, values) == [tags]
    order = torch.tensor([3, 0, 4, 4])
    assert book.recognise(keys[:, :, order], values[:, :, order]) == [[tags[3], tags[0], tags[4], tags[4]]]


def test_rows_of_several_sequences_and_calls_are_kept_apart() -> None:
    book, tags, (keys, values) = book_with(3)
    others = [[book.tag(sequence=s, layer=0, position=7).serial] for s in (1, 2)]
    more_keys, more_values = book.rows(others, amplitude=2.0)
    assert [[str(key) for key in sequence] for sequence in book.recognise(more_keys, more_values)] == [
        ["row #3 (sequence 1, layer 0, position 7)"],
        ["row #4 (sequence 2, layer 0, position 7)"],
    ]
    assert book.recognise(keys, values) == [tags]


def test_a_row_that_was_never_written_is_nothing() -> None:
    book, _, (keys, values) = book_with(1)
    assert book.recognise(torch.zeros_like(keys), torch.zeros_like(values)) == [[None]]


def test_the_smallest_change_of_one_element_is_seen() -> None:
    book, tags, (keys, values) = book_with(2)
    values[0, 1, 0, 9] = torch.nextafter(values[0, 1, 0, 9], torch.tensor(9.0))
    altered, untouched = book.recognise(keys, values)[0]
    assert isinstance(altered, Altered)
    assert altered.tag == tags[0]
    assert 0 < altered.largest_difference < 1e-6
    assert untouched == tags[1]


def test_a_lossy_row_is_itself_within_the_tolerance_and_altered_beyond_it() -> None:
    book, tags, (keys, values) = book_with(1, tolerance=0.1, amplitude=2.0)
    assert book.recognise(keys + 0.19, values) == [[tags[0]]]
    assert isinstance(book.recognise(keys + 0.21, values)[0][0], Altered)


def test_heads_or_halves_that_do_not_belong_together_are_torn() -> None:
    book, tags, (keys, values) = book_with(2)
    other = torch.tensor([1, 0])
    head_drifted = torch.cat([keys[:, :1], keys[:, 1:, other]], dim=1)
    assert book.recognise(head_drifted, values)[0][0] == Torn((tags[0], tags[1], tags[0], tags[0]))
    assert book.recognise(keys, values[:, :, other])[0][0] == Torn((tags[0], tags[0], tags[1], tags[1]))
    assert isinstance(book.recognise(keys.flip(1), values)[0][0], Torn)
    assert isinstance(book.recognise(keys[:, :, :1], torch.zeros_like(values[:, :, :1]))[0][0], Torn)


@pytest.mark.parametrize("garbage", ["noise", "nan", "mixed"])
def test_what_nobody_wrote_is_unreadable(garbage: str) -> None:
    book, _, (keys, values) = book_with(2)
    made = {
        "noise": lambda rows: torch.randn(rows.shape, generator=torch.Generator().manual_seed(1)),
        "nan": lambda rows: torch.where(torch.arange(PATTERN_DIM) == 3, torch.nan, rows),
        "mixed": lambda rows: torch.cat([rows[..., :16], rows.flip(2)[..., 16:]], dim=-1),
    }[garbage]
    assert {str(key) for key in book.recognise(made(keys), made(values))[0]} == {str(Unreadable())}


def test_padding_rows_are_known_as_padding() -> None:
    book = RowBook(heads=2, dim=PATTERN_DIM, tolerance=0.0)
    keys, values = book.rows([[book.padding()]], amplitude=1.0)
    assert book.recognise(keys, values) == [[Padding()]]


def test_wider_heads_repeat_the_pattern_and_are_checked_to_the_last_element() -> None:
    book = RowBook(heads=1, dim=PATTERN_DIM + 5, tolerance=0.0)
    tag = book.tag(sequence=0, layer=0, position=0)
    keys, values = book.rows([[tag.serial]], amplitude=1.0)
    assert book.recognise(keys, values) == [[tag]]
    keys[..., -1] += 1
    assert isinstance(book.recognise(keys, values)[0][0], Altered)


@pytest.mark.parametrize(("heads", "dim"), [(0, 32), (9, 32), (1, PATTERN_DIM - 1)])
def test_a_shape_that_cannot_carry_a_pattern_is_refused(heads: int, dim: int) -> None:
    with pytest.raises(UsageError):
        RowBook(heads=heads, dim=dim, tolerance=0.0)
