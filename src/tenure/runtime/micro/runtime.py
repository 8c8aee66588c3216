"""The reference runtime: the control plane over rows that are digests. Deterministic, and nothing else."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from tenure.arbiter.decision import Decision, Route
from tenure.arbiter.pressure import LivePlan
from tenure.claims.blocks import BlockKey
from tenure.claims.modes import Outcome
from tenure.claims.receipts import Receipt
from tenure.errors import UsageError
from tenure.kv.identity import CacheIdentity
from tenure.runtime.control import ClaimTier, ControlPlane, Placement, RequestTerms, Work
from tenure.runtime.control.store import Slot
from tenure.runtime.micro.content import Content, compute_rows, content_keys, digest


@dataclass(frozen=True, slots=True, kw_only=True)
class MicroRequest:
    """A request, by what it computes.

    Args:
        identity: whose cache it may see.
        content: one number a block of its prompt; cached leading blocks of equal content are reused.
        request_id, live_plan, prefix_id, wants_reuse, min_arena_blocks, may_recompute, may_offload, routes, priority:
            see `RequestTerms`.

    Raises:
        UsageError: no id, or a plan that is smaller than the content.
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
    priority: int = 0

    def __post_init__(self) -> None:
        self.terms()

    def terms(self) -> RequestTerms:
        """What the control plane needs to know of it."""
        return RequestTerms(
            request_id=self.request_id,
            keys=content_keys(self.identity, self.content),
            live_plan=self.live_plan,
            prefix_id=self.prefix_id,
            wants_reuse=self.wants_reuse,
            min_arena_blocks=self.min_arena_blocks,
            may_recompute=self.may_recompute,
            may_offload=self.may_offload,
            routes=self.routes,
            priority=self.priority,
        )


class DigestRows:
    """Rows without a tensor: a text a block. Implements `tenure.runtime.control.DataPlane`."""

    shares_blocks_in_use = True

    def __init__(self) -> None:
        self.plane: ControlPlane | None = None
        self.contents: dict[str, Content] = {}
        self.rows: dict[int, str] = {}

    def reserve(self, work: Work, decision: Decision) -> None:
        """Keep the blocks of a request that do not fit its arena in the slower tier, as far as there are any."""
        spilled = list(work.request.keys)[: decision.plan.offload_active_blocks]
        if spilled:
            rows = {key: compute_rows(key) for key in spilled}
            self._plane.tier.store(_own_rows(work.request_id), offload_generation=0, rows=rows)

    def place(self, work: Work, placement: Placement) -> None:
        """Write what came back from the slower tier."""
        for block_id, saved in placement.restored.items():
            self.rows[block_id] = str(saved)

    def begin(self, work: Work) -> None:
        """Compute the rest at once, and produce the output from the rows that were really read."""
        request = work.request
        if work.is_bounded or not request.keeps_everything:
            read = [compute_rows(key) for key in request.keys]  # each was there when it was read, and went again
        if not work.is_bounded:
            for key, slot in zip(request.keys, work.slots, strict=False):
                self.rows.setdefault(slot.block_id, compute_rows(key))
            self._plane.seal(work.request_id, blocks=len(request.keys))
            if request.keeps_everything:
                read = [self.rows[slot.block_id] for slot in work.slots[: len(request.keys)]]
        work.output = digest(read, content=self.contents[work.request_id])

    def leave(self, work: Work) -> None:
        """Forget what it kept in the slower tier."""
        self._plane.tier.drop(_own_rows(work.request_id))

    def vacate(self, block_ids: Sequence[int]) -> None:
        """Forget these rows."""
        for block_id in block_ids:
            self.rows.pop(block_id, None)

    def add_blocks(self, blocks: int) -> None:
        """Nothing to do: rows are kept by name."""

    def save(self, key: BlockKey, slot: Slot) -> object:
        """A block's rows."""
        del key
        return self.rows[slot.block_id]

    def verify(self, saved: object) -> None:
        """Texts do not rot."""

    def discard(self, saved: object) -> None:
        """Nothing to give back."""

    @property
    def _plane(self) -> ControlPlane:
        if self.plane is None:
            raise UsageError("these rows belong to no runtime yet")
        return self.plane


class MicroRuntime(ControlPlane):
    """The control plane, with rows that are computed the moment a request is admitted.

    Args:
        options: see `ControlPlane`; `data` and `name` are given.
    """

    def __init__(self, **options: Any) -> None:
        self._rows = DigestRows()
        super().__init__(data=self._rows, name="micro", **options)
        self._rows.plane = self

    def start(self, request: MicroRequest) -> Receipt:
        """Admit, bound, defer, refuse or route a request. When admitted it computes its content and stays in flight.

        Raises:
            UsageError: the id was used before, by a request or a claim, or the runtime was shut down.
        """
        known = self._rows.contents.setdefault(request.request_id, request.content)
        try:
            return self.submit(request.terms())
        except UsageError:
            if known is request.content and request.request_id not in self._works:
                del self._rows.contents[request.request_id]
            raise

    def run(self, request: MicroRequest) -> Receipt:
        """`start`, and `finish` at once if it was admitted."""
        receipt = self.start(request)
        return self.finish(request.request_id) if receipt.outcome in (Outcome.SERVED, Outcome.BOUNDED) else receipt

    def forget(self, request_id: str) -> None:
        """Drop the record of a request that is over, so that long runs stay within their memory."""
        super().forget(request_id)
        if request_id not in self._works:
            self._rows.contents.pop(request_id, None)


def _own_rows(request_id: str) -> str:
    return f"request:{request_id}"


__all__ = ["ClaimTier", "DigestRows", "MicroRequest", "MicroRuntime"]
