"""Which models an engine takes, in which dtypes and on which devices, and which it refuses by name."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from engine_kit import BLOCK_SIZE, Clock
from session_kit import some_ids
from tenure.arbiter.rules import action_policy
from tenure.claims.modes import Outcome
from tenure.errors import GeometryError
from tenure.models.tiny import tiny_model
from tenure.runtime.hf import Engine

PREFIX, QUESTION, OTHER = some_ids(40), some_ids(5, seed=1), some_ids(60, seed=2)


def engine_of(model: Any, **options: Any) -> Engine:
    clock = Clock()
    settings: dict[str, Any] = {"usable_blocks": 20, "block_size": BLOCK_SIZE, "chunk_rows": 16, "host_blocks": 20}
    settings |= {"policy": action_policy({"offloadable": "offload_resident, refuse"}), "poison_released_rows": True}
    return Engine(model, clock=clock, sleep=clock.sleep, **{**settings, **options})


def assert_rows_survive_the_host(model: Any) -> None:
    """Park, offload, restore: the same bytes, and the tokens of a cold run."""
    engine = engine_of(model)
    claim, reading = engine.park(PREFIX, mode="offloadable")
    reading.result()
    held = engine.plane.ledger.held_blocks(claim.claim_id)
    before = sorted(engine.rows.frames.read_block(int(str(block)))[0].sum().item() for block in held)
    engine.submit(OTHER, max_new_tokens=4).result()
    assert claim.receipt.outcome is Outcome.OFFLOADED
    again = engine.submit([*PREFIX, *QUESTION], max_new_tokens=6)
    told = again.result()
    assert again.receipt.tokens is not None
    assert again.receipt.tokens.restored_tokens == len(PREFIX)
    held = engine.plane.ledger.held_blocks(claim.claim_id)
    assert sorted(engine.rows.frames.read_block(int(str(block)))[0].sum().item() for block in held) == before
    assert told == engine_of(model, usable_blocks=60).submit([*PREFIX, *QUESTION], max_new_tokens=6).result()


@pytest.mark.parametrize("family", ["llama", "qwen2", "qwen3", "mistral", "phi3"])
def test_every_family_of_full_attention_is_taken(family: str) -> None:
    assert_rows_survive_the_host(tiny_model(family))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_rows_of_every_dtype_survive_the_host(dtype: torch.dtype) -> None:
    assert_rows_survive_the_host(tiny_model("llama").to(dtype))


@pytest.mark.parametrize("family", ["gemma3", "mistral-sliding"])
def test_a_model_with_sliding_windows_is_refused_by_name(family: str) -> None:
    with pytest.raises(GeometryError, match=r"not full attention but sliding"):
        engine_of(tiny_model(family))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_rows_survive_page_locked_memory_and_come_back_to_a_cuda_device(dtype: torch.dtype) -> None:
    assert_rows_survive_the_host(tiny_model("llama").to("cuda", dtype))
