"""Where accepted claims are written down before they are acknowledged, so that a crash is no release."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Protocol

from tenure.claims.modes import ClaimState
from tenure.claims.objects import ResidentClaim
from tenure.errors import ClaimError, DiskFullError

_FORMAT = 1
_SCHEMA = """
CREATE TABLE IF NOT EXISTS meta (name TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS identities (number INTEGER PRIMARY KEY, record TEXT NOT NULL UNIQUE);
CREATE TABLE IF NOT EXISTS claims (
    claim_id TEXT PRIMARY KEY, owner_scope TEXT NOT NULL, identity INTEGER NOT NULL REFERENCES identities,
    object_id TEXT NOT NULL,
    predicate_type TEXT NOT NULL, required_blocks INTEGER NOT NULL, start_block INTEGER NOT NULL,
    footprint_blocks INTEGER NOT NULL, protection_mode TEXT NOT NULL, duration_s REAL, revision INTEGER NOT NULL,
    fallback_mode TEXT, block_hashes TEXT, predicted_value REAL NOT NULL, confidence REAL NOT NULL,
    state TEXT NOT NULL, accepted_at_s REAL NOT NULL, expires_at_s REAL, noted_at_s REAL NOT NULL,
    offload_generation INTEGER NOT NULL DEFAULT 0, ended_at_s REAL, end_reason TEXT
) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS live_claims ON claims (claim_id) WHERE ended_at_s IS NULL;
"""
_INSERT = f"INSERT INTO claims VALUES ({', '.join('?' * 22)})"
_UPDATE = """
UPDATE claims SET state = ?, revision = ?, duration_s = ?, expires_at_s = ?, noted_at_s = ?, offload_generation = ?,
    ended_at_s = ?, end_reason = ? WHERE claim_id = ? AND ended_at_s IS NULL
"""
_REBASE = """
UPDATE claims SET accepted_at_s = ?, expires_at_s = ?, noted_at_s = ? WHERE claim_id = ? AND ended_at_s IS NULL
"""
_SELECT_ENDED = "SELECT owner_scope, revision, state FROM claims WHERE claim_id = ? AND ended_at_s IS NOT NULL"
_SELECT_LIVE = "SELECT c.*, i.record FROM claims c JOIN identities i ON i.number = c.identity WHERE ended_at_s IS NULL"


class Durability(Enum):
    """Which crash an acknowledged claim survives."""

    PROCESS_CRASH = "NORMAL"
    """The death of the process at any point, `kill -9` included. Writes reach the operating system, not the disk."""
    POWER_LOSS = "FULL"
    """The death of the machine too. Every acknowledgement waits for the disk."""


@dataclass(frozen=True, slots=True, kw_only=True)
class JournalEntry:
    """What is kept of an accepted claim: as it was granted, where it stands, and how long it is still held.

    `noted_at_s` is the clock when the entry was last written: on a clock that began anew, the duration that is left is
    counted from there (TNR-LIFE-009).
    """

    claim: ResidentClaim
    state: ClaimState
    accepted_at_s: float
    expires_at_s: float | None
    noted_at_s: float
    offload_generation: int = 0
    ended_at_s: float | None = None
    end_reason: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class EndedClaim:
    """What is remembered for ever of a claim that ended: whose it was, the revision in force, and how it ended."""

    owner_scope: str
    revision: int
    state: ClaimState


@dataclass(frozen=True, slots=True, kw_only=True)
class LastRun:
    """Which run last began on a journal: its generation, 0 for none, and the clock that its entries' times are on."""

    generation: int
    clock_id: str | None


class Journal(Protocol):
    """Keeps accepted claims. When a method has returned, what it was given is kept."""

    def accept(self, entry: JournalEntry) -> None:
        """Keep a newly accepted claim. Raises DiskFullError, and keeps nothing, when it cannot."""
        ...

    def update(self, entries: Iterable[JournalEntry]) -> None:
        """Keep the new state of claims, all or none. An entry with `ended_at_s` ends its claim."""
        ...

    def ever_accepted(self, claim_id: str) -> bool:
        """Whether a claim of that id was accepted at any time, and so can be no new one."""
        ...

    def ended(self, claim_id: str) -> EndedClaim | None:
        """How the claim of that id ended, None when it is live or never was."""
        ...

    def live(self) -> list[JournalEntry]:
        """Every claim that has not ended, in order of acceptance."""
        ...

    def last_run(self) -> LastRun:
        """The run that began last, and so the clock that every time in the journal is on."""
        ...

    def begin_run(self, *, clock_id: str, rebased: Iterable[JournalEntry] = ()) -> int:
        """Note that a runtime starts on this clock, and the times of live claims moved to it: all of it or nothing.

        Returns: the generation, from 1. Raises DiskFullError, and keeps nothing, when it cannot.
        """
        ...


class MemoryJournal:
    """A journal that lasts as long as the process, for tests and runtimes that promise nothing across a restart.

    Keeps the id of every claim that was ever accepted, with its owner and how it ended.
    """

    def __init__(self) -> None:
        self._entries: dict[str, JournalEntry] = {}
        self._ended: dict[str, EndedClaim] = {}
        self._generation = 0
        self._clock_id: str | None = None

    def accept(self, entry: JournalEntry) -> None:
        """Keep a newly accepted claim."""
        if self.ever_accepted(entry.claim.claim_id):
            raise not_available(entry.claim.claim_id)
        self._entries[entry.claim.claim_id] = entry

    def update(self, entries: Iterable[JournalEntry]) -> None:
        """Keep the new state of claims, all or none. ClaimError when one has ended before."""
        given = list(entries)
        for entry in given:
            if entry.claim.claim_id not in self._entries:
                message = f"claim {entry.claim.claim_id!r} is not live in the journal; nothing may end twice"
                raise ClaimError(message, field="claim_id", clause="TNR-LIFE-008")
        for entry in given:
            if entry.ended_at_s is None:
                self._entries[entry.claim.claim_id] = entry
            else:
                del self._entries[entry.claim.claim_id]
                self._ended[entry.claim.claim_id] = EndedClaim(
                    owner_scope=entry.claim.owner_scope, revision=entry.claim.revision, state=entry.state
                )

    def ever_accepted(self, claim_id: str) -> bool:
        """Whether a claim of that id was accepted at any time."""
        return claim_id in self._entries or claim_id in self._ended

    def ended(self, claim_id: str) -> EndedClaim | None:
        """How the claim of that id ended, None when it is live or never was."""
        return self._ended.get(claim_id)

    def live(self) -> list[JournalEntry]:
        """Every claim that has not ended, in order of acceptance."""
        return list(self._entries.values())

    def last_run(self) -> LastRun:
        """The run that began last, and so the clock that every time in the journal is on."""
        return LastRun(generation=self._generation, clock_id=self._clock_id)

    def begin_run(self, *, clock_id: str, rebased: Iterable[JournalEntry] = ()) -> int:
        """Note that a runtime starts on this clock, and the times of live claims moved to it."""
        self.update(rebased)
        self._generation += 1
        self._clock_id = clock_id
        return self._generation


class SqliteJournal:
    """A journal in one SQLite file, in write-ahead mode.

    Guarantees that a claim whose `accept` returned is found by the next one who opens the file, whatever became of this
    process, and that no claim ends twice. Cost per call: one small transaction, tens of microseconds without
    `Durability.POWER_LOSS`. One process at a time, one thread.

    Args:
        path: the file, made when it is not there.
        durability: which crash an acknowledgement survives.

    Raises:
        DiskFullError: the file cannot be opened or made.
        ClaimError: the file is no journal, or one of another format.
    """

    def __init__(self, path: Path, *, durability: Durability = Durability.PROCESS_CRASH) -> None:
        self._path = path
        self._identities: dict[object, int] = {}
        try:
            self._db = sqlite3.connect(path, isolation_level=None, timeout=0.0)
            self._db.execute("PRAGMA journal_mode = WAL")
            self._db.execute(f"PRAGMA synchronous = {durability.value}")
            self._db.execute("PRAGMA locking_mode = EXCLUSIVE")
            self._db.executescript(_SCHEMA)
            self._check_format()
        except sqlite3.OperationalError as error:
            message = f"cannot open the journal {path}: {error}; choose another place, or end the process that holds it"
            raise DiskFullError(message) from error
        except sqlite3.DatabaseError as error:
            message = f"{path} is no journal of claims ({error}); move it away or choose another file"
            raise ClaimError(message, field="journal", clause="TNR-LIFE-008") from error

    def accept(self, entry: JournalEntry) -> None:
        """Keep a newly accepted claim. Raises DiskFullError, and keeps nothing, when it cannot."""
        claim = entry.claim
        predicate = claim.materialization_predicate
        hashes = None if claim.block_hashes is None else json.dumps(claim.block_hashes)
        try:
            row = (
                claim.claim_id, claim.owner_scope, self._identity_number(claim), claim.object_id,
                predicate.predicate_type.value, predicate.required_blocks, predicate.start_block,
                claim.footprint_blocks, claim.protection_mode.value, claim.duration_s, claim.revision,
                None if claim.fallback_mode is None else claim.fallback_mode.value, hashes,
                claim.predicted_value, claim.confidence, entry.state.value, entry.accepted_at_s, entry.expires_at_s,
                entry.noted_at_s, entry.offload_generation, entry.ended_at_s, entry.end_reason,
            )  # fmt: skip
            self._db.execute(_INSERT, row)
        except sqlite3.IntegrityError as error:
            raise not_available(claim.claim_id) from error
        except sqlite3.OperationalError as error:
            raise self._cannot_write(error) from error

    def update(self, entries: Iterable[JournalEntry]) -> None:
        """Keep the new state of claims, all or none.

        Raises:
            DiskFullError: nothing was kept.
            ClaimError: one of them is not there or has ended before; nothing was kept.
        """
        rows = [
            (
                entry.state.value, entry.claim.revision, entry.claim.duration_s, entry.expires_at_s, entry.noted_at_s,
                entry.offload_generation, entry.ended_at_s, entry.end_reason, entry.claim.claim_id,
            )
            for entry in entries
        ]  # fmt: skip
        try:
            one = len(rows) == 1
            changed = self._db.execute(_UPDATE, rows[0]).rowcount if one else self._update_together(rows)
        except sqlite3.OperationalError as error:
            raise self._cannot_write(error) from error
        if changed != len(rows):
            message = f"only {changed} of {len(rows)} claims were live in the journal; nothing may end twice"
            raise ClaimError(message, field="claim_id", clause="TNR-LIFE-008")

    def ever_accepted(self, claim_id: str) -> bool:
        """Whether a claim of that id was accepted at any time. Cost: one look-up by key."""
        return self._db.execute("SELECT 1 FROM claims WHERE claim_id = ?", (claim_id,)).fetchone() is not None

    def ended(self, claim_id: str) -> EndedClaim | None:
        """How the claim of that id ended, None when it is live or never was. Cost: one look-up by key."""
        found = self._db.execute(_SELECT_ENDED, (claim_id,)).fetchone()
        if found is None:
            return None
        return EndedClaim(owner_scope=found[0], revision=found[1], state=ClaimState(found[2]))

    def live(self) -> list[JournalEntry]:
        """Every claim that has not ended, in order of acceptance. Cost: linear in their number."""
        cursor = self._db.execute(f"{_SELECT_LIVE} ORDER BY accepted_at_s, claim_id")
        names = [column[0] for column in cursor.description]
        return [_entry_of(dict(zip(names, row, strict=True))) for row in cursor]

    def last_run(self) -> LastRun:
        """The run that began last, and so the clock that every time in the journal is on."""
        meta = dict(self._db.execute("SELECT name, value FROM meta").fetchall())
        return LastRun(generation=int(meta.get("generation", "0")), clock_id=meta.get("clock_id"))

    def begin_run(self, *, clock_id: str, rebased: Iterable[JournalEntry] = ()) -> int:
        """Note that a runtime starts on this clock, and the times of live claims moved to it, in one transaction.

        Were the clock kept before the times, a crash in between would have the next run read them on the wrong one.

        Raises:
            DiskFullError: nothing was kept.
        """
        times = [(entry.accepted_at_s, entry.expires_at_s, entry.noted_at_s, entry.claim.claim_id) for entry in rebased]
        generation = self.last_run().generation + 1
        try:
            with self._transaction():
                self._db.executemany(_REBASE, times)
                self._db.executemany(
                    "INSERT OR REPLACE INTO meta VALUES (?, ?)",
                    [("generation", str(generation)), ("clock_id", clock_id)],
                )
        except sqlite3.OperationalError as error:
            raise self._cannot_write(error) from error
        return generation

    def close(self) -> None:
        """Fold the write-ahead log into the file and close it."""
        self._db.close()

    def _update_together(self, rows: Sequence[tuple[object, ...]]) -> int:
        with self._transaction():
            changed = self._db.executemany(_UPDATE, rows).rowcount
            if changed != len(rows):
                self._db.execute("ROLLBACK")
        return changed

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        """All that is written inside is kept, or nothing of it: also nothing once it was rolled back by hand."""
        self._db.execute("BEGIN IMMEDIATE")
        try:
            yield
            if self._db.in_transaction:
                self._db.execute("COMMIT")
        except BaseException:
            if self._db.in_transaction:
                self._db.execute("ROLLBACK")
            raise

    def _identity_number(self, claim: ResidentClaim) -> int:
        identity = claim.cache_identity
        number = self._identities.get(identity)
        if number is None:
            record = json.dumps(identity.to_record(), sort_keys=True)
            self._db.execute("INSERT OR IGNORE INTO identities (record) VALUES (?)", (record,))
            found = self._db.execute("SELECT number FROM identities WHERE record = ?", (record,)).fetchone()
            number = self._identities[identity] = int(found[0])
        return number

    def _check_format(self) -> None:
        self._db.execute("INSERT OR IGNORE INTO meta VALUES ('format', ?)", (str(_FORMAT),))
        found = self._db.execute("SELECT value FROM meta WHERE name = 'format'").fetchone()[0]
        if found != str(_FORMAT):
            message = f"{self._path} has format {found}, this version reads {_FORMAT}; use the version that wrote it"
            raise ClaimError(message, field="journal", clause="TNR-LIFE-008")

    def _cannot_write(self, error: sqlite3.Error) -> DiskFullError:
        return DiskFullError(f"cannot write the journal {self._path}: {error}; nothing of it was kept, free some room")


def not_available(claim_id: str) -> ClaimError:
    """For an id that a new claim may not have. One text, whoever has it and whether or not it lives (TNR-ISO-002)."""
    message = f"{claim_id!r} is not available for a new claim; choose an id that was never used"
    return ClaimError(message, field="claim_id", clause="TNR-LIFE-002")


def _entry_of(row: dict[str, object]) -> JournalEntry:
    """The entry that a row of the claims table, with its identity's record, holds."""
    hashes = row["block_hashes"]
    claim = ResidentClaim.from_record(
        {
            "cache_identity": json.loads(str(row["record"])),
            "materialization_predicate": {
                name: row[name] for name in ("predicate_type", "required_blocks", "start_block")
            },
            "block_hashes": None if hashes is None else json.loads(str(hashes)),
            **{name: row[name] for name in _PLAIN_COLUMNS},
        }
    )
    return JournalEntry(
        claim=claim,
        state=ClaimState(str(row["state"])),
        **{name: row[name] for name in _ENTRY_COLUMNS},  # type: ignore[arg-type]  # as the schema declares them
    )


_PLAIN_COLUMNS = (
    "claim_id", "owner_scope", "object_id", "footprint_blocks", "protection_mode", "duration_s", "revision",
    "fallback_mode", "predicted_value", "confidence",
)  # fmt: skip
_ENTRY_COLUMNS = ("accepted_at_s", "expires_at_s", "noted_at_s", "offload_generation", "ended_at_s", "end_reason")
