"""Built-in data: the digits of scikit-learn."""

import numpy as np
import pytest
from sklearn.datasets import load_digits

from whet.data import builtin
from whet.errors import MissingDependency


def test_digits_are_scikit_learns_each_in_one_part():
    data = builtin.load("digits")
    assert (len(data.train[1]), len(data.test[1])) == (897, 900)
    assert (data.task, data.classes) == ("classification", tuple("0123456789"))
    images = np.concatenate([data.train[0], data.test[0]])
    labels = np.concatenate([data.train[1], data.test[1]])
    assert (images.shape, images.dtype, labels.dtype) == ((1797, 1, 8, 8), "float32", "int64")
    reference = load_digits()
    expected = sorted(
        zip((reference.data / 16).astype(np.float32).tolist(), reference.target.tolist(), strict=True)
    )
    assert sorted(zip(images.reshape(1797, 64).tolist(), labels.tolist(), strict=True)) == expected


def test_digits_are_stratified():
    counts = np.bincount(load_digits().target)
    assert np.abs(np.bincount(builtin.load("digits").test[1]) - counts * 900 / 1797).max() < 1


def test_without_scikit_learn_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "sklearn.datasets", None)
    with pytest.raises(MissingDependency, match=r"needs scikit-learn, .* pip install 'whet\[report\]'"):
        builtin.load("digits")
