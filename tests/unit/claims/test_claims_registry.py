from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from claims_world import IDENTITY, World, make_claim
from tenure.claims import (
    Action,
    CapacitySnapshot,
    ClaimState,
    EventType,
    HarmCause,
    NextStep,
    Outcome,
    ProtectionMode,
    contiguous_range,
    leading_prefix_at_least,
)
from tenure.claims.blocks import hashed_block_key, object_block_key
from tenure.claims.journal import MemoryJournal, SqliteJournal
from tenure.errors import ClaimError, UsageError

RESIDENT = make_claim(
    "claim:resident", object_id="resident", materialization_predicate=leading_prefix_at_least(60), footprint_blocks=60
)


@pytest.mark.clause("TNR-ACC-004", "TNR-CAP-001", "TNR-CAP-005", "TNR-ACC-005")
def test_a_claim_that_fits_is_accepted_and_the_receipt_adds_up() -> None:
    world = World(usable_blocks=80)
    receipt = world.submit(RESIDENT, active_live_blocks=20)
    assert (receipt.outcome, receipt.state, receipt.revision) == (Outcome.ACCEPTED, ClaimState.ACCEPTED, 1)
    numbers = receipt.numbers
    assert numbers is not None
    assert (numbers.requested_blocks, numbers.granted_blocks, numbers.owed_blocks) == (60, 60, 60)
    assert numbers.protected_blocks == 0  # nothing of it is there yet
    assert (numbers.active_live_blocks, numbers.usable_blocks, numbers.shortfall_blocks) == (20, 80, 0)
    assert receipt.next_step is NextStep.HELD_UNTIL_RELEASE
    assert world.story("claim:resident") == ["submitted", "accepted"]


@pytest.mark.clause("TNR-ACC-004", "TNR-ACC-005", "TNR-CAP-005")
def test_a_claim_over_the_inequality_is_rejected_with_numbers_and_whom_it_waits_for() -> None:
    world = World(usable_blocks=80)
    world.submit(replace(RESIDENT, duration_s=30.0))
    world.clock.advance(10)
    receipt = world.submit(replace(RESIDENT, claim_id="claim:second", object_id="other"), active_live_blocks=10)
    numbers = receipt.numbers
    assert receipt.outcome is Outcome.REJECTED
    assert receipt.reason == "protected_plus_active_exceeds_usable"
    assert numbers is not None
    assert numbers.owed_blocks is not None
    assert numbers.shortfall_blocks == numbers.owed_blocks + 60 + 10 - 80 == 50
    assert receipt.blocking_claim_ids == ("claim:resident",)
    assert (receipt.next_step, receipt.retry_after_s) == (NextStep.RETRY_LATER, 20.0)
    assert world.registry.owed_blocks == 60
    assert world.story("claim:second") == ["submitted", "rejected"]


@pytest.mark.clause("TNR-ACC-005")
def test_whoever_is_rejected_is_told_to_wait_for_all_who_are_in_the_way_and_for_nobody_else() -> None:
    world = World(usable_blocks=80)
    sizes: dict[str, tuple[int, float | None]] = {"a": (30, 50.0), "b": (35, 90.0), "small": (3, 5.0)}
    for name, (blocks, duration_s) in sizes.items():
        world.submit(make_claim(f"claim:{name}", footprint_blocks=blocks, duration_s=duration_s))
    wanted = replace(RESIDENT, claim_id="claim:want")
    receipt = world.submit(wanted)
    assert (receipt.blocking_claim_ids, receipt.retry_after_s) == (("claim:a", "claim:b"), 90.0)
    world.registry.renew("claim:b", owner_scope=wanted.owner_scope, revision=2, duration_s=None)
    receipt = world.submit(wanted)
    assert (receipt.blocking_claim_ids, receipt.retry_after_s) == (("claim:a", "claim:b"), None)


