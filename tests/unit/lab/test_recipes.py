"""The recipes of the laboratory: what there is, what it is called, that it can be carried out, what shares work."""

import pytest

from whet.lab.recipes import Training, family, recipes
from whet.types import Format

TRAINING = Training(pictures=54_000, epochs=1.0, seed=3)


def made(clusters=(16, 64), sparsities=(0.5, 0.8), training=TRAINING):
    return {recipe.name: recipe for recipe in recipes(clusters, sparsities, training)}


def steps(recipe):
    return [step.name for step in recipe.steps]


def test_every_optimization_is_there_in_every_strength_and_combined():
    assert list(made()) == [
        "fp16", "int8-dynamic", "int8-full", "int4-weights", "clustered-16-fp32", "clustered-64-fp32",
        "pruned-0.5-fp32", "pruned-0.8-fp32", "pruned-0.5-clustered-16-fp32", "pruned-0.8-sparse-fp32",
        "pruned-0.5-int8-full",
        "clustered-16-int8-full", "pruned-0.5-clustered-16-int8-full",
    ]  # fmt: skip


def test_every_recipe_leads_from_keras_to_tflite():
    for recipe in made().values():
        assert recipe.check(Format.KERAS) is Format.TFLITE
        assert recipe.seed == TRAINING.seed


def test_what_trains_comes_before_the_export():
    assert steps(made()["pruned-0.5-clustered-16-int8-full"]) == [
        "magnitude-prune", "cluster", "distill", "export-tflite", "static-int8",
    ]  # fmt: skip
    assert steps(made()["int8-full"]) == ["export-tflite", "static-int8"]


def test_a_combination_begins_with_the_steps_of_what_it_combines():
    all_of_them = made()
    for name, parts in {
        "pruned-0.5-int8-full": "pruned-0.5-fp32",
        "clustered-16-int8-full": "clustered-16-fp32",
        "pruned-0.5-clustered-16-int8-full": "pruned-0.5-clustered-16-fp32",
        "pruned-0.8-sparse-fp32": "pruned-0.8-fp32",
    }.items():
        before = all_of_them[parts].steps
        assert all_of_them[name].steps[: len(before)] == before


def test_a_clustered_model_that_training_makes_no_better_is_a_variant_too():
    (trained,) = [step for step in made()["clustered-16-fp32"].steps if step.name == "distill"]
    assert trained.allow_unchanged


@pytest.mark.parametrize(
    ("pictures", "epochs", "batch", "between"),
    [(54_000, 1, 128, 21), (189, 30, 9, 31), (20, 1, 8, 1), (2_600, 10, 128, 10)],
)
def test_few_pictures_are_trained_on_in_small_batches_and_pruned_twenty_times(pictures, epochs, batch, between):
    training = Training(pictures, epochs)
    assert (training.batch, training.between_zeros) == (batch, between)
    (prune,) = [step for step in made(training=training)["pruned-0.5-fp32"].steps if step.name == "magnitude-prune"]
    assert (prune.recovery.epochs, prune.recovery.batch_size, prune.frequency) == (epochs, batch, between)
    assert (prune.sparsity, prune.schedule) == (0.5, "polynomial")


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("fp32", "none"), ("fp16", "quantization"), ("int8-full", "quantization"), ("int4-weights", "quantization"),
        ("pruned-0.5-fp32", "pruning"), ("pruned-0.8-sparse-fp32", "pruning"), ("clustered-16-fp32", "clustering"),
        ("pruned-0.5-int8-full", "combination"),
        ("pruned-0.5-clustered-16-fp32", "combination"), ("clustered-16-int8-full", "combination"),
    ],
)  # fmt: skip
def test_the_optimization_of_a_recipe_is_read_off_its_name(name, expected):
    assert family(name) == expected


def test_every_family_that_is_compared_has_recipes():
    assert {family(name) for name in made()} == {"quantization", "pruning", "clustering", "combination"}
