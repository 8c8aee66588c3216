"""Each rule against a hand-made stream that breaks it and, in the same breath, one that does not."""

from __future__ import annotations

from collections.abc import Iterable

import pytest

from tenure.errors import UsageError
from tenure.kv.geometry import LayerGeometry, LayerKind
from tenure.kv.semantics import (
    RULES,
    Begin,
    Counts,
    Crop,
    Done,
    Drop,
    Event,
    Finish,
    Fork,
    Padding,
    Read,
    Refusal,
    Reset,
    RuleId,
    SemanticsChecker,
    Sizes,
    Torn,
    Violation,
    Write,
    check,
)


def layer(index: int, *, kind: LayerKind = LayerKind.FULL, window_rows: int | None = None) -> LayerGeometry:
    return LayerGeometry(index=index, kind=kind, kv_heads=1, key_dim=1, value_dim=1, window_rows=window_rows)


TWO_FULL = (layer(0), layer(1))
ONE_SLIDING = (layer(0, kind=LayerKind.SLIDING, window_rows=3),)
ONE_CHUNKED = (layer(0, kind=LayerKind.CHUNKED, window_rows=4),)


def key(position: int, *, layer: int = 0, sequence: int = 0) -> str:
    return f"s{sequence}l{layer}p{position}"


def write(step: int, positions: Iterable[int], *, layer: int = 0, sequence: int = 0, tag: str = "") -> Write:
    wanted = list(positions)
    rows = tuple(key(position, layer=layer, sequence=sequence) + tag for position in wanted)
    return Write(sequence=sequence, layer=layer, step=step, first_position=wanted[0], rows=rows)


def read(step: int, shown: Iterable[int] | dict[int, object], *, layer: int = 0, sequence: int = 0) -> Read:
    if not isinstance(shown, dict):
        shown = {position: key(position, layer=layer, sequence=sequence) for position in shown}
    return Read(sequence=sequence, layer=layer, step=step, rows=tuple(shown.items()))


def step_of(step: int, positions: Iterable[int], *, sequence: int = 0) -> list[Event]:
    """A faultless step of two full layers."""
    wanted = list(positions)
    return [
        event
        for index in (0, 1)
        for event in (
            write(step, wanted, layer=index, sequence=sequence),
            read(step, range(wanted[-1] + 1), layer=index, sequence=sequence),
        )
    ]


def counts(*rows: int, sequence: int = 0) -> Counts:
    return Counts(sequence=sequence, rows_by_layer=tuple(enumerate(rows)))


def verdict(events: list[Event], layers: Iterable[LayerGeometry] = TWO_FULL) -> RuleId | None:
    violation = check(events, layers=layers)
    return None if violation is None else violation.rule.id


