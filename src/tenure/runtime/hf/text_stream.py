"""Text out of token ids as they come, whole characters only."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

REPLACEMENT = "\N{REPLACEMENT CHARACTER}"


class TextStream:
    """Turns one token after another into pieces of text that, joined, are the decoding of all of them.

    A character whose bytes are spread over several tokens is held back until it is whole. Special tokens give no text.
    Each token is decoded together with those of the piece before it, because a tokenizer may write a token differently
    at the start of a text. Cost: a piece's tokens are decoded again for each of its tokens, so constant in practice.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        self._tokenizer = tokenizer
        self._context_ids: list[int] = []
        self._open_ids: list[int] = []

    def push(self, token_id: int) -> str:
        """The text that this token completes; empty while a character is not whole."""
        self._open_ids.append(token_id)
        before, text = self._decode()
        if text.endswith(REPLACEMENT) or len(text) <= len(before):
            return ""
        self._context_ids, self._open_ids = self._open_ids, []
        return text[len(before) :]

    def finish(self) -> str:
        """What is still held back: bytes that never became a character, as replacement characters."""
        before, text = self._decode()
        self._context_ids, self._open_ids = [], []
        return text[len(before) :]

    def _decode(self) -> tuple[str, str]:
        return self._text(self._context_ids), self._text(self._context_ids + self._open_ids)

    def _text(self, ids: list[int]) -> str:
        # Cleaning up spaces would make the text of a prefix differ from the prefix of a text.
        return str(self._tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False))
