"""A process that is killed: journals claims in a tight loop and says on stdout what it was told is done.

Every line is written by one system call before the next claim is begun, so whatever the parent read was acknowledged.
"""

from __future__ import annotations

import itertools
import os
import sys
from pathlib import Path

from claims_world import World, make_claim
from tenure.claims import StepClock
from tenure.claims.journal import SqliteJournal


def main(journal_path: str, run: str, clock_id: str = "one", now_s: str = "0") -> None:
    clock = StepClock()
    clock.advance(int(now_s))
    world = World(
        usable_blocks=10**9,
        journal=SqliteJournal(Path(journal_path)),
        clock=clock,
        clock_id=clock_id,
        max_live_claims=10**6,
    )
    say("constructed")
    for receipt in world.registry.start(runtime_name="victim"):
        say(f"recovered {receipt.claim_id}")
    say("ready")
    for number in itertools.count():
        claim = make_claim(f"{run}:{number}", duration_s=1e6, object_id=f"prefix-{number % 7}")
        world.submit(claim)
        say(f"accepted {claim.claim_id}")
        if number % 3 == 1:
            world.registry.renew(claim.claim_id, owner_scope=claim.owner_scope, revision=2, duration_s=2e6)
            say(f"renewed {claim.claim_id}")
        if number % 3 == 2:
            ending = f"{run}:{number - 1}"
            world.registry.demote(ending)
            say(f"ended {ending}")


def say(line: str) -> None:
    os.write(1, f"{line}\n".encode())


if __name__ == "__main__":
    main(*sys.argv[1:])
