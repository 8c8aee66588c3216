from __future__ import annotations

import pytest

from claims_world import World, make_claim
from tenure.claims import ClaimState, EventType, Outcome, ProtectionMode
from tenure.claims.blocks import block_keys
from tenure.claims.modes import RestorationOutcome, Tier
from tenure.errors import ClaimError

CLAIM = make_claim(protection_mode=ProtectionMode.OFFLOADABLE)


def offloaded_world() -> World:
    world = World()
    world.hold(CLAIM)
    world.registry.offload("claim:a", block_ids=(1, 2, 3, 4, 5))
    for position in range(5):
        world.take(CLAIM, position)
    return world


@pytest.mark.clause("TNR-TIER-001", "TNR-TIER-002", "TNR-TIER-007")
def test_offloading_is_no_release_and_takes_no_room_and_no_loss_is_told() -> None:
    world = offloaded_world()
    status = world.registry.status("claim:a")
    assert (status.state, status.under_runtime_responsibility) == (ClaimState.OFFLOADED, True)
    assert world.registry.protected_blocks == 0
    assert world.story("claim:a") == ["submitted", "accepted", "materialized", "offloaded"]


@pytest.mark.clause("TNR-TIER-002")
def test_what_does_not_hold_cannot_be_offloaded() -> None:
    world = World()
    world.submit(CLAIM)
    with pytest.raises(ClaimError, match="resident_claim_offloaded"):
        world.registry.offload("claim:a")
    assert world.registry.status("claim:a").offload_generation == 0


@pytest.mark.clause("TNR-TIER-003", "TNR-TIER-004")
def test_restored_rows_are_reused_in_the_order_of_one_generation() -> None:
    world = offloaded_world()
    with pytest.raises(ClaimError, match="restore it before"):
        world.registry.reused("claim:a", request_id="r1")
    world.registry.require_restore("claim:a", request_id="r1")
    world.device.update(block_keys(CLAIM))
    receipt = world.registry.restored("claim:a", request_id="r1")
    assert (receipt.outcome, receipt.tier, world.registry.protected_blocks) == (Outcome.RESTORED, Tier.DEVICE, 5)
    world.registry.reused("claim:a", request_id="r1", reused_blocks=3)
    world.registry.reused("claim:a", request_id="r2")
    world.registry.offload("claim:a")
    assert world.story("claim:a")[3:] == [
        "offloaded", "restore_required", "restored", "reuse_after_restore", "offloaded",
    ]  # fmt: skip
    generations = [
        event.fields["offload_generation"] for event in world.events() if "offload_generation" in event.fields
    ]
    assert generations == [1, 1, 1, 1, 2]


@pytest.mark.clause("TNR-TIER-003")
def test_a_restoration_that_is_not_complete_is_refused_and_changes_nothing() -> None:
    world = offloaded_world()
    world.registry.require_restore("claim:a")
    world.device.update(block_keys(CLAIM)[1:])
    with pytest.raises(ClaimError, match="1 of 3 required blocks"):
        world.registry.restored("claim:a")
    assert world.registry.status("claim:a").state is ClaimState.RESTORING


@pytest.mark.clause("TNR-LOAD-001")
@pytest.mark.parametrize(
    ("outcome", "last", "state"),
    [(RestorationOutcome.REFUSAL, "restoration_failed", ClaimState.OFFLOADED),
     (RestorationOutcome.DEMOTION, "demoted", None), (RestorationOutcome.EXPIRY, "expired", None),
     (RestorationOutcome.HARM, "harmed", None)],
)  # fmt: skip
def test_a_failed_restoration_is_followed_by_its_outcome_for_the_same_claim(
    outcome: RestorationOutcome, last: str, state: ClaimState | None
) -> None:
    world = offloaded_world()
    world.registry.require_restore("claim:a", request_id="r1")
    world.registry.restoration_failed("claim:a", failure="link down", outcome=outcome, request_id="r1")
    assert "restoration_failed" in world.story("claim:a")
    assert world.story("claim:a")[-1] == last
    failure = world.events(EventType.CLAIM_RESTORATION_FAILED)[0]
    assert (failure.fields["outcome_claim_id"], failure.request_id) == ("claim:a", "r1")
    if state is None:
        assert world.trace.events[-1].fields["restoration_failure_event_sequence"] == failure.event_sequence
        assert world.registry.live_claims == 0
    else:
        assert world.registry.status("claim:a").state is state
        assert world.registry.last_restoration_failure("claim:a") == failure.event_sequence


@pytest.mark.clause("TNR-HRM-002")
def test_a_tier_that_lost_the_blocks_harms_the_claim() -> None:
    world = offloaded_world()
    receipt = world.registry.tier_lost("claim:a")
    assert (receipt.outcome, receipt.reason) == (Outcome.HARMED, "tier_lost")
    with pytest.raises(ClaimError):
        world.registry.tier_lost("claim:a")
