"""Which candidate is chosen: rejections with their reasons, then speed, size, drop."""

import math
from dataclasses import replace

import pytest

from whet.measure.measurement import Interval, Measurement
from whet.measure.quality import Comparison
from whet.measure.verdict import Budget
from whet.search.choice import pareto, rank, speedup_of
from whet.trials.problem import Failure, Result

N = 1000


def compared(lost=0, won=0, agreement=1.0, high=None):
    """A comparison of a classifier on 1,000 samples."""
    drop = (lost - won) / N
    reach = 1.645 * math.sqrt(lost + won) / N if lost + won else 0.0027
    interval = Interval(drop - reach, drop + reach, 0.95, "by hand", one_sided=True)
    agrees = Interval(0.0, agreement if high is None else high, 0.95, "Wilson", one_sided=True)
    return Comparison(
        "accuracy", True, 0.9, 0.9 - drop, drop, interval, N, lost, won, {"agreement": agreement}, agrees
    )


def numbers(speed, size, batches=(1, 32)):
    speeds = speed if isinstance(speed, tuple) else (speed,) * len(batches)
    return (
        *(
            Measurement("speedup", value, "x", "max", 20, None, {"batch_size": batch, "against": "original"})
            for batch, value in zip(batches, speeds, strict=True)
        ),
        Measurement("size_bytes", float(size), "bytes", "min"),
    )


def result(name, speed=2.0, size=1000, compared_=None):
    return Result(name, "", measurements=numbers(speed, size), comparison=compared_ or compared())


def ranking(*results, **budget):
    return [(item.name, item.eligible) for item in rank(results, Budget(**budget))]


def reason(one, **budget):
    (found,) = rank([one], Budget(**budget))
    assert not found.eligible
    return found.reason


def test_a_failed_candidate_is_rejected_with_its_failure():
    failed = Result("broken", "", failure=Failure("ChildCrashed", "died of SIGSEGV"))
    assert reason(failed) == "failed (ChildCrashed): died of SIGSEGV"


def test_a_ruined_candidate_is_rejected_whatever_its_metric_says():
    text = reason(result("ruined", compared_=compared(lost=300, won=300, agreement=0.4, high=0.43)))
    assert text.startswith("ruined: agrees with the original on 400 of 1000 samples")
    assert "upper limit 43%" in text
    assert "at least 70% is asked" in text


def test_a_candidate_that_may_still_agree_enough_is_not_called_ruined():
    assert ranking(result("near", compared_=compared(agreement=0.68, high=0.70))) == [("near", True)]


def test_without_classes_the_explained_share_ruins():
    noisy = Comparison(
        "rmse", False, 1.0, 1.0, 0.0, Interval(0, 0, 0.95, "by hand", True), N, None, None,
        {"explained": 0.5, "sqnr_db": 3.0}, Interval(0.48, 0.52, 0.95, "paired bootstrap", True),
    )  # fmt: skip
    assert "explains 50% of the original's variance" in reason(result("noisy", compared_=noisy))


def test_a_candidate_that_lost_too_much_is_rejected_with_both_numbers():
    text = reason(result("lossy", compared_=compared(lost=60, won=5)), max_drop=0.01)
    assert "accuracy is worse by 0.0550 on the 1000 samples" in text
    assert "0.01 is allowed" in text


@pytest.mark.parametrize(("lost", "eligible"), [(10, True), (13, True), (14, False)])
def test_up_to_a_standard_error_over_the_limit_is_forgiven(lost, eligible):
    """The error of 13 pairs is 0.0036, so that a drop of 0.013 is forgiven; that of 14 is 0.0037."""
    assert ranking(result("near", compared_=compared(lost=lost)), max_drop=0.01) == [("near", eligible)]


@pytest.mark.parametrize(("drop", "eligible"), [(0.019, True), (0.021, False)])
@pytest.mark.parametrize("confidence", [0.95, 0.99])
def test_a_standard_error_is_read_off_the_interval_where_there_are_no_pairs(drop, eligible, confidence):
    """One of 0.01, whatever the confidence of the interval."""
    z = {0.95: 1.644854, 0.99: 2.326348}[confidence]
    interval = Interval(drop - 0.01 * z, drop + 0.01 * z, confidence, "paired bootstrap", True)
    unbounded = Comparison("rmse", False, 1.0, 1 + drop, drop, interval, N, None, None, {}, None)
    assert ranking(result("near", compared_=unbounded), max_drop=0.01, confidence=confidence) == [
        ("near", eligible)
    ]


