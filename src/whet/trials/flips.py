"""Flips: the test samples on which original and candidate answer differently, kept with their inputs.

Nothing is decided by them: they are read after the verdict, to be looked at.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from whet import plain
from whet.data import metrics
from whet.data.data import Part, Splits
from whet.data.preprocess import probabilities
from whet.data.tasks import Classification, Task
from whet.storage import new_folder, write_bytes, write_text

if TYPE_CHECKING:
    from whet.types import Array

MOST = 36  # samples that are kept
_SHOWN = 12  # numbers of a row, or of an answer, that are written out
_SIDE = 4  # pixels that the sides of a picture have at least


@dataclass(frozen=True, slots=True)
class Answer:
    """What one model said of a sample.

    Attributes:
        choice: Name of the class; empty where the outputs are no classes.
        probability: Of that class.
        error: Where the outputs are no classes: root of the mean squared error against the label, or against the
            original's outputs where there is none.
        values: The first outputs as they are, where they are no classes.
    """

    choice: str = ""
    probability: float | None = None
    error: float | None = None
    values: tuple[float, ...] = ()


@dataclass(frozen=True, slots=True)
class Flip:
    """One sample.

    Attributes:
        number: In ``test``.
        label: Its class's name or its numbers, in words; empty where there is none.
        outcome: ``lost`` (only the original is right), ``won`` (only the candidate), ``neither``, or empty.
        before, after: The original's answer and the candidate's.
        loss: Of confidence: the probability of the original's choice, as the original sees it less as the candidate
            does. Where the outputs are no classes, what the error grew by.
        inputs: Files of the raw inputs by name, beside ``flips.json``.
        picture: A PNG of it, or empty.
        row: The first numbers of its inputs in words, where it is no picture.
    """

    number: int
    label: str
    outcome: str
    before: Answer
    after: Answer
    loss: float
    inputs: Mapping[str, str]
    picture: str = ""
    row: str = ""


@dataclass(frozen=True)
class Flips:
    """The samples on which two models answer differently.

    Attributes:
        kind: ``decisions`` that differ, or ``errors`` that grew.
        samples: Of ``test``, all looked at.
        differing: On how many the decisions differ, or the error grew.
        lost, won, neither: Of these, as Flip's ``outcome`` has it; None without labels.
        kept: The greatest losses first; ``most`` at the most are kept.
        most: How many that is.
    """

    kind: str
    samples: int
    differing: int
    lost: int | None
    won: int | None
    neither: int | None
    kept: tuple[Flip, ...]
    most: int = MOST


@dataclass(frozen=True)
class Told:
    """What is known of every sample: answers, losses, labels in words, and which differ.

    Attributes:
        kind: As Flips has it.
        differ: (N,) bool.
        loss: (N,) float.
        outcome: (N,) of ``lost``, ``won``, ``neither``; None without labels.
        answers: From a sample's number to the original's answer and the candidate's.
    """

    kind: str
    differ: Array
    loss: Array
    outcome: Array | None
    answers: Callable[[int], tuple[Answer, Answer]]


def save(folder: Path, splits: Splits, told: Told, classes: Sequence[str]) -> Flips:
    """Write the raw inputs of the greatest losses, and ``flips.json``, into a folder of their own.

    Args:
        folder: Takes the place of what was there.
        splits: The data; its raw inputs are written, as they came.
        told: What is known of the samples of ``test``.
        classes: Their names.
    """
    chosen = np.flatnonzero(told.differ)
    chosen = chosen[np.argsort(-told.loss[chosen], kind="stable")][:MOST]
    labels = splits.labels(Part.TEST)
    with new_folder(folder) as place:
        kept = []
        for rank, number in enumerate(int(number) for number in chosen):
            rows = splits.parts[Part.TEST].rows([number])
            raw = {name: np.asarray(values[0]) for name, values in rows.items()}
            files, picture = _write_inputs(place, f"{rank + 1:02d}-sample-{number}", raw)
            label = "" if labels is None else _label(labels[number], classes, told)
            outcome = "" if told.outcome is None else str(told.outcome[number])
            before, after = told.answers(number)
            kept.append(
                Flip(number, label, outcome, before, after, float(told.loss[number]), files, picture,
                     "" if picture else _row(raw))
            )  # fmt: skip
        found = Flips(told.kind, len(told.differ), int(told.differ.sum()), *_counts(told), tuple(kept))
        write_text(place / "flips.json", plain.dumps(found))
    return found


def tell(task: Task, original: Array, outputs: Array, truth: Array, classes: Sequence[str]) -> Told:
    """Return what two models said of the same samples, and where they differ.

    Args:
        task: What the outputs are for.
        original: The original's outputs (N, ...).
        outputs: The candidate's.
        truth: Labels; for fidelity, ``original`` itself.
        classes: Names of the classes.
    """
    if task.classes and original.ndim <= 2:
        return _decisions(task, original, outputs, truth, classes)
    return _errors(task, original, outputs, truth)


def _decisions(task: Task, original: Array, outputs: Array, truth: Array, classes: Sequence[str]) -> Told:
    was, now = (metrics.decide(array, logits=task.logits) for array in (original, outputs))
    sure, later = (probabilities(array, softmax=task.logits) for array in (original, outputs))
    at = np.arange(len(was))
    outcome = None
    if isinstance(task, Classification):
        right, still = task.right(original, truth), task.right(outputs, truth)
        outcome = np.where(right & ~still, "lost", np.where(~right & still, "won", "neither"))

    def answer(number: int, chosen: Array, shares: Array) -> Answer:
        return Answer(_name(int(chosen[number]), classes), float(shares[number, chosen[number]]))

    def answers(number: int) -> tuple[Answer, Answer]:
        return answer(number, was, sure), answer(number, now, later)

    return Told("decisions", was != now, sure[at, was] - later[at, was], outcome, answers)


def _errors(task: Task, original: Array, outputs: Array, truth: Array) -> Told:
    """Tell how much each sample's error grew; without numbers as labels, how far it is from the original."""
    labelled = task.name == "regression"
    wanted = (truth if labelled else original).reshape(len(original), -1).astype(np.float64)
    before, after = (
        np.sqrt(((array.reshape(len(array), -1) - wanted) ** 2).mean(axis=1)) for array in (original, outputs)
    )

    def answer(number: int, error: Array, array: Array) -> Answer:
        values = tuple(float(value) for value in array[number].reshape(-1)[:_SHOWN])
        return Answer(error=float(error[number]), values=values)

    def answers(number: int) -> tuple[Answer, Answer]:
        return answer(number, before, original), answer(number, after, outputs)

    return Told("errors", after > before, after - before, None, answers)


