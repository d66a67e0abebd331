"""Passes that train Keras models natively: contracts, what is kept meanwhile, schedules by the formula."""

from dataclasses import replace

import numpy as np
import pytest
from scipy.special import log_softmax

from whet.data.data import Part, Splits
from whet.data.samples import ArraySamples
from whet.errors import PassError, RecipeError
from whet.machine import this_machine
from whet.models.keras.adapter import KerasAdapter
from whet.models.source import source_of
from whet.passes.base import PassContext
from whet.passes.cluster.spec import Cluster
from whet.passes.distill.spec import Distill
from whet.passes.prune import keras as schedules
from whet.passes.prune.spec import MagnitudePrune
from whet.passes.quantize.trained import Qat
from whet.testing import PassContract
from whet.train.spec import Recovery
from whet.types import Format, TraitKind

import keras  # after the adapter, which chooses its backend  # isort: skip

L = keras.layers
MACHINE = replace(this_machine(), cores=1)
QUICK = Recovery(epochs=4, learning_rate=2e-2, batch_size=32)
STUDENT = """
import os
os.environ["KERAS_BACKEND"] = "tensorflow"
import keras

def small():
    layers = [keras.Input((6,), name="row"), keras.layers.Dense(4, "relu"), keras.layers.Dense({units})]
    return keras.Sequential(layers)
"""


def rows(count=200, seed=1):
    return np.random.default_rng(seed).standard_normal((count, 6)).astype(np.float32)


def net():
    """(N, 6) to (N, 3): two products with a norm between, whose statistics are those of rows."""
    keras.utils.set_random_seed(0)
    steep = keras.initializers.RandomNormal(stddev=1.0)
    model = keras.Sequential(
        [
            keras.Input((6,), name="row"), L.Dense(32, name="first"),
            L.BatchNormalization(momentum=0.5, name="norm"), L.ReLU(), L.Dense(3, name="last",
            kernel_initializer=steep),
        ]
    )  # fmt: skip
    for _ in range(12):
        model(rows(), training=True)
    return model


@pytest.fixture(scope="module")
def given(tmp_path_factory):
    path = tmp_path_factory.mktemp("given") / "model.keras"
    net().save(path)
    return KerasAdapter().open(source_of(path), None)


def context(folder, model, labels=None):
    samples = ArraySamples({"row": rows()}, labels)
    return PassContext(
        folder, data=Splits(dict.fromkeys((Part.TRAIN, Part.CALIBRATE), samples)), machine=MACHINE,
        original=lambda: model,
    )  # fmt: skip


class KerasTrained(PassContract):
    @pytest.fixture(autouse=True)
    def given(self, given):
        self.original = given

    def make_model(self):
        return self.original

    def make_context(self, folder):
        return context(folder, self.original)


class TestDistill(KerasTrained):
    covers = ("distill", Format.KERAS)

    def make_pass(self):
        return Distill(epochs=2, learning_rate=3e-3, batch_size=32)

    def make_model(self):
        return MagnitudePrune(sparsity=0.7).apply(self.original, PassContext(None)).model


@pytest.mark.slow
class TestScheduled(KerasTrained):
    def make_pass(self):
        return MagnitudePrune(sparsity=0.75, schedule="polynomial", frequency=3, recovery=QUICK)


@pytest.mark.slow
class TestQat(KerasTrained):
    covers = ("qat", Format.KERAS)

    def make_pass(self):
        return Qat(weight_bits=4, edge_bits=4, recovery=replace(QUICK, epochs=1))


def weights(model):
    return {name: array for name, array in KerasAdapter().weights(model).items() if name.endswith("kernel")}


def off(model, original):
    """Return how far answers are from the original's on rows that nothing was trained on: KL, in nats."""
    batch = {"row": rows(seed=9)}
    found, wanted = (
        log_softmax(KerasAdapter().forward(each, batch)["output"], axis=1) for each in (model, original)
    )
    return float((np.exp(wanted) * (wanted - found)).sum(axis=1).mean())


# --- distillation ---------------------------------------------------------------------------------------------


def test_zeros_and_shared_values_are_kept_and_the_centroids_move(given, tmp_path):
    pruned = MagnitudePrune(sparsity=0.6).apply(given, PassContext(tmp_path)).model
    clustered = Cluster(clusters=4).apply(pruned, PassContext(tmp_path)).model
    outcome = Distill(epochs=6, learning_rate=3e-3, batch_size=32).apply(clustered, context(tmp_path, given))
    assert outcome.notes["loss_after"] < 0.9 * outcome.notes["loss_before"]
    assert off(outcome.model, given) < off(clustered, given)
    for name, array in weights(outcome.model).items():
        before = weights(clustered)[name]
        np.testing.assert_array_equal(array == 0, before == 0)
        assert len(np.unique(array)) == len(np.unique(before)) <= 4
        assert set(zip(before.ravel(), array.ravel(), strict=True)) == {
            (value, array[before == value][0]) for value in np.unique(before)
        }
        assert not np.array_equal(array, before)
    assert {trait.kind for trait in outcome.model.traits} >= {TraitKind.SPARSE, TraitKind.CLUSTERED}


def test_codebooks_of_channels_stay_of_channels(given, tmp_path):
    clustered = Cluster(clusters=2, granularity="channel").apply(given, PassContext(tmp_path)).model
    trained = Distill(epochs=6, learning_rate=1e-2, batch_size=32).apply(clustered, context(tmp_path, given)).model
    for name, array in weights(trained).items():
        assert max(len(np.unique(column)) for column in array.T) <= 2
        assert not np.array_equal(array, weights(clustered)[name])


