"""What an operator configures: one line a protection mode, read from left to right.

    hard_protected = "expire, defer 30s, refuse"
    offloadable    = "expire, offload_resident, bound_active_live, defer 30s, refuse"

Steps on the claim side (`expire`, `demote`, `offload_resident`, `harm`) make room; steps on the request's side (the
others) make the request pay. A line's steps before its first request-side step are its stage 0, the ones after it
stage 1, and so on; see `tenure.arbiter.arbiter` for how the lines of several modes are read together.
"""

from __future__ import annotations

import enum
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

from tenure.claims.modes import Action, ProtectionMode
from tenure.errors import PolicyError

#: Modes that reserve blocks, from the first to give way to the last. A stronger mode is not touched while weaker ones
#: can make the room. The other modes have no line: their blocks are evicted in the runtime's order, and it is reported.
STRENGTH_ORDER: tuple[ProtectionMode, ...] = (
    ProtectionMode.EXPIRING,
    ProtectionMode.DEMOTABLE,
    ProtectionMode.OFFLOADABLE,
    ProtectionMode.HARD_PROTECTED,
)

#: The line that is read when no claim stands in the way: only other active work does, or the size of the pool.
ACTIVE_LINE = "active"

_WITHOUT_LINE = frozenset(mode.value for mode in ProtectionMode if not mode.reserves_blocks)
_STEP_WORDS: Mapping[str, Action] = MappingProxyType(
    {
        "expire": Action.EXPIRE_RESIDENT_CLAIM,
        "demote": Action.DEMOTE_RESIDENT_CLAIM,
        "offload_resident": Action.OFFLOAD_RESIDENT,
        "harm": Action.SERVE_ACTIVE_EVICT_RESIDENT,
        "bound_active_live": Action.BOUND_ACTIVE_LIVE,
        "recompute_split": Action.RECOMPUTE_SPLIT,
        "offload_active": Action.OFFLOAD_ACTIVE,
        "route_elsewhere": Action.ROUTE_ELSEWHERE,
        "add_capacity": Action.CAPACITY_REQUIRED,
        "defer": Action.DEFER_ACTIVE,
        "refuse": Action.REFUSE_ACTIVE,
    }
)
_WORD_OF: Mapping[Action, str] = MappingProxyType({action: word for word, action in _STEP_WORDS.items()})
_CLAIM_SIDE = frozenset(
    {
        Action.EXPIRE_RESIDENT_CLAIM,
        Action.DEMOTE_RESIDENT_CLAIM,
        Action.OFFLOAD_RESIDENT,
        Action.SERVE_ACTIVE_EVICT_RESIDENT,
    }
)
_STEP = re.compile(r"(?P<word>[a-z_]+)(?:\s+(?P<number>\d+(?:\.\d+)?)(?P<unit>s?))?")


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """One thing to try. A deferral has a bound: in tries, or in seconds since the first one."""

    action: Action
    max_tries: int | None = None
    max_wait_s: float | None = None

    def __str__(self) -> str:
        if self.max_tries is not None:
            return f"{_WORD_OF[self.action]} {self.max_tries}"
        if self.max_wait_s is not None:
            return f"{_WORD_OF[self.action]} {self.max_wait_s:g}s"
        return _WORD_OF[self.action]

    @property
    def is_claim_side(self) -> bool:
        """Whether a claim gives way; otherwise the request pays."""
        return self.action in _CLAIM_SIDE


@dataclass(frozen=True, slots=True, kw_only=True)
class Stage:
    """Claim-side steps, then the request-side step that ends the stage; None where the line ends."""

    claim_side: tuple[Step, ...]
    request_side: Step | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """The steps of one mode, in the order the operator wrote them. Refusing is always the last resort."""

    steps: tuple[Step, ...]
    stages: tuple[Stage, ...] = field(init=False, compare=False, repr=False)

    def __post_init__(self) -> None:
        stages: list[Stage] = []
        waiting: list[Step] = []
        for step in self.steps:
            if step.is_claim_side:
                waiting.append(step)
            else:
                stages.append(Stage(claim_side=tuple(waiting), request_side=step))
                waiting = []
        if waiting:
            stages.append(Stage(claim_side=tuple(waiting), request_side=None))
        object.__setattr__(self, "stages", tuple(stages))

    def __str__(self) -> str:
        return ", ".join(str(step) for step in self.steps)


def parse_line(text: str) -> Line:
    """Read one line of configuration. Raises PolicyError that names the step and what it could have been."""
    steps = tuple(_parse_step(part.strip(), line=text) for part in text.split(",")) if text.strip() else ()
    if not steps:
        raise PolicyError("a line needs at least one step, for example 'defer 30s, refuse' [TNR-ARB-001]")
    for step in steps[:-1]:
        if step.action is Action.REFUSE_ACTIVE:
            raise PolicyError(f"nothing can come after refuse, in line {text!r} [TNR-PRG-003]")
    actions = [step.action for step in steps]
    for action in actions:
        if actions.count(action) > 1:
            raise PolicyError(f"{_WORD_OF[action]} is there twice, in line {text!r} [TNR-ARB-001]")
    return Line(steps=steps)


