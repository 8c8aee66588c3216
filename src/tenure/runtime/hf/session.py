"""`Session`: one conversation of any length with a stock model, inside a fixed pool of rows.

The session knows the ids of all tokens that the cache holds rows of, and nothing else: a token is known once its
forward has committed. So it can be stopped between any two tokens, saved, restored and cut back, and what it knows and
what the cache holds always agree; where they do not, because another forward used the cache, every call says so.
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from tenure.errors import CapacityError, UsageError
from tenure.kv.residency import Plan, Residence
from tenure.policy import Policy
from tenure.pool import SINK_BLOCKS, TAIL_BLOCKS
from tenure.runtime.hf.cache import PooledCache
from tenure.runtime.hf.identity import COMPUTED, Identity, computed_identity
from tenure.runtime.hf.native import native_layers, native_states, opaque_layers, put_back
from tenure.runtime.hf.reading import REREAD_ROWS, reselect_and_reread
from tenure.runtime.hf.sampling import GREEDY, Sampling, pick_token
from tenure.runtime.hf.section_file import open_sections, write_sections
from tenure.runtime.hf.session_file import (
    SessionHeader,
    SessionState,
    metadata_of,
    read_header,
    read_state,
    require_match,
    restore_cache,
    sections_of,
)
from tenure.runtime.hf.session_values import (
    BlockPlace,
    ContextLimitWarning,
    ReplyEnd,
    ReplyStatistics,
    SessionStatistics,
)
from tenure.runtime.hf.text_stream import TextStream
from tenure.runtime.hf.turns import following_ids, opening_ids

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

READ_ROWS = 512
"""Rows read in one forward, about: enough for dense products, few enough that activations stay small."""
DEFAULT_NEW_TOKENS = 512

Progress = Callable[[int, int], None]
"""Called while a turn is read, with the rows read so far and those of the whole turn."""


class Session:
    """A conversation: append to it, stream replies, ask where each block is. Use from one thread.

    Guarantees: `token_ids` are the ids of exactly the rows that the cache holds, whatever is stopped or fails; a
    forward that fails leaves them as they were (blocks that made room for it may have gone to the host); given ids,
    seed and settings, with a policy whose `scoring_share` is None, give the same reply on the same machine.

    `model` and `tokenizer` are those of `tenure.models.load` or of Transformers; with `tokenizer=None` everything in
    ids works and everything in text raises. `pool`, `policy`, `block_size`, `context_rows`, `host_bytes`, `sink_blocks`
    and `tail_blocks` are `PooledCache`'s. `system` opens the conversation. `seed` is that of sampled replies. A turn is
    read `read_rows` rows a forward (default: about `READ_ROWS`, in whole blocks; at most what the pool can take).
    `identity` names the model in saved files (`tenure.models.load(...).identity`); without one it is computed then.

    The device memory is taken here. Raises what `PooledCache` raises; `UsageError` for a bad `read_rows`.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase | None,
        *,
        pool: int | str = "auto",
        policy: Policy | str = "attention_mass",
        system: str | None = None,
        sampling: Sampling = GREEDY,
        seed: int = 0,
        read_rows: int | None = None,
        identity: Identity | None = None,
        block_size: int | None = None,
        context_rows: int | None = None,
        host_bytes: int | None = None,
        sink_blocks: int = SINK_BLOCKS,
        tail_blocks: int = TAIL_BLOCKS,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self.cache = PooledCache(
            model.config,
            pool=pool,
            policy=policy,
            block_size=block_size,
            context_rows=context_rows,
            host_bytes=host_bytes,
            device=model.device,
            sink_blocks=sink_blocks,
            tail_blocks=tail_blocks,
            clock=clock,
        )
        if read_rows is not None and read_rows < 1:
            raise UsageError(f"read_rows is {read_rows}; a turn is read at least 1 row a forward")
        whole_blocks = max(1, READ_ROWS // self.cache.block_size) * self.cache.block_size
        self.read_rows = min(whole_blocks if read_rows is None else read_rows, self.cache.max_append_rows)
        self.cache.open(dtype=model.dtype, device=model.device)
        self.model = model
        self.tokenizer = tokenizer
        self.system = system
        self.sampling = sampling
        self.identity = identity
        self.last_reply: ReplyStatistics | None = None
        self._clock = clock
        self._generator = torch.Generator().manual_seed(seed)
        self._ids: list[int] = []
        self._turn_starts: list[int] = []
        self._logits: torch.Tensor | None = None
        self._stop_requested = False
        self._trained_rows = int(model.config.get_text_config(decoder=True).max_position_embeddings)
        self._limit_announced = False
        self._broken: str | None = None

    @property
    def token_ids(self) -> tuple[int, ...]:
        """The ids of the whole sequence, from its first token on. O(rows)."""
        return tuple(self._ids)

    @property
    def logical_rows(self) -> int:
        """Tokens in the sequence."""
        return len(self._ids)

    @property
    def turn_starts(self) -> tuple[int, ...]:
        """The position at which each turn that `say` appended begins."""
        return tuple(self._turn_starts)

    def stop(self) -> None:
        """Ask what is under way, reading or replying, to end after this forward. Safe in a signal handler."""
        self._stop_requested = True

    def append(self, tokens: str | Iterable[int], *, progress: Progress | None = None) -> int:
        """Read a text (as plain text, without special tokens) or ids. Returns the rows read.

        They are fewer than given only when `stop()` was called meanwhile: what was read until then stays. All but the
        last token are read first, then the policy chooses blocks by what they asked for; when that recalled anything, the
        last rows are read again with it in place (`tenure.runtime.hf.reading`); then the last token is read, so that
        the first token of a reply already sees what was recalled.

        Raises `UsageError` for nothing to read, an id outside the vocabulary, or a cache that another forward has used;
        `HostTierFullError` when the host tier is full: what had been read before stays.
        """
        self._stop_requested = False
        ids = self._encode(tokens) if isinstance(tokens, str) else [int(token) for token in tokens]
        return self._read(ids, progress)

    def say(
        self,
        text: str,
        *,
        max_new_tokens: int = DEFAULT_NEW_TOKENS,
        sampling: Sampling | None = None,
        progress: Progress | None = None,
    ) -> Iterator[str]:
        """Append a user's turn as the model's chat template writes it, then stream the reply's text.

        The turn is read before this returns; the reply is generated as the iterator is read. The stop token that ends
        a reply is not part of it: the next turn closes the reply the way the template does, finished or not.
        Raises as `append` and `generate`.
        """
        tokenizer = self._require_tokenizer()
        _require_token_count(max_new_tokens)
        self._require_agreement()
        self._stop_requested = False
        ids = following_ids(tokenizer, text) if self._ids else opening_ids(tokenizer, text, system=self.system)
        start = len(self._ids)
        try:
            self._read(ids, progress)
        finally:
            # A turn that was cut short is a turn too: undo() takes back what was read of it.
            if len(self._ids) > start:
                self._turn_starts.append(start)
        return self._stream_text(self._decode(max_new_tokens, self.sampling if sampling is None else sampling, None))

    def reply(self, *, max_new_tokens: int = DEFAULT_NEW_TOKENS, sampling: Sampling | None = None) -> Iterator[str]:
        """Stream the text of `generate`, whole characters at a time. Raises as `generate`."""
        self._require_tokenizer()
        return self._stream_text(self.generate(max_new_tokens=max_new_tokens, sampling=sampling))

    def generate(
        self,
        *,
        max_new_tokens: int = DEFAULT_NEW_TOKENS,
        sampling: Sampling | None = None,
        stop_ids: Iterable[int] | None = None,
    ) -> Iterator[int]:
        """Stream the ids that the model continues with. A token is yielded once it is part of the sequence.

        Ends at a stop token (default: those of the model and its tokenizer), which is not yielded and not appended,
        after `max_new_tokens`, or after `stop()`; `last_reply` says which. Letting go of the iterator, or calling this
        again, is fine at any time: the sequence ends with the last token that was yielded.

        Raises `UsageError` before the first token is read, for a cache that another forward has used, and when the
        session was changed between two tokens.
        """
        _require_token_count(max_new_tokens)
        self._require_agreement()
        if not self._ids:
            raise UsageError("there is nothing to continue: append() a text or a token first")
        self._stop_requested = False
        return self._decode(max_new_tokens, self.sampling if sampling is None else sampling, stop_ids)

    def reselect(self) -> Plan:
        """Bring the blocks that score best now onto the device. Returns what was moved; nothing on an empty session."""
        self._require_agreement()
        return self.cache.reselect()

    def use_policy(self, policy: Policy | str) -> None:
        """Change the policy from the next token on. Raises `PolicyError` for an unknown one; nothing changes then."""
        self.cache.use_policy(policy)

    def crop(self, logical_rows: int) -> None:
        """Cut the session back to its first `logical_rows` tokens. All or nothing.

        Raises `CapacityError` for a target outside `[0, logical_rows]`, and `UsageError` when layers with a window have
        forgotten what they would go back to.
        """
        self._require_agreement()
        if not 0 <= logical_rows <= len(self._ids):
            raise CapacityError(f"cannot cut the session to {logical_rows} tokens: it has {len(self._ids)}")
        if logical_rows == len(self._ids):
            return
        self.cache.crop(logical_rows - len(self._ids))
        del self._ids[logical_rows:]
        self._turn_starts = [start for start in self._turn_starts if start < logical_rows]
        self._logits = None

    def undo(self) -> int:
        """Take back the last turn that `say` appended, with its reply. Returns the tokens removed. Raises as `crop`."""
        if not self._turn_starts:
            raise UsageError("there is no turn to take back: none was appended with say()")
        before = len(self._ids)
        self.crop(self._turn_starts[-1])
        return before - len(self._ids)

    def where(self) -> list[BlockPlace]:
        """Every block, in order of position: where it is and how it scored. O(blocks)."""
        scores = self.cache.reselector.scores
        view = self.cache.view()
        return [
            BlockPlace(
                index=block.index,
                first_position=block.index * view.block_size,
                stop_position=block.index * view.block_size + block.written_rows,
                residence=block.residence,
                resident_rows=block.resident_rows,
                protected=block.protected,
                score=scores.get(block.index),
            )
            for block in view.blocks
        ]

    def text_of(self, place: BlockPlace) -> str:
        """The text of a block, special tokens included. Raises `UsageError` without a tokenizer."""
        ids = self._ids[place.first_position : place.stop_position]
        return str(self._require_tokenizer().decode(ids, skip_special_tokens=False))

    def statistics(self) -> SessionStatistics:
        """A snapshot. O(blocks)."""
        blocks = self.cache.view().blocks
        host_only = sum(1 for block in blocks if block.residence is Residence.HOST_BACKED)
        return SessionStatistics(
            logical_rows=len(self._ids),
            resident_blocks=len(blocks) - host_only,
            host_only_blocks=host_only,
            cache=self.cache.statistics(),
            reply=self.last_reply,
        )

    def save(self, path: Path | str) -> int:
        """Write the session to a file, replacing one of that name in one step. Returns its bytes.

        Everything that decides how the session goes on is in it; `load` continues bit-identically on the same machine.
        Raises `DiskFullError` without room, `SessionFileError` where no file can be written; nothing is left then, and
        a file that was there is still there. Reads every block's bytes; without an `identity`, every weight too.
        """
        self._require_agreement()
        identity = computed_identity(self.model, self.tokenizer) if self.identity is None else self.identity
        state = SessionState(
            token_ids=self._ids,
            turn_starts=self._turn_starts,
            system=self.system,
            temperature=self.sampling.temperature,
            top_p=self.sampling.top_p,
            read_rows=self.read_rows,
            logits=self._logits,
            generator_state=self._generator.get_state(),
        )
        metadata = metadata_of(self.cache, state, identity)
        return write_sections(Path(path), metadata=metadata, sections=sections_of(self.cache, state))

    @classmethod
    def load(
        cls,
        path: Path | str,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase | None,
        *,
        identity: Identity | None = None,
        host_bytes: int | None = None,
        clock: Callable[[], float] = time.perf_counter,
    ) -> Session:
        """The session that `save` wrote, with the same pool, policy and settings, on the model that it was saved with.

        `identity` is that of `model`; needed when the file was saved with one. Raises `SessionFileError`, which says
        what is wrong, for a file that is truncated, damaged, of another version, model, tokenizer, dtype or geometry;
        `PoolSizeError` when its pool does not fit this machine; `HostTierFullError` when its blocks do not.
        """
        with open_sections(Path(path)) as reader:
            header = read_header(reader)
            present = identity
            if present is None:
                if not header.model_id.startswith(COMPUTED):
                    raise reader.refusal(
                        f"it was saved with a named model, {header.model_id}; pass the identity of this one, "
                        "load(..., identity=tenure.models.load(...).identity)"
                    )
                present = computed_identity(model, tokenizer)
            require_match(header, reader, identity=present, dtype=model.dtype)
            settings = _settings(header)
            session = cls(model, tokenizer, identity=identity, host_bytes=host_bytes, clock=clock, **settings)
            restore_cache(session.cache, reader, header)
            session._adopt(read_state(reader, header))
        return session

    def _adopt(self, state: SessionState) -> None:
        self._ids, self._turn_starts = list(state.token_ids), list(state.turn_starts)
        self.sampling = Sampling(temperature=state.temperature, top_p=state.top_p)
        self.system, self.read_rows = state.system, state.read_rows
        self._logits = None if state.logits is None else state.logits.to(self.model.device)
        self._generator.set_state(state.generator_state)
        self._limit_announced = len(self._ids) > self._trained_rows

    def check_invariants(self) -> None:
        """Raise unless ids and rows agree (`UsageError`) and every residency invariant holds (`InternalError`)."""
        self._require_agreement()
        self.cache.check_invariants()

    def _encode(self, text: str) -> list[int]:
        return list(self._require_tokenizer().encode(text, add_special_tokens=False))

    def _require_tokenizer(self) -> PreTrainedTokenizerBase:
        if self.tokenizer is None:
            raise UsageError("this session has no tokenizer, so it takes and gives ids only; pass one to Session(...)")
        return self.tokenizer

    def _require_agreement(self) -> None:
        if self._broken is not None:
            raise UsageError(self._broken)
        known = len(self._ids)
        held = {f"native layer {index}": layer.get_seq_length() for index, layer in native_layers(self.cache)}
        held["the pool"] = self.cache.logical_rows
        for name, rows in held.items():
            if rows != known:
                raise UsageError(
                    f"this session knows {known} tokens, but {name} of its cache holds rows of {rows}: another forward "
                    "has used the cache. A session's cache is its own; run other forwards with a PooledCache of theirs"
                )

    def _read(self, ids: list[int], progress: Progress | None) -> int:
        self._require_agreement()
        if not ids:
            raise UsageError("there is nothing to read: the text or list of ids is empty")
        vocabulary = self.model.get_input_embeddings().num_embeddings
        foreign = next((token for token in ids if not 0 <= token < vocabulary), None)
        if foreign is not None:
            raise UsageError(f"{foreign} is no token id of this model, whose ids go from 0 to {vocabulary - 1}")
        chooses = len(ids) > 1 and self.cache.policy.scorer != "recency"
        again = max(0, len(ids) - 1 - REREAD_ROWS) if chooses else len(ids) - 1
        natives = native_states(self.cache)
        for first, stop in self._batches(again, len(ids) - 1):
            if self._stop_requested:
                return first
            if first == again:
                natives = native_states(self.cache)
            self._forward(ids[first:stop])
            if progress is not None:
                progress(stop, len(ids))
        if self._stop_requested:
            return len(ids) - 1
        if chooses and self.cache.can_score:
            reselect_and_reread(self.cache, ids[again:-1], natives, read=self._read_again, take_back=self._take_back)
        self._forward(ids[-1:])
        if progress is not None:
            progress(len(ids), len(ids))
        return len(ids)

    def _batches(self, *stops: int) -> Iterator[tuple[int, int]]:
        """Parts of at most `read_rows` rows that end at each of `stops`."""
        first = 0
        for stop in stops:
            while first < stop:
                yield first, min(first + self.read_rows, stop)
                first = min(first + self.read_rows, stop)

    def _take_back(self, rows: int) -> None:
        del self._ids[len(self._ids) - rows :]
        self._logits = None

    def _read_again(self, ids: list[int]) -> None:
        for first, stop in self._batches(len(ids)):
            self._forward(ids[first:stop])

    def _forward(self, ids: list[int]) -> torch.Tensor:
        """Run the model over `ids` and know them. A forward that dies leaves session and cache as they were."""
        self._announce_limit(len(self._ids) + len(ids))
        natives = native_states(self.cache)
        try:
            inputs = torch.tensor([ids], device=self.model.device)
            with torch.inference_mode():
                output = self.model(input_ids=inputs, past_key_values=self.cache, use_cache=True, logits_to_keep=1)
        except BaseException as error:
            put_back(self.cache, natives)
            self.cache.crop_pooled(len(self._ids))
            opaque = opaque_layers(self.cache)
            if opaque:
                self._broken = (
                    f"a forward died ({error!r}) after {len(self._ids)} tokens, and layer(s) {', '.join(opaque)} keep "
                    "a state that cannot be taken back. Start a new session"
                )
            raise
        logits: torch.Tensor = output.logits[0, -1]
        self._ids.extend(ids)
        self._logits = logits
        return logits

    def _announce_limit(self, logical_rows: int) -> None:
        if logical_rows > self._trained_rows and not self._limit_announced:
            self._limit_announced = True
            warnings.warn(
                f"the context grows to {logical_rows} tokens; the model was trained on up to {self._trained_rows}. "
                "Going on, but what it makes of later tokens is not known",
                ContextLimitWarning,
                stacklevel=4,
            )

    def _last_logits(self) -> torch.Tensor:
        """The logits behind the last token; after a crop, by reading that token again."""
        if self._logits is not None:
            return self._logits
        last = self._ids[-1]
        self.cache.crop(-1)
        self._ids.pop()
        return self._forward([last])

    def _decode(self, max_new_tokens: int, sampling: Sampling, stop_ids: Iterable[int] | None) -> Iterator[int]:
        stops = self._default_stop_ids() if stop_ids is None else frozenset(stop_ids)
        tokens, seconds, end = 0, 0.0, ReplyEnd.STOPPED
        expected_rows = len(self._ids)
        try:
            while not self._stop_requested:
                if tokens >= max_new_tokens:
                    end = ReplyEnd.TOKEN_LIMIT
                    break
                if len(self._ids) != expected_rows:
                    raise UsageError(
                        f"the session grew or shrank from {expected_rows} to {len(self._ids)} tokens while a reply was "
                        "being streamed; finish or drop one reply before changing the session"
                    )
                started = self._clock()
                token = pick_token(self._last_logits(), sampling, self._generator)
                if token in stops:
                    end = ReplyEnd.STOP_TOKEN
                    break
                self._require_agreement()
                self._forward([token])
                tokens, expected_rows = tokens + 1, expected_rows + 1
                seconds += self._clock() - started
                yield token
        finally:
            self.last_reply = ReplyStatistics(tokens=tokens, seconds=seconds, end=end)

    def _stream_text(self, tokens: Iterator[int]) -> Iterator[str]:
        stream = TextStream(self._require_tokenizer())
        for token in tokens:
            piece = stream.push(token)
            if piece:
                yield piece
        rest = stream.finish()
        if rest:
            yield rest

    def _default_stop_ids(self) -> frozenset[int]:
        config = getattr(self.model, "generation_config", None)
        named = getattr(config, "eos_token_id", None)
        found = set(named) if isinstance(named, list) else {named}
        found.add(getattr(self.tokenizer, "eos_token_id", None))
        return frozenset(token for token in found if token is not None)


def _require_token_count(max_new_tokens: int) -> None:
    if max_new_tokens < 1:
        raise UsageError(f"max_new_tokens is {max_new_tokens}; a reply has at least 1 token")


def _settings(header: SessionHeader) -> dict[str, Any]:
    return {
        "pool": header.capacity_rows,
        "block_size": header.block_size,
        "policy": header.policy,
        "sink_blocks": header.sink_blocks,
        "tail_blocks": header.tail_blocks,
    }
