"""What a read, an announced size and a row count must show, and which rule is broken when they do not."""

from __future__ import annotations

from dataclasses import dataclass

from tenure.kv.semantics.events import Counts, Padding, Read, RowKey, Sizes, Torn
from tenure.kv.semantics.ledger import Breach, Ledger, SequenceState, Track
from tenure.kv.semantics.rules import RuleId


def judge_read(ledger: Ledger, event: Read) -> Breach | None:
    """The first thing wrong with a read, or None; a read without fault also clears what was held against the layer."""
    state = ledger.require(event.sequence)
    track = ledger.track(event.sequence, event.layer)
    case = _ReadCase(ledger, state, track, event)
    if state.step == event.step and event.layer not in state.written_layers:
        return Breach(RuleId.LAYER_ORDER, f"{case.where}: read before the layer was written in this step")
    ledger.exercised.update(case.tested_rules())
    breach = case.stored_twice() or case.wrong_row() or case.missing_row()
    if breach is None:
        state.disturbances.pop(event.layer, None)
    return breach


def judge_sizes(ledger: Ledger, event: Sizes) -> Breach | None:
    """Whether a read returned as many rows as were announced for its mask."""
    state = ledger.require(event.sequence)
    ledger.exercised[RuleId.ACCOUNT] += 1
    if event.announced_rows == event.returned_rows:
        return None
    message = (
        f"step {event.step}, layer {event.layer}, sequence {event.sequence}: rows announced for the read: "
        f"{event.announced_rows}, rows returned: {event.returned_rows}"
    )
    return _put_down(state, event.layer, RuleId.ACCOUNT, message)


def judge_counts(ledger: Ledger, event: Counts) -> Breach | None:
    """Whether the cache's own row counts are right: in the middle of a step, and between two."""
    state = ledger.require(event.sequence)
    mid_step = 0 < len(state.written_layers) < len(ledger.layers)
    between_steps = state.step is not None and not mid_step
    ledger.exercised[RuleId.ACCOUNT] += 1
    if len(event.rows_by_layer) > 1:
        ledger.exercised[RuleId.LAYER_ORDER] += mid_step
        ledger.exercised[RuleId.STEP_ORDER] += between_steps
    for index, _ in event.rows_by_layer:
        if index in state.disturbances:
            ledger.exercised[state.disturbances[index].rule] += 1
    wrong = [(index, said) for index, said in event.rows_by_layer if said != ledger.track(event.sequence, index).end]
    if mid_step:
        wrong = [(index, said) for index, said in wrong if not _lags(state, index, said)]
    if not wrong:
        return None
    index, said = wrong[0]
    message = (
        f"sequence {event.sequence}, layer {index}: the cache counts {said} rows, "
        f"{state.tracks[index].end} were written"
    )
    if mid_step and _leads(state, index, said):
        return _put_down(state, index, RuleId.LAYER_ORDER, f"{message}; this step has not written the layer yet")
    if between_steps and len(wrong) < len(event.rows_by_layer) and _lags(state, index, said):
        return _put_down(state, index, RuleId.STEP_ORDER, f"{message}; other layers have completed the step")
    return _put_down(state, index, RuleId.ACCOUNT, message)


def _lags(state: SequenceState, index: int, said: int) -> bool:
    """Written in the current step, and counted as if not: judged when the step is over."""
    track = state.tracks[index]
    return index in state.written_layers and said == track.end - track.step_rows


def _leads(state: SequenceState, index: int, said: int) -> bool:
    """Not yet written in the current step, and counted as if it were."""
    step_rows = state.tracks[state.written_layers[-1]].step_rows
    return index not in state.written_layers and said == state.tracks[index].end + step_rows


def _put_down(state: SequenceState, layer: int, rule: RuleId, message: str) -> Breach:
    """The breach, put down to the last operation since the layer was seen intact, if there was one."""
    disturbance = state.disturbances.get(layer)
    if disturbance is None:
        return Breach(rule, message)
    return Breach(disturbance.rule, f"{message} (all was well before the {disturbance.name})", since=disturbance.name)


