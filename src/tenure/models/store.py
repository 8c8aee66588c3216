"""The folder that keeps converted weights between runs: an entry of it is whole, or it is not used.

Where it lies: `TENURE_CACHE_DIR` if set, else the user's cache folder (`$XDG_CACHE_HOME/tenure` or `~/.cache/tenure`;
`~/Library/Caches/tenure` on macOS, `%LOCALAPPDATA%\\tenure` on Windows). These rules are written out here, not taken
from a library, because they are all that is needed.

An entry is a folder in the format of Transformers' `save_pretrained`, with a manifest. It is written under another
name, flushed to the disk, and renamed into place: a reader sees all of it or nothing. A lock spares two processes the
same work; where the file system has no locks, the rename alone keeps them from harming each other.
"""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
import shutil
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from tenure.errors import DiskFullError, ModelError
from tenure.models.manifest import Manifest, defect

if TYPE_CHECKING:
    from tenure.models.progress import Reporter

#: Asked for beyond what a build needs, so that it does not leave the user with a full disk.
SPARE_BYTES = 64 << 20

_NO_ROOM = frozenset({errno.ENOSPC, errno.EDQUOT})
_NOT_WRITABLE = frozenset({errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EEXIST})


def cache_root(environment: Mapping[str, str] | None = None, *, platform: str = sys.platform) -> Path:
    """The folder for everything that Tenure keeps between runs. It is not created. See the module's docstring.

    A relative `XDG_CACHE_HOME` is ignored, as its specification asks.
    """
    environment = os.environ if environment is None else environment
    if environment.get("TENURE_CACHE_DIR"):
        return Path(environment["TENURE_CACHE_DIR"]).expanduser().absolute()
    xdg = Path(environment.get("XDG_CACHE_HOME", ""))
    if xdg.is_absolute():
        return xdg / "tenure"
    if platform == "darwin":
        return Path.home() / "Library" / "Caches" / "tenure"
    if platform == "win32" and environment.get("LOCALAPPDATA"):
        return Path(environment["LOCALAPPDATA"]) / "tenure"
    return Path.home() / ".cache" / "tenure"


def require_room(folder: Path, needed_bytes: int, *, what: str) -> None:
    """Return when `folder`'s disk has `needed_bytes` and some to spare; else raise `DiskFullError` with the numbers."""
    existing = folder
    while not existing.exists():
        existing = existing.parent
    free_bytes = shutil.disk_usage(existing).free
    if free_bytes < needed_bytes + SPARE_BYTES:
        message = (
            f"no room for {what}: it needs {(needed_bytes + SPARE_BYTES) / 1e6:,.0f} MB in {folder}, "
            f"{free_bytes / 1e6:,.0f} MB are free; make room there, or set TENURE_CACHE_DIR to a folder on another disk"
        )
        raise DiskFullError(message)


@contextlib.contextmanager
def disk_errors(folder: Path, *, what: str) -> Iterator[None]:
    """Inside it, a full or read-only disk raises `DiskFullError` or `ModelError` in place of the system's own error.

    Safetensors and pip report a full disk as text in errors of their own; those are recognised too.
    """
    try:
        yield
    except OSError as error:
        if error.errno in _NO_ROOM:
            raise _full(folder, what) from error
        if error.errno in _NOT_WRITABLE:
            message = (
                f"the model cache {folder} cannot be written ({error.strerror}); "
                "set TENURE_CACHE_DIR to a folder that can be"
            )
            raise ModelError(message) from error
        raise
    except Exception as error:
        if os.strerror(errno.ENOSPC) in str(error):
            raise _full(folder, what) from error
        raise


def _full(folder: Path, what: str) -> DiskFullError:
    message = (
        f"the disk of {folder} became full while writing {what}; nothing was kept; make room, or set TENURE_CACHE_DIR"
    )
    return DiskFullError(message)


@dataclass(frozen=True, slots=True)
class EntryKey:
    """Which conversion of which source: `slug` for people, the rest is what an entry is compared with."""

    slug: str
    source_sha256: str
    dtype: str
    transformers_version: str

    @property
    def folder_name(self) -> str:
        """The name of the entry's folder."""
        return f"{self.slug}-{self.source_sha256[:16]}-{self.dtype}"


