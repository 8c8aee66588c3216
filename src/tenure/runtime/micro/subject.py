"""The reference runtime as a subject of `tenure.conformance`: the adapter, and nothing that would flatter it.

Implements `tenure.conformance.subject.Subject` structurally; `subject_factory` is what `tenure grade micro` calls.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence

from tenure import __version__
from tenure.arbiter.pressure import LivePlan, parse_attention_mode
from tenure.arbiter.rules import ACTIVE_LINE, ActionPolicy, action_policy
from tenure.claims.clock import Clock
from tenure.claims.journal import MemoryJournal
from tenure.claims.modes import Action, Outcome, ProtectionMode, parse_action, parse_mode
from tenure.claims.objects import ResidentClaim
from tenure.claims.predicate import MaterializationPredicate, PredicateType
from tenure.claims.receipts import Receipt
from tenure.claims.telemetry import MemoryTelemetry
from tenure.conformance.subject import (
    Capabilities,
    ClaimAnswer,
    ClaimAsk,
    Fault,
    FaultAsk,
    Feature,
    IdentityAsk,
    RequestAnswer,
    RequestAsk,
    RequestOutcome,
    Setup,
)
from tenure.errors import ClaimError, UsageError
from tenure.kv.identity import CacheIdentity
from tenure.runtime.control.tier import ClaimTier
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
#: Which modes a claim-side action of the operator may touch. `hard_protected` gives way to none of them.
_CLAIM_SIDE = {
    Action.DEMOTE_RESIDENT_CLAIM: ("demote", frozenset({ProtectionMode.DEMOTABLE})),
    Action.EXPIRE_RESIDENT_CLAIM: ("expire", frozenset(mode for mode in ProtectionMode if mode.reserves_blocks)),
    Action.OFFLOAD_RESIDENT: ("offload_resident", frozenset({ProtectionMode.OFFLOADABLE})),
}
_REQUEST_SIDE = {
    Action.BOUND_ACTIVE_LIVE: "bound_active_live",
    Action.RECOMPUTE_SPLIT: "recompute_split",
    Action.OFFLOAD_ACTIVE: "offload_active",
    Action.REFUSE_ACTIVE: "refuse",
}
#: What the examiner may ask this runtime to do.
ACTIONS = frozenset({*_CLAIM_SIDE, *_REQUEST_SIDE, Action.DEFER_ACTIVE})


class SettableClock:
    """Seconds that go forward when they are told to."""

    def __init__(self) -> None:
        self.now_s = 0.0

    def __call__(self) -> float:
        """Seconds since the start."""
        return self.now_s


def policy_of(setup: Setup) -> ActionPolicy:
    """The operator's lines for what a check wants tried, in its order. Raises UsageError for an action we lack."""
    actions = [parse_action(name) for name in setup.conflict_actions]
    lines = {}
    for mode in (mode for mode in ProtectionMode if mode.reserves_blocks):
        lines[mode.value] = _line(actions, mode=mode, setup=setup)
    lines[ACTIVE_LINE] = _line(actions, mode=None, setup=setup)
    return action_policy(lines)


def _line(actions: Sequence[Action], *, mode: ProtectionMode | None, setup: Setup) -> str:
    steps = []
    for action in actions:
        if action is Action.REFUSE_ACTIVE:
            break
        if action is Action.DEFER_ACTIVE:
            steps.append(f"defer {setup.defer_limit_s:.6f}s")
        elif action in _CLAIM_SIDE:
            word, modes = _CLAIM_SIDE[action]
            steps += [word] if mode in modes else []
        elif action in _REQUEST_SIDE:
            steps.append(_REQUEST_SIDE[action])
        else:
            raise UsageError(f"micro is not asked for {action.value}; it offers {', '.join(sorted(ACTIONS))}")
    return ", ".join((*steps, "refuse"))


