"""What is trained on: the part, what is held out, the order, what stays in memory, augmentation."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from whet.data.data import Data, Part, Splits, split
from whet.data.samples import ArraySamples
from whet.errors import DataError
from whet.machine import this_machine
from whet.passes.base import PassContext
from whet.train.samples import TrainingSet, augmented
from whet.train.spec import Recovery


class Counted(ArraySamples):
    """Samples that count how often they are read."""

    read = 0

    def rows(self, indices):
        Counted.read += len(indices)
        return super().rows(indices)


def context(samples, part=Part.TRAIN, **more):
    return PassContext(Path("nowhere"), data=Splits({part: samples}), **more)


def pictures(count, labels=None):
    return ArraySamples({"x": np.arange(count * 3, dtype=np.float32).reshape(count, 3)}, labels)


def test_a_tenth_is_held_out_of_each_class_and_is_never_learned():
    labels = np.repeat(np.arange(4), 100)
    found = TrainingSet(context(pictures(400, labels), seed=3))
    assert np.bincount(labels[found.held]).tolist() == [10, 10, 10, 10]
    assert sorted([*found.fit, *found.held]) == list(range(400))
    assert not set(found.order(0, 3)) & set(found.held)


def test_at_most_two_thousand_are_held_out():
    assert len(TrainingSet(context(pictures(30_000))).held) == 2000


def test_few_samples_are_all_learned_and_it_is_told():
    found = TrainingSet(context(pictures(12)))
    assert len(found.fit) == len(found.held) == 12
    assert "too few" in found.notes["held_out"]
    with pytest.raises(DataError, match="has 1 to train on; give a train part"):
        TrainingSet(context(pictures(1)))


def test_a_class_of_one_sample_does_not_stand_in_the_way():
    labels = np.array([0] * 50 + [1])
    found = TrainingSet(context(pictures(51, labels)))
    assert len(found.held) == 5


def test_without_a_train_part_what_calibrates_is_learned_and_it_is_told():
    found = TrainingSet(context(pictures(50), Part.CALIBRATE))
    assert found.notes["part"] == "calibrate"
    with pytest.raises(DataError, match="has 0 to train on"):
        TrainingSet(context(pictures(50), Part.TEST))


def test_an_epoch_is_every_sample_once_in_an_order_of_its_own():
    found = TrainingSet(context(pictures(100), seed=1))
    orders = [found.order(epoch, seed) for epoch, seed in ((0, 1), (1, 1), (0, 2), (0, 1))]
    assert all(sorted(order) == sorted(found.fit) for order in orders)
    assert not any(np.array_equal(orders[0], other) for other in orders[1:3])
    np.testing.assert_array_equal(orders[0], orders[3])


def test_samples_are_decoded_once_where_they_fit_and_every_time_where_not():
    for memory, again in ((2**33, 0), (1000, 7)):
        Counted.read = 0
        machine = replace(this_machine(), memory_bytes=memory)
        found = TrainingSet(context(Counted({"x": np.zeros((300, 5), np.float32)}), machine=machine))
        read = Counted.read
        assert read >= (300 if not again else 256)
        np.testing.assert_array_equal(found.batch(np.arange(7))["x"], np.zeros((7, 5)))
        assert Counted.read - read == again
        assert ("memory" in found.notes) == bool(again)


def test_a_pair_has_two_rows_side_by_side():
    a, b = np.arange(40.0, dtype=np.float32).reshape(40, 1), -np.arange(40.0, dtype=np.float32).reshape(40, 1)
    part = ({"a": a, "b": b}, np.arange(40.0))
    data = split(Data(train=part, test=part, task="similarity"))
    found = TrainingSet(PassContext(Path("nowhere"), data=data))
    assert found.sides == 2
    np.testing.assert_array_equal(next(iter(found.batch(np.array([3, 8])).values()))[:, 0], [3, -3, 8, -8])


def test_mirrored_and_shifted_pictures_are_what_numpy_makes_of_them():
    x = np.random.default_rng(0).standard_normal((64, 2, 8, 16)).astype(np.float32)
    flipped = augmented({"x": x}, Recovery(augment=("flip",)), 0, 0)["x"]
    mirrored = [bool(np.array_equal(one, was[:, :, ::-1])) for one, was in zip(flipped, x, strict=True)]
    same = [bool(np.array_equal(one, was)) for one, was in zip(flipped, x, strict=True)]
    assert all(a != b for a, b in zip(mirrored, same, strict=True))
    assert 16 < sum(mirrored) < 48
    moved = augmented({"x": x}, Recovery(augment=("crop",)), 0, 0)["x"]
    for one, was in zip(moved, x, strict=True):
        wide = np.pad(was, ((0, 0), (1, 1), (2, 2)), mode="edge")
        options = [wide[:, r : r + 8, c : c + 16] for r in range(3) for c in range(5)]
        assert any(np.array_equal(one, option) for option in options)
    again = augmented({"x": x}, Recovery(augment=("crop", "flip")), 0, 5)["x"]
    np.testing.assert_array_equal(again, augmented({"x": x}, Recovery(augment=("crop", "flip")), 0, 5)["x"])
    assert augmented({"x": x}, Recovery(), 0, 0)["x"] is x
    with pytest.raises(DataError, match=r"is for pictures \(N, C, H, W\), the input 'x' is \[4, 3\]"):
        augmented({"x": np.zeros((4, 3))}, Recovery(augment=("flip",)), 0, 0)
