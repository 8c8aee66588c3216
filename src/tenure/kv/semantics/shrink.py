"""Make a failing list short: delta debugging, with a chance to simplify what is left."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import TypeVar

T = TypeVar("T")


def shrink(
    items: Sequence[T],
    still_fails: Callable[[tuple[T, ...]], bool],
    *,
    simpler: Callable[[T], Iterable[T]] | None = None,
    merge: Callable[[T, T], T | None] | None = None,
) -> tuple[T, ...]:
    """A sublist of `items` that still fails and from which no single item can be left out or made simpler.

    `still_fails` must hold for `items` as given (if it does not, `items` come back unchanged) and is called O(n²) times
    at worst, O(n log n) usually. `simpler(item)` offers strictly simpler replacements, the simplest first;
    `merge(item, next_item)` offers one item for two neighbours, or None.
    Source: Zeller and Hildebrandt, "Simplifying and isolating failure-inducing input", 2002 (ddmin).
    """
    current = tuple(items)
    if not still_fails(current):
        return current
    while True:
        before = current
        current = _drop_chunks(current, still_fails)
        if merge is not None:
            current = _merge_neighbours(current, still_fails, merge)
        if simpler is not None:
            current = _simplify_each(current, still_fails, simpler)
        if current == before:
            return current


def _drop_chunks(current: tuple[T, ...], still_fails: Callable[[tuple[T, ...]], bool]) -> tuple[T, ...]:
    chunk = max(1, len(current) // 2)
    while True:
        start = 0
        while start < len(current):
            candidate = current[:start] + current[start + chunk :]
            if still_fails(candidate):
                current = candidate
            else:
                start += chunk
        if chunk == 1:
            return current
        chunk = max(1, chunk // 2)


def _simplify_each(
    current: tuple[T, ...],
    still_fails: Callable[[tuple[T, ...]], bool],
    simpler: Callable[[T], Iterable[T]],
) -> tuple[T, ...]:
    for place in range(len(current)):
        for replacement in simpler(current[place]):
            candidate = (*current[:place], replacement, *current[place + 1 :])
            if still_fails(candidate):
                current = candidate
                break
    return current


def _merge_neighbours(
    current: tuple[T, ...],
    still_fails: Callable[[tuple[T, ...]], bool],
    merge: Callable[[T, T], T | None],
) -> tuple[T, ...]:
    place = 0
    while place + 1 < len(current):
        merged = merge(current[place], current[place + 1])
        candidate = current if merged is None else (*current[:place], merged, *current[place + 2 :])
        if merged is not None and still_fails(candidate):
            current = candidate
        else:
            place += 1
    return current
