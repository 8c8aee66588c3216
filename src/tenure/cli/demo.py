"""`tenure demo`: a fact planted early in a long text, and a question about it, with three caches."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from tenure.cli.targets import require_writable

if TYPE_CHECKING:
    from rich.console import Console

    from tenure.bench.demo import DemoResult, DemoText
PICTURE = typer.Option("tenure-demo.png", "--picture", help="Where the PNG goes.")


def register(app: typer.Typer) -> None:
    """Add `demo` to the application."""
    app.command()(demo)


def demo(
    model: str = typer.Option("default", "--model", help="`default`, a hub id, a folder or a GGUF file."),
    text_tokens: int = typer.Option(3200, "--tokens", min=600, help="Length of the text that is read."),
    pool: str = typer.Option("512", "--pool", help="Rows of the pool, a share of the text such as 25%, or auto."),
    picture: Path = PICTURE,
    threads: int = typer.Option(2, "--threads", min=1, help="Torch threads."),
) -> None:
    """Plant a fact early in a long text, then ask for it: full cache, pool with recency, pool with attention mass."""
    from rich.console import Console

    require_writable(picture, picture=True)
    console = Console()
    started = time.perf_counter()
    results, text = _run(console, model=model, text_tokens=text_tokens, pool=pool, threads=threads)
    _show_table(console, results)
    _show_timelines(console, results, text, picture=picture)
    console.print(f"[dim]{time.perf_counter() - started:.0f} s in all[/]")


def _run(
    console: Console, *, model: str, text_tokens: int, pool: str, threads: int
) -> tuple[list[DemoResult], DemoText]:
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    # The size is checked before a model is loaded for nothing.
    from tenure.pool import size_pool

    if pool != "auto":
        size_pool(pool, row_bytes=1, context_rows=text_tokens, free_bytes=None)
    with console.status("loading libraries and the model ..."):
        import torch

        from tenure.bench import demo as scene
        from tenure.models import load

        torch.set_num_threads(threads)
    loaded = load(model)
    text = scene.build_text(loaded.tokenizer, text_tokens=text_tokens)
    console.print(
        f"[bold]{loaded.name}[/] reads {len(text.context) + len(text.question):,} tokens of the Python language "
        f"reference. Near the start it says: [yellow]{scene.FACT}[/]\nThen it is asked: [yellow]{scene.QUESTION}[/]\n"
    )
    arms = [("full cache", None), ("recency", "recency"), ("attention mass", "attention_mass")]
    results: list[DemoResult] = []
    columns = (TextColumn("{task.description:>15}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console, transient=True) as bars:
        for label, policy in arms:
            task = bars.add_task(label, total=len(text.context) + len(text.question))

            def advance(done: int, total: int, task: object = task) -> None:
                bars.update(task, completed=done, total=total)  # type: ignore[arg-type]

            if policy is None:
                results.append(scene.answer_with_full_cache(loaded.model, loaded.tokenizer, text, advance))
            else:
                results.append(scene.answer_with_pool(loaded.model, loaded.tokenizer, text, policy, advance, pool=pool))
    return results, text


def _show_table(console: Console, results: list[DemoResult]) -> None:
    from rich.table import Table

    table = Table()
    for heading, justify in (
        ("cache", "left"),
        ("device KV MiB", "right"),
        ("host MiB", "right"),
        ("tokens/s", "right"),
        ("answer", "left"),
        ("", "left"),
    ):
        table.add_column(heading, justify=justify, overflow="fold")  # type: ignore[arg-type]
    for result in results:
        table.add_row(
            result.name,
            f"{result.device_mib:.1f}",
            f"{result.host_mib:.1f}",
            f"{result.tokens_per_s:.1f}",
            result.answer.replace("\n", " "),
            "[green]right[/]" if result.is_right else "[red]wrong[/]",
        )
    console.print(table)


def _show_timelines(console: Console, results: list[DemoResult], text: DemoText, *, picture: Path) -> None:
    from tenure.bench.timeline import draw_timelines

    block_size = next(result.timeline.block_size for result in results if result.timeline is not None)
    marked = text.fact_position // block_size
    console.print("\nWhere each block of the context is, token by token ([green]█[/] device, [dim]·[/] host):")
    drawn = [(result.name, result.timeline) for result in results if result.timeline is not None]
    for name, timeline in drawn:
        console.print(f"\n[bold]{name}[/]")
        console.print(timeline.as_text(marked_block=marked), overflow="crop", no_wrap=True)
    final = min(sum(1 for rows in timeline.rows_at_moments() if rows >= len(text.context)) for _, timeline in drawn)
    draw_timelines(drawn, picture, marked_block=marked, final_moments=final)
    console.print(f"\nThe same as a picture: [bold]{picture}[/]")
