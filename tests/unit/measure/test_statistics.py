"""The statistics against independent references: a numeric likelihood, exact enumeration, SciPy."""

import itertools
import math

import numpy as np
import pytest
from scipy import stats

from whet.measure import statistics
from whet.measure.statistics import (
    Amounts,
    balanced_difference,
    difference,
    g_mean_difference,
    paired_difference,
    ratio_of_means,
    samples_to_settle,
    sum_limits,
)


def garwood(count: float, confidence: float) -> tuple[float, float]:
    """Exact one-sided limits of a Poisson mean."""
    low = stats.chi2.ppf(1 - confidence, 2 * count) / 2 if count else 0.0
    return low, stats.chi2.ppf(confidence, 2 * count + 2) / 2


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
    ("lost", "won", "n"), [(5, 3, 200), (1, 1, 20), (1, 4, 50), (30, 12, 1000), (40, 40, 100), (9, 0, 300)]
)
@pytest.mark.parametrize("confidence", [0.95, 0.995])
def test_paired_limits_join_the_exact_limits_of_what_was_lost_and_of_what_was_won(lost, won, n, confidence):
    low, high = paired_difference(lost, won, n, confidence)
    (least_lost, most_lost), (least_won, most_won) = (garwood(count, confidence) for count in (lost, won))
    assert n * high == pytest.approx(lost - won + math.hypot(most_lost - lost, won - least_won))
    assert n * low == pytest.approx(lost - won - math.hypot(lost - least_lost, most_won - won))


@pytest.mark.parametrize("n", [10, 300, 10_000])
@pytest.mark.parametrize("confidence", [0.9, 0.95, 0.999])
def test_without_discordant_pairs_the_limits_have_a_closed_form(n, confidence):
    """The rule of three: -ln 0.05 of n samples."""
    expected = min(-math.log(1 - confidence) / n, 1.0)
    assert paired_difference(0, 0, n, confidence) == pytest.approx((-expected, expected), rel=1e-6)


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


@pytest.mark.parametrize("confidence", [0.95, 0.975])
@pytest.mark.parametrize(
    ("n", "p_lost", "p_won"), [(100, 0.02, 0.01), (200, 0.01, 0.01), (270, 0.0101, 0.0), (300, 0.01, 0.0)]
)
def test_each_limit_holds_at_least_as_often_as_it_says(n, p_lost, p_won, confidence):
    """Exact chances, at sizes where a drop at the limit passes as soon as nothing is lost, too."""
    below, above = exact_chances(n, p_lost, p_won, confidence)
    assert min(below, above) >= confidence


@pytest.mark.slow
@pytest.mark.parametrize("n", [50, 100, 200, 500, 1000])
@pytest.mark.parametrize(
    ("p_lost", "p_won"), [(0.02, 0.01), (0.03, 0.02), (0.05, 0.04), (0.1, 0.05), (0.01, 0.01), (0.02, 0.0)]
)
@pytest.mark.parametrize("confidence", [0.95, 0.99])
def test_each_limit_holds_at_least_as_often_as_it_says_over_a_grid(n, p_lost, p_won, confidence):
    below, above = exact_chances(n, p_lost, p_won, confidence)
    assert min(below, above) >= confidence - 1e-6


def tables(*rows):
    return np.array(rows, dtype=np.int64)


def test_the_difference_of_classes_of_one_size_is_that_of_all_pairs():
    equal = tables((80, 5, 3, 12), (90, 2, 2, 6))
    assert balanced_difference(equal, 0.95) == pytest.approx(paired_difference(7, 5, 200, 0.95))


def test_where_nothing_was_lost_the_smallest_class_may_have_lost_most():
    low, high = balanced_difference(tables((900, 0, 0, 0), (20, 0, 0, 0)), 0.95)
    assert (low, high) == pytest.approx((math.log(0.05) / 40, -math.log(0.05) / 40))


def test_the_limits_of_weighted_classes_are_those_of_fay_and_feuer():
    """Only lost pairs: the gamma limits by SciPy's distribution."""
    found = tables((70, 20, 0, 10), (40, 6, 0, 4), (9, 1, 0, 0))
    weights, lost = 1 / (3 * np.array([100, 50, 10])), np.array([20, 6, 1])
    total, variance, most = weights @ lost, weights**2 @ lost, weights.max()
    expected = [
        stats.gamma.ppf(share, mean**2 / v, scale=v / mean)
        for share, mean, v in ((0.05, total, variance), (0.95, total + most, variance + most**2))
    ]
    low, high = balanced_difference(found, 0.95)
    assert high == pytest.approx(expected[1])
    assert low == pytest.approx(total - math.hypot(total - expected[0], -math.log(0.05) * most))


