from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

pytest.importorskip("torch")
pytest.importorskip("transformers")

from tenure.cli import main


def tenure(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    """Run the command line as a user does; returns its exit code."""
    monkeypatch.setattr(sys, "argv", ["tenure", *arguments])
    monkeypatch.setenv("COLUMNS", "200")
    with pytest.raises(SystemExit) as ended:
        main()
    return int(ended.value.code or 0)


def test_a_cache_that_keeps_the_rules_ends_with_0_and_a_table(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert tenure(monkeypatch, "check", "transformers:StaticCache/mistral", "--seeds", "5") == 0
    shown = capsys.readouterr().out
    assert "KV-READ-COMPLETE" in shown
    assert "not exercised" in shown  # it offers no crop
    assert "0 of 5 runs broke a rule." in shown


def test_a_broken_rule_ends_with_1_and_shows_the_witness(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    target = tmp_path / "verdicts.json"
    name = "transformers:QuantizedCache/fp8"
    assert tenure(monkeypatch, "check", name, "transformers:DynamicCache", "--seeds", "20", "--json", str(target)) == 1
    shown = capsys.readouterr().out
    assert "KV-APPEND, witness 1" in shown
    assert "2. decode 1 row, 2 times as large as the prefill's" in shown
    assert shown.index("transformers:DynamicCache:") < shown.index("broken rules")  # the summary comes last
    assert name in shown[shown.index("broken rules") :]
    record = json.loads(target.read_text())
    assert set(record["environment"]) == {"tenure", "python", "torch", "transformers"}
    assert [subject["subject"] for subject in record["subjects"]] == [name, "transformers:DynamicCache"]
    (append,) = [rule for rule in record["subjects"][0]["rules"] if rule["rule"] == "KV-APPEND"]
    assert append["outcome"] == "broken"
    assert append["witnesses"][0]["operations"][0] == "prefill 1 row of 1 sequence"
    assert list(tmp_path.iterdir()) == [target]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["check"], "--list"),
        (["check", "transformers:NoSuchCache"], "transformers:StaticCache"),
        (["check", "transformers:DynamicCache", "--seeds", "0"], "seeds"),
        (["check", "transformers:DynamicCache", "--json", "/no/such/folder/file.json"], "/no/such/folder/file.json"),
    ],
)
def test_wrong_input_ends_with_2_and_says_what_to_do(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], arguments: list[str], words: str
) -> None:
    assert tenure(monkeypatch, *arguments) == 2
    captured = capsys.readouterr()
    assert words in captured.err
    assert captured.out == ""


def test_a_check_in_which_everything_was_skipped_is_no_success(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from tenure.adapters.transformers import stock

    monkeypatch.setattr(stock, "_missing_backend", lambda backend: f"{backend} is not here")
    assert tenure(monkeypatch, "check", "transformers:QuantizedCache/quanto") == 2
    assert "quanto is not here" in capsys.readouterr().err


def test_the_list_names_every_cache(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    from tenure.adapters.transformers.subjects import all_subjects

    assert tenure(monkeypatch, "check", "--list") == 0
    shown = capsys.readouterr().out
    assert [subject.name for subject in all_subjects() if subject.name not in shown] == []


def test_only_several_caches_are_summed_up_and_a_pipe_sees_no_progress(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert tenure(monkeypatch, "check", "transformers:StaticCache/mistral", "--seeds", "1") == 0
    captured = capsys.readouterr()
    assert "broken rules" not in captured.out
    assert captured.out.startswith("transformers:StaticCache/mistral: three sliding layers")
    assert captured.err == ""