def _counts(told: Told) -> tuple[int | None, int | None, int | None]:
    if told.outcome is None:
        return None, None, None
    found = told.outcome[told.differ]
    return int((found == "lost").sum()), int((found == "won").sum()), int((found == "neither").sum())


def _write_inputs(place: Path, stem: str, raw: Mapping[str, Array]) -> tuple[dict[str, str], str]:
    """Write one sample's inputs as ``.npy``, and as a PNG the first that is a picture; return the files' names."""
    files, picture = {}, ""
    for name, array in raw.items():
        suffix = "" if len(raw) == 1 else f"-{''.join(c if c.isalnum() else '_' for c in name)}"
        content = io.BytesIO()
        np.save(content, array if array.dtype != object else array.astype(str), allow_pickle=False)
        files[name] = f"{stem}{suffix}.npy"
        write_bytes(place / files[name], content.getvalue())
        shown = as_picture(array)
        if shown is not None and not picture and find_spec("PIL"):
            picture = f"{stem}.png"
            _write_png(place / picture, shown)
    return files, picture


def as_picture(array: Array) -> Array | None:
    """Return a sample as a picture of bytes, (H, W) or (H, W, 3); None if it is none.

    Bytes stay as they are; floats, which may be normalised, are stretched from their least to their greatest value.
    """
    if array.ndim == 3 and array.shape[0] in (1, 3) and array.shape[2] not in (1, 3):
        array = np.moveaxis(array, 0, -1)
    grey = array.ndim == 2 and array.dtype == np.uint8
    if not grey and not (array.ndim == 3 and array.shape[-1] in (1, 3)):
        return None
    if min(array.shape[:2]) < _SIDE or array.dtype.kind not in "uf":
        return None
    if array.dtype != np.uint8:
        low, high = float(array.min()), float(array.max())
        array = np.round((array - low) * (255 / (high - low if high > low else 1.0))).astype(np.uint8)
    return array[..., 0] if array.ndim == 3 and array.shape[-1] == 1 else array


def _write_png(path: Path, pixels: Array) -> None:
    from PIL import Image

    content = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(pixels)).save(content, "PNG")
    write_bytes(path, content.getvalue())


def _label(label: Any, classes: Sequence[str], told: Told) -> str:
    """Return a label in words: a class by its name, numbers as they are; empty where it was not judged by."""
    values = np.asarray(label).reshape(-1)
    if told.kind == "errors":
        return _numbers(values)
    if told.outcome is None:
        return ""
    chosen = int(values.argmax()) if len(values) > 1 else int(values[0])
    return _name(chosen, classes)


def _name(chosen: int, classes: Sequence[str]) -> str:
    return classes[chosen] if chosen < len(classes) else str(chosen)


def _row(raw: Mapping[str, Array]) -> str:
    """Return the first numbers of a sample's inputs, or its text, in words."""
    if len(raw) == 1:
        return _numbers(next(iter(raw.values())).reshape(-1))
    return "; ".join(f"{name} {_numbers(array.reshape(-1))}" for name, array in raw.items())


def _numbers(values: Array) -> str:
    shown = ", ".join(
        f"{value:.4g}" if np.issubdtype(values.dtype, np.number) else str(value) for value in values[:_SHOWN]
    )
    return shown if len(values) <= _SHOWN else f"{shown}, and {len(values) - _SHOWN} more"
