"""Where every block was over time, recorded from the pool's events and drawn as text or as a picture."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tenure.errors import DiskFullError
from tenure.pool import BlockEvicted, BlockRecalled, BlockSealed, Cropped, PoolEvent

NOT_YET, ON_HOST, ON_DEVICE = 0, 1, 2


class Timeline:
    """Listens to a pool and remembers, for each moment that is `mark`ed, where every block is."""

    def __init__(self, *, block_size: int) -> None:
        self.block_size = block_size
        self._places: list[int] = []
        self._moments: list[tuple[int, tuple[int, ...]]] = []

    def __call__(self, event: PoolEvent) -> None:
        """Follow one event."""
        if isinstance(event, BlockSealed):
            self._place(event.block, ON_DEVICE)
        elif isinstance(event, BlockEvicted):
            self._place(event.block, ON_HOST)
        elif isinstance(event, BlockRecalled):
            self._place(event.block, ON_DEVICE)
        elif isinstance(event, Cropped):
            del self._places[event.logical_rows // self.block_size :]

    def _place(self, block: int, place: int) -> None:
        self._places.extend([NOT_YET] * (block + 1 - len(self._places)))
        self._places[block] = place

    def mark(self, logical_rows: int) -> None:
        """Remember this moment."""
        self._moments.append((logical_rows, tuple(self._places)))

    def matrix(self) -> list[list[int]]:
        """One line a moment, one column a block; blocks that did not exist yet are `NOT_YET`."""
        blocks = max((len(places) for _, places in self._moments), default=0)
        return [[*places, *[NOT_YET] * (blocks - len(places))] for _, places in self._moments]

    def rows_at_moments(self) -> list[int]:
        """Logical rows at each moment."""
        return [logical_rows for logical_rows, _ in self._moments]

    def as_text(self, *, marked_block: int | None = None, lines: int = 16) -> str:
        """A picture for the terminal (rich markup): a line a moment, a character a block."""
        matrix, rows = self.matrix(), self.rows_at_moments()
        if not matrix:
            return ""
        chosen = sorted({round(i * (len(matrix) - 1) / max(1, lines - 1)) for i in range(lines)})
        drawn = []
        if marked_block is not None:
            drawn.append(f"{'':>7} " + " " * marked_block + "[yellow]▼ the fact[/]")
        for moment in chosen:
            cells = "".join(_cell(place, is_marked=block == marked_block) for block, place in enumerate(matrix[moment]))
            drawn.append(f"{rows[moment]:>7,} {cells}")
        return "\n".join(drawn)


def _cell(place: int, *, is_marked: bool) -> str:
    if place == NOT_YET:
        return " "
    if place == ON_DEVICE:
        return "[yellow]█[/]" if is_marked else "[green]█[/]"
    return "[yellow]·[/]" if is_marked else "[dim]·[/]"


def draw_timelines(
    timelines: Sequence[tuple[str, Timeline]], path: Path, *, marked_block: int, final_moments: int
) -> None:
    """Draw timelines one above the other to a PNG. Raises `DiskFullError` when it cannot be written.

    `final_moments` says how many of the last moments belong to the question and its answer.
    """
    import matplotlib as mpl

    mpl.use("Agg")
    import matplotlib.pyplot as plt
    from matplotlib.colors import ListedColormap
    from matplotlib.patches import Patch

    colours = ["#f4f4f4", "#9db4c8", "#2a7f4f"]
    figure, panels = plt.subplots(len(timelines), 1, figsize=(10, 3.2 * len(timelines)), squeeze=False)
    for panel, (title, timeline) in zip(panels[:, 0], timelines, strict=True):
        matrix: Any = timeline.matrix()
        panel.imshow(matrix, aspect="auto", interpolation="nearest", cmap=ListedColormap(colours), vmin=0, vmax=2)
        panel.axvline(marked_block, color="#d08700", linewidth=1.2)
        panel.axhline(len(matrix) - final_moments - 0.5, color="black", linewidth=0.8, linestyle=":")
        rows = timeline.rows_at_moments()
        ticks = sorted({0, len(rows) // 3, 2 * len(rows) // 3, len(rows) - 1})
        panel.set_yticks(ticks, [f"{rows[tick]:,}" for tick in ticks])
        panel.set_ylabel("tokens so far")
        panel.set_title(title, fontsize=10, loc="left")
    panels[-1, 0].set_xlabel(
        "block of the context (orange: where the fact is; below the dotted line: question, answer)"
    )
    figure.legend(
        handles=[Patch(color=colours[2], label="on the device"), Patch(color=colours[1], label="on the host")],
        loc="upper right",
        fontsize=8,
        ncols=2,
    )
    figure.tight_layout()
    try:
        figure.savefig(path, dpi=110)
    except OSError as error:
        raise DiskFullError(f"the picture could not be written to {path}: {error}") from error
    finally:
        plt.close(figure)
