"""Many sessions on one pool of a real model, under the contract. Start reading at `engine.Engine`."""

from tenure.runtime.hf.engine.engine import Engine
from tenure.runtime.hf.engine.faults import FaultPoint, TransferFaults
from tenure.runtime.hf.engine.handles import Claim, Request, RequestFailedError, RequestRefusedError, RequestState

__all__ = [
    "Claim",
    "Engine",
    "FaultPoint",
    "Request",
    "RequestFailedError",
    "RequestRefusedError",
    "RequestState",
    "TransferFaults",
]
