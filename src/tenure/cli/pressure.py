"""`tenure pressure`: a parked prefix and a request that do not fit together, under every action there is."""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from tenure.cli.targets import require_writable
from tenure.errors import DiskFullError

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

    from tenure.bench.pressure_actions import ActionRow, SweepRow
    from tenure.bench.pressure_scene import ColdAnswers, Scene, Sizes
    from tenure.runtime.hf.engine import FaultPoint

EXIT_BROKEN = 1
ROOMY_COLUMNS = 100


def register(app: typer.Typer) -> None:
    """Add `tenure pressure` to the application."""
    app.command()(pressure)


def pressure(
    model: Annotated[str, typer.Option(help="`default`, a hub id, a folder or a GGUF file.")] = "default",
    resident: Annotated[int, typer.Option(help="Blocks of the prefix that is parked.")] = 60,
    active: Annotated[int, typer.Option(help="Blocks of the request that comes then.")] = 70,
    usable: Annotated[int, typer.Option(help="Blocks of the pool.")] = 80,
    block_size: Annotated[int, typer.Option(help="Tokens a block.")] = 16,
    fault: Annotated[list[str], typer.Option(help="A transfer that fails, such as load; repeatable.")] = [],  # noqa: B006 - typer's way
    picture: Annotated[Path, typer.Option(help="Where the picture of the sweep goes.")] = Path("tenure-pressure.png"),
    trace: Annotated[Path | None, typer.Option(help="Write the events of all rows to this file, JSON Lines.")] = None,
    threads: Annotated[int, typer.Option(min=1, help="Torch threads.")] = 2,
) -> None:
    """Park a prefix, send a request that does not fit beside it, and see what each action does to both.

    Exit code 0: promises and answers were kept. 1: an accepted claim was lost without a word, or an answer that should
    be exact is not the cold one. 2: wrong input.
    """
    from rich.console import Console

    started = time.perf_counter()
    require_writable(picture, picture=True)
    if trace is not None:
        require_writable(trace)
    console = Console()
    with Console(stderr=True).status("loading libraries ..."):
        from tenure.bench.pressure_actions import fault_point
        from tenure.bench.pressure_scene import Sizes

    sizes = Sizes(resident_blocks=resident, active_blocks=active, usable_blocks=usable, block_size=block_size)
    sizes.require_pressure()
    points = [fault_point(name) for name in dict.fromkeys(fault)]
    scene = _load(model, sizes, threads=threads)
    rows = _run(console, scene, points)
    _sweep(console, sizes, picture=picture)
    if trace is not None:
        _write_trace(rows, trace)
        console.print(f"Every event of every row: [bold]{trace}[/] (tenure trace {trace})")
    broken = [row for row in rows if row.is_wrong]
    _show_verdict(console, rows, broken)
    console.print(f"[dim]{time.perf_counter() - started:.0f} s in all[/]")
    raise typer.Exit(EXIT_BROKEN if broken else 0)


def _load(model: str, sizes: Sizes, *, threads: int) -> Scene:
    import torch

    from tenure.bench.pressure_scene import text_scene
    from tenure.models import load

    torch.set_num_threads(threads)
    loaded = load(model)
    return text_scene(loaded.model, loaded.tokenizer, sizes, name=loaded.name, identity=loaded.identity)


def _run(console: Console, scene: Scene, points: Sequence[FaultPoint]) -> list[ActionRow]:
    """Every action, then every fault, each table as soon as its rows are there."""
    from rich.console import Console as Terminal

    from tenure.bench.pressure_actions import ACTIONS, run_action, run_fault
    from tenure.bench.pressure_scene import cold_answers

    sizes = scene.sizes
    console.print(
        f"On [bold]{scene.name}[/], {sizes.usable_blocks} blocks of {sizes.block_size} tokens: a prefix of "
        f"{sizes.resident_blocks} blocks is parked, then a request needs {sizes.active_blocks}. "
        f"{sizes.resident_blocks} + {sizes.active_blocks} > {sizes.usable_blocks}: short by {sizes.shortfall_blocks}.\n"
    )
    with Terminal(stderr=True).status("the cold answers ...") as status:
        cold = cold_answers(scene)
        rows = []
        for name in ACTIONS:
            status.update(f"{name} ...")
            rows.append(run_action(name, scene, cold))
        failed = []
        for point in points:
            status.update(f"a failure at {point.value} ...")
            failed += run_fault(point, scene, cold)
    console.print(action_table(rows, columns=console.width))
    _show_legend(console, cold)
    console.print("\nWhat the request was told:")
    console.print(_told((row.action, row.receipt) for row in rows))
    if failed:
        console.print("\nThe same with a transfer that fails:")
        console.print(_fault_table(failed))
    return rows + failed


# --- tables ---------------------------------------------------------------------------------------------------------


