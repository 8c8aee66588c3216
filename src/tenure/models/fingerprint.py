"""Content hashes: what a model and a tokenizer are, whatever they are called and wherever they lie."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

#: A file changed this recently may change again within the resolution of its time stamp, so its hash is not remembered.
_SETTLED_S = 2.0


@dataclass(frozen=True, slots=True)
class ModelIdentity:
    """What must be equal for two caches of rows to mean the same: the weights that wrote them, and their token ids.

    `model_id` and `tokenizer_id` name contents, never a place or a name that can be given to something else:
    `gguf:sha256:…` (the file), `folder:sha256:…` (configuration and weights), `hub:ID@COMMIT` (the hub's own hash of
    both), `tokenizer:sha256:…`. The dtype that the weights are run in is not part of it; it belongs to the format of
    the rows.
    """

    model_id: str
    tokenizer_id: str


def file_sha256(path: Path) -> str:
    """The SHA-256 of a file's bytes, in hex. Reads all of it: a gigabyte takes 1 to 3 s."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def remembered_sha256(path: Path, *, memory: Path) -> str:
    """The SHA-256 of a file, read from the file only when it has changed since it was last asked for.

    Changed means: another size, time of change or inode. Answers are kept as small files in the folder `memory`; where
    that cannot be written, every call reads the file.
    """
    path = path.resolve()
    status = path.stat()
    state = {"path": str(path), "size_bytes": status.st_size, "mtime_ns": status.st_mtime_ns, "inode": status.st_ino}
    note = memory / f"{hashlib.sha256(str(path).encode()).hexdigest()[:32]}.json"
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
        kept = json.loads(note.read_text(encoding="utf-8"))
        if kept["state"] == state:
            return str(kept["sha256"])
    sha256 = file_sha256(path)
    if time.time() - status.st_mtime > _SETTLED_S:
        with contextlib.suppress(OSError):
            memory.mkdir(parents=True, exist_ok=True)
            temporary = note.with_suffix(f".{os.getpid()}")
            temporary.write_text(json.dumps({"state": state, "sha256": sha256}), encoding="utf-8")
            temporary.replace(note)
    return sha256


def combined_sha256(paths: Iterable[Path], *, memory: Path) -> str:
    """One SHA-256 over the names and contents of several files, whatever their folder and the order given."""
    total = hashlib.sha256()
    for path in sorted(paths, key=lambda path: path.name):
        total.update(f"{path.name}\0{remembered_sha256(path, memory=memory)}\n".encode())
    return total.hexdigest()


def _without_settings(tokenizer_json: str) -> str:
    """A fast tokenizer's JSON without the settings at its start.

    It is cut, not parsed: a vocabulary of 262,144 tokens is 33 MB of JSON, and takes as long to parse as to load. The
    keys come in a fixed order, `version`, `truncation`, `padding`, `added_tokens`, …; should that change, parse.
    """
    _settings, key, rules = tokenizer_json.partition('"added_tokens"')
    if key:
        return rules
    parsed = json.loads(tokenizer_json)
    return json.dumps({name: value for name, value in parsed.items() if name not in {"padding", "truncation"}})


def tokenizer_id(tokenizer: PreTrainedTokenizerBase) -> str:
    """`tokenizer:sha256:…` over all that decides which ids a text becomes: vocabulary, merges, rules, added tokens.

    Padding and truncation, which callers switch on and off, and the chat template, which only writes text, are left
    out.
    """
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        rules = {"class": type(tokenizer).__name__, "vocabulary": tokenizer.get_vocab()}
        text = json.dumps(rules, sort_keys=True)
    else:
        text = _without_settings(backend.to_str())
    return f"tokenizer:sha256:{hashlib.sha256(text.encode()).hexdigest()}"
