from __future__ import annotations

from dataclasses import replace

import pytest

pytest.importorskip("torch")
pytest.importorskip("transformers")

from tenure.adapters.transformers.checks import Outcome, check_subject
from tenure.adapters.transformers.driver import menu_of, run
from tenure.adapters.transformers.operations import (
    CropRows,
    Extend,
    FinishSequence,
    Operation,
    Prefill,
    RecordPast,
    Reorder,
    Repeat,
    ResetCache,
    Select,
)
from tenure.adapters.transformers.subjects import Subject, all_subjects, find_subjects
from tenure.errors import UsageError
from tenure.kv.semantics import RULES, RuleId

BUILDABLE = [subject for subject in all_subjects() if subject.unavailable() is None]
EXACT = [subject for subject in BUILDABLE if subject.name in {
    "transformers:DynamicCache", "transformers:DynamicCache/gemma3", "transformers:DynamicCache/llama4",
    "transformers:DynamicCache/lazy", "transformers:StaticCache", "transformers:StaticCache/qwen2",
    "transformers:StaticCache/mistral", "tenure:PooledCache", "tenure:PooledCache/evicting",
}]  # fmt: skip
#: What a serving loop does with a ragged batch; every cache must come through it.
ORDINARY: tuple[Operation, ...] = (
    Prefill(3, (0, 2)), Extend(), Extend(2), FinishSequence(0), Extend(), Select((1,)), Extend(), ResetCache(),
    Prefill(2, (0, 0)), Extend(), Reorder((1, 1)), Extend(),
)  # fmt: skip


@pytest.mark.parametrize("subject", EXACT, ids=lambda subject: subject.name)
def test_an_ordinary_life_breaks_no_rule(subject: Subject) -> None:
    operations = ORDINARY
    if subject.max_batch == 1:
        operations = (Prefill(3), Extend(), Extend(2), CropRows(2), Extend(), ResetCache(), Prefill(4), Extend())
    elif subject.fixed_batch:
        operations = tuple(op for op in ORDINARY if not isinstance(op, Select))
    result = run(subject, operations)
    assert result.violation is None
    assert result.exercised[RuleId.READ_COMPLETE] > 10


def test_a_run_is_the_same_every_time() -> None:
    (subject,) = find_subjects("transformers:StaticCache/gemma3")
    operations = (Prefill(3, (0, 1)), Extend(), Extend(10))
    one, other = run(subject, operations), run(subject, operations)
    assert one == other
    assert one.violation is not None


def test_operations_that_do_not_fit_the_moment_are_skipped() -> None:
    (subject,) = find_subjects("transformers:DynamicCache")
    misfits: list[Operation] = [
        Extend(), Select((0,)), Reorder((0,)), Repeat(2), FinishSequence(0),
        Prefill(2, (2,)), Prefill(2, (0,)), Prefill(9, (0, 0)), Select((1,)), Select((0, 0)), Reorder((3,)),
        FinishSequence(4), CropRows(99), Extend(),
    ]  # fmt: skip
    assert run(subject, misfits).violation is None


@pytest.mark.parametrize(
    ("name", "offered", "not_offered"),
    [
        ("transformers:DynamicCache", {CropRows, Select, Reorder, Repeat, ResetCache}, {RecordPast}),
        ("transformers:DynamicCache/gemma3", {CropRows, RecordPast}, set()),
        ("transformers:StaticCache", {Reorder, ResetCache}, {CropRows, Select, Repeat}),
        ("tenure:PooledCache", {CropRows, ResetCache}, {Select, Reorder, Repeat}),
    ],
)
def test_a_menu_holds_what_the_cache_offers(name: str, offered: set[type], not_offered: set[type]) -> None:
    (subject,) = find_subjects(name)
    menu = menu_of(subject)
    assert offered <= menu.kinds
    assert menu.kinds.isdisjoint(not_offered)


def test_a_check_needs_a_seed_and_reports_progress() -> None:
    (subject,) = find_subjects("transformers:DynamicCache")
    with pytest.raises(UsageError):
        check_subject(subject, seeds=0)
    done: list[int] = []
    verdict = check_subject(subject, seeds=3, on_progress=done.append)
    assert done == [1, 2, 3]
    assert [rule.rule for rule in verdict.rules] == list(RULES)
    assert verdict.of(RuleId.READ_COMPLETE).outcome is Outcome.KEPT
    assert verdict.of(RuleId.REFUSAL).outcome is Outcome.NOT_EXERCISED


def test_a_subject_that_cannot_be_built_is_skipped_with_the_reason() -> None:
    (subject,) = find_subjects("transformers:DynamicCache")
    verdict = check_subject(replace(subject, unavailable=lambda: "no such thing here"), seeds=1)
    assert verdict.skipped == "no such thing here"
    assert verdict.rules == ()
    with pytest.raises(UsageError, match="no such thing here"):
        verdict.of(RuleId.APPEND)


@pytest.mark.parametrize("name", ["tenure:PooledCache", "tenure:PooledCache/evicting"])
def test_our_own_cache_keeps_every_rule_that_it_can_be_asked_about(name: str) -> None:
    (subject,) = find_subjects(name)
    verdict = check_subject(subject, seeds=25)
    assert [str(broken.witnesses[0]) for broken in verdict.broken] == []
    untested = {rule.rule for rule in verdict.rules if rule.outcome is Outcome.NOT_EXERCISED}
    one_sequence = {RuleId.SEQUENCE_ISOLATION, RuleId.FORK}
    assert untested == (one_sequence if subject.max_write_rows else one_sequence | {RuleId.REFUSAL})


def test_names_find_exact_subjects_then_variants_then_patterns() -> None:
    def names(pattern: str) -> list[str]:
        return [subject.name for subject in find_subjects(pattern)]

    assert names("transformers:StaticCache") == ["transformers:StaticCache"]
    assert names("transformers:QuantizedCache") == [
        f"transformers:QuantizedCache/{backend}" for backend in ("fp8", "quanto", "hqq")
    ]
    assert set(names("tenure:*")) == {name for name in names("*") if name.startswith("tenure:")}
    assert len(set(names("*"))) == len(all_subjects())


def make_own_subject() -> Subject:
    (subject,) = find_subjects("transformers:DynamicCache")
    return replace(subject, name="mine")


def make_nonsense() -> int:
    return 5


def test_a_cache_of_ones_own_is_found_by_module_and_factory() -> None:
    assert [subject.name for subject in find_subjects(f"{__name__}:make_own_subject")] == ["mine"]


@pytest.mark.parametrize(
    "name", ["", "transformers:NoSuchCache", "no_such_module:factory", f"{__name__}:nothing", "nocolon"]
)
def test_a_name_that_nothing_answers_to_is_refused_with_the_names_there_are(name: str) -> None:
    with pytest.raises(UsageError, match="transformers:StaticCache"):
        find_subjects(name)


def test_a_factory_that_makes_something_else_is_refused() -> None:
    with pytest.raises(UsageError, match="int"):
        find_subjects(f"{__name__}:make_nonsense")
