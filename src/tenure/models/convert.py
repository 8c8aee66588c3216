"""From a GGUF file to the folder format of Transformers: every weight dequantised to float32, none made up.

Reading a GGUF file of 135 M weights takes some 20 s, its converted folder under 2 s, so the conversion is done once and
kept. The stored dtype is always float32, which loses nothing that the file says; a narrower one is cast at load.
"""

from __future__ import annotations

import contextlib
import io
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tenure.errors import ModelError
from tenure.models.progress import Reporter
from tenure.models.store import require_room

STORED_DTYPE = "float32"
_STORED_BYTES = 4
#: Room for the tokenizer's files beside the weights: the largest known (Gemma 3, 262,144 tokens) has 33 MB.
_TOKENIZER_BYTES = 64 << 20
_ROPE_SCALING_TYPE = ".rope.scaling.type"


@dataclass(frozen=True, slots=True)
class GgufSummary:
    """What a GGUF file's header says, before any weight is read."""

    architecture: str
    weights: int
    #: What the file says about scaled rotary embeddings, or None when it has none.
    rope_scaling: str | None

    @property
    def converted_bytes(self) -> int:
        """Room that the converted folder takes at most."""
        return self.weights * _STORED_BYTES + _TOKENIZER_BYTES


def summarise(path: Path) -> GgufSummary:
    """The header of the GGUF file at `path`. Raises `ModelError` for anything that cannot be converted, and says why.

    Cost: the file's metadata is read in full, some seconds for a large vocabulary.
    """
    with path.open("rb") as file:
        magic = file.read(4)
    if magic != b"GGUF":
        message = f"{path} is not a GGUF file: it starts with {magic!r}, expected b'GGUF'"
        raise ModelError(message)
    from gguf import GGUFReader

    try:
        reader = GGUFReader(path)
        fields: dict[str, Any] = {
            name: field.contents() for name, field in reader.fields.items() if _is_asked_for(name)
        }
        weights = {str(tensor.name): int(tensor.n_elements) for tensor in reader.tensors}
    except Exception as error:  # the reader meets a damaged file with whatever its parsing ends in
        message = f"{path} is a damaged or truncated GGUF file ({type(error).__name__}: {error})"
        raise ModelError(message) from error
    parts = fields.get("split.count", 1)
    if parts > 1:
        message = f"{path} is one of {parts} parts of a split GGUF file; join them with llama.cpp's gguf-split first"
        raise ModelError(message)
    architecture = fields.get("general.architecture")
    if architecture is None:
        message = f"{path} names no architecture, so it cannot be read as a model"
        raise ModelError(message)
    return GgufSummary(str(architecture), sum(weights.values()), _rope_scaling(fields, set(weights)))


def _is_asked_for(name: str) -> bool:
    return name in {"general.architecture", "split.count"} or name.endswith(_ROPE_SCALING_TYPE)


def _rope_scaling(fields: dict[str, Any], tensors: set[str]) -> str | None:
    """The field or tensor by which a file says that its rotary frequencies are scaled (GGUF's names for both)."""
    for name, value in fields.items():
        if name.endswith(_ROPE_SCALING_TYPE) and value != "none":
            return f"{name} = {value}"
    factors = sorted(name for name in tensors if name.startswith(("rope_freqs.", "rope_factors_")))
    return f"tensor {factors[0]}" if factors else None


@contextlib.contextmanager
def quiet_transformers() -> Iterator[None]:
    """Inside it Transformers shows no progress bars and reports of its own; afterwards it does if it did before.

    Its GGUF reader has a bar that no setting reaches, so `sys.stderr` is led away too; a `TerminalReporter` made before
    writes to where it was made to.
    """
    from transformers.utils import logging

    shown, verbosity = logging.is_progress_bar_enabled(), logging.get_verbosity()
    logging.disable_progress_bar()
    logging.set_verbosity_error()
    try:
        with contextlib.redirect_stderr(io.StringIO()):
            yield
    finally:
        logging.set_verbosity(verbosity)
        if shown:
            logging.enable_progress_bar()


def convert(path: Path, folder: Path, *, reporter: Reporter) -> None:
    """Write the model and the tokenizer of the GGUF file at `path` into `folder`, float32, as `save_pretrained` does.

    Raises `ModelError` when the file is no GGUF file or a damaged one, when Transformers does not read its
    architecture, and when the model would not be the one in the file: weights that it lacks would be made up, scaled
    rotary frequencies (Llama 3.1, long-context Phi-3) dropped. `DiskFullError` when the disk has no room.
    """
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

    with reporter.stage(f"Reading the header of {path.name}"):
        summary = summarise(path)
    require_room(folder, summary.converted_bytes, what=path.name)
    where: dict[str, Any] = {"pretrained_model_name_or_path": str(path.parent), "gguf_file": path.name}
    try:
        with quiet_transformers():
            with reporter.stage(f"Converting {path.name}: tokenizer"):
                tokenizer = AutoTokenizer.from_pretrained(**where)
            with reporter.stage(f"Converting {path.name}: weights"):
                # Without `dequantize` the model is still flagged as quantised and refuses to be saved.
                model, info = AutoModelForCausalLM.from_pretrained(
                    **where,
                    dtype=torch.float32,
                    quantization_config=GgufConfig(dequantize=True),
                    output_loading_info=True,
                )
    except (ValueError, KeyError, NotImplementedError, ImportError) as error:
        message = f"{path} cannot be read as a model by this version of Transformers ({first_line(error)})"
        raise ModelError(message) from error
    require_all_weights(info, str(path))
    _require_rope(summary, model.config, path)
    with quiet_transformers(), reporter.stage(f"Converting {path.name}: writing float32"):
        model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)


def _require_rope(summary: GgufSummary, config: Any, path: Path) -> None:
    if summary.rope_scaling is None:
        return
    parameters = getattr(config, "rope_parameters", None) or {}
    sets = [value for value in parameters.values() if isinstance(value, dict)] or [parameters]
    if all(one.get("rope_type", "default") == "default" for one in sets):
        message = (
            f"{path} has scaled rotary frequencies ({summary.rope_scaling}), which the GGUF reader of Transformers "
            "leaves out: the model would misplace tokens; use the same model as a folder or from the hub"
        )
        raise ModelError(message)


def require_all_weights(info: dict[str, Any], name: str) -> None:
    """Raise `ModelError` when loading `name` left weights of the model without a value from its files."""
    missing, mismatched = sorted(info.get("missing_keys") or ()), list(info.get("mismatched_keys") or ())
    if missing or mismatched:
        example = missing[0] if missing else mismatched[0][0]
        message = (
            f"the files of {name} lack {len(missing)} of the model's weights and have {len(mismatched)} of another "
            f"shape (for example {example}); they would have random values, so the model is not loaded"
        )
        raise ModelError(message)


def first_line(error: BaseException) -> str:
    """The first line of an error's text: other libraries' errors go on for paragraphs, ours are one line."""
    lines = str(error).strip().splitlines()
    return lines[0].rstrip(".") if lines else type(error).__name__
