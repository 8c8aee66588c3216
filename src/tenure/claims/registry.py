"""What a runtime calls: claims are submitted, renewed, cancelled and ended here, and blocks come and go."""

from __future__ import annotations

from collections.abc import Callable, Container
from dataclasses import replace
from uuid import uuid4

from tenure.claims import answers, reports
from tenure.claims.acceptance import AcceptanceLimits, Holdings, decide, most_blocks, worth_clipping
from tenure.claims.blocks import BlockKey, block_keys
from tenure.claims.book import ClaimBook
from tenure.claims.clauses import specification
from tenure.claims.clock import Clock
from tenure.claims.coverage import LiveClaim
from tenure.claims.event_types import EventType
from tenure.claims.journal import Journal, MemoryJournal, not_available
from tenure.claims.modes import (
    Action,
    ClaimState,
    DecisionKind,
    DecisionReason,
    ProtectionMode,
    ReleaseReason,
    Tier,
)
from tenure.claims.moves import BlockMoves
from tenure.claims.objects import CapacitySnapshot, ClaimDecision, ClaimStatus, ResidentClaim
from tenure.claims.queries import ClaimQueries
from tenure.claims.receipts import Receipt
from tenure.claims.recovery import on_new_clock, recover_all
from tenure.claims.telemetry import EventSink
from tenure.claims.tiers import TierMoves
from tenure.claims.validation import require_count, require_seconds
from tenure.errors import ClaimError, UsageError

#: Every mode that one runtime can keep by itself.
LOCAL_MODES = frozenset(ProtectionMode) - {ProtectionMode.ROUTED_REUSE}


def nothing_survived(status: ClaimStatus) -> Tier | None:
    """The answer of a runtime whose rows are gone after a restart."""
    del status
    return None


