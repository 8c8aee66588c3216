"""The contract's closed vocabularies: one enum an idea, with the strings that published traces use."""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from types import MappingProxyType

from tenure.errors import ClaimError


class ProtectionMode(StrEnum):
    """What an accepted claim may expect when room runs out (TNR-ACC-006)."""

    SOFT_PRIORITY = "soft_priority"
    """May influence the order of victims; its loss is reported, never forbidden."""
    HARD_PROTECTED = "hard_protected"
    """Never a victim without an explicit event first."""
    DEMOTABLE = "demotable"
    """May be demoted under pressure; the demotion event comes before the loss."""
    OFFLOADABLE = "offloadable"
    """May leave the device only while its predicate stays restorable."""
    EXPIRING = "expiring"
    """Held until its duration ends; needs a duration."""
    BEST_EFFORT = "best_effort"
    """Observed and reported; nothing is preserved."""
    ROUTED_REUSE = "routed_reuse"
    """Reuse is promised on another worker; only a cluster layer can accept it."""

    @property
    def reserves_blocks(self) -> bool:
        """Whether blocks of an accepted claim in this mode count as protected in the inequality."""
        return self in _RESERVING_MODES

    @property
    def permits_unreleased_loss(self) -> bool:
        """Whether losing the predicate under this mode, once reported as harm, breaks no promise."""
        return self in (ProtectionMode.SOFT_PRIORITY, ProtectionMode.BEST_EFFORT)


_RESERVING_MODES = frozenset(
    {
        ProtectionMode.HARD_PROTECTED,
        ProtectionMode.DEMOTABLE,
        ProtectionMode.OFFLOADABLE,
        ProtectionMode.EXPIRING,
    }
)


class ClaimState(StrEnum):
    """Where a claim stands. `tenure.claims.lifecycle.TRANSITIONS` says how it moves."""

    SUBMITTED = "submitted"
    ACCEPTED = "accepted"
    CONDITIONALLY_ACCEPTED = "conditionally_accepted"
    """Accepted with a clipped footprint or a downgraded mode; the receipt states which."""
    MATERIALIZED = "materialized"
    """The predicate holds on the device."""
    OFFLOADED = "offloaded"
    """The blocks left the device and are restorable; the runtime is still responsible."""
    RESTORING = "restore_required"
    """Somebody wants to reuse an offloaded claim; its restoration was begun."""
    RESTORED = "restored"
    """Back on the device from a lower tier, and not reused since."""
    DEMOTED = "demoted"
    EXPIRED = "expired"
    REFUSED = "refused"
    RELEASED = "released"
    """Cancelled by its owner."""
    HARMED = "harmed"


class DecisionKind(StrEnum):
    """How the runtime answered a submitted claim."""

    ACCEPTED = "accepted"
    CONDITIONALLY_ACCEPTED = "conditionally_accepted"
    REJECTED = "rejected"


class DecisionReason(StrEnum):
    """Why a claim was decided as it was."""

    FITS = "fits"
    RESERVES_NOTHING = "mode_reserves_nothing"
    FOOTPRINT_CLIPPED = "footprint_clipped"
    MODE_DOWNGRADED = "mode_downgraded"
    OVER_CAPACITY = "protected_plus_active_exceeds_usable"
    OVER_BUDGET = "claim_budget_exceeded"
    TOO_MANY_CLAIMS = "too_many_live_claims"
    MODE_NOT_SUPPORTED = "mode_not_supported"
    ALREADY_HELD = "already_held"
    """The same was asked for before and is held: a repeated submission changes nothing."""
    STALE_REVISION = "stale_revision"
    CLAIM_ENDED = "claim_already_ended"


