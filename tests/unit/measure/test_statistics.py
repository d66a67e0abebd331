"""The statistics against independent references: a numeric likelihood, exact enumeration, SciPy."""

import itertools
import math

import numpy as np
import pytest
from scipy import optimize, stats

from whet.measure import statistics
from whet.measure.statistics import paired_difference, samples_to_settle

Z = stats.norm.ppf(0.95)


def efficient_score(lost: int, won: int, n: int, delta: float) -> float:
    """Rao's score of a difference ``delta``, the nuisance parameter profiled numerically, by Fisher's information.

    The cells have probabilities (q + delta, q, 1 - 2 q - delta).
    """
    seen = np.array([lost, won, n - lost - won])

    def cells(q: float) -> np.ndarray:
        return np.array([q + delta, q, 1 - 2 * q - delta])

    low, high = max(0.0, -delta) + 1e-12, (1 - delta) / 2 - 1e-12
    found = optimize.minimize_scalar(
        lambda q: -(seen * np.log(cells(q))).sum(), bounds=(low, high), method="bounded", options={"xatol": 1e-13}
    )
    p, by_delta, by_q = cells(found.x), np.array([1.0, 0.0, -1.0]), np.array([1.0, 1.0, -2.0])

    def information(a, b):
        return n * (a * b / p).sum()

    left = information(by_delta, by_delta) - information(by_delta, by_q) ** 2 / information(by_q, by_q)
    return (seen * by_delta / p).sum() / math.sqrt(left)


def exact_chances(n: int, p_lost: float, p_won: float, confidence: float = 0.95) -> tuple[float, float]:
    """Return the exact chances that the true difference is within the upper limit, and within the lower one."""
    most_lost, most_won = (int(stats.binom.ppf(1 - 1e-8, n, p)) + 1 for p in (p_lost, p_won))
    below = above = 0.0
    for lost, won in itertools.product(range(most_lost + 1), range(most_won + 1)):
        chance = stats.binom.pmf(lost, n, p_lost) * stats.binom.pmf(won, n - lost, p_won / (1 - p_lost))
        if chance > 1e-10:
            low, high = paired_difference(lost, won, n, confidence)
            below += chance * (p_lost - p_won <= high)
            above += chance * (p_lost - p_won >= low)
    return below, above


@pytest.mark.parametrize(
    ("lost", "won", "n"), [(5, 3, 200), (1, 1, 20), (1, 4, 50), (30, 12, 1000), (40, 40, 100), (9, 1, 12)]
)
@pytest.mark.parametrize("confidence", [0.95, 0.995])
def test_paired_limits_invert_the_score_test_of_the_profiled_likelihood(lost, won, n, confidence):
    low, high = paired_difference(lost, won, n, confidence)
    z = stats.norm.ppf(confidence)
    assert efficient_score(lost, won, n, low) == pytest.approx(z, rel=1e-3)
    assert efficient_score(lost, won, n, high) == pytest.approx(-z, rel=1e-3)


@pytest.mark.parametrize("n", [1, 10, 300, 10_000])
@pytest.mark.parametrize("confidence", [0.9, 0.95, 0.999])
def test_without_discordant_pairs_the_limits_have_a_closed_form(n, confidence):
    z = stats.norm.ppf(confidence)
    low, high = paired_difference(0, 0, n, confidence)
    assert high == pytest.approx(z**2 / (n + z**2), rel=1e-6)
    assert low == pytest.approx(-(z**2) / (n + z**2), rel=1e-6)


EVERY_SMALL_TABLE = [(lost, won, n) for n in range(1, 8) for lost in range(n + 1) for won in range(n - lost + 1)]


@pytest.mark.parametrize("confidence", [0.8, 0.95, 0.999])
@pytest.mark.parametrize(
    "tables", [EVERY_SMALL_TABLE, [(499, 1, 500), (0, 500, 500), (250, 250, 500), (3, 0, 500)]]
)
def test_limits_enclose_the_estimate_stay_possible_and_mirror_when_lost_and_won_swap(tables, confidence):
    for lost, won, n in tables:
        low, high = paired_difference(lost, won, n, confidence)
        assert -1 <= low <= (lost - won) / n + 1e-9
        assert (lost - won) / n - 1e-9 <= high <= 1
        assert paired_difference(won, lost, n, confidence) == pytest.approx((-high, -low), abs=1e-6)


