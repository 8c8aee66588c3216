"""What `tenure pressure` runs: a parked prefix and a request that do not fit together, once for each thing to do about it.

Nothing here is simulated: each row is an engine of its own over a real model, and what a row says is read from receipts
and from the events of that engine. Time that a bound or a duration needs is skipped, not waited for.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from types import MappingProxyType

from tenure.arbiter import ActionPolicy, ReuseAdmission, action_policy
from tenure.arbiter.decision import Route
from tenure.bench.pressure_scene import (
    ACTIVE,
    RESIDENT,
    ColdAnswers,
    Scene,
    Sizes,
    SkippingClock,
    ask_active,
    ask_reuse,
    decode_rate,
    finish,
)
from tenure.claims.event_types import EventType
from tenure.claims.events import Event
from tenure.claims.modes import Action, Outcome, VictimReason
from tenure.claims.receipts import Receipt
from tenure.claims.telemetry import MemoryTelemetry
from tenure.errors import UsageError
from tenure.runtime.hf.engine import Claim, Engine, FaultPoint, Request, RequestState, TransferFaults

#: Longer than reading the prefix takes; the clock is moved past it.
DURATION_S = 600.0


@dataclass(frozen=True, slots=True, kw_only=True)
class ActionRow:
    """What became of everybody under one action. Read from receipts and events; nothing is assumed.

    Attributes:
        resident: what became of the prefix's blocks, in words. `victims` of them were taken for the request, and
            `resident_left` were on the device when the request was over.
        claim: what the claim's owner was told last; "none" without a claim.
        active: what became of the request. `receipt` is the engine's own sentence about it.
        tokens_per_s: of the request's decoding; None when it did not run here.
        is_exact: whether the engine answers for the request's tokens; None when it did not run here.
        answer_is_cold, reuse_is_cold: whether the tokens are the cold ones; None without an answer.
        reuse_tokens: of the prefix, found on the device or brought back by a later question.
        reuse_ttft_ratio: its time to the first token over the cold one of the same run.
        lost_silently: an accepted claim lost a block before any event said so. Never, or it is a bug.
        took_place: whether the engine says that it did what the row is named after (with a fault: that the fault struck).
        told: for a row with a fault: what was told to whom.
    """

    action: str
    line: str
    resident: str
    resident_left: int
    victims: int
    claim: str
    active: str
    receipt: str
    tokens_per_s: float | None
    is_exact: bool | None
    answer_is_cold: bool | None
    reuse_tokens: int
    reuse_ttft_s: float | None
    reuse_ttft_ratio: float | None
    reuse_is_cold: bool | None
    lost_silently: bool
    took_place: bool
    fault: FaultPoint | None = None
    fault_happened: bool = False
    told: str = ""
    events: tuple[Event, ...] = field(default=(), repr=False)

    @property
    def is_wrong(self) -> bool:
        """Whether an exact answer is not the cold one, a claim was lost silently, or what the row shows never happened."""
        active_is_wrong = self.is_exact is True and self.answer_is_cold is False
        return active_is_wrong or self.reuse_is_cold is False or self.lost_silently or not self.took_place


@dataclass(frozen=True, slots=True, kw_only=True)
class SweepRow:
    """The scene at one size of the pool: who lost what, and what the request was told."""

    arm: str
    usable_blocks: int
    victims: int
    remaining: int
    is_served: bool
    shortfall_blocks: int
    free_before: int


@dataclass(frozen=True, slots=True)
class _Setup:
    """How a row differs from the others, and what the request's receipt must say of it. Without a line there is no claim."""

    action: Action
    outcome: Outcome
    line: str = ""
    mode: str = "hard_protected"
    never_admits: bool = False
    releases: bool = False

    def policy(self) -> ActionPolicy:
        return action_policy({self.mode: self.line}) if self.line else action_policy()


