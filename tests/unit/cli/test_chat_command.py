"""`tenure chat`, driven by scripts of lines, on a tiny model in a folder."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from session_kit import byte_tokenizer
from tenure.cli.main import build_app
from tenure.errors import ModelError, PolicyError, PoolSizeError, SessionFileError, TenureError, UsageError
from tenure.models import tiny_model
from tenure.runtime.hf import Session
from tenure.runtime.hf.sequence import TokenSequence

OPTIONS = ["--pool", "64", "--max-new-tokens", "6"]
Chat = Callable[..., str]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny Llama and its tokenizer, as `save_pretrained` writes them."""
    where = tmp_path_factory.mktemp("model")
    tiny_model("llama").save_pretrained(where)
    byte_tokenizer().save_pretrained(where)
    return where


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TENURE_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setenv("COLUMNS", "200")


def run(*arguments: str, script: str = "") -> str:
    """The output of a chat that was given a script of lines. Errors come out as they are raised."""
    result = CliRunner().invoke(build_app(), ["chat", *arguments], input=script, catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.stdout


@pytest.fixture
def chat(folder: Path) -> Chat:
    return lambda script, *more: run("--model", str(folder), *OPTIONS, *more, script=script)


def test_a_script_of_lines_is_a_conversation(chat: Chat) -> None:
    output = chat("hello\n\n  \nagain\n")
    assert "you > hello" in output
    assert output.count("tokens/s") == 2
    assert "cut at 6 tokens" in output
    assert "64 rows = 8 blocks of 8" in output


def test_long_turns_move_blocks_to_the_host_and_the_status_line_says_so(chat: Chat) -> None:
    status = [line for line in chat("x" * 300 + "\nmore\n").splitlines() if "tokens/s" in line]
    assert " 0 host" not in status[0]
    assert "moved 0 in, 0 out" not in status[0]


def test_a_saved_chat_goes_on_where_it_was_in_another_process(chat: Chat, folder: Path, tmp_path: Path) -> None:
    file = tmp_path / "a chat"
    straight = chat(f"{'x' * 200}\n/save {file}\nagain\n/where\n")
    restored = run("--model", str(folder), "--max-new-tokens", "6", "--load", str(file), script="again\n/where\n")
    assert f"saved: {file}" in straight
    tail = straight.split("you > again")[1]
    assert _without_speed(restored.split("you > again")[1]) == _without_speed(tail)


def test_load_replaces_the_session_and_a_file_that_cannot_be_used_leaves_it(chat: Chat, tmp_path: Path) -> None:
    good, bad = tmp_path / "good", tmp_path / "bad"
    bad.write_bytes(b"nothing")
    output = chat(f"one\n/save {good}\ntwo\n/load {bad}\n/undo\n/load {good}\n/undo\n")
    assert f"tenure: the session file {bad} cannot be used: it is truncated" in output
    assert output.count("took back") == 2
    assert "0 are left" in output


def test_where_shows_every_block_and_what_scored_best(chat: Chat) -> None:
    output = chat("abcdefghij" * 30 + "\n/where\n")
    cells = "".join(
        line.split()[-1]
        for line in output.splitlines()
        if set(line.split()[-1:][0] if line.split() else " ") <= set("█░▒")
    )
    assert {"█", "░"} <= set(cells)
    assert "host-backed" in output
    assert "scored best" in output


def test_commands_that_fail_say_why_in_one_line_and_the_chat_goes_on(chat: Chat) -> None:
    output = chat("/bogus\n/save\n/policy clairvoyance\n/undo\n/load /nowhere/at/all\né\nhello\n")
    complaints = [line for line in output.splitlines() if line.startswith("tenure: ")]
    assert [
        part in line
        for part, line in zip(
            ["no command", "name of a file", "no policy is called", "no turn", "cannot be read", "no token id"],
            complaints,
            strict=True,
        )
    ] == [True] * 6
    assert output.count("tokens/s") == 1


def test_policy_names_and_changes_the_policy(chat: Chat) -> None:
    output = chat("/policy\nhi\n/policy recency\nhello\n/policy key_bounds\nhello\n", "--policy", "recency")
    assert "policy recency (there are attention_mass" in output
    assert "policy key_bounds" in output
    assert output.count("tokens/s") == 3


def test_help_lists_every_command_and_quit_leaves(chat: Chat) -> None:
    output = chat("/help\n/quit\nnever said\n")
    for command in ("/save FILE", "/load FILE", "/where", "/policy NAME", "/undo", "/help", "/quit"):
        assert command in output
    assert "never said" not in output


def test_two_slashes_say_one(chat: Chat) -> None:
    assert chat("//help\n").count("tokens/s") == 1


def test_a_seed_fixes_a_sampled_chat(chat: Chat) -> None:
    def replies(seed: str) -> str:
        return _without_speed(chat("hello\nagain\n", "--temperature", "1.0", "--top-p", "0.9", "--seed", seed))

    assert replies("1") == replies("1")
    assert replies("1") != replies("2")


@pytest.mark.parametrize("presses", [1, 2])
def test_ctrl_c_stops_the_reply_and_not_the_chat(chat: Chat, monkeypatch: pytest.MonkeyPatch, presses: int) -> None:
    forward, calls = TokenSequence.forward, []

    def interrupted(sequence: TokenSequence, ids: list[int]) -> Any:
        calls.append(len(ids))
        if len(ids) == 1 and calls.count(1) == 4:
            for _ in range(presses):
                signal.raise_signal(signal.SIGINT)
        return forward(sequence, ids)

    monkeypatch.setattr(TokenSequence, "forward", interrupted)
    before = signal.getsignal(signal.SIGINT)
    output = chat("hello\nagain\n", "--max-new-tokens", "30")
    first, second = output.split("you > again")
    assert "stopped" in first
    assert "tokens/s" in second
    assert "stopped" not in second
    assert signal.getsignal(signal.SIGINT) is before


def test_ctrl_c_at_the_prompt_leaves(chat: Chat, monkeypatch: pytest.MonkeyPatch) -> None:
    from tenure.cli.conversation import Conversation

    class Lines:
        def readline(self) -> str:
            raise KeyboardInterrupt

    made = Conversation.__init__

    def with_lines(self: Conversation, *arguments: Any, **options: Any) -> None:
        made(self, *arguments, **{**options, "lines": Lines()})

    monkeypatch.setattr(Conversation, "__init__", with_lines)
    assert "tokens/s" not in chat("")


def test_what_a_model_says_cannot_command_the_terminal(chat: Chat, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Session, "say", lambda *_args, **_options: iter(["a\x1b[2Jb\n", "\x07"]))
    assert "a\N{REPLACEMENT CHARACTER}[2Jb\n\N{REPLACEMENT CHARACTER}" in chat("hi\n")


def test_a_context_past_the_trained_limit_is_announced_and_the_chat_goes_on(chat: Chat) -> None:
    output = chat("hello\n", "--context", "9000")
    assert "note: --context 9000 is past the 8192 tokens" in output
    assert "tokens/s" in output


def test_a_conversation_that_outgrows_its_model_says_so_once(folder: Path, tmp_path: Path) -> None:
    model = tiny_model("llama")
    model.config.max_position_embeddings = 96
    model.save_pretrained(tmp_path / "short")
    byte_tokenizer().save_pretrained(tmp_path / "short")
    output = run("--model", str(tmp_path / "short"), *OPTIONS, script="x" * 100 + "\nhello\n")
    assert output.count("note: the context grows to") == 1
    assert output.count("tokens/s") == 2


WRONG: list[tuple[list[str], type[TenureError], str]] = [
    (["--policy", "clairvoyance"], PolicyError, "no policy is called 'clairvoyance'"),
    (["--pool", "12abc"], PoolSizeError, "'12abc' is not a size"),
    (["--pool", "8"], PoolSizeError, "below the minimum"),
    (["--pool", "10%", "--context", "100"], PoolSizeError, "below the minimum"),
    (["--context", "0"], UsageError, "--context is 0"),
    (["--max-new-tokens", "0"], UsageError, "--max-new-tokens is 0"),
    (["--temperature", "-1"], UsageError, "temperature is -1"),
    (["--top-p", "0"], UsageError, "top_p is 0"),
    (["--load", "/nowhere/at/all"], SessionFileError, "cannot be read: No such file"),
    (["--load", "x", "--pool", "64"], UsageError, "--pool cannot be given with --load"),
]


@pytest.mark.parametrize(("arguments", "error", "message"), WRONG, ids=[" ".join(wrong[0]) for wrong in WRONG])
def test_wrong_input_is_refused_before_a_model_is_loaded(
    monkeypatch: pytest.MonkeyPatch, arguments: list[str], error: type[TenureError], message: str
) -> None:
    from tenure import models

    monkeypatch.setattr(models, "load", lambda *_args, **_options: pytest.fail("a model was loaded"))
    with pytest.raises(error, match=message):
        run(*arguments)


def test_wrong_input_is_one_line_and_exit_code_2() -> None:
    command = [sys.executable, "-c", "from tenure.cli import main; main()", "chat", "--max-new-tokens", "0"]
    done = subprocess.run(command, input="", capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "tenure: --max-new-tokens is 0; a reply has at least 1 token\n"


def test_an_unknown_model_is_refused(tmp_path: Path) -> None:
    (tmp_path / "no-model").mkdir()
    with pytest.raises(ModelError, match=r"has no config\.json"):
        run("--model", str(tmp_path / "no-model"))


def _without_speed(output: str) -> str:
    import re

    return re.sub(r"[\d.]+ tokens/s", "tokens/s", output)
