"""Splits: carved, counted, read a batch at a time, hashed."""

import weakref
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from whet.data.data import Data, Part, Splits, split, stratified, with_preprocess
from whet.data.preprocess import Preprocess
from whet.errors import DataError, MissingDependency


def numbered(count, classes=4, start=0):
    """Inputs (N, 1) that hold their own number, with labels."""
    numbers = np.arange(start, start + count)
    return numbers[:, None].astype(np.float32), numbers % classes


def numbers(splits, part):
    return np.concatenate([batch["input"][:, 0] for batch in splits.batches(part, 64)]).astype(int)


def test_parts_that_are_given_are_left_as_they_are():
    data = Data(
        numbered(30), numbered(20), numbered(10), numbered(5), "classification", classes=["a", "b", "c", "d"]
    )
    splits = split(data)
    assert {part.value: splits.size(part) for part in Part} == {
        "train": 30,
        "test": 20,
        "select": 10,
        "calibrate": 5,
    }
    assert (splits.notes, splits.task, splits.classes) == ((), "classification", ("a", "b", "c", "d"))
    np.testing.assert_array_equal(splits.labels(Part.TEST), np.arange(20) % 4)
    assert splits.preprocess.identity


@pytest.mark.parametrize(
    ("total", "expected"),
    [(2, 1), (50, 25), (200, 100), (400, 100), (600, 120), (1000, 200), (20_000, 2000)],
)
def test_select_is_a_fifth_of_test_within_bounds(total, expected):
    splits = split(Data(train=numbered(9), test=(np.zeros((total, 1)), None)))
    assert splits.size(Part.SELECT) == expected
    assert splits.size(Part.TEST) == total - expected
    assert splits.notes == (
        f"No select part was given: {expected} of {total} test samples were set apart for it, "
        f"{total - expected} are left for the verdict.",
    )


def test_carving_is_disjoint_and_exhaustive():
    splits = split(Data(test=numbered(600)))
    parts = [numbers(splits, part) for part in (Part.SELECT, Part.CALIBRATE, Part.TEST)]
    assert [len(part) for part in parts] == [120, 100, 380]
    assert sorted(np.concatenate(parts)) == list(range(600))
    assert splits.size(Part.TRAIN) == 0
    assert "120 of 600" in splits.notes[0]
    assert "calibrate" in splits.notes[1]
    assert "100 of 480" in splits.notes[1]


@pytest.mark.parametrize(
    "form", [lambda y: y, lambda y: y[:, None], lambda y: np.eye(3)[y], lambda y: np.eye(3, dtype=int)[y]]
)
def test_carving_keeps_the_share_of_each_class(form):
    labels = np.repeat([0, 1, 2], [500, 300, 200])
    splits = split(Data(train=numbered(5), test=(np.zeros((1000, 1)), form(labels))))
    for part, expected in ((Part.SELECT, [100, 60, 40]), (Part.TEST, [400, 240, 160])):
        found = splits.labels(part)
        classes = found.argmax(1) if found.ndim == 2 and found.shape[1] > 1 else found.ravel()
        assert np.bincount(classes).tolist() == expected


def test_carving_takes_the_same_samples_every_time_and_others_with_another_seed():
    data = Data(train=numbered(5), test=numbered(600))
    first = numbers(split(data, seed=0), Part.SELECT)
    np.testing.assert_array_equal(numbers(split(data, seed=0), Part.SELECT), first)
    assert set(numbers(split(data, seed=1), Part.SELECT)) != set(first)


def test_which_samples_are_taken_does_not_depend_on_what_they_hold():
    labels = np.arange(600) % 4
    first = stratified(600, labels, 120, seed=0)
    np.testing.assert_array_equal(stratified(600, labels + 7, 120, seed=0), first)
    fewer = set(stratified(600, labels, 60, seed=0))
    assert fewer < set(first)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(1, 12), min_size=1, max_size=40), st.floats(0.05, 0.5))