@pytest.mark.parametrize(("p_lost", "p_won"), [(0.0, 0.0), (0.02, 0.01), (0.0, 0.1), (0.3, 0.3)])
def test_more_samples_of_the_same_rates_give_narrower_limits(p_lost, p_won):
    sizes = [100, 200, 400, 1600]
    limits = [paired_difference(p_lost * n, p_won * n, n, 0.95) for n in sizes]
    lows, highs = np.array(limits).T
    assert (np.diff(lows) > 0).all()
    assert (np.diff(highs) < 0).all()


def test_more_confidence_gives_wider_limits():
    narrow, wide = paired_difference(7, 2, 150, 0.9), paired_difference(7, 2, 150, 0.99)
    assert wide[0] < narrow[0] < narrow[1] < wide[1]


@pytest.mark.parametrize(("n", "p_lost", "p_won"), [(100, 0.02, 0.01), (200, 0.01, 0.01)])
def test_each_limit_holds_as_often_as_it_says(n, p_lost, p_won):
    below, above = exact_chances(n, p_lost, p_won)
    assert below >= 0.93
    assert above >= 0.93


@pytest.mark.parametrize(("n", "p_won"), [(200, 0.01), (100, 0.005)])
def test_a_drop_that_equals_the_limit_passes_one_time_in_twenty(n, p_won):
    below, _ = exact_chances(n, p_won + 0.01, p_won)
    assert 1 - below <= 0.055


@pytest.mark.slow
@pytest.mark.parametrize("n", [50, 100, 200, 500, 1000])
@pytest.mark.parametrize(
    ("p_lost", "p_won"), [(0.02, 0.01), (0.03, 0.02), (0.05, 0.04), (0.1, 0.05), (0.01, 0.01), (0.02, 0.0)]
)
@pytest.mark.parametrize("confidence", [0.95, 0.99])
def test_each_limit_holds_as_often_as_it_says_over_a_grid(n, p_lost, p_won, confidence):
    below, above = exact_chances(n, p_lost, p_won, confidence)
    assert min(below, above) >= confidence - 0.02


@pytest.mark.slow
def test_simulated_verdicts_are_falsely_pass_about_one_time_in_twenty():
    """End to end on simulated outputs, where the enumeration above trusts its own arithmetic."""
    from whet.data.tasks import Classification
    from whet.measure.quality import compare
    from whet.measure.verdict import Answer, Budget, quality

    rng, n, passed, tries = np.random.default_rng(0), 400, 0, 4000
    for _ in range(tries):
        fate = rng.choice(4, n, p=[0.90, 0.03, 0.02, 0.05])  # both right, lost, won, both wrong
        right, still = np.isin(fate, (0, 1)), np.isin(fate, (0, 2))
        truth = np.zeros(n, dtype=np.int64)
        original, outputs = (np.eye(2, dtype=np.float32)[np.where(hit, 0, 1)] for hit in (right, still))
        passed += quality(compare(Classification(2), original, outputs, truth), Budget()).answer is Answer.PASS
    assert passed / tries <= 0.05 + 3 * math.sqrt(0.05 * 0.95 / tries)


@pytest.mark.parametrize(
    ("lost", "won", "n", "limit"),
    [(3, 2, 100, 0.05), (0, 0, 100, 0.01), (2, 6, 60, 0.01), (12, 4, 300, 0.01), (1, 0, 30, 0.01)],
)
def test_the_samples_to_settle_settle_it_and_a_tenth_fewer_do_not(lost, won, n, limit):
    def settled(size: float) -> bool:
        low, high = paired_difference(lost * size / n, won * size / n, size, 0.95)
        return high <= limit or low > limit

    needed = samples_to_settle(lost, won, n, limit, 0.95)
    assert needed is not None
    assert needed > n  # these tables are open
    assert settled(needed)
    assert not settled(0.9 * needed)


