"""What a corruption costs a candidate more than the original, against counting, simulation and NumPy."""

import numpy as np
import pytest
from scipy import stats

from whet.data.tasks import Classification, Custom, Fidelity, Regression
from whet.measure.corruptions import Corruption, Kind
from whet.measure.robustness import JACKKNIFE, Answers, excess, jackknife, judge, mean_limits
from whet.measure.statistics import paired_difference

NOISE = Corruption("noise", Kind.TABLE, 2, 0.25, "of a column's spread")
RNG = np.random.default_rng(0)


def logits(right, labels, classes=3):
    """Logits that choose the label where ``right``, and the next class elsewhere."""
    return np.eye(classes)[np.where(right, labels, (labels + 1) % classes)] * 5.0


def test_of_pairs_lost_and_won_the_limits_are_those_of_a_paired_difference():
    values = np.array([1] * 9 + [-1] * 4 + [0] * 87)
    assert mean_limits(values, 0.95) == pytest.approx(paired_difference(9, 4, 100, 0.95))
    assert mean_limits(np.zeros(100, int), 0.95) == pytest.approx(paired_difference(0, 0, 100, 0.95))
    low, high = mean_limits(np.array([2, 2, -2, 1, *[0] * 96]), 0.95)
    assert low < 0.03 < high


@pytest.mark.parametrize("shares", [(0.02, 0.0), (0.1, 0.03)])
def test_the_limits_hold_as_often_as_they_claim_where_values_reach_two(shares):
    """Simulated: each sample loses on spoilt inputs, and on clean ones, with chances of its own."""
    rng = np.random.default_rng(1)
    once, twice = shares
    chances = [twice / 2, once / 2, 1 - once - twice, once / 2, twice / 2]
    values = rng.choice([-2, -1, 0, 1, 2], size=(1500, 300), p=chances)
    limits = np.array([mean_limits(row, 0.95) for row in values])
    assert (limits[:, 0] <= 0).mean() > 0.93
    assert (limits[:, 1] >= 0).mean() > 0.93


def test_what_a_classifier_loses_more_is_the_difference_of_two_differences_of_accuracy():
    labels = RNG.integers(0, 3, 400)
    right = [RNG.random(400) < share for share in (0.9, 0.9, 0.8, 0.6)]
    clean, spoilt = (tuple(logits(hits, labels) for hits in right[at : at + 2]) for at in (0, 2))
    extra, interval = excess(Classification(3), clean, spoilt, (labels, labels), 0.95)
    was, now, still, later = (hits.mean() for hits in right)
    assert extra == pytest.approx((still - later) - (was - now))
    assert interval.low < extra < interval.high
    resampled = []
    for _ in range(2000):
        at = RNG.integers(0, 400, 400)
        was, now, still, later = (hits[at].mean() for hits in right)
        resampled.append((still - later) - (was - now))
    assert (interval.low, interval.high) == pytest.approx(tuple(np.quantile(resampled, [0.05, 0.95])), abs=0.012)


def test_a_regressors_growth_of_error_is_bounded_by_the_jackknife():
    truth = RNG.standard_normal((300, 2))
    clean = tuple(truth + s * RNG.standard_normal((300, 2)) for s in (0.1, 0.1))
    spoilt = tuple(truth + s * RNG.standard_normal((300, 2)) for s in (0.2, 0.5))
    extra, interval = excess(Regression(), clean, spoilt, (truth, truth), 0.95)
    rmse = [np.sqrt(((array - truth) ** 2).mean()) for array in (*clean, *spoilt)]
    assert extra == pytest.approx((rmse[3] / rmse[2] - 1) - (rmse[1] / rmse[0] - 1))
    assert 0 < interval.low < extra < interval.high
    assert interval.method == JACKKNIFE


