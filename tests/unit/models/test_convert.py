from __future__ import annotations

import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import gguf
import pytest
from models_fakes import RecordingReporter, write_gguf

from tenure.errors import DiskFullError, ModelError
from tenure.models import convert as convert_module
from tenure.models.convert import GgufSummary, convert, first_line, quiet_transformers, require_all_weights, summarise
from tenure.models.tiny import tiny_model


def test_the_header_tells_architecture_and_number_of_weights(tiny_gguf: Path) -> None:
    weights = sum(tensor.numel() for tensor in tiny_model("qwen2").state_dict().values())
    assert summarise(tiny_gguf) == GgufSummary("qwen2", weights, None)


@pytest.mark.parametrize("kept_bytes", [2, 30, 900, 100_000, -1])
def test_a_truncated_file_is_refused_by_name(tiny_gguf: Path, tmp_path: Path, kept_bytes: int) -> None:
    path = tmp_path / "cut.gguf"
    path.write_bytes(tiny_gguf.read_bytes()[:kept_bytes])
    with pytest.raises(ModelError, match=r"cut.gguf is (not a|a damaged or truncated) GGUF file"):
        summarise(path)


def test_a_file_of_another_kind_is_refused_with_its_first_bytes(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    path.write_bytes(b"\x10\x00\x00\x00{}")
    with pytest.raises(ModelError, match=r"starts with b'\\x10\\x00\\x00\\x00', expected b'GGUF'"):
        summarise(path)


def write_header(path: Path, **fields: Any) -> Path:
    writer = gguf.GGUFWriter(str(path), fields.pop("architecture", "llama"))
    for name, value in fields.items():
        (writer.add_uint16 if isinstance(value, int) else writer.add_string)(name.replace("__", "."), value)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def test_a_part_of_a_split_file_is_refused_with_the_way_to_join_them(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"one of 3 parts.*gguf-split"):
        summarise(write_header(tmp_path / "m-00001-of-00003.gguf", split__count=3))


@pytest.mark.parametrize(("scaling", "expected"), [("none", None), ("yarn", "llama.rope.scaling.type = yarn")])
def test_scaled_rotary_frequencies_are_seen_in_the_header(tmp_path: Path, scaling: str, expected: str | None) -> None:
    path = write_header(tmp_path / "m.gguf", llama__rope__scaling__type=scaling)
    assert summarise(path).rope_scaling == expected


def test_scaled_rotary_frequencies_are_seen_as_a_tensor() -> None:
    assert convert_module._rope_scaling({}, {"rope_freqs.weight", "output.weight"}) == "tensor rope_freqs.weight"
    assert convert_module._rope_scaling({}, {"rope_factors_long.weight"}) == "tensor rope_factors_long.weight"


@pytest.mark.parametrize(
    ("parameters", "is_kept"),
    [
        ({"rope_type": "default", "rope_theta": 1e4}, False),
        (None, False),
        ({"rope_type": "yarn", "factor": 4.0}, True),
        ({"full_attention": {"rope_type": "linear"}, "sliding_attention": {"rope_type": "default"}}, True),
        ({"full_attention": {"rope_type": "default"}, "sliding_attention": {"rope_type": "default"}}, False),
    ],
)
def test_scaled_rotary_frequencies_that_the_reader_drops_are_refused_not_answered_wrongly(
    parameters: dict[str, Any] | None, is_kept: bool
) -> None:
    config, summary = SimpleNamespace(rope_parameters=parameters), GgufSummary("llama", 1, "tensor rope_freqs.weight")
    if is_kept:
        convert_module._require_rope(summary, config, Path("m.gguf"))
    else:
        with pytest.raises(ModelError, match=r"scaled rotary frequencies \(tensor rope_freqs.weight\)"):
            convert_module._require_rope(summary, config, Path("m.gguf"))
    convert_module._require_rope(GgufSummary("llama", 1, None), config, Path("m.gguf"))


def test_an_architecture_that_transformers_does_not_read_is_refused(
    tmp_path: Path, reporter: RecordingReporter
) -> None:
    path = write_gguf(tmp_path / "m.gguf", tiny_model("qwen2"), architecture="rwkv7")
    with pytest.raises(ModelError, match=r"m.gguf cannot be read.*architecture rwkv7 is not supported"):
        convert(path, tmp_path / "out", reporter=reporter)


def test_a_file_that_lacks_a_weight_is_refused_instead_of_being_filled_up_at_random(
    tmp_path: Path, reporter: RecordingReporter, capsys: pytest.CaptureFixture[str]
) -> None:
    path = write_gguf(tmp_path / "m.gguf", tiny_model("qwen2"), without="model.layers.1.mlp.up_proj.weight")
    with pytest.raises(ModelError, match=r"lack 1 of the model's weights.*layers.1.mlp.up_proj.weight"):
        convert(path, tmp_path / "out", reporter=reporter)
    assert not (tmp_path / "out").exists()
    assert capsys.readouterr().err == "", "the error is all there is to read"


def test_weights_of_another_shape_are_refused() -> None:
    with pytest.raises(ModelError, match=r"have 1 of another shape \(for example lm_head.weight\)"):
        require_all_weights({"missing_keys": set(), "mismatched_keys": [("lm_head.weight", (1,), (2,))]}, "m")
    require_all_weights({"missing_keys": [], "mismatched_keys": [], "unexpected_keys": ["extra"]}, "m")


def test_room_is_asked_for_before_the_weights_are_read(
    tiny_gguf: Path, tmp_path: Path, reporter: RecordingReporter, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[int] = []

    def refuse(_folder: Path, needed_bytes: int, *, what: str) -> None:
        asked.append(needed_bytes)
        raise DiskFullError(what)

    monkeypatch.setattr(convert_module, "require_room", refuse)
    with pytest.raises(DiskFullError):
        convert(tiny_gguf, tmp_path, reporter=reporter)
    assert asked == [summarise(tiny_gguf).weights * 4 + (64 << 20)]
    assert not any("weights" in stage for stage in reporter.stages)


def test_transformers_is_quiet_inside_and_as_before_afterwards(capsys: pytest.CaptureFixture[str]) -> None:
    from transformers.utils import logging

    before = (logging.is_progress_bar_enabled(), logging.get_verbosity(), sys.stderr)

    def noisy() -> None:
        with quiet_transformers():
            assert not logging.is_progress_bar_enabled()
            sys.stderr.write("a bar")
            raise ValueError("x")

    with pytest.raises(ValueError, match="x"):
        noisy()
    assert (logging.is_progress_bar_enabled(), logging.get_verbosity(), sys.stderr) == before
    assert capsys.readouterr().err == ""


def test_the_first_line_of_an_error_is_used_or_its_kind() -> None:
    assert first_line(ValueError("one.\ntwo")) == "one"
    assert first_line(KeyError()) == "KeyError"