PREFIX: list[Event] = [Begin(0), *step_of(0, range(4))]
BROKEN: dict[str, tuple[RuleId, list[Event]]] = {
    "a row changes": (RuleId.APPEND, [*PREFIX, write(1, [4]), read(1, {**{p: key(p) for p in range(5)}, 2: "?"})]),
    "a write leaves a gap": (RuleId.APPEND, [*PREFIX, write(1, [5])]),
    "a write lands on a row": (RuleId.APPEND, [*PREFIX, write(1, [3], tag="again")]),
    "a sequence begins past 0": (RuleId.APPEND, [Begin(0), write(0, [1])]),
    "a layer is written twice in a step": (RuleId.ONE_WRITE, [*PREFIX, write(1, [4]), write(1, [5])]),
    "a row is stored twice": (
        RuleId.ONE_WRITE,
        [*PREFIX, write(1, [4]), read(1, {**{p: key(p) for p in range(5)}, 5: key(4)})],
    ),
    "a write fails": (RuleId.ONE_WRITE, [*PREFIX, Refusal("write", permitted=False, detail="IndexError")]),
    "layers write out of order": (RuleId.LAYER_ORDER, [*PREFIX, write(1, [4], layer=1), write(1, [4], layer=0)]),
    "a layer is read before its write": (RuleId.LAYER_ORDER, [*PREFIX, write(1, [4]), read(1, range(4), layer=1)]),
    "a layer is counted before its write": (RuleId.LAYER_ORDER, [*PREFIX, write(1, [4]), counts(5, 5)]),
    "a step overtakes another": (RuleId.STEP_ORDER, [*PREFIX, write(1, [4]), write(2, [5])]),
    "an old step comes late": (RuleId.STEP_ORDER, [*PREFIX, *step_of(1, [4]), write(0, [5])]),
    "a layer lags behind between steps": (RuleId.STEP_ORDER, [*PREFIX, *step_of(1, [4]), counts(5, 4)]),
    "another layer's row is read": (
        RuleId.LAYER_ISOLATION,
        [*PREFIX, write(1, [4]), read(1, {**{p: key(p) for p in range(5)}, 2: key(2, layer=1)})],
    ),
    "another sequence's row is read": (
        RuleId.SEQUENCE_ISOLATION,
        [*PREFIX, Begin(1), *step_of(0, range(4), sequence=1), write(1, [4]),
         read(1, {**{p: key(p) for p in range(5)}, 2: key(2, sequence=1)})],
    ),
    "a fork reads what its parent wrote later": (
        RuleId.SEQUENCE_ISOLATION,
        [*PREFIX, Fork(0, 1), *step_of(1, [4]), write(1, [4], sequence=1),
         read(1, {**{p: key(p) for p in range(4)}, 4: key(4)}, sequence=1)],
    ),
    "a finished sequence is extended": (RuleId.FINISHED, [*PREFIX, Finish(0), write(1, [4])]),
    "a leaving sequence takes a row along": (
        RuleId.FINISHED,
        [*PREFIX, Begin(1), *step_of(0, range(4), sequence=1), Drop(1), write(1, [4]), read(1, [0, 1, 2, 4])],
    ),
    "a batch cannot be thinned": (RuleId.FINISHED, [*PREFIX, Refusal("drop", permitted=False, detail="?")]),
    "the oldest row is gone": (RuleId.READ_COMPLETE, [*PREFIX, write(1, [4]), read(1, range(1, 5))]),
    "the newest row is not there yet": (RuleId.READ_COMPLETE, [*PREFIX, write(1, [4]), read(1, range(4))]),
    "a row is blank": (RuleId.READ_COMPLETE, [Begin(0), write(0, range(2)), read(0, {0: None, 1: key(1)})]),
    "a claimed row is not there": (
        RuleId.READ_COMPLETE,
        [*PREFIX, write(1, [4]), Read(0, 0, 1, ((3, key(3)), (4, key(4))), held=frozenset({1, 3, 4}))],
    ),
    "rows are read one place off": (
        RuleId.ALIGNMENT,
        [*PREFIX, write(1, [4]), read(1, {p: key(min(p + 1, 4)) for p in range(4)})],
    ),
    "padding is read as a row": (
        RuleId.ALIGNMENT,
        [*PREFIX, write(1, [4]), read(1, {**{p: key(p) for p in range(5)}, 0: Padding()})],
    ),
    "one head shows another row": (
        RuleId.HEADS,
        [*PREFIX, write(1, [4]), read(1, {**{p: key(p) for p in range(5)}, 3: Torn((key(3), key(2)))})],
    ),
    "fewer rows come back than announced": (RuleId.ACCOUNT, [*PREFIX, write(1, [4]), Sizes(0, 0, 1, 5, 4)]),
    "the count is wrong everywhere": (RuleId.ACCOUNT, [*PREFIX, counts(3, 3)]),
    "the count of a fresh sequence is not 0": (RuleId.ACCOUNT, [Begin(0), counts(0, 1)]),
    "a cropped row is still counted": (RuleId.ROLLBACK, [*PREFIX, Crop(0, 1), counts(4, 4)]),
    "a cropped row is read": (
        RuleId.ROLLBACK,
        [*PREFIX, Crop(0, 1), write(1, [3], tag="new"), read(1, range(4))],
    ),
    "a crop takes a row too many": (
        RuleId.ROLLBACK,
        [*PREFIX, Crop(0, 1), write(1, [3], tag="new"), read(1, {1: key(1), 2: key(2), 3: key(3) + "new"})],
    ),
    "a crop fails": (RuleId.ROLLBACK, [*PREFIX, Refusal("crop", permitted=False, detail="?")]),
    "a batch loses a row when it is rearranged": (
        RuleId.FORK,
        [*PREFIX, Done("fork"), write(1, [4]), read(1, range(1, 5))],
    ),
    "a fork lacks a row": (
        RuleId.FORK,
        [*PREFIX, Fork(0, 1), write(1, [4], sequence=1),
         read(1, {**{p: key(p) for p in range(3)}, 4: key(4, sequence=1)}, sequence=1)],
    ),
    "a row survives a reset": (
        RuleId.RESET,
        [*PREFIX, Reset(), Begin(1), write(0, range(2), sequence=1), read(0, {0: key(0), 1: key(1)}, sequence=1)],
    ),
    "the count survives a reset": (RuleId.RESET, [*PREFIX, Reset(), Begin(1), counts(4, 4, sequence=1)]),
    "a refused write is counted": (
        RuleId.REFUSAL,
        [*PREFIX, Refusal("write", permitted=True, detail="full"), counts(5, 4)],
    ),
    "a refused write costs a row": (
        RuleId.REFUSAL,
        [*PREFIX, Refusal("write", permitted=True, detail="full"), write(1, [4]), read(1, range(1, 5))],
    ),
}  # fmt: skip


