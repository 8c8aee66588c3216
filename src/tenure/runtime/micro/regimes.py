"""Which claims to accept when not all fit: the published acceptance policies, on a cache where protection is an order.

A study apart from the runtime: here an accepted claim only ranks its blocks higher, which is what priorities in serving
engines do today. It shows why a count of kept blocks says nothing about value, and why an order is no protection.

Source: resident-claims reference simulator (eviction by priority, then longest untouched, then block number) and its
regime table; the numbers are reproduced in tests.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from types import MappingProxyType

from tenure.errors import PolicyError

_CLAIMED, _PLAIN, _ADMITTED_PREFILL = 1.0, 0.0, 2.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Prefix:
    """A reusable prefix: worth `value` while its first `threshold_blocks` are cached, and nothing below that."""

    prefix_id: str
    blocks: int
    threshold_blocks: int
    value: float
    tenant: str

    @property
    def density(self) -> float:
        """Value a block that is needed for it."""
        return self.value / max(self.threshold_blocks, 1)

    def worth(self, leading_blocks: int) -> float:
        """The value of a cached leading run: all or nothing."""
        return self.value if leading_blocks >= self.threshold_blocks else 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Regime:
    """Prefixes that are claimed, cached one after the other, pressed, and then asked for."""

    name: str
    capacity_blocks: int
    pressure_blocks: int
    prefixes: tuple[Prefix, ...]


def _prefixes(*rows: tuple[str, int, int, float, str]) -> tuple[Prefix, ...]:
    return tuple(
        Prefix(prefix_id=name, blocks=blocks, threshold_blocks=threshold, value=value, tenant=tenant)
        for name, blocks, threshold, value, tenant in rows
    )


#: The published regimes.
REGIMES: tuple[Regime, ...] = (
    Regime(
        name="fair_share_fragmentation",
        capacity_blocks=100,
        pressure_blocks=20,
        prefixes=_prefixes(("A", 60, 40, 10, "t1"), ("B", 60, 40, 8, "t2"), ("C", 20, 40, 4, "t3")),
    ),
    Regime(
        name="footprint_pressure_density",
        capacity_blocks=80,
        pressure_blocks=20,
        prefixes=_prefixes(
            ("small_hot", 30, 30, 9, "t2"), ("small_warm", 30, 30, 8, "t3"), ("bulky", 70, 70, 13, "t1")
        ),
    ),
    Regime(
        name="complete_beats_naive",
        capacity_blocks=90,
        pressure_blocks=20,
        prefixes=_prefixes(("A", 50, 35, 8, "t1"), ("B", 50, 35, 7, "t2"), ("C", 30, 35, 4, "t3")),
    ),
    Regime(
        name="fairness_tax_density_wins",
        capacity_blocks=100,
        pressure_blocks=20,
        prefixes=_prefixes(
            ("low_value_tenant", 40, 40, 4, "t1"),
            ("hot_same_tenant", 40, 40, 20, "t2"),
            ("warm_same_tenant", 40, 40, 18, "t2"),
        ),
    ),
    Regime(
        name="native_loose_pressure",
        capacity_blocks=180,
        pressure_blocks=0,
        prefixes=_prefixes(("A", 50, 35, 8, "t1"), ("B", 50, 35, 7, "t2"), ("C", 30, 20, 4, "t3")),
    ),
    Regime(
        name="priority_only_not_pin",
        capacity_blocks=80,
        pressure_blocks=10,
        prefixes=_prefixes(("A", 80, 80, 10, "t1"), ("B", 80, 80, 9, "t2")),
    ),
)

#: prefix_id -> leading blocks accepted; a prefix that is not there was refused.
Grants = Mapping[str, int]
AcceptancePolicy = Callable[[Sequence[Prefix], int], Grants]


def native(prefixes: Sequence[Prefix], capacity_blocks: int) -> Grants:
    """Accept nothing: plain replacement."""
    del prefixes, capacity_blocks
    return {}


def naive_fair_share(prefixes: Sequence[Prefix], capacity_blocks: int) -> Grants:
    """Everybody an equal share, useful or not."""
    share = capacity_blocks // max(len(prefixes), 1)
    return {prefix.prefix_id: min(share, prefix.blocks) for prefix in prefixes}


def complete_prefix_fair_share(prefixes: Sequence[Prefix], capacity_blocks: int) -> Grants:
    """Tenants in turn, whole thresholds only; a tenant whose next one does not fit is done."""
    queues: dict[str, list[Prefix]] = {}
    for prefix in sorted(prefixes, key=lambda prefix: (-prefix.density, prefix.prefix_id)):
        if prefix.threshold_blocks <= prefix.blocks:
            queues.setdefault(prefix.tenant, []).append(prefix)
    grants: dict[str, int] = {}
    left = capacity_blocks
    while any(queues.values()):
        for tenant in sorted(queues):
            if not queues[tenant]:
                continue
            prefix = queues[tenant].pop(0)
            if prefix.threshold_blocks > left:
                queues[tenant] = []
                continue
            grants[prefix.prefix_id] = prefix.threshold_blocks
            left -= prefix.threshold_blocks
    return grants


def value_density(prefixes: Sequence[Prefix], capacity_blocks: int) -> Grants:
    """Most value a needed block first, whole thresholds only."""
    grants: dict[str, int] = {}
    left = capacity_blocks
    for prefix in sorted(prefixes, key=lambda prefix: (-prefix.density, prefix.prefix_id)):
        if prefix.threshold_blocks <= min(left, prefix.blocks):
            grants[prefix.prefix_id] = prefix.threshold_blocks
            left -= prefix.threshold_blocks
    return grants


def complete_prefix_oracle(prefixes: Sequence[Prefix], capacity_blocks: int) -> Grants:
    """The subset of whole thresholds worth most. Tries them all: O(2^prefixes)."""
    possible = [prefix for prefix in prefixes if prefix.threshold_blocks <= prefix.blocks]
    best: tuple[float, tuple[Prefix, ...]] = (0.0, ())
    for size in range(len(possible) + 1):
        for chosen in combinations(possible, size):
            if sum(prefix.threshold_blocks for prefix in chosen) <= capacity_blocks:
                best = max(best, (sum(prefix.value for prefix in chosen), chosen), key=lambda pair: pair[0])
    return {prefix.prefix_id: prefix.threshold_blocks for prefix in best[1]}


#: The published policies by name.
ACCEPTANCE_POLICIES: Mapping[str, AcceptancePolicy] = MappingProxyType(
    {
        "native": native,
        "value_density": value_density,
        "naive_fair_share": naive_fair_share,
        "complete_prefix_fair_share": complete_prefix_fair_share,
        "complete_prefix_oracle": complete_prefix_oracle,
    }
)


class OrderedCache:
    """A cache of `capacity_blocks` in which protection is only an order of eviction."""

    def __init__(self, capacity_blocks: int) -> None:
        self._free = list(range(capacity_blocks, 0, -1))
        self._blocks: dict[tuple[str, int], tuple[float, int, int]] = {}
        self._step = 0

    def prefill(self, prefix_id: str, blocks: int, *, claimed_blocks: int = 0, priority: float = _PLAIN) -> None:
        """Cache a prefix, its first `claimed_blocks` ranked as claimed. It evicts whatever ranks lowest, itself too."""
        self._step += 1
        for position in range(blocks):
            if (prefix_id, position) in self._blocks:
                continue
            block = self._free.pop() if self._free else self._evict()
            rank = max(priority, _CLAIMED) if position < claimed_blocks else priority
            self._blocks[prefix_id, position] = (rank, self._step, block)

    def _evict(self) -> int:
        victim = min(self._blocks, key=self._blocks.__getitem__)
        return self._blocks.pop(victim)[2]

    def surviving_blocks(self, prefix_id: str) -> int:
        """Blocks of a prefix that are cached, wherever in it."""
        return sum(1 for owner, _ in self._blocks if owner == prefix_id)

    def leading_blocks(self, prefix_id: str) -> int:
        """The unbroken run from the first block: what a later request can use."""
        leading = 0
        while (prefix_id, leading) in self._blocks:
            leading += 1
        return leading


@dataclass(frozen=True, slots=True, kw_only=True)
class RegimeScore:
    """What was left when the prefixes were asked for again.

    Args:
        thresholded: value of the prefixes whose threshold survived as an unbroken run.
        abstract: value shared out over the blocks that survived anywhere: what a block count would report.
        leading_blocks: prefix -> unbroken run.
    """

    thresholded: float
    abstract: float
    leading_blocks: Mapping[str, int]


def run_regime(regime: Regime, policy: str) -> RegimeScore:
    """Claim, cache, press and score. Deterministic. Raises PolicyError for an unknown policy."""
    if policy not in ACCEPTANCE_POLICIES:
        raise PolicyError(f"{policy!r} is no acceptance policy; use one of {', '.join(ACCEPTANCE_POLICIES)}")
    grants = ACCEPTANCE_POLICIES[policy](regime.prefixes, regime.capacity_blocks)
    cache = OrderedCache(regime.capacity_blocks)
    for prefix in regime.prefixes:
        cache.prefill(prefix.prefix_id, prefix.blocks, claimed_blocks=grants.get(prefix.prefix_id, 0))
    cache.prefill("pressure", regime.pressure_blocks)
    leading = {prefix.prefix_id: cache.leading_blocks(prefix.prefix_id) for prefix in regime.prefixes}
    return RegimeScore(
        thresholded=sum(prefix.worth(leading[prefix.prefix_id]) for prefix in regime.prefixes),
        abstract=sum(p.value * cache.surviving_blocks(p.prefix_id) / p.blocks for p in regime.prefixes),
        leading_blocks=MappingProxyType(leading),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class PrefillScore:
    """What admitting a large active prefill to the cache did.

    `resident_net` is what the residents lost, as a negative number.
    """

    resident_value: float
    active_value: float
    broken: tuple[str, ...]
    resident_net: float


def run_prefill_admission(policy: str) -> PrefillScore:
    """Two claimed residents, then a bulky prefill, under one admission policy.

    `cache_all` admits it above everything, `disposable` keeps nothing of it (and, unlike a real server without scratch
    space, takes nothing for it while it runs), `density_gated` admits it only if it is worth more a block than the
    least of the residents.

    Raises:
        PolicyError: an unknown policy.
    """
    regime = REGIMES[1]
    *residents, bulky = regime.prefixes
    lowest = min(prefix.density for prefix in residents)
    admits = {"cache_all": True, "disposable": False, "density_gated": bulky.density >= lowest}
    if policy not in admits:
        raise PolicyError(f"{policy!r} is no prefill policy; use one of {', '.join(admits)}")
    cache = OrderedCache(regime.capacity_blocks)
    for prefix in residents:
        cache.prefill(prefix.prefix_id, prefix.blocks, claimed_blocks=prefix.threshold_blocks)
    if admits[policy]:
        cache.prefill(bulky.prefix_id, bulky.blocks, priority=_ADMITTED_PREFILL)
    kept = {p.prefix_id: p.worth(cache.leading_blocks(p.prefix_id)) for p in (*residents, bulky)}
    resident_value = sum(kept[prefix.prefix_id] for prefix in residents)
    return PrefillScore(
        resident_value=resident_value,
        active_value=kept[bulky.prefix_id],
        broken=tuple(prefix.prefix_id for prefix in residents if math.isclose(kept[prefix.prefix_id], 0.0)),
        resident_net=resident_value - sum(prefix.value for prefix in residents),
    )


def cached_tokens(leading_blocks: Mapping[str, int], *, block_size: int = 16) -> int:
    """The tokens that an engine would report as cached for these runs: a number that can be large and worth nothing."""
    return sum(leading_blocks.values()) * block_size


def value_of(prefixes: Sequence[Prefix], leading_blocks: Mapping[str, int]) -> float:
    """What these runs are worth."""
    return sum(prefix.worth(leading_blocks.get(prefix.prefix_id, 0)) for prefix in prefixes)
