"""How one admitted request computes: in a dense run, in a smaller arena with recall, streamed from the host, or anew.

dense       every row on the device, in one run                     exact, and batched with others
recall      bound_active_live: a pool with relevance recall          not exact, and says so
streamed    offload_active: rows on the host, passed through         exact, slower
recomputed  recompute_split: no row kept, all computed each token    exact, slowest
"""

from __future__ import annotations

from collections.abc import Generator, Sequence
from typing import TYPE_CHECKING, Protocol

import torch

from tenure.errors import InternalError, RowsLostError
from tenure.policy import Policy
from tenure.pool import HostTier, Pager
from tenure.pool.frames import BlockRun
from tenure.pool.transfer import Transfer
from tenure.runtime.hf.cache import PooledCache
from tenure.runtime.hf.runs import SequenceRows, forward_one
from tenure.runtime.hf.sequence import TokenSequence
from tenure.runtime.hf.streamed import StreamedRows, forward_streamed

if TYPE_CHECKING:
    from transformers import PreTrainedModel


class Runner(Protocol):
    """One request's computation, a forward at a time. A call that raises has changed nothing."""

    @property
    def rows(self) -> int:
        """Rows that are on the device in position order and stay; 0 for a runner that keeps none of that kind."""
        ...

    @property
    def unread(self) -> int:
        """Tokens that must be read before there are logits."""
        ...

    @property
    def logits(self) -> torch.Tensor | None:
        """`[vocabulary]`, behind the last token; None while something is unread."""
        ...

    def read_some(self, max_rows: int) -> int:
        """Read the next part of what is unread, at most `max_rows` rows. Returns the rows read."""
        ...

    def advance(self, token: int) -> None:
        """Read one token more."""
        ...


