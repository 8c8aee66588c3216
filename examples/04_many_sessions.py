"""Two tenants share one pool: a promised manual, its reuse, and what a neighbour is told who wants the same memory.

Run: python examples/04_many_sessions.py
"""

from tenure.arbiter import action_policy
from tenure.models import load
from tenure.runtime.hf import Engine

MANUAL = (
    "The pump has three settings. Setting one is for rain water, setting two for the well, setting three for the tank. "
    * 24
)
QUESTION = " What is setting two of the pump for? Setting two of the pump is for the"


def main() -> None:
    """Park, reuse, press, and use again."""
    loaded = load()
    engine = Engine(
        loaded.model,
        loaded.tokenizer,
        identity=loaded.identity,
        usable_blocks=60,
        block_size=16,
        host_blocks=64,
        policy=action_policy({"offloadable": "expire, offload_resident, refuse"}),
    )

    # Tenant a asks that its manual be kept, and has it computed.
    claim, reading = engine.park(MANUAL, mode="offloadable", owner_scope="a", salt="a")
    reading.result()
    print(claim.receipt.sentence())

    # Reuse: the manual's rows are there, so only the question is read.
    answer = engine.submit(MANUAL + QUESTION, max_new_tokens=4, salt="a")
    print(f"answer: {loaded.tokenizer.decode(answer.result())!r}")
    print(answer.receipt.sentence())

    # Tenant b wants more than is free. The claim says what may be done about it: its rows go to the host.
    neighbour = engine.submit("It rained for forty days. " * 90, max_new_tokens=8, salt="b")
    neighbour.result()
    print(neighbour.receipt.sentence())
    print(claim.receipt.sentence())

    # Tenant a is back: the rows come from the host, checked, byte for byte.
    again = engine.submit(MANUAL + QUESTION, max_new_tokens=4, salt="a")
    print(f"the same answer: {again.result() == answer.result()}")
    print(again.receipt.sentence())


if __name__ == "__main__":
    main()
