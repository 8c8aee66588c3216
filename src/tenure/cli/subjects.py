"""Subjects for `tenure grade` that need a model to be loaded first."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tenure.conformance.subject import Setup, Subject, SubjectFactory


@functools.cache
def _default_model() -> SubjectFactory:
    from tenure.models import load
    from tenure.runtime.hf.engine.subject import factory_for

    loaded = load()
    return factory_for(loaded.model, loaded.identity)


def engine_on_the_default_model(setup: Setup) -> Subject:
    """A fresh engine for one check, on the default model, which is loaded once."""
    return _default_model()(setup)
