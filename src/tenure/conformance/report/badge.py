"""The verdict as a badge: the strongest profile kept, or the weakest broken."""

from __future__ import annotations

import html

from tenure.conformance.verdict import Verdict

#: Mean advance of a character in the badge's font at 11 px, in pixels; a badge only needs to be about right.
_PX_A_CHARACTER = 6.6
_KEPT, _BROKEN, _OPEN = "#1a7f37", "#b42318", "#8a6d00"


def badge_svg(verdict: Verdict) -> str:
    """An SVG of one line: `tenure <edition>` and `hard + tiered`, or `breaks lease`, or `undetermined`."""
    if verdict.strongest_kept:
        message, colour = " + ".join(profile.value for profile in verdict.strongest_kept), _KEPT
        if verdict.weakest_broken:
            colour = _OPEN
    elif verdict.weakest_broken:
        message, colour = f"breaks {verdict.weakest_broken[0].value}", _BROKEN
    else:
        message, colour = "undetermined", _OPEN
    label = f"tenure {verdict.spec_edition}"
    left, right = (round(len(text) * _PX_A_CHARACTER + 12) for text in (label, message))
    shown = html.escape(f"{label}: {message}")
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{left + right}" height="20" role="img" aria-label="{shown}">'
        f"<title>{shown}</title>"
        f'<rect width="{left}" height="20" fill="#444"/>'
        f'<rect x="{left}" width="{right}" height="20" fill="{colour}"/>'
        '<g fill="#fff" font-family="Verdana,DejaVu Sans,sans-serif" font-size="11" text-anchor="middle">'
        f'<text x="{left / 2}" y="14">{html.escape(label)}</text>'
        f'<text x="{left + right / 2}" y="14">{html.escape(message)}</text>'
        "</g></svg>\n"
    )
