"""`tenure`: the application object, its commands, and how errors reach the terminal."""

from __future__ import annotations

import importlib
import sys
import warnings
from typing import Any, NoReturn

import typer

from tenure import __version__
from tenure.errors import ResourceError, UsageError

EXIT_WRONG_INPUT = 2
EXIT_INTERRUPTED = 130
#: What the extra `hf` installs and a bare `pip install tenure` does not.
OPTIONAL_PACKAGES = frozenset({"torch", "transformers", "gguf", "accelerate", "matplotlib", "safetensors", "numpy"})

#: What the parser raises for a call that makes no sense. Typer carries its own copy of click, without a public name for it.
_WRONG_CALL: type[Any] = next(kind for kind in typer.BadParameter.__mro__ if kind.__name__ == "ClickException")

#: Modules that each add their commands with `register(app)`. Nothing heavy is imported until a command runs.
COMMAND_MODULES: tuple[str, ...] = (
    "tenure.cli.demo",
    "tenure.cli.pressure",
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
    # A warning is one line as well: where in our code it was raised tells whoever reads it here nothing.
    warnings.formatwarning = lambda message, *_, **__: f"tenure: {message}\n"
    try:
        code = build_app()(standalone_mode=False)
    except _WRONG_CALL as error:
        context = getattr(error, "ctx", None)
        if type(error).__name__ == "NoArgsIsHelpError" and context is not None:
            _leave(context.get_help(), EXIT_WRONG_INPUT, prefix="")
        hint = f" (see {context.command_path} --help)" if context is not None else ""
        _leave(f"{error.format_message()}{hint}", EXIT_WRONG_INPUT)
    except (UsageError, ResourceError) as error:
        _leave(str(error), EXIT_WRONG_INPUT)
    except ModuleNotFoundError as error:
        package = (error.name or "").partition(".")[0]
        if package not in OPTIONAL_PACKAGES:
            raise
        _leave(f"this command needs {package}, which is not installed: pip install 'tenure[hf]'", EXIT_WRONG_INPUT)
    except (KeyboardInterrupt, typer.Abort):
        _leave("interrupted", EXIT_INTERRUPTED)
    sys.exit(code if isinstance(code, int) else 0)


def _leave(message: str, code: int, *, prefix: str = "tenure: ") -> NoReturn:
    print(f"{prefix}{message}", file=sys.stderr)  # noqa: T201 - the one place where an error meets the terminal
    sys.exit(code)
