"""The toy's claims and blocks: the half of a small correct runtime that knows nothing of requests.

It is written from the contract alone and shares no code with the arbiter, the registry or any runtime: a mistake there
cannot hide here. It favours being read over being fast, and each rule that a zoo member breaks is one method.

How it accounts: a block is free, live (a request computes in it), or cached under the key of its content. A cached
block with no user is evictable unless an accepted claim protects it. Protected + live never exceeds the pool.
"""

from __future__ import annotations

import itertools
import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from tenure.claims.event_fields import EVENTS
from tenure.claims.event_types import EventType
from tenure.conformance.subject import (
    Capabilities,
    ClaimAnswer,
    ClaimAsk,
    Content,
    Feature,
    IdentityAsk,
    Setup,
)
from tenure.errors import ClaimError

#: Modes whose rows are no victims while the claim stands; the others only rank, or only report.
PROTECTING_MODES = frozenset({"hard_protected", "demotable", "offloadable", "expiring"})
ADVISORY_MODES = frozenset({"soft_priority", "best_effort"})
PREDICATES = frozenset({"leading_prefix_at_least", "contiguous_range"})
RESPONSIBLE_STATES = frozenset({"accepted", "conditionally_accepted", "materialized", "offloaded"})
RELEASED_STATES = frozenset({"demoted", "expired", "released"})


@dataclass(slots=True)
class ToyClaim:
    """A claim and how it stands. `keys` are the blocks the runtime took responsibility for, leading block first."""

    ask: ClaimAsk
    keys: tuple[int, ...]
    accepted_at_s: float
    state: str = "accepted"
    generation: int = 0

    @property
    def first_position(self) -> int:
        """Where the footprint starts: at block 0, or at the start of a contiguous range."""
        return self.ask.start_block

    @property
    def responsible(self) -> bool:
        """Whether the runtime still answers for the predicate."""
        return self.state in RESPONSIBLE_STATES


