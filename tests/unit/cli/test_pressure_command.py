"""`tenure pressure` at tiny sizes: its tables, its files, its exit codes, and its errors before anything is loaded."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("torch")
pytest.importorskip("transformers")

from tenure import models
from tenure.bench import pressure_actions, pressure_scene
from tenure.claims.trace import read_trace
from tenure.cli import main
from tenure.models import LoadedModel, ModelIdentity, tiny_model

SIZES = ["--resident", "24", "--active", "26", "--usable", "44", "--block-size", "4"]


class LetterTokenizer:
    """One id a character."""

    eos_token_id = None

    def encode(self, text: str, *, add_special_tokens: bool) -> list[int]:
        del add_special_tokens
        return [ord(letter) % 128 for letter in text]


@pytest.fixture(autouse=True)
def _tiny(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tokenizer: Any = LetterTokenizer()
    loaded = LoadedModel(tiny_model("llama"), tokenizer, "tiny", ModelIdentity("tiny", "letters"))
    monkeypatch.setattr(models, "load", lambda _name: loaded)
    monkeypatch.chdir(tmp_path)


def tenure(monkeypatch: pytest.MonkeyPatch, *arguments: str, columns: int = 120) -> int:
    """Run the command line as a user does; returns its exit code."""
    monkeypatch.setattr(sys, "argv", ["tenure", "pressure", "--threads", "1", *arguments])
    monkeypatch.setenv("COLUMNS", str(columns))
    with pytest.raises(SystemExit) as ended:
        main()
    return int(ended.value.code or 0)


@pytest.fixture
def _few_actions(monkeypatch: pytest.MonkeyPatch) -> None:
    few = {name: pressure_actions.ACTIONS[name] for name in ("native", "no_admit", "refuse")}
    monkeypatch.setattr(pressure_actions, "ACTIONS", few)


def test_every_action_is_a_row_and_everything_is_written(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    options = ["--fault", "load", "--fault", "host_memory", "--trace", "t.jsonl", "--picture", "p.png"]
    (tmp_path / "t.jsonl").write_text("what was here before\n")
    assert tenure(monkeypatch, *SIZES, *options) == 0
    shown = capsys.readouterr().out
    assert [name for name in pressure_actions.ACTIONS if f"\n{name} " not in shown] == []
    assert "24 + 26 > 44: short by 6" in shown
    assert "lost 6 of 24, silently" in shown
    assert "offloaded 24, demoted" in shown
    assert "block counts, on a tiny model" in shown
    assert "17 rows: no accepted claim was lost without a word" in shown
    assert (tmp_path / "p.png").read_bytes().startswith(b"\x89PNG")
    assert len({event.run_id for event in read_trace(tmp_path / "t.jsonl")}) == 17


def test_the_table_fits_80_columns(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    assert tenure(monkeypatch, *SIZES, columns=80) == 0
    shown = capsys.readouterr().out
    assert max(map(len, shown.splitlines())) <= 80
    assert "bound_active_live" in shown
    assert "…" not in shown


@pytest.mark.usefixtures("_few_actions")
def test_an_exact_answer_that_is_not_the_cold_one_ends_with_1(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    cold = pressure_scene.cold_answers

    def another(scene: pressure_scene.Scene) -> pressure_scene.ColdAnswers:
        return replace(cold(scene), active=(1,) * 16)

    monkeypatch.setattr(pressure_scene, "cold_answers", another)
    assert tenure(monkeypatch, *SIZES) == 1
    assert "native: an exact answer is not the cold one" in capsys.readouterr().out


@pytest.mark.usefixtures("_few_actions")
def test_a_claim_that_was_lost_silently_ends_with_1(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run = pressure_actions.run_action
    monkeypatch.setattr(
        pressure_actions,
        "run_action",
        lambda name, *scene, **options: replace(run(name, *scene, **options), lost_silently=name == "refuse"),
    )
    assert tenure(monkeypatch, *SIZES) == 1
    assert "refuse: an accepted claim was lost without a word" in capsys.readouterr().out


WRONG = [
    (["--active", "90"], "the request needs 90 blocks and 80 are usable"),
    (["--resident", "90"], "its claim would be rejected, short by 10"),
    (["--usable", "130"], "60 + 70 blocks fit into 130: nobody has to give way"),
    (["--block-size", "0"], "sizes count from 1"),
    (["--fault", "flood"], "'flood' is no fault; use one of save, load, corrupt, lose, host_memory"),
    (["--picture", "no/such/folder/x.png"], "does not exist"),
    (["--picture", "x.txt"], "is no picture"),
    (["--trace", "no/such/folder/x.jsonl"], "does not exist"),
    (["--threads", "0"], "threads"),
    (["--usable", "many"], "valid integer"),
]


@pytest.mark.parametrize(("arguments", "said"), WRONG, ids=[" ".join(wrong[0]) for wrong in WRONG])
def test_wrong_input_is_one_line_and_exit_code_2_before_a_model_is_loaded(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    arguments: list[str],
    said: str,
) -> None:
    monkeypatch.setattr(models, "load", lambda *_arguments: pytest.fail("a model was loaded"))
    assert tenure(monkeypatch, *arguments) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert said in captured.err
    assert len(captured.err.strip().splitlines()) == 1
    assert list(tmp_path.iterdir()) == []
