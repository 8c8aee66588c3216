"""Whatever is asked of a correct runtime, in whatever order, the examiner finds nothing broken in its trace."""

from __future__ import annotations

import random
from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tenure.conformance import Status, grade_trace
from tenure.conformance.subject import (
    ClaimAsk,
    Fault,
    FaultAsk,
    RequestAsk,
    RequestOutcome,
    Setup,
    Subject,
    SubjectFactory,
)
from tenure.conformance.trace import trace_of
from tenure.conformance.zoo import zoo_member
from tenure.conformance.zoo.toy import ToyRuntime
from tenure.errors import TenureError
from tenure.runtime.micro.subject import subject_factory

USABLE_BLOCKS = 12
MODES = ("hard_protected", "demotable", "offloadable", "expiring", "soft_priority", "best_effort")
ACTIONS = ("refuse_active", "defer_active", "demote_resident_claim", "offload_resident")
OWNER = "session:tenant-a:user-7"

Step = tuple[object, ...]


def contents() -> st.SearchStrategy[tuple[int, ...]]:
    """Contents of up to 8 blocks that often share a prefix."""
    return st.builds(
        lambda family, size: tuple(range(family * 100, family * 100 + size)), st.integers(0, 2), st.integers(1, 8)
    )


def steps() -> st.SearchStrategy[list[Step]]:
    number = st.integers(0, 5)
    return st.lists(
        st.one_of(
            st.tuples(
                st.just("claim"), number, contents(), st.sampled_from(MODES), st.integers(1, 8), st.integers(1, 3)
            ),
            st.tuples(st.just("request"), contents(), st.integers(0, 4), st.booleans(), st.booleans()),
            st.tuples(st.just("finish"), number),
            st.tuples(st.just("release"), number),
            st.tuples(st.just("pressure"), st.integers(1, 6)),
            st.tuples(st.just("time"), st.sampled_from((0.5, 3.0, 20.0))),
            st.tuples(st.just("lose"), number, st.integers(0, 7)),
            st.tuples(st.just("fail_restore"), number),
            st.tuples(st.just("reset")),
            st.tuples(st.just("restart")),
        ),
        min_size=15,
        max_size=45,
    )


class Driver:
    """Carries out steps on a subject. Wrong asks are part of the game; they must change nothing."""

    def __init__(self, subject: Subject) -> None:
        self.subject = subject
        self.requests = 0
        self.in_flight: list[str] = []

    def claim(self, number: int, content: tuple[int, ...], mode: str, required: int, revision: int) -> None:
        self.subject.submit_claim(
            ClaimAsk(
                claim_id=f"claim:{number}",
                owner_scope=OWNER,
                prefix_id=f"prefix:{content[0]}",
                content=content,
                footprint_blocks=len(content),
                protection_mode=mode,
                required_blocks=required,
                duration_s=10.0 if mode == "expiring" else None,
                revision=revision,
            )
        )

    def request(self, content: tuple[int, ...], more: int, future_reuse: bool, hold: bool) -> None:
        self.requests += 1
        name = f"request-{self.requests}"
        ask = RequestAsk(request_id=name, content=content, live_blocks=len(content) + more, future_reuse=future_reuse)
        outcome = self.subject.start_request(ask).outcome
        if outcome is RequestOutcome.RUNNING and not hold:
            self.subject.finish_request(name)
        elif outcome is RequestOutcome.RUNNING:
            self.in_flight.append(name)

    def finish(self, number: int) -> None:
        if self.in_flight:
            self.subject.finish_request(self.in_flight.pop(number % len(self.in_flight)))

    def release(self, number: int) -> None:
        self.subject.release_claim(f"claim:{number}", owner_scope=OWNER)

    def pressure(self, blocks: int) -> None:
        self.subject.apply_pressure(blocks=blocks)

    def time(self, seconds: float) -> None:
        self.subject.advance_clock(seconds=seconds)

    def lose(self, number: int, position: int) -> None:
        self.subject.inject_failure(FaultAsk(fault=Fault.LOSE_BLOCK, claim_id=f"claim:{number}", position=position))

    def fail_restore(self, number: int) -> None:
        self.subject.inject_failure(FaultAsk(fault=Fault.FAIL_RESTORE, claim_id=f"claim:{number}"))

    def reset(self) -> None:
        if not self.in_flight:
            self.subject.reset()

    def restart(self) -> None:
        self.in_flight.clear()
        self.subject.restart()


