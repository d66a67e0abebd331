"""Corruptions, against SciPy and arithmetic by hand."""

import numpy as np
import pytest
from scipy import ndimage

from whet.measure.corruptions import Corruption, Kind, corrupt, gaussian, known, learn

RNG = np.random.default_rng(0)
CHW = RNG.uniform(-2, 2, (20, 3, 24, 32)).astype(np.float32)
BYTES = RNG.integers(0, 256, (20, 16, 16, 1)).astype(np.uint8)
IDS = RNG.integers(1, 1000, (50, 40))
TABLE = RNG.standard_normal((200, 8)).astype(np.float32) * np.arange(1, 9, dtype=np.float32)
SERIES = RNG.standard_normal((60, 30, 5)).astype(np.float32)


def spoil(batch, name, amount, seed=0):
    usual = learn(batch)
    how = next(how for how in known(usual) if how.name == name)
    return corrupt(batch, Corruption(name, how.kind, 1, amount, ""), usual, np.random.default_rng(seed))


@pytest.mark.parametrize(
    ("batch", "kinds", "axes"),
    [
        ({"x": CHW}, {"x": Kind.PICTURE}, {"x": 1}),
        ({"x": BYTES}, {"x": Kind.PICTURE}, {"x": 3}),
        ({"x": TABLE}, {"x": Kind.TABLE}, {"x": 1}),
        ({"x": SERIES}, {"x": Kind.TABLE}, {"x": 2}),
        ({"x": SERIES[..., :1]}, {"x": Kind.TABLE}, {"x": 1}),
        ({"ids": IDS}, {"ids": Kind.TEXT}, {"ids": 1}),
        ({"ids": IDS, "m": np.ones_like(IDS)}, {"ids": Kind.TEXT, "m": Kind.MASK}, {"ids": 1, "m": 1}),
        ({"ids": IDS, "types": np.zeros_like(IDS)}, {"ids": Kind.TEXT}, {"ids": 1}),
        ({"x": CHW, "row": TABLE[:20]}, {"x": Kind.PICTURE, "row": Kind.TABLE}, {"x": 1, "row": 1}),
        ({"features": np.zeros((4, 16, 8, 8), np.float32)}, {}, {}),
    ],
)
def test_what_an_input_is_follows_from_its_axes_and_type(batch, kinds, axes):
    usual = learn(batch)
    assert {name: item.kind for name, item in usual.items()} == kinds
    assert {name: item.axis for name, item in usual.items()} == axes


def test_there_are_three_severities_of_each_corruption_of_each_kind():
    names = [(how.name, how.severity) for how in known(learn({"x": CHW, "row": TABLE[:20]}))]
    assert len(names) == len(set(names)) == 18
    assert {name for name, _ in names} == {
        "gaussian noise", "blur", "brightness", "contrast", "missing columns", "noise",
    }  # fmt: skip
    assert known(learn({"features": np.zeros((4, 16, 8, 8), np.float32)})) == []


@pytest.mark.parametrize(
    "batch",
    [{"x": CHW}, {"x": BYTES}, {"x": TABLE}, {"x": SERIES}, {"ids": IDS}],
    ids=["CHW", "bytes", "table", "series", "text"],
)
def test_types_and_shapes_stay_the_input_is_not_touched_and_a_seed_draws_the_same_again(batch):
    before = {name: array.copy() for name, array in batch.items()}
    usual = learn(batch)
    for how in known(usual):
        first, again, other = (corrupt(batch, how, usual, np.random.default_rng(seed)) for seed in (1, 1, 2))
        for name, array in batch.items():
            assert (first[name].dtype, first[name].shape) == (array.dtype, array.shape)
            assert not np.array_equal(first[name], array), how.name
            assert np.array_equal(first[name], again[name])
            drawn = how.name not in ("blur", "brightness", "contrast")
            assert np.array_equal(first[name], other[name]) is not drawn
            assert np.array_equal(array, before[name])


def test_a_higher_severity_is_further_from_the_clean_input():
    for batch in ({"x": CHW}, {"x": TABLE}, {"ids": IDS}):
        usual = learn(batch)
        (name,) = usual
        off = {}
        for how in known(usual):
            spoilt = corrupt(batch, how, usual, np.random.default_rng(0))[name]
            off.setdefault(how.name, []).append(float(np.abs(spoilt.astype(float) - batch[name]).mean()))
        for values in off.values():
            assert values == sorted(values)
            assert len(set(values)) == 3


