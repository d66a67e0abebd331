"""Time series cut into samples."""

import numpy as np
import pytest

import whet
from whet.data.data import Part
from whet.data.windows import parse_windows
from whet.errors import DataError


@pytest.fixture
def csv(tmp_path):
    """Hours of two columns, with a date before them: 500 rows, column b is the number of the row."""
    rng = np.random.default_rng(0)
    path = tmp_path / "series.csv"
    lines = [f"2020-01-01 {at:04},{value:.9g},{at}" for at, value in enumerate(rng.normal(3, 2, 500))]
    path.write_text("date,a,b\n" + "\n".join(lines) + "\n")
    return path


def rows_of(splits, part):
    """Return the number of every row that any window of a part holds, by undoing the standard scale of column b."""
    batch = splits.batch(part, range(splits.size(part)))["input"]
    mean, std = splits.preprocess.mean[1], splits.preprocess.std[1]
    inputs = batch[..., 1] * std + mean
    labels = splits.labels(part)[..., -1] * splits.postprocess.std[-1] + splits.postprocess.mean[-1]
    return np.round(np.concatenate([inputs, labels], axis=1)).astype(int)


def test_windows_follow_each_other_and_no_part_sees_rows_of_another(csv):
    splits = whet.dataset(csv, windows=whet.Windows(10, 4), label="b")
    seen = {}
    for part, bounds in ((Part.TRAIN, (0, 300)), (Part.SELECT, (300, 400)), (Part.TEST, (400, 500))):
        rows = rows_of(splits, part)
        assert (np.diff(rows, axis=1) == 1).all(), "what is foretold comes right after what goes in"
        assert rows.min() == bounds[0]
        assert rows.max() < bounds[1]
        seen[part] = set(rows.ravel().tolist())
    assert not seen[Part.TRAIN] & seen[Part.SELECT]
    assert not seen[Part.SELECT] & seen[Part.TEST]
    assert splits.size(Part.TRAIN) == 300 - 14 + 1
    assert splits.size(Part.TEST) == (100 - 14) // 4 + 1
    labels = rows_of(splits, Part.TEST)[:, 10:].ravel()
    assert len(set(labels.tolist())) == len(labels), "no label of test is used twice"


def test_inputs_and_labels_are_standardised_by_train_and_answers_are_not(csv):
    splits = whet.dataset(csv, windows="10,4")
    raw = np.genfromtxt(csv, delimiter=",", skip_header=1, usecols=(1, 2))
    mean, std = raw[:300].mean(axis=0), raw[:300].std(axis=0)
    np.testing.assert_allclose(splits.preprocess.mean, mean)
    np.testing.assert_allclose(splits.preprocess.std, std)
    found = splits.batch(Part.TEST, [0])["input"][0]
    np.testing.assert_allclose(found, (raw[400:410] - mean) / std, rtol=1e-4, atol=1e-5)
    labels = splits.labels(Part.TEST)[:1]
    np.testing.assert_allclose(splits.postprocess(labels)[0], raw[410:414], rtol=1e-4)
    flat = splits.postprocess(labels.reshape(1, -1))[0]
    np.testing.assert_allclose(flat, raw[410:414].ravel(), rtol=1e-4)
    assert "date is no number and was left out" in splits.notes[0]
    assert "foretell 4 rows of a, b" in splits.notes[1]


def test_a_model_that_scales_by_itself_gets_the_raw_numbers(csv):
    splits = whet.dataset(csv, windows=whet.Windows(10, 4, standardise=False), label="b")
    assert splits.batch(Part.TEST, [0])["input"][0, :, 1].tolist() == list(range(400, 410))
    assert splits.labels(Part.TEST)[0, :, 0].tolist() == [410, 411, 412, 413]
    assert splits.postprocess.std == ()


def test_a_series_in_memory_is_cut_likewise(csv):
    raw = np.genfromtxt(csv, delimiter=",", skip_header=1, usecols=(1, 2))
    first = whet.dataset(csv, windows="10,4,2")
    for series in (raw, {"a": raw[:, 0], "b": raw[:, 1]}):
        second = whet.dataset(series, windows=whet.Windows(10, 4, 2))
        np.testing.assert_allclose(second.labels(Part.TEST), first.labels(Part.TEST), rtol=1e-5)
        assert second.size(Part.TEST) == (100 - 14) // 2 + 1
    with pytest.raises(DataError, match="windows are cut out of one series"):
        whet.dataset((raw, raw), windows="10,4")


def test_gaps_are_told_and_filled_by_the_median_of_train(csv):
    lines = csv.read_text().splitlines()
    lines[450] = "2020,,449"
    csv.write_text("\n".join(lines))
    with pytest.raises(DataError, match=r"column 'a' has no value in row 450; .*fill=median"):
        whet.dataset(csv, windows="10,4")
    splits = whet.dataset(csv, windows="10,4,1", preprocess="fill=median")
    raw = np.genfromtxt(csv, delimiter=",", skip_header=1, usecols=(1, 2))
    filled = splits.preprocess.table[0].columns[0].fill
    assert filled == pytest.approx(np.median(raw[:300, 0]))


@pytest.mark.parametrize(
    ("windows", "label", "told"),
    [
        ("96", None, "write LENGTH,HORIZON, for example 96,24"),
        ("a,b", None, "write LENGTH,HORIZON"),
        ("0,4", None, "length of windows is a whole number from 1 up"),
        ("90,24", None, r"the series has 500 rows, a fifth of them \(100\) for the test; a window takes 90 \+ 24"),
        ("10,4", "c", "no column 'c' of numbers to foretell"),
        ("10,4", "date", "no column 'date' of numbers to foretell"),
    ],
)
def test_windows_that_cannot_be_cut_say_why(csv, windows, label, told):
    with pytest.raises(DataError, match=told):
        whet.dataset(csv, windows=windows, label=label)


def test_windows_are_cut_out_of_a_table():
    with pytest.raises(DataError, match="digits is no table"):
        whet.dataset("digits", windows="10,4")
    assert parse_windows(" 96 , 24 ") == whet.Windows(96, 24)