def test_the_jackknife_reaches_as_far_as_students_t_of_a_mean_and_as_the_bootstrap_of_a_ratio():
    values = RNG.standard_normal(500)
    reach = jackknife(lambda at: float(values[at].mean()), 500, 0.99, least_pairs=False)
    assert reach == pytest.approx(stats.t.ppf(0.99, 49) * values.std() / np.sqrt(500), rel=0.25)
    pairs = np.abs(RNG.standard_normal((400, 2))) + 0.2

    def ratio(at):
        return float(pairs[at, 0].mean() / pairs[at, 1].mean())

    reach = jackknife(ratio, 400, 0.95, least_pairs=False)
    resampled = [ratio(RNG.integers(0, 400, 400)) for _ in range(2000)]
    assert reach == pytest.approx((np.quantile(resampled, 0.95) - np.quantile(resampled, 0.05)) / 2, rel=0.25)


def test_where_no_pair_changes_a_classifiers_metric_the_limits_are_no_point():
    """Three more than none may come: the rule of three, at 95 %."""
    assert jackknife(lambda at: 0.0, 300, 0.95, least_pairs=True) == pytest.approx(3 / 300, rel=0.01)
    assert jackknife(lambda at: 0.0, 300, 0.95, least_pairs=False) == 0.0


def test_without_labels_the_candidate_is_measured_by_the_original_on_the_same_spoilt_inputs():
    original, other = RNG.standard_normal((200, 4)), RNG.standard_normal((200, 4))
    answers = Answers({"a": original, "b": original}, [(NOISE, {"a": other, "b": -other})], None, 500)
    found = judge(Fidelity(4), answers, 0.95, 7)
    shift = found["b"].shifts[0]
    agree = float((other.argmax(1) == (-other).argmax(1)).mean())
    assert (shift.before, shift.after) == (1.0, pytest.approx(agree))
    assert shift.extra == pytest.approx(1 - agree)
    assert (found["b"].before, found["b"].after, found["b"].samples, found["b"].of) == (1.0, 1.0, 200, 500)


def test_all_limits_hold_at_once_the_first_is_compared_with_nothing_and_the_worst_is_named_first():
    labels = RNG.integers(0, 3, 500)
    good = logits(np.ones(500, bool), labels)
    bad, worse = (logits(np.arange(500) >= count, labels) for count in (50, 150))
    blur = Corruption("blur", Kind.PICTURE, 1, 0.1, "of the side")
    answers = Answers({"a": good, "b": good}, [(NOISE, {"a": good, "b": bad}), (blur, {"a": good, "b": worse})],
                      labels, 500)  # fmt: skip
    found = judge(Classification(3), answers, 0.95, 0)
    assert [shift.extra for shift in found["a"].shifts] == [None, None]
    assert found["a"].worse == []
    assert [shift.extra for shift in found["b"].shifts] == pytest.approx([0.1, 0.3])
    assert {shift.interval.confidence for shift in found["b"].shifts} == {0.975}
    assert [shift.corruption for shift in found["b"].worse] == ["blur", "noise"]


def test_outputs_that_are_not_finite_have_no_value_and_break_nothing():
    labels = RNG.integers(0, 3, 100)
    good = logits(np.ones(100, bool), labels)
    answers = Answers({"a": good, "b": good}, [(NOISE, {"a": good, "b": np.full_like(good, np.nan)})], labels, 100)
    shift = judge(Classification(3), answers, 0.95, 0)["b"].shifts[0]
    assert (shift.before, shift.after, shift.extra, shift.interval) == (1.0, None, None, None)


def test_a_metric_of_the_users_own_is_bounded_too():
    def spearman(outputs, labels):
        return float(np.corrcoef(outputs.argsort().argsort(), labels.argsort().argsort())[0, 1])

    truth = RNG.standard_normal(150)
    pairs = [tuple(truth + s * RNG.standard_normal(150) for s in spreads) for spreads in ((0.1, 0.1), (0.2, 2.0))]
    extra, interval = excess(Custom(spearman), *pairs, (truth, truth), 0.95)
    assert interval.low > 0
    assert interval.low < extra < interval.high
