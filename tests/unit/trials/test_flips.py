"""Samples that flipped: which, in what order, and what is written of them."""

import json

import numpy as np
import pytest
from PIL import Image

from whet.data.data import Data, split
from whet.data.goal import METRICS
from whet.data.tasks import Classification, Custom, Fidelity, Regression
from whet.trials import flips

NAMES = ("cat", "dog", "emu")


def metric_of(task, name):
    return next(metric for metric in METRICS[task] if metric.name == name)


def splits_of(x, y=None):
    return split(Data(test=(x, y), select=(x, y), calibrate=(x, None)))


def shares(*rows):
    return np.array(rows, dtype=float)


BEFORE = shares((0.9, 0.1, 0.0), (0.2, 0.7, 0.1), (0.1, 0.5, 0.4), (0.6, 0.3, 0.1), (0.4, 0.3, 0.3))
AFTER = shares((0.1, 0.9, 0.0), (0.3, 0.6, 0.1), (0.1, 0.3, 0.6), (0.3, 0.6, 0.1), (0.3, 0.3, 0.4))
TRUTH = np.array([0, 1, 2, 1, 1])


def test_decisions_that_differ_are_kept_by_their_loss_of_confidence(tmp_path):
    told = flips.tell(Classification(3, logits=False), BEFORE, AFTER, TRUTH, NAMES)
    x = np.arange(10, dtype=np.float32).reshape(5, 2)
    found = flips.save(tmp_path / "flips", splits_of(x, TRUTH), told, NAMES)
    assert [item.number for item in found.kept] == [0, 3, 2, 4]
    assert [item.loss for item in found.kept] == pytest.approx([0.8, 0.3, 0.2, 0.1])
    assert [item.outcome for item in found.kept] == ["lost", "won", "won", "neither"]
    assert (found.kind, found.samples, found.differing) == ("decisions", 5, 4)
    assert (found.lost, found.won, found.neither) == (1, 2, 1)
    first = found.kept[0]
    assert (first.label, first.before.choice, first.after.choice) == ("cat", "cat", "dog")
    assert (first.before.probability, first.after.probability) == pytest.approx((0.9, 0.9))
    assert (first.row, first.picture) == ("0, 1", "")


@pytest.mark.parametrize("metric", ["accuracy", "balanced_accuracy", "g_mean"])
def test_whatever_the_metric_of_a_classifier_its_samples_are_lost_or_won(tmp_path, metric):
    task = Classification(3, logits=False, metric=metric_of("classification", metric))
    told = flips.tell(task, BEFORE, AFTER, TRUTH, NAMES)
    found = flips.save(tmp_path / "flips", splits_of(np.zeros((5, 2), np.float32), TRUTH), told, NAMES)
    assert (found.lost, found.won, found.neither) == (1, 2, 1)
    assert [item.label for item in found.kept] == ["cat", "dog", "emu", "dog"]


def test_what_is_written_is_the_raw_input_and_all_that_is_known_of_it(tmp_path):
    told = flips.tell(Classification(3, logits=False), BEFORE, AFTER, TRUTH, NAMES)
    pictures = np.random.default_rng(0).integers(0, 256, (5, 8, 9, 3)).astype(np.uint8)
    found = flips.save(tmp_path / "flips", splits_of(pictures, TRUTH), told, NAMES)
    for item in found.kept:
        assert np.array_equal(np.load(tmp_path / "flips" / item.inputs["input"]), pictures[item.number])
        assert np.array_equal(np.asarray(Image.open(tmp_path / "flips" / item.picture)), pictures[item.number])
    saved = json.loads((tmp_path / "flips/flips.json").read_text())
    assert saved["kept"][0]["before"] == {"choice": "cat", "probability": 0.9, "error": None, "values": []}
    assert {path.name for path in (tmp_path / "flips").iterdir()} == {
        "flips.json", *(item.picture for item in found.kept), *(item.inputs["input"] for item in found.kept),
    }  # fmt: skip


