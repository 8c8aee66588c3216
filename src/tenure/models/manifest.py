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
            files[path.name] = FileRecord(status.st_size, status.st_mtime_ns, file_sha256(path))
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
            if raw["schema"] != SCHEMA:
                message = f"its manifest has schema {raw['schema']!r}, this version of Tenure writes {SCHEMA!r}"
                raise ValueError(message)
            files = {str(name): FileRecord(**record) for name, record in raw["files"].items()}
            return cls(raw["source_sha256"], raw["dtype"], raw["transformers_version"], files)
        except (KeyError, TypeError, AttributeError) as error:
            message = f"its manifest lacks a field ({error})"
            raise ValueError(message) from error


def _content(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if not path.name.startswith(".") and path.name != MANIFEST_NAME)


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
        ("source", manifest.source_sha256[:12], source_sha256[:12]),
        ("dtype", manifest.dtype, dtype),
        ("transformers", _major(manifest.transformers_version), _major(transformers_version)),
    ):
        if found != wanted:
            return f"its {what} is {found}, wanted is {wanted}"
    present = {path.name for path in _content(folder)}
    if present != set(manifest.files):
        names = ", ".join(sorted(present ^ set(manifest.files)))
        return f"files are missing or do not belong there: {names}"
    fresh: dict[str, FileRecord] = {}
    for name, record in manifest.files.items():
        status = (folder / name).stat()
        if status.st_size != record.size_bytes:
            return f"{name} has {status.st_size:,} bytes, its manifest says {record.size_bytes:,}"
        if every_byte or status.st_mtime_ns != record.mtime_ns:
            if file_sha256(folder / name) != record.sha256:
                return f"{name} has other bytes than when it was written"
            if status.st_mtime_ns != record.mtime_ns:
                fresh[name] = FileRecord(record.size_bytes, status.st_mtime_ns, record.sha256)
    if fresh:
        with contextlib.suppress(OSError):  # a read-only cache is good too, only slower
            files = {**manifest.files, **fresh}
            Manifest(manifest.source_sha256, manifest.dtype, manifest.transformers_version, files).write(folder)
    return None