class WeightStore:
    """The entries below one folder. Its only state is the folder's path; any number of processes may use it at once."""

    def __init__(self, root: Path, *, reporter: Reporter) -> None:
        self._models = root / "models"
        self._reporter = reporter

    def folder_of(self, key: EntryKey) -> Path:
        """Where the entry of `key` lies, or would lie."""
        return self._models / key.folder_name

    def find(self, key: EntryKey, *, every_byte: bool = False) -> Path | None:
        """The folder of a whole entry made from `key`'s source, or None. One that is there but unfit is reported.

        Cost: some calls of `stat`; with `every_byte`, or for files whose times of change differ from the manifest's,
        the files are read.
        """
        folder = self.folder_of(key)
        if not folder.is_dir():
            return None
        reason = _defect(folder, key, every_byte=every_byte)
        if reason is None:
            return folder
        self._reporter.say(f"The converted model in {folder} is not used and will be made again: {reason}.")
        return None

    def build(self, key: EntryKey, fill: Callable[[Path], None], *, every_byte: bool = False) -> Path:
        """The folder of a whole entry, made by `fill` unless another process has made it meanwhile.

        `fill` is given an empty folder on the same disk and writes the files into it; names that start with a dot are
        scratch, and removed. If it raises, nothing of it stays, and an entry that was there before is still there.

        Raises what `fill` raises; `DiskFullError` and `ModelError` for a disk that is full or cannot be written.
        """
        with disk_errors(self._models, what=key.slug):
            self._models.mkdir(parents=True, exist_ok=True)
            with self._only_one(key) as locked:
                if locked:
                    folder = self.folder_of(key)
                    if folder.is_dir() and _defect(folder, key, every_byte=every_byte) is None:
                        return folder
                    self._remove_remains(key)
                return self._build_now(key, fill)

    def _build_now(self, key: EntryKey, fill: Callable[[Path], None]) -> Path:
        partial = self._models / f".partial-{key.folder_name}-{os.getpid()}-{secrets.token_hex(4)}"
        partial.mkdir()
        try:
            fill(partial)
            for scratch in partial.glob(".*"):
                shutil.rmtree(scratch) if scratch.is_dir() else scratch.unlink()
            _flush(partial)
            manifest = Manifest.of_folder(
                partial,
                source_sha256=key.source_sha256,
                dtype=key.dtype,
                transformers_version=key.transformers_version,
            )
            manifest.write(partial)
            return self._move_into_place(partial, key)
        finally:
            # After a success there is nothing left to remove; after an interrupt (Ctrl-C) there is, as after an error.
            shutil.rmtree(partial, ignore_errors=True)

    def _move_into_place(self, partial: Path, key: EntryKey) -> Path:
        folder = self.folder_of(key)
        aside = partial.with_name(f"{partial.name}-replaced")
        with contextlib.suppress(FileNotFoundError):
            folder.rename(aside)
        try:
            partial.rename(folder)
        except OSError:
            # Without a lock another process can have come first; its entry is as good as ours.
            if not folder.is_dir() or _defect(folder, key, every_byte=False) is not None:
                raise
        shutil.rmtree(aside, ignore_errors=True)
        return folder

    def _remove_remains(self, key: EntryKey) -> None:
        """Remove what killed processes left behind. Only called under the lock, when none of it can be in use."""
        for remains in self._models.glob(f".partial-{key.folder_name}-*"):
            shutil.rmtree(remains, ignore_errors=True)

    @contextlib.contextmanager
    def _only_one(self, key: EntryKey) -> Iterator[bool]:
        """Wait until no other process builds the entry of `key`; yields whether a lock could be had at all."""
        try:
            import fcntl
        except ImportError:  # Windows
            yield False
            return
        with (self._models / f".lock-{key.folder_name}").open("w") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                with self._reporter.stage(f"Waiting for another process that prepares {key.slug}"):
                    fcntl.flock(file, fcntl.LOCK_EX)
            except OSError:  # a file system without locks
                yield False
                return
            yield True


def _defect(folder: Path, key: EntryKey, *, every_byte: bool) -> str | None:
    return defect(
        folder,
        source_sha256=key.source_sha256,
        dtype=key.dtype,
        transformers_version=key.transformers_version,
        every_byte=every_byte,
    )


def _flush(folder: Path) -> None:
    """Force the files of `folder` to the disk, so that no rename survives a power cut that their bytes did not."""
    for path in folder.rglob("*"):
        if path.is_file():
            descriptor = os.open(path, os.O_RDWR)
            try:
                os.fsync(descriptor)
            finally:
                os.close(descriptor)
