"""Influences against the jackknife: leave one pair out, and see."""

import numpy as np
import pytest
from scipy import stats

from whet.measure.correlation import influences


def sides_of(likeness):
    """Two unit vectors a pair, with this cosine."""
    turn = np.arccos(likeness)
    return np.stack(
        [np.stack([np.ones_like(turn), 0 * turn], 1), np.stack([np.cos(turn), np.sin(turn)], 1)], axis=1
    )


@pytest.mark.parametrize(("metric", "correlate"), [("spearman", stats.spearmanr), ("pearson", stats.pearsonr)])
@pytest.mark.parametrize("ties", [False, True])
def test_an_influence_is_what_leaving_a_pair_out_takes_away(metric, correlate, ties):
    rng, count = np.random.default_rng(0), 150
    likeness = np.tanh(rng.normal(size=count))
    scores = likeness + rng.normal(0, 0.5, count)
    if ties:
        likeness, scores = likeness.round(1).clip(-0.9, 0.9), scores.round()
    whole = correlate(likeness, scores)[0]
    without = [correlate(np.delete(likeness, at), np.delete(scores, at))[0] for at in range(count)]
    found = influences(sides_of(likeness), scores, metric)
    assert found.sum() == pytest.approx(0, abs=1e-9)
    taken = (count - 1) * (whole - np.array(without))
    assert np.abs(found - taken).max() < 0.05 * np.abs(taken).max()
    assert found.std() == pytest.approx(taken.std(), rel=0.02)


def test_the_standard_error_of_a_normal_correlation_is_fishers():
    rng, count = np.random.default_rng(1), 20_000
    x = rng.normal(size=count)
    likeness = np.clip(0.2 * x, -1, 1)
    scores = 0.6 * x + 0.8 * rng.normal(size=count)
    assert influences(sides_of(likeness), scores, "pearson").std() == pytest.approx(1 - 0.36, rel=0.03)


def test_pairs_that_are_all_alike_have_no_influence():
    assert not influences(np.ones((5, 2, 3)), np.arange(5.0), "spearman").any()
