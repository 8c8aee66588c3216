"""The view that decisions are made on: what it counts, and what it does not let happen."""

from __future__ import annotations

import pytest

from tenure.arbiter.ledger import PoolLedger
from tenure.claims.modes import ProtectionMode
from tenure.errors import PlanError


def _resident(ledger: PoolLedger, first: int, blocks: int) -> range:
    """Blocks that were computed and are idle now."""
    taken = range(first, first + blocks)
    ledger.occupy(taken)
    ledger.unpin(taken)
    return taken


def test_the_published_case_counts_as_published() -> None:
    ledger = PoolLedger(usable_blocks=80)
    ledger.add_claim("claim:resident", mode=ProtectionMode.HARD_PROTECTED)
    ledger.hold("claim:resident", _resident(ledger, 0, 60))
    pressure = ledger.pressure(required_blocks=70)
    assert (pressure.protected_blocks, pressure.free_blocks, pressure.shortfall_blocks) == (60, 20, 50)
    assert pressure.resident_plus_active_blocks == 130


def test_a_request_that_reuses_the_claim_counts_its_blocks_once() -> None:
    ledger = PoolLedger(usable_blocks=80)
    ledger.add_claim("c", mode=ProtectionMode.HARD_PROTECTED)
    blocks = _resident(ledger, 0, 60)
    ledger.hold("c", blocks)
    reuse = ledger.reuse_of(blocks)
    assert ledger.pressure(required_blocks=70, reuse=reuse).shortfall_blocks == 0
    assert ledger.pressure(required_blocks=90, reuse=reuse).shortfall_blocks == 10


def test_blocks_that_two_claims_share_are_protected_once_and_free_nothing_alone() -> None:
    ledger = PoolLedger(usable_blocks=80)
    blocks = _resident(ledger, 0, 40)
    for claim_id in ("a", "b"):
        ledger.add_claim(claim_id, mode=ProtectionMode.HARD_PROTECTED)
        ledger.hold(claim_id, blocks)
    assert ledger.protected_blocks == 40
    assert ledger.standing_of("a")[0] == 0
    ledger.drop_claim("a")
    assert ledger.protected_blocks == 40
    assert ledger.standing_of("b")[0] == 40


def test_a_protected_block_cannot_be_vacated_and_nothing_changes() -> None:
    ledger = PoolLedger(usable_blocks=8)
    blocks = _resident(ledger, 0, 4)
    ledger.add_claim("c", mode=ProtectionMode.HARD_PROTECTED)
    ledger.hold("c", [3])
    with pytest.raises(PlanError, match="under c"):
        ledger.vacate(blocks)
    assert ledger.unclaimed_blocks == 3
    assert ledger.free_blocks == 4


def test_a_block_in_use_cannot_be_vacated() -> None:
    ledger = PoolLedger(usable_blocks=8)
    ledger.occupy([1])
    with pytest.raises(PlanError, match="used by 1"):
        ledger.vacate([1])


def test_more_than_free_cannot_be_occupied() -> None:
    ledger = PoolLedger(usable_blocks=2)
    with pytest.raises(PlanError, match="2 are free"):
        ledger.occupy([1, 2, 3])
    assert ledger.free_blocks == 2


def _with_a_system_prompt(claims: int) -> PoolLedger:
    """Claims of four blocks each that share one more block."""
    ledger = PoolLedger(usable_blocks=claims * 5 + 40)
    ledger.occupy(["system"])
    ledger.unpin(["system"])
    for index in range(claims):
        ledger.add_claim(f"c{index}", mode=ProtectionMode.HARD_PROTECTED)
        ledger.hold(f"c{index}", ["system", *_resident(ledger, index * 4, 4)])
    return ledger


def test_using_a_widely_shared_block_moves_no_claim_in_the_order() -> None:
    ledger = _with_a_system_prompt(200)
    placed: list[str] = []
    place = ledger.shelves.place
    ledger.shelves.place = lambda shelf, standing, **rest: placed.append(standing[2]) or place(shelf, standing, **rest)  # type: ignore[method-assign,func-returns-value]
    ledger.pin(["system"])
    assert ledger.protected_blocks == 801
    ledger.unpin(["system"])
    assert placed == []
    ledger.add_claim("one more", mode=ProtectionMode.HARD_PROTECTED)
    ledger.hold("one more", ["system"])
    assert placed == ["one more"]
    ledger.drop_claim("one more")
    assert set(placed) == {"one more"}


def test_a_failed_vacate_of_a_widely_shared_block_names_a_few_of_its_claims() -> None:
    with pytest.raises(PlanError, match="and 192 more"):
        _with_a_system_prompt(200).vacate(["system"])


@pytest.mark.parametrize("change", ["pin", "unpin", "vacate"])
def test_a_block_named_twice_is_refused_and_changes_nothing(change: str) -> None:
    ledger = PoolLedger(usable_blocks=10)
    ledger.occupy([1, 2])
    if change == "vacate":
        ledger.unpin([1, 2])
    before = (ledger.free_blocks, ledger.unclaimed_blocks, ledger.active_blocks)
    with pytest.raises(PlanError, match="block 2 was named twice"):
        getattr(ledger, change)([1, 2, 2])
    assert (ledger.free_blocks, ledger.unclaimed_blocks, ledger.active_blocks) == before


def test_holding_and_letting_go_of_a_block_named_twice_is_holding_it_once() -> None:
    ledger = PoolLedger(usable_blocks=10)
    ledger.occupy([1])
    ledger.unpin([1])
    for claim_id in ("a", "b"):
        ledger.add_claim(claim_id, mode=ProtectionMode.HARD_PROTECTED)
        ledger.hold(claim_id, [1, 1])
    assert ledger.standing_of("a")[0] == 0
    ledger.let_go("b", [1, 1])
    assert ledger.standing_of("a")[0] == 1
    assert ledger.protected_blocks == 1
