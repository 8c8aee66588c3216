"""The control plane: claims, requests and blocks, moved together; rows themselves belong to a `DataPlane`.

Start reading at `plane.ControlPlane`. The reference runtime (`tenure.runtime.micro`) and the Transformers runtime
(`tenure.runtime.hf`) run this same code: what is graded without a tensor is what governs real rows.
"""

from tenure.runtime.control.data import DataPlane, Placement
from tenure.runtime.control.plane import ControlPlane
from tenure.runtime.control.tier import ClaimTier
from tenure.runtime.control.work import RequestTerms, Standing, Work

__all__ = ["ClaimTier", "ControlPlane", "DataPlane", "Placement", "RequestTerms", "Standing", "Work"]
