"""Whose prompt is read next."""

from __future__ import annotations

from collections import Counter

import pytest

from tenure.runtime.hf.engine.schedule import PATIENCE, Reading, next_reader

ORDINARY_STEP, PATIENT_STEP = 0, PATIENCE - 1


def reading(name: str, *, priority: int = 0, served_at: int = 0) -> Reading:
    return Reading(request_id=name, priority=priority, served_at=served_at)


def parts(readings: list[Reading], *, steps: int) -> list[str]:
    """Who gets a part in each of so many steps, with nobody coming or going."""
    served = {each.request_id: each for each in readings}
    order = []
    for step in range(1, steps + 1):
        name = next_reader(served.values(), step=step)
        assert name is not None
        served[name] = reading(name, priority=served[name].priority, served_at=step)
        order.append(name)
    return order


@pytest.mark.parametrize("step", range(PATIENCE))
def test_nobody_is_read_where_nobody_has_anything_to_read(step: int) -> None:
    assert next_reader([], step=step) is None


@pytest.mark.parametrize("step", range(PATIENCE))
def test_one_alone_is_read_in_every_step(step: int) -> None:
    assert next_reader([reading("a", priority=-7, served_at=99)], step=step) == "a"


def test_the_highest_priority_is_read_however_long_others_waited() -> None:
    both = [reading("low", served_at=1), reading("high", priority=1, served_at=50)]
    assert next_reader(both, step=ORDINARY_STEP) == "high"


def test_of_equal_priorities_the_one_that_was_served_longest_ago_is_read() -> None:
    assert next_reader([reading("late", served_at=5), reading("early", served_at=2)], step=ORDINARY_STEP) == "early"


def test_of_those_that_are_equal_in_everything_the_first_is_read() -> None:
    for step in range(PATIENCE):
        assert next_reader(iter([reading("a"), reading("b")]), step=step) == "a"


def test_every_so_often_the_one_that_was_served_longest_ago_is_read_whatever_its_priority() -> None:
    both = [reading("low", priority=-5, served_at=1), reading("high", priority=5, served_at=2)]
    assert next_reader(both, step=PATIENT_STEP) == "low"
    assert next_reader(both, step=PATIENT_STEP + PATIENCE) == "low"
    assert next_reader(both, step=PATIENT_STEP + 1) == "high"


def test_in_a_patient_step_priority_decides_between_those_that_waited_equally_long() -> None:
    assert next_reader([reading("low"), reading("high", priority=1)], step=PATIENT_STEP) == "high"


def test_equals_take_turns() -> None:
    order = parts([reading(name) for name in "abc"], steps=30)
    assert set(Counter(order).values()) == {10}
    assert order[1:13] == order[4:16]


@pytest.mark.parametrize("important", [1, 3, 8])
def test_the_least_important_gets_its_part_in_the_end(important: int) -> None:
    readings = [reading(f"high {index}", priority=9) for index in range(important)]
    order = parts([reading("low", priority=-9), *readings], steps=200)
    turns = [step for step, name in enumerate(order) if name == "low"]
    gaps = [later - earlier for earlier, later in zip([0, *turns], turns, strict=False)]
    assert max(gaps) <= PATIENCE * (important + 1)
    assert len(turns) <= 200 // PATIENCE  # and never more than what patience grants it