def test_the_fall_of_g_mean_is_bounded_as_its_delta_method_says_where_pairs_are_many():
    found = tables((8000, 400, 300, 1300), (2500, 250, 150, 600))
    low, high = g_mean_difference(found, 0.95)
    sizes = found.sum(axis=1)
    before, after = ((found[:, 0] + found[:, cell]) / sizes for cell in (1, 2))
    point = math.sqrt(before.prod()) - math.sqrt(after.prod())
    slopes = [math.sqrt(share.prod()) / (2 * share) for share in (before, after)]
    worth = np.stack([slopes[0] - slopes[1], slopes[0], -slopes[1], 0 * slopes[0]], axis=1)  # (K, 4) of each cell
    shares = found / sizes[:, None]
    variance = ((shares * worth**2).sum(axis=1) - (shares * worth).sum(axis=1) ** 2) / sizes
    reach = 1.645 * math.sqrt(variance.sum())
    assert (low, high) == pytest.approx((point - reach, point + reach), abs=0.06 * reach)


def test_g_mean_may_fall_where_no_pair_disagrees_and_the_small_class_tells_how_far():
    low, high = g_mean_difference(tables((900, 0, 0, 100), (18, 0, 0, 2)), 0.95)
    assert low == pytest.approx(-high, rel=0.1)
    g = math.sqrt(0.81)
    assert high == pytest.approx(g * (1 - math.sqrt(1 - 3 / 18)), rel=0.15)  # three of the twenty


def test_a_class_that_is_lost_altogether_takes_g_mean_with_it():
    low, high = g_mean_difference(tables((90, 0, 0, 10), (0, 30, 0, 10)), 0.95)
    assert 0.4 < low < math.sqrt(0.9 * 0.75) < high + 0.1


def test_g_mean_is_drawn_the_same_way_each_time():
    found = tables((90, 2, 1, 10), (40, 3, 1, 10))
    assert g_mean_difference(found, 0.95) == g_mean_difference(found, 0.95)


def test_limits_of_many_classes_are_drawn_in_parts(monkeypatch):
    few = tables((90, 2, 1, 10), (40, 3, 1, 10))
    whole = g_mean_difference(few, 0.95)
    monkeypatch.setattr(statistics, "_HELD", 1000)
    assert g_mean_difference(few, 0.95) == whole
    monkeypatch.setattr(statistics, "_HELD", 400_000)
    low, high = g_mean_difference(np.tile(tables((9, 1, 0, 0)), (400, 1)), 0.95)
    assert low < 1 - 0.9 < high


def test_one_more_lost_pair_is_reckoned_with_where_it_costs_most():
    """Found by trying each class, among them one that the original has all wrong."""
    for found in (tables((90, 2, 1, 10), (40, 3, 1, 10), (5, 0, 0, 9)), tables((9, 0, 0, 1), (0, 0, 4, 6))):
        for cell, sign in ((1, 1), (2, -1)):
            falls = []
            for at in range(len(found)):
                more = found.copy()
                more[at, cell] += 1
                before, after = ((more[:, 0] + more[:, each]) / more.sum(axis=1) for each in (1, 2))
                falls.append(sign * (stats.gmean(before) - stats.gmean(after)))
            assert statistics._costliest(found, cell) == int(np.argmax(falls))


@pytest.mark.slow
@pytest.mark.parametrize("growth", [0.0, 0.1])
def test_a_ratio_of_means_has_fiellers_limits_where_samples_are_many(growth):
    rng = np.random.default_rng(1)
    before = rng.normal(size=4000) ** 2
    after = (1 + growth) * before + rng.normal(0, 0.2, 4000) * before
    low, high = ratio_of_means(after, before, 0.95)
    ratios = np.linspace(0.95, 1.15, 801)
    scores = [abs(stats.ttest_1samp(after - ratio * before, 0).statistic) for ratio in ratios]
    inside = ratios[np.array(scores) < 1.645]
    assert low <= inside.min() + 3e-4
    assert high >= inside.max() - 3e-4
    assert high - low < 1.15 * (inside.max() - inside.min()) + 5e-4


def test_a_ratio_that_is_the_same_for_every_sample_is_certain_and_that_of_one_sample_is_not():
    before = np.arange(1.0, 200.0)
    assert ratio_of_means(3 * before, before, 0.95) == pytest.approx((3.0, 3.0))
    assert ratio_of_means(0 * before, before, 0.95) == pytest.approx((0.0, 0.0))
    assert ratio_of_means(np.array([2.0]), np.array([1.0]), 0.95) == (0.0, math.inf)


