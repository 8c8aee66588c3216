"""Our cache does not pass on the faults of the native sliding layers beside its pooled ones."""

from __future__ import annotations

import pytest

pytest.importorskip("torch")
pytest.importorskip("transformers")

from tenure.adapters.transformers.driver import run
from tenure.adapters.transformers.operations import CropRows, Extend, Operation, Prefill, RecordPast
from tenure.adapters.transformers.subjects import find_subjects

BESIDE_WINDOWS = ("tenure:PooledCache/gemma3", "tenure:PooledCache/qwen2")


@pytest.mark.parametrize("name", BESIDE_WINDOWS)
@pytest.mark.parametrize(
    "operations",
    [
        (CropRows(0),),
        (Prefill(4), RecordPast(), CropRows(1), Extend()),
        (RecordPast(), Prefill(4), CropRows(0), CropRows(1), Extend()),
    ],
    ids=["nothing written yet", "recording too late", "two crops in a row"],
)
def test_a_crop_beside_native_windows_takes_back_the_last_rows_or_is_refused(
    name: str, operations: tuple[Operation, ...]
) -> None:
    (subject,) = find_subjects(name)
    violation = run(subject, operations).violation
    assert violation is None, str(violation)


@pytest.mark.parametrize("name", BESIDE_WINDOWS)
@pytest.mark.parametrize(
    "operations",
    [
        (RecordPast(), Prefill(4), CropRows(2), Extend(), CropRows(1), Extend()),
        (Prefill(3), CropRows(1), Extend()),
        (Prefill(4), CropRows(1), Extend()),
    ],
    ids=["recorded from the start", "within the window", "refused"],
)
def test_a_crop_beside_native_windows_works_where_they_can_go_back(
    name: str, operations: tuple[Operation, ...]
) -> None:
    (subject,) = find_subjects(name)
    violation = run(subject, operations).violation
    assert violation is None, str(violation)
