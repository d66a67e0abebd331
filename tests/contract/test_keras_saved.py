"""SavedModel folders of Keras 2: rebuilt with the weights they hold, checked by what they serve, or refused."""

import json
import os
import runpy
from pathlib import Path

import numpy as np
import pytest

from whet.errors import ModelError
from whet.models.keras import saved
from whet.models.keras.adapter import KerasAdapter
from whet.models.source import Origin, source_of
from whet.types import Format

import keras  # after the adapter, which chooses its backend  # isort: skip
import tensorflow as tf

L = keras.layers
writer = runpy.run_path(str(Path(__file__).parent.parent / "files" / "saved_model.py"))
write, structure = writer["write"], writer["structure"]


def drawn(model):
    """Return a model with weights that are not those of its beginning."""
    rng = np.random.default_rng(1)
    model.set_weights([rng.uniform(0.2, 0.8, array.shape).astype(array.dtype) for array in model.get_weights()])
    return model


def net():
    picture = keras.Input((6, 6, 3), name="picture")
    x = L.Conv2D(4, 3, name="first")(picture)
    x = L.DepthwiseConv2D(3)(L.ReLU(6.0)(L.BatchNormalization()(x)))
    return drawn(keras.Model(picture, L.Dense(2, activation="tanh", name="answer")(L.Flatten()(x)), name="net"))


def chain():
    layers = [
        keras.Input((6, 6, 3), name="picture"),
        L.Conv2D(4, 3),
        L.BatchNormalization(),
        L.Flatten(),
        L.Dense(2),
    ]
    return drawn(keras.Sequential(layers, name="chain"))


def nested():
    """One model called twice in another, and one with layers of the same names and shapes."""

    def block(name):
        given = keras.Input((4,))
        return keras.Model(given, L.Dense(4, name="dense")(given), name=name)

    x = keras.Input((4,), name="x")
    once, twice = block("once"), block("twice")
    return drawn(keras.Model(x, L.Add(name="sum")([once(x), twice(twice(x))]), name="nested"))


def opened(path, **options):
    return KerasAdapter().open(source_of(path, **options), None)


def refused(path, said, **options):
    with pytest.raises(ModelError, match=said) as caught:
        opened(path, **options)
    assert "\n" not in str(caught.value)


@pytest.fixture(scope="module")
def kept(tmp_path_factory):
    """A folder that tests copy."""
    return write(tmp_path_factory.mktemp("kept") / "net", net())


@pytest.fixture
def folder(kept, tmp_path):
    import shutil

    return Path(shutil.copytree(kept, tmp_path / "net"))


@pytest.mark.parametrize("build", [net, chain, nested])
@pytest.mark.parametrize("within", [False, True])
def test_a_folder_opens_with_the_weights_it_holds(tmp_path, build, within):
    model = build()
    made = opened(write(tmp_path / "saved", model, within=within))
    batch = made.signature.synthetic(3)
    (array,) = batch.values()
    np.testing.assert_array_equal(
        KerasAdapter().forward(made, batch)["output"], np.asarray(model(array, training=False))
    )
    assert [layer.name for layer in made.payload.layers] == [layer.name for layer in model.layers]


