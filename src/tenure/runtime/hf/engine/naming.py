"""What prompts and prefixes are called: their token ids, whose they are, and the chained hashes of their blocks."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

import torch

from tenure.claims.blocks import BlockKey, hashed_block_key
from tenure.claims.modes import ProtectionMode
from tenure.claims.objects import ResidentClaim
from tenure.claims.predicate import leading_prefix_at_least
from tenure.errors import ClaimError, UsageError
from tenure.kv.identity import BlockHasher, CacheIdentity
from tenure.runtime.hf.engine.handles import Request
from tenure.runtime.hf.identity import Identity
from tenure.runtime.hf.runs import require_ids

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


def require_whole(name: str, value: object, *, least: int | None) -> None:
    """Raise `UsageError` unless `value` is a whole number, not below `least`."""
    if type(value) is not int or (least is not None and value < least):
        raise UsageError(f"{name} is {value!r}; expected a whole number{'' if least is None else f', {least} or more'}")


def require_ids_of(tokens: object) -> list[int]:
    """A list of whole numbers from ids in any flat container, tensors included. Raises `UsageError` for anything else."""
    listed = tokens.tolist() if isinstance(tokens, torch.Tensor) else tokens
    if isinstance(listed, Mapping) or not isinstance(listed, Iterable):
        hint = "; pass its input_ids, as one flat list" if isinstance(listed, Mapping) else ""
        raise UsageError(f"{type(tokens).__name__} is no list of token ids{hint}")
    ids = list(listed)
    foreign = next((token for token in ids if not hasattr(token, "__index__") or isinstance(token, bool)), None)
    if foreign is not None:
        raise UsageError(
            f"{str(foreign)[:60]!r} is no token id; expected one flat list of whole numbers (one sequence)"
        )
    return [token.__index__() for token in ids]


class Naming:
    """Names what one model computes on blocks of `block_size` tokens. Changes nothing."""

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase | None,
        *,
        block_size: int,
        identity: Identity,
        adapters: Mapping[str, object],
    ) -> None:
        self._model = model
        self._tokenizer = tokenizer
        self._block_size = block_size
        self._identity = identity
        self._adapters = adapters

    def prompt_ids(self, prompt: str | Iterable[int]) -> list[int]:
        """Token ids of a text or of ids. Raises `UsageError` for none, a foreign one, or a text without a tokenizer."""
        if isinstance(prompt, str):
            if self._tokenizer is None:
                raise UsageError("this engine has no tokenizer, so it takes ids only; pass one to Engine(...)")
            prompt = self._tokenizer.encode(prompt, add_special_tokens=False)
        ids = require_ids_of(prompt)
        require_ids(self._model, ids)
        return ids

    def prefix_ids(self, prefix: str | Iterable[int] | Request) -> list[int]:
        """The tokens of a prefix that have rows. Raises `UsageError` as `prompt_ids`, and for a request under way."""
        if not isinstance(prefix, Request):
            return self.prompt_ids(prefix)
        if not prefix.state.is_over:
            raise UsageError(
                f"request {prefix.request_id} is {prefix.state}, and its prefix still grows; claim it when it is done, "
                "or claim its prompt's ids"
            )
        # The last token was told and never read, so it has no row.
        return [*prefix.prompt_ids, *prefix.token_ids][: len(prefix.prompt_ids) + max(0, len(prefix.token_ids) - 1)]

    def keys(self, hasher: BlockHasher, ids: Sequence[int]) -> tuple[BlockKey, ...]:
        """The names of the blocks that `ids` fill behind what `hasher` has seen."""
        return tuple(hashed_block_key(hasher.identity, name.hex()) for name in hasher.extend(ids))

    def cache_identity(self, salt: str, adapter_id: str | None) -> CacheIdentity:
        """Whose rows a request with this salt and adapter may see. Raises `UsageError` for an unknown adapter."""
        if adapter_id is not None and adapter_id not in self._adapters:
            known = ", ".join(self._adapters) or "none"
            raise UsageError(f"adapter {adapter_id!r} is not known to this engine; it has {known}")
        return CacheIdentity(
            cache_key_domain="tenure-block-hash",
            model_id=self._identity.model_id,
            tokenizer_id=self._identity.tokenizer_id,
            salt_namespace=salt,
            block_size=self._block_size,
            adapter_id=adapter_id,
            kv_format=str(self._model.dtype).removeprefix("torch."),
        )

    def stop_ids(self) -> frozenset[int]:
        """The tokens that end an answer where the caller names none: those of the model and its tokenizer."""
        named = getattr(getattr(self._model, "generation_config", None), "eos_token_id", None)
        found = set(named) if isinstance(named, list) else {named}
        found.add(getattr(self._tokenizer, "eos_token_id", None))
        return frozenset(token for token in found if token is not None)

    def claim(
        self,
        identity: CacheIdentity,
        ids: Sequence[int],
        *,
        claim_id: str,
        owner_scope: str,
        mode: ProtectionMode,
        footprint_blocks: int | None,
        required_blocks: int | None,
        duration_s: float | None,
        object_id: str | None,
        revision: int,
        fallback_mode: ProtectionMode | None,
    ) -> tuple[ResidentClaim, int]:
        """The claim on a prefix's leading blocks, and how many full blocks the prefix has. Raises `ClaimError`."""
        for name, number in (("footprint_blocks", footprint_blocks), ("required_blocks", required_blocks)):
            if number is not None and (type(number) is not int or number < (name == "footprint_blocks")):
                raise ClaimError(f"is {number!r}; expected a whole number of blocks", field=name, clause="TNR-ACC-009")
        keys = self.keys(BlockHasher(identity), ids)
        blocks = len(keys) if footprint_blocks is None else footprint_blocks
        if not keys or blocks > len(keys):
            message = (
                f"asks for {blocks} blocks of a prefix that has {len(keys)} full blocks of {self._block_size} tokens"
            )
            raise ClaimError(f"{message}; ask for 1 to {len(keys)}" if keys else message, field="footprint_blocks")
        claim = ResidentClaim(
            claim_id=claim_id,
            owner_scope=owner_scope,
            cache_identity=identity,
            object_id=f"prefix:{keys[blocks - 1][1]}"[:23] if object_id is None else object_id,
            materialization_predicate=leading_prefix_at_least(blocks if required_blocks is None else required_blocks),
            footprint_blocks=blocks,
            protection_mode=mode,
            duration_s=duration_s,
            revision=revision,
            fallback_mode=fallback_mode,
            block_hashes=tuple(str(key[1]) for key in keys[:blocks]),
        )
        return claim, len(keys)