_A, _O = Action, Outcome
#: Every row, what runs without any contract first.
ACTIONS: Mapping[str, _Setup] = MappingProxyType(
    {
        "native": _Setup(_A.SERVE_ACTIVE_EVICT_RESIDENT, _O.SERVED),
        "no_admit": _Setup(_A.SERVE_ACTIVE_EVICT_RESIDENT, _O.SERVED, never_admits=True),
        "refuse": _Setup(_A.REFUSE_ACTIVE, _O.REFUSED, "refuse"),
        "defer": _Setup(_A.SERVE_ACTIVE_EVICT_RESIDENT, _O.SERVED, "defer 30s, refuse", releases=True),
        "defer_bound": _Setup(_A.REFUSE_ACTIVE, _O.REFUSED, "defer 3s, refuse"),
        "demote": _Setup(_A.DEMOTE_RESIDENT_CLAIM, _O.SERVED, "demote, refuse", "demotable"),
        "expire": _Setup(_A.EXPIRE_RESIDENT_CLAIM, _O.SERVED, "expire, refuse", "expiring"),
        "offload_resident": _Setup(_A.OFFLOAD_RESIDENT, _O.SERVED, "offload_resident, refuse", "offloadable"),
        "offload_active": _Setup(_A.OFFLOAD_ACTIVE, _O.BOUNDED, "offload_active, refuse"),
        "bound_active_live": _Setup(_A.BOUND_ACTIVE_LIVE, _O.BOUNDED, "bound_active_live, refuse"),
        "recompute_split": _Setup(_A.RECOMPUTE_SPLIT, _O.BOUNDED, "recompute_split, refuse"),
        "route_elsewhere": _Setup(_A.ROUTE_ELSEWHERE, _O.ROUTED, "route_elsewhere, refuse"),
        "add_capacity": _Setup(_A.CAPACITY_REQUIRED, _O.SERVED, "add_capacity, refuse"),
        "harm": _Setup(_A.SERVE_ACTIVE_EVICT_RESIDENT, _O.SERVED, "harm"),
    }
)
#: Which actions pass by a point where a transfer can fail.
FAULT_ACTIONS: Mapping[FaultPoint, tuple[str, ...]] = MappingProxyType(
    {
        FaultPoint.SAVE: ("offload_resident",),
        FaultPoint.LOAD: ("offload_resident",),
        FaultPoint.CORRUPT: ("offload_resident",),
        FaultPoint.LOSE: ("offload_resident",),
        FaultPoint.HOST_MEMORY: ("offload_active", "bound_active_live"),
    }
)
SWEEP_ARMS = ("native", "no_admit", "refuse")


def fault_point(name: str) -> FaultPoint:
    """The point of that name. Raises `UsageError` for an unknown one."""
    try:
        return FaultPoint(name)
    except ValueError:
        raise UsageError(f"{name!r} is no fault; use one of {', '.join(FaultPoint)}") from None


def run_action(name: str, scene: Scene, cold: ColdAnswers, *, fault: FaultPoint | None = None) -> ActionRow:
    """Park the prefix, send the request, ask about the prefix; a transfer fails once at `fault`.

    Raises `UsageError` for an unknown action, and for a fault that the action never passes by.
    """
    if name not in ACTIONS:
        raise UsageError(f"{name!r} is no action; use one of {', '.join(ACTIONS)}")
    if fault is not None and name not in FAULT_ACTIONS[fault]:
        raise UsageError(f"{name} passes by no {fault.value}; {', '.join(FAULT_ACTIONS[fault])} would")
    run = _Run(name, scene, fault=fault)
    claim = run.park()
    active = run.press(claim)
    row = run.row(claim, active, run.reuse or run.ask(), cold)
    return replace(row, events=run.close())


def run_fault(point: FaultPoint, scene: Scene, cold: ColdAnswers) -> list[ActionRow]:
    """A row for each action that passes by the point."""
    return [run_action(name, scene, cold, fault=point) for name in FAULT_ACTIONS[point]]


