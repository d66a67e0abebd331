"""Data: a user's parts, and the splits made of them by what each may decide."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum
from itertools import islice
from typing import TYPE_CHECKING, Any

import numpy as np

from whet.bounds import shown
from whet.data.preprocess import Postprocess, Preprocess
from whet.data.samples import Rows, Samples, Subset, samples_of
from whet.errors import DataError, MissingDependency

if TYPE_CHECKING:
    from whet.types import Array, Batch, TensorSpec

_SELECT_SHARE, _SELECT_LEAST, _SELECT_MOST = 0.2, 100, 2000
_CALIBRATE_MOST = 4096
_MAX_CLASSES = 1_000_000
_LOOKED_AT = 1000  # texts that tell what share is cut
_LIBRARIES = {"PIL": ("Pillow", "report"), "tokenizers": ("tokenizers", "text")}


PART_NAMES = {
    "train": "train", "training": "train",
    "test": "test", "t10k": "test",
    "select": "select", "val": "select", "valid": "select", "validation": "select", "dev": "select",
    "calibrate": "calibrate", "calibration": "calibrate",
}  # fmt: skip
"""What files, folders and arrays of a part are called."""


class Part(StrEnum):
    """What samples may decide."""

    TRAIN = "train"  # recovers a compressed model
    CALIBRATE = "calibrate"  # sets ranges of activations
    SELECT = "select"  # ranks candidates
    TEST = "test"  # is opened once, for the verdict


@dataclass(frozen=True)
class Data:
    """Data as a user gives it.

    Attributes:
        test: What the verdict is read from. A part is ``(inputs, labels)`` or a torch Dataset; inputs are a
            model-ready array or a dict of arrays, labels may be None.
        train: What the model was trained on, or anything alike; labels are not needed.
        select: What ranks candidates. Carved out of ``test`` if not given, since the model has seen ``train``.
        calibrate: What sets ranges. Taken from ``train`` if not given.
        task: ``classification``, ``regression``, ``fidelity``, ``similarity``, or a callable
            ``metric(outputs, labels)``. For ``similarity`` a part has two inputs, the sides of each pair.
        preprocess: What turns raw inputs into tensors; None if they are model-ready.
        classes: Names of the classes.
        postprocess: What turns outputs into answers; None if the task tells.
        notes: What a reader found, for the report.
    """

    train: Any = None
    test: Any = None
    select: Any = None
    calibrate: Any = None
    task: Any = None
    preprocess: Preprocess | None = None
    classes: tuple[str, ...] = ()
    postprocess: Postprocess | None = None
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        """Refuse classes, preprocessing and notes of another type, as a dict of a user's own may bring them."""
        for name in ("classes", "notes"):
            value = getattr(self, name)
            if isinstance(value, str | bytes) or not isinstance(value, Iterable):
                raise DataError(f"{name} are a list of texts, this is {_shown(value)}")
            texts = tuple(islice(value, _MAX_CLASSES + 1))
            if len(texts) > _MAX_CLASSES:
                raise DataError(f"there are more than {_MAX_CLASSES:,} {name}; give a list that ends")
            for at, text in enumerate(texts):
                if not isinstance(text, str):
                    raise DataError(f"{name} are a list of texts, number {at} is {_shown(text)}")
            object.__setattr__(self, name, tuple(map(str, texts)))
        for name, kind in (("preprocess", Preprocess), ("postprocess", Postprocess)):
            value = getattr(self, name)
            if value is not None and not isinstance(value, kind):
                raise DataError(f"{name} is a whet.{kind.__name__} or None, this is {_shown(value)}")


def _shown(value: Any) -> str:
    return f"a {type(value).__name__} ({shown(value)})"


