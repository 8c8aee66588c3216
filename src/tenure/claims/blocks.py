"""How a block that a claim covers is named, so that claims which share one name it alike."""

from __future__ import annotations

from collections.abc import Container
from itertools import repeat

from tenure.claims.objects import ResidentClaim
from tenure.kv.identity import CacheIdentity

#: Names one logical block in one cache identity. The second part is a position of an object, or a chained hash.
BlockKey = tuple[str, int | str]

_SEPARATOR = "\x1f"


def object_block_key(identity: CacheIdentity, object_id: str, position: int) -> BlockKey:
    """The name of block `position` of an object, for runtimes that know their prefixes by name."""
    return (_object_scope(identity, object_id), position)


def hashed_block_key(identity: CacheIdentity, block_hash: str) -> BlockKey:
    """The name of the block with that chained hash, for runtimes that find prefixes by content."""
    return (identity.as_text(), block_hash)


def block_keys(claim: ResidentClaim) -> tuple[BlockKey, ...]:
    """The names of the blocks that the claim covers, in the order of `claim.footprint_positions`. Cost: linear."""
    if claim.block_hashes is not None:
        return tuple(zip(repeat(claim.cache_identity.as_text()), claim.block_hashes, strict=False))
    scope = _object_scope(claim.cache_identity, claim.object_id)
    return tuple(zip(repeat(scope), claim.footprint_positions, strict=False))


def block_names(claim: ResidentClaim) -> tuple[str, Container[int | str]]:
    """The first part that all of the claim's block names have, and what their second parts are. Cost: that of hashes."""
    if claim.block_hashes is not None:
        return claim.cache_identity.as_text(), frozenset(claim.block_hashes)
    return _object_scope(claim.cache_identity, claim.object_id), claim.footprint_positions


def _object_scope(identity: CacheIdentity, object_id: str) -> str:
    return f"{identity.as_text()}{_SEPARATOR}{object_id}"
