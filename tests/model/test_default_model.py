"""The real default model, through the user's own cache: fetched by the first test run, offline afterwards."""

from __future__ import annotations

import pytest
import torch

from tenure.models import LoadedModel, load, long_text, text_ids
from tenure.models.fetch import DEFAULT_MODEL
from tenure.runtime.hf.turns import chat_ids

pytestmark = pytest.mark.model


@pytest.fixture(scope="module")
def loaded() -> LoadedModel:
    return load()


def greedy(loaded: LoadedModel, ids: list[int], *, new_tokens: int) -> str:
    answer = loaded.model.generate(torch.tensor([ids]), max_new_tokens=new_tokens, do_sample=False)
    return str(loaded.tokenizer.decode(answer[0, len(ids) :], skip_special_tokens=True))


def test_the_capital_of_france_is_paris(loaded: LoadedModel) -> None:
    ids = loaded.tokenizer.encode("The capital of France is")
    assert greedy(loaded, ids, new_tokens=3).startswith(" Paris")


def test_it_answers_in_its_own_chat_format(loaded: LoadedModel) -> None:
    ids = chat_ids(loaded.tokenizer, [{"role": "user", "content": "What is the capital of France?"}])
    assert all(type(number) is int for number in ids)
    assert loaded.tokenizer.decode(ids).endswith("What is the capital of France?<|im_end|>\n<|im_start|>assistant\n")
    assert ids.count(loaded.tokenizer.bos_token_id) == 3, "system, user and assistant begin once each"
    assert greedy(loaded, ids, new_tokens=10) == "The capital of France is Paris."


def test_it_is_the_model_that_was_pinned(loaded: LoadedModel) -> None:
    assert loaded.identity.model_id == f"gguf:sha256:{DEFAULT_MODEL.member_sha256}"
    config = loaded.model.config
    shape = (config.num_hidden_layers, config.num_attention_heads, config.num_key_value_heads, config.head_dim)
    assert shape == (30, 9, 3, 64)
    assert config.max_position_embeddings == 8192
    assert loaded.model.dtype is torch.float32
    assert loaded.model.num_parameters() == 134_515_008


def test_the_shipped_text_fills_a_context_of_eight_thousand_tokens_many_times(loaded: LoadedModel) -> None:
    ids = text_ids(loaded.tokenizer, 200_000)
    assert len(ids) == 200_000
    once = len(loaded.tokenizer.encode(long_text(), add_special_tokens=False))
    assert once > 65_536, "the text must not repeat within the longest context that is read"
    assert loaded.tokenizer.decode(ids[:50]) == long_text()[: len(loaded.tokenizer.decode(ids[:50]))]
