"""Choosing the next token from logits: greedy, or sampled with a temperature and a nucleus."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from tenure.errors import UsageError


@dataclass(frozen=True, slots=True)
class Sampling:
    """How tokens are chosen: `temperature` 0 is greedy; `top_p` keeps the smallest set of tokens with that mass."""

    temperature: float = 0.0
    top_p: float = 1.0

    def __post_init__(self) -> None:
        if not 0 <= self.temperature < float("inf"):
            raise UsageError(f"temperature is {self.temperature}; expected 0 (greedy) or more")
        if not 0 < self.top_p <= 1:
            raise UsageError(f"top_p is {self.top_p}; expected above 0 and at most 1")


GREEDY = Sampling()


def pick_token(logits: torch.Tensor, sampling: Sampling, generator: torch.Generator) -> int:
    """The next token's id, from logits `[V]`. Greedy picks draw nothing from `generator`; others draw one number.

    The nucleus is that of Holtzman et al. (arXiv 1904.09751): tokens by descending probability, up to and including the
    one that reaches `top_p`. Computed in float32 on the generator's device (the CPU), so that a seed means the same on
    every device that gives the same logits.
    """
    if sampling.temperature == 0:
        return int(logits.argmax())
    scaled = logits.detach().to(generator.device, torch.float32) / sampling.temperature
    probabilities, order = scaled.softmax(dim=-1).sort(descending=True, stable=True)
    before = probabilities.cumsum(dim=-1) - probabilities
    nucleus = probabilities.masked_fill(before >= sampling.top_p, 0.0)
    return int(order[torch.multinomial(nucleus, 1, generator=generator)])
