"""Sessions in files: what is written, and what is checked before any of it is used again.

All that decides how a session goes on is in the file: ids, rows, which row is at which slot, windows of native layers,
the queries that the next choice of blocks reads, what is remembered of earlier choices, the last logits, and the state
of the random numbers. A block's rows are written once, from the host tier; device copies are made again from those.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

import torch

from tenure import __version__
from tenure.errors import CapacityError, PlanError, PolicyError, UsageError
from tenure.policy import Policy, RecentQueries, ReselectorState, ReselectStatistics
from tenure.pool import HostBlock
from tenure.pool import image as pool_image
from tenure.runtime.hf.cache import PooledCache
from tenure.runtime.hf.identity import Identity
from tenure.runtime.hf.native import NativeState, native_layers, native_states, opaque_layers, put_back
from tenure.runtime.hf.section_file import Section, SectionReader

SCHEMA = "tenure-session/1"
_KEY = "session"


@dataclass(frozen=True, slots=True)
class SessionState:
    """What a session knows beside its cache."""

    token_ids: Sequence[int]
    turn_starts: Sequence[int]
    system: str | None
    temperature: float
    top_p: float
    read_rows: int
    logits: torch.Tensor | None
    generator_state: torch.Tensor


@dataclass(frozen=True, slots=True)
class SessionHeader:
    """What a file says about itself before any section is read; checked against the model that is to continue it."""

    model_id: str
    tokenizer_id: str
    dtype: str
    layers: Sequence[Mapping[str, Any]]
    block_size: int
    capacity_rows: int
    sink_blocks: int
    tail_blocks: int
    policy: Policy
    details: Mapping[str, Any]
    """The rest, interpreted when the sections are read."""


def metadata_of(cache: PooledCache, state: SessionState, identity: Identity) -> dict[str, str]:
    """The header's text. Raises `UsageError` for a session that cannot be written down."""
    opaque = opaque_layers(cache)
    if opaque:
        raise UsageError(f"layer(s) {', '.join(opaque)} keep a state that session files have no place for yet")
    pager, remembered, policy = cache.pager, cache.reselector.state(), cache.policy
    queries = cache.queries.recent(cache.queries.rows)
    record = {
        "schema": SCHEMA,
        "tenure_version": __version__,
        "torch_version": torch.__version__,
        "model_id": identity.model_id,
        "tokenizer_id": identity.tokenizer_id,
        "dtype": _dtype_name(pager.arena.dtype),
        "layers": _layers(cache),
        "block_size": pager.block_size,
        "capacity_rows": pager.arena.capacity_rows,
        "sink_blocks": pager.sink_blocks,
        "tail_blocks": pager.tail_blocks,
        "policy": {**{name: getattr(policy, name) for name in _POLICY_FIELDS}, "options": dict(policy.options)},
        "details": {
            "turn_starts": list(state.turn_starts),
            "system": state.system,
            "temperature": state.temperature,
            "top_p": state.top_p,
            "read_rows": state.read_rows,
            "native_seen_rows": {native.layer_index: native.seen_rows for native in native_states(cache)},
            "query_rows": cache.queries.rows,
            "query_scaling": [] if queries is None else list(queries.scaling),
            "rows_since": remembered.rows_since,
            "decode_s_since": remembered.decode_s_since,
            "last_cost_s": remembered.last_cost_s,
            "reselect_statistics": asdict(remembered.statistics),
        },
    }
    try:
        return {_KEY: json.dumps(record, allow_nan=False)}
    except (TypeError, ValueError) as error:
        raise UsageError(f"the policy's options {dict(policy.options)} cannot be written down ({error})") from error


_POLICY_FIELDS = ("scorer", "margin", "interval_rows", "scoring_share")


