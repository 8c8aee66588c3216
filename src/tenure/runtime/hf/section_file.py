"""A file of named tensors that is whole or is refused: safetensors layout, a checksum a section, written atomically.

Any safetensors reader can open it. It is written and read here, a section at a time, for three things that the library
does not do: host blocks go to the disk and come back into their buffers without a second copy in memory (they are most
of a machine's memory when a context is long), every section has a SHA-256 so that damage is named, and nothing appears
under the file's name until all of it is on the disk.

Layout::

    8 bytes    length of the header, little endian
    header     JSON: a section's dtype, shape and place by its name; `__metadata__` holds strings
    sections   in the header's order, without gaps
    checksums  the last section, `[sections + 2, 32]`: header, each section, and these digests themselves
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import math
import os
import secrets
import shutil
import struct
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from io import BufferedReader
from pathlib import Path
from typing import Any, BinaryIO

import torch

from tenure.errors import DiskFullError, SessionFileError

CHECKSUMS = "checksums"
_DIGEST_BYTES = hashlib.sha256().digest_size
_LENGTH = struct.Struct("<Q")
#: A header takes some 100 bytes a section; one this long is none.
_MOST_HEADER_BYTES = 100 << 20
_DTYPE_NAMES = {
    torch.float64: "F64",
    torch.float32: "F32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.int64: "I64",
    torch.uint8: "U8",
}
_DTYPES = {name: dtype for dtype, name in _DTYPE_NAMES.items()}
_NO_ROOM = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})


@dataclass(frozen=True, slots=True)
class Section:
    """One tensor to be written. `load` gives it when its turn comes, so that not all need to exist at once."""

    name: str
    dtype: torch.dtype
    shape: tuple[int, ...]
    load: Callable[[], torch.Tensor]

    @classmethod
    def of(cls, name: str, tensor: torch.Tensor) -> Section:
        """A section of a tensor that exists."""
        return cls(name, tensor.dtype, tuple(tensor.shape), lambda: tensor)

    @property
    def section_bytes(self) -> int:
        """Bytes on the disk."""
        return math.prod(self.shape) * self.dtype.itemsize


def write_sections(path: Path, *, metadata: Mapping[str, str], sections: Sequence[Section]) -> int:
    """Write a file, replacing one of the same name in one step. Returns its bytes.

    Raises `DiskFullError` when the disk has no room, `SessionFileError` when the file cannot be written there; what was
    at `path` before is still there then, and nothing else.
    """
    header = _header(metadata, sections)
    total = _LENGTH.size + len(header) + sum(section.section_bytes for section in sections) + _table_bytes(sections)
    with _disk_errors(path, total):
        _require_room(path, total)
        temporary = path.with_name(f".{path.name}.{os.getpid()}-{secrets.token_hex(4)}.partial")
        try:
            with temporary.open("xb") as file:
                _write(file, header, sections)
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)
        _flush_folder(path.parent)
    return total


def _header(metadata: Mapping[str, str], sections: Sequence[Section]) -> bytes:
    entries: dict[str, Any] = {"__metadata__": dict(metadata)}
    start = 0
    for section in sections:
        stop = start + section.section_bytes
        entries[section.name] = _entry(_DTYPE_NAMES[section.dtype], section.shape, start, stop)
        start = stop
    table = _table_bytes(sections)
    entries[CHECKSUMS] = _entry("U8", (table // _DIGEST_BYTES, _DIGEST_BYTES), start, start + table)
    text = json.dumps(entries, separators=(",", ":")).encode()
    return text + b" " * (-len(text) % 8)  # sections start aligned, as in safetensors' own files


def _entry(dtype: str, shape: Sequence[int], start: int, stop: int) -> dict[str, Any]:
    return {"dtype": dtype, "shape": list(shape), "data_offsets": [start, stop]}


def _table_bytes(sections: Collection[object]) -> int:
    return (len(sections) + 2) * _DIGEST_BYTES


def _write(file: BinaryIO, header: bytes, sections: Iterable[Section]) -> None:
    file.write(_LENGTH.pack(len(header)))
    file.write(header)
    table = [hashlib.sha256(header).digest()]
    for section in sections:
        data = _bytes_of(section.load())
        file.write(data)
        table.append(hashlib.sha256(data).digest())
    table.append(hashlib.sha256(b"".join(table)).digest())
    file.write(b"".join(table))


def _bytes_of(tensor: torch.Tensor) -> memoryview:
    """The bytes of a tensor on the host, as a view where it lies there in one piece already."""
    flat = tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8)
    return memoryview(flat.numpy())  # type: ignore[arg-type]  # arrays are buffers; numpy's stubs say so from 3.12 on


class SectionReader:
    """Reads a file that `write_sections` wrote. Use `open_sections`.

    Every section is checked when it is read. All failures are `SessionFileError`.
    """

    def __init__(self, file: BufferedReader, path: Path) -> None:
        self._file = file
        self._path = path
        self._first, self._entries, self.metadata = self._read_header()
        self._table = self._read_table()

    @property
    def names(self) -> tuple[str, ...]:
        """The sections, in order."""
        return tuple(self._entries)

    def shape(self, name: str) -> tuple[int, ...]:
        """A section's shape."""
        return tuple(self._entry(name)["shape"])

    def dtype(self, name: str) -> torch.dtype:
        """A section's dtype."""
        return _DTYPES[self._entry(name)["dtype"]]

    def read(self, name: str) -> torch.Tensor:
        """A section as a new tensor on the host."""
        with torch.inference_mode(mode=False):
            tensor = torch.empty(self.shape(name), dtype=self.dtype(name))
        self.read_into(name, tensor)
        return tensor

    def read_into(self, name: str, tensor: torch.Tensor) -> None:
        """Read a section into a contiguous tensor on the host of the same dtype and number of elements."""
        entry = self._entry(name)
        if self.dtype(name) != tensor.dtype or math.prod(entry["shape"]) != tensor.numel():
            raise self.refusal(
                f"its section {name} is {entry['dtype']} {entry['shape']}, expected {_DTYPE_NAMES[tensor.dtype]} "
                f"{list(tensor.shape)}"
            )
        data = _bytes_of(tensor)
        self._file.seek(self._first + entry["data_offsets"][0])
        read_bytes = self._file.readinto(data) if len(data) else 0
        if read_bytes != len(data) or hashlib.sha256(data).digest() != self._table[self._order[name] + 1]:
            raise self.refusal(f"its section {name} is damaged: the bytes do not match their checksum")

    def _entry(self, name: str) -> dict[str, Any]:
        if name not in self._entries:
            raise self.refusal(f"it has no section {name}")
        return self._entries[name]

    def refusal(self, reason: str) -> SessionFileError:
        """The error that refuses this file, for whoever interprets its contents to raise."""
        return SessionFileError(f"the session file {self._path} cannot be used: {reason}")

    def _read_header(self) -> tuple[int, dict[str, dict[str, Any]], dict[str, str]]:
        file_bytes = os.fstat(self._file.fileno()).st_size
        start = self._file.read(_LENGTH.size)
        if len(start) < _LENGTH.size:
            raise self.refusal(f"it is truncated: it has {file_bytes} bytes, not even a header")
        (header_bytes,) = _LENGTH.unpack(start)
        if header_bytes > _MOST_HEADER_BYTES:
            raise self.refusal("it is no session file: it does not start with a header")
        header = self._file.read(header_bytes)
        if len(header) < header_bytes:
            raise self.refusal(f"it is truncated: its header has {header_bytes} bytes, the file {file_bytes}")
        try:
            entries, metadata = _parsed(header)
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise self.refusal(f"its header is damaged, or it is no session file ({error})") from None
        first = _LENGTH.size + header_bytes
        expected = first + entries[CHECKSUMS]["data_offsets"][1]
        if file_bytes != expected:
            what = "truncated" if file_bytes < expected else "longer than it was written"
            raise self.refusal(f"it is {what}: it has {file_bytes:,} bytes, expected {expected:,}")
        self._header_digest = hashlib.sha256(header).digest()
        return first, entries, metadata

    def _read_table(self) -> list[bytes]:
        entry = self._entries.pop(CHECKSUMS)
        self._order = {name: index for index, name in enumerate(self._entries)}
        self._file.seek(self._first + entry["data_offsets"][0])
        data = self._file.read(_table_bytes(self._order))
        table = [data[at : at + _DIGEST_BYTES] for at in range(0, len(data), _DIGEST_BYTES)]
        if len(table) != len(self._order) + 2 or hashlib.sha256(b"".join(table[:-1])).digest() != table[-1]:
            raise self.refusal("its section checksums is damaged")
        if table[0] != self._header_digest:
            raise self.refusal("its header is damaged: the bytes do not match their checksum")
        return table


