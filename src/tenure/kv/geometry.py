"""The shape of a KV cache: which layer keeps what, and what a row, a block and a context cost in bytes.

The footprint law. With L layers that store keys and values, B sequences, S rows a sequence, H key-value heads and
D elements a head, a cache takes::

    bytes = L · B · S · H · (D_key + D_value) · bytes_per_element          so O(L · B · S · H · D)

It is linear in S for a layer of full attention; for a sliding or chunked layer S is capped by its window. Models mix
both kinds and may give each layer its own H and D, so everything here is summed layer by layer.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from types import MappingProxyType
from typing import Any

from tenure.errors import GeometryError, UsageError

#: Bytes of one element, by the short name of the dtype (the name that both torch and Transformers use).
ELEMENT_BYTES: Mapping[str, int] = MappingProxyType(
    {
        "float64": 8,
        "float32": 4,
        "float16": 2,
        "bfloat16": 2,
        "float8_e4m3fn": 1,
        "float8_e5m2": 1,
        "int8": 1,
    }
)


class LayerKind(Enum):
    """What a layer keeps between two decode steps."""

    FULL = "full"
    """A row for every position of the sequence: the only kind that grows without bound, and the only kind we pool."""
    SLIDING = "sliding"
    """The last `window_rows` positions."""
    CHUNKED = "chunked"
    """The positions of the current chunk of `window_rows`; caches keep them in the same ring as a sliding layer."""
    RECURRENT = "recurrent"
    """A state of fixed size (Mamba, linear attention, convolution): no rows, never paged."""
    SHARED = "shared"
    """Nothing of its own: it reads the rows of an earlier layer."""
    NONE = "none"
    """Nothing: the layer has no attention."""


_STORING = frozenset({LayerKind.FULL, LayerKind.SLIDING, LayerKind.CHUNKED})
_WINDOWED = frozenset({LayerKind.SLIDING, LayerKind.CHUNKED})


@dataclass(frozen=True, slots=True)
class LayerGeometry:
    """The cache of one layer. A layer that stores rows has at least one head and one element; the others have zeros.

    `kv_heads` counts key-value heads (not query heads); `key_dim` and `value_dim` are elements a head; `window_rows`
    is the number of positions that a sliding or chunked layer can see, the newest included, `None` for other kinds.
    Raises `GeometryError` for numbers that do not fit the kind.
    """

    index: int
    kind: LayerKind
    kv_heads: int = 0
    key_dim: int = 0
    value_dim: int = 0
    window_rows: int | None = None

    def __post_init__(self) -> None:
        shape = {"kv_heads": self.kv_heads, "key_dim": self.key_dim, "value_dim": self.value_dim}
        if self.index < 0:
            raise GeometryError(f"A layer's index must be 0 or more, got {self.index}.")
        for field, number in shape.items():
            if self.stores_rows and number < 1:
                raise GeometryError(
                    f"Layer {self.index} ({self.kind.value}) stores rows, so {field} must be at least 1; got {number}."
                )
            if not self.stores_rows and number != 0:
                raise GeometryError(
                    f"Layer {self.index} ({self.kind.value}) stores no rows, so {field} must be 0; got {number}."
                )
        if (self.kind in _WINDOWED) != (self.window_rows is not None):
            raise GeometryError(
                f"Layer {self.index} ({self.kind.value}): window_rows is {self.window_rows}; sliding and chunked "
                "layers need one, no other layer may have one."
            )
        if self.window_rows is not None and self.window_rows < 1:
            raise GeometryError(f"Layer {self.index}: window_rows must be at least 1, got {self.window_rows}.")

    @property
    def stores_rows(self) -> bool:
        """Whether the layer keeps keys and values of its own."""
        return self.kind in _STORING

    @property
    def row_elements(self) -> int:
        """Elements of one row of this layer, keys and values of all heads: H · (D_key + D_value)."""
        return self.kv_heads * (self.key_dim + self.value_dim)

    def visible_from(self, query_position: int) -> int:
        """The first position that a query at `query_position` may attend to: 0, the window's start, or the chunk's."""
        if self.window_rows is None:
            return 0
        if self.kind is LayerKind.CHUNKED:
            return query_position // self.window_rows * self.window_rows
        return max(0, query_position - self.window_rows + 1)

    def stored_rows(self, logical_rows: int) -> int:
        """Rows that the layer keeps for a sequence of `logical_rows` positions: all, the window at most, or none."""
        if not self.stores_rows:
            return 0
        return logical_rows if self.window_rows is None else min(logical_rows, self.window_rows)


@dataclass(frozen=True, slots=True)
class CacheGeometry:
    """The cache of a whole model, layer by layer; every byte count that Tenure states is computed here.

    `layers[i].index == i`. `dtype` is a short name such as ``"bfloat16"``; `element_bytes` is what one element of it
    takes. Raises `GeometryError` if there are no layers or they are not numbered in order.
    """

    layers: tuple[LayerGeometry, ...]
    dtype: str
    element_bytes: int

    def __post_init__(self) -> None:
        if not self.layers:
            raise GeometryError("A cache needs at least one layer, got none.")
        for place, layer in enumerate(self.layers):
            if layer.index != place:
                raise GeometryError(f"Layer {layer.index} stands at place {place}; layers must be numbered in order.")
        if self.element_bytes < 1:
            raise GeometryError(f"An element takes at least one byte, got {self.element_bytes} for {self.dtype}.")

    @property
    def pooled_layers(self) -> tuple[LayerGeometry, ...]:
        """The layers of full attention: those whose rows a pool can govern."""
        return tuple(layer for layer in self.layers if layer.kind is LayerKind.FULL)

    @property
    def windowed_layers(self) -> tuple[LayerGeometry, ...]:
        """The sliding and chunked layers, which keep to their own ring."""
        return tuple(layer for layer in self.layers if layer.window_rows is not None)

    @property
    def pooled_row_bytes(self) -> int:
        """Bytes of one row: one position's keys and values across all pooled layers."""
        return self.element_bytes * sum(layer.row_elements for layer in self.pooled_layers)

    def pooled_block_bytes(self, block_size: int) -> int:
        """Bytes of one block of `block_size` rows across all pooled layers."""
        return _at_least("block_size", block_size, 1) * self.pooled_row_bytes

    def pooled_context_bytes(self, logical_rows: int, *, sequences: int = 1) -> int:
        """Bytes that the pooled layers would take if every row of every sequence stayed resident."""
        rows = _at_least("logical_rows", logical_rows, 0) * _at_least("sequences", sequences, 0)
        return rows * self.pooled_row_bytes

    def context_bytes(self, logical_rows: int, *, sequences: int = 1) -> int:
        """Bytes of all layers for `sequences` sequences of `logical_rows` positions, windows capped. O(layers).

        Recurrent state is not counted: it does not grow with the context and is not made of rows.
        """
        rows = _at_least("logical_rows", logical_rows, 0)
        elements = sum(layer.stored_rows(rows) * layer.row_elements for layer in self.layers)
        return _at_least("sequences", sequences, 0) * elements * self.element_bytes

    def describe(self) -> str:
        """Two lines for a person: the layers by kind and shape, and what a row, a block and a long context cost."""
        groups = ", ".join(_describe_group(group) for group in _runs_of_same_shape(self.layers))
        row = self.pooled_row_bytes
        return (
            f"{len(self.layers)} layers, {self.dtype} ({self.element_bytes} bytes an element): {groups}\n"
            f"pooled: {len(self.pooled_layers)} layers, {format_bytes(row)} a row, "
            f"{format_bytes(64 * row)} a block of 64, {format_bytes(32768 * row)} at 32,768 rows"
        )


