"""A request as the control plane sees it: its blocks by name, how many it needs at once, and where it stands."""

from __future__ import annotations

import enum
from dataclasses import dataclass, field

from tenure.arbiter.decision import Decision, Route
from tenure.arbiter.pressure import LivePlan
from tenure.claims.blocks import BlockKey
from tenure.claims.modes import AttentionMode
from tenure.claims.receipts import Receipt
from tenure.errors import UsageError
from tenure.runtime.control.store import Slot


@dataclass(frozen=True, slots=True, kw_only=True)
class RequestTerms:
    """What a request asks of the pool.

    Args:
        request_id: unlike any claim id, used once.
        keys: the names of the full blocks of its prompt, in order; cached leading ones are reused.
        live_plan: how its blocks come to be; its total is at least the prompt, the rest is generated.
        prefix_id: names the prompt in events.
        wants_reuse: whether its prompt may stay for others when it ends.
        min_arena_blocks: the smallest arena it can run in with recall; None when it cannot be bounded.
        may_recompute: whether it may free chunks and compute them again.
        may_offload: whether its own rows may live in the slower tier.
        routes: other workers that would take it.
        priority: of the requests that wait, the highest is tried first; equal ones in the order in which they came.

    Raises:
        UsageError: no id, or a plan that is smaller than the prompt.
    """

    request_id: str
    keys: tuple[BlockKey, ...]
    live_plan: LivePlan
    prefix_id: str = ""
    wants_reuse: bool = True
    min_arena_blocks: int | None = None
    may_recompute: bool = False
    may_offload: bool = False
    routes: tuple[Route, ...] = ()
    priority: int = 0

    def __post_init__(self) -> None:
        if not self.request_id:
            raise UsageError("request_id must be a non-empty string")
        if type(self.priority) is not int:
            raise UsageError(
                f"{self.request_id}: priority is {self.priority!r}; expected a whole number, higher is sooner"
            )
        if self.live_plan.total_blocks < len(self.keys):
            raise UsageError(
                f"{self.request_id}: the schedule computes {self.live_plan.total_blocks} blocks and the content has "
                f"{len(self.keys)}; the total must be at least the content"
            )

    @property
    def keeps_everything(self) -> bool:
        """Whether every block is live to the end, so that its content can be found and kept as a prefix."""
        return self.live_plan.attention_mode is AttentionMode.FULL_ATTENTION


class Standing(enum.Enum):
    """Where a request is."""

    DEFERRED = "deferred"
    RUNNING = "running"
    SERVED = "served"
    REFUSED = "refused"
    ROUTED = "routed"
    FAILED = "failed"


@dataclass(slots=True)
class Work:
    """A request on its way. Changed by the control plane alone, but for `output` and `failure`, which the
    data plane may set.

    `keys` names its full blocks so far: those of the prompt, then those that it generated. `present` are the positions of
    blocks whose rows were in place when it was admitted last.
    """

    request: RequestTerms
    arrived_at_s: float
    keys: tuple[BlockKey, ...] = field(init=False)
    standing: Standing = Standing.DEFERRED
    tries: int = 0
    deferred_at_s: float | None = None
    decision: Decision | None = None
    receipt: Receipt | None = None
    slots: list[Slot] = field(default_factory=list)
    reused_blocks: int = 0
    copied_blocks: int = 0
    restored_blocks: int = 0
    recomputed_tokens: int = 0
    present: frozenset[int] = frozenset()
    sealed_blocks: int = 0
    pauses: int = 0
    peak_live_blocks: int = 0
    failure: str | None = None
    output: str | None = None

    def __post_init__(self) -> None:
        self.keys = self.request.keys

    @property
    def request_id(self) -> str:
        """Whose work it is."""
        return self.request.request_id

    @property
    def prefix_id(self) -> str:
        """What its prompt is called in events."""
        if self.request.prefix_id:
            return self.request.prefix_id
        keys = self.request.keys
        return f"prefix:{keys[-1][1]}" if keys else f"prefix:{self.request_id}"

    @property
    def is_bounded(self) -> bool:
        """Whether it runs in fewer blocks than it asked for."""
        return self.decision is not None and self.decision.is_admitted and not self.decision.plan.uses_reuse
