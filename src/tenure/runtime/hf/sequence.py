"""`TokenSequence`: token ids and the cache that holds their rows, kept in agreement.

A token is known once its forward has committed, so the ids are those of exactly the rows that the cache holds, whatever
is stopped or fails in between; where the two do not agree, because another forward used the cache, every call says so.
"""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Callable, Generator, Iterator, Sequence
from typing import TYPE_CHECKING

import torch

from tenure.errors import CapacityError, UsageError
from tenure.kv.geometry import trained_rows
from tenure.runtime.hf.cache import PooledCache
from tenure.runtime.hf.native import native_layers, native_states, opaque_layers, put_back
from tenure.runtime.hf.reading import REREAD_ROWS, reselect_and_reread
from tenure.runtime.hf.session_values import ContextLimitWarning

if TYPE_CHECKING:
    from transformers import PreTrainedModel

Progress = Callable[[int, int], None]
"""Called while a turn is read, with the rows read so far and those of the whole turn."""


class TokenSequence:
    """The tokens of one sequence and the pooled cache with their rows. Use from one thread.

    Guarantees: `ids` are the ids of exactly the rows that `cache` holds; a forward that fails leaves both as they were
    (blocks that made room for it may have gone to the host). `logits`, `[vocabulary]`, are those behind the last token,
    None when it has to be read again to have them.
    """

    def __init__(self, model: PreTrainedModel, cache: PooledCache, *, read_rows: int) -> None:
        self.model = model
        self.cache = cache
        self.read_rows = read_rows
        self.ids: list[int] = []
        self.logits: torch.Tensor | None = None
        self._trained_rows = trained_rows(model.config.get_text_config(decoder=True))
        self._limit_announced = False
        self._broken: str | None = None

    def __len__(self) -> int:
        return len(self.ids)

    def adopt(self, ids: Sequence[int], logits: torch.Tensor | None) -> None:
        """Know the tokens whose rows the cache was restored with."""
        self.ids = list(ids)
        self.logits = None if logits is None else logits.to(self.model.device)
        self._limit_announced = len(self.ids) > self._trained_rows

    def require_agreement(self) -> None:
        """Raise `UsageError` unless ids and rows agree."""
        if self._broken is not None:
            raise UsageError(self._broken)
        held = {f"native layer {index}": layer.get_seq_length() for index, layer in native_layers(self.cache)}
        held["the pool"] = self.cache.logical_rows
        for name, rows in held.items():
            if rows != len(self.ids):
                raise UsageError(
                    f"this session knows {len(self.ids)} tokens, but {name} of its cache holds rows of {rows}: another "
                    "forward has used the cache. A session's cache is its own; run other forwards with a PooledCache "
                    "of theirs"
                )

    def read(
        self, ids: Sequence[int], *, should_stop: Callable[[], bool] = lambda: False, progress: Progress | None = None
    ) -> int:
        """Append `ids`, choosing blocks by what they ask for. Returns the rows read: fewer only when told to stop.

        All but the last token are read, then the policy chooses; when that moved anything, the end is read again with it
        in place (`tenure.runtime.hf.reading`); then the last token is read. Raises `UsageError` for nothing to read or an
        id outside the vocabulary, and what a forward raises.
        """
        self.require_agreement()
        self._require_readable(ids)
        done = 0
        with contextlib.closing(self.read_steps(ids)) as steps:
            while done < len(ids) and not should_stop():
                done = next(steps)
                if progress is not None:
                    progress(done, len(ids))
        return done

    def read_steps(self, ids: Sequence[int]) -> Generator[int, None, None]:
        """`read` in parts: after each forward, yields how many of `ids` have been read. Let go of it at any time.

        Between two parts, nothing else may change the sequence. Raises as `read` does, with the first part.
        """
        self.require_agreement()
        self._require_readable(ids)
        chooses = len(ids) > 1 and self.cache.policy.scorer != "recency"
        again = max(0, len(ids) - 1 - REREAD_ROWS) if chooses else len(ids) - 1
        natives = native_states(self.cache)
        # Blocks are chosen by what this turn asks for once it has been read, not in its middle by the one before.
        with self.cache.reselector.paused() if chooses else contextlib.nullcontext():
            for first, stop in self._batches(again, len(ids) - 1):
                if first == again:
                    natives = native_states(self.cache)
                self.forward(ids[first:stop])
                yield stop
            if chooses and self.cache.can_score:
                end = ids[again:-1]
                reselect_and_reread(self.cache, end, natives, read=self._read_again, take_back=self._take_back)
        self.forward(ids[-1:])
        yield len(ids)

    def forward(self, ids: Sequence[int]) -> torch.Tensor:
        """Run the model over `ids`, know them, and return the logits behind the last. All or nothing."""
        self._announce_limit(len(self.ids) + len(ids))
        natives = native_states(self.cache)
        try:
            inputs = torch.tensor([list(ids)], device=self.model.device)
            with torch.inference_mode():
                output = self.model(input_ids=inputs, past_key_values=self.cache, use_cache=True, logits_to_keep=1)
        except BaseException as error:
            put_back(self.cache, natives)
            self.cache.crop_pooled(len(self.ids))
            opaque = opaque_layers(self.cache)
            if opaque:
                self._broken = (
                    f"a forward died ({error!r}) after {len(self.ids)} tokens, and layer(s) {', '.join(opaque)} keep "
                    "a state that cannot be taken back. Start a new session"
                )
            raise
        logits: torch.Tensor = output.logits[0, -1]
        self.ids.extend(ids)
        self.logits = logits
        return logits

    def last_logits(self) -> torch.Tensor:
        """The logits behind the last token; after a crop, by reading that token again."""
        if self.logits is not None:
            return self.logits
        last = self.ids[-1]
        self.cache.crop(-1)
        self.ids.pop()
        return self.forward([last])

    def crop(self, logical_rows: int) -> None:
        """Cut back to the first `logical_rows` tokens. All or nothing.

        Raises `CapacityError` for a target outside `[0, len]`, `UsageError` when layers with a window have forgotten
        what they would go back to.
        """
        self.require_agreement()
        if not 0 <= logical_rows <= len(self.ids):
            raise CapacityError(f"cannot cut the session to {logical_rows} tokens: it has {len(self.ids)}")
        if logical_rows == len(self.ids):
            return
        self.cache.crop(logical_rows - len(self.ids))
        del self.ids[logical_rows:]
        self.logits = None

    def _require_readable(self, ids: Sequence[int]) -> None:
        if not ids:
            raise UsageError("there is nothing to read: the text or list of ids is empty")
        vocabulary = self.model.get_input_embeddings().num_embeddings
        foreign = next((token for token in ids if not 0 <= token < vocabulary), None)
        if foreign is not None:
            raise UsageError(f"{foreign} is no token id of this model, whose ids go from 0 to {vocabulary - 1}")

    def _batches(self, *stops: int) -> Iterator[tuple[int, int]]:
        """Parts of at most `read_rows` rows that end at each of `stops`."""
        first = 0
        for stop in stops:
            while first < stop:
                yield first, min(first + self.read_rows, stop)
                first = min(first + self.read_rows, stop)

    def _take_back(self, rows: int) -> None:
        del self.ids[len(self.ids) - rows :]
        self.logits = None

    def _read_again(self, ids: list[int]) -> None:
        for first, stop in self._batches(len(ids)):
            self.forward(ids[first:stop])

    def _announce_limit(self, logical_rows: int) -> None:
        if logical_rows > self._trained_rows and not self._limit_announced:
            self._limit_announced = True
            warnings.warn(
                f"the context grows to {logical_rows} tokens; the model was trained on up to {self._trained_rows}. "
                "Going on, but what it makes of later tokens is not known",
                ContextLimitWarning,
                stacklevel=4,
            )
