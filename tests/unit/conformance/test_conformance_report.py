from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree

import jsonschema
import pytest

from tenure.conformance import Verdict, grade, write_report
from tenure.conformance.report import (
    badge_svg,
    html_page,
    junit_xml,
    markdown_page,
    report_json,
    report_record,
    report_schema,
)
from tenure.conformance.verdict import WHAT_A_PASS_DOES_NOT_PROVE
from tenure.conformance.zoo import zoo_member
from tenure.errors import UsageError

ENVIRONMENT = {"python": "3.11", "duration_s": 0.5}


@pytest.fixture(scope="module")
def broken() -> Verdict:
    return grade(
        zoo_member("silent-evictor").factory,
        profiles=["lease"],
        expected_failures={"L4": "not built yet", "L1": "stale"},
        name="evil <b> & | co",
    )


@pytest.fixture(scope="module")
def good() -> Verdict:
    return grade(zoo_member("unbroken").factory, profiles=["observe"])


def test_the_record_follows_its_published_schema(broken: Verdict, good: Verdict) -> None:
    validator = jsonschema.Draft202012Validator(report_schema())
    validator.check_schema(report_schema())
    for verdict in (broken, good):
        record = json.loads(report_json(verdict, environment=ENVIRONMENT))
        validator.validate(record)
        assert record["suite_version"] == verdict.suite_version
        assert sum(record["status_counts"].values()) == len(record["results"])
        assert record["outcome_counts"]


def test_the_schema_refuses_a_failure_without_its_clause(broken: Verdict) -> None:
    record = json.loads(report_json(broken, environment=ENVIRONMENT))
    failure = next(result for result in record["results"] if result["status"] == "fail")
    failure["broken_clause"] = None
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(record, report_schema())


def test_junit_counts_failures_errors_and_what_was_not_seen(broken: Verdict) -> None:
    suite = ElementTree.fromstring(junit_xml(broken)).find("testsuite")
    assert suite is not None
    assert int(suite.attrib["tests"]) == len(broken.results) == len(suite.findall("testcase"))
    for attribute, tag in (("failures", "failure"), ("errors", "error"), ("skipped", "skipped")):
        assert int(suite.attrib[attribute]) == len(suite.findall(f"testcase/{tag}")) > 0
    failure = suite.find("testcase/failure")
    assert failure is not None
    assert failure.attrib["type"].startswith("TNR-")


def test_junit_survives_a_message_with_characters_that_xml_does_not_have(good: Verdict) -> None:
    results = tuple(replace(result, what="a\x00b\x1b", status=result.status) for result in good.results)
    failing = replace(results[0], status=type(results[0].status).ERROR)
    ElementTree.fromstring(junit_xml(replace(good, results=(failing, *results[1:]))))


def test_the_pages_show_every_check_the_proof_and_what_a_pass_does_not_prove(broken: Verdict) -> None:
    page = markdown_page(broken, environment=ENVIRONMENT)
    for result in broken.results:
        assert f"| {result.check_id} |" in page
    for result in broken.failures:
        assert result.what in page
        assert result.why in page
    assert WHAT_A_PASS_DOES_NOT_PROVE in page
    assert "not built yet" in page


def test_html_escapes_what_a_subject_says(broken: Verdict) -> None:
    page = html_page(broken, environment=ENVIRONMENT)
    assert "evil <b>" not in page
    assert "evil &lt;b&gt; &amp; | co" in page
    assert "<script" not in page


@pytest.mark.parametrize(("which", "words"), [("broken", "breaks lease"), ("good", "observe")])
def test_the_badge_names_the_profile(which: str, words: str, request: pytest.FixtureRequest) -> None:
    verdict = request.getfixturevalue(which)
    svg = ElementTree.fromstring(badge_svg(replace(verdict, profiles=verdict.profiles)))
    shown = " ".join(text for text in svg.itertext())
    if which == "good":
        assert words in shown
    else:
        assert "observe" in shown or words in shown


def test_every_form_is_written_and_a_folder_that_cannot_be_made_is_wrong_input(good: Verdict, tmp_path: Path) -> None:
    files = write_report(good, tmp_path / "deep" / "report", environment=ENVIRONMENT)
    assert [path.name for path in files] == ["report.json", "junit.xml", "report.md", "report.html", "badge.svg"]
    assert all(path.read_text() for path in files)
    blocked = tmp_path / "file"
    blocked.write_text("")
    with pytest.raises(UsageError, match="file"):
        write_report(good, blocked / "report", environment=ENVIRONMENT)


def test_the_record_of_a_verdict_is_the_same_every_time() -> None:
    first, second = (
        report_record(grade(zoo_member("wedge").factory, profiles=["hard"]), environment={}) for _ in range(2)
    )
    assert first == second
