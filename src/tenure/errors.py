"""Every error Tenure raises on purpose. Who is at fault comes first.

::

    TenureError
    ├── UsageError             the caller asked for something that cannot be; nothing was changed
    │   ├── GeometryError      this model or layer cannot be pooled
    │   ├── PoolSizeError      a pool below its minimum, above memory, or written wrongly
    │   ├── PlanError          a plan that does not fit the state it was applied to
    │   ├── PolicyError        an unknown policy, scorer or option
    │   ├── CapacityError      more rows asked for than the pool can ever hold at once
    │   ├── SessionFileError   a saved session that is truncated, corrupted or another model's
    │   ├── ModelError         an unknown model, or a file that is no model
    │   └── ContractError      a clause of the contract was not met; `field` and `clause` say which
    │       ├── ClaimError     a claim, predicate or transition that the contract does not allow
    │       └── TraceError     a trace that is truncated, reordered or not a trace
    ├── ResourceError          the machine ran out of something; nothing was changed
    │   ├── HostTierFullError  the host tier's byte budget is spent
    │   ├── DiskFullError      no room for a cache file or a journal
    │   └── QueueFullError     as many requests wait as may wait
    ├── TransferError          a copy between device and host failed; the state is as it was before
    │   └── RowsLostError      rows in the host tier are gone, or not what was stored; they are never used
    └── InternalError          Tenure's own fault: an invariant does not hold. Please report it.

A failed call leaves the state as it was, except after `InternalError`.
The command line turns `UsageError` and `ResourceError` into one line and exit code 2.
"""

from __future__ import annotations


class TenureError(Exception):
    """Base of every error that Tenure raises on purpose."""


class UsageError(TenureError, ValueError):
    """The caller asked for something that cannot be. Nothing was changed."""


class GeometryError(UsageError):
    """This model, or one of its layers, cannot be pooled."""


class PoolSizeError(UsageError):
    """A pool size that is below the minimum, above memory, or not a size at all."""


class PlanError(UsageError):
    """A plan does not fit the state that it was applied to."""


class PolicyError(UsageError):
    """An unknown policy, scorer or option."""


class CapacityError(UsageError):
    """More rows were asked for than the pool can hold at once, whatever is evicted."""


class SessionFileError(UsageError):
    """A session file is truncated, corrupted, of another version, or belongs to another model."""


class ModelError(UsageError):
    """A model name that nothing answers to, or a file that is no model."""


class ContractError(UsageError):
    """A clause of the contract was not met. `field` and `clause` say which, and the message ends with them.

    Args:
        message: what happened with numbers, what was expected, what to do.
        field: the name of the offending field, as it is spelled in records and traces.
        clause: the identifier of the clause in `spec/`, such as "TNR-ACC-003".
    """

    def __init__(self, message: str, *, field: str | None = None, clause: str | None = None) -> None:
        head = "" if field is None else f"{field}: "
        tail = "" if clause is None else f" [{clause}]"
        super().__init__(f"{head}{message}{tail}")
        self.field = field
        self.clause = clause


class ClaimError(ContractError):
    """A claim, predicate or transition that the contract does not allow. The message names the field."""


class TraceError(ContractError):
    """A trace is truncated, reordered, or no trace at all. The message names the line."""


class ResourceError(TenureError, RuntimeError):
    """The machine ran out of something. Nothing was changed."""


class HostTierFullError(ResourceError):
    """The host tier's byte budget is spent. No block was dropped."""


class DiskFullError(ResourceError):
    """There is no room on the disk for a file that must be written."""


class QueueFullError(ResourceError):
    """As many requests wait as may wait. Ask again when some have been served."""


class TransferError(TenureError, RuntimeError):
    """A copy between device and host failed. The state is as it was before."""


class RowsLostError(TransferError):
    """Rows in the host tier are gone, or not byte for byte what was stored. They are never used."""


class InternalError(TenureError, AssertionError):
    """An invariant of Tenure does not hold: our fault, not yours. Please report the message."""