def sections_of(cache: PooledCache, state: SessionState) -> list[Section]:
    """The sections, large ones by reference."""
    pager, scores = cache.pager, cache.reselector.scores
    sections = [
        Section.of("token_ids", torch.tensor(state.token_ids, dtype=torch.int64)),
        Section.of("slot_positions", torch.tensor(pool_image.slot_positions(pager), dtype=torch.int64)),
        Section.of("score_blocks", torch.tensor(list(scores), dtype=torch.int64)),
        Section.of("scores", torch.tensor(list(scores.values()), dtype=torch.float64)),
        Section.of("generator_state", state.generator_state),
    ]
    if state.logits is not None:
        sections.append(Section.of("logits", state.logits))
    queries = cache.queries.recent(cache.queries.rows)
    if queries is not None:
        sections += [Section.of(f"queries.{layer}", rows) for layer, rows in enumerate(queries.by_layer)]
    for native in native_states(cache):
        if native.keys is not None and native.values is not None:
            sections.append(Section.of(f"native.{native.layer_index}.keys", native.keys))
            sections.append(Section.of(f"native.{native.layer_index}.values", native.values))
    sections += [Section.of(f"head.{group}", rows) for group, rows in enumerate(pool_image.head_rows(pager))]
    sections += [_block_section(block, pager.host_block(block)) for block in range(pager.sealed_blocks)]
    return sections


def _block_section(index: int, host: HostBlock) -> Section:
    def load() -> torch.Tensor:
        host.wait()
        return host.buffer

    return Section(f"block.{index}", host.buffer.dtype, tuple(host.buffer.shape), load)


def read_header(reader: SectionReader) -> SessionHeader:
    """What a file says about itself. Raises `SessionFileError` for another format or version, or nonsense."""
    try:
        record = json.loads(reader.metadata[_KEY])
        schema = record["schema"]
    except (KeyError, TypeError, ValueError):
        raise reader.refusal("it holds tensors, but no session of Tenure") from None
    if schema != SCHEMA:
        raise reader.refusal(
            f"it was written in format {schema} by Tenure {record.get('tenure_version')}; this is Tenure "
            f"{__version__}, which reads {SCHEMA}"
        )
    try:
        names = ("model_id", "tokenizer_id", "dtype", "layers", "block_size", "capacity_rows", "sink_blocks")
        values = {name: record[name] for name in (*names, "tail_blocks", "details")}
        return SessionHeader(policy=Policy(**record["policy"]), **values)
    except (KeyError, TypeError, PolicyError) as error:
        raise reader.refusal(f"its header lacks a field, or has one that means nothing ({error})") from error


def require_match(header: SessionHeader, reader: SectionReader, *, identity: Identity, dtype: torch.dtype) -> None:
    """Raise `SessionFileError` unless the model is the one that wrote the rows."""
    for what, written, present in (
        ("model", header.model_id, identity.model_id),
        ("tokenizer", header.tokenizer_id, identity.tokenizer_id),
        ("dtype", header.dtype, _dtype_name(dtype)),
    ):
        if written != present:
            raise reader.refusal(
                f"it belongs to another {what}: it was written with {written}, this is {present}; load it with the "
                "model that it was saved with"
            )


def restore_cache(cache: PooledCache, reader: SectionReader, header: SessionHeader) -> None:
    """Put everything that the file holds of a cache into an opened, empty one of the file's block size and capacity.

    Raises `SessionFileError`; the cache must not be used then.
    """
    layers = _layers(cache)
    if layers != list(header.layers):
        differing = [at for at, pair in enumerate(zip(layers, header.layers, strict=False)) if pair[0] != pair[1]]
        raise reader.refusal(
            f"it belongs to a model of another geometry: {len(header.layers)} layers, this model has {len(layers)}"
            + (f"; the first that differs is layer {differing[0]}" if differing else "")
        )
    token_count = reader.shape("token_ids")[0]
    with _nonsense(reader):
        _restore_rows(cache, reader, token_count)
        put_back(cache, list(_native_states(cache, reader, header, token_count)))
        _restore_choice(cache, reader, header.details)
        cache.check_invariants()


def _restore_rows(cache: PooledCache, reader: SectionReader, token_count: int) -> None:
    pager = cache.pager
    blocks, head_rows = divmod(token_count, pager.block_size)
    heads = []
    for group, planes in enumerate(pager.arena.planes):
        rows = reader.read(f"head.{group}")
        expected = (planes.shape[0], planes.shape[1], head_rows, planes.shape[3])
        if tuple(rows.shape) != expected:
            raise reader.refusal(f"its section head.{group} has shape {tuple(rows.shape)}, expected {expected}")
        heads.append(rows)
    surplus = f"block.{blocks}"
    if surplus in reader.names:
        raise reader.refusal(f"it has a section {surplus}, but {token_count} tokens fill {blocks} blocks")

    def fill(block: int, host: HostBlock) -> None:
        reader.read_into(f"block.{block}", host.buffer)

    pool_image.restore(
        pager,
        logical_rows=token_count,
        positions=[int(position) for position in reader.read("slot_positions").tolist()],
        head=heads,
        fill_block=fill,
    )


