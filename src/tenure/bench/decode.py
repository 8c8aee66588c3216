"""`tenure bench decode`: what a token costs as the context grows, pooled against full caches, all in one run.

Caches are filled with random rows (timing does not depend on their values). The arms of one context take turns step by
step, so that a slow moment of the machine hits all of them; each figure is a ratio of medians.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from transformers import DynamicCache, StaticCache

from tenure.bench.filling import fill_pooled, fill_stock
from tenure.bench.report import Bar, BenchReport, environment, median
from tenure.policy import Policy
from tenure.runtime.hf import CompiledDecoder, PooledCache
from tenure.runtime.hf.attention import GROUPED

POOL_ROWS = 1024
CONTEXTS = (2048, 8192, 32768)
STEPS = 64
WARM_UP_STEPS = 4
FITS_ROWS = 1024
FITS_POOL_ROWS = 2048

BARS = (
    Bar("decode.flatness", at_most=1.10),
    Bar("decode.speedup_8k", at_least=1.6),
    Bar("decode.speedup_32k", at_least=4.0),
    Bar("decode.speedup_default_8k", at_least=2.4),
    Bar("decode.speedup_default_32k", at_least=9.0),
    Bar("decode.speedup_kernel_8k", at_least=1.1),
    Bar("decode.speedup_kernel_32k", at_least=2.0),
    Bar("decode.compile_gain", at_least=1.15),
    Bar("decode.fits_ratio", at_most=1.02),
    Bar("decode.scoring_share", at_most=0.05),
    Bar("decode.kv_bytes_ratio", at_least=1.0, at_most=1.0),
)

DYNAMIC = "DynamicCache"
STATIC = "StaticCache"
STATIC_GROUPED = "StaticCache, grouped attention"
POOLED = "pool"
COMPILED = "pool, compiled"
FLOOR = "no cached rows"

Progress = Callable[[str], None]


@dataclass(slots=True)
class Arm:
    """One way to decode: `step` runs one token; `kv_bytes` is what its cache holds on the device."""

    name: str
    step: Callable[[], Any]
    kv_bytes: int
    attention: str | None = None


def run(
    model: Any,
    *,
    contexts: tuple[int, ...] = CONTEXTS,
    steps: int = STEPS,
    quick: bool = False,
    compiled: bool = True,
    progress: Progress = lambda _: None,
) -> BenchReport:
    """Measure every arm at every context. Cost: minutes at 32K; restores the model's attention implementation."""
    report = BenchReport(
        bench="decode",
        columns=("context_rows", "arm", "ms_per_token", "tokens_per_s", "kv_mib", "steps"),
        bars=BARS,
        quick=quick,
        environment=environment(threads=torch.get_num_threads(), extra={"dtype": str(model.dtype)}),
    )
    stock = model.config._attn_implementation  # noqa: SLF001 - Transformers keeps it there, without a public name
    try:
        with torch.no_grad():
            for context_rows in contexts:
                progress(f"context {context_rows:,}")
                _measure_context(report, model, context_rows, steps=steps, compiled=compiled)
            progress("flatness")
            _measure_flatness(report, model, contexts, steps=steps)
            progress("everything fits")
            _measure_fits(report, model, steps=steps)
            progress("scoring share")
            _measure_scoring(report, model, context_rows=contexts[-1])
    finally:
        model.config._attn_implementation = stock  # noqa: SLF001
    _derive_figures(report, contexts)
    return report


def _measure_context(report: BenchReport, model: Any, context_rows: int, *, steps: int, compiled: bool) -> None:
    arms = [
        _floor_arm(model),
        _dynamic_arm(model, context_rows),
        _static_arm(model, context_rows, steps=steps, name=STATIC, attention=None),
        _static_arm(model, context_rows, steps=steps, name=STATIC_GROUPED, attention=GROUPED),
        _pooled_arm(model, context_rows, pool_rows=POOL_ROWS),
    ]
    if compiled:
        arms.append(_compiled_arm(model, context_rows))
    _report_arms(report, model, arms, context_rows=context_rows, steps=steps)


def _measure_flatness(report: BenchReport, model: Any, contexts: tuple[int, ...], *, steps: int) -> None:
    """The pool at the shortest and the longest context, taking turns: minutes apart, the machine itself drifts more."""
    arms = [_pooled_arm(model, rows, pool_rows=POOL_ROWS) for rows in (contexts[0], contexts[-1])]
    for arm, rows in zip(arms, (contexts[0], contexts[-1]), strict=True):
        arm.name = f"pool at {rows:,}, in turns"
    timings = _take_turns(model, arms, steps=steps)
    short, long = (median(timings[arm.name]) for arm in arms)
    for arm, rows, middle in zip(arms, (contexts[0], contexts[-1]), (short, long), strict=True):
        report.rows.append(
            {
                "context_rows": rows,
                "arm": arm.name,
                "ms_per_token": middle * 1e3,
                "tokens_per_s": 1 / middle,
                "kv_mib": arm.kv_bytes / 2**20,
                "steps": steps,
            }
        )
    report.figures["decode.flatness"] = long / short


def _measure_fits(report: BenchReport, model: Any, *, steps: int) -> None:
    arms = [
        _dynamic_arm(model, FITS_ROWS),
        _static_arm(model, FITS_ROWS, steps=steps, name=STATIC, attention=None),
        _pooled_arm(model, FITS_ROWS, pool_rows=FITS_POOL_ROWS),
    ]
    times = _report_arms(report, model, arms, context_rows=FITS_ROWS, steps=2 * steps)
    report.figures["decode.fits_ratio"] = times[POOLED] / min(times[DYNAMIC], times[STATIC])


