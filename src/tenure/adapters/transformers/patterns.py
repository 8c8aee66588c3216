"""Rows that can be told apart by their bytes: what is written says who wrote it, and what comes back is read off.

A row carries a serial number, its head, and whether it is a key or a value, one bit a dimension as the sign of the
element, with a checksum against chance. The magnitude of each element is a fixed function of the same numbers that uses
every bit of the mantissa. So a row survives lossy storage recognisably, and any change of a single bit is seen.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch

from tenure.errors import UsageError
from tenure.kv.semantics import Padding, RowKey, Torn

_SERIAL_BITS, _HEAD_BITS, _HALF_BITS, _CHECK_BITS = 18, 3, 1, 10
#: Elements a head needs: one a bit. Further elements repeat the pattern.
PATTERN_DIM = _SERIAL_BITS + _HEAD_BITS + _HALF_BITS + _CHECK_BITS
_CHECK_SHIFT = _SERIAL_BITS + _HEAD_BITS + _HALF_BITS
#: Multiplier of the 64-bit linear congruential generator of Knuth's MMIX; it only has to mix well.
_MIX = 6364136223846793005
#: An odd number near 2**59 divided by the golden ratio, so that the elements of a row differ from each other.
_STRIDE = 0x4F1BBCDCBFA5401
#: Elements lie in [amplitude, 1.25 * amplitude): far from 0, so that the sign survives coarse quantization.
SPREAD = 0.25


class RowTag(NamedTuple):
    """The key of a row that was written: unique by its serial number."""

    serial: int
    sequence: int
    layer: int
    position: int

    def __str__(self) -> str:
        return f"row #{self.serial} (sequence {self.sequence}, layer {self.layer}, position {self.position})"


@dataclass(frozen=True, slots=True)
class Altered:
    """A row that is recognisable and whose elements are further from what was written than is allowed."""

    tag: RowKey
    largest_difference: float

    def __str__(self) -> str:
        return f"{self.tag} altered by up to {self.largest_difference:.3g}"


@dataclass(frozen=True, slots=True)
class Unreadable:
    """A row whose elements say nothing: overwritten, mixed, or not a number."""

    def __str__(self) -> str:
        return "an unreadable row"


class RowBook:
    """Hands out row patterns and recognises them again.

    `heads` key-value heads of `dim` elements, keys and values alike. `tolerance` is how far an element may be from what
    was written, as a share of the largest amplitude handed out so far; 0 means bit for bit.
    Raises `UsageError` for a shape that cannot carry a pattern.
    """

    def __init__(self, *, heads: int, dim: int, tolerance: float) -> None:
        if not 1 <= heads <= 1 << _HEAD_BITS:
            raise UsageError(f"Row patterns have room for 1 to {1 << _HEAD_BITS} heads, got {heads}.")
        if dim < PATTERN_DIM:
            raise UsageError(f"A row pattern needs heads of at least {PATTERN_DIM} elements, got {dim}.")
        self._heads = heads
        self._dim = dim
        self._tolerance = tolerance
        self._keys: list[RowKey] = []
        self._loudest = 0.0
        # What was handed out, by serial, grown by doubling: [serials, 2, H, D], keys at 0 and values at 1.
        self._written = torch.empty((0, 2, heads, dim))
        self._code = _Code(heads)

    def tag(self, *, sequence: int, layer: int, position: int) -> RowTag:
        """The key of a new row of a sequence, whose bytes `rows` will give."""
        tag = RowTag(serial=len(self._keys), sequence=sequence, layer=layer, position=position)
        self._keys.append(tag)
        return tag

    def padding(self) -> int:
        """The serial number of a new row that stands for no position."""
        self._keys.append(Padding())
        return len(self._keys) - 1

    def rows(self, serials: list[list[int]], *, amplitude: float) -> tuple[torch.Tensor, torch.Tensor]:
        """Keys and values of new rows, one list of serials a sequence: float32 `[B, H, T, D]` each.

        Raises `UsageError` once 2**18 rows have been handed out.
        """
        if len(self._keys) > 1 << _SERIAL_BITS:
            raise UsageError(f"Row patterns have room for {1 << _SERIAL_BITS} rows in one run; use a shorter one.")
        self._loudest = max(self._loudest, amplitude)
        numbers = torch.tensor(serials)
        rows = amplitude * self._code.encode(numbers, dim=self._dim)
        if len(self._keys) > len(self._written):
            grown = torch.zeros((2 * len(self._keys), 2, self._heads, self._dim))
            grown[: len(self._written)] = self._written
            self._written = grown
        self._written[numbers] = rows.permute(1, 3, 0, 2, 4)
        return rows[0], rows[1]

    def recognise(self, keys: torch.Tensor, values: torch.Tensor) -> list[list[RowKey | None]]:
        """What each returned row is, one list a sequence; None where nothing was ever written. `[B, H, S, D]` each."""
        read = torch.stack((keys, values))
        serials = self._code.decode(read, known=len(self._keys))
        written = self._written[serials.clamp(min=0), self._code.half, self._code.head]
        differences = torch.where(serials >= 0, (read - written).abs().amax(dim=-1), 0.0).amax(dim=(0, 2))
        blanks = (read == 0).all(dim=-1).all(dim=2).all(dim=0)
        parts = serials.permute(1, 3, 0, 2).flatten(start_dim=2)  # [B, S, 2 * H]: all the parts of a row side by side
        columns = (parts.tolist(), differences.tolist(), blanks.tolist())
        return [
            [
                None if is_blank else self._key_of(row_parts, difference)
                for row_parts, difference, is_blank in zip(*sequence, strict=True)
            ]
            for sequence in zip(*columns, strict=True)
        ]

    def _key_of(self, parts: list[int], difference: float) -> RowKey:
        if len(set(parts)) > 1:
            return Torn(tuple(Unreadable() if part < 0 else self._keys[part] for part in parts))
        if parts[0] < 0:
            return Unreadable()
        altered = difference > self._tolerance * self._loudest
        return Altered(self._keys[parts[0]], difference) if altered else self._keys[parts[0]]


class _Code:
    """The code itself, for rows of `heads` heads: axes are `[2 (key, value), B, H, T]`, and `D` where there are elements."""

    def __init__(self, heads: int) -> None:
        self.half = torch.arange(2).view(2, 1, 1, 1)
        self.head = torch.arange(heads).view(1, 1, heads, 1)
        self._place = self.head << _SERIAL_BITS | self.half << (_SERIAL_BITS + _HEAD_BITS)
        self._weights = 1 << torch.arange(PATTERN_DIM)

    def _bits(self, serials: torch.Tensor) -> torch.Tensor:
        body = serials | self._place
        check = ((body + 1) * _MIX >> 33) & ((1 << _CHECK_BITS) - 1)
        return body | check << _CHECK_SHIFT

    def encode(self, serials: torch.Tensor, *, dim: int) -> torch.Tensor:
        """`[B, T]` serials to float32 `[2, B, H, T, dim]`, at amplitude 1."""
        bits = self._bits(serials.unsqueeze(1).unsqueeze(0)).unsqueeze(-1)
        element = torch.arange(dim)
        signs = ((bits >> (element % PATTERN_DIM)) & 1) * 2 - 1
        mantissa = (((bits + 1) * _MIX + (element + 1) * _STRIDE) >> 29) & ((1 << 23) - 1)
        return signs.float() * (1.0 + SPREAD * mantissa.float() / (1 << 23))

    def decode(self, rows: torch.Tensor, *, known: int) -> torch.Tensor:
        """`[2, B, H, S, D]` elements to serials `[2, B, H, S]` as read off the signs, -1 where not to be believed."""
        bits = ((rows[..., :PATTERN_DIM] > 0) * self._weights).sum(dim=-1)
        serials = bits & ((1 << _SERIAL_BITS) - 1)
        believed = (bits == self._bits(serials)) & (serials < known) & torch.isfinite(rows).all(dim=-1)
        return torch.where(believed, serials, -1)
