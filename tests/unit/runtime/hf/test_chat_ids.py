from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pytest

from tenure.errors import UsageError
from tenure.runtime.hf.turns import chat_ids

QUESTION = [{"role": "user", "content": "Who?"}]
TEMPLATE = (
    "{% for message in messages %}<{{ message.role }}>{{ message.content }}{% endfor %}"
    "{% if add_generation_prompt %}<assistant>{% endif %}"
)


class CharacterTokenizer:
    """One id a character; adds its start token to everything unless told not to, as real ones do."""

    def __init__(self, *, chat_template: str | None = None, bos_token_id: int | None = 1) -> None:
        self.chat_template = chat_template
        self.bos_token_id = bos_token_id

    def encode(self, text: str, *, add_special_tokens: bool = True) -> list[int]:
        start = [1] if add_special_tokens else []
        return start + [ord(character) for character in text]

    def apply_chat_template(
        self, conversation: Sequence[Mapping[str, str]], *, add_generation_prompt: bool, tokenize: bool
    ) -> str:
        import jinja2

        assert not tokenize
        assert self.chat_template is not None
        template = jinja2.Template(self.chat_template)
        return template.render(messages=conversation, add_generation_prompt=add_generation_prompt)


def text_of(ids: list[int]) -> str:
    return "".join(chr(number) for number in ids)


def ids_of(tokenizer: CharacterTokenizer, messages: Any, **options: Any) -> list[int]:
    return chat_ids(tokenizer, messages, **options)  # type: ignore[arg-type]


def test_the_models_template_writes_the_conversation_and_no_start_token_is_added_twice() -> None:
    ids = ids_of(CharacterTokenizer(chat_template=TEMPLATE), QUESTION)
    assert type(ids) is list
    assert text_of(ids) == "<user>Who?<assistant>"


def test_without_generation_prompt_the_conversation_ends_with_its_last_message() -> None:
    ids = ids_of(CharacterTokenizer(chat_template=TEMPLATE), QUESTION, add_generation_prompt=False)
    assert text_of(ids) == "<user>Who?"


def test_a_model_without_template_gets_titled_paragraphs_after_its_start_token() -> None:
    messages = [{"role": "system", "content": "Be brief."}, *QUESTION, {"role": "assistant", "content": "Ada."}]
    ids = ids_of(CharacterTokenizer(), messages)
    assert ids[0] == 1
    assert text_of(ids[1:]) == "System: Be brief.\n\nUser: Who?\n\nAssistant: Ada.\n\nAssistant:"
    assert text_of(ids_of(CharacterTokenizer(bos_token_id=None), QUESTION)) == "User: Who?\n\nAssistant:"
    assert text_of(ids_of(CharacterTokenizer(), QUESTION, add_generation_prompt=False)[1:]) == "User: Who?"


@pytest.mark.parametrize(
    ("messages", "said"),
    [
        ([], "has 0"),
        ([{"role": "robot", "content": "x"}], "message 0 has role 'robot', expected one of system, user, assistant"),
        ([*QUESTION, {"role": "assistant"}], "message 1 has no text: its content is None"),
    ],
)
def test_a_malformed_conversation_is_refused_by_message(messages: list[dict[str, str]], said: str) -> None:
    with pytest.raises(UsageError, match=said):
        ids_of(CharacterTokenizer(), messages)