def _native_states(
    cache: PooledCache, reader: SectionReader, header: SessionHeader, token_count: int
) -> Iterator[NativeState]:
    seen = header.details["native_seen_rows"]
    for index, layer in native_layers(cache):
        seen_rows = int(seen[str(index)])
        if seen_rows != token_count:
            raise reader.refusal(f"native layer {index} has seen {seen_rows} rows of {token_count}")
        if not token_count:
            yield NativeState(index, None, None, 0)
            continue
        shape = cache.geometry.layers[index]
        rows = min(token_count, layer.sliding_window - 1)
        read = partial(_read_shaped, cache, reader)
        keys = read(f"native.{index}.keys", (1, shape.kv_heads, rows, shape.key_dim))
        values = read(f"native.{index}.values", (1, shape.kv_heads, rows, shape.value_dim))
        yield NativeState(index, keys, values, seen_rows)


def _read_shaped(cache: PooledCache, reader: SectionReader, name: str, shape: tuple[int, ...]) -> torch.Tensor:
    tensor = reader.read(name)
    if tuple(tensor.shape) != shape or tensor.dtype != cache.pager.arena.dtype:
        raise reader.refusal(
            f"its section {name} is {tensor.dtype} {tuple(tensor.shape)}, expected {cache.pager.arena.dtype} {shape}"
        )
    return tensor.to(cache.pager.arena.device)


def _restore_choice(cache: PooledCache, reader: SectionReader, details: Mapping[str, Any]) -> None:
    scores = zip(reader.read("score_blocks").tolist(), reader.read("scores").tolist(), strict=True)
    cache.reselector.restore(
        ReselectorState(
            scores=dict(scores),
            rows_since=int(details["rows_since"]),
            decode_s_since=float(details["decode_s_since"]),
            last_cost_s=float(details["last_cost_s"]),
            statistics=ReselectStatistics(**details["reselect_statistics"]),
        )
    )
    cache.queries.rows = int(details["query_rows"])
    scaling = tuple(float(factor) for factor in details["query_scaling"])
    if scaling:
        device = cache.pager.arena.device
        by_layer = tuple(reader.read(f"queries.{layer}").to(device) for layer in range(len(scaling)))
        cache.queries.restore(RecentQueries(by_layer=by_layer, scaling=scaling))


def read_state(reader: SectionReader, header: SessionHeader) -> SessionState:
    """What the file holds of a session beside its cache. Raises `SessionFileError`."""
    details = header.details
    with _nonsense(reader):
        return SessionState(
            token_ids=[int(token) for token in reader.read("token_ids").tolist()],
            turn_starts=[int(start) for start in details["turn_starts"]],
            system=details["system"],
            temperature=float(details["temperature"]),
            top_p=float(details["top_p"]),
            read_rows=int(details["read_rows"]),
            logits=reader.read("logits") if "logits" in reader.names else None,
            generator_state=reader.read("generator_state"),
        )


class _nonsense:  # noqa: N801 - used as a context manager, like a function
    """Inside it, contents that cannot be meant raise `SessionFileError`: every byte is as written, and still wrong."""

    def __init__(self, reader: SectionReader) -> None:
        self._reader = reader

    def __enter__(self) -> None:
        pass

    def __exit__(self, _kind: object, error: BaseException | None, _traceback: object) -> None:
        if isinstance(error, CapacityError | PlanError | KeyError | TypeError) or type(error) is ValueError:
            raise self._reader.refusal(f"what it holds does not fit together ({error})") from error


def _layers(cache: PooledCache) -> list[dict[str, Any]]:
    return [{**asdict(layer), "kind": layer.kind.value} for layer in cache.geometry.layers]


def _dtype_name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