class Action(StrEnum):
    """Everything a runtime may do when protected + active > usable. The published names, where one exists."""

    SERVE_ACTIVE_PRESERVE_RESIDENT = "serve_active_preserve_resident"
    SERVE_ACTIVE_EVICT_RESIDENT = "serve_active_evict_resident"
    """Takes unclaimed residents in policy order; an accepted claim hit by it is harmed, and says so."""
    SERVE_ACTIVE_NO_ADMIT = "serve_active_no_admit"
    """Keeps the new rows out of the reusable cache. Says nothing about residents."""
    DEFER_ACTIVE = "defer_active"
    REFUSE_ACTIVE = "refuse_active"
    DEMOTE_RESIDENT_CLAIM = "demote_resident_claim"
    EXPIRE_RESIDENT_CLAIM = "expire_resident_claim"
    OFFLOAD_RESIDENT = "offload_resident"
    OFFLOAD_ACTIVE = "offload_active"
    BOUND_ACTIVE_LIVE = "bound_active_live"
    """The request runs in a smaller arena, with recall: its live rows really shrink."""
    RECOMPUTE_SPLIT = "recompute_split"
    ROUTE_ELSEWHERE = "route_elsewhere"
    CAPACITY_REQUIRED = "capacity_required"
    """Nothing local works: add capacity, by the stated shortfall."""


class Outcome(StrEnum):
    """What a receipt says happened to whoever asked."""

    ACCEPTED = "accepted"
    CLIPPED = "clipped"
    """Conditionally accepted: with less footprint, or in a weaker mode, than was asked for."""
    REJECTED = "rejected"
    RENEWED = "renewed"
    SERVED = "served"
    BOUNDED = "bounded"
    """Served with fewer live blocks than were asked for."""
    DEFERRED = "deferred"
    REFUSED = "refused"
    ROUTED = "routed"
    DEMOTED = "demoted"
    EXPIRED = "expired"
    OFFLOADED = "offloaded"
    RESTORED = "restored"
    RELEASED = "released"
    HARMED = "harmed"
    FAILED = "failed"


class Feasibility(StrEnum):
    """Whether everything that is wanted at once fits."""

    FEASIBLE = "feasible_preserve_resident_and_active"
    INFEASIBLE = "infeasible_preserve_resident_and_active"
    INFEASIBLE_RESTORE = "infeasible_restore_claimed_kv"


class AttentionMode(StrEnum):
    """How the live rows of an active request grow with its chunks."""

    FULL_ATTENTION = "full_attention"
    SLIDING_WINDOW = "sliding_window"
    RECOMPUTE_FREE_BETWEEN_CHUNKS = "recompute_free_between_chunks"


class Tier(StrEnum):
    """Where rows can be."""

    DEVICE = "gpu_kv_cache"
    HOST = "host_offload_tier"


class VictimReason(StrEnum):
    """What an allocation took."""

    CACHED_PREFIX_REUSE = "cached_prefix_reuse"
    """A block that held a reusable prefix: something was evicted."""
    FREE_UNCACHED = "free_uncached"


class ReleaseReason(StrEnum):
    """Why a claim ended without harm."""

    OWNER_REQUEST = "owner_request"
    DURATION_ELAPSED = "duration_elapsed"
    PRESSURE = "pressure"
    RESTORATION_FAILED = "restoration_failed"
    RUNTIME_RESET = "runtime_reset"
    RUNTIME_SHUTDOWN = "runtime_shutdown"
    POOL_SHRANK = "pool_shrank"
    """A restart found fewer usable blocks than were promised."""
    OPERATOR = "operator"


class HarmCause(StrEnum):
    """What took the predicate of a claim that nobody had released."""

    EVICTED_UNDER_PRESSURE = "evicted_under_pressure"
    RESTORATION_FAILED = "restoration_failed"
    RUNTIME_RESTART = "runtime_restart"
    TIER_LOST = "tier_lost"
    FAULT = "fault"


class RestorationSource(StrEnum):
    """Where restored rows came from. Recomputing rows is no restoration (TNR-TIER-005)."""

    OFFLOAD_TIER = "offload_tier"
    RECOMPUTE = "recompute"


