"""The manifest: what a bundle says of itself."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec

from whet import markup, plain
from whet.errors import BundleError
from whet.machine import Machine
from whet.measure import verdict
from whet.measure.verdict import Verdict
from whet.storage import sha256
from whet.types import Format, Signature, Step, Trait

SCHEMA = 1
FILE, METRICS, CARD = "manifest.json", "metrics.json", "MODEL_CARD.md"
SOURCE = "source.py"  # the file of a torch model's factory
_SHIPPED = (Format.TORCH, Format.ONNX, Format.TFLITE)
_SHA256 = re.compile(r"[0-9a-f]{64}")
_MAX_NAME = 500  # characters


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
        source: Where the original came from, without the folders of the machine it was made on.
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
    """Read a manifest; every name in it is one below the bundle, and every verdict follows from its figures.

    Raises:
        BundleError: There is none, it is damaged, it contradicts itself, or this version does not know its schema.
    """
    path = bundle / FILE
    if path.is_symlink():
        raise BundleError(f"{path} is a link; a bundle has no links: copy the file itself")
    try:
        content = plain.read_json(path, dict)
    except FileNotFoundError as error:
        raise BundleError(f"{bundle} is not a bundle: it has no {FILE}; name one, such as RUN/bundle") from error
    except (OSError, ValueError) as error:
        raise BundleError(f"{path} cannot be read ({error}); restore the bundle, or make it anew") from error
    if content.get("schema") != SCHEMA:
        found = str(content.get("schema"))[:20]
        raise BundleError(
            f"{path} has schema {found}, this version of whet reads {SCHEMA}; use the version that wrote it"
        )
    try:
        made = plain.convert(content, Manifest)
        _check(made)
        return made
    except (msgspec.ValidationError, ValueError, OverflowError, TypeError) as error:
        problem = " ".join(str(error).split())
        raise BundleError(f"{path} is damaged ({problem}); restore the bundle, or make it anew") from error


def digest(bundle: Path) -> str:
    """Return ``sha256:`` and the digest of the manifest, which names the digest of every other file.

    Whoever knows it from elsewhere knows the bundle: no file of it can be replaced without changing it.
    """
    return f"sha256:{sha256(bundle / FILE)}"


def _check(made: Manifest) -> None:
    """Refuse what no bundle of whet's says.

    Raises:
        ValueError: It names a file outside of the bundle, or answers otherwise than its own figures do.
    """
    if made.format not in _SHIPPED:
        raise ValueError(f"a bundle ships {', '.join(_SHIPPED)}, not {made.format}")
    for name, checksum in made.files.items():
        _check_name(name)
        if not _SHA256.fullmatch(checksum):
            raise ValueError(f"{ascii(checksum)[:80]} is no SHA-256")
    _check_name(made.file)
    _check_golden(made)
    _check_verdicts(made)


def _check_name(name: str) -> None:
    """Refuse a name that leads out of the bundle on any system, or hides what it is in a terminal."""
    parts = name.split("/")
    unsafe = any(part in ("", ".", "..") for part in parts) or any(letter in name for letter in "\\:")
    if unsafe or not name.isprintable() or len(name) > _MAX_NAME:
        raise ValueError(f"{ascii(name)[:80]} is no name of a file below the bundle")
    if name == FILE:
        raise ValueError(f"it names itself, {FILE}, among the files it has checksums of")


def _check_golden(made: Manifest) -> None:
    """Refuse recorded outputs that nothing could deviate from: no samples, no outputs, no bound."""
    wanted = {spec.name for spec in made.signature.outputs if spec.sample is not None}
    if not made.signature.inputs or not wanted:
        raise ValueError("its signature has no inputs, or no output by the sample")
    if made.golden.samples < 1:
        raise ValueError(f"it records {made.golden.samples} golden samples; there is at least one")
    if set(made.golden.tolerance) != wanted:
        raise ValueError(f"it has tolerances for {_names(made.golden.tolerance)}, its outputs are {_names(wanted)}")
    for name, value in made.golden.tolerance.items():
        if not 0 < value < math.inf:
            raise ValueError(f"the tolerance {value} of {ascii(name)[:60]} is not a number above 0")


def _check_verdicts(made: Manifest) -> None:
    for item in made.verdicts:
        if item.figures is not None and item.figures.answer is not item.answer:
            raise ValueError(
                f"it answers {item.answer} to {ascii(item.claim)[:120]}, its figures say {item.figures.answer}"
            )
    right = str(verdict.overall(made.verdicts)) if made.verdicts else ""
    if made.answer != right:
        raise ValueError(f"its answer is {ascii(made.answer)[:40]}, its verdicts together say {right or 'nothing'}")


def _names(found: Iterable[str]) -> str:
    return ascii(sorted(found))[:120]
