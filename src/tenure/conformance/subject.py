"""What a runtime must offer to be graded: the subject protocol, and the plain values that cross it.

Everything here is plain data, and modes, predicates and actions are strings on purpose: the examiner also sends asks
that are wrong (an unknown mode, a predicate longer than its footprint), and another language's subject can speak JSON.
The strings are the published ones; `tenure.claims` has them as enums.

A subject has three ways to speak: what its methods answer, the events it wrote, and what a later request finds in the
cache (`RequestAnswer.reused_blocks`). The examiner compares all three, because events alone could be invented.
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from tenure.errors import UsageError

#: Contents of a sequence, one number a block. Equal leading numbers are equal tokens, so a common prefix of two
#: contents is the same KV under the same identity; `block_tokens` turns a number into tokens for a real model.
Content = tuple[int, ...]


class Feature(enum.StrEnum):
    """What a subject can do beyond running requests. A check that needs a missing one is `not_exposed`."""

    CLAIMS = "claims"  #: `submit_claim` reaches something that can accept
    OWNER_RELEASE = "owner_release"  #: `release_claim`
    REVISIONS = "revisions"  #: `ClaimAsk.revision`: a claim can be renewed, and an older revision is told apart
    HOLD_REQUESTS = "hold_requests"  #: a started request stays in flight until `finish_request`
    CLOCK = "clock"  #: `advance_clock` moves the clock that durations are measured on
    BLOCK_EVENTS = "block_events"  #: events name the blocks that were cached and the victims that were taken
    REUSED_BLOCKS = "reused_blocks"  #: answers tell how many leading blocks a request found cached
    OUTPUT = "output"  #: answers carry a digest of what the request produced
    LOSE_BLOCK = "lose_block"  #: `Fault.LOSE_BLOCK`
    FAIL_RESTORE = "fail_restore"  #: `Fault.FAIL_RESTORE`
    RESET = "reset"  #: `reset`
    RESTART = "restart"  #: `restart`
    TENANTS = "tenants"  #: `IdentityAsk.salt_namespace` separates caches
    ADAPTERS = "adapters"  #: `IdentityAsk.adapter_id` separates caches


class Fault(enum.StrEnum):
    """What `inject_failure` can break."""

    LOSE_BLOCK = "lose_block"  #: one cached block of a claim is gone at once, as from a memory error
    FAIL_RESTORE = "fail_restore"  #: the next restore of this claim from the slower tier fails


class RequestOutcome(enum.StrEnum):
    """How a request stands after a call."""

    RUNNING = "running"  #: admitted and in flight; `finish_request` ends it
    SERVED = "served"  #: done, all of it
    DEFERRED = "deferred"  #: waits; a later `advance_clock` or `finish_request` of another may admit or refuse it
    REFUSED = "refused"  #: will not be served, and was told so
    FAILED = "failed"  #: began and did not end well (for example its restored rows could not be had)


@dataclass(frozen=True, slots=True, kw_only=True)
class Setup:
    """What a check needs of a fresh subject. A subject that cannot have it says what it has in its capabilities.

    Args:
        usable_blocks: the device budget that residents and active work share. A subject with a fixed pool keeps its own
            size and reports it; the checks scale what they ask to `Capabilities.usable_blocks`.
        block_size: positions a block.
        conflict_actions: what the operator wants tried, in this order, when protected + active > usable.
            Names of contract actions. What is not listed must not be done to an accepted claim.
        host_tier_blocks: room in the slower tier; 0 is no tier.
        defer_limit_s: how long a deferred request may wait before it must be refused.
        seed: for a subject that has randomness.
    """

    usable_blocks: int = 80
    block_size: int = 16
    conflict_actions: tuple[str, ...] = ("refuse_active",)
    host_tier_blocks: int = 0
    defer_limit_s: float = 60.0
    seed: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Capabilities:
    """What a subject is and what it exposes. Overstating it earns failures, understating it `not_exposed`.

    Args:
        name: of the runtime, for the report.
        version: of the runtime, for the report.
        usable_blocks: blocks that residents and active work can really have together. Checked.
        block_size: positions a block.
        protection_modes: the modes `submit_claim` may accept, by their published names.
        predicates: the predicate types it may accept.
        actions: the contract actions that `Setup.conflict_actions` can make it take.
        features: see `Feature`.
        profiles: the profiles that it declares to keep; what is graded when nothing else is asked for.
        host_tier_blocks: room in the slower tier when it is not what `Setup` asked for; None for as asked.
    """

    name: str
    version: str
    usable_blocks: int
    block_size: int
    protection_modes: frozenset[str] = frozenset()
    predicates: frozenset[str] = frozenset({"leading_prefix_at_least"})
    actions: frozenset[str] = frozenset()
    features: frozenset[Feature] = frozenset()
    profiles: tuple[str, ...] = ()
    host_tier_blocks: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class IdentityAsk:
    """The part of the cache identity that an ask chooses; model, tokenizer and format are the subject's own."""

    salt_namespace: str = "tenant-a"
    adapter_id: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ClaimAsk:
    """A claim as an application submits it. It may be wrong on purpose; then it must be rejected and change nothing.

    The claim binds to rows by its content under its identity: a request that caches this content materializes it,
    before or after the submission. `prefix_id` names that content in events.

    Args:
        claim_id: stable, unlike any request id.
        owner_scope: who asks.
        prefix_id: the reusable object.
        content: of the prefix; `footprint_blocks` is its size unless a check says otherwise.
        footprint_blocks: how many blocks are to be protected, from `start_block` on.
        protection_mode: one of the contract's modes.
        predicate_type: `leading_prefix_at_least` or `contiguous_range`.
        required_blocks: the predicate's n.
        start_block: only for `contiguous_range`.
        duration_s: of the promise from acceptance, on the subject's clock; None for no end.
        revision: a renewal has the same claim_id and a higher revision, and its duration starts anew.
    """

    claim_id: str
    owner_scope: str
    prefix_id: str
    content: Content
    footprint_blocks: int
    protection_mode: str
    predicate_type: str = "leading_prefix_at_least"
    required_blocks: int
    start_block: int = 0
    duration_s: float | None = None
    revision: int = 1
    identity: IdentityAsk = IdentityAsk()


