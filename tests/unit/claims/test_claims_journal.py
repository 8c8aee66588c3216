from __future__ import annotations

import os
import random
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from claims_world import World, make_claim
from tenure.claims import (
    CapacitySnapshot,
    ClaimState,
    ClaimStatus,
    EventType,
    Outcome,
    ProtectionMode,
    StepClock,
    leading_prefix_at_least,
)
from tenure.claims.journal import Durability, Journal, MemoryJournal, SqliteJournal
from tenure.claims.lifecycle import TERMINAL_STATES
from tenure.claims.modes import Tier
from tenure.errors import ClaimError, DiskFullError, UsageError


@pytest.fixture(params=["memory", "sqlite"])
def journal(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Journal]:
    if request.param == "memory":
        yield MemoryJournal()
        return
    kept = SqliteJournal(tmp_path / "claims.db", durability=Durability.POWER_LOSS)
    yield kept
    kept.close()


def restart(world: World, journal: Journal, *, clock_id: str = "one", clock: StepClock | None = None) -> World:
    return World(journal=journal, clock_id=clock_id, clock=world.clock if clock is None else clock)


@pytest.mark.clause("TNR-LIFE-008")
def test_a_restart_finds_every_claim_as_it_was_granted_and_ends_what_is_gone(journal: Journal) -> None:
    before = World(journal=journal, clock_id="one")
    hashes = ("a", "b", "c", "d", "e")
    waiting = make_claim("claim:waiting", block_hashes=hashes, duration_s=50.0, confidence=0.25)
    whole, cancelled = make_claim("claim:whole"), make_claim("claim:cancelled")
    before.submit(waiting)
    before.hold(whole)
    before.hold(cancelled)
    before.registry.cancel("claim:cancelled", owner_scope=cancelled.owner_scope)
    after = restart(before, journal)
    with pytest.raises(UsageError, match="start"):
        after.submit(make_claim("claim:new"))
    receipts = {receipt.claim_id: receipt.outcome for receipt in after.registry.start(runtime_name="again")}
    assert receipts == {"claim:waiting": Outcome.ACCEPTED, "claim:whole": Outcome.HARMED}
    assert after.registry.status("claim:waiting").claim == waiting
    assert after.story("claim:whole") == ["recovered", "harmed"]
    assert after.events(EventType.CLAIM_HARMED)[0].fields["harm_cause"] == "runtime_restart"
    assert after.events()[0].event_type is EventType.RUNTIME_RESTARTED
    again = restart(after, journal)
    assert [receipt.claim_id for receipt in again.registry.start(runtime_name="third")] == ["claim:waiting"]
    with pytest.raises(ClaimError, match="claim:whole"):
        again.submit(make_claim("claim:whole"))


@pytest.mark.clause("TNR-LIFE-008")
def test_claims_whose_blocks_survived_are_kept_where_they_are(journal: Journal) -> None:
    before = World(journal=journal, clock_id="one")
    for name in ("device", "host", "tier", "lost"):
        before.hold(make_claim(f"claim:{name}", protection_mode=ProtectionMode.OFFLOADABLE))
    before.registry.offload("claim:tier")
    before.registry.offload("claim:lost")
    before.registry.require_restore("claim:lost")
    after = restart(before, journal)
    after.device |= before.device

    def survivors(status: ClaimStatus) -> Tier | None:
        name = status.claim.claim_id.removeprefix("claim:")
        return {"device": Tier.DEVICE, "host": Tier.HOST, "tier": Tier.HOST}.get(name)

    receipts = after.registry.start(runtime_name="again", survivors=survivors)
    assert {receipt.claim_id: receipt.state for receipt in receipts} == {
        "claim:device": ClaimState.MATERIALIZED,
        "claim:host": ClaimState.OFFLOADED,
        "claim:tier": ClaimState.OFFLOADED,
        "claim:lost": ClaimState.HARMED,
    }
    assert after.story("claim:host") == ["recovered", "offloaded"]
    assert after.events(EventType.CLAIM_HARMED)[0].fields["harm_cause"] == "tier_lost"
    after.registry.require_restore("claim:tier")
    after.registry.restored("claim:tier")
    assert after.events()[-1].fields["offload_generation"] == 1