def random_script(chance: random.Random, count: int) -> list[Step]:
    """Steps as `steps` draws them, most of them claims and requests, for a walk that needs no shrinking."""
    script: list[Step] = []
    for _ in range(count):
        number, family = chance.randrange(6), 100 * chance.randrange(3)
        content = tuple(range(family, family + chance.randrange(1, 9)))
        menu: tuple[tuple[int, Step], ...] = (
            (
                25,
                ("claim", number, content, chance.choice(MODES), chance.randint(1, len(content)), chance.randint(1, 3)),
            ),
            (35, ("request", content, chance.randrange(5), chance.random() < 0.8, chance.random() < 0.3)),
            (10, ("finish", number)),
            (5, ("release", number)),
            (8, ("pressure", chance.randint(1, 6))),
            (5, ("time", chance.choice((0.5, 3.0, 20.0)))),
            (5, ("lose", number, chance.randrange(8))),
            (5, ("fail_restore", number)),
            (1, ("reset",)),
            (1, ("restart",)),
        )
        script += chance.choices([step for _, step in menu], weights=[weight for weight, _ in menu])
    return script


def broken_on_a_walk(factory: SubjectFactory, seed: int) -> list[tuple[str, str]]:
    chance = random.Random(seed)
    actions = tuple(chance.sample(ACTIONS, chance.randint(1, 3)))
    subject = run(factory, actions, random_script(chance, 40))
    verdict = grade_trace(trace_of(subject.events()))
    return [(r.check_id, r.what) for r in verdict.results if r.status is Status.FAIL]


def run(factory: SubjectFactory, actions: tuple[str, ...], script: list[Step]) -> Subject:
    subject = factory(
        Setup(usable_blocks=USABLE_BLOCKS, conflict_actions=actions, host_tier_blocks=10, defer_limit_s=5.0)
    )
    driver = Driver(subject)
    for name, *given_values in script:
        act: Callable[..., None] = getattr(driver, str(name))
        try:
            act(*given_values)
        except TenureError:
            continue
    return subject


@pytest.mark.parametrize("factory", [ToyRuntime, subject_factory], ids=["toy", "micro"])
@settings(max_examples=80)
@given(
    actions=st.lists(st.sampled_from(ACTIONS), min_size=1, max_size=3, unique=True).map(tuple),
    script=steps(),
)
def test_a_correct_runtime_is_never_failed_whatever_it_is_asked(
    factory: SubjectFactory, actions: tuple[str, ...], script: list[Step]
) -> None:
    subject = run(factory, actions, script)
    verdict = grade_trace(trace_of(subject.events()))
    broken = [(r.check_id, r.what) for r in verdict.results if r.status is Status.FAIL]
    assert broken == []


@pytest.mark.parametrize("factory", [ToyRuntime, subject_factory], ids=["toy", "micro"])
def test_long_random_walks_of_a_correct_runtime_are_never_failed(factory: SubjectFactory) -> None:
    for seed in range(60):
        assert broken_on_a_walk(factory, seed) == [], f"seed {seed}"


def test_the_toy_neither_loses_nor_invents_a_block() -> None:
    for seed in range(60):
        chance = random.Random(seed)
        toy = run(ToyRuntime, tuple(chance.sample(ACTIONS, chance.randint(1, 3))), random_script(chance, 40))
        assert isinstance(toy, ToyRuntime)
        held = [*toy._free, *toy._cached.values()]
        held += [block for request in toy._requests.values() for block in request.own_blocks]
        assert sorted(held) == list(range(1, USABLE_BLOCKS + 1)), f"seed {seed}"


@pytest.mark.parametrize(
    "name", ["silent-evictor", "early-materialized", "quiet-tail", "harm-after-release", "vague-events"]
)
def test_the_same_walks_do_fail_a_broken_runtime(name: str) -> None:
    assert any(broken_on_a_walk(zoo_member(name).factory, seed) for seed in range(20))