def _parse_step(text: str, *, line: str) -> Step:
    match = _STEP.fullmatch(text)
    if match is None or match["word"] not in _STEP_WORDS:
        raise PolicyError(f"{text!r} is no step, in line {line!r}; use {', '.join(_STEP_WORDS)} [TNR-ARB-001]")
    action = _STEP_WORDS[match["word"]]
    if action is not Action.DEFER_ACTIVE:
        if match["number"]:
            raise PolicyError(f"{match['word']} takes no number, in line {line!r} [TNR-ARB-001]")
        return Step(action=action)
    if not match["number"]:
        raise PolicyError(
            f"defer needs a bound, tries or seconds, as in 'defer 8' or 'defer 30s', in line {line!r} [TNR-ARB-010]"
        )
    if match["unit"]:
        return Step(action=action, max_wait_s=float(match["number"]))
    if "." in match["number"] or int(match["number"]) < 1:
        raise PolicyError(f"defer counts whole tries from 1, got {match['number']}, in line {line!r} [TNR-ARB-010]")
    return Step(action=action, max_tries=int(match["number"]))


class ReuseAdmission(enum.StrEnum):
    """Whether the rows of a served request may stay for others. It says nothing about residents."""

    ALWAYS = "always"
    NEVER = "never"  #: write no-admit: served, never reusable
    IF_FREE = "if_free"  #: only when nobody had to give way for the request


#: A promise is broken by no default line: no `harm`, hard claims give way only when their time is over.
DEFAULT_LINES: Mapping[str, str] = MappingProxyType(
    {
        "expiring": "expire, defer 30s, refuse",
        "demotable": "expire, demote, defer 30s, refuse",
        "offloadable": "expire, offload_resident, defer 30s, refuse",
        "hard_protected": "expire, defer 30s, refuse",
        ACTIVE_LINE: "defer 30s, refuse",
    }
)


@dataclass(frozen=True, slots=True, kw_only=True)
class ActionPolicy:
    """What is tried, in which order, when protected + active > usable. Make one with `action_policy`.

    Args:
        lines: one a protection mode, and `active` for conflicts without a claim.
        reuse_admission: whether rows of served requests become reusable.
        max_deferred_requests: how many requests may wait at once; the next one is not deferred.
    """

    lines: Mapping[str, Line]
    reuse_admission: ReuseAdmission = ReuseAdmission.ALWAYS
    max_deferred_requests: int = 1024

    def line(self, mode: ProtectionMode) -> Line:
        """The line of a protection mode that reserves blocks."""
        return self.lines[mode.value]

    @property
    def active_line(self) -> Line:
        """The line for conflicts in which no claim stands in the way."""
        return self.lines[ACTIVE_LINE]

    def describe(self) -> str:
        """The configuration as the operator would write it, every line."""
        width = max(len(name) for name in self.lines)
        return "\n".join(f"{name:<{width}} = {str(line)!r}" for name, line in self.lines.items())


def action_policy(
    lines: Mapping[str, str] | None = None,
    *,
    reuse_admission: ReuseAdmission = ReuseAdmission.ALWAYS,
    max_deferred_requests: int = 1024,
) -> ActionPolicy:
    """The default policy, with the given lines in place of the defaults.

    Raises:
        PolicyError: an unknown mode or step, a deferral without a bound, or a line for a mode that reserves nothing:
            the inequality does not count its blocks, so they cannot be a reason to refuse anybody.
    """
    wanted = dict(DEFAULT_LINES)
    for name, text in (lines if lines is not None else {}).items():
        if name in _WITHOUT_LINE:
            raise PolicyError(
                f"{name} reserves nothing: its blocks go in the runtime's order, and no line is read [TNR-ARB-014]"
            )
        if name not in wanted:
            raise PolicyError(f"{name!r} is no protection mode; use one of {', '.join(wanted)} [TNR-ARB-001]")
        wanted[name] = text
    if max_deferred_requests < 0 or math.isnan(max_deferred_requests):
        raise PolicyError(f"max_deferred_requests must be >= 0, got {max_deferred_requests} [TNR-ARB-010]")
    parsed = {name: parse_line(text) for name, text in wanted.items()}
    if any(step.is_claim_side for step in parsed[ACTIVE_LINE].steps):
        raise PolicyError(
            f"line 'active' is read when no claim is in the way: {parsed[ACTIVE_LINE]} has claims pay [TNR-ARB-004]"
        )
    return ActionPolicy(
        lines=MappingProxyType(parsed), reuse_admission=reuse_admission, max_deferred_requests=max_deferred_requests
    )
