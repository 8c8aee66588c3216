"""What a cache is asked to do: the operations, how a random sequence of them is drawn, and how one is made simpler.

An operation that does not fit the moment (a crop of more rows than there are, a second prefill) is skipped by the
driver, so every list of operations is a valid one; that is what lets a failing list be cut down freely.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace


@dataclass(frozen=True, slots=True)
class Prefill:
    """The first chunk: a batch of `len(padding_rows)` sequences of `rows` rows, the first few of each padding."""

    rows: int
    padding_rows: tuple[int, ...] = (0,)

    def __str__(self) -> str:
        padded = f", left padding {list(self.padding_rows)}" if any(self.padding_rows) else ""
        return f"prefill {_several(self.rows, 'row')} of {_several(len(self.padding_rows), 'sequence')}{padded}"


@dataclass(frozen=True, slots=True)
class Extend:
    """A chunk of `rows` further rows of every sequence (padding for finished ones); one row is a decode step."""

    rows: int = 1
    amplitude: float = 1.0

    def __str__(self) -> str:
        louder = "" if self.amplitude == 1 else f", {self.amplitude:g} times as large as the prefill's"
        return f"{'decode' if self.rows == 1 else 'append'} {_several(self.rows, 'row')}{louder}"


@dataclass(frozen=True, slots=True)
class CropRows:
    """Take back the last `rows` rows, or all there are."""

    rows: int

    def __str__(self) -> str:
        return f"crop {_several(self.rows, 'row')}"


@dataclass(frozen=True, slots=True)
class Select:
    """Keep these sequences of the batch, in this order."""

    indices: tuple[int, ...]

    def __str__(self) -> str:
        return f"batch-select {list(self.indices)} (a drop)"


@dataclass(frozen=True, slots=True)
class Reorder:
    """Replace the batch by these of its sequences, as beam search does."""

    indices: tuple[int, ...]

    def __str__(self) -> str:
        return f"reorder to {list(self.indices)} (a fork)"


@dataclass(frozen=True, slots=True)
class Repeat:
    """Put `times` copies of each sequence in its place."""

    times: int

    def __str__(self) -> str:
        return f"repeat each sequence {self.times} times (a fork)"


@dataclass(frozen=True, slots=True)
class FinishSequence:
    """One sequence ends; from now on it is fed padding."""

    index: int

    def __str__(self) -> str:
        return f"finish sequence {self.index}"


@dataclass(frozen=True, slots=True)
class ResetCache:
    """Empty the cache."""

    def __str__(self) -> str:
        return "reset"


@dataclass(frozen=True, slots=True)
class RecordPast:
    """Ask windowed layers to keep what a later crop may need."""

    def __str__(self) -> str:
        return "activate past recording"


@dataclass(frozen=True, slots=True)
class MoveRows:
    """Let a cache that can do so move rows between device and host; `choice` picks which. Nothing may look different."""

    choice: int

    def __str__(self) -> str:
        return f"move rows between device and host (choice {self.choice})"


Operation = (
    Prefill | Extend | CropRows | Select | Reorder | Repeat | FinishSequence | ResetCache | RecordPast | MoveRows
)


def _several(count: int, noun: str) -> str:
    return f"{count} {noun}{'' if count == 1 else 's'}"


@dataclass(frozen=True, slots=True)
class Menu:
    """What a subject can be asked: the kinds of operation, the largest batch, about how many rows to reach, how many
    rows it must take at once (None: any number), and how many operations make a run.
    """

    kinds: frozenset[type]
    max_batch: int
    max_rows: int
    max_write_rows: int | None = None
    max_operations: int = 14


def random_operations(seed: int, menu: Menu) -> tuple[Operation, ...]:
    """A list of operations that is a function of `seed` and `menu` alone.

    Each list uses a random subset of the kinds, so that a kind that always fails does not hide what the others do.
    Source of the idea: Groce and others, "Swarm testing", 2012.
    """
    source = random.Random(seed)
    optional = sorted((kind for kind in menu.kinds if kind not in {Prefill, Extend}), key=lambda kind: kind.__name__)
    kinds = [kind for kind in optional if source.random() < 0.4] or optional[:1]
    operations: list[Operation] = []
    shape = _Shape(menu)
    if RecordPast in kinds and source.random() < 0.7:
        operations.append(RecordPast())
    if source.random() < 0.85:  # otherwise operations meet a cache that has never been written
        operations.append(shape.prefill(source))
    for _ in range(source.randint(3, menu.max_operations)):
        kind = source.choice(kinds) if kinds and source.random() < 0.6 else Extend
        operations.append(shape.draw(kind, source))
        if not shape.batch and source.random() < 0.8:
            operations.append(shape.prefill(source))
    return tuple(operations)


class _Shape:
    """The shape that the cache will have if nothing is refused; operations are drawn to fit it, most of the time."""

    def __init__(self, menu: Menu) -> None:
        self.menu = menu
        self.batch = 0
        self.rows = 0
        self._drawers: dict[type, Callable[[random.Random], Operation]] = {
            Prefill: self.prefill,
            Extend: self._extend,
            CropRows: self._crop,
            Select: self._select,
            Reorder: self._reorder,
            Repeat: self._repeat,
            FinishSequence: lambda source: FinishSequence(source.randrange(max(1, self.batch))),
            ResetCache: self._reset,
            RecordPast: lambda _: RecordPast(),
            MoveRows: lambda source: MoveRows(source.randrange(1000)),
        }

    def draw(self, kind: type, source: random.Random) -> Operation:
        return self._drawers[kind](source)

    def prefill(self, source: random.Random) -> Operation:
        self.batch = source.randint(1, self.menu.max_batch)
        self.rows = source.randint(1, self._longest_write(self.menu.max_rows // 2, source))
        padded = self.batch > 1 and source.random() < 0.6
        padding = tuple(source.randint(0, self.rows - 1) if padded else 0 for _ in range(self.batch))
        return Prefill(rows=self.rows, padding_rows=padding)

    def _extend(self, source: random.Random) -> Operation:
        rows = 1 if source.random() < 0.6 else source.randint(2, self._longest_write(self.menu.max_rows // 4, source))
        self.rows += rows
        return Extend(rows=rows, amplitude=2.0 if source.random() < 0.15 else 1.0)

    def _longest_write(self, wanted: int, source: random.Random) -> int:
        """At least 2 and at most `wanted`, and now and then more than must be taken."""
        limit = self.menu.max_write_rows
        return max(2, wanted if limit is None or source.random() < 0.1 else min(wanted, limit))

    def _crop(self, source: random.Random) -> Operation:
        depth = source.random()
        rows = source.randint(0, self.rows if depth < 0.3 else min(self.rows, 3))
        if depth > 0.85:  # the whole sequence
            rows = self.rows
        self.rows -= rows
        return CropRows(rows)

    def _select(self, source: random.Random) -> Operation:
        kept = source.sample(range(max(1, self.batch)), source.randint(1, max(1, self.batch)))
        if source.random() < 0.5:
            kept.sort()
        self.batch = len(kept)
        return Select(tuple(kept))

    def _reorder(self, source: random.Random) -> Operation:
        size = max(1, self.batch)
        return Reorder(tuple(source.randrange(size) for _ in range(size)))

    def _repeat(self, source: random.Random) -> Operation:
        times = source.randint(1, 2)
        self.batch *= times
        return Repeat(times)

    def _reset(self, source: random.Random) -> Operation:
        del source
        self.batch = self.rows = 0
        return ResetCache()


def simpler(operation: Operation) -> Iterator[Operation]:
    """Strictly simpler operations of the same kind, the simplest first."""
    match operation:
        case Prefill(rows=rows, padding_rows=padding):
            yield from _simpler_prefills(rows, padding)
        case Extend(rows=rows, amplitude=amplitude):
            yield from (replace(operation, rows=fewer) for fewer in range(1, rows))
            if amplitude != 1:
                yield replace(operation, amplitude=1.0)
        case CropRows(rows=rows):
            yield from (CropRows(fewer) for fewer in range(rows))
        case Select(indices=indices):
            yield from (Select(shorter) for shorter in _simpler_indices(indices))
        case Reorder(indices=indices):
            yield from (Reorder(shorter) for shorter in _simpler_indices(indices))
        case Repeat(times=times) if times > 1:
            yield Repeat(times - 1)
        case FinishSequence(index=index) if index > 0:
            yield FinishSequence(index - 1)
        case _:
            return


def merge(operation: Operation, following: Operation) -> Operation | None:
    """One operation for two where the second one only adds rows."""
    if isinstance(operation, Prefill | Extend) and isinstance(following, Extend) and following.amplitude == 1:
        return replace(operation, rows=operation.rows + following.rows)
    return None


def _simpler_prefills(rows: int, padding: tuple[int, ...]) -> Iterator[Prefill]:
    if len(padding) > 1:
        yield Prefill(rows, padding[:-1])
    if any(padding):
        yield Prefill(rows, (0,) * len(padding))
        for place, pads in enumerate(padding):
            if pads:
                yield Prefill(rows, (*padding[:place], pads - 1, *padding[place + 1 :]))
    for fewer in range(max(padding) + 1, rows):
        yield Prefill(fewer, padding)


def _simpler_indices(indices: Sequence[int]) -> Iterator[tuple[int, ...]]:
    for place in range(len(indices)):
        if len(indices) > 1:
            yield (*indices[:place], *indices[place + 1 :])
    for place, index in enumerate(indices):
        if index > 0:
            yield (*indices[:place], index - 1, *indices[place + 1 :])
