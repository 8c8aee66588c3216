from __future__ import annotations

import json
from pathlib import Path

import pytest

from tenure.conformance.ledger import replay, required_positions
from tenure.conformance.reconstruct import reconstruct
from tenure.conformance.subject import RequestAsk, Setup
from tenure.conformance.trace import brief_lines, read_trace, trace_of
from tenure.conformance.zoo.toy import ToyRuntime
from tenure.errors import TraceError


def written(path: Path, records: list[dict[str, object]]) -> Path:
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return path


def event(number: int, name: str = "active_request_admitted", **more: object) -> dict[str, object]:
    return {"event": name, "event_sequence": number, **more}


def test_a_trace_is_read_with_aliases_in_one_spelling(tmp_path: Path) -> None:
    trace = read_trace(written(tmp_path / "t.jsonl", [event(0, "claim_harmed", claim_id="c"), event(1, "unheard_of")]))
    assert [e.kind and e.kind.value for e in trace] == ["resident_claim_harmed", None]


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ('{"event": "x", "event_sequence": 0}\n{"event": "y", "ev', "line 2"),
        ("[1, 2]\n", "line 1"),
        ('{"event_sequence": 0}\n', "event"),
        ("\n\n", "no event"),
        ('{"event": "x", "event_sequence": 4}\n{"event": "x", "event_sequence": 3}\n', "event_sequence"),
        ('{"event": "x", "event_sequence": 4}\n{"event": "x", "event_sequence": 4}\n', "event_sequence"),
    ],
)
def test_what_is_no_trace_is_refused_with_line_field_and_clause(tmp_path: Path, text: str, told: str) -> None:
    path = tmp_path / "bad.jsonl"
    path.write_text(text)
    with pytest.raises(TraceError, match=told) as caught:
        read_trace(path)
    assert caught.value.clause is not None
    assert caught.value.field is not None


def test_a_missing_or_binary_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "binary").write_bytes(b"\xff\xfe\x00")
    for name in ("absent", "binary"):
        with pytest.raises(TraceError, match=name):
            read_trace(tmp_path / name)


@pytest.mark.parametrize(
    ("text", "positions"),
    [
        ("leading_prefix_at_least(3)", range(3)),
        ("contiguous_range(2,3)", range(2, 5)),
        ("contiguous_range(2, 3)", range(2, 5)),
        ("leading_prefix_at_least(0)", range(0)),
        ("leading_prefix_at_least(1,2)", None),
        ("contiguous_range(3)", None),
        ("3", None),
    ],
)
def test_predicates_are_read_from_their_text(text: str, positions: range | None) -> None:
    assert required_positions(text) == positions


def claim_lines(claim_id: str, prefix_id: str, required: int, at: int) -> list[dict[str, object]]:
    return [
        event(
            at,
            "resident_claim_submitted",
            claim_id=claim_id,
            prefix_id=prefix_id,
            materialization_predicate=f"leading_prefix_at_least({required})",
        ),
        event(
            at + 1,
            "resident_claim_accepted",
            claim_id=claim_id,
            prefix_id=prefix_id,
            protection_mode="hard_protected",
            footprint_blocks=required,
        ),
    ]


def block(at: int, prefix_id: str, position: int, physical: int, block_hash: str = "h") -> dict[str, object]:
    return event(
        at,
        "resident_block_materialized",
        prefix_id=prefix_id,
        logical_block_position=position,
        physical_block_id=physical,
        block_hash=f"{block_hash}{physical}",
    )


def test_two_claims_on_one_prefix_hold_its_blocks_once() -> None:
    records = [*claim_lines("a", "p", 2, 0), *claim_lines("b", "p", 1, 2), block(4, "p", 0, 7), block(5, "p", 1, 8)]
    ledger = replay(trace_of(records))
    assert ledger.claims["a"].blocks == {0: 7, 1: 8}
    assert ledger.claims["b"].blocks == {0: 7}
    assert ledger.protected_blocks() == {7, 8}
    assert ledger.protected_blocks(besides=frozenset({"a"})) == {7}


def test_survivors_without_the_first_block_do_not_hold_the_predicate() -> None:
    records = [*claim_lines("a", "p", 60, 0), *(block(2 + n, "p", n, n) for n in range(1, 60))]
    claim = replay(trace_of(records)).claims["a"]
    assert len(claim.blocks) == 59
    assert not claim.holds()
    records = [*claim_lines("a", "p", 60, 0), *(block(2 + n, "p", n, n) for n in range(1, 61))]
    assert not replay(trace_of(records)).claims["a"].holds()


def test_a_block_that_holds_other_rows_now_holds_the_old_ones_no_longer() -> None:
    records = [*claim_lines("a", "p", 1, 0), block(2, "p", 0, 7), block(3, "other", 0, 7, block_hash="new")]
    assert replay(trace_of(records)).claims["a"].blocks == {}


def test_a_victim_that_was_free_evicts_nothing() -> None:
    taken = event(3, "allocation_victim_selected", physical_block_id=7, victim_reason="free_uncached")
    records = [*claim_lines("a", "p", 1, 0), block(2, "p", 0, 7), taken]
    assert replay(trace_of(records)).claims["a"].holds()


def test_a_deferred_then_served_request_is_served_whatever_its_id() -> None:
    names = ("active_request_deferred", "active_request_deferred", "active_request_admitted", "active_request_finished")
    story = reconstruct(trace_of(event(n, name, request_id="1-98f251b5") for n, name in enumerate(names)))
    assert story.requests["1-98f251b5"].outcome == "served"
    assert story.requests["1-98f251b5"].deferrals == 2
    assert story.outcome_counts() == {"request served after deferral": 1}


def test_a_run_of_block_lines_is_told_in_three() -> None:
    subject = ToyRuntime(Setup())
    subject.start_request(RequestAsk(request_id="r", content=tuple(range(9)), live_blocks=9))
    lines = brief_lines(trace_of(subject.events()))
    assert [line for line in lines if "more of these" in line] == ["… 7 more of these …"]
    assert len(lines) == 5
