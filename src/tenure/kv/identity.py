"""When two KV states are interchangeable: the identity of a cache, and the chained hashes of its blocks.

A block's hash covers the identity, every token before it and its own tokens, so equal hashes mean equal rows::

    root    = H(scheme, every field of the identity)
    hash[0] = H(root,    tokens of block 0)
    hash[i] = H(hash[i-1], tokens of block i)          as vLLM chains its prefix cache

Only full blocks have one: a block that may still grow has no name yet.
"""

from __future__ import annotations

import hashlib
import json
import struct
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from functools import lru_cache
from typing import NewType

from tenure.errors import ClaimError, UsageError

_REQUIRED_TEXT = ("cache_key_domain", "model_id", "tokenizer_id", "salt_namespace", "kv_format")
_OPTIONAL_TEXT = ("adapter_id", "prompt_embedding_id")


@dataclass(frozen=True, slots=True, kw_only=True)
class CacheIdentity:
    """Two KV states may stand in for each other if, and only if, their identities are equal.

    Attributes:
        cache_key_domain: which hashing or keying scheme names the blocks, such as "vllm-prefix-hash".
        model_id: whose weights wrote the rows.
        tokenizer_id: which tokenizer, or token-hash domain, the positions refer to.
        salt_namespace: the tenant or salt; rows never cross it.
        block_size: tokens in a block, above zero.
        adapter_id: the LoRA or other adapter that was active, None for none.
        prompt_embedding_id: what stood in for token ids, None when tokens were used.
        kv_format: dtype and layout of the stored bytes; "opaque" when the runtime keeps that to itself.

    Raises:
        ClaimError: a field is empty, of another type, or `block_size` is not positive. The error names the field.
    """

    cache_key_domain: str
    model_id: str
    tokenizer_id: str
    salt_namespace: str
    block_size: int
    adapter_id: str | None = None
    prompt_embedding_id: str | None = None
    kv_format: str = "opaque"

    def __post_init__(self) -> None:
        for name in _REQUIRED_TEXT:
            _require_text(name, getattr(self, name))
        for name in _OPTIONAL_TEXT:
            if getattr(self, name) is not None:
                _require_text(name, getattr(self, name))
        if type(self.block_size) is not int or self.block_size <= 0:
            message = f"must be a whole number of tokens above zero, got {self.block_size!r}"
            raise ClaimError(message, field="block_size", clause="TNR-IDN-001")

    def to_record(self) -> dict[str, str | int | None]:
        """A flat, JSON-ready mapping of every field."""
        return asdict(self)

    @classmethod
    def from_record(cls, record: Mapping[str, object]) -> CacheIdentity:
        """The identity that `to_record` wrote. Raises ClaimError on a missing, unknown or malformed field."""
        known = {field.name for field in fields(cls)}
        for name in record:
            if name not in known:
                message = f"is no field of a cache identity; it has {', '.join(sorted(known))}"
                raise ClaimError(message, field=name, clause="TNR-IDN-001")
        needed = known - {"adapter_id", "prompt_embedding_id", "kv_format"}
        for name in sorted(needed):
            if name not in record:
                raise ClaimError("is missing from the cache identity", field=name, clause="TNR-IDN-001")
        return cls(**record)  # type: ignore[arg-type]  # __post_init__ checks every type

    def as_text(self) -> str:
        """One line that is equal for equal identities and differs for different ones. For traces and logs."""
        return _text(self)


@lru_cache(maxsize=1024)
def _text(identity: CacheIdentity) -> str:
    return "|".join(f"{name}={value}" for name, value in identity.to_record().items() if value is not None)


def _require_text(name: str, value: object) -> None:
    if not isinstance(value, str) or not value.strip():
        raise ClaimError(f"must be a non-empty string, got {value!r}", field=name, clause="TNR-IDN-001")
    if "|" in value or "\n" in value:
        raise ClaimError(f"may not hold '|' or a line break, got {value!r}", field=name, clause="TNR-IDN-001")


BlockHash = NewType("BlockHash", bytes)
"""The 32-byte SHA-256 digest that names a full block and, through the chain, everything before it."""

#: Part of the root, so that hashes of another layout of the same fields can never be mistaken for these.
_SCHEME = b"tenure/block-hash/1"
_MAX_TOKEN_ID = 2**64 - 1


