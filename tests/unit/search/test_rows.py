"""The rows that tables and figures share."""

import pytest

from whet.search.rows import batch_sizes, rows, runtime_gain


def test_the_original_comes_first_and_failed_candidates_are_rows_too(make):
    table = rows(make(failed=2))
    assert [row.name for row in table][:3] == ["original", "float", "graph-only"]
    failed = [row for row in table if row.failure]
    assert [row.name for row in failed] == ["static-int8-edges", "torch-half"]
    assert failed[1].failure == "ChildCrashed: died of SIGSEGV; its last words are in logs/build.log"
    assert failed[1].value is failed[1].latency_ms is None


def test_a_row_holds_its_own_numbers_and_not_those_of_the_other_contestants(make):
    row = next(row for row in rows(make()) if row.name == "static-int8")
    assert row.latency_ms == pytest.approx({1: 2.1 / 6.4, 32: 2.1 * 32**0.8 / 3.2})
    assert {size: item.value for size, item in row.speedup.items()} == pytest.approx({1: 6.4, 32: 3.2})
    assert {size: item.value for size, item in row.speedup_float.items()} == pytest.approx(
        {1: 6.4 / 2.9, 32: 6.4 / 2.9}
    )
    assert row.overall == pytest.approx((6.4 * 3.2) ** 0.5)
    assert (row.size_bytes, row.value, row.drop) == (300_000, pytest.approx(0.912), 0.003)
    assert row.chosen


def test_the_original_has_its_own_latencies_and_four_bytes_a_parameter(make):
    first = rows(make())[0]
    assert first.latency_ms == pytest.approx({1: 2.1, 32: 2.1 * 32**0.8})
    assert first.size_bytes == 4 * 270_000
    assert (first.drop, first.overall) == (0.0, 1.0)


def test_no_row_of_a_side_by_side_run_is_chosen(make):
    assert not any(row.chosen for row in rows(make(kind="run")))


def test_the_original_of_a_run_is_shown_on_the_part_that_it_is_judged_on(make, maker):
    outcome = make(kind="run")
    assert outcome.results[0].part == "test"
    assert rows(outcome)[0].value == outcome.results[0].comparison.before


@pytest.mark.parametrize("sizes", [(1,), (1, 32), (8, 1, 64)])
def test_the_batch_sizes_are_those_that_were_measured_in_order(make, sizes):
    assert batch_sizes(make(batches=sizes)) == sorted(sizes)


def test_what_the_runtime_alone_gave_is_the_float_models_speedup(make):
    gains = runtime_gain(make())
    assert {size: item.value for size, item in gains.items()} == pytest.approx({1: 2.9, 32: 1.45})
    assert runtime_gain(make({"results": ()})) == {}
