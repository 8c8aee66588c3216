"""`tenure chat`: a conversation of any length in the terminal, or in a script of lines on stdin."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from tenure.errors import UsageError

if TYPE_CHECKING:
    from tenure.runtime.hf import Sampling, Session

_HELP_POOL = "Rows on the device: a number, a share of the context such as 25%, or auto. Default: auto."
_HELP_POLICY = "attention_mass (default), pooled_cosine, key_bounds, or recency, which forgets what leaves its window."
_HELP_CONTEXT = "Rows that a share or auto refer to. Default: the model's trained limit. The conversation may go on."

_LOAD = typer.Option(None, "--load", help="Go on with a session that /save wrote.")


def register(app: typer.Typer) -> None:
    """Add the `chat` command to the application."""
    app.command()(chat)


def chat(
    model: str = typer.Option("default", "--model", help="`default`, a hub id, a folder or a GGUF file."),
    pool: str | None = typer.Option(None, "--pool", help=_HELP_POOL),
    policy: str | None = typer.Option(None, "--policy", help=_HELP_POLICY),
    context: int | None = typer.Option(None, "--context", help=_HELP_CONTEXT),
    max_new_tokens: int = typer.Option(512, "--max-new-tokens", help="Tokens a reply has at most."),
    temperature: float | None = typer.Option(None, "--temperature", help="0 (default) takes the likeliest token."),
    top_p: float | None = typer.Option(None, "--top-p", help="Sample from the likeliest tokens of this mass."),
    seed: int | None = typer.Option(None, "--seed", help="Of sampled replies. Default: 0."),
    load: Path | None = _LOAD,
    system: str | None = typer.Option(None, "--system", help="What the conversation opens with."),
    dtype: str = typer.Option("float32", "--dtype", help="float32, bfloat16 or float16."),
    device: str = typer.Option("cpu", "--device", help="cpu or cuda."),
) -> None:
    """Talk to a model at any length; /help in the conversation lists what else can be done. Ctrl-C stops a reply."""
    if max_new_tokens < 1:
        raise UsageError(f"--max-new-tokens is {max_new_tokens}; a reply has at least 1 token")
    if context is not None and context < 1:
        raise UsageError(f"--context is {context}; expected at least 1 row")
    sampling = _sampling(temperature, top_p)
    # All that can be wrong without a model is found before a model is loaded.
    if load is None:
        _check_new(pool, policy, context)
    else:
        _check_file(load, policy, {"--pool": pool, "--context": context, "--seed": seed, "--system": system})

    from rich.console import Console

    from tenure import models
    from tenure.cli.conversation import Conversation
    from tenure.pool import PoolSizeWarning
    from tenure.runtime.hf import Sampling, Session

    console = Console(highlight=False)
    loaded = models.load(model, dtype=dtype, device=device)
    _announce_limit(console, context, loaded.model)
    if load is None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", PoolSizeWarning)  # the title shows every note of the sizing
            session = Session(
                loaded.model,
                loaded.tokenizer,
                pool="auto" if pool is None else pool,
                policy="attention_mass" if policy is None else policy,
                system=system,
                sampling=Sampling() if sampling is None else sampling,
                seed=0 if seed is None else seed,
                context_rows=context,
                identity=loaded.identity,
            )
    else:
        session = Session.load(load, loaded.model, loaded.tokenizer, identity=loaded.identity)
        _change(session, policy=policy, sampling=sampling)
    Conversation(session, console=console, max_new_tokens=max_new_tokens).run(title=loaded.name)


def _sampling(temperature: float | None, top_p: float | None) -> Sampling | None:
    if temperature is None and top_p is None:
        return None
    from tenure.runtime.hf import Sampling

    return Sampling(temperature=0.0 if temperature is None else temperature, top_p=1.0 if top_p is None else top_p)


def _check_new(pool: str | None, policy: str | None, context: int | None) -> None:
    from tenure.policy import as_policy
    from tenure.pool import size_pool

    if policy is not None:
        as_policy(policy)
    if pool is not None:
        # Spelling and minimum; whether the memory is there depends on the model's rows.
        unknown = 1 << 40
        size_pool(pool, row_bytes=1, context_rows=unknown if context is None else context, free_bytes=unknown)


def _check_file(load: Path, policy: str | None, given: dict[str, Any]) -> None:
    from tenure.policy import as_policy
    from tenure.runtime.hf.section_file import open_sections
    from tenure.runtime.hf.session_file import read_header

    clashing = [name for name, value in given.items() if value is not None]
    if clashing:
        raise UsageError(f"{', '.join(clashing)} cannot be given with --load: the session file says what it was")
    if policy is not None:
        as_policy(policy)
    with open_sections(load) as reader:
        read_header(reader)


def _announce_limit(console: Any, context: int | None, model: Any) -> None:
    trained = int(model.config.get_text_config(decoder=True).max_position_embeddings)
    if context is not None and context > trained:
        console.print(
            f"note: --context {context} is past the {trained} tokens that the model was trained on", style="yellow"
        )


def _change(session: Session, *, policy: str | None, sampling: Sampling | None) -> None:
    if policy is not None:
        session.use_policy(policy)
    if sampling is not None:
        session.sampling = sampling