def test_a_candidate_that_fails_beyond_doubt_is_rejected_even_within_a_standard_error():
    certain = Comparison(
        "accuracy", True, 0.9, 0.88, 0.02, Interval(0.0101, 0.03, 0.95, "by hand", True), N, 200, 180, {}, None
    )
    assert ranking(result("certain", compared_=certain), max_drop=0.01) == [("certain", False)]


def test_a_candidate_that_is_too_large_is_rejected_with_both_sizes():
    assert reason(result("large", size=1_000_001), max_bytes=1_000_000) == (
        "too large: 1,000,001 bytes, 1,000,000 are allowed"
    )
    assert ranking(result("exact", size=1_000_000), max_bytes=1_000_000) == [("exact", True)]


def test_the_fastest_is_first_and_the_rejected_are_last_in_the_order_they_came():
    failed = Result("failed", "", failure=Failure("TimeLimit", "took longer"))
    lossy = result("lossy", speed=9.0, compared_=compared(lost=90))
    found = ranking(failed, result("slow", 1.2), lossy, result("fast", 3.0), result("middle", 2.0))
    assert found == [("fast", True), ("middle", True), ("slow", True), ("failed", False), ("lossy", False)]


def test_of_those_as_fast_within_three_percent_the_smallest_is_first():
    found = ranking(result("fastest", 3.0, 900), result("peer", 2.92, 500), result("slower", 2.90, 100))
    assert [name for name, _ in found] == ["peer", "fastest", "slower"]


def test_of_those_as_fast_and_as_small_the_one_that_lost_least_is_first():
    found = ranking(
        result("lost more", compared_=compared(lost=5)),
        result("won", compared_=compared(won=2)),
        result("lost less", compared_=compared(lost=1)),
    )
    assert [name for name, _ in found] == ["won", "lost less", "lost more"]


def test_speed_is_the_geometric_mean_over_batch_sizes():
    uneven = result("uneven", speed=(8.0, 2.0))
    assert speedup_of(uneven) == pytest.approx(4.0)
    (ranked,) = rank([uneven], Budget())
    assert ranked.reason == "4.00x as fast as the model as given, 1,000 bytes"
    assert speedup_of(uneven, "float") is None


def against_float(one, speed):
    """The same result, raced against the float file too."""
    own = Measurement("speedup", speed, "x", "max", 20, None, {"batch_size": 1, "against": "float"})
    return replace(one, measurements=(*one.measurements, own))


def test_the_float_file_is_the_steadier_ruler():
    """Eager PyTorch took twice as long in the race of the one that is no faster."""
    slower = against_float(result("slower", 8.0), 1.0)
    faster = against_float(result("faster", 4.0), 1.5)
    found = rank([slower, faster], Budget())
    assert [item.name for item in found] == ["faster", "slower"]
    assert found[0].reason == "4.00x as fast as the model as given, 1.50x as fast as the float file, 1,000 bytes"
    assert pareto([slower, faster]) == ["faster"]


def test_without_a_race_against_the_float_file_the_model_as_given_is_the_ruler():
    found = rank([against_float(result("one", 2.0), 9.0), result("other", 3.0)], Budget())
    assert [item.name for item in found] == ["other", "one"]


def test_a_candidate_without_timings_is_ranked_after_those_with():
    untimed = Result("untimed", "", measurements=numbers((), 10, batches=()), comparison=compared())
    found = rank([untimed, result("timed", 0.5)], Budget())
    assert [item.name for item in found] == ["timed", "untimed"]
    assert found[1].reason == "not timed, 10 bytes"


def test_only_candidates_that_another_beats_in_everything_are_off_the_front():
    found = pareto(
        [
            result("best", 3.0, 500, compared(lost=1)),
            result("beaten", 2.0, 600, compared(lost=2)),
            result("smaller", 1.0, 100, compared(lost=9)),
            result("better", 1.0, 900, compared(won=9)),
            result("twin", 3.0, 500, compared(lost=1)),
            Result("failed", "", failure=Failure("PassError", "no")),
        ]
    )
    assert found == ["best", "smaller", "better", "twin"]
