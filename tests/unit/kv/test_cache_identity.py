from __future__ import annotations

from dataclasses import replace

import pytest

from tenure.errors import ClaimError
from tenure.kv.identity import CacheIdentity

IDENTITY = CacheIdentity(
    cache_key_domain="vllm-prefix-hash", model_id="m", tokenizer_id="t", salt_namespace="tenant-a", block_size=16
)


@pytest.mark.clause("TNR-IDN-001")
@pytest.mark.parametrize("field", ["cache_key_domain", "model_id", "tokenizer_id", "salt_namespace", "kv_format"])
@pytest.mark.parametrize("value", ["", "  ", None, 7, "two\nlines"])
def test_an_empty_or_malformed_field_is_named(field: str, value: object) -> None:
    with pytest.raises(ClaimError, match=field) as caught:
        replace(IDENTITY, **{field: value})
    assert (caught.value.field, caught.value.clause) == (field, "TNR-IDN-001")


@pytest.mark.clause("TNR-IDN-001")
@pytest.mark.parametrize("value", [0, -16, 1.5, True, "16"])
def test_a_block_size_is_a_whole_number_above_zero(value: object) -> None:
    with pytest.raises(ClaimError, match="block_size"):
        replace(IDENTITY, block_size=value)  # type: ignore[arg-type]


def test_an_adapter_may_be_absent_but_not_empty() -> None:
    with pytest.raises(ClaimError, match="adapter_id"):
        replace(IDENTITY, adapter_id="")


@pytest.mark.clause("TNR-IDN-002")
@pytest.mark.parametrize(
    "change",
    [
        {"model_id": "n"},
        {"salt_namespace": "tenant-b"},
        {"adapter_id": "lora"},
        {"block_size": 64},
        {"kv_format": "fp8"},
    ],
)
def test_every_field_tells_identities_apart_in_text_too(change: dict[str, object]) -> None:
    other = replace(IDENTITY, **change)  # type: ignore[arg-type]
    assert other != IDENTITY
    assert other.as_text() != IDENTITY.as_text()


def test_a_record_comes_back_as_it_went() -> None:
    with_adapter = replace(IDENTITY, adapter_id="lora", kv_format="bf16")
    assert CacheIdentity.from_record(with_adapter.to_record()) == with_adapter


def test_an_unknown_or_missing_field_of_a_record_is_named() -> None:
    with pytest.raises(ClaimError, match="colour"):
        CacheIdentity.from_record(IDENTITY.to_record() | {"colour": "red"})
    record = IDENTITY.to_record()
    del record["model_id"]
    with pytest.raises(ClaimError, match="model_id"):
        CacheIdentity.from_record(record)
