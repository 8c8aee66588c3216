"""What has been admitted, computed step by step: prompts in parts, and one token of everybody together."""

from __future__ import annotations

import contextlib
import logging
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch

from tenure.claims.blocks import BlockKey, hashed_block_key
from tenure.claims.modes import Action
from tenure.errors import InternalError
from tenure.kv.identity import BlockHasher, CacheIdentity
from tenure.policy import Policy
from tenure.pool import HostTier
from tenure.runtime.control import Work
from tenure.runtime.hf.engine.rows import DeviceRows
from tenure.runtime.hf.engine.runners import DenseRunner, RecallRunner, RecomputeRunner, Runner, StreamedRunner
from tenure.runtime.hf.engine.schedule import Reading, next_reader
from tenure.runtime.hf.runs import forward_many
from tenure.runtime.hf.sampling import Sampling, pick_token

if TYPE_CHECKING:
    from transformers import PreTrainedModel

_LOG = logging.getLogger(__name__)

#: Makes an adapter active for the forwards inside it.
Adapter = Callable[[], contextlib.AbstractContextManager[object]]


@dataclass(slots=True, eq=False, kw_only=True)
class Answer:
    """One request's tokens on their way. `ids` are those read so far or to be read; `pending` was told but not read."""

    request_id: str
    ids: list[int]
    max_new_tokens: int
    sampling: Sampling
    generator: torch.Generator
    stop_ids: frozenset[int]
    hasher: BlockHasher
    identity: CacheIdentity
    priority: int
    served_at: int
    on_token: Callable[[int], None]
    told_tokens: int = 0
    paused_rows: int = 0
    pending: int | None = None
    runner: Runner | None = None
    logits: torch.Tensor | None = field(default=None, repr=False)

    @property
    def is_told(self) -> bool:
        """Whether every token that was asked for has been told."""
        return self.told_tokens >= self.max_new_tokens


