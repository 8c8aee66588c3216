"""What happens when protected + active > usable: a pure decision with the claims in the way, the shortfall and a plan."""

from tenure.arbiter.arbiter import PressureView, decide
from tenure.arbiter.decision import ActiveRequest, Decision, Reason, ResidencyPlan, Route
from tenure.arbiter.ledger import PoolLedger
from tenure.arbiter.pressure import LivePlan, Pressure, even_chunks
from tenure.arbiter.rules import ActionPolicy, ReuseAdmission, action_policy
from tenure.arbiter.standing import Reuse

__all__ = [
    "ActionPolicy",
    "ActiveRequest",
    "Decision",
    "LivePlan",
    "PoolLedger",
    "Pressure",
    "PressureView",
    "Reason",
    "ResidencyPlan",
    "Reuse",
    "ReuseAdmission",
    "Route",
    "action_policy",
    "decide",
    "even_chunks",
]
