"""The user's own training of a Keras model: what it is given, what is held, what it is told when it goes wrong."""

from dataclasses import replace

import numpy as np
import pytest

from whet.data.data import Part, Splits
from whet.data.samples import ArraySamples
from whet.errors import PassError, RecipeError
from whet.machine import this_machine
from whet.models.keras.adapter import KerasAdapter
from whet.models.source import source_of
from whet.passes.base import PassContext
from whet.passes.cluster.spec import Cluster
from whet.passes.distill.spec import Distill
from whet.passes.prune.spec import MagnitudePrune, PruneChannels
from whet.passes.quantize.trained import Qat
from whet.recipe.cache import step_key
from whet.train.spec import Recovery
from whet.types import Format

import keras  # after the adapter, which chooses its backend  # isort: skip

L = keras.layers
MACHINE = replace(this_machine(), cores=1)
OWN = """
import os
os.environ["KERAS_BACKEND"] = "tensorflow"
import keras
import tensorflow as tf

def compiled(model, rate=0.01):
    model.compile(keras.optimizers.SGD(rate, momentum=0.9), keras.losses.SparseCategoricalCrossentropy(True),
                  metrics=["accuracy"])

def fit(model, callbacks, data):
    compiled(model)
    model.fit(*data.train, validation_data=data.validation, epochs=4, batch_size=30, callbacks=callbacks, verbose=0)

def pipeline(model, callbacks, data):
    compiled(model)
    stream = tf.data.Dataset.from_tensor_slices(data.train).repeat().batch(30)
    model.fit(stream, steps_per_epoch=6, epochs=4, callbacks=callbacks, verbose=0, shuffle=False)

def endless(model, callbacks, data):
    compiled(model)
    stream = tf.data.Dataset.from_generator(lambda: iter([data.train]), output_signature=(
        tf.TensorSpec((None, 6)), tf.TensorSpec((None,), tf.int64)))
    model.fit(stream, epochs=2, callbacks=callbacks, verbose=0, shuffle=False)

def taught(model, callbacks, data):
    x = data.train[0]
    model.compile("adam", "mse")
    model.fit(x, data.original.predict(x, verbose=0), epochs=2, callbacks=callbacks, verbose=0)

def no_callbacks(model, callbacks, data):
    compiled(model)
    model.fit(*data.train, epochs=4, batch_size=30, verbose=0)

def nothing(model, callbacks, data):
    compiled(model)

def raises(model, callbacks, data):
    raise ValueError("no such luck")

def explodes(model, callbacks, data):
    compiled(model, 1e30)
    model.fit(*data.train, epochs=3, batch_size=30, callbacks=callbacks, verbose=0)

def overwrites(model, callbacks, data):
    pipeline(model, callbacks, data)
    kernel = model.get_layer("first").kernel
    kernel.assign(tf.ones_like(kernel))

def grows(model, callbacks, data):
    fit(model, callbacks, data)
    layer = model.get_layer("last")
    layer._tracker.unlock()
    layer.more = layer.add_weight(shape=(3, 3), name="more")

def freezes(model, callbacks, data):
    model.get_layer("first").trainable = False
    fit(model, callbacks, data)
"""


def rows(count=200, seed=1):
    return np.random.default_rng(seed).standard_normal((count, 6)).astype(np.float32)


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A model, its data with labels of its own, and the user's file."""
    folder = tmp_path_factory.mktemp("own")
    keras.utils.set_random_seed(0)
    steep = keras.initializers.RandomNormal(stddev=1.0)
    net = keras.Sequential(
        [keras.Input((6,), name="row"), L.Dense(32, "relu", name="first"),
         L.Dense(3, name="last", kernel_initializer=steep)]
    )  # fmt: skip
    net.save(folder / "net.keras")
    (folder / "own.py").write_text(OWN)
    model = KerasAdapter().open(source_of(folder / "net.keras"), None)
    labels = np.asarray(net(rows())).argmax(1)
    return folder, model, labels


def context(place, folder):
    _, model, labels = place
    samples = ArraySamples({"row": rows()}, labels)
    data = Splits(dict.fromkeys((Part.TRAIN, Part.CALIBRATE), samples))
    return PassContext(folder, data=data, machine=MACHINE, original=lambda: model)


def own(place, name, **more):
    return Recovery(fit=f"{place[0] / 'own.py'}:{name}", **more)


def scheduled(place, name, folder, **more):
    request = MagnitudePrune(sparsity=0.75, schedule="polynomial", frequency=3, recovery=own(place, name), **more)
    return request.apply(place[1], context(place, folder))


def kernels(model):
    return {name: array for name, array in KerasAdapter().weights(model).items() if name.endswith("kernel")}


def accuracy(place, model):
    found = KerasAdapter().forward(model, {"row": rows()})["output"].argmax(1)
    return float((found == place[2]).mean())