@dataclass(frozen=True)
class Splits:
    """Data, split and ready to be read.

    Attributes:
        parts: Samples by part; ``train`` may be missing.
        preprocess, postprocess: Recorded in the bundle.
        task: As given, or None to be found from the labels.
        classes: Names of the classes.
        notes: What was carved out of what, for the report.
        sides: Names of the two sides of a pair, on each of which the model runs; none where samples are no pairs.
    """

    parts: Mapping[Part, Samples]
    preprocess: Preprocess = field(default_factory=Preprocess)
    postprocess: Postprocess = field(default_factory=Postprocess)
    task: Any = None
    classes: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    sides: tuple[str, ...] = ()

    def size(self, part: Part) -> int:
        """Return the number of samples of a part, 0 if there is none."""
        return len(self.parts[part]) if part in self.parts else 0

    def labels(self, part: Part) -> Array | None:
        """Return the labels of a part."""
        return self.parts[part].labels()

    def rows(self, part: Part, indices: Any) -> Rows:
        """Return the raw samples of these numbers; of pairs, the first side."""
        rows = self.parts[part].rows(indices)
        return _side(rows, self.sides[0], self.sides[0]) if self.sides else rows

    def batch(self, part: Part, indices: Any) -> Batch:
        """Return the inputs of these sample numbers, preprocessed and checked for NaN; of pairs, the first side.

        Raises:
            DataError: A value is not finite, or samples differ in size.
        """
        return self._inputs(self.rows(part, indices), part, indices)

    def _inputs(self, rows: Rows, part: Part, indices: Any) -> Batch:
        try:
            batch = self.preprocess.inputs(rows)
        except ValueError as error:
            raise DataError(f"{part}: {error}") from error
        except ModuleNotFoundError as error:
            name = error.name or ""
            raise MissingDependency.of(*_LIBRARIES.get(name, (name, "all"))) from error
        for name, array in batch.items():
            self._check_finite(name, array, part, indices)
        return batch

    def _check_finite(self, name: str, array: Array, part: Part, indices: Any) -> None:
        if not np.issubdtype(array.dtype, np.floating) or np.isfinite(array).all():
            return
        number = int(indices[int(np.argwhere(~np.isfinite(array))[0][0])])
        row, samples = number, self.parts[part]
        while isinstance(samples, Subset):
            row, samples = int(samples.indices[row]), samples.base
        where = "" if samples is self.parts[part] else f" (row {row} as it was given)"
        raise DataError(f"sample {number} of {part}{where} has a NaN or infinite value in {name!r}; clean the data")

    def batches(self, part: Part, size: int, limit: int | None = None) -> Iterator[Batch]:
        """Yield the inputs of a part in order, ``size`` samples at a time; only one batch is in memory.

        Of pairs, a batch has two rows a sample, its first and its second side.
        """
        count = self.size(part) if limit is None else min(limit, self.size(part))
        for start in range(0, count, size):
            yield self.inputs(part, range(start, min(start + size, count)))

    def inputs(self, part: Part, indices: Any) -> Batch:
        """Return the inputs of these sample numbers; of pairs two rows a sample, its first and its second side."""
        if not self.sides:
            return self.batch(part, indices)
        rows = self.parts[part].rows(indices)
        first, second = (_side(rows, side, self.sides[0]) for side in self.sides)
        both = {name: _interleaved(first[name], second[name]) for name in first}
        return self._inputs(both, part, np.repeat(np.asarray(indices), 2))

    def fold(self, outputs: Mapping[str, Array]) -> dict[str, Array]:
        """Return outputs with one row a sample: those of pairs, two rows a sample, become (N, 2, ...)."""
        if not self.sides:
            return dict(outputs)
        return {name: array.reshape(-1, 2, *array.shape[1:]) for name, array in outputs.items()}

    def fitted(self, takes: Sequence[TensorSpec]) -> Splits:
        """Return the splits with the inputs that a model takes, where they can be chosen.

        Raises:
            DataError: A table has not as many columns as the model takes.
        """
        try:
            return replace(self, preprocess=self.preprocess.fitted(takes))
        except ValueError as error:
            raise DataError(str(error)) from error

    def fingerprint(self) -> str:
        """Return a hash of all samples, the preprocessing and the names of the classes."""
        digest = hashlib.sha256(repr((self.preprocess, self.classes)).encode())
        for part, samples in sorted(self.parts.items()):
            digest.update(f"{part}{samples.fingerprint()}".encode())
        return digest.hexdigest()[:24]


