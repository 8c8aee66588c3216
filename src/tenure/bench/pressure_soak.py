"""Random sessions, claims, cancellations, pauses and faults on one real model's pool, and what must never happen there.

An episode is one engine under one random policy, two tenants, and some dozen sessions whose prompts share prefixes. After
every act the books must agree with the memory; at its end the trace is given to the examiner, and every claim that is
still alive is used: its rows must be there, and give the tokens of a cold run.

Violations: a clause of the contract broken in the trace; a live claim whose rows are not there when they are used; a
request that never ends; more rows reused than its tenant ever computed; an answer that differs from the cold run's by more
than rounding could explain.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from tenure.arbiter.rules import ReuseAdmission, action_policy
from tenure.claims.lifecycle import DEVICE_STATES, HOST_STATES
from tenure.claims.modes import Outcome, ProtectionMode, RestorationOutcome
from tenure.claims.telemetry import FaultPolicy, MemoryTelemetry
from tenure.conformance.grade import grade_trace
from tenure.conformance.trace import trace_of
from tenure.errors import InternalError, ResourceError, TransferError, UsageError
from tenure.runtime.hf.engine import Claim, Engine, FaultPoint, Request, RequestState

BLOCK_ROWS = 8
SESSIONS_AN_EPISODE = 20
TENANTS = ("tenant-a", "tenant-b")
FAMILIES = 2
PROMPT_BLOCKS = (1, 3, 5, 8, 10)
"""Few lengths, so that prompts meet their like, and their cold answers are computed once."""
LARGEST_PROMPT_BLOCKS = max(PROMPT_BLOCKS)
NEW_TOKENS = (1, 3)
ROUNDING = 1e-3
"""Logits closer than this may change places when the same rows were computed in other batches (float32)."""
LAST_ACTS = 60
"""Acts of an episode after its last session has come."""
MAX_STEPS = 5_000
"""Steps after which an episode that has not ended is called wedged: no request here needs a hundred of its own."""

_LINES = (
    "refuse",
    "defer 2s, refuse",
    "expire, defer 1s, refuse",
    "expire, demote, defer 2s, refuse",
    "expire, offload_resident, defer 2s, refuse",
    "offload_resident, demote, refuse",
    "bound_active_live, defer 1s, refuse",
    "offload_active, defer 1s, refuse",
    "recompute_split, refuse",
    "harm",
)
_OFFLOADING = tuple(line for line in _LINES if "offload_resident" in line)
#: Mostly always: where nothing is kept for reuse, there is little that a claim could lose.
_REUSE = (ReuseAdmission.ALWAYS,) * 4 + (ReuseAdmission.IF_FREE, ReuseAdmission.NEVER)
_MODES = (
    *(mode for mode in ProtectionMode if mode is not ProtectionMode.ROUTED_REUSE),
    ProtectionMode.OFFLOADABLE,
    ProtectionMode.HARD_PROTECTED,
)


@dataclass(slots=True)
class SoakResult:
    """What happened, by name, and what must not have. `ties` are answers that differ by rounding alone."""

    sessions: int = 0
    requests: int = 0
    answers_checked: int = 0
    ties: int = 0
    happened: Counter[str] = field(default_factory=Counter)
    violations: list[str] = field(default_factory=list)


class ColdAnswers:
    """The greedy answer to a prompt with everything resident and nothing reused. Remembered."""

    def __init__(self, model: Any, *, largest_blocks: int) -> None:
        self._model = model
        self._engine = Engine(
            model, usable_blocks=largest_blocks + 2, block_size=BLOCK_ROWS, identity=_Named(), sink=_quiet(lambda: 0.0)
        )
        self._known: dict[tuple[tuple[int, ...], int], list[int]] = {}

    def answer(self, prompt: Sequence[int], new_tokens: int) -> list[int]:
        """The tokens."""
        key = (tuple(prompt), new_tokens)
        if key not in self._known:
            request = self._engine.submit(prompt, max_new_tokens=new_tokens, keep_for_reuse=False, stop_ids=())
            self._known[key] = request.result()
        return self._known[key]

    def is_tie(self, prompt: Sequence[int], told: Sequence[int], cold: Sequence[int]) -> bool:
        """Whether the first token that differs is as likely as the cold run's, up to rounding."""
        at = next(place for place, (one, other) in enumerate(zip(told, cold, strict=True)) if one != other)
        ids = torch.tensor([[*prompt, *cold[:at]]], device=self._model.device)
        with torch.inference_mode():
            logits = self._model(ids, use_cache=False, logits_to_keep=1).logits[0, -1]
        return bool(logits[cold[at]] - logits[told[at]] < ROUNDING)


