"""The profiles: how much of the contract a runtime keeps, and which profile contains which.

::

    observe ── soft
       │
       └───── lease ── hard ── bounded
                │
                └───── tiered

Each profile asks for its own checks and for those of every profile that it contains.
"""

from __future__ import annotations

import enum
from collections.abc import Iterable, Mapping
from types import MappingProxyType

from tenure.errors import UsageError


class Profile(enum.StrEnum):
    """What a runtime can be graded as."""

    OBSERVE = "observe"  #: its trace is whole and its numbers are true; what becomes of claims is not asked yet
    SOFT = "soft"  #: a claim changes the order of victims, and nothing else
    LEASE = "lease"  #: claims are accepted, end by an event, and are lost only after it
    HARD = "hard"  #: an accepted claim stands against active work, and the conflict is told with names and numbers
    TIERED = "tiered"  #: a claim may leave the device, and is restored before reuse or its failure is told
    BOUNDED = "bounded"  #: active work is served in fewer rows instead of breaking a claim


#: profile -> the profile directly below it.
BELOW: Mapping[Profile, Profile | None] = MappingProxyType(
    {
        Profile.OBSERVE: None,
        Profile.SOFT: Profile.OBSERVE,
        Profile.LEASE: Profile.OBSERVE,
        Profile.HARD: Profile.LEASE,
        Profile.TIERED: Profile.LEASE,
        Profile.BOUNDED: Profile.HARD,
    }
)


def contained(profile: Profile) -> frozenset[Profile]:
    """The profile and every profile that it contains."""
    chain: set[Profile] = set()
    at: Profile | None = profile
    while at is not None:
        chain.add(at)
        at = BELOW[at]
    return frozenset(chain)


def strongest(profiles: Iterable[Profile]) -> tuple[Profile, ...]:
    """Those that no other of them contains, in the order of `Profile`."""
    given = frozenset(profiles)
    return tuple(p for p in Profile if p in given and not any(p in contained(q) for q in given if q is not p))


def weakest(profiles: Iterable[Profile]) -> tuple[Profile, ...]:
    """Those that contain no other of them, in the order of `Profile`."""
    given = frozenset(profiles)
    return tuple(p for p in Profile if p in given and not any(q in contained(p) for q in given if q is not p))


def profile_named(name: str) -> Profile:
    """The profile with this name. Raises UsageError with the known names."""
    try:
        return Profile(name)
    except ValueError:
        known = ", ".join(profile.value for profile in Profile)
        raise UsageError(f"{name!r} is no profile; there are {known}") from None
