"""The verdict as a page to read: what is kept, what is broken and why, and what was not seen."""

from __future__ import annotations

import html
from collections.abc import Mapping, Sequence

from tenure.conformance.finding import Status
from tenure.conformance.profiles import Profile
from tenure.conformance.verdict import WHAT_A_PASS_DOES_NOT_PROVE, CheckResult, Verdict

#: More events than this are cut in the page; `report.json` has them all.
SHOWN_WITNESS_EVENTS = 40
#: More claims and requests that a trace leaves open than this are counted; `report.json` names them all.
SHOWN_OPEN = 20
_BROKEN = frozenset({Status.FAIL, Status.XFAIL})


def headline(verdict: Verdict) -> str:
    """The verdict in one sentence."""
    kept = _names(verdict.strongest_kept)
    broken = _names(verdict.weakest_broken)
    parts = [
        f"{verdict.subject_name} keeps {kept}" if kept else f"{verdict.subject_name} is not shown to keep a profile"
    ]
    if broken:
        parts.append(f"it breaks {broken} ({', '.join(verdict.broken_clauses)})")
    return "; ".join(parts) + "."


def further_lines(verdict: Verdict) -> list[str]:
    """What the headline leaves out: what a trace leaves open at its end, and why the exit code is not 0."""
    lines = []
    if verdict.left_open:
        named = ", ".join(verdict.left_open[:SHOWN_OPEN])
        more = len(verdict.left_open) - SHOWN_OPEN
        lines.append(
            f"left open at its end: {named}{f' and {more} more' if more > 0 else ''}; "
            "a trace that was cut off there reads the same"
        )
    if verdict.exit_code:
        lines.append(f"exit code {verdict.exit_code}: {verdict.exit_reason}")
    return lines


def _versions(verdict: Verdict) -> str:
    edition = f"contract edition {verdict.spec_edition}"
    return f"Suite {verdict.suite_version}, {edition}, {verdict.trace_events} events read."


def _names(profiles: tuple[Profile, ...]) -> str:
    return " and ".join(profile.value for profile in profiles)


def witness_lines(result: CheckResult) -> list[str]:
    """The shrunk trace in lines, cut when it is long."""
    if result.witness is None:
        return []
    lines = list(result.witness.lines[:SHOWN_WITNESS_EVENTS])
    left_out = len(result.witness.lines) - len(lines)
    return [*lines, f"… {left_out} more in report.json"] if left_out else lines


def markdown_page(verdict: Verdict, *, environment: Mapping[str, object]) -> str:
    """The page in Markdown."""
    lines = [
        f"# Conformance of {verdict.subject_name}",
        "",
        headline(verdict),
        "",
        *(f"- {_cell(line)}" for line in further_lines(verdict)),
        "",
        _versions(verdict),
        *(f"- {key}: {value}" for key, value in environment.items()),
        "",
        "| profile | outcome |",
        "|---|---|",
        *(f"| {profile.value} | {outcome.value} |" for profile, outcome in verdict.outcomes.items()),
        "",
    ]
    broken = [result for result in verdict.results if result.status in _BROKEN]
    if broken:
        lines += ["## What is broken", ""]
    for result in broken:
        lines += [
            f"### {result.check_id}: {_cell(result.title)}",
            "",
            f"**{result.broken_clause}**, {result.status.value}"
            + (f" ({_cell(result.expected)})" if result.expected is not None else ""),
            "",
            f"{result.what} {result.why}",
            "",
        ]
        shown = witness_lines(result)
        if result.witness is not None and shown:
            lines += [
                f"Events of run `{result.witness.trace_name}`, shrunk from {result.witness.shrunk_from}:",
                "",
                "```",
                *shown,
                "```",
                "",
            ]
    lines += ["## Every check", "", "| check | status | asked for by | what was seen |", "|---|---|---|---|"]
    lines += [
        f"| {result.check_id} | {result.status.value} | {result.profile.value} | {_cell(result.what)} |"
        for result in verdict.results
    ]
    lines += ["", "## Outcomes in the traces", "", "| outcome | count |", "|---|---|"]
    lines += [f"| {name} | {count} |" for name, count in verdict.outcome_counts.items()]
    lines += ["", "## What a pass does not prove", "", WHAT_A_PASS_DOES_NOT_PROVE, ""]
    return "\n".join(lines)


