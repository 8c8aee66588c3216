"""One forward pass through a cache, in the order of Transformers, told to a checker row by row."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from tenure.adapters.transformers.batch import Batch, BatchSequence
from tenure.adapters.transformers.patterns import RowBook, RowTag
from tenure.adapters.transformers.subjects import Subject
from tenure.kv.geometry import LayerGeometry
from tenure.kv.semantics import Counts, Event, Read, Refusal, RowKey, Sizes, Write

Tell = Callable[[Event], object]


def describe_error(error: Exception) -> str:
    """What a cache raised, in one line of bounded width."""
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text[:140]}{'...' if len(text) > 140 else ''}"


def tell_counts(cache: Any, batch: Batch, layer_indices: Sequence[int], tell: Tell) -> None:
    """Ask the cache how many rows each layer has seen, and tell it in each sequence's own rows, padding left out."""
    try:
        said = {index: int(cache.get_seq_length(index)) for index in layer_indices}
    except Exception as error:
        tell(Refusal("count", permitted=False, detail=describe_error(error)))
        return
    for sequence in batch.sequences:
        tell(Counts(sequence.number, tuple((index, sequence.rows_among(rows)) for index, rows in said.items())))


@dataclass(frozen=True, slots=True)
class Forward:
    """`rows` new rows of every sequence of `batch`, which has them already, in step `step`.

    `run` returns None when every layer was written, else the index of the layer that refused; nothing is raised for
    what the cache does. `may_refuse`: the rows exceed the capacity that the cache was made for.
    """

    subject: Subject
    cache: Any
    layers: Sequence[LayerGeometry]
    book: RowBook
    batch: Batch
    tell: Tell
    step: int
    rows: int
    amplitude: float
    may_refuse: bool

    def run(self) -> int | None:
        """Ask all mask sizes, then write and read layer after layer."""
        indices = [layer.index for layer in self.layers]
        try:
            sizes = {index: self.cache.get_mask_sizes(self.rows, index) for index in indices}
        except Exception as error:
            self.tell(Refusal("write", permitted=self.may_refuse, detail=describe_error(error)))
            return indices[0]
        for layer in self.layers:
            returned = self._update(layer)
            if returned is None:
                return layer.index
            self._tell_read(layer, sizes[layer.index], *returned)
            tell_counts(self.cache, self.batch, indices, self.tell)
        return None

    @property
    def first_query(self) -> int:
        """The physical row of the first new query."""
        return self.batch.physical_rows - self.rows

    def _update(self, layer: LayerGeometry) -> tuple[torch.Tensor, torch.Tensor] | None:
        tags = [self._new_tags(sequence, layer.index) for sequence in self.batch.sequences]
        serials = [[tag.serial if isinstance(tag, RowTag) else tag for tag in row] for row in tags]
        keys, values = self.book.rows(serials, amplitude=self.amplitude)
        try:
            all_keys, all_values = self.cache.update(keys, values, layer.index)
        except Exception as error:
            self.tell(Refusal("write", permitted=self.may_refuse, detail=describe_error(error)))
            tell_counts(self.cache, self.batch, [layer.index], self.tell)
            return None
        for sequence, row in zip(self.batch.sequences, tags, strict=True):
            written: tuple[RowKey, ...] = tuple(tag for tag in row if isinstance(tag, RowTag))
            if written:
                first = sequence.logical_rows - len(written)
                self.tell(Write(sequence.number, layer.index, self.step, first, written))
        return all_keys, all_values

    def _new_tags(self, sequence: BatchSequence, layer: int) -> list[RowTag | int]:
        return [
            self.book.padding()
            if position is None
            else self.book.tag(sequence=sequence.number, layer=layer, position=position)
            for position in sequence.slots[self.first_query :]
        ]

    def _tell_read(
        self, layer: LayerGeometry, sizes: tuple[int, int], all_keys: torch.Tensor, all_values: torch.Tensor
    ) -> None:
        announced_rows, offset = (int(size) for size in sizes)
        shapes = (all_keys.shape[0], all_values.shape[0], all_values.shape[2])
        returned_rows = all_keys.shape[2]
        if shapes != (len(self.batch.sequences), len(self.batch.sequences), returned_rows):
            detail = f"{len(self.batch.sequences)} sequences were written, the read returned {tuple(all_keys.shape)}"
            self.tell(Refusal("write", permitted=False, detail=detail))
            return
        physical: Sequence[int] = range(offset, offset + returned_rows)
        if self.subject.positions is not None:
            physical = self.subject.positions(self.cache, layer.index, offset, returned_rows)
        shown = self.book.recognise(all_keys, all_values)
        for sequence, keys in zip(self.batch.sequences, shown, strict=True):
            self.tell(Sizes(sequence.number, layer.index, self.step, announced_rows, returned_rows))
            self.tell(self._read(layer, sequence, physical, keys))

    def _read(
        self, layer: LayerGeometry, sequence: BatchSequence, physical: Sequence[int], keys: Sequence[RowKey | None]
    ) -> Read:
        """What attention of this layer can see: rows in reach of the first query that are no padding and not masked."""
        first_visible = self._first_visible(layer, sequence)
        rows = {}
        for place, key in zip(physical, keys, strict=True):
            position = sequence.slots[place] if first_visible <= place < len(sequence.slots) else None
            if position is not None:
                rows[position] = key
        return Read(
            sequence=sequence.number,
            layer=layer.index,
            step=self.step,
            rows=tuple(sorted(rows.items())),
            held=self._held(layer, sequence, physical, rows),
            heads=2 * layer.kv_heads,
            padding_rows=len(keys) - len(rows) + min(physical, default=0),
        )

    def _first_visible(self, layer: LayerGeometry, sequence: BatchSequence) -> int:
        """The first physical row that the mask lets the first query see. Windows are counted in a sequence's own rows,
        padding left out; for a finished sequence, whose query is padding, nothing before that query's own window.
        """
        if layer.window_rows is None:
            return 0
        if sequence.finished:
            return max(0, self.first_query - layer.window_rows + 1)
        left_padding = len(sequence.slots) - sequence.logical_rows
        return left_padding + layer.visible_from(max(0, self.first_query - left_padding))

    def _held(
        self, layer: LayerGeometry, sequence: BatchSequence, physical: Sequence[int], shown: Iterable[int]
    ) -> frozenset[int] | None:
        """What the cache claims this read can see, where that is not all that the layer's window reaches."""
        if layer.window_rows is not None:
            return frozenset(shown) if sequence.finished else None
        if self.subject.positions is None:
            return None
        return frozenset({*physical, *range(self.first_query, len(sequence.slots))})
