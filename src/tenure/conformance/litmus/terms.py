"""What checks ask for before they run: modes, actions, features, and the checks that they rest on."""

from __future__ import annotations

from tenure.conformance.check import Check
from tenure.conformance.profiles import Profile
from tenure.conformance.subject import Feature

HARD = frozenset({"hard_protected"})
DEMOTABLE = frozenset({"demotable"})
REFUSE = frozenset({"refuse_active"})
DEFER = frozenset({"defer_active"})
DEMOTE = frozenset({"demote_resident_claim"})
HOLD = frozenset({Feature.HOLD_REQUESTS})
RELEASE = frozenset({Feature.OWNER_RELEASE})
ON_CLAIMS = ("claim-accepted",)
ON_L3 = ("claim-accepted", "L3")
ON_L4 = ("claim-accepted", "L4")


def hard(check_id: str, title: str, clauses: tuple[str, ...], drive: object, **more: object) -> Check:
    """A check of the hard profile that rests on an accepted hard claim and a refusal, unless `more` says otherwise."""
    terms: dict[str, object] = {"profile": Profile.HARD, "modes": HARD, "actions": REFUSE, "rests_on": ON_CLAIMS}
    return Check(check_id=check_id, title=title, clauses=clauses, drive=drive, **(terms | more))  # type: ignore[arg-type]
