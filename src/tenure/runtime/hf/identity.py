"""Whose rows a session holds: compared before they are used with a model again."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import torch

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

COMPUTED = "weights:sha256:"


class Identity(Protocol):
    """What `tenure.models` says of a loaded model: names of contents, equal if and only if the contents are."""

    @property
    def model_id(self) -> str:
        """Names the weights."""

    @property
    def tokenizer_id(self) -> str:
        """Names the token ids."""


@dataclass(frozen=True, slots=True)
class ComputedIdentity:
    """An identity computed from what is in memory, for models that came without one."""

    model_id: str
    tokenizer_id: str


def computed_identity(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase | None) -> ComputedIdentity:
    """The SHA-256 of all weights as they are in memory, and of the vocabulary. Reads every weight: 1 to 3 s a gigabyte."""
    digest = hashlib.sha256(model.config.model_type.encode())
    for name, weight in sorted(model.state_dict().items()):
        digest.update(f"\0{name}\0{weight.dtype}\0{tuple(weight.shape)}\0".encode())
        digest.update(weight.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
    return ComputedIdentity(f"{COMPUTED}{digest.hexdigest()}", _vocabulary_id(tokenizer))


def _vocabulary_id(tokenizer: PreTrainedTokenizerBase | None) -> str:
    if tokenizer is None:
        return "none"
    text = json.dumps(tokenizer.get_vocab(), sort_keys=True)
    return f"vocabulary:sha256:{hashlib.sha256(text.encode()).hexdigest()}"
