"""What a scorer is shown: the last queries of every pooled layer, and the keys of any block, wherever it is."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from functools import partial

import torch

from tenure.policy import KeyGroup, RecentQueries
from tenure.pool import Pager


class QueryWindow:
    """The last queries of every pooled layer. A decode step's query is kept by reference, so the tap copies nothing.

    `connected` is true once any query has reached a tap: before, the model's attention may not be ours at all.
    A compiled decode keeps its queries itself; `keep_elsewhere` says how to get them, and how to forget them.
    """

    def __init__(self, *, layers: int, rows: int) -> None:
        self.rows = rows
        self.connected = False
        self._kept: list[deque[torch.Tensor]] = [deque() for _ in range(layers)]
        self._kept_rows = [0] * layers
        self._scaling = [1.0] * layers
        self.taps = [partial(self._take, layer) for layer in range(layers)]
        self._fetch: Callable[[], None] = _nothing
        self._forget: Callable[[], None] = _nothing

    def _take(self, layer: int, query: torch.Tensor, scaling: float) -> None:
        # Every layer of every decode step comes through here: counting instead of summing saved 2 % of a step.
        self.connected = True
        kept = self._kept[layer]
        self._scaling[layer] = scaling
        rows = query.shape[2]
        if rows >= self.rows:
            kept.clear()
            # A clone of the part that is kept: a reference would keep a whole prompt's queries alive.
            kept.append(query[:, :, rows - self.rows :].detach().clone())
            self._kept_rows[layer] = self.rows
            return
        seen = query.detach() if query.requires_grad else query
        kept.append(seen if rows == 1 else seen.clone())
        held_rows = self._kept_rows[layer] + rows
        while held_rows - kept[0].shape[2] >= self.rows:
            held_rows -= kept.popleft().shape[2]
        self._kept_rows[layer] = held_rows

    def extend(self, layer: int, queries: torch.Tensor) -> None:
        """Add queries `[H * G, T, D]` of one layer, oldest first, copying them."""
        self._take(layer, queries.unsqueeze(0).clone(), self._scaling[layer])

    def recent(self, wanted: int) -> RecentQueries | None:
        """The last `wanted` queries (fewer when fewer were seen); None when there are none."""
        self._fetch()
        # Layers that have seen different numbers of rows: a forward died in between, and no row belongs to all of them.
        if not all(self._kept) or len(set(self._kept_rows)) > 1:
            return None
        by_layer = tuple(torch.cat(list(kept), dim=2)[0, :, -wanted:].detach() for kept in self._kept)
        return RecentQueries(by_layer=by_layer, scaling=tuple(self._scaling))

    def restore(self, queries: RecentQueries) -> None:
        """Hold what `recent` once answered, and nothing else."""
        self.clear()
        self._scaling = list(queries.scaling)
        for layer, by_layer in enumerate(queries.by_layer):
            self._kept[layer].append(by_layer.unsqueeze(0))
            self._kept_rows[layer] = by_layer.shape[1]

    def drop_last(self, rows: int) -> None:
        """Forget the newest `rows` queries: their tokens were taken back."""
        self._fetch()
        for layer, kept in enumerate(self._kept):
            left = rows
            while left and kept:
                newest = kept.pop()
                held = newest.shape[2]
                if held > left:
                    kept.append(newest[:, :, : held - left])
                self._kept_rows[layer] -= min(held, left)
                left -= min(held, left)

    def keep_elsewhere(self, *, fetch: Callable[[], None], forget: Callable[[], None]) -> None:
        """Call `fetch` (which will `extend`) before queries are read, and `forget` when they are cleared."""
        self._fetch, self._forget = fetch, forget

    def clear(self) -> None:
        """Forget all queries."""
        self._forget()
        for kept in self._kept:
            kept.clear()
        self._kept_rows = [0] * len(self._kept)


def _nothing() -> None:
    """No queries are kept elsewhere."""


class PagerKeys:
    """Keys of any block of a pager, where reading them is cheapest.

    On a CPU that is the host copy, which is contiguous. With `prefer_arena` (the default where the arena is not in host
    memory) it is the arena for blocks that are there whole, so that they do not cross the link to be scored.
    """

    def __init__(self, pager: Pager, *, prefer_arena: bool | None = None) -> None:
        self._pager = pager
        self._prefer_arena = pager.arena.device.type != "cpu" if prefer_arena is None else prefer_arena

    def block_keys(self, block: int) -> list[KeyGroup]:
        """All keys of a block; views, not copies."""
        pager = self._pager
        groups = pager.arena.layout.groups
        is_sealed = block < pager.sealed_blocks
        slots = pager.resident_slots(block) if self._prefer_arena or not is_sealed else ()
        # Slots are distinct, so this says that they lie together; their order among themselves changes no score.
        is_together = bool(slots) and max(slots) - min(slots) + 1 == len(slots)
        if is_sealed and not (is_together and len(slots) == pager.block_size):
            host = pager.host_block(block)
            host.wait()
            tensors = host.views
        else:
            tensors = tuple(plane.narrow(2, min(slots), len(slots)) for plane in pager.arena.planes)
        return [
            KeyGroup(layers=group.key_layers, keys=tensor[: len(group.key_layers)])
            for group, tensor in zip(groups, tensors, strict=True)
            if group.key_layers
        ]
