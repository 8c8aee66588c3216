"""What every bench returns: figures by name, rows with everything measured, and the environment it ran in."""

from __future__ import annotations

import json
import os
import platform
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from tenure.errors import DiskFullError


@dataclass(frozen=True, slots=True)
class Bar:
    """What a figure must reach."""

    figure: str
    at_least: float | None = None
    at_most: float | None = None

    def is_met(self, value: float) -> bool:
        """Whether a value reaches the bar."""
        return (self.at_least is None or value >= self.at_least) and (self.at_most is None or value <= self.at_most)

    def __str__(self) -> str:
        if self.at_least is not None and self.at_least == self.at_most:
            return f"= {self.at_least:g}"
        return f"≥ {self.at_least:g}" if self.at_least is not None else f"≤ {self.at_most:g}"


@dataclass(slots=True)
class BenchReport:
    """Figures are ratios or plain numbers; rows hold what they were computed from. `quick` runs are marked as such."""

    bench: str
    columns: tuple[str, ...]
    bars: tuple[Bar, ...] = ()
    quick: bool = False
    figures: dict[str, float] = field(default_factory=dict)
    rows: list[dict[str, Any]] = field(default_factory=list)
    environment: dict[str, Any] = field(default_factory=dict)

    def as_json(self) -> dict[str, Any]:
        """`{"bench", "quick", "figures", "bars", "rows", "environment"}`."""
        return {
            "bench": self.bench,
            "quick": self.quick,
            "figures": self.figures,
            "bars": {bar.figure: str(bar) for bar in self.bars if bar.figure in self.figures},
            "rows": self.rows,
            "environment": self.environment,
        }

    def write_json(self, path: Path) -> None:
        """Write the report, whole or not at all. Raises `DiskFullError` when it cannot be written."""
        scratch = path.with_name(path.name + ".part")
        try:
            scratch.write_text(json.dumps(self.as_json(), indent=1) + "\n", encoding="utf-8")
            scratch.replace(path)
        except OSError as error:
            scratch.unlink(missing_ok=True)
            raise DiskFullError(f"the report could not be written to {path}: {error}") from error

    def show(self, console: Console) -> None:
        """Print rows, then figures against their bars."""
        title = f"tenure bench {self.bench}" + (" (quick: a smaller run, not for quoting)" if self.quick else "")
        table = Table(title=title, title_justify="left")
        for column in self.columns:
            table.add_column(column.replace("_", " "), justify="left" if column in {"arm", "policy"} else "right")
        for row in self.rows:
            table.add_row(*(_cell(row.get(column)) for column in self.columns))
        console.print(table)
        bars = {bar.figure: bar for bar in self.bars}
        summary = Table(title="figures", title_justify="left")
        for heading in ("figure", "measured", "bar", ""):
            summary.add_column(heading)
        for name, value in self.figures.items():
            bar = bars.get(name)
            verdict = "" if bar is None else "[green]met[/]" if bar.is_met(value) else "[red]not met[/]"
            summary.add_row(name, f"{value:.4g}", "" if bar is None else str(bar), verdict)
        console.print(summary)


def _cell(value: Any) -> str:
    if value is None:
        return "-"
    if isinstance(value, float):
        return f"{value:,.3g}" if abs(value) < 100 else f"{value:,.0f}"
    if isinstance(value, int) and not isinstance(value, bool):
        return f"{value:,}"
    return str(value)


def environment(*, threads: int | None = None, extra: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Machine, versions and date. Names the processor, never the host."""
    versions = {name: _version(name) for name in ("tenure", "torch", "transformers")}
    return {
        "date": datetime.now(UTC).date().isoformat(),
        "python": platform.python_version(),
        "system": platform.system(),
        "processor": _processor(),
        "cores": os.cpu_count(),
        "threads": threads,
        **versions,
        **(extra or {}),
    }


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def _processor() -> str:
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    except OSError:
        return platform.processor()
    name = re.search(r"^model name\s*:\s*(.+)$", text, flags=re.MULTILINE)
    flags = re.search(r"^flags\s*:\s*(.+)$", text, flags=re.MULTILINE)
    known = set(flags.group(1).split()) if flags else set()
    units = [unit for unit in ("avx2", "avx512f", "amx_tile") if unit in known]
    return f"{name.group(1) if name else platform.processor()} ({', '.join(units) or 'no vector units named'})"


def median(values: Sequence[float]) -> float:
    """The middle value, the lower of two middles: a time that was really measured."""
    return sorted(values)[(len(values) - 1) // 2]
