"""The scene of `tenure pressure`: a parked prefix, a request that does not fit beside it, and a question about the prefix."""

from __future__ import annotations

import random
import time
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from tenure.errors import UsageError
from tenure.models.texts import text_ids
from tenure.runtime.hf.engine import Engine, Request

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from tenure.runtime.hf.identity import Identity

NEW_TOKENS = 16
QUESTION_TOKENS = 16
RESIDENT, ACTIVE, REUSE = "resident", "active", "reuse"


@dataclass(frozen=True, slots=True, kw_only=True)
class Sizes:
    """How much wants the same memory. Raises `UsageError` where the scene cannot be played, and says why."""

    resident_blocks: int = 60
    active_blocks: int = 70
    usable_blocks: int = 80
    block_size: int = 16
    new_tokens: int = NEW_TOKENS

    def __post_init__(self) -> None:
        resident, active, usable = self.resident_blocks, self.active_blocks, self.usable_blocks
        if min(resident, active, usable, self.block_size, self.new_tokens) < 1:
            raise UsageError(f"sizes count from 1, got {resident} resident, {active} active, {usable} usable blocks")
        if active > usable:
            raise UsageError(
                f"the request needs {active} blocks and {usable} are usable: it could not run even alone; "
                f"ask for at most {usable} active blocks"
            )
        if resident > usable:
            raise UsageError(
                f"the prefix has {resident} blocks and {usable} are usable: its claim would be rejected, short by "
                f"{resident - usable}; park at most {usable - self.reuse_blocks}"
            )
        if resident + self.reuse_blocks > usable:
            raise UsageError(
                f"a prefix of {resident} blocks leaves {usable - resident} of {usable}, and a question about it needs "
                f"{self.reuse_blocks}; park at most {usable - self.reuse_blocks}"
            )
        if self.active_tokens <= self.new_tokens:
            raise UsageError(
                f"{active} blocks of {self.block_size} tokens hold no prompt beside {self.new_tokens} new tokens; take more"
            )

    def require_pressure(self) -> None:
        """Raise `UsageError` when everybody fits: no action would be needed."""
        if self.shortfall_blocks < 1:
            raise UsageError(
                f"{self.resident_blocks} + {self.active_blocks} blocks fit into {self.usable_blocks}: nobody has to give way; "
                f"take fewer than {self.resident_blocks + self.active_blocks} usable blocks"
            )

    @property
    def resident_tokens(self) -> int:
        """Tokens of the parked prefix."""
        return self.resident_blocks * self.block_size

    @property
    def active_tokens(self) -> int:
        """Tokens of the request, its answer included."""
        return self.active_blocks * self.block_size

    @property
    def reuse_blocks(self) -> int:
        """Blocks that a question about the prefix, and its answer, need beside it."""
        return -(-(QUESTION_TOKENS + self.new_tokens) // self.block_size)

    @property
    def shortfall_blocks(self) -> int:
        """How many blocks are missing."""
        return max(0, self.resident_blocks + self.active_blocks - self.usable_blocks)


@dataclass(frozen=True, slots=True, kw_only=True)
class Scene:
    """A model and the three texts: the prefix, another prompt, and a question that follows the prefix."""

    model: PreTrainedModel = field(repr=False)
    name: str
    sizes: Sizes
    resident: tuple[int, ...] = field(repr=False)
    active: tuple[int, ...] = field(repr=False)
    question: tuple[int, ...] = field(repr=False)
    identity: Identity | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ColdAnswers:
    """What the two questions are answered with room for everything and nothing cached: greedy, so there is one answer."""

    active: tuple[int, ...]
    reuse: tuple[int, ...]
    active_tokens_per_s: float | None
    reuse_ttft_s: float


class SkippingClock:
    """Real seconds, and any number of them at once: bounds and durations end without anybody waiting."""

    def __init__(self) -> None:
        self._skipped_s = 0.0

    def __call__(self) -> float:
        """Seconds that never go back."""
        return time.perf_counter() + self._skipped_s

    def skip(self, seconds: float) -> None:
        """Be that much later."""
        self._skipped_s += seconds


def text_scene(
    model: PreTrainedModel, tokenizer: Any, sizes: Sizes, *, name: str = "the model", identity: Identity | None = None
) -> Scene:
    """The scene with real text: the prefix and the request quote the Python language reference in different orders.

    Raises `UsageError` when the model was not trained for that many tokens.
    """
    needed = max(sizes.active_tokens, sizes.resident_tokens + QUESTION_TOKENS + sizes.new_tokens)
    trained = getattr(model.config, "max_position_embeddings", None)
    if trained is not None and needed > trained:
        raise UsageError(
            f"the scene needs {needed} tokens in one sequence and the model takes {trained}; take fewer or smaller blocks"
        )
    read = text_ids(tokenizer, sizes.resident_tokens + QUESTION_TOKENS)
    other = text_ids(tokenizer, sizes.active_tokens - sizes.new_tokens, seed=1)
    return replace(_scene(model, sizes, read, other), name=name, identity=identity)


def tiny_scene(sizes: Sizes) -> Scene:
    """The scene on a tiny random model and random tokens: the same blocks, counted in no time."""
    from tenure.models.tiny import VOCAB_SIZE, tiny_model

    chance = random.Random(0)
    read, other = (
        [chance.randrange(2, VOCAB_SIZE) for _ in range(tokens)]
        for tokens in (sizes.resident_tokens + QUESTION_TOKENS, sizes.active_tokens - sizes.new_tokens)
    )
    return _scene(tiny_model("llama"), sizes, read, other)


def _scene(model: PreTrainedModel, sizes: Sizes, read: list[int], other: list[int]) -> Scene:
    cut = sizes.resident_tokens
    return Scene(
        model=model,
        name="a tiny random model",
        sizes=sizes,
        resident=tuple(read[:cut]),
        active=tuple(other),
        question=tuple(read[cut:]),
    )


def cold_answers(scene: Scene) -> ColdAnswers:
    """Answer both with room for everything and nothing cached: what every exact answer is compared with."""
    sizes = scene.sizes
    room = sizes.active_blocks + sizes.resident_blocks + sizes.reuse_blocks
    engine = Engine(scene.model, usable_blocks=room, block_size=sizes.block_size, identity=scene.identity)
    active = ask_active(engine, scene)
    active.result()  # first, so that the time of the other is not that of a model's first forward
    reuse = ask_reuse(engine, scene)
    reuse.result()
    return ColdAnswers(
        active=tuple(active.token_ids),
        reuse=tuple(reuse.token_ids),
        active_tokens_per_s=decode_rate(active),
        reuse_ttft_s=reuse.ttft_s or 0.0,
    )


def ask_active(engine: Engine, scene: Scene) -> Request:
    """Send the request that does not fit."""
    return engine.submit(scene.active, max_new_tokens=scene.sizes.new_tokens, request_id=ACTIVE, stop_ids=())


def ask_reuse(engine: Engine, scene: Scene) -> Request:
    """Send the question about the prefix."""
    ids = (*scene.resident, *scene.question)
    return engine.submit(ids, max_new_tokens=scene.sizes.new_tokens, request_id=REUSE, stop_ids=())


def finish(request: Request) -> Request:
    """Work until the request is over, however it ends: its receipt says how."""
    while not request.state.is_over:
        request.engine.work()
    return request


def decode_rate(request: Request) -> float | None:
    """Tokens a second behind the first; None where there are none."""
    first, last = request.first_token_s, request.ended_s
    if first is None or last is None or last <= first or len(request.token_ids) < 2:
        return None
    return (len(request.token_ids) - 1) / (last - first)
