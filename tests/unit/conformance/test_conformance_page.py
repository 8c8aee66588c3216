from __future__ import annotations

import ast
import importlib.util
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

from tenure.conformance import grade
from tenure.conformance.finding import Status
from tenure.conformance.profiles import Profile
from tenure.conformance.subject import IdentityAsk, RequestAsk, RequestOutcome, Setup, Subject, block_tokens
from tenure.conformance.zoo.toy import ToyRuntime

ROOT = Path(__file__).parents[3]


def build() -> ModuleType:
    spec = importlib.util.spec_from_file_location("build_conformance", ROOT / "docs" / "build_conformance.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_generated_parts_of_the_page_are_current() -> None:
    module = build()
    text = module.PAGE.read_text()
    assert text == module.page(text), "run python docs/build_conformance.py"


def test_the_page_explains_every_status_and_profile() -> None:
    text = build().PAGE.read_text()
    for word in (*Status, *Profile):
        assert re.search(rf"^\| {word.value} \|", text, flags=re.MULTILINE), word


def test_the_subject_of_the_page_is_python_short_and_has_only_methods_of_the_protocol() -> None:
    examples = [
        ast.parse(code) for code in re.findall(r"```python\n(.*?)```", build().PAGE.read_text(), flags=re.DOTALL)
    ]
    classes = [node for tree in examples for node in tree.body if isinstance(node, ast.ClassDef)]
    assert [node.name for node in classes] == ["EngineSubject"]
    methods = {node.name for node in classes[0].body if isinstance(node, ast.FunctionDef)} - {"__init__"}
    assert methods <= {name for name in vars(Subject) if not name.startswith("_")}
    assert classes[0].end_lineno is not None
    assert classes[0].end_lineno - classes[0].lineno < 32


def test_the_toy_is_a_subject() -> None:
    for name in vars(Subject):
        if not name.startswith("_"):
            assert hasattr(ToyRuntime, name)


def test_block_tokens_tell_labels_apart_and_fit_the_vocabulary() -> None:
    seen = {block_tokens(label, block_size=4, vocabulary=50) for label in range(2500)}
    assert len(seen) == 2500
    assert all(0 <= token < 50 and len(tokens) == 4 for tokens in seen for token in tokens)


class MyEngineIsFull(Exception):  # noqa: N818 - the page's name for it
    """The engine of the page's example has no room."""


class MyEngine:
    """The engine of the page's example, made of the toy."""

    def __init__(self, *, num_blocks: int, block_size: int) -> None:
        self.block_size = block_size
        self.allocatable_blocks = num_blocks
        self._toy = ToyRuntime(Setup(usable_blocks=num_blocks, block_size=block_size))

    @property
    def trace(self) -> Sequence[Mapping[str, object]]:
        return self._toy.events()

    def admit(self, request_id: str, tokens: list[int], *, blocks: int, salt: str, keep: bool) -> int:
        heads = tokens[:: self.block_size], tokens[1 :: self.block_size]
        ask = RequestAsk(
            request_id=request_id,
            content=tuple(low + 32_000 * high for low, high in zip(*heads, strict=True)),
            live_blocks=blocks,
            future_reuse=keep,
            identity=IdentityAsk(salt_namespace=salt),
        )
        answer = self._toy.start_request(ask)
        if answer.outcome is RequestOutcome.REFUSED:
            raise MyEngineIsFull(answer.reason)
        return (answer.reused_blocks or 0) * self.block_size

    def run_to_end(self, request_id: str) -> int:
        return (self._toy.finish_request(request_id).reused_blocks or 0) * self.block_size

    def shutdown(self) -> None:
        self._toy.close()


def test_the_subject_of_the_page_can_be_graded_as_what_it_declares() -> None:
    code = next(
        code for code in re.findall(r"```python\n(.*?)```", build().PAGE.read_text(), re.DOTALL) if "class " in code
    )
    names: dict[str, Any] = {"MyEngine": MyEngine, "MyEngineIsFull": MyEngineIsFull}
    exec(compile(code, "docs/conformance.md", "exec"), names)
    verdict = grade(names["EngineSubject"])
    assert verdict.failures == ()
    assert {result.status for result in verdict.results} <= {Status.PASS, Status.NOT_EXPOSED, Status.NOT_APPLICABLE}
    assert next(result.status for result in verdict.results if result.check_id == "L2") is Status.PASS
