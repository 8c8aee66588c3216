"""What every event must say and may say: the tables behind validation, the JSON Schema and the documentation."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum, StrEnum
from types import MappingProxyType

from tenure.claims import modes
from tenure.claims.event_types import EventType as E


class FieldKind(Enum):
    """The JSON shape of a field."""

    TEXT = "text"
    COUNT = "count"
    NUMBER = "number"
    FLAG = "flag"
    TEXT_LIST = "list of text"
    COUNT_LIST = "list of counts"
    RECORD = "object"
    RECORD_LIST = "list of objects"


@dataclass(frozen=True, slots=True)
class FieldSpec:
    """One field: its shape, what it means, and for a closed vocabulary the words it may hold."""

    kind: FieldKind
    meaning: str
    choices: tuple[str, ...] = ()
    nullable: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class EventSpec:
    """One event: who it names, what it must carry, when it is written.

    `names_claim` and `names_request` say which identifiers must be present. `prefix_id` is always allowed.
    """

    when: str
    names_claim: bool = False
    names_request: bool = False
    required: tuple[str, ...] = ()
    optional: tuple[str, ...] = ()


def _words(vocabulary: type[StrEnum]) -> tuple[str, ...]:
    return tuple(member.value for member in vocabulary)


_TEXT, _COUNT, _NUMBER, _FLAG = FieldKind.TEXT, FieldKind.COUNT, FieldKind.NUMBER, FieldKind.FLAG

#: Every field beyond the common ones, by name.
FIELDS: Mapping[str, FieldSpec] = MappingProxyType(
    {
        # Block.
        "logical_block_position": FieldSpec(_COUNT, "position of the block in its prefix", nullable=True),
        "physical_block_id": FieldSpec(_COUNT, "the allocator's name for the block"),
        "block_hash": FieldSpec(_TEXT, "chained hash of the block's tokens", nullable=True),
        "ref_count": FieldSpec(_COUNT, "requests that use the block at that moment"),
        "free_queue_rank": FieldSpec(_COUNT, "place in the order of victims when it was taken"),
        "is_protected_resident": FieldSpec(
            _FLAG, "whether a live reserving claim covers the block, computed before any clean-up"
        ),
        "victim_reason": FieldSpec(_TEXT, "what the allocation took", _words(modes.VictimReason)),
        # Claim.
        "owner_scope": FieldSpec(_TEXT, "who may renew or cancel the claim"),
        "revision": FieldSpec(_COUNT, "revision of the claim"),
        "footprint_blocks": FieldSpec(_COUNT, "blocks that the claim covers, as granted"),
        "requested_footprint_blocks": FieldSpec(_COUNT, "blocks that the owner asked for"),
        "protection_mode": FieldSpec(_TEXT, "the terms, as granted", _words(modes.ProtectionMode)),
        "requested_protection_mode": FieldSpec(_TEXT, "the terms that were asked for", _words(modes.ProtectionMode)),
        "duration_s": FieldSpec(_NUMBER, "seconds that the claim is held for", nullable=True),
        "expires_at_s": FieldSpec(_NUMBER, "when it ends by itself, on the registry's clock", nullable=True),
        "clock_s": FieldSpec(_NUMBER, "the registry's clock at that moment"),
        "cache_identity": FieldSpec(_TEXT, "which KV state is meant, in one line"),
        "materialization_predicate": FieldSpec(_TEXT, "the predicate in its textual form"),
        "predicate_satisfied": FieldSpec(_FLAG, "whether the predicate holds after this event"),
        "predicate_before": FieldSpec(_FLAG, "whether the predicate held just before"),
        "predicate_after": FieldSpec(_FLAG, "whether it holds afterwards"),
        "resident_blocks_required": FieldSpec(_COUNT, "blocks that the predicate requires"),
        "resident_blocks_materialized": FieldSpec(_COUNT, "blocks of the footprint on the device"),
        "leading_blocks_survived": FieldSpec(_COUNT, "unbroken run of blocks from the first one covered"),
        "predicted_value": FieldSpec(_NUMBER, "the owner's value for one reuse"),
        "value_lost": FieldSpec(_NUMBER, "the value that went with the predicate"),
        "confidence": FieldSpec(_NUMBER, "how sure the owner is of the reuse"),
        "decision_reason": FieldSpec(_TEXT, "why the claim was decided so", _words(modes.DecisionReason)),
        "release_reason": FieldSpec(_TEXT, "why the claim ended", _words(modes.ReleaseReason)),
        "claim_status": FieldSpec(_TEXT, "state of the claim when the block was lost", _words(modes.ClaimState)),
        "harm_cause": FieldSpec(_TEXT, "what took the predicate", _words(modes.HarmCause)),
        "harm_permitted": FieldSpec(_FLAG, "whether the granted mode lets the runtime lose the claim unreleased"),
        "claim_registration": FieldSpec(_TEXT, "when the claim was named", _words(modes.ClaimRegistration)),
        # Active work.
        "active_live_blocks_required": FieldSpec(_COUNT, "most blocks that the request holds at once"),
        "active_live_blocks_current": FieldSpec(_COUNT, "blocks that it holds now"),
        "active_live_blocks_bounded": FieldSpec(_COUNT, "the new most, after bounding, offloading or splitting"),
        "active_other_live_blocks": FieldSpec(_COUNT, "blocks that other work in flight needs"),
        "active_attention_mode": FieldSpec(_TEXT, "how its live blocks grow", _words(modes.AttentionMode)),
        "active_chunks": FieldSpec(FieldKind.COUNT_LIST, "blocks of each chunk, in order"),
        "future_reuse_requested": FieldSpec(_FLAG, "whether the request wants its rows kept for reuse"),
        "future_reuse_admitted": FieldSpec(_FLAG, "whether they will be"),
        "arbiter_action": FieldSpec(_TEXT, "what was done about it", _words(modes.Action)),
        "defer_attempts": FieldSpec(_COUNT, "how often the request was deferred so far"),
        "retry_after_s": FieldSpec(_NUMBER, "when it is worth asking again", nullable=True),
        "reuse_claim_id": FieldSpec(_TEXT, "the claim whose prefix the request reuses", nullable=True),
        "reused_blocks": FieldSpec(_COUNT, "leading blocks found, so not computed"),
        "recomputed_blocks": FieldSpec(_COUNT, "blocks computed again although a claim covers them"),
        "evicted_blocks": FieldSpec(_COUNT, "residents that were taken for the request"),
        "route_target": FieldSpec(_TEXT, "where the request went"),
        "route_cost": FieldSpec(_NUMBER, "what going there costs, in the router's unit", nullable=True),
        "failure_reason": FieldSpec(_TEXT, "what went wrong"),
        "num_tokens_to_cache": FieldSpec(_COUNT, "tokens whose rows would be reusable"),
        # Conflict.
        "blocking_claim_ids": FieldSpec(FieldKind.TEXT_LIST, "the smallest set of claims in the way, sorted"),
        "blocking_prefix_ids": FieldSpec(FieldKind.TEXT_LIST, "their prefixes, sorted"),
        "protected_resident_blocks": FieldSpec(
            _COUNT, "blocks on the device that live reserving claims keep there, shared ones once"
        ),
        "owed_resident_blocks": FieldSpec(
            _COUNT, "blocks that live reserving claims are owed on the device, shared ones once, computed yet or not"
        ),
        "protected_resident_claims": FieldSpec(FieldKind.RECORD_LIST, "one record a blocking claim"),
        "resident_plus_active_blocks": FieldSpec(_COUNT, "protected + all active"),
        "capacity_shortfall_blocks": FieldSpec(_COUNT, "how many blocks are missing: by how much that exceeds usable"),
        "feasibility": FieldSpec(_TEXT, "whether both fit", _words(modes.Feasibility)),
        "free_blocks_before_allocate": FieldSpec(_COUNT, "blocks that could be taken without breaking a promise"),
        # Tiers.
        "block_ids": FieldSpec(FieldKind.COUNT_LIST, "the blocks that moved"),
        "block_count_footprint": FieldSpec(_COUNT, "how many blocks moved"),
        "source_tier": FieldSpec(_TEXT, "where from", _words(modes.Tier)),
        "destination_tier": FieldSpec(_TEXT, "where to", _words(modes.Tier)),
        "cache_tier": FieldSpec(_TEXT, "where the blocks are now", _words(modes.Tier)),
        "offload_generation": FieldSpec(_COUNT, "which offload of this claim, from 1"),
        "restoration_required": FieldSpec(_FLAG, "whether reuse needs a restoration first"),
        "restored_from_offload_tier": FieldSpec(_FLAG, "whether the rows came back, rather than being computed"),
        "restoration_source": FieldSpec(_TEXT, "where the rows came from", _words(modes.RestorationSource)),
        "restoration_failure_reason": FieldSpec(_TEXT, "why the restoration failed"),
        "injected_restoration_failure": FieldSpec(_FLAG, "whether a test made it fail"),
        "outcome_type": FieldSpec(_TEXT, "what follows from the failure", _words(modes.RestorationOutcome)),
        "outcome_claim_id": FieldSpec(_TEXT, "the claim that it follows for"),
        "restoration_failure_event_sequence": FieldSpec(_COUNT, "the failure that this is the outcome of"),
        # The runtime.
        "runtime_name": FieldSpec(_TEXT, "what runs"),
        "runtime_version": FieldSpec(_TEXT, "which version of it"),
        "spec_version": FieldSpec(_TEXT, "which edition of the contract it follows"),
        "block_size_tokens": FieldSpec(_COUNT, "tokens in a block"),
        "runtime_generation": FieldSpec(_COUNT, "how often the runtime was started on this journal"),
        "live_claims": FieldSpec(_COUNT, "claims that the runtime answers for"),
        "reason": FieldSpec(_TEXT, "why"),
        "lost_events": FieldSpec(_COUNT, "events that could not be written"),
        "first_lost_event_sequence": FieldSpec(_COUNT, "the first of them"),
    }
)

_PREDICATE = ("resident_blocks_required", "resident_blocks_materialized", "leading_blocks_survived")
_ACTIVE = ("active_live_blocks_required", "active_live_blocks_current", "arbiter_action")
_ACTIVE_OPTIONAL = (
    "active_other_live_blocks", "active_attention_mode", "active_chunks", "future_reuse_requested",
    "future_reuse_admitted", "reuse_claim_id", "defer_attempts",
)  # fmt: skip
CONFLICT_FIELDS = (
    "blocking_claim_ids", "blocking_prefix_ids", "protected_resident_blocks", "protected_resident_claims",
    "resident_plus_active_blocks", "capacity_shortfall_blocks", "feasibility", "free_blocks_before_allocate",
)  # fmt: skip
_GRANT = ("revision", "footprint_blocks", "protection_mode", "resident_blocks_required", "expires_at_s", "clock_s")
_GRANT_OPTIONAL = (
    "predicted_value",
    "confidence",
    "protected_resident_blocks",
    "owed_resident_blocks",
    "claim_registration",
    "decision_reason",
)
_RELEASE = ("release_reason", "protection_mode", "resident_blocks_materialized", "clock_s")
_RELEASE_OPTIONAL = ("arbiter_action", "revision", "cache_tier", "restoration_failure_event_sequence")
_GENERATION = ("offload_generation",)
_FAILURE = ("restoration_failure_event_sequence", "outcome_claim_id")

#: Every event, with what it carries beyond the common fields.
EVENTS: Mapping[E, EventSpec] = MappingProxyType(
    {
        E.CLAIM_SUBMITTED: EventSpec(
            when="an owner asked; nothing is promised yet",
            names_claim=True,
            required=("owner_scope", "revision", "requested_footprint_blocks", "requested_protection_mode",
                      "materialization_predicate", "cache_identity"),
            optional=("duration_s", "predicted_value", "confidence", "claim_registration"),
        ),
        E.CLAIM_ACCEPTED: EventSpec(
            when="responsibility begins, on the terms asked for",
            names_claim=True, required=_GRANT, optional=_GRANT_OPTIONAL,
        ),
        E.CLAIM_CONDITIONALLY_ACCEPTED: EventSpec(
            when="responsibility begins, for fewer blocks or in a weaker mode than was asked for",
            names_claim=True,
            required=(*_GRANT, "decision_reason", "requested_footprint_blocks", "requested_protection_mode"),
            optional=(*_GRANT_OPTIONAL[:-1], "capacity_shortfall_blocks"),
        ),
        E.CLAIM_REJECTED: EventSpec(
            when="the runtime took no responsibility",
            names_claim=True,
            required=("revision", "decision_reason", "clock_s"),
            optional=("capacity_shortfall_blocks", "protected_resident_blocks", "owed_resident_blocks",
                      "requested_footprint_blocks", "requested_protection_mode"),
        ),
        E.CLAIM_MATERIALIZED: EventSpec(
            when="the predicate became true on the device",
            names_claim=True,
            required=("materialization_predicate", "predicate_satisfied", "protection_mode", *_PREDICATE),
        ),
        E.CLAIM_RENEWED: EventSpec(
            when="the owner extended the duration with a newer revision",
            names_claim=True, required=("revision", "expires_at_s", "clock_s"), optional=("duration_s",),
        ),
        E.CLAIM_DEMOTED: EventSpec(
            when="the runtime gave the promise up, before any block of it goes",
            names_claim=True, required=_RELEASE, optional=_RELEASE_OPTIONAL,
        ),
        E.CLAIM_EXPIRED: EventSpec(
            when="the promise's time ended, before any block of it goes",
            names_claim=True, required=_RELEASE, optional=(*_RELEASE_OPTIONAL, "expires_at_s"),
        ),
        E.CLAIM_RELEASED: EventSpec(
            when="the owner cancelled the claim", names_claim=True, required=_RELEASE, optional=_RELEASE_OPTIONAL,
        ),
        E.CLAIM_HARMED: EventSpec(
            when="an accepted, unreleased claim loses its predicate; written before the block goes",
            names_claim=True,
            required=("harm_cause", "harm_permitted", "protection_mode", "predicate_before", "predicate_after",
                      "materialization_predicate", "value_lost", *_PREDICATE),
            optional=("physical_block_id", "logical_block_position", "cache_tier", "clock_s", "arbiter_action",
                      "restoration_failure_event_sequence"),
        ),
        E.CLAIM_BLOCK_LOST: EventSpec(
            when="a live claim loses a block without losing its predicate, or before it ever held",
            names_claim=True,
            required=("logical_block_position", "claim_status", "predicate_satisfied", *_PREDICATE),
            optional=("physical_block_id", "protection_mode"),
        ),
        E.CLAIM_BLOCK_LOST_AFTER_RELEASE: EventSpec(
            when="a released claim loses a block; the release came first, and this is no harm",
            names_claim=True,
            required=("logical_block_position", "claim_status", *_PREDICATE),
            optional=("physical_block_id", "protection_mode"),
        ),
        E.CLAIM_OFFLOADED: EventSpec(
            when="the claim's blocks left the device for a tier they can be restored from",
            names_claim=True,
            required=(*_GENERATION, "block_count_footprint", "source_tier", "destination_tier",
                      "restoration_required", "protection_mode"),
            optional=("block_ids", "arbiter_action", "materialization_predicate", "release_reason"),
        ),
        E.CLAIM_RESTORE_REQUIRED: EventSpec(
            when="somebody wants to reuse an offloaded claim",
            names_claim=True, required=(*_GENERATION, "cache_tier"), optional=("block_count_footprint",),
        ),
        E.CLAIM_RESTORED: EventSpec(
            when="the rows are back on the device, from the tier, before the reuse",
            names_claim=True,
            required=(*_GENERATION, "source_tier", "destination_tier", "restored_from_offload_tier",
                      "restoration_source", "predicate_satisfied"),
            optional=("block_ids", "block_count_footprint"),
        ),
        E.CLAIM_REUSE_AFTER_RESTORE: EventSpec(
            when="a request reused the restored rows",
            names_claim=True, names_request=True, required=(*_GENERATION, "predicate_satisfied"),
            optional=("reused_blocks",),
        ),
        E.CLAIM_RESTORATION_FAILED: EventSpec(
            when="the rows could not be brought back; an outcome for the same claim follows",
            names_claim=True,
            required=(*_GENERATION, "restoration_failure_reason", "outcome_type", "outcome_claim_id"),
            optional=("injected_restoration_failure",),
        ),
        E.CLAIM_RECOVERED: EventSpec(
            when="a restart found the claim in its journal; what became of it follows",
            names_claim=True,
            required=("claim_status", "revision", "expires_at_s", "clock_s"),
            optional=("cache_tier", "protection_mode", "footprint_blocks", "offload_generation"),
        ),
        E.REQUEST_SUBMITTED: EventSpec(
            when="work arrived",
            names_request=True, required=("active_live_blocks_required",), optional=_ACTIVE_OPTIONAL,
        ),
        E.REQUEST_ADMITTED: EventSpec(
            when="the request got the room it needs",
            names_request=True,
            required=(*_ACTIVE, "free_blocks_before_allocate"),
            optional=(*_ACTIVE_OPTIONAL, *CONFLICT_FIELDS[:-1], "reused_blocks", "recomputed_blocks",
                      "evicted_blocks"),
        ),
        E.REQUEST_DEFERRED: EventSpec(
            when="the request waits; an admission, refusal or routing follows",
            names_request=True,
            required=(*_ACTIVE, *CONFLICT_FIELDS, "defer_attempts"),
            optional=(*(name for name in _ACTIVE_OPTIONAL if name != "defer_attempts"), "retry_after_s"),
        ),
        E.REQUEST_REFUSED: EventSpec(
            when="the request will not be served here; no block was taken for it",
            names_request=True,
            required=(*_ACTIVE, *CONFLICT_FIELDS),
            optional=(*_ACTIVE_OPTIONAL, "retry_after_s", *_FAILURE),
        ),
        E.REQUEST_ROUTED: EventSpec(
            when="the request went to another worker",
            names_request=True,
            required=("arbiter_action", "route_target", "capacity_shortfall_blocks", "blocking_claim_ids"),
            optional=("route_cost", "active_live_blocks_required"),
        ),
        E.REQUEST_FINISHED: EventSpec(
            when="the request was served to its end",
            names_request=True, optional=("active_live_blocks_required", "reused_blocks", "recomputed_blocks"),
        ),
        E.REQUEST_FAILED: EventSpec(
            when="the request ended with an error", names_request=True, required=("failure_reason",),
        ),
        E.ACTIVE_LIVE_BOUNDED: EventSpec(
            when="the request runs in a smaller arena with recall: its live rows really shrink",
            names_request=True,
            required=("active_live_blocks_required", "active_live_blocks_bounded", "arbiter_action"),
            optional=("capacity_shortfall_blocks", "blocking_claim_ids"),
        ),
        E.ACTIVE_LIVE_OFFLOADED: EventSpec(
            when="rows of the request itself moved to a lower tier",
            names_request=True,
            required=("active_live_blocks_required", "active_live_blocks_bounded", "arbiter_action",
                      "destination_tier", "block_count_footprint"),
            optional=("capacity_shortfall_blocks", "blocking_claim_ids"),
        ),
        E.ACTIVE_LIVE_SPLIT: EventSpec(
            when="the request runs chunk by chunk, and recomputes what a chunk frees",
            names_request=True,
            required=("active_live_blocks_required", "active_live_blocks_bounded", "arbiter_action",
                      "recomputed_blocks"),
            optional=("capacity_shortfall_blocks", "blocking_claim_ids", "active_chunks"),
        ),
        E.FUTURE_REUSE_ADMITTED: EventSpec(
            when="the request's rows will be reusable",
            names_request=True,
            required=("future_reuse_requested", "future_reuse_admitted"),
            optional=("num_tokens_to_cache", "arbiter_action", *_ACTIVE[:2]),
        ),
        E.FUTURE_REUSE_DENIED: EventSpec(
            when="the request is served, and its rows will not be reusable; says nothing about residents",
            names_request=True,
            required=("future_reuse_requested", "future_reuse_admitted", "arbiter_action"),
            optional=("num_tokens_to_cache", *_ACTIVE[:2]),
        ),
        E.BLOCK_MATERIALIZED: EventSpec(
            when="a full block entered the reusable cache, or a claim was accepted on one that is there already",
            required=("logical_block_position", "physical_block_id", "is_protected_resident"),
            optional=("block_hash", "ref_count"),
        ),
        E.VICTIM_SELECTED: EventSpec(
            when="an allocation took a block, after every claim event that this causes",
            required=("physical_block_id", "is_protected_resident", "victim_reason"),
            optional=("logical_block_position", "block_hash", "ref_count", "free_queue_rank"),
        ),
        E.RUNTIME_STARTED: EventSpec(
            when="the first event of a run",
            required=("runtime_name", "spec_version"),
            optional=("runtime_version", "block_size_tokens", "runtime_generation"),
        ),
        E.RUNTIME_RESTARTED: EventSpec(
            when="the first event after a restart that found a journal",
            required=("runtime_name", "spec_version", "runtime_generation", "live_claims"),
            optional=("runtime_version", "block_size_tokens"),
        ),
        E.RUNTIME_RESET: EventSpec(
            when="the reusable cache is about to be emptied; every claim was ended before",
            required=("live_claims", "reason"),
        ),
        E.RUNTIME_SHUTDOWN: EventSpec(
            when="the runtime stops; every claim was ended before", required=("live_claims", "reason"),
        ),
        E.TELEMETRY_GAP: EventSpec(
            when="events could not be written; their numbers are missing from the trace",
            required=("lost_events", "first_lost_event_sequence", "reason"),
        ),
    }
)  # fmt: skip

#: Present in every event, in this meaning.
COMMON_FIELDS: Mapping[str, FieldSpec] = MappingProxyType(
    {
        "schema_version": FieldSpec(_COUNT, "version of this table, 1"),
        "event": FieldSpec(_TEXT, "what happened", _words(E)),
        "event_sequence": FieldSpec(_COUNT, "place in the run, from 0, each once and without gaps"),
        "timestamp_ns": FieldSpec(_COUNT, "when it was written, on the writer's clock; decides no order"),
        "run_id": FieldSpec(_TEXT, "which run"),
        "policy": FieldSpec(_TEXT, "the policy in force"),
        "usable_blocks": FieldSpec(_COUNT, "blocks that can really be allocated, null when unknown", nullable=True),
        "claim_id": FieldSpec(_TEXT, "the claim it is about", nullable=True),
        "prefix_id": FieldSpec(_TEXT, "the reusable prefix it is about", nullable=True),
        "request_id": FieldSpec(_TEXT, "the live request it is about, or was caused by", nullable=True),
    }
)

SCHEMA_VERSION = 1
