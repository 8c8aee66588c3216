"""Write the measured tables into docs/bench.md and README.md, from the JSON reports in docs/bench/.

Run: python docs/build_bench.py
"""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import Any

DOCS = Path(__file__).parent
README = DOCS.parent / "README.md"
PAGE = DOCS / "bench.md"

#: Figures in the README: what is measured, by name, and the command that measures it.
COMMANDS = {
    "decode": "tenure bench decode --json decode.json --plot decode.png",
    "prefill": "tenure bench prefill --json prefill.json",
    "transfer": "tenure bench transfer --json transfer.json",
    "recall": "tenure bench recall --json recall.json --plot recall.png",
    "arbiter": "tenure bench arbiter --json arbiter.json",
    "pressure": "tenure bench pressure --json pressure.json (stored in parts: --part timing, answers, soak)",
}

NOTES = """"Bound" is what a cache that costs nothing would reach on the same machine: the full cache's step over a step without any cached
rows, in the same run. Reading the weights of SmolLM2-135M for one token takes 74-79 ms here (9-10 GB/s through the matrix-vector
product, where a plain sum reads 20 GB/s), so `decode.speedup_default_*` cannot reach its bar on this machine whatever the cache does, and
`decode.speedup_32k` could only with a pool that costs under 3 ms a step; attention over 1,024 rows alone takes 8. The profile is in `dev/LOG.md`.

`prefill.rate_ratio` is bounded by 0.88 here: the short run reads half of its tokens while the pool is still filling, with half the attention.
`prefill.steady_ratio` is the rate at the end of the long run over the rate just after the pool was full.

`recall.worst_ratio` is one cell of 27, the smallest pool there is: 128 rows in 16 blocks of 8, at 50 % depth of 2,048 tokens, where one context of eight loses
its needle. The worst of the other 26 is 0.99. The contexts of 4,096 and 8,192 were run before blocks of 8 were treated apart; in the 2,048 run after it, every cell with blocks
of 16 and 32 came out as before, needle for needle.

`pressure.bounded_recall` is above 1: of 24 facts, 22 are found by the request that is bounded to 20 of its 70 blocks, and 15 with everything resident. A model of 135M
parameters loses itself in a long text, and an arena that holds what was asked for hides the rest. `timing` ran alone with two threads; `answers` and `soak`, which
count and time nothing, with one thread each, side by side, before the last review's mends (none of which touches how a row is computed).

Figures in microseconds (`arbiter`) were taken on a processor that runs at two speeds, a factor of 1.7 apart; four runs are in `dev/LOG.md`."""


def reports() -> dict[str, list[dict[str, Any]]]:
    """The stored reports by bench; a bench may have been run in parts."""
    found: dict[str, list[dict[str, Any]]] = {}
    for path in sorted((DOCS / "bench").glob("*.json")):
        report = json.loads(path.read_text(encoding="utf-8"))
        found.setdefault(report["bench"], []).append(report)
    return found


def _number(value: Any) -> str:
    if value is None:
        return "-"
    if isinstance(value, float):
        return f"{value:,.3g}" if abs(value) < 1000 else f"{value:,.0f}"
    return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value)


def _table(columns: list[str], rows: list[list[str]]) -> str:
    lines = ["| " + " | ".join(columns) + " |", "|" + "---|" * len(columns)]
    lines += ["| " + " | ".join(row) + " |" for row in rows]
    return "\n".join(lines)


def _is_met(bar: str, value: float) -> str:
    bounds = float(bar.rsplit(maxsplit=1)[-1])
    is_met = {"≥": value >= bounds, "≤": value <= bounds, "=": value == bounds}[bar[0]]
    return "met" if is_met else "**not met**"


def figures_table() -> str:
    """Every figure that has a bar, with its bar."""
    rows = []
    for bench, parts in reports().items():
        for name in dict.fromkeys(name for part in parts for name in part["bars"]):
            values = [part["figures"][name] for part in parts if name in part["figures"]]
            bar = next(part["bars"][name] for part in parts if name in part["bars"])
            worst = min(values) if bar.startswith("≥") else max(values)
            bound = _bound(name, parts)
            rows.append([f"`{name}`", _number(worst), bar, _is_met(bar, worst), bound, f"`tenure bench {bench}`"])
    return _table(["figure", "measured", "bar", "", "bound", "command"], rows)


def _bound(name: str, parts: list[dict[str, Any]]) -> str:
    """What a cache that costs nothing would reach on the machine of the report, where the report says so."""
    ceiling = name.replace("speedup_", "ceiling_")
    found = [part["figures"][ceiling] for part in parts if ceiling != name and ceiling in part["figures"]]
    return _number(max(found)) if found else ""


def rows_table(bench: str) -> str:
    """Everything one bench measured."""
    parts = reports()[bench]
    hidden = {"kv_bytes", "hits", "mean_ms_per_token", "block_bytes"}
    columns = [c for c in dict.fromkeys(c for p in parts for r in p["rows"] for c in r) if c not in hidden]
    rows = [[_number(row.get(column)) for column in columns] for part in parts for row in part["rows"]]
    return _table([column.replace("_", " ") for column in columns], rows)


def page() -> str:
    """The whole of docs/bench.md."""
    lines = ["# Measured", "", "Generated by `docs/build_bench.py` from the reports in `docs/bench/`.", ""]
    lines += [figures_table(), "", NOTES, ""]
    for bench, parts in reports().items():
        environment = parts[0]["environment"]
        machine = ", ".join(f"{key} {value}" for key, value in environment.items() if value is not None)
        lines += [f"## {bench}", "", f"`{COMMANDS[bench]}`", "", machine, "", rows_table(bench), ""]
    return "\n".join(lines)


def readme() -> str:
    """README.md with the current figures between its markers."""
    text = README.read_text(encoding="utf-8")
    return re.sub(
        r"(<!-- bench -->\n).*?(\n<!-- /bench -->)",
        lambda match: f"{match.group(1)}{figures_table()}{match.group(2)}",
        text,
        flags=re.DOTALL,
    )


def main() -> int:
    """Write both, or with --check say whether they are current."""
    wanted = {PAGE: page(), README: readme()}
    if "--check" in sys.argv:
        return int(any(path.read_text(encoding="utf-8") != text for path, text in wanted.items()))
    for path, text in wanted.items():
        path.write_text(text, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