class BlockHasher:
    """Hashes one sequence's blocks as its tokens arrive, in whatever pieces they come.

    The hashes depend on the identity and the tokens alone, never on how the tokens were cut into calls, on the machine
    or on the run. A token costs its 8 bytes of SHA-256; at most `block_size` - 1 tokens are held back.
    """

    def __init__(self, identity: CacheIdentity) -> None:
        self._identity = identity
        self._root = _root_of(identity)
        self._hashes: list[BlockHash] = []
        self._open_tokens: list[int] = []

    @property
    def identity(self) -> CacheIdentity:
        """Whose rows the hashes name."""
        return self._identity

    @property
    def hashes(self) -> tuple[BlockHash, ...]:
        """One hash for each full block so far, in order. O(blocks)."""
        return tuple(self._hashes)

    @property
    def hashed_blocks(self) -> int:
        """Full blocks so far."""
        return len(self._hashes)

    @property
    def logical_rows(self) -> int:
        """Tokens seen so far, those of the open block included."""
        return len(self._hashes) * self._identity.block_size + len(self._open_tokens)

    def extend(self, token_ids: Iterable[int]) -> tuple[BlockHash, ...]:
        """Append tokens; returns the hashes of the blocks that they filled, in order, and nothing for the open one.

        Raises `UsageError`, and appends nothing, if an entry is no token id (a whole number from 0 to 2**64 - 1).
        """
        arrived = _checked_token_ids(token_ids, first_position=self.logical_rows)
        tokens = self._open_tokens + arrived
        block_size = self._identity.block_size
        full_tokens = len(tokens) - len(tokens) % block_size
        parent = self._hashes[-1] if self._hashes else self._root
        filled: list[BlockHash] = []
        for start in range(0, full_tokens, block_size):
            parent = _chain(parent, tokens[start : start + block_size])
            filled.append(parent)
        self._hashes.extend(filled)
        self._open_tokens = tokens[full_tokens:]
        return tuple(filled)

    def truncate(self, blocks: int) -> None:
        """Forget everything after the first `blocks` full blocks, the open one included; for rollback, feed it again.

        Raises `UsageError`, and forgets nothing, unless 0 <= `blocks` <= `hashed_blocks`.
        """
        if not 0 <= blocks <= len(self._hashes):
            raise UsageError(f"Cannot keep {blocks} full blocks of {len(self._hashes)}; give a number from 0 to that.")
        del self._hashes[blocks:]
        self._open_tokens = []

    def fork(self) -> BlockHasher:
        """A hasher for a second sequence that shares everything so far and goes its own way from here. O(blocks)."""
        twin = BlockHasher(self._identity)
        twin._hashes = list(self._hashes)
        twin._open_tokens = list(self._open_tokens)
        return twin


def block_hashes(identity: CacheIdentity, token_ids: Iterable[int]) -> tuple[BlockHash, ...]:
    """The hashes of the full blocks of one sequence. Raises `UsageError` for an entry that is no token id."""
    return BlockHasher(identity).extend(token_ids)


def shared_prefix_blocks(left: Sequence[BlockHash], right: Sequence[BlockHash]) -> int:
    """How many leading blocks two sequences have in common. O(log blocks): after a difference nothing is equal."""
    low, high = 0, min(len(left), len(right))
    while low < high:
        middle = (low + high + 1) // 2
        if left[middle - 1] == right[middle - 1]:
            low = middle
        else:
            high = middle - 1
    return low


def _root_of(identity: CacheIdentity) -> BlockHash:
    """What the first block chains to: distinct for distinct identities, salt, adapter and block size included."""
    record = json.dumps(identity.to_record(), sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    return BlockHash(hashlib.sha256(_SCHEME + b"\0" + record.encode("ascii")).digest())


def _chain(parent: BlockHash, token_ids: Sequence[int]) -> BlockHash:
    digest = hashlib.sha256(parent)
    digest.update(struct.pack(f"<{len(token_ids)}Q", *token_ids))
    return BlockHash(digest.digest())


def _checked_token_ids(token_ids: Iterable[int], *, first_position: int) -> list[int]:
    checked = list(token_ids)
    for place, token_id in enumerate(checked):
        if type(token_id) is not int or not 0 <= token_id <= _MAX_TOKEN_ID:
            raise UsageError(
                f"Position {first_position + place} holds {token_id!r}, which is no token id; expected a whole number "
                f"from 0 to {_MAX_TOKEN_ID}."
            )
    return checked
