"""The sweep of `tenure pressure` as a picture: what is in the pool at each size, and who pays for what is not."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

from tenure.bench.pressure_actions import SweepRow
from tenure.bench.pressure_scene import Sizes
from tenure.errors import DiskFullError

RESIDENT, ACTIVE, LOST, REFUSED, POOL = "#2a7f4f", "#9db4c8", "#b03a2e", "#8a8a8a", "#d08700"
PANELS: Mapping[str, str] = MappingProxyType(
    {
        "native": "native: no claim, and nobody is told",
        "refuse": "hard_protected, refuse: the claim is kept, and the request is told",
    }
)


def draw_sweep(rows: Sequence[SweepRow], sizes: Sizes, path: Path) -> None:
    """Draw native against a hard claim to a picture. Raises `DiskFullError` when it cannot be written."""
    import matplotlib as mpl

    mpl.use("Agg")
    import matplotlib.pyplot as plt

    figure, panels = plt.subplots(1, len(PANELS), figsize=(11, 4.5), sharey=True)
    for panel, arm in zip(panels, PANELS, strict=True):
        _draw_arm(panel, [row for row in rows if row.arm == arm], sizes)
        panel.set_title(PANELS[arm], fontsize=10, loc="left")
    panels[0].set_ylabel("blocks")
    _legend(figure)
    figure.tight_layout(rect=(0, 0.08, 1, 1))
    try:
        figure.savefig(path, dpi=120)
    except OSError as error:
        raise DiskFullError(f"the picture could not be written to {path}: {error}") from error
    finally:
        plt.close(figure)


def _draw_arm(panel: Any, rows: Sequence[SweepRow], sizes: Sizes) -> None:
    """One bar a pool: residents that are there, the request on top of them, and what found no room above the pool."""
    for place, row in enumerate(rows):
        base = row.remaining
        panel.bar(place, base, 0.7, color=RESIDENT)
        if row.is_served:
            panel.bar(place, sizes.active_blocks, 0.7, bottom=base, color=ACTIVE)
            base += sizes.active_blocks
        else:
            panel.bar(place, sizes.active_blocks, 0.7, bottom=base, fill=False, edgecolor=REFUSED, linestyle=":")
            _say(panel, place, base + sizes.active_blocks, f"short\nby {row.shortfall_blocks}", REFUSED)
        if row.victims:
            panel.bar(place, row.victims, 0.7, bottom=base, fill=False, edgecolor=LOST, hatch="///", linewidth=0.8)
            _say(panel, place, base + row.victims, f"{row.victims} lost", LOST)
        panel.plot([place - 0.45, place + 0.45], [row.usable_blocks] * 2, color=POOL, linewidth=2)
    panel.set_xticks(range(len(rows)), [str(row.usable_blocks) for row in rows])
    panel.set_xlabel("usable blocks")
    panel.set_ylim(0, max(rows[-1].usable_blocks, sizes.resident_blocks + sizes.active_blocks) * 1.15)
    panel.grid(axis="y", alpha=0.3)
    panel.set_axisbelow(True)


def _say(panel: Any, place: int, top: int, words: str, colour: str) -> None:
    panel.text(place, top + 1, words, ha="center", va="bottom", fontsize=7.5, color=colour)


def _legend(figure: Any) -> None:
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    handles = [
        Patch(color=RESIDENT, label="prefix, still there"),
        Patch(color=ACTIVE, label="request, served"),
        Patch(fill=False, edgecolor=LOST, hatch="///", label="prefix, lost"),
        Patch(fill=False, edgecolor=REFUSED, linestyle=":", label="request, refused"),
        Line2D([], [], color=POOL, linewidth=2, label="the pool"),
    ]
    figure.legend(handles=handles, loc="lower center", fontsize=8, ncols=len(handles), frameon=False)
