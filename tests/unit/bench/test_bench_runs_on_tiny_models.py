"""Every bench runs whole on a tiny model: its figures have the promised names, its rows what they were made from."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console

from tenure.bench import decode, transfer
from tenure.bench.plots import plot_report
from tenure.bench.recall import CONTROL, POLICIES, Hits, build_haystack, summarize
from tenure.bench.report import Bar, BenchReport, median
from tenure.bench.timeline import Timeline
from tenure.errors import DiskFullError
from tenure.models.tiny import tiny_model
from tenure.pool import BlockEvicted, BlockRecalled, BlockSealed, Cropped


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="module")
def decode_report() -> BenchReport:
    return decode.run(tiny_model("llama"), contexts=(2048, 8192), steps=6, compiled=False)


def test_decode_reports_every_figure_that_it_can_without_compiling(decode_report: BenchReport) -> None:
    expected = {bar.figure for bar in decode.BARS} - {"decode.compile_gain"}
    expected -= {name for name in expected if name.endswith("_32k")}
    expected |= {"decode.ceiling_8k", "decode.ceiling_default_8k"}
    assert set(decode_report.figures) == expected
    assert decode_report.figures["decode.kv_bytes_ratio"] == 1.0


def test_decode_measures_all_baselines_in_the_same_run(decode_report: BenchReport) -> None:
    arms = {row["arm"] for row in decode_report.rows if row["context_rows"] == 8192 and "ms_per_token" in row}
    baselines = {decode.FLOOR, decode.DYNAMIC, decode.STATIC, decode.STATIC_GROUPED}
    assert arms == {*baselines, decode.POOLED, "pool at 8,192, in turns"}


def test_decode_leaves_the_models_attention_as_it_was() -> None:
    model = tiny_model("llama")
    decode.run(model, contexts=(2048, 4096), steps=2, compiled=False)
    assert model.config._attn_implementation == "sdpa"


def test_a_report_is_written_whole_and_reads_back(decode_report: BenchReport, tmp_path: Path) -> None:
    decode_report.write_json(tmp_path / "report.json")
    read = json.loads((tmp_path / "report.json").read_text())
    assert read["figures"] == decode_report.figures
    assert {"figures", "rows", "environment"} <= set(read)
    assert list(tmp_path.iterdir()) == [tmp_path / "report.json"]


def test_a_report_that_cannot_be_written_says_so_and_leaves_nothing(decode_report: BenchReport, tmp_path: Path) -> None:
    (tmp_path / "taken").mkdir()
    with pytest.raises(DiskFullError, match="could not be written"):
        decode_report.write_json(tmp_path / "taken")
    assert [path.name for path in tmp_path.iterdir()] == ["taken"]


def test_a_report_shows_its_bars_and_whether_they_are_met() -> None:
    report = BenchReport(
        bench="x",
        columns=("arm",),
        bars=(Bar("x.high", at_least=2), Bar("x.low", at_most=1)),
        figures={"x.high": 1.5, "x.low": 0.5},
    )
    console = Console(record=True, width=80)
    report.show(console)
    lines = console.export_text().splitlines()
    assert any("x.high" in line and "not met" in line for line in lines)
    assert any("x.low" in line and "met" in line and "not met" not in line for line in lines)


@pytest.mark.parametrize("bench", ["decode", "transfer"])
def test_plots_are_pictures(bench: str, decode_report: BenchReport, tmp_path: Path) -> None:
    report = decode_report if bench == "decode" else transfer.run(tiny_model("llama"), blocks=4, repeats=2)
    plot_report(report, tmp_path / "plot.png")
    assert (tmp_path / "plot.png").read_bytes().startswith(b"\x89PNG")


def test_transfer_compares_with_a_plain_copy_in_the_same_run() -> None:
    report = transfer.run(tiny_model("llama"), blocks=4, repeats=2)
    assert set(report.figures) == {"transfer.out_ratio", "transfer.in_ratio"}
    assert {row["arm"] for row in report.rows} == {"page out", "plain copy out", "page in", "plain copy in"}


class LetterTokenizer:
    """One id a character, enough for building a haystack."""

    def __len__(self) -> int:
        return 4096

    def encode(self, text: str, *, add_special_tokens: bool) -> list[int]:
        del add_special_tokens
        return [ord(letter) % 256 for letter in text]


def test_a_haystack_has_its_needles_at_their_depths_and_the_asked_number_of_tokens() -> None:
    haystack = build_haystack(LetterTokenizer(), context_rows=2048, seed=3)
    assert haystack.ids.shape == (1, 2048)
    assert len(haystack.needles) == 3
    for depth, needle in zip((0.1, 0.5, 0.9), haystack.needles, strict=True):
        start = round(depth * (2048 - 48))
        assert haystack.ids[0, start : start + 48].tolist() == list(needle)


def hits(policy: str, *values: int, depth: float = 0.1, residency: float | None = 0.25) -> list[Hits]:
    block_size = None if residency is None else 32
    return [Hits(2048, residency, block_size, depth, seed, policy, value) for seed, value in enumerate(values)]


def test_the_worst_ratio_counts_only_cells_where_the_control_finds_12_of_16() -> None:
    report = BenchReport(bench="recall", columns=())
    found = [*hits(CONTROL, 14, 14, residency=None), *hits(CONTROL, 8, 8, residency=None, depth=0.5)]
    for policy in POLICIES:
        found += [*hits(policy, 13, 14), *hits(policy, 0, 0, depth=0.5)]
    summarize(report, found)
    assert report.figures["recall.worst_ratio"] == pytest.approx(13.5 / 14)
    assert [row["counts"] for row in report.rows if row["policy"] == "recency"] == [True, False]


def test_the_middle_value_is_one_that_was_measured() -> None:
    assert median([5.0, 1.0, 3.0, 2.0]) == 2.0


def test_a_timeline_follows_events_and_draws_them() -> None:
    timeline = Timeline(block_size=8)
    events: list[Any] = [
        BlockSealed(block=0, logical_rows=8),
        BlockSealed(block=1, logical_rows=16),
        BlockEvicted(block=0, rows=8, reason="", logical_rows=16),
    ]
    for event in events:
        timeline(event)
    timeline.mark(16)
    timeline(BlockRecalled(block=0, rows=8, reason="", logical_rows=17))
    timeline(Cropped(previous_logical_rows=17, logical_rows=9))
    timeline.mark(9)
    assert timeline.matrix() == [[1, 2], [2, 0]]
    assert "the fact" in timeline.as_text(marked_block=1)