class MicroSubject:
    """A fresh reference runtime, driven by an examiner."""

    def __init__(self, setup: Setup) -> None:
        self._setup = setup
        self._policy = policy_of(setup)
        self._clock = SettableClock()
        self._sink = MemoryTelemetry(
            run_id="micro",
            policy=",".join(setup.conflict_actions),
            clock_ns=lambda: round(self._clock.now_s * 1e9),
            usable_blocks=setup.usable_blocks,
        )
        self._journal = MemoryJournal()
        self._runtime = self._started(self._clock)
        self._neighbours = itertools.count(1)
        self._labels = itertools.count(-1, -1)
        self._crashed: set[str] = set()
        self._known: set[str] = set()

    def _started(self, clock: Clock) -> MicroRuntime:
        return MicroRuntime(
            usable_blocks=self._setup.usable_blocks,
            clock=clock,
            sink=self._sink,
            policy=self._policy,
            block_size=self._setup.block_size,
            tier=ClaimTier(self._setup.host_tier_blocks),
            journal=self._journal,
            clock_id="micro-subject",
        )

    @property
    def capabilities(self) -> Capabilities:
        """Everything that the contract knows, but routing."""
        return Capabilities(
            name="micro",
            version=__version__,
            usable_blocks=self._setup.usable_blocks,
            block_size=self._setup.block_size,
            protection_modes=frozenset(
                mode.value for mode in ProtectionMode if mode is not ProtectionMode.ROUTED_REUSE
            ),
            predicates=frozenset(kind.value for kind in PredicateType),
            actions=frozenset(action.value for action in ACTIONS),
            features=frozenset(Feature),
            profiles=("observe", "soft", "lease", "hard", "tiered", "bounded"),
        )

    def _identity(self, ask: IdentityAsk) -> CacheIdentity:
        return CacheIdentity(
            cache_key_domain="micro-block-hash",
            model_id="micro",
            tokenizer_id="micro",
            salt_namespace=ask.salt_namespace,
            block_size=self._setup.block_size,
            adapter_id=ask.adapter_id,
        )

    # --- claims -------------------------------------------------------------------------------------------------

    def submit_claim(self, ask: ClaimAsk) -> ClaimAnswer:
        """Submit or renew. Raises ClaimError for an ask that is wrong."""
        claim = self._claim(ask)
        receipt = self._runtime.submit_claim(claim, object_blocks=len(ask.content))
        return _claim_answer(receipt, claim)

    def _claim(self, ask: ClaimAsk) -> ResidentClaim:
        identity = self._identity(ask.identity)
        try:
            kind = PredicateType(ask.predicate_type)
        except ValueError:
            message = f"{ask.predicate_type!r} is no predicate; use one of {', '.join(PredicateType)}"
            raise ClaimError(message, field="predicate_type", clause="TNR-MAT-001") from None
        predicate = MaterializationPredicate(
            predicate_type=kind, required_blocks=ask.required_blocks, start_block=ask.start_block
        )
        end = ask.start_block + ask.footprint_blocks
        if end > len(ask.content):
            message = f"covers blocks up to {end - 1}, but the content has {len(ask.content)}; ask for less"
            raise ClaimError(message, field="footprint_blocks", clause="TNR-ACC-009")
        keys = content_keys(identity, ask.content)[ask.start_block : end]
        return ResidentClaim(
            claim_id=ask.claim_id,
            owner_scope=ask.owner_scope,
            cache_identity=identity,
            object_id=ask.prefix_id,
            materialization_predicate=predicate,
            footprint_blocks=ask.footprint_blocks,
            protection_mode=parse_mode(ask.protection_mode),
            duration_s=ask.duration_s,
            revision=ask.revision,
            block_hashes=tuple(str(key[1]) for key in keys),
        )

    def release_claim(self, claim_id: str, *, owner_scope: str) -> None:
        """The owner gives the claim up."""
        self._runtime.cancel_claim(claim_id, owner_scope=owner_scope)

    # --- requests -----------------------------------------------------------------------------------------------

    def start_request(self, ask: RequestAsk) -> RequestAnswer:
        """Admit, defer or refuse."""
        plan = LivePlan(
            chunk_blocks=ask.chunk_blocks or (ask.live_blocks,),
            attention_mode=parse_attention_mode(ask.attention_mode),
            window_blocks=ask.window_blocks,
        )
        if plan.total_blocks != ask.live_blocks:
            raise UsageError(f"chunk_blocks add up to {plan.total_blocks} and live_blocks is {ask.live_blocks}")
        self._runtime.start(
            MicroRequest(
                request_id=ask.request_id,
                identity=self._identity(ask.identity),
                content=ask.content,
                live_plan=plan,
                wants_reuse=ask.future_reuse,
                min_arena_blocks=1,
                may_recompute=True,
                may_offload=True,
            )
        )
        self._known.add(ask.request_id)
        return self._answer(ask.request_id)

    def finish_request(self, request_id: str) -> RequestAnswer:
        """End a request in flight."""
        if request_id in self._crashed:
            return RequestAnswer(outcome=RequestOutcome.FAILED, reason="runtime_restarted")
        self._runtime.finish(request_id)
        return self._answer(request_id)

    def _answer(self, request_id: str) -> RequestAnswer:
        work = self._runtime.work(request_id)
        is_in = work.standing in (Standing.RUNNING, Standing.SERVED)
        return RequestAnswer(
            outcome=_OUTCOMES[work.standing],
            reason="" if work.decision is None else work.decision.reason.value,
            reused_blocks=work.reused_blocks + work.restored_blocks if is_in else None,
            output=work.output,
        )

    def apply_pressure(self, *, blocks: int) -> RequestAnswer:
        """One neighbour's request of new blocks, to its end."""
        request_id = f"neighbour-{next(self._neighbours)}"
        content = tuple(itertools.islice(self._labels, blocks))
        self.start_request(RequestAsk(request_id=request_id, content=content, live_blocks=blocks))
        return self.finish_request(request_id)

    # --- time, faults, ends -------------------------------------------------------------------------------------

    def advance_clock(self, *, seconds: float) -> None:
        """Move the clock, then do what falls due."""
        self._clock.now_s += seconds
        self._runtime.tick()

    def inject_failure(self, ask: FaultAsk) -> None:
        """Lose a block now, or fail the next restoration."""
        if ask.fault is Fault.FAIL_RESTORE:
            self._runtime.fail_next_restore(ask.claim_id)
        elif ask.position is None:
            raise UsageError("position is missing: losing a block needs one")
        else:
            self._runtime.lose_block(ask.claim_id, position=ask.position)

    def reset(self) -> None:
        """Drop the prefix cache."""
        self._runtime.reset("reset")

    def restart(self) -> None:
        """A crash: device and slower tier are gone, the journal is not."""
        self._crashed |= self._known
        self._runtime = self._started(self._clock)

    def events(self) -> Sequence[Mapping[str, object]]:
        """The trace of all lives so far."""
        return [event.to_record() for event in self._sink.events]

    def close(self) -> None:
        """Nothing to give back."""


def subject_factory(setup: Setup) -> MicroSubject:
    """A fresh subject for one check."""
    return MicroSubject(setup)


def _claim_answer(receipt: Receipt, claim: ResidentClaim) -> ClaimAnswer:
    if not receipt.accepted:
        return ClaimAnswer(decision="rejected", reason=receipt.reason)
    granted = claim.footprint_blocks if receipt.numbers is None else receipt.numbers.granted_blocks
    downgraded = receipt.granted_mode is not None and receipt.granted_mode is not claim.protection_mode
    return ClaimAnswer(
        decision="conditionally_accepted" if receipt.outcome is Outcome.CLIPPED else "accepted",
        reason=receipt.reason,
        accepted_blocks=granted,
        accepted_mode=str(receipt.granted_mode) if downgraded else None,
    )
