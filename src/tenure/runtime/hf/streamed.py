"""Exact attention over a sequence that does not fit: its full blocks live on the host and stream through a small arena.

An arena of C slots holds, from slot 0 on, the rows of the block that is not full yet and the T new rows of the forward
under way; full blocks pass through the slots behind them, layer by layer, as many at a time as fit. Softmax over keys
that come in pieces is exact: with the largest score m, the sum l of exp(score - m) and the mixed values o of what has
been seen, a new piece rescales l and o by exp(m - m') and adds its own share (Milakov and Gimelshein 2018,
arXiv:1805.02867; as in FlashAttention, arXiv:2205.14135).
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import torch

from tenure.errors import CapacityError, GeometryError, InternalError, PoolSizeError, UsageError
from tenure.pool.arena import Arena
from tenure.pool.host import HostBlock, HostTier
from tenure.pool.layout import ArenaLayout
from tenure.pool.transfer import Transfer
from tenure.runtime.hf.attention import require_own_attention
from tenure.runtime.hf.runs import ForwardCache, require_ids, require_layers, run_model

if TYPE_CHECKING:
    from transformers import PreTrainedModel

SCORE_ELEMENTS = 2**22
"""Scores that are alive at a time: 16 MiB of float32, whatever the arena and the number of new rows."""


class StreamedRows:
    """One sequence whose full blocks are on the host, read exactly through an arena of any size. Use from one thread.

    `blocks` are host blocks of `host`, reserved by the caller and still the caller's: block b holds rows
    `[b * block_size, (b + 1) * block_size)` once it is full. n blocks take `(n + 1) * block_size - 1` rows, as a block that
    is not full yet needs none. The arena's slots are all this sequence's.

    Guarantees: nothing is allocated on the host later, so a reserved sequence never runs out; the rows of a block change
    once, when it becomes full, and its checksum is taken then; a failed forward changes neither rows nor bytes that count.
    Raises `PoolSizeError` for an arena below two blocks, `GeometryError` for a host tier of another layout or dtype.
    """

    def __init__(self, arena: Arena, host: HostTier, *, transfer: Transfer, blocks: Sequence[HostBlock]) -> None:
        block_size = arena.layout.block_size
        if arena.capacity_rows < 2 * block_size:
            raise PoolSizeError(
                f"an arena of {arena.capacity_rows} rows cannot stream blocks of {block_size}: one block passes through "
                f"while up to {block_size} rows stay; make it at least {2 * block_size} rows"
            )
        if host.layout != arena.layout or host.dtype != arena.dtype:
            raise GeometryError(
                f"the host tier holds blocks of {host.layout.block_size} rows of {host.dtype}, the arena takes blocks of "
                f"{block_size} of {arena.dtype}, of the same layers; make both from one layout and dtype"
            )
        if len(set(blocks)) != len(blocks):
            raise UsageError(f"of {len(blocks)} host blocks, one was passed twice; reserve one for each block of rows")
        self.arena = arena
        self._transfer = transfer
        self._blocks: tuple[HostBlock, ...] = tuple(blocks)
        self._checksums: list[int] = []
        self._rows = 0
        self._released = False

    @property
    def rows(self) -> int:
        """Committed rows, wherever they are."""
        return self._rows

    @property
    def block_size(self) -> int:
        """Rows a block."""
        return self.arena.layout.block_size

    @property
    def open_rows(self) -> int:
        """Rows of the block that is not full yet: the arena's slots `[0, open_rows)`, and the only rows it keeps."""
        return self._rows % self.block_size

    @property
    def full_blocks(self) -> tuple[HostBlock, ...]:
        """The host blocks that hold rows, in position order."""
        return self._blocks[: len(self._checksums)]

    @property
    def max_append_rows(self) -> int:
        """Rows that the next forward may append; 0 when the reserved blocks are spent. Larger parts read faster."""
        return min(self._arena_room(), self._host_room())

    def _arena_room(self) -> int:
        passing_rows = self.block_size if self._checksums else 0
        return self.arena.capacity_rows - self.open_rows - passing_rows

    def _host_room(self) -> int:
        return (len(self._blocks) + 1) * self.block_size - 1 - self._rows

    def require_room(self, new_rows: int) -> None:
        """Raise `CapacityError` unless the next forward may append `new_rows`, `UsageError` after `release`."""
        self._require_held()
        if new_rows > self._host_room():
            raise CapacityError(
                f"this sequence has {self._rows} rows and is to get {new_rows} more, but its {len(self._blocks)} host "
                f"blocks of {self.block_size} were reserved for {self._rows + self._host_room()}; reserve more blocks "
                "for a longer sequence"
            )
        if new_rows > self._arena_room():
            raise CapacityError(
                f"{new_rows} rows in one forward leave no room to stream through an arena of {self.arena.capacity_rows} "
                f"with {self.open_rows} rows in it; read them in parts of at most {self.max_append_rows}"
            )

    def before_forward(self) -> None:
        """Make the forward wait for copies out of slots that it will overwrite."""
        self._transfer.before_overwrite()

    def commit(self, new_rows: int) -> None:
        """Make the rows that a forward wrote at `[open_rows, open_rows + new_rows)` part of the sequence.

        Blocks that became full go to their host block; what is left moves to the arena's front. All or nothing: when a
        copy raises, the sequence is as it was.
        """
        block_size, open_rows = self.block_size, self.open_rows
        full, rest = divmod(open_rows + new_rows, block_size)
        first = len(self._checksums)
        checksums = []
        for index, block in enumerate(self._blocks[first : first + full]):
            self._transfer.page_out(self.arena, range(index * block_size, (index + 1) * block_size), block)
            checksums.append(_checksum(block))
        if full:
            saved = self.arena.save_rows(range(open_rows))
            try:
                self.arena.move_rows(range(full * block_size, full * block_size + rest), range(rest))
            except BaseException:
                self.arena.load_rows(0, saved)
                raise
        self._checksums.extend(checksums)
        self._rows += new_rows

    def verify(self) -> None:
        """Raise `InternalError`, naming them, if host blocks no longer hold the bytes that were written. O(bytes)."""
        self._require_held()
        held = zip(self.full_blocks, self._checksums, strict=True)
        damaged = [index for index, (block, expected) in enumerate(held) if _checksum(block) != expected]
        if damaged:
            raise InternalError(
                f"host block(s) {damaged} of {len(self._checksums)} of this sequence of {self._rows} rows no longer hold "
                "the bytes that were written there: something else wrote to them. Drop the sequence and read its tokens "
                "again"
            )

    def release(self) -> tuple[HostBlock, ...]:
        """Forget the sequence and return the host blocks, which the caller frees. No other call is answered afterwards."""
        self._require_held()
        blocks, self._blocks = self._blocks, ()
        self._checksums, self._rows, self._released = [], 0, True
        for block in blocks:
            block.wait()
        return blocks

    def _require_held(self) -> None:
        if self._released:
            raise UsageError("this sequence was released: its host blocks belong to someone else; make a new one")