class ClaimRegistry(BlockMoves, TierMoves, ClaimQueries):
    """Every promise of one runtime: what was accepted, what of it holds, and how it ended.

    Guarantees that no claim is accepted beyond the inequality and the budget, counting what is owed and not computed yet
    like everything else that is owed; that each step is legal, journalled and
    reported, that a loss is reported before it happens, and that a call which raises changed nothing. It decides no
    conflict and moves no row: the runtime does, and says so here. One thread, or a lock of your own.

    The runtime tells of blocks in this order: it adds a block to `resident` and then calls `block_arrived`; it calls
    `block_leaving` and then takes the block out of `resident`.

    Args:
        sink: where events go.
        clock: seconds that never go back.
        resident: the runtime's own collection of the blocks that are on the device, by name. Only asked.
        journal: where claims are kept across a restart; in memory when it is left out.
        clock_id: what tells this clock from another one, such as the machine's boot id. Without it, every start has a
            clock of its own, and durations go on from where they were last journalled.
        claim_budget_blocks: most blocks that may be owed to all claims together, None for all usable ones.
        max_live_claims: most claims at once.
        max_footprint_blocks: most blocks of one claim, since naming them takes time and memory. The default is two
            million tokens in blocks of 16.
        supported_modes: the modes that the runtime implements.
        remembered_ends: how many ended claims with blocks on the device are remembered.

    When the journal holds live claims, `start` must be called before anything else.
    """

    def __init__(
        self,
        *,
        sink: EventSink,
        clock: Clock,
        resident: Container[BlockKey],
        journal: Journal | None = None,
        clock_id: str | None = None,
        claim_budget_blocks: int | None = None,
        max_live_claims: int = 10_000,
        max_footprint_blocks: int = 2**17,
        supported_modes: frozenset[ProtectionMode] = LOCAL_MODES,
        remembered_ends: int = 10_000,
    ) -> None:
        if claim_budget_blocks is not None:
            require_count("claim_budget_blocks", claim_budget_blocks, minimum=0, clause="TNR-ACC-004")
        require_count("max_live_claims", max_live_claims, minimum=1, clause="TNR-ACC-010")
        require_count("max_footprint_blocks", max_footprint_blocks, minimum=1, clause="TNR-ACC-010")
        self._max_footprint_blocks = max_footprint_blocks
        self._sink = sink
        self._clock = clock
        self._resident = resident
        self._limits = AcceptanceLimits(
            claim_budget_blocks=claim_budget_blocks, max_live_claims=max_live_claims, supported_modes=supported_modes
        )
        kept = MemoryJournal() if journal is None else journal
        self._book = ClaimBook(sink=sink, journal=kept, remembered_ends=remembered_ends)
        self._clock_id = uuid4().hex if clock_id is None else clock_id
        self._found = kept.live()
        self._must_start = bool(self._found)
        self._is_shut_down = False
        # Claims that an earlier run left stay on its clock until `start` moves all of them to this one.
        self._generation = 0 if self._must_start else kept.begin_run(clock_id=self._clock_id)

    # Beginning and ending.

    def start(
        self,
        *,
        runtime_name: str,
        runtime_version: str | None = None,
        block_size_tokens: int | None = None,
        survivors: Callable[[ClaimStatus], Tier | None] = nothing_survived,
        capacity: CapacitySnapshot | None = None,
    ) -> list[Receipt]:
        """Announce the runtime, and recover or end every claim that an earlier run left in the journal.

        Args:
            runtime_name, runtime_version, block_size_tokens: what runs.
            survivors: for a claim that was materialized or offloaded, the tier in which its blocks still are, None when
                they are gone. It is then harmed, unless its duration has passed.
            capacity: what the pool holds now. Where it is less than the claims found are owed, as few as make the rest
                fit are demoted, expiring ones first, then demotable, offloadable and hard ones, the newest first; None
                to check the claim budget alone.

        Returns: one receipt for each claim that was found. Everything is reported (TNR-LIFE-008).

        Raises:
            UsageError: the registry was shut down.
            DiskFullError: the journal cannot be written; nothing was changed, and start can be called again.
        """
        self.check_not_shut_down()
        now_s = self._clock()
        if self._must_start:
            self._begin_run(now_s)
        fields: reports.Fields = {"runtime_name": runtime_name, "spec_version": specification().edition}
        fields["runtime_generation"] = self._generation
        if runtime_version is not None:
            fields["runtime_version"] = runtime_version
        if block_size_tokens is not None:
            fields["block_size_tokens"] = block_size_tokens
        if self._generation == 1 and not self._found:
            self._sink.emit(EventType.RUNTIME_STARTED, fields)
        else:
            self._sink.emit(EventType.RUNTIME_RESTARTED, {**fields, "live_claims": len(self._found)})
        found, self._found, self._must_start = self._found, [], False
        return recover_all(
            found,
            book=self._book,
            resident=self._resident,
            survivors=survivors,
            most_blocks=most_blocks(capacity, self._limits),
            now_s=now_s,
        )

    def reset(self, reason: str) -> list[Receipt]:
        """End every claim and report that the reusable cache is about to be emptied. Empty it afterwards."""
        return self._end_everything(EventType.RUNTIME_RESET, ReleaseReason.RUNTIME_RESET, reason)

    def shutdown(self, reason: str) -> list[Receipt]:
        """End every claim and report that the runtime stops. Nothing can be asked for afterwards: make a new registry.

        Blocks may still leave, so that the cache can be emptied.
        """
        receipts = self._end_everything(EventType.RUNTIME_SHUTDOWN, ReleaseReason.RUNTIME_SHUTDOWN, reason)
        self._is_shut_down = True
        return receipts

    def check_not_shut_down(self) -> None:
        """Nothing while the runtime may promise; UsageError once it was shut down."""
        if self._is_shut_down:
            raise UsageError("the runtime was shut down and promises nothing more; make a new one and start it")

    # What owners ask for.

    def submit(self, claim: ResidentClaim, *, capacity: CapacitySnapshot, object_blocks: int | None = None) -> Receipt:
        """Accept the claim, accept it on lesser terms, or reject it; the receipt says which, with numbers.

        The id of a live claim of the same owner makes this a renewal, and then all but revision, duration and the
        inputs to a policy must be as they were. A submission that is repeated word for word is answered by what is held
        (`already_held`), and changes nothing.

        Args:
            claim: what is asked for.
            capacity: what the pool holds at this moment.
            object_blocks: how many blocks the object has, where that is known.

        Raises:
            ClaimError: the claim reaches beyond its object, its id was used by a claim that ended or belongs to another
                owner, or a renewal changes what it may not.
            UsageError: the registry was not started, or was shut down.
            DiskFullError: the claim cannot be journalled, and so was not accepted.
        """
        self._check_started()
        self.tick()
        known = self._book.find(claim.claim_id)
        if known is not None and known.ended_at_s is None and known.claim.owner_scope == claim.owner_scope:
            if answers.is_repeated(claim, known.claim):
                return answers.already_held(known, asked=claim, coverage=self._book.coverage, capacity=capacity)
            return self._renew_with(known, claim)
        self.check_footprint(claim, object_blocks=object_blocks)
        coverage = self._book.coverage
        keys: tuple[BlockKey, ...] = ()
        is_new: list[bool] = []
        if claim.protection_mode.reserves_blocks and not worth_clipping(claim, capacity=capacity, limits=self._limits):
            new_blocks = claim.footprint_blocks - coverage.owed_among(claim)
        else:
            keys = block_keys(claim)
            is_new = coverage.unowed(keys)
            new_blocks = sum(is_new)
        decision = decide(
            claim,
            new_blocks=new_blocks,
            is_new=is_new,
            holdings=Holdings(owed_blocks=coverage.owed_blocks, live_claims=len(self._book)),
            capacity=capacity,
            limits=self._limits,
            now_s=self._clock(),
        )
        if decision.decision is DecisionKind.REJECTED:
            if self._book.journal.ever_accepted(claim.claim_id):
                raise not_available(claim.claim_id)
            return self._reject(claim, decision, capacity)
        return self._accept(claim, decision, keys or block_keys(claim), capacity)

    def check_footprint(self, claim: ResidentClaim, *, object_blocks: int | None = None) -> None:
        """Nothing when the claim is of a size that can be looked at, and lies within its object. Cost: constant.

        Raises:
            ClaimError: it has more than `max_footprint_blocks`, or reaches beyond its `object_blocks`.
        """
        if claim.footprint_blocks > self._max_footprint_blocks:
            message = f"{claim.footprint_blocks} blocks are more than the {self._max_footprint_blocks} of one claim"
            raise ClaimError(f"{message}; ask for less", field="footprint_blocks", clause="TNR-ACC-010")
        end = claim.footprint_positions.stop
        if object_blocks is not None and end > object_blocks:
            message = f"covers blocks up to {end - 1}, but {claim.object_id!r} has {object_blocks}; ask for less"
            raise ClaimError(message, field="footprint_blocks", clause="TNR-ACC-009")

    def renew(self, claim_id: str, *, owner_scope: str, revision: int, duration_s: float | None) -> Receipt:
        """Hold the claim for `duration_s` from now, None for ever, if `revision` is newer than the one in force.

        A stale revision, and a claim that has ended, are answered by a receipt that says so.

        Raises:
            ClaimError: this owner has no claim of that id, or a number is none.
        """
        self._check_started()
        require_count("revision", revision, minimum=1, clause="TNR-LIFE-003")
        if duration_s is not None:
            require_seconds("duration_s", duration_s, clause="TNR-ACC-003")
        self.tick()
        live = self._book.find(claim_id)
        if live is None or live.ended_at_s is not None:
            return self._not_renewed_after_end(claim_id, owner_scope)
        live = self._owned(claim_id, owner_scope)
        return self._renew_with(live, replace(live.claim, revision=revision, duration_s=duration_s))

    def cancel(self, claim_id: str, *, owner_scope: str) -> Receipt:
        """End the claim at its owner's request. Raises ClaimError when this owner has no live claim of that id."""
        self._check_started()
        self.tick()
        live = self._owned(claim_id, owner_scope)
        return self._release([live], EventType.CLAIM_RELEASED, ReleaseReason.OWNER_REQUEST)[0]

    # What the runtime decides.

    def tick(self) -> list[Receipt]:
        """End every claim whose duration has passed. Call it before any decision about room. Cost: constant if none."""
        due = self._book.due(now_s=self._clock())
        return self._release(due, EventType.CLAIM_EXPIRED, ReleaseReason.DURATION_ELAPSED) if due else []

    def demote(
        self,
        claim_id: str,
        *,
        request_id: str | None = None,
        reason: ReleaseReason = ReleaseReason.PRESSURE,
        action: Action | None = Action.DEMOTE_RESIDENT_CLAIM,
    ) -> Receipt:
        """Give the promise up, for `request_id` where there is one. Raises ClaimError when the claim is not live."""
        live = self._book.live_one(claim_id)
        return self._release([live], EventType.CLAIM_DEMOTED, reason, request_id=request_id, action=action)[0]

    def expire(
        self,
        claim_id: str,
        *,
        request_id: str | None = None,
        reason: ReleaseReason = ReleaseReason.PRESSURE,
        action: Action | None = Action.EXPIRE_RESIDENT_CLAIM,
    ) -> Receipt:
        """End the claim's time early. Raises ClaimError when the claim is not live."""
        live = self._book.live_one(claim_id)
        return self._release([live], EventType.CLAIM_EXPIRED, reason, request_id=request_id, action=action)[0]

    # How it is done.

    def _accept(
        self, claim: ResidentClaim, decision: ClaimDecision, keys: tuple[BlockKey, ...], capacity: CapacitySnapshot
    ) -> Receipt:
        mode = decision.granted_mode
        granted = claim
        if decision.granted_footprint_blocks < claim.footprint_blocks:
            granted = granted.clipped(decision.granted_footprint_blocks)
        if mode is not None and mode is not claim.protection_mode:
            granted = replace(granted, protection_mode=mode)
        now_s = decision.decided_at_s
        conditional = decision.decision is DecisionKind.CONDITIONALLY_ACCEPTED
        live = LiveClaim.begin(
            granted,
            state=ClaimState.CONDITIONALLY_ACCEPTED if conditional else ClaimState.ACCEPTED,
            accepted_at_s=now_s,
            expires_at_s=None if claim.duration_s is None else now_s + claim.duration_s,
            resident=self._resident,
            keys=keys[: granted.footprint_blocks],
        )
        holds = live.holds
        if holds:
            live.state = ClaimState.MATERIALIZED
        self._book.open(live, now_s=now_s)
        coverage = self._book.coverage
        self._book.report(EventType.CLAIM_SUBMITTED, reports.submitted(claim), claim=live)
        event = EventType.CLAIM_CONDITIONALLY_ACCEPTED if conditional else EventType.CLAIM_ACCEPTED
        self._book.report(event, reports.accepted(live, decision, asked=claim, coverage=coverage), claim=live)
        if holds:
            self._book.report(EventType.CLAIM_MATERIALIZED, reports.materialized(live), claim=live)
        return answers.granted(live, decision, asked=claim, coverage=coverage, capacity=capacity)

    def _reject(self, claim: ResidentClaim, decision: ClaimDecision, capacity: CapacitySnapshot) -> Receipt:
        coverage = self._book.coverage
        names = {"claim_id": claim.claim_id, "prefix_id": claim.object_id}
        self._sink.emit(EventType.CLAIM_SUBMITTED, reports.submitted(claim), **names)
        fields = reports.rejected(claim, decision, coverage=coverage)
        self._sink.emit(EventType.CLAIM_REJECTED, fields, **names)
        short = decision.shortfall_blocks
        blocking = self._book.smallest_blocking_set(short) if short else ()
        return answers.rejected(
            claim,
            decision,
            coverage=coverage,
            capacity=capacity,
            blocking=blocking,
            free_at_s=self._book.ends_at_s(blocking),
        )

    def _renew_with(self, live: LiveClaim, asked: ResidentClaim) -> Receipt:
        held = live.claim
        if asked.revision <= held.revision:
            stale = DecisionReason.STALE_REVISION
            return answers.not_renewed(held.claim_id, revision=held.revision, state=live.state, reason=stale)
        answers.check_same_promise(asked, live.claim)
        now_s = self._clock()
        claim = replace(
            live.claim,
            revision=asked.revision,
            duration_s=asked.duration_s,
            predicted_value=asked.predicted_value,
            confidence=asked.confidence,
        )
        self._book.renew(live, claim, now_s=now_s)
        return answers.renewed(live)

    def _not_renewed_after_end(self, claim_id: str, owner_scope: str) -> Receipt:
        ended = self._book.ended(claim_id)
        if ended is None or ended.owner_scope != owner_scope:
            raise answers.no_such_claim(claim_id)
        reason = DecisionReason.CLAIM_ENDED
        return answers.not_renewed(claim_id, revision=ended.revision, state=ended.state, reason=reason)

    def _end_everything(self, event_type: EventType, reason: ReleaseReason, why: str) -> list[Receipt]:
        self._check_started()
        receipts = self.tick()
        number = len(self._book)
        receipts += self._release(list(self._book.live()), EventType.CLAIM_DEMOTED, reason) if number else []
        self._sink.emit(event_type, {"live_claims": number, "reason": why})
        return receipts

    def _begin_run(self, now_s: float) -> None:
        """Move what was found to this clock, and the journal with it."""
        journal = self._book.journal
        moved = [] if journal.last_run().clock_id == self._clock_id else on_new_clock(self._found, now_s=now_s)
        self._generation = journal.begin_run(clock_id=self._clock_id, rebased=moved)
        self._found = moved or self._found

    def _owned(self, claim_id: str, owner_scope: str) -> LiveClaim:
        found = self._book.find(claim_id)
        if found is None or found.ended_at_s is not None or found.claim.owner_scope != owner_scope:
            raise answers.no_such_claim(claim_id)
        return found

    def _check_started(self) -> None:
        self.check_not_shut_down()
        if self._must_start:
            message = f"the journal holds {len(self._found)} live claims of an earlier run; call start() first"
            raise UsageError(message)
