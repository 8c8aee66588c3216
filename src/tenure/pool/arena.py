"""The arena: the dense device buffer that holds one sequence's resident rows.

Rows occupy slots `[0, resident_rows)` with no hole between them, so attention is a plain attention over a contiguous
view and needs no slot mask. The order of rows has no meaning (positions are baked into the keys when a row is written),
except that the head's rows come last and in position order, so that rejected rows can be dropped by shortening the run.

The arena moves bytes and knows positions. It knows nothing of blocks, hosts or protection: that is the pager's.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch

from tenure.errors import GeometryError, InternalError, PoolSizeError
from tenure.pool.layout import ArenaLayout


class Arena:
    """A fixed number of row slots for every pooled layer of one sequence.

    Guarantees: device bytes never change after construction; `positions` always has exactly one entry a resident row;
    a row's bytes change only through `write`, `move_rows`, `load_rows` and a transfer. Raises `PoolSizeError` when the
    device has not that much memory.

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
        try:
            with torch.inference_mode(mode=False):
                self.planes = tuple(
                    torch.zeros((g.planes, g.heads, capacity_rows, g.head_dim), dtype=dtype, device=self.device)
                    for g in layout.groups
                )
        except (RuntimeError, MemoryError) as error:
            raise PoolSizeError(
                f"{self.device} gave no {capacity_rows * layout.bytes_per_row(dtype) / 2**20:,.1f} MiB for an arena of "
                f"{capacity_rows} rows; ask for a smaller pool or free device memory"
            ) from error
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
        Rows are stored without their autograd history: no gradient flows through a cache.
        Raises `GeometryError` when heads, head dims, rows or dtype are not those that the arena was made for: a copy
        would broadcast or round them without a word.
        """
        key_slots, value_slots = self._keys[ordinal], self._values[ordinal]
        rows = keys.shape[2]
        heads = key_slots.shape[1]
        if (
            keys.shape != (1, heads, rows, key_slots.shape[3])
            or values.shape != (1, heads, rows, value_slots.shape[3])
            or keys.dtype != self.dtype
            or values.dtype != self.dtype
        ):
            raise GeometryError(
                f"pooled layer {ordinal} wrote keys {list(keys.shape)} {keys.dtype} and values {list(values.shape)} "
                f"{values.dtype}; this arena holds keys [1, {heads}, rows, {key_slots.shape[3]}] and values "
                f"[1, {heads}, rows, {value_slots.shape[3]}] of {self.dtype}. The cache must be made from the "
                "configuration of the model it is used with"
            )
        if keys.requires_grad or values.requires_grad:
            keys, values = keys.detach(), values.detach()
        key_slots.narrow(2, first_slot, rows).copy_(keys)
        value_slots.narrow(2, first_slot, rows).copy_(values)

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
        """Copy rows between slots, `sources[i]` to `targets[i]`. O(rows).

        A run that overlaps itself is copied through a temporary. Distinct runs must not overlap each other.
        Targets may lie beyond the run; `positions` is the caller's to set.
        """
        for source, target, rows in contiguous_runs(sources, targets):
            overlaps = abs(source - target) < rows
            for plane in self.planes:
                taken = plane.narrow(2, source, rows)
                plane.narrow(2, target, rows).copy_(taken.clone() if overlaps else taken)

    def save_rows(self, slots: range) -> tuple[torch.Tensor, ...]:
        """A copy of consecutive rows, one tensor a plane group, for `load_rows`."""
        return tuple(plane[:, :, slots.start : slots.stop].clone() for plane in self.planes)

    def load_rows(self, first_slot: int, saved: Sequence[torch.Tensor]) -> None:
        """Write rows that `save_rows` took at `first_slot` and after."""
        for plane, rows in zip(self.planes, saved, strict=True):
            plane.narrow(2, first_slot, rows.shape[2]).copy_(rows)

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
