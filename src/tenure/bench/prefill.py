"""`tenure bench prefill`: is reading a long prompt through a small pool linear in its length?

Real tokens through a real model. The pooled rate at the long length is compared with the pooled rate at the short one,
measured before and after it (the middle of the two counts, so that a drifting machine shows); a full cache at the short
length stands beside them.

The short run fills the pool with its first half, cheaply; the long one reads nearly all of its tokens against a full pool. So the
ratio has a bound below 1 that depends on the share of attention. `prefill.steady_ratio` is without it: within the long run, the
rate over its last quarter to the rate over the first tokens after the pool was full, as many.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import torch
from transformers import DynamicCache

from tenure.bench.report import Bar, BenchReport, environment
from tenure.models.texts import text_ids
from tenure.runtime.hf import PooledCache

POOL_ROWS = 4096
SHORT_ROWS = 8192
LONG_ROWS = 32768
BATCH_ROWS = 512

BARS = (Bar("prefill.rate_ratio", at_least=0.9),)

Progress = Callable[[str], None]


def run(
    model: Any,
    tokenizer: Any,
    *,
    pool_rows: int = POOL_ROWS,
    short_rows: int = SHORT_ROWS,
    long_rows: int = LONG_ROWS,
    quick: bool = False,
    progress: Progress = lambda _: None,
) -> BenchReport:
    """Read `short_rows`, `long_rows` and `short_rows` again through the pool, and `short_rows` into a full cache."""
    report = BenchReport(
        bench="prefill",
        columns=("arm", "context_rows", "pool_rows", "seconds", "tokens_per_s", "kv_mib"),
        bars=BARS,
        quick=quick,
        environment=environment(threads=torch.get_num_threads(), extra={"dtype": str(model.dtype)}),
    )
    ids = torch.tensor([text_ids(tokenizer, long_rows)], device=model.device)
    _read(model, ids[:, : 2 * BATCH_ROWS], DynamicCache(config=model.config))
    rates: dict[int, list[float]] = {short_rows: [], long_rows: []}
    for rows in (short_rows, long_rows, short_rows):
        progress(f"{rows:,} tokens through a pool of {pool_rows:,}")
        cache = PooledCache(model.config, pool=pool_rows, context_rows=long_rows)
        moments = _read(model, ids[:, :rows], cache)
        seconds = moments[-1]
        rates[rows].append(rows / seconds)
        if rows == long_rows:
            report.figures["prefill.steady_ratio"] = _steady_ratio(moments, pool_rows=pool_rows)
        report.rows.append(
            {
                "arm": "pool",
                "context_rows": rows,
                "pool_rows": pool_rows,
                "seconds": seconds,
                "tokens_per_s": rows / seconds,
                "kv_mib": cache.statistics().device_bytes / 2**20,
            }
        )
        del cache
    progress(f"{short_rows:,} tokens into a full cache")
    full = DynamicCache(config=model.config)
    seconds = _read(model, ids[:, :short_rows], full)[-1]
    report.rows.append(
        {
            "arm": "DynamicCache",
            "context_rows": short_rows,
            "seconds": seconds,
            "tokens_per_s": short_rows / seconds,
            "kv_mib": sum(t.numel() * t.element_size() for x in full.layers for t in (x.keys, x.values)) / 2**20,
        }
    )
    report.figures["prefill.rate_ratio"] = rates[long_rows][0] / (sum(rates[short_rows]) / len(rates[short_rows]))
    return report


def _steady_ratio(moments: list[float], *, pool_rows: int) -> float:
    full_at = -(-pool_rows // BATCH_ROWS)
    parts = min(len(moments) // 4, len(moments) - 1 - full_at)
    early = moments[full_at + parts] - moments[full_at]
    late = moments[-1] - moments[-1 - parts]
    return early / late


def _read(model: Any, ids: torch.Tensor, cache: Any) -> list[float]:
    """Read `ids` in batches; seconds since the start after each of them."""
    started, moments = time.perf_counter(), []
    with torch.no_grad():
        for part in torch.split(ids, BATCH_ROWS, dim=1):
            model(part, past_key_values=cache, logits_to_keep=1)
            if model.device.type == "cuda":
                torch.cuda.synchronize(model.device)
            moments.append(time.perf_counter() - started)
    return moments