class _Run:
    """One engine, and what happens on it from the parked prefix to the question about it."""

    def __init__(self, name: str, scene: Scene, *, fault: FaultPoint | None = None) -> None:
        sizes = scene.sizes
        self.name, self.scene, self.fault = name, scene, fault
        self.setup = ACTIONS[name]
        self.clock = SkippingClock()
        self.faults = TransferFaults()
        self.sink = MemoryTelemetry(
            run_id=f"pressure-{name}" if fault is None else f"pressure-{name}-{fault.value}",
            policy=self.setup.line or name,
            clock_ns=lambda: round(self.clock() * 1e9),
            usable_blocks=sizes.usable_blocks,
        )
        self.engine = Engine(
            scene.model,
            usable_blocks=sizes.usable_blocks,
            block_size=sizes.block_size,
            host_blocks=sizes.resident_blocks + sizes.active_blocks,
            policy=self.setup.policy(),
            sink=self.sink,
            clock=self.clock,
            sleep=self.clock.skip,
            addable_blocks=sizes.shortfall_blocks if name == "add_capacity" else 0,
            router=(lambda _: [Route(target="other-worker", cost=1.0)]) if name == "route_elsewhere" else None,
            identity=scene.identity,
            faults=self.faults,
        )
        self.reuse: Request | None = None
        self._pressed_from = self._pressed_to = 0

    def park(self) -> Claim | None:
        """Read the prefix, under a claim where the row has one."""
        setup = self.setup
        if not setup.line:
            self.engine.submit(self.scene.resident, max_new_tokens=0, request_id=RESIDENT).result()
            return None
        duration_s = DURATION_S if setup.mode == "expiring" else None
        claim, reading = self.engine.park(
            self.scene.resident, mode=setup.mode, duration_s=duration_s, claim_id=f"claim:{RESIDENT}"
        )
        reading.result()
        if duration_s is not None:
            self.clock.skip(duration_s)
        return claim

    def press(self, claim: Claim | None) -> Request:
        """Send the request that does not fit, and see it to its end."""
        if self.setup.never_admits:
            self.engine.plane.policy = action_policy(reuse_admission=ReuseAdmission.NEVER)
        if self.fault is not None:
            self.faults.arm(self.fault)
        self._pressed_from = len(self.sink.events)
        active = ask_active(self.engine, self.scene)
        if self.setup.releases and claim is not None:
            self.reuse = self.ask()  # the owner uses the rows while the other waits, then gives them up
            claim.release()
        finish(active)
        self._pressed_to = len(self.sink.events)
        return active

    def ask(self) -> Request:
        """The question about the prefix."""
        return finish(ask_reuse(self.engine, self.scene))

    def row(self, claim: Claim | None, active: Request, reuse: Request, cold: ColdAnswers) -> ActionRow:
        """What the receipts and the events say."""
        self.engine.check_invariants()
        prefix = self._prefix()
        tokens, ttft_s = reuse.receipt.tokens, reuse.ttft_s
        ran = active.state is RequestState.DONE
        victims = sum(_is_loss(event, prefix) for event in self._pressed(request_id=ACTIVE))
        left = len(_on_device(self.sink.events[: self._pressed_to], prefix))
        restored = 0 if tokens is None else tokens.restored_tokens // self.scene.sizes.block_size
        return ActionRow(
            action=self.name,
            line=self.setup.line,
            resident=self._fate(victims=victims, left=left, restored=restored),
            resident_left=left,
            victims=victims,
            claim="none" if claim is None else claim.receipt.outcome.value,
            active=self._verdict(active),
            receipt=active.receipt.sentence().removeprefix(f"request {ACTIVE}: "),
            tokens_per_s=decode_rate(active),
            is_exact=active.receipt.is_exact if ran else None,
            answer_is_cold=tuple(active.token_ids) == cold.active if ran else None,
            reuse_tokens=0 if tokens is None else tokens.reused_tokens + tokens.restored_tokens,
            reuse_ttft_s=ttft_s,
            reuse_ttft_ratio=None if ttft_s is None else ttft_s / cold.reuse_ttft_s,
            reuse_is_cold=tuple(reuse.token_ids) == cold.reuse if reuse.state is RequestState.DONE else None,
            lost_silently=claim is not None and _lost_silently(self.sink.events, prefix, claim.claim_id),
            took_place=self._took_place(active),
            fault=self.fault,
            fault_happened=self.fault is not None and self.faults.happened[self.fault] > 0,
            told="" if self.fault is None else self._told(claim, active, reuse),
        )

    def _took_place(self, active: Request) -> bool:
        if self.fault is not None:
            return self.faults.happened[self.fault] > 0
        waited = any(e.event_type is EventType.REQUEST_DEFERRED for e in self._pressed(request_id=ACTIVE))
        receipt, setup = active.receipt, self.setup
        return (receipt.action, receipt.outcome, waited) == (setup.action, setup.outcome, "defer" in setup.line)

    def close(self) -> tuple[Event, ...]:
        """End whatever stands, so that the trace is whole, and give all of it."""
        self.engine.shutdown()
        return tuple(self.sink.events)

    def sweep_row(self, active: Request) -> SweepRow:
        """The numbers of the decision about the request, and of what was taken for it."""
        events, prefix = self._pressed(request_id=ACTIVE), self._prefix()
        decided = (EventType.REQUEST_ADMITTED, EventType.REQUEST_REFUSED)
        answer = next(event for event in events if event.event_type in decided)
        return SweepRow(
            arm=self.name,
            usable_blocks=self.scene.sizes.usable_blocks,
            victims=sum(_is_loss(event, prefix) for event in events),
            remaining=len(_on_device(self.sink.events[: self._pressed_to], prefix)),
            is_served=active.state is RequestState.DONE,
            shortfall_blocks=int(str(answer.fields["capacity_shortfall_blocks"])),
            free_before=int(str(answer.fields["free_blocks_before_allocate"])),
        )

    def _prefix(self) -> frozenset[object]:
        """The names of the prefix's blocks: what was computed before the request came."""
        before = self.sink.events[: self._pressed_from]
        return frozenset(
            event.fields["block_hash"] for event in before if event.event_type is EventType.BLOCK_MATERIALIZED
        )

    def _pressed(self, *, request_id: str) -> list[Event]:
        events = self.sink.events[self._pressed_from : self._pressed_to]
        return [event for event in events if event.request_id == request_id]

    def _fate(self, *, victims: int, left: int, restored: int) -> str:
        blocks = self.scene.sizes.resident_blocks
        if not self.setup.line:
            return f"lost {victims} of {blocks}, silently" if victims else f"kept {left} of {blocks}"
        ways = [_GIVING_UP[event.event_type] for event in self.sink.events if event.event_type in _GIVING_UP]
        if not ways:
            return f"kept {left} of {blocks}"
        if ways[0] is not Outcome.OFFLOADED:
            return f"{ways[0].value}, lost {victims} of {blocks}"
        if restored:
            return f"offloaded, restored {restored}"
        return f"offloaded {blocks}" + (f", {ways[-1].value}" if len(ways) > 1 else "")

    def _verdict(self, active: Request) -> str:
        receipt = active.receipt
        verdict = receipt.outcome.value
        if receipt.outcome is Outcome.BOUNDED and receipt.numbers is not None:
            verdict = f"bounded to {receipt.numbers.granted_blocks}"
        waited = any(e.event_type is EventType.REQUEST_DEFERRED for e in self._pressed(request_id=ACTIVE))
        return f"deferred, {verdict}" if waited else verdict

    def _told(self, claim: Claim | None, active: Request, reuse: Request) -> str:
        said = [f"request {_brief(active.receipt)}"]
        if claim is not None:
            said.append(f"claim {_brief(claim.receipt)}")
        return "; ".join([*said, f"reuse {_brief(reuse.receipt)}"])


