"""What a caller holds: a request that streams, and a claim with its receipts."""

from __future__ import annotations

import enum
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from tenure.claims.objects import ClaimStatus, ResidentClaim
from tenure.claims.receipts import Receipt
from tenure.errors import CapacityError, TenureError, UsageError

if TYPE_CHECKING:
    from tenure.runtime.hf.engine.engine import Engine


class RequestState(enum.StrEnum):
    """Where a request is, for whoever sent it."""

    WAITING = "waiting"
    RUNNING = "running"
    DONE = "done"
    REFUSED = "refused"
    ROUTED = "routed"
    CANCELLED = "cancelled"
    FAILED = "failed"

    @property
    def is_over(self) -> bool:
        """Whether nothing more will come."""
        return self not in (RequestState.WAITING, RequestState.RUNNING)


class RequestRefusedError(CapacityError):
    """The request was refused; `receipt` says why, because of whom, and when to ask again."""

    def __init__(self, message: str, receipt: Receipt) -> None:
        super().__init__(message)
        self.receipt = receipt


class RequestFailedError(TenureError, RuntimeError):
    """The request began and did not end well; everything it held was given back. `receipt` says so too."""

    def __init__(self, message: str, receipt: Receipt) -> None:
        super().__init__(message)
        self.receipt = receipt


@dataclass(slots=True, eq=False, kw_only=True)
class Request:
    """One prompt and its answer, as it comes. Made by `Engine.submit`; changed by the engine alone.

    Attributes:
        request_id: names it in receipts and in the trace.
        prompt_ids: what was asked.
        max_new_tokens: what room was asked for.
        token_ids: what has been generated so far.
        submitted_s, admitted_s, first_token_s, ended_s: when, on the engine's clock; None while it has not happened.
    """

    request_id: str
    prompt_ids: tuple[int, ...]
    max_new_tokens: int
    owner_scope: str
    salt: str
    adapter_id: str | None
    engine: Engine = field(repr=False)
    submitted_s: float
    state: RequestState = RequestState.WAITING
    token_ids: list[int] = field(default_factory=list)
    admitted_s: float | None = None
    first_token_s: float | None = None
    ended_s: float | None = None
    final_receipt: Receipt | None = field(default=None, repr=False)

    @property
    def receipt(self) -> Receipt:
        """How it stands now, on what numbers, because of whom."""
        return self.final_receipt if self.final_receipt is not None else self.engine.receipt(self.request_id)

    @property
    def ttft_s(self) -> float | None:
        """Seconds from submission to the first token."""
        return None if self.first_token_s is None else self.first_token_s - self.submitted_s

    def tokens(self) -> Iterator[int]:
        """The tokens as they come; the engine works for everybody meanwhile. May be read by several.

        Raises `RequestRefusedError` when it is refused, `RequestFailedError` when it fails, `UsageError` when it was
        cancelled or routed: an answer that is not whole never looks whole.
        """
        given = 0
        while True:
            while given < len(self.token_ids):
                yield self.token_ids[given]
                given += 1
            if self.state is RequestState.DONE:
                return
            if self.state.is_over:
                raise self._why_not()
            self.engine.work()

    def result(self) -> list[int]:
        """All tokens, once they are there. Raises as `tokens`."""
        return list(self.tokens())

    def cancel(self) -> Receipt:
        """End it now; everything it holds is given back. Raises `UsageError` when it is over."""
        return self.engine.cancel(self.request_id)

    def _why_not(self) -> TenureError:
        receipt = self.receipt
        if self.state is RequestState.REFUSED:
            return RequestRefusedError(receipt.sentence(), receipt)
        if self.state is RequestState.FAILED:
            return RequestFailedError(receipt.sentence(), receipt)
        return UsageError(f"request {self.request_id} was {self.state}; it has {len(self.token_ids)} tokens")


@dataclass(slots=True, eq=False, kw_only=True)
class Claim:
    """A promise about a prefix, as its owner holds it. Made by `Engine.claim`."""

    claim: ResidentClaim
    engine: Engine = field(repr=False)

    @property
    def claim_id(self) -> str:
        """Names it in receipts and in the trace."""
        return self.claim.claim_id

    @property
    def receipts(self) -> tuple[Receipt, ...]:
        """Every answer so far: how it was accepted, and each time it gave way or ended, oldest first."""
        return self.engine.claim_receipts(self.claim_id)

    @property
    def receipt(self) -> Receipt:
        """The last of them."""
        return self.receipts[-1]

    @property
    def status(self) -> ClaimStatus:
        """How it stands now. Raises `ClaimError` when it was never accepted, or ended long ago."""
        return self.engine.claim_status(self.claim_id)

    def release(self) -> Receipt:
        """Give it up. Raises `ClaimError` when it ended already."""
        return self.engine.release(self.claim_id, owner_scope=self.claim.owner_scope)
