"""A runtime on the control plane as a subject of `tenure.conformance`: the adapter, and nothing that would flatter it.

`ControlSubject` implements `tenure.conformance.subject.Subject` structurally, but for what a runtime computes.
"""

from __future__ import annotations

import abc
import itertools
from collections.abc import Mapping, Sequence

from tenure import __version__
from tenure.arbiter.pressure import LivePlan, parse_attention_mode
from tenure.arbiter.rules import ACTIVE_LINE, ActionPolicy, action_policy
from tenure.claims.blocks import BlockKey
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
from tenure.runtime.control.plane import ControlPlane

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
            raise UsageError(
                f"the control plane is not asked for {action.value}; it offers {', '.join(sorted(ACTIONS))}"
            )
    return ", ".join((*steps, "refuse"))


class ControlSubject(abc.ABC):
    """A fresh runtime on the control plane, driven by an examiner.

    A runtime says how it is started (`started`), how contents are named (`identity`, `keys`), and what it computes
    (`start_request`, `finish_request`). `name` is the runtime's.
    """

    name: str

    def __init__(self, setup: Setup) -> None:
        self.setup = setup
        self.policy = policy_of(setup)
        self.clock = SettableClock()
        self.sink = MemoryTelemetry(
            run_id=self.name,
            policy=",".join(setup.conflict_actions),
            clock_ns=lambda: round(self.clock.now_s * 1e9),
            usable_blocks=setup.usable_blocks,
        )
        self.journal = MemoryJournal()
        self._crashed: set[str] = set()
        self._known: set[str] = set()
        self._neighbours = itertools.count(1)
        self.start()

    @abc.abstractmethod
    def start(self) -> None:
        """Start the runtime, for the first time or after a crash, from `journal`; its plane is `plane` then."""

    @property
    @abc.abstractmethod
    def plane(self) -> ControlPlane:
        """The control plane of the runtime that was started last."""

    @abc.abstractmethod
    def identity(self, ask: IdentityAsk) -> CacheIdentity:
        """Whose rows an ask may see."""

    @abc.abstractmethod
    def keys(self, identity: CacheIdentity, content: tuple[int, ...]) -> tuple[BlockKey, ...]:
        """The names of a content's blocks."""

    @abc.abstractmethod
    def run_request(self, ask: RequestAsk, plan: LivePlan) -> None:
        """Submit a request and, where it is admitted, compute it; it stays in flight."""

    @abc.abstractmethod
    def end_request(self, request_id: str) -> None:
        """End a request in flight; nothing for one that is not."""

    @abc.abstractmethod
    def answer(self, request_id: str) -> RequestAnswer:
        """How a request stands."""

    @abc.abstractmethod
    def new_content(self, blocks: int) -> tuple[int, ...]:
        """A content that nobody has used."""

    def after(self) -> None:  # noqa: B027 - a runtime that computes at once has nothing to do
        """Called after everything that may have let a waiting request in."""

    @property
    def capabilities(self) -> Capabilities:
        """Everything that the contract knows, but routing."""
        return Capabilities(
            name=self.name,
            version=__version__,
            usable_blocks=self.setup.usable_blocks,
            block_size=self.setup.block_size,
            protection_modes=frozenset(
                mode.value for mode in ProtectionMode if mode is not ProtectionMode.ROUTED_REUSE
            ),
            predicates=frozenset(kind.value for kind in PredicateType),
            actions=frozenset(action.value for action in ACTIONS),
            features=frozenset(Feature),
            profiles=("observe", "soft", "lease", "hard", "tiered", "bounded"),
        )

    # --- claims -------------------------------------------------------------------------------------------------

    def submit_claim(self, ask: ClaimAsk) -> ClaimAnswer:
        """Submit or renew. Raises ClaimError for an ask that is wrong."""
        claim = self._claim(ask)
        receipt = self.plane.submit_claim(claim, object_blocks=len(ask.content))
        self.after()
        return _claim_answer(receipt, claim)

    def _claim(self, ask: ClaimAsk) -> ResidentClaim:
        identity = self.identity(ask.identity)
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
        keys = self.keys(identity, ask.content)[ask.start_block : end]
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
        self.plane.cancel_claim(claim_id, owner_scope=owner_scope)
        self.after()

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
        self.run_request(ask, plan)
        self._known.add(ask.request_id)
        return self.answer(ask.request_id)

    def finish_request(self, request_id: str) -> RequestAnswer:
        """End a request in flight."""
        if request_id in self._crashed:
            return RequestAnswer(outcome=RequestOutcome.FAILED, reason="runtime_restarted")
        self.end_request(request_id)
        self.after()
        return self.answer(request_id)

    def apply_pressure(self, *, blocks: int) -> RequestAnswer:
        """One neighbour's request of new blocks, to its end."""
        request_id = f"neighbour-{next(self._neighbours)}"
        self.start_request(RequestAsk(request_id=request_id, content=self.new_content(blocks), live_blocks=blocks))
        return self.finish_request(request_id)

    # --- time, faults, ends -------------------------------------------------------------------------------------

    def advance_clock(self, *, seconds: float) -> None:
        """Move the clock, then do what falls due."""
        self.clock.now_s += seconds
        self.plane.tick()
        self.after()

    def inject_failure(self, ask: FaultAsk) -> None:
        """Lose a block now, or fail the next restoration."""
        if ask.fault is Fault.FAIL_RESTORE:
            self.plane.fail_next_restore(ask.claim_id)
        elif ask.position is None:
            raise UsageError("position is missing: losing a block needs one")
        else:
            self.plane.lose_block(ask.claim_id, position=ask.position)
            self.after()

    def reset(self) -> None:
        """Drop the prefix cache."""
        self.plane.reset("reset")
        self.after()

    def restart(self) -> None:
        """A crash: device and slower tier are gone, the journal is not."""
        self._crashed |= self._known
        self.start()

    def events(self) -> Sequence[Mapping[str, object]]:
        """The trace of all lives so far."""
        return [event.to_record() for event in self.sink.events]

    def close(self) -> None:  # noqa: B027 - what it holds goes with it
        """Nothing to give back."""


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