def forward_streamed(model: PreTrainedModel, streamed: StreamedRows, ids: Sequence[int]) -> torch.Tensor:
    """Read `ids` behind the sequence's rows and return the logits behind the last, `[vocabulary]`. All or nothing.

    Exact up to rounding, whatever the arena: every row attends to every earlier row, in float32 at least. Mutates the
    arena, the host blocks that become full, and `rows` once the forward is done.
    Cost: every full block crosses from the host once a forward and layer, whatever T; on a CUDA device it returns when all
    copies have landed. Raises `CapacityError` for more than `max_append_rows` ids, `UsageError` for no ids, one outside the
    vocabulary or a released sequence, `PolicyError` for a foreign attention implementation or an architecture without the
    attention interface, `GeometryError` for an arena of another model.
    """
    require_own_attention(model.config)
    require_layers(model, streamed.arena.layout)
    require_ids(model, ids)
    streamed.require_room(len(ids))
    streamed.before_forward()
    try:
        logits = run_model(model, _StreamedCache(streamed, new_rows=len(ids)), [list(ids)])[0]
    finally:
        # The copies in read host blocks that the caller may free as soon as this returns, however it does.
        if streamed.arena.device.type == "cuda":
            torch.cuda.current_stream(streamed.arena.device).synchronize()
    streamed.commit(len(ids))
    return logits


