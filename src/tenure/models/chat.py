"""Conversations as token ids."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from tenure.errors import UsageError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

ROLES = ("system", "user", "assistant")
_FALLBACK_TITLES = {"system": "System", "user": "User", "assistant": "Assistant"}


def chat_ids(
    tokenizer: PreTrainedTokenizerBase,
    messages: Sequence[Mapping[str, str]],
    *,
    add_generation_prompt: bool = True,
) -> list[int]:
    """The token ids of a conversation, as the model's own chat template writes it, ready for the reply.

    Each message has a `role` (one of `ROLES`) and a `content`. A tokenizer without a template (a base model) gets plain
    text: its beginning-of-text token if it has one, then `User: …`, `Assistant: …` in paragraphs of their own. With
    `add_generation_prompt` the ids end where the assistant's reply begins.

    Raises `UsageError` for an empty conversation, an unknown role or a missing content.
    """
    _require_well_formed(messages)
    conversation = [{"role": message["role"], "content": message["content"]} for message in messages]
    if tokenizer.chat_template is None:
        return _plain_ids(tokenizer, conversation, add_generation_prompt=add_generation_prompt)
    text = tokenizer.apply_chat_template(conversation, add_generation_prompt=add_generation_prompt, tokenize=False)
    # The template writes the special tokens itself; the tokenizer would add its own a second time.
    return list(tokenizer.encode(str(text), add_special_tokens=False))


def _require_well_formed(messages: Sequence[Mapping[str, str]]) -> None:
    if not messages:
        raise UsageError("a conversation needs at least one message, this one has 0")
    for index, message in enumerate(messages):
        if message.get("role") not in ROLES:
            text = f"message {index} has role {message.get('role')!r}, expected one of {', '.join(ROLES)}"
            raise UsageError(text)
        if not isinstance(message.get("content"), str):
            text = f"message {index} has no text: its content is {message.get('content')!r}"
            raise UsageError(text)


def _plain_ids(
    tokenizer: PreTrainedTokenizerBase, messages: Sequence[Mapping[str, str]], *, add_generation_prompt: bool
) -> list[int]:
    paragraphs = [f"{_FALLBACK_TITLES[message['role']]}: {message['content']}" for message in messages]
    if add_generation_prompt:
        paragraphs.append("Assistant:")
    ids = list(tokenizer.encode("\n\n".join(paragraphs), add_special_tokens=False))
    start = tokenizer.bos_token_id
    return ids if start is None else [int(start), *ids]
