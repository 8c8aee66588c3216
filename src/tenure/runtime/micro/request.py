"""What the reference runtime runs: requests by their blocks, with no tokens and no rows of their own."""

from __future__ import annotations

import enum
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field

from tenure.arbiter.decision import Decision, Route
from tenure.arbiter.pressure import LivePlan
from tenure.claims.blocks import BlockKey
from tenure.claims.modes import AttentionMode
from tenure.claims.receipts import Receipt
from tenure.errors import UsageError
from tenure.kv.identity import CacheIdentity
from tenure.runtime.micro.cache import Content, Slot


@dataclass(frozen=True, slots=True, kw_only=True)
class MicroRequest:
    """A request, by what it computes.

    Args:
        request_id: unlike any claim id, used once.
        identity: whose cache it may see.
        content: one number a block of its prompt; cached leading blocks of equal content are reused.
        live_plan: how its blocks come to be; its total is at least the content, the rest is generated.
        prefix_id: names the content in events.
        wants_reuse: whether its content may stay for others when it ends.
        min_arena_blocks: the smallest arena it can run in with recall; None when it cannot be bounded.
        may_recompute: whether it may free chunks and compute them again.
        may_offload: whether its own rows may live in the slower tier.
        routes: other workers that would take it.

    Raises:
        UsageError: empty content, or a plan that is smaller than the content.
    """

    request_id: str
    identity: CacheIdentity
    content: Content
    live_plan: LivePlan
    prefix_id: str = ""
    wants_reuse: bool = True
    min_arena_blocks: int | None = None
    may_recompute: bool = False
    may_offload: bool = False
    routes: tuple[Route, ...] = ()

    def __post_init__(self) -> None:
        if not self.request_id:
            raise UsageError("request_id must be a non-empty string")
        if self.live_plan.total_blocks < len(self.content):
            raise UsageError(
                f"{self.request_id}: the schedule computes {self.live_plan.total_blocks} blocks and the content has "
                f"{len(self.content)}; the total must be at least the content"
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
    """A request on its way. Changed by the runtime alone."""

    request: MicroRequest
    keys: tuple[BlockKey, ...]
    prefix_id: str
    arrived_at_s: float
    standing: Standing = Standing.DEFERRED
    tries: int = 0
    deferred_at_s: float | None = None
    decision: Decision | None = None
    receipt: Receipt | None = None
    slots: list[Slot] = field(default_factory=list)
    reused_blocks: int = 0
    restored_blocks: int = 0
    peak_live_blocks: int = 0
    output: str | None = None


def digest(rows: Sequence[str], *, content: Content) -> str:
    """What a request produces: it depends on the rows it really read, so a wrong row is a wrong answer."""
    text = "\n".join((*rows, repr(content)))
    return hashlib.sha256(text.encode()).hexdigest()[:16]