def test_it_is_named_by_its_folder_or_its_graph_and_told_by_all_of_its_files(folder):
    source = source_of(folder)
    assert (source.origin, source.format, source.name) == (Origin.FILE, Format.KERAS, "net")
    assert source_of(folder / "saved_model.pb") == source
    before = source.fingerprint()
    data = folder / "variables" / "variables.data-00000-of-00001"
    whole = bytearray(data.read_bytes())
    whole[len(whole) // 2] ^= 1
    data.write_bytes(whole)
    assert source.fingerprint() != before


def test_folders_of_another_kind(tmp_path):
    with pytest.raises(ModelError, match=r"without a manifest\.json .*, a config\.json .* or a saved_model\.pb"):
        source_of(tmp_path)
    (tmp_path / "saved_model.pb").write_bytes(b"")
    with pytest.raises(ModelError, match="is empty"):
        source_of(tmp_path)
    with pytest.raises(ModelError, match="does not exist"):
        source_of(tmp_path / "other" / "saved_model.pb")


@pytest.mark.parametrize("name", ["saved_model.pb", "keras_metadata.pb"])
@pytest.mark.parametrize("share", [0.1, 0.6, 0.99])
def test_truncated_files(folder, name, share):
    whole = (folder / name).read_bytes()
    (folder / name).write_bytes(whole[: int(len(whole) * share)])
    refused(folder, rf"{name} is no file of a SavedModel, or truncated \(.*\); copy the whole folder again")


def test_other_files_under_their_names(folder):
    (folder / "keras_metadata.pb").write_text("no notes at all")
    refused(folder, "is no file of a SavedModel")


def test_weights_that_are_missing_or_cut(tmp_path):
    model = keras.Sequential([keras.Input((100,), name="x"), L.Dense(500)], name="wide")
    folder = write(tmp_path / "wide", model)
    data, index = (folder / "variables" / f"variables.{name}" for name in ("data-00000-of-00001", "index"))
    whole = data.read_bytes()
    for left in (400, 20_000, len(whole) - 10):
        data.write_bytes(whole[:left])
        refused(folder, "is damaged: IndexError: .*; copy the whole folder again")
    data.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    refused(folder, "is damaged: .*[Cc]hecksum")
    data.unlink()
    refused(folder, "is damaged: ")
    index.unlink()
    refused(folder, r"variables\.index does not exist: the weights are missing")


def test_an_index_that_tells_of_more_than_there_is(folder):
    class Index:
        def get_variable_to_shape_map(self):
            return {"kernel": [2**20, 2**20]}

        def get_variable_to_dtype_map(self):
            return {"kernel": tf.float32}

    with pytest.raises(ModelError, match=r"are 4,398,046,511,104 bytes by their index, and its files have"):
        saved._fits(folder, Index(), ["kernel"])


def test_more_than_any_graph(folder, monkeypatch):
    monkeypatch.setattr("whet.models.keras.saved._MOST_BYTES", 1000)
    refused(folder, r"has [\d,]+ bytes, more than the 2 GiB of any graph; do not open it")


def test_files_that_lie_elsewhere(folder, tmp_path):
    for name in ("variables", "keras_metadata.pb"):
        (folder / name).rename(tmp_path / name)
        (folder / name).symlink_to(tmp_path / name)
        refused(folder, rf"{name} in .* leads out of the folder, to {tmp_path / name}; .*cp -rL")
        (folder / name).unlink()
        (tmp_path / name).rename(folder / name)
    assert opened(folder).payload.count_params() == net().count_params()


def test_a_graph_that_is_run_only(tmp_path):
    """What Keras 3 exports, and a module of TensorFlow, hold no structure."""
    net().export(tmp_path / "exported", verbose=False)
    refused(
        tmp_path / "exported", r"is a SavedModel without a structure of Keras .*TFLiteConverter\.from_saved_model"
    )
    tf.saved_model.save(tf.Module(), str(tmp_path / "module"))
    refused(tmp_path / "module", "without a structure of Keras")


def test_structures_that_cannot_be_rebuilt(tmp_path):
    model = keras.Sequential([keras.Input((4,), name="x"), L.Dense(3), L.Dense(2)], name="own")
    for name, layer, said in (
        (
            "Own",
            {},
            r"own uses classes or functions of its own: Own; give a file\.py:function .*load_model\('own\.h5'\)",
        ),
        ("Lambda", {"function": ["4wEA", None, None]}, r"own brings Python code of its own \(Lambda: dense"),
        (
            "TFOpLambda",
            {"function": "math.add"},
            r"functions of TensorFlow in place of layers \(dense\w*\).*Rescaling",
        ),
        (
            "Dense",
            {"units": 5},
            r"layer dense\w* \(Dense\) of own holds weights of the shapes \[\[4, 3\], \[3\]\]; in Ker",
        ),
        ("LSTM", {"time_major": True}, r"cannot open own: .*time_major"),
    ):
        told = structure(model)
        told["config"]["layers"][1]["class_name"] = name
        told["config"]["layers"][1]["config"] |= layer
        refused(write(tmp_path / "own", model, told=told), said)


@pytest.mark.slow
def test_a_layer_for_which_there_is_no_room(tmp_path):
    """TensorFlow waits ten seconds for memory before it gives up."""
    model = keras.Sequential([keras.Input((4,), name="x"), L.Dense(3)], name="own")
    told = structure(model)
    told["config"]["layers"][1]["config"]["units"] = 10**12
    refused(write(tmp_path / "own", model, told=told), "cannot open own: ResourceExhaustedError")


def test_a_model_with_a_call_of_its_own(folder):
    from tensorflow.python.keras.protobuf.saved_metadata_pb2 import SavedMetadata

    path = folder / "keras_metadata.pb"
    notes = SavedMetadata.FromString(path.read_bytes())
    notes.nodes[0].identifier, notes.nodes[0].metadata = "_tf_keras_model", json.dumps({"class_name": "Mine"})
    path.write_bytes(notes.SerializeToString())
    refused(folder, "net holds Mine, a model with a call of its own, whose structure is Python")


def test_a_rebuilt_model_that_answers_otherwise_than_the_folder(tmp_path):
    model = net()
    folder = write(tmp_path / "net", model, serve=lambda x: model(x, training=False) * 1.01)
    refused(folder, r"off what the folder serves by 0\.0099 of the greatest value of 'answer' \(allowed: 0\.0001\)")


def test_a_graph_that_acts_outside_of_itself_is_not_run(tmp_path):
    model, trap = net(), tmp_path / "trap"

    @tf.function
    def inner(x):
        with tf.control_dependencies([tf.io.write_file(str(trap), "sprung")]):
            return model(x, training=False)

    folder = write(tmp_path / "net", model, serve=inner)
    trap.unlink(missing_ok=True)
    refused(folder, r"operators that act outside of it \(WriteFile\), which are not run")
    assert not trap.exists()


def test_a_table_that_is_filled_as_the_folder_opens_is_not_run(tmp_path):
    pairs = tf.lookup.KeyValueTensorInitializer(["a"], [1])
    table = tf.lookup.StaticHashTable(pairs, 0)
    folder = write(tmp_path / "net", net(), extra=table)
    refused(folder, "holds lookup tables or files of words, which are not rebuilt")


@pytest.mark.assets
def test_the_published_keyword_spotter_opens(assets):
    """Of TensorFlow 2.3, with the state of its training; its number of parameters is what Keras 2 tells."""
    model = opened(assets / "models" / "mlperf-tiny" / "kws_ref_model")
    assert model.payload.count_params() == 24_908
    assert [spec.shape for spec in model.signature.outputs] == [(None, 12)]
    assert os.environ["KERAS_BACKEND"] == "tensorflow"
