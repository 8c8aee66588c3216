"""`tenure bench pressure`: what keeping promises costs, and whether the answers stay right, on one real model.

Every figure has its baseline in the same run:

* `wrong_outputs`: each action of the 60/70/80 scene, and a question about the prefix afterwards, against cold runs;
* `bounded_recall`: facts that are found in prompts of 70 blocks which run in an arena of 20 beside a claim of 60, over those
  that are found with room for everything;
* `reuse_ttft_ratio`, `restore_ttft_ratio`: time to the first token of a prompt whose first 60 blocks are kept, or come back
  from the host, over the same prompt cold;
* `batch_gain`: tokens/s of four sessions together over one after another;
* `overhead`: the share of a decode step that claims, clock and bookkeeping take while nothing is short;
* `violations`: see `tenure.bench.pressure_soak`.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Sequence
from typing import Any

import torch

from tenure.arbiter.rules import action_policy
from tenure.bench.pressure_actions import ACTIONS, run_action
from tenure.bench.pressure_scene import NEW_TOKENS, Sizes, cold_answers, text_scene
from tenure.bench.pressure_soak import run_soak
from tenure.bench.report import Bar, BenchReport, environment, median
from tenure.claims.modes import Outcome
from tenure.errors import InternalError, UsageError
from tenure.models.texts import text_ids
from tenure.runtime.hf.engine import Engine, Request
from tenure.runtime.hf.turns import chat_ids

BARS = (
    Bar("pressure.wrong_outputs", at_least=0, at_most=0),
    Bar("pressure.bounded_recall", at_least=0.9),
    Bar("pressure.reuse_ttft_ratio", at_most=0.15),
    Bar("pressure.restore_ttft_ratio", at_most=0.25),
    Bar("pressure.batch_gain", at_least=1.8),
    Bar("pressure.overhead", at_most=0.01),
    Bar("pressure.violations", at_least=0, at_most=0),
)
#: What can be run apart: `answers` and `soak` count, and can run beside other work.
PARTS = ("timing", "answers", "soak")
COLUMNS = ("arm", "what", "baseline", "measured", "ratio")
PREFIX_BLOCKS, PREFIX_BLOCK_ROWS, QUESTION_ROWS = 60, 64, 64
PLACES = (
    "The lighthouse on Gull Island",
    "The mill at Harrow Bend",
    "The chapel above Fern Valley",
    "The stone bridge of Alder Creek",
    "The observatory on Mount Brill",
    "The harbour wall of Port Selwyn",
    "The clock tower in Dunmere",
    "The tannery behind Cole Street",
)
DEPTHS = (0.1, 0.5, 0.9)
QUICK_ACTIONS = ("native", "offload_resident", "bound_active_live")
SESSIONS, SESSION_ROWS = 4, 512
CLAIMS = 100

Progress = Callable[[str], None]


def run(
    model: Any,
    tokenizer: Any,
    *,
    sessions: int = 2000,
    recall_seeds: int = 8,
    repeats: int = 3,
    decode_tokens: int = 64,
    prefix_blocks: int = PREFIX_BLOCKS,
    parts: Sequence[str] = PARTS,
    quick: bool = False,
    progress: Progress = lambda _: None,
) -> BenchReport:
    """Every figure of the module's docstring, or those of some `parts`; `timing` wants the machine for itself.

    Raises `UsageError` for an unknown part.
    """
    unknown = sorted(set(parts) - set(PARTS))
    if unknown or not parts:
        raise UsageError(f"{', '.join(unknown) or 'nothing'} is no part of this bench; use {', '.join(PARTS)}")
    report = BenchReport(bench="pressure", columns=COLUMNS, bars=BARS, quick=quick)
    report.environment = environment(
        threads=torch.get_num_threads(),
        extra={"dtype": str(model.dtype).removeprefix("torch."), "sessions": sessions, "recall_seeds": recall_seeds},
    )
    if "timing" in parts:
        _first_tokens(report, model, tokenizer, prefix_blocks=prefix_blocks, repeats=repeats, progress=progress)
        _batch_gain(report, model, tokenizer, tokens=decode_tokens, repeats=repeats, progress=progress)
        _overhead(report, model, tokenizer, tokens=decode_tokens, progress=progress)
    if "answers" in parts:
        _actions(report, model, tokenizer, names=QUICK_ACTIONS if quick else tuple(ACTIONS), progress=progress)
        depths = DEPTHS[:1] if quick else DEPTHS
        _bounded_recall(report, model, tokenizer, seeds=recall_seeds, depths=depths, progress=progress)
    if "soak" in parts:
        _violations(report, model, tokenizer, sessions=sessions, progress=progress)
    return report


def _row(
    report: BenchReport, arm: str, what: str, *, baseline: float | None = None, measured: Any = None, ratio: Any = None
) -> None:
    report.rows.append({"arm": arm, "what": what, "baseline": baseline, "measured": measured, "ratio": ratio})


def _actions(report: BenchReport, model: Any, tokenizer: Any, *, names: Sequence[str], progress: Progress) -> None:
    """Every action at 60/70/80, and the cold answers that they are held against."""
    scene = text_scene(model, tokenizer, Sizes())
    progress("cold answers")
    cold = cold_answers(scene)
    wrong = 0
    for name in names:
        progress(name)
        row = run_action(name, scene, cold)
        wrong += row.is_wrong
        if not row.took_place:
            raise InternalError(f"row {name} did not do what it is named after: {row.receipt}")
        told = {
            True: "as cold",
            False: "other tokens, said so" if row.is_exact is False else "WRONG",
            None: "no answer",
        }
        _row(
            report,
            name,
            f"answer (ratio: first token of a reuse); {row.resident}",
            measured=told[row.answer_is_cold],
            ratio=row.reuse_ttft_ratio,
        )
    report.figures["pressure.wrong_outputs"] = wrong


# --- recall in a smaller arena --------------------------------------------------------------------------------------


def _bounded_recall(
    report: BenchReport, model: Any, tokenizer: Any, *, seeds: int, depths: Sequence[float], progress: Progress
) -> None:
    sizes = Sizes()
    resident = text_ids(tokenizer, sizes.resident_tokens, seed=2)
    found = {"cold": 0, "bounded": 0}
    for depth in depths:
        here = {"cold": 0, "bounded": 0}
        for seed in range(seeds):
            progress(f"recall at depth {depth:.0%}, fact {seed + 1} of {seeds}")
            prompt, answer = _fact_prompt(tokenizer, sizes, depth=depth, seed=seed)
            for arm in ("cold", "bounded"):
                told = _answer(model, sizes, resident, prompt, bounded=arm == "bounded")
                here[arm] += answer in tokenizer.decode(told.token_ids)
        _row(
            report,
            "recall",
            f"facts of {seeds} found at depth {depth:.0%}, 20 of 70 blocks on the device",
            baseline=here["cold"],
            measured=here["bounded"],
            ratio=here["bounded"] / max(1, here["cold"]),
        )
        found = {arm: number + here[arm] for arm, number in found.items()}
    report.figures["pressure.bounded_recall"] = found["bounded"] / max(1, found["cold"])


def _fact_prompt(tokenizer: Any, sizes: Sizes, *, depth: float, seed: int) -> tuple[list[int], str]:
    """A user's turn of the scene's size: a text, one fact in it that nobody can guess, and the question; and the answer."""
    chance = random.Random(f"pressure {depth} {seed}")
    place, year = PLACES[seed % len(PLACES)], str(chance.randrange(1400, 1950))
    fact = tokenizer.encode(f"\n\n{place} was built in {year}.\n\n", add_special_tokens=False)
    marker = "<<text>>"
    question = f"Here is a text.\n\n{marker}\n\nIn which year was {place[0].lower()}{place[1:]} built?"
    turn = tokenizer.decode(chat_ids(tokenizer, [{"role": "user", "content": question}]))
    before, after = (tokenizer.encode(part, add_special_tokens=False) for part in turn.split(marker))
    room = sizes.active_tokens - NEW_TOKENS - len(before) - len(fact) - len(after)
    filler = text_ids(tokenizer, room, seed=seed + 10)
    cut = round(room * depth)
    return [*before, *filler[:cut], *fact, *filler[cut:], *after], year


def _answer(model: Any, sizes: Sizes, resident: Sequence[int], prompt: Sequence[int], *, bounded: bool) -> Request:
    """The needle's prompt beside a hard claim on 60 of 80 blocks, bounded to the other 20; or with room for itself."""
    engine = Engine(
        model,
        usable_blocks=sizes.usable_blocks,
        block_size=sizes.block_size,
        host_blocks=sizes.active_blocks,
        policy=action_policy({"hard_protected": "bound_active_live, refuse"}),
    )
    if bounded:
        # Rows of a prefix matter here only by the room that they take: it is claimed and held, and not computed.
        engine.claim(resident)
        held = engine.submit(resident, max_new_tokens=0)
        engine.step()
        if held.state.is_over:
            raise InternalError("the prefix was read in one step; it has to hold its room while the other one runs")
    request = engine.submit(prompt, max_new_tokens=NEW_TOKENS)
    wanted = Outcome.BOUNDED if bounded else Outcome.SERVED
    if request.receipt.outcome is not wanted:
        raise InternalError(f"the request was to be {wanted.value}: {request.receipt.sentence()}")
    request.result()
    return request


