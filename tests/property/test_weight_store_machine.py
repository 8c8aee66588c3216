"""The model cache against a plain model of it, under damage, failed builds and processes that were killed."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from tenure.models.progress import Advance
from tenure.models.store import EntryKey, WeightStore

KEYS = [EntryKey("one", "1" * 64, "float32", "5.1"), EntryKey("two", "2" * 64, "float32", "5.1")]
FILES = ["model.safetensors", "config.json", "extra/template.jinja"]
keys, files = st.sampled_from(KEYS), st.sampled_from(FILES)


class FailedBuildError(Exception):
    pass


class Silent:
    def say(self, text: str) -> None:
        self.last = text

    @contextmanager
    def stage(self, text: str, *, total_bytes: int | None = None) -> Iterator[Advance]:
        yield lambda _done_bytes: None


def content(key: EntryKey, name: str) -> bytes:
    return f"{key.source_sha256} {name}".encode() * 3


class WeightStoreMachine(RuleBasedStateMachine):
    """Model: the set of keys whose entry is whole. An entry that is not whole is never found, one that is always is."""

    def __init__(self) -> None:
        super().__init__()
        self.root = Path(tempfile.mkdtemp())
        self.store = WeightStore(self.root, reporter=Silent())
        self.whole: set[EntryKey] = set()
        self.clock_ns = 10**18

    def teardown(self) -> None:
        shutil.rmtree(self.root)

    def write(self, key: EntryKey, folder: Path) -> None:
        for name in FILES:
            (folder / name).parent.mkdir(exist_ok=True)
            (folder / name).write_bytes(content(key, name))

    @rule(key=keys)
    def build(self, key: EntryKey) -> None:
        built: list[Path] = []

        def fill(folder: Path) -> None:
            built.append(folder)
            self.write(key, folder)

        folder = self.store.build(key, fill)
        assert bool(built) == (key not in self.whole), "built exactly when it was not there whole"
        assert folder == self.store.folder_of(key)
        self.whole.add(key)

    @rule(key=keys, written=st.integers(0, len(FILES)))
    def fail_to_build(self, key: EntryKey, written: int) -> None:
        def fill(folder: Path) -> None:
            for name in FILES[:written]:
                (folder / name).parent.mkdir(exist_ok=True)
                (folder / name).write_bytes(b"half")
            raise FailedBuildError

        try:
            self.store.build(key, fill)
        except FailedBuildError:
            assert key not in self.whole
        else:
            assert key in self.whole, "a build that failed was taken for done"

    @rule(key=keys)
    def be_killed_while_building(self, key: EntryKey) -> None:
        remains = self.root / "models" / f".partial-{key.folder_name}-99-killed"
        remains.mkdir(parents=True, exist_ok=True)
        self.write(key, remains)

    @precondition(lambda self: self.whole)
    @rule(data=st.data(), name=files, damage=st.sampled_from(["flip", "cut", "remove", "add", "manifest"]))
    def damage(self, data: st.DataObject, name: str, damage: str) -> None:
        key = data.draw(st.sampled_from(sorted(self.whole, key=lambda key: key.slug)))
        folder = self.store.folder_of(key)
        path = folder / name
        if damage == "flip":
            changed = bytearray(path.read_bytes())
            changed[data.draw(st.integers(0, len(changed) - 1))] ^= 1
            path.write_bytes(changed)
            self.touch(path)
        elif damage == "cut":
            os.truncate(path, data.draw(st.integers(0, path.stat().st_size - 1)))
        elif damage == "remove":
            path.unlink()
        elif damage == "add":
            (folder / "adapter_config.json").write_text("{}")
        else:
            manifest = folder / "tenure-manifest.json"
            os.truncate(manifest, data.draw(st.integers(0, manifest.stat().st_size - 2)))
        self.whole.discard(key)

    @precondition(lambda self: self.whole)
    @rule(data=st.data(), name=files)
    def copy_elsewhere_and_back(self, data: st.DataObject, name: str) -> None:
        """Times of change are new, bytes are not: the entry stays good."""
        key = data.draw(st.sampled_from(sorted(self.whole, key=lambda key: key.slug)))
        self.touch(self.store.folder_of(key) / name)

    def touch(self, path: Path) -> None:
        self.clock_ns += 1
        os.utime(path, ns=(self.clock_ns, self.clock_ns))

    @invariant()
    def exactly_the_whole_entries_are_found(self) -> None:
        for key in KEYS:
            found = self.store.find(key)
            assert (found is not None) == (key in self.whole)
            if found is not None:
                assert {name: (found / name).read_bytes() for name in FILES} == {
                    name: content(key, name) for name in FILES
                }


WeightStoreMachine.TestCase.settings = settings(stateful_step_count=20)


class TestWeightStore(WeightStoreMachine.TestCase):
    @pytest.fixture(autouse=True)
    def no_power_cuts(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Flushing to the disk is most of the time, and no rule here can tell whether it happened."""
        monkeypatch.setattr(os, "fsync", lambda _descriptor: None)
