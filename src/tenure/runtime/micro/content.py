"""What the reference runtime computes: contents by one number a block, and rows that are digests of them."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from functools import lru_cache

from tenure.claims.blocks import BlockKey, hashed_block_key
from tenure.kv.identity import CacheIdentity

#: Contents of a sequence, one number a block: equal numbers under equal parents are equal tokens.
Content = tuple[int, ...]


@lru_cache(maxsize=4096)
def content_keys(identity: CacheIdentity, content: Content) -> tuple[BlockKey, ...]:
    """One name a block, each hash chained to its parent and, through the first, to the identity. Remembered."""
    parent = hashlib.sha256(identity.as_text().encode()).digest()
    keys = []
    for label in content:
        parent = hashlib.sha256(parent + label.to_bytes(8, "little", signed=True)).digest()
        keys.append(hashed_block_key(identity, parent.hex()[:32]))
    return tuple(keys)


def compute_rows(key: BlockKey) -> str:
    """What computing a block leaves in it: a stand-in for its rows that depends on everything before it."""
    return f"rows:{key[1]}"


def digest(rows: Sequence[str], *, content: Content) -> str:
    """What a request produces: it depends on the rows it really read, so a wrong row is a wrong answer."""
    text = "\n".join((*rows, repr(content)))
    return hashlib.sha256(text.encode()).hexdigest()[:16]
