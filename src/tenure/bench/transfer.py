"""`tenure bench transfer`: how fast blocks leave and return, against a plain copy of as many bytes.

The baseline copies contiguous buffers of a block's size between memories of the same kind (pinned host memory and device
memory where there is a GPU), cycling through as many buffers as there are blocks, so that both sides miss the caches alike.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import torch

from tenure.bench.filling import fill_pooled
from tenure.bench.report import Bar, BenchReport, environment, median
from tenure.runtime.hf import PooledCache

BLOCKS = 64
REPEATS = 15

BARS = (Bar("transfer.out_ratio", at_least=0.5), Bar("transfer.in_ratio", at_least=0.5))
GPU_BARS = (Bar("transfer.out_ratio", at_least=0.8), Bar("transfer.in_ratio", at_least=0.8))


def run(model: Any, *, blocks: int = BLOCKS, repeats: int = REPEATS, quick: bool = False) -> BenchReport:
    """Page `blocks` blocks of the model's geometry out and in, `repeats` times each, taking turns with the baseline."""
    device = model.device
    report = BenchReport(
        bench="transfer",
        columns=("arm", "block_bytes", "blocks", "gib_per_s", "ms_per_block"),
        bars=GPU_BARS if device.type == "cuda" else BARS,
        quick=quick,
        environment=environment(threads=torch.get_num_threads(), extra={"dtype": str(model.dtype)}),
    )
    cache = PooledCache(model.config, pool=(blocks + 7) * 64, context_rows=(blocks + 7) * 64)
    fill_pooled(cache, model, blocks * 64)
    arms = _arms(cache, blocks=blocks)
    timings: dict[str, list[float]] = {name: [] for name in arms}
    for repeat in range(repeats + 1):
        for name, arm in arms.items():
            _synchronize(device)
            started = time.perf_counter()
            arm()
            _synchronize(device)
            if repeat:
                timings[name].append(time.perf_counter() - started)
    block_bytes = cache.pager.host.block_bytes
    for name, seconds in timings.items():
        middle = median(seconds)
        report.rows.append(
            {
                "arm": name,
                "block_bytes": block_bytes,
                "blocks": blocks,
                "gib_per_s": blocks * block_bytes / middle / 2**30,
                "ms_per_block": middle / blocks * 1e3,
            }
        )
    report.figures["transfer.out_ratio"] = median(timings["plain copy out"]) / median(timings["page out"])
    report.figures["transfer.in_ratio"] = median(timings["plain copy in"]) / median(timings["page in"])
    return report


def _arms(cache: PooledCache, *, blocks: int) -> dict[str, Callable[[], None]]:
    """The four things to time; each moves every block once."""
    pager = cache.pager
    transfer, arena = pager.transfer, pager.arena
    on_gpu = arena.device.type == "cuda"
    hosts = [pager.host_block(block) for block in range(blocks)]
    slots = [pager.resident_slots(block) for block in range(blocks)]
    plain_host = [torch.empty_like(host.buffer, pin_memory=on_gpu).zero_() for host in hosts]
    plain_device = [torch.zeros_like(host.buffer, device=arena.device) for host in hosts]

    def out() -> None:
        for host, block_slots in zip(hosts, slots, strict=True):
            transfer.page_out(arena, block_slots, host)

    def back() -> None:
        for host, block_slots in zip(hosts, slots, strict=True):
            transfer.page_in(host, range(len(block_slots)), arena, block_slots)

    def copy_all(targets: list[torch.Tensor], sources: list[torch.Tensor]) -> None:
        for target, source in zip(targets, sources, strict=True):
            target.copy_(source, non_blocking=True)

    return {
        "page out": out,
        "plain copy out": lambda: copy_all(plain_host, plain_device),
        "page in": back,
        "plain copy in": lambda: copy_all(plain_device, plain_host),
    }


def _synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
