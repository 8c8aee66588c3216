"""The one clock of the contract: seconds that only go forward, passed in by whoever runs."""

from __future__ import annotations

from collections.abc import Callable

from tenure.claims.validation import require_count, require_seconds

#: Seconds since some fixed moment, never going back. `time.monotonic` is one.
Clock = Callable[[], float]


class StepClock:
    """A clock that counts steps, for runtimes that think in steps: step n is n * `seconds_per_step`.

    Deterministic, so it is also the clock of tests and of the reference runtime.

    Args:
        seconds_per_step: how long a step lasts.

    Raises:
        ClaimError: a step that is not above zero seconds, or a number of steps that is negative.
    """

    def __init__(self, *, seconds_per_step: float = 1.0) -> None:
        self._seconds_per_step = require_seconds("seconds_per_step", seconds_per_step, clause="TNR-LIFE-006")
        self._step = 0

    @property
    def step(self) -> int:
        """Steps so far."""
        return self._step

    def advance(self, steps: int = 1) -> float:
        """Let `steps` pass, and return the time then."""
        self._step += require_count("steps", steps, minimum=0, clause="TNR-LIFE-006")
        return self()

    def duration_s(self, steps: int) -> float:
        """The duration that `steps` steps last: how a published `duration_steps` becomes seconds."""
        return require_count("duration_steps", steps, minimum=1, clause="TNR-ACC-003") * self._seconds_per_step

    def __call__(self) -> float:
        """Seconds since step 0."""
        return self._step * self._seconds_per_step
