"""What becomes of the claims that a restart finds in its journal. Each is reported, and ended at most once."""

from __future__ import annotations

from collections.abc import Callable, Container, Sequence
from dataclasses import replace

from tenure.claims import answers, reports
from tenure.claims.blocks import BlockKey
from tenure.claims.book import ClaimBook, Step
from tenure.claims.coverage import LiveClaim
from tenure.claims.event_types import EventType
from tenure.claims.journal import JournalEntry
from tenure.claims.lifecycle import DEVICE_STATES, HOST_STATES
from tenure.claims.modes import Action, HarmCause, Outcome, ProtectionMode, ReleaseReason, Tier
from tenure.claims.objects import ClaimStatus
from tenure.claims.receipts import NextStep, Receipt

Survivors = Callable[[ClaimStatus], Tier | None]


def on_new_clock(found: Sequence[JournalEntry], *, now_s: float) -> list[JournalEntry]:
    """The entries with their times moved to a clock that began anew: what was left of each when noted is left now.

    Times of acceptance move together, so that their order stays.
    """
    if not found:
        return []
    accepted_shift = now_s - max(entry.noted_at_s for entry in found)
    return [
        replace(
            entry,
            accepted_at_s=entry.accepted_at_s + accepted_shift,
            expires_at_s=None if entry.expires_at_s is None else now_s + (entry.expires_at_s - entry.noted_at_s),
            noted_at_s=now_s,
        )
        for entry in found
    ]


def recover_all(
    found: Sequence[JournalEntry],
    *,
    book: ClaimBook,
    resident: Container[BlockKey],
    survivors: Survivors,
    most_blocks: int | None,
    now_s: float,
) -> list[Receipt]:
    """Take over every claim in `found`, report it as recovered, and end those that cannot be kept.

    A claim whose duration has passed expires. One that was materialized or offloaded is kept where `survivors` says
    that its blocks still are, and is harmed when they are gone. One that never was materialized is kept: it lost
    nothing. What is then owed beyond `most_blocks` is given up, see `_give_up`.
    """
    claims = []
    for entry in found:
        live = LiveClaim.begin(
            entry.claim,
            state=entry.state,
            accepted_at_s=entry.accepted_at_s,
            expires_at_s=entry.expires_at_s,
            resident=resident,
        )
        live.offload_generation = entry.offload_generation
        book.adopt(live)
        claims.append(live)
    steps = [
        Step(live=live, event_type=EventType.CLAIM_RECOVERED, fields=reports.recovered(live, now_s=now_s))
        for live in claims
    ]
    book.take(steps, now_s=now_s)
    receipts = [_decide(live, book=book, survivors=survivors, now_s=now_s) for live in claims]
    given_up = {} if most_blocks is None else _give_up(book, most_blocks=most_blocks, now_s=now_s)
    return [given_up.get(live.claim.claim_id, receipt) for live, receipt in zip(claims, receipts, strict=True)]


#: Who gives way when a restart finds fewer blocks than were promised: the mode that promises least first.
_GIVE_UP_ORDER = (
    ProtectionMode.EXPIRING,
    ProtectionMode.DEMOTABLE,
    ProtectionMode.OFFLOADABLE,
    ProtectionMode.HARD_PROTECTED,
)


def _give_up(book: ClaimBook, *, most_blocks: int, now_s: float) -> dict[str, Receipt]:
    """Demote claims until no more than `most_blocks` are owed: by mode, then the newest first, and none needlessly."""
    excess = book.coverage.owed_blocks - most_blocks
    if excess <= 0:
        return {}
    newest_first = list(book.live())[::-1]
    order = (live for mode in _GIVE_UP_ORDER for live in newest_first if live.claim.protection_mode is mode)
    chosen = book.first_that_free(excess, order)
    reason, action = ReleaseReason.POOL_SHRANK, Action.DEMOTE_RESIDENT_CLAIM
    steps = [
        Step(
            live=live,
            event_type=EventType.CLAIM_DEMOTED,
            fields=reports.released(live, reason, now_s=now_s, action=action),
            end_reason=reason.value,
        )
        for live in chosen
    ]
    book.take(steps, now_s=now_s)
    return {
        live.claim.claim_id: answers.released(live, Outcome.DEMOTED, reason.value, request_id=None, action=action)
        for live in chosen
    }


def _decide(live: LiveClaim, *, book: ClaimBook, survivors: Survivors, now_s: float) -> Receipt:
    if live.expires_at_s is not None and live.expires_at_s <= now_s:
        return _expire(live, book=book, now_s=now_s)
    if live.state not in DEVICE_STATES | HOST_STATES:
        if live.holds:
            whole = Step(live=live, event_type=EventType.CLAIM_MATERIALIZED, fields=reports.materialized(live))
            book.take([whole], now_s=now_s)
        return _kept(live, "found_in_journal", tier=None)
    tier = survivors(live.status())
    if tier is Tier.DEVICE and live.state in DEVICE_STATES and live.holds:
        return _kept(live, "blocks_on_device", tier=tier)
    if tier is Tier.HOST:
        return _keep_on_host(live, book=book, now_s=now_s)
    return _harm(live, book=book, now_s=now_s)


def _expire(live: LiveClaim, *, book: ClaimBook, now_s: float) -> Receipt:
    reason = ReleaseReason.DURATION_ELAPSED
    fields = reports.released(live, reason, now_s=now_s)
    step = Step(live=live, event_type=EventType.CLAIM_EXPIRED, fields=fields, end_reason=reason.value)
    book.take([step], now_s=now_s)
    return _answer(live, Outcome.EXPIRED, reason.value, NextStep.RECOMPUTE_ON_REUSE, tier=None)


def _keep_on_host(live: LiveClaim, *, book: ClaimBook, now_s: float) -> Receipt:
    if live.state in DEVICE_STATES:
        live.offload_generation += 1
        fields = reports.offloaded(live, block_ids=(), action=None)
        fields["block_count_footprint"] = live.claim.footprint_blocks
        book.take([Step(live=live, event_type=EventType.CLAIM_OFFLOADED, fields=fields)], now_s=now_s)
    return _answer(live, Outcome.OFFLOADED, "blocks_in_host_tier", NextStep.RESTORE_BEFORE_REUSE, tier=Tier.HOST)


def _harm(live: LiveClaim, *, book: ClaimBook, now_s: float) -> Receipt:
    cause = HarmCause.TIER_LOST if live.state in HOST_STATES else HarmCause.RUNTIME_RESTART
    fields = reports.harmed(live, cause)
    book.take([Step(live=live, event_type=EventType.CLAIM_HARMED, fields=fields, end_reason=cause.value)], now_s=now_s)
    return _answer(live, Outcome.HARMED, cause.value, NextStep.RECOMPUTE_ON_REUSE, tier=None)


def _kept(live: LiveClaim, reason: str, *, tier: Tier | None) -> Receipt:
    next_step = NextStep.HELD_UNTIL_RELEASE if live.expires_at_s is None else NextStep.HELD_UNTIL_EXPIRY
    return _answer(live, Outcome.ACCEPTED, reason, next_step, tier=tier)


def _answer(live: LiveClaim, outcome: Outcome, reason: str, next_step: NextStep, *, tier: Tier | None) -> Receipt:
    return Receipt(
        outcome=outcome,
        reason=reason,
        claim_id=live.claim.claim_id,
        revision=live.claim.revision,
        granted_mode=live.claim.protection_mode,
        state=live.state,
        next_step=next_step,
        tier=tier,
    )
