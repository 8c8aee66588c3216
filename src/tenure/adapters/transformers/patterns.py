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
        return f"row {self.serial} ({self.sequence}:{self.layer}:{self.position})"


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
        # What was handed out, by serial: keys and values, [serials, H, D] each, grown by doubling.
        self._written = [torch.empty((0, heads, dim)), torch.empty((0, heads, dim))]

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
        return self._hand_out(numbers, amplitude, half=0), self._hand_out(numbers, amplitude, half=1)

    def _hand_out(self, serials: torch.Tensor, amplitude: float, *, half: int) -> torch.Tensor:
        rows = amplitude * _encode(serials, self._heads, half=half, dim=self._dim)
        if len(self._keys) > len(self._written[half]):
            grown = torch.zeros((2 * len(self._keys), self._heads, self._dim))
            grown[: len(self._written[half])] = self._written[half]
            self._written[half] = grown
        self._written[half][serials] = rows.transpose(1, 2)
        return rows

    def recognise(self, keys: torch.Tensor, values: torch.Tensor) -> list[list[RowKey | None]]:
        """What each returned row is, one list a sequence; None where nothing was ever written. `[B, H, S, D]` each."""
        read = [self._read(keys, half=0), self._read(values, half=1)]
        # [B, S, 2 * H]: all the parts of a row side by side
        parts, differences, blanks = (
            torch.cat([half[field] for half in read], dim=1).transpose(1, 2) for field in range(3)
        )
        columns = (parts.tolist(), differences.amax(dim=-1).tolist(), blanks.bool().all(dim=-1).tolist())
        return [
            [
                None if is_blank else self._key_of(row_parts, difference)
                for row_parts, difference, is_blank in zip(*sequence, strict=True)
            ]
            for sequence in zip(*columns, strict=True)
        ]

    def _read(self, tensor: torch.Tensor, *, half: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Of every row of every head, `[B, H, S]`: serial (-1: unreadable), difference from what was written, blank."""
        serials = _decode(tensor, half=half, known=len(self._keys))
        head = torch.arange(tensor.shape[1]).view(1, -1, 1)
        written = self._written[half][serials.clamp(min=0), head]
        differences = (tensor - written).abs().amax(dim=-1)
        return serials, torch.where(serials >= 0, differences, 0.0), (tensor == 0).all(dim=-1)

    def _key_of(self, parts: list[int], difference: float) -> RowKey:
        if len(set(parts)) > 1:
            return Torn(tuple(Unreadable() if part < 0 else self._keys[part] for part in parts))
        if parts[0] < 0:
            return Unreadable()
        altered = difference > self._tolerance * self._loudest
        return Altered(self._keys[parts[0]], difference) if altered else self._keys[parts[0]]


def _identity_bits(serials: torch.Tensor, head: torch.Tensor, half: int) -> torch.Tensor:
    body = serials | head << _SERIAL_BITS | half << (_SERIAL_BITS + _HEAD_BITS)
    check = ((body + 1) * _MIX >> 33) & ((1 << _CHECK_BITS) - 1)
    return body | check << _CHECK_SHIFT


def _encode(serials: torch.Tensor, heads: int, *, half: int, dim: int) -> torch.Tensor:
    """`[B, T]` serials to float32 `[B, heads, T, dim]`, at amplitude 1."""
    head = torch.arange(heads).view(1, heads, 1)
    bits = _identity_bits(serials.unsqueeze(1), head, half).unsqueeze(-1)
    element = torch.arange(dim)
    signs = ((bits >> (element % PATTERN_DIM)) & 1) * 2 - 1
    mantissa = (((bits + 1) * _MIX + (element + 1) * _STRIDE) >> 29) & ((1 << 23) - 1)
    return signs.float() * (1.0 + SPREAD * mantissa.float() / (1 << 23))


def _decode(tensor: torch.Tensor, *, half: int, known: int) -> torch.Tensor:
    """Serials `[B, H, S]` as read off the signs, -1 where they cannot be believed."""
    weights = 1 << torch.arange(PATTERN_DIM)
    bits = ((tensor[..., :PATTERN_DIM] > 0) * weights).sum(dim=-1)
    serials = bits & ((1 << _SERIAL_BITS) - 1)
    head = torch.arange(tensor.shape[1]).view(1, -1, 1)
    believed = (bits == _identity_bits(serials, head, half)) & (serials < known) & torch.isfinite(tensor).all(dim=-1)
    return torch.where(believed, serials, -1)
