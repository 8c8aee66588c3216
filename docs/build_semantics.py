"""Write the generated parts of docs/semantics.md: the rules, the verdicts, and the findings with their reproductions.

Sources: `tenure.kv.semantics.RULES`; `docs/semantics/verdicts.json`, which `tenure check 'transformers:*' 'tenure:*'
--json docs/semantics/verdicts.json` wrote; and the programs in `docs/semantics/`, each beside what it printed.

Run: python docs/build_semantics.py             (from what is stored)
     python docs/build_semantics.py --record    (run the programs anew first; needs torch and transformers)
     python docs/build_semantics.py --check     (exit code 1 if the page is not current)
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import partial
from pathlib import Path
from typing import Any

from tenure.kv.semantics import RULES

DOCS = Path(__file__).parent
PAGE = DOCS / "semantics.md"
STORE = DOCS / "semantics"


@dataclass(frozen=True)
class Finding:
    """One cause in Transformers: where it is, which witnesses show it, and the programs that do without a checker.

    `shown_by` are (pattern of subject, rule, words of what the checker said); a witness belongs to the first finding
    that has a pattern for it.
    """

    name: str
    kind: str
    where: str
    line_number: int
    line: str
    shown_by: tuple[tuple[str, str, str], ...]
    programs: tuple[str, ...]

    def shows(self, subject: str, rule: str, said: str) -> bool:
        """Whether a witness is one of this cause."""
        return any(fnmatchcase(subject, who) and rule == which and words in said for who, which, words in self.shown_by)


_BUG, _LIMIT = "bug", "documented limit"

FINDINGS = (
    Finding(
        name="quantized",
        kind=_BUG,
        where="BaseQuantizedLayer",
        line_number=714,
        line="class BaseQuantizedLayer(DynamicLayer):",
        shown_by=tuple(
            ("transformers:QuantizedCache/*", rule, "") for rule in ("KV-FINISHED", "KV-ROLLBACK", "KV-FORK")
        ),
        programs=("quantized_batch_and_crop", "quantized_prompt_lookup"),
    ),
    Finding(
        name="recording",
        kind=_BUG,
        where="DynamicSlidingWindowLayer.crop",
        line_number=306,
        line="self.keys = self.keys[:, :, -self.sliding_window + 1 - tokens_to_remove : -tokens_to_remove, :]",
        shown_by=(("*", "KV-ROLLBACK", "rows announced for the read"),),
        programs=("recording_too_late", "recording_too_late_in_a_model"),
    ),
    Finding(
        name="half-a-crop",
        kind=_BUG,
        where="Cache.crop",
        line_number=1831,
        line="self.layers[layer_idx].crop(tokens_to_remove)",
        shown_by=(("transformers:DynamicCache/*", "KV-REFUSAL", "before the refused crop"),),
        programs=("half_a_crop",),
    ),
    Finding(
        name="refused-write",
        kind=_BUG,
        where="StaticLayer.update",
        line_number=482,
        line="self.cumulative_length.add_(kv_length)",
        shown_by=(("transformers:StaticCache*", "KV-REFUSAL", "before the refused write"),),
        programs=("refused_write_is_counted",),
    ),
    Finding(
        name="empty-batch",
        kind=_BUG,
        where="DynamicLayer.batch_select_indices",
        line_number=191,
        line="if self.get_seq_length() > 0:",
        shown_by=(
            ("transformers:DynamicCache*", "KV-FINISHED", "Sizes of tensors must match"),
            ("transformers:DynamicCache*", "KV-FORK", "Sizes of tensors must match"),
        ),
        programs=("batch_after_full_crop",),
    ),
    Finding(
        name="empty-window",
        kind=_BUG,
        where="DynamicSlidingWindowLayer.crop",
        line_number=313,
        line="self.cumulative_length = self.keys.shape[-2]",
        shown_by=(("*", "KV-ROLLBACK", "'NoneType' object has no attribute 'shape'"),),
        programs=("crop_of_an_empty_window",),
    ),
    Finding(
        name="window-of-one",
        kind=_BUG,
        where="DynamicSlidingWindowLayer.update",
        line_number=246,
        line="self.keys = full_key_states[:, :, -self.sliding_window + 1 :, :]",
        shown_by=(("transformers:DynamicCache/window-1", "KV-ACCOUNT", "rows announced for the read"),),
        programs=("window_of_one",),
    ),
    Finding(
        name="small-window",
        kind=_LIMIT,
        where="StaticSlidingWindowLayer.__init__",
        line_number=526,
        line="effective_max_cache_len = min(sliding_window, max_cache_len)",
        shown_by=(("transformers:StaticCache/window-16", "KV-READ-COMPLETE", "is in reach and is not there"),),
        programs=("window_over_capacity",),
    ),
    Finding(
        name="fp8-scale",
        kind=_LIMIT,
        where="Fp8QuantizedLayer.update",
        line_number=1015,
        line="new_keys, _ = self._quantize(key_states, scale=key_scale)",
        shown_by=(("transformers:QuantizedCache/fp8", "KV-APPEND", "altered by"),),
        programs=("fp8_scale_of_the_first_write",),
    ),
)


def verdicts() -> dict[str, Any]:
    """What `tenure check` wrote."""
    report: dict[str, Any] = json.loads((STORE / "verdicts.json").read_text(encoding="utf-8"))
    return report


def witnesses() -> Iterator[tuple[str, str, dict[str, Any]]]:
    """Every witness of the stored verdicts, as (subject, rule, witness)."""
    for subject in verdicts()["subjects"]:
        for rule in subject["rules"]:
            for witness in rule["witnesses"]:
                yield subject["subject"], rule["rule"], witness


def finding_of(subject: str, rule: str, witness: dict[str, Any]) -> Finding | None:
    """The cause of a witness; None if no finding explains it."""
    return next((finding for finding in FINDINGS if finding.shows(subject, rule, witness["finding"])), None)


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


def rules_table() -> str:
    """One row a rule."""
    rows = ["| rule | what it says | broken when | origin |", "|---|---|---|---|"]
    rows += [
        f"| `{rule.id.value}` | {_cell(rule.sentence)} | {_cell(rule.breaks_when)} | {rule.origin.value} |"
        for rule in RULES.values()
    ]
    return "\n".join(rows)


def environment_line() -> str:
    """The versions that were checked."""
    return ", ".join(f"{name} {version}" for name, version in verdicts()["environment"].items())


def verdicts_table() -> str:
    """One row a cache: how many rules were kept, broken and not exercised, and why."""
    rows = [
        "| cache | failed runs | kept | not exercised | broken, and the finding that explains it |",
        "|---|---|---|---|---|",
    ]
    for subject in verdicts()["subjects"]:
        name = f"`{subject['subject']}`"
        if subject["skipped"] is not None:
            rows.append(f"| {name} | - | - | - | skipped: {subject['skipped']} |")
            continue
        outcomes = [rule["outcome"] for rule in subject["rules"]]
        causes: dict[str, dict[str, None]] = {}
        for rule in subject["rules"]:
            for witness in rule["witnesses"]:
                finding = finding_of(subject["subject"], rule["rule"], witness)
                link = "unexplained" if finding is None else f"[{finding.name}](#{finding.name})"
                causes.setdefault(rule["rule"], {})[link] = None
        broken = "; ".join(f"{rule}: {', '.join(links)}" for rule, links in causes.items())
        failed = f"{subject['failed_runs']} of {subject['seeds']}"
        rows.append(
            f"| {name} | {failed} | {outcomes.count('kept')} | {outcomes.count('not exercised')} | {broken or 'none'} |"
        )
    return "\n".join([f"Checked with {environment_line()}.", "", *rows])


def finding_part(finding: Finding) -> str:
    """Where a finding is, its shortest witness, and its programs with what they printed."""
    shown = [
        (subject, rule, witness)
        for subject, rule, witness in witnesses()
        if finding_of(subject, rule, witness) is finding
    ]
    if not shown:
        raise ValueError(f"no stored witness shows {finding.name}: drop the finding, or check again")
    subject, rule, witness = min(shown, key=lambda one: len(one[2]["operations"]))
    rules = ", ".join(f"`{name}`" for name in dict.fromkeys(name for _, name, _ in shown))
    subjects = ", ".join(f"`{name}`" for name in dict.fromkeys(name for name, _, _ in shown))
    lines = [
        f"* Kind: {finding.kind}. Rules broken: {rules}.",
        f"* Where: `{finding.where}`, `cache_utils.py` line {finding.line_number}: `{finding.line}`",
        f"* Seen in: {subjects}.",
        "",
        f"Shortest witness (`{subject}`, {rule}):",
        "",
        "```",
        *(f"{place}. {operation}" for place, operation in enumerate(witness["operations"], start=1)),
        f"=> {witness['finding']}",
        "```",
    ]
    for program in finding.programs:
        code = (STORE / f"{program}.py").read_text(encoding="utf-8").rstrip()
        printed = (STORE / f"{program}.txt").read_text(encoding="utf-8").rstrip()
        lines += [
            "",
            f"`python docs/semantics/{program}.py`",
            "",
            "```python",
            code,
            "```",
            "",
            "prints",
            "",
            "```",
            printed,
            "```",
        ]
    return "\n".join(lines)


def page(text: str) -> str:
    """The page with its generated parts, which stand between `<!-- NAME -->` and `<!-- /NAME -->`, made anew."""
    parts: dict[str, Callable[[], str]] = {"rules": rules_table, "verdicts": verdicts_table}
    parts |= {f"finding {finding.name}": partial(finding_part, finding) for finding in FINDINGS}
    for name, make in parts.items():
        head, start, rest = text.partition(f"<!-- {name} -->")
        _, end, tail = rest.partition(f"<!-- /{name} -->")
        if not (start and end):
            raise ValueError(f"{PAGE.name} has no part {name!r} between comments")
        text = f"{head}{start}\n\n{make()}\n\n{end}{tail}"
    return text


def printed_by(program: str) -> str:
    """Run one of the programs in a process of its own. Raises `CalledProcessError` if it fails."""
    done = subprocess.run(
        [sys.executable, "-W", "ignore", str(STORE / f"{program}.py")], check=True, capture_output=True, text=True
    )
    return done.stdout


def main() -> int:
    """Write the page, or with --check say whether it is current."""
    if "--record" in sys.argv:
        for program in (program for finding in FINDINGS for program in finding.programs):
            (STORE / f"{program}.txt").write_text(printed_by(program), encoding="utf-8")
    text = PAGE.read_text(encoding="utf-8")
    if "--check" in sys.argv:
        return int(text != page(text))
    PAGE.write_text(page(text), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
