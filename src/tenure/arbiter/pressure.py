"""The inequality, in numbers: what active work needs while it runs, and by how much it does not fit.

    protected + active <= usable        (all in blocks; a block that is both is counted once)

Nothing here knows claims or policies. `tenure.arbiter.arbiter` uses these numbers to decide.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import accumulate

from tenure.claims.modes import AttentionMode, Feasibility
from tenure.errors import PolicyError


@dataclass(frozen=True, slots=True, kw_only=True)
class LivePlan:
    """How many blocks a request keeps live, step by step. What must fit is the maximum over the steps.

    Args:
        chunk_blocks: blocks computed in each step; the sum is the request's total. Each is > 0.
        attention_mode: what stays live between the steps; its published name will do.
        window_blocks: blocks a sliding window keeps. 0 keeps none, None is allowed only where there is no window.

    Raises:
        PolicyError: an empty or non-positive schedule, an unknown mode, a negative window, a window without a sliding
            window mode or a sliding window mode without a window. The message names the field and the clause.

    Source: resident-claims contract, feasibility: full_attention min(T, c1+..+ci), sliding_window min(W, T, c1+..+ci),
    recompute_free_between_chunks min(ci, T).
    """

    chunk_blocks: tuple[int, ...]
    attention_mode: AttentionMode = AttentionMode.FULL_ATTENTION
    window_blocks: int | None = None

    def __post_init__(self) -> None:
        chunks: object = self.chunk_blocks
        if not isinstance(chunks, tuple) or not chunks or not all(_is_count(chunk, least=1) for chunk in chunks):
            raise PolicyError(
                f"chunk_blocks must be a tuple of one or more positive block counts, got {chunks!r} [TNR-CAP-001]"
            )
        object.__setattr__(self, "attention_mode", parse_attention_mode(self.attention_mode))
        windowed = self.attention_mode is AttentionMode.SLIDING_WINDOW
        if windowed and self.window_blocks is None:
            raise PolicyError(
                "window_blocks is missing: attention_mode sliding_window needs one, 0 keeps nothing [TNR-ARB-012]"
            )
        if not windowed and self.window_blocks is not None:
            raise PolicyError(
                f"window_blocks is {self.window_blocks} but attention_mode is {self.attention_mode.value}: leave it out "
                " [TNR-ARB-012]"
            )
        if self.window_blocks is not None and not _is_count(self.window_blocks, least=0):
            raise PolicyError(f"window_blocks must be a block count >= 0, got {self.window_blocks!r} [TNR-ARB-012]")

    @property
    def total_blocks(self) -> int:
        """Blocks the request computes in all."""
        return sum(self.chunk_blocks)

    def live_blocks_by_step(self) -> tuple[int, ...]:
        """Blocks that are live after each step. O(steps)."""
        if self.attention_mode is AttentionMode.RECOMPUTE_FREE_BETWEEN_CHUNKS:
            return self.chunk_blocks
        so_far = tuple(accumulate(self.chunk_blocks))
        if self.window_blocks is None:
            return so_far
        return tuple(min(self.window_blocks, blocks) for blocks in so_far)

    @property
    def max_live_blocks(self) -> int:
        """The most blocks live at once: what must fit for the request to be served. O(steps)."""
        return max(self.live_blocks_by_step())

    @property
    def max_chunk_blocks(self) -> int:
        """The largest single step: the least any bounding, splitting or offloading can get this schedule down to."""
        return max(self.chunk_blocks)

    def blocked_step(self, *, headroom_blocks: int) -> int | None:
        """The first step, counted from 1, that needs more than `headroom_blocks`; None when all steps fit."""
        for step, blocks in enumerate(self.live_blocks_by_step(), start=1):
            if blocks > headroom_blocks:
                return step
        return None


def _is_count(value: object, *, least: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= least


def parse_attention_mode(value: object) -> AttentionMode:
    """The mode, or that of a published name. Raises PolicyError for any other value."""
    for mode in AttentionMode:
        if value == mode.value:
            return mode
    raise PolicyError(f"attention_mode {value!r} is none; use one of {', '.join(AttentionMode)} [TNR-CAP-001]")


def even_chunks(*, total_blocks: int, chunk_blocks: int) -> tuple[int, ...]:
    """A schedule of equal chunks that adds up to `total_blocks`, the last one smaller where it must be."""
    if total_blocks <= 0 or chunk_blocks <= 0:
        raise PolicyError(
            f"a schedule needs positive sizes, got total {total_blocks} in chunks of {chunk_blocks} [TNR-CAP-001]"
        )
    full, rest = divmod(total_blocks, chunk_blocks)
    return (chunk_blocks,) * full + ((rest,) if rest else ())


@dataclass(frozen=True, slots=True, kw_only=True)
class Pressure:
    """The inequality for one request, with every number that a conflict event must carry.

    Args:
        usable_blocks: the pool, as it can really be allocated.
        protected_blocks: blocks under protection, shared ones once, in use or not.
        active_blocks: blocks that *other* active work holds or has been promised.
        required_blocks: the most blocks this request has live at once, reused ones included.
        overlap_blocks: blocks counted twice in the three numbers above: protected ones that active work uses, and ones
            that this request shares with protected or active blocks.
        free_blocks: blocks that hold nothing.
        evictable_blocks: idle cached blocks under nobody's protection.
        outstanding_blocks: the part of `active_blocks` that was promised and is not yet allocated.
    """

    usable_blocks: int
    protected_blocks: int
    active_blocks: int
    required_blocks: int
    overlap_blocks: int
    free_blocks: int
    evictable_blocks: int
    outstanding_blocks: int

    @property
    def resident_plus_active_blocks(self) -> int:
        """Left side of the inequality, blocks that are several things at once counted once."""
        return self.protected_blocks + self.active_blocks + self.required_blocks - self.overlap_blocks

    @property
    def shortfall_blocks(self) -> int:
        """By how much it does not fit: max(0, protected + active - usable), other active work counted."""
        return max(0, self.resident_plus_active_blocks - self.usable_blocks)

    @property
    def feasibility(self) -> Feasibility:
        """The verdict that the shortfall implies."""
        return Feasibility.INFEASIBLE if self.shortfall_blocks else Feasibility.FEASIBLE


def explain_labels(plan: LivePlan, *, headroom_blocks: int) -> tuple[str, ...]:
    """The published failure labels that hold for a schedule in this headroom, most telling first. O(steps)."""
    labels: list[str] = []
    chunked_full = plan.attention_mode is AttentionMode.FULL_ATTENTION and len(plan.chunk_blocks) > 1
    if chunked_full:
        labels.append("active_live_kv_accumulation")
    if plan.blocked_step(headroom_blocks=headroom_blocks) is not None:
        labels += [
            "protected_resident_headroom_exhausted",
            "active_admission_blocked",
            "resident_protection_requires_deferral",
        ]
    if chunked_full:
        labels.append("chunking_not_live_bounding")
    if plan.max_live_blocks > headroom_blocks:
        labels.append("physical_capacity_infeasible")
    return tuple(labels)