def format_bytes(byte_count: int) -> str:
    """The count in the largest binary unit that leaves at least 1, to four significant digits: ``22.5 KiB``."""
    amount = float(byte_count)
    for unit in ("bytes", "KiB", "MiB", "GiB"):
        if amount < 1024 or unit == "GiB":
            break
        amount /= 1024
    return f"{byte_count} bytes" if unit == "bytes" else f"{amount:,.4g} {unit}"


def geometry_from_config(config: Any, *, dtype: str) -> CacheGeometry:
    """The geometry of the cache that a model with this Transformers configuration fills.

    `config` is read by its attributes alone (neither torch nor transformers is imported): the text decoder's part
    where `get_text_config` gives one; `layer_types`, or else `sliding_window` and `attention_chunk_size`, for the kind
    of each layer; `num_key_value_heads`, `head_dim` and `v_head_dim` for its shape; `per_layer_config` where layers
    differ; `kv_sharing_modes` for layers that read another layer's rows.

    Raises `GeometryError`, with the layer and its type named, for what cannot be described: latent (MLA) caches,
    indexed or compressed attention, layers that are attention and recurrence at once, encoder-decoder models;
    `UsageError` for an unknown dtype.
    """
    if dtype not in ELEMENT_BYTES:
        raise UsageError(f"Unknown dtype {dtype!r} for a cache; expected one of {', '.join(ELEMENT_BYTES)}.")
    decoder = _text_decoder(config)
    count = _required_int(decoder, "num_hidden_layers", _model_name(decoder))
    layer_configs = _layer_configs(decoder, count)
    types = _layer_types(decoder, layer_configs)
    layers = tuple(_layer(index, types[index], layer_configs[index]) for index in range(count))
    return CacheGeometry(layers=layers, dtype=dtype, element_bytes=ELEMENT_BYTES[dtype])


