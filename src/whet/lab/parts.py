"""The laboratory's data: pictures in one folder a class, parted alike for whoever trains and whoever measures."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from whet.data import folders
from whet.data.data import Data, Splits, split, stratified
from whet.data.folders import read_folder, without
from whet.data.samples import FileSamples, Samples, Subset, base_of, samples_of
from whet.data.sources import DataSource
from whet.errors import DataError

if TYPE_CHECKING:
    from whet.types import Array

_TEST_SHARE = 0.3  # of pictures that come in no parts
_SELECT_SHARE, _SELECT_MOST = 0.1, 1000  # of train; what each step costs is read on it, nothing is chosen
_FIXED = 0  # seed of the parts: whoever trains and whoever measures must draw the same


@dataclass(frozen=True)
class LabData(DataSource):
    """The folder of a laboratory, opened anew in every process.

    Attributes:
        fraction: Of the test part that is measured, the same share of each class.
        lost: Pictures that are left out since they cannot be read; found once for all processes.
    """

    fraction: float = 1.0
    lost: tuple[Path, ...] = ()

    def open(self) -> Splits:
        """Read the folder, part it, and take the fraction.

        Raises:
            DataError: It holds no labelled pictures of two classes or more.
        """
        data = parted(Path(self.name), self.lost)
        test, notes = samples_of(data.test), list(data.notes)
        if self.fraction < 1:
            wanted = max(round(self.fraction * len(test)), 1)
            taken = stratified(len(test), test.labels(), wanted, self.seed)
            notes.append(
                f"{len(taken)} of {len(test)} test pictures were taken (fraction {self.fraction:g}, seed "
                f"{self.seed}), the same share of each class."
            )
            test = Subset(test, taken)
        return split(replace(data, test=test, notes=tuple(notes), preprocess=self.preprocess), self.seed)


def parted(root: Path, lost: Sequence[Path] = ()) -> Data:
    """Return the train, select and test parts of a folder, as trained on and measured.

    Where there is no train part, 30 % of each class are the test part, by hashed number, whatever the seed. The
    select part, on which what each step cost is read, is taken from train: all of test is left for measuring.

    Args:
        root: The folder.
        lost: Pictures that are left out since they cannot be read.

    Raises:
        DataError: It is no folder, or holds no labelled pictures of two classes or more.
    """
    data = without(_read(root), lost)
    test, notes = samples_of(data.test), list(data.notes)
    labels = _labels(test, root)
    train = None if data.train is None else samples_of(data.train)
    if train is None:
        taken = stratified(len(test), labels, round(_TEST_SHARE * len(test)), _FIXED)
        rest = np.setdiff1d(np.arange(len(test)), taken)
        notes.append(f"No train part was given: {len(taken)} of {len(test)} pictures are the test part.")
        train, test = Subset(test, rest), Subset(test, taken)
    select = data.select
    if select is None:
        wanted = max(min(int(_SELECT_SHARE * len(train)), _SELECT_MOST), 1)
        taken = stratified(len(train), _labels(train, root), wanted, _FIXED + 1)
        select = Subset(train, taken)
        train = Subset(train, np.setdiff1d(np.arange(len(train)), taken))
        notes.append(f"{len(taken)} train pictures tell what each step cost; they are not trained on.")
    classes = data.classes or tuple(str(number) for number in range(int(labels.max()) + 1))
    return replace(
        data, train=train, select=select, test=test, classes=classes, notes=tuple(notes), task="classification"
    )


def unreadable(root: Path) -> tuple[Path, ...]:
    """Read every picture of a folder, and return those that cannot be read.

    Raises:
        DataError: It is no folder, or holds no pictures.
    """
    return folders.unreadable(_read(root))


def _read(root: Path) -> Data:
    if not root.is_dir():
        raise DataError(f"{root} is no folder; name one with a folder a class in it, or train/ and test/ of those")
    return read_folder(root)


def _labels(samples: Samples, root: Path) -> Array:
    """Return the class number of each sample.

    Raises:
        DataError: There are none, or of one class only.
    """
    labels = samples.labels()
    if labels is None or labels.ndim != 1 or labels.dtype.kind not in "iu":
        raise DataError(f"{root} holds no pictures with class numbers; give it one folder a class")
    if len(np.unique(labels)) < 2:
        raise DataError(f"{root} holds pictures of one class alone; a classifier tells two apart at least")
    return np.asarray(labels)


def in_files(samples: Samples) -> bool:
    """Tell whether samples are pictures in files, which may differ in size and colour."""
    return isinstance(base_of(samples), FileSamples)
