"""Sentences of a laboratory are chosen by its numbers: where the ranking is reversed they turn."""

from dataclasses import dataclass, replace
from itertools import combinations

import pytest

from whet.measure.measurement import Interval, Measurement
from whet.measure.quality import Quality
from whet.report import lab_compared, lab_sizes
from whet.report.lab_results import BASE, Shelf, Variant
from whet.trials.pairs import Contents, Pair, Pairs


@dataclass(frozen=True)
class Made:
    """A file by hand: accuracy, times as fast as fp32, bytes, deflated bytes, zeros, entropy of its bytes."""

    name: str
    family: str
    accuracy: float
    speed: float
    size: float
    deflated: float
    zeros: float = 0.0
    entropy: float = 7.4


USUAL = (
    Made("fp32", "none", 0.91, 1.0, 400_000, 370_000),
    Made("int8-full", "quantization", 0.90, 3.0, 110_000, 90_000, 0.01, 6.9),
    Made("fp16", "quantization", 0.91, 1.0, 202_000, 186_000, 0.0, 7.2),
    Made("pruned-0.8-fp32", "pruning", 0.89, 1.0, 400_000, 110_000, 0.8, 2.2),
    Made("clustered-16-fp32", "clustering", 0.88, 1.0, 400_000, 90_000, 0.0, 4.0),
)


def put(made=USUAL, *, accuracy_off=0.005, speed_off=0.05, lost=0.005):
    """Return the shelf of some files; limits of accuracy, ratios and drops reach so far to each side."""
    pairs = tuple(
        Pair(
            a.name, b.name, a.accuracy - b.accuracy, a.accuracy - b.accuracy - accuracy_off,
            a.accuracy - b.accuracy + accuracy_off, 100, 20, a.speed / b.speed,
            a.speed / b.speed / (1 + speed_off), a.speed / b.speed * (1 + speed_off),
        )
        for a, b in combinations(made, 2)
    )  # fmt: skip
    found = Pairs(1000, Quality(1000, {"accuracy": 0.91}), pairs, {}, {}, 12, 96, 0.999)
    files = tuple(variant(each, found, lost) for each in made)
    original = Variant("original", "none", quality=Quality(1000, {"accuracy": 0.91}))
    return Shelf(original, files, (), found)


def variant(made, pairs, lost):
    drop = 0.91 - made.accuracy
    return Variant(
        made.name,
        made.family,
        quality=Quality(1000, {"accuracy": made.accuracy}),
        drop=drop,
        interval=Interval(drop - lost, drop + lost, 0.99, "by hand", one_sided=True),
        faster=pairs.of(made.name, BASE) if made.name != BASE else None,
        size_bytes=made.size,
        deflated_bytes=made.deflated,
        deflation_percent=round(100 * (1 - made.deflated / made.size)),
        contents=Contents(made.entropy, made.zeros, made.zeros, 16),
    )


def changed(name, **changes):
    return tuple(replace(each, **changes) if each.name == name else each for each in USUAL)


def told(sentences):
    return "\n".join(sentences)


def test_the_best_of_each_optimization_are_compared_two_and_two():
    text = told(lab_compared.quality(put()))
    assert "quantization `fp16` (0.9100), pruning `pruned-0.8-fp32` (0.8900), clustering" in text
    assert "`fp16` is better than `pruned-0.8-fp32` by 0.0200 of accuracy (+0.0150 to +0.0250)" in text
    assert "`pruned-0.8-fp32` is better than `clustered-16-fp32` by 0.0100" in text


def test_where_pruning_is_the_better_the_sentence_turns():
    text = told(lab_compared.quality(put(changed("pruned-0.8-fp32", accuracy=0.95))))
    assert "`pruned-0.8-fp32` is better than `fp16` by 0.0400 of accuracy (+0.0350 to +0.0450)" in text
    assert "`fp16` is better than `pruned-0.8-fp32`" not in text


def test_limits_that_do_not_separate_two_are_said_not_to():
    text = told(lab_compared.quality(put(accuracy_off=0.05)))
    assert "`fp16` and `pruned-0.8-fp32` are not told apart: the former is better by 0.0200 of accuracy" in text
    assert "is better than `" not in text


