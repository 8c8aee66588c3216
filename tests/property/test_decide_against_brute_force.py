"""Decisions on random small pools, against a model that scans every block and tries every set of claims."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from itertools import combinations

from hypothesis import given, settings
from hypothesis import strategies as st

from tenure.arbiter.arbiter import decide
from tenure.arbiter.blocking import EXACT_ENTANGLED, fewest
from tenure.arbiter.decision import ActiveRequest, Decision
from tenure.arbiter.ledger import PoolLedger
from tenure.arbiter.pressure import LivePlan
from tenure.arbiter.rules import STRENGTH_ORDER, action_policy
from tenure.arbiter.standing import Shelf
from tenure.claims.modes import Action, Outcome, ProtectionMode

USABLE = 20
LINES = (
    "refuse",
    "expire, demote, defer 2, refuse",
    "defer 1, demote, refuse",
    "offload_resident, demote, refuse",
    "offload_resident, bound_active_live, refuse",
    "bound_active_live, defer 3, refuse",
    "harm",
    "add_capacity, refuse",
)
RESERVING = [mode for mode in ProtectionMode if mode.reserves_blocks]


@dataclass
class Scene:
    """A pool as plain sets."""

    ledger: PoolLedger
    resident: int
    pinned: set[int]
    claims: dict[str, tuple[ProtectionMode, set[int]]]
    reused: list[int]
    host_blocks: int
    copied: set[int]

    def moved_by(self, offloaded: Iterable[str]) -> int:
        """Rows that the slower tier does not have and would have to take."""
        return len(set().union(*(self.claims[name][1] for name in offloaded)) - self.copied)

    def freed_by(self, released: set[str]) -> int:
        """New blocks that could be had if these claims, and all that reserve nothing, gave way."""
        free = USABLE - self.resident
        for block in range(self.resident):
            if block in self.pinned or block in self.reused:
                continue
            holders = {name for name, (mode, held) in self.claims.items() if block in held and mode.reserves_blocks}
            free += holders <= released
        return free


@st.composite
def scenes(draw: st.DrawFn) -> Scene:
    """Random pools with shared blocks, blocks in use, and a request that reuses some of them."""
    host_blocks = draw(st.integers(0, 12))
    ledger = PoolLedger(usable_blocks=USABLE, host_free_blocks=host_blocks, addable_blocks=draw(st.integers(0, 6)))
    resident = draw(st.integers(0, USABLE))
    ledger.occupy(range(resident))
    ledger.unpin(range(resident))
    blocks = st.sets(st.integers(0, resident - 1), max_size=8) if resident else st.just(set())
    claims: dict[str, tuple[ProtectionMode, set[int]]] = {}
    for index in range(draw(st.integers(0, 6))):
        mode = draw(st.sampled_from(ProtectionMode))
        held = draw(blocks)
        ledger.add_claim(f"c{index}", mode=mode)
        ledger.hold(f"c{index}", sorted(held))
        ledger.mark(f"c{index}", is_due=draw(st.booleans()), is_whole=draw(st.booleans()))
        claims[f"c{index}"] = (mode, held)
    pinned = draw(blocks)
    ledger.pin(sorted(pinned))
    copied = draw(blocks)
    ledger.note_copies(sorted(copied), exist=True)
    return Scene(ledger, resident, set(pinned), claims, sorted(draw(blocks)), host_blocks, set(copied))


def _request(scene: Scene, blocks: int, *, tries: int) -> ActiveRequest:
    return ActiveRequest(
        request_id="active",
        live_plan=LivePlan(chunk_blocks=(blocks,)),
        reuse=scene.ledger.reuse_of(scene.reused),
        min_arena_blocks=2,
        tries=tries,
    )


def _check_plan(scene: Scene, request: ActiveRequest, decision: Decision) -> None:
    """Applied to the sets, the plan makes the room it grants, and takes no claim that it did not need."""
    plan = decision.plan
    taken = set(plan.claims)
    reused = scene.reused if plan.uses_reuse else []
    whole = replace(scene, reused=reused)
    new_blocks = plan.live_blocks - len(reused)
    assert whole.freed_by(taken) + plan.add_blocks >= new_blocks
    if decision.outcome is Outcome.SERVED:
        assert plan.live_blocks == request.required_blocks
    for name in taken:
        assert whole.freed_by(taken - {name}) + plan.add_blocks < new_blocks, f"{name} was not needed"
    assert scene.moved_by(plan.offload) <= scene.host_blocks


def _check_blocking(scene: Scene, request: ActiveRequest, decision: Decision) -> None:
    """The blocking set is one of the smallest whose release admits the request, as long as claims alone block it."""
    new_blocks = request.required_blocks - len(scene.reused)
    reserving = _reserving(scene)
    if scene.freed_by(set(reserving)) < new_blocks:
        return
    smallest = min(
        size
        for size in range(len(reserving) + 1)
        if any(scene.freed_by(set(chosen)) >= new_blocks for chosen in combinations(reserving, size))
    )
    assert scene.freed_by(set(decision.blocking_claim_ids)) >= new_blocks
    assert len(decision.blocking_claim_ids) == smallest


@settings(max_examples=1500)
@given(scene=scenes(), blocks=st.integers(1, USABLE + 2), tries=st.integers(0, 3), data=st.data())
def test_every_decision_holds_on_a_model_that_scans(scene: Scene, blocks: int, tries: int, data: st.DataObject) -> None:
    lines = {mode.value: data.draw(st.sampled_from(LINES)) for mode in RESERVING}
    policy = action_policy(lines)
    request = _request(scene, blocks, tries=tries)
    before = scene.ledger.pressure(required_blocks=request.required_blocks, reuse=request.reuse)
    decision = decide(scene.ledger, request, policy)
    assert decision == decide(scene.ledger, request, policy)
    assert before == scene.ledger.pressure(required_blocks=request.required_blocks, reuse=request.reuse)

    protected = {b for mode, held in scene.claims.values() if mode.reserves_blocks for b in held}
    union = protected | scene.pinned | set(scene.reused)
    true_shortfall = max(0, len(union) + request.required_blocks - len(scene.reused) - USABLE)
    assert decision.shortfall_blocks == true_shortfall
    if decision.is_admitted:
        _check_plan(scene, request, decision)
    else:
        assert decision.plan.claims == ()
        assert decision.plan.evict_blocks == 0
        _check_blocking(scene, request, decision)
    for name in decision.plan.claims:
        steps = {step.action for step in policy.line(scene.claims[name][0]).steps}
        done = {
            Action.EXPIRE_RESIDENT_CLAIM: decision.plan.expire,
            Action.DEMOTE_RESIDENT_CLAIM: decision.plan.demote,
            Action.OFFLOAD_RESIDENT: decision.plan.offload,
            Action.SERVE_ACTIVE_EVICT_RESIDENT: decision.plan.harm,
        }
        assert any(name in names and action in steps for action, names in done.items())


@settings(max_examples=500)
@given(scene=scenes(), blocks=st.integers(1, USABLE + 2))
def test_claims_are_offloaded_whenever_some_of_them_make_the_room_and_fit_the_tier(scene: Scene, blocks: int) -> None:
    """The fewest of them, whatever is shared, in use, reused, or in the tier already."""
    policy = action_policy({mode.value: "offload_resident, refuse" for mode in RESERVING})
    request = _request(scene, blocks, tries=0)
    decision = decide(scene.ledger, request, policy)
    new_blocks = request.required_blocks - len(scene.reused)
    movable = [name for name in scene.claims if scene.ledger.shelf_of(name).is_whole and name in _reserving(scene)]
    sizes = [
        size
        for size in range(len(movable) + 1)
        for chosen in combinations(movable, size)
        if scene.freed_by(set(chosen)) >= new_blocks and scene.moved_by(chosen) <= scene.host_blocks
    ]
    assert decision.is_admitted is bool(sizes)
    if sizes:
        assert len(decision.plan.offload) == sizes[0]
        assert scene.moved_by(decision.plan.offload) <= scene.host_blocks


def _reserving(scene: Scene) -> list[str]:
    return [name for name, (mode, _) in scene.claims.items() if mode.reserves_blocks]


@settings(max_examples=300)
@given(scene=scenes(), blocks=st.integers(1, USABLE), wide=st.integers(1, 3))
def test_widely_shared_blocks_do_not_spoil_the_smallest_answer(scene: Scene, blocks: int, wide: int) -> None:
    """A system prompt under every claim, and few claims that share anything else: exact as without it."""
    if scene.resident < wide:
        return
    for index in range(EXACT_ENTANGLED + 2):
        own = {scene.resident - 1 - index} if index % 2 and index < scene.resident else set()
        scene.ledger.add_claim(f"x{index}", mode=ProtectionMode.HARD_PROTECTED)
        scene.claims[f"x{index}"] = (ProtectionMode.HARD_PROTECTED, own)
    prompt = set(range(wide))
    for name, (_, held) in scene.claims.items():
        held.update(prompt)
        scene.ledger.hold(name, sorted(held))
    names = _reserving(scene)
    shelves = {scene.ledger.shelf_of(name) for name in names}
    reuse = scene.ledger.reuse_of(scene.reused)
    chosen = fewest(scene.ledger, blocks=blocks, shelves=shelves, reuse=reuse)
    unheld = scene.freed_by(set())
    if chosen is None:
        assert scene.freed_by(set(names)) - unheld < blocks
        return
    assert scene.freed_by(set(chosen)) - unheld >= blocks
    for name in chosen:
        assert scene.freed_by(set(chosen) - {name}) - unheld < blocks
    entangled = {name for shelf in shelves for name in scene.ledger.shelves.entangled(shelf)}
    if len(entangled.union(reuse.idle.alone)) <= EXACT_ENTANGLED:
        for size in range(min(len(chosen), 3)):
            assert all(scene.freed_by(set(some)) - unheld < blocks for some in combinations(names, size))


@settings(max_examples=400)
@given(
    scene=scenes(), blocks=st.integers(1, USABLE), counts_pinned=st.booleans(), wide_every=st.sampled_from([2, 5, 99])
)
def test_the_answer_is_minimal_beyond_the_exact_limit_too(
    scene: Scene, blocks: int, counts_pinned: bool, wide_every: int
) -> None:
    shelves = [
        Shelf(mode=mode, is_due=due, is_whole=whole)
        for mode in STRENGTH_ORDER
        if mode.reserves_blocks
        for due in (True, False)
        for whole in (True, False)
    ]
    for index in range(EXACT_ENTANGLED + 1):  # entangle enough claims that the exact search does not apply
        scene.ledger.add_claim(f"x{index}", mode=ProtectionMode.HARD_PROTECTED)
        held = {block for block in range(scene.resident) if (block + index) % 3 == 0 or block % wide_every == 1}
        scene.ledger.hold(f"x{index}", sorted(held))
        scene.claims[f"x{index}"] = (ProtectionMode.HARD_PROTECTED, held)
    if counts_pinned:
        scene.pinned = set()
    chosen = fewest(
        scene.ledger,
        blocks=blocks,
        shelves=shelves,
        reuse=scene.ledger.reuse_of(scene.reused) if not counts_pinned else scene.ledger.reuse_of(()),
        counts_pinned=counts_pinned,
    )
    if counts_pinned:
        scene.reused = []
    unheld = scene.freed_by(set())
    everything = {name for name, (mode, _) in scene.claims.items() if mode.reserves_blocks}
    if chosen is None:
        assert scene.freed_by(everything) - unheld < blocks
        return
    assert scene.freed_by(set(chosen)) - unheld >= blocks
    for name in chosen:
        assert scene.freed_by(set(chosen) - {name}) - unheld < blocks