def test_only_the_greatest_losses_are_kept_but_all_are_counted(tmp_path):
    count = flips.MOST + 20
    before, after = np.tile([1.0, 0.0], (count, 1)), np.tile([0.0, 1.0], (count, 1))
    before[7] = (0.6, 0.4)
    told = flips.tell(Fidelity(2, logits=False), before, after, before, ())
    found = flips.save(tmp_path / "flips", splits_of(np.zeros((count, 3), np.float32)), told, ())
    assert (found.differing, len(found.kept)) == (count, flips.MOST)
    assert 7 not in {item.number for item in found.kept}
    assert (found.lost, found.won, found.neither) == (None, None, None)
    assert (found.kept[0].label, found.kept[0].outcome, found.kept[0].before.choice) == ("", "", "0")


def test_of_a_regressor_the_samples_are_kept_whose_error_grew_most(tmp_path):
    rng = np.random.default_rng(0)
    truth = rng.standard_normal((6, 2))
    before = truth + 0.1
    after = before.copy()
    after[4] += 3.0
    after[2] += 1.0
    after[1] = truth[1]  # better
    told = flips.tell(Regression(), before, after, truth, ())
    found = flips.save(tmp_path / "flips", splits_of(rng.standard_normal((6, 30)), truth), told, ())
    assert [item.number for item in found.kept] == [4, 2]
    assert [item.loss for item in found.kept] == pytest.approx([3.0, 1.0])
    assert (found.kind, found.differing, found.lost) == ("errors", 2, None)
    first = found.kept[0]
    assert (first.before.error, first.after.error) == pytest.approx((0.1, 3.1))
    assert first.after.values == pytest.approx(tuple(after[4]))
    assert first.label == f"{truth[4, 0]:.4g}, {truth[4, 1]:.4g}"
    assert first.row.endswith(", and 18 more")


def test_with_a_metric_of_the_users_own_it_is_the_distance_from_the_original_that_counts():
    before, after = np.zeros((3, 4)), np.zeros((3, 4))
    after[1] = 2.0
    told = flips.tell(Custom(lambda outputs, labels: 0.5), before, after, np.ones(3), ())
    assert told.differ.tolist() == [False, True, False]
    assert told.loss.tolist() == [0.0, 2.0, 0.0]


def test_several_inputs_are_files_of_their_own_and_words(tmp_path):
    told = flips.tell(Fidelity(2, logits=False), shares((1, 0), (1, 0)), shares((0, 1), (1, 0)), BEFORE, ())
    inputs = {"ids/a": np.arange(4).reshape(2, 2), "mask": np.ones((2, 2), np.float32)}
    found = flips.save(tmp_path / "flips", splits_of(inputs), told, ())
    (item,) = found.kept
    assert item.inputs == {"ids/a": "01-sample-0-ids_a.npy", "mask": "01-sample-0-mask.npy"}
    assert item.row == "ids/a 0, 1; mask 1, 1"
    assert np.load(tmp_path / "flips/01-sample-0-ids_a.npy").tolist() == [0, 1]


@pytest.mark.parametrize(
    ("array", "shape"),
    [
        (np.zeros((8, 8), np.uint8), (8, 8)),
        (np.zeros((8, 9, 1), np.uint8), (8, 9)),
        (np.zeros((3, 8, 9), np.float32), (8, 9, 3)),
        (np.zeros((1, 8, 9), np.float32), (8, 9)),
        (np.zeros((8, 9, 3), np.float32), (8, 9, 3)),
        (np.zeros((28, 28), np.float32), None),  # a series
        (np.zeros((16, 8, 8), np.float32), None),
        (np.zeros((1, 2, 2), np.float32), None),
        (np.zeros(5, np.float32), None),
        (np.zeros((8, 9, 3), np.int64), None),
    ],
)
def test_what_is_a_picture(array, shape):
    found = flips.as_picture(array)
    assert found is None if shape is None else (found.shape, found.dtype) == (shape, np.uint8)


def test_normalised_pictures_are_stretched_to_bytes():
    picture = np.linspace(-2, 3, 64, dtype=np.float32).reshape(1, 8, 8)
    found = flips.as_picture(picture)
    assert (found.min(), found.max()) == (0, 255)
    assert found == pytest.approx((picture[0] + 2) / 5 * 255, abs=0.51)