class RestorationOutcome(StrEnum):
    """What a failed restoration led to. One of these follows every failure (TNR-LOAD-001)."""

    REFUSAL = "refusal"
    DEMOTION = "demotion"
    EXPIRY = "expiry"
    HARM = "harm"


class ClaimRegistration(StrEnum):
    """When a claim was named. A claim named after the fact is no claim (TNR-EVT-007)."""

    PRE_REGISTERED = "pre_registered"
    POST_HOC = "post_hoc"


#: Published or drifted spellings, and the word they mean here. Reading accepts them, writing never produces them.
MODE_ALIASES: Mapping[str, ProtectionMode] = MappingProxyType(
    {
        "none": ProtectionMode.BEST_EFFORT,
        "hard_exclude": ProtectionMode.HARD_PROTECTED,
        "reserve": ProtectionMode.HARD_PROTECTED,
        "offloadable_reference": ProtectionMode.OFFLOADABLE,
    }
)

ACTION_ALIASES: Mapping[str, Action] = MappingProxyType(
    {
        "serve": Action.SERVE_ACTIVE_PRESERVE_RESIDENT,
        "native_allocate_slots": Action.SERVE_ACTIVE_PRESERVE_RESIDENT,
        "evict_resident": Action.SERVE_ACTIVE_EVICT_RESIDENT,
        "serve_active_no_admit_evict_resident": Action.SERVE_ACTIVE_NO_ADMIT,
        "no_admit_active_reuse": Action.SERVE_ACTIVE_NO_ADMIT,
        "write_no_admit": Action.SERVE_ACTIVE_NO_ADMIT,
        "native_allocate_slots_none": Action.DEFER_ACTIVE,
        "scheduler_full_sequence_gate": Action.DEFER_ACTIVE,
        "refuse_residency_claim": Action.REFUSE_ACTIVE,
        "protected_resident_capacity_refused": Action.REFUSE_ACTIVE,
        "restore_unavailable_refuse": Action.REFUSE_ACTIVE,
        "scheduler_invalid_kv_load_fail_closed": Action.REFUSE_ACTIVE,
        "relax_resident_claim": Action.DEMOTE_RESIDENT_CLAIM,
        "relax_resident_protection": Action.DEMOTE_RESIDENT_CLAIM,
        "demote_on_conflict": Action.DEMOTE_RESIDENT_CLAIM,
        "restore_unavailable_demotion": Action.DEMOTE_RESIDENT_CLAIM,
        "claim_expired": Action.EXPIRE_RESIDENT_CLAIM,
        "restore_unavailable_expiry": Action.EXPIRE_RESIDENT_CLAIM,
        "increase_capacity": Action.CAPACITY_REQUIRED,
    }
)


def parse_mode(text: object, *, field: str = "protection_mode") -> ProtectionMode:
    """The protection mode that `text` names, an alias included. Raises ClaimError for `field`, with the known names."""
    names = ", ".join(mode.value for mode in ProtectionMode)
    if not isinstance(text, str):
        message = f"must be a text, not a {type(text).__name__}; use one of {names}"
        raise ClaimError(message, field=field, clause="TNR-ACC-006")
    if text in MODE_ALIASES:
        return MODE_ALIASES[text]
    try:
        return ProtectionMode(text)
    except ValueError:
        message = f"{text!r} is no protection mode; use one of {names}"
        raise ClaimError(message, field=field, clause="TNR-ACC-006") from None


def parse_action(text: str) -> Action:
    """The contract action that `text` names, an alias included. Raises ClaimError, with the known names."""
    if text in ACTION_ALIASES:
        return ACTION_ALIASES[text]
    try:
        return Action(text)
    except ValueError:
        names = ", ".join(action.value for action in Action)
        message = f"{text!r} is no contract action; use one of {names}"
        raise ClaimError(message, field="arbiter_action", clause="TNR-ARB-001") from None