def test_a_student_of_the_users_takes_the_place_of_the_model(given, tmp_path):
    (tmp_path / "mine.py").write_text(STUDENT.format(units=3))
    request = Distill(student=f"{tmp_path / 'mine.py'}:small", epochs=4, learning_rate=1e-2, batch_size=32)
    request.check(Format.KERAS)
    outcome = request.apply(given, context(tmp_path, given))
    assert outcome.notes["loss_after"] < 0.8 * outcome.notes["loss_before"]
    assert (outcome.notes["parameters"], outcome.notes["parameters_of_original"]) == (43, 387)
    assert len(outcome.model.payload.layers) == 2


def test_a_student_that_does_not_fit_is_refused(given, tmp_path):
    (tmp_path / "other.py").write_text(STUDENT.format(units=5))
    with pytest.raises(PassError, match=r"the student does not fit: it gives output=float32\[\?,5\]"):
        Distill(student=f"{tmp_path / 'other.py'}:small").apply(given, context(tmp_path, given))
    with pytest.raises(RecipeError, match="builds a keras model, the original is one of torch"):
        Distill(student=f"{tmp_path / 'other.py'}:small").check(Format.TORCH)


def test_frozen_layers_are_said_and_stay(given, tmp_path):
    model = KerasAdapter().clone(given)
    model.payload.get_layer("first").trainable = False
    damaged = Cluster(clusters=2).apply(model, PassContext(tmp_path)).model
    damaged.payload.get_layer("first").trainable = False
    request = Distill(epochs=4, learning_rate=2e-2, batch_size=32, allow_unchanged=True)
    outcome = request.apply(damaged, context(tmp_path, given))
    assert "first" not in outcome.changed
    assert {item.layer: item.reason for item in outcome.skipped}["first"] == "its parameters are frozen"
    assert outcome.notes["frozen"] == ["first"]


def test_what_it_needs_is_asked_for(given, tmp_path):
    with pytest.raises(PassError, match="run it in a recipe"):
        Distill().apply(given, replace(context(tmp_path, given), original=None))
    with pytest.raises(PassError, match="learns from a keras original"):
        Distill().apply(
            given, replace(context(tmp_path, given), original=lambda: replace(given, format=Format.TORCH))
        )
    with pytest.raises(RecipeError, match="precision = 'bfloat16' does not run on a keras model"):
        Distill(precision="bfloat16").check(Format.KERAS)


# --- schedules ------------------------------------------------------------------------------------------------


def followed(monkeypatch, given, folder, **settings):
    """Run a schedule; the share of zeros that was chosen at each of its choices, and the outcome."""
    seen, choose = [], schedules._Schedule.choose
    monkeypatch.setattr(
        schedules._Schedule, "choose", lambda self, share: seen.append(share) or choose(self, share)
    )
    request = MagnitudePrune(sparsity=0.75, recovery=QUICK, **settings)
    return seen, request.apply(given, context(folder, given))


def test_a_polynomial_schedule_is_zhu_and_guptas(monkeypatch, given, tmp_path):
    """final + (initial - final) * (1 - (step - begin) / (end - begin)) ** 3, every so many steps and at the end."""
    seen, outcome = followed(
        monkeypatch, given, tmp_path, schedule="polynomial", initial_sparsity=0.25, begin_step=2, end_step=12,
        frequency=4,
    )  # fmt: skip
    assert seen == pytest.approx([0.75 + (0.25 - 0.75) * (1 - (step - 2) / 10) ** 3 for step in (2, 6, 10, 12)])
    for name, array in weights(outcome.model).items():
        assert np.mean(array == 0) == pytest.approx(0.75, abs=0.02), name
    assert outcome.notes["steps"] == 24


def test_a_constant_schedule_prunes_as_much_from_the_start(monkeypatch, given, tmp_path):
    seen, outcome = followed(
        monkeypatch, given, tmp_path, schedule="constant", begin_step=3, end_step=9, frequency=4
    )
    assert seen == [0.75, 0.75, 0.75]  # at 3, 7 and 9
    assert outcome.notes["sparsity"] == pytest.approx(0.75, abs=0.01)
    at_once = MagnitudePrune(sparsity=0.75).apply(given, PassContext(tmp_path)).model
    assert off(outcome.model, given) < 0.7 * off(at_once, given)


def test_the_pattern_is_held_in_training(given, tmp_path):
    request = MagnitudePrune(pattern="2:4", schedule="constant", frequency=5, recovery=QUICK)
    outcome = request.apply(given, context(tmp_path, given))
    assert {item.layer for item in outcome.skipped} == {"first", "norm"}  # of six inputs
    kernel = weights(outcome.model)["last.kernel"]
    assert set((np.moveaxis(kernel, 0, -1).reshape(-1, 4) != 0).sum(1).tolist()) == {2}


def test_a_schedule_without_time_prunes_as_asked(given, tmp_path):
    request = MagnitudePrune(schedule="polynomial", recovery=Recovery(minutes=0))
    outcome = request.apply(given, context(tmp_path, given))
    assert {np.mean(array == 0) for array in weights(outcome.model).values()} == {0.5}
    assert "0 minutes" in outcome.notes["training"]


def test_a_schedule_that_begins_too_late_is_refused(given, tmp_path):
    with pytest.raises(RecipeError, match="begin_step = 900 lies beyond the 24 steps"):
        MagnitudePrune(schedule="constant", begin_step=900, recovery=QUICK).apply(given, context(tmp_path, given))
    with pytest.raises(PassError, match="run it in a recipe"):
        MagnitudePrune(schedule="constant").apply(given, PassContext(tmp_path))
