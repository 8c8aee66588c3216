"""Checks about who may see whose rows, and who may touch whose claims."""

from __future__ import annotations

from tenure.claims.event_types import EventType
from tenure.conformance.bench import Bench
from tenure.conformance.check import Check, Judge
from tenure.conformance.finding import Finding, counted, failed, inconclusive, passed
from tenure.conformance.litmus.reading import CLAIM, NOT_PARKED, proof
from tenure.conformance.profiles import Profile
from tenure.conformance.subject import Feature, IdentityAsk
from tenure.conformance.trace import Trace


def _not_shared(bench: Bench, *, writer: IdentityAsk, reader: IdentityAsk, clause: str) -> Judge:
    bench.begin()
    content = bench.content(20)
    bench.serve(content, identity=writer)
    foreign, own = bench.reused(content, identity=reader), bench.reused(content, identity=writer)

    def judge(trace: Trace) -> Finding:
        if not own:
            return inconclusive(f"The writer itself finds {own} of its {len(content)} blocks again.")
        if foreign:
            return failed(
                clause,
                what=f"A request of {_in_words(reader)} reuses {counted(foreign, 'block')} that a request of "
                f"{_in_words(writer)} wrote.",
                why="Rows are reused only under the cache identity that they were written under.",
                at=tuple(event.index for event in trace.of(EventType.REQUEST_ADMITTED)[:2]),
            )
        return passed(f"The writer finds {own} blocks again, the other none.")

    return judge


def _in_words(identity: IdentityAsk) -> str:
    return f"{identity.salt_namespace} with {identity.adapter_id or 'no adapter'}"


def tenants_do_not_share(bench: Bench) -> Judge:
    """The same tokens under another salt are other rows."""
    return _not_shared(bench, writer=IdentityAsk(), reader=IdentityAsk(salt_namespace="tenant-b"), clause="TNR-ISO-001")


def adapters_do_not_share(bench: Bench) -> Judge:
    """The same tokens under an adapter are other rows than under none."""
    return _not_shared(bench, writer=IdentityAsk(), reader=IdentityAsk(adapter_id="adapter-1"), clause="TNR-IDN-003")


def different_adapters_do_not_share(bench: Bench) -> Judge:
    """The same tokens under two adapters are different rows."""
    return _not_shared(
        bench,
        writer=IdentityAsk(adapter_id="adapter-1"),
        reader=IdentityAsk(adapter_id="adapter-2"),
        clause="TNR-IDN-002",
    )


def only_the_owner_releases(bench: Bench) -> Judge:
    """Another owner cannot end a claim."""
    bench.begin()
    parked = bench.park(bench.content(20), claim_id=CLAIM)
    refused = bench.refuses(lambda: bench.subject.release_claim(CLAIM, owner_scope="session:tenant-b:user-1"))

    def judge(trace: Trace) -> Finding:
        if not parked:
            return inconclusive(NOT_PARKED)
        ends = trace.of(EventType.CLAIM_RELEASED, claim_id=CLAIM)
        if ends or not refused:
            return failed(
                "TNR-LIFE-004",
                what=f"Somebody who does not own {CLAIM} released it; that was {'refused' if refused else 'taken'}, and "
                f"{counted(len(ends), 'event')} released the claim.",
                why="Only its owner cancels a claim.",
                at=proof(trace, *ends),
            )
        return passed("Another owner's release was refused, and the claim stands.")

    return judge


_TENANTS = frozenset({Feature.TENANTS, Feature.REUSED_BLOCKS})
_ADAPTERS = frozenset({Feature.ADAPTERS, Feature.REUSED_BLOCKS})

CHECKS: tuple[Check, ...] = (
    Check(
        check_id="tenants-do-not-share",
        title="Rows of one salt namespace are not found under another",
        clauses=("TNR-ISO-001",),
        profile=Profile.OBSERVE,
        drive=tenants_do_not_share,
        features=_TENANTS,
        rests_on=("request-served",),
    ),
    Check(
        check_id="adapter-and-none-do-not-share",
        title="Rows written without an adapter are not found with one",
        clauses=("TNR-IDN-003",),
        profile=Profile.OBSERVE,
        drive=adapters_do_not_share,
        features=_ADAPTERS,
        rests_on=("request-served",),
    ),
    Check(
        check_id="adapters-do-not-share",
        title="Rows of one adapter are not found under another",
        clauses=("TNR-IDN-002",),
        profile=Profile.OBSERVE,
        drive=different_adapters_do_not_share,
        features=_ADAPTERS,
        rests_on=("request-served",),
    ),
    Check(
        check_id="only-the-owner-releases",
        title="Another owner cannot end a claim",
        clauses=("TNR-LIFE-004",),
        profile=Profile.LEASE,
        drive=only_the_owner_releases,
        modes=frozenset({"hard_protected"}),
        features=frozenset({Feature.OWNER_RELEASE}),
        rests_on=("claim-accepted",),
    ),
)