@dataclass(frozen=True, slots=True)
class _Named:
    model_id: str = "soak"
    tokenizer_id: str = "soak"


@dataclass(slots=True, eq=False)
class _Session:
    tenant: str
    history: list[int]
    turns_left: int
    request: Request | None = None
    claim: Claim | None = None


class _Episode:
    """One engine under one random policy."""

    def __init__(
        self, model: Any, rng: random.Random, text: Sequence[int], cold: ColdAnswers, result: SoakResult
    ) -> None:
        self._rng, self._text, self._cold, self._result = rng, text, cold, result
        self._now_s = 0.0
        lines = {mode.value: rng.choice(_LINES) for mode in ProtectionMode if mode.reserves_blocks}
        lines[ProtectionMode.OFFLOADABLE.value] = rng.choice((*_LINES, *_OFFLOADING, *_OFFLOADING, *_OFFLOADING))
        self._sink = _quiet(lambda: self._now_s)
        self._engine = Engine(
            model,
            usable_blocks=rng.choice((13, 16, 22)),
            block_size=BLOCK_ROWS,
            host_blocks=rng.choice((12, 40)),
            recall_host_blocks=64,
            policy=action_policy(lines, reuse_admission=rng.choice(_REUSE), max_deferred_requests=4),
            sink=self._sink,
            clock=lambda: self._now_s,
            sleep=self._sleep,
            chunk_rows=rng.choice((16, 40, 256)),
            restore_failure=rng.choice(list(RestorationOutcome)),
            least_arena_blocks=7,
            identity=_Named(),
            poison_released_rows=True,
        )
        self._sink.usable_blocks = self._engine.rows.frames.usable_blocks
        self._sessions: list[_Session] = []
        self._asked: list[tuple[Request, str]] = []
        self._claims: list[tuple[Claim, list[int], str]] = []

    def _sleep(self, seconds: float) -> None:
        self._now_s += max(seconds, 0.25)

    # --- what happens -------------------------------------------------------------------------------------------

    def run(self, sessions: int) -> None:
        """So many sessions, mixed; then everything ends, and what is still promised is used."""
        opened = acts_left = 0
        # When all have come, they get only so many more acts: a request that nobody serves must not wait for a chance
        # cancellation to hide it, but be there when everything is to end.
        while opened < sessions or (self._sessions and acts_left):
            acts_left = LAST_ACTS if opened < sessions else acts_left - 1
            if opened < sessions and len(self._sessions) < 6 and self._rng.random() < 0.4:
                self._open()
                opened += 1
            self._act()
            self._sessions = [session for session in self._sessions if session.turns_left or self._is_busy(session)]
        self._result.sessions += opened
        if self._drain():
            self._use_what_is_promised()
        self._judge()

    def _open(self) -> None:
        rng = self._rng
        family = rng.randrange(FAMILIES) * 211
        length = rng.choice(PROMPT_BLOCKS) * BLOCK_ROWS - rng.choice((0, 3))
        session = _Session(
            tenant=rng.choice(TENANTS), history=list(self._text[family : family + length]), turns_left=rng.randint(1, 2)
        )
        self._sessions.append(session)
        if rng.random() < 0.7:
            self._claim(session)

    def _claim(self, session: _Session) -> None:
        mode = self._rng.choice(_MODES)
        try:
            session.claim = self._engine.claim(
                session.history,
                owner_scope=session.tenant,
                salt=session.tenant,
                mode=mode,
                duration_s=self._rng.choice((1.0, 6.0)) if mode is ProtectionMode.EXPIRING else None,
            )
            self._claims.append((session.claim, list(session.history), session.tenant))
            self._result.happened[f"claim {session.claim.receipt.outcome}"] += 1
        except UsageError:
            self._result.happened["claim error"] += 1

    def _act(self) -> None:
        rng, kind = self._rng, self._rng.random()
        session = rng.choice(self._sessions) if self._sessions else None
        if session is None or kind < 0.35:
            self._engine.step()
        elif kind < 0.7:
            self._turn(session)
        elif kind < 0.8:
            self._disturb(session)
        elif kind < 0.85:
            self._sleep(rng.choice((0.3, 1.5)))
        elif kind < 0.9:
            self._engine.rows.faults.arm(rng.choice(list(FaultPoint)), after=rng.randint(0, 3))
        else:
            for _ in range(4):
                self._engine.step()
        try:
            self._engine.check_invariants()
        except InternalError as error:
            self._result.violations.append(f"the books do not agree: {error}")

    def _turn(self, session: _Session) -> None:
        if self._is_busy(session) or not session.turns_left:
            return
        session.turns_left -= 1
        if session.request is not None and session.request.state is RequestState.DONE:
            session.history += [*session.request.token_ids, *self._text[:3]]
        most = LARGEST_PROMPT_BLOCKS * BLOCK_ROWS
        session.history = session.history[:most]
        session.request = self._send(session.history, session.tenant, new_tokens=self._rng.choice(NEW_TOKENS))

    def _send(self, prompt: Sequence[int], tenant: str, *, new_tokens: int) -> Request | None:
        before = [[*asked.prompt_ids, *asked.token_ids] for asked, whose in self._asked if whose == tenant]
        try:
            request = self._engine.submit(
                prompt,
                max_new_tokens=new_tokens,
                salt=tenant,
                owner_scope=tenant,
                priority=self._rng.randint(0, 1),
                keep_for_reuse=self._rng.random() < 0.9,
                stop_ids=(),
            )
        except (UsageError, ResourceError):
            self._result.happened["request error"] += 1
            return None
        self._result.requests += 1
        self._asked.append((request, tenant))
        self._check_reuse(request, before)
        return request

    def _check_reuse(self, request: Request, before: Sequence[Sequence[int]]) -> None:
        """No more is found than what its own tenant sent before, and was answered."""
        tokens = request.receipt.tokens
        found = 0 if tokens is None else tokens.reused_tokens + tokens.restored_tokens
        prompt = request.prompt_ids
        known = max((_common(prompt, other) for other in before), default=0)
        if found > known:
            self._result.violations.append(
                f"{request.request_id} found {found} tokens, and its tenant had sent only {known} of them"
            )

    def _disturb(self, session: _Session) -> None:
        rng = self._rng
        try:
            if session.claim is not None and rng.random() < 0.3:
                session.claim.release()
            elif session.request is not None and rng.random() < 0.5:
                session.request.cancel()
                self._result.happened["cancelled"] += 1
            elif session.request is not None:
                self._engine.pause(session.request.request_id)
                self._result.happened["paused"] += 1
        except (UsageError, ResourceError, TransferError):
            self._result.happened["disturbance refused"] += 1

    def _is_busy(self, session: _Session) -> bool:
        return session.request is not None and not session.request.state.is_over

    # --- what must be -------------------------------------------------------------------------------------------

    def _drain(self) -> bool:
        for _ in range(MAX_STEPS):
            if not self._engine.requests:
                return True
            self._engine.work()
        self._result.violations.append(
            f"{len(self._engine.requests)} requests had not ended after {MAX_STEPS} steps: the runtime is wedged"
        )
        return False

    def _use_what_is_promised(self) -> None:
        """Every live claim whose rows should be there, or on the host, is reused: they must be found, and be right."""
        self._engine.rows.faults.disarm()
        for claim, ids, tenant in self._claims:
            if not self._stands(claim):
                continue
            covered = claim.status.claim.footprint_blocks * BLOCK_ROWS
            request = self._send(ids[:covered], tenant, new_tokens=1)
            if request is None or not self._drain() or request.state is not RequestState.DONE:
                continue
            receipt, tokens = request.receipt, request.receipt.tokens
            if receipt.outcome is not Outcome.SERVED or tokens is None:
                continue
            self._result.happened["claim used"] += 1
            # Rows that a fault took are no violation where the claim has ended with an event, before they were missed.
            if tokens.reused_tokens + tokens.restored_tokens < covered and self._stands(claim):
                self._result.violations.append(
                    f"{claim.claim_id} covers {covered} tokens, and a request found {tokens.to_record()}"
                )

    def _stands(self, claim: Claim) -> bool:
        """Whether the runtime answers for a claim, and its rows were computed."""
        try:
            status = claim.status
        except UsageError:
            return False
        if status.state in DEVICE_STATES and status.surviving_required_blocks < status.claim.footprint_blocks:
            self._result.violations.append(
                f"{claim.claim_id} is {status.state}, and blocks that it needs are not there"
            )
        return status.state in DEVICE_STATES | HOST_STATES

    def _judge(self) -> None:
        for request, _ in self._asked:
            self._result.happened[f"request {request.state}"] += 1
            if request.state is RequestState.DONE and request.receipt.is_exact is not False:
                self._check_answer(request)
        verdict = grade_trace(trace_of([event.to_record() for event in self._sink.events]))
        self._result.violations += [f"the trace breaks {clause}" for clause in sorted(verdict.broken_clauses)]
        self._result.violations += [f"telemetry: {fault}" for fault in self._sink.faults]
        for event in self._sink.events:
            self._result.happened[event.event_type.value] += 1

    def _check_answer(self, request: Request) -> None:
        cold = self._cold.answer(request.prompt_ids, request.max_new_tokens)
        self._result.answers_checked += 1
        if request.token_ids == cold:
            return
        if len(cold) == len(request.token_ids) and self._cold.is_tie(request.prompt_ids, request.token_ids, cold):
            self._result.ties += 1
            return
        self._result.violations.append(f"{request.request_id} answered {request.token_ids}, the cold run {cold}")


