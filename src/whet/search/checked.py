"""Check results that somebody else may have written: names that become files, numbers that no measurement gives."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import PurePosixPath, PureWindowsPath
from typing import TYPE_CHECKING, Any

from whet import plain
from whet.errors import RecipeError
from whet.measure.verdict import Answer
from whet.recipe.recipe import check_name

if TYPE_CHECKING:
    from whet.measure.quality import Quality
    from whet.search.outcome import Outcome

KINDS = ("optimize", "run")
_MAX_RESULTS = 1000  # candidates of one run that tables and figures can show
_MAX_TEXT = 100_000  # characters of one text
_MAX_SIZE = 10**9  # samples in one call
# Counts, sizes and times, wherever they are in the results: none is negative.
_COUNTS = frozenset(
    {
        "samples",
        "seconds",
        "size_bytes",
        "memory_bytes",
        "parameters",
        "macs",
        "latency_ms",
        "lost",
        "won",
        "neither",
    }
    | {"differing", "of", "most", "severity", "number", "cores", "changed", "test_opened", "error", "label"}
)
# What is passed over: mappings whose keys are free, and matrices, which are checked for themselves.
_OTHERS = frozenset({"command", "facts", "notes", "scores", "fidelity", "versions", "confusion"})
_POSITIVE = ("_ms", "_bytes", "_per_s", "_ratio")  # ends of metrics whose values are above 0, or 0


def check(outcome: Outcome, schema: int) -> None:
    """Refuse results from which no report can be written, or whose names would lead out of the RUN folder.

    Args:
        outcome: The results as they were read.
        schema: The schema that this version of whet reads.

    Raises:
        ValueError: The first thing that is wrong, in one line: its place, and what it is.
    """
    for problem in _problems(outcome, schema):
        raise ValueError(problem)


def _problems(outcome: Outcome, schema: int) -> Iterator[str]:
    if outcome.schema != schema:
        yield f"schema: it is {outcome.schema}, this version of whet reads {schema}"
    if outcome.kind not in KINDS:
        yield f"kind: it is {_shown(outcome.kind)}, not one of {', '.join(KINDS)}"
    if not 1 <= len(outcome.results) <= _MAX_RESULTS:
        yield f"results: there are {len(outcome.results)}, not 1 to {_MAX_RESULTS}"
    yield from _name_problems(outcome)
    yield from _number_problems(plain.builtins(outcome), "")
    yield from _measurement_problems(outcome)
    yield from _quality_problems(outcome)
    yield from _flip_problems(outcome)
    if outcome.proof is not None and outcome.proof.answer not in list(Answer):
        yield f"proof.answer: it is {_shown(outcome.proof.answer)}, not one of {', '.join(Answer)}"


def _name_problems(outcome: Outcome) -> Iterator[str]:
    """Yield what is wrong with names of candidates, which become the names of files and folders."""
    places = {f"results[{at}].name": result.name for at, result in enumerate(outcome.results)}
    names = list(places.values())
    places |= {f"ranking[{at}].name": item.name for at, item in enumerate(outcome.ranking)}
    places |= {f"not_tried[{at}]": name for at, name in enumerate(outcome.not_tried)}
    if outcome.proof is not None:
        places["proof.chosen"] = outcome.proof.chosen
    for place, name in places.items():
        try:
            check_name(name)
        except RecipeError as error:
            yield f"{place}: {error}"
    if len({name.lower() for name in names}) < len(names):
        yield "results: two have the same name"
    if outcome.proof is not None and outcome.proof.chosen not in names:
        yield f"proof.chosen: no result is named {_shown(outcome.proof.chosen)}"


def _number_problems(value: Any, place: str) -> Iterator[str]:
    """Yield counts, sizes and times that are negative, and texts that no page can show."""
    if isinstance(value, str) and len(value) > _MAX_TEXT:
        yield f"{place}: a text of {len(value):,} characters, {_MAX_TEXT:,} at most are shown"
    elif isinstance(value, Mapping):
        for key, item in value.items():
            inner = f"{place}.{key}" if place else str(key)
            if key in _OTHERS:
                continue
            if key in _COUNTS and isinstance(item, int | float) and item < 0:
                yield f"{inner}: it is {item}, and cannot be negative"
            yield from _number_problems(item, inner)
    elif isinstance(value, Sequence) and not isinstance(value, str):
        for at, item in enumerate(value):
            yield from _number_problems(item, f"{place}[{at}]")


def _measurement_problems(outcome: Outcome) -> Iterator[str]:
    """Yield measurements of speed and size that are negative, and batch sizes that are none."""
    places = {f"results[{at}]": result.measurements for at, result in enumerate(outcome.results)}
    if outcome.proof is not None:
        places["proof"] = outcome.proof.measurements
    for place, measurements in places.items():
        for at, item in enumerate(measurements):
            where = f"{place}.measurements[{at}]"
            needs_size = item.metric == "speedup" or item.metric.startswith("latency_")
            size = item.conditions.get("batch_size", None if needs_size else 1)
            if not isinstance(size, int) or isinstance(size, bool) or not 1 <= size <= _MAX_SIZE:
                yield f"{where}.conditions.batch_size: it is {_shown(size)}, not a whole number from 1 up"
            known = item.metric.endswith(_POSITIVE) or item.metric == "speedup"
            if known and item.value is not None and item.value < 0:
                yield f"{where}.value: {_shown(item.metric)} is {item.value:g}, and cannot be negative"


def _quality_problems(outcome: Outcome) -> Iterator[str]:
    """Yield confusion matrices that are not square, not of one size, or have negative counts."""
    found: dict[str, Quality | None] = {"original.quality": outcome.original.quality}
    found |= {f"results[{at}].quality": result.quality for at, result in enumerate(outcome.results)}
    if outcome.proof is not None:
        found |= {"proof.quality": outcome.proof.quality, "proof.original": outcome.proof.original}
    sizes = set()
    for place, quality in found.items():
        if quality is None or quality.confusion is None:
            continue
        rows = quality.confusion
        sizes.add(len(rows))
        if not rows or any(len(row) != len(rows) for row in rows) or len(sizes) > 1:
            yield f"{place}.confusion: it is not one row and one column a class"
        if min((min(row, default=0) for row in rows), default=0) < 0 or max(map(max, rows)) >= 2**62:
            yield f"{place}.confusion: its counts are not all 0 or more"


def _flip_problems(outcome: Outcome) -> Iterator[str]:
    """Yield pictures and inputs of flipped samples whose names lead out of their folder."""
    places = {f"results[{at}].flips": item.flips for at, item in enumerate(outcome.results)}
    for place, flips in {"flips": outcome.flips, **places}.items():
        for at, item in enumerate(flips.kept if flips is not None else ()):
            for name in filter(None, (item.picture, *item.inputs.values())):
                is_plain = PurePosixPath(name).name == PureWindowsPath(name).name == name
                if not is_plain or name.startswith("."):
                    yield f"{place}.kept[{at}]: {_shown(name)} is not the name of a file beside flips.json"


def _shown(value: object) -> str:
    text = ascii(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
