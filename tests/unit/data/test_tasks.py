"""Tasks: found from what is given, checked before anything is judged, and what a drop is."""

import math
from functools import partial

import numpy as np
import pytest
import sklearn.metrics as reference
from scipy.stats import pearsonr, spearmanr

from whet.data import tasks
from whet.data.goal import Metric
from whet.data.tasks import (
    Classification,
    Custom,
    Fidelity,
    Regression,
    Similarity,
    check_classes,
    class_numbers,
    resolve_task,
)
from whet.errors import DataError

LOGITS = np.array([[2.0, -1, 0], [0, 3, 1], [1, 0, 4], [5, 1, 1]])
SHARES = np.array([[0.5, 0.25, 0.25], [0, 1, 0], [0.1, 0.2, 0.7], [0.3, 0.4, 0.3]])
COLUMN = np.array([[-1.0], [2.0], [3.0], [-2.0]])
WHOLE = np.array([0, 1, 2, 0])
SIDES = np.array([[[1.0, 0], [1, 1]], [[0, 2], [0, 1]], [[1, 0], [0, 3]], [[1, 1], [-1, 0]]])
REAL = np.array([0.1, 1.5, 2.5, -3.0])
ONE_HOT = np.eye(3)[WHOLE]


@pytest.mark.parametrize(
    ("given", "outputs", "labels", "expected"),
    [
        (None, LOGITS, WHOLE, Classification(3, True)),
        (None, SHARES, WHOLE, Classification(3, False)),
        (None, LOGITS, WHOLE > 0, Classification(3, True)),
        (None, LOGITS, WHOLE.astype(np.uint8), Classification(3, True)),
        (None, LOGITS, WHOLE[:, None], Classification(3, True)),
        (None, LOGITS, ONE_HOT, Classification(3, True)),
        (None, LOGITS, ONE_HOT.astype(int), Classification(3, True)),
        (None, LOGITS[:, :2], np.eye(2)[[0, 1, 1, 0]], Classification(2, True)),
        (None, COLUMN, np.ones((4, 1)), Regression()),
        (None, COLUMN, WHOLE, Classification(2, True)),
        (None, COLUMN[:, 0], WHOLE, Classification(2, True)),
        (None, COLUMN / 10 + 0.5, WHOLE, Classification(2, False)),
        (None, COLUMN, REAL, Regression()),
        (None, LOGITS, LOGITS, Regression()),
        (None, np.zeros((4, 2, 3)), np.zeros((4, 2, 3)), Regression()),
        (None, LOGITS, None, Fidelity(3, True)),
        (None, SHARES, None, Fidelity(3, False)),
        (None, COLUMN, None, Fidelity(0, True)),
        (None, np.zeros((4, 2, 3)), None, Fidelity(0, False)),
        ("classification", LOGITS, REAL.round(), Classification(3, True)),
        ("classification", LOGITS, None, Fidelity(3, True)),
        ("classification", COLUMN, None, Fidelity(2, True)),
        ("regression", COLUMN, WHOLE, Regression()),
        ("regression", LOGITS, None, Fidelity(0, True)),
        ("fidelity", LOGITS, WHOLE, Fidelity(3, True)),
        ("classification:g_mean", LOGITS, WHOLE, Classification(3, True, metric=Metric("g_mean"))),
        ("classification:accuracy", SHARES, WHOLE, Classification(3, False)),
        ("regression:mae", COLUMN, REAL, Regression(metric=Metric("mae", "min", bounded=False))),
        ("similarity", SIDES, REAL, Similarity()),
        ("similarity:pearson", SIDES, WHOLE, Similarity(metric=Metric("pearson"))),
        ("similarity", SIDES, None, Fidelity(0, False)),
    ],
)
def test_the_task_follows_from_what_is_given_else_from_the_labels(given, outputs, labels, expected):
    assert resolve_task(given, outputs, labels) == expected


def test_a_function_or_a_task_is_taken_as_it_is():
    own = Regression(metric=Metric("mae", "min", False))
    assert resolve_task(own, LOGITS, WHOLE) is own
    assert resolve_task(partial(max), LOGITS, WHOLE).name == "metric"