def test_strata_take_their_share_of_every_class_and_leave_some(sizes, share):
    labels = np.repeat(np.arange(len(sizes)), sizes)
    total = len(labels)
    wanted = max(1, int(share * total))
    taken = stratified(total, labels, wanted, seed=3)
    assert len(set(taken)) == len(taken)
    assert (np.diff(taken) > 0).all()
    if len(sizes) > wanted or len(sizes) == 1:
        assert len(taken) == min(wanted, total - 1)
        return
    counts = np.bincount(labels[taken], minlength=len(sizes))
    for size, count in zip(sizes, counts, strict=True):
        assert min(1, size - 1) <= count <= max(size - 1, 0)
        assert abs(count - wanted * size / total) < 1 or count == 1
    assert len(taken) <= total / 2 + 1


def test_more_classes_than_are_wanted_are_not_stratified():
    assert len(stratified(1000, np.arange(1000) // 2, 100, seed=0)) == 100


def test_calibration_samples_come_from_train_at_most_4096():
    splits = split(Data(train=numbered(5000), test=numbered(50)))
    drawn = numbers(splits, Part.CALIBRATE)
    assert len(set(drawn)) == 4096
    assert set(drawn) <= set(range(5000))
    assert np.bincount(drawn // 500).min() > 300, "they are spread over the whole"
    np.testing.assert_array_equal(
        numbers(split(Data(train=numbered(5000), test=numbered(50))), Part.CALIBRATE), drawn
    )
    assert all("calibrate" not in note for note in splits.notes)


@pytest.mark.parametrize(
    ("data", "told"),
    [
        (Data(train=numbered(5)), "no test part; a verdict needs samples that decided nothing else"),
        (Data(test=numbered(0)), "the test part is empty; give it samples, or leave it out"),
        (Data(test=numbered(9), train=numbered(0)), "the train part is empty"),
        (Data(test=numbered(9), select=numbered(0)), "the select part is empty"),
        (Data(test=numbered(1)), "1 test sample cannot be parted to make 'select'; give more samples"),
        (Data(test=numbered(1), select=numbered(9)), "cannot be parted to make 'calibrate'"),
    ],
)
def test_parts_that_are_missing_or_too_small_are_refused(data, told):
    with pytest.raises(DataError, match=told):
        split(data)


@pytest.mark.parametrize(("bad", "at"), [(np.nan, 0), (np.inf, 1), (-np.inf, 1)])
def test_a_value_that_is_not_finite_names_the_sample_as_it_was_given(bad, at):
    inputs, labels = np.zeros((600, 2), np.float32), np.arange(600) % 4
    inputs[417, at] = bad
    splits = split(Data(train=numbered(5), test=({"row": inputs}, labels)))
    part = Part.SELECT if 417 in splits.parts[Part.SELECT].indices else Part.TEST
    number = int(np.flatnonzero(splits.parts[part].indices == 417)[0])
    with pytest.raises(
        DataError,
        match=rf"sample {number} of {part} \(row 417 as it was given\) has a NaN .* in 'row'; clean the data",
    ):
        list(splits.batches(part, 50))


def test_a_part_as_given_needs_no_second_number():
    inputs = np.zeros((9, 2), np.float32)
    inputs[7] = np.nan
    with pytest.raises(DataError, match="sample 7 of test has a NaN or infinite value in 'input'"):
        list(split(Data(test=inputs, select=numbered(9), calibrate=numbered(9))).batches(Part.TEST, 4))


def test_whole_numbers_are_not_looked_at_for_nan():
    splits = split(Data(test=(np.arange(40).reshape(20, 2), None)))
    assert splits.batch(Part.TEST, [0])["input"].dtype == np.int64


class Counted:
    """Samples that know how many rows were asked for, and how many of their arrays are alive."""

    def __init__(self, count):
        self.count, self.asked, self.alive = count, [], weakref.WeakSet()

    def __len__(self):
        return self.count

    def rows(self, indices):
        self.asked.append(len(indices))
        array = np.zeros((len(indices), 3), np.float32).view(Tracked)
        self.alive.add(Alive(array))
        return {"input": array}

    def labels(self):
        return None

    def fingerprint(self):
        return "counted"


class Tracked(np.ndarray):
    """An array that can hold an attribute."""


class Alive:
    """A mark that lives as long as its array."""

    def __init__(self, array):
        array.mark = self


def test_only_one_batch_is_read_at_a_time():
    samples = Counted(1000)
    splits = Splits({Part.TEST: samples})
    batches = splits.batches(Part.TEST, 64)
    assert samples.asked == []
    sizes = []
    while batch := next(batches, None):
        sizes.append(len(batch["input"]))
        assert sum(samples.asked) == sum(sizes), "nothing is read ahead"
        assert len(samples.alive) == 1, "and nothing is kept"
        del batch
    assert sizes == [64] * 15 + [40]


@pytest.mark.parametrize(
    ("limit", "expected"), [(None, [4, 4, 2]), (0, []), (3, [3]), (4, [4]), (5, [4, 1]), (99, [4, 4, 2])]
)
def test_batches_stop_at_the_limit(limit, expected):
    samples = Counted(10)
    assert [len(b["input"]) for b in Splits({Part.TEST: samples}).batches(Part.TEST, 4, limit)] == expected
    assert samples.asked == expected


def test_a_part_that_is_missing_has_no_batches():
    assert list(Splits({}).batches(Part.TRAIN, 4)) == []


def test_samples_of_another_making_are_welcome_as_a_part():
    samples = Counted(10)
    splits = split(Data(test=samples, select=samples, calibrate=samples))
    assert splits.parts[Part.TEST] is samples


def test_each_batch_is_preprocessed():
    splits = split(Data(test=(np.full((20, 4, 4), 255, np.uint8), None)))
    splits = with_preprocess(splits, Preprocess(scale=1 / 255, mean=(0.5,), layout="CHW"))
    batch = splits.batch(Part.TEST, range(2))["input"]
    assert batch.shape == (2, 1, 4, 4)
    np.testing.assert_allclose(batch, 0.5)


def pictures(*shapes):
    return [np.zeros(shape, np.uint8) for shape in shapes]


@pytest.mark.parametrize(
    ("preprocess", "items", "told"),
    [
        (
            None,
            pictures((4, 4, 3), (5, 4, 3)),
            r"test: samples differ in size .*give --preprocess 'resize=...; crop",
        ),
        (None, pictures((4, 4, 3), (4, 4)), "differ in size .*give --preprocess 'color=RGB'"),
        (Preprocess(crop=6), pictures((4, 4, 3)), "test: a 4x4 picture cannot be cropped to 6x6; resize it first"),
        (Preprocess(mean=(0.1, 0.2, 0.3)), pictures((4, 4, 1)), "mean has 3 numbers, the samples have 1 channels"),
        (Preprocess(resize=6), pictures((3, 8, 8)), r"take pictures of bytes, \(H, W\) or .* is uint8 \(3, 8, 8\)"),
    ],
)
def test_what_cannot_be_preprocessed_is_said_with_a_cure(preprocess, items, told):
    part = items * 3
    splits = split(Data(test=part, select=part, calibrate=part, preprocess=preprocess))
    with pytest.raises(DataError, match=told):
        splits.batch(Part.TEST, range(len(items)))


def test_resizing_without_pillow_names_the_extra(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "PIL", None)
    splits = split(Data(test=np.zeros((9, 4, 4), np.uint8), preprocess=Preprocess(resize=8)))
    with pytest.raises(MissingDependency, match="needs Pillow"):
        splits.batch(Part.TEST, [0])


def test_the_fingerprint_changes_when_data_or_preprocessing_do_and_only_then():
    data = Data(train=numbered(30), test=numbered(50), classes=("a", "b", "c", "d"))
    known = split(data).fingerprint()
    assert split(replace(data, classes=["a", "b", "c", "d"], task="classification")).fingerprint() == known
    assert split(replace(data, preprocess=Preprocess())).fingerprint() == known
    inputs, labels = numbered(50)
    others = [
        replace(data, train=numbered(31)),
        replace(data, test=numbered(50, start=1)),
        replace(data, test=(inputs, labels[::-1])),
        replace(data, test=(inputs, None)),
        replace(data, select=numbered(10)),
        replace(data, classes=("a", "b", "c", "e")),
        replace(data, preprocess=Preprocess(scale=0.5)),
    ]
    assert known not in {split(other).fingerprint() for other in others}
    assert split(data, seed=1).fingerprint() != known