def test_what_lost_against_the_original_beyond_doubt_is_told_from_what_may_not_have():
    text = told(lab_compared.quality(put()))
    assert "Worse than the original beyond doubt: `int8-full` (worse by +0.0100, +0.0050 to +0.0150)" in text
    assert "Not told apart from the original in accuracy: `fp32`" in text
    assert "Better than the original" not in text
    text = told(lab_compared.quality(put(changed("fp16", accuracy=0.93))))
    assert "Better than the original beyond doubt: `fp16` (worse by -0.0200" in text
    assert "beyond doubt" not in told(lab_compared.quality(put(lost=0.5)))


def test_speed_is_told_against_the_float_file_and_two_and_two():
    text = told(lab_compared.speeds(put()))
    assert (
        "The fastest of quantization: `int8-full` is faster than `fp32`, 3.00 times as fast (2.86 to 3.15)" in text
    )
    assert "The fastest of pruning: `pruned-0.8-fp32` and `fp32` are not told apart in speed" in text
    assert "`int8-full` is faster than `pruned-0.8-fp32`, 3.00 times as fast" in text


def test_where_quantization_is_the_slower_the_sentences_turn():
    slow = tuple(replace(each, speed=0.5) if each.family == "quantization" else each for each in USUAL)
    text = told(lab_compared.speeds(put(slow)))
    assert "`fp16` is slower than `fp32`, 0.50 times as fast" in text
    assert "`pruned-0.8-fp32` is faster than `fp16`, 2.00 times as fast (1.90 to 2.10)" in text


def test_the_conversion_is_told_by_its_own_race():
    limits = Interval(9.0, 11.0, 0.95, "by hand")
    shelf = replace(put(), against_keras=Measurement("speedup", 10.0, "x", "max", 90, limits))
    assert "10.00 times as fast as called from Python (9.00 to 11.00)" in told(lab_compared.speeds(shelf))


def test_sizes_are_told_raw_and_deflated():
    text = told(lab_sizes.sizes(put()))
    assert "Of quantization, the smallest file is `int8-full`, 3.64 times smaller than `fp32`" in text
    assert "Of clustering, no file is 1.05 times smaller than `fp32`, not even `clustered-16-fp32` (400,000" in text
    assert "4.11 times smaller than `fp32` deflated (90,000 bytes to 370,000)" in text
    assert "combination" not in text


def test_what_shrinks_the_file_and_what_only_its_zip():
    text = told(lab_sizes.shrinks(put()))
    assert "The file itself shrinks: `int8-full` (3.64 times, deflated 4.11), `fp16` (1.98 times" in text
    assert "only its zip shrinks: `pruned-0.8-fp32` (1.00 times, deflated 3.36), `clustered-16-fp32`" in text
    assert "`pruned-0.8-fp32` holds 80.0% zeros in 400,000 bytes, `fp32` has 400,000: there a zero takes" in text
    assert "sparse encoding" not in text


def test_a_pruned_file_that_shrank_leaves_its_zeros_out():
    text = told(lab_sizes.shrinks(put(changed("pruned-0.8-fp32", size=150_000))))
    assert "The file itself shrinks: `int8-full` (3.64 times, deflated 4.11), `pruned-0.8-fp32` (2.67" in text
    assert "`pruned-0.8-fp32` holds 80.0% zeros in 150,000 bytes, 2.67 times smaller than `fp32`: zeros are" in text
    assert "as any number" not in text


@pytest.mark.parametrize(("deflated", "expected"), [(115_000, "not fewer than"), (105_000, "fewer than")])
def test_a_sparse_file_is_held_against_the_same_zeros_deflated(deflated, expected):
    sparse = Made("pruned-0.8-sparse-fp32", "pruning", 0.89, 1.0, 150_000, deflated, 0.8)
    text = told(lab_sizes.shrinks(put((*USUAL, sparse))))
    assert "`pruned-0.8-fp32` holds 80.0% zeros in 400,000 bytes" in text
    assert f"takes {deflated:,} bytes, {expected} `pruned-0.8-fp32` with its zeros (110,000)." in text


def test_an_integer_file_that_did_not_shrink_is_not_said_to():
    text = told(lab_sizes.shrinks(put(changed("int8-full", size=399_000, deflated=366_000))))
    assert "Neither the file nor its zip is 1.05 times smaller: `int8-full`" in text


