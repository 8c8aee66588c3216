"""What the session's tests share: a tokenizer as small as the tiny models, and sessions that page soon."""

from __future__ import annotations

import random
from typing import Any

from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from tenure.models import tiny_model
from tenure.policy import Policy
from tenure.runtime.hf import Session

TEMPLATE = (
    "{% for m in messages %}<|start|>{{ m['role'] }}\n{{ m['content'] }}<|end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|start|>assistant\n{% endif %}"
)
BLOCK_SIZE = 4
POOL_ROWS = 7 * BLOCK_SIZE
#: Scores at every chance and by nothing but rows, so that no test depends on how fast the machine is.
EAGER = Policy(interval_rows=3, margin=0.0, scoring_share=None)


def byte_tokenizer(*, template: str | None = TEMPLATE, special: tuple[str, ...] = ("<|start|>", "<|end|>")) -> Any:
    """Two special tokens and one a byte, ASCII first, so that a vocabulary of 128 ids holds all ASCII text."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet(), key=lambda letter: (ord(letter) > 126, ord(letter)))
    letters = [*alphabet[:94], "Ġ", "Ċ", *(a for a in alphabet[94:] if a not in "ĠĊ")]
    vocabulary = {name: index for index, name in enumerate([*special, *letters])}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(name, special=True) for name in special])
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token=special[1])
    fast.chat_template = template
    return fast


def tiny_session(family: str = "llama", *, model: Any = None, **options: Any) -> Session:
    """A session on a tiny model with a pool of 7 blocks of 4 rows (window of 1 sink and 2 tail blocks)."""
    settings: dict[str, Any] = {
        "pool": POOL_ROWS,
        "block_size": BLOCK_SIZE,
        "tail_blocks": 2,
        "policy": EAGER,
        "read_rows": 8,
    }
    tokenizer = options.pop("tokenizer", None)
    return Session(tiny_model(family) if model is None else model, tokenizer, **{**settings, **options})


def some_ids(count: int, *, seed: int = 0) -> list[int]:
    """Token ids that every tiny model knows."""
    chance = random.Random(seed)
    return [chance.randrange(2, 128) for _ in range(count)]
