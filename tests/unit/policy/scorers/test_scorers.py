"""Each scorer against its formula, computed slowly and in the open, for mixed layer shapes and grouped query heads."""

from __future__ import annotations

import math

import pytest
import torch

from tenure.errors import PolicyError
from tenure.kv.residency import BlockIndex, BlockView, ResidencyView
from tenure.policy import SCORERS, KeyGroup, RecentQueries, Scorer, make_scorer

BLOCK = 4
#: Layer by layer: key-value heads, query heads a key-value head, head dim.
LAYERS = ((2, 3, 4), (1, 2, 6), (2, 3, 4))
WINDOW = 3


class Keys:
    """Random keys of every block; the last block is a head that is not full."""

    def __init__(self, *, blocks: int, head_rows: int = 2, seed: int = 0, dtype: torch.dtype = torch.float32) -> None:
        generator = torch.Generator().manual_seed(seed)
        rows = [BLOCK] * blocks + ([head_rows] if head_rows else [])
        self.by_layer = [
            [torch.randn(heads, count, dim, generator=generator).to(dtype) for count in rows]
            for heads, _, dim in LAYERS
        ]
        self.queries = RecentQueries(
            by_layer=tuple(
                torch.randn(heads * share, WINDOW, dim, generator=generator) for heads, share, dim in LAYERS
            ),
            scaling=tuple(dim**-0.5 for _, _, dim in LAYERS),
        )
        self.rows = rows
        self.asked: list[int] = []

    def block_keys(self, block: int) -> list[KeyGroup]:
        self.asked.append(block)
        return [
            KeyGroup(layers=layers, keys=torch.stack([self.by_layer[layer][block] for layer in layers]))
            for layers in ((0, 2), (1,))
        ]

    @property
    def view(self) -> ResidencyView:
        blocks = tuple(
            BlockView(index=BlockIndex(i), written_rows=rows, resident_rows=rows, host_backed=True, protected=False)
            for i, rows in enumerate(self.rows)
        )
        return ResidencyView(
            epoch=0,
            block_size=BLOCK,
            logical_rows=sum(self.rows),
            resident_rows=sum(self.rows),
            capacity_rows=999,
            appending_rows=0,
            blocks=blocks,
        )

    def score(self, scorer: Scorer) -> list[float]:
        return scorer.score(self.view, self, self.queries)


