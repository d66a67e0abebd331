"""Answers at and around their exact boundaries."""

import math
from dataclasses import replace

import pytest

from whet.measure import verdict
from whet.measure.measurement import Interval, Measurement
from whet.measure.quality import ClassChange, Comparison
from whet.measure.statistics import paired_difference
from whet.measure.verdict import Answer, Budget, Verdict, overall

PASS, FAIL, OPEN = Answer.PASS, Answer.FAIL, Answer.INCONCLUSIVE


def compared(low, high, drop=0.0, *, lost=None, won=None, bounded=True, samples=1000, classes=()):
    interval = Interval(low, high, 0.95, "by hand", one_sided=True)
    return Comparison(
        "accuracy", bounded, 0.9, 0.9 - drop, drop, interval, samples, lost, won, {"agreement": 1.0}, None, classes
    )


def change(label, lost, won, samples, confidence=0.99):
    interval = Interval(*paired_difference(lost, won, samples, confidence), confidence, "gamma", one_sided=True)
    return ClassChange(label, samples, 0.9, 0.9, (lost - won) / samples, interval, lost, won)


def ratio(low, high, value=1.0, rounds=20):
    interval = Interval(low, high, 0.95, "bootstrap")
    return Measurement("speedup", value, "x", "max", rounds, interval, {"batch_size": 8, "against": "original"})


@pytest.mark.parametrize(
    ("low", "high", "answer"),
    [
        (-0.01, 0.01, PASS),  # the upper limit may equal what is allowed
        (-0.01, math.nextafter(0.01, 1), OPEN),
        (0.01, 0.05, OPEN),  # the lower limit must lie beyond it
        (math.nextafter(0.01, 1), 0.05, FAIL),
        (None, 0.01, PASS),
        (None, None, OPEN),
    ],
)
def test_quality_passes_and_fails_exactly_at_its_limits(low, high, answer):
    assert verdict.quality(compared(low, high), Budget(max_drop=0.01)).answer is answer


@pytest.mark.parametrize(("low", "high", "answer"), [(0.0, 0.005, PASS), (0.02, 0.03, FAIL), (0.0, 0.02, OPEN)])
def test_only_an_open_claim_names_the_samples_that_would_settle_it(low, high, answer):
    found = verdict.quality(compared(low, high, drop=0.004, lost=6, won=2), Budget())
    assert found.answer is answer
    assert (found.needed_samples is not None) == (answer is OPEN)


def test_an_open_accuracy_needs_the_samples_that_its_discordant_pairs_need():
    low, high = paired_difference(3, 2, 100, 0.95)
    found = verdict.quality(compared(low, high, 0.01, lost=3, won=2, samples=100), Budget(max_drop=0.03))
    assert found.needed_samples is not None
    n = found.needed_samples
    assert paired_difference(0.03 * n, 0.02 * n, n, 0.95)[1] <= 0.03


def test_an_open_unbounded_metric_needs_the_square_of_how_far_its_limit_overshoots():
    found = verdict.quality(compared(-0.04, 0.06, drop=0.01, bounded=False, samples=100), Budget(max_drop=0.02))
    assert found.needed_samples == 100 * 25  # reach 0.05 has to shrink to 0.01
    assert "of itself" in found.claim


def test_a_drop_at_the_limit_itself_is_settled_by_no_number():
    found = verdict.quality(compared(0.0, 0.02, drop=0.01), Budget(max_drop=0.01))
    assert found.needed_samples is None
    assert found.settled_by == "no number: it lies at the limit"


def test_limits_that_are_infinite_are_no_drop_at_the_limit():
    """So few bound nothing, and how many would is not known: to say that the drop lies at the limit is untrue."""
    open_ended = verdict.quality(compared(-1.0, None, drop=0.004), Budget(max_drop=0.01))
    assert (open_ended.answer, open_ended.needed_samples) == (OPEN, None)
    assert open_ended.settled_by == "not known: these samples bound nothing"
    rounds = verdict.speed(ratio(0.0, math.inf, value=1.5, rounds=3), Budget(min_speedup=1.0))
    assert rounds.settled_by == "not known: these rounds bound nothing"


def test_what_is_settled_asks_for_nothing():
    assert verdict.quality(compared(0.0, 0.005), Budget(max_drop=0.01)).settled_by == ""
    assert verdict.quality(compared(0.02, 0.03), Budget(max_drop=0.01)).settled_by == ""


def test_the_evidence_states_both_values_the_samples_and_the_interval():
    text = verdict.quality(compared(-0.001, 0.0123, drop=0.005), Budget()).evidence
    for part in ("0.9 before", "0.895 after", "1000 samples", "worse by 0.0050", "95.0%", "-0.0010 to 0.0123"):
        assert part in text


