"""A run that begins with a restart: the claims that it found in its journal are no newcomers, and are judged."""

from __future__ import annotations

import json

import pytest

from claims_world import World, make_claim
from tenure.claims.event_types import EventType
from tenure.conformance import grade_trace
from tenure.conformance.trace import trace_of

Records = list[dict[str, object]]


def numbered(records: Records) -> Records:
    return [record | {"event_sequence": number, "run_id": "second"} for number, record in enumerate(records)]


def second_run(*, status: str = "materialized", generation: int = 0) -> Records:
    """What a runtime writes that finds one live claim in its journal."""
    world = World()
    started = {"runtime_name": "t", "spec_version": "2026.1", "runtime_generation": 2, "live_claims": 1}
    world.trace.emit(EventType.RUNTIME_RESTARTED, started)
    recovered = {
        "claim_status": status,
        "revision": 1,
        "expires_at_s": None,
        "clock_s": 0.0,
        "protection_mode": "hard_protected",
        "footprint_blocks": 5,
        "offload_generation": generation,
    }
    world.trace.emit(EventType.CLAIM_RECOVERED, recovered, claim_id="c", prefix_id="p")
    return [json.loads(line) for line in world.trace.to_json_lines().splitlines()]


def harm() -> dict[str, object]:
    world = World()
    claim = make_claim("c")
    world.hold(claim)
    world.take(claim, 0)
    return json.loads(world.trace.to_json_lines().splitlines()[-1])  # type: ignore[no-any-return]


def restore_required(generation: int) -> dict[str, object]:
    recovered = second_run()[1]
    common = {name: recovered[name] for name in ("schema_version", "timestamp_ns", "policy", "usable_blocks")}
    about = {"claim_id": "c", "prefix_id": "p", "request_id": "r", "event": EventType.CLAIM_RESTORE_REQUIRED.value}
    return common | about | {"offload_generation": generation, "cache_tier": "host_offload_tier"}


def broken(records: Records) -> set[tuple[str, str | None]]:
    verdict = grade_trace(trace_of(numbered(records)))
    return {(result.check_id, result.broken_clause) for result in verdict.failures}


def test_a_claim_that_the_first_lines_of_a_run_recover_is_known_from_there() -> None:
    assert broken(second_run()) == set()
    assert broken([*second_run(), harm()]) == set()


def test_its_offload_generation_goes_on_from_where_it_was() -> None:
    away = second_run(status="offloaded", generation=3)
    assert broken([*away, restore_required(3)]) == set()
    mixed = broken([*away, restore_required(1)])
    assert ("trace-offload-generations", "TNR-EVT-004") in mixed


@pytest.mark.parametrize("end", [None, "resident_claim_harmed"])
def test_a_claim_that_is_recovered_out_of_nowhere_was_named_after_the_fact(end: str | None) -> None:
    began = second_run()
    late = [began[0] | {"event": "runtime_started"}, began[1]]
    del late[0]["live_claims"]
    found = broken(late if end is None else [*late, harm()])
    assert ("trace-no-post-hoc-claim", "TNR-EVT-007") in found