def _cell(text: str) -> str:
    return text.replace("\n", " ").replace("|", "\\|")


_STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem; color: #1a1a1a; }
table { border-collapse: collapse; width: 100%; margin: 1rem 0; }
td, th { border-bottom: 1px solid #ddd; padding: .3rem .6rem; text-align: left; vertical-align: top; }
pre { background: #f6f6f6; padding: .8rem; overflow-x: auto; font-size: 13px; }
.kept, .pass { color: #1a7f37; } .broken, .fail, .error, .xpass { color: #b42318; }
.undetermined, .xfail, .blocked, .inconclusive, .not_exposed, .not_applicable { color: #8a6d00; }
@media (prefers-color-scheme: dark) { body { background: #111; color: #eee; } pre { background: #1c1c1c; }
td, th { border-color: #333; } }
"""


def html_page(verdict: Verdict, *, environment: Mapping[str, object]) -> str:
    """The page in HTML: one file, no script, nothing loaded from elsewhere."""
    parts = [
        f"<h1>Conformance of {_esc(verdict.subject_name)}</h1>",
        f"<p>{_esc(headline(verdict))}</p>",
        *(f"<p>{_esc(line)}</p>" for line in further_lines(verdict)),
        f"<p>{_esc(_versions(verdict))}</p>",
        _table(("", ""), [(key, value) for key, value in environment.items()]),
        _table(("profile", "outcome"), [(p.value, o.value) for p, o in verdict.outcomes.items()]),
    ]
    broken = [result for result in verdict.results if result.status in _BROKEN]
    if broken:
        parts.append("<h2>What is broken</h2>")
    for result in broken:
        expected = "" if result.expected is None else f" ({_esc(result.expected)})"
        parts += [
            f"<h3>{_esc(result.check_id)}: {_esc(result.title)}</h3>",
            f"<p><b>{_esc(result.broken_clause)}</b>, {result.status.value}{expected}</p>",
            f"<p>{_esc(result.what)} {_esc(result.why)}</p>",
        ]
        shown = witness_lines(result)
        if result.witness is not None and shown:
            parts += [
                f"<p>Events of run {_esc(result.witness.trace_name)}, shrunk from {result.witness.shrunk_from}:</p>",
                f"<pre>{_esc(chr(10).join(shown))}</pre>",
            ]
    rows = [(r.check_id, r.status.value, r.profile.value, r.what) for r in verdict.results]
    parts += [
        "<h2>Every check</h2>",
        _table(("check", "status", "asked for by", "what was seen"), rows),
        "<h2>Outcomes in the traces</h2>",
        _table(("outcome", "count"), list(verdict.outcome_counts.items())),
        f"<h2>What a pass does not prove</h2><p>{_esc(WHAT_A_PASS_DOES_NOT_PROVE)}</p>",
    ]
    title = f"Conformance of {_esc(verdict.subject_name)}"
    head = f'<meta charset="utf-8"><title>{title}</title><style>{_STYLE}</style>'
    return f'<!doctype html>\n<html lang="en"><head>{head}</head><body>\n' + "\n".join(parts) + "\n</body></html>\n"


def _table(head: tuple[str, ...], rows: Sequence[tuple[object, ...]]) -> str:
    titles = "".join(f"<th>{_esc(name)}</th>" for name in head)
    body = "".join("<tr>" + "".join(_td(cell) for cell in row) + "</tr>" for row in rows)
    return f"<table><tr>{titles}</tr>{body}</table>"


def _td(cell: object) -> str:
    words = {*(status.value for status in Status), "kept", "broken", "undetermined"}
    return f'<td class="{cell}">{_esc(cell)}</td>' if cell in words else f"<td>{_esc(cell)}</td>"


def _esc(value: object) -> str:
    return html.escape(str(value))
