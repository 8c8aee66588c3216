"""What one check found: the nine statuses, and the two sentences of proof that a failure owes."""

from __future__ import annotations

import enum
from collections.abc import Iterable
from dataclasses import dataclass


class Status(enum.StrEnum):
    """How a check ended. Only `PASS` speaks for the subject."""

    PASS = "pass"
    FAIL = "fail"
    XFAIL = "xfail"  #: failed, as its author said beforehand and why
    XPASS = "xpass"  #: passed although its author expected a failure: the expectation is stale
    NOT_EXPOSED = "not_exposed"  #: the subject does not offer what the check drives
    NOT_APPLICABLE = "not_applicable"  #: the check has nothing to ask of this kind of subject
    BLOCKED = "blocked"  #: something that it rests on failed already; failing it again would say nothing new
    INCONCLUSIVE = "inconclusive"  #: the situation was not reached, so nothing was seen: never a pass
    ERROR = "error"  #: the subject or the check crashed


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """What a judge says of a trace.

    Attributes:
        status: `PASS`, `FAIL` or `INCONCLUSIVE`.
        clause_id: the clause that is broken; None unless it failed.
        what: what was seen, in one sentence with numbers.
        why: what the clause asks for instead, in one sentence; empty unless it failed.
        at: indices of the events that show it.
    """

    status: Status
    what: str
    clause_id: str | None = None
    why: str = ""
    at: tuple[int, ...] = ()

    @property
    def failed(self) -> bool:
        """Whether a clause is broken."""
        return self.status is Status.FAIL

    def same_fault(self, other: Finding) -> bool:
        """Whether both say that the same clause is broken at the same events."""
        return self.failed and other.failed and (self.clause_id, self.at) == (other.clause_id, other.at)


def passed(what: str) -> Finding:
    """The situation was reached, and the clauses were kept in it."""
    return Finding(status=Status.PASS, what=what)


def failed(clause_id: str, *, what: str, why: str, at: tuple[int, ...] = ()) -> Finding:
    """A clause is broken, and this is the proof."""
    return Finding(status=Status.FAIL, clause_id=clause_id, what=what, why=why, at=at)


def inconclusive(what: str) -> Finding:
    """The situation was not reached; `what` says what was missing."""
    return Finding(status=Status.INCONCLUSIVE, what=what)


def in_one_line(error: Exception) -> str:
    """The error's type and message, whatever line ends the message has."""
    return " ".join(f"{type(error).__name__}: {error}".split())


def counted(number: int, what: str) -> str:
    """A number of things in words that read: `no event`, `1 event`, `3 events`."""
    return f"{'no' if number == 0 else number} {what}{'' if number in {0, 1} else 's'}"


def listed(names: Iterable[str]) -> str:
    """Names with commas between them, or `nobody`."""
    return ", ".join(names) or "nobody"
