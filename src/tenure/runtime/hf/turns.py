"""Conversations as token ids: a whole one, and one more turn, as the model's own chat template writes it.

A session only ever appends, and the reply that it holds is the tokens that were sampled, which a template fed with its
text might write differently. So the conversation is never rendered again: what follows an assistant's reply is cut out
of a rendering of a made-up one.
"""

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


def opening_ids(tokenizer: PreTrainedTokenizerBase, text: str, *, system: str | None = None) -> list[int]:
    """The ids of a conversation's first turn, up to where the assistant's reply begins: see `chat_ids`."""
    messages = [] if system is None else [{"role": "system", "content": system}]
    return chat_ids(tokenizer, [*messages, {"role": "user", "content": text}])


def following_ids(tokenizer: PreTrainedTokenizerBase, text: str) -> list[int]:
    """The ids that close an assistant's reply (finished or cut short), add a user's turn and open the next reply."""
    if tokenizer.chat_template is None:
        return _encode(tokenizer, f"\n\nUser: {text}\n\nAssistant:")
    mark = "reply"
    while mark in text:
        mark += "-"
    rendered = _render(
        tokenizer,
        [
            {"role": "user", "content": "turn"},
            {"role": "assistant", "content": mark},
            {"role": "user", "content": text},
        ],
    )
    _, found, following = rendered.rpartition(mark)
    if not found:
        raise UsageError(
            "the chat template does not write an assistant's reply, so a conversation cannot be continued with it; "
            "append() the next turn's ids yourself"
        )
    return _encode(tokenizer, following)


def _render(tokenizer: PreTrainedTokenizerBase, messages: list[dict[str, str]]) -> str:
    return str(tokenizer.apply_chat_template(messages, add_generation_prompt=True, tokenize=False))


def _encode(tokenizer: PreTrainedTokenizerBase, text: str) -> list[int]:
    # The template writes the special tokens itself; the tokenizer would add its own a second time.
    return list(tokenizer.encode(text, add_special_tokens=False))
