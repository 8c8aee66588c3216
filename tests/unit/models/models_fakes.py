"""A GGUF file of a tiny model, written by the `gguf` package, and a reporter that remembers what it was told."""

from __future__ import annotations

import hashlib
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import gguf
from transformers import PreTrainedModel

from tenure.models.fetch import EmbeddedModel
from tenure.models.fingerprint import file_sha256
from tenure.models.progress import Advance
from tenure.models.tiny import VOCAB_SIZE

#: Names of a Qwen2 layer's weights: in Transformers, and in GGUF.
LAYER_NAMES = {
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
}
OUTER_NAMES = {
    "model.embed_tokens.weight": "token_embd.weight",
    "model.norm.weight": "output_norm.weight",
    "lm_head.weight": "output.weight",
}


class RecordingReporter:
    """Keeps what it is told."""

    def __init__(self) -> None:
        self.said: list[str] = []
        self.stages: list[str] = []

    def say(self, text: str) -> None:
        self.said.append(text)

    @contextmanager
    def stage(self, text: str, *, total_bytes: int | None = None) -> Iterator[Advance]:
        self.stages.append(text)
        yield lambda _done_bytes: None


def gguf_name(name: str) -> str:
    if name in OUTER_NAMES:
        return OUTER_NAMES[name]
    _model, _layers, index, rest = name.split(".", maxsplit=3)
    part, kind = rest.rsplit(".", maxsplit=1)
    return f"blk.{index}.{LAYER_NAMES[part]}.{kind}"


def write_gguf(path: Path, model: PreTrainedModel, *, architecture: str = "qwen2", without: str | None = None) -> Path:
    """The model as an unquantised GGUF file with a tokenizer of single letters, two merges and two special tokens."""
    config = model.config
    writer = gguf.GGUFWriter(str(path), architecture)
    writer.add_name("tiny")
    writer.add_block_count(config.num_hidden_layers)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_freq_base(10_000.0)
    writer.add_vocab_size(config.vocab_size)
    letters = [chr(code) for code in range(ord("!"), ord("~") + 1)]
    tokens = ["<|start|>", "<|end|>", *letters, "Ġ", "Ċ", "th", "the"]
    tokens += [f"unused{index}" for index in range(VOCAB_SIZE - len(tokens))]
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("qwen2")
    writer.add_token_list(tokens)
    writer.add_token_types([gguf.TokenType.CONTROL] * 2 + [gguf.TokenType.NORMAL] * (len(tokens) - 2))
    writer.add_token_merges(["t h", "th e"])
    writer.add_bos_token_id(0)
    writer.add_eos_token_id(1)
    for name, tensor in model.state_dict().items():
        if name != without:
            writer.add_tensor(gguf_name(name), tensor.numpy())
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def write_wheel(folder: Path, member: str, content: bytes, *, name: str = "tiny_model") -> Path:
    """A wheel that pip accepts, version 1.0, with one file beside its metadata."""
    info = f"{name}-1.0.dist-info"
    metadata = f"Metadata-Version: 2.1\nName: {name.replace('_', '-')}\nVersion: 1.0\n"
    wheel_tags = "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
    path = folder / f"{name}-1.0-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as wheel:
        wheel.writestr(member, content)
        wheel.writestr(f"{info}/METADATA", metadata)
        wheel.writestr(f"{info}/WHEEL", wheel_tags)
        wheel.writestr(f"{info}/RECORD", f"{member},,\n{info}/METADATA,,\n{info}/WHEEL,,\n{info}/RECORD,,\n")
    return path


def embedded_in(wheel: Path, member: str, content: bytes) -> EmbeddedModel:
    """What Tenure would have pinned for that wheel."""
    return EmbeddedModel(
        title="Tiny",
        requirement="tiny-model==1.0",
        wheel_bytes=wheel.stat().st_size,
        wheel_sha256=file_sha256(wheel),
        member=member,
        member_bytes=len(content),
        member_sha256=hashlib.sha256(content).hexdigest(),
        converted_bytes=1_000_000,
    )
