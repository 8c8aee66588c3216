"""Read, recall, and read the end again: so that a question's own rows have seen what they asked for.

When a question is read, what it asks for may be on the host. Its queries say so, and the policy recalls it; but the rows
of the question itself were computed without it, and what they hold of it is nothing. So the last rows before the
recall are taken back and read once more. Cost: a second forward over at most `REREAD_ROWS` rows a turn, only when
something was recalled. What it is worth is in dev/LOG.md.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from tenure.kv.residency import Plan
from tenure.runtime.hf.cache import PooledCache
from tenure.runtime.hf.native import NativeState, opaque_layers, put_back

REREAD_ROWS = 64
"""The end of a turn that is read again: a question, or the question at the end of a long text."""


def reselect_and_reread(
    cache: PooledCache,
    ids: Sequence[int],
    natives: Sequence[NativeState],
    *,
    read: Callable[[list[int]], object],
    take_back: Callable[[int], None] | None = None,
) -> Plan:
    """Reselect; when that moved anything, take the last `len(ids)` rows back and read them again.

    `ids` are the tokens of those rows, `natives` what the native layers held before them (`native_states`), `read` runs
    the model over ids; `take_back(rows)` is told how many rows were taken back, before they are read again. A cache with
    layers that cannot go back (recurrent ones) is reselected only. Raises what `cache.reselect` and `read` raise.
    """
    plan = cache.reselect()
    if not plan or not ids or opaque_layers(cache):
        return plan
    cache.crop_pooled(cache.logical_rows - len(ids))
    put_back(cache, natives)
    if take_back is not None:
        take_back(len(ids))
    read(list(ids))
    # The same rows, read again, are no reason to choose again.
    cache.reselector.skip()
    return plan
