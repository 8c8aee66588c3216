"""The token ids of one more turn, as the model's own chat template writes it.

A session only ever appends, and the reply that it holds is the tokens that were sampled, which a template fed with its
text might write differently. So the conversation is never rendered again: what follows an assistant's reply is cut out
of a rendering of a made-up one.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from tenure.errors import UsageError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


def opening_ids(tokenizer: PreTrainedTokenizerBase, text: str, *, system: str | None = None) -> list[int]:
    """The ids of a conversation's first turn, up to where the assistant's reply begins.

    A tokenizer without a template (a base model) gets its beginning-of-text token, if it has one, and plain
    `System: …`, `User: …`, `Assistant:` paragraphs.
    """
    messages = [] if system is None else [{"role": "system", "content": system}]
    messages.append({"role": "user", "content": text})
    if tokenizer.chat_template is not None:
        return _encode(tokenizer, _render(tokenizer, messages))
    titles = {"system": "System", "user": "User"}
    paragraphs = [f"{titles[message['role']]}: {message['content']}" for message in messages]
    start = tokenizer.bos_token_id
    return [*([] if start is None else [int(start)]), *_encode(tokenizer, "\n\n".join([*paragraphs, "Assistant:"]))]


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