#: What a layer type of Transformers means for the cache. A type that is not listed is refused, never guessed.
KIND_OF_LAYER_TYPE: Mapping[str, LayerKind] = MappingProxyType(
    {
        "full_attention": LayerKind.FULL,
        "attention": LayerKind.FULL,
        "sliding_attention": LayerKind.SLIDING,
        "chunked_attention": LayerKind.CHUNKED,
        "linear_attention": LayerKind.RECURRENT,
        "mamba": LayerKind.RECURRENT,
        "conv": LayerKind.RECURRENT,
        "moe": LayerKind.NONE,
        "mlp": LayerKind.NONE,
    }
)

#: Model types whose configuration does not tell the shape of their cache: what it implies and what the model does
#: differ. Found by comparing the two for every causal model of Transformers 5.23 that a tiny configuration can build.
_MISLEADING_MODEL_TYPES: Mapping[str, str] = MappingProxyType(
    {
        "cpmant": "the size of its heads is dim_head, and a prompt of its own precedes position 0",
        "mimo_v2_flash": "its sliding layers have twice the key-value heads that num_key_value_heads says",
        "rwkv": "it is recurrent although no field says so",
    }
)
#: Model types whose attention depends on where a row lies among the others, and not only on its position: their rows may not
#: be moved. Every other causal model of Transformers 5.23 that a tiny configuration could build answered alike with its
#: rows shuffled (dev/LOG.md).
_PLACE_BOUND_MODEL_TYPES: Mapping[str, str] = MappingProxyType(
    {
        "bloom": "ALiBi adds a term to each score by where the row lies",
        "mpt": "ALiBi adds a term to each score by where the row lies",
        "gpt_neo": "its local layers choose rows by where they lie",
    }
)
_WINDOW_FIELD = {LayerKind.SLIDING: "sliding_window", LayerKind.CHUNKED: "attention_chunk_size"}
_SHARED_TYPE = "reuse"


def _text_decoder(config: Any) -> Any:
    if getattr(config, "is_encoder_decoder", False):
        raise GeometryError(
            f"{_model_name(config)} is an encoder-decoder model; its cross-attention cache is not a cache of its own "
            "past. Only decoder-only models can be described."
        )
    get_text_config = getattr(config, "get_text_config", None)
    decoder = config if get_text_config is None else get_text_config(decoder=True)
    reason = _MISLEADING_MODEL_TYPES.get(getattr(decoder, "model_type", ""))
    if reason is not None:
        raise GeometryError(
            f"{_model_name(decoder)} cannot be described from its configuration: {reason}. Use it with its own cache."
        )
    bound = _PLACE_BOUND_MODEL_TYPES.get(getattr(decoder, "model_type", ""))
    if bound is None and getattr(decoder, "alibi", False):
        bound = "ALiBi adds a term to each score by where the row lies"
    if bound is not None:
        raise GeometryError(
            f"{_model_name(decoder)} cannot be pooled: {bound}, and a pool moves rows. Use it with its own cache."
        )
    return decoder


def trained_rows(decoder: Any) -> int:
    """The longest context that a model was trained on, from its decoder's configuration.

    Raises `GeometryError` where no field says so.
    """
    for field in ("max_position_embeddings", "n_positions", "max_seq_len", "seq_length"):
        rows = _optional_int(decoder, field, _model_name(decoder))
        if rows is not None:
            return rows
    raise GeometryError(
        f"{_model_name(decoder)}: the configuration does not say how long a context the model was trained on; pass "
        "context_rows"
    )


def _model_name(config: Any) -> str:
    return f"model type {getattr(config, 'model_type', type(config).__name__)!r}"


def _layer_configs(decoder: Any, count: int) -> Sequence[Any]:
    """One view of the configuration for each layer; the same object again and again where layers do not differ."""
    per_layer = getattr(decoder, "per_layer_config", None)
    if per_layer is None:
        return [decoder] * count
    views = list(per_layer)
    if len(views) != count:
        raise GeometryError(
            f"{_model_name(decoder)} has num_hidden_layers {count} but {len(views)} entries in per_layer_config."
        )
    return views


def _layer_types(decoder: Any, layer_configs: Sequence[Any]) -> list[str]:
    declared = getattr(decoder, "layer_types", None)
    types = [_type_from_fields(view) for view in layer_configs] if declared is None else list(declared)
    if len(types) != len(layer_configs):
        raise GeometryError(
            f"{_model_name(decoder)} has num_hidden_layers {len(layer_configs)} but {len(types)} layer_types."
        )
    sharing = getattr(decoder, "kv_sharing_modes", None)
    if sharing is None:
        return types
    return [_SHARED_TYPE if mode == _SHARED_TYPE else kind for kind, mode in zip(types, sharing, strict=True)]


