"""The hand that drives one fresh subject through one check, and remembers what it was told.

Sizes in checks are written for a pool of 80 blocks and scaled to the subject's own by `blocks`, so that 60 residents
and 70 active in 80 stay the same situation in a pool of 4,000.
"""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Callable

from tenure.conformance.subject import (
    Capabilities,
    ClaimAnswer,
    ClaimAsk,
    Content,
    Fault,
    FaultAsk,
    Feature,
    IdentityAsk,
    RequestAnswer,
    RequestAsk,
    RequestOutcome,
    Setup,
    Subject,
    SubjectFactory,
)
from tenure.conformance.trace import Trace, trace_of
from tenure.errors import UsageError

#: The pool that sizes in checks are written for.
NOMINAL_USABLE_BLOCKS = 80
OWNER = "session:tenant-a:user-7"
REJECTED = "rejected"


class Bench:
    """Drives subjects that `factory` makes. Every subject is closed by `close`."""

    def __init__(self, factory: SubjectFactory) -> None:
        self._factory = factory
        self._subjects: list[Subject] = []
        self._known: Capabilities | None = None
        self._labels = itertools.count(1)
        self._probes = itertools.count(1)

    def begin(
        self,
        *,
        conflict_actions: tuple[str, ...] = ("refuse_active",),
        host_of_80: int = 0,
        defer_limit_s: float = 60.0,
    ) -> None:
        """Make a fresh subject; everything below talks to the latest one. `host_of_80` is the slower tier's size."""
        setup = Setup(
            usable_blocks=NOMINAL_USABLE_BLOCKS,
            conflict_actions=conflict_actions,
            host_tier_blocks=host_of_80,
            defer_limit_s=defer_limit_s,
        )
        subject = self._factory(setup)
        self._subjects.append(subject)
        self._known = subject.capabilities
        if self.usable_blocks < NOMINAL_USABLE_BLOCKS // 2:
            raise UsageError(f"usable_blocks: {self.usable_blocks} is too few to grade; 40 is the least")

    def close(self) -> None:
        """Close every subject that was made, each once, and then raise what the first of them raised at that."""
        with contextlib.ExitStack() as closing:
            while self._subjects:
                closing.callback(self._subjects.pop(0).close)

    # What the subject is --------------------------------------------------------------------------------------------

    @property
    def subject(self) -> Subject:
        """The latest subject."""
        return self._subjects[-1]

    @property
    def capabilities(self) -> Capabilities:
        """Of the latest subject; also after `close`, so that a judge can be asked again."""
        if self._known is None:
            raise UsageError("no subject was made yet; call begin first")
        return self._known

    @property
    def usable_blocks(self) -> int:
        """What the latest subject says that it can use."""
        return self.capabilities.usable_blocks

    def has(self, feature: Feature) -> bool:
        """Whether the subject declares the feature."""
        return feature in self.capabilities.features

    def trace(self) -> Trace:
        """Everything that the latest subject has written."""
        return trace_of(self.subject.events())

    def traces(self) -> list[Trace]:
        """What each subject has written, the latest last."""
        return [trace_of(subject.events()) for subject in self._subjects]

    def blocks(self, of_80: int) -> int:
        """This many of 80 blocks, in the subject's own pool."""
        return of_80 * self.usable_blocks // NOMINAL_USABLE_BLOCKS

    def content(self, of_80: int) -> Content:
        """Contents that no other content of this bench shares a block with."""
        return tuple(itertools.islice(self._labels, self.blocks(of_80)))

    # Claims ---------------------------------------------------------------------------------------------------------

    def claim(
        self,
        content: Content,
        *,
        claim_id: str = "claim:a",
        mode: str = "hard_protected",
        required: int | None = None,
        footprint: int | None = None,
        start_block: int | None = None,
        duration_s: float | None = None,
        revision: int = 1,
        owner: str = OWNER,
        predicate_type: str | None = None,
        identity: IdentityAsk | None = None,
    ) -> ClaimAnswer:
        """Submit a claim on `content`, all of it unless told otherwise. A raised UsageError is a rejection."""
        if duration_s is None and mode == "expiring":
            duration_s = 3600.0
        kind = "leading_prefix_at_least" if start_block is None else "contiguous_range"
        start = 0 if start_block is None else start_block
        ask = ClaimAsk(
            claim_id=claim_id,
            owner_scope=owner,
            prefix_id=f"prefix-of-{claim_id}",
            content=content,
            footprint_blocks=len(content) - start if footprint is None else footprint,
            protection_mode=mode,
            predicate_type=kind if predicate_type is None else predicate_type,
            required_blocks=len(content) - start if required is None else required,
            start_block=start,
            duration_s=duration_s,
            revision=revision,
            identity=IdentityAsk() if identity is None else identity,
        )
        try:
            return self.subject.submit_claim(ask)
        except UsageError as error:
            return ClaimAnswer(decision=REJECTED, reason=str(error))

    def release(self, claim_id: str) -> bool:
        """The owner gives the claim up. False when the subject took that for a wrong ask."""
        return not self.refuses(lambda: self.subject.release_claim(claim_id, owner_scope=OWNER))

    def refuses(self, act: Callable[[], object]) -> bool:
        """Whether the subject answered a wrong ask by a UsageError."""
        try:
            act()
        except UsageError:
            return True
        return False

    def park(
        self, content: Content, *, claim_id: str = "claim:a", mode: str = "hard_protected", **more: object
    ) -> bool:
        """Claim the content and serve it once, so that it is cached. Whether both went well."""
        answer = self.claim(content, claim_id=claim_id, mode=mode, **more)  # type: ignore[arg-type]  # passed on
        return answer.decision != REJECTED and self.serve(content).outcome is RequestOutcome.SERVED

    # Requests -------------------------------------------------------------------------------------------------------

    def start(
        self,
        content: Content,
        *,
        request_id: str | None = None,
        live: int | None = None,
        future_reuse: bool = True,
        identity: IdentityAsk | None = None,
        chunks: tuple[int, ...] = (),
        attention_mode: str = "full_attention",
        window_blocks: int | None = None,
    ) -> RequestAnswer:
        """Start a request for `content` and nothing more unless told otherwise. A raised UsageError is a refusal."""
        ask = RequestAsk(
            request_id=f"request-{next(self._probes)}" if request_id is None else request_id,
            content=content,
            live_blocks=len(content) if live is None else live,
            chunk_blocks=chunks,
            attention_mode=attention_mode,
            window_blocks=window_blocks,
            future_reuse=future_reuse,
            identity=IdentityAsk() if identity is None else identity,
        )
        try:
            return self.subject.start_request(ask)
        except UsageError as error:
            return RequestAnswer(outcome=RequestOutcome.REFUSED, reason=str(error))

    def finish(self, request_id: str) -> RequestAnswer:
        """End a request that was started with this id."""
        return self.subject.finish_request(request_id)

    def serve(
        self,
        content: Content,
        *,
        request_id: str | None = None,
        live: int | None = None,
        future_reuse: bool = True,
        identity: IdentityAsk | None = None,
        chunks: tuple[int, ...] = (),
    ) -> RequestAnswer:
        """Start a request and, when it was admitted, finish it. The blocks that it reused are those at its start."""
        name = f"request-{next(self._probes)}" if request_id is None else request_id
        begun = self.start(
            content,
            request_id=name,
            live=live,
            future_reuse=future_reuse,
            identity=identity,
            chunks=chunks,
        )
        return self.finish(name) if begun.outcome is RequestOutcome.RUNNING else begun

    def reused(self, content: Content, *, identity: IdentityAsk | None = None) -> int | None:
        """How many leading blocks a later request finds, by asking for them. None when that cannot be told.

        One fresh block follows the content, because runtimes compute the last block of a prompt again; nothing of the
        probe stays in the cache.
        """
        answer = self.serve((*content, next(self._labels)), future_reuse=False, identity=identity)
        return answer.reused_blocks if answer.outcome is RequestOutcome.SERVED else None

    def pressure(self, of_80: int) -> RequestAnswer:
        """A neighbour's request of this size, from start to end."""
        return self.subject.apply_pressure(blocks=self.blocks(of_80))

    def pass_time(self, *, seconds: float) -> None:
        """Move the subject's clock."""
        self.subject.advance_clock(seconds=seconds)

    def lose_block(self, position: int, *, claim_id: str = "claim:a") -> None:
        """Make one cached block of the claim vanish."""
        self.subject.inject_failure(FaultAsk(fault=Fault.LOSE_BLOCK, claim_id=claim_id, position=position))

    def fail_restore(self, *, claim_id: str = "claim:a") -> None:
        """Make the next restore of the claim fail."""
        self.subject.inject_failure(FaultAsk(fault=Fault.FAIL_RESTORE, claim_id=claim_id))
