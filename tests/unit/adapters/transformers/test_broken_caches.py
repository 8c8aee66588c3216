"""A zoo of caches that are each broken in one way: every one is caught, with its rule and a short witness."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest

from tenure.kv.semantics import RULES, RuleId

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

from transformers.cache_utils import Cache, DynamicLayer  # noqa: E402

from tenure.adapters.transformers.checks import Outcome, SubjectVerdict, check_subject  # noqa: E402
from tenure.adapters.transformers.stock import tiny_config  # noqa: E402
from tenure.adapters.transformers.subjects import BuiltCache, Subject, build_for  # noqa: E402


class SoundLayer(DynamicLayer):  # type: ignore[misc]
    """Transformers' layer, without its fault: a batch can be rearranged after a crop of all rows."""

    def crop(self, tokens_to_remove: int) -> None:
        if tokens_to_remove and -tokens_to_remove == self.get_seq_length():
            DynamicLayer.reset(self)
        else:
            super().crop(tokens_to_remove)


class RoundsRows(SoundLayer):
    def update(self, keys: Any, values: Any, *args: Any, **kwargs: Any) -> Any:
        return super().update(keys.bfloat16().float(), values, *args, **kwargs)


class WritesOverTheLastRowToo(SoundLayer):
    def update(self, keys: Any, values: Any, *args: Any, **kwargs: Any) -> Any:
        if self.get_seq_length() > 0:
            self.keys[:, :, -1:] = keys[:, :, :1]
            self.values[:, :, -1:] = values[:, :, :1]
        return super().update(keys, values, *args, **kwargs)


class ForgetsTheOldestRow(SoundLayer):
    def update(self, keys: Any, values: Any, *args: Any, **kwargs: Any) -> Any:
        all_keys, all_values = super().update(keys, values, *args, **kwargs)
        if all_keys.shape[2] > 5:
            all_keys[:, :, 0] = all_values[:, :, 0] = 0
        return all_keys, all_values


class ShowsTheNewRowsTooLate(SoundLayer):
    def update(self, keys: Any, values: Any, *args: Any, **kwargs: Any) -> Any:
        before = self.get_seq_length()
        all_keys, all_values = super().update(keys, values, *args, **kwargs)
        all_keys, all_values = all_keys.clone(), all_values.clone()
        all_keys[:, :, before:] = all_values[:, :, before:] = 0
        return all_keys, all_values


class ShiftsRows(SoundLayer):
    def update(self, keys: Any, values: Any, *args: Any, **kwargs: Any) -> Any:
        all_keys, all_values = super().update(keys, values, *args, **kwargs)
        return all_keys.roll(1, dims=2), all_values.roll(1, dims=2)


class LetsHeadsDrift(SoundLayer):
    def update(self, keys: Any, values: Any, *args: Any, **kwargs: Any) -> Any:
        all_keys, all_values = super().update(keys, values, *args, **kwargs)
        return torch.cat([all_keys[:, :1], all_keys[:, 1:].roll(1, dims=2)], dim=1), all_values


class AnnouncesARowTooFew(SoundLayer):
    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        rows, offset = super().get_mask_sizes(query_length)
        return rows - (rows > 6), offset


class CropsOneRowMore(SoundLayer):
    def crop(self, tokens_to_remove: int) -> None:
        if 0 < -tokens_to_remove < self.get_seq_length():
            super().crop(tokens_to_remove - 1)
            blank = torch.zeros_like(self.keys[:, :, :1])  # the count stays right, the row is gone
            super().update(blank, blank)
        else:
            super().crop(tokens_to_remove)


class CropsNothing(SoundLayer):
    def crop(self, tokens_to_remove: int) -> None:
        del tokens_to_remove


class LosesARowWhenForked(SoundLayer):
    def reorder_cache(self, beam_idx: Any) -> None:
        super().reorder_cache(beam_idx)
        if self.get_seq_length() > 0:
            self.keys[:, :, -1] = self.values[:, :, -1] = 0


class KeepsTheOrderOfTheBatch(SoundLayer):
    def batch_select_indices(self, indices: Any) -> None:
        super().batch_select_indices(indices.sort().values)


class ForgetsAboutSequencesThatStay(SoundLayer):
    def batch_select_indices(self, indices: Any) -> None:
        super().batch_select_indices(indices)
        if self.get_seq_length() > 0:
            self.keys[:, :, 0] = self.values[:, :, 0] = 0


class CannotThinABatch(SoundLayer):
    def batch_select_indices(self, indices: Any) -> None:
        raise RuntimeError(f"cannot keep {indices.tolist()}")


class KeepsItsRowsAtAReset(SoundLayer):
    def reset(self) -> None:
        pass


class CountsARefusedWrite(SoundLayer):
    def __init__(self) -> None:
        super().__init__()
        self.refused_rows = 0

    def update(self, keys: Any, values: Any, *args: Any, **kwargs: Any) -> Any:
        if self.get_seq_length() + keys.shape[2] > 8:
            self.refused_rows += keys.shape[2]
            raise ValueError("full at 8 rows")
        return super().update(keys, values, *args, **kwargs)

    def get_seq_length(self) -> int:
        return int(super().get_seq_length()) + self.refused_rows


class RefusesForNoReason(SoundLayer):
    def update(self, keys: Any, values: Any, *args: Any, **kwargs: Any) -> Any:
        if self.get_seq_length() + keys.shape[2] > 6:
            raise ValueError("no")
        return super().update(keys, values, *args, **kwargs)


