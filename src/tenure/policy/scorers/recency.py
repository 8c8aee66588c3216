"""`recency`: sinks and a sliding window. It forgets everything else.

Source: StreamingLLM (arXiv 2309.17453); KVFlash's `lru` policy is the same thing in effect, because reading a row by
attention does not touch its clock.
"""

from __future__ import annotations

from tenure.kv.residency import ResidencyView
from tenure.policy.scorers.base import KeySource, RecentQueries


class RecencyScorer:
    """Scores a block by its position: newer is better. Needs no queries and never recalls anything. O(blocks)."""

    name = "recency"
    query_rows = 0

    def score(self, view: ResidencyView, keys: KeySource, queries: RecentQueries) -> list[float]:
        """The block's index."""
        del keys, queries
        return [float(block.index) for block in view.blocks]

    def forget(self, first_block: int) -> None:
        """Nothing is remembered."""
