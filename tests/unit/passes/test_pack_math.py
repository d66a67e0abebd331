"""Forms of tensors, decoded again by NumPy; and that the smallest is taken."""

import numpy as np
import pytest

from whet.passes.pack import math


def decoded(form, shape, dtype):
    """What a form stands for, in the plainest way."""
    if isinstance(form, math.Fill):
        return np.full(shape, form.value[0])
    out = np.zeros(form.mask.shape if form.mask is not None else shape, dtype)
    if isinstance(form, math.Sparse):
        out[form.mask] = form.values
        return out
    codes = np.zeros(out.shape, np.int64)
    if form.mask is None:
        codes[...] = form.codes
    else:
        codes[form.mask] = form.codes.astype(np.int64) + 1
    if form.axis is None:
        return form.book[codes]
    rows = np.expand_dims(np.arange(len(form.book)), [at for at in range(len(shape)) if at != form.axis])
    return form.book[rows, codes]


def of_values(rng, values, shape, zeros=0.0):
    array = rng.choice(np.asarray(values), shape)
    array[rng.random(shape) < zeros] = 0
    return array


@pytest.mark.parametrize("dtype", [np.float32, np.float16, np.int8, np.uint8])
@pytest.mark.parametrize("count", [2, 3, 16, 17, 100, 128])
@pytest.mark.parametrize("zeros", [0.0, 0.3, 0.9])
def test_what_is_stored_is_what_was_there(dtype, count, zeros):
    rng = np.random.default_rng(count)
    values = rng.choice(np.arange(1, 129), count, replace=False).astype(dtype)
    array = of_values(rng, values, (700, 9, 5), zeros)
    form = math.smallest(array)
    assert form is not None
    np.testing.assert_array_equal(decoded(form, array.shape, array.dtype), array)


@pytest.mark.parametrize("axis", [0, 1])
@pytest.mark.parametrize("zeros", [0.0, 0.8])
def test_a_codebook_a_channel_is_found_where_channels_differ(axis, zeros):
    rng = np.random.default_rng(0)
    rows = np.stack([of_values(rng, rng.standard_normal(8).astype(np.float32), 900, zeros) for _ in range(40)])
    array = np.ascontiguousarray(np.moveaxis(rows, 0, axis))
    form = math.smallest(array)
    assert isinstance(form, math.Coded)
    assert form.axis == axis
    assert (form.mask is not None) == (zeros > 0)
    np.testing.assert_array_equal(decoded(form, array.shape, array.dtype), array)


def test_random_numbers_have_no_smaller_form():
    assert math.smallest(np.random.default_rng(0).standard_normal((50, 50)).astype(np.float32)) is None


def test_many_zeros_among_random_numbers_become_a_mask():
    rng = np.random.default_rng(0)
    array = rng.standard_normal((100, 100)).astype(np.float32) * (rng.random((100, 100)) < 0.2)
    form = math.smallest(array.astype(np.float32))
    assert isinstance(form, math.Sparse)
    assert form.size_bytes < 0.3 * array.astype(np.float32).nbytes


def test_a_zero_that_a_mask_made_negative_is_a_zero():
    array = np.full((64, 64), -1.5, np.float32) * (np.random.default_rng(0).random((64, 64)) < 0.5)
    form = math.smallest(array)
    assert isinstance(form, math.Coded)
    assert form.bits == 1
    assert form.mask is None


def test_not_a_number_is_kept():
    array = np.tile(np.array([1.0, np.nan], np.float32), 500)
    np.testing.assert_array_equal(decoded(math.smallest(array), array.shape, array.dtype), array)


def test_one_value_is_that_value():
    form = math.smallest(np.zeros((512,), np.int8))
    assert isinstance(form, math.Fill)
    assert form.value.tolist() == [0]


@pytest.mark.parametrize(("values", "bits"), [(1, 1), (2, 1), (3, 2), (4, 2), (5, 3), (16, 4), (17, 5), (128, 7)])
def test_bits_tell_so_many_values_apart(values, bits):
    assert math.bits_for(values) == bits


@pytest.mark.parametrize("bits", range(1, 8))
def test_planes_hold_every_bit_of_every_code(bits):
    codes = np.random.default_rng(bits).integers(0, 1 << bits, 1001).astype(np.uint8)
    again, low = np.zeros(codes.size, np.int64), 0
    for width in (width for width in math.PLANES if bits & width):
        ones = np.unpackbits(math.plane(codes, low, width), bitorder="little").reshape(-1, width)
        again += (ones @ (1 << np.arange(width)) << low)[: codes.size]
        low += width
    np.testing.assert_array_equal(again, codes)
    assert low == bits
