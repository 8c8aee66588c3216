"""What a session says about itself."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from tenure.kv.residency import Residence
from tenure.runtime.hf.cache import CacheStatistics


class ContextLimitWarning(UserWarning):
    """A context has outgrown what its model was trained on; the pool holds, but what the model makes of it is open."""


class ReplyEnd(Enum):
    """Why a reply ended."""

    STOP_TOKEN = "stop token"
    TOKEN_LIMIT = "token limit"
    STOPPED = "stopped"
    """By `stop()`, or because whoever read the stream let go of it."""


@dataclass(frozen=True, slots=True)
class ReplyStatistics:
    """The last reply. `seconds` is time spent in the model and in choosing tokens, not in whoever reads the stream."""

    tokens: int
    seconds: float
    end: ReplyEnd

    @property
    def tokens_per_s(self) -> float:
        """Tokens a second; 0 when there was none."""
        return self.tokens / self.seconds if self.seconds > 0 else 0.0


@dataclass(frozen=True, slots=True)
class SessionStatistics:
    """What a status line shows. `reply` is None before the first one."""

    logical_rows: int
    resident_blocks: int
    host_only_blocks: int
    cache: CacheStatistics
    reply: ReplyStatistics | None


@dataclass(frozen=True, slots=True)
class BlockPlace:
    """Where one block is: positions `[first_position, stop_position)`, and how it scored when blocks were last ranked.

    `score` is None for a block that has not been ranked.
    """

    index: int
    first_position: int
    stop_position: int
    residence: Residence
    resident_rows: int
    protected: bool
    score: float | None
