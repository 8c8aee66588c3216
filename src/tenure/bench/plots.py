"""One picture a bench: bars for times and rates, curves for recall."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tenure.bench.report import BenchReport
from tenure.errors import DiskFullError

VALUE_OF = {"decode": "ms_per_token", "prefill": "tokens_per_s", "transfer": "gib_per_s"}
LABEL_OF = {
    "ms_per_token": "ms a token (lower is better)",
    "tokens_per_s": "tokens a second (higher is better)",
    "gib_per_s": "GiB a second (higher is better)",
}


def plot_report(report: BenchReport, path: Path) -> None:
    """Draw a report to a PNG. Raises `DiskFullError` when the file cannot be written."""
    import matplotlib as mpl

    mpl.use("Agg")
    import matplotlib.pyplot as plt

    drawing = _draw_recall(report, plt) if report.bench == "recall" else _draw_bars(report, plt)
    try:
        drawing.savefig(path, dpi=120, bbox_inches="tight")
    except OSError as error:
        raise DiskFullError(f"the plot could not be written to {path}: {error}") from error
    finally:
        plt.close(drawing)


def _draw_bars(report: BenchReport, plt: Any) -> Any:
    key = VALUE_OF[report.bench]
    rows = [row for row in report.rows if row.get(key) is not None]
    contexts = sorted({row.get("context_rows", 0) for row in rows})
    arms = list(dict.fromkeys(row["arm"] for row in rows))
    figure, axes = plt.subplots(figsize=(8, 4.5))
    width = 0.8 / len(arms)
    for place, arm in enumerate(arms):
        values = {row.get("context_rows", 0): row[key] for row in rows if row["arm"] == arm}
        at = [index + (place - (len(arms) - 1) / 2) * width for index in range(len(contexts))]
        axes.bar(at, [values.get(context, 0.0) for context in contexts], width * 0.95, label=arm)
    axes.set_xticks(range(len(contexts)), [f"{context:,} rows" if context else "" for context in contexts])
    axes.set_ylabel(LABEL_OF[key])
    axes.set_title(f"tenure bench {report.bench}" + (" (quick)" if report.quick else ""))
    axes.legend(fontsize=8)
    axes.grid(axis="y", alpha=0.3)
    return figure


def _draw_recall(report: BenchReport, plt: Any) -> Any:
    contexts = sorted({row["context_rows"] for row in report.rows})
    figure, panels = plt.subplots(1, len(contexts), figsize=(4.5 * len(contexts), 4), sharey=True, squeeze=False)
    for panel, context in zip(panels[0], contexts, strict=True):
        rows = [row for row in report.rows if row["context_rows"] == context]
        for policy in dict.fromkeys(row["policy"] for row in rows):
            by_residency: dict[float, list[float]] = {}
            for row in rows:
                if row["policy"] == policy:
                    by_residency.setdefault(row["residency"] or 1.0, []).append(row["hits_of_16"])
            points = sorted((share, sum(hits) / len(hits)) for share, hits in by_residency.items())
            shares, means = zip(*points, strict=True)
            if len(points) == 1:
                panel.axhline(means[0], linestyle="--", color="grey", label=policy)
            else:
                panel.plot([100 * share for share in shares], means, marker="o", label=policy)
        panel.set_title(f"{context:,} tokens")
        panel.set_xlabel("resident (%)")
        panel.set_ylim(0, 16)
        panel.grid(alpha=0.3)
    panels[0][0].set_ylabel("right of 16, mean over depths and seeds")
    panels[0][-1].legend(fontsize=8)
    return figure