class ToyClaims:
    """The half of the toy that knows claims and blocks. `tenure.conformance.zoo.toy` adds requests."""

    name = "toy"
    #: Fields that are not validated; a zoo member overlooks some.
    overlooked_fields: frozenset[str] = frozenset()

    def __init__(self, setup: Setup) -> None:
        self.setup = setup
        self._now_s = 0.0
        self._trace: list[dict[str, object]] = []
        self._sequence = 0
        self._trie: dict[tuple[object, int], int] = {}
        self._claims: dict[str, ToyClaim] = {}
        self._request_ids: set[str] = set()
        self._host: set[int] = set()
        self._empty_device()

    def _empty_device(self) -> None:
        self._free = list(range(1, self.setup.usable_blocks + 1))
        self._cached: dict[int, int] = {}  # key -> physical block; the first is the first victim
        self._users: Counter[int] = Counter()

    # What it is ---------------------------------------------------------------------------------------------------

    @property
    def capabilities(self) -> Capabilities:
        """Everything: each check applies to the toy, so that each check can be seen to fail on a broken one."""
        return Capabilities(
            name=self.name,
            version="1",
            usable_blocks=self.setup.usable_blocks,
            block_size=self.setup.block_size,
            protection_modes=PROTECTING_MODES | ADVISORY_MODES,
            predicates=PREDICATES,
            actions=frozenset(
                {"refuse_active", "defer_active", "demote_resident_claim", "offload_resident", "bound_active_live"}
            ),
            features=frozenset(Feature),
            profiles=("observe", "soft", "lease", "hard", "tiered", "bounded"),
        )

    def events(self) -> Sequence[Mapping[str, object]]:
        """The trace so far."""
        return tuple(self._trace)

    def close(self) -> None:
        """Nothing to give back."""

    def _emit(
        self,
        event: str,
        fields: Mapping[str, object] | None = None,
        /,
        *,
        claim: ToyClaim | None = None,
        request_id: str | None = None,
        **more: object,
    ) -> None:
        spec = EVENTS[EventType(event)]
        known = {**(self._claim_fields(claim) if claim else {}), **(fields or {}), **more}
        record: dict[str, object] = {
            "schema_version": 1,
            "timestamp_ns": round(self._now_s * 1e9) + self._sequence,
            "event_sequence": self._sequence,
            "run_id": "toy",
            "event": event,
            "policy": ",".join(self.setup.conflict_actions),
            "usable_blocks": self.setup.usable_blocks,
            "request_id": request_id,
            "claim_id": claim.ask.claim_id if claim else None,
            "prefix_id": claim.ask.prefix_id if claim else None,
        }
        self._sequence += 1
        self._trace.append(record | {name: known[name] for name in (*spec.required, *spec.optional) if name in known})

    def _claim_fields(self, claim: ToyClaim) -> dict[str, object]:
        positions, ask = self._positions(claim), claim.ask
        leading = 0
        while claim.first_position + leading in positions:
            leading += 1
        return {
            "owner_scope": ask.owner_scope,
            "revision": ask.revision,
            "requested_footprint_blocks": ask.footprint_blocks,
            "requested_protection_mode": ask.protection_mode,
            "cache_identity": f"{ask.identity.salt_namespace}|{ask.identity.adapter_id}",
            "footprint_blocks": len(claim.keys),
            "protection_mode": ask.protection_mode,
            "materialization_predicate": self._predicate_text(ask),
            "predicate_satisfied": self._predicate_holds(claim, positions),
            "resident_blocks_required": ask.required_blocks,
            "resident_blocks_materialized": len(positions),
            "leading_blocks_survived": leading,
            "duration_s": ask.duration_s,
            "expires_at_s": None if ask.duration_s is None else claim.accepted_at_s + ask.duration_s,
            "clock_s": self._now_s,
            "claim_status": claim.state,
            "offload_generation": claim.generation,
            "predicted_value": 1.0,
            "value_lost": 1.0,
        }

    # Predicates and protection ------------------------------------------------------------------------------------

    @staticmethod
    def _predicate_text(ask: ClaimAsk) -> str:
        if ask.predicate_type == "contiguous_range":
            return f"contiguous_range({ask.start_block},{ask.required_blocks})"
        return f"leading_prefix_at_least({ask.required_blocks})"

    def _positions(self, claim: ToyClaim) -> set[int]:
        held = self._host | self._cached.keys() if claim.state == "offloaded" else self._cached.keys()
        return {position for position, key in enumerate(claim.keys, start=claim.first_position) if key in held}

    def _predicate_holds(self, claim: ToyClaim, positions: set[int]) -> bool:
        first = claim.first_position
        return positions.issuperset(range(first, first + claim.ask.required_blocks))

    def _protects(self, claim: ToyClaim) -> bool:
        return claim.responsible and claim.state != "offloaded" and claim.ask.protection_mode in PROTECTING_MODES

    def _protected_keys(self, *, besides: Iterable[ToyClaim] = ()) -> set[int]:
        """Union over claims: a block that two claims share counts, and is let go, once."""
        without = {id(claim) for claim in besides}
        return {
            key
            for claim in self._claims.values()
            if self._protects(claim) and id(claim) not in without
            for key in claim.keys
            if key in self._cached
        }

    def _evictable(self, protected: set[int], keep: Iterable[int] = ()) -> list[int]:
        kept = protected.union(keep)
        free = [key for key in self._cached if key not in kept and not self._users[key]]
        return sorted(free, key=self._victim_rank)  # stable: the cache's own order within a rank

    def _victim_rank(self, key: int) -> int:
        modes = {c.ask.protection_mode for c in self._claims.values() if c.responsible and key in c.keys}
        return 2 if "soft_priority" in modes else 0

    # Claims -------------------------------------------------------------------------------------------------------

    def _retry_deferred(self) -> None:
        """Room may have come free: the half that knows requests tries the waiting ones again."""

    def submit_claim(self, ask: ClaimAsk) -> ClaimAnswer:
        """Accept, clip or reject by the inequality: the union of protected footprints never exceeds the pool."""
        self._validate(ask)
        held = self._claims.get(ask.claim_id)
        if held is not None:
            return self._renew(held, ask)
        footprint_blocks = self._footprint_that_fits(ask)
        claim = ToyClaim(ask, self._footprint(ask)[:footprint_blocks], self._now_s, state="submitted")
        self._emit("resident_claim_submitted", claim=claim)
        if footprint_blocks < ask.required_blocks:
            self._emit("resident_claim_rejected", claim=claim, decision_reason="claim_budget_exceeded")
            return ClaimAnswer(decision="rejected", reason=f"claim_budget_exceeded: {footprint_blocks} blocks are left")
        return self._accept(claim)

    def _validate(self, ask: ClaimAsk) -> None:
        held = self._claims.get(ask.claim_id)
        wrong = (
            ("protection_mode", ask.protection_mode not in PROTECTING_MODES | ADVISORY_MODES),
            ("predicate_type", ask.predicate_type not in PREDICATES),
            ("required_blocks", ask.required_blocks < 0),
            ("start_block", ask.start_block < 0 or (ask.start_block > 0 and ask.predicate_type != "contiguous_range")),
            ("footprint_blocks", not max(1, ask.required_blocks) <= ask.footprint_blocks <= len(self._footprint(ask))),
            ("duration_s", ask.duration_s is not None and not (math.isfinite(ask.duration_s) and ask.duration_s > 0)),
            ("claim_id", not ask.claim_id or ask.claim_id in self._request_ids),
            ("owner_scope", held is not None and held.ask.owner_scope != ask.owner_scope),
        )
        for name, is_wrong in wrong:
            if is_wrong and name not in self.overlooked_fields:
                raise ClaimError(f"{name}: not allowed in claim {ask.claim_id!r}")

    def _footprint_that_fits(self, ask: ClaimAsk) -> int:
        if ask.protection_mode in ADVISORY_MODES:
            return ask.footprint_blocks
        taken = {k for c in self._claims.values() if self._protects(c) for k in c.keys}
        room = self.setup.usable_blocks - len(taken | self._keys_in_use()) - self._own_blocks()
        keys = self._footprint(ask)
        for count, key in enumerate(keys):
            room -= key not in taken and not self._users[key]
            if room < 0:
                return count
        return len(keys)

    def _keys_in_use(self) -> set[int]:
        return {key for key, users in self._users.items() if users}

    def _own_blocks(self) -> int:
        """Live blocks of requests that are not in the cache. The half that knows requests says how many."""
        return 0

    def _footprint(self, ask: ClaimAsk) -> tuple[int, ...]:
        first = max(0, ask.start_block)
        return self._keys(ask.identity, ask.content)[first : first + ask.footprint_blocks]

    def _accept(self, claim: ToyClaim) -> ClaimAnswer:
        ask = claim.ask
        clipped = len(claim.keys) < ask.footprint_blocks
        claim.state = "conditionally_accepted" if clipped else "accepted"
        self._claims[ask.claim_id] = claim
        self._emit(
            f"resident_claim_{claim.state}",
            claim=claim,
            decision_reason="footprint_clipped" if clipped else "fits",
        )
        for position, key in enumerate(claim.keys, start=claim.first_position):
            if key in self._cached:
                self._emit_block(key, position, claim=claim, request_id=None)
        decision = claim.state
        self._tell_materialized(claim)
        return ClaimAnswer(decision=decision, reason=decision, accepted_blocks=len(claim.keys))

    def _renew(self, held: ToyClaim, ask: ClaimAsk) -> ClaimAnswer:
        if ask.revision <= held.ask.revision:
            return ClaimAnswer(decision="rejected", reason=f"stale_revision: {held.ask.revision} is in force")
        if not held.responsible:
            return ClaimAnswer(decision="rejected", reason=f"claim_already_ended: it is {held.state}")
        if replace(ask, revision=held.ask.revision, duration_s=held.ask.duration_s) != held.ask:
            raise ClaimError(f"revision: {ask.revision} of claim {ask.claim_id!r} changes more than the duration")
        held.ask = replace(held.ask, revision=ask.revision, duration_s=ask.duration_s)
        held.accepted_at_s = self._now_s
        self._emit("resident_claim_renewed", claim=held)
        return ClaimAnswer(decision="accepted", reason="renewed", accepted_blocks=len(held.keys))

    def release_claim(self, claim_id: str, *, owner_scope: str) -> None:
        """Let the owner end a claim; its rows become ordinary cache."""
        claim = self._claims.get(claim_id)
        if claim is None or claim.ask.owner_scope != owner_scope:
            raise ClaimError(f"claim_id: {claim_id!r} is no claim of {owner_scope!r}")
        if not claim.responsible:
            raise ClaimError(f"claim_id: {claim_id!r} is {claim.state} and cannot be released")
        self._end(claim, "released", "resident_claim_released", release_reason="owner_request")
        self._retry_deferred()

    def _end(self, claim: ToyClaim, state: str, event: str, *, request_id: str | None = None, **more: object) -> None:
        self._emit(event, more, claim=claim, request_id=request_id)
        claim.state = state

    def _tell_materialized(self, claim: ToyClaim) -> None:
        waiting = claim.state in {"accepted", "conditionally_accepted"}
        if waiting and self._predicate_holds(claim, self._positions(claim)):
            claim.state = "materialized"
            self._emit("resident_claim_materialized", claim=claim)

    # Blocks -------------------------------------------------------------------------------------------------------

    def _keys(self, identity: IdentityAsk, content: Content) -> tuple[int, ...]:
        parent: object = (identity.salt_namespace, identity.adapter_id)
        keys = []
        for label in content:
            parent = self._trie.setdefault((parent, label), len(self._trie) + 1)
            keys.append(parent)
        return tuple(keys)

    def _emit_block(self, key: int, position: int, *, claim: ToyClaim | None, request_id: str | None) -> None:
        self._emit(
            "resident_block_materialized",
            claim=claim,
            request_id=request_id,
            logical_block_position=position,
            physical_block_id=self._cached[key],
            block_hash=f"key-{key}",
            is_protected_resident=claim is not None and self._protects(claim),
        )

    def _cache_block(self, key: int, physical: int, position: int, request_id: str | None) -> None:
        self._cached[key] = physical
        holders = [c for c in self._claims.values() if c.responsible and key in c.keys]
        for claim in holders:
            self._emit_block(key, position, claim=claim, request_id=request_id)
            self._tell_materialized(claim)
        if not holders:
            self._emit_block(key, position, claim=None, request_id=request_id)

    def _evict(self, key: int, *, request_id: str | None, harm_cause: str) -> None:
        physical, protected = self._cached[key], key in self._protected_keys()
        for claim in [c for c in self._claims.values() if key in c.keys]:
            self._tell_loss(claim, key, request_id=request_id, harm_cause=harm_cause)
        self._emit(
            "allocation_victim_selected",
            request_id=request_id,
            physical_block_id=physical,
            block_hash=f"key-{key}",
            is_protected_resident=protected,
            victim_reason="cached_prefix_reuse",
        )
        del self._cached[key]
        self._free.append(physical)

    def _tell_loss(self, claim: ToyClaim, key: int, *, request_id: str | None, harm_cause: str) -> None:
        position = claim.first_position + claim.keys.index(key)
        before = self._positions(claim)
        after = before - {position}
        kept = self._predicate_holds(claim, after)
        loss = {
            "physical_block_id": self._cached[key],
            "logical_block_position": position,
            "resident_blocks_materialized": len(after),
            "leading_blocks_survived": next(n for n in itertools.count() if claim.first_position + n not in after),
            "predicate_satisfied": kept,
        }
        if claim.state == "offloaded":
            return
        if claim.state in RELEASED_STATES:
            self._emit("resident_claim_block_lost_after_release", loss, claim=claim, request_id=request_id)
        elif claim.responsible and self._predicate_holds(claim, before) and not kept:
            permitted = claim.ask.protection_mode in ADVISORY_MODES
            terms = {"harm_cause": harm_cause, "harm_permitted": permitted}
            told = loss | terms | {"predicate_before": True, "predicate_after": False}
            self._end(claim, "harmed", "resident_claim_harmed", request_id=request_id, **told)
        elif claim.responsible:
            self._emit("resident_claim_block_lost", loss, claim=claim, request_id=request_id)

    def _take(self, count: int, *, request_id: str, keep: Iterable[int]) -> list[int]:
        victims = iter(self._evictable(self._protected_keys(), keep))
        taken = []
        for _ in range(count):
            if not self._free:
                self._evict(next(victims), request_id=request_id, harm_cause="evicted_under_pressure")
            taken.append(self._free.pop(0))
        return taken
