"""What an engine can offer on this model and this much host memory: said at the start, not when it is needed."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tenure.arbiter.pressure import LivePlan, even_chunks
from tenure.arbiter.rules import ActionPolicy
from tenure.claims.modes import ProtectionMode
from tenure.errors import ClaimError, PolicyError, UsageError
from tenure.runtime.hf.attention import watch_queries

if TYPE_CHECKING:
    from transformers import PreTrainedModel

PLAN_PARTS = 40
"""Parts of a schedule, about at most: every event about the request lists them."""
LEAST_STREAMED_BLOCKS = 2
"""Blocks of the smallest arena that rows on the host can be streamed through: one stays while another passes."""


def require_host(policy: ActionPolicy | None, *, host_blocks: int, recall_host_blocks: int | None) -> None:
    """Raise `PolicyError` when a policy of the operator's own names what cannot be done without host memory."""
    if policy is None:
        return
    named = {step for line in policy.lines.values() for step in map(str, line.steps)}
    recall_blocks = host_blocks if recall_host_blocks is None else recall_host_blocks
    for step, blocks in (("offload_active", host_blocks), ("bound_active_live", recall_blocks)):
        if step in named and not blocks:
            raise PolicyError(
                f"the policy says {step}, which keeps rows on the host, and host_blocks is 0; give the engine host_blocks, "
                "or leave the step out"
            )


def require_offered(mode: ProtectionMode | None, *, host_blocks: int) -> None:
    """Raise `ClaimError` for a mode that this runtime cannot keep."""
    if mode is ProtectionMode.ROUTED_REUSE:
        message = "routed_reuse promises reuse on another worker, and this runtime has none; use another mode"
        raise ClaimError(message, field="protection_mode", clause="TNR-ACC-006")
    if mode is ProtectionMode.OFFLOADABLE and not host_blocks:
        message = "offloadable needs a slower tier, and host_blocks is 0; give the engine host_blocks or use demotable"
        raise ClaimError(message, field="protection_mode", clause="TNR-ACC-006")


def shows_queries(model: PreTrainedModel) -> bool:
    """Whether the model's attention can be tapped, which recall needs. Mutates the model's configuration if so."""
    try:
        watch_queries(model.config)
    except PolicyError:
        return False
    return True


def live_plan(blocks: int, *, given: LivePlan | None) -> LivePlan:
    """How a request's blocks come to be: as given, or in small parts. Raises `UsageError` for a plan that is too small.

    The largest part is what has to fit when the request is streamed or recomputed, so parts are as small as streaming
    allows, and larger only where there would be more than `PLAN_PARTS` of them to write down.
    """
    if given is None:
        part_blocks = max(LEAST_STREAMED_BLOCKS, blocks // PLAN_PARTS)
        return LivePlan(chunk_blocks=even_chunks(total_blocks=blocks, chunk_blocks=part_blocks))
    if given.max_live_blocks < blocks:
        raise UsageError(
            f"live_plan keeps {given.max_live_blocks} blocks and the request needs {blocks}; a schedule with a window or "
            "with recomputation is chosen by the policy, not by the caller"
        )
    return given
