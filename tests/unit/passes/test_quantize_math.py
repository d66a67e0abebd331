"""Ranges from streams, against NumPy's quantiles on all values at once."""

import math

import numpy as np
import pytest

from whet.passes.quantize.math import BINS, COUNTED, Extremes, Histogram, narrowed, on_grid
from whet.types import Range

RNG = np.random.default_rng(0)
SKEWED = {
    "log-normal": RNG.lognormal(0, 1, 20_000),
    "exponential": RNG.exponential(2, 20_000).astype(np.float32),
    "both sides": RNG.gamma(2, size=20_000) - RNG.gamma(1, size=20_000),
    "negative": -RNG.gamma(2, size=20_000),
}
RELU = np.maximum(RNG.normal(0, 1, 30_000), 0).astype(np.float32)  # half of it exact zeros


def extremes(values) -> Range:
    found = Extremes()
    found.add(values)
    return found.range()


def histogram(values, pieces=1) -> Histogram:
    found = Histogram(extremes(values))
    for piece in np.array_split(values, pieces):
        found.add(piece)
    return found


@pytest.mark.parametrize(
    ("pieces", "expected"),
    [
        ([[1.0, -2.0], [5.0]], Range(-2.0, 5.0)),
        ([[3.0], [4.0, 2.0]], Range(0.0, 4.0)),
        ([[-3.0, -1.0]], Range(-3.0, 0.0)),
        ([[], [-1.0, 1.0], []], Range(-1.0, 1.0)),
        ([], Range(0.0, 0.0)),
    ],
)
def test_extremes_are_those_of_all_pieces_and_hold_zero(pieces, expected):
    found = Extremes()
    for piece in pieces:
        found.add(np.array(piece).reshape(1, -1))
    assert found.range() == expected


@pytest.mark.parametrize("pieces", [[[math.nan], [1.0]], [[1.0], [math.nan, 2.0]], [[math.nan]]])
def test_a_nan_is_not_lost_among_numbers(pieces):
    found = Extremes()
    for piece in pieces:
        found.add(np.array(piece))
    assert math.isnan(found.range().low)
    assert math.isnan(found.range().high)


@pytest.mark.parametrize("kind", SKEWED)
@pytest.mark.parametrize("share", [99.99, 99.0, 90.0])
def test_percentiles_are_right_to_within_a_bin(kind, share):
    values = SKEWED[kind]
    found, seen = histogram(values).percentile(share), extremes(values)
    width = (seen.high - seen.low) / BINS
    cut = (100 - share) / 200
    low, high = (sign * np.quantile(sign * values, 1 - cut, method="inverted_cdf") for sign in (-1, 1))
    assert found.low == pytest.approx(min(low, 0.0), abs=1.01 * width)
    assert found.high == pytest.approx(max(high, 0.0), abs=1.01 * width)


def test_all_values_kept_is_the_extremes():
    found, seen = histogram(SKEWED["both sides"]).percentile(100.0), extremes(SKEWED["both sides"])
    assert (found.low, found.high) == pytest.approx((seen.low, seen.high))


def test_what_is_cut_off_is_no_more_than_asked():
    values = SKEWED["both sides"]
    found = histogram(values).percentile(99.0)
    assert (values < found.low).mean() <= 0.005
    assert (values > found.high).mean() <= 0.005


def test_an_outlier_is_given_up_by_a_percentile():
    assert histogram(np.append(RELU, 1000.0).astype(np.float32)).percentile(99.9).high < 4


@pytest.mark.parametrize("pieces", [2, 7, 100])
def test_a_stream_in_pieces_gives_what_all_at_once_gives(pieces):
    whole, streamed = histogram(SKEWED["both sides"]), histogram(SKEWED["both sides"], pieces)
    np.testing.assert_array_equal(streamed.counts, whole.counts)
    assert streamed.percentile(99.9) == whole.percentile(99.9)


def test_entropy_of_a_relu_stays_well_above_the_bulk_despite_its_zeros():
    for zeros in (0, 200_000):  # half of the values are zero, then nearly all
        found = histogram(np.append(np.zeros(zeros, np.float32), RELU)).entropy()
        assert found.low == 0.0
        assert found.high > np.quantile(RELU[RELU > 0], 0.995)


def test_entropy_clips_a_far_outlier():
    found = histogram(np.append(RELU, 100.0).astype(np.float32)).entropy()
    assert RELU.max() < found.high < 10.0


def test_entropy_keeps_all_of_a_flat_distribution():
    values = RNG.uniform(-1, 1, 20_000)
    assert histogram(values).entropy() == extremes(values)


def test_entropy_never_leaves_the_extremes():
    values = np.append(SKEWED["exponential"], -0.5)
    found, seen = histogram(values).entropy(), extremes(values)
    assert seen.low <= found.low <= 0 <= found.high <= seen.high


@pytest.mark.parametrize("method", [lambda h: h.percentile(99.9), lambda h: h.entropy()])
@pytest.mark.parametrize(
    ("value", "expected"), [(0.0, Range(0.0, 0.0)), (3.0, Range(0.0, 3.0)), (-3.0, Range(-3.0, 0.0))]
)
def test_a_constant_keeps_its_value_and_zero(method, value, expected):
    assert method(histogram(np.full(100, value))) == expected