def test_classes_are_judged_only_if_the_budget_asks():
    some = compared(0, 0, classes=(change(0, 1, 1, 100),))
    assert verdict.classes(some, Budget()) is None
    assert verdict.classes(compared(0, 0), Budget(max_class_drop=0.1)) is None


@pytest.mark.parametrize(
    ("classes", "answer", "shown"),
    [
        ((change(0, 0, 0, 500), change(1, 1, 1, 500)), PASS, "class 1"),
        ((change(0, 0, 0, 500), change(1, 2, 0, 30)), OPEN, "class 1"),
        ((change(0, 90, 0, 100), change(1, 2, 0, 30)), FAIL, "class 0"),
        ((change(0, 40, 0, 100), change(1, 29, 28, 30)), FAIL, "class 0"),  # 1 may be worse still, but 0 has failed
    ],
)
def test_the_class_that_may_have_lost_most_decides(classes, answer, shown):
    found = verdict.classes(compared(0, 0, classes=classes), Budget(max_class_drop=0.1))
    assert found is not None
    assert found.answer is answer
    assert shown in found.evidence
    assert (found.needed_samples is not None) == (answer is OPEN)


@pytest.mark.parametrize(("limit", "answer"), [(0.25, PASS), (0.2499, OPEN), (0.1, OPEN), (0.0999, FAIL)])
def test_classes_pass_and_fail_exactly_at_their_limits(limit, answer):
    exact = ClassChange(0, 50, 0.9, 0.7, 0.2, Interval(0.1, 0.25, 0.99, "by hand", one_sided=True), 11, 1)
    found = verdict.classes(compared(0, 0, classes=(exact,)), Budget(max_class_drop=limit))
    assert found is not None
    assert found.answer is answer


def test_samples_for_classes_are_counted_over_the_whole_data():
    """A class of 30 among 1,000 samples needs its own number times a thousand thirtieths."""
    small = change(1, 1, 0, 30)
    found = verdict.classes(compared(0, 0, classes=(small,)), Budget(max_class_drop=0.1))
    assert found is not None
    assert found.needed_samples is not None
    own = found.needed_samples * 30 / 1000
    assert paired_difference(own / 30, 0, own, 0.99)[1] <= 0.1
    assert paired_difference(0.9 * own / 30, 0, 0.9 * own, 0.99)[1] > 0.1


def test_blocks_are_what_a_speed_rests_on_where_everything_was_opened_anew():
    found = ratio(0.95, 1.25, value=1.05, rounds=120)
    blocks = verdict.speed(replace(found, conditions={**found.conditions, "blocks": 6}), Budget(min_speedup=1.0))
    assert "6 blocks of paired rounds, each opened anew" in blocks.evidence
    assert (blocks.needed_samples, blocks.settled_by) == (24, "about 24 blocks")


@pytest.mark.parametrize(
    ("low", "high", "answer"),
    [(1.5, 1.9, PASS), (math.nextafter(1.5, 0), 1.9, OPEN), (1.2, 1.5, OPEN), (1.2, math.nextafter(1.5, 0), FAIL)],
)
def test_speed_passes_and_fails_exactly_at_its_limits(low, high, answer):
    found = verdict.speed(ratio(low, high, value=(low + high) / 2), Budget(min_speedup=1.5))
    assert found.answer is answer
    assert "batch 8" in found.claim
    if answer is not OPEN:
        assert found.needed_samples is None


def test_an_open_speed_needs_the_rounds_at_which_its_interval_clears_the_limit():
    found = verdict.speed(ratio(0.95, 1.25, value=1.05, rounds=20), Budget(min_speedup=1.0))
    assert found.needed_samples == 80  # a reach of 0.1 below has to shrink to 0.05
    assert found.settled_by == "about 80 rounds"
    assert "20 paired rounds of one opening" in found.evidence
    below = verdict.speed(ratio(0.85, 1.05, value=0.95, rounds=20), Budget(min_speedup=1.0))
    assert below.needed_samples == 80


@pytest.mark.parametrize(
    ("size", "limit", "answer"), [(1000, None, PASS), (1001, None, FAIL), (900, 900, PASS), (901, 900, FAIL)]
)
def test_size_is_judged_against_the_budget_or_the_float_file(size, limit, answer):
    found = verdict.size(size, 4000, 1000, Budget(max_bytes=limit))
    assert found.answer is answer
    assert f"at most {limit or 1000:,} bytes" in found.claim
    assert f"{4000 / size:.2f}x smaller" in found.evidence


@pytest.mark.parametrize(
    ("answers", "whole"), [([PASS, PASS], PASS), ([PASS, OPEN], OPEN), ([OPEN, FAIL, PASS], FAIL), ([], PASS)]
)
def test_one_failed_claim_fails_the_whole_and_one_open_claim_opens_it(answers, whole):
    assert overall(Verdict("a claim", answer, "numbers") for answer in answers) is whole
