"""The manifest: what a bundle says of itself."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec

from whet import markup, plain
from whet.errors import BundleError
from whet.machine import Machine
from whet.measure import verdict
from whet.measure.verdict import Verdict
from whet.types import Format, Signature, Step, Trait

SCHEMA = 1
FILE = "manifest.json"
SOURCE = "source.py"  # the file of a torch model's factory


@dataclass(frozen=True)
class Golden:
    """Recorded outputs: how many samples, and the deviation tolerated of each output."""

    samples: int
    tolerance: Mapping[str, float]


@dataclass(frozen=True)
class Manifest:
    """What a bundle says of itself.

    Attributes:
        name: Of the recipe.
        format, file: What the model is, and where below the bundle.
        signature: Its inputs and outputs; ``output`` is the one the task is about.
        task, metric: What it is for.
        classes: Names.
        deployment: As measured: runtime, provider really used, threads, options.
        needs: Capabilities of the processor its results depend on.
        golden: What ``golden.npz`` holds.
        raw_axes: Axes of raw inputs by name, the axis of samples included.
        traits, history: What was done to the model.
        machine: It was made and measured on.
        source: Where the original came from.
        data: Samples by part, what was carved, fingerprint, and how often ``test`` was opened.
        verdicts: Empty where none was given (a candidate that was only ranked).
        answer: Of all verdicts together, or empty.
        files: SHA-256 of every other file.
        whet, schema: Versions.
    """

    name: str
    format: Format
    file: str
    signature: Signature
    output: str
    task: str
    metric: str
    classes: tuple[str, ...]
    deployment: Mapping[str, Any]
    needs: tuple[str, ...]
    golden: Golden
    raw_axes: Mapping[str, int]
    traits: tuple[Trait, ...]
    history: tuple[Step, ...]
    machine: Machine
    source: Mapping[str, Any]
    data: Mapping[str, Any]
    verdicts: tuple[Verdict, ...] = ()
    answer: str = ""
    files: Mapping[str, str] = field(default_factory=dict)
    whet: str = ""
    schema: int = SCHEMA

    def _repr_html_(self) -> str:
        rows = [
            ("model", f"{self.file} ({self.format})"),
            ("inputs", ", ".join(map(str, self.signature.inputs))),
            ("outputs", ", ".join(map(str, self.signature.outputs))),
            ("task", f"{self.task}, by {self.metric}"),
            ("runs in", ", ".join(f"{name} {value}" for name, value in self.deployment.items() if value)),
            ("steps", ", ".join(step.name for step in self.history)),
            ("answer", self.answer),
        ]
        return markup.table(("bundle", self.name), rows) + (verdict.in_html(self.verdicts) if self.verdicts else "")


def read(bundle: Path) -> Manifest:
    """Read a bundle's manifest.

    Raises:
        BundleError: There is none, it is damaged, or of a schema this version does not know.
    """
    path = bundle / FILE
    try:
        content = json.loads(path.read_text())
    except FileNotFoundError as error:
        raise BundleError(f"{bundle} is not a bundle: it has no {FILE}; name one, such as RUN/bundle") from error
    except (OSError, ValueError) as error:
        raise BundleError(f"{path} cannot be read ({error}); restore the bundle, or make it anew") from error
    if not isinstance(content, dict) or content.get("schema") != SCHEMA:
        found = content.get("schema") if isinstance(content, dict) else None
        raise BundleError(
            f"{path} has schema {found}, this version of whet reads {SCHEMA}; use the version that wrote it"
        )
    try:
        return plain.convert(content, Manifest)
    except msgspec.ValidationError as error:
        raise BundleError(f"{path} is damaged ({error}); restore the bundle, or make it anew") from error