def _type_from_fields(view: Any) -> str:
    """The kind that a configuration without `layer_types` implies, as Transformers' own caches infer it."""
    if getattr(view, "sliding_window", None) is not None:
        return "sliding_attention"
    if getattr(view, "attention_chunk_size", None) is not None:
        return "chunked_attention"
    return "full_attention"


def _layer(index: int, layer_type: str, view: Any) -> LayerGeometry:
    if layer_type == _SHARED_TYPE:
        return LayerGeometry(index=index, kind=LayerKind.SHARED)
    kind = KIND_OF_LAYER_TYPE.get(layer_type)
    where = f"Layer {index} of {_model_name(view)} (type {layer_type!r})"
    if kind is None:
        raise GeometryError(
            f"{where} cannot be described: only {', '.join(sorted(KIND_OF_LAYER_TYPE))} and layers that reuse another "
            "layer's cache can. Use the model with its own cache."
        )
    if kind not in _STORING:
        return LayerGeometry(index=index, kind=kind)
    if getattr(view, "kv_lora_rank", None) is not None:
        raise GeometryError(
            f"{where} keeps a latent cache (kv_lora_rank {view.kv_lora_rank}, multi-head latent attention), which is "
            "not made of per-head keys and values. Use the model with its own cache."
        )
    field = _WINDOW_FIELD.get(kind)
    key_dim = _head_dim(view, where)
    value_dim = _optional_int(view, "v_head_dim", where)
    return LayerGeometry(
        index=index,
        kind=kind,
        kv_heads=_kv_heads(view, where),
        key_dim=key_dim,
        value_dim=key_dim if value_dim is None else value_dim,
        window_rows=None if field is None else _required_int(view, field, where),
    )


def _kv_heads(view: Any, where: str) -> int:
    # Falcon's newer form repeats its few heads for all query heads before it caches them; its older form, like
    # GPT-BigCode's, has one head for all, said by a flag.
    if getattr(view, "new_decoder_architecture", False):
        return _required_int(view, "num_attention_heads", where)
    if getattr(view, "multi_query", False):
        return 1
    heads = _optional_int(view, "num_key_value_heads", where)
    return _required_int(view, "num_attention_heads", where) if heads is None else heads


def _head_dim(view: Any, where: str) -> int:
    declared = _optional_int(view, "head_dim", where)
    if declared is not None:
        return declared
    hidden = _required_int(view, "hidden_size", where)
    heads = _required_int(view, "num_attention_heads", where)
    if hidden % heads:
        raise GeometryError(f"{where} has no head_dim, and hidden_size {hidden} is not a multiple of {heads} heads.")
    return hidden // heads


def _optional_int(view: Any, field: str, where: str) -> int | None:
    number = getattr(view, field, None)
    if number is None:
        return None
    if isinstance(number, bool) or not isinstance(number, int) or number < 1:
        raise GeometryError(f"{where}: {field} must be a whole number of at least 1, got {number!r}.")
    return number


def _required_int(view: Any, field: str, where: str) -> int:
    number = _optional_int(view, field, where)
    if number is None:
        raise GeometryError(f"{where}: the configuration has no {field}, which the cache's shape depends on.")
    return number


def _at_least(name: str, number: int, minimum: int) -> int:
    if number < minimum:
        raise UsageError(f"{name} must be at least {minimum}, got {number}.")
    return number


def _runs_of_same_shape(layers: Iterable[LayerGeometry]) -> list[tuple[LayerGeometry, int]]:
    counts: dict[tuple[LayerKind, int, int, int, int | None], tuple[LayerGeometry, int]] = {}
    for layer in layers:
        shape = (layer.kind, layer.kv_heads, layer.key_dim, layer.value_dim, layer.window_rows)
        first, count = counts.get(shape, (layer, 0))
        counts[shape] = (first, count + 1)
    return list(counts.values())


def _describe_group(group: tuple[LayerGeometry, int]) -> str:
    layer, count = group
    if not layer.stores_rows:
        return f"{count} {layer.kind.value}"
    dims = str(layer.key_dim) if layer.key_dim == layer.value_dim else f"{layer.key_dim}+{layer.value_dim}"
    window = "" if layer.window_rows is None else f" of {layer.window_rows:,} rows"
    return f"{count} {layer.kind.value}{window} ({layer.kv_heads} key-value heads of {dims})"