class DenseRunner:
    """In a run of its own that holds every row. `sequence` can be decoded together with others' (`forward_many`).

    The first `rows` rows of `ids` are in the run already, and so are the blocks `present`, by position: those are never
    written. Where that is all there is to read, the last row is asked again without changing it.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        run: BlockRun,
        ids: Sequence[int],
        *,
        rows: int,
        present: frozenset[int],
        block_size: int,
    ) -> None:
        self._model = model
        self._ids = list(ids)
        self._present = present
        self._block_size = block_size
        self.sequence = SequenceRows(run.window, rows=min(rows, len(ids)))
        self.logits: torch.Tensor | None = None
        self._pass_present()

    @property
    def rows(self) -> int:
        """Rows of the run that hold tokens."""
        return self.sequence.rows

    @property
    def unread(self) -> int:
        """At least 1 until there are logits."""
        return 0 if self.logits is not None else max(1, len(self._ids) - self.sequence.rows)

    def _pass_present(self) -> None:
        """Go on behind blocks that are there, also from the middle of one: a paused request may come back into it."""
        size = self._block_size
        while self.rows // size in self._present and (end := (self.rows // size + 1) * size) <= len(self._ids):
            self.sequence.rows = end

    def _next_part(self, max_rows: int) -> list[int]:
        rows, size = self.rows, self._block_size
        ahead = [block * size for block in self._present if block * size > rows]
        return self._ids[rows : min([rows + max_rows, *ahead])]

    def read_some(self, max_rows: int) -> int:
        """Read the next part."""
        part = self._next_part(max_rows)
        if not part:
            self.logits = self._ask_last_again()
            return 0
        logits = forward_one(self._model, self.sequence, part)
        self._pass_present()
        if self.rows == len(self._ids) and (self.rows - 1) // self._block_size not in self._present:
            self.logits = logits
        return len(part)

    def _ask_last_again(self) -> torch.Tensor:
        """The logits behind the last row, whose bytes are kept: computed again in another batch, they could differ."""
        arena, last = self.sequence.arena, self.sequence.rows - 1
        saved = arena.save_rows(range(last, last + 1))
        self.sequence.rows = last
        try:
            return forward_one(self._model, self.sequence, self._ids[-1:])
        finally:
            arena.load_rows(last, saved)
            self.sequence.rows = last + 1

    def advance(self, token: int) -> None:
        """Read one token more, alone."""
        self.took(token, forward_one(self._model, self.sequence, [token]))

    def took(self, token: int, logits: torch.Tensor) -> None:
        """A forward with others read one token more of this sequence."""
        self._ids.append(token)
        self.logits = logits


class RecallRunner:
    """In a smaller arena, with blocks on the host recalled by relevance: what does not fit is away, not gone."""

    rows = 0

    def __init__(
        self,
        model: PreTrainedModel,
        run: BlockRun,
        ids: Sequence[int],
        *,
        host: HostTier,
        transfer: Transfer,
        policy: Policy,
        read_rows: int,
    ) -> None:
        pager = Pager(run.window, host, transfer=transfer)
        cache = PooledCache(model.config, pager=pager, policy=policy)
        self._sequence = TokenSequence(model, cache, read_rows=min(read_rows, cache.max_append_rows))
        self._steps: Generator[int, None, None] | None = self._sequence.read_steps(ids)
        self._total = len(ids)
        self._done = 0

    @property
    def unread(self) -> int:
        """Tokens of the prompt that are left."""
        return self._total - self._done

    @property
    def logits(self) -> torch.Tensor | None:
        """Behind the last token."""
        return None if self.unread else self._sequence.last_logits()

    def read_some(self, max_rows: int) -> int:
        """Read the next part; its size was set in the beginning."""
        del max_rows
        if self._steps is None:
            return 0
        before, self._done = self._done, next(self._steps)
        if not self.unread:
            self._steps.close()
            self._steps = None
        return self._done - before

    def advance(self, token: int) -> None:
        """Read one token more."""
        self._sequence.forward([token])


class StreamedRunner:
    """Rows on the host, every one of them attended to by passing them through a small arena. Exact."""

    rows = 0

    def __init__(
        self,
        model: PreTrainedModel,
        run: BlockRun,
        ids: Sequence[int],
        *,
        host: HostTier,
        transfer: Transfer,
        host_blocks: int,
    ) -> None:
        self._model = model
        self._ids = list(ids)
        blocks = host.allocate_many(host_blocks)
        self._streamed = StreamedRows(run.window, host, transfer=transfer, blocks=blocks)
        self.logits: torch.Tensor | None = None

    @property
    def unread(self) -> int:
        """Tokens of the prompt that are left."""
        return len(self._ids) - self._streamed.rows

    def read_some(self, max_rows: int) -> int:
        """Read the next part, of at most what the arena can take beside one block that passes through."""
        rows = self._streamed.rows
        # Half of the arena for new rows leaves the other half for blocks that pass through.
        most = max(1, min(max_rows, self._streamed.max_append_rows, self._streamed.arena.capacity_rows // 2))
        part = self._ids[rows : rows + most]
        logits = self._forward(part)
        if not self.unread:
            self.logits = logits
        return len(part)

    def advance(self, token: int) -> None:
        """Read one token more."""
        self.logits = self._forward([token])
        self._ids.append(token)

    def _forward(self, ids: list[int]) -> torch.Tensor:
        """Rows on the host are checked before each pass. Raises `RowsLostError` when they are not what was written."""
        try:
            self._streamed.verify()
        except InternalError as error:
            raise RowsLostError(str(error)) from error
        return forward_streamed(self._model, self._streamed, ids)


class RecomputeRunner:
    """No row is kept: every token is computed from all tokens before it, one layer's rows alive at a time. Exact."""

    rows = 0

    def __init__(self, model: PreTrainedModel, ids: Sequence[int]) -> None:
        self._model = model
        self._ids = list(ids)
        self.recomputed_tokens = 0
        self.logits: torch.Tensor | None = None

    @property
    def unread(self) -> int:
        """All of the prompt, until it was read once."""
        return len(self._ids) if self.logits is None else 0

    def read_some(self, max_rows: int) -> int:
        """Read everything: without rows that stay there is no part of it to come back to."""
        del max_rows
        self.logits = self._forward(self._ids)
        return len(self._ids)

    def advance(self, token: int) -> None:
        """Compute everything again, with one token more."""
        self.logits = self._forward([*self._ids, token])
        self.recomputed_tokens += len(self._ids)
        self._ids.append(token)

    def _forward(self, ids: list[int]) -> torch.Tensor:
        with torch.inference_mode():
            inputs = torch.tensor([ids], device=self._model.device)
            output = self._model(input_ids=inputs, use_cache=False, logits_to_keep=1)
        logits: torch.Tensor = output.logits[0, -1]
        return logits
