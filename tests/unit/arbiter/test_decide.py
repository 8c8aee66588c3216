"""Decisions: every action of the contract, reached by one line of configuration."""

from __future__ import annotations

import pytest

from tenure.arbiter.arbiter import decide
from tenure.arbiter.decision import NO_CHANGE, ActiveRequest, Decision, Reason, Route
from tenure.arbiter.ledger import PoolLedger
from tenure.arbiter.pressure import LivePlan
from tenure.arbiter.rules import ReuseAdmission, action_policy
from tenure.claims.modes import Action, Feasibility, Outcome, ProtectionMode

HARD = ProtectionMode.HARD_PROTECTED
DEMOTABLE = ProtectionMode.DEMOTABLE
OFFLOADABLE = ProtectionMode.OFFLOADABLE
BULKY = LivePlan(chunk_blocks=(20, 20, 20, 10))


class Pool(PoolLedger):
    """A ledger that hands out block numbers."""

    def __init__(self, usable_blocks: int, **options: int) -> None:
        super().__init__(usable_blocks=usable_blocks, **options)
        self.used = 0

    def fill(self, blocks: int, *, in_use: bool = False) -> range:
        taken = range(self.used, self.used + blocks)
        self.used += blocks
        self.occupy(taken)
        if not in_use:
            self.unpin(taken)
        return taken

    def claim(self, claim_id: str, mode: ProtectionMode, blocks: int, *, ends_at_s: float | None = None) -> range:
        self.add_claim(claim_id, mode=mode, ends_at_s=ends_at_s)
        held = self.fill(blocks)
        self.hold(claim_id, held)
        self.mark(claim_id, is_whole=True)
        return held


def _ask(blocks: int, **options: object) -> ActiveRequest:
    return ActiveRequest(request_id="active", live_plan=LivePlan(chunk_blocks=(blocks,)), **options)  # type: ignore[arg-type]


def _line(mode: ProtectionMode | str, text: str, **options: object):  # type: ignore[no-untyped-def]
    return action_policy({str(mode): text}, **options)  # type: ignore[arg-type]


def _resident60(mode: ProtectionMode = HARD, *, usable: int = 80, **options: int) -> Pool:
    pool = Pool(usable, **options)
    pool.claim("claim:resident", mode, 60)
    return pool


@pytest.mark.parametrize(("usable", "short"), [(80, 50), (90, 40), (100, 30), (110, 20), (120, 10)])
def test_a_hard_claim_in_the_way_is_named_with_the_true_shortfall(usable: int, short: int) -> None:
    decision = decide(_resident60(usable=usable), _ask(70), _line(HARD, "refuse"))
    assert decision.outcome is Outcome.REFUSED
    assert decision.actions == (Action.REFUSE_ACTIVE,)
    assert decision.blocking_claim_ids == ("claim:resident",)
    assert decision.shortfall_blocks == short
    assert decision.feasibility is Feasibility.INFEASIBLE
    assert decision.reason is Reason.LIVE_EXCEEDS_HEADROOM
    assert decision.plan == NO_CHANGE
    assert decision.pressure.free_blocks == usable - 60


@pytest.mark.parametrize("usable", [130, 150])
def test_below_capacity_both_are_kept(usable: int) -> None:
    decision = decide(_resident60(usable=usable), _ask(70), action_policy())
    assert decision.actions == (Action.SERVE_ACTIVE_PRESERVE_RESIDENT,)
    assert decision.plan.evict_blocks == 0
    assert decision.admits_reuse


def test_unclaimed_residents_are_evicted_before_anything_else_happens() -> None:
    pool = Pool(80)
    pool.fill(60)
    decision = decide(pool, _ask(70), action_policy())
    assert decision.actions == (Action.SERVE_ACTIVE_EVICT_RESIDENT,)
    assert decision.plan.evict_blocks == 50
    assert decision.blocking_claim_ids == ()
    assert decision.shortfall_blocks == 0


def test_demotion_takes_the_fewest_claims_and_then_the_smallest_that_suffices() -> None:
    pool = Pool(80)
    for name, blocks in (("a", 10), ("b", 25), ("c", 20), ("d", 5)):
        pool.claim(name, DEMOTABLE, blocks)
    decision = decide(pool, _ask(38), action_policy())
    assert decision.plan.demote == ("c",)  # 18 are missing: one claim does it, and 20 wastes less than 25
    assert decision.actions == (Action.DEMOTE_RESIDENT_CLAIM, Action.SERVE_ACTIVE_EVICT_RESIDENT)
    assert decision.plan.evict_blocks == 18