def split(data: Data, seed: int = 0) -> Splits:
    """Split a user's data by what each sample may decide.

    Without ``select``, a stratified fifth of ``test`` (100 to 2,000 samples, at most half) is carved out of it,
    by hashed number, so that the same samples are taken whatever else changes. Without ``train`` and
    ``calibrate``, samples to calibrate on are carved out likewise.

    Raises:
        DataError: There is no test part, or a part is empty.
    """
    if data.test is None:
        raise DataError("the data has no test part; a verdict needs samples that decided nothing else")
    given = {part: samples_of(value) for part in Part if (value := getattr(data, part.value)) is not None}
    for part, samples in given.items():
        if len(samples) == 0:
            raise DataError(f"the {part} part is empty; give it samples, or leave it out")
        if part in (Part.TEST, Part.SELECT):
            _check_labels(part, samples)
    notes = list(data.notes)
    if Part.SELECT not in given:
        given[Part.SELECT], given[Part.TEST] = _carve(given[Part.TEST], "select", seed, notes)
    if Part.CALIBRATE not in given:
        if Part.TRAIN in given:
            given[Part.CALIBRATE] = _spread(given[Part.TRAIN], _CALIBRATE_MOST, seed)
        else:
            given[Part.CALIBRATE], given[Part.TEST] = _carve(given[Part.TEST], "calibrate", seed + 1, notes)
    splits = Splits(
        given, data.preprocess or Preprocess(), data.postprocess or Postprocess(), data.task, tuple(data.classes),
        tuple(notes), _sides(given[Part.TEST]) if is_similarity(data.task) else (),
    )  # fmt: skip
    return replace(splits, notes=(*notes, *_cut_texts(splits)))


def _check_labels(part: Part, samples: Samples) -> None:
    """Refuse labels that are not one a sample, or of which one is not finite: the sample is named."""
    labels = samples.labels()
    if labels is None:
        return
    if not isinstance(labels, np.ndarray) or len(labels) != len(samples):
        count = f"{len(labels):,} labels" if isinstance(labels, np.ndarray) else f"a {type(labels).__name__}"
        raise DataError(
            f"the {part} part has {len(samples):,} samples and {count}; give an array, one row a sample"
        )
    if labels.dtype.kind == "f" and not (finite := np.isfinite(labels)).all():
        at = int(np.argwhere(~finite)[0][0])
        value, many = labels.reshape(len(labels), -1)[at], int((~finite).sum())
        others = f", and {many - 1:,} other values are not finite either" if many > 1 else ""
        first = float(value[~np.isfinite(value)][0])
        raise DataError(f"the label of sample {at} of {part} is {first}{others}; clean the labels")


def with_preprocess(splits: Splits, preprocess: Preprocess) -> Splits:
    """Return the splits with another preprocessing."""
    return replace(splits, preprocess=preprocess)


def is_similarity(task: Any) -> bool:
    """Tell whether samples are pairs, and the model runs on each side."""
    return isinstance(task, str) and task.partition(":")[0] == "similarity"


def _sides(samples: Samples) -> tuple[str, str]:
    """Return what the two sides of each pair are called: names of inputs, or what comes before a dot in them."""
    names = list(dict.fromkeys(name.partition(".")[0] for name in samples.rows([0])))
    if len(names) != 2:
        raise DataError(
            f"similarity is of two sides, the data has {', '.join(names)}; give two columns and their score, "
            f"two named inputs, or inputs called a.ids, a.mask, b.ids, b.mask"
        )
    return names[0], names[1]


def _side(rows: Rows, side: str, name: str) -> Rows:
    """Return one side of pairs; what is no more than the side is called ``name``."""
    return {key.partition(".")[2] or name: values for key, values in rows.items() if key.partition(".")[0] == side}


def _interleaved(first: Any, second: Any) -> Any:
    """Return a, b, a, b, ... of two arrays or lists."""
    if isinstance(first, np.ndarray) and isinstance(second, np.ndarray) and first.shape == second.shape:
        return np.stack([first, second], axis=1).reshape(-1, *first.shape[1:])
    return [value for pair in zip(first, second, strict=True) for value in pair]


