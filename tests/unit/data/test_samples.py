"""Samples: every accepted form of a part, read by number, hashed."""

import os
import random
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from whet.data.samples import ArraySamples, DatasetSamples, FileSamples, Subset, samples_of
from whet.errors import DataError, MissingDependency

X = np.arange(24, dtype=np.float32).reshape(6, 4)
Y = np.array([0, 1, 2, 0, 1, 2])


class Items:
    """Anything with a length and items by number, as a torch Dataset has."""

    def __init__(self, items, targets=None):
        self.items = items
        if targets is not None:
            self.targets = targets

    def __len__(self):
        return len(self.items)

    def __getitem__(self, index):
        return self.items[index]


class Columns:
    """A table that gives itself as an array, as a DataFrame does."""

    def __array__(self, dtype=None, copy=None):
        return X


PAIRS = [(row, label) for row, label in zip(X, Y, strict=True)]


@pytest.mark.parametrize(
    ("part", "name", "labelled"),
    [
        ((X, Y), "input", True),
        ([X, Y], "input", True),
        ((X, list(Y)), "input", True),
        ((X.tolist(), Y.tolist()), "input", True),
        ((X, None), "input", False),
        (X, "input", False),
        (Columns(), "input", False),
        (({"row": X}, Y), "row", True),
        ({"row": X}, "row", False),
        (ArraySamples({"row": X}, Y), "row", True),
        (Items(PAIRS), "input", True),
        (Items([list(pair) for pair in PAIRS]), "input", True),
        (Items([({"row": row}, label) for row, label in PAIRS]), "row", True),
        (Items([{"row": row} for row in X]), "row", False),
        (Items([(row,) for row in X]), "input", False),
        (Items([(row, None) for row in X]), "input", False),
        (Items(list(X)), "input", False),
        (Items(list(X), targets=list(Y)), "input", True),
        (PAIRS, "input", True),
        (Subset(ArraySamples({"row": X}, Y), np.arange(6)), "row", True),
    ],
)
def test_every_form_of_a_part_gives_rows_and_labels(part, name, labelled):
    samples = samples_of(part)
    assert len(samples) == 6
    (found,) = samples.rows([4, 1]).items()
    assert found[0] == name
    np.testing.assert_array_equal(found[1], X[[4, 1]])
    if labelled:
        np.testing.assert_array_equal(samples.labels(), Y)
    else:
        assert samples.labels() is None


def test_several_inputs_keep_their_names():
    rows = samples_of(({"ids": X, "mask": X > 3}, Y)).rows(range(2, 4))
    assert {name: array.dtype.name for name, array in rows.items()} == {"ids": "float32", "mask": "bool"}
    np.testing.assert_array_equal(rows["mask"], (X > 3)[2:4])


@pytest.mark.parametrize(
    ("part", "told"),
    [
        ((X, Y[:5]), "differ in length: input 6, labels 5; every array needs one row a sample"),
        ({"a": X, "b": X[:2]}, "differ in length: a 6, b 2"),
        ({}, "no inputs; give an array"),
        (3, "a part of the data is .* this is a int; inputs are"),
        ("test.npz", "this is a str"),
        (Path("test.npz"), "this is a PosixPath"),
        ((None, Y), "this is a NoneType"),
        (np.float32(3), "a single value; give an array with one row a sample"),
        ((X, 3), "a single value"),
        (np.array([X, "text"], dtype=object), "objects of differing sizes, not numbers; pad them"),
        (([[1, 2], [3]], [0, 1]), "objects of differing sizes"),
        ({"ids": [[1, 2], [3]]}, "objects of differing sizes"),
        ((X, [0, 1, [2], 0, 1, 2]), "objects of differing sizes"),
        (iter(PAIRS), "no length or no items by number; splits need a map-style Dataset"),
        ((Items(list(X)), Y), "a Items gives its own labels with its items; give it alone"),
        ((Items(PAIRS), Items(PAIRS)), "gives its own labels"),
    ],
)
def test_other_forms_are_refused_with_a_cure(part, told):
    with pytest.raises(DataError, match=told):
        samples_of(part)


