"""Text comes out whole, whatever the tokens cut through."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from session_kit import byte_tokenizer
from tenure.runtime.hf.text_stream import REPLACEMENT, TextStream

TOKENIZER = byte_tokenizer()


def stream(ids: list[int]) -> list[str]:
    text = TextStream(TOKENIZER)
    return [piece for piece in (*map(text.push, ids), text.finish()) if piece]


@given(st.text(alphabet=st.characters(exclude_categories=["Cs"], exclude_characters=REPLACEMENT), max_size=30))
def test_pieces_joined_are_the_text_and_no_character_is_broken(text: str) -> None:
    pieces = stream(TOKENIZER.encode(text, add_special_tokens=False))
    assert "".join(pieces) == text
    assert not any(REPLACEMENT in piece for piece in pieces)


@pytest.mark.parametrize("character", ["é", "€", "語", "🜁", "👩‍🚀"])
def test_a_character_spread_over_tokens_comes_as_soon_as_it_is_whole(character: str) -> None:
    ids = TOKENIZER.encode(character, add_special_tokens=False)
    assert len(ids) == len(character.encode())
    assert stream(ids) == list(character)


def test_bytes_that_never_become_a_character_are_shown_at_the_end() -> None:
    ids = TOKENIZER.encode("語", add_special_tokens=False)
    assert stream(ids[:2]) == [REPLACEMENT]


def test_bytes_that_never_become_a_character_do_not_hold_back_what_follows() -> None:
    broken = TOKENIZER.encode("語", add_special_tokens=False)[:2]
    assert "".join(stream([*broken, *TOKENIZER.encode("ok", add_special_tokens=False)])) == f"{REPLACEMENT}ok"


def test_special_tokens_give_no_text_and_keep_none_back() -> None:
    end = TOKENIZER.convert_tokens_to_ids("<|end|>")
    ids = TOKENIZER.encode("a b", add_special_tokens=False)
    assert "".join(stream([end, *ids, end])) == "a b"
