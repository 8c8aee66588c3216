"""The soak of `tenure bench pressure` finds nothing on the engine as it is, and finds what is broken on purpose."""

from __future__ import annotations

import random
from typing import Any

import pytest

from tenure.bench.pressure_soak import SoakResult, run_soak
from tenure.models.tiny import VOCAB_SIZE, tiny_model
from tenure.runtime.control.residency import Residency
from tenure.runtime.hf.engine import Engine
from tenure.runtime.hf.engine.rows import DeviceRows

_CHANCE = random.Random(3)
TEXT = [_CHANCE.randrange(2, VOCAB_SIZE) for _ in range(1200)]


def soak(sessions: int, *, seed: int = 0) -> SoakResult:
    return run_soak(tiny_model("llama"), TEXT, sessions=sessions, seed=seed)


def test_nothing_is_found_on_the_engine_and_enough_happens_to_find_it() -> None:
    result = soak(120)
    assert result.violations == []
    assert result.sessions == 120
    assert result.answers_checked > 100
    expected = ("cancelled", "paused", "claim used", "resident_claim_materialized", "resident_claim_offloaded")
    for name in (*expected, "active_request_deferred", "active_request_refused", "active_live_offloaded"):
        assert result.happened[name] >= 3, name


def test_equal_seeds_give_equal_acts() -> None:
    assert soak(20, seed=9).happened == soak(20, seed=9).happened


def test_an_engine_that_evicts_claimed_blocks_in_silence_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    empty = Residency._empty

    def empty_whatever(self: Residency, slot: Any) -> None:
        for claim_id in self.ledger.holders(slot.block_id):
            self.ledger.let_go(claim_id, [slot.block_id])
        empty(self, slot)

    monkeypatch.setattr(Residency, "_victim_rank", lambda _self, _slot, _harms: 0)
    monkeypatch.setattr(Residency, "_leave", lambda _self, _slot, **_: False)
    monkeypatch.setattr(Residency, "_empty", empty_whatever)
    assert soak(120).violations


def test_an_engine_that_shares_rows_between_tenants_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    identity = Engine.cache_identity
    monkeypatch.setattr(Engine, "cache_identity", lambda self, *_: identity(self, "everybody", None))
    violations = soak(120).violations
    assert any("its tenant had sent only" in violation for violation in violations)


def test_rows_that_do_not_come_back_are_found_by_the_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(DeviceRows, "_page_in", lambda _self, _saved, _block_id: None)
    assert any("the cold run" in violation or "failed" in violation for violation in soak(300).violations)


def test_an_engine_that_forgets_to_try_waiting_requests_is_found_wedged(monkeypatch: pytest.MonkeyPatch) -> None:
    from tenure.bench import pressure_soak
    from tenure.runtime.control import ControlPlane

    monkeypatch.setattr(pressure_soak, "MAX_STEPS", 200)
    monkeypatch.setattr(ControlPlane, "_retry", lambda _self, _works: None)
    assert any("wedged" in violation for violation in soak(120).violations)
