"""Keras models: the adapter and the runtime against their contracts; every layer in torch against Keras itself."""

import json
import shutil

import keras_layers
import numpy as np
import pytest
import torch

from whet.errors import PassError
from whet.models.keras import counting, describe, translate
from whet.models.keras.adapter import KerasAdapter
from whet.models.model import Model, Stored
from whet.models.source import source_of
from whet.models.torch.adapter import TorchAdapter, stored_student
from whet.models.torch.keras import layers, weights
from whet.models.torch.keras.module import module
from whet.runtimes.base import Deployment, open_session
from whet.runtimes.keras import KerasRuntime
from whet.testing import AdapterContract, RuntimeContract
from whet.types import Format

import keras  # after the adapter, which chooses its backend  # isort: skip

L = keras.layers


def stored(model, folder, name="model.keras"):
    """Write a model as a user would and open it."""
    path = folder / name
    model.save(path)
    return KerasAdapter().open(source_of(path), None)


def small():
    """(N, 8, 8, 2) to (N, 3): a convolution, BatchNorm, depthwise, dense."""
    keras.utils.set_random_seed(0)
    return keras.Sequential(
        [
            keras.Input((8, 8, 2), name="picture"), L.Conv2D(4, 3, name="conv"), L.BatchNormalization(name="norm"),
            L.ReLU(), L.DepthwiseConv2D(3, name="depth"), L.GlobalAveragePooling2D(), L.Dense(3, name="top"),
        ]
    )  # fmt: skip


class TestSequential(AdapterContract):
    @pytest.fixture(autouse=True)
    def folder(self, tmp_path):
        self.tmp_path = tmp_path

    def make_adapter(self):
        return KerasAdapter()

    def make_model(self):
        return stored(small(), self.tmp_path)


class TestSeveralInAndOut(TestSequential):
    def make_model(self):
        return stored(keras_layers.build("by-name"), self.tmp_path, "model.h5")


class TestKerasRuntime(RuntimeContract):
    @pytest.fixture(autouse=True)
    def folder(self, tmp_path):
        self.tmp_path = tmp_path

    def make_runtime(self):
        return KerasRuntime()

    def make_stored(self):
        model = stored(small(), self.tmp_path)
        path = KerasAdapter().save(model, self.tmp_path / "stored")
        return Stored(Format.KERAS, path, model.source), model.signature


def test_inputs_and_outputs_have_names_and_free_samples(tmp_path):
    signature = stored(small(), tmp_path).signature
    assert [str(spec) for spec in signature.inputs] == ["picture=float32[?,8,8,2]"]
    assert [str(spec) for spec in signature.outputs] == ["output=float32[?,3]"]


def test_layers_are_counted_as_on_paper(tmp_path):
    found = {layer.name: layer for layer in KerasAdapter().layers(stored(small(), tmp_path))}
    conv, norm, depth, top = (found[name] for name in ("conv", "norm", "depth", "top"))
    assert (conv.parameters, conv.bytes, conv.macs) == (3 * 3 * 2 * 4 + 4, 4 * 76, 6 * 6 * 3 * 3 * 2 * 4)
    assert (norm.parameters, norm.bytes, norm.macs) == (8, 4 * 16, 0)  # means and variances are not learned
    assert (depth.parameters, depth.macs) == (3 * 3 * 4 + 4, 4 * 4 * 3 * 3 * 4)
    assert (top.parameters, top.macs) == (4 * 3 + 3, 4 * 3)
    assert [layer.weights for layer in found.values()] == [("conv.kernel",), (), ("depth.kernel",), ("top.kernel",)]


def test_torch_counts_the_same(tmp_path):
    model = stored(small(), tmp_path)
    ours, theirs = KerasAdapter().layers(model), TorchAdapter().layers(translate.to_torch(model, tmp_path))
    assert sum(layer.parameters for layer in ours) == sum(layer.parameters for layer in theirs)
    assert sum(layer.macs for layer in ours) == sum(layer.macs or 0 for layer in theirs)


