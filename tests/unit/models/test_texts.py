from __future__ import annotations

import itertools
import sys

import pytest

from tenure.errors import UsageError
from tenure.models import texts


class CharacterTokenizer:
    """One token a character: enough to see what is tokenised, and in which order."""

    def __init__(self) -> None:
        self.encoded: list[str] = []

    def encode(self, text: str, *, add_special_tokens: bool) -> list[int]:
        assert not add_special_tokens
        self.encoded.append(text)
        return [ord(character) for character in text]


def test_no_topic_holds_a_ruler_a_table_row_or_a_run_of_blank_lines() -> None:
    lines = [line for topic in texts.topics() for line in topic.text.splitlines()]
    assert [line for line in lines if len(line.strip()) > 5 and len(set(line.strip())) <= 2] == []
    assert [line for line in lines if line.lstrip().startswith("|") and line.endswith("|")] == []
    assert all("\n\n\n" not in topic.text for topic in texts.topics())


def test_there_is_enough_text_for_a_context_of_sixty_thousand_tokens_without_repetition() -> None:
    assert len(texts.long_text()) > 300_000


def test_a_topic_that_is_part_of_a_longer_one_is_left_out() -> None:
    names = {topic.name for topic in texts.topics()}
    assert "compound" in names
    assert "if" not in names, "the topic `if` is a section of the topic `compound`"


def test_the_order_is_fixed_by_the_seed_and_only_by_it() -> None:
    assert texts.long_text(seed=3) == texts.long_text(seed=3)
    assert texts.long_text(seed=3) != texts.long_text(seed=4)
    assert sorted(texts.long_text(seed=3)) == sorted(texts.long_text(seed=4))


def test_token_ids_have_exactly_the_number_asked_for_and_extend_each_other() -> None:
    once = len(texts.long_text()) + 2
    short, long = (texts.text_ids(CharacterTokenizer(), rows) for rows in (1_000, once + 5_000))  # type: ignore[arg-type]
    assert (len(short), len(long)) == (1_000, once + 5_000)
    assert long[:1_000] == short
    assert long[once:] == long[:5_000], "the same order starts again"


def test_no_topic_follows_itself_when_the_text_starts_again() -> None:
    tokenizer = CharacterTokenizer()
    texts.text_ids(tokenizer, 2 * len(texts.long_text()))  # type: ignore[arg-type]
    assert all(first != second for first, second in itertools.pairwise(tokenizer.encoded))


def test_only_the_topics_that_are_needed_are_tokenised() -> None:
    tokenizer = CharacterTokenizer()
    assert texts.text_ids(tokenizer, 0) == []  # type: ignore[arg-type]
    assert tokenizer.encoded == []
    texts.text_ids(tokenizer, 1)  # type: ignore[arg-type]
    assert len(tokenizer.encoded) == 1


def test_a_negative_number_of_tokens_is_refused() -> None:
    with pytest.raises(UsageError, match="-1"):
        texts.text_ids(CharacterTokenizer(), -1)  # type: ignore[arg-type]


def test_a_python_without_its_documentation_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    texts.topics.cache_clear()
    monkeypatch.setitem(sys.modules, "pydoc_data.topics", None)
    try:
        with pytest.raises(UsageError, match="pydoc_data"):
            texts.topics()
    finally:
        monkeypatch.undo()
        texts.topics.cache_clear()
