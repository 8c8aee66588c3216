"""When two KV states are interchangeable."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from functools import lru_cache

from tenure.errors import ClaimError

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
