"""The prefix cache as the control plane sees it: physical blocks, what they hold, and who would be taken next."""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from tenure.claims.blocks import BlockKey
from tenure.errors import CapacityError, InternalError


@dataclass(slots=True)
class Slot:
    """One physical block. `key` is None while its content is not reusable."""

    block_id: int
    key: BlockKey | None = None
    position: int | None = None
    prefix_id: str | None = None
    users: int = 0


class BlockStore:
    """Physical blocks 1 to `usable_blocks`, a map from name to block, and the order in which idle ones are taken.

    Guarantees: a name stands for at most one block; a block in use is never offered; idle blocks are offered the
    longest unused first, the last block of a finished sequence before its first. Only `PoolLedger` knows who claims
    what, so `victims` asks for the rank of each block it offers.

    Cost: O(1) a block; offering is O(blocks offered + blocks passed over on the way).
    """

    def __init__(self, usable_blocks: int) -> None:
        self._free: deque[int] = deque(range(1, usable_blocks + 1))
        self._slots: dict[int, Slot] = {}
        self._by_key: dict[BlockKey, Slot] = {}
        self._idle: OrderedDict[int, Slot] = OrderedDict()
        self._next_id = usable_blocks + 1

    def __len__(self) -> int:
        return len(self._slots)

    def __iter__(self) -> Iterator[int]:
        return iter(self._slots)

    @property
    def free_blocks(self) -> int:
        """Blocks that hold nothing."""
        return len(self._free)

    def grow(self, blocks: int) -> None:
        """Add blocks to the pool."""
        self._free.extend(range(self._next_id, self._next_id + blocks))
        self._next_id += blocks

    def slot(self, block_id: int) -> Slot:
        """The block with that id, in use or idle."""
        return self._slots[block_id]

    def find(self, key: BlockKey) -> Slot | None:
        """The block that holds this content, or None."""
        return self._by_key.get(key)

    def leading_run(self, keys: Sequence[BlockKey]) -> list[Slot]:
        """The cached blocks of the longest prefix of `keys` that is wholly cached."""
        run: list[Slot] = []
        for key in keys:
            slot = self._by_key.get(key)
            if slot is None:
                break
            run.append(slot)
        return run

    def take_free(self, blocks: int) -> list[Slot]:
        """Free blocks, now in use once. Raises CapacityError when there are not enough; then none is taken."""
        if blocks > len(self._free):
            raise CapacityError(f"{blocks} blocks were asked for and {len(self._free)} are free")
        taken = [Slot(block_id=self._free.popleft(), users=1) for _ in range(blocks)]
        self._slots.update((slot.block_id, slot) for slot in taken)
        return taken

    def use(self, slot: Slot) -> None:
        """One more request uses a block."""
        slot.users += 1
        self._idle.pop(slot.block_id, None)

    def publish(self, slot: Slot, *, key: BlockKey, position: int, prefix_id: str) -> bool:
        """Make a block's content reusable; False, and no change, when another block holds it already."""
        if key in self._by_key:
            return False
        slot.key, slot.position, slot.prefix_id = key, position, prefix_id
        self._by_key[key] = slot
        return True

    def let_go(self, slot: Slot) -> bool:
        """One request fewer uses a block. True when it is free now, because nobody could find it again."""
        if slot.users <= 0:
            raise InternalError(f"block {slot.block_id} was let go more often than it was used")
        slot.users -= 1
        if slot.users:
            return False
        if slot.key is None:
            self._free_slot(slot)
            return True
        self._idle[slot.block_id] = slot
        return False

    def evict(self, slot: Slot) -> None:
        """Empty an idle block."""
        if slot.users:
            raise InternalError(f"block {slot.block_id} is used by {slot.users} requests and cannot be evicted")
        self.unpublish(slot)
        self._free_slot(slot)

    def unpublish(self, slot: Slot) -> None:
        """Make a block's content impossible to find; its users keep it."""
        if slot.key is not None and self._by_key.get(slot.key) is slot:
            del self._by_key[slot.key]
        slot.key = None

    def idle(self) -> Iterator[Slot]:
        """Idle blocks, the next victim first."""
        return iter(self._idle.values())

    def victims(self, blocks: int, *, rank_of: Callable[[Slot], int | None]) -> list[Slot]:
        """The next `blocks` idle blocks to take: lowest rank first, then longest unused; rank None is never taken."""
        found: list[tuple[int, Slot]] = []
        lowest = 0
        for slot in self._idle.values():
            rank = rank_of(slot)
            if rank is None:
                continue
            found.append((rank, slot))
            lowest += rank == 0
            if lowest >= blocks:
                break
        found.sort(key=lambda pair: pair[0])
        if len(found) < blocks:
            raise InternalError(f"{blocks} victims were planned and only {len(found)} idle blocks may be taken")
        return [slot for _, slot in found[:blocks]]

    def published(self) -> Iterator[Slot]:
        """Every block whose content can be found."""
        return iter(self._by_key.values())

    def _free_slot(self, slot: Slot) -> None:
        self._idle.pop(slot.block_id, None)
        del self._slots[slot.block_id]
        self._free.append(slot.block_id)
