"""`tenure bench decode | prefill | recall | transfer | arbiter | pressure`: baselines in the same run, a table, a plot, a JSON file."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from tenure.cli.targets import require_writable

if TYPE_CHECKING:
    from tenure.bench.report import BenchReport

bench_app = typer.Typer(help="Measure, with the baselines in the same run.", no_args_is_help=True)

JSON = typer.Option(None, "--json", help="Write figures, rows and environment to this file.")
PLOT = typer.Option(None, "--plot", help="Draw the result to this PNG file.")
QUICK = typer.Option(False, "--quick", help="A smaller run of the same thing, under a minute, marked as such.")
MODEL = typer.Option("default", "--model", help="`default`, a hub id, a folder or a GGUF file.")
THREADS = typer.Option(2, "--threads", min=1, help="Torch threads.")
DTYPE = typer.Option("float32", "--dtype", help="float32, bfloat16 or float16.")
DEVICE = typer.Option("cpu", "--device", help="cpu or cuda.")
CONTEXTS = typer.Option([], "--context", min=1024, help="Only this context, in tokens (may be repeated).")


def register(app: typer.Typer) -> None:
    """Add the `bench` group to the application."""
    app.add_typer(bench_app, name="bench")


@bench_app.command()
def decode(
    json: Path | None = JSON,
    plot: Path | None = PLOT,
    quick: bool = QUICK,
    model: str = MODEL,
    threads: int = THREADS,
    dtype: str = DTYPE,
    device: str = DEVICE,
    compiled: bool = typer.Option(True, help="Measure compiled decode too (compiling takes a minute)."),
) -> None:
    """What a token costs as the context grows: the pool against DynamicCache and StaticCache."""
    from tenure.bench import decode as bench

    _check_targets(json, plot)
    loaded = _load(model, threads=threads, dtype=dtype, device=device)
    smaller: dict[str, Any] = {"contexts": (2048, 8192), "steps": 24, "compiled": False} if quick else {}
    with _progress("decode") as progress:
        options = {"compiled": compiled, **smaller}
        report = bench.run(loaded.model, quick=quick, progress=progress, **options)
    _finish(report, json=json, plot=plot)


@bench_app.command()
def prefill(
    json: Path | None = JSON,
    plot: Path | None = PLOT,
    quick: bool = QUICK,
    model: str = MODEL,
    threads: int = THREADS,
    dtype: str = DTYPE,
    device: str = DEVICE,
) -> None:
    """Whether reading a long prompt through a small pool stays linear in its length."""
    from tenure.bench import prefill as bench

    _check_targets(json, plot)
    loaded = _load(model, threads=threads, dtype=dtype, device=device)
    smaller = {"pool_rows": 1024, "short_rows": 2048, "long_rows": 6144} if quick else {}
    with _progress("prefill") as progress:
        report = bench.run(loaded.model, loaded.tokenizer, quick=quick, progress=progress, **smaller)
    _finish(report, json=json, plot=plot)


@bench_app.command()
def pressure(
    json: Path | None = JSON,
    quick: bool = QUICK,
    model: str = MODEL,
    threads: int = THREADS,
    dtype: str = DTYPE,
    device: str = DEVICE,
    sessions: int = typer.Option(2000, min=1, help="Random sessions in the soak."),
    part: list[str] = typer.Option([], "--part", help="Only this: timing, answers or soak (may be repeated)."),  # noqa: B008 - typer's way
) -> None:
    """What keeping promises costs, and whether every answer stays right: several sessions and claims on one pool."""
    from tenure.bench import pressure as bench

    _check_targets(json, None)
    loaded = _load(model, threads=threads, dtype=dtype, device=device)
    smaller: dict[str, Any] = (
        {"recall_seeds": 1, "repeats": 1, "decode_tokens": 12, "prefix_blocks": 8} if quick else {}
    )
    with _progress("pressure") as progress:
        options = {"sessions": min(sessions, 20) if quick else sessions, **smaller}
        if part:
            options["parts"] = tuple(part)
        report = bench.run(loaded.model, loaded.tokenizer, quick=quick, progress=progress, **options)
    _finish(report, json=json, plot=None)


@bench_app.command()
def recall(
    json: Path | None = JSON,
    plot: Path | None = PLOT,
    quick: bool = QUICK,
    model: str = MODEL,
    threads: int = THREADS,
    dtype: str = DTYPE,
    device: str = DEVICE,
    seeds: int = typer.Option(8, min=1, help="Contexts a cell; the figure wants at least 8."),
    contexts: list[int] = CONTEXTS,
    pooled_prefill: bool = typer.Option(
        False, "--pooled-prefill", help="Read contexts through the pool instead of giving it a full cache's rows."
    ),
) -> None:
    """Whether facts come back after they left the device: every policy, depth, context and residency."""
    from tenure.bench import recall as bench

    _check_targets(json, plot)
    loaded = _load(model, threads=threads, dtype=dtype, device=device)
    smaller: dict[str, Any] = {"contexts": (2048,), "residencies": (0.25,), "seeds": 1} if quick else {"seeds": seeds}
    if contexts:
        smaller["contexts"] = tuple(contexts)
    smaller["pooled_prefill"] = pooled_prefill
    with _progress("recall") as progress:
        report = bench.run(loaded.model, loaded.tokenizer, quick=quick, progress=progress, **smaller)
    _finish(report, json=json, plot=plot)


@bench_app.command()
def transfer(
    json: Path | None = JSON,
    plot: Path | None = PLOT,
    quick: bool = QUICK,
    model: str = MODEL,
    threads: int = THREADS,
    dtype: str = DTYPE,
    device: str = DEVICE,
) -> None:
    """How fast blocks leave and return, against a plain copy of as many bytes."""
    from tenure.bench import transfer as bench

    _check_targets(json, plot)
    loaded = _load(model, threads=threads, dtype=dtype, device=device)
    with _progress("transfer"):
        report = bench.run(loaded.model, quick=quick, **({"repeats": 5} if quick else {}))
    _finish(report, json=json, plot=plot)


@bench_app.command()
def arbiter(json: Path | None = JSON, quick: bool = QUICK) -> None:
    """What a decision, a claim, a removed block and an event cost, and whether that grows with the pool."""
    from tenure.bench import arbiter as bench

    _check_targets(json)
    with _progress("arbiter"):
        report = bench.run(quick=quick, **({"repeats": 100, "scale": 10} if quick else {}))
    _finish(report, json=json, plot=None)


def _check_targets(json: Path | None, plot: Path | None = None) -> None:
    if json is not None:
        require_writable(json)
    if plot is not None:
        require_writable(plot, picture=True)


def _load(model: str, *, threads: int, dtype: str, device: str) -> Any:
    import torch

    from tenure.models import load

    torch.set_num_threads(threads)
    return load(model, dtype=dtype, device=device)


class _progress:  # noqa: N801 - used as a context manager, like a function
    """A spinner with the current step, on stderr so that a redirected table stays clean."""

    def __init__(self, name: str) -> None:
        from rich.console import Console

        self._console = Console(stderr=True)
        self._status = self._console.status(f"{name} ...")
        self._name = name

    def __enter__(self) -> Any:
        self._status.start()
        return self._show

    def _show(self, step: str) -> None:
        if self._console.is_terminal:
            self._status.update(f"{self._name}: {step} ...")
        else:
            self._console.print(f"{self._name}: {step}")

    def __exit__(self, *_: object) -> None:
        self._status.stop()


def _finish(report: BenchReport, *, json: Path | None, plot: Path | None) -> None:
    from rich.console import Console

    console = Console()
    report.show(console)
    if json is not None:
        report.write_json(json)
        console.print(f"written: {json}")
    if plot is not None:
        from tenure.bench.plots import plot_report

        plot_report(report, plot)
        console.print(f"written: {plot}")
