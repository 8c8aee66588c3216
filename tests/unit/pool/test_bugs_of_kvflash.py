"""One test for every bug of KVFlash that this design could have; docs/kvflash-bugs.md has the table of all 42."""

from __future__ import annotations

import math
import re
from pathlib import Path

import pytest
import torch

from pool_faults import Fault
from pool_pagers import PagerUnderTest, small_pager
from pool_rows import MIXED, UNIFORM
from tenure.errors import (
    CapacityError,
    GeometryError,
    HostTierFullError,
    InternalError,
    PlanError,
    PolicyError,
    PoolSizeError,
    TransferError,
)
from tenure.kv.residency import BlockIndex, BlockView, Plan, ResidencyView
from tenure.policy import SCORERS, KeyGroup, Policy, RecentQueries, Reselector, make_scorer, select_top_blocks
from tenure.pool import Arena, DirectTransfer, HostBlock, Pool, StreamTransfer, layout_for, minimum_blocks, size_pool

ROOT = Path(__file__).parents[3]


def decoded(rows: int, **options: object) -> PagerUnderTest:
    tested = small_pager(**options)  # type: ignore[arg-type]
    for _ in range(rows):
        tested.append(1)
    return tested


def swap(tested: PagerUnderTest) -> Plan:
    """One block out, one block in."""
    pager = tested.pager
    here = [b for b in range(pager.sealed_blocks) if tested.resident(b) and not pager.is_protected(b)]
    away = [b for b in range(pager.sealed_blocks) if not tested.resident(b)]
    return Plan(epoch=pager.epoch, evict=(BlockIndex(here[0]),), recall=(BlockIndex(away[0]),))


def test_a_pool_too_small_to_make_progress_is_refused() -> None:
    for sinks, tail in ((0, 0), (1, 1), (1, 4), (2, 3)):
        least = minimum_blocks(sink_blocks=sinks, tail_blocks=tail)
        with pytest.raises(PoolSizeError, match=f"at least {least * 4} rows"):
            small_pager(blocks=least - 1, sink_blocks=sinks, tail_blocks=tail)
        tested = decoded(least * 12, blocks=least, sink_blocks=sinks, tail_blocks=tail)
        assert tested.pager.logical_rows == least * 12


def test_no_room_is_an_error_and_never_a_slot() -> None:
    tested = decoded(16)
    with pytest.raises(CapacityError, match="do not fit"):
        tested.pager.begin_append(1)
    with pytest.raises(CapacityError, match="cannot be appended"):
        tested.pager.plan_room(16)


def test_garbage_sizes_and_intervals_are_refused() -> None:
    for wanted in ("12abc", "0", "-1", "", "1e3"):
        with pytest.raises(PoolSizeError):
            size_pool(wanted, block_size=64, row_bytes=1, context_rows=8192, free_bytes=None)
    with pytest.raises(PolicyError, match="interval_rows is 0"):
        Policy(interval_rows=0)


def test_a_block_size_of_zero_is_refused() -> None:
    with pytest.raises(GeometryError, match="block_size is 0"):
        layout_for(UNIFORM.geometry(torch.float32), block_size=0)


def test_a_failed_append_does_not_move_the_tail_window() -> None:
    tested = decoded(24, host_blocks=6)
    before = tested.pager.view()
    with pytest.raises(CapacityError):
        tested.pager.plan_room(99)
    tested.pager.apply(tested.pager.plan_room(4))
    after_room = tested.pager.view()
    with pytest.raises(HostTierFullError):
        tested.pager.begin_append(4)
    assert tested.pager.view() == after_room
    assert [block.protected for block in after_room.blocks] == [block.protected for block in before.blocks]


def test_a_failed_open_leaves_nothing_granted() -> None:
    pool = Pool(UNIFORM.geometry(torch.float32), usable_blocks=8, dtype=torch.float32, block_size=4)
    for blocks in (3, 9):
        with pytest.raises((PoolSizeError, CapacityError)):
            pool.open(capacity_blocks=blocks, tail_blocks=1)
    assert (pool.granted_blocks, pool.host.used_bytes, pool.statistics().sequences) == (0, 0, 0)


