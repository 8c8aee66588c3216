"""How large a pool is: what the user wrote, what the machine has, and the arithmetic between them, said aloud."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

import torch

from tenure.errors import PoolSizeError
from tenure.pool.planning import SINK_BLOCKS, TAIL_BLOCKS, minimum_blocks

BLOCK_SIZES = (64, 32, 16, 8)
"""Block sizes that are chosen from when none is named, largest first. 64 is KVFlash's chunk."""
LEAST_CHOSEN_BLOCKS = 16
"""A pool should have at least this many blocks: of 16, ten are there for the policy to choose (dev/LOG.md, recall)."""
RESERVE_BYTES = 3 * 2**29
"""Device memory that `auto` leaves alone for activations and the framework: 1.5 GiB (KVFlash, daemon sizing rule)."""
AUTO_SHARE = 0.5
"""Share of what is left after the reserve that `auto` takes (KVFlash, daemon sizing rule)."""
AUTO_CAP_ROWS = 16384
"""`auto` takes no more rows than this: beyond it a step's attention costs more than it is worth (KVFlash)."""

_ROWS = re.compile(r"[0-9]{1,18}")
_PERCENT = re.compile(r"([0-9]{1,18}(?:\.[0-9]{1,18})?)%")


@dataclass(frozen=True, slots=True)
class PoolSizing:
    """A resolved pool size and every step that led to it, in words. `notes` is meant to be printed.

    `adjustment` is the note that says how a number of rows that was asked for was changed, None where it was not.
    """

    capacity_rows: int
    block_size: int
    notes: tuple[str, ...]
    adjustment: str | None = None


class PoolSizeWarning(UserWarning):
    """A pool got another number of rows than was asked for; the message says which and why."""


def chosen_block_size(capacity_rows: int) -> int:
    """The largest of `BLOCK_SIZES` that gives a pool of `capacity_rows` at least 16 blocks, else the smallest."""
    return next((size for size in BLOCK_SIZES if capacity_rows // size >= LEAST_CHOSEN_BLOCKS), BLOCK_SIZES[-1])


def size_pool(
    wanted: int | str,
    *,
    block_size: int | None = None,
    row_bytes: int,
    context_rows: int,
    free_bytes: int | None,
    sink_blocks: int = SINK_BLOCKS,
    tail_blocks: int = TAIL_BLOCKS,
) -> PoolSizing:
    """Turn `N`, `"N"`, `"25%"` (of `context_rows`) or `"auto"` (of free device memory) into rows.

    The result is a multiple of the block size (chosen from the pool's size when None), at least the minimum, and fits
    `free_bytes` (None: unknown, not checked).
    Every rounding is in the notes. Raises `PoolSizeError` for anything else: not a size, below the minimum, above
    memory. It never turns the pool off.
    """
    if isinstance(wanted, bool) or not isinstance(wanted, int | str):
        raise PoolSizeError(f"pool is {wanted!r}; expected a number of rows, a share such as '25%', or 'auto'")
    notes: list[str] = []
    if wanted == "auto":
        rows = _auto_rows(row_bytes=row_bytes, context_rows=context_rows, free_bytes=free_bytes, notes=notes)
    else:
        rows = _written_rows(str(wanted), context_rows=context_rows, notes=notes)
    block_size = chosen_block_size(rows) if block_size is None else block_size
    least_rows = minimum_blocks(sink_blocks=sink_blocks, tail_blocks=tail_blocks) * block_size
    if rows < least_rows:
        raise PoolSizeError(
            f"pool {wanted} is {rows} rows, below the minimum of {least_rows} rows: {sink_blocks} sink and "
            f"{tail_blocks} tail blocks, the head and one block that can be evicted, {block_size} rows each. "
            f"Ask for at least {least_rows} rows" + (", or use smaller blocks" if block_size > BLOCK_SIZES[-1] else "")
        )
    rounded = (rows // block_size if wanted == "auto" else -(-rows // block_size)) * block_size
    adjustment = None
    if rounded != rows:
        adjustment = f"{rows} rows rounded to {rounded}, a multiple of the block size {block_size}"
        notes.append(adjustment)
    rows = rounded
    needed = rows * row_bytes
    if free_bytes is not None and needed > free_bytes:
        most_rows = free_bytes // row_bytes // block_size * block_size
        advice = f"ask for at most {most_rows} rows" if most_rows >= least_rows else "free device memory"
        raise PoolSizeError(
            f"pool {wanted} is {rows} rows of {row_bytes} bytes = {_mib(needed)}, but only {_mib(free_bytes)} of "
            f"device memory is free; {advice}"
        )
    notes.append(f"pool: {rows} rows = {rows // block_size} blocks of {block_size} = {_mib(needed)}")
    return PoolSizing(capacity_rows=rows, block_size=block_size, notes=tuple(notes), adjustment=adjustment)


def _written_rows(written: str, *, context_rows: int, notes: list[str]) -> int:
    if _ROWS.fullmatch(written):
        return int(written)
    if match := _PERCENT.fullmatch(written):
        share = float(match.group(1)) / 100
        if not 0 < share <= 1:
            raise PoolSizeError(f"pool {written}: a share must be above 0% and at most 100%")
        rows = round(context_rows * share)
        notes.append(f"{written} of a context of {context_rows} rows = {rows} rows")
        return rows
    raise PoolSizeError(
        f"pool {written!r} is not a size; expected rows such as '4096', a share such as '25%', or 'auto'"
    )


def _auto_rows(*, row_bytes: int, context_rows: int, free_bytes: int | None, notes: list[str]) -> int:
    if free_bytes is None:
        raise PoolSizeError("pool auto: free memory of this device is unknown; name a number of rows")
    usable = int(max(0, free_bytes - RESERVE_BYTES) * AUTO_SHARE)
    fitting = usable // row_bytes
    rows = min(fitting, context_rows, AUTO_CAP_ROWS)
    notes.append(
        f"({_mib(free_bytes)} free - {_mib(RESERVE_BYTES)} reserve) x {AUTO_SHARE} / {row_bytes} bytes a row = "
        f"{fitting} rows; at most the context ({context_rows}) and {AUTO_CAP_ROWS}: {rows}"
    )
    return rows


def free_device_bytes(device: torch.device | str) -> int | None:
    """Bytes that can still be allocated on a device; None where nobody says."""
    device = torch.device(device)
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    if device.type == "cpu":
        return available_host_bytes()
    return None


def available_host_bytes() -> int | None:
    """Bytes of host memory that can be had without swapping (Linux `MemAvailable`); None where nobody says."""
    try:
        text = Path("/proc/meminfo").read_text(encoding="ascii")
    except OSError:
        return None
    match = re.search(r"^MemAvailable:\s+(\d+) kB$", text, flags=re.MULTILINE)
    return int(match.group(1)) * 1024 if match else None


def _mib(amount_bytes: int) -> str:
    return f"{amount_bytes / 2**20:,.1f} MiB"
