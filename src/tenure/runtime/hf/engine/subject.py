"""The engine as a subject of `tenure.conformance`: a real model computes every block, and blocks are named by their tokens.

`factory_for` makes one for any model; `tenure grade hf` uses the default one.
"""

from __future__ import annotations

import contextlib
import itertools
from typing import TYPE_CHECKING, Any

from tenure.arbiter.pressure import LivePlan
from tenure.claims.blocks import BlockKey, hashed_block_key
from tenure.conformance.subject import (
    IdentityAsk,
    RequestAnswer,
    RequestAsk,
    RequestOutcome,
    Setup,
    SubjectFactory,
    block_tokens,
)
from tenure.kv.identity import CacheIdentity, block_hashes
from tenure.runtime.control import ControlPlane
from tenure.runtime.control.subject import ControlSubject
from tenure.runtime.hf.engine.engine import Engine
from tenure.runtime.hf.engine.handles import Request, RequestState
from tenure.runtime.hf.identity import Identity, computed_identity

if TYPE_CHECKING:
    from transformers import PreTrainedModel

_OUTCOMES = {
    RequestState.WAITING: RequestOutcome.DEFERRED,
    RequestState.RUNNING: RequestOutcome.RUNNING,
    RequestState.DONE: RequestOutcome.SERVED,
    RequestState.REFUSED: RequestOutcome.REFUSED,
    RequestState.ROUTED: RequestOutcome.REFUSED,
    RequestState.CANCELLED: RequestOutcome.FAILED,
    RequestState.FAILED: RequestOutcome.FAILED,
}
#: What bounded requests keep on the host is memory of their own; the tier that a check asks for is the claims'.
RECALL_HOST_BLOCKS = 1024
#: The suite's adapters change no weight: they must keep rows apart all the same.
_ADAPTERS = dict.fromkeys(("adapter-1", "adapter-2"), contextlib.nullcontext)


class HoldingEngine(Engine):
    """An engine that keeps a request in flight after its last token, until it is told to finish it."""

    def __init__(self, model: PreTrainedModel, **options: Any) -> None:
        self.held: set[str] = set()
        super().__init__(model, **options)

    def _done(self, request_id: str) -> None:
        self.held.add(request_id)
        self.computer.answers.pop(request_id)

    def finish(self, request_id: str) -> None:
        """End a request that has its last token; nothing for any other."""
        if request_id in self.held:
            self.held.discard(request_id)
            super()._done(request_id)

    def settle(self) -> None:
        """Look at what became of waiting requests after the control plane was told something directly."""
        self._settle()


class EngineSubject(ControlSubject):
    """A fresh engine, driven by an examiner. Every request answers one token, from the rows that it really read."""

    name = "tenure-hf"

    def __init__(self, setup: Setup, model: PreTrainedModel, identity: Identity) -> None:
        self._model = model
        self._identity = identity
        self._vocabulary = model.get_input_embeddings().num_embeddings
        self._labels = itertools.count(self._vocabulary**2 - 1, -1)
        self._requests: dict[str, Request] = {}
        super().__init__(setup)

    def start(self) -> None:
        """Start with empty device and host memory, and whatever the journal has."""
        self._engine = HoldingEngine(
            self._model,
            usable_blocks=self.setup.usable_blocks,
            block_size=self.setup.block_size,
            host_blocks=self.setup.host_tier_blocks,
            recall_host_blocks=RECALL_HOST_BLOCKS,
            policy=self.policy,
            sink=self.sink,
            journal=self.journal,
            clock=self.clock,
            clock_id="hf-subject",
            identity=self._identity,
            adapters=_ADAPTERS,
            poison_released_rows=True,
        )

    @property
    def plane(self) -> ControlPlane:
        """Of the engine."""
        return self._engine.plane

    def identity(self, ask: IdentityAsk) -> CacheIdentity:
        """Whose rows an ask may see."""
        return self._engine.cache_identity(ask.salt_namespace, ask.adapter_id)

    def keys(self, identity: CacheIdentity, content: tuple[int, ...]) -> tuple[BlockKey, ...]:
        """The chained hashes of a content's tokens."""
        return tuple(hashed_block_key(identity, name.hex()) for name in block_hashes(identity, self._ids(content)))

    def _ids(self, content: tuple[int, ...]) -> list[int]:
        size, vocabulary = self.setup.block_size, self._vocabulary
        return [token for label in content for token in block_tokens(label, block_size=size, vocabulary=vocabulary)]

    def new_content(self, blocks: int) -> tuple[int, ...]:
        """The highest labels, which no check uses."""
        return tuple(itertools.islice(self._labels, blocks))

    def run_request(self, ask: RequestAsk, plan: LivePlan) -> None:
        """Submit, and compute until everything that was admitted has its token."""
        self._requests[ask.request_id] = self._engine.submit(
            self._ids(ask.content),
            max_new_tokens=1,
            request_id=ask.request_id,
            salt=ask.identity.salt_namespace,
            adapter_id=ask.identity.adapter_id,
            keep_for_reuse=ask.future_reuse,
            live_plan=plan,
            stop_ids=(),
        )
        self.after()

    def after(self) -> None:
        """Compute what was let in."""
        self._engine.settle()
        while self._engine.step():
            pass

    def end_request(self, request_id: str) -> None:
        """End a request in flight."""
        self._engine.finish(request_id)

    def answer(self, request_id: str) -> RequestAnswer:
        """How a request stands, and the token that it gave."""
        request = self._requests[request_id]
        receipt = request.receipt
        tokens = receipt.tokens
        found = None if tokens is None else (tokens.reused_tokens + tokens.restored_tokens) // self.setup.block_size
        return RequestAnswer(
            outcome=_OUTCOMES[request.state],
            reason=receipt.reason,
            reused_blocks=found,
            output=" ".join(map(str, request.token_ids)) or None,
        )


def factory_for(model: PreTrainedModel, identity: Identity | None = None) -> SubjectFactory:
    """Makes subjects that run this model. Reads every weight once where no `identity` is given."""
    known = computed_identity(model, None) if identity is None else identity
    return lambda setup: EngineSubject(setup, model, known)
