"""A cache that does everything right is never accused, whatever order things happen in; one wrong row always is."""

from __future__ import annotations

import itertools

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from tenure.kv.geometry import LayerGeometry, LayerKind
from tenure.kv.semantics import (
    Begin,
    Counts,
    Crop,
    Drop,
    Event,
    Finish,
    Fork,
    Read,
    Refusal,
    Reset,
    RuleId,
    SemanticsChecker,
    Sizes,
    Write,
    minimal_witness,
)

LAYERS = (
    LayerGeometry(index=0, kind=LayerKind.SLIDING, kv_heads=1, key_dim=1, value_dim=1, window_rows=3),
    LayerGeometry(index=2, kind=LayerKind.FULL, kv_heads=1, key_dim=1, value_dim=1),
)


class FaultlessCacheMachine(RuleBasedStateMachine):
    """The rows of each live sequence and layer, in plain lists, told to a checker as they come and go."""

    def __init__(self) -> None:
        super().__init__()
        self.checker = SemanticsChecker(LAYERS)
        self.rows: dict[int, dict[int, list[int]]] = {}
        self.finished: set[int] = set()
        self.steps: dict[int, int] = {}
        self.fresh_key = itertools.count()
        self.fresh_sequence = itertools.count()
        self.last_read: Read | None = None

    def tell(self, event: Event) -> None:
        self.checker.feed(event)

    @initialize()
    def begin_first(self) -> None:
        self.begin()

    @rule()
    def begin(self) -> None:
        sequence = next(self.fresh_sequence)
        self.rows[sequence] = {layer.index: [] for layer in LAYERS}
        self.steps[sequence] = 0
        self.tell(Begin(sequence))

    def open_sequences(self) -> list[int]:
        return sorted(set(self.rows) - self.finished)

    @precondition(lambda self: self.open_sequences())
    @rule(data=st.data(), row_count=st.integers(1, 4))
    def step(self, data: st.DataObject, row_count: int) -> None:
        sequence = data.draw(st.sampled_from(self.open_sequences()))
        step = self.steps[sequence] = self.steps[sequence] + 1
        for layer in LAYERS:
            held = self.rows[sequence][layer.index]
            first = len(held)
            keys = tuple(next(self.fresh_key) for _ in range(row_count))
            held.extend(keys)
            self.tell(Write(sequence, layer.index, step, first, keys))
            oldest = 0 if layer.window_rows is None else max(0, first - layer.window_rows + 1)
            oldest = data.draw(st.integers(0, oldest))
            self.last_read = Read(sequence, layer.index, step, tuple(enumerate(held))[oldest:])
            self.tell(self.last_read)
            self.tell(Sizes(sequence, layer.index, step, len(held) - oldest, len(held) - oldest))
            self.count(sequence)

    def count(self, sequence: int) -> None:
        counts = tuple((index, len(rows)) for index, rows in self.rows[sequence].items())
        self.tell(Counts(sequence, counts))

    @precondition(lambda self: self.rows)
    @rule(data=st.data())
    def crop(self, data: st.DataObject) -> None:
        sequence = data.draw(st.sampled_from(sorted(self.rows)))
        rows = data.draw(st.integers(0, len(self.rows[sequence][0])))
        for held in self.rows[sequence].values():
            del held[len(held) - rows :]
        self.tell(Crop(sequence, rows))
        self.count(sequence)
        self.last_read = None

    @precondition(lambda self: self.rows)
    @rule(data=st.data())
    def fork(self, data: st.DataObject) -> None:
        parent = data.draw(st.sampled_from(sorted(self.rows)))
        child = next(self.fresh_sequence)
        self.rows[child] = {index: list(held) for index, held in self.rows[parent].items()}
        self.steps[child] = self.steps[parent]
        if parent in self.finished:
            self.finished.add(child)
        self.tell(Fork(parent, child))
        self.last_read = None

    @precondition(lambda self: self.rows)
    @rule(data=st.data())
    def finish(self, data: st.DataObject) -> None:
        sequence = data.draw(st.sampled_from(sorted(self.rows)))
        self.finished.add(sequence)
        self.tell(Finish(sequence))

    @precondition(lambda self: self.rows)
    @rule(data=st.data())
    def drop(self, data: st.DataObject) -> None:
        sequence = data.draw(st.sampled_from(sorted(self.rows)))
        del self.rows[sequence]
        self.tell(Drop(sequence))
        self.last_read = None

    @rule(operation=st.sampled_from(["write", "crop", "fork", "drop", "reset"]))
    def refuse(self, operation: str) -> None:
        self.tell(Refusal(operation, permitted=True, detail=""))

    @rule()
    def reset(self) -> None:
        self.rows.clear()
        self.finished.clear()
        self.tell(Reset())
        self.last_read = None

    @precondition(lambda self: self.last_read is not None and self.checker.violation is None)
    @rule(data=st.data())
    def one_wrong_row_is_always_found(self, data: st.DataObject) -> None:
        read = self.last_read
        if read is None:
            return
        place = data.draw(st.integers(0, len(read.rows) - 1))
        position = read.rows[place][0]
        wrong = Read(
            read.sequence, read.layer, read.step, (*read.rows[:place], (position, "?"), *read.rows[place + 1 :])
        )
        accused = SemanticsChecker(LAYERS)
        for event in (*self.checker.events, wrong):
            violation = accused.feed(event)
        assert violation is not None
        assert violation.rule.id in {RuleId.APPEND, RuleId.FINISHED, RuleId.REFUSAL}
        witness = minimal_witness(violation, layers=LAYERS).witness
        assert witness[-1] == wrong
        assert len(witness) <= 4

    @invariant()
    def nothing_is_held_against_a_faultless_cache(self) -> None:
        assert self.checker.violation is None


TestFaultlessCacheMachine = FaultlessCacheMachine.TestCase
