from __future__ import annotations

import pytest
import torch

from pool_rows import UNIFORM
from tenure.errors import CapacityError, InternalError, PoolSizeError, UsageError
from tenure.pool import Pager, Pool


def pool(*, usable_blocks: int = 12, host_bytes: int | None = None) -> Pool:
    return Pool(
        UNIFORM.geometry(torch.float32),
        usable_blocks=usable_blocks,
        dtype=torch.float32,
        block_size=4,
        host_bytes=host_bytes,
    )


def open_small(made: Pool, blocks: int | None) -> Pager:
    return made.open(capacity_blocks=blocks, tail_blocks=1)


def test_grants_never_exceed_what_is_usable() -> None:
    made = pool()
    open_small(made, 4)
    open_small(made, 5)
    with pytest.raises(CapacityError, match=r"asked for 4 blocks; 9 of 12 are granted and 3 free. Close a sequence"):
        open_small(made, 4)
    assert (made.granted_blocks, made.free_blocks) == (9, 3)
    made.check_invariants()


def test_a_sequence_takes_all_that_is_free_by_default() -> None:
    made = pool()
    open_small(made, 4)
    assert open_small(made, None).arena.capacity_rows == 32
    with pytest.raises(CapacityError, match="12 of 12 are granted and 0 free"):
        open_small(made, None)


@pytest.mark.parametrize("blocks", [0, -3])
def test_a_grant_of_no_blocks_is_refused(blocks: int) -> None:
    made = pool()
    with pytest.raises(PoolSizeError, match=f"asked for {blocks} blocks; it needs at least 1"):
        open_small(made, blocks)


@pytest.mark.parametrize("blocks", [1, 3])
def test_a_grant_below_the_minimum_is_refused_and_nothing_is_granted(blocks: int) -> None:
    made = pool()
    with pytest.raises(PoolSizeError, match="at least 16 rows"):
        open_small(made, blocks)
    assert made.granted_blocks == 0


@pytest.mark.parametrize("usable_blocks", [0, -1])
def test_a_pool_of_no_blocks_is_refused(usable_blocks: int) -> None:
    with pytest.raises(PoolSizeError, match=f"usable_blocks is {usable_blocks}; a pool needs at least 1"):
        pool(usable_blocks=usable_blocks)


def test_closing_returns_the_grant_and_the_host_blocks_and_ends_the_sequence() -> None:
    made = pool()
    pager = open_small(made, 12)
    pager.begin_append(9)
    pager.commit_append()
    assert made.host.statistics().used_blocks == 2
    made.close(pager)
    assert (made.free_blocks, made.host.used_bytes) == (12, 0)
    with pytest.raises(UsageError, match="was closed"):
        pager.begin_append(1)
    with pytest.raises(InternalError, match="closed twice, or belongs to another pool"):
        made.close(pager)
    open_small(made, 12)


def test_sequences_share_one_host_budget() -> None:
    probe = pool()
    made = pool(host_bytes=3 * probe.host.block_bytes)
    first, second = open_small(made, 6), open_small(made, 6)
    first.begin_append(8)
    first.commit_append()
    second.begin_append(4)
    second.commit_append()
    with pytest.raises(Exception, match="holds 3 blocks"):
        second.begin_append(4)
    made.close(first)
    second.begin_append(4)
    second.commit_append()
    made.check_invariants()


def test_statistics_add_up() -> None:
    made = pool()
    first, second = open_small(made, 4), open_small(made, 6)
    first.begin_append(5)
    first.commit_append()
    statistics = made.statistics()
    assert statistics.sequences == 2
    assert statistics.granted_blocks == 10
    assert statistics.device_bytes == first.arena.device_bytes + second.arena.device_bytes
    assert statistics.host.used_blocks == 1