@pytest.mark.parametrize(
    ("item", "told"),
    [
        ((X[0], X[1], 1), r"item of a Dataset is x, \(x, y\) or {name: x}, this one has 3 elements; name several"),
        ((), "this one has 0 elements"),
    ],
)
def test_items_of_another_form_are_refused(item, told):
    with pytest.raises(DataError, match=told):
        samples_of(Items([item])).rows([0])


def test_a_dataset_that_raises_is_named_with_the_item():
    class Broken(Items):
        def __getitem__(self, index):
            raise OSError("disk on fire")

    with pytest.raises(DataError, match="item 2 of the Broken raised OSError: disk on fire"):
        samples_of(Broken(PAIRS)).rows([2])


def test_targets_are_trusted_only_where_items_give_the_same():
    data = Items(PAIRS, targets=[9, 9, 9, 9, 9, 9])
    assert DatasetSamples(data).labels().tolist() == [9] * 6
    data.target_transform = abs
    assert DatasetSamples(data).labels().tolist() == Y.tolist()
    assert DatasetSamples(Items(PAIRS, targets=[9])).labels().tolist() == Y.tolist()


def test_labels_are_collected_once():
    class Counting(Items):
        read = 0

        def __getitem__(self, index):
            self.read += 1
            return self.items[index]

    data = Counting(PAIRS)
    samples = samples_of(data)
    assert samples.labels() is samples.labels()
    assert data.read == 6


def test_items_of_differing_sizes_come_as_a_list():
    rows = samples_of(Items([X, X[:2]])).rows([0, 1])["input"]
    assert [row.shape for row in rows] == [(6, 4), (2, 4)]


def test_consecutive_rows_of_an_array_are_a_view():
    samples = ArraySamples({"input": X})
    assert np.shares_memory(samples.rows(range(1, 4))["input"], X)
    assert not np.shares_memory(samples.rows([1, 3])["input"], X)
    np.testing.assert_array_equal(samples.rows(np.array([3, 2]))["input"], X[[3, 2]])


def test_a_memory_map_stays_one(tmp_path):
    np.save(tmp_path / "x.npy", X)
    mapped = np.load(tmp_path / "x.npy", mmap_mode="r")
    samples = samples_of(({"x": mapped}, None))
    assert samples.inputs["x"] is mapped
    assert np.shares_memory(samples.rows(range(3))["x"], mapped)


def test_a_subset_of_a_subset_counts_in_its_own_numbers():
    outer = Subset(ArraySamples({"input": X}, Y), np.array([5, 3, 1]))
    inner = Subset(outer, np.array([2, 0]))
    np.testing.assert_array_equal(inner.rows([0, 1])["input"], X[[1, 5]])
    assert inner.labels().tolist() == [1, 2]
    assert Subset(ArraySamples({"input": X}), np.array([1])).labels() is None


@pytest.fixture
def pictures(tmp_path):
    paths = []
    for at in range(3):
        path = tmp_path / f"{at}.png"
        Image.fromarray(np.full((4, 5, 3), 10 * at, np.uint8)).save(path)
        paths.append(path)
    return FileSamples(tuple(paths), np.array([0, 1, 0]))


def test_pictures_are_read_by_number_and_stacked(pictures):
    rows = pictures.rows([2, 1])["input"]
    assert rows.shape == (2, 4, 5, 3)
    assert rows[:, 0, 0, 0].tolist() == [20, 10]
    assert pictures.labels().tolist() == [0, 1, 0]


def test_pictures_of_differing_sizes_come_as_a_list(pictures):
    Image.fromarray(np.zeros((2, 2), np.uint8)).save(pictures.paths[1])
    assert [row.shape for row in pictures.rows([0, 1])["input"]] == [(4, 5, 3), (2, 2)]


@pytest.mark.parametrize("content", [b"no picture", b"", None])
def test_a_picture_that_cannot_be_read_is_named(pictures, content):
    path = pictures.paths[1]
    path.unlink()
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(DataError, match=rf"{path.name} cannot be read as a picture \(.*; mend or remove it"):
        pictures.rows([0, 1])


def test_a_truncated_picture_is_named(pictures):
    path = pictures.paths[0]
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (64, 64, 3), np.uint8)).save(path)
    path.write_bytes(path.read_bytes()[:2000])
    with pytest.raises(DataError, match=r"0\.png cannot be read as a picture"):
        pictures.rows([0])


