"""`tenure bench recall`: does the fact come back after it left the device?

One cell: a context of real text with three needles of 48 random tokens at 10, 50 and 90 % of its depth. It is read once,
into a full cache, the control. Its rows are then appended to a pool that holds only a share of them. For each needle
and policy: 31 of its first 32 tokens are read as a query, as a session reads a turn (read, reselect, read again, see
`tenure.runtime.hf.reading`), then the 32nd, and the next 16 tokens are scored by teacher forcing: how often is the
argmax right? Afterwards the query is cropped away and the residency of before is restored, so that every policy starts
from the same state.

So the context's rows are exact, and what is measured is choosing and recalling. `pooled_prefill=True` reads the context
through the pool instead, which is what a session does with a text longer than its pool.

Random tokens are no prose, on purpose: they cannot be guessed, only copied. The filler is real text, because random
filler takes away the contrast that scorers work with (KVFlash's `qk` gate once failed that way).
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

import torch
from transformers import DynamicCache

from tenure.bench.report import Bar, BenchReport, environment
from tenure.kv.residency import Plan
from tenure.models.texts import text_ids
from tenure.policy import Policy
from tenure.runtime.hf import PooledCache
from tenure.runtime.hf.reading import reselect_and_reread

NEEDLE_TOKENS = 48
QUERY_TOKENS = 32
SCORED_TOKENS = NEEDLE_TOKENS - QUERY_TOKENS
DEPTHS = (0.10, 0.50, 0.90)
CONTEXTS = (2048, 4096, 8192)
RESIDENCIES = (0.25, 0.125, 0.0625)
POLICIES = ("attention_mass", "pooled_cosine", "key_bounds", "recency")
CONTROL_HITS = 12
"""A cell counts towards the worst ratio only where the full cache itself finds at least this many of 16 on average."""
READ_ROWS = 512
CONTROL = "full cache"

Progress = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Hits:
    """Scored tokens that came out right, of `SCORED_TOKENS`."""

    context_rows: int
    residency: float | None
    block_size: int | None
    depth: float
    seed: int
    policy: str
    hits: int


@dataclass(frozen=True, slots=True)
class Haystack:
    """A context with its needles, one a depth."""

    ids: torch.Tensor
    needles: tuple[tuple[int, ...], ...]


def build_haystack(tokenizer: Any, *, context_rows: int, seed: int) -> Haystack:
    """Real text of exactly `context_rows` tokens with a needle of 48 random tokens at each of `DEPTHS`."""
    rng = random.Random(f"needle {context_rows} {seed}")
    ids = text_ids(tokenizer, context_rows, seed=seed)
    ordinary = range(len(tokenizer) // 16, len(tokenizer) // 2)
    needles = tuple(tuple(rng.sample(ordinary, NEEDLE_TOKENS)) for _ in DEPTHS)
    for depth, needle in zip(DEPTHS, needles, strict=True):
        start = round(depth * (context_rows - NEEDLE_TOKENS))
        ids[start : start + NEEDLE_TOKENS] = needle
    return Haystack(ids=torch.tensor([ids]), needles=needles)


def score_full(model: Any, haystack: Haystack, cache: DynamicCache, *, context_rows: int, seed: int) -> Iterator[Hits]:
    """The control: read the context into a full cache and keep all of it. The cache holds the context afterwards."""
    _read(model, haystack.ids, cache, batch_rows=READ_ROWS)
    for depth, needle in zip(DEPTHS, haystack.needles, strict=True):
        hits = _ask(model, cache, needle)
        cache.crop(-(NEEDLE_TOKENS - 1))
        yield Hits(context_rows, None, None, depth, seed, CONTROL, hits)


def score_pooled(
    model: Any,
    haystack: Haystack,
    full: DynamicCache | None,
    *,
    context_rows: int,
    residency: float,
    seed: int,
    policies: Sequence[tuple[str, Policy]],
) -> Iterator[Hits]:
    """Bring the context into a pool, from a full cache's rows or by reading it, then ask every needle by every policy."""
    pool_rows = round(context_rows * residency)
    cache = PooledCache(model.config, pool=pool_rows, policy=_watching(policies))
    if full is None:
        _read(model, haystack.ids, cache, batch_rows=min(READ_ROWS, cache.max_append_rows))
    else:
        _append_rows(cache, full, context_rows)
    before = _resident_blocks(cache)
    for depth, needle in zip(DEPTHS, haystack.needles, strict=True):
        for name, policy in policies:
            cache.use_policy(policy)
            hits = _ask(model, cache, needle)
            cache.crop(-(NEEDLE_TOKENS - 1))
            _restore(cache, before)
            yield Hits(context_rows, residency, cache.block_size, depth, seed, name, hits)


def _append_rows(cache: PooledCache, full: DynamicCache, context_rows: int) -> None:
    """Append rows that a full cache holds, batch by batch, as a prefill does: evicting, sealing, writing through."""
    first = full.layers[0]
    pager = cache.open(dtype=first.keys.dtype, device=first.keys.device)
    done = 0
    while done < context_rows:
        rows = min(READ_ROWS, pager.max_append_rows, context_rows - done)
        pager.apply(pager.plan_room(rows))
        slot = pager.begin_append(rows)
        for ordinal, layer in enumerate(pager.arena.layout.layer_indices):
            keys, values = full.layers[layer].keys, full.layers[layer].values
            pager.arena.write(ordinal, slot, keys[:, :, done : done + rows], values[:, :, done : done + rows])
        pager.commit_append()
        done += rows


