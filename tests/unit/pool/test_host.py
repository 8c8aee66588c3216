from __future__ import annotations

import pytest
import torch

from pool_rows import MIXED, UNIFORM
from tenure.errors import HostTierFullError, InternalError, PoolSizeError
from tenure.pool import HostTier, layout_for
from tenure.pool import host as host_module


def tier(*, blocks: int | None = None) -> HostTier:
    layout = layout_for(UNIFORM.geometry(torch.float32), block_size=4)
    budget = None if blocks is None else blocks * layout.bytes_per_block(torch.float32)
    return HostTier(layout, dtype=torch.float32, budget_bytes=budget)


def test_a_full_tier_says_what_it_holds_what_it_must_take_and_what_budget_would_do() -> None:
    host = tier(blocks=2)
    host.allocate_many(2)
    with pytest.raises(
        HostTierFullError, match=r"holds 2 blocks .*must take 1 more .*no block was dropped.*at least 768"
    ):
        host.allocate()
    assert host.statistics().used_blocks == 2


def test_a_budget_below_one_block_holds_nothing() -> None:
    host = tier(blocks=0)
    with pytest.raises(HostTierFullError, match="holds 0 blocks"):
        host.allocate()
    assert host.statistics().allocated_bytes == 0


def test_a_negative_budget_is_a_usage_error() -> None:
    layout = layout_for(UNIFORM.geometry(torch.float32), block_size=4)
    with pytest.raises(PoolSizeError, match="host budget is -1 bytes; it must be 0 or more, or None"):
        HostTier(layout, dtype=torch.float32, budget_bytes=-1)


def test_several_blocks_are_taken_or_none() -> None:
    host = tier(blocks=3)
    host.allocate()
    with pytest.raises(HostTierFullError, match="must take 3 more"):
        host.allocate_many(3)
    assert host.statistics().used_blocks == 1
    assert len(host.allocate_many(2)) == 2
    assert host.allocate_many(0) == []


def test_blocks_taken_before_the_machine_ran_out_are_given_back(monkeypatch: pytest.MonkeyPatch) -> None:
    host = tier()
    monkeypatch.setattr(host_module, "SLAB_BYTES", 2 * host.block_bytes)
    empty, calls = torch.empty, []

    def scarce(*args: object, **kwargs: object) -> torch.Tensor:
        calls.append(args)
        if len(calls) > 1:
            raise RuntimeError("no memory")
        return empty(*args, **kwargs)  # type: ignore[call-overload, no-any-return]

    monkeypatch.setattr(torch, "empty", scarce)
    with pytest.raises(HostTierFullError, match=r"the machine gave no 0.0 MiB of host memory for one more block"):
        host.allocate_many(3)
    assert host.statistics().used_blocks == 0
    host.check_invariants()


def test_a_machine_with_little_memory_left_is_asked_for_smaller_slabs(monkeypatch: pytest.MonkeyPatch) -> None:
    host, asked, empty = tier(), [], torch.empty

    def scarce(elements: int, **kwargs: object) -> torch.Tensor:
        asked.append(elements)
        if elements > 8 * host.layout.elements_per_block:
            raise RuntimeError("no memory")
        return empty(elements, **kwargs)  # type: ignore[call-overload, no-any-return]

    monkeypatch.setattr(torch, "empty", scarce)
    host.allocate()
    assert asked == sorted(asked, reverse=True)
    assert asked[-1] > 4 * host.layout.elements_per_block
    host.check_invariants()


def test_a_slab_of_many_small_blocks_is_not_cut_up_at_once() -> None:
    # 32 MiB hold 131,072 of these: cutting them all took seconds, in the middle of a decode step.
    host = tier()
    first, second = host.allocate_many(2)
    assert host.statistics().allocated_bytes >= 2**24
    assert first.buffer.untyped_storage().data_ptr() == second.buffer.untyped_storage().data_ptr()
    assert first.buffer.data_ptr() != second.buffer.data_ptr()
    assert len(host._free) == 0


def test_the_budget_also_bounds_what_is_set_aside() -> None:
    host = tier(blocks=3)
    host.allocate()
    assert host.statistics().allocated_bytes == 3 * host.block_bytes


def test_a_freed_buffer_is_used_again_before_more_memory_is_taken() -> None:
    host = tier()
    blocks = host.allocate_many(5)
    for block in blocks:
        host.free(block)
    assert {id(block) for block in host.allocate_many(5)} == {id(block) for block in blocks}
    assert host.statistics().peak_bytes == 5 * host.block_bytes


def test_freeing_twice_or_elsewhere_is_an_error_of_ours() -> None:
    host, other = tier(), tier()
    block = host.allocate()
    with pytest.raises(InternalError, match="freed twice, or belongs to another tier"):
        other.free(block)
    host.free(block)
    with pytest.raises(InternalError, match="freed twice"):
        host.free(block)
    host.check_invariants()


def test_a_block_that_its_owner_forgot_stays_counted() -> None:
    # The count was kept by id(): a forgotten block's id could be given to a new block, and the count was off for ever.
    host = tier()
    for _ in range(50):
        host.allocate()
    assert host.statistics().used_blocks == 50
    host.check_invariants()


def test_a_block_is_one_contiguous_buffer_seen_group_by_group() -> None:
    layout = layout_for(MIXED.geometry(torch.bfloat16), block_size=4)
    block = HostTier(layout, dtype=torch.bfloat16).allocate()
    assert block.buffer.is_contiguous()
    assert block.buffer.numel() * 2 == layout.bytes_per_block(torch.bfloat16)
    assert [tuple(view.shape) for view in block.views] == [
        (group.planes, group.heads, 4, group.head_dim) for group in layout.groups
    ]
    assert all(view.is_contiguous() for view in block.views)
    assert sum(view.numel() for view in block.views) == block.buffer.numel()