@pytest.mark.parametrize("story", BROKEN)
def test_each_story_breaks_its_rule_and_nothing_before_its_last_event_does(story: str) -> None:
    rule, events = BROKEN[story]
    assert verdict(events) == rule
    assert verdict(events[:-1]) is None


def test_every_rule_has_a_story_that_breaks_it() -> None:
    assert {rule for rule, _ in BROKEN.values()} == set(RULES)


@pytest.mark.parametrize("story", BROKEN)
def test_a_witness_shows_the_same_finding_and_no_event_of_it_can_be_left_out(story: str) -> None:
    _, events = BROKEN[story]
    whole = check(events, layers=TWO_FULL)
    assert isinstance(whole, Violation)
    assert whole.witness[-1] == events[-1]
    again = check(whole.witness, layers=TWO_FULL)
    assert again == whole
    for place in range(len(whole.witness)):
        shorter = whole.witness[:place] + whole.witness[place + 1 :]
        checker = SemanticsChecker(TWO_FULL)
        try:
            for event in shorter:
                checker.feed(event)
        except UsageError:
            continue
        assert checker.violation is None or checker.violation.message != whole.message


def test_a_long_stream_is_cut_down_to_the_two_events_that_matter() -> None:
    events: list[Event] = [Begin(0), *step_of(0, range(50))]
    for step in range(1, 40):
        events += step_of(step, [49 + step])
    whole = check([*events, write(40, [90])], layers=TWO_FULL)
    assert whole is not None
    assert whole.rule.id is RuleId.APPEND
    assert [str(event) for event in whole.witness] == [
        "step 39: layer 0 writes positions [88, 89) of 0",
        "step 40: layer 0 writes positions [90, 91) of 0",
    ]


def test_a_sliding_layer_must_show_its_window_and_need_not_show_more() -> None:
    prefix: list[Event] = [Begin(0), write(0, range(6)), read(0, range(6))]
    kept: list[Event] = [*prefix, write(1, [6]), read(1, [4, 5, 6])]
    assert verdict(kept, ONE_SLIDING) is None
    assert verdict([*prefix, write(1, [6]), read(1, [5, 6])], ONE_SLIDING) is RuleId.READ_COMPLETE
    # A chunk of two rows is read by a query at position 6, which reaches back to position 4.
    assert verdict([*prefix, write(1, [6, 7]), read(1, [5, 6, 7])], ONE_SLIDING) is RuleId.READ_COMPLETE


def test_a_chunked_layer_must_show_its_chunk_and_need_not_show_more() -> None:
    prefix: list[Event] = [Begin(0), write(0, range(6)), read(0, range(6))]
    assert verdict([*prefix, write(1, [6]), read(1, [4, 5, 6])], ONE_CHUNKED) is None
    assert verdict([*prefix, write(1, [6]), read(1, [5, 6])], ONE_CHUNKED) is RuleId.READ_COMPLETE