@pytest.mark.clause("TNR-LIFE-008", "TNR-LIFE-005")
def test_a_claim_whose_time_ran_out_while_nothing_ran_expires(journal: Journal) -> None:
    before = World(journal=journal, clock_id="one")
    before.hold(make_claim(duration_s=10.0))
    before.clock.advance(20)
    after = restart(before, journal)
    assert [receipt.outcome for receipt in after.registry.start(runtime_name="again")] == [Outcome.EXPIRED]
    assert after.story("claim:a") == ["recovered", "expired"]


@pytest.mark.clause("TNR-LIFE-009")
def test_on_a_new_clock_what_was_left_is_left(journal: Journal) -> None:
    before = World(journal=journal, clock_id="boot 1")
    before.clock.advance(1000)
    before.submit(make_claim(duration_s=10.0))
    after = restart(before, journal, clock_id="boot 2", clock=StepClock())
    after.clock.advance(3)
    after.registry.start(runtime_name="again")
    assert after.registry.status("claim:a").expires_at_s == 13.0
    unknown = restart(after, journal, clock_id="boot 3", clock=StepClock())
    unknown.registry.start(runtime_name="again")
    assert unknown.registry.status("claim:a").expires_at_s == 10.0


@pytest.mark.clause("TNR-LIFE-009", "TNR-LIFE-005")
@pytest.mark.parametrize(("last_seen_s", "now_s"), [(1_000_000, 60), (60, 1_000_000)])
def test_a_crash_before_start_leaves_the_durations_on_the_clock_they_were_noted_on(
    journal: Journal, last_seen_s: int, now_s: int
) -> None:
    before = World(journal=journal, clock_id="boot 1")
    before.clock.advance(last_seen_s)
    before.submit(make_claim(duration_s=100.0))
    for _ in range(2):
        restart(before, journal, clock_id="boot 2", clock=StepClock())  # constructed, and killed before it starts
    after = restart(before, journal, clock_id="boot 2", clock=StepClock())
    after.clock.advance(now_s)
    [receipt] = after.registry.start(runtime_name="again")
    assert receipt.outcome is Outcome.ACCEPTED
    assert after.registry.status("claim:a").expires_at_s == now_s + 100.0
    again = restart(after, journal, clock_id="boot 2", clock=after.clock)
    again.registry.start(runtime_name="same clock")
    assert again.registry.status("claim:a").expires_at_s == now_s + 100.0


def test_the_order_of_acceptance_outlives_a_change_of_the_clock(journal: Journal) -> None:
    before = World(journal=journal, clock_id="boot 1")
    for name in ("z", "y", "x"):
        before.submit(make_claim(f"claim:{name}", duration_s=1e6))
        before.clock.advance(7)
    before.registry.renew("claim:y", owner_scope=make_claim().owner_scope, revision=2, duration_s=1e6)
    after = restart(before, journal, clock_id="boot 2", clock=StepClock())
    after.registry.start(runtime_name="again")
    after.submit(make_claim("claim:a"))
    assert [entry.claim.claim_id for entry in journal.live()] == ["claim:z", "claim:y", "claim:x", "claim:a"]


def test_a_full_disk_at_the_start_changes_nothing_and_the_start_can_be_tried_again() -> None:
    disk = FullDisk()
    before = World(journal=disk, clock_id="boot 1")
    before.submit(make_claim(duration_s=10.0))
    after = World(journal=disk, clock_id="boot 2")
    after.clock.advance(1000)
    disk.full = True
    with pytest.raises(DiskFullError):
        after.registry.start(runtime_name="again")
    assert after.events() == []
    disk.full = False
    after.registry.start(runtime_name="again")
    assert after.registry.status("claim:a").expires_at_s == 1010.0
    assert after.events()[0].fields["runtime_generation"] == 2


@pytest.mark.clause("TNR-LIFE-010")
def test_a_restart_into_a_smaller_pool_gives_up_as_few_claims_as_needed_and_the_weakest_terms_first(
    journal: Journal,
) -> None:
    before = World(journal=journal, clock_id="one")
    terms = {
        "hard": ("hard_protected", 20),
        "old": ("demotable", 10),
        "small": ("demotable", 2),
        "new": ("demotable", 10),
        "soft": ("soft_priority", 80),
        "timed": ("expiring", 15),
    }
    for name, (mode, blocks) in terms.items():
        before.submit(
            make_claim(
                f"claim:{name}", protection_mode=ProtectionMode(mode), footprint_blocks=blocks, duration_s=100.0,
                materialization_predicate=leading_prefix_at_least(1),
            )
        )  # fmt: skip
        before.clock.advance(1)
    after = restart(before, journal)
    capacity = CapacitySnapshot(usable_blocks=32)
    receipts = {receipt.claim_id: receipt for receipt in after.registry.start(runtime_name="again", capacity=capacity)}
    ended = {name for name, receipt in receipts.items() if receipt.state in TERMINAL_STATES}
    assert ended == {"claim:timed", "claim:new"}
    assert (receipts["claim:new"].outcome, receipts["claim:new"].reason) == (Outcome.DEMOTED, "pool_shrank")
    assert after.story("claim:timed") == ["recovered", "demoted"]
    assert after.registry.owed_blocks == 32
    again = restart(after, journal)
    assert len(again.registry.start(runtime_name="third", capacity=capacity)) == 4


