"""Situations that the examiner puts a runtime in: one function a check, which drives a subject and returns a judge."""

from __future__ import annotations

from tenure.conformance.check import Check
from tenure.conformance.litmus import (
    acceptance,
    classic,
    conflict,
    giving_way,
    isolation,
    lifecycle,
    predicates,
    soft,
    tiers,
)

#: Every driven check. Their order is the order of running and of reports; what rests on another comes after it.
LITMUS: tuple[Check, ...] = (
    *acceptance.CHECKS,
    *classic.CHECKS,
    *predicates.CHECKS,
    *soft.CHECKS,
    *lifecycle.CHECKS,
    *conflict.CHECKS,
    *giving_way.CHECKS,
    *isolation.CHECKS,
    *tiers.CHECKS,
)

__all__ = ["LITMUS"]
