"""Files of Keras models that do not open as they are: one line each, of what is true and what to do next."""

import json
import re
import sys
import zipfile

import numpy as np
import pytest

from whet.errors import MissingDependency, ModelError
from whet.models.keras.adapter import KerasAdapter
from whet.models.source import Origin, source_of
from whet.types import Format

import h5py  # after the adapter, which chooses the backend of Keras  # isort: skip
import keras

L = keras.layers


def net():
    keras.utils.set_random_seed(0)
    return keras.Sequential(
        [
            keras.Input((6, 6, 3), name="x"), L.Conv2D(4, 3), L.BatchNormalization(), L.DepthwiseConv2D(3),
            L.Flatten(), L.Dense(2),
        ]
    )  # fmt: skip


def opened(path, **options):
    return KerasAdapter().open(source_of(path, **options), None)


def refused(path, said, **options):
    with pytest.raises(ModelError, match=said) as caught:
        opened(path, **options)
    assert "\n" not in str(caught.value)
    assert caught.value.exit_code == 2


@pytest.fixture
def archive(tmp_path):
    net().save(tmp_path / "net.keras")
    return tmp_path / "net.keras"


@pytest.fixture
def h5(tmp_path):
    net().save(tmp_path / "net.h5")
    return tmp_path / "net.h5"


@pytest.mark.parametrize("kept", [0.05, 0.5, 0.98])
def test_truncated_files(archive, h5, kept):
    for path, said in ((archive, r"no \.keras file, or truncated"), (h5, "no HDF5 file, or truncated")):
        whole = path.read_bytes()
        path.write_bytes(whole[: int(len(whole) * kept)])
        refused(path, said)


def test_other_files_under_their_names(tmp_path):
    for name, said in (("text.keras", r"no \.keras file"), ("text.h5", "no HDF5 file")):
        (tmp_path / name).write_text("no model at all")
        refused(tmp_path / name, said)


def test_a_damaged_archive(archive):
    with zipfile.ZipFile(archive) as file:
        parts = {item.filename: file.read(item) for item in file.infolist()}
    for name, content, said in (
        ("config.json", b"{", r"structure of the model in .* is not JSON"),
        ("model.weights.h5", b"none", r"net\.keras is no \.keras file, or truncated .*; copy it again"),
    ):
        with zipfile.ZipFile(archive, "w") as file:
            for other, bytes_ in {**parts, name: content}.items():
                file.writestr(other, bytes_)
        refused(archive, said)


def test_an_archive_that_unpacks_to_far_more_than_it_is(archive, monkeypatch):
    monkeypatch.setattr("whet.models.keras.limits._MAX_BYTES", 2**20)
    with zipfile.ZipFile(archive, "a", zipfile.ZIP_DEFLATED) as file:
        file.writestr("assets/zeros", bytes(2**24))
    assert archive.stat().st_size < 2**17
    refused(archive, r"would unpack to 16,\d+,\d+ bytes, more than 100 times its size, which no model does")


def test_weights_alone(tmp_path):
    net().save_weights(tmp_path / "net.weights.h5")
    refused(tmp_path / "net.weights.h5", r"holds weights \(.*\), not a model; save it whole: model\.save\(\)")


@pytest.mark.parametrize("suffix", [".keras", ".h5"])
def test_lambda_layers_are_run_by_the_users_word_alone(tmp_path, suffix):
    model = keras.Sequential([keras.Input((4,)), L.Lambda(lambda x: x * 3, name="triple", output_shape=(4,))])
    path = tmp_path / f"net{suffix}"
    model.save(path)
    refused(path, r"brings Python code of its own \(Lambda: triple\).*--trust-pickle")
    trusted = opened(path, trust_pickle=True)
    x = np.ones((2, 4), np.float32)
    (name,) = KerasAdapter.inputs(trusted.payload)
    np.testing.assert_array_equal(KerasAdapter().forward(trusted, {name: x})["output"], x * 3)


class Own(keras.layers.Layer):
    def call(self, x):
        return x * 2


@keras.saving.register_keras_serializable("mine")
class Registered(keras.layers.Layer):
    def call(self, x):
        return x * 2


def own_activation(x):
    return x * 2


@pytest.mark.parametrize("suffix", [".keras", ".h5"])
def test_classes_of_the_users_own_are_named(tmp_path, suffix):
    path = tmp_path / f"net{suffix}"
    keras.Sequential([keras.Input((4,)), Own(), L.Dense(3, activation=own_activation)]).save(path)
    refused(path, rf"of its own: Own, own_activation; give a file\.py:function .*load_model\('net\{suffix}'\)")


def test_classes_that_are_registered_open_and_others_do_not(tmp_path):
    path = tmp_path / "net.keras"
    keras.Sequential([keras.Input((4,)), Registered()]).save(path)
    assert opened(path).payload.output_shape == (None, 4)
    registry = keras.saving.get_custom_objects()
    taken = registry.pop("mine>Registered")
    try:
        refused(path, r"of its own: Registered; give a file\.py:function")
    finally:
        registry["mine>Registered"] = taken


