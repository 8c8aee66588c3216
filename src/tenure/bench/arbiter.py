"""`tenure bench arbiter`: what a promise costs a scheduler, and whether the cost grows with the pool.

Decisions are timed in a pool of 100,000 blocks with 10,000 claims and 256 active requests, and in one a tenth of it. A
row says what was decided, because a decision that fits costs less than one that must find out who is in the way, and
the figure is the dearest of them. Figures are plain medians; the median of the least disturbed tenth of a run (`quiet_us`)
and the 99th percentile stand beside them.
The baseline of a decision is what the incremental ledger replaces: one scan over the blocks that counts them.

What each figure means:

- `arbiter.decide_us`, `arbiter.decide_growth`: one decision, and how it grows with ten times the pool and the claims.
- `arbiter.shared_us`: the dearest of what happens around one block under all claims, a system prompt: a request begins
  and ends to use it, one more claim takes hold of it, a request that reuses it is refused, and one that does not.
- `arbiter.admit_us`: a claim is accepted into a registry that writes its trace to a file and keeps its journal in
  memory. Rows beside it have no trace, and a durable journal: that one writes a transaction to a file for each claim,
  and is what an owner waits for where a promise must survive a crash.
- `arbiter.harm_check_us`: what is asked of each block before it goes, at a thousand and ten thousand claims: the dearer
  of telling that nobody claims it and asking whether a claim protects it. What follows where one does, its loss or its
  harm, an event each, has rows of its own.
- `arbiter.event_us`: an event in the trace, amortised over the batches in which they are written.
"""

from __future__ import annotations

import random
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from tenure.arbiter.arbiter import decide
from tenure.arbiter.decision import ActiveRequest
from tenure.arbiter.ledger import PoolLedger
from tenure.arbiter.pressure import LivePlan
from tenure.arbiter.rules import ActionPolicy, action_policy
from tenure.bench.report import Bar, BenchReport, environment
from tenure.claims.blocks import BlockKey, hashed_block_key
from tenure.claims.event_types import EventType
from tenure.claims.events import FieldValue
from tenure.claims.journal import Journal, SqliteJournal
from tenure.claims.modes import ProtectionMode
from tenure.claims.objects import CapacitySnapshot, ResidentClaim
from tenure.claims.predicate import leading_prefix_at_least
from tenure.claims.registry import ClaimRegistry
from tenure.claims.telemetry import EventSink, JsonLinesTelemetry
from tenure.kv.identity import CacheIdentity

BLOCKS = 100_000
CLAIMS = 10_000
ACTIVE = 256
REPEATS = 400

BARS = (
    Bar("arbiter.decide_us", at_most=100),
    Bar("arbiter.decide_growth", at_most=1.5),
    Bar("arbiter.shared_us", at_most=100),
    Bar("arbiter.admit_us", at_most=50),
    Bar("arbiter.harm_check_us", at_most=2),
    Bar("arbiter.event_us", at_most=2),
)
_MODES = (
    ProtectionMode.HARD_PROTECTED,
    ProtectionMode.DEMOTABLE,
    ProtectionMode.OFFLOADABLE,
    ProtectionMode.EXPIRING,
)
_IDENTITY = CacheIdentity(
    cache_key_domain="bench", model_id="bench", tokenizer_id="bench", salt_namespace="bench", block_size=16
)
_REFUSE = action_policy({mode.value: "refuse" for mode in _MODES})


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """One kind of decision: how far the request goes beyond what is free, and which policy is read."""

    name: str
    beyond_free_blocks: int
    policy: ActionPolicy


CASES = (
    Case(name="fits", beyond_free_blocks=-10, policy=action_policy()),
    Case(name="one claim gives way", beyond_free_blocks=4, policy=action_policy()),
    Case(name="eight claims give way", beyond_free_blocks=60, policy=action_policy()),
    Case(name="refused by one claim", beyond_free_blocks=4, policy=_REFUSE),
    Case(name="refused by eight claims", beyond_free_blocks=60, policy=_REFUSE),
)


