"""`tenure demo`: a fact planted early in a long text, and a question about it, with three caches; then two tenants."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from tenure.cli.targets import require_writable

if TYPE_CHECKING:
    from rich.console import Console

    from tenure.bench.demo import DemoResult, DemoText
    from tenure.models import LoadedModel
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
    """Plant a fact early in a long text, then ask for it: full cache, pool with recency, pool with attention mass.

    Then two tenants want the same memory, and each of four actions says what it did to both.
    """
    from rich.console import Console

    require_writable(picture, picture=True)
    console = Console()
    started = time.perf_counter()
    loaded, results, text = _run(console, model=model, text_tokens=text_tokens, pool=pool, threads=threads)
    _show_table(console, results)
    _show_timelines(console, results, text, picture=picture)
    _show_tenants(console, loaded)
    console.print(f"[dim]{time.perf_counter() - started:.0f} s in all[/]")


def _run(
    console: Console, *, model: str, text_tokens: int, pool: str, threads: int
) -> tuple[LoadedModel, list[DemoResult], DemoText]:
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
    return loaded, results, text


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


def _show_tenants(console: Console, loaded: LoadedModel) -> None:
    """The second scene: what eviction does without a word, and three ways of saying one."""
    from rich.console import Console as Terminal

    from tenure.bench import demo as scene
    from tenure.cli.pressure import action_table

    sizes = scene.TENANT_SIZES
    with Terminal(stderr=True).status("two tenants ...") as status:
        rows = scene.two_tenants(loaded, progress=lambda action: status.update(f"two tenants: {action} ..."))
    console.print(
        f"\n[bold]Two tenants want the same memory[/]: one parked a prefix of {sizes.resident_blocks} blocks, the other "
        f"asks for {sizes.active_blocks}, and there are {sizes.usable_blocks}. Without a claim the prefix is lost and "
        f"nobody is told; with one, somebody decides, and says so:\n"
    )
    console.print(action_table(rows, columns=console.width))
    console.print(
        "[dim]cold?: whether the tokens are those of a run with room for everything (no*: not exact, and its receipt says "
        "so). reuse: tokens of the prefix that its owner finds afterwards; TTFT: its time to the first token, as a share "
        "of a cold one. Every action: tenure pressure[/]"
    )
