"""What `tenure demo` does: one long text, one fact in it, one question, asked with three caches; then two tenants."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from transformers import DynamicCache

from tenure.bench.pressure_actions import ActionRow, run_action
from tenure.bench.pressure_scene import Sizes, cold_answers, text_scene
from tenure.bench.timeline import Timeline
from tenure.models import LoadedModel
from tenure.models.texts import text_ids
from tenure.policy import Policy
from tenure.runtime.hf import Session
from tenure.runtime.hf.turns import chat_ids

TEXT_TOKENS = 3200
POOL_ROWS = 512
FACT = "The lighthouse on Gull Island was built in 1874."
QUESTION = "When was the lighthouse on Gull Island built?"
ANSWER = "1874"
FACT_DEPTH = 0.12
READ_ROWS = 256
MAX_NEW_TOKENS = 24
#: The sizes of `tenure pressure` with half as many tokens: the same decisions in half the time.
TENANT_SIZES = Sizes(block_size=8, new_tokens=8)
TENANT_ACTIONS = ("native", "refuse", "offload_resident", "bound_active_live")

Progress = Callable[[int, int], None]


@dataclass(frozen=True, slots=True)
class DemoText:
    """The conversation as ids: everything up to the question, the question's turn, and where the fact is."""

    context: tuple[int, ...]
    question: tuple[int, ...]
    fact_position: int


@dataclass(frozen=True, slots=True)
class DemoResult:
    """One way to answer. `timeline` is None for the full cache, where nothing moves."""

    name: str
    device_mib: float
    host_mib: float
    tokens_per_s: float
    answer: str
    is_right: bool
    timeline: Timeline | None


def build_text(tokenizer: Any, *, text_tokens: int = TEXT_TOKENS) -> DemoText:
    """A user's turn that quotes `text_tokens` of the Python language reference with the fact planted early."""
    fact = tokenizer.encode(f"\n\n{FACT}\n\n", add_special_tokens=False)
    filler = text_ids(tokenizer, text_tokens)
    cut = round(text_tokens * FACT_DEPTH)
    marker = "<<text>>"
    before, after = (
        tokenizer.encode(part, add_special_tokens=False)
        for part in tokenizer.decode(
            chat_ids(tokenizer, [{"role": "user", "content": f"Here is a text.\n\n{marker}\n\n{QUESTION}"}])
        ).split(marker)
    )
    return DemoText(
        context=(*before, *filler[:cut], *fact, *filler[cut:]),
        question=tuple(after),
        fact_position=len(before) + cut + len(fact) // 2,
    )


def answer_with_full_cache(model: Any, tokenizer: Any, text: DemoText, progress: Progress) -> DemoResult:
    """The framework's own cache: everything stays on the device."""
    cache = DynamicCache(config=model.config)
    ids = torch.tensor([[*text.context, *text.question]], device=model.device)
    done = 0
    with torch.no_grad():
        for part in torch.split(ids, READ_ROWS, dim=1):
            logits = model(part, past_key_values=cache, logits_to_keep=1).logits
            done += part.shape[1]
            progress(done, ids.shape[1])
        reply: list[int] = []
        started = time.perf_counter()
        while len(reply) < MAX_NEW_TOKENS:
            token = int(logits[0, -1].argmax())
            if token == tokenizer.eos_token_id:
                break
            reply.append(token)
            logits = model(torch.tensor([[token]], device=model.device), past_key_values=cache).logits
        seconds = time.perf_counter() - started
    held = sum(t.numel() * t.element_size() for layer in cache.layers for t in (layer.keys, layer.values))
    answer = tokenizer.decode(reply).strip()
    return DemoResult("full cache", held / 2**20, 0.0, len(reply) / seconds, answer, ANSWER in answer, None)


def answer_with_pool(
    model: Any, tokenizer: Any, text: DemoText, policy: str, progress: Progress, *, pool: int | str = POOL_ROWS
) -> DemoResult:
    """A fixed pool: read the text through it, ask, answer."""
    session = Session(
        model,
        tokenizer,
        pool=pool,
        policy=Policy(policy, scoring_share=None),
        context_rows=len(text.context) + len(text.question) + MAX_NEW_TOKENS,
        read_rows=READ_ROWS,
    )
    timeline = Timeline(block_size=session.cache.block_size)
    session.cache.pager.listener = timeline
    total = len(text.context) + len(text.question)

    def note(done: int, _: int) -> None:
        timeline.mark(session.logical_rows)
        progress(done, total)

    session.append(text.context, progress=note)
    session.append(text.question)
    timeline.mark(session.logical_rows)
    answer = tokenizer.decode(list(_marked(session, timeline))).strip()
    progress(total, total)
    statistics, reply = session.cache.statistics(), session.last_reply
    return DemoResult(
        name=f"pool of {statistics.pager.capacity_rows:,}, {policy}",
        device_mib=statistics.device_bytes / 2**20,
        host_mib=statistics.host.used_bytes / 2**20,
        tokens_per_s=0.0 if reply is None else reply.tokens_per_s,
        answer=answer,
        is_right=ANSWER in answer,
        timeline=timeline,
    )


def _marked(session: Session, timeline: Timeline) -> Iterator[int]:
    for token in session.generate(max_new_tokens=MAX_NEW_TOKENS):
        timeline.mark(session.logical_rows)
        yield token


def two_tenants(loaded: LoadedModel, *, progress: Callable[[str], None]) -> list[ActionRow]:
    """A parked prefix and a request that do not fit together: native eviction, then three actions of the contract."""
    scene = text_scene(loaded.model, loaded.tokenizer, TENANT_SIZES, name=loaded.name, identity=loaded.identity)
    progress("the cold answers")
    cold = cold_answers(scene)
    rows = []
    for name in TENANT_ACTIONS:
        progress(name)
        rows.append(run_action(name, scene, cold))
    return rows
