"""What the tests of `tenure.models` share: a cache of their own, a reporter that remembers, a tiny GGUF file."""

from __future__ import annotations

from pathlib import Path

import pytest
from models_fakes import RecordingReporter, write_gguf

from tenure.models.tiny import tiny_model


@pytest.fixture
def reporter() -> RecordingReporter:
    return RecordingReporter()


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache folder, which this test's process uses."""
    monkeypatch.setenv("TENURE_CACHE_DIR", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture(scope="session")
def tiny_gguf(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A GGUF file with the weights of `tiny_model("qwen2")`."""
    return write_gguf(tmp_path_factory.mktemp("gguf") / "Tiny Qwen2.F32.gguf", tiny_model("qwen2"))
