"""What tests of the engine share: a tiny model, a clock that passes only when somebody sleeps, cold answers, and books."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

from tenure.models.tiny import tiny_model
from tenure.runtime.hf.engine import Engine

MODEL = tiny_model("llama")
BLOCK_SIZE = 4
LOUDER, SOFTER = 2.0, 0.5


class Clock:
    """Seconds that pass only when somebody sleeps."""

    def __init__(self) -> None:
        self.now_s = 0.0

    def __call__(self) -> float:
        return self.now_s

    def sleep(self, seconds: float) -> None:
        self.now_s += seconds


@contextmanager
def scaled(factor: float) -> Iterator[None]:
    """An adapter: every embedding is scaled, so that rows of two adapters differ."""
    hook = MODEL.get_input_embeddings().register_forward_hook(lambda _module, _arguments, output: output * factor)
    try:
        yield
    finally:
        hook.remove()


ADAPTERS = {"louder": lambda: scaled(LOUDER), "softer": lambda: scaled(SOFTER)}


def make_engine(**options: Any) -> Engine:
    """An engine of 24 blocks of 4 rows on the tiny model, with dead rows poisoned; `options` go before."""
    clock = Clock()
    settings: dict[str, Any] = {"usable_blocks": 24, "block_size": BLOCK_SIZE, "chunk_rows": 8, "clock": clock}
    settings |= {"sleep": clock.sleep, "poison_released_rows": True, "adapters": ADAPTERS}
    return Engine(MODEL, **{**settings, **options})


@functools.cache
def _cold_tokens(ids: tuple[int, ...], new_tokens: int, adapter_id: str | None, chunk_rows: int) -> tuple[int, ...]:
    engine = make_engine(usable_blocks=200, chunk_rows=chunk_rows)
    return tuple(engine.submit(ids, max_new_tokens=new_tokens, adapter_id=adapter_id).result())


def cold(ids: list[int], new_tokens: int, *, adapter_id: str | None = None, chunk_rows: int = 8) -> list[int]:
    """The answer with everything resident and nothing reused."""
    return list(_cold_tokens(tuple(ids), new_tokens, adapter_id, chunk_rows))


def assert_consistent(engine: Engine) -> None:
    """Frames, ledger, cache and host memory tell of the same blocks."""
    engine.check_invariants()
    frames, ledger, store = engine.rows.frames, engine.plane.ledger, engine.plane._residency.store
    assert frames.usable_blocks == ledger.usable_blocks
    assert frames.used_blocks + ledger.free_blocks == ledger.usable_blocks
    assert frames.used_blocks == len(store)
    kept = len(engine.rows.tier._rows) + engine.rows.borrowed_blocks
    assert engine.rows.host.used_bytes <= kept * engine.rows.host.block_bytes
    assert engine.sink.faults == []  # type: ignore[attr-defined]


@contextmanager
def no_dead_row_is_read() -> Iterator[None]:
    """Every logit is a number: a row that holds nothing is NaN, and would show."""

    def look(_module: Any, _arguments: Any, output: Any) -> None:
        assert torch.isfinite(output.logits).all(), "a row that holds nothing was attended to"

    hook = MODEL.register_forward_hook(look)
    try:
        yield
    finally:
        hook.remove()