def test_the_runtime_computes_what_the_adapter_does(tmp_path):
    model = stored(small(), tmp_path)
    batch = model.signature.synthetic(4)
    path = KerasAdapter().save(model, tmp_path / "stored")
    with open_session(Stored(Format.KERAS, path, model.source), Deployment("keras", threads=1)) as session:
        found = session.run(batch)
    np.testing.assert_allclose(
        found["output"], KerasAdapter().forward(model, batch)["output"], rtol=1e-5, atol=1e-6
    )


# --- Keras in torch -------------------------------------------------------------------------------------------


def inputs_of(description, samples=3):
    rng = np.random.default_rng(1)
    return {
        given["name"]: rng.integers(0, 20, (samples, *given["shape"][1:])).astype(given["dtype"])
        if "int" in given["dtype"] else rng.standard_normal((samples, *given["shape"][1:])).astype(np.float32)
        for given in description["inputs"]
    }  # fmt: skip


def outputs_of(model, inputs):
    values = describe.arranged(model, [inputs[name] for name in KerasAdapter.inputs(model)])
    found = model(values, training=False)
    return [np.asarray(output) for output in keras.tree.flatten(found)]


def in_torch(model, folder):
    return translate.to_torch(Model(Format.KERAS, model), folder)


def off_by(model, folder):
    """Return how far the module is off Keras itself, as a share of the greatest output."""
    inputs = inputs_of(describe.describe(model))
    made = in_torch(model, folder).payload.module
    with torch.no_grad():
        found = made(**{name: torch.from_numpy(array) for name, array in inputs.items()})
    found = [output.numpy() for output in (found.values() if isinstance(found, dict) else [found])]
    wanted = outputs_of(model, inputs)
    assert [array.shape for array in found] == [array.shape for array in wanted]
    return max(np.abs(one - other).max() / np.abs(other).max() for one, other in zip(found, wanted, strict=True))


@pytest.mark.parametrize("case", keras_layers.CASES)
def test_a_layer_in_torch_computes_what_keras_computes_and_its_weights_go_back_bit_by_bit(case, tmp_path):
    model = keras_layers.build(case)
    assert off_by(model, tmp_path) < 1e-5
    calls = {call["layer"]: call for call in describe.describe(model)["calls"]}
    for name, arrays in describe.weights(model).items():
        kind, config = calls[name]["kind"], calls[name]["config"]
        if weights.known(kind):
            back = weights.to_keras(kind, config, weights.to_torch(kind, config, arrays))
            for array, again in zip(arrays, back, strict=True):
                np.testing.assert_array_equal(array, again)


def test_the_cases_are_all_the_layers_there_are():
    tried = set()
    for case in keras_layers.CASES:
        tried |= {call["kind"] for call in describe.describe(keras_layers.build(case))["calls"]}
    assert set(layers._LAYERS) - tried == set()


def test_a_module_is_built_again_from_its_description_alone(tmp_path):
    made = in_torch(small(), tmp_path)
    again = module(json.loads((tmp_path / "keras.json").read_text()))
    again.load_state_dict(made.payload.module.state_dict())
    x = torch.from_numpy(np.random.default_rng(0).standard_normal((2, 8, 8, 2)).astype(np.float32))
    torch.testing.assert_close(again(x), made.payload.module(x), rtol=0, atol=0)


def test_a_module_is_stored_from_where_it_was_stored(tmp_path):
    """Step by step, as recipes do: the folder that the description was written to is gone by then."""
    work = tmp_path / "work"
    work.mkdir()
    made, adapter = in_torch(small(), work), TorchAdapter()
    first = adapter.save(made, tmp_path / "first")
    shutil.rmtree(work)
    again = made.with_payload(adapter.load(first, stored_student(first)))
    second = adapter.save(again, tmp_path / "second")
    shutil.rmtree(first)
    found = adapter.load(second, stored_student(second))
    x = torch.from_numpy(np.random.default_rng(0).standard_normal((2, 8, 8, 2)).astype(np.float32))
    torch.testing.assert_close(found.module(x), made.payload.module(x), rtol=0, atol=0)


