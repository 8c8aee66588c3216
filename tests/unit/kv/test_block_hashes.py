from __future__ import annotations

import hashlib
import itertools
import json
import struct
import subprocess
import sys
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tenure.errors import UsageError
from tenure.kv.identity import BlockHasher, CacheIdentity, block_hashes, shared_prefix_blocks

IDENTITY = CacheIdentity(
    cache_key_domain="tenure", model_id="m", tokenizer_id="t", salt_namespace="tenant-a", block_size=4
)
TOKENS = st.lists(st.integers(0, 2**64 - 1), max_size=40)


def test_only_full_blocks_have_a_hash() -> None:
    assert [len(block_hashes(IDENTITY, range(n))) for n in (0, 3, 4, 7, 8)] == [0, 0, 1, 1, 2]


def test_a_hash_is_the_documented_chain_over_the_identity_and_the_tokens() -> None:
    record = json.dumps(IDENTITY.to_record(), sort_keys=True, separators=(",", ":"))
    parent = hashlib.sha256(b"tenure/block-hash/1\0" + record.encode()).digest()
    expected = []
    for block in ((1, 2, 3, 4), (5, 6, 7, 2**64 - 1)):
        parent = hashlib.sha256(parent + b"".join(struct.pack("<Q", token) for token in block)).digest()
        expected.append(parent)
    assert list(block_hashes(IDENTITY, [1, 2, 3, 4, 5, 6, 7, 2**64 - 1])) == expected


def test_hashes_are_the_same_in_another_process() -> None:
    code = (
        "from tenure.kv.identity import CacheIdentity, block_hashes\n"
        "i = CacheIdentity(cache_key_domain='tenure', model_id='m', tokenizer_id='t', salt_namespace='tenant-a', "
        "block_size=4)\nprint(block_hashes(i, range(4))[0].hex())"
    )
    other = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout.strip()
    assert block_hashes(IDENTITY, range(4))[0].hex() == other


@pytest.mark.parametrize(
    "changed",
    [
        {"cache_key_domain": "other"},
        {"model_id": "other"},
        {"tokenizer_id": "other"},
        {"salt_namespace": "tenant-b"},
        {"block_size": 2},
        {"adapter_id": "lora-1"},
        {"prompt_embedding_id": "soft-prompt"},
        {"kv_format": "bfloat16"},
    ],
)
def test_a_difference_in_any_field_of_the_identity_changes_every_hash(changed: dict[str, object]) -> None:
    ours = block_hashes(IDENTITY, range(8))
    theirs = block_hashes(replace(IDENTITY, **changed), range(8))
    assert set(ours).isdisjoint(theirs)


@given(tokens=TOKENS, cuts=st.lists(st.integers(0, 40), max_size=5))
def test_hashes_do_not_depend_on_how_the_tokens_were_cut_into_calls(tokens: list[int], cuts: list[int]) -> None:
    hasher = BlockHasher(IDENTITY)
    bounds = [0, *sorted(min(cut, len(tokens)) for cut in cuts), len(tokens)]
    filled = [h for start, stop in itertools.pairwise(bounds) for h in hasher.extend(tokens[start:stop])]
    assert tuple(filled) == hasher.hashes == block_hashes(IDENTITY, tokens)
    assert hasher.logical_rows == len(tokens)


@given(tokens=st.lists(st.integers(0, 9), min_size=4, max_size=40), data=st.data())
def test_changing_one_token_changes_its_block_and_all_later_ones(tokens: list[int], data: st.DataObject) -> None:
    place = data.draw(st.integers(0, len(tokens) - 1))
    other = [*tokens[:place], tokens[place] + 1, *tokens[place + 1 :]]
    ours, theirs = block_hashes(IDENTITY, tokens), block_hashes(IDENTITY, other)
    same = [mine == yours for mine, yours in zip(ours, theirs, strict=True)]
    assert same == [block < place // 4 for block in range(len(ours))]
    assert shared_prefix_blocks(ours, theirs) == min(place // 4, len(ours))


def test_the_shared_prefix_ends_with_the_shorter_sequence() -> None:
    hashes = block_hashes(IDENTITY, range(20))
    assert [shared_prefix_blocks(hashes, hashes[:n]) for n in range(6)] == list(range(6))


@pytest.mark.parametrize("bad", [-1, 2**64, 1.0, True, "1", None])
def test_an_entry_that_is_no_token_id_is_refused_by_position_and_nothing_is_appended(bad: object) -> None:
    hasher = BlockHasher(IDENTITY)
    hasher.extend(range(6))
    with pytest.raises(UsageError, match="Position 8 "):
        hasher.extend([1, 2, bad, 3])  # type: ignore[list-item]
    assert hasher.logical_rows == 6
    assert hasher.extend([6, 7]) == block_hashes(IDENTITY, range(8))[1:]


def test_keeping_more_blocks_than_there_are_is_refused() -> None:
    hasher = BlockHasher(IDENTITY)
    hasher.extend(range(9))
    for blocks in (-1, 3):
        with pytest.raises(UsageError):
            hasher.truncate(blocks)
    assert hasher.hashed_blocks == 2
    assert hasher.logical_rows == 9