def filled_ledger(*, blocks: int, claims: int, active: int, shares: bool) -> PoolLedger:
    """A pool with claims on 60 % of its blocks and active work on most of the rest; deterministic.

    With `shares`, every twentieth claim also stands on a block of the one before it.
    """
    rng = random.Random(0)
    ledger = PoolLedger(usable_blocks=blocks, host_free_blocks=blocks // 2)
    each = blocks * 6 // 10 // claims
    used = 0
    for index in range(claims):
        size = rng.randint(max(1, each // 2), each + each // 2)
        held = range(used, used + size)
        used += size
        ledger.occupy(held)
        ledger.unpin(held)
        ledger.add_claim(f"claim-{index}", mode=rng.choice(_MODES))
        ledger.hold(f"claim-{index}", held)
        ledger.mark(f"claim-{index}", is_whole=True)
        if shares and index % 20 == 19:
            ledger.hold(f"claim-{index}", [held.start - 1])
    each = (blocks - used) * 9 // 10 // active
    for _ in range(active):
        ledger.occupy(range(used, used + each))
        used += each
    return ledger


def run(*, repeats: int = REPEATS, scale: int = 1, quick: bool = False) -> BenchReport:
    """All figures. `scale` divides the pool and the claims, for a quick run."""
    report = BenchReport(
        bench="arbiter",
        columns=("arm", "blocks", "claims", "outcome", "answer_claims", "quiet_us", "median_us", "p99_us"),
        bars=BARS,
        quick=quick,
        environment=environment(threads=1),
    )
    blocks, claims = BLOCKS // scale, CLAIMS // scale
    small, large = _time_decisions(report, blocks, claims, repeats=repeats)
    _time_pairs(report, blocks, claims, repeats=repeats)
    report.figures["arbiter.shared_us"] = max(
        _time_system_prompt(report, count, repeats=repeats) for count in (claims // 10, claims)
    )
    _time_scan(report, blocks, claims)
    report.figures["arbiter.decide_us"] = max(large)
    report.figures["arbiter.decide_growth"] = max(more / less for more, less in zip(large, small, strict=True))
    _time_admissions(report, claims=claims, repeats=repeats)
    report.figures["arbiter.harm_check_us"] = max(
        _time_checks(report, claims=count, repeats=repeats) for count in (claims // 10, claims)
    )
    _time_events(report, repeats=repeats)
    return report


def _time_decisions(report: BenchReport, blocks: int, claims: int, *, repeats: int) -> tuple[list[float], list[float]]:
    """Medians of every case in a tenth of the pool, and in all of it; the two take turns, so that a slow moment hits both."""
    sizes = [(blocks // 10, claims // 10), (blocks, claims)]
    ledgers = [filled_ledger(blocks=n, claims=of, active=ACTIVE, shares=False) for n, of in sizes]
    medians: tuple[list[float], list[float]] = ([], [])
    for case in CASES:
        asked = [_request(ledger, case) for ledger in ledgers]
        times: tuple[list[float], list[float]] = ([], [])
        for _ in range(repeats):
            for ledger, request, taken in zip(ledgers, asked, times, strict=True):
                taken.append(_once(partial(decide, ledger, request, case.policy)))
        for place, (size, of) in enumerate(sizes):
            _report_case(report, ledgers[place], case, times[place], blocks=size, claims=of)
            medians[place].append(_median(times[place]))
    return medians


def _time_pairs(report: BenchReport, blocks: int, claims: int, *, repeats: int) -> None:
    """Not a figure: one claim in ten shares a block with one other, so the exact search does not apply."""
    ledger = filled_ledger(blocks=blocks, claims=claims, active=ACTIVE, shares=True)
    case = Case(name="refused, a tenth of the claims share blocks", beyond_free_blocks=60, policy=_REFUSE)
    request = _request(ledger, case)
    times = _timed(lambda: decide(ledger, request, case.policy), max(3, repeats // 40))
    _report_case(report, ledger, case, times, blocks=blocks, claims=claims)


def _request(ledger: PoolLedger, case: Case) -> ActiveRequest:
    room = ledger.free_blocks + ledger.unclaimed_blocks
    return ActiveRequest(
        request_id="active", live_plan=LivePlan(chunk_blocks=(max(1, room + case.beyond_free_blocks),))
    )


def _report_case(
    report: BenchReport, ledger: PoolLedger, case: Case, times: Sequence[float], *, blocks: int, claims: int
) -> None:
    decision = decide(ledger, _request(ledger, case), case.policy)
    row = _row(f"decide: {case.name}", times)
    row |= {"blocks": blocks, "claims": claims, "outcome": decision.outcome.value}
    row["answer_claims"] = len(decision.blocking_claim_ids)
    report.rows.append(row)


def _time_scan(report: BenchReport, blocks: int, claims: int) -> None:
    """The baseline: what a decision would cost if it counted the blocks."""
    protected = [index % 3 != 0 for index in range(blocks)]
    row = _row("baseline: one scan over the blocks", _timed(lambda: sum(protected), 20))
    report.rows.append(row | {"blocks": blocks, "claims": claims})


def _time_system_prompt(report: BenchReport, claims: int, *, repeats: int) -> float:
    """All claims stand on one block, and on four each that nobody else does."""
    ledger = PoolLedger(usable_blocks=5 * claims + 100)
    ledger.occupy(["system"])
    ledger.unpin(["system"])
    for index in range(claims):
        held = range(4 * index, 4 * index + 4)
        ledger.occupy(held)
        ledger.unpin(held)
        ledger.add_claim(f"claim-{index}", mode=_MODES[index % len(_MODES)])
        ledger.hold(f"claim-{index}", ["system", *held])
    ledger.add_claim("newcomer", mode=ProtectionMode.HARD_PROTECTED)

    def use() -> None:
        ledger.pin(["system"])
        ledger.unpin(["system"])

    def hold() -> None:
        ledger.hold("newcomer", ["system"])
        ledger.let_go("newcomer", ["system"])

    def refused(*, reusing: bool) -> object:
        reuse = ledger.reuse_of(["system"] if reusing else ())
        plan = LivePlan(chunk_blocks=(ledger.free_blocks + 20,))
        return decide(ledger, ActiveRequest(request_id="active", live_plan=plan, reuse=reuse), _REFUSE)

    medians = []
    for arm, call in (
        ("use and let go of a block that all claims share", use),
        ("claim and give up a block that all claims share", hold),
        ("refused by five claims of many that share a block", lambda: refused(reusing=False)),
        ("the same for a request that reuses that block", lambda: refused(reusing=True)),
    ):
        times = _timed(call, repeats)
        report.rows.append(_row(arm, times) | {"blocks": ledger.usable_blocks, "claims": claims})
        medians.append(_median(times))
    return max(medians)


def _time_admissions(report: BenchReport, *, claims: int, repeats: int) -> None:
    """Acceptance of a claim of 8 blocks beside `claims` others: the figure, and what it is without and with more."""
    with tempfile.TemporaryDirectory() as folder:
        trace = JsonLinesTelemetry(
            Path(folder) / "trace.jsonl", run_id="bench", policy="bench", clock_ns=time.time_ns, usable_blocks=BLOCKS
        )
        again = JsonLinesTelemetry(
            Path(folder) / "again.jsonl", run_id="bench", policy="bench", clock_ns=time.time_ns, usable_blocks=BLOCKS
        )
        with closing(trace), closing(again), closing(SqliteJournal(Path(folder) / "journal")) as durable:
            _admissions(report, "no trace, journal in memory", _Null(), None, claims=claims, repeats=repeats)
            report.figures["arbiter.admit_us"] = _admissions(
                report, "trace in a file, journal in memory", trace, None, claims=claims, repeats=repeats
            )
            _admissions(report, "trace in a file, durable journal", again, durable, claims=claims, repeats=repeats)


def _admissions(
    report: BenchReport, how: str, sink: EventSink, journal: Journal | None, *, claims: int, repeats: int
) -> float:
    registry = ClaimRegistry(
        sink=sink, clock=lambda: 0.0, resident=set(), journal=journal, max_live_claims=claims + repeats
    )
    capacity = CapacitySnapshot(usable_blocks=10 * (claims + repeats))
    wanted = [_claim(index) for index in range(claims + repeats)]
    for claim in wanted[:claims]:
        registry.submit(claim, capacity=capacity)
    times = [_once(lambda claim=claim: registry.submit(claim, capacity=capacity)) for claim in wanted[claims:]]  # type: ignore[misc]
    report.rows.append(_row(f"admit a claim of 8 blocks: {how}", times) | {"claims": claims})
    return _median(times)


def _time_checks(report: BenchReport, *, claims: int, repeats: int) -> float:
    """What is asked of a removed block, whoever claims it, and what it costs when a claim has to be told."""
    resident: set[BlockKey] = set()
    registry = ClaimRegistry(sink=_Null(), clock=lambda: 0.0, resident=resident, max_live_claims=claims)
    capacity = CapacitySnapshot(usable_blocks=10 * claims)
    for index in range(claims):
        registry.submit(_claim(index), capacity=capacity)
    keys = [hashed_block_key(_IDENTITY, f"{index}:{at}") for index in range(claims) for at in range(8)]
    resident.update(keys)
    registry.blocks_arrived(keys)
    unclaimed = [hashed_block_key(_IDENTITY, f"nobody:{index}") for index in range(repeats)]
    medians = []
    for arm, times in (
        ("remove a block that no claim covers", _each(unclaimed, registry.block_leaving)),
        ("ask whether a claimed block is protected", _each(keys[:repeats], registry.is_protected)),
    ):
        report.rows.append(_row(arm, times) | {"claims": claims})
        medians.append(_median(times))
    firsts = keys[::8][:repeats]
    tails = keys[7::8][:repeats]
    losing = _each(tails, registry.block_leaving)
    harming = _each(firsts, registry.block_leaving)
    report.rows.append(_row("remove a claimed block that its claim can spare, event made", losing) | {"claims": claims})
    report.rows.append(
        _row("remove a claimed block that breaks its claim, harm reported", harming) | {"claims": claims}
    )
    return max(medians)


def _time_events(report: BenchReport, *, repeats: int) -> None:
    """One event written to a file of JSON Lines, amortised over full batches.

    In time of the processor, not of the clock on the wall: thousands of events outlast a time slice, and what
    neighbours do in between is not a cost of writing.
    """
    events = 2048
    times = []
    with tempfile.TemporaryDirectory() as folder:
        for attempt in range(max(10, repeats // 10)):
            sink = JsonLinesTelemetry(
                Path(folder) / f"{attempt}.jsonl",
                run_id="bench", policy="bench", clock_ns=time.time_ns, usable_blocks=BLOCKS,
            )  # fmt: skip
            fields: list[dict[str, FieldValue]] = [
                {"physical_block_id": index, "is_protected_resident": False, "victim_reason": "free_uncached"}
                for index in range(events)
            ]
            started = time.thread_time_ns()
            for one in fields:
                sink.emit(EventType.VICTIM_SELECTED, one, request_id="active")
            sink.flush()
            times.append((time.thread_time_ns() - started) / 1e3 / events)
            sink.close()
    report.rows.append(_row("write an event, amortised, processor time", times))
    report.figures["arbiter.event_us"] = _median(times)


class _Null:
    """Takes events and keeps none: what is timed is the claim, not the trace."""

    def emit(self, *_: object, **__: object) -> int:
        return 0


def _claim(index: int) -> ResidentClaim:
    return ResidentClaim(
        claim_id=f"claim-{index}",
        owner_scope="bench",
        cache_identity=_IDENTITY,
        object_id=f"prefix-{index}",
        materialization_predicate=leading_prefix_at_least(6),
        footprint_blocks=8,
        protection_mode=ProtectionMode.HARD_PROTECTED,
        block_hashes=tuple(f"{index}:{at}" for at in range(8)),
    )


def _timed(call: Callable[[], object], repeats: int) -> list[float]:
    call()
    return [_once(call) for _ in range(repeats)]


def _once(call: Callable[[], object]) -> float:
    started = time.perf_counter_ns()
    call()
    return (time.perf_counter_ns() - started) / 1e3


def _each(keys: Sequence[BlockKey], call: Callable[[BlockKey], object]) -> list[float]:
    return [_once(lambda key=key: call(key)) for key in keys]  # type: ignore[misc]


def _median(times_us: Sequence[float]) -> float:
    return statistics.median(times_us)


def _quiet(times_us: Sequence[float]) -> float:
    """The median of the least disturbed tenth of the run: neighbours on a shared machine slow it, nothing speeds it."""
    size = max(1, len(times_us) // 10)
    return min(statistics.median(times_us[at : at + size]) for at in range(0, len(times_us) - size + 1, size))


def _row(arm: str, times_us: Sequence[float]) -> dict[str, object]:
    ordered = sorted(times_us)
    p99 = ordered[min(len(ordered) - 1, len(ordered) * 99 // 100)]
    return {"arm": arm, "quiet_us": _quiet(times_us), "median_us": statistics.median(ordered), "p99_us": p99}
