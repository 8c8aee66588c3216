from __future__ import annotations

from dataclasses import replace

import pytest

from tenure.conformance import Profile, ProfileOutcome, Status, Verdict, grade, grade_trace
from tenure.conformance.subject import (
    Capabilities,
    ClaimAnswer,
    ClaimAsk,
    Feature,
    RequestAnswer,
    RequestAsk,
    Setup,
    Subject,
    SubjectFactory,
)
from tenure.conformance.suite import all_checks
from tenure.conformance.trace import trace_of
from tenure.conformance.zoo import zoo_member
from tenure.conformance.zoo.toy import ToyRuntime
from tenure.errors import UsageError


class NativeToy(ToyRuntime):
    """A prefix cache that knows nothing of claims."""

    @property
    def capabilities(self) -> Capabilities:
        return replace(
            super().capabilities,
            protection_modes=frozenset(),
            actions=frozenset(),
            features=frozenset({Feature.BLOCK_EVENTS, Feature.REUSED_BLOCKS, Feature.TENANTS, Feature.ADAPTERS}),
        )


class Crashes(ToyRuntime):
    def submit_claim(self, ask: ClaimAsk) -> ClaimAnswer:
        raise ZeroDivisionError("the pool has no rows\x00")


class AlwaysRoom(ToyRuntime):
    """Has so much room that no pressure is ever felt, and says so."""

    def __init__(self, setup: Setup) -> None:
        super().__init__(replace(setup, usable_blocks=setup.usable_blocks * 10))

    @property
    def capabilities(self) -> Capabilities:
        return replace(super().capabilities, usable_blocks=self.setup.usable_blocks // 10)


class RejectsAll(ToyRuntime):
    def submit_claim(self, ask: ClaimAsk) -> ClaimAnswer:
        self._validate(ask)
        return ClaimAnswer(decision="rejected", reason="mode_not_supported")


def status(verdict: Verdict, check_id: str) -> Status:
    return next(result.status for result in verdict.results if result.check_id == check_id)


def test_what_a_runtime_does_not_expose_is_neither_passed_nor_failed() -> None:
    verdict = grade(NativeToy, profiles=["observe", "hard"])
    assert status(verdict, "L1") is Status.PASS
    assert status(verdict, "L3") is Status.NOT_EXPOSED
    assert verdict.outcomes[Profile.OBSERVE] is ProfileOutcome.KEPT
    assert verdict.outcomes[Profile.HARD] is ProfileOutcome.UNDETERMINED
    assert verdict.strongest_kept == (Profile.OBSERVE,)
    assert verdict.weakest_broken == ()
    assert verdict.exit_code == 1


def test_a_crash_is_an_error_and_what_rests_on_it_is_blocked() -> None:
    verdict = grade(Crashes, profiles=["lease"])
    assert status(verdict, "claim-accepted") is Status.ERROR
    assert status(verdict, "L4") is Status.BLOCKED
    assert verdict.outcomes[Profile.LEASE] is ProfileOutcome.UNDETERMINED
    assert verdict.exit_code == 1


def test_without_pressure_there_is_no_pass() -> None:
    verdict = grade(AlwaysRoom, profiles=["observe"])
    assert status(verdict, "L1") is Status.INCONCLUSIVE
    assert status(verdict, "L2") is Status.INCONCLUSIVE
    assert status(verdict, "usable-blocks-true") is Status.FAIL


def test_a_runtime_that_rejects_every_claim_is_inconclusive_and_not_conforming() -> None:
    verdict = grade(RejectsAll, profiles=["hard"])
    assert status(verdict, "L3") is Status.INCONCLUSIVE
    assert verdict.failures == ()
    assert verdict.outcomes[Profile.HARD] is ProfileOutcome.UNDETERMINED


def test_a_stronger_profile_is_broken_when_a_weaker_one_is() -> None:
    verdict = grade(zoo_member("sum-counter").factory, profiles=["bounded"])
    assert verdict.outcomes[Profile.OBSERVE] is ProfileOutcome.KEPT
    assert {verdict.outcomes[p] for p in (Profile.LEASE, Profile.HARD, Profile.BOUNDED)} == {ProfileOutcome.BROKEN}
    assert verdict.weakest_broken == (Profile.LEASE,)


def test_an_expected_failure_runs_is_told_and_does_not_fail_the_grade() -> None:
    member = zoo_member("small-pool")
    plain = grade(member.factory, profiles=["observe"])
    failing = {result.check_id: "known: the null block is counted" for result in plain.failures}
    verdict = grade(member.factory, profiles=["observe"], expected_failures=failing)
    assert status(verdict, "usable-blocks-true") is Status.XFAIL
    assert verdict.outcomes[Profile.OBSERVE] is ProfileOutcome.BROKEN
    assert verdict.exit_code == 0


def test_an_expected_failure_that_passes_is_an_error() -> None:
    verdict = grade(ToyRuntime, profiles=["observe"], expected_failures={"L1": "was broken once"})
    assert status(verdict, "L1") is Status.XPASS
    assert verdict.exit_code == 1


@pytest.mark.parametrize(
    ("expected", "named"),
    [({"L99": "no such check"}, "L99"), ({"L1": "  "}, "reason")],
)
def test_an_unknown_or_unexplained_expectation_is_wrong_input(expected: dict[str, str], named: str) -> None:
    with pytest.raises(UsageError, match=named):
        grade(ToyRuntime, expected_failures=expected)


def test_an_unknown_profile_is_wrong_input() -> None:
    with pytest.raises(UsageError, match="observe, soft, lease, hard, tiered, bounded"):
        grade(ToyRuntime, profiles=["harder"])


def test_every_subject_that_was_made_is_closed_also_after_a_crash() -> None:
    class Counted(Crashes):
        made = 0
        closed = 0

        def __init__(self, setup: Setup) -> None:
            super().__init__(setup)
            Counted.made += 1

        def close(self) -> None:
            Counted.closed += 1

    grade(Counted, profiles=["lease"])
    assert Counted.made == Counted.closed > 2


def test_the_situations_scale_to_a_subject_with_a_pool_of_its_own() -> None:
    class Larger(ToyRuntime):
        def __init__(self, setup: Setup) -> None:
            super().__init__(replace(setup, usable_blocks=200, host_tier_blocks=setup.host_tier_blocks * 2.5))

    verdict = grade(Larger, profiles=["hard", "tiered"])
    assert [(r.check_id, r.what) for r in verdict.results if r.status is not Status.PASS] == []


def test_a_recorded_trace_can_break_a_profile_and_never_keep_one() -> None:
    subject = ToyRuntime(Setup())
    subject.start_request(RequestAsk(request_id="r", content=(1, 2, 3), live_blocks=3))
    good = grade_trace(trace_of(subject.events()))
    assert set(good.outcomes.values()) == {ProfileOutcome.UNDETERMINED}
    assert good.exit_code == 0
    records = [dict(record) for record in subject.events()]
    del records[2]
    bad = grade_trace(trace_of(records))
    assert bad.broken_clauses == ("TNR-EVT-002",)
    assert bad.weakest_broken == (Profile.OBSERVE,)
    assert bad.exit_code == 1


def test_check_ids_are_unique_and_rest_only_on_earlier_checks() -> None:
    seen: set[str] = set()
    for check in all_checks():
        assert check.check_id not in seen
        assert set(getattr(check, "rests_on", ())) <= seen
        seen.add(check.check_id)


def test_one_refused_answer_is_not_taken_for_a_served_one() -> None:
    class Liar(ToyRuntime):
        def finish_request(self, request_id: str) -> RequestAnswer:
            answer = super().finish_request(request_id)
            return replace(answer, reused_blocks=None)

    verdict = grade(Liar, profiles=["hard"])
    assert status(verdict, "C1") is Status.INCONCLUSIVE


def test_an_exit_code_of_1_says_why_and_0_says_nothing() -> None:
    stale = grade(ToyRuntime, profiles=["observe"], expected_failures={"L1": "was broken once"})
    assert set(stale.outcomes.values()) == {ProfileOutcome.KEPT}
    assert stale.exit_reason == (
        "L1 passed although a failure of it was announced (was broken once): take the announcement back"
    )
    failing = grade(zoo_member("small-pool").factory, profiles=["observe"])
    assert failing.exit_reason.startswith("fail: usable-blocks-true")
    unseen = grade(NativeToy, profiles=["hard"])
    assert unseen.exit_reason.startswith("not_exposed: claim-accepted, ")
    assert grade(ToyRuntime, profiles=["observe"]).exit_reason == ""


def raises(_: Setup) -> Subject:
    raise RuntimeError("no device\nat all")


def makes_a_number(_: Setup) -> Subject:
    return 7  # type: ignore[return-value]


def takes_nothing() -> Subject:
    raise NotImplementedError


@pytest.mark.parametrize(
    ("factory", "told"),
    [(raises, "RuntimeError: no device at all"), (makes_a_number, "int"), (takes_nothing, "TypeError")],
)
def test_a_factory_that_makes_no_subject_is_wrong_input_in_one_line(factory: SubjectFactory, told: str) -> None:
    with pytest.raises(UsageError, match=told) as caught:
        grade(factory, profiles=["observe"])
    assert "factory" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_capabilities_that_raise_are_wrong_input_and_the_subject_is_closed() -> None:
    class Shy(ToyRuntime):
        closed = 0

        @property
        def capabilities(self) -> Capabilities:
            raise KeyError("not yet\nknown")

        def close(self) -> None:
            Shy.closed += 1

    with pytest.raises(UsageError, match="KeyError"):
        grade(Shy, profiles=["observe"])
    assert Shy.closed == 1


def test_a_subject_that_cannot_be_closed_is_an_error_of_its_check_and_not_of_the_grade() -> None:
    class Clings(ToyRuntime):
        closes = 0

        def close(self) -> None:
            Clings.closes += 1
            if Clings.closes == 2:
                raise OSError("device busy")

    verdict = grade(Clings, profiles=["observe"])
    assert status(verdict, "request-served") is Status.ERROR


def test_a_recorded_trace_says_what_it_leaves_open_and_a_graded_runtime_nothing() -> None:
    subject = ToyRuntime(Setup())
    ask = ClaimAsk(
        claim_id="c",
        owner_scope="o",
        prefix_id="p",
        content=(1, 2),
        footprint_blocks=2,
        protection_mode="hard_protected",
        required_blocks=2,
    )
    subject.submit_claim(ask)
    subject.start_request(RequestAsk(request_id="r", content=(1, 2, 3), live_blocks=3))
    assert grade_trace(trace_of(subject.events())).left_open == ("claim c (materialized)", "request r (running)")
    subject.finish_request("r")
    subject.release_claim("c", owner_scope="o")
    assert grade_trace(trace_of(subject.events())).left_open == ()
    assert grade(ToyRuntime, profiles=["observe"]).left_open == ()