def test_a_metric_in_a_file_is_found(tmp_path):
    file = tmp_path / "judge.py"
    file.write_text("def gap(outputs, labels):\n    return outputs.sum() - labels.sum()\ngap.goal = 'min'\n")
    task = resolve_task(f"{file}:gap", COLUMN, WHOLE)
    assert task.metric == Metric("gap", "min", True)
    assert task.value(COLUMN, WHOLE) == -1


@pytest.mark.parametrize(
    ("given", "outputs", "labels", "told"),
    [
        (
            "clasification",
            LOGITS,
            WHOLE,
            "unknown task 'clasification', and no file.py:metric; did you mean 'classification'",
        ),
        ("ranking", LOGITS, WHOLE, "known: classification, fidelity, regression, similarity"),
        ("classification:gmean", LOGITS, WHOLE, "classification has no metric 'gmean'; did you mean 'g_mean'"),
        ("regression:", COLUMN, REAL, "regression has no metric ''; known: mae, rmse"),
        (
            "regresion:mae",
            COLUMN,
            REAL,
            "unknown task 'regresion:mae', and no file.py:metric; did you mean 'regression'",
        ),
        ("fidelity:cosine", LOGITS, None, "the metric of fidelity cannot be chosen; write --task fidelity"),
        ("classification:g_mean", LOGITS, None, "classification:g_mean needs labels.*--task classification"),
        (3, LOGITS, WHOLE, "a task is one of classification, .* this is a int"),
        (None, np.zeros((4, 2, 3)), WHOLE, r"outputs are \(N, classes\), these are \[4, 2, 3\]; give a metric"),
        (None, LOGITS, np.array(["a", "b", "c", "a"]), "labels are <U1, not numbers; number the classes"),
        ("classification", LOGITS, np.array(["a", "b", "c", "a"]), "not numbers"),
    ],
)
def test_what_cannot_be_a_task_is_refused(given, outputs, labels, told):
    with pytest.raises(DataError, match=told):
        resolve_task(given, outputs, labels)


@pytest.mark.parametrize(
    "labels", [WHOLE, WHOLE[:, None], ONE_HOT, ONE_HOT.astype(np.uint8), WHOLE.astype(float), ONE_HOT * 0.7 + 0.1]
)
def test_labels_become_class_numbers(labels):
    found = class_numbers(labels, Classification(3))
    assert found.dtype == np.int64
    assert found.tolist() == WHOLE.tolist()


@pytest.mark.parametrize("task", [Regression(), Fidelity(3), Custom(max)])
def test_labels_of_other_tasks_are_left_alone(task):
    assert class_numbers(REAL, task) is REAL
    assert class_numbers(None, task) is None


@pytest.mark.parametrize(
    ("labels", "told"),
    [
        (np.array([[1, 1, 0], [0, 1, 0]]), r"\[2, 3\] and not one-hot rows"),
        (np.array([[3, -2], [0, 1]]), "not one-hot"),
        (np.zeros((4, 2, 2), int), "not one-hot"),
        (np.array([0.5, 1]), "not whole numbers"),
        (np.array([0, np.nan]), "not whole numbers"),
    ],
)
def test_labels_that_are_no_classes_are_refused(labels, told):
    with pytest.raises(DataError, match=told):
        class_numbers(labels, Classification(3))


