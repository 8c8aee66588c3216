"""A session that was saved goes on as if it had not been; a file that is not whole is refused by name."""

from __future__ import annotations

import errno
import json
import os
import re
import shutil
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from safetensors import safe_open

from session_kit import EAGER, POOL_ROWS, byte_tokenizer, some_ids, tiny_session
from tenure.errors import DiskFullError, HostTierFullError, SessionFileError, TenureError, UsageError
from tenure.models import FAMILIES, ModelIdentity, tiny_model
from tenure.policy import Policy
from tenure.runtime.hf import Sampling, Session
from tenure.runtime.hf import section_file as section_file_module
from tenure.runtime.hf.section_file import Section, open_sections, write_sections

POOLED = [family for family in FAMILIES if family != "mistral-sliding"]
IDENTITY = ModelIdentity("folder:sha256:1", "tokenizer:sha256:1")


def names_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def arena_bytes(session: Session) -> list[bytes]:
    """The bytes of all resident rows, slot by slot."""
    arena = session.cache.pager.arena
    return [plane[:, :, : arena.resident_rows].contiguous().numpy().tobytes() for plane in arena.planes]


def assert_same_future(saved: Session, restored: Session) -> None:
    """Both hold the same now, and go through the same from here on, bit for bit."""
    assert restored.token_ids == saved.token_ids
    assert restored.turn_starts == saved.turn_starts
    for step in range(3):
        assert restored.cache.pager.arena.positions == saved.cache.pager.arena.positions
        assert arena_bytes(restored) == arena_bytes(saved)
        assert restored.cache.reselector.scores == saved.cache.reselector.scores
        assert restored.where() == saved.where()
        restored.check_invariants()
        replies = [list(session.generate(max_new_tokens=9)) for session in (saved, restored)]
        assert replies[0] == replies[1]
        assert (saved._sequence.logits is None) == (restored._sequence.logits is None)
        assert torch.equal(saved._sequence.logits, restored._sequence.logits)
        for session in (saved, restored):
            session.append(some_ids(13, seed=step))


def reloaded(session: Session, path: Path, **options: Any) -> Session:
    session.save(path)
    return Session.load(path, session.model, session.tokenizer, **options)


@pytest.mark.parametrize("family", POOLED)
def test_every_family_continues_bit_identically_after_evictions(family: str, tmp_path: Path) -> None:
    session = tiny_session(family, sampling=Sampling(temperature=1.0, top_p=0.95), seed=3)
    session.append(some_ids(3 * POOL_ROWS + 2))
    list(session.generate(max_new_tokens=7))
    assert session.statistics().host_only_blocks
    assert_same_future(session, reloaded(session, tmp_path / "s"))


@pytest.mark.parametrize("rows", [1, 3, 4, 5, 27, 28])
def test_any_fill_of_the_head_and_of_the_pool_is_restored(rows: int, tmp_path: Path) -> None:
    session = tiny_session("gemma3")
    session.append(some_ids(rows))
    assert_same_future(session, reloaded(session, tmp_path / "s"))


def test_an_empty_session_is_restored(tmp_path: Path) -> None:
    session = reloaded(tiny_session(tokenizer=byte_tokenizer(), system="be brief"), tmp_path / "s")
    assert (session.token_ids, session.system) == ((), "be brief")
    assert "".join(session.say("hi", max_new_tokens=4))


def test_a_session_is_restored_between_two_tokens_of_a_reply(tmp_path: Path) -> None:
    session = tiny_session()
    session.append(some_ids(70))
    for count, _ in enumerate(session.generate(max_new_tokens=50)):
        if count == 4:
            session.save(tmp_path / "s")
            session.stop()
    assert_same_future(session, Session.load(tmp_path / "s", session.model, None))


def test_a_session_is_restored_after_a_cut_across_the_heads_start(tmp_path: Path) -> None:
    session = tiny_session()
    session.append(some_ids(75))
    session.crop(50)
    assert_same_future(session, reloaded(session, tmp_path / "s"))


@pytest.mark.parametrize("scorer", ["recency", "pooled_cosine", "key_bounds", "attention_mass"])
def test_every_policy_goes_on_with_what_it_remembered(scorer: str, tmp_path: Path) -> None:
    session = tiny_session(policy=Policy(scorer=scorer, interval_rows=3, margin=0.01, scoring_share=None))
    session.append(some_ids(90))
    list(session.generate(max_new_tokens=8))
    restored = reloaded(session, tmp_path / "s")
    assert restored.cache.policy == session.cache.policy
    assert_same_future(session, restored)


