"""Write a scorer of your own: here, one that keeps the blocks that contain a word you care about.

Run: python examples/03_own_scorer.py
"""

from __future__ import annotations

import torch

from tenure.kv.residency import ResidencyView
from tenure.models import load, text_ids
from tenure.policy import SCORERS, KeySource, Policy, RecentQueries
from tenure.runtime.hf import Session


class KeepsWord:
    """Scores a block 1 if the session's text has the word there, else by its age: newer is better, below 1."""

    name = "keeps_word"
    query_rows = 0  # needs none of the model's queries
    word = "bakery"
    session: Session | None = None

    def score(self, view: ResidencyView, keys: KeySource, queries: RecentQueries) -> list[float]:
        """One number a block; higher is worth more."""
        scores = [block.index / (len(view.blocks) + 1) for block in view.blocks]
        for place in self.session.where() if self.session else ():
            if self.word in self.session.text_of(place):
                scores[place.index] = 1.0
        return scores

    def forget(self, first_block: int) -> None:
        """Nothing is remembered between calls."""


def main() -> None:
    """Read a text through a small pool and see which blocks stay."""
    torch.set_num_threads(2)
    SCORERS[KeepsWord.name] = KeepsWord
    loaded = load()
    session = Session(loaded.model, loaded.tokenizer, pool=256, policy=Policy(KeepsWord.name))
    KeepsWord.session = session
    filler = text_ids(loaded.tokenizer, 900)
    session.append(filler[:100])
    session.append(" The pass code for the bakery door is 48213. ")
    session.append(filler[100:])
    print(session.reselect())
    for place in session.where():
        if "bakery" in session.text_of(place):
            print(
                f"block {place.index} (positions {place.first_position}-{place.stop_position - 1}): {place.residence.value}"
            )


if __name__ == "__main__":
    main()