# --- time to the first token ----------------------------------------------------------------------------------------


def _first_tokens(
    report: BenchReport, model: Any, tokenizer: Any, *, prefix_blocks: int, repeats: int, progress: Progress
) -> None:
    """Cold, then again with the prefix kept under a claim, then with it offloaded by a neighbour: in turns."""
    text = text_ids(tokenizer, prefix_blocks * PREFIX_BLOCK_ROWS + QUESTION_ROWS * (2 * repeats + 1))
    prefix, rest = text[: prefix_blocks * PREFIX_BLOCK_ROWS], text[prefix_blocks * PREFIX_BLOCK_ROWS :]
    times: dict[str, list[float]] = {"cold": [], "reuse": [], "restore": []}
    for turn in range(repeats):
        progress(f"time to first token, {turn + 1} of {repeats}")
        engine = Engine(
            model,
            usable_blocks=prefix_blocks + 4,
            block_size=PREFIX_BLOCK_ROWS,
            host_blocks=prefix_blocks + 4,
            policy=action_policy({"offloadable": "offload_resident, refuse"}),
        )
        questions = [rest[at * QUESTION_ROWS :][:QUESTION_ROWS] for at in (2 * turn, 2 * turn + 1)]
        times["cold"].append(_ttft(engine, [*prefix, *questions[0]], found_tokens=0))
        engine.claim(prefix, mode="offloadable")
        times["reuse"].append(_ttft(engine, [*prefix, *questions[1]], found_tokens=len(prefix)))
        # A neighbour that needs more than is left: the claim is offloaded, and its rows leave the device.
        neighbour = engine.submit(rest[:QUESTION_ROWS], max_new_tokens=6 * PREFIX_BLOCK_ROWS, keep_for_reuse=False)
        neighbour.cancel()
        times["restore"].append(_ttft(engine, [*prefix, *questions[1]], found_tokens=len(prefix), restored=True))
    cold = median(times["cold"])
    for name in ("reuse", "restore"):
        report.figures[f"pressure.{name}_ttft_ratio"] = median(
            [measured / base for measured, base in zip(times[name], times["cold"], strict=True)]
        )
        _row(
            report,
            "first token, s",
            f"{name}, {prefix_blocks} blocks of 64",
            baseline=cold,
            measured=median(times[name]),
            ratio=report.figures[f"pressure.{name}_ttft_ratio"],
        )


