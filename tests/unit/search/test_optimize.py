"""What a search says of its numbers: one verdict a claim, and warnings."""

from dataclasses import replace

import pytest

from whet.measure.measurement import Interval, Measurement
from whet.measure.quality import ClassChange, Comparison, Quality
from whet.measure.verdict import Answer, Budget
from whet.search.choice import Ranked
from whet.search.optimize import _warnings, verdicts_on
from whet.search.outcome import Proof
from whet.trials.problem import Original, Result

SURE = Interval(-0.001, 0.001, 0.95, "by hand", one_sided=True)
CHANGE = ClassChange(0, 500, 0.9, 0.9, 0.0, SURE, 0, 0)
COMPARED = Comparison("accuracy", True, 0.9, 0.9, 0.0, SURE, 1000, 0, 0, {"agreement": 1.0}, SURE, (CHANGE,))
ORIGINAL = Original(
    "net", "torch", "root", "float", None, "logits", "classification", "accuracy", "max", (), 1000, None,
    Quality(1000, {"accuracy": 0.90}, 0.01), {"select": 1000}, ("select was carved out of test",), "data",
)  # fmt: skip


def speedup(batch, against="original", value=2.0):
    interval = Interval(value - 0.1, value + 0.1, 0.95, "by hand")
    return Measurement("speedup", value, "x", "max", 20, interval, {"batch_size": batch, "against": against})


NUMBERS = (speedup(1), speedup(32, value=0.5), speedup(1, "float"), Measurement("size_bytes", 900.0, "bytes"))
BASELINE = Result("float", "", measurements=(Measurement("size_bytes", 1000.0, "bytes"),))


def judged(**budget):
    return verdicts_on(NUMBERS, COMPARED, ORIGINAL, BASELINE, Budget(**budget))


def test_there_is_one_verdict_for_quality_each_batch_size_and_the_size():
    found = judged()
    assert [verdict.answer for verdict in found] == [Answer.PASS, Answer.PASS, Answer.FAIL, Answer.PASS]
    for word, verdict in zip(("accuracy", "batch 1", "batch 32", "bytes"), found, strict=True):
        assert word in verdict.claim
    assert "at most 1,000 bytes" in found[-1].claim  # the float model's file


def test_classes_and_bytes_are_judged_where_the_budget_asks():
    found = judged(max_class_drop=0.01, max_bytes=899)
    assert len(found) == 5
    assert "sensitivity" in found[1].claim
    assert (found[1].answer, found[-1].answer) == (Answer.PASS, Answer.FAIL)


def proof(accuracy, error=0.01):
    on_test = Quality(1000, {"accuracy": accuracy}, error)
    return Proof("half", (), "PASS", COMPARED, on_test, on_test, ())


CHOSEN = (Ranked("half", True, "fast"),)


@pytest.mark.parametrize(("accuracy", "warned"), [(0.90, False), (0.86, False), (0.85, True), (0.95, False)])
def test_a_model_much_better_on_select_than_on_test_has_probably_seen_it(accuracy, warned):
    """0.04 is within three standard errors of a difference, 3 x 0.0141; 0.05 is not."""
    found = _warnings(ORIGINAL, CHOSEN, proof(accuracy))
    assert any("has probably seen the select samples" in line for line in found) == warned


def test_a_metric_that_should_be_small_warns_the_other_way_round():
    small = replace(ORIGINAL, goal="min")
    assert any("probably seen" in line for line in _warnings(small, CHOSEN, proof(0.95)))
    (told,) = [line for line in _warnings(small, CHOSEN, proof(0.95), drifts=True) if "on select and" in line]
    assert "the series has probably drifted in between" in told
    assert "probably seen" not in told
    assert not any("probably seen" in line for line in _warnings(small, CHOSEN, proof(0.85)))


def test_what_was_carved_and_what_could_not_be_exported_is_said_first():
    failed = replace(ORIGINAL, float_key=None, float_failure="unsupported operator aten::fft")
    found = _warnings(failed, CHOSEN, None)
    assert found[0] == "select was carved out of test"
    assert "could not be exported to ONNX: unsupported operator aten::fft." in found[1]


@pytest.mark.parametrize("ranking", [(Ranked("float", True, "fast"), Ranked("half", False, "ruined")), CHOSEN])
def test_it_is_said_where_only_the_float_model_is_left(ranking):
    told = any("what is shipped is the float model" in line for line in _warnings(ORIGINAL, ranking, None))
    assert told == (ranking is not CHOSEN)
