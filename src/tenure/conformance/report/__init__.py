"""A verdict on paper: JSON with a published schema, JUnit XML, a page in Markdown and HTML, and a badge."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from tenure.conformance.report.badge import badge_svg
from tenure.conformance.report.junit import junit_xml
from tenure.conformance.report.page import html_page, markdown_page
from tenure.conformance.report.record import report_json, report_record, report_schema
from tenure.conformance.verdict import Verdict
from tenure.errors import UsageError

__all__ = [
    "badge_svg",
    "html_page",
    "junit_xml",
    "markdown_page",
    "report_json",
    "report_record",
    "report_schema",
    "write_report",
]


def write_report(verdict: Verdict, directory: Path, *, environment: Mapping[str, object]) -> tuple[Path, ...]:
    """Write every form of the verdict into `directory`, which is made when it is not there.

    Returns:
        The files, in the order of writing: report.json, junit.xml, report.md, report.html, badge.svg.

    Raises:
        UsageError: the directory cannot be made or written to.
    """
    pages = {
        "report.json": report_json(verdict, environment=environment),
        "junit.xml": junit_xml(verdict),
        "report.md": markdown_page(verdict, environment=environment),
        "report.html": html_page(verdict, environment=environment),
        "badge.svg": badge_svg(verdict),
    }
    try:
        directory.mkdir(parents=True, exist_ok=True)
        for name, text in pages.items():
            (directory / name).write_text(text, encoding="utf-8")
    except OSError as error:
        raise UsageError(f"the report cannot be written to {directory}: {error}") from error
    return tuple(directory / name for name in pages)