@pytest.mark.parametrize("shape", [UNIFORM, MIXED])
def test_rows_of_a_long_append_are_not_scrambled(shape: object) -> None:
    tested = small_pager(blocks=8, shape=shape)  # type: ignore[arg-type]
    for rows in (7, 13, 2, 9, 17, 1, 20):
        tested.append(rows)
        tested.check()


class OneLayer:
    """Keys of one layer and head, one row a block."""

    def __init__(self, keys: list[list[float]]) -> None:
        self.keys = torch.tensor(keys)

    def block_keys(self, block: int) -> list[KeyGroup]:
        return [KeyGroup(layers=(0,), keys=self.keys[block].view(1, 1, 1, -1))]


def view_of(resident: list[bool]) -> ResidencyView:
    blocks = tuple(
        BlockView(index=BlockIndex(i), written_rows=1, resident_rows=int(here), host_backed=True, protected=False)
        for i, here in enumerate(resident)
    )
    return ResidencyView(
        epoch=0,
        block_size=1,
        logical_rows=len(blocks),
        resident_rows=sum(resident),
        capacity_rows=sum(resident),
        appending_rows=0,
        blocks=blocks,
    )


def test_a_block_without_a_usable_key_is_below_every_real_score() -> None:
    queries = RecentQueries(by_layer=(torch.tensor([[[1.0, 0.0]]]),), scaling=(1.0,))
    keys = OneLayer([[-1.0, 0.0], [math.nan, 0.0], [math.inf, 0.0]])
    scores = make_scorer("pooled_cosine").score(view_of([True] * 3), keys, queries)
    assert scores[0] == pytest.approx(-1, abs=1e-5)
    assert scores[1] < -1
    assert scores[2] < -1


def test_there_is_one_list_of_policies() -> None:
    for name in SCORERS:
        assert make_scorer(name).name == name == Policy(scorer=name).scorer


def test_a_reset_leaves_nothing_of_the_last_request() -> None:
    tested = decoded(30)
    tested.pager.reset()
    assert tested.pager.view().blocks == ()
    assert tested.pager.host.used_bytes == 0
    assert all(plane.isnan().all() for plane in tested.pager.arena.planes)
    tested.versions = []
    for _ in range(30):
        tested.append(1, version=9)
    tested.check()


