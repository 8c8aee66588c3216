from __future__ import annotations

import errno
import os
import sys
import threading
from collections import namedtuple
from pathlib import Path

import pytest
from models_fakes import RecordingReporter

from tenure.errors import DiskFullError, ModelError
from tenure.models import store as store_module
from tenure.models.store import EntryKey, WeightStore, cache_root, disk_errors, require_room

KEY = EntryKey("tiny", "a" * 64, "float32", "5.23.0")


def fill(folder: Path) -> None:
    (folder / "weights").write_bytes(b"rows" * 100)
    (folder / "config.json").write_text("{}")


def visible(folder: Path) -> list[str]:
    """What lies in a folder of entries, locks left out: they are empty, and kept on purpose."""
    return sorted(path.name for path in folder.iterdir() if not path.name.startswith(".lock-"))


@pytest.fixture
def store(tmp_path: Path, reporter: RecordingReporter) -> WeightStore:
    return WeightStore(tmp_path, reporter=reporter)


@pytest.mark.parametrize(
    ("environment", "platform", "expected"),
    [
        ({"TENURE_CACHE_DIR": "/big/cache", "XDG_CACHE_HOME": "/xdg"}, "linux", "/big/cache"),
        ({"XDG_CACHE_HOME": "/xdg"}, "linux", "/xdg/tenure"),
        ({"XDG_CACHE_HOME": "relative"}, "linux", "~/.cache/tenure"),
        ({"TENURE_CACHE_DIR": "", "XDG_CACHE_HOME": ""}, "linux", "~/.cache/tenure"),
        ({}, "darwin", "~/Library/Caches/tenure"),
        ({"LOCALAPPDATA": "/local"}, "win32", "/local/tenure"),
        ({"TENURE_CACHE_DIR": "~/models"}, "linux", "~/models"),
    ],
)
def test_the_cache_lies_where_the_user_or_the_platform_says(
    environment: dict[str, str], platform: str, expected: str
) -> None:
    assert cache_root(environment, platform=platform) == Path(expected).expanduser()


def test_asking_where_the_cache_lies_creates_nothing(tmp_path: Path) -> None:
    root = cache_root({"TENURE_CACHE_DIR": str(tmp_path / "new")})
    WeightStore(root, reporter=RecordingReporter()).find(KEY)
    assert not root.exists()


def test_an_entry_is_built_once_and_then_found(store: WeightStore, reporter: RecordingReporter) -> None:
    assert store.find(KEY) is None
    folder = store.build(KEY, fill)
    assert store.find(KEY) == store.find(KEY, every_byte=True) == folder
    assert (folder / "weights").read_bytes() == b"rows" * 100
    assert store.build(KEY, lambda _folder: pytest.fail("it is there already")) == folder
    assert reporter.said == []


def test_scratch_files_do_not_become_part_of_the_entry(store: WeightStore) -> None:
    def fill_with_scratch(folder: Path) -> None:
        fill(folder)
        (folder / ".scratch").mkdir()
        (folder / ".scratch" / "download").write_text("half")
        (folder / ".note").write_text("x")

    folder = store.build(KEY, fill_with_scratch)
    assert sorted(path.name for path in folder.iterdir()) == ["config.json", "tenure-manifest.json", "weights"]


@pytest.mark.parametrize("error", [ValueError("no model"), KeyboardInterrupt(), SystemExit(1)])
def test_a_build_that_fails_or_is_interrupted_leaves_nothing(store: WeightStore, error: BaseException) -> None:
    def half(folder: Path) -> None:
        (folder / "weights").write_bytes(b"ro")
        raise error

    with pytest.raises(type(error)):
        store.build(KEY, half)
    assert visible(store.folder_of(KEY).parent) == []
    assert store.find(KEY) is None


def test_a_failed_build_keeps_the_entry_of_another_key_and_a_damaged_one_as_they_were(store: WeightStore) -> None:
    other = EntryKey("other", "b" * 64, "float32", "5.23.0")
    kept, damaged = store.build(other, fill), store.build(KEY, fill)
    (damaged / "weights").write_bytes(b"")

    def fail(_folder: Path) -> None:
        raise ValueError("no network")

    with pytest.raises(ValueError, match="no network"):
        store.build(KEY, fail)
    assert visible(kept.parent) == sorted([kept.name, damaged.name])
    assert store.find(other) == kept


def test_a_damaged_entry_is_not_used_is_reported_and_is_built_again(
    store: WeightStore, reporter: RecordingReporter
) -> None:
    folder = store.build(KEY, fill)
    os.truncate(folder / "weights", 10)
    assert store.find(KEY) is None
    assert "weights has 10 bytes, its manifest says 400" in reporter.said[0]
    assert store.build(KEY, fill) == folder
    assert store.find(KEY, every_byte=True) == folder
    assert visible(folder.parent) == [folder.name]


def test_damage_that_only_a_full_check_sees_is_repaired_when_a_full_check_was_asked_for(store: WeightStore) -> None:
    folder = store.build(KEY, fill)
    before = (folder / "weights").stat()
    (folder / "weights").write_bytes(b"sowr" * 100)
    os.utime(folder / "weights", ns=(before.st_mtime_ns, before.st_mtime_ns))
    assert store.find(KEY, every_byte=True) is None
    store.build(KEY, fill, every_byte=True)
    assert (folder / "weights").read_bytes() == b"rows" * 100


