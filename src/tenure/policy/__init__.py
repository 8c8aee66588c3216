"""Which rows should live on the device: scorers, selectors, schedule."""

from tenure.policy.policy import Policy, Reselector, ReselectorState, ReselectStatistics, as_policy
from tenure.policy.scorers import SCORERS, KeyGroup, KeySource, RecentQueries, Scorer, make_scorer
from tenure.policy.selectors import Room, select_top_blocks

__all__ = [
    "SCORERS",
    "KeyGroup",
    "KeySource",
    "Policy",
    "RecentQueries",
    "ReselectStatistics",
    "Reselector",
    "ReselectorState",
    "Room",
    "Scorer",
    "as_policy",
    "make_scorer",
    "select_top_blocks",
]
