"""The toy's requests: what fits, who gives way, and what is told of it."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, field

from tenure.conformance.subject import (
    RequestAnswer,
    RequestAsk,
    RequestOutcome,
    Setup,
)
from tenure.conformance.zoo.toy_claims import RESPONSIBLE_STATES, ToyClaim, ToyClaims
from tenure.errors import UsageError

#: Labels of `apply_pressure` start here, so that no check's content meets them.
NEIGHBOUR_LABELS_FROM = 1_000_000


@dataclass(slots=True)
class ToyRequest:
    """A request and what it holds: keys that it uses in the cache, and physical blocks of its own."""

    ask: RequestAsk
    outcome: RequestOutcome = RequestOutcome.DEFERRED
    reason: str = ""
    reused_blocks: int | None = None
    output: str | None = None
    deferred_at_s: float | None = None
    attempts: int = 0
    keys: list[int] = field(default_factory=list)
    own_blocks: list[int] = field(default_factory=list)

    @property
    def answer(self) -> RequestAnswer:
        """How the request stands, for the caller."""
        return RequestAnswer(
            outcome=self.outcome, reason=self.reason, reused_blocks=self.reused_blocks, output=self.output
        )


def live_blocks_needed(ask: RequestAsk) -> int:
    """The largest number of blocks that the request has at any step. Chunks do not bound full attention."""
    chunks = ask.chunk_blocks or (ask.live_blocks,)
    if ask.attention_mode == "recompute_free_between_chunks":
        return min(max(chunks), ask.live_blocks)
    if ask.attention_mode == "sliding_window" and ask.window_blocks is not None:
        return min(ask.window_blocks, ask.live_blocks)
    return ask.live_blocks


@dataclass(frozen=True, slots=True)
class Fit:
    """What a request needs and finds: the two sides of the inequality at one moment."""

    keys: tuple[int, ...]
    reused_blocks: int
    restorable_blocks: int
    live_blocks: int
    available_blocks: int

    @property
    def new_blocks(self) -> int:
        """Blocks it needs beyond those that are cached already; its own claim's rows count once."""
        return max(0, self.live_blocks - self.reused_blocks)

    @property
    def shortfall_blocks(self) -> int:
        """By how much protected + active exceeds usable."""
        return max(0, self.new_blocks - self.available_blocks)


