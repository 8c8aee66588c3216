"""Selectors: from scores to a plan under the budget."""

from tenure.policy.selectors.top_blocks import Room, select_top_blocks

__all__ = ["Room", "select_top_blocks"]