class Computer:
    """Runs the model for admitted requests. Knows no claims and decides nothing about room.

    Args:
        model: full attention in every layer.
        rows: where placed requests find their runs.
        chunk_rows: rows of a prompt read in one step.
        recall: how a bounded request chooses what it sees.
        adapters: by id, what makes one active.
        on_sealed: told of a request's full blocks as they are computed: how many, and the names of generated ones.
        on_done: told of a request that has all its tokens.
        on_failed: told of a request whose forward raised, and what.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        rows: DeviceRows,
        *,
        chunk_rows: int,
        recall: Policy,
        adapters: Mapping[str, Adapter],
        on_sealed: Callable[[str, int, Sequence[BlockKey]], None],
        on_done: Callable[[str], None],
        on_failed: Callable[[str, Exception], None],
    ) -> None:
        self._model = model
        self._rows = rows
        self._chunk_rows = chunk_rows
        self._recall = recall
        self._adapters = adapters
        self._on_sealed = on_sealed
        self._on_done = on_done
        self._on_failed = on_failed
        self.answers: dict[str, Answer] = {}
        self.steps = 0
        self.forwards = 0
        self.decoded_tokens = 0
        self._told_alone = False

    # --- coming and going ---------------------------------------------------------------------------------------

    def begin(self, work: Work, answer: Answer) -> None:
        """Compute for a request that was placed, from where its rows are."""
        answer.served_at = self.steps
        answer.runner = self._runner(work, answer)
        self.answers[answer.request_id] = answer
        size = self._rows.frames.layout.block_size
        if answer.runner.rows:
            self._on_sealed(answer.request_id, answer.runner.rows // size, ())

    def _runner(self, work: Work, answer: Answer) -> Runner:
        run = self._rows.run_of(work)
        actions = () if work.decision is None or not work.is_bounded else work.decision.actions
        blocks = work.request.live_plan.total_blocks
        if actions and work.pauses:  # it ran in full before, and begins anew in less
            work.recomputed_tokens += answer.paused_rows
            self._rows.forget_image(work)
        if Action.RECOMPUTE_SPLIT in actions:
            return RecomputeRunner(self._model, answer.ids)
        if actions:
            host = HostTier(self._rows.frames.layout, dtype=self._rows.frames.dtype, pinned=self._rows.host.pinned)
            transfer = self._rows.frames.transfer
            if Action.OFFLOAD_ACTIVE in actions:
                return StreamedRunner(self._model, run, answer.ids, host=host, transfer=transfer, host_blocks=blocks)
            return RecallRunner(
                self._model,
                run,
                answer.ids,
                host=host,
                transfer=transfer,
                policy=self._recall,
                read_rows=self._chunk_rows,
            )
        return self._dense(work, answer)

    def _dense(self, work: Work, answer: Answer) -> DenseRunner:
        size = self._rows.frames.layout.block_size
        image_rows = self._rows.image_rows(work)
        runner = DenseRunner(
            self._model, self._rows.run_of(work), answer.ids, rows=image_rows, present=work.present, block_size=size
        )
        if work.pauses:
            if image_rows:
                runner.logits = answer.logits  # the very tensor: nothing is computed twice
            else:  # what it had and nobody else has
                there = (min(size, answer.paused_rows - block * size) for block in work.present)
                work.recomputed_tokens += answer.paused_rows - sum(max(0, rows) for rows in there)
        self._rows.forget_image(work)
        return runner

    def leave(self, work: Work) -> None:
        """Compute nothing more for a request."""
        answer = self.answers.pop(work.request_id, None)
        if answer is not None:
            if isinstance(answer.runner, RecomputeRunner):
                work.recomputed_tokens += answer.runner.recomputed_tokens
            answer.runner = None

    def suspend(self, request_id: str) -> Answer:
        """The request is to be paused: what goes on where it stops. Its rows stay where they are."""
        answer = self.answers.pop(request_id)
        answer.logits, answer.paused_rows = self.runner_of(answer).logits, self.runner_of(answer).rows
        answer.runner = None
        return answer

    def runner_of(self, answer: Answer) -> Runner:
        """The runner of a request that is computed."""
        if answer.runner is None:
            raise InternalError(f"request {answer.request_id} is not being computed")
        return answer.runner

    # --- one step -----------------------------------------------------------------------------------------------

    def step(self) -> bool:
        """One part of one prompt, then one token of everybody who decodes. False when there was nothing to do."""
        self.steps += 1
        read = self._read_part()
        return self._decode() or read

    def _read_part(self) -> bool:
        unread = [answer for answer in self.answers.values() if self.runner_of(answer).unread]
        readings = (
            Reading(request_id=answer.request_id, priority=answer.priority, served_at=answer.served_at)
            for answer in unread
        )
        chosen = next_reader(readings, step=self.steps)
        if chosen is None:
            return False
        answer = self.answers[chosen]
        answer.served_at = self.steps
        try:
            with self._adapter(answer.identity.adapter_id):
                self.runner_of(answer).read_some(self._chunk_rows)
        except Exception as error:  # a model may raise anything, and the others go on
            self._on_failed(chosen, error)
            return True
        self.forwards += 1
        self._seal(answer)
        if answer.is_told and not self.runner_of(answer).unread and answer.pending is None:
            self._on_done(chosen)
        return True

    def _decode(self) -> bool:
        """Tell the next token of everybody who has logits, then read those tokens, all that can in one forward."""
        ready = [answer for answer in self.answers.values() if self._is_ready(answer)]
        for answer in ready:
            if answer.pending is None and self._is_ready(answer):
                self._tell(answer)
        together: dict[str | None, list[Answer]] = defaultdict(list)
        for answer in ready:
            if answer.pending is not None and self._is_ready(answer):
                together[answer.identity.adapter_id].append(answer)
        for adapter_id, answers in together.items():
            dense = [each for each in answers if isinstance(each.runner, DenseRunner) and self._is_ready(each)]
            try:
                with self._adapter(adapter_id):
                    self._advance_together(dense)
                    self._advance_each([answer for answer in answers if answer not in dense])
            except InternalError:
                raise
            except Exception as error:  # an adapter may raise anything, and the others go on
                for answer in filter(self._is_ready, answers):
                    self._on_failed(answer.request_id, error)
        return bool(ready)

    def _is_ready(self, answer: Answer) -> bool:
        """Whether it runs and has read everything. Listeners may have ended, paused or brought back any request."""
        return self.answers.get(answer.request_id) is answer and not self.runner_of(answer).unread

    def _tell(self, answer: Answer) -> None:
        if answer.is_told:  # whoever listened to the last token interrupted, or paused it
            self._on_done(answer.request_id)
            return
        logits = self.runner_of(answer).logits
        if logits is None:
            raise InternalError(f"request {answer.request_id} has nothing unread and no logits")
        try:
            token = pick_token(logits, answer.sampling, answer.generator)
        except Exception as error:  # logits that are no numbers, for one: its own request fails
            self._on_failed(answer.request_id, error)
            return
        if token in answer.stop_ids:
            self._on_done(answer.request_id)
            return
        answer.told_tokens += 1
        is_last = answer.told_tokens >= answer.max_new_tokens
        # Before anybody listens: whatever a listener does or raises, no token is told twice.
        answer.pending = None if is_last else token
        try:
            answer.on_token(token)
        except Exception as error:  # a listener may raise anything, and the others go on
            if answer.request_id in self.answers:
                self._on_failed(answer.request_id, error)
            return
        if is_last and answer.request_id in self.answers:  # else whoever listened ended or paused it
            self._on_done(answer.request_id)

    def _advance_together(self, answers: Sequence[Answer]) -> None:
        """One forward for all; one by one when that raises, so that only whoever is at fault fails."""
        runners = [runner for answer in answers if isinstance(runner := answer.runner, DenseRunner)]
        if len(runners) < 2:
            self._advance_each(answers)
            return
        tokens = [answer.pending for answer in answers if answer.pending is not None]
        try:
            logits = forward_many(self._model, [runner.sequence for runner in runners], tokens)
        except Exception as error:  # nothing has changed: see who it was
            if not self._told_alone:
                self._told_alone = True
                _LOG.warning("several requests could not share a forward, and run one by one: %s", error)
            self._advance_each(answers)
            return
        self.forwards += 1
        for answer, runner, token, own in zip(answers, runners, tokens, logits, strict=True):
            runner.took(token, own)
            self._has_read(answer, token)

    def _advance_each(self, answers: Iterable[Answer]) -> None:
        for answer in answers:
            token = answer.pending
            if token is None or not self._is_ready(answer):
                continue
            try:
                self.runner_of(answer).advance(token)
            except Exception as error:  # a model may raise anything, and the others go on
                self._on_failed(answer.request_id, error)
                continue
            self.forwards += 1
            self._has_read(answer, token)

    def _has_read(self, answer: Answer, token: int) -> None:
        answer.pending = None
        answer.ids.append(token)
        self.decoded_tokens += 1
        filled = answer.hasher.extend([token])
        if filled:
            self._seal(answer, [hashed_block_key(answer.identity, name.hex()) for name in filled])

    def _seal(self, answer: Answer, generated: Sequence[BlockKey] = ()) -> None:
        runner = answer.runner
        if runner is not None and runner.rows:
            size = self._rows.frames.layout.block_size
            self._on_sealed(answer.request_id, runner.rows // size, generated)

    def _adapter(self, adapter_id: str | None) -> contextlib.AbstractContextManager[object]:
        return contextlib.nullcontext() if adapter_id is None else self._adapters[adapter_id]()