class ToyRequests(ToyClaims):
    """The half of the toy that knows requests and conflicts. `tenure.conformance.zoo.toy` adds the slower tier."""

    def __init__(self, setup: Setup) -> None:
        super().__init__(setup)
        self._requests: dict[str, ToyRequest] = {}
        self._neighbours = itertools.count(1)
        self._labels = itertools.count(NEIGHBOUR_LABELS_FROM)

    def _restore(self, request: ToyRequest, fit: Fit) -> bool:
        """Bring back from the slower tier what the request reuses. There is no tier here, so there is nothing to do."""
        return True

    # Requests -----------------------------------------------------------------------------------------------------

    def start_request(self, ask: RequestAsk) -> RequestAnswer:
        """Admit, defer or refuse; a refused request has taken nothing."""
        if ask.request_id in self._requests or ask.request_id in self._claims:
            raise UsageError(f"request_id: {ask.request_id!r} is taken")
        if ask.live_blocks < max(1, len(ask.content)) and ask.attention_mode == "full_attention":
            raise UsageError(f"live_blocks: {ask.live_blocks} is fewer than the content's {len(ask.content)}")
        request = ToyRequest(ask)
        self._requests[ask.request_id] = request
        self._request_ids.add(ask.request_id)
        self._try(request)
        return request.answer

    def _fit(self, ask: RequestAsk) -> Fit:
        keys = self._keys(ask.identity, ask.content)
        reused = len(list(itertools.takewhile(self._cached.__contains__, keys)))
        restorable = len(list(itertools.takewhile(self._host.__contains__, keys[reused:])))
        available = len(self._free) + len(self._evictable(self._protected_keys(), keys[:reused]))
        return Fit(keys, reused, restorable, live_blocks_needed(ask), available)

    def _try(self, request: ToyRequest) -> None:
        request.attempts += 1
        fit = self._fit(request.ask)
        for action in self.setup.conflict_actions:
            if not fit.shortfall_blocks:
                break
            if action == "defer_active" and self._could_ever_fit(fit):
                self._defer(request, fit)
                return
            if action == "bound_active_live" and fit.available_blocks + fit.reused_blocks > 0:
                fit = self._bound(request, fit)
            elif action in {"demote_resident_claim", "offload_resident"}:
                self._make_room(action, fit)
                fit = self._fit(request.ask)
        if fit.shortfall_blocks:
            self._refuse(request, fit, self._blocking(fit), "capacity_required")
        elif self._restore(request, fit):
            self._admit(request, self._fit(request.ask) if fit.restorable_blocks else fit)

    def _could_ever_fit(self, fit: Fit) -> bool:
        return fit.live_blocks <= self.setup.usable_blocks

    def _own_blocks(self) -> int:
        return sum(len(request.own_blocks) for request in self._requests.values())

    def _live_now(self) -> int:
        return len(self._keys_in_use()) + self._own_blocks()

    def _conflict(self, fit: Fit, blocking: Sequence[ToyClaim]) -> dict[str, object]:
        protected = self._protected_keys()
        held = protected | self._keys_in_use() | set(fit.keys[: fit.reused_blocks])
        return {
            "active_other_live_blocks": self._live_now(),
            "active_live_blocks_current": 0,
            "protected_resident_claims": [
                {"claim_id": claim.ask.claim_id, "protection_mode": claim.ask.protection_mode} for claim in blocking
            ],
            "blocking_claim_ids": sorted(claim.ask.claim_id for claim in blocking),
            "blocking_prefix_ids": sorted(claim.ask.prefix_id for claim in blocking),
            "protected_resident_blocks": len(protected),
            "active_live_blocks_required": fit.live_blocks,
            "resident_plus_active_blocks": len(held) + self._own_blocks() + fit.new_blocks,
            "capacity_shortfall_blocks": fit.shortfall_blocks,
            "free_blocks_before_allocate": fit.available_blocks,
            "feasibility": "infeasible_preserve_resident_and_active"
            if fit.shortfall_blocks
            else "feasible_preserve_resident_and_active",
        }

    def _defer(self, request: ToyRequest, fit: Fit) -> None:
        request.outcome = RequestOutcome.DEFERRED
        if request.deferred_at_s is None:
            request.deferred_at_s = self._now_s
        self._emit(
            "active_request_deferred",
            self._conflict(fit, self._blocking(fit)),
            request_id=request.ask.request_id,
            arbiter_action="defer_active",
            defer_attempts=request.attempts,
            future_reuse_requested=request.ask.future_reuse,
        )

    def _refuse(
        self,
        request: ToyRequest,
        fit: Fit,
        blocking: Sequence[ToyClaim],
        action: str,
        failure_sequence: int | None = None,
    ) -> None:
        request.outcome, request.reason = RequestOutcome.REFUSED, action
        failure = (
            {}
            if failure_sequence is None
            else {
                "restoration_failure_event_sequence": failure_sequence,
                "outcome_claim_id": blocking[0].ask.claim_id,
                "feasibility": "infeasible_restore_claimed_kv",
            }
        )
        self._emit(
            "active_request_refused",
            self._conflict(fit, blocking) | failure,
            request_id=request.ask.request_id,
            arbiter_action=action,
            defer_attempts=request.attempts - 1,
            future_reuse_requested=request.ask.future_reuse,
            future_reuse_admitted=False,
        )

    def _bound(self, request: ToyRequest, fit: Fit) -> Fit:
        bounded = Fit(fit.keys, fit.reused_blocks, 0, fit.available_blocks + fit.reused_blocks, fit.available_blocks)
        self._emit(
            "active_live_bounded",
            request_id=request.ask.request_id,
            arbiter_action="bound_active_live",
            active_live_blocks_required=fit.live_blocks,
            active_live_blocks_bounded=bounded.live_blocks,
        )
        return bounded

    def _admit(self, request: ToyRequest, fit: Fit) -> None:
        ask = request.ask
        self._emit(
            "active_request_admitted",
            request_id=ask.request_id,
            arbiter_action="serve_active_preserve_resident",
            active_live_blocks_required=fit.live_blocks,
            active_live_blocks_current=fit.live_blocks,
            active_other_live_blocks=self._live_now(),
            free_blocks_before_allocate=fit.available_blocks,
            reused_blocks=fit.reused_blocks,
            future_reuse_requested=ask.future_reuse,
        )
        reused = list(fit.keys[: fit.reused_blocks])
        own = self._take(fit.new_blocks, request_id=ask.request_id, keep=reused)
        kept = ask.future_reuse and fit.live_blocks >= ask.live_blocks
        if kept:
            for position in range(fit.reused_blocks, len(fit.keys)):
                if fit.keys[position] in self._cached:  # cached behind a hole: computed again, and one copy is enough
                    self._free.append(own.pop(0))
                else:
                    self._cache_block(fit.keys[position], own.pop(0), position, ask.request_id)
            reused = list(fit.keys)
        self._emit(
            "future_reuse_admitted" if kept else "future_reuse_denied",
            request_id=ask.request_id,
            future_reuse_requested=ask.future_reuse,
            future_reuse_admitted=kept,
            arbiter_action="serve_active_preserve_resident" if kept else "serve_active_no_admit",
        )
        self._users.update(reused)
        request.keys, request.own_blocks, request.reused_blocks = reused, own, fit.reused_blocks
        request.outcome = RequestOutcome.RUNNING
        request.output = f"{ask.identity.adapter_id}/{ask.identity.salt_namespace}/{ask.content}/{ask.live_blocks}"

    def finish_request(self, request_id: str) -> RequestAnswer:
        """End it; its cached blocks become the last victims, tail first among them."""
        request = self._requests.get(request_id)
        if request is None:
            raise UsageError(f"request_id: {request_id!r} is unknown")
        if request.outcome is RequestOutcome.RUNNING:
            request.outcome = RequestOutcome.SERVED
            self._emit("active_request_finished", request_id=request_id)
            self._free += request.own_blocks
            self._users.subtract(request.keys)
            for key in reversed(request.keys):
                self._cached[key] = self._cached.pop(key)
            request.own_blocks, request.keys = [], []
            self._retry_deferred()
        return request.answer

    def apply_pressure(self, *, blocks: int) -> RequestAnswer:
        """One neighbour's request, from start to end."""
        content = tuple(itertools.islice(self._labels, blocks))
        ask = RequestAsk(request_id=f"neighbour-{next(self._neighbours)}", content=content, live_blocks=blocks)
        self.start_request(ask)
        return self.finish_request(ask.request_id)

    # What happens when it does not fit ----------------------------------------------------------------------------

    def _fewest(
        self, modes: frozenset[str], shortfall_blocks: int, *, states: frozenset[str] = RESPONSIBLE_STATES
    ) -> list[ToyClaim]:
        """The fewest claims, oldest first, whose rows make up the shortfall; none when even all would not."""
        standing = [c for c in self._claims.values() if self._protects(c) and c.state in states]
        claims = [c for c in standing if c.ask.protection_mode in modes]
        all_protected = self._protected_keys()
        for count in range(1, len(claims) + 1):
            for some in itertools.combinations(claims, count):
                freed = all_protected - self._protected_keys(besides=some)
                if sum(not self._users[key] for key in freed) >= shortfall_blocks:
                    return list(some)
        return []

    def _blocking(self, fit: Fit) -> list[ToyClaim]:
        every_mode = frozenset({"hard_protected", "demotable", "offloadable", "expiring"})
        return self._fewest(every_mode, fit.shortfall_blocks)

    def _make_room(self, action: str, fit: Fit) -> None:
        if action == "demote_resident_claim":
            for claim in self._fewest(frozenset({"demotable"}), fit.shortfall_blocks):
                self._end(
                    claim,
                    "demoted",
                    "resident_claim_demoted",
                    arbiter_action="demote_resident_claim",
                    release_reason="pressure",
                )
            return
        claims = self._fewest(frozenset({"offloadable"}), fit.shortfall_blocks, states=frozenset({"materialized"}))
        leaving = {key for claim in claims for key in claim.keys if key in self._cached}
        if len(self._host | leaving) <= self.setup.host_tier_blocks:
            for claim in claims:
                self._offload(claim)

    def _offload(self, claim: ToyClaim) -> None:
        leaving = [key for key in claim.keys if key in self._cached]
        claim.generation += 1
        self._host.update(leaving)
        self._emit(
            "resident_claim_offloaded",
            claim=claim,
            source_tier="gpu_kv_cache",
            destination_tier="host_offload_tier",
            block_count_footprint=len(leaving),
            restoration_required=True,
            arbiter_action="offload_resident",
        )
        claim.state = "offloaded"
        still_protected = self._protected_keys()
        for key in leaving:
            if key not in still_protected and not self._users[key]:
                self._free.append(self._cached.pop(key))