def test_nothing_ends_twice_in_the_journal(journal: Journal) -> None:
    world = World(journal=journal)
    world.submit(make_claim())
    [entry] = journal.live()
    world.registry.demote("claim:a")
    with pytest.raises(ClaimError, match="twice"):
        journal.update([entry])
    with pytest.raises(ClaimError, match="claim:a"):
        journal.accept(entry)


class FullDisk:
    """A journal on a disk that fills up and is freed again."""

    def __init__(self) -> None:
        self.kept = MemoryJournal()
        self.full = False
        self.ever_accepted, self.live, self.last_run = self.kept.ever_accepted, self.kept.live, self.kept.last_run
        self.ended = self.kept.ended

    def begin_run(self, *, clock_id: str, rebased: object = ()) -> int:
        self._check()
        return self.kept.begin_run(clock_id=clock_id, rebased=rebased)  # type: ignore[arg-type]

    def accept(self, entry: object) -> None:
        self._check()
        self.kept.accept(entry)  # type: ignore[arg-type]

    def update(self, entries: object) -> None:
        self._check()
        self.kept.update(entries)  # type: ignore[arg-type]

    def _check(self) -> None:
        if self.full:
            raise DiskFullError("the disk is full")


def test_a_full_disk_stops_acceptance_and_renewal_and_never_an_end() -> None:
    disk = FullDisk()
    world = World(journal=disk)
    claim = make_claim(duration_s=10.0)
    world.hold(claim)
    world.submit(make_claim("claim:b"))
    disk.full = True
    before = len(world.trace.events)
    with pytest.raises(DiskFullError):
        world.submit(make_claim("claim:c"))
    with pytest.raises(DiskFullError):
        world.registry.renew("claim:a", owner_scope=claim.owner_scope, revision=2, duration_s=99.0)
    status = world.registry.status("claim:a")
    assert (len(world.trace.events), status.expires_at_s, status.claim.revision) == (before, 10.0, 1)
    assert world.registry.live_claims == 2
    world.take(claim, 0)
    assert world.story("claim:a")[-1] == "harmed"
    assert len(disk.live()) == 2
    disk.full = False
    world.submit(make_claim("claim:d"))
    assert sorted(entry.claim.claim_id for entry in disk.live()) == ["claim:b", "claim:d"]


def test_a_real_full_disk_is_a_resource_error_that_accepts_nothing(tmp_path: Path) -> None:
    kept = SqliteJournal(tmp_path / "claims.db")
    kept._db.execute("PRAGMA max_page_count = 8")
    world = World(journal=kept, usable_blocks=10**9)
    numbers = iter(range(1000))

    def fill() -> None:
        for number in numbers:
            world.submit(make_claim(f"claim:{number}", object_id="x" * 500))

    with pytest.raises(DiskFullError, match="free some room"):
        fill()
    assert next(numbers) - 1 == world.registry.live_claims == len(kept.live()) > 0


def test_a_file_that_is_no_journal_and_one_in_use_are_told_apart(tmp_path: Path) -> None:
    (tmp_path / "text").write_text("not a journal at all, and long enough to be read as a page header")
    with pytest.raises(ClaimError, match="no journal"):
        SqliteJournal(tmp_path / "text")
    SqliteJournal(tmp_path / "held").begin_run(clock_id="x")
    holder = SqliteJournal(tmp_path / "mine")
    holder.begin_run(clock_id="x")
    with pytest.raises(DiskFullError, match="process that holds it"):
        SqliteJournal(tmp_path / "mine")
    holder.close()
    db = sqlite3.connect(tmp_path / "mine")
    db.execute("UPDATE meta SET value = '99' WHERE name = 'format'")
    db.commit()
    db.close()
    with pytest.raises(ClaimError, match="format 99"):
        SqliteJournal(tmp_path / "mine")