@pytest.mark.parametrize(
    ("task", "outputs", "labels", "told"),
    [
        (Classification(3), LOGITS, np.array([1, 2, 3, 1]), r"from 1 to 3, the model has 3 classes \(0 to 2\)"),
        (Classification(2), COLUMN, np.array([-1, 1, 1, 1]), r"from -1 to 1, the model has 2 classes \(0 to 1\)"),
        (Classification(3), LOGITS, np.array([1, 1, 1, 1]), "every label is 1: one class alone"),
        (Classification(3), LOGITS, WHOLE[:3], "4 outputs and 3 labels"),
        (Regression(), LOGITS, REAL, r"outputs are \[3\] a sample, labels \[\]; .*--task classification"),
        (Regression(), COLUMN, np.array([0, 1, np.nan, 2]), "labels have NaN"),
        (Regression(), COLUMN, REAL[:3], "4 outputs and 3 labels"),
        (Custom(max), LOGITS, None, "max needs labels, the data has none"),
        (Similarity(), LOGITS, REAL, r"outputs are \(N, 2, D\), these are \[4, 3\]; give data with two inputs"),
        (Similarity(), np.ones((4, 3, 2)), REAL, r"these are \[4, 3, 2\]"),
        (Similarity(), SIDES, REAL[:3], "4 outputs and 3 labels"),
        (Similarity(), SIDES, np.ones((4, 2)), r"one score a pair, these are \[2\]"),
        (Similarity(), SIDES, np.array([0, 1, np.nan, 2]), "the scores have NaN or infinite values; leave those"),
        (Similarity(), SIDES, np.full(4, 2.5), "every score is 2.5, so there is no order to follow"),
    ],
)
def test_labels_that_do_not_fit_the_outputs_are_refused(task, outputs, labels, told):
    with pytest.raises(DataError, match=told):
        task.check(outputs, labels)


@pytest.mark.parametrize("task", [Classification(3), Regression(), Fidelity(3), Custom(max)])
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_outputs_that_are_not_finite_name_the_sample(task, bad):
    outputs = LOGITS.copy()
    outputs[2, 1] = bad
    with pytest.raises(DataError, match="sample 2 is NaN or infinite"):
        task.check(outputs, WHOLE)


@pytest.mark.parametrize("task", [Classification(3), Regression(), Fidelity(3)])
def test_without_labels_only_the_outputs_are_checked(task):
    assert task.check(LOGITS, None) is None


def test_each_task_gives_its_metric_and_its_hits():
    labels = np.array([0, 1, 2, 1])
    assert Classification(3).value(LOGITS, labels) == reference.accuracy_score(labels, LOGITS.argmax(1)) == 0.75
    assert Classification(3).hits(LOGITS, labels).tolist() == [True, True, True, False]
    assert Regression().value(COLUMN, REAL) == pytest.approx(reference.root_mean_squared_error(REAL, COLUMN))
    assert Regression().hits(COLUMN, REAL) is None
    assert Fidelity(3).value(SHARES, LOGITS) == 0.75
    assert Fidelity(3).hits(SHARES, LOGITS).tolist() == [True, True, True, False]
    assert Fidelity().value(COLUMN, COLUMN + 1) == pytest.approx(reference.r2_score(COLUMN + 1, COLUMN))
    assert Fidelity().hits(COLUMN, COLUMN) is None


@pytest.mark.parametrize("task", [Classification(3), Regression(), Fidelity(3), Fidelity(), Custom(lambda o, t: 1)])
def test_the_metric_of_a_task_is_among_its_scores(task):
    truth = LOGITS if task.name in ("regression", "fidelity") else WHOLE
    assert task.scores(LOGITS, truth)[task.metric.name] == pytest.approx(task.value(LOGITS, truth))


def test_the_metric_that_is_chosen_is_the_one_judged_by():
    labels = np.array([0, 1, 2, 1])  # sensitivities 1, 1/2, 1
    balanced, g_mean = (Classification(3, metric=Metric(name)) for name in ("balanced_accuracy", "g_mean"))
    assert balanced.value(LOGITS, labels) == pytest.approx(
        reference.balanced_accuracy_score(labels, LOGITS.argmax(1))
    )
    assert g_mean.value(LOGITS, labels) == pytest.approx(0.5 ** (1 / 3))
    assert g_mean.value(LOGITS, np.array([0, 2, 2, 1])) == 0.0  # of class 1 none is right
    assert g_mean.hits(LOGITS, labels) is None
    mae = Regression(metric=Metric("mae", "min", bounded=False))
    assert mae.value(COLUMN, REAL) == pytest.approx(reference.mean_absolute_error(REAL, COLUMN))
    for task in (balanced, g_mean, mae, Similarity(metric=Metric("pearson"))):
        truth = REAL if task.classes == 0 else labels
        outputs = {"regression": COLUMN, "similarity": SIDES}.get(task.name, LOGITS)
        assert task.scores(outputs, truth)[task.metric.name] == pytest.approx(task.value(outputs, truth))


