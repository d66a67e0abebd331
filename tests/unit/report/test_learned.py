"""Sentences: each rests on a number of the run."""

import re
from dataclasses import replace

import pytest

from whet.report.learned import sentences
from whet.types import Skipped


def told(outcome) -> str:
    return "\n".join(sentences(outcome))


@pytest.mark.parametrize(
    "asked",
    [{}, {"failed": 2}, {"task": "regression", "failed": 1}, {"batches": (1,)}, {"kind": "run", "failed": 2}],
    ids=str,
)
def test_every_sentence_is_one_line_with_a_number_and_a_full_stop(make, asked):
    outcome = make(**asked)
    outcome = replace(outcome, original=replace(outcome.original, float_failure="unsupported\noperator: aten::fft"))
    found = sentences(outcome)
    assert len(found) > 5
    for sentence in found:
        assert re.search(r"\d", re.sub(r"`[^`]*`", "", sentence)), sentence  # not in a name
        assert "\n" not in sentence
        assert sentence.endswith(".")
        assert not sentence.endswith("..")


def test_failed_candidates_are_named_with_kind_and_cause(make):
    text = told(make(failed=2))
    assert (
        "`torch-half` failed after 3 s (ChildCrashed): died of SIGSEGV; its last words are in logs/build.log."
        in text
    )
    assert "`static-int8-edges` failed after 3 s (NothingChanged): " in text


def test_what_the_runtime_gave_is_told_apart_from_what_the_compression_gave(make):
    text = told(make())
    assert "The runtime alone, without any compression, gave 2.90x at batch 1 and 1.45x at batch 32" in text
    assert "The fastest candidate, `combined`, gave 2.24x at batch 1" in text
    assert "The smallest file, of `combined`, takes 299,000 bytes (269,100 deflated), at a drop of 0.0800." in text


def doubted(outcome, **conditions):
    """Add conditions to the speed-ups of the first two candidates at batch 32, the second one's interval wider."""

    def of(item, share):
        if item.metric != "speedup" or item.conditions["batch_size"] != 32:
            return item
        interval = replace(item.interval, low=(1 - share) * item.value, high=(1 + share) * item.value)
        return replace(item, interval=interval, conditions={**item.conditions, **conditions})

    first, second, *others = outcome.results
    noisy = [
        replace(result, measurements=tuple(of(item, share) for item in result.measurements))
        for result, share in ((first, 0.04), (second, 0.06))
    ]
    return replace(outcome, results=(*noisy, *others))


def test_a_noisy_machine_is_told_in_one_sentence_with_the_worst_of_it(make):
    outcome = doubted(make(), noise="known to 12.0%, 5.0% was asked")
    (sentence,) = [each for each in sentences(outcome) if "noisy" in each]
    assert "4 of 28 speed-ups are known less exactly than was asked" in sentence
    assert f"`{outcome.results[1].name}` at batch 32 (known to 12.0%, 5.0% was asked)." in sentence


def test_speedups_of_a_single_opening_are_told(make):
    assert "4 of 28 speed-ups rest on a single opening" in told(doubted(make(), blocks=1))


def test_a_quiet_machine_is_not_mentioned(make):
    assert not re.search("noisy|opening", told(make()))


def test_a_model_given_as_onnx_has_no_runtime_gain(make):
    outcome = make()
    outcome = replace(outcome, original=replace(outcome.original, format="onnx"))
    assert "The runtime alone" not in told(outcome)


def test_only_candidates_beyond_doubt_slower_are_called_slower(make):
    text = told(make())
    assert "`dynamic-int8` is slower than the float model at batch 1: 0.16x (0.15 to 0.16)." in text
    assert "`graph-only` is slower" not in text  # 1.03x


def test_the_steps_that_cost_quality_are_named_with_what_they_cost(make):
    text = told(make())
    assert "In `combined`, the step `magnitude-prune` cost 0.0550 of accuracy (0.9150 to 0.8600" in text
    assert "In `combined`, the step `quantize` cost 0.0250 of accuracy (0.8600 to 0.8350" in text
    assert "In `static-int8`, the step" not in text  # 0.003 is not worth a sentence


def test_the_cost_of_a_metric_that_should_be_small_is_its_relative_growth(make):
    assert "In `static-int8-entropy`, the step `quantize` cost 0.0220 of rmse (0.3100 to 0.3168" in told(
        make(task="regression")
    )


def with_pruned(outcome, **changes):
    """The same run, where the pruning step left other numbers."""
    results = tuple(
        replace(
            result,
            steps=tuple(
                replace(step, **changes) if step.name == "magnitude-prune" else step for step in result.steps
            ),
        )
        for result in outcome.results
    )
    return replace(outcome, results=results)


def test_zeros_that_saved_nothing_are_said_to_save_nothing(make):
    text = told(make())
    assert (
        "40% zeros left the file at 1,150,000 bytes (1,150,000 before) and one call at 2.120 ms (2.100 before)"
        in text
    )
    assert "unstructured zeros save neither" in text


@pytest.mark.parametrize("saved", [{"size_bytes": 700_000}, {"latency_ms": 1.0}])
def test_zeros_that_saved_something_are_not_said_to_save_nothing(make, saved):
    text = told(with_pruned(make(), **saved))
    assert "40% zeros left the file at" in text
    assert "save neither" not in text


def test_layers_left_alone_are_told_once_but_not_those_the_recipe_excluded(make):
    text = told(make())
    assert text.count("left 1 layer alone: a BatchNorm2d has no matrix.") == 1
    assert "excluded by the recipe" not in text


def test_the_least_clear_layer_type_comes_first(make):
    assert "a signal-to-noise ratio of: Conv2d 9.5 dB, Linear 12.0 dB." in told(make())


def test_the_export_tells_its_difference_once(make):
    text = told(make())
    assert text.count("reproduces the model to 2.0e-06") == 1
    assert "11 subnormal weights were set to zero" in text


def test_that_a_network_without_attention_has_none_is_not_told(make):
    outcome = make()
    first = outcome.results[0].steps[-1]
    for reason, shown in (("it has no Softmax, and so no attention", False), ("its heads cannot be read", True)):
        step = replace(first, name="fuse-transformer", skipped=(Skipped("graph", reason),))
        results = (replace(outcome.results[0], steps=(step,)), *outcome.results[1:])
        assert (reason in told(replace(outcome, results=results))) is shown
