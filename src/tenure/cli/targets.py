"""Files that a command will write: refused before minutes are spent on what would go into them."""

from __future__ import annotations

import os
from pathlib import Path

from tenure.errors import UsageError

PICTURE_SUFFIXES = (".png", ".pdf", ".svg", ".jpg", ".jpeg")


def require_writable(target: Path, *, picture: bool = False) -> None:
    """Raise `UsageError` unless a file of this name can be written, and drawn to where it is a picture."""
    folder = target.absolute().parent
    if not folder.is_dir() or not os.access(folder, os.W_OK):
        raise UsageError(f"{target} cannot be written: the folder {folder} does not exist or may not be written to")
    if target.is_dir():
        raise UsageError(f"{target} is a folder; expected the name of a file")
    if target.exists() and not os.access(target, os.W_OK):
        raise UsageError(f"{target} cannot be written: the file is there and read-only")
    if picture and target.suffix.lower() not in PICTURE_SUFFIXES:
        raise UsageError(f"{target} is no picture; expected a name that ends in {', '.join(PICTURE_SUFFIXES)}")
