"""What has been written so far, and whether a write, a fork or a refusal may be: the checker's book."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field, replace

from tenure.errors import UsageError
from tenure.kv.geometry import LayerGeometry
from tenure.kv.semantics.events import Begin, Crop, Done, Drop, Finish, Fork, Refusal, Reset, RowKey, Write
from tenure.kv.semantics.rules import RuleId

#: The rule that speaks about an operation, for the case that a cache offers it and then fails to carry it out.
RULE_OF_OPERATION = {
    "write": RuleId.ONE_WRITE,
    "crop": RuleId.ROLLBACK,
    "fork": RuleId.FORK,
    "drop": RuleId.FINISHED,
    "reset": RuleId.RESET,
    "count": RuleId.ACCOUNT,
}


def _rule_of(operation: str) -> RuleId:
    rule = RULE_OF_OPERATION.get(operation)
    if rule is None:
        raise UsageError(f"Unknown operation {operation!r}; expected one of {', '.join(RULE_OF_OPERATION)}.")
    return rule


@dataclass(frozen=True, slots=True)
class Breach:
    """A broken rule before the events that show it are attached."""

    rule: RuleId
    message: str
    since: str | None = None


@dataclass(frozen=True, slots=True)
class Disturbance:
    """The last operation since a sequence's rows were seen intact: damage found now is put down to it.

    `order` counts the disturbances of the stream.
    """

    rule: RuleId
    name: str
    order: int = 0


@dataclass(frozen=True, slots=True)
class Birth:
    """Where a row key was first written."""

    sequence: int
    layer: int
    position: int


@dataclass(slots=True)
class Track:
    """The rows of one sequence in one layer: positions [first, first + len(keys)) are known."""

    first: int = 0
    keys: list[RowKey] = field(default_factory=list)
    places: dict[RowKey, int] = field(default_factory=dict)
    step: int | None = None
    step_rows: int = 0

    @property
    def end(self) -> int:
        """The next position to be written."""
        return self.first + len(self.keys)

    def append(self, keys: tuple[RowKey, ...]) -> None:
        """Add rows at the end."""
        for key in keys:
            self.places[key] = self.end
            self.keys.append(key)

    def drop_last(self, rows: int) -> list[RowKey]:
        """Take back the last `rows` rows, or all there are; returns their keys."""
        kept = max(0, len(self.keys) - rows)
        gone = self.keys[kept:]
        del self.keys[kept:]
        for key in gone:
            del self.places[key]
        return gone

    def copy(self) -> Track:
        """A track that goes its own way from here."""
        return Track(self.first, list(self.keys), dict(self.places), self.step, self.step_rows)


@dataclass(slots=True)
class SequenceState:
    """One live sequence. `written_layers` are those that the current step has written, in order."""

    tracks: dict[int, Track]
    begun: bool
    finished: bool = False
    step: int | None = None
    written_layers: list[int] = field(default_factory=list)
    disturbances: dict[int, Disturbance] = field(default_factory=dict)


class Ledger:
    """The rows of every live sequence, the fate of every other row, and how often each rule was tested."""

    def __init__(self, layers: tuple[LayerGeometry, ...]) -> None:
        self.layers = {layer.index: layer for layer in layers}
        self.sequences: dict[int, SequenceState] = {}
        self.births: dict[RowKey, Birth] = {}
        self.cropped: set[RowKey] = set()
        self.before_reset: set[RowKey] = set()
        self.ever_finished = False
        self.exercised: Counter[RuleId] = Counter()
        self._disturbances_so_far = 0

    # ---- what the observer reports ------------------------------------------------------------------------------

    def begin(self, event: Begin) -> None:
        """Open an empty sequence. Raises `UsageError` for a number in use."""
        if event.sequence in self.sequences:
            raise UsageError(f"Sequence {event.sequence} has already begun; give a new sequence a new number.")
        state = self._new_state(begun=True)
        if self.before_reset:
            self._disturb(state, Disturbance(RuleId.RESET, "reset"))
        self.sequences[event.sequence] = state

    def fork(self, event: Fork) -> None:
        """Open a sequence with all rows of another. Raises `UsageError` for an unknown parent or a number in use."""
        parent = self.require(event.parent)
        if event.child in self.sequences:
            raise UsageError(f"Sequence {event.child} already exists; a fork needs a new number.")
        child = SequenceState(
            tracks={index: track.copy() for index, track in parent.tracks.items()},
            begun=parent.begun,
            finished=parent.finished,
            step=parent.step,
            written_layers=list(parent.written_layers),
        )
        self.sequences[event.child] = child
        for state in (parent, child):
            self._disturb(state, Disturbance(RuleId.FORK, "fork"))

    def crop(self, event: Crop) -> None:
        """Take back the last rows of every layer. Raises `UsageError` for a negative number."""
        state = self.require(event.sequence)
        if event.rows < 0:
            raise UsageError(f"Cannot crop {event.rows} rows of sequence {event.sequence}; give 0 or more.")
        for track in state.tracks.values():
            self.cropped.update(track.drop_last(event.rows))
        self._disturb(state, Disturbance(RuleId.ROLLBACK, "crop"))

    def finish(self, event: Finish) -> None:
        """Close a sequence to writes."""
        self.require(event.sequence).finished = True
        self.ever_finished = True
        for state in self.sequences.values():
            self._disturb(state, Disturbance(RuleId.FINISHED, "finish"))

    def drop(self, event: Drop) -> None:
        """Forget a sequence that has left the cache."""
        self.require(event.sequence)
        del self.sequences[event.sequence]
        self.ever_finished = True
        for state in self.sequences.values():
            self._disturb(state, Disturbance(RuleId.FINISHED, "drop"))

    def reset(self, event: Reset) -> None:
        """Forget all sequences, and remember that nothing written so far may be seen again."""
        del event
        self.before_reset.update(self.births)
        self.sequences.clear()

    def done(self, event: Done) -> None:
        """Whatever is found wrong from now on may be the work of this operation. Raises `UsageError` for an unknown one."""
        rule = _rule_of(event.operation)
        for state in self.sequences.values():
            self._disturb(state, Disturbance(rule, event.operation))

    def refuse(self, event: Refusal) -> Breach | None:
        """Judge a refusal: one that was not permitted breaks the rule of its operation."""
        rule = _rule_of(event.operation)
        self.exercised[rule] += 1
        if not event.permitted:
            return self._failure(event, rule)
        for state in self.sequences.values():
            self._disturb(state, Disturbance(RuleId.REFUSAL, f"refused {event.operation}"))
        return None

    def _failure(self, event: Refusal, rule: RuleId) -> Breach:
        """An operation that failed without need; put down to an operation since which nothing has been seen intact."""
        message = f"{event.operation} failed although nothing forbids it: {event.detail}"
        pending = [disturbance for state in self.sequences.values() for disturbance in state.disturbances.values()]
        if not pending:
            return Breach(rule, message)
        disturbance = max(pending, key=lambda disturbance: disturbance.order)
        return Breach(
            disturbance.rule, f"{message} (all was well before the {disturbance.name})", since=disturbance.name
        )

    def write(self, event: Write) -> Breach | None:
        """Judge a write and, unless it breaks a rule, record it."""
        if event.layer not in self.layers:
            raise UsageError(f"Layer {event.layer} stores no rows; expected one of {sorted(self.layers)}.")
        for key in event.rows:
            if key in self.births:
                raise UsageError(f"Row key {key} was written before; every write needs a key of its own.")
        known = self.sequences.get(event.sequence)
        state = self._new_state(begun=False) if known is None else known
        breach = self._step_breach(state, event) or self._append_breach(state, event)
        if breach is None:
            self.sequences[event.sequence] = state
            self._record_write(state, event)
        return breach

    # ---- what others look up ------------------------------------------------------------------------------------

    def require(self, sequence: int) -> SequenceState:
        """The state of a live sequence. Raises `UsageError` if there is none of that number."""
        state = self.sequences.get(sequence)
        if state is None:
            raise UsageError(f"Sequence {sequence} is not in the cache; begin it or write to it first.")
        return state

    def track(self, sequence: int, layer: int) -> Track:
        """The rows of a live sequence in a layer that stores rows. Raises `UsageError` for an unknown one."""
        state = self.require(sequence)
        if layer not in state.tracks:
            raise UsageError(f"Layer {layer} stores no rows; expected one of {sorted(self.layers)}.")
        return state.tracks[layer]

    # ---- inside -------------------------------------------------------------------------------------------------

    def _new_state(self, *, begun: bool) -> SequenceState:
        return SequenceState(tracks={index: Track() for index in self.layers}, begun=begun)

    def _disturb(self, state: SequenceState, disturbance: Disturbance) -> None:
        self._disturbances_so_far += 1
        ordered = replace(disturbance, order=self._disturbances_so_far)
        state.disturbances = dict.fromkeys(self.layers, ordered)

    def _step_breach(self, state: SequenceState, event: Write) -> Breach | None:
        where = f"step {event.step}, layer {event.layer}, sequence {event.sequence}"
        if state.finished:
            return Breach(RuleId.FINISHED, f"{where}: a finished sequence was written")
        if state.step is None:
            return None
        if state.step == event.step:
            return self._same_step_breach(state, event, where)
        self.exercised[RuleId.STEP_ORDER] += 1
        if event.step < state.step:
            return Breach(RuleId.STEP_ORDER, f"{where}: written after step {state.step} had begun")
        missing = sorted(set(self.layers) - set(state.written_layers))
        if missing and state.begun:
            text = f"{where}: begun although step {state.step} has not written layer {missing[0]}"
            return Breach(RuleId.STEP_ORDER, text)
        return None

    def _same_step_breach(self, state: SequenceState, event: Write, where: str) -> Breach | None:
        self.exercised[RuleId.ONE_WRITE] += 1
        if event.layer in state.written_layers:
            return Breach(RuleId.ONE_WRITE, f"{where}: the layer was written twice in the step")
        self.exercised[RuleId.LAYER_ORDER] += 1
        late = state.written_layers[-1]
        if event.layer < late:
            return Breach(RuleId.LAYER_ORDER, f"{where}: written after layer {late} of the same step")
        return None

    def _append_breach(self, state: SequenceState, event: Write) -> Breach | None:
        track = state.tracks[event.layer]
        self.exercised[RuleId.APPEND] += 1
        if (state.begun or track.keys) and event.first_position != track.end:
            return Breach(
                RuleId.APPEND,
                f"step {event.step}, layer {event.layer}, sequence {event.sequence}: written at position "
                f"{event.first_position}, expected the next one, {track.end}",
            )
        return None

    def _record_write(self, state: SequenceState, event: Write) -> None:
        track = state.tracks[event.layer]
        if not track.keys and not state.begun:
            track.first = event.first_position
        for offset, key in enumerate(event.rows):
            self.births[key] = Birth(event.sequence, event.layer, event.first_position + offset)
        track.append(event.rows)
        track.step, track.step_rows = event.step, len(event.rows)
        if state.step != event.step:
            state.step = event.step
            state.written_layers = []
        state.written_layers.append(event.layer)