@pytest.mark.parametrize("task", [Classification, Similarity, Regression])
def test_a_metric_whose_loss_cannot_be_bounded_is_refused(task):
    with pytest.raises(DataError, match="has no metric 'f1'"):
        task(**({"classes": 2} if task is Classification else {}), metric=Metric("f1"))


def test_similarity_is_the_correlation_of_cosine_and_score():
    cosines = [np.sqrt(0.5), 1.0, 0.0, -np.sqrt(0.5)]
    assert Similarity().value(SIDES, REAL) == pytest.approx(spearmanr(cosines, REAL)[0])
    assert Similarity(metric=Metric("pearson")).value(SIDES, REAL[:, None]) == pytest.approx(
        pearsonr(cosines, REAL)[0]
    )
    assert Similarity().hits(SIDES, REAL) is None
    assert Similarity().value(np.ones((4, 2, 3)), REAL) == 0.0


def raises(outputs, labels):
    raise KeyError("weights")


@pytest.mark.parametrize(
    ("function", "told"),
    [
        (raises, "the metric raises raised KeyError: 'weights'"),
        (lambda outputs, labels: np.nan, "returned nan; it must return a finite number"),
        (lambda outputs, labels: -np.inf, "returned -inf"),
        (lambda outputs, labels: outputs, "raised TypeError"),
        (lambda outputs: 1.0, "raised TypeError"),
    ],
)
def test_a_metric_that_gives_no_number_is_refused(function, told):
    with pytest.raises(DataError, match=told):
        Custom(function).check(LOGITS, WHOLE)


def test_a_metrics_goal_and_bounds_are_its_attributes():
    def error(outputs, labels):
        return 3

    error.goal, error.bounded = "min", False
    assert Custom(error).metric == Metric("error", "min", False)
    assert Custom(raises).metric == Metric("raises", "max", True)
    assert (Custom(raises).classes, Custom(raises).logits) == (0, False)
    error.goal = "minimise"
    with pytest.raises(DataError, match="goal of the metric error is 'minimise'; write 'max' or 'min'"):
        Custom(error)


@pytest.mark.parametrize(
    ("metric", "baseline", "value", "expected"),
    [
        (Metric("accuracy"), 0.9, 0.85, 0.05),
        (Metric("accuracy"), 0.9, 0.95, -0.05),
        (Metric("error", "min"), 0.1, 0.15, 0.05),
        (Metric("rmse", "min", bounded=False), 2.0, 2.5, 0.25),
        (Metric("rmse", "min", bounded=False), 2.0, 1.0, -0.5),
        (Metric("reward", "max", bounded=False), -4.0, -5.0, 0.25),
        (Metric("rmse", "min", bounded=False), 0.0, 0.0, 0.0),
        (Metric("rmse", "min", bounded=False), 0.0, 0.1, math.inf),
        (Metric("reward", "max", bounded=False), 0.0, 0.1, -math.inf),
    ],
)
def test_a_drop_is_points_of_a_bounded_metric_and_a_share_of_an_unbounded_one(metric, baseline, value, expected):
    assert metric.drop(baseline, value) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (None, None),
        ("regression", "regression"),
        ("a/b.py:m", "a/b.py:m"),
        (raises, "raises"),
        (Fidelity(), "Fidelity"),
    ],
)
def test_a_task_has_a_plain_name(given, expected):
    assert tasks.task_name(given) == expected


def test_named_classes_are_as_many_as_the_outputs():
    with pytest.raises(DataError, match=r"has 2 classes \(ant, bee\), the model has 3; .* --task fidelity"):
        check_classes(Classification(3), ("ant", "bee"))
    with pytest.raises(DataError, match=r"has 7 classes \(a, b, c, d, e, ...\), the model has 3"):
        check_classes(Classification(3), tuple("abcdefg"))
    check_classes(Classification(3), ("ant", "bee", "cow"))
    check_classes(Classification(3), ())
    check_classes(Fidelity(3), ("ant", "bee"))
