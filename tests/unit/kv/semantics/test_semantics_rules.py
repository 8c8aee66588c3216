from __future__ import annotations

from tenure.kv.semantics import RULES, RuleId


def test_every_rule_is_one_sentence_with_an_id_of_its_own() -> None:
    assert set(RULES) == set(RuleId)
    for rule_id, rule in RULES.items():
        assert rule.id is rule_id
        assert rule.id.value.startswith("KV-")
        assert rule.sentence.endswith(".")
        assert rule.sentence.count(".") == 1
        assert rule.breaks_when
        assert not rule.breaks_when.endswith(".")