def test_a_module_that_nothing_changed_goes_back_bit_by_bit(tmp_path):
    model = keras_layers.build("twice-and-nested")
    back = translate.to_keras(in_torch(model, tmp_path), model)
    for array, again in zip(model.get_weights(), back.get_weights(), strict=True):
        np.testing.assert_array_equal(array, again)
    inputs = inputs_of(describe.describe(model))
    for array, again in zip(outputs_of(model, inputs), outputs_of(back, inputs), strict=True):
        np.testing.assert_array_equal(array, again)


def test_a_layer_that_has_gone_cannot_go_back(tmp_path):
    model = small()
    made = in_torch(model, tmp_path)
    made.payload.module.conv = torch.nn.Identity()
    with pytest.raises(PassError, match="layer conv has gone from the module"):
        translate.to_keras(made, model)


@keras.saving.register_keras_serializable("tests")
class Cube(keras.layers.Layer):
    def call(self, x):
        return x**3


def refused():
    """Models with something that has no equal in torch, and what is said of each."""
    x, ids = keras.Input((6, 4), name="x"), keras.Input((6,), dtype="int32")
    return {
        "unknown layers": (Cube(name="a")(L.Lambda(abs, name="b")(x)), "b: layers of type Lambda.*a: .*Cube"),
        "mask": (L.LSTM(3)(L.Embedding(9, 4, mask_zero=True)(ids)), "mask_zero"),
        "attention_mask": (L.MultiHeadAttention(2, 3)(x, x, attention_mask=x > 0), "attention_mask"),
        "causal": (L.MultiHeadAttention(2, 3)(x, x, use_causal_mask=True), "called with use_causal_mask"),
        "other order": (L.MultiHeadAttention(2, 3)(x, key=x, value=x), "called with key, value"),
        "array": (x * np.arange(4, dtype=np.float32), "as an operand has no translation"),
        "state": (L.LSTM(4)(x, initial_state=[x[:, 0], x[:, 1]]), "LSTM"),
        "cell": (L.GRU(3, reset_after=False)(x), "reset_after=False"),
        "activation": (L.LSTM(3, activation="relu")(x), "usual activations alone"),
        "open length": (L.Conv1D(3, 3, 2, "same")(keras.Input((None, 4), name="free")), "a size that is left open"),
    }  # fmt: skip


@pytest.mark.parametrize("case", ["unknown layers", "mask", "attention_mask", "causal", "other order", "array",
                                  "state", "cell", "activation", "open length"])  # fmt: skip
def test_what_has_no_equal_is_refused_by_name(case, tmp_path):
    output, said = refused()[case]
    sources = keras.utils.get_source_inputs(output)
    with pytest.raises(PassError, match=said):
        in_torch(keras.Model(sources, output), tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["MobileNetV2", "ResNet50", "EfficientNetB0", "DenseNet121"])
def test_models_of_keras_applications_compute_the_same(name, tmp_path):
    keras.utils.set_random_seed(0)
    model = getattr(keras.applications, name)(weights=None, input_shape=(96, 96, 3))
    rng = np.random.default_rng(0)
    for variable in model.weights:
        if variable.name in ("gamma", "moving_variance"):
            variable.assign(rng.uniform(0.7, 1.3, variable.shape))
        elif variable.name in ("beta", "moving_mean"):
            variable.assign(rng.uniform(-0.2, 0.2, variable.shape))
    assert off_by(model, tmp_path) < 1e-4


def test_names_of_weights_are_theirs_alone():
    model = keras_layers.build("twice-and-nested")
    found = counting.named_weights(model)
    assert len(found) == len(model.weights) == 2 + 4 + 2 + 2
    assert {"shared.kernel", "shared.bias", "mid.in_.conv.kernel"} <= set(found)  # "in" is a word of Python


@pytest.mark.parametrize("name", ["type", "train"])
def test_a_name_that_torch_has_taken_is_refused(name, tmp_path):
    with pytest.raises(PassError, match=f"{name}: '{name}' is no name for a part of a torch module"):
        in_torch(keras.Sequential([keras.Input((4,)), L.Dense(2, name=name)]), tmp_path)
