"""The line in front of the control plane: nobody overtakes the same waiting request for ever."""

from __future__ import annotations

from collections.abc import Iterable

from tenure.claims.modes import Outcome
from tenure.claims.receipts import NextStep, Receipt
from tenure.runtime.control import RequestTerms, Work

OVERTAKERS = 8
"""How many later requests may be admitted past one that waits, before newcomers of its priority or less queue behind it."""


class WaitingLine:
    """Requests that have not been decided yet, because others have waited too long already.

    A request that does not fit waits while smaller ones that came later run, which uses the pool well and would starve it.
    So a waiting request is overtaken at most `OVERTAKERS` times by requests of its priority or less; from then on these
    stand in line, in the order of priority and arrival, until it is admitted or its time is up.
    """

    def __init__(self) -> None:
        self._terms: dict[str, RequestTerms] = {}
        self._overtaken: dict[str, int] = {}

    def __len__(self) -> int:
        return len(self._terms)

    def __contains__(self, request_id: str) -> bool:
        return request_id in self._terms

    def must_wait(self, priority: int, waiting: Iterable[Work]) -> bool:
        """Whether a newcomer of this priority has to stand in line. O(waiting)."""
        return self._is_barred(priority, waiting) or any(terms.priority >= priority for terms in self._terms.values())

    def _is_barred(self, priority: int, waiting: Iterable[Work]) -> bool:
        return any(
            work.request.priority >= priority and self._overtaken.get(work.request_id, 0) >= OVERTAKERS
            for work in waiting
        )

    def note_overtaken(self, priority: int, waiting: Iterable[Work]) -> None:
        """A request of this priority was admitted while these waited."""
        for work in waiting:
            if work.request.priority >= priority:
                self._overtaken[work.request_id] = self._overtaken.get(work.request_id, 0) + 1

    def join(self, terms: RequestTerms) -> None:
        """Stand in line."""
        self._terms[terms.request_id] = terms

    def next(self, waiting: Iterable[Work]) -> RequestTerms | None:
        """The first in line that may go on now, taken out of it; None when nobody may."""
        first = min(self._terms.values(), key=lambda terms: -terms.priority, default=None)
        if first is None or self._is_barred(first.priority, waiting):
            return None
        return self._terms.pop(first.request_id)

    def leave(self, request_id: str, *, reason: str) -> Receipt:
        """Leave the line for good."""
        del self._terms[request_id]
        return Receipt(outcome=Outcome.FAILED, reason=reason, request_id=request_id)

    def forget(self, request_id: str) -> None:
        """The request is over: nobody overtakes it any more."""
        self._overtaken.pop(request_id, None)

    def receipt(self, request_id: str) -> Receipt:
        """How one in line stands: it waits to be decided."""
        return Receipt(
            outcome=Outcome.DEFERRED,
            reason="queued_behind_waiting_requests",
            request_id=request_id,
            next_step=NextStep.WILL_BE_DECIDED_AGAIN,
        )
