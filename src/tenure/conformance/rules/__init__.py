"""What is asked of every trace, whoever drove the runtime and however: one generator a rule, grouped by subject."""

from __future__ import annotations

from tenure.conformance.check import TraceRule
from tenure.conformance.rules import claims, form, harm, requests, tiers

#: Every trace rule. Their order is the order of reports.
TRACE_RULES: tuple[TraceRule, ...] = (*form.RULES, *claims.RULES, *harm.RULES, *requests.RULES, *tiers.RULES)

__all__ = ["TRACE_RULES"]
