"""Writes the generated parts of `docs/conformance.md`: the table of checks and clauses, and the zoo.

Run `python docs/build_conformance.py` after a check, a clause or a zoo member changed; a test fails until that was done.
"""

from __future__ import annotations

from pathlib import Path

from tenure.claims.clauses import specification
from tenure.conformance.suite import all_checks
from tenure.conformance.zoo import ZOO

PAGE = Path(__file__).with_name("conformance.md")


def checks_table() -> str:
    """One row a check: what it demands, who asks for it, the clauses that it can find broken."""
    rows = ["| check | demands | asked for by | clauses |", "|---|---|---|---|"]
    rows += [
        f"| `{check.check_id}` | {check.title} | {check.profile.value} | {', '.join(check.clauses)} |"
        for check in all_checks()
    ]
    return "\n".join(rows)


def clauses_table() -> str:
    """One row a clause that the suite can find broken: its sentence and its checks."""
    clauses = specification().clauses
    rows = ["| clause | level | sentence | checks |", "|---|---|---|---|"]
    for clause_id, clause in clauses.items():
        checks = [f"`{check.check_id}`" for check in all_checks() if clause_id in check.clauses]
        if checks:
            rows.append(f"| {clause_id} | {clause.level.value} | {clause.sentence} | {', '.join(checks)} |")
    return "\n".join(rows)


def zoo_table() -> str:
    """One row a broken runtime."""
    rows = ["| `zoo:` | what it does | broken clause |", "|---|---|---|"]
    rows += [f"| `{member.name}` | {member.does} | {member.clause_id} |" for member in ZOO.values()]
    return "\n".join(rows)


def page(text: str) -> str:
    """The page with its generated parts, which stand between `<!-- NAME -->` and `<!-- /NAME -->`, made anew."""
    for name, make in (("checks", checks_table), ("clauses", clauses_table), ("zoo", zoo_table)):
        head, start, rest = text.partition(f"<!-- {name} -->")
        _, end, tail = rest.partition(f"<!-- /{name} -->")
        if not (start and end):
            raise ValueError(f"{PAGE.name} has no part {name!r} between comments")
        text = f"{head}{start}\n\n{make()}\n\n{end}{tail}"
    return text


if __name__ == "__main__":
    PAGE.write_text(page(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
