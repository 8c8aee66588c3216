"""Wrong input ends in one line on stderr and exit code 2, before anything is loaded or written."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from tenure.cli import main

WRONG = [
    (["bench", "decode", "--json", "no/such/folder/x.json"], "does not exist or may not be written to"),
    (["bench", "decode", "--plot", "x.foo"], "no picture"),
    (["bench", "decode", "--threads", "two"], "valid integer"),
    (["demo", "--frobnicate"], "No such option"),
    (["dance"], "No such command"),
    (["bench", "decode", "--threads", "0"], "threads"),
    (["bench", "transfer", "--model", "no/such-model-anywhere"], "no/such-model-anywhere"),
    (["bench", "transfer", "--dtype", "float3"], "float3"),
    (["demo", "--pool", "40"], "below the minimum of 56 rows"),
    (["demo", "--picture", "no/such/folder/x.png"], "does not exist"),
    (["demo", "--tokens", "many"], "tokens"),
    (["chat", "--policy", "best"], "attention_mass"),
    (["chat", "--pool", "12abc"], "12abc"),
    (["frobnicate"], "frobnicate"),
]


@pytest.mark.parametrize(("arguments", "said"), WRONG, ids=[" ".join(arguments) for arguments, _ in WRONG])
def test_wrong_input_is_one_clear_message_and_exit_code_2(
    arguments: list[str],
    said: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["tenure", *arguments])
    with pytest.raises(SystemExit) as left:
        main()
    assert left.value.code == 2
    assert said in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []
