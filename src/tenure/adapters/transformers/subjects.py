"""The caches that can be checked by name, and how a fresh one of each is built.

To add one, write a `Subject` and list it in `all_subjects`. Nothing heavy is imported until a subject is built.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any

from tenure.errors import UsageError
from tenure.kv.geometry import CacheGeometry, geometry_from_config

#: Rows that a sliding layer of a subject sees: few, so that a short run leaves the window.
WINDOW_ROWS = 4
#: What a static subject is made for.
CAPACITY_ROWS = 12


@dataclass(frozen=True, slots=True)
class BuiltCache:
    """A fresh cache and the shape of the model that it is for."""

    cache: Any
    geometry: CacheGeometry


@dataclass(frozen=True, slots=True, kw_only=True)
class Subject:
    """A named kind of cache, and what may be expected of it.

    `tolerance` is how far a returned element may be from the written one, as a share of the largest amplitude written
    (0: bit for bit). A write beyond `capacity_rows` in all, or `max_write_rows` at once, may be refused. `fixed_batch`:
    a cache that has been written keeps its batch size. `positions(cache, layer, first_position, returned_rows)` says
    which position each returned row stands for, where that is not `first_position` and the ones after it.
    `move_rows(cache, choice)` moves some rows between device and host, without any meaning. `unavailable()` says why the
    cache cannot be built here.
    """

    name: str
    summary: str
    build: Callable[[], BuiltCache]
    tolerance: float = 0.0
    capacity_rows: int | None = None
    max_write_rows: int | None = None
    max_batch: int = 3
    max_rows: int = 12
    max_operations: int = 14
    fixed_batch: bool = False
    positions: Callable[[Any, int, int, int], Sequence[int]] | None = None
    move_rows: Callable[[Any, int], None] | None = None
    unavailable: Callable[[], str | None] = lambda: None


def all_subjects() -> tuple[Subject, ...]:
    """Every cache that can be checked by name."""
    from tenure.adapters.transformers.pooled import pooled_subjects
    from tenure.adapters.transformers.stock import stock_subjects

    return (*stock_subjects(), *pooled_subjects())


def find_subjects(pattern: str) -> tuple[Subject, ...]:
    """The subjects that a name stands for, in this order of preference: the one of this name; all of its variants
    (`name/variant`); all whose name matches a pattern with ``*``; what ``module:factory`` makes, imported.

    Raises `UsageError`, with the names there are, if nothing is found, and for a factory that makes no `Subject`.
    """
    subjects = all_subjects()
    exact = tuple(subject for subject in subjects if subject.name == pattern)
    variants = tuple(subject for subject in subjects if subject.name.startswith(f"{pattern}/"))
    matching = tuple(subject for subject in subjects if fnmatchcase(subject.name, pattern))
    for found in (exact, variants, matching, _imported(pattern)):
        if found:
            return found
    raise UsageError(
        f"No cache is called {pattern!r}; expected module:factory, or one of {', '.join(s.name for s in subjects)}."
    )


def _imported(name: str) -> tuple[Subject, ...]:
    module_name, _, factory_name = name.partition(":")
    try:
        factory = getattr(importlib.import_module(module_name), factory_name, None) if factory_name else None
    except ImportError:
        return ()
    if not callable(factory) or isinstance(factory, type):
        return ()
    made = factory()
    if not isinstance(made, Subject):
        raise UsageError(
            f"{name} made a {type(made).__name__}; expected a tenure.adapters.transformers.subjects.Subject."
        )
    return (made,)


def build_for(config: Any, make: Callable[[Any], Any]) -> BuiltCache:
    """A cache made from `config`, with the geometry that `config` describes."""
    return BuiltCache(cache=make(config), geometry=geometry_from_config(config, dtype="float32"))
