"""The reference runtime as a subject of `tenure.conformance`; `subject_factory` is what `tenure grade micro` calls."""

from __future__ import annotations

import itertools

from tenure.arbiter.pressure import LivePlan
from tenure.claims.blocks import BlockKey
from tenure.conformance.subject import IdentityAsk, RequestAnswer, RequestAsk, RequestOutcome, Setup
from tenure.kv.identity import CacheIdentity
from tenure.runtime.control import ClaimTier, ControlPlane
from tenure.runtime.control.subject import ControlSubject
from tenure.runtime.control.work import Standing
from tenure.runtime.micro.content import content_keys
from tenure.runtime.micro.runtime import MicroRequest, MicroRuntime

_OUTCOMES = {
    Standing.DEFERRED: RequestOutcome.DEFERRED,
    Standing.RUNNING: RequestOutcome.RUNNING,
    Standing.SERVED: RequestOutcome.SERVED,
    Standing.REFUSED: RequestOutcome.REFUSED,
    Standing.ROUTED: RequestOutcome.REFUSED,
    Standing.FAILED: RequestOutcome.FAILED,
}


class MicroSubject(ControlSubject):
    """A fresh reference runtime, driven by an examiner."""

    name = "micro"

    def __init__(self, setup: Setup) -> None:
        self._labels = itertools.count(-1, -1)
        super().__init__(setup)

    def start(self) -> None:
        """Start with an empty cache and an empty tier, and whatever the journal has."""
        self._runtime = MicroRuntime(
            usable_blocks=self.setup.usable_blocks,
            clock=self.clock,
            sink=self.sink,
            policy=self.policy,
            block_size=self.setup.block_size,
            tier=ClaimTier(self.setup.host_tier_blocks),
            journal=self.journal,
            clock_id="micro-subject",
        )

    @property
    def plane(self) -> ControlPlane:
        """The runtime is its own control plane."""
        return self._runtime

    def identity(self, ask: IdentityAsk) -> CacheIdentity:
        """Whose rows an ask may see."""
        return CacheIdentity(
            cache_key_domain="micro-block-hash",
            model_id="micro",
            tokenizer_id="micro",
            salt_namespace=ask.salt_namespace,
            block_size=self.setup.block_size,
            adapter_id=ask.adapter_id,
        )

    def keys(self, identity: CacheIdentity, content: tuple[int, ...]) -> tuple[BlockKey, ...]:
        """The names of a content's blocks."""
        return content_keys(identity, content)

    def new_content(self, blocks: int) -> tuple[int, ...]:
        """Labels below zero, which no check uses."""
        return tuple(itertools.islice(self._labels, blocks))

    def run_request(self, ask: RequestAsk, plan: LivePlan) -> None:
        """Admit, defer or refuse; it computes at once."""
        self._runtime.start(
            MicroRequest(
                request_id=ask.request_id,
                identity=self.identity(ask.identity),
                content=ask.content,
                live_plan=plan,
                wants_reuse=ask.future_reuse,
                min_arena_blocks=1,
                may_recompute=True,
                may_offload=True,
            )
        )

    def end_request(self, request_id: str) -> None:
        """End a request in flight."""
        self._runtime.finish(request_id)

    def answer(self, request_id: str) -> RequestAnswer:
        """How a request stands."""
        work = self._runtime.work(request_id)
        is_in = work.standing in (Standing.RUNNING, Standing.SERVED)
        return RequestAnswer(
            outcome=_OUTCOMES[work.standing],
            reason="" if work.decision is None else work.decision.reason.value,
            reused_blocks=work.reused_blocks + work.restored_blocks if is_in else None,
            output=work.output,
        )


def subject_factory(setup: Setup) -> MicroSubject:
    """A fresh subject for one check."""
    return MicroSubject(setup)