def test_policy_options_and_settings_are_restored(tmp_path: Path) -> None:
    policy = Policy(options={"query_rows": 5, "combine": "max"}, interval_rows=11, scoring_share=0.25)
    session = tiny_session(policy="recency", sampling=Sampling(temperature=0.5, top_p=0.5))
    session.use_policy(policy)
    session.append(some_ids(20))
    restored = reloaded(session, tmp_path / "s")
    assert restored.cache.policy == policy
    assert restored.sampling == session.sampling
    assert restored.read_rows == session.read_rows
    assert restored.cache.reselector.statistics() == session.cache.reselector.statistics()


def test_bfloat16_rows_are_restored_bit_for_bit(tmp_path: Path) -> None:
    session = tiny_session(model=tiny_model("gemma3").to(torch.bfloat16))
    session.append(some_ids(80))
    path = tmp_path / "s"
    session.save(path)
    restored = Session.load(path, session.model, None)
    ours, theirs = session.cache.pager, restored.cache.pager
    assert ours.arena.positions == theirs.arena.positions
    for mine, other in zip(ours.arena.planes, theirs.arena.planes, strict=True):
        rows = ours.resident_rows
        assert torch.equal(mine[:, :, :rows].view(torch.int16), other[:, :, :rows].view(torch.int16))
    assert list(session.generate(max_new_tokens=9)) == list(restored.generate(max_new_tokens=9))


def test_saving_changes_nothing_and_a_restored_session_can_be_saved_again(tmp_path: Path) -> None:
    session = tiny_session(identity=IDENTITY)
    session.append(some_ids(60))
    first, second, third = tmp_path / "1", tmp_path / "2", tmp_path / "3"
    session.save(first)
    session.save(second)
    Session.load(first, session.model, None, identity=IDENTITY).save(third)
    assert first.read_bytes() == second.read_bytes() == third.read_bytes()
    assert names_in(tmp_path) == ["1", "2", "3"]


def test_any_safetensors_reader_can_open_a_session(tmp_path: Path) -> None:
    session = tiny_session()
    session.append(some_ids(50))
    session.save(tmp_path / "s.safetensors")
    with safe_open(tmp_path / "s.safetensors", framework="pt") as file:
        assert file.get_tensor("token_ids").tolist() == some_ids(50)
        assert torch.equal(file.get_tensor("block.3"), session.cache.pager.host_block(3).buffer)
        assert json.loads(file.metadata()["session"])["schema"] == "tenure-session/1"


class Saved(NamedTuple):
    path: Path
    model: Any
    data: bytes


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Saved:
    """A session with every kind of section: evicted blocks, a head, native rings, queries, scores, logits."""
    session = tiny_session("gemma3", identity=IDENTITY)
    session.append(some_ids(42))
    list(session.generate(max_new_tokens=4))
    path = tmp_path_factory.mktemp("saved") / "s"
    session.save(path)
    return Saved(path, session.model, path.read_bytes())


def refusal(saved: Saved, data: bytes, tmp_path: Path) -> str:
    path = tmp_path / "damaged"
    path.write_bytes(data)
    with pytest.raises(SessionFileError) as caught:
        Session.load(path, saved.model, None, identity=IDENTITY)
    message = str(caught.value)
    assert str(path) in message
    assert "\n" not in message
    return message


def section_places(data: bytes) -> dict[str, tuple[int, int]]:
    (header_bytes,) = struct.unpack("<Q", data[:8])
    entries = json.loads(data[8 : 8 + header_bytes])
    return {
        name: (8 + header_bytes + entry["data_offsets"][0], 8 + header_bytes + entry["data_offsets"][1])
        for name, entry in entries.items()
        if name != "__metadata__"
    }