def test_a_schedule_in_the_users_own_training(place, tmp_path):
    outcome = scheduled(place, "fit", tmp_path)
    for name, array in kernels(outcome.model).items():
        assert np.mean(array == 0) == pytest.approx(0.75, abs=0.02), name
    assert outcome.notes["steps"] == 24  # 180 samples in sixes of 30, four times
    assert outcome.notes["weights_kept"] == "those of the least validation loss"
    assert type(outcome.model.payload) is keras.Sequential
    at_once = MagnitudePrune(sparsity=0.75).apply(place[1], PassContext(tmp_path)).model
    assert accuracy(place, outcome.model) > accuracy(place, at_once)


def test_a_pipeline_of_ones_own_has_its_steps_counted(place, tmp_path):
    outcome = scheduled(place, "pipeline", tmp_path)
    assert outcome.notes["sparsity"] == pytest.approx(0.75, abs=0.01)
    assert outcome.notes["weights_kept"] == "the last"
    with pytest.raises(RecipeError, match="steps_per_epoch, or data whose length is known"):
        scheduled(place, "endless", tmp_path)


def test_centroids_are_trained_by_the_users_own_loss_and_zeros_stay(place, tmp_path):
    model = MagnitudePrune(sparsity=0.5).apply(place[1], PassContext(tmp_path)).model
    model = Cluster(clusters=4).apply(model, PassContext(tmp_path)).model
    request = Distill(fit=f"{place[0] / 'own.py'}:taught", patience=1)
    outcome = request.apply(model, context(place, tmp_path))
    for name, array in kernels(outcome.model).items():
        before = kernels(model)[name]
        np.testing.assert_array_equal(array == 0, before == 0)
        assert len(np.unique(array)) <= 4
        assert not np.array_equal(array, before)
    assert outcome.notes["losses"][-1] < outcome.notes["losses"][0]


def test_weights_come_out_on_the_grid_of_the_users_training(place, tmp_path):
    request = Qat(weight_bits=4, edge_bits=4, recovery=own(place, "fit"))
    outcome = request.apply(place[1], context(place, tmp_path))
    for array in kernels(outcome.model).values():
        steps = array / (np.abs(array).max(axis=0) / 7)
        np.testing.assert_allclose(steps, np.rint(steps), atol=1e-3)
    assert accuracy(place, outcome.model) > 0.9
    assert [type(layer).__name__ for layer in outcome.model.payload.layers] == ["Dense", "Dense"]


def test_a_layer_that_is_frozen_meanwhile_is_free_again(place, tmp_path):
    outcome = Distill(fit=f"{place[0] / 'own.py'}:freezes").apply(place[1], context(place, tmp_path))
    assert outcome.changed == ("last",)
    assert all(layer.trainable for layer in outcome.model.payload.layers)


@pytest.mark.parametrize(
    ("name", "error", "said"),
    [
        ("nothing", PassError, r"made no step on the model that it was given; .*callbacks=callbacks"),
        ("raises", RecipeError, "raises raised ValueError: no such luck"),
        ("no_callbacks", PassError, "did not pass its callbacks on, on which the schedule depends"),
        ("overwrites", PassError, "left first.kernel.* with values that compression had taken away"),
        ("grows", PassError, "changed the layers of the model"),
        ("absent", RecipeError, "has no function 'absent'"),
    ],
)
def test_what_goes_wrong_is_said(place, tmp_path, name, error, said):
    with pytest.raises(error, match=said):
        scheduled(place, name, tmp_path)


def test_without_a_schedule_callbacks_may_be_left_out_and_that_is_said(place, tmp_path):
    outcome = Distill(fit=f"{place[0] / 'own.py'}:no_callbacks").apply(place[1], context(place, tmp_path))
    assert outcome.notes["callbacks"].startswith("not passed on")


def test_a_loss_that_is_no_number_stops_it_and_weights_are_finite(place, tmp_path):
    request = Distill(fit=f"{place[0] / 'own.py'}:explodes", allow_unchanged=True)
    outcome = request.apply(place[1], context(place, tmp_path))
    assert outcome.notes["stopped"] == "not finite"
    assert "not finite" in outcome.notes["problem"]
    for name, array in KerasAdapter().weights(outcome.model).items():
        np.testing.assert_array_equal(array, KerasAdapter().weights(place[1])[name])


@pytest.mark.parametrize("request_", [Distill(fit="a.py:b"), PruneChannels(recovery=Recovery(fit="a.py:b"))])
def test_it_is_of_keras_alone_and_names_a_function(request_):
    with pytest.raises(RecipeError, match="does not run on a torch model: a training of your own is one of Keras"):
        request_.check(Format.TORCH)
    with pytest.raises(RecipeError, match=r"fit = 'own\.fit' names no function; write file\.py:function"):
        Distill(fit="own.fit").check(Format.KERAS)


def test_what_stands_in_the_file_is_part_of_the_step(place, tmp_path):
    path = tmp_path / "mine.py"
    path.write_text("x = 1\n")
    request = MagnitudePrune(schedule="constant", recovery=Recovery(fit=f"{path}:fit"))
    before = step_key("parent", request, 0, "")
    path.write_text("x = 2\n")
    assert step_key("parent", request, 0, "") != before