def test_deflation_rewards_what_it_saved_most_of():
    text = told(lab_sizes.deflation(put()))
    assert (
        "It rewards clustering most; the best of each: clustering 78 % (`clustered-16-fp32`), pruning 72 %" in text
    )
    text = told(lab_sizes.deflation(put(changed("pruned-0.8-fp32", deflated=40_000))))
    assert "It rewards pruning most; the best of each: pruning 90 % (`pruned-0.8-fp32`)" in text
    assert (
        "In `pruned-0.8-fp32` 80.0% of its weights are zeros (0.0% in `fp32`); 80.0% of its four-byte words" in text
    )
    assert "an entropy of 2.20 bits (7.40)" in text
    text = told(lab_sizes.deflation(put(changed("int8-full", deflated=10_000))))
    assert "It rewards quantization most" in text


def test_two_that_are_saved_as_much_of_are_rewarded_alike():
    text = told(lab_sizes.deflation(put(changed("pruned-0.8-fp32", deflated=90_000))))
    assert "It rewards pruning and clustering alike" in text


def test_where_nothing_is_saved_no_optimization_is_rewarded():
    none = tuple(replace(each, deflated=0.99 * each.size, zeros=0.0, entropy=7.9) for each in USUAL)
    text = told(lab_sizes.deflation(put(none)))
    assert "It rewards no optimization more than none" in text
    assert "does not tell why" in text


def test_entropy_is_said_to_explain_deflation_only_where_it_orders_the_files_alike():
    entropies = {"fp32": 7.4, "fp16": 7.3, "int8-full": 7.0, "pruned-0.8-fp32": 3.0, "clustered-16-fp32": 2.0}
    alike = tuple(
        replace(each, entropy=entropies[each.name], deflated=each.size * entropies[each.name] / 8) for each in USUAL
    )
    assert "deflation follows the entropy of a byte, the lower the more (rank correlation 1.00 over 5" in told(
        lab_sizes.deflation(put(alike))
    )
    turned = tuple(replace(each, entropy=9 - each.entropy) for each in alike)
    text = told(lab_sizes.deflation(put(turned)))
    assert "deflation does not follow the entropy of a byte, the lower the more (rank correlation -1.00" in text
    assert "deflation does not follow repeats" in text
    again = tuple(replace(each, zeros=1 - each.deflated / each.size) for each in turned)
    assert "deflation follows repeats (rank correlation 1.00" in told(lab_sizes.deflation(put(again)))


def test_none_dominates_where_the_leaders_differ():
    text = told(lab_compared.dominance(put()))
    assert "No variant dominates: highest in accuracy is `fp32` (0.9100), in speed `int8-full` (3.00" in text
    assert "In accuracy `fp32` is not told apart from 1 of 4 others: `fp16`." in text
    assert "In speed `int8-full` is ahead of all 4 others beyond noise." in text


def test_one_dominates_if_it_is_ahead_of_all_in_all_three_beyond_noise():
    best = changed("int8-full", accuracy=0.95)
    text = told(lab_compared.dominance(put(best)))
    assert "`int8-full` dominates: better, faster and smaller than each of the 4 others." in text
    assert "Against `fp16`: accuracy better by 0.0400 (at least 0.0350), 3.00 times as fast (at least 2.86)" in text
    text = told(lab_compared.dominance(put(best, accuracy_off=0.05)))
    assert "`int8-full` leads in accuracy, speed and size, but does not dominate beyond noise." in text
    assert "In accuracy `int8-full` is not told apart from 2 of 4 others: `fp32`, `fp16`." in text
    assert "` dominates" not in told(lab_compared.dominance(put(best, speed_off=3.0)))
    larger = tuple(replace(each, size=500_000) if each.name == "int8-full" else each for each in best)
    assert "` dominates" not in told(lab_compared.dominance(put(larger)))


@pytest.mark.parametrize("count", [0, 1])
def test_too_few_files_are_not_compared(count):
    shelf = replace(put(USUAL[:2]), files=put(USUAL[:2]).files[:count], pairs=None)
    assert told(lab_compared.dominance(shelf)).startswith("Fewer than two files")
    for sentences in (lab_compared.quality, lab_compared.speeds, lab_sizes.sizes, lab_sizes.shrinks):
        list(sentences(shelf))


def test_a_pair_seen_from_the_other_side_is_the_reverse():
    pair = Pair("a", "b", 0.02, 0.01, 0.03, 5, 3, 2.0, 1.6, 2.5)
    assert pair.turned() == Pair("b", "a", -0.02, -0.03, -0.01, 3, 5, 0.5, 0.4, 1 / 1.6)
    assert pair.turned().turned() == pair
    unbounded = replace(pair, faster_high=None, faster_low=0.0).turned()
    assert (unbounded.faster_low, unbounded.faster_high) == (0.0, None)