@pytest.mark.parametrize("axis", [1, 3])
def test_blur_is_scipys_gaussian_filter(axis):
    pictures = CHW if axis == 1 else np.ascontiguousarray(np.moveaxis(CHW, 1, 3))
    sigma = 0.04 * 28  # a side of 24 counts as 28
    sigmas = [0, sigma, sigma, sigma]
    sigmas[axis] = 0
    found = spoil({"x": pictures}, "blur", 0.04)["x"]
    np.testing.assert_allclose(found, ndimage.gaussian_filter(pictures, sigmas, mode="nearest"), rtol=0, atol=1e-5)


@pytest.mark.parametrize(("side", "sigma"), [(5, 0.1), (9, 3.0), (224, 5.6)])
def test_the_matrix_of_a_blur_leaves_a_plain_line_plain(side, sigma):
    assert gaussian(side, sigma).sum(axis=1) == pytest.approx(np.ones(side))


def test_noise_has_the_spread_asked_for_by_column_and_stays_within_what_pictures_take():
    noise = spoil({"x": np.tile(TABLE, (50, 1))}, "noise", 0.5)["x"] - np.tile(TABLE, (50, 1))
    assert noise.std(axis=0) == pytest.approx(0.5 * TABLE.std(axis=0), rel=0.05)
    assert noise.mean(axis=0) == pytest.approx(np.zeros(8), abs=0.2)
    loud = spoil({"x": BYTES}, "gaussian noise", 3.0)["x"]
    assert (loud.min(), loud.max()) == (BYTES.min(), BYTES.max())


def test_brightness_and_contrast_by_hand():
    spread = CHW.std(axis=(0, 2, 3), keepdims=True)
    low, high = CHW.min(axis=(0, 2, 3), keepdims=True), CHW.max(axis=(0, 2, 3), keepdims=True)
    bright = spoil({"x": CHW}, "brightness", 0.5)["x"]
    np.testing.assert_allclose(bright, np.clip(CHW + 0.5 * spread, low, high), rtol=0, atol=1e-5)
    flat = spoil({"x": CHW}, "contrast", 0.3)["x"]
    assert flat.mean(axis=(2, 3)) == pytest.approx(CHW.mean(axis=(2, 3)), abs=1e-5)
    assert flat.std(axis=(2, 3)) == pytest.approx(0.3 * CHW.std(axis=(2, 3)), rel=1e-4)


@pytest.mark.parametrize("name", ["table", "series"])
def test_missing_columns_take_their_mean_and_a_series_loses_them_at_every_step(name):
    array = {"table": TABLE, "series": SERIES}[name]
    found = spoil({"x": array}, "missing columns", 0.25)["x"]
    others = tuple(range(array.ndim - 1))
    mean = np.broadcast_to(array.mean(axis=others), array.shape)
    gone = found != array
    np.testing.assert_allclose(found[gone], mean[gone], rtol=0, atol=1e-6)
    assert gone.mean() == pytest.approx(0.25, abs=0.06)
    if name == "series":
        assert (gone.all(axis=1) | ~gone.any(axis=1)).all()


def test_tokens_are_masked_out_where_there_is_a_mask_and_else_replaced_by_0():
    mask = np.ones(IDS.shape, np.float32)
    mask[:, 30:] = 0
    masked = spoil({"ids": IDS, "attention_mask": mask}, "dropped tokens", 0.3)
    assert np.array_equal(masked["ids"], IDS)
    assert masked["attention_mask"].dtype == np.float32
    assert 1 - masked["attention_mask"][:, 1:30].mean() == pytest.approx(0.3, abs=0.05)
    assert not masked["attention_mask"][:, 30:].any()
    replaced = spoil({"ids": IDS}, "dropped tokens", 0.3)["ids"]
    assert (replaced == 0)[:, 1:].mean() == pytest.approx(0.3, abs=0.05)
    assert np.array_equal(replaced[replaced != 0], IDS[replaced != 0])
    for first in (masked["attention_mask"][:, 0], replaced[:, 0]):
        assert first.all()
