"""The dense model that a cache is compared with: which physical row of which sequence is which position, or padding."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from tenure.kv.semantics import Begin, Crop, Drop, Event, Finish, Fork


@dataclass(slots=True)
class BatchSequence:
    """One sequence: `slots[i]` is the position of the i-th physical row, None where that row is padding."""

    number: int
    slots: list[int | None] = field(default_factory=list)
    finished: bool = False

    @property
    def logical_rows(self) -> int:
        """Rows that are no padding."""
        return self.rows_among(len(self.slots))

    def rows_among(self, physical_rows: int) -> int:
        """How many of the first `physical_rows` rows are no padding; rows past the end count as such."""
        beyond = max(0, physical_rows - len(self.slots))
        return beyond + sum(slot is not None for slot in self.slots[:physical_rows])


class Batch:
    """The sequences that are in the cache, in batch order; all have the same number of physical rows.

    Every change returns the events that tell a checker of it.
    """

    def __init__(self) -> None:
        self.sequences: list[BatchSequence] = []
        self._numbers_given = 0

    @property
    def physical_rows(self) -> int:
        """Rows of each sequence, padding included."""
        return len(self.sequences[0].slots) if self.sequences else 0

    def begin(self, sequences: int) -> list[Event]:
        """Open new, empty sequences."""
        self.sequences = [BatchSequence(self._number()) for _ in range(sequences)]
        return [Begin(sequence.number) for sequence in self.sequences]

    def append(self, rows: int, *, padding_rows: Sequence[int]) -> None:
        """`rows` physical rows more of each sequence, the first few of them padding, or all if it is finished."""
        for sequence, padding in zip(self.sequences, padding_rows, strict=True):
            pads = rows if sequence.finished else padding
            first = sequence.logical_rows
            sequence.slots += [None] * pads
            sequence.slots += range(first, first + rows - pads)

    def take_back(self, rows: int) -> list[Event]:
        """Drop the last `rows` physical rows of each sequence."""
        events: list[Event] = []
        for sequence in self.sequences:
            before = sequence.logical_rows
            del sequence.slots[len(sequence.slots) - rows :]
            events.append(Crop(sequence.number, before - sequence.logical_rows))
        return events

    def rearrange(self, indices: Iterable[int]) -> list[Event]:
        """The batch becomes these of its sequences; a second copy of one is a fork of the first."""
        kept = list(indices)
        events: list[Event] = [
            Drop(sequence.number) for index, sequence in enumerate(self.sequences) if index not in kept
        ]
        batch: list[BatchSequence] = []
        for place, index in enumerate(kept):
            sequence = self.sequences[index]
            if index in kept[:place]:
                child = BatchSequence(self._number(), list(sequence.slots), sequence.finished)
                events.append(Fork(sequence.number, child.number))
                sequence = child
            batch.append(sequence)
        self.sequences = batch
        return events

    def finish(self, index: int) -> list[Event]:
        """End one sequence: from now on it is fed padding."""
        self.sequences[index].finished = True
        return [Finish(self.sequences[index].number)]

    def clear(self) -> None:
        """Forget all sequences."""
        self.sequences = []

    def _number(self) -> int:
        self._numbers_given += 1
        return self._numbers_given - 1
