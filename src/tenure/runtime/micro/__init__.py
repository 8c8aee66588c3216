"""The reference runtime: blocks only, deterministic, with real protection. Start reading at `runtime.MicroRuntime`."""

from tenure.runtime.micro.cache import content_keys
from tenure.runtime.micro.request import MicroRequest
from tenure.runtime.micro.runtime import MicroRuntime
from tenure.runtime.micro.tier import HostTier

__all__ = ["HostTier", "MicroRequest", "MicroRuntime", "content_keys"]
