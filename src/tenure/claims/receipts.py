"""The one value that answers whoever asked."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from tenure.claims.modes import Action, ClaimState, Outcome, ProtectionMode, Tier
from tenure.claims.validation import require_count, require_finite, require_text
from tenure.errors import ClaimError


class NextStep(StrEnum):
    """What happens next, without the caller doing anything, or what the caller may do."""

    NOTHING = "nothing"
    HELD_UNTIL_RELEASE = "held_until_release"
    HELD_UNTIL_EXPIRY = "held_until_expiry"
    RETRY_LATER = "retry_later"
    WILL_BE_DECIDED_AGAIN = "will_be_decided_again"
    RESUBMIT_SMALLER = "resubmit_smaller"
    RESTORE_BEFORE_REUSE = "restore_before_reuse"
    RECOMPUTE_ON_REUSE = "recompute_on_reuse"


_MEANS_NO_ROOM = frozenset({Outcome.REJECTED, Outcome.REFUSED, Outcome.DEFERRED})


@dataclass(frozen=True, slots=True, kw_only=True)
class ReceiptNumbers:
    """The numbers that an answer rests on, in blocks, as they were when it was given.

    Attributes:
        requested_blocks, granted_blocks: what was asked for, and what is held.
        protected_blocks: blocks on the device that live reserving claims keep there, shared ones once. A request is
            decided on protected + active <= usable.
        active_live_blocks: everything else in flight.
        usable_blocks: what can really be allocated.
        shortfall_blocks: how many were missing.
        owed_blocks: blocks that live reserving claims are owed on the device, shared ones once, computed yet or not. A
            claim is decided on owed + active <= usable. None in the answer to a request.
    """

    requested_blocks: int
    granted_blocks: int
    protected_blocks: int
    active_live_blocks: int
    usable_blocks: int
    shortfall_blocks: int
    owed_blocks: int | None = None

    def __post_init__(self) -> None:
        for name in self.__slots__:
            number = getattr(self, name)
            if number is not None or name != "owed_blocks":
                require_count(name, number, minimum=0, clause="TNR-CAP-005")

    def to_record(self) -> dict[str, int]:
        """A JSON-ready mapping of every number that there is."""
        numbers = {name: getattr(self, name) for name in self.__slots__}
        return {name: number for name, number in numbers.items() if number is not None}


@dataclass(frozen=True, slots=True, kw_only=True)
class ReceiptTokens:
    """What became of a request's prompt, in tokens.

    Attributes:
        reused_tokens: found on the device, and not computed.
        restored_tokens: brought back from a slower tier, and not computed.
        recomputed_tokens: computed again although somebody had them: a claim whose rows could not be brought back, or a
            request that runs without keeping its rows.
    """

    reused_tokens: int = 0
    restored_tokens: int = 0
    recomputed_tokens: int = 0

    def __post_init__(self) -> None:
        for name in self.__slots__:
            require_count(name, getattr(self, name), minimum=0, clause="TNR-ACC-005")

    def to_record(self) -> dict[str, int]:
        """A JSON-ready mapping of every number."""
        return {name: getattr(self, name) for name in self.__slots__}


@dataclass(frozen=True, slots=True, kw_only=True)
class Receipt:
    """What was decided about a claim or a request, on what numbers, because of whom, and what happens next.

    Attributes:
        outcome: what happened.
        reason: why, as one of the contract's reason strings.
        claim_id, request_id: who asked; at least one is given.
        revision: of the claim, None for a request.
        numbers: what the answer rests on, None where no room was at stake.
        tokens: what became of a request's prompt, None for a claim and for a request that does not run.
        is_exact: whether every token of the answer attends over all rows before it. False says that the request runs in
            less than it asked for, with recall, and that its answer may differ; None where nothing runs.
        granted_mode: the mode that the runtime answers for, when a claim was accepted.
        state: the claim's state after the answer.
        action: the contract action that was taken, for a request.
        blocking_claim_ids: the smallest set of claims without which there would have been room, sorted.
        next_step: what happens next.
        retry_after_s: how long to wait before it is worth asking again, when that is known.
        tier: where the claim's blocks are, when that changed.
        caused_by_request_id: the request for which a claim gave way.
        failure: what went wrong on the way, in words, where the outcome is not what was tried first.
        route_target: the worker that the request went to.

    Raises:
        ClaimError: nobody is named, a claim blocks twice, or a number is no number.
    """

    outcome: Outcome
    reason: str
    claim_id: str | None = None
    request_id: str | None = None
    revision: int | None = None
    numbers: ReceiptNumbers | None = None
    granted_mode: ProtectionMode | None = None
    state: ClaimState | None = None
    action: Action | None = None
    blocking_claim_ids: tuple[str, ...] = ()
    next_step: NextStep = NextStep.NOTHING
    retry_after_s: float | None = None
    tier: Tier | None = None
    caused_by_request_id: str | None = None
    tokens: ReceiptTokens | None = None
    is_exact: bool | None = None
    failure: str | None = None
    route_target: str | None = None

    def __post_init__(self) -> None:
        if self.claim_id is None and self.request_id is None:
            raise ClaimError("a receipt answers a claim or a request", field="claim_id", clause="TNR-ACC-005")
        require_text("reason", self.reason, clause="TNR-ACC-005")
        if list(self.blocking_claim_ids) != sorted(set(self.blocking_claim_ids)):
            message = f"must be sorted and without repeats, got {list(self.blocking_claim_ids)}"
            raise ClaimError(message, field="blocking_claim_ids", clause="TNR-ARB-004")
        if (
            self.retry_after_s is not None
            and require_finite("retry_after_s", self.retry_after_s, clause="TNR-ACC-005") < 0
        ):
            raise ClaimError(
                f"must not be negative, got {self.retry_after_s}", field="retry_after_s", clause="TNR-ACC-005"
            )

    @property
    def accepted(self) -> bool:
        """Whether the runtime now answers for the claim."""
        return self.outcome in (Outcome.ACCEPTED, Outcome.CLIPPED, Outcome.RENEWED)

    def to_record(self) -> dict[str, object]:
        """A JSON-ready mapping; fields that say nothing are left out."""
        record: dict[str, object] = {"outcome": self.outcome.value, "reason": self.reason}
        for name in (
            "claim_id",
            "request_id",
            "revision",
            "retry_after_s",
            "caused_by_request_id",
            "is_exact",
            "failure",
        ):
            if getattr(self, name) is not None:
                record[name] = getattr(self, name)
        for name in ("granted_mode", "state", "action", "tier"):
            value = getattr(self, name)
            if value is not None:
                record[name] = value.value
        if self.numbers is not None:
            record["numbers"] = self.numbers.to_record()
        if self.tokens is not None:
            record["tokens"] = self.tokens.to_record()
        record["blocking_claim_ids"] = list(self.blocking_claim_ids)
        record["next_step"] = self.next_step.value
        return record

    def sentence(self) -> str:
        """The receipt in one line of words, numbers included."""
        who = f"claim {self.claim_id}" if self.claim_id is not None else f"request {self.request_id}"
        by = f" by {self.action.value}" if self.action is not None and self.outcome is Outcome.BOUNDED else ""
        to = "" if self.route_target is None else f" to {self.route_target}"
        parts = [f"{who}: {self.outcome.value}{by}{to} ({self.reason})"]
        if self.numbers is not None:
            n = self.numbers
            left = f"protected {n.protected_blocks}" if n.owed_blocks is None else f"owed {n.owed_blocks}"
            parts.append(
                f"asked for {n.requested_blocks} blocks, granted {n.granted_blocks}; {left}"
                f" + active {n.active_live_blocks} of {n.usable_blocks} usable"
            )
            if n.shortfall_blocks and self.outcome in _MEANS_NO_ROOM | {Outcome.CLIPPED}:
                parts.append(f"short by {n.shortfall_blocks}")
        if self.tokens is not None:
            told = {name.removesuffix("_tokens"): number for name, number in self.tokens.to_record().items() if number}
            parts += [f"{name} {number} tokens" for name, number in told.items()]
        if self.is_exact is False:
            parts.append("not exact: it attends over the rows that were recalled")
        if self.failure is not None:
            parts.append(f"after a failure: {self.failure}")
        if self.blocking_claim_ids:
            parts.append(f"because of {', '.join(self.blocking_claim_ids)}")
        if self.next_step is not NextStep.NOTHING:
            parts.append(f"next: {self.next_step.value.replace('_', ' ')}")
        if self.retry_after_s is not None:
            parts.append(f"retry after {self.retry_after_s:g} s")
        return "; ".join(parts)