class Notes:
    """A copy stream that only says what it would wait for."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.notes: list[str] = []
        notes = self.notes

        class Stream:
            def __init__(self, device: object = None, name: str = "copy") -> None:
                self.name = name

            def wait_stream(self, other: Stream) -> None:
                notes.append(f"{self.name} waits for {other.name}")

            def wait_event(self, event: object) -> None:
                notes.append(f"{self.name} waits for the copy out")

            def __enter__(self) -> None:
                notes.append("copy")

            def __exit__(self, *_: object) -> None:
                pass

        class Event:
            def record(self, stream: Stream) -> None:
                pass

            def synchronize(self) -> None:
                notes.append("host waits")

        compute = Stream(name="compute")
        monkeypatch.setattr(torch.cuda, "Stream", Stream)
        monkeypatch.setattr(torch.cuda, "Event", Event)
        monkeypatch.setattr(torch.cuda, "current_stream", lambda _: compute)
        monkeypatch.setattr(torch.cuda, "stream", lambda stream: stream)


def test_rows_are_read_only_after_they_have_landed(monkeypatch: pytest.MonkeyPatch) -> None:
    noted = Notes(monkeypatch)
    tested = decoded(24, transfer=StreamTransfer(torch.device("cpu")))
    noted.notes.clear()
    tested.pager.apply(swap(tested))
    assert noted.notes[-3:] == ["copy", "copy waits for compute", "compute waits for copy"]
    tested.pager.host_block(0).wait()
    tested.check()


def test_a_slot_is_not_overwritten_while_it_is_copied_out(monkeypatch: pytest.MonkeyPatch) -> None:
    noted = Notes(monkeypatch)
    tested = decoded(16, transfer=StreamTransfer(torch.device("cpu")))
    noted.notes.clear()
    tested.pager.apply(Plan(epoch=tested.pager.epoch, evict=(BlockIndex(1),)))
    assert noted.notes[0] == "compute waits for the copy out"
    assert "copy" not in noted.notes, "an eviction of a clean block copies nothing out"


def test_a_failed_host_allocation_is_an_error_with_nothing_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    def no_memory(*_: object, **__: object) -> torch.Tensor:
        raise RuntimeError("cudaHostAlloc failed")

    tested = decoded(3)
    monkeypatch.setattr(torch, "empty", no_memory)
    with pytest.raises(HostTierFullError, match="the machine gave no"):
        tested.pager.begin_append(1)
    assert (tested.pager.logical_rows, tested.pager.host.used_bytes) == (3, 0)


def test_size_and_allocation_agree_to_the_byte() -> None:
    for dtype in (torch.float32, torch.bfloat16):
        geometry = MIXED.geometry(dtype)
        layout = layout_for(geometry, block_size=8)
        sized = size_pool(
            "25%", block_size=8, row_bytes=layout.bytes_per_row(dtype), context_rows=1000, free_bytes=None
        )
        pool = Pool(geometry, usable_blocks=sized.capacity_rows // 8, dtype=dtype, block_size=8)
        pager = pool.open()
        assert pager.arena.device_bytes == sized.capacity_rows * geometry.pooled_row_bytes
        assert f"{pager.arena.device_bytes / 2**20:,.1f} MiB" in sized.notes[-1]


def test_a_batch_never_evicts_its_own_rows() -> None:
    for sinks, tail, blocks in ((1, 1, 4), (1, 2, 7), (0, 0, 3), (2, 1, 9)):
        tested = small_pager(blocks=blocks, sink_blocks=sinks, tail_blocks=tail)
        for _ in range(5):
            rows = tested.pager.max_append_rows
            first = tested.pager.logical_rows
            tested.append(rows)
            assert set(range(first, first + rows)) <= set(tested.pager.arena.positions)
        tested.check()


def test_scores_do_not_outlive_their_blocks() -> None:
    chosen = Reselector(Policy(scorer="recency"))
    chosen.scores = {0: 5.0, 1: 9.0, 2: 7.0}
    chosen.forget(0)
    assert chosen.victim_order(view_of([True] * 3)) == [0, 1, 2]


def test_blocks_out_of_bounds_are_refused() -> None:
    tested = decoded(24)
    for block in (-1, 6, 7, 2**40):
        for plan in (
            Plan(epoch=tested.pager.epoch, evict=(BlockIndex(block),)),
            Plan(epoch=tested.pager.epoch, recall=(BlockIndex(block),)),
        ):
            with pytest.raises(PlanError, match=f"block {block} is not a sealed block"):
                tested.pager.apply(plan)
    with pytest.raises(PlanError, match="is not a sealed block"):
        tested.pager.promote_rows([-1])


def test_nan_and_ties_are_decided_the_same_way_every_time() -> None:
    here = [True, True, True, False, False]
    plans = {select_top_blocks(view_of(here), [1.0, math.nan, 1.0, 2.0, 2.0]) for _ in range(5)}
    assert {(plan.evict, plan.recall) for plan in plans} == {((1, 2), (3, 4))}
    assert not select_top_blocks(view_of([True, False]), [math.nan, math.nan])


def test_rejected_rows_are_never_in_the_run() -> None:
    tested = decoded(10)
    for _ in range(12):
        accepted = tested.pager.logical_rows + 1
        tested.append(4, version=3)
        tested.crop(accepted)
        assert max(tested.pager.arena.positions) == accepted - 1
        assert not any(plane[:, :, : tested.pager.resident_rows].isnan().any() for plane in tested.pager.arena.planes)
        tested.check()


def test_a_commit_without_written_rows_is_refused() -> None:
    tested = decoded(5)
    with pytest.raises(InternalError, match="commit_append without begin_append"):
        tested.pager.commit_append()
    assert tested.pager.logical_rows == 5


def test_a_failed_copy_undoes_the_whole_swap() -> None:
    for copy in range(4):
        tested = decoded(24)
        before = tested.pager.view()
        tested.faults.arm(Fault(copy=copy))
        try:
            tested.pager.apply(swap(tested))
        except TransferError:
            assert tested.pager.view() == before
        tested.faults.arm(None)
        tested.check()
    tested = decoded(24)
    tested.faults.arm(Fault(copy=1))
    with pytest.raises(TransferError, match="was undone"):
        tested.pager.apply(swap(tested))


def test_automatic_sizing_without_memory_is_an_error_and_never_off() -> None:
    for free_bytes in (0, 3 * 2**29):
        with pytest.raises(PoolSizeError, match="below the minimum"):
            size_pool("auto", block_size=64, row_bytes=1024, context_rows=8192, free_bytes=free_bytes)
    with pytest.raises(PoolSizeError, match="below the minimum"):
        size_pool("auto", block_size=64, row_bytes=1024, context_rows=300, free_bytes=2**40)


def test_a_clean_block_is_copied_out_once() -> None:
    class Counting(DirectTransfer):
        outs = 0

        def page_out(self, arena: Arena, slots: object, block: HostBlock) -> None:
            Counting.outs += 1
            super().page_out(arena, slots, block)  # type: ignore[arg-type]

    tested = decoded(24, transfer=Counting())
    for _ in range(5):
        tested.pager.apply(swap(tested))
    assert Counting.outs == tested.pager.sealed_blocks == 6
    tested.check()


def test_blocks_sealed_between_two_scorings_are_all_scored() -> None:
    queries = RecentQueries(by_layer=(torch.tensor([[[1.0, 0.0]]]),), scaling=(1.0,))
    for name in ("pooled_cosine", "key_bounds"):
        scorer = make_scorer(name)
        keys = OneLayer([[float(i + 1), 1.0] for i in range(6)])
        scorer.score(view_of([True] * 2), keys, queries)
        later = scorer.score(view_of([True, True, False, False, True, True]), keys, queries)
        assert later == make_scorer(name).score(view_of([True] * 6), keys, queries)


def test_a_failed_append_of_several_blocks_keeps_none_of_them() -> None:
    tested = small_pager(blocks=8, host_blocks=2)
    with pytest.raises(HostTierFullError, match="must take 3 more"):
        tested.pager.begin_append(12)
    assert tested.pager.host.statistics().used_blocks == 0
    tested.append(8)
    tested.check()


def table() -> dict[int, str]:
    text = (ROOT / "docs" / "kvflash-bugs.md").read_text(encoding="utf-8")
    return {int(number): cell for number, cell in re.findall(r"^\| (\d+) \| [^|]+ \| ([^|]+) \|$", text, re.MULTILINE)}


def test_the_table_has_all_42_bugs_each_with_a_test_or_a_reason() -> None:
    rows = table()
    assert sorted(rows) == list(range(1, 43))
    for number, cell in rows.items():
        assert "`test_" in cell or cell.startswith("Cannot exist"), f"bug {number} has neither"


def test_every_test_that_the_table_names_exists() -> None:
    written = {
        name
        for path in (ROOT / "tests").rglob("test_*.py")
        for name in re.findall(r"^def (test_\w+)\(", path.read_text(encoding="utf-8"), re.MULTILINE)
    }
    for number, cell in table().items():
        claimed = set(re.findall(r"`(test_\w+)`", cell)) - set(re.findall(r"`\(runtime\)` `(test_\w+)`", cell))
        assert claimed <= written, f"bug {number} names {claimed - written}"