@pytest.mark.parametrize("bits", [2, 4, 6])
def test_narrowed_weights_have_the_scale_of_least_error(bits):
    """Against a search by brute force over many more scales."""
    weight = np.random.default_rng(bits).standard_t(4, (3, 500)).astype(np.float32)
    integers, scales = narrowed(weight, 0, bits)
    most = 2 ** (bits - 1) - 1
    assert np.abs(integers).max() == most
    for row, found, scale in zip(weight, integers, scales, strict=True):
        tried = np.linspace(0.1, 1.0, 2000)[:, None] * np.abs(row).max() / most
        errors = ((np.clip(np.rint(row / tried), -most, most) * tried - row) ** 2).sum(axis=1)
        assert ((found * scale - row) ** 2).sum() <= 1.02 * errors.min() or bits == 2
    assert ((integers[0] * scales[0] - weight[0]) ** 2).sum() < (weight[0] ** 2).sum()


def test_a_part_of_many_values_is_enough():
    """Of a million values a batch, in channels of other scales each, the same percentile within a bin or two."""
    rng = np.random.default_rng(0)
    batches = [rng.standard_normal((1000, 96)) * np.linspace(0.1, 2, 96) for _ in range(20)]
    whole = np.concatenate(batches)
    histogram = Histogram(Range(float(whole.min()), float(whole.max())), arrays=20)
    for batch in batches:
        histogram.add(np.tile(batch, (10, 1)))
    assert histogram.counts.sum() == pytest.approx(COUNTED, rel=0.01)
    found = histogram.percentile(99.9)
    low, high = np.quantile(whole, [0.0005, 0.9995])
    assert found.low == pytest.approx(low, rel=0.03)
    assert found.high == pytest.approx(high, rel=0.03)


def test_narrowed_weights_keep_their_axis_and_zeros():
    weight = np.random.default_rng(0).standard_normal((4, 5, 6)).astype(np.float32)
    weight[:, 2] = 0
    for axis in (0, 1, 2, None):
        integers, scales = narrowed(weight, axis, 5)
        assert integers.shape == weight.shape
        assert scales.shape == (1 if axis is None else weight.shape[axis],)
        assert not integers[:, 2].any()


@pytest.mark.parametrize("axis", [0, 1, None])
@pytest.mark.parametrize("bits", [2, 3, 4, 8])
def test_a_weight_on_a_grid_gives_its_integers_back(bits, axis):
    """Integers drawn, scaled in float32 a channel, and multiplied once more, as the folding of a BatchNorm does."""
    rng, most = np.random.default_rng(bits), 2 ** (bits - 1) - 1
    integers = rng.integers(-most, most, (6, 40, 3), endpoint=True)
    shape = [1, 1, 1] if axis is None else [-1 if at == axis else 1 for at in range(3)]
    count = 1 if axis is None else integers.shape[axis]
    scales = rng.uniform(0.001, 3, count).astype(np.float32)
    gains = rng.uniform(0.1, 9, count).astype(np.float32)
    weight = integers.astype(np.float32) * scales.reshape(shape) * gains.reshape(shape)
    found, steps = on_grid(weight, axis, 127)
    np.testing.assert_array_equal(found, integers)
    np.testing.assert_allclose(steps, scales.astype(np.float64) * gains, rtol=1e-6)


def test_a_weight_between_grids_has_none():
    weight = np.random.default_rng(0).standard_normal((8, 64)).astype(np.float32)
    assert on_grid(weight, 0, 127) is None
    assert on_grid(np.float32([[5, 100, -3, 127]]), 0, 63) is None


@pytest.mark.parametrize(("end", "most"), [(7, 7), (7, 127), (127, 127)])
def test_channels_that_all_end_alike_keep_their_integers(end, most):
    """A channel of the ends and zero alone could be -1, 0 and 1, but is what clustering made of it."""
    rows = np.float32([[end, -3, 2, 0], [0, 0, -end, end], [-end, 0, 0, 0], [0, 0, 0, 0]])
    integers, scales = on_grid(rows * np.float32([[0.1], [0.3], [0.7], [1]]), 0, most)
    np.testing.assert_array_equal(integers, rows)
    np.testing.assert_allclose(scales[:3], [0.1, 0.3, 0.7], rtol=1e-6)


def test_channels_of_one_grid_go_on_sharing_integers():
    """A channel of 2 and 4 alone could be 1 and 2 of a coarser grid: the tensor would have more integers then."""
    rows = np.float32([[1, -3, 4, 7, 2, -4], [2, 4, -4, 2, 2, 2], [4, 4, 4, 4, 4, 4], [0, 0, 0, 0, 0, 0]])
    weight = rows * np.float32([[0.1], [0.3], [0.7], [1]])
    integers, scales = on_grid(weight, 0, 127)
    assert set(np.unique(integers)) == {-4, -3, 0, 1, 2, 4, 7}
    np.testing.assert_allclose(integers * scales[:, None], weight, rtol=1e-6)
