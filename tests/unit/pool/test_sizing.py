from __future__ import annotations

from pathlib import Path

import pytest
import torch

from tenure.errors import PoolSizeError
from tenure.pool import PoolSizing, available_host_bytes, free_device_bytes, size_pool
from tenure.pool import sizing as sizing_module

GIB = 2**30
KIB = 2**10


def size(
    wanted: object, *, context_rows: int = 8192, row_bytes: int = 80 * KIB, free_bytes: int | None = 24 * GIB
) -> PoolSizing:
    return size_pool(
        wanted,  # type: ignore[arg-type]
        block_size=64,
        row_bytes=row_bytes,
        context_rows=context_rows,
        free_bytes=free_bytes,
    )


@pytest.mark.parametrize(
    ("wanted", "rows"),
    [
        ("auto", 8192),
        ("25%", 2048),
        ("12.5%", 1024),
        ("100%", 8192),
        ("4096", 4096),
        (4096, 4096),
        ("512", 512),
        (448, 448),
        (449, 512),
        ("4097", 4160),
        ("00512", 512),
    ],
)
def test_a_size_that_is_one_is_taken_in_whole_blocks(wanted: object, rows: int) -> None:
    assert size(wanted).capacity_rows == rows


@pytest.mark.parametrize(
    "wanted",
    [
        *("12abc", "-1", "1e3", " 512 ", "512 ", "\n512", "+512", "5_12", "0x200", "512.0", "", "rows", "AUTO", "Auto"),
        *("%", "25 %", "25%%", "-25%", "1e1%", ".5%", "nan%", "٤٠٩٦", "²⁵%", "9" * 5000, "auto ", "%25"),
    ],
)
def test_what_is_no_size_is_refused_with_what_was_expected(wanted: str) -> None:
    with pytest.raises(PoolSizeError, match=r"is not a size; expected rows such as '4096', a share such as '25%', or"):
        size(wanted)


@pytest.mark.parametrize("wanted", [True, False, None, 512.0, 0.25, b"512", ["512"]])
def test_what_is_no_number_and_no_text_is_refused(wanted: object) -> None:
    with pytest.raises(PoolSizeError, match=r"expected a number of rows, a share such as '25%', or 'auto'"):
        size(wanted)


@pytest.mark.parametrize("wanted", ["101%", "0%", "0.0%", "100.01%", "1000%"])
def test_a_share_outside_the_context_is_refused(wanted: str) -> None:
    with pytest.raises(PoolSizeError, match=f"pool {wanted}: a share must be above 0% and at most 100%"):
        size(wanted)


@pytest.mark.parametrize("wanted", ["0", 0, "1", 300, "447", "1%"])
def test_a_pool_below_the_minimum_is_refused_with_the_minimum(wanted: object) -> None:
    with pytest.raises(PoolSizeError, match=r"below the minimum of 448 rows: 1 sink and 4 tail blocks.*at least 448"):
        size(wanted)


def test_a_negative_number_is_refused() -> None:
    with pytest.raises(PoolSizeError, match="'-1' is not a size"):
        size(-1)


# KVFlash's examples of its automatic size, in whole blocks of 64 where it rounds to 256, with its fixed reserve.


@pytest.mark.parametrize(
    ("context_rows", "free_bytes", "row_bytes", "rows"),
    [
        (131072, int(8.3 * GIB), 14 * KIB, 16384),
        (131072, int(7.5 * GIB), 20 * KIB, 16384),
        (131072, 12 * GIB, 80 * KIB, 16384),
        (131072, int(2.5 * GIB), 80 * KIB, 6528),
        (8192, 24 * GIB, 80 * KIB, 8192),
    ],
)
def test_auto_takes_half_of_what_is_left_and_at_most_the_context_and_16384(
    context_rows: int, free_bytes: int, row_bytes: int, rows: int
) -> None:
    sized = size("auto", context_rows=context_rows, free_bytes=free_bytes, row_bytes=row_bytes)
    assert sized.capacity_rows == rows
    assert f"{row_bytes} bytes a row" in sized.notes[0]
    assert "1,536.0 MiB reserve" in sized.notes[0]


@pytest.mark.parametrize("free_bytes", [0, GIB, 3 * 2**29, 3 * 2**29 + 100])
def test_auto_without_memory_is_an_error_and_never_off(free_bytes: int) -> None:
    with pytest.raises(PoolSizeError, match=r"below the minimum of 448 rows"):
        size("auto", free_bytes=free_bytes)


def test_auto_on_a_device_that_does_not_say_asks_for_a_number() -> None:
    with pytest.raises(PoolSizeError, match="free memory of this device is unknown; name a number of rows"):
        size("auto", free_bytes=None)


def test_auto_for_a_short_context_is_an_error_and_not_below_the_minimum() -> None:
    with pytest.raises(PoolSizeError, match="below the minimum of 448 rows"):
        size("auto", context_rows=300)


def test_a_pool_above_memory_is_refused_with_what_would_fit() -> None:
    with pytest.raises(PoolSizeError, match=r"4096 rows of 81920 bytes = 320.0 MiB, but only 100.0 MiB.*at most 1280"):
        size("4096", free_bytes=100 * 2**20)


def test_a_pool_above_memory_is_not_advised_to_be_below_the_minimum() -> None:
    with pytest.raises(PoolSizeError, match=r"only 10.0 MiB of device memory is free; free device memory$"):
        size("512", free_bytes=10 * 2**20)


def test_a_pool_that_nobody_can_check_is_taken_at_its_word() -> None:
    assert size("4096", free_bytes=None).capacity_rows == 4096


@pytest.mark.parametrize(("wanted", "rows"), [("4097", 4160), ("33.3%", 2752), (500, 512)])
def test_every_adjustment_is_announced(wanted: object, rows: int) -> None:
    notes = "\n".join(size(wanted).notes)
    assert f"to {rows}, a multiple of the block size 64" in notes
    assert f"pool: {rows} rows = {rows // 64} blocks of 64" in notes


def test_a_share_says_of_what() -> None:
    assert "25% of a context of 8192 rows = 2048 rows" in size("25%").notes


def test_more_protection_raises_the_minimum() -> None:
    with pytest.raises(PoolSizeError, match=r"below the minimum of 768 rows: 1 sink and 9 tail blocks"):
        size_pool(512, block_size=64, row_bytes=1, context_rows=8192, free_bytes=None, sink_blocks=1, tail_blocks=9)


def test_free_memory_is_asked_of_the_device() -> None:
    available = available_host_bytes()
    measured = free_device_bytes("cpu")
    assert (available is None) == (measured is None)
    assert free_device_bytes("meta") is None


def test_a_machine_without_meminfo_does_not_say(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(sizing_module, "Path", lambda _: tmp_path / "nothing")
    assert available_host_bytes() is None


def test_available_memory_is_read_in_bytes(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "meminfo").write_text("MemTotal:       99 kB\nMemAvailable:   12 kB\n", encoding="ascii")
    monkeypatch.setattr(sizing_module, "Path", lambda _: tmp_path / "meminfo")
    assert available_host_bytes() == 12 * 1024


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_free_memory_of_a_gpu_is_that_of_its_driver() -> None:
    assert 0 < (free_device_bytes("cuda") or 0) <= torch.cuda.mem_get_info()[1]