#: What an event says a claim's rows may be lost after.
_GIVING_UP: Mapping[EventType, Outcome] = MappingProxyType(
    {
        EventType.CLAIM_DEMOTED: Outcome.DEMOTED,
        EventType.CLAIM_EXPIRED: Outcome.EXPIRED,
        EventType.CLAIM_RELEASED: Outcome.RELEASED,
        EventType.CLAIM_OFFLOADED: Outcome.OFFLOADED,
        EventType.CLAIM_HARMED: Outcome.HARMED,
    }
)


def _brief(receipt: Receipt) -> str:
    failure = "" if receipt.failure is None else f", after: {receipt.failure}"
    return f"{receipt.outcome.value} ({receipt.reason}{failure})"


def _is_loss(event: Event, prefix: frozenset[object]) -> bool:
    """Whether the event takes a block of the prefix while it could still have been reused."""
    return (
        event.event_type is EventType.VICTIM_SELECTED
        and event.fields["victim_reason"] == VictimReason.CACHED_PREFIX_REUSE.value
        and event.fields["block_hash"] in prefix
    )


def _on_device(events: Iterable[Event], prefix: frozenset[object]) -> set[object]:
    """Which blocks of the prefix are on the device after these events."""
    held: dict[object, object] = {}
    for event in events:
        if event.event_type is EventType.BLOCK_MATERIALIZED and event.fields["block_hash"] in prefix:
            held[event.fields["physical_block_id"]] = event.fields["block_hash"]
        elif _is_loss(event, prefix):
            held.pop(event.fields["physical_block_id"], None)
        elif event.event_type is EventType.CLAIM_OFFLOADED:
            left = event.fields["block_ids"]
            for block_id in left if isinstance(left, list | tuple) else ():
                held.pop(block_id, None)
    return set(held.values())


def _lost_silently(events: Iterable[Event], prefix: frozenset[object], claim_id: str) -> bool:
    """Whether a block of the prefix was taken before an event said that its claim does not stand any more."""
    was_told = False
    for event in events:
        if event.claim_id == claim_id and event.event_type in _GIVING_UP:
            was_told = True
        elif event.claim_id == claim_id and event.event_type is EventType.CLAIM_RESTORED:
            was_told = False
        elif _is_loss(event, prefix) and not was_told:
            return True
    return False


def sweep_sizes(sizes: Sizes) -> tuple[int, ...]:
    """Pools from the scene's own to one in which everybody fits, in five steps, and one with room to spare."""
    enough = sizes.resident_blocks + sizes.active_blocks
    step = -(-sizes.shortfall_blocks // 5)
    return (*range(sizes.usable_blocks, enough, step), enough, enough + 2 * step)


def sweep(
    scene: Scene, usable: Sequence[int] | None = None, *, progress: Callable[[str], None] = lambda _: None
) -> list[SweepRow]:
    """Count blocks at each size of the pool: without a claim, without reuse of the request, and with a hard claim.

    The numbers are those of the decisions and of the events; on a `tiny_scene` they take a fraction of a second each.
    """
    rows = []
    for usable_blocks in sweep_sizes(scene.sizes) if usable is None else usable:
        for arm in SWEEP_ARMS:
            progress(f"{arm} at {usable_blocks} blocks")
            rows.append(_sweep_cell(arm, scene, usable_blocks))
    return rows


def _sweep_cell(arm: str, scene: Scene, usable_blocks: int) -> SweepRow:
    run = _Run(arm, replace(scene, sizes=replace(scene.sizes, usable_blocks=usable_blocks)))
    active = run.press(run.park())
    return run.sweep_row(active)
