"""Finding numbers among others."""

from whet.measure.measurement import Measurement, find, speedups, value_of

NUMBERS = (
    Measurement("latency_p50_ms", 2.0, "ms", conditions={"batch_size": 1, "contestant": "candidate"}),
    Measurement("latency_p50_ms", 9.0, "ms", conditions={"batch_size": 32, "contestant": "candidate"}),
    Measurement("speedup", 3.0, "x", conditions={"batch_size": 1, "against": "original"}),
    Measurement("speedup", 1.5, "x", conditions={"batch_size": 1, "against": "float"}),
    Measurement("speedup", 2.0, "x", conditions={"batch_size": 1, "against": "original", "contestant": "float"}),
    Measurement("auc", None),
)


def test_the_first_that_meets_every_condition_is_found():
    assert find(NUMBERS, "latency_p50_ms") is NUMBERS[0]
    assert find(NUMBERS, "latency_p50_ms", batch_size=32) is NUMBERS[1]
    assert find(NUMBERS, "latency_p50_ms", batch_size=32, contestant="float") is None
    assert find(NUMBERS, "size_bytes") is None


def test_a_value_is_none_both_where_it_is_missing_and_where_it_could_not_be_measured():
    assert value_of(NUMBERS, "latency_p50_ms", batch_size=32) == 9.0
    assert value_of(NUMBERS, "auc") is None
    assert value_of(NUMBERS, "size_bytes") is None


def test_a_candidates_own_speedups_leave_out_those_of_other_contestants():
    assert [item.value for item in speedups(NUMBERS, "original")] == [3.0]
    assert [item.value for item in speedups(NUMBERS, "float")] == [1.5]
