"""Races on a clock of their own: exact durations, no waiting."""

import gc
from types import SimpleNamespace

import numpy as np
import pytest

from whet.measure import latency
from whet.measure.latency import Effort, race

FAR = Effort(rounds=20, most_rounds=20, seconds=1e9, precision=0.0)  # twenty rounds, whatever happens


class Clock:
    """Time that passes only where a contestant spends it; ``speed`` slows everything down."""

    def __init__(self):
        self.ns = 0
        self.log: list[str] = []
        self.slow_after_ns: float = float("inf")

    def contestant(self, name, milliseconds):
        """A call of this duration, or of those that an iterator yields, in turns."""
        each = iter(milliseconds) if hasattr(milliseconds, "__next__") else None

        def call():
            self.log.append(name)
            spent = 1e6 * (next(each) if each else milliseconds)
            self.ns += int(spent * (3 if self.ns > self.slow_after_ns else 1))

        return call

    def turns(self) -> list[str]:
        """Names in order, each run of the same name as one."""
        return [name for at, name in enumerate(self.log) if at == 0 or self.log[at - 1] != name]


@pytest.fixture
def clock(monkeypatch):
    found = Clock()
    fake = SimpleNamespace(perf_counter_ns=lambda: found.ns, perf_counter=lambda: found.ns / 1e9)
    monkeypatch.setattr(latency, "time", fake)
    return found


def test_the_ratio_of_known_durations_is_recovered_exactly(clock):
    timings = race({"slow": clock.contestant("slow", 6.0), "fast": clock.contestant("fast", 1.5)}, FAR)
    point, interval = timings.ratio("slow", "fast")
    assert point == interval.low == interval.high == 4.0
    assert timings.rounds_ms["slow"].tolist() == [6.0] * 20


def test_a_clock_that_drifts_halfway_does_not_bias_the_ratio(clock):
    contestants = {"slow": clock.contestant("slow", 4.0), "fast": clock.contestant("fast", 2.0)}
    clock.slow_after_ns = 200e6  # of some 350 ms before the drift
    timings = race(contestants, FAR)
    assert set(timings.rounds_ms["slow"]) == {4.0, 12.0}
    point, interval = timings.ratio("slow", "fast")
    assert point == pytest.approx(2.0)
    assert interval.low == pytest.approx(2.0)
    assert interval.high == pytest.approx(2.0)


def test_a_rare_hiccup_moves_no_median(clock):
    rng = np.random.default_rng(0)
    jitter = (2.0 if rng.random() < 0.9 else 40.0 for _ in iter(int, 1))
    timings = race({"calm": clock.contestant("calm", 1.0), "jumpy": clock.contestant("jumpy", jitter)}, FAR)
    assert timings.ratio("jumpy", "calm")[0] == pytest.approx(2.0)
    assert timings.calls_ms["jumpy"].max() == 40.0  # but it is seen in the tail


def test_every_contestant_has_a_turn_each_round_and_the_order_rotates(clock):
    names = ["a", "b", "c"]
    race({name: clock.contestant(name, 9.0) for name in names}, Effort(6, 6, 1e9, 0.0))
    turns = clock.log[-18:]  # one call a turn at 9 ms, after the warm-up
    rounds = [turns[at : at + 3] for at in range(0, 18, 3)]
    assert all(sorted(one) == names for one in rounds)
    assert sorted(one[0] for one in rounds) == ["a", "a", "b", "b", "c", "c"]


@pytest.mark.parametrize(("milliseconds", "calls"), [(20.0, 1), (8.0, 1), (2.0, 4), (0.01, 64)])
def test_a_turn_is_as_many_calls_as_last_eight_milliseconds_up_to_64(clock, milliseconds, calls):
    timings = race({"one": clock.contestant("one", milliseconds), "other": clock.contestant("other", 1.0)}, FAR)
    assert len(timings.calls_ms["one"]) == 20 * calls


def test_warm_up_calls_are_not_counted(clock):
    first_is_slow = iter([500.0, 300.0, *[2.0] * 10_000])
    timings = race({"one": clock.contestant("one", first_is_slow)}, FAR)
    assert timings.calls_ms["one"].max() == 2.0


def noisy(seed):
    rng = np.random.default_rng(seed)
    return (float(rng.choice([9.0, 20.0])) for _ in iter(int, 1))


