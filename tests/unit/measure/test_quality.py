"""What was lost against the original: counts by hand, intervals by formula and by SciPy."""

import numpy as np
import pytest
from scipy import stats

from whet.data.tasks import Classification, Custom, Fidelity, Regression
from whet.errors import DataError, PassError
from whet.measure.quality import assess, compare
from whet.measure.statistics import paired_difference

TASK = Classification(3)


def choosing(classes, of=3):
    """Logits (N, of) that choose these classes."""
    return 4 * np.eye(of, dtype=np.float32)[np.asarray(classes)]


def wilson(hits: int, n: int, z: float) -> tuple[float, float]:
    """Wilson 1927, by its formula."""
    p, centre = hits / n, hits / n + z**2 / (2 * n)
    reach = z * np.sqrt(p * (1 - p) / n + z**2 / (4 * n**2))
    return (centre - reach) / (1 + z**2 / n), (centre + reach) / (1 + z**2 / n)


TRUTH = np.array([0, 0, 0, 1, 1, 2, 2, 2, 2, 2])
BEFORE = choosing([0, 0, 1, 1, 0, 2, 2, 2, 2, 1])  # 7 right
AFTER = choosing([0, 1, 0, 0, 0, 2, 2, 2, 0, 1])  # loses samples 1, 3, 8; wins sample 2


def test_lost_and_won_samples_are_counted_and_a_loss_is_a_positive_drop():
    found = compare(TASK, BEFORE, AFTER, TRUTH)
    assert (found.lost, found.won, found.samples) == (3, 1, 10)
    assert (found.before, found.after) == (0.7, 0.5)
    assert found.drop == pytest.approx(0.2)
    assert (found.interval.low, found.interval.high) == paired_difference(3, 1, 10, 0.95)
    assert found.interval.one_sided


def test_the_other_way_round_is_a_gain_of_the_same_size():
    there, back = compare(TASK, BEFORE, AFTER, TRUTH), compare(TASK, AFTER, BEFORE, TRUTH)
    assert back.drop == pytest.approx(-there.drop)
    assert (back.lost, back.won) == (there.won, there.lost)
    assert back.interval.low == pytest.approx(-there.interval.high, abs=1e-6)


def test_a_family_of_candidates_widens_every_interval():
    alone, together = compare(TASK, BEFORE, AFTER, TRUTH), compare(TASK, BEFORE, AFTER, TRUTH, family=5)
    assert together.interval.confidence == pytest.approx(0.99)
    assert together.interval.high > alone.interval.high
    assert together.fidelity_interval.low < alone.fidelity_interval.low


def test_the_classes_bounds_hold_all_at_once():
    changes = compare(TASK, BEFORE, AFTER, TRUTH).classes
    assert [(c.label, c.samples, c.lost, c.won) for c in changes] == [(0, 3, 1, 1), (1, 2, 1, 0), (2, 5, 1, 0)]
    assert [c.drop for c in changes] == pytest.approx([0.0, 0.5, 0.2])
    for change in changes:
        expected = paired_difference(change.lost, change.won, change.samples, 1 - 0.05 / 3)
        assert change.interval.confidence == pytest.approx(1 - 0.05 / 3)
        assert (change.interval.low, change.interval.high) == pytest.approx(expected)


def test_classes_without_samples_take_no_share_of_the_doubt():
    some = TRUTH != 1
    changes = compare(TASK, BEFORE[some], AFTER[some], TRUTH[some]).classes
    assert [change.label for change in changes] == [0, 2]
    assert changes[0].interval.confidence == pytest.approx(0.975)


def test_the_agreement_has_a_wilson_interval():
    found = compare(TASK, BEFORE, AFTER, TRUTH, confidence=0.975)
    assert found.fidelity["agreement"] == pytest.approx(0.6)
    limits = (found.fidelity_interval.low, found.fidelity_interval.high)
    assert limits == pytest.approx(wilson(6, 10, stats.norm.ppf(0.975)))


@pytest.mark.slow
@pytest.mark.parametrize(("same", "n"), [(0, 20), (6, 10), (20, 20), (970, 1000)])
def test_the_agreement_has_the_wilson_interval_of_statsmodels(same, n):
    from statsmodels.stats.proportion import proportion_confint

    classes = np.zeros(n, dtype=int)
    other = np.where(np.arange(n) < same, 0, 1)
    found = compare(TASK, choosing(classes), choosing(other), classes)
    expected = proportion_confint(same, n, alpha=0.1, method="wilson")
    assert (found.fidelity_interval.low, found.fidelity_interval.high) == pytest.approx(expected, abs=1e-9)


def regression(n=200, seed=0):
    rng = np.random.default_rng(seed)
    truth = rng.normal(size=(n, 2)).astype(np.float32)
    original = truth + rng.normal(0, 0.2, truth.shape).astype(np.float32)
    return truth, original, original + rng.normal(0, 0.1, truth.shape).astype(np.float32)