def test_a_cache_that_claims_less_need_not_show_more_than_it_claims() -> None:
    claims_less = Read(0, 0, 1, ((0, key(0)), (4, key(4))), held=frozenset({0, 4}))
    assert verdict([*PREFIX, write(1, [4]), claims_less]) is None


def test_damage_is_not_put_down_to_an_operation_after_which_the_rows_were_seen_intact() -> None:
    events = [*PREFIX, Crop(0, 1)]
    events += [event for index in (0, 1) for event in (
        write(1, [3], layer=index, tag="new"),
        read(1, {**{p: key(p, layer=index) for p in range(3)}, 3: key(3, layer=index) + "new"}, layer=index),
    )]  # fmt: skip
    assert verdict(events) is None
    lost = read(2, {0: key(0), 1: key(1), 3: key(3) + "new", 4: key(4)})
    assert verdict([*events, write(2, [4]), lost]) is RuleId.READ_COMPLETE


def test_a_sequence_that_was_joined_midway_is_judged_from_there_on() -> None:
    events: list[Event] = [write(7, [100]), read(7, {98: "unknown", 99: "unknown", 100: key(100)}), counts(101)]
    assert verdict(events) is None
    assert verdict([*events, write(8, [101]), read(8, [101])], (layer(0),)) is RuleId.READ_COMPLETE


def test_the_first_violation_stays_the_answer() -> None:
    checker = SemanticsChecker(TWO_FULL)
    for event in BROKEN["a row changes"][1]:
        first = checker.feed(event)
    assert checker.feed(Reset()) is first is checker.violation
    assert first is not None
    assert first.rule.id is RuleId.APPEND


def test_rules_are_counted_as_exercised_only_where_they_could_have_failed() -> None:
    checker = SemanticsChecker(TWO_FULL)
    checker.feed(Begin(0))
    assert checker.exercised == {}
    for event in step_of(0, range(4)):
        checker.feed(event)
    tested = set(checker.exercised)
    assert {RuleId.READ_COMPLETE, RuleId.ONE_WRITE, RuleId.LAYER_ISOLATION} <= tested
    assert tested.isdisjoint(
        {RuleId.ROLLBACK, RuleId.FORK, RuleId.RESET, RuleId.REFUSAL, RuleId.FINISHED, RuleId.SEQUENCE_ISOLATION}
    )


@pytest.mark.parametrize(
    "event",
    [
        Begin(0),
        Fork(9, 1),
        Fork(0, 0),
        Crop(9, 1),
        Crop(0, -1),
        Drop(9),
        Finish(9),
        read(1, [0], sequence=9),
        read(1, [0], layer=9),
        write(1, [4], layer=9),
        Write(0, 0, 1, 4, (key(0),)),
        Sizes(9, 0, 1, 1, 1),
        counts(1, 1, 1),
        Done("think"),
        Refusal("think", permitted=True, detail=""),
    ],
)
def test_an_event_that_cannot_be_is_the_observers_fault_and_is_not_taken(event: Event) -> None:
    checker = SemanticsChecker(TWO_FULL)
    for known in PREFIX:
        checker.feed(known)
    with pytest.raises(UsageError):
        checker.feed(event)
    assert checker.events == tuple(PREFIX)
    for following in step_of(1, [4]):
        assert checker.feed(following) is None


def test_a_checker_without_a_layer_that_stores_rows_is_refused() -> None:
    with pytest.raises(UsageError):
        SemanticsChecker([LayerGeometry(index=0, kind=LayerKind.RECURRENT)])


def test_a_violation_prints_the_rule_the_finding_and_the_witness() -> None:
    whole = check(BROKEN["a write leaves a gap"][1], layers=TWO_FULL)
    assert str(whole) == (
        "KV-APPEND: A written row never changes, and a new row goes directly after the last one.\n"
        "  broken: step 1, layer 0, sequence 0: written at position 5, expected the next one, 4\n"
        "    step 0: layer 0 writes positions [0, 4) of 0\n"
        "    step 1: layer 0 writes positions [5, 6) of 0"
    )
