"""`PooledCache`: a Transformers cache whose full-attention layers live in a fixed pool of rows.

How a forward runs. Transformers asks each layer for its mask size, then calls `update` once a layer. The first pooled
layer's `update` applies the plan that makes room (whose outcome the mask size has already announced), every layer
writes its rows behind the run and returns the dense view, and the last one commits: positions advance and blocks that
became full are written through to the host. A forward that dies in between leaves no trace.
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from transformers.cache_utils import DYNAMIC_LAYER_TYPE_MAPPING, Cache, get_layer_types_and_kwargs

from tenure.errors import CapacityError, InternalError, PolicyError, PoolSizeError, UsageError
from tenure.kv.geometry import CacheGeometry, geometry_from_config, trained_rows
from tenure.kv.residency import Plan, ResidencyView
from tenure.policy import Policy, RecentQueries, Reselector, ReselectStatistics, Room, as_policy
from tenure.pool import (
    BLOCK_SIZES,
    SINK_BLOCKS,
    TAIL_BLOCKS,
    HostStatistics,
    Listener,
    Pager,
    PagerStatistics,
    Pool,
    PoolSizeWarning,
    PoolSizing,
    Transfer,
    free_device_bytes,
    layout_for,
    size_pool,
)
from tenure.runtime.hf.attention import TAP_ATTRIBUTE, ResidentOffset, watch_queries
from tenure.runtime.hf.layer import PooledLayer
from tenure.runtime.hf.native import (
    NativeState,
    crop_native,
    native_layers,
    native_states,
    put_back,
    require_croppable,
)
from tenure.runtime.hf.scoring import PagerKeys, QueryWindow


@dataclass(frozen=True, slots=True)
class CacheStatistics:
    """Everything that a status line needs. `device_bytes` counts the pool; native rings of other layers come on top."""

    pager: PagerStatistics
    host: HostStatistics
    reselect: ReselectStatistics
    device_bytes: int


class PooledCache(Cache):  # type: ignore[misc]
    """Pass it as `past_key_values` to a stock model's forward or `generate()`; use one a sequence.

    Guarantees: the pooled layers never hold more than the pool's rows on the device, whatever the context; with room
    for everything the output is bit-identical to `DynamicCache`; a block that left the device returns with the same
    bytes; a failed call changes nothing.

    `config` is the model's own configuration object. `pool` is rows, a share of `context_rows` such as "25%" (default
    context: the model's trained limit), or "auto". `block_size` is rows a block, chosen from the pool's size when None
    (64 from 1,024 rows on); rows that had to be rounded are announced (`PoolSizeWarning`). `policy` names a scorer or is a
    `Policy`. `host_bytes` bounds the host tier. `device` and `dtype` are what "auto" and the check against free memory go
    by (default: CPU, and the dtype of `config`). Layers that are not full attention keep the framework's own ring or state.
    With a `pager`, which is empty and whose arena somebody else lends, it takes no memory of its own, and the options about
    pool, blocks, host and device are the pager's.

    Raises `GeometryError` for a model that cannot be pooled, `PoolSizeError` for a bad pool, `PolicyError` for an
    unknown policy, or in the first forward for an architecture that does not show its queries. The device memory is taken
    by the first forward, which knows dtype and device. A batch, a padded prompt whose rows no longer all fit, or a forward
    of more rows than the pool can take is refused, and nothing has changed then, layers beside the pool included.
    """

    def __init__(
        self,
        config: Any,
        *,
        pool: int | str = "auto",
        policy: Policy | str = "attention_mass",
        block_size: int | None = None,
        context_rows: int | None = None,
        host_bytes: int | None = None,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        sink_blocks: int = SINK_BLOCKS,
        tail_blocks: int = TAIL_BLOCKS,
        listener: Listener | None = None,
        transfer: Transfer | None = None,
        poison_dead_rows: bool = False,
        pager: Pager | None = None,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        if pager is not None:
            pool, block_size = pager.arena.capacity_rows, pager.block_size
            sink_blocks, tail_blocks = pager.sink_blocks, pager.tail_blocks
            device, dtype = pager.arena.device, pager.arena.dtype
        decoder = config.get_text_config(decoder=True)
        if dtype is None:
            dtype = getattr(decoder, "dtype", None) or torch.float32
        if pool == "auto" and device is None and torch.cuda.is_available():
            raise PoolSizeError(
                "pool 'auto' measures the free memory of the model's device, and this machine has more than one kind: "
                "pass device=model.device, or name a number of rows"
            )
        self.geometry: CacheGeometry = geometry_from_config(config, dtype=_dtype_name(dtype))
        layout = layout_for(self.geometry, block_size=BLOCK_SIZES[0] if block_size is None else block_size)
        self.sizing: PoolSizing = size_pool(
            pool,
            block_size=block_size,
            row_bytes=layout.bytes_per_row(dtype),
            context_rows=trained_rows(decoder) if context_rows is None else context_rows,
            free_bytes=free_device_bytes(device or "cpu") if pager is None else None,
            sink_blocks=sink_blocks,
            tail_blocks=tail_blocks,
        )
        if self.sizing.adjustment is not None:
            warnings.warn(self.sizing.adjustment, PoolSizeWarning, stacklevel=2)
        self.block_size = self.sizing.block_size
        self.policy = as_policy(policy)
        self.reselector = Reselector(self.policy, clock=clock)
        self._host_bytes = host_bytes
        self._protected_blocks = sink_blocks + tail_blocks
        self._open_options: dict[str, Any] = {
            "sink_blocks": sink_blocks,
            "tail_blocks": tail_blocks,
            "listener": listener,
            "transfer": transfer,
            "poison_dead_rows": poison_dead_rows,
        }
        self._config = config
        self._clock = clock
        self._pool: Pool | None = None
        self._pager: Pager | None = pager
        self.queries = QueryWindow(layers=len(layout.layer_indices), rows=self.reselector.scorer.query_rows)
        self._planned: tuple[int, int, Plan] | None = None
        self._forward = _Forward()
        self._natives: list[NativeState] = []
        self._eager_forwards = 0
        self._last_ordinal = len(layout.layer_indices) - 1
        # Also where no scorer needs queries: the mask functions that come with the tap refuse what would be wrong here.
        watch_queries(config, required=bool(self.queries.rows))
        super().__init__(layers=self._build_layers(decoder, layout.layer_indices))

    def _build_layers(self, decoder: Any, pooled: Sequence[int]) -> list[Any]:
        types, options = get_layer_types_and_kwargs(decoder)
        ordinals = {layer: ordinal for ordinal, layer in enumerate(pooled)}
        return [
            PooledLayer(self, ordinals[index])
            if index in ordinals
            else DYNAMIC_LAYER_TYPE_MAPPING[kind](**layer_options)
            for index, (kind, layer_options) in enumerate(zip(types, options, strict=True))
        ]

    @property
    def logical_rows(self) -> int:
        """Rows of the sequence, wherever they are."""
        return self._pager.logical_rows if self._pager is not None else 0

    @property
    def max_batch_size(self) -> int:
        """1: a pool holds one sequence's run."""
        return 1

    def mask_sizes(self, query_rows: int) -> tuple[int, int]:
        """See `PooledLayer.get_mask_sizes`."""
        if self._pager is None:
            return query_rows, 0
        resident_rows = self._pager.resident_rows_after(self._plan_room(query_rows))
        away_rows = self._pager.logical_rows - resident_rows
        return resident_rows + query_rows, ResidentOffset(away_rows) if away_rows else 0

    def get_mask_sizes(self, query_length: int, layer_idx: int) -> tuple[int, int]:
        """What Transformers asks before the first layer writes.

        A forward that died in the model's own code is taken back here. Raises `UsageError` when this one was already
        told a wrong length; run it again then.
        """
        self._settle_natives()
        sizes: tuple[int, int] = super().get_mask_sizes(query_length, layer_idx)
        return sizes

    def _settle_natives(self) -> None:
        """Remember what the layers beside the pool hold, or bring them back to it after a forward that died."""
        ahead = [index for index, layer in native_layers(self) if layer.get_seq_length() != self.logical_rows]
        if ahead:
            put_back(self, self._natives)
        self._natives = native_states(self)
        if ahead and ahead[0] == 0:
            # Layer 0 is asked where the sequence ends before anything else, and it has just answered wrongly.
            raise UsageError(
                f"the forward before this one died half way. Its rows have been taken back, and the sequence is at "
                f"{self.logical_rows} rows again: run this forward again"
            )

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, layer_idx: int, *args: Any, **kwargs: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Write one layer's rows, pooled or native. Raises `UsageError` for more than one sequence, before any layer."""
        if key_states.shape[0] != 1:
            raise UsageError(
                f"a batch of {key_states.shape[0]} sequences was run with one PooledCache, which holds one. Run them one "
                "at a time, each with a PooledCache of its own"
            )
        both: tuple[torch.Tensor, torch.Tensor] = super().update(key_states, value_states, layer_idx, *args, **kwargs)
        return both

    def append_layer(self, ordinal: int, keys: torch.Tensor, values: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Write one layer's new rows `[1, H, T, D]`; return all its resident rows `[1, H, S, D]`, new ones last."""
        try:
            return self._append_layer(ordinal, keys, values)
        except BaseException:
            put_back(self, self._natives)
            raise

    def _append_layer(
        self, ordinal: int, keys: torch.Tensor, values: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        if ordinal == 0:
            self.open(dtype=keys.dtype, device=keys.device)
            self.begin_forward(keys.shape[2])
        forward = self._forward
        if ordinal != forward.next_ordinal or keys.shape[2] != forward.rows:
            raise InternalError(
                f"layer {ordinal} wrote {keys.shape[2]} rows; expected layer {forward.next_ordinal} with "
                f"{forward.rows}. Every pooled layer must be updated once a forward, in order"
            )
        arena = self.pager.arena
        arena.write(ordinal, forward.first_slot, keys, values)
        end = forward.first_slot + forward.rows
        all_keys = arena.keys(ordinal).narrow(2, 0, end)
        if self.queries.rows:
            setattr(all_keys, TAP_ATTRIBUTE, self.queries.taps[ordinal])
        forward.next_ordinal = ordinal + 1
        if ordinal == self._last_ordinal:
            self._require_tapped(ordinal)
            self.commit_forward()
            self._eager_forwards += 1
        return all_keys, arena.values(ordinal).narrow(2, 0, end)

    def _require_tapped(self, earlier_layers: int) -> None:
        """Refuse a forward when earlier layers, or a forward before it, ran and no query came by: none ever would."""
        if self.queries.rows and not self.queries.connected and (earlier_layers or self._eager_forwards):
            raise PolicyError(
                f"policy {self.policy.scorer} needs the model's queries, and this model's attention does not show them. "
                "Either the cache was made from another configuration object (use PooledCache(model.config, ...)), or "
                "the architecture does not use Transformers' attention interface; then use policy='recency'"
            )

    @property
    def pager(self) -> Pager:
        """The sequence's pager. Raises `UsageError` before the first forward."""
        if self._pager is None:
            raise UsageError("the cache is empty: no forward has run with it yet")
        return self._pager

    @property
    def max_append_rows(self) -> int:
        """Rows that one forward may always append: a longer prompt must be read in parts of at most this many."""
        return self.sizing.capacity_rows - (self._protected_blocks + 1) * self.block_size

    def open(self, *, dtype: torch.dtype, device: torch.device) -> Pager:
        """Take the device memory now instead of at the first forward. Idempotent."""
        if self._pager is None:
            blocks = self.sizing.capacity_rows // self.block_size
            pool = Pool(
                self.geometry,
                usable_blocks=blocks,
                dtype=dtype,
                device=device,
                block_size=self.block_size,
                host_bytes=self._host_bytes,
            )
            self._pager = pool.open(capacity_blocks=blocks, **self._open_options)
            self._pool = pool
        return self._pager

    def _plan_room(self, rows: int) -> Plan:
        """The plan for the next append, computed once for the mask question and for the append itself."""
        pager = self.pager
        if self._planned is None or self._planned[:2] != (pager.epoch, rows):
            plan = pager.plan_room(rows, order=self.reselector.victim_order)
            self._planned = (pager.epoch, rows, plan)
        return self._planned[2]

    def begin_forward(self, rows: int) -> int:
        """Make room for `rows` rows, reselecting first when it is due, and return the slot of the first of them.

        `append_layer` calls it for the first layer of a forward; a compiled decode calls it itself.
        """
        pager = self.pager
        if self._forward.next_ordinal:
            self.queries.clear()  # a forward died half way: some layers have seen its queries, some have not
        plan = self._plan_room(rows)
        # Short forwards are decode steps too: assisted generation verifies several tokens at once.
        if rows < self.block_size and self.reselector.due and not plan.recall and self.can_score:
            if pager.host_only_blocks:
                plan = self._plan_reselect(pager, room=Room.KEEP, expected=plan)
            else:
                self.reselector.skip()
        pager.apply(plan)
        self.reselector.note_recalled(len(plan.recall))
        first_slot = pager.begin_append(rows)
        self._forward = _Forward(rows=rows, first_slot=first_slot, next_ordinal=0, started_s=self._clock())
        return first_slot

    def _plan_reselect(self, pager: Pager, *, room: Room, expected: Plan) -> Plan:
        view = pager.view(appending_rows=expected.appending_rows or 1)
        plan = self.reselector.plan(view, PagerKeys(pager), self._recent_queries(), room=room)
        # The mask was built for the number of rows that the room plan leaves; a plan for another number must wait.
        if room is Room.KEEP and pager.resident_rows_after(plan) != pager.resident_rows_after(expected):
            return expected
        return plan

    def commit_forward(self) -> None:
        """Make the rows of the forward under way part of the sequence, once every layer has written them."""
        forward = self._forward
        self.pager.commit_append()
        elapsed_s = self._clock() - forward.started_s if forward.rows < self.block_size else 0.0
        self.reselector.note_append(forward.rows, decode_s=elapsed_s)
        forward.next_ordinal = 0

    def reselect(self) -> Plan:
        """Score all blocks with the latest queries and bring the best onto the device, now. Returns what was moved.

        Call it when something new has been read that decides what matters: a user's turn, a tool's result. Free rows
        are filled. Does nothing on an empty cache, when nothing is away, or when no forward has run that the policy could
        go by: since it was chosen, or since a crop took back all that was seen.
        """
        if self._pager is None:
            return Plan(epoch=0)
        pager = self._pager
        if not pager.host_only_blocks or not self.can_score:
            return Plan(epoch=pager.epoch)
        plan = self._plan_reselect(pager, room=Room.FILL, expected=Plan(epoch=pager.epoch))
        pager.apply(plan)
        self.reselector.note_recalled(len(plan.recall))
        return plan

    def use_policy(self, policy: Policy | str) -> None:
        """Change the policy from now on. What the old one remembered is dropped; nothing moves yet.

        A policy that needs queries sees them from the next forward on. Raises `PolicyError` for an unknown one.
        """
        chosen = as_policy(policy)
        reselector = Reselector(chosen, clock=self._clock)
        if reselector.scorer.query_rows:
            watch_queries(self._config, required=True)
            self._eager_forwards = 0
        self.queries.rows = max(self.queries.rows, reselector.scorer.query_rows)
        self.policy, self.reselector = chosen, reselector
        self._planned = None

    @property
    def can_score(self) -> bool:
        """Whether the policy has what it needs to score now: false until queries were seen, and again after a crop."""
        wanted = self.reselector.scorer.query_rows
        return not wanted or self.queries.recent(wanted) is not None

    def _recent_queries(self) -> RecentQueries:
        wanted = self.reselector.scorer.query_rows
        if not wanted:
            return RecentQueries(by_layer=(), scaling=())
        recent = self.queries.recent(wanted)
        if recent is None:
            raise InternalError(f"policy {self.policy.scorer} was asked to score before it had seen a query")
        return recent

    def crop(self, tokens_to_remove: int) -> None:
        """Remove the last `-tokens_to_remove` tokens (a negative number, as in Transformers). All or nothing.

        Raises `UsageError` for a positive number, more than there are, or when another layer cannot go back.
        """
        if tokens_to_remove > 0:
            raise UsageError(
                f"crop({tokens_to_remove}): pass minus the number of tokens to remove: crop(-{tokens_to_remove})"
            )
        removed = -tokens_to_remove
        if removed > self.logical_rows:
            raise CapacityError(f"crop(-{removed}): the sequence has {self.logical_rows} rows")
        require_croppable(self, removed)
        if removed:
            self._cut(self.logical_rows - removed)
            self.queries.drop_last(removed)
        crop_native(self, removed)

    def crop_pooled(self, logical_rows: int) -> None:
        """Cut the pooled layers, and only those, to `logical_rows`. All or nothing.

        For a caller that answers for the native layers itself, such as one that takes back a forward that died half
        way: pooled layers are committed together, native ones one by one. Queries seen so far are forgotten.
        """
        self._cut(logical_rows)
        self.queries.clear()

    def _cut(self, logical_rows: int) -> None:
        if self._pager is not None:
            self._pager.crop(logical_rows)
            self.reselector.forget(logical_rows // self.block_size)

    def reset(self) -> None:
        """Forget the sequence: rows, host blocks, scores and queries. The device memory is kept."""
        if self._pager is not None:
            self._pager.reset()
        self.reselector = Reselector(self.policy, clock=self._clock)
        self.queries.clear()
        self._planned = None
        self._forward = _Forward()
        for layer in self.layers:
            if not isinstance(layer, PooledLayer):
                layer.reset()

    def reorder_cache(self, beam_idx: torch.LongTensor) -> None:
        """Refused beyond one sequence: beams need a cache each."""
        self._refuse_batch("beam search", len(beam_idx))

    def batch_repeat_interleave(self, repeats: int) -> None:
        """Refused beyond one sequence."""
        self._refuse_batch("num_return_sequences or beams", repeats)

    def batch_select_indices(self, indices: torch.Tensor) -> None:
        """Refused beyond one sequence."""
        self._refuse_batch("selecting several sequences", len(indices))

    def _refuse_batch(self, what: str, sequences: int) -> None:
        if sequences != 1:
            raise UsageError(
                f"{what} asked for {sequences} sequences; a PooledCache holds one. Run them one at a time, each with "
                "a PooledCache of its own"
            )

    def view(self) -> ResidencyView:
        """Where every block is. Raises `UsageError` before the first forward."""
        return self.pager.view()

    def statistics(self) -> CacheStatistics:
        """A snapshot of rows, bytes and the cost of choosing. Raises `UsageError` before the first forward."""
        pager = self.pager
        return CacheStatistics(
            pager=pager.statistics(),
            host=pager.host.statistics(),
            reselect=self.reselector.statistics(),
            device_bytes=pager.arena.device_bytes,
        )

    def check_invariants(self) -> None:
        """Raise `InternalError` unless every residency invariant holds."""
        if self._pool is not None:
            self._pool.check_invariants()
        elif self._pager is not None:
            self._pager.check_invariants()


@dataclass(slots=True)
class _Forward:
    """The forward under way."""

    rows: int = 0
    first_slot: int = 0
    next_ordinal: int = 0
    started_s: float = 0.0


def _dtype_name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