@dataclass(frozen=True, slots=True, kw_only=True)
class ClaimAnswer:
    """What the runtime answered to a claim.

    Args:
        decision: `accepted`, `rejected` or `conditionally_accepted`.
        reason: in words or a published reason string.
        accepted_blocks: the footprint it took responsibility for; None when rejected or not told.
        accepted_required_blocks: the predicate's n it took responsibility for, when it was clipped; None for as asked.
        accepted_mode: the mode, when it was downgraded; None for as asked.
    """

    decision: str
    reason: str
    accepted_blocks: int | None = None
    accepted_required_blocks: int | None = None
    accepted_mode: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class RequestAsk:
    """A request with a stated footprint.

    Args:
        request_id: unlike any claim id. The subject's events name the request by it.
        content: of the prompt. Cached leading blocks of the same content and identity are reused.
        live_blocks: blocks it needs in all, reused ones included; more than the content means generation.
        chunk_blocks: the prefill schedule, adding up to `live_blocks`; empty for one step.
        attention_mode: `full_attention`, `sliding_window` or `recompute_free_between_chunks`.
        window_blocks: of a sliding window; 0 means none are kept, None that there is no window.
        future_reuse: whether its full content blocks may stay in the reusable cache when it ends.
        identity: whose cache it may see.
    """

    request_id: str
    content: Content
    live_blocks: int
    chunk_blocks: tuple[int, ...] = ()
    attention_mode: str = "full_attention"
    window_blocks: int | None = None
    future_reuse: bool = True
    identity: IdentityAsk = IdentityAsk()


