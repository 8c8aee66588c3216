"""The examples run, on the real default model, and show what they say they show."""

from __future__ import annotations

import re
import runpy
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[2] / "examples"


def shown(name: str, capsys: pytest.CaptureFixture[str], *arguments: int) -> str:
    runpy.run_path(str(EXAMPLES / name))["main"](*arguments)
    return capsys.readouterr().out


@pytest.mark.model
def test_generate_reads_a_prompt_longer_than_the_pool(capsys: pytest.CaptureFixture[str]) -> None:
    output = shown("01_generate.py", capsys, 800)
    rows = re.search(r"(\d+) rows in the context, (\d+) of at most 512", output)
    assert rows is not None
    assert int(rows[1]) > 800
    assert int(rows[2]) <= 512


@pytest.mark.model
def test_a_long_chat_answers_from_its_start_and_from_its_file(capsys: pytest.CaptureFixture[str]) -> None:
    output = shown("02_long_chat.py", capsys, 800)
    assert "Anna's dog is called Biscuit" in output
    assert output.count("Anna's cat is called Pepper") == 2
    assert "agrees: True" in output
    assert not re.search(r"blocks, 0 of them", output)


@pytest.mark.model
def test_a_scorer_of_ones_own_keeps_the_block_with_the_word(capsys: pytest.CaptureFixture[str]) -> None:
    output = shown("03_own_scorer.py", capsys)
    places = re.findall(r"block \d+ \(positions \d+-\d+\): (\S+)", output)
    assert places
    assert set(places) == {"resident"}


@pytest.mark.parametrize("path", sorted(EXAMPLES.glob("*.py")), ids=lambda path: path.name)
def test_an_example_fits_a_screen(path: Path) -> None:
    assert len(path.read_text(encoding="utf-8").splitlines()) < 60


@pytest.mark.model
def test_two_tenants_share_a_pool_and_each_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    output = shown("04_many_sessions.py", capsys)
    assert "reused 592 tokens" in output
    assert "claim claim-1: offloaded" in output
    assert "the same answer: True" in output
    assert "restored 592 tokens" in output
