from __future__ import annotations

import json
import os
import re
from collections.abc import Callable
from pathlib import Path

import pytest

from tenure.models.manifest import MANIFEST_NAME, SCHEMA, Manifest, defect

SOURCE = "a" * 64


@pytest.fixture
def entry(tmp_path: Path) -> Path:
    (tmp_path / "weights").write_bytes(bytes(range(256)))
    (tmp_path / "config.json").write_text("{}")
    Manifest.of_folder(tmp_path, source_sha256=SOURCE, dtype="float32", transformers_version="5.23.0").write(tmp_path)
    return tmp_path


def check(entry: Path, *, every_byte: bool = False, version: str = "5.23.0", source: str = SOURCE) -> str | None:
    return defect(entry, source_sha256=source, dtype="float32", transformers_version=version, every_byte=every_byte)


def change_manifest(entry: Path, **changes: object) -> None:
    path = entry / MANIFEST_NAME
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def flip_a_byte(path: Path, *, keep_time: bool) -> None:
    status = path.stat()
    content = bytearray(path.read_bytes())
    content[17] ^= 1
    path.write_bytes(content)
    time_ns = status.st_mtime_ns if keep_time else status.st_mtime_ns + 10**9
    os.utime(path, ns=(time_ns, time_ns))


def test_what_was_written_has_no_defect(entry: Path) -> None:
    assert check(entry) is None
    assert check(entry, every_byte=True) is None


DAMAGES: list[tuple[str, Callable[[Path], object], str]] = [
    ("no manifest", lambda entry: (entry / MANIFEST_NAME).unlink(), "no manifest"),
    ("manifest cut off", lambda entry: os.truncate(entry / MANIFEST_NAME, 40), "cannot be read"),
    ("manifest of no text", lambda entry: (entry / MANIFEST_NAME).write_bytes(b"\xff\xfe"), "cannot be read"),
    ("manifest is a list", lambda entry: (entry / MANIFEST_NAME).write_text("[]"), "lacks a field"),
    ("another schema", lambda entry: change_manifest(entry, schema="x/9"), f"'x/9'.*'{SCHEMA}'"),
    ("a record without hash", lambda entry: change_manifest(entry, files={"weights": {"size_bytes": 1}}), "lacks"),
    ("another dtype", lambda entry: change_manifest(entry, dtype="bfloat16"), "dtype is bfloat16, wanted is float32"),
    ("a file gone", lambda entry: (entry / "weights").unlink(), "weights"),
    ("a file too many", lambda entry: (entry / "adapter_config.json").write_text("{}"), "adapter_config.json"),
    ("a file cut off", lambda entry: os.truncate(entry / "weights", 255), "255 bytes, its manifest says 256"),
    ("a byte flipped", lambda entry: flip_a_byte(entry / "weights", keep_time=False), "other bytes"),
]


@pytest.mark.parametrize(("damage", "said"), [case[1:] for case in DAMAGES], ids=[case[0] for case in DAMAGES])
def test_every_damage_is_found_and_named(entry: Path, damage: Callable[[Path], object], said: str) -> None:
    damage(entry)
    reason = check(entry)
    assert reason is not None
    assert re.search(said, reason), reason


def test_a_byte_flipped_behind_an_unchanged_time_is_found_when_every_byte_is_read(entry: Path) -> None:
    flip_a_byte(entry / "weights", keep_time=True)
    assert check(entry) is None, "size and time of change are trusted"
    assert check(entry, every_byte=True) == "weights has other bytes than when it was written"


def test_a_copied_entry_is_read_once_and_then_trusted(entry: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    os.utime(entry / "weights", ns=(10**18, 10**18))
    assert check(entry) is None
    monkeypatch.setattr("tenure.models.manifest.file_sha256", lambda path: pytest.fail(f"{path} was read again"))
    assert check(entry) is None


def test_a_file_in_a_folder_of_the_entry_belongs_to_it_too(entry: Path) -> None:
    (entry / "templates").mkdir()
    (entry / "templates" / "tool.jinja").write_text("{{ tool }}")
    assert check(entry) == "files are missing or do not belong there: templates/tool.jinja"
    manifest = Manifest.of_folder(entry, source_sha256=SOURCE, dtype="float32", transformers_version="5.23.0")
    manifest.write(entry)
    assert check(entry, every_byte=True) is None


def test_another_source_or_major_version_is_foreign_and_a_minor_version_is_not(entry: Path) -> None:
    assert check(entry, source="b" * 64) == f"its source is {SOURCE}, wanted is {'b' * 64}"
    assert check(entry, version="6.0.0") == "its version of transformers is 5, wanted is 6"
    assert check(entry, version="5.99.1") is None


def test_a_file_that_goes_away_while_it_is_checked_is_a_defect_not_a_crash(
    entry: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def vanish(path: Path) -> str:
        raise FileNotFoundError(2, "No such file or directory", str(path))

    monkeypatch.setattr("tenure.models.manifest.file_sha256", vanish)
    reason = check(entry, every_byte=True)
    assert reason is not None
    assert "cannot be read" in reason
