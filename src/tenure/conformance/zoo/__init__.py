"""Runtimes that are broken on purpose, one way each, and the clause that each of them breaks.

A suite that cannot fail proves nothing. Every clause that the suite claims to check has at least one member here, and a
test demands that each member is failed with its own clause while the unbroken toy keeps every profile.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from tenure.conformance.profiles import Profile
from tenure.conformance.subject import SubjectFactory
from tenure.conformance.suite import profiles_asking
from tenure.conformance.zoo import broken_claims as claims
from tenure.conformance.zoo import broken_conflicts as conflicts
from tenure.conformance.zoo import broken_losses as losses
from tenure.conformance.zoo import broken_tiers as tiers
from tenure.conformance.zoo.toy import ToyRuntime
from tenure.errors import UsageError


@dataclass(frozen=True, slots=True)
class ZooMember:
    """One broken runtime.

    Attributes:
        name: after `zoo:` on the command line.
        clause_id: what it breaks, and must be failed with; None for the unbroken toy.
        profiles: what it has to be graded as to be caught.
        does: in one sentence, what it does wrong.
        factory: makes one.
    """

    name: str
    clause_id: str | None
    profiles: tuple[Profile, ...]
    does: str
    factory: SubjectFactory


def _member(name: str, clause_id: str, kind: type[ToyRuntime], *also: Profile) -> tuple[str, ZooMember]:
    profiles = tuple(dict.fromkeys((*profiles_asking(clause_id), *also)))
    return name, ZooMember(name, clause_id, profiles, (kind.__doc__ or "").strip().splitlines()[0], kind)


#: The unbroken runtime that the others are broken copies of.
UNBROKEN = ZooMember("unbroken", None, tuple(Profile), "Keeps every clause that the suite checks.", ToyRuntime)

#: name -> member, grouped as their modules are.
ZOO: Mapping[str, ZooMember] = MappingProxyType(
    dict(
        (
            _member("silent-evictor", "TNR-HRM-002", losses.SilentEvictor),
            _member("counts-blocks", "TNR-MAT-002", claims.BlockCounter),
            _member("late-demoter", "TNR-HRM-004", losses.LateDemoter),
            _member("harm-without-acceptance", "TNR-HRM-001", losses.HarmWithoutAcceptance),
            _member("harm-after-release", "TNR-HRM-004", losses.HarmAfterRelease),
            _member("wrong-harm", "TNR-HRM-006", losses.WrongHarm),
            _member("recompute-as-restore", "TNR-TIER-005", tiers.RecomputeAsRestore),
            _member("nameless-refuser", "TNR-ARB-004", conflicts.NamelessRefuser),
            _member("wedge", "TNR-PRG-001", conflicts.Wedge),
            _member("event-dropper", "TNR-EVT-002", losses.EventDropper),
            _member("over-acceptor", "TNR-ACC-004", claims.OverAcceptor),
            _member("revision-replayer", "TNR-LIFE-003", claims.RevisionReplayer),
            _member("metadata-only", "TNR-ACC-008", losses.MetadataOnly),
            _member("order-only", "TNR-ACC-008", claims.OrderOnly),
            _member("idle-acceptor", "TNR-ACC-004", claims.IdleAcceptor),
            _member("sum-counter", "TNR-CAP-002", claims.SumCounter),
            _member("quiet-clipper", "TNR-ACC-007", claims.QuietClipper),
            _member("takes-any-mode", "TNR-ACC-006", claims.TakesAnyMode),
            _member("takes-any-predicate", "TNR-ACC-001", claims.TakesAnyPredicate),
            _member("takes-any-footprint", "TNR-ACC-002", claims.TakesAnyFootprint),
            _member("takes-any-duration", "TNR-ACC-003", claims.TakesAnyDuration),
            _member("quiet-release", "TNR-LIFE-004", claims.QuietRelease),
            _member("released-in-name", "TNR-PRG-002", claims.ReleasedInName),
            _member("serves-nobody", "TNR-ARB-002", conflicts.ServesNobody),
            _member("never-materialized", "TNR-MAT-003", claims.NeverMaterialized),
            _member("early-materialized", "TNR-MAT-002", claims.EarlyMaterialized),
            _member("materialized-first", "TNR-EVT-003", claims.MaterializedFirst),
            _member("late-renewer", "TNR-LIFE-005", claims.LateRenewer),
            _member("id-reuser", "TNR-LIFE-002", claims.IdReuser),
            _member("anyone-releases", "TNR-LIFE-004", claims.AnyoneReleases),
            _member("silent-reset", "TNR-LIFE-007", claims.SilentReset),
            _member("amnesiac-restart", "TNR-LIFE-008", claims.AmnesiacRestart),
            _member("shared-dropper", "TNR-CAP-003", claims.SharedDropper),
            _member("tenant-mixer", "TNR-ISO-001", claims.TenantMixer),
            _member("adapter-mixer", "TNR-IDN-003", claims.AdapterMixer),
            _member("one-adapter", "TNR-IDN-002", claims.OneAdapter),
            _member("soft-as-hard", "TNR-ARB-014", claims.SoftAsHard),
            _member("soft-ignorer", "TNR-ARB-013", claims.SoftIgnorer),
            _member("small-pool", "TNR-CAP-004", claims.SmallPool),
            _member("double-harm", "TNR-HRM-003", losses.DoubleHarm),
            _member("harm-crier", "TNR-MAT-004", losses.HarmCrier),
            _member("early-harm", "TNR-HRM-005", losses.EarlyHarm),
            _member("quiet-tail", "TNR-HRM-007", losses.QuietTail),
            _member("misnamed-loss", "TNR-HRM-008", losses.MisnamedLoss),
            _member("flag-after-cleanup", "TNR-EVT-009", losses.FlagAfterCleanup, Profile.LEASE),
            _member("vague-events", "TNR-EVT-001", losses.VagueEvents, Profile.LEASE),
            _member("post-hoc-namer", "TNR-EVT-007", losses.PostHocNamer),
            _member("refused-then-served", "TNR-EVT-005", losses.RefusedThenServed, Profile.HARD),
            _member("untold-requests", "TNR-EVT-008", losses.UntoldRequests),
            _member("deaf-to-faults", "TNR-MAT-002", losses.DeafToFaults),
            _member("blames-everybody", "TNR-ARB-004", conflicts.BlamesEverybody),
            _member("blames-bystanders", "TNR-ARB-004", conflicts.BlamesBystanders),
            _member("shortfall-alone", "TNR-ARB-005", conflicts.ShortfallAlone),
            _member("untold-conflict", "TNR-ARB-001", conflicts.UntoldConflict),
            _member("stubborn", "TNR-PRG-002", conflicts.Stubborn),
            _member("lazy-refuser", "TNR-PRG-003", conflicts.LazyRefuser),
            _member("refuses-what-fits", "TNR-ARB-002", conflicts.RefusesWhatFits),
            _member("own-claim-blocks", "TNR-ARB-009", conflicts.OwnClaimBlocks),
            _member("reuse-twice", "TNR-CAP-006", conflicts.ReuseTwice),
            _member("demotes-everybody", "TNR-ARB-007", conflicts.DemotesEverybody),
            _member("demotes-in-vain", "TNR-ARB-007", conflicts.DemotesInVain),
            _member("refused-but-evicts", "TNR-ARB-008", conflicts.RefusedButEvicts),
            _member("forgets-the-deferred", "TNR-ARB-010", conflicts.ForgetsTheDeferred),
            _member("never-refuses-the-deferred", "TNR-ARB-010", conflicts.NeverRefusesTheDeferred),
            _member("chunk-optimist", "TNR-CAP-001", conflicts.ChunkOptimist),
            _member("bound-in-name", "TNR-ARB-011", conflicts.BoundInName),
            _member("no-admit-in-name", "TNR-ARB-006", conflicts.NoAdmitInName),
            _member("hard-victim", "TNR-ARB-003", conflicts.HardVictim),
            _member("hard-tail-giver", "TNR-ARB-003", conflicts.HardTailGiver),
            _member("offload-is-goodbye", "TNR-TIER-001", tiers.OffloadIsGoodbye),
            _member("offloads-to-nowhere", "TNR-TIER-002", tiers.OffloadsToNowhere),
            _member("restores-after-reuse", "TNR-TIER-003", tiers.RestoresAfterReuse),
            _member("stuck-generation", "TNR-TIER-004", tiers.StuckGeneration),
            _member("mixes-generations", "TNR-EVT-004", tiers.MixesGenerations),
            _member("corrupt-restore", "TNR-TIER-006", tiers.CorruptRestore),
            _member("counts-the-offloaded", "TNR-TIER-007", tiers.CountsTheOffloaded),
            _member("failure-without-outcome", "TNR-LOAD-001", tiers.FailureWithoutOutcome),
            _member("silent-failure", "TNR-LOAD-001", tiers.SilentFailure),
            _member("blames-the-neighbour", "TNR-LOAD-002", tiers.BlamesTheNeighbour),
            _member("hides-the-failure", "TNR-LOAD-003", tiers.HidesTheFailure),
            _member("speaks-for-the-released", "TNR-LOAD-004", tiers.SpeaksForTheReleased),
        )
    )
)


def zoo_member(name: str) -> ZooMember:
    """The member with this name. Raises UsageError with the known names."""
    found = UNBROKEN if name == UNBROKEN.name else ZOO.get(name)
    if found is None:
        raise UsageError(f"{name!r} is not in the zoo; there are {', '.join((UNBROKEN.name, *ZOO))}")
    return found