def _cut_texts(splits: Splits) -> list[str]:
    """Say what share of the texts is longer than the tokenizer's greatest length."""
    tokens = splits.preprocess.tokens
    if tokens is None:
        return []
    numbers = np.unique(np.linspace(0, splits.size(Part.TEST) - 1, _LOOKED_AT).astype(int))
    try:
        cut = tokens.cut(splits.rows(Part.TEST, numbers))
    except ValueError as error:
        raise DataError(str(error)) from error
    except ModuleNotFoundError as error:
        raise MissingDependency.of(*_LIBRARIES["tokenizers"]) from error
    if not cut:
        return []
    share = f"{cut / len(numbers):.1%} of {len(numbers)} test texts"
    return [f"{share} are longer than {tokens.max_length} tokens and are cut."]


def _carve(samples: Samples, name: str, seed: int, notes: list[str]) -> tuple[Subset, Subset]:
    """Part samples in two, stratified by label and by hashed number."""
    total = len(samples)
    if total < 2:
        raise DataError(f"{total} test sample cannot be parted to make {name!r}; give more samples")
    wanted = int(min(max(total * _SELECT_SHARE, _SELECT_LEAST), _SELECT_MOST, total // 2))
    taken = stratified(total, samples.labels(), wanted, seed)
    rest = np.setdiff1d(np.arange(total), taken)
    notes.append(
        f"No {name} part was given: {len(taken)} of {total} test samples were set apart for it, "
        f"{len(rest)} are left for the verdict."
    )
    return Subset(samples, taken), Subset(samples, rest)


def stratified(total: int, labels: Array | None, wanted: int, seed: int) -> Array:
    """Return about ``wanted`` of ``total`` numbers, sorted, the same share of each class.

    Which numbers are taken follows from a hash of each, not from the order of drawing. Labels that are no class
    numbers are not looked at.
    """
    order = np.array([_hash(index, seed) for index in range(total)], dtype=np.uint64)
    classes = [np.arange(total)]
    strata = _strata(labels)
    if strata is not None:
        values = np.unique(strata)
        if len(values) <= wanted:
            classes = [np.flatnonzero(strata == value) for value in values]
    taken: list[int] = []
    for members, share in zip(classes, _shares(classes, wanted), strict=True):
        taken.extend(members[np.argsort(order[members], kind="stable")[:share]])
    return np.sort(np.array(taken, dtype=np.int64))


def _strata(labels: Array | None) -> Array | None:
    """Return a class number a sample, of whole numbers (N,) or (N, 1) or one-hot rows; None of others."""
    if labels is not None and labels.ndim == 2 and labels.shape[1] == 1:
        labels = labels[:, 0]
    elif labels is not None and labels.ndim == 2 and (np.count_nonzero(labels, axis=1) == 1).all():
        labels = labels.argmax(axis=1)
    return labels if labels is not None and labels.ndim == 1 and labels.dtype.kind in "biu" else None


def _shares(classes: list[Array], wanted: int) -> Array:
    """Part ``wanted`` among classes by their sizes: one at least of each, and one at least is left."""
    sizes = np.array([len(members) for members in classes])
    exact = wanted * sizes / sizes.sum()
    shares = np.floor(exact).astype(np.int64)
    nearest = np.argsort(shares - exact, kind="stable")  # the greatest remainders get what is over
    shares[nearest[: wanted - shares.sum()]] += 1
    return np.asarray(np.minimum(np.maximum(shares, 1), sizes - 1))


def _spread(samples: Samples, most: int, seed: int) -> Samples:
    """Return at most so many samples, drawn by hashed number and left in that order."""
    total = len(samples)
    order = np.argsort([_hash(index, seed) for index in range(total)], kind="stable")
    return Subset(samples, order[:most])


def _hash(index: int, seed: int) -> int:
    return int.from_bytes(hashlib.blake2b(f"{seed}:{index}".encode(), digest_size=8).digest(), "big")
