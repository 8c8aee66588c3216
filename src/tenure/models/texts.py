"""Real English that ships with every Python: the language reference in `pydoc_data.topics`, made fit to read.

It is what the demo, the benches and the tests feed to a model, so that none of them needs a data set. The text is that
of the running Python's documentation: the same on every machine with the same minor version, slightly different between
versions. Python 3.11 gives 338,501 characters, 84,840 tokens of SmolLM2, before anything repeats.
"""

from __future__ import annotations

import functools
import random
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tenure.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from transformers import PreTrainedTokenizerBase

#: Underlines of headings and frames of tables: punctuation only, three or more of the same kind in a row.
_RULER = re.compile(r"\s*[+|]?([*=~^\"#+-])\1{2,}[\s*=~^\"#+|-]*")
_TABLE_ROW = re.compile(r"\s*\|.*\|")
#: Paragraphs below this many characters (headings, one-word examples) say nothing about where a topic was copied from.
_TELLING_CHARACTERS = 60


@dataclass(frozen=True, slots=True)
class Topic:
    """One topic of the language reference, without tables, rulers and repeated blank lines."""

    name: str
    text: str


def _clean(raw: str) -> str:
    lines = (line.rstrip() for line in raw.splitlines())
    kept = (line for line in lines if not _RULER.fullmatch(line) and not _TABLE_ROW.fullmatch(line))
    return re.sub(r"\n{3,}", "\n\n", "\n".join(kept)).strip()


def _telling_paragraphs(text: str) -> set[str]:
    paragraphs = (" ".join(paragraph.split()) for paragraph in text.split("\n\n"))
    return {paragraph for paragraph in paragraphs if len(paragraph) >= _TELLING_CHARACTERS}


@functools.cache
def topics() -> tuple[Topic, ...]:
    """Every topic once, by name, cleaned; topics that are copies of a part of a longer topic are left out.

    Raises `UsageError` where the running Python was installed without `pydoc_data`. Computed once per process (0.02 s).
    """
    try:
        from pydoc_data.topics import topics as raw_topics
    except ImportError as error:
        message = (
            "this Python was installed without pydoc_data.topics, the text that the demo and the benches read; "
            "install the complete standard library"
        )
        raise UsageError(message) from error
    cleaned = [Topic(name, _clean(raw)) for name, raw in raw_topics.items()]
    seen: set[str] = set()
    kept = []
    for topic in sorted(cleaned, key=lambda topic: (-len(topic.text), topic.name)):
        paragraphs = _telling_paragraphs(topic.text)
        if not paragraphs or paragraphs <= seen:
            continue
        seen |= paragraphs
        kept.append(topic)
    return tuple(sorted(kept, key=lambda topic: topic.name))


def _shuffled(seed: int) -> list[Topic]:
    order = list(topics())
    random.Random(seed).shuffle(order)
    return order


def long_text(*, seed: int = 0) -> str:
    """All topics once, in the order that `seed` fixes, separated by blank lines."""
    return "\n\n".join(topic.text for topic in _shuffled(seed))


def _pieces(seed: int) -> Iterator[str]:
    order = _shuffled(seed)
    while True:
        for topic in order:
            yield topic.text + "\n\n"


def text_ids(tokenizer: PreTrainedTokenizerBase, logical_rows: int, *, seed: int = 0) -> list[int]:
    """Exactly `logical_rows` token ids of the text, without special tokens.

    The topics follow one another in the order that `seed` fixes, and start again when all have been used, so no topic
    ever follows itself. The same arguments give the same ids, and a longer answer starts with the shorter one. Cost:
    linear in `logical_rows`; only as many topics are tokenised as are needed. A negative number raises `UsageError`.
    """
    if logical_rows < 0:
        message = f"logical_rows is {logical_rows}; a number of tokens cannot be negative"
        raise UsageError(message)
    ids: list[int] = []
    for piece in _pieces(seed):
        if len(ids) >= logical_rows:
            break
        ids += tokenizer.encode(piece, add_special_tokens=False)
    return ids[:logical_rows]
