"""`Engine`: many sessions and parked prefixes of one model on one pool, under the contract of resident claims."""

from __future__ import annotations

import logging
import time
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import torch

from tenure.arbiter.decision import Route
from tenure.arbiter.pressure import LivePlan
from tenure.arbiter.rules import ActionPolicy
from tenure.claims.blocks import BlockKey
from tenure.claims.clock import Clock
from tenure.claims.journal import Journal
from tenure.claims.modes import Outcome, ProtectionMode, RestorationOutcome, parse_mode
from tenure.claims.objects import ClaimStatus
from tenure.claims.receipts import Receipt
from tenure.claims.telemetry import EventSink, FaultPolicy, MemoryTelemetry
from tenure.errors import ClaimError, InternalError, QueueFullError, UsageError
from tenure.kv.geometry import geometry_from_config, trained_rows
from tenure.kv.identity import BlockHasher, CacheIdentity
from tenure.policy import Policy, as_policy
from tenure.pool import LEAST_CHOSEN_BLOCKS
from tenure.pool.frames import BlockFrames
from tenure.pool.layout import layout_for
from tenure.runtime.control import ControlPlane, RequestTerms, Standing, Work
from tenure.runtime.hf.engine.computing import Adapter, Answer, Computer
from tenure.runtime.hf.engine.faults import TransferFaults
from tenure.runtime.hf.engine.handles import Claim, Request, RequestState
from tenure.runtime.hf.engine.line import WaitingLine
from tenure.runtime.hf.engine.naming import Naming, require_ids_of, require_whole
from tenure.runtime.hf.engine.offering import LEAST_STREAMED_BLOCKS, require_host, require_offered, shows_queries
from tenure.runtime.hf.engine.offering import live_plan as make_live_plan
from tenure.runtime.hf.engine.records import Records
from tenure.runtime.hf.engine.rows import DeviceRows
from tenure.runtime.hf.identity import Identity, computed_identity
from tenure.runtime.hf.runs import require_poolable_runs
from tenure.runtime.hf.sampling import GREEDY, Sampling
from tenure.runtime.hf.session_values import ContextLimitWarning

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

CHUNK_ROWS = 256
"""Rows of a prompt read in one step: what everybody else's next token waits for at most."""
RETRY_S = 0.5
"""How often requests that wait are looked at again when nothing else happens: deferrals end within this of their bound."""
IDLE_S = 0.02
"""How long `work` sleeps when there is nothing to compute and somebody waits."""
KEPT_EVENTS = 200_000
"""Events that an engine without a sink of the caller's keeps in memory."""
DEFAULT_TENANT = "default"

_LOG = logging.getLogger(__name__)

Router = Callable[[RequestTerms], Sequence[Route]]


