"""Metrics against scikit-learn called directly, SciPy, or the formula written out."""

import numpy as np
import pytest
import sklearn.metrics as reference
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from scipy.spatial.distance import cosine
from scipy.special import expit, log_softmax, rel_entr, softmax
from scipy.stats import gmean, mannwhitneyu

from whet.data import metrics


def sample(count=200, classes=5, seed=0):
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, classes, count)
    outputs = rng.standard_normal((count, classes)) + 1.5 * np.eye(classes)[labels]
    return outputs.astype(np.float32), labels


def recalls(labels, chosen):
    return np.array([(chosen[labels == one] == one).mean() for one in np.unique(labels)])


@pytest.mark.parametrize("seed", range(3))
def test_a_classifiers_scores_are_scikit_learns(seed):
    outputs, labels = sample(seed=seed)
    chosen, shares = outputs.argmax(1), softmax(outputs.astype(np.float64), axis=1)
    per_class = recalls(labels, chosen)
    assert metrics.classification(outputs, labels, logits=True) == pytest.approx(
        {
            "accuracy": reference.accuracy_score(labels, chosen),
            "cross_entropy": reference.log_loss(labels, shares, labels=range(5)),
            "balanced_accuracy": reference.balanced_accuracy_score(labels, chosen),
            "precision": reference.precision_score(labels, chosen, average="macro"),
            "sensitivity": reference.recall_score(labels, chosen, average="macro"),
            "f1": reference.f1_score(labels, chosen, average="macro"),
            "g_mean": gmean(per_class),
            "auc": reference.roc_auc_score(labels, shares, multi_class="ovr", average="macro"),
            "worst_class": per_class.min(),
        }
    )


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(2, 60), st.integers(2, 6), st.integers(1, 4))
def test_few_samples_missing_classes_and_equal_outputs_score_as_scikit_learn_has_it(seed, count, classes, steps):
    """Coarse outputs (many ties), classes without samples, classes never chosen."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, classes, count)
    outputs = rng.integers(0, steps + 1, (count, classes)) / np.float32(4)
    found = metrics.classification(outputs, labels, logits=True)
    chosen, present = outputs.argmax(1), np.unique(labels)
    shares = softmax(outputs.astype(np.float64), axis=1)
    mean = {"labels": present, "average": "macro", "zero_division": 0.0}
    assert found["precision"] == pytest.approx(reference.precision_score(labels, chosen, **mean))
    assert found["sensitivity"] == pytest.approx(reference.recall_score(labels, chosen, **mean))
    assert found["f1"] == pytest.approx(reference.f1_score(labels, chosen, **mean))
    if len(present) > 1:
        areas = [reference.roc_auc_score(labels == one, shares[:, one]) for one in present]
        assert found["auc"] == pytest.approx(np.mean(areas))


@pytest.mark.parametrize(
    ("values", "wanted"),
    [([1.0, 2.0], [3.0, 3.0]), ([3.0, 3.0], [3.0, 3.0]), ([1.0, 1.5], [1.0, 2.0]), ([9.0, -9.0], [1.0, 2.0])],
)
def test_r2_is_scikit_learns_where_labels_are_constant_too(values, wanted):
    found = metrics.regression(np.array(values), np.array(wanted))["r2"]
    assert found == pytest.approx(reference.r2_score(wanted, values))


def test_probabilities_score_as_the_logits_they_came_from():
    outputs, labels = sample()
    shares = softmax(outputs.astype(np.float64), axis=1)
    assert metrics.classification(shares, labels, logits=False) == pytest.approx(
        metrics.classification(outputs, labels, logits=True)
    )


@pytest.mark.parametrize("shape", [(-1,), (-1, 1)])
def test_one_column_of_logits_is_the_second_of_two_classes(shape):
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 2, 300)
    logit = rng.standard_normal(300) + labels
    found = metrics.classification(logit.reshape(shape), labels, logits=True)
    assert found["accuracy"] == reference.accuracy_score(labels, logit > 0)
    assert found["auc"] == pytest.approx(reference.roc_auc_score(labels, logit))
    assert found["cross_entropy"] == pytest.approx(reference.log_loss(labels, expit(logit)))
    assert found["g_mean"] == pytest.approx(gmean(recalls(labels, (logit > 0).astype(int))))


def test_one_column_of_probabilities_is_cut_at_a_half():
    shares, labels = np.array([[0.1], [0.6], [0.4], [0.9]]), np.array([0, 1, 1, 0])
    found = metrics.classification(shares, labels, logits=False)
    assert found["accuracy"] == 0.5
    assert found["cross_entropy"] == pytest.approx(reference.log_loss(labels, shares[:, 0]))
    assert found["auc"] == reference.roc_auc_score(labels, shares[:, 0])


def test_a_class_without_samples_counts_in_no_mean():
    outputs, labels = sample(classes=4)
    keep = labels != 2
    outputs, labels = outputs[keep], labels[keep]
    found = metrics.classification(outputs, labels, logits=True)
    chosen, present = outputs.argmax(1), [0, 1, 3]
    assert (chosen == 2).any()
    for name, function in (("precision", reference.precision_score), ("f1", reference.f1_score)):
        assert found[name] == pytest.approx(function(labels, chosen, labels=present, average="macro"))
    assert found["balanced_accuracy"] == pytest.approx(recalls(labels, chosen).mean())
    shares = softmax(outputs.astype(np.float64), axis=1)
    areas = [
        mannwhitneyu(shares[labels == one, one], shares[labels != one, one]).statistic
        / ((labels == one).sum() * (labels != one).sum())
        for one in present
    ]
    assert found["auc"] == pytest.approx(np.mean(areas))


def test_a_class_that_is_never_right_makes_the_g_mean_nought_and_a_precision_of_nought():
    outputs = np.eye(3)[[0, 0, 1, 1]]
    found = metrics.classification(outputs, np.array([0, 0, 1, 2]), logits=True)
    assert found["g_mean"] == found["worst_class"] == 0
    assert found["precision"] == pytest.approx((1 + 0.5 + 0) / 3)


def test_the_auc_of_a_single_class_is_unknown():
    found = metrics.classification(np.eye(3)[[0, 1]], np.array([1, 1]), logits=True)
    assert np.isnan(found["auc"])
    assert found["accuracy"] == 0.5


def test_cross_entropy_bounds_a_probability_at_1e_12():
    outputs = np.array([[0.0, 100.0], [0.0, 3.0]])
    exact = -log_softmax(outputs, axis=1)[[0, 1], [0, 1]]
    assert exact[0] == 100
    found = metrics.classification(outputs, np.array([0, 1]), logits=True)["cross_entropy"]
    assert found == pytest.approx((-np.log(1e-12) + exact[1]) / 2)


def test_confusion_has_labels_in_rows():
    outputs, labels = sample(classes=4)
    labels[labels == 3] = 0
    counts = metrics.confusion(outputs, labels, logits=True, classes=4)
    assert (counts == reference.confusion_matrix(labels, outputs.argmax(1), labels=range(4))).all()


def test_confusion_of_one_column_is_two_by_two():
    counts = metrics.confusion(np.array([[-1.0], [2.0], [3.0]]), np.array([0, 0, 1]), logits=True, classes=2)
    assert counts.tolist() == [[1, 1], [0, 1]]


@pytest.mark.parametrize("shape", [(50,), (50, 1), (50, 3), (50, 2, 4)])
def test_regression_scores_are_scikit_learns_over_all_elements(shape):
    rng = np.random.default_rng(0)
    labels = rng.standard_normal(shape)
    outputs = (labels + 0.3 * rng.standard_normal(shape)).astype(np.float32)
    flat = labels.ravel(), outputs.ravel()
    assert metrics.regression(outputs, labels) == pytest.approx(
        {
            "loss": reference.mean_squared_error(*flat),
            "mae": reference.mean_absolute_error(*flat),
            "rmse": reference.root_mean_squared_error(*flat),
            "r2": reference.r2_score(*flat),
        }
    )


def test_outputs_with_an_axis_of_one_are_not_spread_over_the_labels():
    assert metrics.regression(np.zeros((3, 1)), np.array([1.0, 2.0, 3.0]))["loss"] == pytest.approx(14 / 3)


def test_r2_of_a_single_number_is_unknown():
    found = metrics.regression(np.array([[1.0]]), np.array([3.0]))
    assert found["mae"] == 2
    assert np.isnan(found["r2"])


def test_half_precision_outputs_are_measured_in_double():
    labels = np.full(4, 1000.0)
    assert metrics.regression(np.full(4, 400, np.float16), labels)["loss"] == 360000


def test_fidelity_is_what_its_formulas_say():
    original, _ = sample(seed=1)
    outputs = original + 0.2 * np.random.default_rng(2).standard_normal(original.shape).astype(np.float32)
    a, b = original.astype(np.float64), outputs.astype(np.float64)
    found = metrics.fidelity(outputs, original, classes=True)
    p, q = softmax(a, axis=1), softmax(b, axis=1)
    assert found["sqnr_db"] == pytest.approx(20 * np.log10(np.linalg.norm(a) / np.linalg.norm(a - b)))
    assert found["cosine"] == pytest.approx(np.mean([x @ y / np.sqrt(x @ x * (y @ y)) for x, y in zip(a, b)]))  # noqa: B905
    assert found["explained"] == pytest.approx(reference.r2_score(a, b, multioutput="variance_weighted"))
    assert found["kl"] == pytest.approx(rel_entr(p, q).sum(axis=1).mean())
    assert found["agreement"] == reference.accuracy_score(a.argmax(1), b.argmax(1))


def test_fidelity_of_pictures_flattens_each_sample():
    rng = np.random.default_rng(0)
    original = rng.standard_normal((6, 2, 4, 4))
    outputs = original + 0.1
    found = metrics.fidelity(outputs, original, classes=False)
    assert found == pytest.approx(metrics.fidelity(outputs.reshape(6, -1), original.reshape(6, -1), classes=False))
    assert set(found) == {"sqnr_db", "cosine", "explained"}


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(1, 5), st.sampled_from([1e-20, 1.0, 1e10]))
def test_a_copy_is_perfect(seed, width, scale):
    original = scale * np.random.default_rng(seed).standard_normal((4, width))
    found = metrics.fidelity(original.copy(), original, classes=width > 1)
    assert found["sqnr_db"] == float("inf")
    assert found["cosine"] == pytest.approx(1)
    assert found["explained"] == 1
    assert found.get("agreement", 1) == 1
    assert found.get("kl", 0) == pytest.approx(0, abs=1e-12)


def test_rows_of_zeros_are_like_rows_of_zeros_and_unlike_others():
    original = np.array([[0.0, 0], [0, 0], [1, 1], [0, 0]])
    outputs = np.array([[0.0, 0], [1, 0], [2, 2], [0, 0]])
    assert metrics.fidelity(outputs, original, classes=False)["cosine"] == pytest.approx(3 / 4)


def test_a_constant_original_is_explained_by_its_copy_alone():
    original = np.full((3, 2), 5.0)
    assert metrics.fidelity(original.copy(), original, classes=False)["explained"] == 1
    assert metrics.fidelity(original + 1, original, classes=False)["explained"] == 0


def test_noise_on_an_original_of_zeros_is_no_perfect_copy():
    found = metrics.fidelity(np.ones((3, 2)), np.zeros((3, 2)), classes=False)
    assert found["sqnr_db"] == float("-inf")
    assert found["explained"] == 0


@pytest.mark.parametrize(
    ("outputs", "expected"),
    [
        ([[0.2, 0.8], [0.5, 0.5]], False),
        ([[0.2, 0.9], [0.5, 0.9]], True),
        ([[1.0, 2.0], [0.5, 0.5]], True),
        ([[-0.1, 1.1], [0.5, 0.5]], True),
        ([[0.1], [0.9]], False),
        ([[0.1], [1.9]], True),
        ([0.1, 0.9], False),
        ([-3.0, 0.9], True),
    ],
)
def test_logits_are_told_from_probabilities(outputs, expected):
    assert metrics.are_logits(np.array(outputs)) is expected


def test_half_precision_probabilities_add_up_nearly_enough():
    shares = softmax(np.random.default_rng(0).standard_normal((20, 10)), axis=1).astype(np.float16)
    assert not metrics.are_logits(shares)


@pytest.mark.parametrize("classes", [3, 12, 100])
def test_probabilities_in_steps_add_up_nearly_enough(classes):
    shares = softmax(2 * np.random.default_rng(0).standard_normal((50, classes)), axis=1)
    assert not metrics.are_logits(np.rint(256 * shares) / 256)
    assert metrics.are_logits(np.rint(256 * np.random.default_rng(0).random((50, classes))) / 256)


@pytest.mark.parametrize("decimals", [0, 1, 12])
def test_ranks_and_correlations_are_those_of_scipy(decimals):
    rng = np.random.default_rng(decimals)
    a = rng.normal(size=200).round(decimals)
    b = (a + rng.normal(size=200)).round(decimals)
    assert metrics.ranks(a).tolist() == stats.rankdata(a).tolist()
    assert metrics.correlation(a, b) == pytest.approx(stats.pearsonr(a, b)[0])
    assert metrics.correlation(metrics.ranks(a), metrics.ranks(b)) == pytest.approx(stats.spearmanr(a, b)[0])


def test_sensitivities_are_scikit_learns_and_their_g_mean_is_scipys():
    rng = np.random.default_rng(4)
    labels, chosen = rng.choice([0, 2, 5], 300), rng.choice([0, 2, 5], 300)
    found = metrics.sensitivities(chosen == labels, labels)
    assert found == pytest.approx(reference.recall_score(labels, chosen, average=None))
    assert metrics.g_mean(found) == pytest.approx(stats.gmean(found))
    assert metrics.g_mean(np.array([0.5, 0.0])) == 0.0


def test_similarity_takes_the_cosine_of_both_sides_whatever_their_shape():
    rng = np.random.default_rng(5)
    sides, scores = rng.normal(size=(50, 2, 3, 4)), rng.normal(size=50)
    likeness = [1 - cosine(first.ravel(), second.ravel()) for first, second in sides]
    found = metrics.similarity(sides, scores)
    assert found["pearson"] == pytest.approx(stats.pearsonr(likeness, scores)[0])
    assert found["spearman"] == pytest.approx(stats.spearmanr(likeness, scores)[0])