def _floor_arm(model: Any) -> Arm:
    """One token that attends to itself alone: what a step costs whatever the cache does, hence the bound of any gain."""
    token = torch.ones((1, 1), dtype=torch.long, device=model.device)
    return Arm(FLOOR, lambda: model(token, use_cache=False).logits, 0)


def _dynamic_arm(model: Any, context_rows: int) -> Arm:
    cache = DynamicCache(config=model.config)
    fill_stock(cache, model, context_rows)
    return Arm(DYNAMIC, _stepper(model, cache), _cache_bytes(cache))


def _static_arm(model: Any, context_rows: int, *, steps: int, name: str, attention: str | None) -> Arm:
    room_rows = context_rows + 2 * steps + WARM_UP_STEPS + 1
    cache = StaticCache(config=model.config, max_cache_len=room_rows)
    fill_stock(cache, model, context_rows)
    return Arm(name, _stepper(model, cache), _cache_bytes(cache), attention)


def _pooled_arm(model: Any, context_rows: int, *, pool_rows: int) -> Arm:
    cache = PooledCache(model.config, pool=pool_rows, context_rows=context_rows)
    fill_pooled(cache, model, context_rows)
    return Arm(POOLED, _stepper(model, cache), cache.statistics().device_bytes)


def _compiled_arm(model: Any, context_rows: int) -> Arm:
    cache = PooledCache(model.config, pool=POOL_ROWS, context_rows=context_rows)
    fill_pooled(cache, model, context_rows)
    decoder = CompiledDecoder(model, cache)
    return Arm(COMPILED, lambda: decoder.step(1), cache.statistics().device_bytes)


def _stepper(model: Any, cache: Any) -> Callable[[], Any]:
    token = torch.ones((1, 1), dtype=torch.long, device=model.device)
    return lambda: model(token, past_key_values=cache).logits


def _cache_bytes(cache: Any) -> int:
    return sum(t.numel() * t.element_size() for layer in cache.layers for t in (layer.keys, layer.values))


def _report_arms(
    report: BenchReport, model: Any, arms: list[Arm], *, context_rows: int, steps: int
) -> dict[str, float]:
    timings = _take_turns(model, arms, steps=steps)
    medians = {arm.name: median(timings[arm.name]) for arm in arms}
    for arm in arms:
        report.rows.append(
            {
                "context_rows": context_rows,
                "arm": arm.name,
                "ms_per_token": medians[arm.name] * 1e3,
                "mean_ms_per_token": sum(timings[arm.name]) / steps * 1e3,
                "tokens_per_s": 1 / medians[arm.name],
                "kv_mib": arm.kv_bytes / 2**20,
                "kv_bytes": arm.kv_bytes,
                "steps": steps,
            }
        )
    return medians


def _take_turns(model: Any, arms: list[Arm], *, steps: int) -> dict[str, list[float]]:
    timings: dict[str, list[float]] = {arm.name: [] for arm in arms}
    stock = model.config._attn_implementation  # noqa: SLF001
    for step in range(WARM_UP_STEPS + steps):
        for arm in arms:
            model.config._attn_implementation = arm.attention or stock  # noqa: SLF001
            _synchronize(model.device)
            started = time.perf_counter()
            arm.step()
            _synchronize(model.device)
            if step >= WARM_UP_STEPS:
                timings[arm.name].append(time.perf_counter() - started)
    model.config._attn_implementation = stock  # noqa: SLF001
    return timings


def _synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _measure_scoring(report: BenchReport, model: Any, *, context_rows: int) -> None:
    """One full cycle of the default policy, from just after a reselect to the end of the next, nothing left out."""
    cache = PooledCache(model.config, pool=POOL_ROWS, policy=Policy(), context_rows=context_rows)
    fill_pooled(cache, model, context_rows)
    step = _stepper(model, cache)
    # A scoring costs by the queries it reads; the first must read as many as every later one.
    for _ in range(cache.queries.rows):
        step()
    cache.reselect()
    before = cache.statistics().reselect
    steps = 0
    while cache.statistics().reselect.reselects == before.reselects:
        step()
        steps += 1
    after = cache.statistics().reselect
    scoring_s, decode_s = after.scoring_s - before.scoring_s, after.decode_s - before.decode_s
    share = scoring_s / (scoring_s + decode_s)
    report.figures["decode.scoring_share"] = share
    report.rows.append(
        {"context_rows": context_rows, "arm": f"scoring: {scoring_s * 1e3:.0f} ms after {steps} steps", "steps": steps}
    )


def _derive_figures(report: BenchReport, contexts: tuple[int, ...]) -> None:
    times = {(row["context_rows"], row["arm"]): row.get("ms_per_token", 0.0) for row in report.rows}
    bytes_held = {row["context_rows"]: row["kv_bytes"] for row in report.rows if row["arm"] == POOLED}
    first, last = contexts[0], contexts[-1]
    figures = report.figures
    figures["decode.kv_bytes_ratio"] = bytes_held[last] / bytes_held[first]
    for context_rows in contexts[1:]:
        label = f"{context_rows // 1024}k"
        pooled = times[context_rows, POOLED]
        full = min(times[context_rows, DYNAMIC], times[context_rows, STATIC])
        figures[f"decode.speedup_{label}"] = full / pooled
        figures[f"decode.speedup_default_{label}"] = times[context_rows, DYNAMIC] / pooled
        figures[f"decode.speedup_kernel_{label}"] = times[context_rows, STATIC_GROUPED] / pooled
        figures[f"decode.ceiling_{label}"] = full / times[context_rows, FLOOR]
        figures[f"decode.ceiling_default_{label}"] = times[context_rows, DYNAMIC] / times[context_rows, FLOOR]
    if (last, COMPILED) in times:
        figures["decode.compile_gain"] = times[last, POOLED] / times[last, COMPILED]