def action_table(rows: Iterable[ActionRow], *, columns: int) -> Table:
    """A row for each action; readable from 80 columns on, where the claim's own column is left out."""
    headings = ("action", "the prefix", "its claim", "the request", "tok/s", "cold?", "reuse", "TTFT", "cold?")
    shown = [place for place, heading in enumerate(headings) if columns >= ROOMY_COLUMNS or heading != "its claim"]
    table = _table()
    for place in shown:
        heading = headings[place]
        is_number = heading in {"tok/s", "reuse", "TTFT"}
        table.add_column(heading, justify="right" if is_number else "left", no_wrap=heading == "action")
    for row in rows:
        cells = (
            row.action,
            _coloured(row),
            row.claim,
            row.active,
            "" if row.tokens_per_s is None else f"{row.tokens_per_s:.1f}",
            _as_cold(row.answer_is_cold, is_exact=row.is_exact),
            f"{row.reuse_tokens:,}",
            "" if row.reuse_ttft_ratio is None else f"{row.reuse_ttft_ratio:.2f}",
            _as_cold(row.reuse_is_cold, is_exact=True),
        )
        table.add_row(*(cells[place] for place in shown))
    return table


def _table() -> Table:
    from rich import box
    from rich.table import Table

    return Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False, show_edge=False)


def _coloured(row: ActionRow) -> str:
    if row.victims and row.claim == "none":
        return f"[red]{row.resident}[/]"
    return row.resident if row.victims else f"[green]{row.resident}[/]"


def _as_cold(is_cold: bool | None, *, is_exact: bool | None) -> str:
    if is_cold is None:
        return ""
    if is_cold:
        return "[green]yes[/]"
    return "[red]NO[/]" if is_exact else "[yellow]no*[/]"


def _show_legend(console: Console, cold: ColdAnswers) -> None:
    speed = "" if cold.active_tokens_per_s is None else f", {cold.active_tokens_per_s:.1f} tokens/s"
    console.print(
        f"[dim]cold?: whether the tokens are those of an engine with room for everything{speed} (no*: not exact, and its "
        f"receipt says so). reuse: tokens that a question about the prefix finds afterwards (defer: while the request "
        f"waits); TTFT: its time to the first token, as a share of the cold {cold.reuse_ttft_s:.2f} s.[/]"
    )


def _told(sentences: Iterable[tuple[str, str]]) -> Table:
    from rich.table import Table

    table = Table.grid(padding=(0, 1, 0, 0))
    for action, sentence in sentences:
        table.add_row(action, f"[dim]{sentence}[/]")
    return table


def _fault_table(rows: Iterable[ActionRow]) -> Table:
    table = _table()
    for heading in ("fails", "action", "the prefix", "what was told", "answers"):
        table.add_column(heading, overflow="fold", no_wrap=heading in {"fails", "action"})
    for row in rows:
        answers = [_as_cold(row.answer_is_cold, is_exact=row.is_exact), _as_cold(row.reuse_is_cold, is_exact=True)]
        table.add_row(
            "" if row.fault is None else row.fault.value + ("" if row.fault_happened else " (never passed)"),
            row.action,
            _coloured(row),
            row.told,
            ", ".join(answer for answer in answers if answer),
        )
    return table


def _sweep_table(rows: Sequence[SweepRow]) -> Table:
    table = _table()
    for heading in (
        "usable",
        "native: lost",
        "left",
        "no_admit: lost",
        "left",
        "hard_protected",
        "short",
        "free",
    ):
        table.add_column(heading, justify="left" if "hard" in heading else "right")
    by_cell = {(row.arm, row.usable_blocks): row for row in rows}
    for usable in dict.fromkeys(row.usable_blocks for row in rows):
        native, unadmitted, hard = (by_cell[arm, usable] for arm in ("native", "no_admit", "refuse"))
        verdict = "[green]both[/]" if hard.is_served else f"{hard.remaining} kept, refused"
        table.add_row(
            str(usable),
            *(str(number) for row in (native, unadmitted) for number in (row.victims, row.remaining)),
            verdict,
            str(hard.shortfall_blocks),
            str(hard.free_before),
        )
    return table


def _sweep(console: Console, sizes: Sizes, *, picture: Path) -> None:
    from rich.console import Console as Terminal

    from tenure.bench.pressure_actions import sweep
    from tenure.bench.pressure_plot import draw_sweep
    from tenure.bench.pressure_scene import tiny_scene

    with Terminal(stderr=True).status("the sweep ...") as status:
        rows = sweep(tiny_scene(sizes), progress=lambda cell: status.update(f"the sweep: {cell} ..."))
        draw_sweep(rows, sizes, picture)
    console.print(
        "\nThe same in larger pools: block counts, on a tiny model of the same geometry rules "
        "(free: blocks that the request could have taken)"
    )
    console.print(_sweep_table(rows))
    console.print(f"The same as a picture: [bold]{picture}[/]")


def _show_verdict(console: Console, rows: Sequence[ActionRow], broken: Sequence[ActionRow]) -> None:
    for row in broken:
        what = "an exact answer is not the cold one"
        if row.lost_silently:
            what = "an accepted claim was lost without a word"
        elif not row.took_place:
            what = f"it did not take place, the request was told: {row.receipt}"
        console.print(f"[red]{row.action}{'' if row.fault is None else f' with {row.fault.value}'}: {what}[/]")
    if not broken:
        console.print(
            f"\n{len(rows)} rows: no accepted claim was lost without a word, and every exact answer is the cold one."
        )


def _write_trace(rows: Iterable[ActionRow], path: Path) -> None:
    """All rows, one run after the other. A file that was there is replaced: a trace tells every run once."""
    try:
        with path.open("w", encoding="utf-8") as file:
            file.writelines(event.to_json_line() + "\n" for row in rows for event in row.events)
    except OSError as error:
        raise DiskFullError(f"the trace could not be written to {path}: {error}") from error
