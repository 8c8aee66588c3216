"""Stock models over dense runs: one sequence a forward, or one token of each of many in a single forward.

A sequence here is a run of rows in an arena, all of them resident and in position order; who lends the arena is not
known here. A forward writes behind the committed rows and commits by counting them, so one that dies leaves no trace.
"""

from __future__ import annotations

import abc
import functools
import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch.nn.functional import scaled_dot_product_attention
from transformers.cache_utils import Cache, DynamicLayer

from tenure.errors import CapacityError, GeometryError, InternalError, PolicyError, UsageError
from tenure.kv.geometry import LayerKind, geometry_from_config, trained_rows
from tenure.pool.arena import Arena
from tenure.pool.layout import ArenaLayout
from tenure.runtime.hf.attention import ATTEND_ATTRIBUTE, require_own_attention

if TYPE_CHECKING:
    from transformers import PreTrainedModel


@dataclass(slots=True, eq=False)
class SequenceRows:
    """One sequence's rows: slots `[0, rows)` of `arena`, in position order. What lies beyond is never read.

    `rows` counts committed rows. `arena` may be replaced between forwards by another one that holds the same rows.
    """

    arena: Arena
    rows: int = 0


def require_poolable_runs(config: Any) -> None:
    """Return only if every layer of the model keeps a row for every position, and nothing else.

    Reads `config` alone; what it accepts, `forward_one` and `forward_many` may be used with. Raises `GeometryError` for
    any other layer, and for a model whose cache cannot be described.
    """
    layers = geometry_from_config(config, dtype="float32").layers  # no byte is counted, so any dtype will do
    others = [layer for layer in layers if layer.kind is not LayerKind.FULL]
    if others:
        kinds = ", ".join(sorted({layer.kind.value for layer in others}))
        raise GeometryError(
            f"{len(others)} of the model's {len(layers)} layers (the first is layer {others[0].index}) are not full "
            f"attention but {kinds}: their state is not made of a row a position, so a sequence that was parked could "
            "not be brought back; use a model of full attention only, or one PooledCache a sequence"
        )


def forward_one(model: PreTrainedModel, sequence: SequenceRows, ids: Sequence[int]) -> torch.Tensor:
    """Read `ids` behind the sequence's rows and return the logits behind the last, `[vocabulary]`. All or nothing.

    Bit-identical to a `DynamicCache` that is given the same tokens in the same parts. Works with any attention
    implementation. Mutates the arena beyond `rows`, and `rows` once the forward is done.
    Raises `CapacityError` when the arena has not that many slots, `GeometryError` for an arena of another model,
    `UsageError` for no ids or one outside the vocabulary, before anything is run.
    """
    require_layers(model, sequence.arena.layout)
    require_ids(model, ids)
    _require_room([sequence], new_rows=len(ids))
    logits = _read_one(model, sequence, ids)
    sequence.rows += len(ids)
    return logits


def forward_many(model: PreTrainedModel, sequences: Sequence[SequenceRows], ids: Sequence[int]) -> torch.Tensor:
    """Read `ids[i]` behind the rows of `sequences[i]` in one forward; return logits `[N, vocabulary]`. All or nothing.

    Every weight is read once for all sequences, and no row is copied or padded: each sequence attends over its own run.
    Equal to `forward_one` on each up to the order of summation; one sequence alone is `forward_one`. Where rotary
    frequencies depend on the longest position of a forward and the sequences disagree, they run one by one. Mutates the
    arenas beyond `rows`, and every `rows` at the end. Cost: one forward of N rows, an attention call a layer and sequence.

    Raises `PolicyError` for an attention implementation that is not ours (see `watch_queries`) or an architecture that
    does not use the attention interface, `UsageError` for a sequence named twice, and what `forward_one` raises.
    """
    count = len(sequences)
    if not count or len(ids) != count:
        raise UsageError(f"{len(ids)} ids were passed for {count} sequences; pass one id for each, at least one")
    if count == 1:
        return forward_one(model, sequences[0], ids).unsqueeze(0)
    if len({id(sequence.arena) for sequence in sequences}) < count:
        raise UsageError(
            f"of {count} sequences two are the same or share an arena, and one would overwrite the other's rows; pass "
            "each sequence once, with an arena of its own"
        )
    require_own_attention(model.config)
    if not _takes_positions(type(model).forward):
        raise PolicyError(
            f"{type(model).__name__} takes no position_ids, so sequences of different lengths cannot share a forward; "
            "run them one at a time with forward_one"
        )
    for sequence in sequences:
        require_layers(model, sequence.arena.layout)
    require_ids(model, ids)
    _require_room(sequences, new_rows=1)
    if _frequencies_agree(model.config, [sequence.rows for sequence in sequences]):
        cache = _SharedCache(sequences)
        positions = torch.tensor([[sequence.rows] for sequence in sequences], device=model.device)
        logits = run_model(model, cache, [[token] for token in ids], position_ids=positions)
    else:
        logits = torch.stack([_read_one(model, s, [token]) for s, token in zip(sequences, ids, strict=True)])
    for sequence in sequences:
        sequence.rows += 1
    return logits