def test_no_number_of_samples_settles_a_drop_at_the_limit_itself():
    assert samples_to_settle(3, 2, 100, 0.01, 0.95) is None


def test_what_is_settled_already_needs_no_more_samples():
    needed = samples_to_settle(0, 0, 10_000, 0.01, 0.95)
    assert needed is not None
    assert needed == pytest.approx(Z**2 * 99, rel=0.01)  # z^2 / (n + z^2) = 0.01


@pytest.mark.parametrize("statistic", [np.mean, np.std])
def test_bootstrap_limits_agree_with_those_of_scipy(statistic):
    values = np.random.default_rng(1).gamma(2.0, size=120)
    low, high = statistics.bootstrap(lambda at: float(statistic(values[at])), len(values), 0.95)
    there = stats.bootstrap(
        (values,), statistic, confidence_level=0.9, method="percentile", n_resamples=2000, rng=7
    ).confidence_interval
    assert (low, high) == pytest.approx((there.low, there.high), abs=0.06 * (there.high - there.low))


def test_bootstrap_is_repeatable_and_follows_its_seed():
    values = np.random.default_rng(2).normal(size=40)
    found = [statistics.bootstrap(lambda at: values[at].mean(), 40, 0.95, seed=s, resamples=100) for s in (0, 0, 1)]
    assert found[0] == found[1] != found[2]


def test_a_statistic_that_is_never_finite_bounds_nothing():
    assert statistics.bootstrap(lambda at: math.nan, 10, 0.95, resamples=20) == (-math.inf, math.inf)


def test_resamples_that_lost_everything_are_not_left_out_of_the_bounds():
    low, high = statistics.bootstrap(lambda at: math.inf if 0 in at else 0.0, 10, 0.95, resamples=500)
    assert (low, high) == (0.0, math.inf)


def test_the_ratio_of_rounds_is_recovered_under_drift_within_its_interval():
    rng = np.random.default_rng(3)
    drift = np.where(np.arange(80) < 40, 1, 3)  # both slow down together, halfway
    first, second = (scale * drift * rng.normal(1, 0.02, 80) for scale in (2.0, 1.0))
    point, low, high = statistics.paired_ratio(first, second)
    assert point == np.median(first / second) == pytest.approx(2.0, rel=0.02)
    assert 1.97 < low <= 2.0 <= high < 2.03


@pytest.mark.parametrize("rounds", [6, 15, 20, 33])
def test_the_interval_of_a_ratio_is_that_of_the_sign_test(rounds):
    """Every value inside is accepted, and every value outside rejected, at 5 % two-sided."""
    rng = np.random.default_rng(rounds)
    first, second = rng.gamma(50, size=rounds), rng.gamma(30, size=rounds)
    _, low, high = statistics.paired_ratio(first, second)
    for value, accepted in ((low * 0.999, False), (low * 1.001, True), (high * 0.999, True), (high * 1.001, False)):
        above = int((first / second > value).sum())
        assert (stats.binomtest(above, rounds).pvalue > 0.05) == accepted


def test_swapping_two_contestants_inverts_an_odd_number_of_ratios():
    rng = np.random.default_rng(6)
    first, second = rng.gamma(50, size=21), rng.gamma(30, size=21)
    point, low, high = statistics.paired_ratio(first, second)
    assert statistics.paired_ratio(second, first) == pytest.approx((1 / point, 1 / high, 1 / low))


@pytest.mark.parametrize(("rounds", "confidence"), [(1, 0.95), (5, 0.95), (6, 0.99)])
def test_too_few_rounds_bound_a_ratio_by_nothing(rounds, confidence):
    found = statistics.paired_ratio(np.full(rounds, 6.0), np.full(rounds, 3.0), confidence)
    assert found == (2.0, 0.0, math.inf)


@pytest.mark.parametrize(("family", "each"), [(0, 0.95), (1, 0.95), (5, 0.99), (10, 0.995)])
def test_a_family_shares_its_doubt_equally(family, each):
    assert statistics.family_confidence(0.95, family) == pytest.approx(each)