def slow_masses(keys: Keys, *, decay: float) -> list[list[float]]:
    """[layer][block]: the decayed maximum over heads and queries of softmax mass over all rows of all blocks."""
    by_layer = []
    for layer, (heads, share, _) in enumerate(LAYERS):
        rows = torch.cat(keys.by_layer[layer], dim=1)
        best = [0.0] * len(keys.rows)
        for query_head in range(heads * share):
            seen = [0.0] * len(keys.rows)
            for age in range(WINDOW):
                query = keys.queries.by_layer[layer][query_head, WINDOW - 1 - age]
                logits = (rows[query_head // share] @ query) * keys.queries.scaling[layer]
                mass = logits.softmax(dim=0)
                for block, count in enumerate(keys.rows):
                    found = decay**age * float(mass[block * BLOCK : block * BLOCK + count].sum())
                    seen[block] = max(seen[block], found)
            best = [max(pair) for pair in zip(best, seen, strict=True)]
        by_layer.append(best)
    return by_layer


@pytest.mark.parametrize("decay", [1.0, 0.5])
@pytest.mark.parametrize("combine", ["max", "mean", "top"])
def test_attention_mass_is_the_softmax_over_all_rows_summed_a_block(combine: str, decay: float) -> None:
    keys = Keys(blocks=5)
    options: dict[str, object] = {"combine": combine, "decay": decay, "top_layers": 2, "query_rows": WINDOW}
    scorer = make_scorer("attention_mass", near_rows=0, **options)
    by_block = list(zip(*slow_masses(keys, decay=decay), strict=True))
    wanted = {
        "max": [max(masses) for masses in by_block],
        "mean": [sum(masses) / len(masses) for masses in by_block],
        "top": [sum(sorted(masses)[-2:]) / 2 for masses in by_block],
    }[combine]
    assert keys.score(scorer) == pytest.approx(wanted, rel=1e-5)


def test_attention_mass_finds_the_block_that_one_head_of_one_layer_looks_at() -> None:
    keys = Keys(blocks=6)
    keys.by_layer[1][3][0, 2] = 40 * keys.queries.by_layer[1][1, -1]
    scores = keys.score(make_scorer("attention_mass", query_rows=WINDOW))
    assert max(range(len(scores)), key=scores.__getitem__) == 3


def test_what_stands_next_to_a_match_inherits_from_it_on_both_sides() -> None:
    keys = Keys(blocks=7)
    keys.by_layer[1][3][0, 2] = 40 * keys.queries.by_layer[1][1, -1]
    plain = keys.score(make_scorer("attention_mass", query_rows=WINDOW, near_rows=0))
    near = keys.score(make_scorer("attention_mass", query_rows=WINDOW, near_rows=2 * BLOCK, near_share=0.25))
    # Towards the front a block shorter than 16 rows counts as 16.
    before = 0.25 ** (16 / (2 * BLOCK))
    assert near[3] == plain[3]
    assert near[4] == pytest.approx(max(plain[4], 0.5 * plain[3]))
    assert near[5] == pytest.approx(max(plain[5], 0.25 * plain[3]))
    assert near[2] == pytest.approx(max(plain[2], before * plain[3]))
    assert near[1] == plain[1]


def test_key_bounds_are_an_upper_bound_and_the_formula() -> None:
    keys = Keys(blocks=4)
    scores = keys.score(make_scorer("key_bounds"))
    for block in range(len(keys.rows)):
        bounds, exact = [], []
        for layer, (heads, share, dim) in enumerate(LAYERS):
            of_heads, logits = [], []
            for query_head in range(heads * share):
                rows = keys.by_layer[layer][block][query_head // share]
                query = keys.queries.by_layer[layer][query_head, -1] * keys.queries.scaling[layer]
                of_heads.append(
                    sum(max(float(query[c] * rows[:, c].min()), float(query[c] * rows[:, c].max())) for c in range(dim))
                )
                logits.append(float((rows @ query).max()))
            bounds.append(max(of_heads))
            exact.append(max(logits))
        assert scores[block] == pytest.approx(sum(bounds) / len(bounds), rel=1e-5)
        assert scores[block] >= sum(exact) / len(exact) - 1e-6


def test_pooled_cosine_is_the_formula_and_ignores_the_querys_size() -> None:
    keys = Keys(blocks=4)
    scores = keys.score(make_scorer("pooled_cosine"))
    for block in range(len(keys.rows)):
        of_layers = []
        for layer, (heads, share, _) in enumerate(LAYERS):
            cosines = []
            for query_head in range(heads * share):
                pooled = keys.by_layer[layer][block][query_head // share].sum(dim=0)
                query = keys.queries.by_layer[layer][query_head, -1]
                cosines.append(float(torch.cosine_similarity(pooled, query, dim=0)))
            of_layers.append(max(cosines))
        assert scores[block] == pytest.approx(sum(of_layers) / len(of_layers), abs=1e-4)
        assert -1 <= scores[block] <= 1
    larger = tuple(37.5 * query for query in keys.queries.by_layer)
    keys.queries = RecentQueries(by_layer=larger, scaling=keys.queries.scaling)
    assert keys.score(make_scorer("pooled_cosine")) == pytest.approx(scores, abs=1e-5)


def test_recency_scores_by_position_and_needs_nothing() -> None:
    keys = Keys(blocks=3)
    scorer = make_scorer("recency")
    assert keys.score(scorer) == [0.0, 1.0, 2.0, 3.0]
    assert (scorer.query_rows, keys.asked) == (0, [])


@pytest.mark.parametrize("name", ["attention_mass", "pooled_cosine", "key_bounds"])
def test_without_a_query_every_block_is_unknown(name: str) -> None:
    keys = Keys(blocks=3)
    keys.queries = RecentQueries(by_layer=(), scaling=())
    assert all(math.isnan(score) for score in keys.score(make_scorer(name)))


@pytest.mark.parametrize("name", sorted(SCORERS))
def test_every_scorer_answers_one_finite_number_a_block_also_for_half_precision_keys(name: str) -> None:
    for dtype in (torch.float16, torch.bfloat16):
        scores = Keys(blocks=3, dtype=dtype).score(make_scorer(name))
        assert len(scores) == 4
        assert all(math.isfinite(score) for score in scores)


@pytest.mark.parametrize("name", ["pooled_cosine", "key_bounds"])
def test_sealed_blocks_are_read_once_and_the_head_every_time(name: str) -> None:
    keys, scorer = Keys(blocks=3), make_scorer(name)
    first = keys.score(scorer)
    keys.asked.clear()
    assert keys.score(scorer) == first
    assert keys.asked == [3]


@pytest.mark.parametrize("name", ["pooled_cosine", "key_bounds"])
def test_blocks_that_are_rewritten_after_a_crop_are_read_again(name: str) -> None:
    keys, scorer = Keys(blocks=3), make_scorer(name)
    keys.score(scorer)
    rewritten = Keys(blocks=3, seed=1)
    for layer in range(len(LAYERS)):
        keys.by_layer[layer][1:] = rewritten.by_layer[layer][1:]
    scorer.forget(1)
    assert keys.score(scorer) == keys.score(make_scorer(name))


def test_an_unknown_policy_or_option_is_refused_with_what_there_is() -> None:
    with pytest.raises(PolicyError, match="no policy is called 'lru'; choose one of: attention_mass, pooled_cosine"):
        make_scorer("lru")
    with pytest.raises(PolicyError, match=r"policy attention_mass: .*window"):
        make_scorer("attention_mass", window=4)