def test_of_equal_claims_the_newest_gives_way() -> None:
    pool = Pool(30)
    for name in ("z-old", "m-middle", "a-new"):
        pool.claim(name, DEMOTABLE, 10)
    assert decide(pool, _ask(5), action_policy()).plan.demote == ("a-new",)


def test_nothing_is_demoted_when_it_would_not_help() -> None:
    pool = Pool(80)
    pool.claim("hard", HARD, 50)
    pool.claim("soft", DEMOTABLE, 20)
    decision = decide(pool, _ask(40), action_policy({"hard_protected": "refuse"}))
    assert decision.outcome is Outcome.REFUSED
    assert decision.plan == NO_CHANGE
    assert decision.blocking_claim_ids == ("hard",)


def test_a_stronger_mode_is_not_touched_while_weaker_ones_suffice() -> None:
    pool = Pool(60)
    pool.claim("strong", OFFLOADABLE, 40)
    pool.claim("weak-1", DEMOTABLE, 10)
    pool.claim("weak-2", DEMOTABLE, 10)
    pool.host_free_blocks = 100
    assert decide(pool, _ask(20), action_policy()).plan.claims == ("weak-1", "weak-2")
    assert decide(pool, _ask(21), action_policy()).plan.offload == ("strong",)


def test_offload_needs_room_in_the_slower_tier() -> None:
    pool = _resident60(OFFLOADABLE, host_free_blocks=60)
    assert decide(pool, _ask(70), action_policy()).plan.offload == ("claim:resident",)
    pool.host_free_blocks = 59
    decision = decide(pool, _ask(70), _line(OFFLOADABLE, "offload_resident, refuse"))
    assert decision.outcome is Outcome.REFUSED
    assert decision.blocking_claim_ids == ("claim:resident",)


def test_smaller_claims_are_offloaded_when_the_large_one_does_not_fit_the_tier() -> None:
    pool = Pool(60, host_free_blocks=25)
    pool.claim("large", OFFLOADABLE, 40)
    pool.claim("one", OFFLOADABLE, 10)
    pool.claim("two", OFFLOADABLE, 10)
    assert decide(pool, _ask(20), action_policy()).plan.offload == ("one", "two")


def test_claims_that_fit_the_tier_together_are_found_where_the_largest_one_spoils_it() -> None:
    pool = Pool(15, host_free_blocks=9)
    for name, blocks in (("a", 6), ("b", 5), ("c", 4)):
        pool.claim(name, OFFLOADABLE, blocks)
    decision = decide(pool, _ask(9), _line(OFFLOADABLE, "offload_resident, refuse"))
    assert decision.plan.offload == ("b", "c")


@pytest.mark.parametrize(("room", "claims"), [(100, 34), (101, 34), (250, 34)])
def test_many_small_claims_fill_the_tier_where_larger_ones_would_not_fit(room: int, claims: int) -> None:
    pool = Pool(1000, host_free_blocks=room)
    for index in range(20):
        pool.claim(f"large-{index}", OFFLOADABLE, 40)
    for index in range(40):
        pool.claim(f"small-{index}", OFFLOADABLE, 3)
    taken = pool.free_blocks
    plan = decide(pool, _ask(taken + 100), _line(OFFLOADABLE, "offload_resident, refuse")).plan
    assert sum(pool.claim_blocks(claim) for claim in plan.offload) <= room
    assert len(plan.offload) <= claims


def test_rows_that_the_tier_has_already_need_no_new_room_there() -> None:
    pool = Pool(20, host_free_blocks=0)
    held = pool.claim("back", OFFLOADABLE, 10)
    line = _line(OFFLOADABLE, "offload_resident, refuse")
    assert decide(pool, _ask(15), line).outcome is Outcome.REFUSED
    pool.note_copies(held, exist=True)
    assert decide(pool, _ask(15), line).plan.offload == ("back",)
    pool.note_copies(held[:1], exist=False)
    assert decide(pool, _ask(15), line).outcome is Outcome.REFUSED


def test_rows_that_two_claims_share_move_once() -> None:
    pool = Pool(30, host_free_blocks=12)
    held = pool.claim("one", OFFLOADABLE, 10)
    pool.claim("two", OFFLOADABLE, 2)
    pool.hold("two", held)
    decision = decide(pool, _ask(30), _line(OFFLOADABLE, "offload_resident, refuse"))
    assert decision.plan.offload == ("one", "two")


