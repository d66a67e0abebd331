"""Small data sets that come with scikit-learn, for trying things out offline."""

from __future__ import annotations

from typing import Any

import numpy as np

from whet.data.data import Data, stratified
from whet.errors import MissingDependency

NAMES = ("digits",)


def load(name: str) -> Data:
    """Return a built-in data set.

    ``digits``: 1,797 handwritten digits (UCI), (N, 1, 8, 8) float32 in 0..1; 897 to train, 900 to test.
    """
    try:
        from sklearn.datasets import load_digits
    except ModuleNotFoundError as error:
        raise MissingDependency.of("scikit-learn", "report") from error
    bunch: Any = load_digits()
    images = (bunch.images[:, None] / 16).astype(np.float32)  # (1797, 1, 8, 8)
    labels = bunch.target.astype(np.int64)
    test = stratified(len(labels), labels, 900, seed=0)
    train = np.setdiff1d(np.arange(len(labels)), test)
    return Data(
        train=(images[train], labels[train]),
        test=(images[test], labels[test]),
        classes=tuple(str(digit) for digit in range(10)),
        task="classification",
    )
