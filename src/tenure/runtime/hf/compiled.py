"""Compiled decode: one token a call through `torch.compile`, never recompiled as the context grows.

A compiled step needs fixed shapes, so it attends over the whole arena with a mask on the unused tail, and everything that
changes from step to step (token, position, slot, mask) is a tensor that is written in place. The pager runs outside of
the compiled region, exactly as it does for an eager forward.
"""

from __future__ import annotations

from typing import Any

import torch
from transformers.cache_utils import Cache, CacheLayerMixin

from tenure.errors import GeometryError
from tenure.runtime.hf.attention import GROUPED
from tenure.runtime.hf.cache import PooledCache
from tenure.runtime.hf.layer import PooledLayer


class _FixedLayer(CacheLayerMixin):  # type: ignore[misc]
    """Writes one row at a slot given by a tensor and returns the whole arena: every shape is a constant."""

    is_compileable = True

    def __init__(self, keys: torch.Tensor, values: torch.Tensor, slot: torch.Tensor) -> None:
        super().__init__()
        self.keys, self.values, self.slot = keys, values, slot
        self.is_initialized = True

    def lazy_initialization(self, key_states: torch.Tensor, value_states: torch.Tensor) -> None:
        """Nothing to do."""

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *args: Any, **kwargs: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        self.keys.index_copy_(2, self.slot, key_states)
        self.values.index_copy_(2, self.slot, value_states)
        return self.keys, self.values

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        return self.keys.shape[2], 0

    def get_seq_length(self) -> int:
        """Not asked: positions are passed explicitly."""
        return 0

    def get_max_length(self) -> int:
        return int(self.keys.shape[2])


class CompiledDecoder:
    """Decodes one token a call on a `PooledCache`, compiled.

    Guarantees: the same rows are resident and the same events happen as with eager decoding of the same tokens; logits
    agree up to the order of summation; the compiled code is used for every context the pool can serve. Eager forwards
    (reading a prompt) may be mixed in freely. The first call compiles (tens of seconds).

    Raises `GeometryError` for a model with layers that are not full attention: their native rings change shape.
    `step` runs under `torch.no_grad()` and returns logits `[1, 1, vocabulary]`, valid until the next call.
    """

    def __init__(self, model: Any, cache: PooledCache, *, attention: str = GROUPED, **compile_options: Any) -> None:
        others = [index for index, layer in enumerate(cache.layers) if not isinstance(layer, PooledLayer)]
        if others:
            raise GeometryError(
                f"compiled decode needs every layer to be full attention; layer(s) {others} of this model are not. "
                "Decode eagerly."
            )
        self._model, self._cache, self._attention = model, cache, attention
        device = model.device
        pager = cache.open(dtype=model.dtype, device=device)
        self._slot = torch.zeros(1, dtype=torch.long, device=device)
        self._token = torch.zeros((1, 1), dtype=torch.long, device=device)
        self._position = torch.zeros((1, 1), dtype=torch.long, device=device)
        self._slots = torch.arange(pager.arena.capacity_rows, device=device).view(1, 1, 1, -1)
        self._mask = torch.zeros_like(self._slots, dtype=torch.bool)
        layers = range(len(cache.layers))
        self._fixed = Cache(
            layers=[_FixedLayer(pager.arena.keys(o), pager.arena.values(o), self._slot) for o in layers]
        )
        self._rings = self._make_rings()
        self._ring_slot = torch.zeros(1, dtype=torch.long, device=device)
        self._ring_rows = 0
        cache.queries.keep_elsewhere(fetch=self._hand_over_queries, forget=self._forget_queries)
        self._compiled = torch.compile(self._forward, dynamic=False, **compile_options)

    def _make_rings(self) -> tuple[torch.Tensor, ...]:
        rows = self._cache.queries.rows
        if not rows:
            return ()
        model = self._model
        config = model.config.get_text_config(decoder=True)
        head_dim = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
        shape = (config.num_attention_heads, rows, head_dim)
        return tuple(torch.zeros(shape, dtype=model.dtype, device=model.device) for _ in self._cache.layers)

    def _forward(self, token: torch.Tensor, position: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self._model(
            token,
            position_ids=position,
            attention_mask=mask,
            past_key_values=self._fixed,
            use_cache=True,
            query_rings=self._rings,
            query_ring_slot=self._ring_slot,
        ).logits
        return logits

    def step(self, token: int) -> torch.Tensor:
        """Append one token and return its logits. Room is made, blocks are sealed and reselected as in any forward."""
        cache = self._cache
        if cache.queries.rows != (self._rings[0].shape[1] if self._rings else 0):
            # The policy was changed for one that reads more queries; what the old rings held is handed over first.
            self._hand_over_queries()
            self._rings = self._make_rings()
        slot = cache.begin_forward(1)
        self._slot.fill_(slot)
        self._token.fill_(token)
        self._position.fill_(cache.logical_rows)
        torch.le(self._slots, slot, out=self._mask)
        config = self._model.config
        before = config._attn_implementation  # noqa: SLF001 - where Transformers keeps it
        config._attn_implementation = self._attention  # noqa: SLF001
        try:
            with torch.no_grad():
                logits = self._compiled(self._token, self._position, self._mask)
        finally:
            config._attn_implementation = before  # noqa: SLF001
        cache.commit_forward()
        if self._rings:
            self._ring_rows += 1
            self._ring_slot.fill_(self._ring_rows % self._rings[0].shape[1])
        return logits

    def _hand_over_queries(self) -> None:
        """Put the ring's queries, oldest first, behind those that eager forwards left in the cache's window."""
        if not self._rings or not self._ring_rows:
            return
        size = self._rings[0].shape[1]
        rows = min(self._ring_rows, size)
        order = [(self._ring_rows - rows + row) % size for row in range(rows)]
        self._forget_queries()
        for layer, ring in enumerate(self._rings):
            self._cache.queries.extend(layer, ring[:, order])

    def _forget_queries(self) -> None:
        self._ring_rows = 0
        self._ring_slot.fill_(0)
