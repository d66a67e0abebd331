"""A laboratory's saved results, and its variants in numbers: what its pages and sentences are made of."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import msgspec

from whet import plain
from whet.errors import RunFolderError
from whet.measure.changes import Change
from whet.measure.measurement import Interval, Measurement, find, value_of
from whet.measure.quality import Quality
from whet.search import outcome as outcomes
from whet.search.outcome import Outcome
from whet.trials.pairs import Contents, Pair, Pairs
from whet.trials.problem import Result
from whet.trials.trial import FLOAT

FILE = "laboratory.json"
RUN = "run"  # the folder of the recipes' run, below that of the results
ORIGINAL, BASE = "original", "fp32"


@dataclass(frozen=True)
class Laboratory:
    """What a laboratory found, but for the outcome of its run.

    Attributes:
        model, data: As given.
        pictures: Of the test part that were measured, ``pictures_of`` those there are; ``fraction`` as asked.
        trained_on: Pictures that pruned and clustered variants were trained on, for ``epochs`` passes.
        batch: Pictures a step of that.
        input: What a picture becomes before it goes in, in words.
        families: The optimization that each variant is of.
        pairs: Every two TFLite files; None where there are not two.
        notes: What a reader should know first.
    """

    model: str
    data: str
    pictures: int
    pictures_of: int
    fraction: float
    trained_on: int
    epochs: float
    batch: int
    input: str
    families: Mapping[str, str]
    pairs: Pairs | None
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Variant:
    """One model that was measured, or why it was not.

    Attributes:
        name: Of the recipe; ``original`` for the Keras model as given, ``fp32`` for its plain conversion.
        family: The optimization.
        failure: Instead of numbers.
        quality: On the test pictures.
        drop: Of accuracy against the original, with limits that hold for all recipes at once.
        changes: Of every metric against the original.
        latency_ms: One picture, the median.
        faster: Against ``fp32``, in one race of all; None for ``fp32`` and the original.
        size_bytes, deflated_bytes, deflation_percent: Of the file; None for the original.
        contents: What lies in the file.
        seconds: It took, all together.
    """

    name: str
    family: str
    failure: str = ""
    quality: Quality | None = None
    drop: float | None = None
    interval: Interval | None = None
    changes: tuple[Change, ...] = ()
    latency_ms: Measurement | None = None
    faster: Pair | None = None
    size_bytes: float = 0.0
    deflated_bytes: float = 0.0
    deflation_percent: float = 0.0
    contents: Contents | None = None
    seconds: float = 0.0

    @property
    def accuracy(self) -> float:
        """Share of right answers."""
        return float((self.quality.scores.get("accuracy") if self.quality else None) or 0.0)


@dataclass(frozen=True)
class Shelf:
    """All variants of a laboratory: the original first, then ``fp32``, then the recipes.

    Attributes:
        original: The Keras model as given.
        files: The TFLite files that were measured.
        failed: Those that were not.
        pairs: Every two files.
        against_keras: How many times as fast ``fp32`` is as the Keras model, from a race of these two.
    """

    original: Variant
    files: tuple[Variant, ...]
    failed: tuple[Variant, ...] = ()
    pairs: Pairs | None = None
    against_keras: Measurement | None = None
    names: tuple[str, ...] = field(default=())

    @property
    def base(self) -> Variant | None:
        """The FP32 file, if there is one."""
        return next((item for item in self.files if item.name == BASE), None)

    def of(self, family: str) -> list[Variant]:
        """Return the files of an optimization."""
        return [item for item in self.files if item.family == family]

    def pair(self, first: str, second: str) -> Pair:
        """Return two files, seen from the first."""
        found = self.pairs.of(first, second) if self.pairs else None
        assert found is not None
        return found


def shelf(lab: Laboratory, outcome: Outcome) -> Shelf:
    """Put a laboratory's results together."""
    made = [_variant(lab, result) for result in outcome.results]
    failed = tuple(item for item in made if item.failure)
    return Shelf(
        original=_original(lab, outcome),
        files=tuple(item for item in made if not item.failure),
        failed=failed,
        pairs=lab.pairs,
        against_keras=_against_keras(outcome),
        names=tuple(outcome.original.classes),
    )


def load(folder: Path) -> tuple[Laboratory, Outcome]:
    """Read the results of a laboratory.

    Raises:
        RunFolderError: There are none.
    """
    path = folder / FILE
    if not path.exists():
        raise RunFolderError(f"{folder} holds no {FILE}; a laboratory writes it when it ends")
    try:
        return plain.loads(path.read_bytes(), Laboratory), outcomes.load(folder / RUN)
    except (ValueError, msgspec.ValidationError) as error:
        raise RunFolderError(f"{path} cannot be read: {error}") from error


def called(result: Result) -> str:
    """Return what a result is called here: the plain conversion is ``fp32``."""
    return BASE if result.name == FLOAT else result.name


def _variant(lab: Laboratory, result: Result) -> Variant:
    name = called(result)
    family = lab.families.get(name, "none")
    if result.failure is not None or result.quality is None or result.comparison is None:
        why = f"{result.failure.kind}: {result.failure.message}" if result.failure else "no result"
        return Variant(name, family, why, seconds=result.seconds)
    numbers, pairs = result.measurements, lab.pairs
    timed = pairs.latency.get(name, ()) if pairs else ()
    return Variant(
        name,
        family,
        quality=result.quality,
        drop=result.comparison.drop,
        interval=result.comparison.interval,
        changes=result.comparison.changes,
        latency_ms=find(timed, "latency_p50_ms") or find(numbers, "latency_p50_ms", contestant="candidate"),
        faster=pairs.of(name, BASE) if pairs and name != BASE else None,
        size_bytes=value_of(numbers, "size_bytes") or 0.0,
        deflated_bytes=value_of(numbers, "deflated_bytes") or 0.0,
        deflation_percent=value_of(numbers, "deflation_percent") or 0.0,
        contents=pairs.contents.get(name) if pairs else None,
        seconds=result.seconds,
    )


def _original(lab: Laboratory, outcome: Outcome) -> Variant:
    """Return the Keras model as given, on the test pictures as far as they were run on it."""
    numbers = outcome.results[0].measurements if outcome.results else ()
    quality = lab.pairs.original if lab.pairs else None
    return Variant(
        ORIGINAL, "none", quality=quality, latency_ms=find(numbers, "latency_p50_ms", contestant="original")
    )


def _against_keras(outcome: Outcome) -> Measurement | None:
    """Return how many times as fast the plain conversion is as the Keras model."""
    numbers = outcome.results[0].measurements if outcome.results else ()
    for item in numbers:
        if item.metric == "speedup" and item.conditions.get("against") == "original":
            return item
    return None
