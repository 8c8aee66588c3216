"""Judge a stream of cache events: the first broken rule, with the fewest events that show it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tenure.errors import UsageError
from tenure.kv.geometry import LayerGeometry
from tenure.kv.semantics import reads
from tenure.kv.semantics.events import (
    Begin,
    Counts,
    Crop,
    Done,
    Drop,
    Event,
    Finish,
    Fork,
    Read,
    Refusal,
    Reset,
    Sizes,
    Write,
)
from tenure.kv.semantics.ledger import Breach, Ledger
from tenure.kv.semantics.rules import RULES, Rule, RuleId
from tenure.kv.semantics.shrink import shrink


@dataclass(frozen=True, slots=True)
class Violation:
    """A broken rule: what happened, and the events that show it, in stream order, the last one being where it shows.

    `since` names the operation (crop, fork, drop, finish, reset, refusal) that the damage is put down to, because the
    rows were intact before it; None where the events speak for themselves. From `SemanticsChecker.feed` the witness is
    the whole stream so far; `minimal_witness` cuts it down.
    """

    rule: Rule
    message: str
    witness: tuple[Event, ...]
    since: str | None = None

    def __str__(self) -> str:
        lines = [f"{self.rule.id.value}: {self.rule.sentence}", f"  broken: {self.message}"]
        return "\n".join([*lines, *(f"    {event}" for event in self.witness)])


class SemanticsChecker:
    """Takes the events of one cache as they happen and answers with the first rule that is broken.

    `layers` are the layers that store rows (others are ignored); their windows bound what a read must show. An event
    costs O(rows in it). The stream so far is kept, for the witness. After a violation the checker only repeats it.
    """

    def __init__(self, layers: Iterable[LayerGeometry]) -> None:
        self._layers = tuple(layer for layer in layers if layer.stores_rows)
        if not self._layers:
            raise UsageError("A semantics checker needs at least one layer that stores rows, got none.")
        self._ledger = Ledger(self._layers)
        self._events: list[Event] = []
        self._violation: Violation | None = None

    @property
    def violation(self) -> Violation | None:
        """The first violation, or None as long as every rule has been kept."""
        return self._violation

    @property
    def exercised(self) -> Mapping[RuleId, int]:
        """How often each rule was put to a test that could have failed; a rule that is absent never was."""
        return Counter(self._ledger.exercised)

    @property
    def events(self) -> tuple[Event, ...]:
        """The stream so far. O(events)."""
        return tuple(self._events)

    def feed(self, event: Event) -> Violation | None:
        """Take one event; returns the first violation of the stream so far, or None.

        Raises `UsageError`, and takes nothing, for an event about a sequence or layer that cannot be (a bug of the
        observer, not of the cache).
        """
        if self._violation is not None:
            return self._violation
        breach = self._judge(event)
        self._events.append(event)
        if breach is not None:
            self._violation = Violation(
                rule=RULES[breach.rule], message=breach.message, witness=tuple(self._events), since=breach.since
            )
        return self._violation

    def _judge(self, event: Event) -> Breach | None:
        judge = _JUDGES.get(type(event))
        if judge is not None:
            return judge(self._ledger, event)
        _RECORDERS[type(event)](self._ledger, event)
        return None


#: Events that a cache can fail on, and events that only say what happened.
_JUDGES: Mapping[type, Callable[[Ledger, Any], Breach | None]] = {
    Write: Ledger.write,
    Refusal: Ledger.refuse,
    Read: reads.judge_read,
    Sizes: reads.judge_sizes,
    Counts: reads.judge_counts,
}
_RECORDERS: Mapping[type, Callable[[Ledger, Any], None]] = {
    Begin: Ledger.begin,
    Fork: Ledger.fork,
    Crop: Ledger.crop,
    Finish: Ledger.finish,
    Drop: Ledger.drop,
    Reset: Ledger.reset,
    Done: Ledger.done,
}


def check(events: Iterable[Event], *, layers: Iterable[LayerGeometry]) -> Violation | None:
    """The first violation in a whole stream with a minimal witness, or None if every rule is kept."""
    checker = SemanticsChecker(layers)
    for event in events:
        violation = checker.feed(event)
        if violation is not None:
            return minimal_witness(violation, layers=layers)
    return None


def minimal_witness(violation: Violation, *, layers: Iterable[LayerGeometry]) -> Violation:
    """The same violation with the fewest events: no single one can be left out and the very same finding remain.

    Replays the witness against fresh checkers; O(n²) events at worst for a witness of n events.
    """
    kept = tuple(layers)

    def same_finding(events: Sequence[Event]) -> bool:
        found = _first_violation(events, kept)
        return found is not None and found.rule is violation.rule and found.message == violation.message

    return Violation(
        rule=violation.rule,
        message=violation.message,
        witness=shrink(violation.witness, same_finding),
        since=violation.since,
    )


def _first_violation(events: Sequence[Event], layers: tuple[LayerGeometry, ...]) -> Violation | None:
    checker = SemanticsChecker(layers)
    try:
        for event in events:
            if checker.feed(event) is not None:
                break
    except UsageError:  # a sublist may lack the beginning of what it goes on about
        return None
    return checker.violation
