"""What an entry of the model cache says about itself, and whether that is true."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from tenure.models.fingerprint import file_sha256

SCHEMA = "tenure-model/1"
MANIFEST_NAME = "tenure-manifest.json"


@dataclass(frozen=True, slots=True)
class FileRecord:
    """What one file of an entry was when it was written."""

    size_bytes: int
    mtime_ns: int
    sha256: str


@dataclass(frozen=True, slots=True)
class Manifest:
    """What an entry was made from, by what, and the files that it consists of."""

    source_sha256: str
    dtype: str
    transformers_version: str
    files: Mapping[str, FileRecord]

    @classmethod
    def of_folder(cls, folder: Path, *, source_sha256: str, dtype: str, transformers_version: str) -> Manifest:
        """The manifest of the files that lie in `folder` now. Reads every byte of them."""
        files = {}
        for path in _content(folder):
            status = path.stat()
            files[_name(path, folder)] = FileRecord(status.st_size, status.st_mtime_ns, file_sha256(path))
        return cls(source_sha256, dtype, transformers_version, files)

    def write(self, folder: Path) -> None:
        """Put the manifest into `folder`, replacing an older one in one step."""
        text = json.dumps({"schema": SCHEMA, **asdict(self)}, indent=1, sort_keys=True)
        temporary = folder / f".{MANIFEST_NAME}.{os.getpid()}"
        temporary.write_text(text, encoding="utf-8")
        temporary.replace(folder / MANIFEST_NAME)

    @classmethod
    def read(cls, folder: Path) -> Manifest:
        """The manifest in `folder`. Raises `ValueError` with what is wrong when it is not one of ours."""
        try:
            raw: dict[str, Any] = json.loads((folder / MANIFEST_NAME).read_text(encoding="utf-8"))
        except FileNotFoundError:
            raise ValueError("it has no manifest") from None
        except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
            message = f"its manifest cannot be read ({error})"
            raise ValueError(message) from error
        try:
            schema, source_sha256, dtype = str(raw["schema"]), str(raw["source_sha256"]), str(raw["dtype"])
            version = str(raw["transformers_version"])
            files = {str(name): FileRecord(**record) for name, record in raw["files"].items()}
        except (KeyError, TypeError, AttributeError) as error:
            message = f"its manifest lacks a field or has a wrong one ({error})"
            raise ValueError(message) from error
        if schema != SCHEMA:
            message = f"its manifest has schema {schema!r}, this version of Tenure writes {SCHEMA!r}"
            raise ValueError(message)
        return cls(source_sha256, dtype, version, files)


def _content(folder: Path) -> list[Path]:
    """The files that belong to an entry: all but the manifest and scratch, which starts with a dot."""
    return sorted(
        path
        for path in folder.rglob("*")
        if path.is_file() and not _name(path, folder).startswith(".") and path != folder / MANIFEST_NAME
    )


def _name(path: Path, folder: Path) -> str:
    return path.relative_to(folder).as_posix()


def _major(version: str) -> str:
    return version.split(".", maxsplit=1)[0]


def defect(folder: Path, *, source_sha256: str, dtype: str, transformers_version: str, every_byte: bool) -> str | None:
    """Why the entry in `folder` must not be used, or None when it is whole and made from the given source.

    A file whose size and time of change are those of the manifest is trusted, as git does it; one whose time differs is
    read and compared byte for byte (and, if it is good, its new time is kept). `every_byte` reads them all. An entry
    of another major version of Transformers is not used, because the names of weights may have changed.
    """
    try:
        manifest = Manifest.read(folder)
    except ValueError as error:
        return str(error)
    for what, found, wanted in (
        ("source", manifest.source_sha256, source_sha256),
        ("dtype", manifest.dtype, dtype),
        ("version of transformers", _major(manifest.transformers_version), _major(transformers_version)),
    ):
        if found != wanted:
            return f"its {what} is {found}, wanted is {wanted}"
    try:
        return _defect_of_files(folder, manifest, every_byte=every_byte)
    except OSError as error:
        return f"one of its files cannot be read ({error})"


def _defect_of_files(folder: Path, manifest: Manifest, *, every_byte: bool) -> str | None:
    present = {_name(path, folder) for path in _content(folder)}
    if present != set(manifest.files):
        names = ", ".join(sorted(present ^ set(manifest.files)))
        return f"files are missing or do not belong there: {names}"
    fresh: dict[str, FileRecord] = {}
    for name, record in manifest.files.items():
        status = (folder / name).stat()
        if status.st_size != record.size_bytes:
            return f"{name} has {status.st_size:,} bytes, its manifest says {record.size_bytes:,}"
        if not every_byte and status.st_mtime_ns == record.mtime_ns:
            continue
        if file_sha256(folder / name) != record.sha256:
            return f"{name} has other bytes than when it was written"
        fresh[name] = FileRecord(record.size_bytes, status.st_mtime_ns, record.sha256)
    files = {**manifest.files, **fresh}
    if files != manifest.files:
        with contextlib.suppress(OSError):  # a read-only cache is good too, only slower
            Manifest(manifest.source_sha256, manifest.dtype, manifest.transformers_version, files).write(folder)
    return None
