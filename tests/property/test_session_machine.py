"""A session under random use: ids and cache rows always agree, and a restored copy is the session."""

from __future__ import annotations

import tempfile
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from session_kit import EAGER, POOL_ROWS, some_ids, tiny_session
from tenure.kv.residency import Residence
from tenure.models import tiny_model
from tenure.policy import SCORERS, Policy
from tenure.runtime.hf import ReplyEnd, Sampling, Session

MODEL = tiny_model("llama")
MOST_ROWS = 160


class SessionMachine(RuleBasedStateMachine):
    """Knows the ids that must be there, from what went in and came out, and looks at nothing else of the session's."""

    def __init__(self) -> None:
        super().__init__()
        self.ids: list[int] = []
        self.session = tiny_session(model=MODEL)

    @initialize(temperature=st.sampled_from([0.0, 1.0]), seed=st.integers(0, 3))
    def settle(self, temperature: float, seed: int) -> None:
        self.session = tiny_session(model=MODEL, sampling=Sampling(temperature=temperature), seed=seed)

    @precondition(lambda self: len(self.ids) < MOST_ROWS)
    @rule(rows=st.integers(1, 40), seed=st.integers(0, 99))
    def append(self, rows: int, seed: int) -> None:
        ids = some_ids(rows, seed=seed)
        assert self.session.append(ids) == rows
        self.ids += ids

    @precondition(lambda self: len(self.ids) < MOST_ROWS)
    @rule(rows=st.integers(10, 40), stop_after=st.integers(1, 3))
    def stop_while_reading(self, rows: int, stop_after: int) -> None:
        heard: list[int] = []

        def progress(done: int, _total: int) -> None:
            heard.append(done)
            if len(heard) == stop_after:
                self.session.stop()

        ids = some_ids(rows, seed=rows)
        read = self.session.append(ids, progress=progress)
        assert read == (heard[stop_after - 1] if len(heard) >= stop_after else rows)
        self.ids += ids[:read]

    @precondition(lambda self: self.ids and len(self.ids) < MOST_ROWS)
    @rule(tokens=st.integers(1, 9))
    def generate(self, tokens: int) -> None:
        reply = list(self.session.generate(max_new_tokens=tokens))
        assert len(reply) == tokens
        self.ids += reply

    @precondition(lambda self: self.ids)
    @rule(tokens=st.integers(1, 5))
    def stop_a_reply(self, tokens: int) -> None:
        reply = []
        for token in self.session.generate(max_new_tokens=20):
            reply.append(token)
            if len(reply) == tokens:
                self.session.stop()
        assert len(reply) == tokens
        assert self.session.last_reply is not None
        assert self.session.last_reply.end is ReplyEnd.STOPPED
        self.ids += reply

    @precondition(lambda self: self.ids)
    @rule(tokens=st.integers(1, 5))
    def let_go_of_a_reply(self, tokens: int) -> None:
        self.ids += islice(self.session.generate(max_new_tokens=20), tokens)

    @precondition(lambda self: self.ids)
    @rule(layer=st.integers(0, 2), rows=st.integers(1, 9))
    def a_forward_dies(self, layer: int, rows: int) -> None:
        def die(*_arguments: Any) -> None:
            raise KeyboardInterrupt

        hook = MODEL.model.layers[layer].register_forward_hook(die)
        try:
            self.session.append(some_ids(rows))
        except KeyboardInterrupt:
            pass
        else:
            raise AssertionError("the forward lived")
        finally:
            hook.remove()

    @rule(data=st.data())
    def crop(self, data: st.DataObject) -> None:
        rows = data.draw(st.integers(0, len(self.ids)))
        self.session.crop(rows)
        del self.ids[rows:]

    @rule(scorer=st.sampled_from(sorted(SCORERS)), interval_rows=st.integers(1, 6))
    def change_policy(self, scorer: str, interval_rows: int) -> None:
        self.session.use_policy(Policy(scorer=scorer, interval_rows=interval_rows, margin=0.0, scoring_share=None))

    @precondition(lambda self: self.ids and self.session.cache.can_score)
    @rule()
    def reselect(self) -> None:
        self.session.reselect()

    @rule(go_on_with_the_copy=st.booleans(), tokens=st.integers(1, 6))
    def save_and_load(self, go_on_with_the_copy: bool, tokens: int) -> None:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "session"
            self.session.save(path)
            copy = Session.load(path, MODEL, None)
        assert copy.cache.policy == self.session.cache.policy
        assert copy.where() == self.session.where()
        if self.ids:
            replies = [list(each.generate(max_new_tokens=tokens)) for each in (self.session, copy)]
            assert replies[0] == replies[1]
            self.ids += replies[0]
            assert torch.equal(*(each._sequence.logits for each in (self.session, copy)))
            assert self.session.cache.pager.arena.positions == copy.cache.pager.arena.positions
        if go_on_with_the_copy:
            self.session = copy

    @invariant()
    def ids_are_the_rows(self) -> None:
        session = self.session
        assert list(session.token_ids) == self.ids
        assert session.logical_rows == session.cache.logical_rows == session.cache.get_seq_length()
        session.check_invariants()
        places = session.where()
        assert all(place.residence is not Residence.LOST for place in places)
        assert sum(place.resident_rows for place in places) <= POOL_ROWS
        assert [p.stop_position for p in places[:-1]] == [p.first_position for p in places[1:]]
        assert (places[-1].stop_position if places else 0) == len(self.ids)


SessionMachine.TestCase.settings = settings(max_examples=settings.default.max_examples // 5, stateful_step_count=14)
TestSession = SessionMachine.TestCase
assert EAGER.scoring_share is None, "a policy that looks at the clock would make the copies differ"