def _watching(policies: Sequence[tuple[str, Policy]]) -> Policy:
    """The cache must tap as many queries as the neediest policy will read."""
    return max((policy for _, policy in policies), key=lambda p: int(p.options.get("query_rows", 1 << 6)))


def _read(model: Any, ids: torch.Tensor, cache: Any, *, batch_rows: int) -> None:
    with torch.no_grad():
        for part in torch.split(ids.to(model.device), batch_rows, dim=1):
            model(part, past_key_values=cache, logits_to_keep=1)


def _ask(model: Any, cache: Any, needle: Sequence[int]) -> int:
    """Read 31 query tokens as a session reads a turn, then count right predictions of the last 16 tokens."""
    ids = torch.tensor([needle], device=model.device)
    query = list(needle[: QUERY_TOKENS - 1])

    def read(tokens: list[int]) -> None:
        for part in torch.split(torch.tensor([tokens], device=model.device), batch_rows, dim=1):
            model(part, past_key_values=cache, logits_to_keep=1)

    batch_rows = cache.max_append_rows if isinstance(cache, PooledCache) else READ_ROWS
    with torch.no_grad():
        read(query)
        if isinstance(cache, PooledCache):
            reselect_and_reread(cache, query, (), read=read)
        logits = model(ids[:, QUERY_TOKENS - 1 : -1], past_key_values=cache).logits
    return int((logits[0].argmax(dim=-1) == ids[0, QUERY_TOKENS:]).sum())


def _resident_blocks(cache: PooledCache) -> frozenset[int]:
    return frozenset(block.index for block in cache.view().blocks if block.resident_rows == block.written_rows)


def _restore(cache: PooledCache, wanted: frozenset[int]) -> None:
    view = cache.view()
    evict = tuple(b.index for b in view.blocks if b.evictable and b.index not in wanted)
    recall = tuple(b.index for b in view.blocks if b.resident_rows == 0 and b.index in wanted)
    cache.pager.apply(Plan(epoch=view.epoch, evict=evict, recall=recall, reason="restore"))


def run(
    model: Any,
    tokenizer: Any,
    *,
    contexts: Sequence[int] = CONTEXTS,
    residencies: Sequence[float] = RESIDENCIES,
    seeds: int = 8,
    pooled_prefill: bool = False,
    quick: bool = False,
    progress: Progress = lambda _: None,
) -> BenchReport:
    """Every policy in every cell, `seeds` contexts each, and the full cache as control. Cost: most of an hour on CPU."""
    report = BenchReport(
        bench="recall",
        columns=("context_rows", "residency", "block_size", "depth", "policy", "hits_of_16", "over_control"),
        bars=(Bar("recall.worst_ratio", at_least=0.95),),
        quick=quick,
        environment=environment(
            threads=torch.get_num_threads(),
            extra={
                "dtype": str(model.dtype),
                "seeds": seeds,
                "needle": NEEDLE_TOKENS,
                "prefill": "pooled" if pooled_prefill else "exact",
            },
        ),
    )
    policies = [(name, Policy(scorer=name)) for name in POLICIES]
    found: list[Hits] = []
    for context_rows in contexts:
        for seed in range(seeds):
            progress(f"context {context_rows:,}, {seed + 1} of {seeds}: full cache")
            haystack = build_haystack(tokenizer, context_rows=context_rows, seed=seed)
            full = DynamicCache(config=model.config)
            found.extend(score_full(model, haystack, full, context_rows=context_rows, seed=seed))
            for residency in residencies:
                progress(f"context {context_rows:,}, {seed + 1} of {seeds}: {residency:.2%} resident")
                found.extend(
                    score_pooled(
                        model,
                        haystack,
                        None if pooled_prefill else full,
                        context_rows=context_rows,
                        residency=residency,
                        seed=seed,
                        policies=policies,
                    )
                )
    summarize(report, found)
    return report


def summarize(report: BenchReport, found: Sequence[Hits]) -> None:
    """One row a cell and policy; the worst ratio over cells where the control itself is good enough."""
    cells: dict[tuple[int, float | None, int | None, float, str], list[int]] = {}
    for hit in found:
        cell = (hit.context_rows, hit.residency, hit.block_size, hit.depth, hit.policy)
        cells.setdefault(cell, []).append(hit.hits)
    ratios: dict[str, list[float]] = {}
    for (context_rows, residency, block_size, depth, policy), hits in cells.items():
        control = fmean(cells[context_rows, None, None, depth, CONTROL])
        ratio = fmean(hits) / control if control else None
        counts = control >= CONTROL_HITS
        if counts and ratio is not None and residency is not None:
            ratios.setdefault(policy, []).append(ratio)
        report.rows.append(
            {
                "context_rows": context_rows,
                "residency": residency,
                "block_size": block_size,
                "depth": depth,
                "policy": policy,
                "hits_of_16": fmean(hits),
                "over_control": ratio,
                "counts": counts,
                "hits": hits,
            }
        )
    if ratios:
        report.figures["recall.worst_ratio"] = min(ratios[POLICIES[0]])
        for policy in POLICIES:
            report.figures[f"recall.mean_ratio.{policy}"] = fmean(ratios[policy])
        for policy in POLICIES[1:]:
            report.figures[f"recall.worst_ratio.{policy}"] = min(ratios[policy])