@pytest.mark.clause("TNR-ACC-004", "TNR-CAP-001")
def test_what_is_owed_and_what_is_protected_are_two_numbers() -> None:
    world = World(usable_blocks=80)
    claim = make_claim(footprint_blocks=60)
    receipt = world.submit(claim)
    assert receipt.numbers is not None
    assert (receipt.numbers.owed_blocks, receipt.numbers.protected_blocks) == (60, 0)
    assert "owed 60 + active 0 of 80 usable" in receipt.sentence()
    world.bring(claim)
    second = world.submit(
        make_claim("claim:b", footprint_blocks=21, materialization_predicate=leading_prefix_at_least(21))
    )
    assert (second.outcome, world.registry.owed_blocks, world.registry.protected_blocks) == (Outcome.REJECTED, 60, 60)
    fields = world.events()[-1].fields
    assert (fields["owed_resident_blocks"], fields["protected_resident_blocks"]) == (60, 60)
    world.take(claim, 59)
    assert (world.registry.owed_blocks, world.registry.protected_blocks) == (60, 59)


@pytest.mark.clause("TNR-ACC-004", "TNR-TIER-007")
@pytest.mark.parametrize(("mode", "accepted"), [("offloadable", True), ("hard_protected", False)])
def test_only_terms_that_let_a_claim_stay_in_a_lower_tier_let_its_room_be_promised_again(
    mode: str, accepted: bool
) -> None:
    world = World(usable_blocks=80)
    claim = make_claim(footprint_blocks=60, protection_mode=ProtectionMode(mode))
    world.hold(claim)
    world.registry.offload("claim:a")
    assert world.registry.protected_blocks == 0
    assert world.registry.owed_blocks == (0 if accepted else 60)
    other = make_claim("claim:b", footprint_blocks=60, materialization_predicate=leading_prefix_at_least(60))
    assert world.submit(other).accepted == accepted


@pytest.mark.clause("TNR-ACC-010")
def test_a_footprint_that_nobody_should_have_to_name_is_an_error_for_every_mode() -> None:
    world = World()
    before = len(world.trace.events)
    for mode in (ProtectionMode.HARD_PROTECTED, ProtectionMode.BEST_EFFORT):
        with pytest.raises(ClaimError, match="131072") as caught:
            world.submit(make_claim(footprint_blocks=3_000_000, protection_mode=mode))
        assert (caught.value.field, caught.value.clause) == ("footprint_blocks", "TNR-ACC-010")
    assert len(world.trace.events) == before


