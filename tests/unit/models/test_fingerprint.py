from __future__ import annotations

import hashlib
import os
from pathlib import Path
from typing import Any

import pytest

from tenure.models import fingerprint
from tenure.models.fingerprint import combined_sha256, file_sha256, remembered_sha256, tokenizer_id

LONG_AGO_NS = 1_700_000_000 * 10**9


def settled(path: Path, content: bytes, *, mtime_ns: int = LONG_AGO_NS) -> Path:
    path.write_bytes(content)
    os.utime(path, ns=(mtime_ns, mtime_ns))
    return path


def counted(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    read: list[Path] = []

    def count(path: Path) -> str:
        read.append(path)
        return file_sha256(path)

    monkeypatch.setattr(fingerprint, "file_sha256", count)
    return read


def test_the_hash_of_a_file_is_the_sha256_of_its_bytes(tmp_path: Path) -> None:
    path = settled(tmp_path / "file", b"rows")
    assert file_sha256(path) == hashlib.sha256(b"rows").hexdigest()


def test_an_unchanged_file_is_read_once_and_a_changed_one_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read = counted(monkeypatch)
    path, memory = settled(tmp_path / "file", b"one"), tmp_path / "memory"
    first = remembered_sha256(path, memory=memory)
    assert remembered_sha256(path, memory=memory) == first
    assert len(read) == 1
    settled(path, b"two", mtime_ns=LONG_AGO_NS + 1)
    assert remembered_sha256(path, memory=memory) == hashlib.sha256(b"two").hexdigest()
    assert len(read) == 2


def test_a_file_changed_a_moment_ago_is_not_remembered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read = counted(monkeypatch)
    path = tmp_path / "file"
    path.write_bytes(b"one")
    remembered_sha256(path, memory=tmp_path / "memory")
    remembered_sha256(path, memory=tmp_path / "memory")
    assert len(read) == 2


def test_a_damaged_memory_is_no_reason_to_fail(tmp_path: Path) -> None:
    path, memory = settled(tmp_path / "file", b"one"), tmp_path / "memory"
    expected = remembered_sha256(path, memory=memory)
    (note,) = memory.iterdir()
    for damaged in ("", "{}", "[1]", '{"state": {}, "sha256": "0"}'):
        note.write_text(damaged)
        assert remembered_sha256(path, memory=memory) == expected


def test_a_memory_that_cannot_be_written_costs_time_only(tmp_path: Path) -> None:
    path = settled(tmp_path / "file", b"one")
    in_the_way = settled(tmp_path / "memory", b"a file")
    assert remembered_sha256(path, memory=in_the_way) == file_sha256(path)


def test_the_combined_hash_sees_names_and_contents_but_not_the_folder(tmp_path: Path) -> None:
    for name in ("a", "b", "c"):
        (tmp_path / name).mkdir()
    first = [settled(tmp_path / "a" / "x", b"1"), settled(tmp_path / "a" / "y", b"2")]
    moved = [settled(tmp_path / "b" / "y", b"2"), settled(tmp_path / "b" / "x", b"1")]
    swapped = [settled(tmp_path / "c" / "x", b"2"), settled(tmp_path / "c" / "y", b"1")]
    memory = tmp_path / "memory"
    assert combined_sha256(first, memory=memory) == combined_sha256(moved, memory=memory)
    assert combined_sha256(first, memory=memory) != combined_sha256(swapped, memory=memory)


def fast_tokenizer(vocabulary: dict[str, int]) -> Any:
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel
    from transformers import PreTrainedTokenizerFast

    return PreTrainedTokenizerFast(tokenizer_object=Tokenizer(WordLevel(vocabulary, unk_token="a")))


def test_a_tokenizer_is_the_same_whatever_padding_truncation_and_template_are_set() -> None:
    tokenizer = fast_tokenizer({"a": 0, "b": 1})
    before = tokenizer_id(tokenizer)
    tokenizer.backend_tokenizer.enable_truncation(4)
    tokenizer.backend_tokenizer.enable_padding()
    tokenizer.chat_template = "{{ messages }}"
    assert tokenizer_id(tokenizer) == before
    assert before.startswith("tokenizer:sha256:")


def test_a_tokenizers_settings_are_left_out_whatever_the_order_of_its_keys() -> None:
    first = fingerprint._without_settings('{"version":"1.0","truncation":{"max_length":4},"padding":null,"model":{}}')
    second = fingerprint._without_settings('{"version":"1.0","truncation":null,"padding":{"pad_id":0},"model":{}}')
    assert first == second
    assert fingerprint._without_settings('{"padding":null,"model":{"vocab":{}}}') != first


def test_tokenizers_that_give_other_ids_have_other_identities() -> None:
    first = fast_tokenizer({"a": 0, "b": 1})
    with_added = fast_tokenizer({"a": 0, "b": 1})
    with_added.add_tokens(["c"])
    others = [first, fast_tokenizer({"a": 1, "b": 0}), with_added]
    assert len({tokenizer_id(tokenizer) for tokenizer in others}) == 3


def test_a_tokenizer_without_a_fast_backend_is_known_by_its_vocabulary() -> None:
    class Slow:
        def __init__(self, vocabulary: dict[str, int]) -> None:
            self._vocabulary = vocabulary

        def get_vocab(self) -> dict[str, int]:
            return self._vocabulary

    same = tokenizer_id(Slow({"a": 0, "b": 1}))  # type: ignore[arg-type]
    assert tokenizer_id(Slow({"b": 1, "a": 0})) == same  # type: ignore[arg-type]
    assert tokenizer_id(Slow({"a": 1, "b": 0})) != same  # type: ignore[arg-type]
