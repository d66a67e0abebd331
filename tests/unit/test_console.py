"""What the measuring verbs print: every metric with its limits, one column a model."""

import numpy as np

from whet.cli import console
from whet.data.tasks import Classification, Custom
from whet.measure.measurement import Measurement
from whet.measure.quality import Quality, compare
from whet.trials.contest import Standing
from whet.types import Signature

LABELS = np.tile(np.arange(3), 40)
BEFORE, AFTER = (4 * np.eye(3)[np.where(np.arange(120) < wrong, (LABELS + 1) % 3, LABELS)] for wrong in (10, 16))
SIZES = (Measurement("size_bytes", 10), Measurement("deflated_bytes", 9), Measurement("deflation_percent", 10))


def standing(name, compared=None):
    return Standing(name, "onnx", {}, Signature((), ()), SIZES, Quality(120, {"accuracy": 0.9}), compared)


def printed(capsys, *standings):
    console.standings_tables(standings)
    return capsys.readouterr().out


def test_each_metrics_loss_is_printed_with_its_limits(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    compared = compare(Classification(3), BEFORE, AFTER, LABELS)
    text = printed(capsys, standing("given"), standing("small", compared))
    assert "95.0% limits of each metric alone" in text
    for change in compared.changes:
        told = f"{change.drop:+.4f} ({change.interval.low:.4f} to {change.interval.high:.4f})"
        assert any(change.metric in row and told in row for row in text.splitlines()), change
    assert "agreement" in text


def test_a_loss_that_nothing_bounds_is_infinite_and_one_model_alone_lost_nothing(capsys, monkeypatch):
    def seldom(outputs, labels):
        if len(np.unique(labels)) < 3:
            raise ValueError("a class is missing")
        return float((outputs.argmax(axis=1) == labels).mean())

    monkeypatch.setenv("COLUMNS", "200")
    some = np.array([*range(0, 100, 3), 1, 2])  # classes 1 and 2 once each
    labels = LABELS[some]
    compared = compare(Custom(seldom), BEFORE[some], AFTER[some], labels)
    assert "(-inf to inf)" in printed(capsys, standing("given"), standing("small", compared))
    assert "limits of each metric" not in printed(capsys, standing("given"))
