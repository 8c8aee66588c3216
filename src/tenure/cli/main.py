"""`tenure`: the application object, its commands, and how errors reach the terminal."""

from __future__ import annotations

import importlib
import sys

import typer

from tenure import __version__
from tenure.errors import ResourceError, UsageError

EXIT_WRONG_INPUT = 2

#: Modules that each add their commands with `register(app)`. Nothing heavy is imported until a command runs.
COMMAND_MODULES: tuple[str, ...] = (
    "tenure.cli.demo",
    "tenure.cli.chat",
    "tenure.cli.bench",
    "tenure.cli.check",
    "tenure.cli.trace",
    "tenure.cli.grade",
)


def _show_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"tenure {__version__}")
        raise typer.Exit


def build_app() -> typer.Typer:
    """The `tenure` application with every command registered."""
    app = typer.Typer(
        name="tenure",
        help="Governs which KV-cache rows of an LLM stay in accelerator memory, on what terms.",
        no_args_is_help=True,
        add_completion=False,
        pretty_exceptions_enable=False,
    )

    @app.callback()
    def _root(
        version: bool = typer.Option(False, "--version", callback=_show_version, is_eager=True, help="Show and exit."),
    ) -> None:
        """Governs which KV-cache rows of an LLM stay in accelerator memory, on what terms."""

    for name in COMMAND_MODULES:
        importlib.import_module(name).register(app)
    return app


def main() -> None:
    """Run the command line. Wrong input and spent resources end in one line on stderr and exit code 2."""
    try:
        build_app()()
    except (UsageError, ResourceError) as error:
        print(f"tenure: {error}", file=sys.stderr)  # noqa: T201 - the one place where an error meets the terminal
        sys.exit(EXIT_WRONG_INPUT)
    except KeyboardInterrupt:
        print("tenure: interrupted", file=sys.stderr)  # noqa: T201
        sys.exit(130)