def keras_2(structure):
    """Return a structure of Keras 3 in the words of Keras 2."""
    if isinstance(structure, list):
        return [keras_2(item) for item in structure]
    if not isinstance(structure, dict):
        return structure
    made = {key: keras_2(value) for key, value in structure.items() if key not in ("module", "registered_name")}
    config = made.get("config")
    if made.get("class_name") == "InputLayer":
        config["batch_input_shape"] = config.pop("batch_shape")
    if made.get("class_name") == "DepthwiseConv2D":
        config["groups"] = 1
    if made.get("class_name") == "BatchNormalization":
        config["axis"] = [3]
        config.pop("renorm", None)
    return made


def test_a_file_of_keras_2_opens(h5):
    wanted = opened(h5)
    with h5py.File(h5, "r+") as file:
        old = json.dumps(keras_2(json.loads(file.attrs["model_config"])))
        assert re.search(r'"batch_input_shape".*"axis": \[3\].*"groups": 1', old)
        file.attrs["model_config"] = old
    before = h5.read_bytes()
    found = opened(h5)
    assert h5.read_bytes() == before  # the user's file stays as it is
    batch = wanted.signature.synthetic(3)
    np.testing.assert_array_equal(
        KerasAdapter().forward(found, batch)["output"], KerasAdapter().forward(wanted, batch)["output"]
    )


@pytest.mark.assets
@pytest.mark.parametrize(
    ("name", "parameters"), [("pretrainedResnet", 78_666), ("vww_96", 221_794), ("ad01", 269_992)]
)
def test_published_files_of_keras_2_open(assets, name, parameters):
    """Their numbers of parameters are those that Keras 2 tells of them."""
    model = opened(assets / "models" / "mlperf-tiny" / f"{name}.h5")
    assert model.payload.count_params() == parameters


def written(folder, name, text):
    (folder / name).write_text(text)
    return f"{folder / name}:build"


def test_a_function_of_a_file_that_imports_keras_builds_a_keras_model(tmp_path):
    lines = "import keras\ndef build():\n    return keras.Sequential([keras.Input((4,)), keras.layers.Dense(2)])\n"
    source = source_of(written(tmp_path, "mine.py", lines))
    assert (source.origin, source.format) == (Origin.FACTORY, Format.KERAS)
    assert KerasAdapter().open(source, None).payload.output_shape == (None, 2)
    refused_name = written(tmp_path, "other.py", "import keras\ndef build():\n    return 3\n")
    refused(refused_name, r"other\.py:build returned a int, not a keras\.Model; return the model itself")
    both = written(tmp_path, "both.py", f"import torch\n{lines}")
    refused(both, r"both\.py imports both torch and Keras, so that it is not known what build builds")
    plain = written(tmp_path, "plain.py", "from torch import nn\ndef build():\n    return nn.Linear(2, 2)\n")
    assert source_of(plain).format is Format.TORCH


def test_a_model_in_memory_opens_in_another_process_and_is_told_by_what_it_is(tmp_path):
    model = net()
    first, second = source_of(model), source_of(model)
    assert (first.origin, first.format, first.name) == (Origin.MEMORY, Format.KERAS, model.name)
    assert first.fingerprint() == second.fingerprint()
    batch = KerasAdapter().open(first, None).signature.synthetic(2)
    (array,) = batch.values()
    np.testing.assert_array_equal(
        KerasAdapter().forward(KerasAdapter().open(second, None), batch)["output"], np.asarray(model(array))
    )
    weights = model.get_weights()
    model.set_weights([weights[0] + 1, *weights[1:]])
    assert source_of(model).fingerprint() != first.fingerprint()
    refused(Subclass(), "cannot be saved|with a call of its own|uses classes or functions of its own")


def test_without_keras_the_message_says_what_to_install(archive, monkeypatch):
    from whet.models.adapter import adapter_for

    monkeypatch.delitem(sys.modules, "whet.models.keras.adapter")
    monkeypatch.setitem(sys.modules, "keras", None)
    with pytest.raises(MissingDependency, match=r"pip install 'whet\[keras\]'"):
        adapter_for(source_of(archive).format)


class Subclass(keras.Model):
    def __init__(self):
        super().__init__()
        self.top = L.Dense(2)

    def call(self, x):
        return self.top(x)


def test_a_model_with_a_call_of_its_own(tmp_path):
    from whet.models.keras import describe

    with pytest.raises(ModelError, match=r"is a Subclass with a call of its own; .*functional and the sequential"):
        describe.functional(Subclass())
    with pytest.raises(ModelError, match="does not know its input; give it an Input layer"):
        describe.functional(keras.Sequential([L.Dense(2)]))