def test_pictures_without_pillow_name_the_extra(pictures, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "PIL", None)
    with pytest.raises(MissingDependency, match=r"needs Pillow, .* pip install 'whet\[report\]'"):
        pictures.rows([0])


def changed(array, index, value):
    array = array.copy()
    array[index] = value
    return array


@pytest.mark.parametrize(
    "other",
    [
        (changed(X, (5, 3), -1), Y),
        (X, changed(Y, 5, 0)),
        (X, None),
        (X[:5], Y[:5]),
        (X.astype(np.float64), Y),
        ({"row": X}, Y),
        (X.reshape(6, 2, 2), Y),
        ({"input": X, "labels": X}, Y),
    ],
)
def test_a_fingerprint_changes_when_arrays_do(other):
    assert samples_of(other).fingerprint() != samples_of((X, Y)).fingerprint()


def test_a_fingerprint_changes_only_then(tmp_path):
    np.save(tmp_path / "x.npy", X)
    mapped = np.load(tmp_path / "x.npy", mmap_mode="r")
    wide = np.zeros((6, 8), np.float32)
    wide[:, ::2] = X
    known = samples_of((X, Y)).fingerprint()
    for same in (X.copy(), np.asfortranarray(X), wide[:, ::2], mapped):
        assert samples_of((same, Y.copy())).fingerprint() == known
    two = samples_of({"a": X, "b": X}).fingerprint()
    assert samples_of({"b": X, "a": X}).fingerprint() == two


def test_an_input_called_labels_is_no_label():
    first = ArraySamples({"input": X, "labels": X}, Y).fingerprint()
    assert ArraySamples({"input": X, "labels": X + 1}, Y).fingerprint() != first


def test_a_long_array_is_hashed_to_its_end():
    long = np.zeros((10_000, 1), np.uint8)
    assert samples_of(long).fingerprint() != samples_of(changed(long, 9_999, 1)).fingerprint()


def test_the_fingerprint_of_a_subset_depends_on_its_numbers_and_its_base():
    base = ArraySamples({"input": X}, Y)
    known = Subset(base, np.array([0, 2])).fingerprint()
    assert Subset(base, np.array([0, 2], np.int32)).fingerprint() == known
    assert Subset(base, np.array([0, 3])).fingerprint() != known
    assert Subset(ArraySamples({"input": X + 1}, Y), np.array([0, 2])).fingerprint() != known


def test_the_fingerprint_of_pictures_follows_their_files(pictures):
    known = pictures.fingerprint()
    assert FileSamples(pictures.paths, np.array([0, 1, 0])).fingerprint() == known
    assert FileSamples(pictures.paths, np.array([0, 1, 1])).fingerprint() != known
    status = pictures.paths[0].stat()
    os.utime(pictures.paths[0], ns=(status.st_atime_ns, status.st_mtime_ns + 1_000_000))
    assert pictures.fingerprint() != known


def test_the_fingerprint_of_a_dataset_follows_its_items():
    known = DatasetSamples(Items(PAIRS)).fingerprint()
    assert DatasetSamples(Items(list(PAIRS))).fingerprint() == known
    assert DatasetSamples(Items([*PAIRS[:5], (X[5], 7)])).fingerprint() != known
    assert DatasetSamples(Items([*PAIRS[:5], (X[4], 2)])).fingerprint() != known
    assert DatasetSamples(Items(PAIRS[:5])).fingerprint() != known


def test_random_augmentation_changes_no_fingerprint_and_the_fingerprint_no_dice():
    class Augmented(Items):
        def __getitem__(self, index):
            return self.items[index] + random.random() + np.random.random(), 0  # noqa: NPY002

    samples = DatasetSamples(Augmented(list(X)))
    random.seed(1)
    np.random.seed(1)  # noqa: NPY002
    expected = random.random(), np.random.random()  # noqa: NPY002
    random.seed(1)
    np.random.seed(1)  # noqa: NPY002
    first = samples.fingerprint()
    assert (random.random(), np.random.random()) == expected  # noqa: NPY002
    assert samples.fingerprint() == first
    assert DatasetSamples(Augmented(list(X + 1))).fingerprint() != first