def run_soak(
    model: Any,
    text: Sequence[int],
    *,
    sessions: int,
    seed: int = 0,
    progress: Callable[[str], None] = lambda _: None,
) -> SoakResult:
    """So many random sessions, in episodes; equal seeds give equal acts. Returns what happened, and every violation.

    `text` is at least 1,000 token ids to cut prompts from.
    """
    result = SoakResult()
    cold = ColdAnswers(model, largest_blocks=LARGEST_PROMPT_BLOCKS + 1)
    for number, size in enumerate(_sizes(sessions)):
        _Episode(model, random.Random(seed * 1_000_003 + number), text, cold, result).run(size)
        progress(f"{result.sessions:,} of {sessions:,} random sessions, {len(result.violations)} violations")
    return result


def _sizes(sessions: int) -> Iterator[int]:
    while sessions > 0:
        yield min(SESSIONS_AN_EPISODE, sessions)
        sessions -= SESSIONS_AN_EPISODE


def _common(one: Sequence[int], other: Sequence[int]) -> int:
    for place, (left, right) in enumerate(zip(one, other, strict=False)):
        if left != right:
            return place
    return min(len(one), len(other))


def _quiet(clock: Callable[[], float]) -> MemoryTelemetry:
    return MemoryTelemetry(
        run_id="soak", policy="random", clock_ns=lambda: round(clock() * 1e9), on_fault=FaultPolicy.COUNT
    )