def test_swapping_the_means_inverts_the_limits_of_their_ratio():
    rng = np.random.default_rng(2)
    a, b = rng.gamma(2, size=150), rng.gamma(2, size=150)
    low, high = ratio_of_means(a, b, 0.95)
    assert ratio_of_means(b, a, 0.95) == pytest.approx((1 / high, 1 / low), rel=1e-6)


def test_few_great_losses_are_reckoned_with_where_students_t_overlooks_them():
    """Two samples in 200 lose much: t bounds the sum from above by less than two more would take it to."""
    values = np.r_[np.full(198, -0.01), 10.0, 12.0]
    _, high = sum_limits(values, 0.95)
    normal = values.sum() + 1.653 * values.std(ddof=1) * math.sqrt(200)
    assert high > values.sum() + 3 * 12 > normal


def foreseen(values):
    """What one more sample may lose, and win, by hand: more than the largest, the fewer samples carry a side."""
    sides = [values[values > 0], -values[values < 0]]
    few = 1 / (np.abs(values).sum() ** 2 / (values**2).sum())
    least = np.abs(values).max() * (1 + 5 * few)
    return [max(least, side.max() * (1 + 20 * (side**2).sum() / side.sum() ** 2)) if len(side) else least
            for side in sides]  # fmt: skip


@pytest.mark.parametrize("share", [0.02, 0.3, 1.0])
def test_a_sum_has_the_limits_of_the_weighted_counts_of_both_sides(share):
    rng = np.random.default_rng(4)
    values = rng.laplace(0.1, 1, 200) * (rng.random(200) < share)
    lost, won = np.maximum(values, 0), np.maximum(-values, 0)
    more = foreseen(values)
    amounts = [Amounts(side.sum(), (side**2).sum(), most) for side, most in zip((lost, won), more, strict=True)]
    assert sum_limits(values, 0.95) == pytest.approx(difference(*amounts, 0.95))
    assert sum_limits(-values, 0.95) == pytest.approx(tuple(-limit for limit in sum_limits(values, 0.95))[::-1])
    assert sum_limits(1e-6 * values, 0.95) == pytest.approx(
        tuple(1e-6 * limit for limit in sum_limits(values, 0.95))
    )


def test_what_the_few_lost_weighs_less_the_more_they_are():
    """The same sum in few samples and in many: the limit closes in faster than with the root of their number."""
    reach = [sum_limits(np.r_[np.full(count, 60 / count), np.zeros(900)], 0.95)[1] - 60 for count in (3, 12, 60)]
    assert reach[0] > 3 * reach[1] > 9 * reach[2] > 0


def test_where_the_most_a_sample_may_lose_is_known_nothing_is_guessed():
    values = np.array([1.0] * 9 + [-1.0] * 4 + [0.0] * 87)
    known = tuple(100 * limit for limit in paired_difference(9, 4, 100, 0.95))
    assert sum_limits(values, 0.95, 1.0) == pytest.approx(known)
    assert sum_limits(np.zeros(50), 0.95, 1.0) == pytest.approx(
        tuple(50 * x for x in paired_difference(0, 0, 50, 0.95))
    )
    low, high = sum_limits(values, 0.95)
    assert low < known[0]
    assert high > known[1]


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
    assert needed == pytest.approx(-math.log(0.05) / 0.01, rel=0.01)


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


def test_resamples_without_a_number_are_the_worst_on_either_side():
    """One in three resamples has none of sample 0."""
    found = statistics.bootstrap(lambda at: 1.0 if 0 in at else math.nan, 10, 0.95, resamples=500)
    assert found == (-math.inf, math.inf)
    some = statistics.bootstrap(lambda at: math.nan if (at == 0).sum() > 4 else 1.0, 10, 0.95, resamples=500)
    assert some == (1.0, 1.0)  # under one in a hundred


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


@pytest.mark.parametrize(("n", "confidence"), [(2, 0.95), (4, 0.9), (12, 0.95)])
def test_the_interval_of_a_mean_ratio_is_students_t_of_the_logarithms(n, confidence):
    ratios = np.random.default_rng(n).lognormal(0.5, 0.1, n)
    point, low, high = statistics.mean_ratio(ratios, confidence)
    assert point == pytest.approx(stats.gmean(ratios))
    limits = stats.ttest_1samp(np.log(ratios), 0).confidence_interval(confidence)
    assert (low, high) == pytest.approx((np.exp(limits.low), np.exp(limits.high)))


def test_one_ratio_alone_bounds_nothing():
    assert statistics.mean_ratio(np.array([2.0])) == (2.0, 0.0, math.inf)


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