def test_what_a_request_spills_and_what_claims_move_must_fit_the_tier_together() -> None:
    lines = action_policy({"offloadable": "offload_resident, refuse", "hard_protected": "offload_active, refuse"})
    pool = Pool(80)
    pool.claim("hard", HARD, 60)
    pool.claim("movable", OFFLOADABLE, 20)
    ask = ActiveRequest(request_id="active", live_plan=BULKY, may_offload=True)
    for room, outcome in ((70, Outcome.BOUNDED), (69, Outcome.REFUSED)):
        pool.host_free_blocks = room
        assert decide(pool, ask, lines).outcome is outcome  # 50 rows of the request's own, 20 of the claim's


def test_what_cannot_be_offloaded_is_demoted_when_the_line_goes_on() -> None:
    pool = Pool(60, host_free_blocks=30)
    pool.claim("one", OFFLOADABLE, 30)
    pool.claim("two", OFFLOADABLE, 30)
    plan = decide(pool, _ask(60), _line(OFFLOADABLE, "offload_resident, demote, refuse")).plan
    assert len(plan.offload) == 1
    assert len(plan.demote) == 1


def test_a_claim_that_is_not_whole_is_not_offloaded() -> None:
    pool = _resident60(OFFLOADABLE, host_free_blocks=100)
    pool.mark("claim:resident", is_whole=False)
    assert decide(pool, _ask(70), action_policy()).outcome is Outcome.DEFERRED


def test_a_claim_whose_time_is_over_expires_and_others_do_not() -> None:
    pool = Pool(60)
    pool.claim("over", ProtectionMode.EXPIRING, 30, ends_at_s=5.0)
    pool.claim("running", ProtectionMode.EXPIRING, 30, ends_at_s=9.0)
    pool.mark("over", is_due=True)
    assert decide(pool, _ask(30), action_policy()).plan.expire == ("over",)
    decision = decide(pool, _ask(31), action_policy(), now_s=6.0)
    assert decision.outcome is Outcome.DEFERRED
    assert decision.retry_after_s == 3.0  # when the other one ends too


def test_a_deferral_says_when_the_blocking_claim_ends() -> None:
    pool = Pool(60)
    pool.claim("running", ProtectionMode.EXPIRING, 60, ends_at_s=9.0)
    assert decide(pool, _ask(10), action_policy(), now_s=6.5).retry_after_s == 2.5


def test_a_request_that_several_claims_block_is_told_when_the_last_of_them_ends() -> None:
    pool = Pool(80)
    pool.claim("soon", HARD, 40, ends_at_s=5.0)
    pool.claim("late", HARD, 40, ends_at_s=1000.0)
    assert decide(pool, _ask(60), _line(HARD, "refuse"), now_s=1.0).retry_after_s == 999.0
    assert decide(pool, _ask(40), _line(HARD, "refuse"), now_s=1.0).retry_after_s == 999.0  # the newest is named
    pool.set_end("late", None)
    assert decide(pool, _ask(60), _line(HARD, "refuse"), now_s=1.0).retry_after_s is None


def test_a_deferral_is_bounded_by_tries_and_by_seconds() -> None:
    pool = _resident60()
    by_tries = _line(HARD, "defer 2, refuse")
    assert decide(pool, _ask(70, tries=1), by_tries).outcome is Outcome.DEFERRED
    assert decide(pool, _ask(70, tries=2), by_tries).outcome is Outcome.REFUSED
    by_time = _line(HARD, "defer 30s, refuse")
    assert decide(pool, _ask(70, tries=9, waited_s=29.9), by_time).outcome is Outcome.DEFERRED
    assert decide(pool, _ask(70, tries=9, waited_s=30.0), by_time).outcome is Outcome.REFUSED


def test_a_full_queue_takes_no_more_but_keeps_those_who_wait() -> None:
    pool = _resident60()
    policy = _line(HARD, "defer 4, refuse", max_deferred_requests=1)
    pool.deferred_requests = 1
    assert decide(pool, _ask(70), policy).outcome is Outcome.REFUSED
    assert decide(pool, _ask(70, tries=1), policy).outcome is Outcome.DEFERRED


def test_a_request_larger_than_the_pool_is_refused_at_once_and_blames_no_claim() -> None:
    decision = decide(_resident60(), _ask(81), action_policy())
    assert decision.outcome is Outcome.REFUSED
    assert decision.reason is Reason.LARGER_THAN_POOL
    assert decision.blocking_claim_ids == ()


def test_bounding_gives_what_is_there_and_leaves_residents_alone() -> None:
    decision = decide(_resident60(), _ask(70, min_arena_blocks=8), _line(HARD, "bound_active_live, refuse"))
    assert decision.outcome is Outcome.BOUNDED
    assert decision.actions == (Action.BOUND_ACTIVE_LIVE,)
    assert decision.plan.live_blocks == 20
    assert not decision.admits_reuse
    too_large = decide(_resident60(), _ask(70, min_arena_blocks=21), _line(HARD, "bound_active_live, refuse"))
    assert too_large.outcome is Outcome.REFUSED