def test_what_a_killed_process_left_behind_is_removed_by_the_next_build(store: WeightStore) -> None:
    models = store.folder_of(KEY).parent
    remains = models / f".partial-{KEY.folder_name}-123-dead"
    (remains / ".scratch").mkdir(parents=True)
    foreign = models / ".partial-other-model-456-live"
    foreign.mkdir()
    folder = store.build(KEY, fill)
    assert visible(models) == sorted([foreign.name, folder.name])


def test_two_processes_that_start_at_once_build_once_and_the_second_says_that_it_waits(
    tmp_path: Path, reporter: RecordingReporter
) -> None:
    """Locks belong to the opened file, so two threads exclude each other as two processes do."""
    started, waiting = threading.Event(), threading.Event()
    built: list[str] = []

    class Waiter(RecordingReporter):
        def stage(self, text: str, *, total_bytes: int | None = None):  # type: ignore[no-untyped-def]
            waiting.set()
            return super().stage(text, total_bytes=total_bytes)

    def slow_fill(folder: Path) -> None:
        started.set()
        assert waiting.wait(10), "the second build must wait for the first"
        built.append("first")
        fill(folder)

    first = threading.Thread(target=lambda: WeightStore(tmp_path, reporter=reporter).build(KEY, slow_fill))
    first.start()
    assert started.wait(10)
    second = Waiter()
    folder = WeightStore(tmp_path, reporter=second).build(KEY, lambda _folder: built.append("second"))
    first.join(10)
    assert built == ["first"]
    assert second.stages == ["Waiting for another process that prepares tiny"]
    assert (folder / "weights").read_bytes() == b"rows" * 100


def test_without_locks_two_builds_at_once_leave_one_whole_entry(
    store: WeightStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "fcntl", None)

    def fill_while_another_build_runs(folder: Path) -> None:
        store.build(KEY, fill)
        fill(folder)

    folder = store.build(KEY, fill_while_another_build_runs)
    assert store.find(KEY, every_byte=True) == folder
    assert visible(folder.parent) == [folder.name]


def test_a_file_system_without_locks_is_good_enough(store: WeightStore, monkeypatch: pytest.MonkeyPatch) -> None:
    import fcntl

    def refuse(*_arguments: object) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", refuse)
    assert store.find(KEY) is None
    assert store.find(KEY) is None
    assert store.build(KEY, fill) == store.find(KEY)


def test_an_entry_that_appears_during_the_rename_is_used_in_place_of_ours(
    store: WeightStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = store.folder_of(KEY)
    rename = Path.rename

    came_first: list[Path] = []

    def too_late(self: Path, target: Path) -> Path:
        if target == folder and not came_first:
            came_first.append(self)
            store.build(KEY, fill)
            raise OSError(errno.ENOTEMPTY, "Directory not empty")
        return rename(self, target)

    monkeypatch.setitem(sys.modules, "fcntl", None)
    monkeypatch.setattr(Path, "rename", too_late)
    assert store.build(KEY, fill) == folder
    assert store.find(KEY, every_byte=True) == folder
    assert visible(folder.parent) == [folder.name]


def test_too_little_room_is_refused_with_the_numbers_before_anything_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(store_module.shutil, "disk_usage", lambda _path: usage(10**9, 9 * 10**8, 10**8))
    with pytest.raises(DiskFullError, match=r"needs 667 MB.*100 MB are free.*TENURE_CACHE_DIR"):
        require_room(tmp_path / "not" / "yet" / "there", 600_000_000, what="weights")
    assert list(tmp_path.iterdir()) == []
    require_room(tmp_path, 1_000_000, what="weights")


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.ENOSPC, "No space left on device"),
        OSError(errno.EDQUOT, "Disk quota exceeded"),
        RuntimeError("I/O error: No space left on device (os error 28)"),
    ],
)
def test_a_disk_that_becomes_full_is_one_clear_error_whoever_notices_it(store: WeightStore, error: Exception) -> None:
    def overflow(folder: Path) -> None:
        fill(folder)
        raise error

    with pytest.raises(DiskFullError, match=r"became full while writing tiny; nothing was kept"):
        store.build(KEY, overflow)
    assert visible(store.folder_of(KEY).parent) == []


def test_a_cache_that_cannot_be_written_names_the_folder_and_the_way_out(
    tmp_path: Path, reporter: RecordingReporter
) -> None:
    in_the_way = tmp_path / "file"
    in_the_way.write_text("")
    with pytest.raises(ModelError, match=r"file/models cannot be written \(Not a directory\); set TENURE_CACHE_DIR"):
        WeightStore(in_the_way, reporter=reporter).build(KEY, fill)


def test_other_errors_pass_through_unchanged(tmp_path: Path) -> None:
    for error in (OSError(errno.EIO, "Input/output error"), ValueError("x")):
        with pytest.raises(type(error)) as caught, disk_errors(tmp_path, what="x"):
            raise error
        assert caught.value is error
