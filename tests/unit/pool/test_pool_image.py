"""A pager's sequence written down and put back."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from tenure.errors import CapacityError, HostTierFullError, PlanError, TransferError
from tenure.kv.geometry import CacheGeometry, LayerGeometry, LayerKind
from tenure.kv.residency import BlockIndex, Plan
from tenure.pool import HostBlock, Pager, Pool
from tenure.pool.image import head_rows, restore, slot_positions

LAYERS = (
    LayerGeometry(0, LayerKind.FULL, kv_heads=2, key_dim=4, value_dim=4),
    LayerGeometry(1, LayerKind.FULL, kv_heads=1, key_dim=6, value_dim=2),
)


def open_pager(*, usable_blocks: int = 8, host_bytes: int | None = None) -> Pager:
    geometry = CacheGeometry(LAYERS, "float32", 4)
    pool = Pool(geometry, usable_blocks=usable_blocks, dtype=torch.float32, block_size=4, host_bytes=host_bytes)
    return pool.open(tail_blocks=1)


def filled(rows: int) -> Pager:
    """A pager whose every row holds numbers of its own, with blocks moved out and in."""
    pager = open_pager()
    for position in range(rows):
        pager.apply(pager.plan_room(1))
        slot = pager.begin_append(1)
        for ordinal, layer in enumerate(LAYERS):
            key = torch.full((1, layer.kv_heads, 1, layer.key_dim), position * 10.0 + ordinal)
            value = torch.full((1, layer.kv_heads, 1, layer.value_dim), position * 10.0 + ordinal + 0.5)
            pager.arena.write(ordinal, slot, key, value)
        pager.commit_append()
    if pager.host_only_blocks:
        pager.apply(Plan(epoch=pager.epoch, evict=(BlockIndex(5),), recall=(BlockIndex(1),)))
        pager.drop_rows([7])
    return pager


def copier(source: Pager) -> Callable[[int, HostBlock], None]:
    def copy(block: int, host: HostBlock) -> None:
        host.buffer.copy_(source.host_block(block).buffer)

    return copy


def put_back(source: Pager, target: Pager) -> None:
    restore(
        target,
        logical_rows=source.logical_rows,
        positions=slot_positions(source),
        head=head_rows(source),
        fill_block=copier(source),
    )


@pytest.mark.parametrize("rows", [0, 1, 4, 7, 30, 42, 44])
def test_every_row_is_back_at_its_slot(rows: int) -> None:
    source, target = filled(rows), open_pager()
    put_back(source, target)
    assert target.arena.positions == source.arena.positions
    for ours, theirs in zip(source.arena.planes, target.arena.planes, strict=True):
        assert torch.equal(ours[:, :, : source.resident_rows], theirs[:, :, : source.resident_rows])
    assert target.view().blocks == source.view().blocks
    target.check_invariants()
    target.host.check_invariants()


def test_a_sequence_that_was_put_back_moves_and_is_cut_like_any_other() -> None:
    target = open_pager()
    put_back(filled(42), target)
    target.promote_rows([7])
    target.apply(Plan(epoch=target.epoch, evict=(BlockIndex(1),), recall=(BlockIndex(5),)))
    target.crop(22)
    assert target.arena.planes[0][0, 0, target.resident_rows - 1, 0] == 210.0
    target.check_invariants()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda positions: positions[:-1], "does not end with the head"),
        (lambda positions: [positions[1], *positions[1:]], "names a position twice"),
        (lambda positions: [90, *positions[1:]], "names a position twice, or one outside the 40 rows"),
        (lambda positions: positions[4:], "a sink block is not resident"),
    ],
)
def test_a_run_that_no_pager_could_have_is_refused(change: Callable[[list[int]], list[int]], message: str) -> None:
    source, target = filled(42), open_pager()
    with pytest.raises(PlanError, match=message):
        restore(
            target,
            logical_rows=42,
            positions=change(slot_positions(source)),
            head=head_rows(source),
            fill_block=copier(source),
        )
    assert_untouched(target)


def test_a_pool_with_fewer_rows_and_a_pager_in_use_are_refused() -> None:
    source, small = filled(42), open_pager(usable_blocks=5)
    with pytest.raises(CapacityError, match="the pool holds 20"):
        put_back(source, small)
    assert_untouched(small)
    with pytest.raises(CapacityError, match="already holds a sequence of 42 rows"):
        put_back(source, source)


def test_a_host_tier_that_is_too_small_gives_back_what_it_gave() -> None:
    source, target = filled(42), open_pager(host_bytes=5 * filled(1).host.block_bytes)
    with pytest.raises(HostTierFullError):
        put_back(source, target)
    assert_untouched(target)


def test_a_block_that_cannot_be_filled_leaves_the_pager_empty() -> None:
    source, target = filled(42), open_pager()

    def fail(block: int, _host: HostBlock) -> None:
        if block == 6:
            raise RuntimeError("damaged")

    with pytest.raises(RuntimeError, match="damaged"):
        restore(target, logical_rows=42, positions=slot_positions(source), head=head_rows(source), fill_block=fail)
    assert_untouched(target)


def test_a_copy_that_fails_leaves_the_pager_empty(monkeypatch: pytest.MonkeyPatch) -> None:
    source, target = filled(42), open_pager()

    def fail(*_arguments: object) -> None:
        raise RuntimeError("no copy")

    monkeypatch.setattr(target.transfer, "page_in", fail)
    with pytest.raises(TransferError, match="the pager is still empty"):
        put_back(source, target)
    assert_untouched(target)


def assert_untouched(pager: Pager) -> None:
    assert (pager.logical_rows, pager.resident_rows, pager.sealed_blocks, pager.host.used_bytes) == (0, 0, 0, 0)
    pager.check_invariants()
    pager.host.check_invariants()