@pytest.mark.parametrize(
    ("effort", "rounds", "why"),
    [
        (Effort(10, 60, 1e9, 0.05), 10, "precise after the least rounds"),
        (Effort(12, 60, 1e9, 0.05), 15, "precision is looked at every fifth round"),
        (Effort(30, 60, 0.0, 0.05), 10, "a third of the rounds took four times the seconds"),
        (Effort(9, 60, 0.0, 0.05), 6, "an interval needs six"),
    ],
)
def test_steady_contestants_stop_early(clock, effort, rounds, why):
    slow, fast = clock.contestant("slow", 10.0), clock.contestant("fast", 5.0)
    assert len(race({"slow": slow, "fast": fast}, effort).rounds_ms["slow"]) == rounds, why


def test_noisy_contestants_run_to_the_most_rounds(clock):
    found = race(
        {"a": clock.contestant("a", noisy(1)), "b": clock.contestant("b", noisy(2))}, Effort(5, 23, 1e9, 0.001)
    )
    assert len(found.rounds_ms["a"]) == 23


def test_noisy_contestants_stop_after_their_seconds(clock):
    contestants = {"a": clock.contestant("a", 10.0), "b": clock.contestant("b", noisy(3))}
    found = race(contestants, Effort(5, 999, 0.25, 0.0))
    rounds = found.rounds_ms["a"] + found.rounds_ms["b"]  # one call a turn
    assert rounds.sum() > 250 >= rounds[:-1].sum()


def test_every_round_is_told(clock):
    told = []
    race({"one": clock.contestant("one", 1.0)}, Effort(5, 9, 1e9, 0.1), told.append)
    assert [(event.done, event.total) for event in told] == [(at, 9) for at in range(1, 6)]


def test_garbage_is_not_collected_during_a_race_and_is_again_after_it(clock):
    seen = []
    assert gc.isenabled()
    timed = race({"one": lambda: (seen.append(gc.isenabled()), clock.contestant("one", 4.0)())[0]}, FAR)
    calls = len(timed.calls_ms["one"])
    assert seen[-calls:] == [False] * calls
    assert gc.isenabled()


def test_garbage_collection_comes_back_after_a_contestant_fails(clock):
    calls = iter(range(30))

    def fails():
        clock.ns += 9_000_000
        if next(calls) == 20:
            raise RuntimeError("out of order")

    with pytest.raises(RuntimeError, match="out of order"):
        race({"one": fails}, Effort(40, 40, 1e9, 0.0))
    assert gc.isenabled()


def test_garbage_collection_stays_off_where_it_was_off(clock):
    gc.disable()
    try:
        race({"one": clock.contestant("one", 4.0)}, FAR)
        assert not gc.isenabled()
    finally:
        gc.enable()


def test_percentiles_and_throughput_come_from_all_calls(clock):
    timings = race(
        {
            "one": clock.contestant("one", (float(at % 10 + 1) for at in iter(range(10_000)))),
        },
        FAR,
    )
    found = {item.metric: item for item in latency.measurements(timings, "one", 32, contestant="one")}
    calls = timings.calls_ms["one"]
    for share in (50, 90, 99):
        assert found[f"latency_p{share}_ms"].value == np.percentile(calls, share)
    assert found["throughput_per_s"].value == pytest.approx(1000 * 32 / np.median(calls))
    assert found["throughput_per_s"].goal == "max"
    assert found["latency_p50_ms"].conditions == {"batch_size": 32, "contestant": "one"}
    assert found["latency_p50_ms"].samples == len(calls)


def test_a_speedup_above_one_means_faster_than_the_other(clock):
    timings = race({"given": clock.contestant("given", 6.0), "small": clock.contestant("small", 2.0)}, FAR)
    found = latency.speedup(timings, "small", "given", 1)
    assert found.value == 3.0
    assert found.conditions["against"] == "given"
    assert found.samples == 20


@pytest.mark.slow
def test_busy_waits_of_a_known_ratio_are_told_apart_on_the_real_clock():
    import time

    def wait(milliseconds):
        def call():
            end = time.perf_counter() + milliseconds / 1000
            while time.perf_counter() < end:
                pass

        return call

    point, interval = race({"slow": wait(3.0), "fast": wait(1.0)}).ratio("slow", "fast")
    assert point == pytest.approx(3.0, rel=0.05)
    assert interval.high - interval.low < 0.3
