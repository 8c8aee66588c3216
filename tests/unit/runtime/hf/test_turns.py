"""Turns are written as the template writes them, without rendering the conversation again."""

from __future__ import annotations

import pytest

from session_kit import byte_tokenizer
from tenure.errors import UsageError
from tenure.runtime.hf.turns import following_ids, opening_ids

TOKENIZER = byte_tokenizer()


def test_a_conversation_in_pieces_is_the_conversation_rendered_at_once() -> None:
    messages = [
        {"role": "system", "content": "be brief"},
        {"role": "user", "content": "one"},
        {"role": "assistant", "content": "two"},
        {"role": "user", "content": "three"},
    ]
    whole = TOKENIZER.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)
    pieces = [
        *opening_ids(TOKENIZER, "one", system="be brief"),
        *TOKENIZER.encode("two", add_special_tokens=False),
        *following_ids(TOKENIZER, "three"),
    ]
    assert TOKENIZER.decode(pieces) == whole


@pytest.mark.parametrize("text", ["reply", "reply-", "a reply-- reply", ""])
def test_a_turn_that_looks_like_the_mark_is_not_cut(text: str) -> None:
    assert TOKENIZER.decode(following_ids(TOKENIZER, text)).count(f"user\n{text}<|end|>") == 1


def test_a_base_model_gets_plain_paragraphs() -> None:
    base = byte_tokenizer(template=None)
    assert base.decode(opening_ids(base, "hi", system="be kind")) == "System: be kind\n\nUser: hi\n\nAssistant:"
    assert base.decode(following_ids(base, "more")) == "\n\nUser: more\n\nAssistant:"


def test_a_template_that_drops_replies_is_refused() -> None:
    tokenizer = byte_tokenizer(template="{% for m in messages if m['role'] == 'user' %}{{ m['content'] }}{% endfor %}")
    with pytest.raises(UsageError, match="does not write an assistant's reply"):
        following_ids(tokenizer, "hi")
