"""The verdict as JSON. `report.schema.json`, beside this file, is its published schema."""

from __future__ import annotations

import json
from collections.abc import Mapping
from importlib import resources
from typing import Any

from tenure.conformance.verdict import WHAT_A_PASS_DOES_NOT_PROVE, CheckResult, Verdict

#: Version of the record's shape; its schema has the same.
REPORT_SCHEMA_VERSION = 1


def report_record(verdict: Verdict, *, environment: Mapping[str, object]) -> dict[str, Any]:
    """The verdict as a JSON-ready mapping. `environment` is whatever the caller knows of the run."""
    subject = verdict.subject
    return {
        "schema_version": REPORT_SCHEMA_VERSION,
        "suite_version": verdict.suite_version,
        "spec_edition": verdict.spec_edition,
        "subject": {
            "name": verdict.subject_name,
            "version": None if subject is None else subject.version,
            "kind": "trace" if subject is None else "runtime",
            "usable_blocks": None if subject is None else subject.usable_blocks,
            "block_size": None if subject is None else subject.block_size,
            "protection_modes": [] if subject is None else sorted(subject.protection_modes),
            "actions": [] if subject is None else sorted(subject.actions),
            "features": [] if subject is None else sorted(feature.value for feature in subject.features),
        },
        "environment": dict(environment),
        "profiles_asked": [profile.value for profile in verdict.profiles],
        "profiles": {profile.value: outcome.value for profile, outcome in verdict.outcomes.items()},
        "strongest_kept": [profile.value for profile in verdict.strongest_kept],
        "weakest_broken": [profile.value for profile in verdict.weakest_broken],
        "broken_clauses": list(verdict.broken_clauses),
        "status_counts": verdict.status_counts,
        "outcome_counts": dict(verdict.outcome_counts),
        "trace_events": verdict.trace_events,
        "left_open": list(verdict.left_open),
        "exit_code": verdict.exit_code,
        "exit_reason": verdict.exit_reason,
        "what_a_pass_does_not_prove": WHAT_A_PASS_DOES_NOT_PROVE,
        "results": [_result_record(result) for result in verdict.results],
    }


def _result_record(result: CheckResult) -> dict[str, Any]:
    witness = result.witness
    return {
        "check_id": result.check_id,
        "title": result.title,
        "profile": result.profile.value,
        "clauses": list(result.clauses),
        "status": result.status.value,
        "what": result.what,
        "why": result.why,
        "broken_clause": result.broken_clause,
        "expected_failure": result.expected,
        "witness": None
        if witness is None
        else {
            "trace": witness.trace_name,
            "shrunk_from_events": witness.shrunk_from,
            "events": [dict(record) for record in witness.records],
        },
    }


def report_json(verdict: Verdict, *, environment: Mapping[str, object]) -> str:
    """`report_record` as text: keys in reading order, two spaces, a line break at the end."""
    return json.dumps(report_record(verdict, environment=environment), indent=2, default=str) + "\n"


def report_schema() -> dict[str, Any]:
    """The JSON Schema (2020-12) of `report.json`."""
    text = resources.files(__package__).joinpath("report.schema.json").read_text(encoding="utf-8")
    schema: dict[str, Any] = json.loads(text)
    return schema
