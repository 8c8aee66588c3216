"""Drives one cache through a list of operations and tells a checker what it sees."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from tenure.adapters.transformers.batch import Batch
from tenure.adapters.transformers.forward import Forward, describe_error, tell_counts
from tenure.adapters.transformers.operations import (
    CropRows,
    Extend,
    FinishSequence,
    Menu,
    MoveRows,
    Operation,
    Prefill,
    RecordPast,
    Reorder,
    Repeat,
    ResetCache,
    Select,
)
from tenure.adapters.transformers.patterns import RowBook
from tenure.adapters.transformers.subjects import Subject
from tenure.errors import UsageError
from tenure.kv.semantics import Done, Event, Refusal, Reset, RuleId, SemanticsChecker, Violation


@dataclass(frozen=True, slots=True)
class RunResult:
    """What one run showed: the first violation if there was one, and how often each rule was tested until then."""

    violation: Violation | None
    exercised: Counter[RuleId]


def run(subject: Subject, operations: Sequence[Operation]) -> RunResult:
    """Carry out `operations` on a fresh cache of `subject` until a rule breaks. Deterministic; nothing is kept."""
    driver = CacheDriver(subject)
    for operation in operations:
        driver.perform(operation)
        if driver.checker.violation is not None:
            break
    return RunResult(violation=driver.checker.violation, exercised=Counter(driver.checker.exercised))


def menu_of(subject: Subject) -> Menu:
    """What a fresh cache of this subject offers to do. Builds one."""
    cache = subject.build().cache

    def every_layer_has(name: str) -> bool:
        return all(hasattr(layer, name) for layer in cache.layers)

    offered = {
        Prefill: True,
        Extend: True,
        FinishSequence: True,
        CropRows: cache.is_croppable and every_layer_has("crop"),
        ResetCache: every_layer_has("reset"),
        Reorder: subject.max_batch > 1 and every_layer_has("reorder_cache"),
        Select: subject.max_batch > 1 and every_layer_has("batch_select_indices"),
        Repeat: subject.max_batch > 1 and every_layer_has("batch_repeat_interleave"),
        RecordPast: any(hasattr(layer, "activate_past_recording") for layer in cache.layers),
        MoveRows: subject.move_rows is not None,
    }
    kinds = frozenset(kind for kind, is_offered in offered.items() if is_offered)
    return Menu(
        kinds=kinds,
        max_batch=subject.max_batch,
        max_rows=subject.max_rows,
        max_write_rows=subject.max_write_rows,
        max_operations=subject.max_operations,
    )


class CacheDriver:
    """A cache, a dense model of what it should hold, and a checker that hears of everything.

    `perform` carries out one operation; one that does not fit the moment is skipped. Raises `UsageError` for a subject
    whose layers, or whose keys and values, differ in shape.
    """

    def __init__(self, subject: Subject) -> None:
        built = subject.build()
        self._subject = subject
        self._cache = built.cache
        self._layers = [layer for layer in built.geometry.layers if layer.stores_rows]
        shapes = {(layer.kv_heads, layer.key_dim, layer.value_dim) for layer in self._layers}
        heads, key_dim, value_dim = next(iter(shapes))
        if len(shapes) != 1 or key_dim != value_dim:
            raise UsageError(f"{subject.name}: every layer needs the same shape, got {sorted(shapes)}.")
        self._book = RowBook(heads=heads, dim=key_dim, tolerance=subject.tolerance)
        self._batch = Batch()
        self._step = 0
        self._is_torn = False
        self._settled_batch: int | None = None
        self.checker = SemanticsChecker(built.geometry.layers)
        self._performers: dict[type, Callable[[Any], None]] = {
            Prefill: self._prefill,
            Extend: self._extend,
            CropRows: self._crop,
            Select: self._select,
            Reorder: self._reorder,
            Repeat: self._repeat,
            FinishSequence: self._finish,
            ResetCache: self._reset,
            RecordPast: self._record,
            MoveRows: self._move_rows,
        }

    def perform(self, operation: Operation) -> None:
        """Carry out one operation, unless it does not fit the moment or a rule is broken already."""
        if self.checker.violation is None and (not self._is_torn or isinstance(operation, ResetCache)):
            self._performers[type(operation)](operation)

    # ---- one operation each -------------------------------------------------------------------------------------

    def _prefill(self, operation: Prefill) -> None:
        sequences = len(operation.padding_rows)
        fits = self._settled_batch in {None, sequences} and max(operation.padding_rows) < operation.rows
        if self._batch.sequences or not fits or not self._has_room(operation.rows):
            return
        self._tell_all(self._batch.begin(sequences))
        if self._subject.fixed_batch:
            self._settled_batch = sequences
        self._count()
        self._forward(operation.rows, padding_rows=operation.padding_rows, amplitude=1.0)

    def _extend(self, operation: Extend) -> None:
        if self._batch.sequences:
            padding_rows = (0,) * len(self._batch.sequences)
            self._forward(operation.rows, padding_rows=padding_rows, amplitude=operation.amplitude)

    def _crop(self, operation: CropRows) -> None:
        held = self._batch.physical_rows
        rows = min(operation.rows, held)
        # A windowed layer that has let rows go cannot go back, and may say so.
        may_refuse = any(layer.window_rows is not None and held >= layer.window_rows for layer in self._layers)
        if self._attempt("crop", lambda: self._cache.crop(-rows), may_refuse=may_refuse):
            self._tell_all(self._batch.take_back(rows))
            self._count()

    def _select(self, operation: Select) -> None:
        indices = operation.indices
        if self._is_of_batch(indices) and len(set(indices)) == len(indices):
            tensor = torch.tensor(indices)
            self._rearrange(indices, "drop", lambda: self._cache.batch_select_indices(tensor))

    def _reorder(self, operation: Reorder) -> None:
        if self._is_of_batch(operation.indices):
            tensor = torch.tensor(operation.indices)
            self._rearrange(operation.indices, "fork", lambda: self._cache.reorder_cache(tensor))

    def _repeat(self, operation: Repeat) -> None:
        indices = [index for index in range(len(self._batch.sequences)) for _ in range(operation.times)]
        if indices:
            self._rearrange(indices, "fork", lambda: self._cache.batch_repeat_interleave(operation.times))

    def _finish(self, operation: FinishSequence) -> None:
        sequences = self._batch.sequences
        if operation.index < len(sequences) and not sequences[operation.index].finished:
            self._tell_all(self._batch.finish(operation.index))

    def _reset(self, operation: ResetCache) -> None:
        del operation
        if self._attempt("reset", self._cache.reset, may_refuse=False):
            self.checker.feed(Reset())
            self._batch.clear()
            self._is_torn = False

    def _record(self, operation: RecordPast) -> None:
        del operation
        self._cache.activate_past_recording()

    def _move_rows(self, operation: MoveRows) -> None:
        if self._subject.move_rows is not None and self._batch.physical_rows:
            self._subject.move_rows(self._cache, operation.choice)

    # ---- inside -------------------------------------------------------------------------------------------------

    def _tell_all(self, events: Sequence[Event]) -> None:
        for event in events:
            self.checker.feed(event)

    def _count(self) -> None:
        tell_counts(self._cache, self._batch, [layer.index for layer in self._layers], self.checker.feed)

    def _has_room(self, rows: int) -> bool:
        capacity = self._subject.capacity_rows
        return capacity is None or self._batch.physical_rows + rows <= capacity

    def _is_of_batch(self, indices: Sequence[int]) -> bool:
        return bool(indices) and max(indices) < len(self._batch.sequences)

    def _attempt(self, operation: str, call: Callable[[], object], *, may_refuse: bool) -> bool:
        """Whether the cache carried it out. A refusal is told, and what the cache counts after it is looked at."""
        try:
            call()
        except Exception as error:
            self.checker.feed(Refusal(operation, permitted=may_refuse, detail=describe_error(error)))
            self._count()
            return False
        return True

    def _rearrange(self, indices: Sequence[int], operation: str, call: Callable[[], object]) -> None:
        sequences = len(self._batch.sequences)
        if self._settled_batch not in {None, len(indices)} or len(indices) > 2 * max(sequences, 3):
            return
        if self._attempt(operation, call, may_refuse=False):
            self._tell_all([*self._batch.rearrange(indices), Done(operation)])
            self._count()

    def _forward(self, rows: int, *, padding_rows: Sequence[int], amplitude: float) -> None:
        longest = self._subject.max_write_rows
        may_refuse = not self._has_room(rows) or (longest is not None and rows > longest)
        self._step += 1
        self._batch.append(rows, padding_rows=padding_rows)
        refused_layer = Forward(
            subject=self._subject,
            cache=self._cache,
            layers=self._layers,
            book=self._book,
            batch=self._batch,
            tell=self.checker.feed,
            step=self._step,
            rows=rows,
            amplitude=amplitude,
            may_refuse=may_refuse,
        ).run()
        if refused_layer is None:
            return
        for sequence in self._batch.sequences:
            del sequence.slots[len(sequence.slots) - rows :]
        # Earlier layers have the rows, later ones have not: the caller of a real cache could only start again.
        self._is_torn = refused_layer != self._layers[0].index
        if not self._is_torn:
            self._count()
