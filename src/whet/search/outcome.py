"""What a run leaves: everything the report is written from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from whet import markup, plain
from whet.errors import RunFolderError
from whet.machine import Machine
from whet.measure.measurement import Measurement
from whet.measure.quality import Comparison, Quality
from whet.measure.robustness import Robustness
from whet.measure.verdict import Budget, Verdict, in_html
from whet.search import checked
from whet.search.choice import Ranked
from whet.trials.flips import Flips
from whet.trials.problem import Original, Result
from whet.trials.trial import FLOAT

FILE = "results.json"
SCHEMA = 1
_MAX_BYTES = 2**29  # confusion matrices of thousands of classes take most of it


@dataclass(frozen=True)
class Proof:
    """The verdict on the chosen candidate, on samples that decided nothing else.

    Attributes:
        chosen: Its name.
        verdicts: One a claim. ``answer`` is what they come to together.
        comparison, quality: On ``test``; ``original`` is the model as given on the same samples.
        measurements: Of this last, fresh process.
        test_opened: How often ``test`` was opened for a choice of this search, this one included.
    """

    chosen: str
    verdicts: tuple[Verdict, ...]
    answer: str
    comparison: Comparison
    quality: Quality
    original: Quality
    measurements: tuple[Measurement, ...]
    test_opened: int = 1

    def _repr_html_(self) -> str:
        told = f"{self.chosen}, on {self.comparison.samples} test samples that decided nothing else"
        return markup.line(self.answer, told) + in_html(self.verdicts)


@dataclass(frozen=True)
class Outcome:
    """What a run leaves.

    Attributes:
        command: As typed, in plain data.
        kind: ``optimize`` (candidates ranked, one chosen and proved) or ``run`` (fixed recipes, each judged).
        original: The model as given.
        results: Every candidate, failed ones too.
        ranking: With reasons; empty for ``run``.
        not_tried: Candidates that time did not suffice for.
        proof: Of the chosen one; None for ``run``.
        budget: What was allowed.
        warnings: What a reader should know first.
        original_on_part: Quality of the original on the part that ``run`` judges on.
        flips: The test samples that the chosen one answers differently; their inputs lie in ``RUN/flips``.
        robustness: Of the chosen one on corrupted inputs; None where it was not looked at.
        machine: All was measured on.
        seconds: The whole took.
    """

    command: Mapping[str, Any]
    kind: str
    original: Original
    results: tuple[Result, ...]
    ranking: tuple[Ranked, ...]
    not_tried: tuple[str, ...]
    proof: Proof | None
    budget: Budget
    warnings: tuple[str, ...]
    machine: Machine
    seconds: float
    original_on_part: Quality | None = None
    facts: Mapping[str, Any] = field(default_factory=dict)
    flips: Flips | None = None
    robustness: Robustness | None = None
    schema: int = SCHEMA

    @property
    def answer(self) -> str:
        """PASS, FAIL or INCONCLUSIVE of the whole."""
        from whet.measure.verdict import overall

        if self.proof is not None:
            return self.proof.answer
        judged = [verdict for result in self.results for verdict in result.verdicts]
        if not judged or any(result.failure for result in self.results):
            return "FAIL"
        return str(overall(judged))

    @property
    def every_candidate_failed(self) -> bool:
        """Whether there were candidates, and none of them has a result."""
        tried = [result for result in self.results if result.name != FLOAT]
        return bool(tried) and all(result.failure is not None for result in tried)

    def _repr_html_(self) -> str:
        from whet.search.rows import in_html as table

        judged = [in_html(item.verdicts, item.name) for item in self.results if item.verdicts]
        proof = [markup.line(self.answer), *judged] if self.proof is None else [self.proof._repr_html_()]
        rejected = [
            markup.line("rejected", f"{item.name}: {item.reason}") for item in self.ranking if not item.eligible
        ]
        notes = [markup.line("note:", warning) for warning in self.warnings]
        return "".join([*proof, table(self), *rejected, *notes])

    def result(self, name: str) -> Result | None:
        """Return a candidate's result."""
        return next((result for result in self.results if result.name == name), None)


def load(folder: Path) -> Outcome:
    """Read a RUN folder's results, which may be somebody else's.

    Raises:
        RunFolderError: There are none, or they are not what whet writes; the message names the file and the place.
    """
    path = folder / FILE
    try:
        found = plain.read_json(path, Outcome, _MAX_BYTES)
        checked.check(found, SCHEMA)
    except (FileNotFoundError, NotADirectoryError) as error:
        raise RunFolderError(f"{folder} holds no {FILE}; a run writes it when it ends") from error
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise RunFolderError(
            f"{path} cannot be read: {reason}; run the command of this folder again, or copy the folder anew"
        ) from error
    return found