def _parsed(header: bytes) -> tuple[dict[str, dict[str, Any]], dict[str, str]]:
    """Sections and metadata of a header. Raises what parsing raises, or `ValueError`, unless it is one of ours."""
    entries = json.loads(header.decode())
    metadata = entries.pop("__metadata__")
    if not isinstance(metadata, dict) or CHECKSUMS not in entries:
        raise ValueError("it lacks metadata or checksums")
    end = 0
    for name, entry in entries.items():
        start, stop = entry["data_offsets"]
        wanted = math.prod(entry["shape"]) * _DTYPES[entry["dtype"]].itemsize
        if start != end or stop - start != wanted:
            raise ValueError(f"section {name} is said to be at bytes {start} to {stop}")
        end = stop
    return entries, metadata


@contextlib.contextmanager
def open_sections(path: Path) -> Iterator[SectionReader]:
    """Open a file, checking header, extent and checksums; sections are checked as they are read."""
    try:
        file = path.open("rb")
    except OSError as error:
        raise SessionFileError(f"the session file {path} cannot be read: {error.strerror}") from error
    with file:
        try:
            yield SectionReader(file, path)
        except OSError as error:
            raise SessionFileError(f"the session file {path} cannot be read: {error.strerror or error}") from error


def _require_room(path: Path, needed_bytes: int) -> None:
    free_bytes = shutil.disk_usage(path.parent).free
    if free_bytes < needed_bytes:
        raise DiskFullError(
            f"the session needs {needed_bytes / 1e6:,.1f} MB in {path.parent}, where {free_bytes / 1e6:,.1f} MB are "
            "free; nothing was written. Make room, or save it elsewhere"
        )


@contextlib.contextmanager
def _disk_errors(path: Path, needed_bytes: int) -> Iterator[None]:
    if path.is_dir():
        raise SessionFileError(f"{path} is a folder; expected the name of a file")
    try:
        yield
    except OSError as error:
        if error.errno in _NO_ROOM:
            raise DiskFullError(
                f"the disk of {path.parent} became full while the session ({needed_bytes / 1e6:,.1f} MB) was written; "
                "nothing was kept. Make room, or save it elsewhere"
            ) from error
        raise SessionFileError(f"the session cannot be written to {path}: {error.strerror or error}") from error


def _flush_folder(folder: Path) -> None:
    """Make the rename itself survive a power cut, where the system can do that."""
    with contextlib.suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
