"""The verdict as JUnit XML, so that any continuous integration shows it.

A failure is `failure`, a crash or a stale expectation `error`; what was not seen is `skipped`, with its status.
"""

from __future__ import annotations

from xml.etree import ElementTree

from tenure.conformance.finding import Status
from tenure.conformance.verdict import CheckResult, Verdict

_ERRORS = frozenset({Status.ERROR, Status.XPASS})
_RUN = frozenset({Status.PASS, Status.FAIL})


def junit_xml(verdict: Verdict) -> str:
    """One test suite with one test case a check; the class name is the profile that asks for it."""
    results = verdict.results
    suite = ElementTree.Element(
        "testsuite",
        name=f"tenure conformance {verdict.suite_version}: {verdict.subject_name}",
        tests=str(len(results)),
        failures=str(sum(result.status is Status.FAIL for result in results)),
        errors=str(sum(result.status in _ERRORS for result in results)),
        skipped=str(sum(result.status not in _RUN | _ERRORS for result in results)),
    )
    for result in results:
        _add_case(suite, result)
    root = ElementTree.Element("testsuites")
    root.append(suite)
    ElementTree.indent(root)
    return '<?xml version="1.0" encoding="utf-8"?>\n' + ElementTree.tostring(root, encoding="unicode") + "\n"


def _add_case(suite: ElementTree.Element, result: CheckResult) -> None:
    case = ElementTree.SubElement(suite, "testcase", classname=f"conformance.{result.profile}", name=result.check_id)
    if result.status is Status.PASS:
        return
    if result.status is Status.FAIL:
        lines = () if result.witness is None else result.witness.lines
        failure = ElementTree.SubElement(case, "failure", type=result.broken_clause or "", message=_text(result.what))
        failure.text = _text("\n".join((result.what, result.why, "", *lines)))
    elif result.status in _ERRORS:
        expected = "" if result.expected is None else f" (expected to fail: {result.expected})"
        ElementTree.SubElement(case, "error", type=result.status.value, message=_text(result.what + expected))
    else:
        reason = result.what if result.expected is None else f"{result.expected}: {result.what}"
        ElementTree.SubElement(case, "skipped", message=_text(f"{result.status.value}: {reason}"))


def _text(text: str) -> str:
    """The text without characters that XML 1.0 does not have; a foreign runtime's message may hold any."""
    return "".join(c if c in "\t\n\r" or ord(c) >= 0x20 else "\N{REPLACEMENT CHARACTER}" for c in text)
