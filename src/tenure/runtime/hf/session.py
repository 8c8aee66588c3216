"""`Session`: one conversation of any length with a stock model, inside a fixed pool of rows.

What it knows and what the cache holds always agree (`tenure.runtime.hf.sequence`), so it can be stopped between any
two tokens, saved, restored and cut back.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from tenure.errors import UsageError
from tenure.kv.residency import Plan, Residence
from tenure.policy import Policy
from tenure.pool import SINK_BLOCKS, TAIL_BLOCKS
from tenure.runtime.hf.cache import PooledCache
from tenure.runtime.hf.identity import COMPUTED, Identity, computed_identity
from tenure.runtime.hf.sampling import GREEDY, Sampling, pick_token
from tenure.runtime.hf.section_file import open_sections, write_sections
from tenure.runtime.hf.sequence import Progress, TokenSequence
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
            dtype=model.dtype,
            sink_blocks=sink_blocks,
            tail_blocks=tail_blocks,
            clock=clock,
        )
        if read_rows is not None and read_rows < 1:
            raise UsageError(f"read_rows is {read_rows}; a turn is read at least 1 row a forward")
        whole_blocks = max(1, READ_ROWS // self.cache.block_size) * self.cache.block_size
        rows_a_forward = min(whole_blocks if read_rows is None else read_rows, self.cache.max_append_rows)
        self.cache.open(dtype=model.dtype, device=model.device)
        self.model = model
        self.tokenizer = tokenizer
        self.system = system
        self.sampling = sampling
        self.identity = identity
        self.last_reply: ReplyStatistics | None = None
        self._clock = clock
        self._generator = torch.Generator().manual_seed(seed)
        self._sequence = TokenSequence(model, self.cache, read_rows=rows_a_forward)
        self._turn_starts: list[int] = []
        self._stop_requested = False

    @property
    def token_ids(self) -> tuple[int, ...]:
        """The ids of the whole sequence, from its first token on. O(rows)."""
        return tuple(self._sequence.ids)

    @property
    def logical_rows(self) -> int:
        """Tokens in the sequence."""
        return len(self._sequence)

    @property
    def read_rows(self) -> int:
        """Rows read in one forward, at most."""
        return self._sequence.read_rows

    @property
    def turn_starts(self) -> tuple[int, ...]:
        """The position at which each turn that `say` appended begins."""
        return tuple(self._turn_starts)

    def stop(self) -> None:
        """Ask what is under way, reading or replying, to end after this forward. Safe in a signal handler."""
        self._stop_requested = True

    def append(self, tokens: str | Iterable[int], *, progress: Progress | None = None) -> int:
        """Read a text (as plain text, without special tokens) or ids. Returns the rows read.

        They are fewer than given only when `stop()` was called meanwhile: what was read until then stays. An exception in
        the middle (an interrupt, a full host tier) leaves what was read as well, except for the end of the turn when it was
        just being read again (at most `REREAD_ROWS` tokens): `token_ids` says where the session stands. The policy
        chooses blocks by what was read, before its last token (`TokenSequence.read`): the first token of a reply
        already sees what was recalled.

        Raises `UsageError` for nothing to read, an id outside the vocabulary, or a cache that another forward has used;
        `HostTierFullError` when the host tier is full: what had been read before stays.
        """
        self._stop_requested = False
        ids = self._encode(tokens) if isinstance(tokens, str) else [int(token) for token in tokens]
        return self._sequence.read(ids, should_stop=lambda: self._stop_requested, progress=progress)

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
        self._sequence.require_agreement()
        self._stop_requested = False
        ids = following_ids(tokenizer, text) if self._sequence.ids else opening_ids(tokenizer, text, system=self.system)
        start = len(self._sequence.ids)
        try:
            self._sequence.read(ids, should_stop=lambda: self._stop_requested, progress=progress)
        finally:
            # A turn that was cut short is a turn too: undo() takes back what was read of it.
            if len(self._sequence.ids) > start:
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
        self._sequence.require_agreement()
        if not self._sequence.ids:
            raise UsageError("there is nothing to continue: append() a text or a token first")
        self._stop_requested = False
        return self._decode(max_new_tokens, self.sampling if sampling is None else sampling, stop_ids)

    def reselect(self) -> Plan:
        """Bring the blocks that score best now onto the device. Returns what was moved; nothing on an empty session."""
        self._sequence.require_agreement()
        return self.cache.reselect()

    def use_policy(self, policy: Policy | str) -> None:
        """Change the policy from the next token on. Raises `PolicyError` for an unknown one; nothing changes then."""
        self.cache.use_policy(policy)

    def crop(self, logical_rows: int) -> None:
        """Cut the session back to its first `logical_rows` tokens. All or nothing.

        Raises `CapacityError` for a target outside `[0, logical_rows]`, and `UsageError` when layers with a window have
        forgotten what they would go back to.
        """
        self._sequence.crop(logical_rows)
        self._turn_starts = [start for start in self._turn_starts if start < logical_rows]

    def undo(self) -> int:
        """Take back the last turn that `say` appended, with its reply. Returns the tokens removed. Raises as `crop`."""
        if not self._turn_starts:
            raise UsageError("there is no turn to take back: none was appended with say()")
        before = len(self._sequence.ids)
        self.crop(self._turn_starts[-1])
        return before - len(self._sequence.ids)

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
        ids = self._sequence.ids[place.first_position : place.stop_position]
        return str(self._require_tokenizer().decode(ids, skip_special_tokens=False))

    def statistics(self) -> SessionStatistics:
        """A snapshot. O(blocks)."""
        blocks = self.cache.view().blocks
        host_only = sum(1 for block in blocks if block.residence is Residence.HOST_BACKED)
        return SessionStatistics(
            logical_rows=len(self._sequence.ids),
            resident_blocks=len(blocks) - host_only,
            host_only_blocks=host_only,
            cache=self.cache.statistics(),
            reply=self.last_reply,
        )

    def save(self, path: Path | str) -> int:
        """Write the session to a file, replacing one of that name in one step. Returns its bytes.

        Everything that decides how the session goes on is in it; `load` continues bit-identically on the same machine. One
        thing is not in any file, the time: a policy with a `scoring_share` (the default) chooses *when* to score by the
        clock, so with a context beyond the pool a later reselect may come some tokens earlier or later, as it may in any
        two runs. `Policy(scoring_share=None)` goes by rows alone.
        Raises `DiskFullError` without room, `SessionFileError` where no file can be written; nothing is left then, and
        a file that was there is still there. Reads every block's bytes; without an `identity`, every weight too.
        """
        self._sequence.require_agreement()
        identity = computed_identity(self.model, self.tokenizer) if self.identity is None else self.identity
        state = SessionState(
            token_ids=self._sequence.ids,
            turn_starts=self._turn_starts,
            system=self.system,
            temperature=self.sampling.temperature,
            top_p=self.sampling.top_p,
            read_rows=self.read_rows,
            logits=self._sequence.logits,
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
        self._sequence.adopt(state.token_ids, state.logits)
        self._sequence.read_rows = state.read_rows
        self._turn_starts = list(state.turn_starts)
        self.sampling = Sampling(temperature=state.temperature, top_p=state.top_p)
        self.system = state.system
        self._generator.set_state(state.generator_state)

    def check_invariants(self) -> None:
        """Raise unless ids and rows agree (`UsageError`) and every residency invariant holds (`InternalError`)."""
        self._sequence.require_agreement()
        self.cache.check_invariants()

    def _encode(self, text: str) -> list[int]:
        return list(self._require_tokenizer().encode(text, add_special_tokens=False))

    def _require_tokenizer(self) -> PreTrainedTokenizerBase:
        if self.tokenizer is None:
            raise UsageError("this session has no tokenizer, so it takes and gives ids only; pass one to Session(...)")
        return self.tokenizer

    def _decode(self, max_new_tokens: int, sampling: Sampling, stop_ids: Iterable[int] | None) -> Iterator[int]:
        stops = self._default_stop_ids() if stop_ids is None else frozenset(stop_ids)
        tokens, seconds, end = 0, 0.0, ReplyEnd.STOPPED
        expected_rows = len(self._sequence.ids)
        try:
            while not self._stop_requested:
                if tokens >= max_new_tokens:
                    end = ReplyEnd.TOKEN_LIMIT
                    break
                if len(self._sequence.ids) != expected_rows:
                    raise UsageError(
                        f"the session grew or shrank from {expected_rows} to {len(self._sequence.ids)} tokens while a reply was "
                        "being streamed; finish or drop one reply before changing the session"
                    )
                started = self._clock()
                token = pick_token(self._sequence.last_logits(), sampling, self._generator)
                if token in stops:
                    end = ReplyEnd.STOP_TOKEN
                    break
                self._sequence.require_agreement()
                self._sequence.forward([token])
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