def test_one_flipped_bit_in_any_section_names_that_section(saved: Saved, tmp_path: Path) -> None:
    places = section_places(saved.data)
    kinds = {name.split(".")[0] for name in places}
    assert kinds == {
        *("token_ids", "slot_positions", "score_blocks", "scores", "generator_state", "logits"),
        *("queries", "native", "head", "block", "checksums"),
    }
    for name, (start, stop) in places.items():
        for at in {start, (start + stop) // 2, stop - 1} if name == "head.0" else {(start + stop) // 2}:
            damaged = bytearray(saved.data)
            damaged[at] ^= 1
            assert f"section {name} is damaged" in refusal(saved, bytes(damaged), tmp_path)


def test_one_flipped_bit_anywhere_in_the_header_is_refused(saved: Saved, tmp_path: Path) -> None:
    (header_bytes,) = struct.unpack("<Q", saved.data[:8])
    for at in [*range(8), *range(8, 8 + header_bytes, 41)]:
        damaged = bytearray(saved.data)
        damaged[at] ^= 1 << (at % 8)
        refusal(saved, bytes(damaged), tmp_path)


def test_a_file_cut_anywhere_is_called_truncated(saved: Saved, tmp_path: Path) -> None:
    for kept in [0, 5, 8, 100, *(stop - 1 for _, stop in section_places(saved.data).values())]:
        assert "truncated" in refusal(saved, saved.data[:kept], tmp_path)
    assert "longer than it was written" in refusal(saved, saved.data + b"\0", tmp_path)


def test_files_that_are_something_else_are_refused(saved: Saved, tmp_path: Path) -> None:
    from safetensors.torch import save_file

    assert "no session file" in refusal(saved, b"# Tenure\n" * 100, tmp_path)
    save_file({"a": torch.zeros(3)}, tmp_path / "other", metadata={"session": "{}"})
    assert "no session file" in refusal(saved, (tmp_path / "other").read_bytes(), tmp_path)
    write_sections(tmp_path / "ours", metadata={}, sections=[Section.of("a", torch.zeros(3))])
    assert "no session of Tenure" in refusal(saved, (tmp_path / "ours").read_bytes(), tmp_path)
    with pytest.raises(SessionFileError, match="cannot be read: No such file"):
        Session.load(tmp_path / "absent", saved.model, None)
    with pytest.raises(SessionFileError, match="cannot be read: Is a directory"):
        Session.load(tmp_path, saved.model, None)


def rewritten(saved: Saved, path: Path, change: Callable[[dict[str, Any], dict[str, torch.Tensor]], None]) -> bytes:
    """A file whose checksums are right and whose contents were changed."""
    with open_sections(saved.path) as reader:
        record = json.loads(reader.metadata["session"])
        tensors = {name: reader.read(name) for name in reader.names}
    change(record, tensors)
    sections = [Section.of(name, tensor) for name, tensor in tensors.items()]
    write_sections(path, metadata={"session": json.dumps(record)}, sections=sections)
    return path.read_bytes()


CHANGES: list[tuple[str, Callable[[dict[str, Any], dict[str, torch.Tensor]], Any], str]] = [
    ("version", lambda r, t: r.update(schema="tenure-session/2"), "format tenure-session/2 by Tenure 0.1.0"),
    ("model", lambda r, t: r.update(model_id="folder:sha256:2"), "another model: it was written with folder:sha256:2"),
    ("tokenizer", lambda r, t: r.update(tokenizer_id="x"), "another tokenizer"),
    ("dtype", lambda r, t: r.update(dtype="bfloat16"), "another dtype: it was written with bfloat16, this is float32"),
    ("geometry", lambda r, t: r["layers"][1].update(kv_heads=8), "another geometry.* differs is layer 1"),
    ("layers", lambda r, t: r["layers"].pop(), "another geometry: 3 layers, this model has 4"),
    ("block size", lambda r, t: r.update(block_size=2, capacity_rows=28), "head.0 has shape"),
    ("field", lambda r, t: r.pop("sink_blocks"), "lacks a field"),
    ("policy", lambda r, t: r["policy"].update(scorer="clairvoyance"), "clairvoyance"),
    ("detail", lambda r, t: r["details"].pop("rows_since"), "does not fit together"),
    ("missing section", lambda r, t: t.pop("block.2"), "no section block.2"),
    ("surplus block", lambda r, t: t.update({"block.11": t["block.2"].clone()}), "tokens fill 11 blocks"),
    ("block dtype", lambda r, t: t.update({"block.2": t["block.2"].double()}), "section block.2 is F64"),
    ("slot twice", lambda r, t: t["slot_positions"][0].fill_(1), "names a position twice"),
    ("ring", lambda r, t: t.update({"native.0.keys": t["native.0.keys"][:, :, :3].clone()}), "native.0.keys is"),
    ("seen rows", lambda r, t: r["details"]["native_seen_rows"].update({"0": 7}), "has seen 7 rows of 46"),
]


@pytest.mark.parametrize(("change", "message"), [c[1:] for c in CHANGES], ids=[c[0] for c in CHANGES])
def test_a_whole_file_that_does_not_fit_is_refused_by_name(
    saved: Saved, tmp_path: Path, change: Callable[..., None], message: str
) -> None:
    assert re.search(message, refusal(saved, rewritten(saved, tmp_path / "r", change), tmp_path))


def test_a_file_of_another_model_in_memory_is_refused(tmp_path: Path) -> None:
    session = tiny_session(model=tiny_model("llama", seed=1))
    session.append(some_ids(9))
    session.save(tmp_path / "s")
    with pytest.raises(SessionFileError, match="another model: it was written with weights:sha256:"):
        Session.load(tmp_path / "s", tiny_model("llama", seed=2), None)
    with pytest.raises(SessionFileError, match="another tokenizer"):
        Session.load(tmp_path / "s", tiny_model("llama", seed=1), byte_tokenizer())


def test_a_file_of_a_named_model_needs_the_name_of_the_present_one(saved: Saved) -> None:
    with pytest.raises(SessionFileError, match="pass the identity of this one"):
        Session.load(saved.path, saved.model, None)


def test_a_host_tier_too_small_for_the_blocks_says_so(saved: Saved) -> None:
    with pytest.raises(HostTierFullError, match="its budget is"):
        Session.load(saved.path, saved.model, None, identity=IDENTITY, host_bytes=5000)


@pytest.mark.parametrize(
    ("target", "error", "message"),
    [("folder", SessionFileError, "is a folder"), ("absent/s", SessionFileError, "No such file or directory")],
)
def test_a_place_where_no_file_can_be_is_refused(
    tmp_path: Path, target: str, error: type[TenureError], message: str
) -> None:
    (tmp_path / "folder").mkdir()
    session = tiny_session()
    session.append(some_ids(9))
    with pytest.raises(error, match=message):
        session.save(tmp_path / target)
    assert names_in(tmp_path) == ["folder"]


def test_too_little_room_is_noticed_before_anything_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    session = tiny_session()
    session.append(some_ids(9))
    (tmp_path / "s").write_text("old")
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(section_file_module.shutil, "disk_usage", lambda _: usage._replace(free=1000))
    with pytest.raises(DiskFullError, match=r"needs 0\.\d MB .* 0\.0 MB are free; nothing was written"):
        session.save(tmp_path / "s")
    assert (tmp_path / "s").read_text() == "old"


@pytest.mark.parametrize(
    ("failure", "error"),
    [
        (OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)), DiskFullError),
        (OSError(errno.EIO, os.strerror(errno.EIO)), SessionFileError),
        (KeyboardInterrupt(), KeyboardInterrupt),
    ],
)
def test_a_disk_that_fails_in_the_middle_leaves_the_old_file_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, failure: BaseException, error: type[BaseException]
) -> None:
    session = tiny_session()
    session.append(some_ids(9))
    (tmp_path / "s").write_text("old")
    calls = []

    def fail(tensor: torch.Tensor) -> memoryview:
        calls.append(tensor)
        if len(calls) == 4:
            raise failure
        return memoryview(bytes(tensor.numel() * tensor.element_size()))

    monkeypatch.setattr(section_file_module, "_bytes_of", fail)
    with pytest.raises(error):
        session.save(tmp_path / "s")
    assert names_in(tmp_path) == ["s"]
    assert (tmp_path / "s").read_text() == "old"


def test_policy_options_that_no_file_can_hold_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    session = tiny_session()
    session.append(some_ids(9))
    odd = Policy(interval_rows=3)
    object.__setattr__(odd, "options", {"query_rows": {1}})
    session.cache.policy = odd
    with pytest.raises(UsageError, match="cannot be written down"):
        session.save(tmp_path / "s")
    assert names_in(tmp_path) == []
    assert EAGER.options == {}
