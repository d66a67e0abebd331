"""A Keras model through the verbs: TFLite out of it, thinner by way of torch, ONNX where that is asked for."""

import importlib.util
import json
import runpy
from pathlib import Path

import numpy as np
import pytest

import whet
from whet.bundle import manifest
from whet.bundle.verify import deployment_of, stored_of
from whet.runtimes.base import open_session, predict

Alone = runpy.run_path(str(Path(__file__).parent.parent / "files" / "alone.py"))["Alone"]
LOOSE = ("--batch-sizes", "1", "--max-drop", "0.1", "--min-speedup", "0.01")
THIN = """
name = "thin"
[[steps]]
pass = "to-torch"
[[steps]]
pass = "prune-channels"
keep = 0.6
recovery = { epochs = 1.0, learning_rate = 1e-3, batch_size = 32 }
[[steps]]
pass = "to-keras"
[[steps]]
pass = "export-tflite"
"""


@pytest.fixture(scope="module")
def place(files, tmp_path_factory):
    """The tiny model as a file, and its pictures as an ``.npz``."""
    folder = tmp_path_factory.mktemp("keras")
    spec = importlib.util.spec_from_file_location("tiny_keras", files / "tiny_keras.py")
    tiny_keras = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(tiny_keras)
    model = tiny_keras.tiny()
    top = model.get_layer("fc")
    kernel, bias = top.get_weights()
    x, _ = tiny_keras.pictures(model, 0, 200)
    top.set_weights([kernel, bias - np.asarray(model(x)).mean(axis=0)])  # each class about as often
    model.save(folder / "tiny.keras")
    (x, y), (x_test, y_test) = tiny_keras.pictures(model, 1, 300), tiny_keras.pictures(model, 2, 400)
    np.savez(folder / "pictures.npz", x_train=x, y_train=y, x_test=x_test, y_test=y_test)
    (folder / "thin.toml").write_text(THIN)
    return folder


@pytest.fixture(scope="module")
def ran(whet, place):
    """``optimize`` with a preset and the thinner one: the RUN folder, and what was printed."""
    recipes = [word for name in ("static-int8", place / "thin.toml") for word in ("--recipe", name)]
    done = whet("optimize", place / "tiny.keras", "--data", place / "pictures.npz", "--out", place / "run",
                "--json", *recipes, *LOOSE)  # fmt: skip
    assert done.code == 0, done.err
    return place / "run", done


@pytest.mark.slow
def test_every_candidate_is_a_tflite_file_beside_the_keras_model(ran):
    folder, done = ran
    results = {result["name"]: result for result in done.json["results"]}
    assert set(results) == {"float", "static-int8", "thin"}
    assert not [result["failure"] for result in results.values() if result["failure"]]
    made = manifest.read(folder / "bundle")
    assert (made.format, made.file, made.deployment["runtime"]) == ("tflite", "model.tflite", "litert")
    assert (folder / "baseline" / "model.tflite").is_file()


@pytest.mark.slow
def test_the_bundle_verifies_and_answers_where_whet_is_not(ran, tmp_path):
    folder, _ = ran
    bundle = folder / "bundle"
    assert all(check.ok for check in whet.verify(bundle))
    alone = Alone(tmp_path / "venv", bundle / "requirements.txt")
    assert not alone.has("tensorflow")
    x = np.random.default_rng(9).standard_normal((5, 8, 8, 1)).astype(np.float32)
    np.save(tmp_path / "x.npy", x)
    made = manifest.read(bundle)
    with open_session(stored_of(bundle, made), deployment_of(made)) as session:
        wanted = predict(session, made.signature, [{"picture": x}])["output"].argmax(1)
    answers = alone.answers(bundle, tmp_path / "x.npy")
    assert [answer[0]["label"] for answer in answers] == [str(number) for number in wanted]


@pytest.mark.slow
def test_asked_for_onnx_runtime_it_becomes_onnx_through_torch(whet, place, tmp_path):
    done = whet("run", "static-int8", "--model", place / "tiny.keras", "--data", place / "pictures.npz",
                "--out", tmp_path / "run", "--runtime", "onnxruntime", "--json", *LOOSE)  # fmt: skip
    assert done.code == 0, done.err
    assert (tmp_path / "run" / "baseline" / "model.onnx").is_file()


def test_it_is_measured_as_it_is(here, place):
    done = here("evaluate", place / "tiny.keras", "--data", place / "pictures.npz", "--json")
    assert done.code == 0, done.err
    (standing,) = json.loads(done.out)
    assert standing["facts"]["runtime"] == "keras"
    assert 0.85 < standing["quality"]["scores"]["accuracy"] < 0.97


_MFCC = "scale=0.5847029; mean=48.5303407"  # the integers of the data as the numbers they stand for


@pytest.fixture(scope="module")
def words(assets, tmp_path_factory):
    """Spoken words as .npz, all of them to test on."""
    path = tmp_path_factory.mktemp("words") / "kws.npz"
    with np.load(assets / "audio/kws/first500.npz") as data:
        few = {"x_train": data["x"][:40], "y_train": data["y"][:40], "x_select": data["x"], "y_select": data["y"]}
        np.savez(path, x_test=data["x"], y_test=data["y"], **few)
    return path


@pytest.mark.assets
@pytest.mark.slow
def test_a_published_saved_model_is_as_good_as_published_and_so_is_the_tflite_file_beside_it(assets, words):
    names = [assets / "models/mlperf-tiny" / name for name in ("kws_ref_model", "kws_ref_model.tflite")]
    standings = whet.compare(*names, data=words, preprocess=_MFCC, batch_sizes=(1,))
    assert [standing.facts["runtime"] for standing in standings] == ["keras", "litert"]
    for standing in standings:
        assert standing.quality.samples == 500
        assert 0.89 <= standing.quality.scores["accuracy"] <= 0.92
        assert any(item.conditions.get("batch_size") == 1 for item in standing.measurements)


@pytest.mark.slow
@pytest.mark.assets
def test_a_saved_model_is_profiled_and_becomes_int8(whet, assets, words, tmp_path):
    folder = assets / "models/mlperf-tiny/kws_ref_model"
    data = ("--data", words, "--preprocess", _MFCC, "--json")
    profiled = whet("profile", folder, *data)
    assert profiled.code == 0, profiled.err
    assert (
        sum(layer["parameters"] for layer in profiled.json["layers"]) == 24_908 - 9 * 2 * 64
    )  # statistics are not
    words_ = ("run", "static-int8", "--model", folder, *data, "--out", tmp_path / "run", *LOOSE)
    done = whet(*words_)
    assert done.code == 0, done.err
    assert manifest.read(tmp_path / "run/candidates/static-int8").file == "model.tflite"
    again = whet(*words_)
    assert again.json["results"] == done.json["results"]
