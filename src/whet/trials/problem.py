"""What all candidates of a search share, and what becomes of each."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from whet.data.sources import DataSource
from whet.measure.measurement import Measurement
from whet.measure.quality import Comparison, Quality
from whet.measure.verdict import Budget, Verdict
from whet.models.source import Source
from whet.recipe.recipe import Recipe
from whet.runtimes.base import Deployment, formats_of
from whet.trials.flips import Flips
from whet.types import Format, Skipped

_SHIPPED = (Format.ONNX, Format.TFLITE)  # formats whose files are what is shipped; others are exported first


@dataclass(frozen=True)
class Problem:
    """A model, data, and what is asked of them. Travels to every child process; never stored.

    Attributes:
        source: The model as given.
        data: The data as given.
        deployment: How artifacts are run. ``original`` is how the model as given is run.
        original: The usual runtime of the source's format.
        budget: What may be lost.
        seed: For whatever is drawn.
        folder: The RUN folder.
        robustness: Whether what is chosen is also tried on corrupted inputs.
        races_original: Whether candidates are raced against the model as given; where that takes long to open, the
            float model, which is raced against it anyway, can stand for it.
    """

    source: Source
    data: DataSource
    deployment: Deployment
    original: Deployment
    budget: Budget
    folder: Path
    seed: int = 0
    robustness: bool = True
    races_original: bool = True

    @property
    def stays(self) -> bool:
        """Whether artifacts are run in the source's own format, so that the float model is the source itself."""
        runtime = self.deployment.runtime
        return self.source.format in _SHIPPED or (runtime != "" and self.source.format in formats_of(runtime))

    @property
    def cache(self) -> Path:
        """Where steps are kept."""
        return self.folder / ".cache"


@dataclass(frozen=True)
class Original:
    """What was found out about the model as given.

    Attributes:
        name: For tables.
        format: Of the source.
        root: Its key in the cache.
        float_key: The key of the same model, in float, in the format that is shipped; None if there is none.
        float_failure: Why it cannot.
        output: Name of the output that the task is about.
        task, metric: Their names; ``goal`` is max or min, as more or less of the metric is better.
        classes: Names of the classes, as far as they are known.
        parameters, macs: Counted on the source; MACs for one sample, None where unknown.
        quality: On ``select``.
        splits: Samples by part.
        notes: Of the data: what was carved out, left out or converted.
        data: Fingerprint of the data.
    """

    name: str
    format: str
    root: str
    float_key: str | None
    float_failure: str | None
    output: str
    task: str
    metric: str
    goal: str
    classes: tuple[str, ...]
    parameters: int
    macs: int | None
    quality: Quality
    splits: Mapping[str, int]
    notes: tuple[str, ...]
    data: str

    @property
    def float_bytes(self) -> int:
        """Four bytes a parameter: what sizes are compared with."""
        return 4 * self.parameters


@dataclass(frozen=True)
class Candidate:
    """A recipe in a deployment."""

    recipe: Recipe
    deployment: Deployment

    @property
    def name(self) -> str:
        """The recipe's name."""
        return self.recipe.name


@dataclass(frozen=True)
class Scope:
    """How a candidate is judged: on which part, and together with how many others."""

    part: str = "select"
    family: int = 1


@dataclass(frozen=True, slots=True)
class StepReport:
    """What one step cost.

    Attributes:
        name: Of the pass; ``original`` for the source.
        format: After it.
        key: In the cache.
        seconds: It took.
        value: The task's metric on the samples candidates are ranked by.
        size_bytes: Of the model's files.
        latency_ms: One call at the first batch size, in the usual runtime of the format.
        changed, skipped: Layers.
        notes: The pass's own.
    """

    name: str
    format: str
    key: str
    seconds: float
    value: float | None
    size_bytes: int
    latency_ms: float | None
    changed: int = 0
    skipped: tuple[Skipped, ...] = ()
    notes: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Failure:
    """Why a candidate has no result.

    Attributes:
        kind: Name of the error's class.
        message: Its message, in one line; names the step if it was one.
        retry: Whether the user or the system ended the candidate's process: the same command tries it again.
    """

    kind: str
    message: str
    retry: bool = False


@dataclass(frozen=True)
class Result:
    """What became of a candidate.

    Attributes:
        name: Of the recipe.
        fingerprint: Of everything that decides the result; a resumed run compares it.
        description: Of the recipe.
        steps: What each cost, the original first.
        key: Of the last step in the cache.
        measurements: Every number, on the artifact reloaded in a fresh process.
        quality, comparison: On the samples named by ``part``.
        part: ``select``, or ``test`` where fixed recipes are compared.
        verdicts: Where ``part`` is ``test``.
        failure: Instead of all that.
        seconds: It took.
        flips: Where ``part`` is ``test``: the samples answered otherwise; inputs are in ``RUN/flips/<name>``.
    """

    name: str
    fingerprint: str
    description: str = ""
    steps: tuple[StepReport, ...] = ()
    key: str = ""
    measurements: tuple[Measurement, ...] = ()
    quality: Quality | None = None
    comparison: Comparison | None = None
    part: str = "select"
    verdicts: tuple[Verdict, ...] = ()
    failure: Failure | None = None
    seconds: float = 0.0
    flips: Flips | None = None