class LayerCache(Cache):  # type: ignore[misc]
    def __init__(self, layer: type[DynamicLayer] = SoundLayer) -> None:
        super().__init__(layers=[layer() for _ in range(3)])


class CountsForAllLayersAtTheFirst(LayerCache):
    """One counter for all layers, moved by the first one: what Transformers itself had for years."""

    def get_seq_length(self, layer_idx: int = 0) -> int:
        del layer_idx
        return int(self.layers[0].get_seq_length())


class LeavesTheLastLayerBehind(LayerCache):
    """The last layer is counted one write late."""

    def __init__(self) -> None:
        super().__init__()
        self.late_rows = 0

    def update(self, keys: Any, values: Any, layer_idx: int, *args: Any, **kwargs: Any) -> Any:
        if layer_idx == 2:
            self.late_rows = keys.shape[2]
        return super().update(keys, values, layer_idx, *args, **kwargs)

    def get_seq_length(self, layer_idx: int = 0) -> int:
        rows = int(self.layers[layer_idx].get_seq_length())
        return max(0, rows - self.late_rows) if layer_idx == 2 else rows


class SharesTwoLayers(LayerCache):
    def update(self, keys: Any, values: Any, layer_idx: int, *args: Any, **kwargs: Any) -> Any:
        own = super().update(keys, values, layer_idx, *args, **kwargs)
        return (self.layers[1].keys, self.layers[1].values) if layer_idx == 2 else own


class CountsNothing(LayerCache):
    def get_seq_length(self, layer_idx: int = 0) -> int:
        return 0


ZOO: dict[Callable[[], Any], RuleId] = {
    partial(LayerCache, RoundsRows): RuleId.APPEND,
    partial(LayerCache, WritesOverTheLastRowToo): RuleId.ONE_WRITE,
    partial(LayerCache, RefusesForNoReason): RuleId.ONE_WRITE,
    CountsForAllLayersAtTheFirst: RuleId.LAYER_ORDER,
    LeavesTheLastLayerBehind: RuleId.STEP_ORDER,
    SharesTwoLayers: RuleId.LAYER_ISOLATION,
    partial(LayerCache, KeepsTheOrderOfTheBatch): RuleId.SEQUENCE_ISOLATION,
    partial(LayerCache, ForgetsAboutSequencesThatStay): RuleId.FINISHED,
    partial(LayerCache, CannotThinABatch): RuleId.FINISHED,
    partial(LayerCache, ForgetsTheOldestRow): RuleId.READ_COMPLETE,
    partial(LayerCache, ShowsTheNewRowsTooLate): RuleId.READ_COMPLETE,
    partial(LayerCache, ShiftsRows): RuleId.ALIGNMENT,
    partial(LayerCache, LetsHeadsDrift): RuleId.HEADS,
    partial(LayerCache, AnnouncesARowTooFew): RuleId.ACCOUNT,
    CountsNothing: RuleId.ACCOUNT,
    partial(LayerCache, CropsOneRowMore): RuleId.ROLLBACK,
    partial(LayerCache, CropsNothing): RuleId.ROLLBACK,
    partial(LayerCache, LosesARowWhenForked): RuleId.FORK,
    partial(LayerCache, KeepsItsRowsAtAReset): RuleId.RESET,
    partial(LayerCache, CountsARefusedWrite): RuleId.REFUSAL,
}
#: What may be blamed beside the rule itself: rows of another sequence are padding where that one is padded.
ALSO_BLAMED = {"KeepsTheOrderOfTheBatch": {RuleId.FINISHED}}
SEEDS = 20
MORE_SEEDS = {"KeepsTheOrderOfTheBatch": 60, "LosesARowWhenForked": 40}


def name_of(make: Callable[[], Any]) -> str:
    return make.args[0].__name__ if isinstance(make, partial) else getattr(make, "__name__", str(make))


def subject_of(make: Callable[[], Any], *, capacity_rows: int | None = None) -> Subject:
    def build() -> BuiltCache:
        return build_for(tiny_config("llama"), lambda _: make())

    return Subject(name=f"zoo:{name_of(make)}", summary="", build=build, capacity_rows=capacity_rows, max_rows=8)


def verdict_on(make: Callable[[], Any]) -> SubjectVerdict:
    name = name_of(make)
    subject = subject_of(make, capacity_rows=8 if name == "CountsARefusedWrite" else None)
    return check_subject(subject, seeds=MORE_SEEDS.get(name, SEEDS))


@pytest.mark.parametrize("make", ZOO, ids=name_of)
def test_a_broken_cache_is_caught_with_its_rule_and_a_short_witness(make: Callable[[], Any]) -> None:
    verdict = verdict_on(make)
    blamed = {broken.rule for broken in verdict.broken}
    assert ZOO[make] in blamed
    assert blamed <= {ZOO[make]} | ALSO_BLAMED.get(name_of(make), set())
    witness = verdict.of(ZOO[make]).witnesses[0]
    assert 1 <= len(witness.operations) <= 4
    assert witness.violation.rule.id is ZOO[make]


def test_every_rule_has_a_cache_that_breaks_it() -> None:
    assert set(ZOO.values()) == set(RULES)


def test_the_sound_cache_that_the_zoo_is_bred_from_keeps_every_rule() -> None:
    verdict = check_subject(subject_of(LayerCache), seeds=40)
    assert [(broken.rule, str(broken.witnesses[0])) for broken in verdict.broken] == []
    untested = {rule.rule for rule in verdict.rules if rule.outcome is Outcome.NOT_EXERCISED}
    assert untested == {RuleId.REFUSAL}  # it is never given a reason to refuse