class _StreamedCache(ForwardCache):
    """The cache of one forward of a streamed sequence."""

    def __init__(self, streamed: StreamedRows, *, new_rows: int) -> None:
        layout = streamed.arena.layout
        super().__init__(layers=len(layout.layer_indices), rows=streamed.rows, new_rows=new_rows, mask_rows=0)
        self._arena = streamed.arena
        self._blocks = streamed.full_blocks
        self._open_rows = streamed.open_rows
        self._key_planes = _planes(layout, kind="key")
        self._value_planes = _planes(layout, kind="value")

    def append(self, ordinal: int, keys: torch.Tensor, values: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        self._arena.write(ordinal, self._open_rows, keys, values)
        return self.hand_over(ordinal, keys, values)

    def attend(self, ordinal: int, query: torch.Tensor, scaling: float) -> torch.Tensor:
        keys, values = self._arena.keys(ordinal)[0], self._arena.values(ordinal)[0]
        end = self._open_rows + self._new_rows
        merge = _RunningSoftmax(query, scaling, kv_heads=keys.shape[0])
        # First, so that every query has seen a key (slot 0 at least) before a piece may be hidden from it entirely.
        merge.add(keys[:, :end], values[:, :end], first_query_slot=self._open_rows)
        for rows in self._stream_in(ordinal, keys[:, end:], values[:, end:]):
            merge.add(keys[:, end : end + rows], values[:, end : end + rows])
        return merge.result()

    def _stream_in(self, ordinal: int, keys: torch.Tensor, values: torch.Tensor) -> Iterator[int]:
        """Copy full blocks' rows of one layer to the front of these slots, in groups; yield how many rows came."""
        block_size = self._arena.layout.block_size
        group_blocks = keys.shape[1] // block_size
        (key_group, key_plane), (value_group, value_plane) = self._key_planes[ordinal], self._value_planes[ordinal]
        for first in range(0, len(self._blocks), max(1, group_blocks)):
            group = self._blocks[first : first + group_blocks]
            for index, block in enumerate(group):
                slot = index * block_size
                # On the compute stream, so the order against the reads of these slots is the order of the calls.
                keys[:, slot : slot + block_size].copy_(block.views[key_group][key_plane], non_blocking=True)
                values[:, slot : slot + block_size].copy_(block.views[value_group][value_plane], non_blocking=True)
            yield len(group) * block_size


class _RunningSoftmax:
    """`softmax(scaling * q k) v` over keys that come in pieces, in float32 at least.

    `query` is `[1, H*G, T, D]`; a group's queries are rows of one matrix, so that keys are never repeated.
    """

    def __init__(self, query: torch.Tensor, scaling: float, *, kv_heads: int) -> None:
        _, self._query_heads, self._query_rows, head_dim = query.shape
        self._out_dtype = query.dtype
        self._dtype = torch.promote_types(query.dtype, torch.float32)
        # Queries may be views with any strides; head h*G + g is row g of group h.
        self._queries = (query[0].to(self._dtype) * scaling).reshape(kv_heads, -1, head_dim)
        shape = (*self._queries.shape[:2], 1)
        self._peak = self._queries.new_full(shape, float("-inf"))
        self._total = self._queries.new_zeros(shape)
        self._mixed = self._queries.new_zeros(shape)

    def add(self, keys: torch.Tensor, values: torch.Tensor, *, first_query_slot: int | None = None) -> None:
        """Attend over `[H, S, D]` more. With `first_query_slot` p, query t sees slots up to p + t; without, all of them."""
        piece_rows = max(1, SCORE_ELEMENTS // (self._query_heads * self._query_rows))
        for start in range(0, keys.shape[1], piece_rows):
            piece = slice(start, start + piece_rows)
            scores = self._queries @ keys[:, piece].to(self._dtype).transpose(1, 2)
            if first_query_slot is not None and self._query_rows > 1:
                self._hide_later(scores, first_slot=start, first_query_slot=first_query_slot)
            peak = torch.maximum(self._peak, scores.amax(-1, keepdim=True))
            weights = scores.sub_(peak).exp_()
            earlier = torch.exp(self._peak - peak)
            self._total = self._total * earlier + weights.sum(-1, keepdim=True)
            self._mixed = self._mixed * earlier + weights @ values[:, piece].to(self._dtype)
            self._peak = peak

    def _hide_later(self, scores: torch.Tensor, *, first_slot: int, first_query_slot: int) -> None:
        slots = torch.arange(first_slot, first_slot + scores.shape[2], device=scores.device)
        last_seen = torch.arange(first_query_slot, first_query_slot + self._query_rows, device=scores.device)
        hidden = slots > last_seen.unsqueeze(1)
        scores.view(scores.shape[0], -1, *hidden.shape).masked_fill_(hidden, float("-inf"))

    def result(self) -> torch.Tensor:
        """`[1, T, H*G, D]`, in the query's dtype."""
        mixed = (self._mixed / self._total).reshape(1, self._query_heads, self._query_rows, -1)
        return mixed.transpose(1, 2).to(self._out_dtype).contiguous()


def _planes(layout: ArenaLayout, *, kind: str) -> dict[int, tuple[int, int]]:
    """Of each pooled layer, the plane group of its keys or values and the plane in it, as in a host block's views."""
    places = {}
    for index, group in enumerate(layout.groups):
        first, layers = (0, group.key_layers) if kind == "key" else (len(group.key_layers), group.value_layers)
        places.update({ordinal: (index, plane) for plane, ordinal in enumerate(layers, start=first)})
    return places


def _checksum(block: HostBlock) -> int:
    block.wait()
    return zlib.crc32(block.buffer.view(torch.uint8).numpy().data)
