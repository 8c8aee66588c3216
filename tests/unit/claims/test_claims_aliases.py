from __future__ import annotations

from tenure.claims.aliases import in_present_words


def test_older_words_are_read_in_nested_records_too_and_present_ones_are_left_alone() -> None:
    told = {
        "arbiter_action": "write_no_admit",
        "protected_resident_claims": [{"claim_id": "a", "protection_mode": "reserve"}],
        "decision_reason": "none",
    }
    assert in_present_words(told) == {
        "arbiter_action": "serve_active_no_admit",
        "protected_resident_claims": [{"claim_id": "a", "protection_mode": "hard_protected"}],
        "decision_reason": "none",
    }
    present = {"protection_mode": "demotable", "arbiter_action": ["no", "word"]}
    assert in_present_words(present) == present