def test_the_drop_of_a_regression_is_the_relative_growth_of_its_rmse():
    truth, original, outputs = regression()
    found = compare(Regression(), original, outputs, truth)
    before, after = (np.sqrt(((array.astype(float) - truth) ** 2).mean()) for array in (original, outputs))
    assert (found.before, found.after) == pytest.approx((before, after))
    assert found.drop == pytest.approx(after / before - 1)
    assert found.lost is found.won is None
    assert found.classes == ()


def test_the_interval_of_rmse_growth_agrees_with_a_paired_bootstrap_of_scipy():
    truth, original, outputs = regression()
    found = compare(Regression(), original, outputs, truth)
    squares = [((array.astype(float) - truth) ** 2).mean(axis=1) for array in (original, outputs)]
    there = stats.bootstrap(
        squares, lambda b, a, axis: np.sqrt(a.mean(axis=axis) / b.mean(axis=axis)) - 1, paired=True,
        vectorized=True, confidence_level=0.9, method="percentile", n_resamples=2000, rng=3,
    ).confidence_interval  # fmt: skip
    slack = 0.06 * (there.high - there.low)
    assert (found.interval.low, found.interval.high) == pytest.approx((there.low, there.high), abs=slack)


def test_the_explained_share_of_outputs_that_are_no_classes_is_bounded():
    _, original, outputs = regression()
    found = compare(Fidelity(), original, outputs, original)
    spread = ((original - original.mean(axis=0)) ** 2).sum()
    assert found.metric == "explained"
    assert found.after == pytest.approx(1 - ((original - outputs) ** 2).sum() / spread, rel=1e-5)
    assert found.fidelity_interval.low < found.fidelity["explained"] < found.fidelity_interval.high < 1
    assert found.interval.low < found.drop < found.interval.high


def test_a_constant_original_has_no_variance_to_explain():
    truth, original, outputs = regression()
    found = compare(Regression(), np.ones_like(original), outputs, truth)
    assert found.fidelity_interval is None


def test_a_metric_of_the_users_own_is_bounded_by_the_bootstrap():
    def hit_share(outputs, labels):
        return float((outputs.argmax(axis=1) == labels).mean())

    truth = np.tile(TRUTH, 20)
    found = compare(Custom(hit_share), np.tile(BEFORE, (20, 1)), np.tile(AFTER, (20, 1)), truth)
    assert (found.metric, found.before, found.after) == ("hit_share", 0.7, 0.5)
    assert 0.1 < found.interval.low < 0.2 < found.interval.high < 0.3


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_outputs_that_are_not_finite_are_refused_with_their_share(bad):
    outputs = AFTER.copy()
    outputs[[2, 5], 1] = bad
    with pytest.raises(PassError, match=r"NaN or infinite for 20\.0% of the samples"):
        compare(TASK, BEFORE, outputs, TRUTH)


@pytest.mark.parametrize("outputs", [AFTER[:9], AFTER[:, :2], AFTER[:, :, None]])
def test_outputs_of_another_shape_are_refused(outputs):
    with pytest.raises(PassError, match=r"the original's \[10, 3\]"):
        compare(TASK, BEFORE, outputs, TRUTH)


def test_growth_over_an_original_without_error_is_refused_and_explained():
    truth, _, outputs = regression()
    with pytest.raises(DataError, match=r"rmse is 0 on these 200 samples.*--task fidelity"):
        compare(Regression(), truth, outputs, truth)


def test_two_models_without_error_differ_by_nothing():
    truth, *_ = regression()
    found = compare(Regression(), truth, truth, truth)
    assert (found.drop, found.interval.low, found.interval.high) == (0.0, 0.0, 0.0)


class Bare(Classification):
    """Without the metrics that scikit-learn counts; those have tests of their own."""

    def scores(self, outputs, truth):
        return {"accuracy": self.value(outputs, truth)}


class BareRegression(Regression):
    """Likewise."""

    def scores(self, outputs, truth):
        return {"rmse": self.value(outputs, truth)}


def test_assess_counts_the_confusion_and_the_standard_error():
    found = assess(Bare(3), BEFORE, TRUTH)
    assert found.samples == 10
    assert found.confusion == ((2, 1, 0), (1, 1, 0), (0, 1, 4))
    assert found.scores == {"accuracy": 0.7}
    assert found.error == pytest.approx(np.sqrt(0.7 * 0.3 / 10))


def test_the_standard_error_of_an_rmse_is_near_its_delta_method_value():
    truth, original, _ = regression(n=400)
    found = assess(BareRegression(), original, truth)
    squares = ((original.astype(float) - truth) ** 2).mean(axis=1)
    expected = squares.std() / np.sqrt(len(squares)) / (2 * np.sqrt(squares.mean()))
    assert found.error == pytest.approx(expected, rel=0.2)
    assert found.confusion is None
