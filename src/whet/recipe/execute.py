"""The executor: one loop over steps, each from files to files."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from whet import plain
from whet.data.data import Splits
from whet.errors import PassError, WhetError
from whet.machine import this_machine
from whet.passes.base import Outcome, Pass, PassContext
from whet.progress import Event, OnEvent
from whet.recipe.cache import Cache, Entry, step_key
from whet.recipe.cost import latency_ms
from whet.recipe.recipe import Recipe, settings
from whet.types import Step

Probe = Callable[[Entry], Mapping[str, Any]]
"""Measures a model after a step: quality, bytes, latency."""


def execute(
    recipe: Recipe, root: Entry, cache: Cache, data: Splits | None, probe: Probe, on_event: OnEvent
) -> list[Entry]:
    """Run a recipe from ``root``; return the model after every step, the original first.

    What the cache has is not computed again. Every step reads the files of the one before.

    Raises:
        WhetError: A step failed; the message names it.
    """
    fingerprint = data.fingerprint() if data is not None else ""
    entries = [root]
    context = PassContext(
        Path(), recipe.seed, data, cost=latency_ms, on_event=on_event, original=lambda: cache.load(root)
    )
    for at, step in enumerate(recipe.steps, 1):
        on_event(Event(step.name, at - 1, len(recipe.steps)))
        key = step_key(entries[-1].key, step, recipe.seed, fingerprint)
        entry = cache.get(key)
        if entry is None:
            try:
                entry = _run(step, key, entries[-1], cache, context)
            except WhetError as error:
                raise type(error)(f"step {at} ({step.name}): {error}") from error
            except MemoryError:
                raise  # told as such, by the process that has no more
            except Exception as error:  # the boundary of the trial: a library's failure is this candidate's
                raise PassError(f"step {at} ({step.name}): {type(error).__name__}: {error}") from error
        if not entry.measures:
            entry = cache.annotate(entry, probe(entry))
        entries.append(entry)
    return entries


def _run(step: Pass, key: str, parent: Entry, cache: Cache, context: PassContext) -> Entry:
    started = time.monotonic()
    model = cache.load(parent)
    with cache.workplace(key) as folder:
        outcome = step.apply(model, replace(context, folder=folder))
        record = _record(step, outcome, context.seed)
        changed = replace(outcome.model, history=(*model.history, record))
        return cache.put(key, changed, record, time.monotonic() - started)


def _record(step: Pass, outcome: Outcome, seed: int) -> Step:
    return Step(
        step.name,
        settings(step),
        outcome.changed,
        outcome.skipped,
        plain.builtins(outcome.notes),
        seed,
        this_machine().versions,
    )
