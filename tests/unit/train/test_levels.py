"""Integers that channels share, found again in an array."""

import numpy as np
import pytest

from whet.train import levels

CODEBOOK = np.array([-7, -3, 0, 2, 7])


def weight(seed=0):
    """(12, 30) of the codebook, each channel times a scale, in float32; each ends at one of the ends."""
    rng = np.random.default_rng(seed)
    codes = rng.choice(CODEBOOK, (12, 30))
    codes[:, 0] = rng.choice([-7, 7], 12)
    return codes, (codes.astype(np.float32) * rng.uniform(0.001, 9, (12, 1)).astype(np.float32)) / np.float32(7)


def test_integers_are_found_whatever_the_scales():
    _, rows = weight()
    np.testing.assert_array_equal(levels.shared(rows, 5), CODEBOOK)
    np.testing.assert_array_equal(levels.of(rows, 7), CODEBOOK)
    assert levels.shared(rows, 4) is None


def test_ends_and_channels_of_zeros_count_as_well():
    _, rows = weight()
    above = np.abs(rows)
    np.testing.assert_array_equal(levels.shared(above, 6), [-7, 0, 2, 3, 7])
    assert levels.shared(above, 4) is None
    np.testing.assert_array_equal(levels.shared(np.zeros((3, 4), np.float32), 3), [-7, 0, 7])


@pytest.mark.parametrize("moved", [0.01, 0.3])
def test_a_weight_beside_the_grid_has_none(moved):
    codes, rows = weight()
    rows[3, codes[3] == 2] *= 1 + moved
    assert levels.shared(rows, 15) is None
    assert levels.shared(np.random.default_rng(1).standard_normal((4, 9)), 15) is None
