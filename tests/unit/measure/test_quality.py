"""What was lost against the original: counts by hand, intervals by formula and by SciPy."""

import numpy as np
import pytest
from scipy import stats

from whet.data import metrics
from whet.data.goal import known
from whet.data.tasks import Classification, Custom, Fidelity, Regression, Similarity
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


@pytest.mark.parametrize(("name", "power"), [("rmse", 2), ("mae", 1)])
def test_the_interval_of_an_errors_growth_is_a_little_wider_than_a_bootstrap_of_scipy(name, power):
    truth, original, outputs = regression()
    task = Regression(metric=known("regression", name))
    found = compare(task, original, outputs, truth)
    sizes = [(abs(array.astype(float) - truth) ** power).mean(axis=1) for array in (original, outputs)]
    there = stats.bootstrap(
        sizes, lambda b, a, axis: (a.mean(axis=axis) / b.mean(axis=axis)) ** (1 / power) - 1, paired=True,
        vectorized=True, confidence_level=0.9, method="percentile", n_resamples=2000, rng=3,
    ).confidence_interval  # fmt: skip
    assert found.metric == name
    assert found.drop == pytest.approx((sizes[1].mean() / sizes[0].mean()) ** (1 / power) - 1)
    assert 1.0 < (found.interval.high - found.interval.low) / (there.high - there.low) < 1.25
    assert found.interval.low < there.low < there.high < found.interval.high


def test_every_metric_whose_loss_can_be_bounded_is_told_the_verdicts_first():
    task = Classification(3, metric=known("classification", "g_mean"))
    found = compare(task, BEFORE, AFTER, TRUTH)
    changes = {change.metric: change for change in found.changes}
    assert list(changes) == ["g_mean", "accuracy", "balanced_accuracy"]
    for name, change in changes.items():
        before, after = (metrics.classification(array, TRUTH, logits=True)[name] for array in (BEFORE, AFTER))
        assert (change.before, change.after) == pytest.approx((before, after))
        assert change.drop == pytest.approx(before - after)
        assert change.interval.low < change.drop < change.interval.high
    assert (found.metric, found.drop, found.interval) == (
        "g_mean",
        changes["g_mean"].drop,
        changes["g_mean"].interval,
    )
    assert found.lost is found.won is None  # the drop of G-mean is not theirs
    assert [change.lost for change in found.classes] == [1, 1, 1]
    assert [change.metric for change in compare(Regression(), *regression()[1:], regression()[0]).changes] == [
        "rmse", "mae",
    ]  # fmt: skip


def pairs(n=300, seed=0):
    """Vectors whose cosine follows a score, and a little noise on them."""
    rng = np.random.default_rng(seed)
    scores = rng.integers(0, 26, n) / 5
    turn = np.arccos(np.clip(scores / 6 + rng.normal(0, 0.15, n), -1, 1))
    sides = np.stack([np.stack([np.ones(n), np.zeros(n)], 1), np.stack([np.cos(turn), np.sin(turn)], 1)], axis=1)
    return scores, sides, sides + rng.normal(0, 0.1, sides.shape)


@pytest.mark.parametrize("name", ["spearman", "pearson"])
def test_the_fall_of_a_correlation_has_the_interval_of_a_bootstrap_of_scipy(name):
    scores, original, outputs = pairs()
    found = compare(Similarity(metric=known("similarity", name)), original, outputs, scores)
    cosines = [
        (array[:, 0] * array[:, 1]).sum(1) / np.linalg.norm(array, axis=2).prod(1) for array in (original, outputs)
    ]
    correlate = {"spearman": stats.spearmanr, "pearson": stats.pearsonr}[name]
    assert found.before == pytest.approx(correlate(cosines[0], scores)[0])
    assert found.after == pytest.approx(correlate(cosines[1], scores)[0])
    there = stats.bootstrap(
        (*cosines, scores), lambda b, a, s: correlate(b, s)[0] - correlate(a, s)[0], paired=True,
        vectorized=False, confidence_level=0.9, method="percentile", n_resamples=400, rng=1,
    ).confidence_interval  # fmt: skip
    assert 0.9 < (found.interval.high - found.interval.low) / (there.high - there.low) < 1.4
    assert found.interval.low < found.drop < found.interval.high
    assert sorted(change.metric for change in found.changes) == ["pearson", "spearman"]


def test_a_candidate_whose_pairs_are_all_alike_follows_no_score():
    scores, original, _ = pairs()
    found = compare(Similarity(), original, np.ones_like(original), scores)
    assert found.after == 0.0
    assert found.interval.low > 0.5


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


def hit_share(outputs, labels):
    return float((outputs.argmax(axis=1) == labels).mean())


def test_a_metric_of_the_users_own_is_bounded_by_the_bootstrap():
    truth = np.tile(TRUTH, 20)
    found = compare(Custom(hit_share), np.tile(BEFORE, (20, 1)), np.tile(AFTER, (20, 1)), truth)
    assert (found.metric, found.before, found.after) == ("hit_share", 0.7, 0.5)
    low, high = paired_difference(60, 20, 200, 0.95)
    assert (found.interval.low, found.interval.high) == pytest.approx((low, high), abs=0.015)


def test_a_metric_of_the_users_own_that_lost_nothing_may_still_lose():
    """No resample differs; what it may have lost unseen is that of three samples, as for the accuracy."""
    labels = np.tile(np.arange(3), 100)
    found = compare(Custom(hit_share), choosing(labels), choosing(labels), labels)
    assert found.drop == 0.0
    limits = (found.interval.low, found.interval.high)
    assert limits == pytest.approx(paired_difference(0, 0, 300, 0.95), abs=0.004)
    assert "one more sample" in found.interval.method


def test_resamples_on_which_a_metric_gives_no_number_count_as_the_worst():
    def least_recall(outputs, labels):
        if len(np.unique(labels)) < 3:
            raise ValueError("a class is missing")
        return min(float((outputs.argmax(axis=1) == k)[labels == k].mean()) for k in range(3))

    labels = np.array([0] * 100 + [1] * 100 + [2] * 2)  # a resample in seven has no sample of class 2
    found = compare(Custom(least_recall), choosing(labels), choosing(labels), labels)
    assert found.interval.high == np.inf
    assert "resamples gave no number and count as the worst" in found.interval.method


@pytest.mark.parametrize("function", [lambda o, t: np.nan, lambda o, t: 1 / 0])
def test_a_metric_that_gives_no_number_on_the_samples_themselves_is_refused(function):
    with pytest.raises(DataError, match=r"must return a finite number|raised ZeroDivisionError"):
        compare(Custom(function), BEFORE, AFTER, TRUTH)


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
    with pytest.raises(DataError, match=r"rmse is 0 on these samples.*--task fidelity"):
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