class ForwardCache(Cache, abc.ABC):  # type: ignore[misc]
    """The cache of one forward: every layer writes its T new rows once, in order. Subclasses say where and what is read.

    `rows` are those before the forward, which positions are counted from, and `mask_rows` those that a mask must know
    of: 0 for a cache that attends itself (`hand_over`), which needs no mask.
    """

    def __init__(self, *, layers: int, rows: int, new_rows: int, mask_rows: int) -> None:
        # Layers only say their kind, full attention; this object answers for them.
        super().__init__(layers=[DynamicLayer()] * layers)
        self._rows = rows
        self._new_rows = new_rows
        self._mask_rows = mask_rows
        self._written_layers = 0
        self._awaiting = False

    def get_seq_length(self, layer_idx: int = 0) -> int:
        """Rows before this forward: where positions start. The same for every layer, at any time."""
        return self._rows

    def get_query_offset(self, layer_idx: int = 0) -> int:
        """Where the mask's first query stands among its keys."""
        return self._mask_rows

    def get_mask_sizes(self, query_length: int, layer_idx: int) -> tuple[int, int]:
        """`(keys that the mask spans, 0)`."""
        return self._mask_rows + query_length, 0

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, layer_idx: int, *args: Any, **kwargs: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Write one layer's rows `[B, H, T, D]`; return what its attention function is to be given."""
        self._require_attended()
        if layer_idx != self._written_layers or key_states.shape[2] != self._new_rows:
            raise GeometryError(
                f"layer {layer_idx} wrote {key_states.shape[2]} rows; expected {self._new_rows} of layer "
                f"{self._written_layers}: every layer must write once a forward, in order. Use it with its own cache"
            )
        self._written_layers += 1
        return self.append(layer_idx, key_states, value_states)

    @abc.abstractmethod
    def append(self, ordinal: int, keys: torch.Tensor, values: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Store one layer's new rows; return the keys and values to attend over, or `hand_over(...)`."""

    def attend(self, ordinal: int, query: torch.Tensor, scaling: float) -> torch.Tensor:
        """The attention of a layer that was handed over: `[B, H*G, T, D]` to `[B, T, H*G, D]`."""
        raise InternalError(
            f"layer {ordinal} was handed over by {type(self).__name__}, which attends to nothing itself"
        )

    def hand_over(self, ordinal: int, keys: torch.Tensor, values: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Make the attention function call `attend` for this layer instead of reading what it is given."""

        def attend(query: torch.Tensor, scaling: float) -> torch.Tensor:
            self._awaiting = False
            return self.attend(ordinal, query, scaling)

        marked = keys.view_as(keys)
        setattr(marked, ATTEND_ATTRIBUTE, attend)
        self._awaiting = True
        return marked, values

    def _require_attended(self) -> None:
        if self._awaiting:
            raise PolicyError(
                f"layer {self._written_layers - 1} of this model does not use Transformers' attention interface, so "
                "its sequences can neither share a forward nor be streamed; run them one at a time with forward_one"
            )

    def require_complete(self) -> None:
        """Raise unless every layer has written its rows and attended over them."""
        self._require_attended()
        if self._written_layers != len(self.layers):
            written = f"{self._written_layers} of the model's {len(self.layers)} layers"
            raise GeometryError(f"only {written} wrote rows in this forward; use this model with its own cache")


class RunCache(ForwardCache):
    """One sequence's cache for one forward: rows go behind the run, attention reads the run as one dense view."""

    def __init__(self, sequence: SequenceRows, *, new_rows: int) -> None:
        rows, arena = sequence.rows, sequence.arena
        super().__init__(layers=len(arena.layout.layer_indices), rows=rows, new_rows=new_rows, mask_rows=rows)
        self._arena = arena

    def append(self, ordinal: int, keys: torch.Tensor, values: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Write behind the run; return views of the run with the new rows, `[1, H, S, D]`."""
        self._arena.write(ordinal, self._rows, keys, values)
        end = self._rows + self._new_rows
        return self._arena.keys(ordinal).narrow(2, 0, end), self._arena.values(ordinal).narrow(2, 0, end)


class _SharedCache(ForwardCache):
    """The cache of one forward over one new token of each of N sequences."""

    def __init__(self, sequences: Sequence[SequenceRows]) -> None:
        # Every token comes with its position, so that no common length is needed.
        super().__init__(layers=len(sequences[0].arena.layout.layer_indices), rows=0, new_rows=1, mask_rows=0)
        self._runs = [(sequence.arena, sequence.rows) for sequence in sequences]

    def append(self, ordinal: int, keys: torch.Tensor, values: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        if keys.shape[0] != len(self._runs):
            raise GeometryError(f"layer {ordinal} wrote a batch of {keys.shape[0]} for {len(self._runs)} sequences")
        for index, (arena, rows) in enumerate(self._runs):
            arena.write(ordinal, rows, keys[index : index + 1], values[index : index + 1])
        return self.hand_over(ordinal, keys, values)

    def attend(self, ordinal: int, query: torch.Tensor, scaling: float) -> torch.Tensor:
        sequences, query_heads, _, head_dim = query.shape
        kv_heads = self._runs[0][0].keys(ordinal).shape[1]
        # A group's query heads are the rows of one query, so that no key is repeated and each is read once a group.
        grouped = query.reshape(sequences, kv_heads, query_heads // kv_heads, head_dim).chunk(sequences)
        mixed = [
            scaled_dot_product_attention(
                own_query,
                arena.keys(ordinal).narrow(2, 0, rows + 1),
                arena.values(ordinal).narrow(2, 0, rows + 1),
                scale=scaling,
            )
            for (arena, rows), own_query in zip(self._runs, grouped, strict=True)
        ]
        return torch.cat(mixed).reshape(sequences, 1, query_heads, -1)


def _read_one(model: PreTrainedModel, sequence: SequenceRows, ids: Sequence[int]) -> torch.Tensor:
    return run_model(model, RunCache(sequence, new_rows=len(ids)), [list(ids)])[0]


def run_model(model: PreTrainedModel, cache: ForwardCache, ids: list[list[int]], **options: Any) -> torch.Tensor:
    """One forward over `ids` (`[N, T]`); the logits behind each last id, `[N, vocabulary]`. Commits nothing."""
    with torch.inference_mode():
        inputs = torch.tensor(ids, device=model.device)
        output = model(input_ids=inputs, past_key_values=cache, use_cache=True, logits_to_keep=1, **options)
        cache.require_complete()
        logits: torch.Tensor = output.logits[:, -1]
    return logits


def require_layers(model: PreTrainedModel, layout: ArenaLayout) -> None:
    """Raise `GeometryError` unless the arena has planes for exactly the model's layers."""
    layers = model.config.get_text_config(decoder=True).num_hidden_layers
    if layout.layer_indices != tuple(range(layers)):
        raise GeometryError(
            f"the model has {layers} layers, and the arena planes for {len(layout.layer_indices)} of full attention; "
            "check the model with require_poolable_runs(model.config) and make the arena from that configuration"
        )


def require_ids(model: PreTrainedModel, ids: Sequence[int]) -> None:
    """Raise `UsageError` for no ids, or one that is outside the vocabulary."""
    vocabulary = model.get_input_embeddings().num_embeddings
    if not ids:
        raise UsageError("there is nothing to read: the list of ids is empty")
    foreign = next((token for token in ids if not 0 <= token < vocabulary), None)
    if foreign is not None:
        raise UsageError(f"{foreign} is no token id of this model, whose ids go from 0 to {vocabulary - 1}")


def _require_room(sequences: Sequence[SequenceRows], *, new_rows: int) -> None:
    for index, sequence in enumerate(sequences):
        capacity_rows = sequence.arena.capacity_rows
        if sequence.rows + new_rows > capacity_rows:
            raise CapacityError(
                f"sequence {index} of this forward has {sequence.rows} rows and is to get {new_rows} more, but its arena "
                f"has slots for {capacity_rows}; give it a larger arena, or end it"
            )


@functools.cache
def _takes_positions(forward: Callable[..., Any]) -> bool:
    return "position_ids" in inspect.signature(forward).parameters


def _frequencies_agree(config: Any, rows: Sequence[int]) -> bool:
    """Whether one forward gives each of these sequences the rotary frequencies that it would get alone."""
    # "longrope" and "dynamic" choose them by the longest position of the batch (`dynamic_rope_update`).
    decoder = config.get_text_config(decoder=True)
    rope = getattr(decoder, "rope_parameters", None) or {}
    # One set for all layers, or one for each type of layer.
    for part in [part for part in rope.values() if isinstance(part, dict)] or [rope]:
        kind = part.get("rope_type", "default")
        if kind == "longrope" or "dynamic" in kind:
            limit = part.get("original_max_position_embeddings") or trained_rows(decoder)
            if max(rows) >= limit and (kind != "longrope" or min(rows) < limit):
                return False
    return True
