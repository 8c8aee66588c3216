"""What an engine remembers of what is over: requests that ended, and every claim's receipts. Bounded in number."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Collection

from tenure.claims.receipts import Receipt
from tenure.errors import UsageError
from tenure.runtime.hf.engine.handles import Request

RECEIPTS_A_CLAIM = 64
"""Receipts kept of one claim: the first, which says what was promised, and the last ones."""
REMEMBERED = 4096
"""Requests that are over, and claims whose receipts are kept, at most; live claims come on top."""


class Records:
    """Guarantees: the receipts of a live claim are never forgotten. `live_claims` names those."""

    def __init__(self, live_claims: Callable[[], Collection[str]]) -> None:
        self._live_claims = live_claims
        self._over: OrderedDict[str, Request] = OrderedDict()
        self._receipts: OrderedDict[str, list[Receipt]] = OrderedDict()

    def __contains__(self, name: object) -> bool:
        return name in self._over or name in self._receipts

    def over(self, request_id: str | None) -> Request | None:
        """The request of that id, if it is over and remembered."""
        return None if request_id is None else self._over.get(request_id)

    def end(self, request: Request) -> None:
        """Remember a request that is over."""
        self._over[request.request_id] = request
        if len(self._over) > REMEMBERED:
            self._over.popitem(last=False)

    def note(self, receipt: Receipt) -> None:
        """Keep a claim's receipt; one that answers a request alone is not kept here."""
        if receipt.claim_id is None:
            return
        told = self._receipts.setdefault(receipt.claim_id, [])
        told.append(receipt)
        if len(told) > RECEIPTS_A_CLAIM:
            del told[1]
        self._receipts.move_to_end(receipt.claim_id)
        if len(self._receipts) > REMEMBERED:
            self._forget_an_ended_claim()

    def _forget_an_ended_claim(self) -> None:
        live = frozenset(self._live_claims())
        ended = next((claim_id for claim_id in self._receipts if claim_id not in live), None)
        if ended is not None:
            del self._receipts[ended]

    def receipts(self, claim_id: str) -> tuple[Receipt, ...]:
        """Every receipt of a claim that is kept, oldest first. Raises `UsageError` for an unknown one."""
        if claim_id not in self._receipts:
            raise UsageError(f"no claim {claim_id!r} was submitted to this engine; receipts are kept for {REMEMBERED}")
        return tuple(self._receipts[claim_id])