def test_bounding_takes_claims_only_to_reach_its_least() -> None:
    pool = Pool(80)
    pool.claim("hard", HARD, 60)
    pool.claim("small", DEMOTABLE, 10)
    decision = decide(pool, _ask(70, min_arena_blocks=15), _line(HARD, "bound_active_live, refuse"))
    assert decision.plan.live_blocks == 15
    assert decision.plan.demote == ("small",)


def test_recompute_and_offload_active_need_leave_and_one_chunk_of_room() -> None:
    bulky = {"request_id": "active", "live_plan": BULKY}
    split = decide(_resident60(), ActiveRequest(**bulky, may_recompute=True), _line(HARD, "recompute_split, refuse"))
    assert split.actions == (Action.RECOMPUTE_SPLIT,)
    assert split.plan.live_blocks == 20
    refused = decide(_resident60(), ActiveRequest(**bulky), _line(HARD, "recompute_split, refuse"))
    assert refused.outcome is Outcome.REFUSED
    spilling = _line(HARD, "offload_active, refuse")
    moved = decide(_resident60(host_free_blocks=50), ActiveRequest(**bulky, may_offload=True), spilling)
    assert moved.plan.offload_active_blocks == 50
    assert moved.plan.live_blocks == 20
    no_room = decide(_resident60(host_free_blocks=49), ActiveRequest(**bulky, may_offload=True), spilling)
    assert no_room.outcome is Outcome.REFUSED


def test_the_cheapest_route_is_taken() -> None:
    routes = (Route(target="far", cost=4.0), Route(target="near", cost=1.0))
    decision = decide(_resident60(), _ask(70, routes=routes), _line(HARD, "route_elsewhere, refuse"))
    assert decision.outcome is Outcome.ROUTED
    assert decision.plan.route == Route(target="near", cost=1.0)


def test_capacity_is_added_by_the_shortfall_and_only_when_there_is_that_much() -> None:
    policy = _line(HARD, "add_capacity, refuse")
    decision = decide(_resident60(addable_blocks=50), _ask(70), policy)
    assert decision.actions == (Action.CAPACITY_REQUIRED, Action.SERVE_ACTIVE_PRESERVE_RESIDENT)
    assert decision.plan.add_blocks == 50
    assert decision.plan.evict_blocks == 0
    assert decide(_resident60(addable_blocks=49), _ask(70), policy).outcome is Outcome.REFUSED


def test_harm_happens_only_where_the_operator_wrote_it() -> None:
    decision = decide(_resident60(), _ask(70), _line(HARD, "harm"))
    assert decision.plan.harm == ("claim:resident",)
    assert decision.actions == (Action.SERVE_ACTIVE_EVICT_RESIDENT,)


def test_claims_that_reserve_nothing_are_evictable_like_anybody() -> None:
    pool = Pool(80)
    pool.claim("liked", ProtectionMode.SOFT_PRIORITY, 30)
    pool.claim("watched", ProtectionMode.BEST_EFFORT, 30)
    decision = decide(pool, _ask(50), action_policy())
    assert decision.actions == (Action.SERVE_ACTIVE_EVICT_RESIDENT,)
    assert decision.plan.claims == ()
    assert decision.plan.evict_blocks == 30
    assert decision.feasibility is Feasibility.FEASIBLE


def test_a_request_is_not_blocked_by_the_claim_it_reuses() -> None:
    pool = Pool(80)
    held = pool.claim("own", HARD, 60)
    decision = decide(pool, _ask(70, reuse=pool.reuse_of(held)), action_policy())
    assert decision.outcome is Outcome.SERVED
    assert decision.plan.evict_blocks == 0


def test_only_the_part_of_its_own_claim_that_it_does_not_use_can_block_a_request() -> None:
    pool = Pool(80)
    held = pool.claim("own", HARD, 60)
    decision = decide(pool, _ask(50, reuse=pool.reuse_of(held[:10])), _line(HARD, "refuse"))
    assert decision.shortfall_blocks == 20
    assert decision.blocking_claim_ids == ("own",)


def test_other_active_work_is_counted_and_no_claim_is_blamed_for_it() -> None:
    pool = Pool(80)
    pool.fill(50, in_use=True)
    pool.claim("small", HARD, 5)
    decision = decide(pool, _ask(40), action_policy())
    assert decision.outcome is Outcome.DEFERRED
    assert decision.reason is Reason.WAITS_FOR_ACTIVE
    assert decision.line == "active"
    assert decision.shortfall_blocks == 15
    assert decision.waits_for_active_blocks == 10
    assert decision.blocking_claim_ids == ()