@dataclass(frozen=True, slots=True, kw_only=True)
class RequestAnswer:
    """How a request stands.

    Args:
        outcome: see `RequestOutcome`.
        reason: in words or a published reason string; empty when there is nothing to add.
        reused_blocks: leading blocks that were not computed again; None when the subject cannot tell.
        output: digest of what it produced, equal for equal content and identity; None when the subject cannot tell.
    """

    outcome: RequestOutcome
    reason: str = ""
    reused_blocks: int | None = None
    output: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class FaultAsk:
    """A failure to inject. `position` is the logical block to lose, for `Fault.LOSE_BLOCK` only."""

    fault: Fault
    claim_id: str
    position: int | None = None


class Subject(Protocol):
    """A fresh runtime with an empty cache, driven from one thread. The examiner makes a new one for each check.

    A wrong ask is answered `rejected` or by raising a `tenure.errors.UsageError`; either way nothing has changed. Any
    other exception makes the check `error`. A method whose feature is not declared is never called.
    """

    @property
    def capabilities(self) -> Capabilities:
        """What this subject is and exposes; constant for its life."""
        ...

    def submit_claim(self, ask: ClaimAsk) -> ClaimAnswer:
        """Submit, or with a higher revision renew, a claim."""
        ...

    def release_claim(self, claim_id: str, *, owner_scope: str) -> None:
        """The owner gives the claim up. Another owner's or an unknown claim id is a wrong ask."""
        ...

    def start_request(self, ask: RequestAsk) -> RequestAnswer:
        """Admit, defer or refuse a request; when admitted it computes its content and stays in flight."""
        ...

    def finish_request(self, request_id: str) -> RequestAnswer:
        """End a request in flight: its blocks become reusable (or free), and deferred requests are tried again.

        For a deferred, refused or already ended request it answers how that one stands and changes nothing.
        """
        ...

    def apply_pressure(self, *, blocks: int) -> RequestAnswer:
        """Run one unclaimed request of this many new blocks to its end, as a neighbour's traffic would."""
        ...

    def advance_clock(self, *, seconds: float) -> None:
        """Move the clock, then do what falls due: expire claims, admit or refuse deferred requests."""
        ...

    def inject_failure(self, ask: FaultAsk) -> None:
        """Break something now (`LOSE_BLOCK`) or at its next use (`FAIL_RESTORE`)."""
        ...

    def reset(self) -> None:
        """Drop the whole prefix cache, as an operator would; every claim on it ends with an event."""
        ...

    def restart(self) -> None:
        """Stop as a crash would and start again from whatever is durable. Events of both lives stay readable."""
        ...

    def events(self) -> Sequence[Mapping[str, object]]:
        """Every event so far, oldest first, each a flat mapping as in one JSON line of the trace."""
        ...

    def close(self) -> None:
        """Give back what it holds. The examiner calls it once, last, also after an error."""
        ...


#: Makes a fresh subject for one check.
SubjectFactory = Callable[[Setup], Subject]


def block_tokens(label: int, *, block_size: int, vocabulary: int) -> tuple[int, ...]:
    """`block_size` token ids for one block of a `Content`: equal labels give equal tokens, different ones differ.

    For subjects that run a real model. The first two tokens spell the label in base `vocabulary`, so labels below
    `vocabulary ** 2` never collide; the rest is a fixed mixing of the label.

    Raises:
        UsageError: if the block cannot hold two tokens or the label does not fit.
    """
    if block_size < 2 or vocabulary < 2 or not 0 <= label < vocabulary**2:
        message = (
            f"label {label} needs block_size >= 2 (is {block_size}) and 0 <= label < vocabulary^2 ({vocabulary}^2)"
        )
        raise UsageError(message)
    mixed = ((label * 2654435761 + position * 40503) % vocabulary for position in range(2, block_size))
    return (label % vocabulary, label // vocabulary, *mixed)