class Acknowledged:
    """What the victims said was done before they died."""

    def __init__(self) -> None:
        self.accepted: set[str] = set()
        self.renewed: set[str] = set()
        self.ended: set[str] = set()

    def note(self, line: str) -> None:
        word, _, claim_id = line.partition(" ")
        if word == "recovered":
            assert claim_id not in self.ended, "a claim whose end was acknowledged came back"
        elif word not in ("constructed", "ready"):
            getattr(self, word).add(claim_id)


@pytest.mark.clause("TNR-LIFE-008")
@pytest.mark.parametrize("seed", range(20))
def test_ten_kills_in_a_row_lose_no_acknowledged_claim_and_end_none_twice(tmp_path: Path, seed: int) -> None:
    """SIGKILL after a random number of acknowledgements, the one that a registry was constructed included: 200 in all.

    The victims' clocks stand still, so what is left of a duration is all of it, whatever clocks they had.
    """
    random_source = random.Random(seed)
    path = tmp_path / "claims.db"
    said = Acknowledged()
    boot, now_s = 0, random_source.randrange(10**7)
    for run in range(10):
        if random_source.random() < 0.5:
            boot, now_s = run, random_source.randrange(10**7)
        for line in _run_and_kill(path, f"run{run}", random_source, clock_id=f"boot {boot}", now_s=now_s):
            said.note(line)
    kept = SqliteJournal(path)
    assert kept.last_run().clock_id is not None
    for entry in kept.live():
        assert entry.expires_at_s == entry.noted_at_s + (entry.claim.duration_s or 0.0)
    world = World(journal=kept, clock_id="the last one")
    world.registry.start(runtime_name="the last one")
    assert {status.expires_at_s for status in world.registry.live()} <= {1e6, 2e6}
    live = {entry.claim.claim_id: entry for entry in kept.live()}
    assert said.accepted
    assert said.ended.isdisjoint(live)
    assert all(kept.ever_accepted(claim_id) for claim_id in said.accepted)
    # Gone without an acknowledged end can only be the claim whose end was being journalled: one for each kill.
    gone = said.accepted - said.ended - live.keys()
    assert len({claim_id.partition(":")[0] for claim_id in gone}) == len(gone)
    for claim_id in said.renewed & live.keys():
        assert (live[claim_id].claim.revision, live[claim_id].claim.duration_s) == (2, 2e6)
    kept.close()


def _run_and_kill(path: Path, run: str, random_source: random.Random, *, clock_id: str, now_s: int) -> list[str]:
    source, target = os.pipe()
    child = os.fork()
    if child == 0:
        _be_the_victim(source, target, str(path), run, clock_id, str(now_s))
    os.close(target)
    wanted = random_source.randint(1, 40)
    mark = b"constructed\n" if random_source.random() < 0.4 else b"ready\n"
    data = b""
    with os.fdopen(source, "rb", buffering=0) as pipe:
        while mark not in data or (mark == b"ready\n" and data.split(mark, 1)[1].count(b"\n") < wanted):
            chunk = pipe.read(4096)
            assert chunk, "the child died by itself"
            data += chunk
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        while chunk := pipe.read(4096):
            data += chunk
    return data.decode().splitlines()


def _be_the_victim(source: int, target: int, *arguments: str) -> None:
    import journal_victim

    os.close(source)
    os.dup2(target, 1)
    try:
        journal_victim.main(*arguments)
    finally:
        os._exit(1)


def test_the_victim_runs_as_a_program_of_its_own_too(tmp_path: Path) -> None:
    here = Path(__file__)
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    with subprocess.Popen(
        [sys.executable, str(here.with_name("journal_victim.py")), str(tmp_path / "claims.db"), "run"],
        stdout=subprocess.PIPE,
        env=environment,
    ) as child:
        assert child.stdout is not None
        lines = [child.stdout.readline() for _ in range(20)]
        child.kill()
    assert lines[:2] == [b"constructed\n", b"ready\n"]
    kept = SqliteJournal(tmp_path / "claims.db")
    live = {entry.claim.claim_id for entry in kept.live()}
    for line in lines[2:]:
        word, _, claim_id = line.decode().strip().partition(" ")
        if word == "accepted" and f"ended {claim_id}\n".encode() not in lines:
            assert claim_id in live or kept.ever_accepted(claim_id)
    kept.close()
