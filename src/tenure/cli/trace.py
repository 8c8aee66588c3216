"""`tenure trace`: what happened to every claim and request, from a trace alone."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from tenure.claims.reconstruction import Reconstruction

EXIT_BROKEN_ORDER = 1


def register(app: typer.Typer) -> None:
    """Add `tenure trace` to the application."""

    @app.command()
    def trace(
        file: Annotated[Path, typer.Argument(help="A trace: JSON Lines, as a runtime wrote it.")],
        claim: Annotated[str | None, typer.Option("--claim", help="Tell this claim's story only.")] = None,
        request: Annotated[str | None, typer.Option("--request", help="Tell this request's story only.")] = None,
        as_json: Annotated[bool, typer.Option("--json", help="Print the outcomes as JSON.")] = False,
    ) -> None:
        """Reconstruct every outcome from a trace. Exit code 1 when an event is out of order, 2 for no trace."""
        from tenure.claims.reconstruction import reconstruct
        from tenure.claims.trace import read_trace

        runs = reconstruct(read_trace(file))
        _check_named(runs, claim, request)
        if as_json:
            typer.echo(json.dumps([_record(run) for run in runs], indent=2))
        else:
            for run in runs:
                _tell(run, claim, request)
                if claim is None and request is None:
                    _tell_open(run)
        if any(run.violations for run in runs):
            raise typer.Exit(EXIT_BROKEN_ORDER)


def _check_named(runs: list[Reconstruction], claim: str | None, request: str | None) -> None:
    from tenure.errors import TraceError

    if claim is not None and not any(claim in run.claims for run in runs):
        raise TraceError(f"the trace names no claim {claim!r}", field="--claim")
    if request is not None and not any(request in run.requests for run in runs):
        raise TraceError(f"the trace names no request {request!r}", field="--request")


def _tell(run: Reconstruction, claim: str | None, request: str | None) -> None:
    everything = claim is None and request is None
    usable = "unknown" if run.usable_blocks is None else str(run.usable_blocks)
    typer.echo(f"run {run.run_id}: {run.events} events, policy {run.policy}, usable blocks {usable}")
    if run.lost_events:
        typer.echo(f"  {run.lost_events} events could not be written; the outcomes below may be incomplete")
    for claim_id, found in run.claims.items():
        if everything or claim_id == claim:
            state = "unknown" if found.state is None else found.state.value
            typer.echo(f"\nclaim {claim_id}: {state}, {'kept' if found.kept else 'BROKEN'}")
            for sentence in found.story:
                typer.echo(f"  {sentence}")
            if found.blocked_request_ids:
                typer.echo(f"  held against {', '.join(found.blocked_request_ids)}")
    for request_id, asked in run.requests.items():
        if everything or request_id == request:
            typer.echo(f"\nrequest {request_id}: {asked.verdict}")
            for sentence in asked.story:
                typer.echo(f"  {sentence}")
            if asked.victim_blocks:
                typer.echo(
                    f"  took {asked.victim_blocks} blocks: {asked.cached_victim_blocks} held a reusable prefix,"
                    f" {asked.protected_victim_blocks} were protected"
                )
    for sequence, violation in run.violations:
        typer.echo(f"\nOUT OF ORDER at event {sequence} [{violation.clause}]: {violation.message}")


def _left_open(run: Reconstruction) -> list[str]:
    """Every claim and request that the run does not end, with how it stands there."""
    from tenure.claims.lifecycle import RESPONSIBLE_STATES, RequestState
    from tenure.claims.modes import ClaimState

    open_claims = RESPONSIBLE_STATES | {ClaimState.SUBMITTED}
    open_requests = {RequestState.WAITING, RequestState.DEFERRED, RequestState.RUNNING}
    claims = [f"claim {name} ({c.state.value})" for name, c in run.claims.items() if c.state in open_claims and c.state]
    requests = [
        f"request {n} ({r.state.value})" for n, r in run.requests.items() if r.state in open_requests and r.state
    ]
    return claims + requests


def _tell_open(run: Reconstruction) -> None:
    left = _left_open(run)
    if left:
        typer.echo(f"\nleft open at its end: {', '.join(left)}; a trace that was cut off there reads the same")


def _record(run: Reconstruction) -> dict[str, Any]:
    from dataclasses import asdict

    record = asdict(run)
    for claim_id, claim in run.claims.items():
        record["claims"][claim_id] |= {"kept": claim.kept, "live": claim.live}
    for request_id, request in run.requests.items():
        record["requests"][request_id] |= {"served": request.served, "verdict": request.verdict}
    record["left_open"] = _left_open(run)
    record["violations"] = [
        {"event_sequence": sequence, "clause": violation.clause, "message": violation.message}
        for sequence, violation in run.violations
    ]
    return record
