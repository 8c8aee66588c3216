"""What a checker must be told about a cache: who wrote which row, what a read showed, and what the cache said.

Sequences, layers and steps are plain numbers; a step is one forward pass of one sequence through all layers (a prefill
chunk of many rows, or one decoded token). Row contents never enter: a row is named by a `RowKey`, any hashable value
that is different for every write, and whoever observes the cache translates bytes into keys.
"""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass

RowKey = Hashable
"""Names the content of one row. Equal keys mean the same written row; two writes never share a key."""


@dataclass(frozen=True, slots=True)
class Padding:
    """The key of a row that pads a batch or a buffer and stands for no position at all."""

    def __str__(self) -> str:
        return "padding"


@dataclass(frozen=True, slots=True)
class Torn:
    """The key of a row whose heads, or whose keys and values, do not show the same write."""

    parts: tuple[RowKey | None, ...]

    def __str__(self) -> str:
        return "a torn row (" + ", ".join("nothing" if part is None else str(part) for part in self.parts) + ")"


@dataclass(frozen=True, slots=True)
class Begin:
    """A new, empty sequence. One that is never begun is taken as joined midway, at its first write."""

    sequence: int

    def __str__(self) -> str:
        return f"begin sequence {self.sequence}"


@dataclass(frozen=True, slots=True)
class Fork:
    """`child` begins with every row of `parent`, in every layer."""

    parent: int
    child: int

    def __str__(self) -> str:
        return f"fork sequence {self.parent} into {self.child}"


@dataclass(frozen=True, slots=True)
class Write:
    """In `step`, `layer` wrote these rows of `sequence` from `first_position` on."""

    sequence: int
    layer: int
    step: int
    first_position: int
    rows: tuple[RowKey, ...]

    def __str__(self) -> str:
        end = self.first_position + len(self.rows)
        return (
            f"step {self.step}: layer {self.layer} writes positions [{self.first_position}, {end}) of {self.sequence}"
        )


@dataclass(frozen=True, slots=True)
class Read:
    """In `step`, attention of `layer` sees these (position, key) pairs of `sequence`; key None is a row never written.

    `held` lists the positions that the cache claims this read can see; None claims all that the layer's window reaches.
    `heads` counts what each row was pieced together from, `padding_rows` the returned rows that stand for no position.
    """

    sequence: int
    layer: int
    step: int
    rows: tuple[tuple[int, RowKey | None], ...]
    held: frozenset[int] | None = None
    heads: int = 1
    padding_rows: int = 0

    def __str__(self) -> str:
        shown = f"{self.rows[0][0]}..{self.rows[-1][0]}" if self.rows else "nothing"
        return f"step {self.step}: layer {self.layer} reads positions {shown} of {self.sequence}"


@dataclass(frozen=True, slots=True)
class Sizes:
    """Before the write of `step` the cache announced `announced_rows` for the read, which then had `returned_rows`."""

    sequence: int
    layer: int
    step: int
    announced_rows: int
    returned_rows: int

    def __str__(self) -> str:
        return (
            f"step {self.step}: layer {self.layer} announces {self.announced_rows} rows, returns {self.returned_rows}"
        )


@dataclass(frozen=True, slots=True)
class Counts:
    """The cache says how many rows of `sequence` it has seen, as (layer, rows) pairs."""

    sequence: int
    rows_by_layer: tuple[tuple[int, int], ...]

    def __str__(self) -> str:
        said = ", ".join(f"layer {layer}: {rows}" for layer, rows in self.rows_by_layer)
        return f"counts of sequence {self.sequence}: {said}"


@dataclass(frozen=True, slots=True)
class Crop:
    """The last `rows` rows of `sequence` are taken back, in every layer; their positions may be written again."""

    sequence: int
    rows: int

    def __str__(self) -> str:
        return f"crop {self.rows} rows of sequence {self.sequence}"


@dataclass(frozen=True, slots=True)
class Finish:
    """`sequence` has ended: its rows stay readable, and it is never written again."""

    sequence: int

    def __str__(self) -> str:
        return f"finish sequence {self.sequence}"


@dataclass(frozen=True, slots=True)
class Drop:
    """`sequence` has left the cache, its rows with it."""

    sequence: int

    def __str__(self) -> str:
        return f"drop sequence {self.sequence}"


@dataclass(frozen=True, slots=True)
class Reset:
    """All sequences have left the cache, and it is empty."""

    def __str__(self) -> str:
        return "reset"


@dataclass(frozen=True, slots=True)
class Done:
    """The cache carried out `operation` (crop, fork, drop or reset) as a whole; what it did to sequences is told apart.

    Damage that is found before the rows have been seen intact again is put down to it.
    """

    operation: str

    def __str__(self) -> str:
        return f"done: {self.operation}"


@dataclass(frozen=True, slots=True)
class Refusal:
    """The cache refused `operation` (write, crop, fork, drop, reset or count); `permitted` if it had a reason to."""

    operation: str
    permitted: bool
    detail: str

    def __str__(self) -> str:
        return f"{'refused' if self.permitted else 'failed'}: {self.operation} ({self.detail})"


Event = Begin | Fork | Write | Read | Sizes | Counts | Crop | Finish | Drop | Reset | Done | Refusal