@pytest.mark.clause("TNR-ACC-004", "TNR-CAP-005")
@pytest.mark.parametrize("hashed", [False, True])
def test_a_claim_that_can_never_fit_is_rejected_without_its_blocks_being_named(
    hashed: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = World(usable_blocks=80)
    hashes = tuple(f"h{number}" for number in range(100_000))
    world.submit(make_claim(object_id="long", block_hashes=hashes[:5] if hashed else None))
    monkeypatch.setattr("tenure.claims.registry.block_keys", lambda _: pytest.fail("the blocks were named"))
    receipt = world.submit(
        make_claim(
            "claim:long",
            object_id="long",
            footprint_blocks=100_000,
            materialization_predicate=leading_prefix_at_least(81),
            block_hashes=hashes if hashed else None,
        )
    )
    assert receipt.outcome is Outcome.REJECTED
    assert receipt.numbers is not None
    assert receipt.numbers.shortfall_blocks == 5 + 99_995 - 80  # the five that are owed already count once


@pytest.mark.clause("TNR-ACC-004")
def test_a_claim_that_adds_no_block_is_still_rejected_while_the_pool_is_short() -> None:
    world = World(usable_blocks=80)
    world.submit(RESIDENT)
    receipt = world.submit(replace(RESIDENT, claim_id="claim:second"), active_live_blocks=25)
    assert receipt.outcome is Outcome.REJECTED
    assert receipt.numbers is not None
    assert receipt.numbers.shortfall_blocks == 60 + 25 - 80


@pytest.mark.clause("TNR-ACC-004")
def test_the_budget_binds_before_the_pool_does() -> None:
    world = World(usable_blocks=1000, claim_budget_blocks=64)
    assert world.submit(RESIDENT).accepted
    second = world.submit(make_claim("claim:second", materialization_predicate=leading_prefix_at_least(5)))
    assert (second.outcome, second.reason) == (Outcome.REJECTED, "claim_budget_exceeded")
    assert second.numbers is not None
    assert second.numbers.shortfall_blocks == 1


@pytest.mark.clause("TNR-ACC-007")
def test_a_claim_is_clipped_to_what_fits_and_never_below_its_predicate() -> None:
    world = World(usable_blocks=64)
    world.submit(RESIDENT)
    clipped = world.submit(make_claim("claim:clipped", footprint_blocks=5))
    assert (clipped.outcome, clipped.granted_mode) == (Outcome.CLIPPED, ProtectionMode.HARD_PROTECTED)
    assert clipped.numbers is not None
    assert clipped.numbers.granted_blocks == 4
    assert world.registry.status("claim:clipped").claim.footprint_blocks == 4
    accepted = world.events(EventType.CLAIM_CONDITIONALLY_ACCEPTED)[0].fields
    assert (accepted["footprint_blocks"], accepted["requested_footprint_blocks"]) == (4, 5)
    full = make_claim("claim:full", footprint_blocks=5, materialization_predicate=leading_prefix_at_least(5))
    assert world.submit(full).outcome is Outcome.REJECTED


@pytest.mark.clause("TNR-ACC-007")
def test_a_weaker_mode_is_granted_only_where_the_owner_named_it() -> None:
    world = World(usable_blocks=60)
    world.submit(RESIDENT)
    second = replace(RESIDENT, claim_id="claim:second", object_id="other")
    assert world.submit(second).outcome is Outcome.REJECTED
    receipt = world.submit(replace(second, claim_id="claim:third", fallback_mode=ProtectionMode.SOFT_PRIORITY))
    assert (receipt.outcome, receipt.granted_mode) == (Outcome.CLIPPED, ProtectionMode.SOFT_PRIORITY)
    assert world.registry.owed_blocks == 60


@pytest.mark.clause("TNR-ACC-006", "TNR-ACC-010")
def test_a_mode_that_the_runtime_does_not_implement_is_rejected() -> None:
    world = World()
    receipt = world.submit(make_claim(protection_mode=ProtectionMode.ROUTED_REUSE))
    assert (receipt.outcome, receipt.reason) == (Outcome.REJECTED, "mode_not_supported")
    assert world.registry.live_claims == 0


@pytest.mark.clause("TNR-ACC-010")
def test_a_claim_beyond_the_number_allowed_is_rejected() -> None:
    world = World(max_live_claims=1)
    assert world.submit(make_claim("claim:1")).accepted
    assert world.submit(make_claim("claim:2")).reason == "too_many_live_claims"


@pytest.mark.clause("TNR-ACC-009")
def test_a_claim_beyond_the_end_of_its_object_is_an_error_and_changes_nothing() -> None:
    world = World()
    with pytest.raises(ClaimError, match="footprint_blocks") as caught:
        world.registry.submit(make_claim(), capacity=CapacitySnapshot(usable_blocks=80), object_blocks=4)
    assert caught.value.clause == "TNR-ACC-009"
    assert (world.registry.live_claims, world.trace.events) == (0, [])


def test_a_rejected_claim_may_be_asked_for_again() -> None:
    world = World(usable_blocks=60)
    world.submit(RESIDENT)
    again = make_claim("claim:again")
    assert world.submit(again).outcome is Outcome.REJECTED
    world.registry.cancel("claim:resident", owner_scope=RESIDENT.owner_scope)
    assert world.submit(again).outcome is Outcome.ACCEPTED
    assert world.story("claim:again") == ["submitted", "rejected", "submitted", "accepted"]


@pytest.mark.clause("TNR-MAT-003")
def test_materialization_is_reported_once_when_the_last_required_block_arrives() -> None:
    world = World()
    claim = make_claim()
    world.submit(claim)
    for position in (4, 1, 0):
        world.device.add(object_block_key(IDENTITY, claim.object_id, position))
        world.registry.block_arrived(object_block_key(IDENTITY, claim.object_id, position))
    assert world.registry.status("claim:a").state is ClaimState.ACCEPTED
    world.bring(claim)
    assert world.story("claim:a") == ["submitted", "accepted", "materialized"]
    fields = world.events(EventType.CLAIM_MATERIALIZED)[0].fields
    assert (fields["resident_blocks_materialized"], fields["leading_blocks_survived"]) == (4, 3)


@pytest.mark.clause("TNR-MAT-003")
def test_a_claim_on_a_prefix_that_is_there_already_is_materialized_at_once() -> None:
    world = World()
    claim = make_claim()
    world.bring(claim)
    world.device.discard(object_block_key(IDENTITY, claim.object_id, 3))
    assert world.submit(claim).state is ClaimState.MATERIALIZED
    assert [key[1] for key in world.registry.held_blocks("claim:a")] == [0, 1, 2, 4]
    assert world.story("claim:a") == ["submitted", "accepted", "materialized"]


@pytest.mark.clause("TNR-HRM-002", "TNR-HRM-003", "TNR-MAT-004", "TNR-HRM-007")
def test_only_the_loss_of_a_required_block_is_harm_and_only_once() -> None:
    world = World()
    claim = make_claim()
    world.hold(claim)
    assert world.take(claim, 4, physical_block_id=104) is True
    assert world.story("claim:a")[-1] == "block_lost"
    assert world.take(claim, 0, request_id="active", physical_block_id=100) is True
    assert world.take(claim, 1) is False
    assert world.story("claim:a") == ["submitted", "accepted", "materialized", "block_lost", "harmed"]
    harm = world.events(EventType.CLAIM_HARMED)[0]
    assert (harm.request_id, harm.fields["physical_block_id"], harm.fields["harm_cause"]) == (
        "active", 100, "evicted_under_pressure",
    )  # fmt: skip
    assert (harm.fields["predicate_before"], harm.fields["predicate_after"]) == (True, False)
    assert (harm.fields["resident_blocks_materialized"], harm.fields["leading_blocks_survived"]) == (3, 0)
    assert harm.fields["harm_permitted"] is False
    assert world.registry.status("claim:a").state is ClaimState.HARMED


@pytest.mark.clause("TNR-MAT-002")
def test_the_first_block_is_missed_although_the_count_is_intact() -> None:
    world = World()
    claim = make_claim(materialization_predicate=leading_prefix_at_least(4), footprint_blocks=5)
    world.hold(claim)
    world.take(claim, 0)
    assert world.registry.status("claim:a").surviving_blocks == 4
    assert world.story("claim:a")[-1] == "harmed"


@pytest.mark.clause("TNR-HRM-001")
def test_a_loss_that_no_accepted_claim_covers_is_no_event() -> None:
    world = World(usable_blocks=60)
    world.submit(RESIDENT)
    rejected = make_claim("claim:rejected")
    world.hold(rejected)
    assert world.take(rejected, 0) is False
    assert world.story("claim:rejected") == ["submitted", "rejected"]


@pytest.mark.clause("TNR-HRM-005")
def test_a_predicate_that_never_held_cannot_be_harmed() -> None:
    world = World()
    claim = make_claim()
    world.submit(claim)
    key = object_block_key(IDENTITY, claim.object_id, 0)
    world.device.add(key)
    world.registry.block_arrived(key)
    world.take_key(key)
    assert world.story("claim:a") == ["submitted", "accepted", "block_lost"]


@pytest.mark.clause("TNR-HRM-004", "TNR-HRM-008")
@pytest.mark.parametrize("release", ["demote", "expire", "cancel"])
def test_a_release_comes_before_the_loss_that_it_excuses(release: str) -> None:
    world = World()
    claim = make_claim()
    world.hold(claim)
    if release == "cancel":
        world.registry.cancel("claim:a", owner_scope=claim.owner_scope)
    else:
        receipt = getattr(world.registry, release)("claim:a", request_id="active")
        assert receipt.caused_by_request_id == "active"
    assert world.take(claim, 0, request_id="active") is False
    assert world.take(claim, 1) is False
    assert world.story("claim:a")[-2:] == ["block_lost_after_release"] * 2
    assert not world.events(EventType.CLAIM_HARMED)
    with pytest.raises(ClaimError, match="claim:a"):
        world.registry.demote("claim:a")


@pytest.mark.clause("TNR-CAP-002", "TNR-CAP-003", "TNR-HRM-006")
def test_shared_blocks_count_once_and_stay_protected_until_the_last_claim_ends() -> None:
    world = World()
    long = make_claim("claim:long", object_id="shared", footprint_blocks=5)
    short = make_claim("claim:short", object_id="shared", footprint_blocks=3)
    world.hold(long)
    world.submit(short)
    assert world.registry.owed_blocks == 5
    assert world.registry.exclusive_blocks("claim:long") == 2
    world.registry.demote("claim:long")
    assert world.registry.protected_blocks == 3
    assert world.take(long, 4) is False
    assert world.take(long, 2) is True
    assert world.story("claim:short")[-1] == "harmed"
    assert world.story("claim:long")[-2:] == ["block_lost_after_release"] * 2
    assert world.registry.protected_blocks == 0


@pytest.mark.clause("TNR-CAP-002")
def test_claims_on_different_objects_share_blocks_by_hash() -> None:
    world = World(usable_blocks=6)
    first = make_claim("claim:1", object_id="x", block_hashes=("s0", "s1", "s2", "a3", "a4"))
    second = make_claim("claim:2", object_id="y", block_hashes=("s0", "s1", "s2", "b3", "b4"))
    assert world.submit(first).outcome is Outcome.ACCEPTED
    receipt = world.submit(second)
    assert receipt.outcome is Outcome.CLIPPED
    assert receipt.numbers is not None
    assert (receipt.numbers.granted_blocks, world.registry.owed_blocks) == (4, 6)
    assert world.registry.covering(hashed_block_key(IDENTITY, "s1")) == ("claim:1", "claim:2")


@pytest.mark.clause("TNR-ISO-002", "TNR-LIFE-004")
def test_a_foreign_claim_looks_like_one_that_does_not_exist() -> None:
    world = World()
    world.submit(make_claim())
    answers = []
    for claim_id in ("claim:a", "claim:none"):
        for ask in (
            lambda: world.registry.cancel(claim_id, owner_scope="session:tenant-b"),  # noqa: B023
            lambda: world.registry.renew(claim_id, owner_scope="session:tenant-b", revision=2, duration_s=1.0),  # noqa: B023
        ):
            with pytest.raises(ClaimError) as caught:
                ask()
            answers.append(str(caught.value).replace(claim_id, "ID"))
    assert len(set(answers)) == 1
    assert world.registry.live_claims == 1


@pytest.mark.clause("TNR-ISO-002", "TNR-LIFE-002")
@pytest.mark.parametrize("active", [0, 80])  # whether it would be accepted or rejected
@pytest.mark.parametrize("journalled", ["memory", "sqlite"])
def test_a_submission_under_a_used_id_learns_neither_whose_it_is_nor_whether_it_lives(
    active: int, journalled: str, tmp_path: Path
) -> None:
    world = World(journal=MemoryJournal() if journalled == "memory" else SqliteJournal(tmp_path / "claims.db"))
    for name in ("live", "forgotten", "remembered"):
        world.submit(make_claim(f"claim:{name}"))
    world.bring(make_claim("claim:remembered"))
    for name in ("forgotten", "remembered"):
        world.registry.cancel(f"claim:{name}", owner_scope=make_claim().owner_scope)
    before = len(world.trace.events)
    answers = set()
    for name in ("live", "forgotten", "remembered"):
        for owner in ("session:tenant-b", make_claim().owner_scope) if name != "live" else ("session:tenant-b",):
            with pytest.raises(ClaimError) as caught:
                world.submit(make_claim(f"claim:{name}", owner_scope=owner, revision=7), active_live_blocks=active)
            assert (caught.value.field, caught.value.clause) == ("claim_id", "TNR-LIFE-002")
            answers.add(str(caught.value).replace(name, "NAME"))
    assert len(answers) == 1
    for name in ("live", "forgotten"):  # and whatever else is wrong with it is told alike
        with pytest.raises(ClaimError, match="footprint_blocks"):
            world.registry.submit(
                make_claim(f"claim:{name}", owner_scope="session:tenant-b"),
                capacity=CapacitySnapshot(usable_blocks=80),
                object_blocks=4,
            )
    assert len(world.trace.events) == before


@pytest.mark.clause("TNR-LIFE-004")
def test_the_owner_cancels_and_the_claim_is_released() -> None:
    world = World()
    world.submit(make_claim())
    receipt = world.registry.cancel("claim:a", owner_scope="session:tenant-a:user-7")
    assert (receipt.outcome, receipt.state) == (Outcome.RELEASED, ClaimState.RELEASED)
    assert world.registry.protected_blocks == 0
    assert world.story("claim:a")[-1] == "released"


@pytest.mark.clause("TNR-LIFE-005")
def test_a_claim_expires_when_its_duration_has_passed_and_not_before() -> None:
    world = World()
    world.hold(make_claim(duration_s=10.0))
    world.clock.advance(9)
    assert world.registry.tick() == []
    assert world.registry.next_expiry_s == 10.0
    world.clock.advance(1)
    receipts = world.registry.tick()
    assert [receipt.outcome for receipt in receipts] == [Outcome.EXPIRED]
    assert (world.registry.live_claims, world.registry.next_expiry_s) == (0, None)


@pytest.mark.clause("TNR-LIFE-005", "TNR-HRM-004")
def test_a_loss_after_the_deadline_expires_the_claim_first_though_nobody_ticked() -> None:
    world = World()
    claim = make_claim(duration_s=10.0)
    world.hold(claim)
    world.clock.advance(10)
    world.take(claim, 0)
    assert world.story("claim:a")[-2:] == ["expired", "block_lost_after_release"]


@pytest.mark.clause("TNR-LIFE-003")
def test_a_newer_revision_extends_and_a_replayed_one_does_not() -> None:
    world = World()
    claim = make_claim(duration_s=10.0)
    world.hold(claim)
    world.clock.advance(5)
    renewed = world.registry.renew("claim:a", owner_scope=claim.owner_scope, revision=2, duration_s=10.0)
    assert (renewed.outcome, renewed.revision) == (Outcome.RENEWED, 2)
    for revision in (1, 2):
        replayed = world.submit(replace(claim, revision=revision, duration_s=1000.0))
        assert (replayed.outcome, replayed.reason, replayed.revision) == (Outcome.REJECTED, "stale_revision", 2)
    assert world.registry.status("claim:a").expires_at_s == 15.0
    world.clock.advance(9)
    assert world.registry.tick() == []
    world.clock.advance(1)
    assert len(world.registry.tick()) == 1


@pytest.mark.clause("TNR-LIFE-003", "TNR-ACC-005")
@pytest.mark.parametrize("footprint", [5, 90])  # granted as asked, and clipped
def test_a_submission_that_is_repeated_is_answered_by_what_is_held_and_changes_nothing(footprint: int) -> None:
    world = World()
    claim = make_claim(duration_s=10.0, footprint_blocks=footprint)
    first = world.submit(claim)
    world.clock.advance(4)
    before = len(world.trace.events)
    again = world.submit(claim)
    assert (again.accepted, again.reason, again.outcome) == (True, "already_held", first.outcome)
    assert (again.state, again.granted_mode, again.next_step) == (first.state, first.granted_mode, first.next_step)
    assert (world.registry.status("claim:a").expires_at_s, len(world.trace.events)) == (10.0, before)
    world.registry.renew("claim:a", owner_scope=claim.owner_scope, revision=2, duration_s=10.0)
    assert world.submit(claim).reason == "stale_revision"
    assert world.submit(replace(claim, revision=2)).reason == "already_held"
    assert world.submit(replace(claim, revision=2, duration_s=11.0)).reason == "stale_revision"


@pytest.mark.clause("TNR-LIFE-005", "TNR-ISO-002")
@pytest.mark.parametrize("has_blocks", [True, False])
@pytest.mark.parametrize("journalled", ["memory", "sqlite"])
def test_a_renewal_of_a_claim_that_ended_is_answered_alike_whether_or_not_blocks_are_left(
    journalled: str, has_blocks: bool, tmp_path: Path
) -> None:
    world = World(journal=MemoryJournal() if journalled == "memory" else SqliteJournal(tmp_path / "claims.db"))
    claim = make_claim(revision=3)
    world.submit(claim)
    if has_blocks:
        world.bring(claim)
    world.registry.cancel("claim:a", owner_scope=claim.owner_scope)
    receipt = world.registry.renew("claim:a", owner_scope=claim.owner_scope, revision=4, duration_s=10.0)
    assert (receipt.outcome, receipt.reason) == (Outcome.REJECTED, "claim_already_ended")
    assert (receipt.state, receipt.revision) == (ClaimState.RELEASED, 3)
    with pytest.raises(ClaimError, match="no claim"):
        world.registry.renew("claim:a", owner_scope="session:tenant-b", revision=4, duration_s=10.0)


@pytest.mark.clause("TNR-LIFE-005")
def test_a_renewal_at_the_deadline_comes_too_late() -> None:
    world = World()
    claim = make_claim(duration_s=10.0)
    world.hold(claim)
    world.clock.advance(10)
    receipt = world.registry.renew("claim:a", owner_scope=claim.owner_scope, revision=2, duration_s=10.0)
    assert (receipt.outcome, receipt.reason) == (Outcome.REJECTED, "claim_already_ended")
    assert world.story("claim:a")[-1] == "expired"


@pytest.mark.clause("TNR-LIFE-003")
@pytest.mark.parametrize(
    "change",
    [{"object_id": "other"}, {"materialization_predicate": leading_prefix_at_least(2)}, {"footprint_blocks": 4},
     {"protection_mode": ProtectionMode.DEMOTABLE}, {"cache_identity": replace(IDENTITY, adapter_id="lora")}],
)  # fmt: skip
def test_a_renewal_that_changes_the_promise_is_an_error_and_changes_nothing(change: dict[str, object]) -> None:
    world = World()
    claim = make_claim(duration_s=10.0)
    world.hold(claim)
    before = (world.registry.status("claim:a"), len(world.trace.events))
    with pytest.raises(ClaimError, match=next(iter(change))):
        world.submit(replace(claim, revision=2, **change))  # type: ignore[arg-type]
    assert (world.registry.status("claim:a"), len(world.trace.events)) == before


@pytest.mark.clause("TNR-LIFE-002")
def test_the_id_of_an_ended_claim_is_never_used_again() -> None:
    world = World()
    world.submit(make_claim())
    world.registry.cancel("claim:a", owner_scope="session:tenant-a:user-7")
    before = len(world.trace.events)
    for active in (0, 80):  # whether it would be accepted or rejected
        with pytest.raises(ClaimError, match="claim:a") as caught:
            world.submit(make_claim(revision=2), active_live_blocks=active)
        assert caught.value.clause == "TNR-LIFE-002"
    assert (len(world.trace.events), world.registry.protected_blocks) == (before, 0)


@pytest.mark.clause("TNR-LIFE-007")
@pytest.mark.parametrize(("end", "event"), [("reset", "runtime_reset"), ("shutdown", "runtime_shutdown")])
def test_reset_and_shutdown_end_every_claim_before_they_are_reported(end: str, event: str) -> None:
    world = World()
    for number in range(3):
        world.hold(make_claim(f"claim:{number}"))
    receipts = getattr(world.registry, end)("operator asked")
    assert [receipt.outcome for receipt in receipts] == [Outcome.DEMOTED] * 3
    names = [event.event_type.value for event in world.trace.events]
    assert names[-4:] == ["resident_claim_demoted"] * 3 + [event]
    assert (world.registry.live_claims, world.registry.protected_blocks) == (0, 0)


@pytest.mark.clause("TNR-LIFE-007")
def test_after_its_shutdown_a_registry_promises_nothing_more() -> None:
    world = World()
    claim = make_claim()
    world.hold(claim)
    world.registry.shutdown("done")
    before = len(world.trace.events)
    for ask in (
        lambda: world.submit(make_claim("claim:new")),
        lambda: world.registry.renew("claim:a", owner_scope=claim.owner_scope, revision=2, duration_s=1.0),
        lambda: world.registry.cancel("claim:a", owner_scope=claim.owner_scope),
        lambda: world.registry.start(runtime_name="again"),
        lambda: world.registry.reset("again"),
        lambda: world.registry.shutdown("again"),
    ):
        with pytest.raises(UsageError, match="shut down"):
            ask()
    assert len(world.trace.events) == before
    world.take(claim, 0)  # the cache may still be emptied, and what it held is told
    assert world.story("claim:a")[-1] == "block_lost_after_release"


@pytest.mark.clause("TNR-EVT-009")
def test_whether_a_victim_was_protected_is_told_as_it_was_before_the_harm() -> None:
    world = World()
    claim = make_claim()
    world.hold(claim)
    key = object_block_key(IDENTITY, claim.object_id, 0)
    assert (world.registry.is_protected(key), world.registry.is_hard_protected(key)) == (True, True)
    assert world.take(claim, 0) is True
    assert world.registry.is_protected(key) is False


def test_a_demotable_claim_protects_but_is_not_hard() -> None:
    world = World()
    claim = make_claim(protection_mode=ProtectionMode.DEMOTABLE)
    world.hold(claim)
    key = object_block_key(IDENTITY, claim.object_id, 0)
    assert (world.registry.is_protected(key), world.registry.is_hard_protected(key)) == (True, False)
    soft = make_claim("claim:soft", protection_mode=ProtectionMode.SOFT_PRIORITY)
    world.hold(soft)
    assert world.registry.protected_blocks == 5
    world.take(soft, 0, cause=HarmCause.EVICTED_UNDER_PRESSURE)
    assert world.events(EventType.CLAIM_HARMED)[0].fields["harm_permitted"] is True


def test_the_smallest_blocking_set_is_the_fewest_claims_that_make_room() -> None:
    world = World(usable_blocks=100)
    for name, blocks in (("a", 10), ("b", 30), ("c", 20)):
        world.submit(make_claim(f"claim:{name}", footprint_blocks=blocks))
    assert world.registry.smallest_blocking_set(25) == ("claim:b",)
    assert world.registry.smallest_blocking_set(45) == ("claim:b", "claim:c")
    assert world.registry.smallest_blocking_set(60) == ("claim:a", "claim:b", "claim:c")
    assert world.registry.smallest_blocking_set(61) == ()
    assert world.registry.smallest_blocking_set(0) == ()


def test_a_shared_block_is_freed_only_by_all_who_share_it() -> None:
    world = World(usable_blocks=100)
    for name in ("a", "b"):
        world.submit(make_claim(f"claim:{name}", object_id="shared", footprint_blocks=10))
    world.submit(make_claim("claim:c", footprint_blocks=4))
    assert world.registry.smallest_blocking_set(5) == ("claim:a", "claim:b")
    assert world.registry.smallest_blocking_set(14) == ("claim:a", "claim:b", "claim:c")


def test_a_range_that_starts_later_covers_only_its_own_blocks() -> None:
    world = World()
    claim = make_claim(materialization_predicate=contiguous_range(4, 2), footprint_blocks=2)
    world.hold(claim)
    assert world.registry.is_protected(object_block_key(IDENTITY, claim.object_id, 3)) is False
    assert world.take(claim, 5) is True
    assert world.story("claim:a")[-1] == "harmed"


def test_ended_claims_are_forgotten_beyond_the_number_remembered() -> None:
    world = World(remembered_ends=1)
    claims = [make_claim(f"claim:{number}") for number in range(2)]
    for claim in claims:
        world.hold(claim)
        world.registry.demote(claim.claim_id, action=Action.DEMOTE_RESIDENT_CLAIM)
    world.take(claims[0], 0)
    world.take(claims[1], 0)
    assert world.story("claim:0")[-1] == "demoted"
    assert world.story("claim:1")[-1] == "block_lost_after_release"