def test_where_active_work_and_claims_are_both_in_the_way_both_are_told() -> None:
    pool = Pool(80)
    pool.claim("hard", HARD, 50)
    pool.fill(30, in_use=True)
    decision = decide(pool, _ask(60), action_policy())
    assert decision.shortfall_blocks == 60
    assert decision.waits_for_active_blocks == 10
    assert decision.blocking_claim_ids == ("hard",)
    assert decision.line == "hard_protected"


def test_a_claim_in_active_use_is_named_when_it_will_still_be_in_the_way() -> None:
    pool = Pool(80)
    pool.pin(pool.claim("hard", HARD, 60))
    decision = decide(pool, _ask(30), action_policy())
    assert decision.shortfall_blocks == 10
    assert decision.waits_for_active_blocks == 10
    assert decision.blocking_claim_ids == ("hard",)


def test_promised_blocks_are_not_given_away_twice() -> None:
    pool = Pool(80)
    pool.promise(60)
    decision = decide(pool, _ask(30), action_policy())
    assert decision.outcome is Outcome.DEFERRED
    assert decision.shortfall_blocks == 10


def test_write_no_admit_says_nothing_about_residents() -> None:
    pool = Pool(80)
    pool.fill(60)
    decision = decide(pool, _ask(70), action_policy(reuse_admission=ReuseAdmission.NEVER))
    assert decision.actions == (Action.SERVE_ACTIVE_EVICT_RESIDENT, Action.SERVE_ACTIVE_NO_ADMIT)
    assert decision.plan.evict_blocks == 50
    assert not decision.admits_reuse
    free = decide(Pool(80), _ask(70), action_policy(reuse_admission=ReuseAdmission.IF_FREE))
    assert free.admits_reuse
    taken = decide(pool, _ask(70), action_policy(reuse_admission=ReuseAdmission.IF_FREE))
    assert not taken.admits_reuse


def test_a_later_stage_is_read_only_when_the_wait_is_over() -> None:
    policy = _line(DEMOTABLE, "defer 2, demote, refuse")
    pool = _resident60(DEMOTABLE)
    assert decide(pool, _ask(70, tries=1), policy).outcome is Outcome.DEFERRED
    assert decide(pool, _ask(70, tries=2), policy).plan.demote == ("claim:resident",)


def _policy_oracle(policy_name: str, *, usable: int) -> Decision:
    """The published capacity oracle, each policy as one line."""
    lines = {
        "native": ("harm", ReuseAdmission.ALWAYS),
        "write_no_admit": ("harm", ReuseAdmission.NEVER),
        "hard_resident_exclude": ("refuse", ReuseAdmission.ALWAYS),
        "active_deferral": ("defer 1, refuse", ReuseAdmission.ALWAYS),
        "active_refusal": ("refuse", ReuseAdmission.ALWAYS),
    }
    line, reuse = lines[policy_name]
    return decide(_resident60(usable=usable), _ask(70), _line(HARD, line, reuse_admission=reuse))


@pytest.mark.parametrize(
    ("policy_name", "outcome", "actions", "admits"),
    [
        ("native", Outcome.SERVED, (Action.SERVE_ACTIVE_EVICT_RESIDENT,), True),
        (
            "write_no_admit",
            Outcome.SERVED,
            (Action.SERVE_ACTIVE_EVICT_RESIDENT, Action.SERVE_ACTIVE_NO_ADMIT),
            False,
        ),
        ("hard_resident_exclude", Outcome.REFUSED, (Action.REFUSE_ACTIVE,), False),
        ("active_deferral", Outcome.DEFERRED, (Action.DEFER_ACTIVE,), False),
        ("active_refusal", Outcome.REFUSED, (Action.REFUSE_ACTIVE,), False),
    ],
)
def test_the_published_policy_oracle_holds(
    policy_name: str, outcome: Outcome, actions: tuple[Action, ...], admits: bool
) -> None:
    infeasible = _policy_oracle(policy_name, usable=80)
    assert (infeasible.outcome, infeasible.actions, infeasible.admits_reuse) == (outcome, actions, admits)
    feasible = _policy_oracle(policy_name, usable=130)
    assert feasible.outcome is Outcome.SERVED
    assert feasible.actions[0] is Action.SERVE_ACTIVE_PRESERVE_RESIDENT


def test_a_decision_can_be_printed() -> None:
    text = decide(_resident60(), _ask(70), _line(HARD, "refuse")).describe()
    assert "short by 50" in text
    assert "claim:resident" in text