class Engine:
    """Runs requests of one model on `usable_blocks` blocks of device memory, and keeps the promises that it accepts.

    Guarantees: rows on the device never exceed `usable_blocks` blocks; a request that was admitted never runs out of
    room; what an accepted claim covers is not lost without an event that says so first; a request that reuses rows gives
    the tokens of a cold run (greedy, up to rounding; `receipt.is_exact` is False where it runs in a smaller arena with
    recall); rows never cross a salt or an adapter; a call that raises has changed nothing. Use from one thread.

    Args:
        model: full attention in every layer, in evaluation mode.
        tokenizer: for prompts in text; None for ids only.
        usable_blocks, block_size: the pool. The device memory is taken here.
        host_blocks: blocks of host memory for offloaded claims, paused and bounded requests; 0 for none.
        recall_host_blocks: blocks for requests under `bound_active_live` alone, beside those; None shares `host_blocks`.
        policy: what is tried when it does not fit; `tenure.arbiter.action_policy`.
        sink: where events go (`JsonLinesTelemetry` for service); None keeps the last of them in memory, in `sink.events`.
        journal, clock_id: where claims are kept over a restart, and what tells `clock` from the one before.
        clock: seconds that never go back.
        sleep: how to wait when only waiting is left.
        chunk_rows: rows of a prompt read in one step.
        max_waiting: requests that may wait at once; one more is a `QueueFullError`.
        addable_blocks: by how much `add_capacity` may grow the pool.
        router: hook: other workers that would take a request. `on_route` is then told of one that went there.
        claim_budget_blocks: most blocks that claims may protect together.
        restore_failure: what follows when the host does not give offloaded rows back now. Rows that are lost end their
            claim, and so do rows whose copy fails after room was made: the request then computes them itself.
        recall: how a bounded request chooses what it sees; `least_arena_blocks` is the smallest arena it is given.
        identity: names model and tokenizer in cache identities (`tenure.models.load(...).identity`); None computes it.
        adapters: by id, what makes one active for the forwards inside it.
        faults: transfers that shall fail. poison_released_rows: fill rows that nobody may read with NaN. For tests.

    Raises:
        GeometryError: a layer that is not full attention.
        PoolSizeError: a pool that the device cannot give.
        PolicyError: a policy that needs host memory, with none given.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase | None = None,
        *,
        usable_blocks: int,
        block_size: int = 64,
        host_blocks: int = 0,
        recall_host_blocks: int | None = None,
        policy: ActionPolicy | None = None,
        sink: EventSink | None = None,
        journal: Journal | None = None,
        clock_id: str | None = None,
        clock: Clock = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
        chunk_rows: int = CHUNK_ROWS,
        max_waiting: int = 256,
        addable_blocks: int = 0,
        router: Router | None = None,
        on_route: Callable[[Request, Route], None] | None = None,
        claim_budget_blocks: int | None = None,
        restore_failure: RestorationOutcome = RestorationOutcome.REFUSAL,
        recall: Policy | str | None = None,
        least_arena_blocks: int = LEAST_CHOSEN_BLOCKS,
        identity: Identity | None = None,
        adapters: Mapping[str, Adapter] | None = None,
        faults: TransferFaults | None = None,
        poison_released_rows: bool = False,
    ) -> None:
        require_poolable_runs(model.config)
        require_host(policy, host_blocks=host_blocks, recall_host_blocks=recall_host_blocks)
        if chunk_rows < 1 or max_waiting < 1:
            raise UsageError(f"chunk_rows={chunk_rows} and max_waiting={max_waiting} must be 1 or more each")
        self.model = model
        self.tokenizer = tokenizer
        self.block_size = block_size
        self._can_recall = shows_queries(model)
        layout = layout_for(
            geometry_from_config(model.config, dtype=str(model.dtype).removeprefix("torch.")), block_size=block_size
        )
        frames = BlockFrames(
            layout,
            usable_blocks=usable_blocks,
            dtype=model.dtype,
            device=model.device,
            poison_released=poison_released_rows,
        )
        self.rows = DeviceRows(frames, host_blocks=host_blocks, recall_host_blocks=recall_host_blocks, faults=faults)
        self.rows.on_begin, self.rows.on_leave = self._begin, self._leave
        self.clock, self._sleep = clock, sleep
        self.sink: EventSink = sink if sink is not None else _memory(clock, usable_blocks)
        self.plane = ControlPlane(
            usable_blocks=usable_blocks,
            data=self.rows,
            clock=clock,
            sink=self.sink,
            name="tenure-hf",
            policy=policy,
            block_size=block_size,
            tier=self.rows.tier,
            addable_blocks=addable_blocks,
            journal=journal,
            clock_id=clock_id,
            claim_budget_blocks=claim_budget_blocks,
            restore_failure=restore_failure,
        )
        self.adapters: Mapping[str, Adapter] = {} if adapters is None else dict(adapters)
        self.computer = Computer(
            model,
            self.rows,
            chunk_rows=chunk_rows,
            recall=Policy(scoring_share=None) if recall is None else as_policy(recall),
            adapters=self.adapters,
            on_sealed=self._sealed,
            on_done=self._done,
            on_failed=self._failed,
        )
        self._naming = Naming(
            model,
            tokenizer,
            block_size=block_size,
            identity=computed_identity(model, tokenizer) if identity is None else identity,
            adapters=self.adapters,
        )
        self._max_waiting = max_waiting
        self._least_arena_blocks = least_arena_blocks
        self._router, self._on_route = router, on_route
        self._requests: dict[str, Request] = {}
        self._answers: dict[str, Answer] = {}
        self._records = Records(lambda: [status.claim.claim_id for status in self.plane.registry.live()])
        self._not_begun: dict[str, Exception] = {}
        self._line = WaitingLine()
        self._limit_announced = False
        self._serial = 0
        self._retry_at_s = clock()
        self.control_s = 0.0

    # --- claims -------------------------------------------------------------------------------------------------

    def claim(
        self,
        prefix: str | Iterable[int] | Request,
        *,
        owner_scope: str = DEFAULT_TENANT,
        mode: ProtectionMode | str = ProtectionMode.HARD_PROTECTED,
        footprint_blocks: int | None = None,
        required_blocks: int | None = None,
        duration_s: float | None = None,
        claim_id: str | None = None,
        object_id: str | None = None,
        revision: int = 1,
        salt: str | None = None,
        adapter_id: str | None = None,
        fallback_mode: ProtectionMode | str | None = None,
    ) -> Claim:
        """Ask for the promise that a prefix's rows will be there. `claim.receipt` says what was accepted, or why not.

        `prefix` is text, ids, or a request that is over (its prompt and its answer). Its full blocks are covered, or the
        first `footprint_blocks` of them; the promise is broken when of these the first `required_blocks` (default: all)
        are no longer there. The rows need not have been computed yet: see `park`. `revision` above 1 renews a claim. `salt`
        and `adapter_id` are those of a request that is given, else the default ones.

        Raises `ClaimError`: for a claim longer than the prefix or a prefix below one block, a mode that this runtime does
        not offer (`routed_reuse`; `offloadable` without `host_blocks`), an id that was used; `UsageError`: for a request that is
        still under way, or an unknown adapter. Nothing has changed then.
        """
        parsed, fallback = parse_mode(mode), None if fallback_mode is None else parse_mode(fallback_mode)
        for each in (parsed, fallback):
            require_offered(each, host_blocks=self.rows.tier.usable_blocks)
        if isinstance(prefix, Request):
            salt, adapter_id = prefix.salt if salt is None else salt, adapter_id or prefix.adapter_id
            if (salt, adapter_id) != (prefix.salt, prefix.adapter_id):
                raise UsageError(
                    f"request {prefix.request_id} ran under salt {prefix.salt!r} and adapter {prefix.adapter_id!r}; a claim "
                    "on its rows has the same: leave salt and adapter_id out"
                )
        if claim_id in self._requests or self._records.over(claim_id) is not None:
            message = f"{claim_id!r} is the id of a request; give the claim another, or the trace mixes them up"
            raise ClaimError(message, field="claim_id", clause="TNR-ACC-001")
        claim, object_blocks = self._naming.claim(
            self.cache_identity(DEFAULT_TENANT if salt is None else salt, adapter_id),
            self._naming.prefix_ids(prefix),
            claim_id=self._name("claim") if claim_id is None else claim_id,
            owner_scope=owner_scope,
            mode=parsed,
            footprint_blocks=footprint_blocks,
            required_blocks=required_blocks,
            duration_s=duration_s,
            object_id=object_id,
            revision=revision,
            fallback_mode=fallback,
        )
        self._records.note(self.plane.submit_claim(claim, object_blocks=object_blocks))
        self._settle()
        return Claim(claim=claim, engine=self)

    def park(self, prefix: str | Iterable[int], **options: object) -> tuple[Claim, Request]:
        """`claim` a prefix and compute it: the claim, and the request that reads it and answers nothing.

        The request runs like any other (`result()` waits for it); a claim that was rejected is read all the same, and
        its rows stay as long as nobody needs the room. Options and errors as `claim`.
        """
        self._require_queue_room()
        ids = self._naming.prefix_ids(prefix)
        claim = self.claim(ids, **options)  # type: ignore[arg-type]  # the same options
        identity = claim.claim.cache_identity
        try:
            request = self.submit(
                ids,
                max_new_tokens=0,
                owner_scope=claim.claim.owner_scope,
                salt=identity.salt_namespace,
                adapter_id=identity.adapter_id,
                may_be_bounded=False,  # a request in a smaller arena leaves no rows behind
            )
        except BaseException:
            if claim.receipt.accepted:
                self.release(claim.claim_id, owner_scope=claim.claim.owner_scope)
            raise
        return claim, request

    def release(self, claim_id: str, *, owner_scope: str) -> Receipt:
        """End a claim at its owner's request. Raises `ClaimError` when this owner has no live claim of that id."""
        receipt = self.plane.cancel_claim(claim_id, owner_scope=owner_scope)
        self._records.note(receipt)
        self._settle()
        return receipt

    def claim_status(self, claim_id: str) -> ClaimStatus:
        """How a claim stands. Raises `ClaimError` for an unknown one."""
        return self.plane.registry.status(claim_id)

    def claim_receipts(self, claim_id: str) -> tuple[Receipt, ...]:
        """Every answer about a claim, oldest first. Raises `UsageError` for an unknown one."""
        self._collect()
        return self._records.receipts(claim_id)

    # --- requests -----------------------------------------------------------------------------------------------

    def submit(
        self,
        prompt: str | Iterable[int],
        *,
        max_new_tokens: int = 64,
        request_id: str | None = None,
        owner_scope: str = DEFAULT_TENANT,
        salt: str = DEFAULT_TENANT,
        adapter_id: str | None = None,
        priority: int = 0,
        sampling: Sampling = GREEDY,
        seed: int = 0,
        stop_ids: Iterable[int] | None = None,
        keep_for_reuse: bool = True,
        may_be_bounded: bool = True,
        on_token: Callable[[int], None] | None = None,
        live_plan: LivePlan | None = None,
    ) -> Request:
        """Send a prompt. It is admitted, bounded, deferred, refused or routed at once; tokens come as the engine works.

        Room is asked for the rows of the prompt and of all new tokens but the last, which nobody reads, or as `live_plan`
        says; 0 new tokens only reads the prompt. `keep_for_reuse=False` keeps its rows out of the prefix cache,
        `may_be_bounded=False` has it served exactly and on the device or not at all. A request that can never fit is
        refused, and its `receipt` and `result()` say so.

        Raises `UsageError` for an empty prompt, an id outside the vocabulary, an unknown adapter, a negative number or a
        used `request_id`; `QueueFullError` when `max_waiting` requests wait. Nothing has changed then.
        """
        ids = self._naming.prompt_ids(prompt)
        require_whole("max_new_tokens", max_new_tokens, least=0)
        require_whole("priority", priority, least=None)
        require_whole("seed", seed, least=0)
        if not isinstance(sampling, Sampling):
            raise UsageError(f"sampling is {sampling!r}; pass a tenure.runtime.hf.Sampling, or leave it out for greedy")
        if request_id is not None and not isinstance(request_id, str):
            raise UsageError(f"request_id is {request_id!r}; expected a text, or nothing to be given a name")
        self._require_queue_room()
        identity = self.cache_identity(salt, adapter_id)
        hasher = BlockHasher(identity)
        keys = self._naming.keys(hasher, ids)
        blocks = -(-(len(ids) + max(0, max_new_tokens - 1)) // self.block_size)
        plan = make_live_plan(blocks, given=live_plan)
        terms = RequestTerms(
            request_id=self._name("request") if request_id is None else request_id,
            keys=keys,
            live_plan=plan,
            wants_reuse=keep_for_reuse,
            min_arena_blocks=self._least_arena_blocks if may_be_bounded and self._can_recall else None,
            may_recompute=may_be_bounded,
            may_offload=may_be_bounded and plan.max_chunk_blocks >= LEAST_STREAMED_BLOCKS,
            priority=priority,
        )
        if self._router is not None:
            terms = replace(terms, routes=tuple(self._router(terms)))
        if terms.request_id in self._requests or self._records.over(terms.request_id) is not None:
            raise UsageError(f"request_id {terms.request_id!r} was used before; give every request its own")
        if self.plane.registry.was_accepted(terms.request_id):
            raise UsageError(f"request_id {terms.request_id!r} is the id of a claim; give the request another")
        self._announce_limit(len(ids) + max_new_tokens)
        request = Request(
            request_id=terms.request_id,
            prompt_ids=tuple(ids),
            max_new_tokens=max_new_tokens,
            owner_scope=owner_scope,
            salt=salt,
            adapter_id=adapter_id,
            engine=self,
            submitted_s=self.clock(),
        )
        self._answers[terms.request_id] = Answer(
            request_id=terms.request_id,
            ids=list(ids),
            max_new_tokens=max_new_tokens,
            sampling=sampling,
            generator=torch.Generator().manual_seed(seed),
            stop_ids=self._naming.stop_ids() if stop_ids is None else frozenset(require_ids_of(stop_ids)),
            hasher=hasher,
            identity=identity,
            priority=priority,
            served_at=0,
            on_token=lambda token: self._told(request, token, on_token),
        )
        self._requests[terms.request_id] = request
        if self._line.must_wait(priority, self.plane.waiting):
            self._line.join(terms)
            return request
        try:
            self._send(terms)
        except BaseException:
            self._requests.pop(terms.request_id, None)
            self._answers.pop(terms.request_id, None)
            raise
        self._settle()
        return request

    def _send(self, terms: RequestTerms) -> None:
        """Hand a request to the control plane; whatever is raised there, nothing of it stays."""
        waiting = self.plane.waiting
        try:
            self.plane.submit(terms)
        except BaseException:
            if self.plane.knows(terms.request_id):
                self.plane.fail(terms.request_id, reason="internal_error")
                self.plane.forget(terms.request_id)
            raise
        if self.plane.work(terms.request_id).standing is Standing.RUNNING:
            self._line.note_overtaken(terms.priority, waiting)

    def _announce_limit(self, rows: int) -> None:
        trained = trained_rows(self.model.config.get_text_config(decoder=True))
        if rows > trained and not self._limit_announced:
            self._limit_announced = True
            warnings.warn(
                f"a request may grow to {rows} tokens; the model was trained on up to {trained}. Going on, but what it makes "
                "of later tokens is not known",
                ContextLimitWarning,
                stacklevel=3,
            )

    def receipt(self, request_id: str) -> Receipt:
        """How a request stands. Raises `UsageError` for an unknown one."""
        known = self._records.over(request_id)
        if known is not None and known.final_receipt is not None:
            return known.final_receipt
        return self._line.receipt(request_id) if request_id in self._line else self.plane.receipt(request_id)

    def cancel(self, request_id: str) -> Receipt:
        """End a request now, whatever it is doing; everything it holds is given back.

        Raises `UsageError` for an unknown one and for one that is over: there is nothing left to cancel.
        """
        request = self._requests.get(request_id)
        if request is None:
            over = self._records.over(request_id)
            how = "was never submitted to this engine" if over is None else f"is over: it was {over.state}"
            raise UsageError(f"request {request_id!r} {how}; only a request that waits or runs can be cancelled")
        if request_id in self._line:
            receipt = self._line.leave(request_id, reason="cancelled")
            self._end(request, RequestState.CANCELLED, receipt=receipt)
        else:
            self.plane.fail(request_id, reason="cancelled")
            self._end(request, RequestState.CANCELLED)
        self._settle()
        return request.receipt

    def pause(self, request_id: str) -> Receipt:
        """Page a running request out to the host and let go of its blocks; it goes on when there is room again.

        Its rows come back byte for byte; where they cannot, it reads its tokens again. It waits like any other request, under
        the policy's lines: where their bound passes without room it is refused, and its receipt says so. Raises `UsageError` for one that
        does not run in a dense run of its own, `HostTierFullError` or `TransferError` with nothing changed.
        """
        if request_id in self._line:
            raise UsageError(f"request {request_id!r} waits; only one that runs in full can be paused")
        work = self.plane.work(request_id)
        answer = self.computer.answers.get(request_id)
        if work.standing is not Standing.RUNNING or work.is_bounded or answer is None:
            raise UsageError(
                f"request {request_id!r} is {work.standing.value}; only one that runs in full can be paused"
            )
        self.rows.page_out_request(work, rows=self.computer.runner_of(answer).rows)
        self._answers[request_id] = self.computer.suspend(request_id)
        self._requests[request_id].state = RequestState.WAITING
        self.plane.pause(request_id)
        self._settle()
        return self.receipt(request_id)

    # --- work ---------------------------------------------------------------------------------------------------

    def step(self) -> bool:
        """One part of one prompt and one token of everybody who decodes. False when there was nothing to compute.

        `control_s` adds up what of the time went to claims, clock and bookkeeping rather than to the model.
        """
        started = time.perf_counter()
        self._due()
        self.control_s += time.perf_counter() - started
        return self.computer.step()

    def work(self) -> None:
        """`step`, or a short sleep when all that is left is to wait."""
        if not self.step():
            self._sleep(IDLE_S)

    def run(self) -> None:
        """Work until every request is over."""
        while self._requests:
            self.work()

    @property
    def requests(self) -> tuple[Request, ...]:
        """Requests that wait or run, in the order in which they came."""
        return tuple(self._requests.values())

    def shutdown(self, reason: str = "operator") -> None:
        """End every request as failed and every claim with an event. Nothing is taken on afterwards."""
        self.plane.shutdown(reason)
        for request in list(self._requests.values()):
            waited = request.request_id in self._line
            receipt = self._line.leave(request.request_id, reason=reason) if waited else None
            self._end(request, RequestState.FAILED, receipt=receipt)
        self._collect()

    def check_invariants(self) -> None:
        """Raise `InternalError` unless frames, host memory and bookkeeping tell of the same blocks. O(blocks)."""
        self.rows.check_invariants()
        known, held, ledger = self.plane.block_ids, self.rows.frames.block_ids, self.plane.ledger
        if known != held:
            raise InternalError(
                f"blocks {sorted(known - held)} are known and have no frame, {sorted(held - known)} have one and are unknown"
            )
        if len(held) + ledger.free_blocks != ledger.usable_blocks:
            raise InternalError(
                f"{len(held)} blocks hold rows and {ledger.free_blocks} are free, of {ledger.usable_blocks} usable"
            )

    # --- what the control plane and the computer say ------------------------------------------------------------

    def _begin(self, work: Work) -> None:
        request = self._requests[work.request_id]
        request.state = RequestState.RUNNING
        request.admitted_s = self.clock() if request.admitted_s is None else request.admitted_s
        try:
            self.computer.begin(work, self._answers[work.request_id])
        except Exception as error:  # this runs amid a decision, which must be carried out to its end first
            self._not_begun[work.request_id] = error

    def _leave(self, work: Work) -> None:
        self.computer.leave(work)

    def _sealed(self, request_id: str, blocks: int, generated: Sequence[BlockKey]) -> None:
        started = time.perf_counter()
        self.plane.seal(request_id, blocks=blocks, generated=generated)
        self.control_s += time.perf_counter() - started

    def _told(self, request: Request, token: int, listener: Callable[[int], None] | None) -> None:
        request.token_ids.append(token)
        if request.first_token_s is None:
            request.first_token_s = self.clock()
        if listener is not None:
            listener(token)

    def _done(self, request_id: str) -> None:
        self.plane.finish(request_id)
        self._end(self._requests[request_id], RequestState.DONE)
        self._settle()

    def _failed(self, request_id: str, error: Exception) -> None:
        self._fail(request_id, error)
        self._settle()

    def _fail(self, request_id: str, error: Exception) -> None:
        self.plane.fail(request_id, reason=f"{type(error).__name__}: {error}"[:500])
        self._end(self._requests[request_id], RequestState.FAILED)

    def _due(self) -> None:
        """What time brings: claims end, requests that waited long enough are answered."""
        if self._not_begun:
            self._settle()
        now_s = self.clock()
        if self.plane.expire_due():
            self._settle()
        if now_s >= self._retry_at_s:
            self._retry_at_s = now_s + RETRY_S
            if self._requests:
                self.plane.retry()
                self._settle()

    def _settle(self) -> None:
        """Tell callers what became of requests that did not run when they were looked at last."""
        routed: list[tuple[Request, Route]] = []
        while True:
            while self._not_begun:
                self._fail(*self._not_begun.popitem())
            self._collect()
            for request in [each for each in self._requests.values() if each.state is RequestState.WAITING]:
                if request.request_id not in self._line:
                    self._settle_one(request, routed)
            terms = self._line.next(self.plane.waiting)
            if terms is None:
                break
            self._send_from_line(terms)
        for request, route in routed:
            self._tell_route(request, route)

    def _send_from_line(self, terms: RequestTerms) -> None:
        """Its sender is not here to be told, so what goes wrong ends the request."""
        try:
            self._send(terms)
        except Exception as error:
            reason = f"{type(error).__name__}: {error}"[:500]
            receipt = Receipt(outcome=Outcome.FAILED, reason=reason, request_id=terms.request_id)
            self._end(self._requests[terms.request_id], RequestState.FAILED, receipt=receipt)

    def _settle_one(self, request: Request, routed: list[tuple[Request, Route]]) -> None:
        work = self.plane.work(request.request_id)
        ends = {
            Standing.REFUSED: RequestState.REFUSED,
            Standing.FAILED: RequestState.FAILED,
            Standing.ROUTED: RequestState.ROUTED,
        }
        if work.standing in ends:
            if work.decision is not None and work.decision.plan.route is not None:
                routed.append((request, work.decision.plan.route))
            self._end(request, ends[work.standing])

    def _tell_route(self, request: Request, route: Route) -> None:
        if self._on_route is None:
            return
        try:
            self._on_route(request, route)
        except Exception:  # the request is routed whatever the hook does; its receipt says where to
            _LOG.exception("on_route failed for request %s, which was routed to %s", request.request_id, route.target)

    def _end(self, request: Request, state: RequestState, *, receipt: Receipt | None = None) -> None:
        request.state, request.ended_s = state, self.clock()
        request.final_receipt = self.plane.receipt(request.request_id) if receipt is None else receipt
        del self._requests[request.request_id], self._answers[request.request_id]
        self._line.forget(request.request_id)
        if receipt is None:
            self.plane.forget(request.request_id)
        self._records.end(request)

    def _collect(self) -> None:
        for receipt in self.plane.take_receipts():
            self._records.note(receipt)

    # --- names and ids ------------------------------------------------------------------------------------------

    def _name(self, kind: str) -> str:
        self._serial += 1
        while self._is_used(f"{kind}-{self._serial}"):  # callers may choose such a name too
            self._serial += 1
        return f"{kind}-{self._serial}"

    def _is_used(self, name: str) -> bool:
        return name in self._requests or name in self._records or self.plane.registry.was_accepted(name)

    def _require_queue_room(self) -> None:
        if len(self.plane.waiting) + len(self._line) >= self._max_waiting:
            raise QueueFullError(
                f"{self._max_waiting} requests wait already (max_waiting); send this one again when some have been served"
            )

    def cache_identity(self, salt: str = DEFAULT_TENANT, adapter_id: str | None = None) -> CacheIdentity:
        """Whose rows a request with this salt and adapter may see. Raises `UsageError` for an unknown adapter."""
        return self._naming.cache_identity(salt, adapter_id)


def _memory(clock: Clock, usable_blocks: int) -> MemoryTelemetry:
    return MemoryTelemetry(
        run_id="tenure-hf",
        policy="engine",
        clock_ns=lambda: round(clock() * 1e9),
        usable_blocks=usable_blocks,
        on_fault=FaultPolicy.COUNT,
        keep_events=KEPT_EVENTS,
    )
