"""The arena: the dense device buffer that holds one sequence's resident rows.

Rows occupy slots `[0, resident_rows)` with no hole between them, so attention is a plain attention over a contiguous
view and needs no slot mask. The order of rows has no meaning (positions are baked into the keys when a row is written),
except that the head's rows come last and in position order, so that rejected rows can be dropped by shortening the run.

The arena moves bytes and knows positions. It knows nothing of blocks, hosts or protection: that is the pager's.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch

from tenure.errors import InternalError
from tenure.pool.layout import ArenaLayout


class Arena:
    """A fixed number of row slots for every pooled layer of one sequence.

    Guarantees: device bytes never change after construction; `positions` always has exactly one entry a resident row;
    a row's bytes change only through `write`, `write_rows` and `move_rows`.

    `planes[g]` is group g's tensor `[P, H, capacity_rows, D]`.
    """

    def __init__(
        self, layout: ArenaLayout, *, capacity_rows: int, dtype: torch.dtype, device: torch.device | str
    ) -> None:
        self.layout = layout
        self.capacity_rows = capacity_rows
        self.dtype = dtype
        self.device = torch.device(device)
        # Never an inference tensor: those could not be written to by a later forward outside inference mode.
        with torch.inference_mode(mode=False):
            self.planes = tuple(
                torch.zeros((g.planes, g.heads, capacity_rows, g.head_dim), dtype=dtype, device=self.device)
                for g in layout.groups
            )
        self._keys = self._layer_views(kind="key")
        self._values = self._layer_views(kind="value")
        self.positions: list[int] = []

    def _layer_views(self, *, kind: str) -> list[torch.Tensor]:
        views: dict[int, torch.Tensor] = {}
        for group, tensor in zip(self.layout.groups, self.planes, strict=True):
            layers = group.key_layers if kind == "key" else group.value_layers
            first_plane = 0 if kind == "key" else len(group.key_layers)
            for plane, ordinal in enumerate(layers, start=first_plane):
                views[ordinal] = tensor[plane].unsqueeze(0)
        return [views[ordinal] for ordinal in range(len(self.layout.layer_indices))]

    @property
    def resident_rows(self) -> int:
        """Rows in the run."""
        return len(self.positions)

    @property
    def device_bytes(self) -> int:
        """Bytes of device memory that this arena holds, used or not."""
        return sum(plane.numel() * plane.element_size() for plane in self.planes)

    def keys(self, ordinal: int) -> torch.Tensor:
        """All key slots of a pooled layer, `[1, H, capacity_rows, D]`, a view."""
        return self._keys[ordinal]

    def values(self, ordinal: int) -> torch.Tensor:
        """All value slots of a pooled layer, `[1, H, capacity_rows, D]`, a view."""
        return self._values[ordinal]

    def write(self, ordinal: int, first_slot: int, keys: torch.Tensor, values: torch.Tensor) -> None:
        """Write new rows of one layer (`[1, H, T, D]` each) at `[first_slot, first_slot + T)`, beyond the run.

        They are no rows of the run until `append_positions` says so: a forward that dies half way leaves no trace.
        """
        rows = keys.shape[2]
        self._keys[ordinal].narrow(2, first_slot, rows).copy_(keys)
        self._values[ordinal].narrow(2, first_slot, rows).copy_(values)

    def append_positions(self, first_position: int, rows: int) -> None:
        """Make rows that every layer has written part of the run."""
        if self.resident_rows + rows > self.capacity_rows:
            raise InternalError(
                f"{rows} rows appended to a run of {self.resident_rows} in an arena of {self.capacity_rows}"
            )
        self.positions.extend(range(first_position, first_position + rows))

    def drop_last(self, rows: int) -> None:
        """Shorten the run by `rows`. Their bytes stay in memory and are not read again."""
        if rows:
            del self.positions[self.resident_rows - rows :]

    def move_rows(self, sources: Sequence[int], targets: Sequence[int]) -> None:
        """Copy rows between slots, `sources[i]` to `targets[i]`, positions with them. O(rows).

        A run that overlaps itself is copied through a temporary. Distinct runs must not overlap each other.
        Targets may lie beyond the run (the caller sets its extent afterwards with `set_extent`).
        """
        for source, target, rows in contiguous_runs(sources, targets):
            overlaps = abs(source - target) < rows
            for plane in self.planes:
                taken = plane.narrow(2, source, rows)
                plane.narrow(2, target, rows).copy_(taken.clone() if overlaps else taken)

    def poison(self, slots: Sequence[int]) -> None:
        """Fill slots with NaN, so that a read of a dead row cannot pass unnoticed. For tests."""
        for slot in slots:
            for plane in self.planes:
                plane.narrow(2, slot, 1).fill_(float("nan"))


def contiguous_runs(sources: Sequence[int], targets: Sequence[int]) -> Iterator[tuple[int, int, int]]:
    """Join pairs that advance together into `(source, target, rows)` runs, in the given order. O(pairs)."""
    index, total = 0, len(sources)
    while index < total:
        rows = 1
        while (
            index + rows < total
            and sources[index + rows] == sources[index] + rows
            and targets[index + rows] == targets[index] + rows
        ):
            rows += 1
        yield sources[index], targets[index], rows
        index += rows
