"""A hard claim is no victim, also when the runtime says politely which of its blocks it takes."""

from __future__ import annotations

import pytest

from tenure.conformance import Status, grade
from tenure.conformance.rules import TRACE_RULES
from tenure.conformance.subject import ClaimAsk, RequestAsk, Setup
from tenure.conformance.trace import Trace, trace_of
from tenure.conformance.zoo import ZOO
from tenure.conformance.zoo.toy import ToyRuntime

RULE = next(rule for rule in TRACE_RULES if rule.check_id == "trace-hard-is-no-victim")


def hard_claim(required: int = 1) -> list[dict[str, object]]:
    """A hard claim on three blocks, of which the first `required` are promised, and all of them cached."""
    terms = {"claim_id": "c", "prefix_id": "p", "materialization_predicate": f"leading_prefix_at_least({required})"}
    accepted = {"event": "resident_claim_accepted", "protection_mode": "hard_protected", "footprint_blocks": 3}
    blocks = [
        {"event": "resident_block_materialized", "logical_block_position": n, "physical_block_id": 10 + n} | terms
        for n in range(3)
    ]
    return [{"event": "resident_claim_submitted"} | terms, accepted | terms, *blocks]


def loss(*, request_id: str | None) -> dict[str, object]:
    return {
        "event": "resident_claim_block_lost",
        "claim_id": "c",
        "request_id": request_id,
        "logical_block_position": 2,
        "physical_block_id": 12,
    }


def victim(*, request_id: str | None, reason: str = "cached_prefix_reuse") -> dict[str, object]:
    return {
        "event": "allocation_victim_selected",
        "request_id": request_id,
        "physical_block_id": 12,
        "is_protected_resident": True,
        "victim_reason": reason,
    }


def numbered(*records: dict[str, object]) -> Trace:
    return trace_of({"event_sequence": number} | record for number, record in enumerate(records))


@pytest.mark.parametrize(
    "taking",
    [
        [loss(request_id="r"), victim(request_id="r")],
        [loss(request_id=None), victim(request_id="r")],
        [loss(request_id="r")],
        [victim(request_id="r")],
    ],
    ids=["loss and victim", "only the victim names the request", "loss alone", "victim alone"],
)
def test_a_block_of_a_hard_claim_that_a_request_takes_is_a_victim_whatever_is_told_of_it(
    taking: list[dict[str, object]],
) -> None:
    finding = RULE.judge(numbered(*hard_claim(), *taking))
    assert (finding.status, finding.clause_id) == (Status.FAIL, "TNR-ARB-003")
    assert "position 2 of hard claim c" in finding.what


@pytest.mark.parametrize("end", ["demoted", "expired", "released", "harmed", "offloaded"])
def test_what_ended_or_moved_first_is_no_victim(end: str) -> None:
    ending = {"event": f"resident_claim_{end}", "claim_id": "c"}
    assert not RULE.judge(numbered(*hard_claim(), ending, victim(request_id="r"))).failed


def test_a_fault_takes_a_block_for_nobody() -> None:
    assert not RULE.judge(numbered(*hard_claim(), loss(request_id=None), victim(request_id=None))).failed


def test_a_block_that_was_lost_to_a_fault_and_holds_other_rows_now_may_be_taken() -> None:
    other = {"event": "resident_block_materialized", "logical_block_position": 0, "physical_block_id": 12}
    records = (*hard_claim(), loss(request_id=None), other | {"prefix_id": "q"}, victim(request_id="r"))
    assert not RULE.judge(numbered(*records)).failed


def test_the_runtime_that_gives_up_the_tail_of_hard_claims_is_failed_and_the_unbroken_one_is_not() -> None:
    member = ZOO["hard-tail-giver"]
    assert member.clause_id == "TNR-ARB-003"
    verdict = grade(member.factory, profiles=member.profiles)
    failures = {result.check_id: result for result in verdict.failures}
    assert failures["trace-hard-is-no-victim"].broken_clause == "TNR-ARB-003"
    assert failures["hard-tail-stands"].broken_clause == "TNR-ARB-003"

    toy = ToyRuntime(Setup())
    content = tuple(range(60))
    toy.submit_claim(
        ClaimAsk(
            claim_id="c",
            owner_scope="o",
            prefix_id="p",
            content=content,
            footprint_blocks=60,
            protection_mode="hard_protected",
            required_blocks=50,
        )
    )
    for name, labels in (("first", content), ("active", tuple(range(100, 125)))):
        toy.start_request(RequestAsk(request_id=name, content=labels, live_blocks=len(labels)))
        toy.finish_request(name)
    finding = RULE.judge(trace_of(toy.events()))
    assert finding.status is Status.PASS
