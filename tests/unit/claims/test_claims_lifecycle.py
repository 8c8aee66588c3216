from __future__ import annotations

import itertools

import pytest

from claims_world import World, make_claim
from tenure.claims import ClaimState, EventType
from tenure.claims.lifecycle import (
    DEVICE_STATES,
    HOST_STATES,
    RELEASED_STATES,
    RESPONSIBLE_STATES,
    TERMINAL_STATES,
    TRANSITIONS,
    mermaid_diagram,
    next_state,
)
from tenure.claims.order import OrderGuard
from tenure.errors import ClaimError

CLAIM_EVENTS = [event for event in EventType if event.is_claim_event]


@pytest.mark.clause("TNR-LIFE-001", "TNR-EVT-003")
def test_every_step_that_the_table_lacks_is_refused_by_the_table_and_by_the_guard() -> None:
    refused = 0
    for state, event in itertools.product([None, *ClaimState], CLAIM_EVENTS):
        if (state, event) in TRANSITIONS:
            assert next_state(state, event, claim_id="c") is TRANSITIONS[state, event]
            continue
        refused += 1
        with pytest.raises(ClaimError, match="cannot follow"):
            next_state(state, event, claim_id="c")
    assert refused > 100


def test_every_state_is_reached_and_every_claim_event_is_used() -> None:
    assert set(TRANSITIONS.values()) == set(ClaimState)
    assert {event for _, event in TRANSITIONS} == set(CLAIM_EVENTS)


def test_terminal_states_are_never_left_and_all_others_are() -> None:
    left = {source for (source, _), target in TRANSITIONS.items() if source is not None and source is not target}
    assert left == set(ClaimState) - TERMINAL_STATES


def test_harm_needs_a_predicate_that_held() -> None:
    harmed_from = {source for source, event in TRANSITIONS if event is EventType.CLAIM_HARMED}
    assert harmed_from == DEVICE_STATES | HOST_STATES


def test_each_state_is_responsible_terminal_or_before_a_decision() -> None:
    undecided = {ClaimState.SUBMITTED, ClaimState.REFUSED}
    assert not RESPONSIBLE_STATES & (TERMINAL_STATES | undecided)
    assert RESPONSIBLE_STATES | TERMINAL_STATES | undecided == set(ClaimState)
    assert TERMINAL_STATES - {ClaimState.HARMED} == RELEASED_STATES


def test_the_diagram_has_an_arrow_for_every_pair_of_states_in_the_table() -> None:
    arrows = {line.split(":")[0].strip() for line in mermaid_diagram().splitlines() if "-->" in line}
    for (source, _), target in TRANSITIONS.items():
        if source is not target:
            assert f"{'[*]' if source is None else source.value} --> {target.value}" in arrows


@pytest.mark.clause("TNR-LIFE-001")
def test_an_illegal_step_changes_nothing() -> None:
    world = World()
    world.submit(make_claim())
    before = (world.registry.status("claim:a"), len(world.trace.events), world.registry.protected_blocks)
    for step in ("offload", "require_restore", "restored", "tier_lost"):
        with pytest.raises(ClaimError):
            getattr(world.registry, step)("claim:a")
    assert (world.registry.status("claim:a"), len(world.trace.events), world.registry.protected_blocks) == before


@pytest.mark.clause("TNR-EVT-005")
@pytest.mark.parametrize(
    ("events", "last_is_legal"),
    [("submitted deferred admitted finished", True), ("deferred refused", True), ("admitted admitted", True),
     ("submitted refused admitted", False), ("admitted finished deferred", False), ("refused refused", False),
     ("submitted finished", False), ("submitted submitted", False), ("routed admitted", False)],
)  # fmt: skip
def test_a_request_moves_along_its_table(events: str, last_is_legal: bool) -> None:
    guard = OrderGuard()
    found = [guard.observe(EventType(f"active_request_{name}"), request_id="r") for name in events.split()]
    assert found[:-1] == [None] * (len(found) - 1)
    assert (found[-1] is None) == last_is_legal


@pytest.mark.clause("TNR-EVT-004", "TNR-TIER-004")
def test_an_old_generation_is_out_of_order() -> None:
    guard = OrderGuard()
    for name in ("submitted", "accepted", "materialized"):
        assert guard.observe(EventType(f"resident_claim_{name}"), claim_id="c") is None
    for generation, name in ((1, "offloaded"), (1, "restore_required"), (1, "restored"), (2, "offloaded")):
        found = guard.observe(
            EventType(f"resident_claim_{name}"), claim_id="c", fields={"offload_generation": generation}
        )
        assert found is None
    stale = guard.observe(EventType.CLAIM_RESTORE_REQUIRED, claim_id="c", fields={"offload_generation": 1})
    assert stale is not None
    assert stale.clause == "TNR-EVT-004"
    assert guard.claim_state("c") is ClaimState.OFFLOADED


def test_the_guard_forgets_what_ended_long_ago() -> None:
    guard = OrderGuard(remembered_ends=2)
    for number in range(3):
        for name in ("submitted", "rejected"):
            guard.observe(EventType(f"resident_claim_{name}"), claim_id=f"c{number}")
    assert guard.claim_state("c0") is None
    assert guard.claim_state("c2") is ClaimState.REFUSED
