"""The reference runtime: blocks only, deterministic, with real protection. Start reading at `runtime.MicroRuntime`."""

from tenure.runtime.control import ClaimTier
from tenure.runtime.micro.content import content_keys
from tenure.runtime.micro.runtime import MicroRequest, MicroRuntime

__all__ = ["ClaimTier", "MicroRequest", "MicroRuntime", "content_keys"]