@dataclass(frozen=True, slots=True)
class _ReadCase:
    """One read against what was written: the questions that can be asked of it."""

    ledger: Ledger
    state: SequenceState
    track: Track
    event: Read

    @property
    def where(self) -> str:
        return f"step {self.event.step}, layer {self.event.layer}, sequence {self.event.sequence}"

    def tested_rules(self) -> list[RuleId]:
        """The rules that this read could have shown to be broken."""
        writes_now = self.state.step == self.event.step
        tested = {
            RuleId.READ_COMPLETE: True,
            RuleId.ONE_WRITE: writes_now,
            RuleId.APPEND: len(self.track.keys) > self.track.step_rows,
            RuleId.LAYER_ISOLATION: len(self.ledger.layers) > 1,
            RuleId.SEQUENCE_ISOLATION: len(self.ledger.sequences) > 1,
            RuleId.FINISHED: self.ledger.ever_finished and writes_now,
            RuleId.ALIGNMENT: self.event.padding_rows > 0,
            RuleId.HEADS: self.event.heads > 1,
        }
        if self.event.layer in self.state.disturbances:
            tested[self.state.disturbances[self.event.layer].rule] = True
        return [rule for rule, is_tested in tested.items() if is_tested and (self.event.rows or self.track.keys)]

    def stored_twice(self) -> Breach | None:
        """Whether a row of this step stands at its own position and at another one too."""
        if self.track.step != self.event.step:
            return None
        shown = dict(self.event.rows)
        new_keys = set(self.track.keys[len(self.track.keys) - self.track.step_rows :])
        for position, key in self.event.rows:
            if key not in new_keys:
                continue
            place = self.track.places[key]
            if place != position and shown.get(place) == key:
                message = f"{self.where}: the row written once, at position {place}, also stands at {position}"
                return Breach(RuleId.ONE_WRITE, message)
        return None

    def wrong_row(self) -> Breach | None:
        """Whether some position shows another row than the one written there."""
        for position, found in self.event.rows:
            if position >= self.track.end:
                if found is not None and not isinstance(found, Padding):
                    return self._explain(position, found, "is not written yet")
            elif position >= self.track.first:  # below it nothing is known: the sequence was joined midway
                expected = self.track.keys[position - self.track.first]
                if found != expected:
                    return self._explain(position, found, f"should show {expected}")
        return None

    def missing_row(self) -> Breach | None:
        """Whether a position in reach of the layer, or claimed by the cache, is absent from the read."""
        query = self.track.end - self.track.step_rows if self.track.step == self.event.step else self.track.end - 1
        first = max(self.ledger.layers[self.event.layer].visible_from(query), self.track.first)
        shown = {position for position, _ in self.event.rows}
        for position in range(first, self.track.end):
            if position not in shown and (self.event.held is None or position in self.event.held):
                message = f"{self.where}: position {position} is in reach and is not there"
                return _put_down(self.state, self.event.layer, RuleId.READ_COMPLETE, message)
        return None

    def _explain(self, position: int, found: RowKey | None, expectation: str) -> Breach:
        rule, words, since = self._fate_of(found)
        text = "nothing" if found is None else str(found)
        message = f"{self.where}: position {position} {expectation} and shows {text}{words}"
        if since is not None:
            return Breach(rule, message, since=since)
        if rule in {RuleId.READ_COMPLETE, RuleId.APPEND, RuleId.ALIGNMENT}:
            return _put_down(self.state, self.event.layer, rule, message)
        return Breach(rule, message)

    def _fate_of(self, found: RowKey | None) -> tuple[RuleId, str, str | None]:
        """The rule that forbids to show this row here, where the row comes from, and since which operation."""
        birth = None if found is None else self.ledger.births.get(found)
        if birth is None:
            return self._fate_of_a_row_that_nobody_wrote(found)
        if birth.layer != self.event.layer:
            return RuleId.LAYER_ISOLATION, f", which layer {birth.layer} wrote", None
        if found in self.ledger.before_reset:
            return RuleId.RESET, ", from before the reset", "reset"
        if found in self.track.places:
            return RuleId.ALIGNMENT, f", the row of position {self.track.places[found]}", None
        if found in self.ledger.cropped:
            return RuleId.ROLLBACK, ", which was cropped", "crop"
        return RuleId.SEQUENCE_ISOLATION, f", which sequence {birth.sequence} wrote", None

    def _fate_of_a_row_that_nobody_wrote(self, found: RowKey | None) -> tuple[RuleId, str, str | None]:
        if found is None:
            return RuleId.READ_COMPLETE, "", None
        if isinstance(found, Torn):
            return RuleId.HEADS, "", None
        if isinstance(found, Padding):
            return RuleId.ALIGNMENT, "", None
        return RuleId.APPEND, ", as nobody wrote it", None