def _ttft(engine: Engine, prompt: Sequence[int], *, found_tokens: int, restored: bool = False) -> float:
    request = engine.submit(prompt, max_new_tokens=1, stop_ids=())
    request.result()
    tokens = request.receipt.tokens
    found = 0 if tokens is None else (tokens.restored_tokens if restored else tokens.reused_tokens)
    if found != found_tokens or request.ttft_s is None:
        raise InternalError(
            f"{found_tokens} tokens were to be found, and the receipt says {request.receipt.sentence()}"
        )
    return request.ttft_s


# --- decoding together, and what the books cost ---------------------------------------------------------------------


def _decoding_engine(model: Any, tokenizer: Any, *, sessions: int, tokens: int, claims: int) -> Engine:
    """An engine whose sessions have read their prompts and told their first token, and keep every block for reuse."""
    size = 16
    blocks = -(-(SESSION_ROWS + 2 * tokens) // size)
    engine = Engine(model, usable_blocks=blocks * sessions + 2 * claims, block_size=size)
    for number in range(claims):
        claim = engine.claim(text_ids(tokenizer, 2 * size, seed=number + 100), claim_id=f"claim-{number}")
        if not claim.receipt.accepted:
            raise InternalError(f"a claim of the bench was not accepted: {claim.receipt.sentence()}")
    for number in range(sessions):
        prompt = text_ids(tokenizer, SESSION_ROWS, seed=number)
        engine.submit(prompt, max_new_tokens=2 * tokens, stop_ids=())
    while any(not request.token_ids for request in engine.requests):
        engine.step()
    return engine


def _tokens_per_s(engine: Engine, *, tokens: int) -> float:
    before = sum(len(request.token_ids) for request in engine.requests)
    started = time.perf_counter()
    for _ in range(tokens):
        engine.step()
    seconds = time.perf_counter() - started
    return (sum(len(request.token_ids) for request in engine.requests) - before) / seconds


def _batch_gain(
    report: BenchReport, model: Any, tokenizer: Any, *, tokens: int, repeats: int, progress: Progress
) -> None:
    """In turns, on a processor that changes its speed."""
    part = max(4, tokens // repeats)
    together = _decoding_engine(model, tokenizer, sessions=SESSIONS, tokens=tokens, claims=0)
    alone = _decoding_engine(model, tokenizer, sessions=1, tokens=tokens, claims=0)
    speeds: dict[str, list[float]] = {"alone": [], "together": []}
    for turn in range(repeats):
        progress(f"decoding {SESSIONS} sessions, {turn + 1} of {repeats}")
        speeds["alone"].append(_tokens_per_s(alone, tokens=part))
        speeds["together"].append(_tokens_per_s(together, tokens=part))
    gain = median([many / one for many, one in zip(speeds["together"], speeds["alone"], strict=True)])
    report.figures["pressure.batch_gain"] = gain
    _row(
        report,
        "tokens/s",
        f"{SESSIONS} sessions of {SESSION_ROWS}",
        baseline=median(speeds["alone"]),
        measured=median(speeds["together"]),
        ratio=gain,
    )


def _overhead(report: BenchReport, model: Any, tokenizer: Any, *, tokens: int, progress: Progress) -> None:
    """Seconds that the engine spends on claims, clock and bookkeeping, over those of the steps they belong to."""
    progress(f"the books of {CLAIMS} claims")
    engine = _decoding_engine(model, tokenizer, sessions=SESSIONS, tokens=tokens, claims=CLAIMS)
    before, started = engine.control_s, time.perf_counter()
    _tokens_per_s(engine, tokens=tokens)
    seconds, control_s = time.perf_counter() - started, engine.control_s - before
    report.figures["pressure.overhead"] = control_s / (seconds - control_s)
    _row(
        report,
        "overhead, ms a step",
        f"{CLAIMS} claims, no pressure",
        baseline=(seconds - control_s) / tokens * 1e3,
        measured=control_s / tokens * 1e3,
        ratio=report.figures["pressure.overhead"],
    )


# --- promises -------------------------------------------------------------------------------------------------------


def _violations(report: BenchReport, model: Any, tokenizer: Any, *, sessions: int, progress: Progress) -> None:
    result = run_soak(model, text_ids(tokenizer, 1200), sessions=sessions, progress=progress)
    report.figures["pressure.violations"] = len(result.violations)
    happened = result.happened
    _row(report, "violations", f"{result.sessions:,} random sessions", measured=len(result.violations))
    for what in result.violations[:10]:
        _row(report, "violation", what)
    for what, number in (
        ("requests", result.requests),
        ("answers checked against cold runs", result.answers_checked),
        ("answers that differ by rounding alone", result.ties),
        *((name.replace("_", " "), happened[name]) for name in _TOLD),
    ):
        _row(report, "sessions", what, measured=number)


_TOLD = (
    "cancelled",
    "paused",
    "claim used",
    "resident_claim_accepted",
    "resident_claim_offloaded",
    "resident_claim_restored",
    "resident_claim_restoration_failed",
    "active_request_deferred",
    "active_request_refused",
)
