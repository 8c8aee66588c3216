"""Writes what is generated for the contract: the marked parts of `docs/contract.md`, the schemas of a trace line and a receipt.

Run `python docs/build_contract.py` after a change to the tables in `tenure.claims`; a test fails while either is stale.
"""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path

from tenure.claims.clauses import specification
from tenure.claims.event_fields import COMMON_FIELDS, EVENTS, FIELDS
from tenure.claims.event_types import EVENT_ALIASES, WITHDRAWN_EVENTS
from tenure.claims.lifecycle import mermaid_diagram
from tenure.claims.modes import ACTION_ALIASES, MODE_ALIASES, Action, ProtectionMode
from tenure.claims.receipt_schema import NUMBERS, RECEIPT_FIELDS, TOKENS, receipt_schema
from tenure.claims.schema import event_schema

HERE = Path(__file__).parent
PAGE = HERE / "contract.md"
SCHEMA = HERE.parent / "src" / "tenure" / "claims" / "event.schema.json"
RECEIPT_SCHEMA = SCHEMA.with_name("receipt.schema.json")
_PART = re.compile(r"(<!-- generated: (?P<name>[a-z-]+) -->\n).*?(<!-- end -->)", re.DOTALL)


def lifecycle() -> str:
    """The transition table as a diagram."""
    return f"```mermaid\n{mermaid_diagram()}\n```"


def modes() -> str:
    """Which mode does what."""
    lines = ["| mode | counts as protected | unreleased loss | older spellings |", "|---|---|---|---|"]
    for mode in ProtectionMode:
        aliases = ", ".join(f"`{name}`" for name, target in MODE_ALIASES.items() if target is mode)
        loss = "reported, permitted" if mode.permits_unreleased_loss else "breaks the promise"
        lines.append(f"| `{mode.value}` | {'yes' if mode.reserves_blocks else 'no'} | {loss} | {aliases} |")
    return "\n".join(lines)


def actions() -> str:
    """Every action and the spellings that mean it."""
    lines = ["| action | older spellings |", "|---|---|"]
    for action in Action:
        aliases = ", ".join(f"`{name}`" for name, target in ACTION_ALIASES.items() if target is action)
        lines.append(f"| `{action.value}` | {aliases} |")
    return "\n".join(lines)


def events() -> str:
    """Every event, when it is written and what it carries."""
    lines = ["| event | written when | names | carries | may carry |", "|---|---|---|---|---|"]
    for event, spec in EVENTS.items():
        names = " and ".join(
            word for word, named in (("claim", spec.names_claim), ("request", spec.names_request)) if named
        )
        required = ", ".join(f"`{name}`" for name in spec.required)
        optional = ", ".join(f"`{name}`" for name in spec.optional)
        lines.append(f"| `{event.value}` | {spec.when} | {names} | {required} | {optional} |")
    return "\n".join(lines)


def fields() -> str:
    """Every field and its meaning; the common ones first."""
    lines = ["| field | shape | meaning |", "|---|---|---|"]
    for name, spec in [*COMMON_FIELDS.items(), *FIELDS.items()]:
        shape = spec.kind.value + (" or null" if spec.nullable else "")
        lines.append(f"| `{name}` | {shape} | {spec.meaning} |")
    return "\n".join(lines)


def receipts() -> str:
    """Every field of a receipt."""
    lines = ["| field | says |", "|---|---|"]
    for name, (_, says) in RECEIPT_FIELDS.items():
        lines.append(f"| `{name}` | {says} |")
        inner = {"numbers": NUMBERS, "tokens": TOKENS}.get(name, {})
        lines += [f"| `{name}.{part}` | {told} |" for part, told in inner.items()]
    return "\n".join(lines)


def aliases() -> str:
    """Other spellings of events, and names that were withdrawn."""
    lines = ["| found in older traces | means |", "|---|---|"]
    lines += [f"| `{name}` | `{event.value}` |" for name, event in EVENT_ALIASES.items()]
    lines += [f"| `{name}` | withdrawn: {why} |" for name, why in WITHDRAWN_EVENTS.items()]
    return "\n".join(lines)


def edition() -> str:
    """Which edition the page is about."""
    spec = specification()
    return f"Edition {spec.edition}: {len(spec.clauses)} clauses, in [`spec/`](../spec/README.md)."


_PARTS = {
    "edition": edition,
    "lifecycle": lifecycle,
    "modes": modes,
    "actions": actions,
    "events": events,
    "fields": fields,
    "receipts": receipts,
    "aliases": aliases,
}


def page(text: str) -> str:
    """The page with every marked part made anew."""
    return _PART.sub(lambda match: f"{match[1]}{_PARTS[match['name']]()}\n{match[3]}", text)


def schema() -> str:
    """The published schema of a trace line."""
    return json.dumps(event_schema(), indent=1) + "\n"


def published_receipt_schema() -> str:
    """The published schema of a receipt."""
    return json.dumps(receipt_schema(), indent=1) + "\n"


def main() -> None:
    """Write all, and say what changed."""
    made = ((PAGE, page(PAGE.read_text())), (SCHEMA, schema()), (RECEIPT_SCHEMA, published_receipt_schema()))
    for path, text in made:
        if not path.exists() or path.read_text() != text:
            path.write_text(text)
            sys.stdout.write(f"wrote {path.relative_to(HERE.parent)}\n")


if __name__ == "__main__":
    main()
