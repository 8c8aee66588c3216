"""A hasher that is extended, rolled back and forked always names exactly the tokens that it was fed."""

from __future__ import annotations

from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, invariant, rule

from tenure.kv.identity import BlockHasher, CacheIdentity, block_hashes

IDENTITY = CacheIdentity(cache_key_domain="d", model_id="m", tokenizer_id="t", salt_namespace="s", block_size=3)


class BlockHasherMachine(RuleBasedStateMachine):
    hashers = Bundle("hashers")

    def __init__(self) -> None:
        super().__init__()
        self.fed: dict[int, list[int]] = {}
        self.alive: dict[int, BlockHasher] = {}

    def _track(self, hasher: BlockHasher, tokens: list[int]) -> int:
        key = len(self.alive)
        self.alive[key], self.fed[key] = hasher, tokens
        return key

    @rule(target=hashers)
    def begin(self) -> int:
        return self._track(BlockHasher(IDENTITY), [])

    @rule(key=hashers, tokens=st.lists(st.integers(0, 5), max_size=8))
    def extend(self, key: int, tokens: list[int]) -> None:
        before = self.alive[key].hashes
        filled = self.alive[key].extend(iter(tokens))
        self.fed[key] += tokens
        assert self.alive[key].hashes == before + filled

    @rule(key=hashers, data=st.data())
    def truncate(self, key: int, data: st.DataObject) -> None:
        blocks = data.draw(st.integers(0, self.alive[key].hashed_blocks))
        self.alive[key].truncate(blocks)
        del self.fed[key][blocks * IDENTITY.block_size :]

    @rule(target=hashers, key=hashers)
    def fork(self, key: int) -> int:
        return self._track(self.alive[key].fork(), list(self.fed[key]))

    @invariant()
    def hashes_name_exactly_what_was_fed(self) -> None:
        for key, hasher in self.alive.items():
            assert hasher.hashes == block_hashes(IDENTITY, self.fed[key])
            assert hasher.logical_rows == len(self.fed[key])


TestBlockHasherMachine = BlockHasherMachine.TestCase
