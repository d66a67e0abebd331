"""A published TFLite file through the verbs, and a bundle of one that answers and verifies without whet."""

import json
import runpy
from pathlib import Path

import flat
import numpy as np
import pytest

import whet
from whet.bundle import manifest
from whet.bundle.verify import deployment_of, stored_of, verify
from whet.bundle.write import Contents, copy, seal, write
from whet.data.preprocess import Postprocess
from whet.errors import RecipeError
from whet.models.adapter import adapter_for
from whet.models.model import Facts, Stored
from whet.models.source import source_of
from whet.recipe.recipe import Recipe
from whet.runtimes.base import Deployment, open_session, predict

Alone = runpy.run_path(str(Path(__file__).parent.parent / "files" / "alone.py"))["Alone"]
QUICK = {"batch_sizes": (1, 4)}


@pytest.fixture(scope="module")
def rows(tmp_path_factory):
    """A float file, one of integers, and data labelled mostly as the latter answers: its integers, and numbers."""
    folder = tmp_path_factory.mktemp("tflite")
    flat.written(flat.connected(), folder, "float.tflite")
    path = flat.written(flat.quantized(), folder, "int8.tflite")
    integers = np.random.default_rng(0).integers(-128, 128, (400, 6)).astype(np.int8)
    adapter = adapter_for(source_of(path).format)
    model = adapter.open(source_of(path), None)
    y = adapter.forward(model, {"x": integers})["y"].argmax(1)
    wrong = np.random.default_rng(1).random(400) < 0.1
    y[wrong] = (y[wrong] + 1) % 3
    numbers = ((integers.astype(np.float32) - flat.IN[1]) * flat.IN[0]).astype(np.float32)
    for name, x in (("integers", integers), ("numbers", numbers)):
        np.savez(folder / f"{name}.npz", x_train=x[:100], y_train=y[:100], x_test=x[100:], y_test=y[100:])
    return folder


def accuracy(standing):
    return standing.quality.scores["accuracy"]


def test_integers_and_the_numbers_they_stand_for_score_alike(rows):
    by_integers, by_numbers = (
        whet.evaluate(rows / "int8.tflite", data=rows / f"{name}.npz")[0] for name in ("integers", "numbers")
    )
    assert by_integers.format == "tflite"
    assert by_integers.facts["runtime"] == "litert"
    assert by_integers.quality.scores == by_numbers.quality.scores
    assert 0.85 < accuracy(by_integers) < 0.95


def test_files_of_both_kinds_are_compared_on_the_same_numbers(rows):
    found = whet.compare(rows / "int8.tflite", rows / "float.tflite", data=rows / "numbers.npz", **QUICK)
    first, second = found
    assert accuracy(first) > accuracy(second)
    assert second.comparison.drop > 0.2
    measured = {(item.metric, item.conditions.get("batch_size")) for item in second.measurements}
    assert {("speedup", 1), ("speedup", 4), ("size_bytes", None), ("load_ms", None)} <= measured


@pytest.mark.parametrize("name", ["float", "int8"])
def test_without_data_it_is_timed_on_what_the_file_says_it_takes(here, rows, name):
    ran = here("bench", rows / f"{name}.tflite", "--batch-sizes", "1,4", "--json")
    assert ran.code == 0, ran.err
    (standing,) = json.loads(ran.out)
    assert standing["facts"]["provider"] == "XNNPACK"
    ran = here("profile", rows / f"{name}.tflite", "--json")
    assert ran.code == 0, ran.err
    layers = json.loads(ran.out)["layers"]
    assert {layer["kind"] for layer in layers} == {"FULLY_CONNECTED"}


def test_a_file_in_float_is_quantized_and_one_of_integers_is_refused_as_it_is(rows, tmp_path):
    for name, failed in (("float", None), ("int8", "its weights are integers already")):
        found = whet.run(
            rows / f"{name}.tflite", rows / "numbers.npz", tmp_path / name, recipes=["static-int8"], **QUICK
        )
        (result,) = [one for one in found.results if one.name == "static-int8"]
        assert (result.failure is None) == (failed is None)
        assert failed is None or failed in str(result.failure)


def test_presets_for_other_formats_are_named(rows, tmp_path):
    with pytest.raises(
        RecipeError, match=r"'combined' is not for tflite models; for these there are half, dynamic-"
    ):
        whet.run(rows / "float.tflite", rows / "numbers.npz", tmp_path / "run", recipes=["combined"])
    assert not (tmp_path / "run").exists()


# --- a bundle -------------------------------------------------------------------------------------------------


def bundled(path, data, bundle, deployment, **options):
    """Write a bundle of a file as it is."""
    source = source_of(path)
    splits = whet.dataset(data, **options)
    model = adapter_for(source.format).open(source, None)
    contents = Contents(
        stored=Stored(source.format, path), facts=Facts.of(model), recipe=Recipe("as-given", ()),
        deployment=deployment, splits=splits, output=model.signature.answer, task="classification",
        metric="accuracy", postprocess=Postprocess("classification", True, splits.classes, 3), source=source,
        data={"splits": {}, "notes": (), "fingerprint": "", "test_opened": 0},
    )  # fmt: skip
    return write(bundle, contents)


@pytest.fixture(scope="module")
def bundle(rows, tmp_path_factory):
    folder = tmp_path_factory.mktemp("bundles") / "int8"
    bundled(rows / "int8.tflite", rows / "integers.npz", folder, Deployment("litert", threads=1))
    return folder


@pytest.fixture(scope="module")
def alone(bundle, tmp_path_factory):
    """Where NumPy and LiteRT are, and nothing else."""
    return Alone(tmp_path_factory.mktemp("alone") / "venv", bundle / "requirements.txt")


def test_a_bundle_holds_the_file_and_verifies(rows, bundle):
    assert (bundle / "model.tflite").read_bytes() == (rows / "int8.tflite").read_bytes()
    checks = verify(bundle)
    assert [check.kind for check in checks if check.ok] == [
        "manifest",
        "files",
        "processor",
        "figures",
        "signature",
        "golden",
    ]
    made = manifest.read(bundle)
    assert (made.format, made.file, made.deployment["runtime"]) == ("tflite", "model.tflite", "litert")
    assert made.signature.inputs[0].coded == "int8"
    assert made.golden.tolerance["y"] == pytest.approx(made.signature.outputs[0].step, rel=0.01)
    names = [line.partition("==")[0] for line in (bundle / "requirements.txt").read_text().split()]
    assert names == ["numpy", "ai-edge-litert"]


def test_another_file_under_its_name_is_found_out(rows, bundle, tmp_path):
    write_to = tmp_path / "bundle"
    copy(bundle, write_to)
    (write_to / "model.tflite").write_bytes(flat.connected())
    checks = {check.kind: check for check in verify(write_to)}
    assert checks["files"].detail == "changed since the bundle was sealed: model.tflite"
    seal(write_to, manifest.read(write_to), ())
    checks = {check.kind: check for check in verify(write_to)}
    assert checks["signature"].detail.startswith("the model's inputs are row=float32[?,6]; the manifest says x=")


def test_a_bundle_is_measured_beside_its_file(rows, bundle):
    first, second = whet.evaluate(rows / "int8.tflite", bundle, data=rows / "integers.npz")
    assert accuracy(first) == accuracy(second)


def test_it_answers_where_whet_is_not(alone, bundle, tmp_path):
    for library in ("whet", "onnxruntime", "torch", "tensorflow"):
        assert not alone.has(library), library
    made = manifest.read(bundle)
    integers = np.random.default_rng(5).integers(-128, 128, (7, 6)).astype(np.int8)
    numbers = ((integers.astype(np.float32) - flat.IN[1]) * flat.IN[0]).astype(np.float32)
    with open_session(stored_of(bundle, made), deployment_of(made)) as session:
        wanted = predict(session, made.signature, [{"x": integers}])["y"].argmax(1)
    np.save(tmp_path / "integers.npy", integers)
    np.save(tmp_path / "numbers.npy", numbers)
    for name in ("integers", "numbers"):
        answers = alone.answers(bundle, tmp_path / f"{name}.npy")
        assert [answer[0]["label"] for answer in answers] == [str(number) for number in wanted]
    done = alone.run(bundle / "predict.py", "--golden")
    assert (done.returncode, done.stderr, json.loads(done.stdout)["golden"]) == (0, "", "ok")


def test_a_file_that_takes_one_at_a_time_answers_for_many(alone, rows, tmp_path):
    path = flat.written(flat.conv_net(reshape_to=1), tmp_path)
    x = flat.floats(40, 8, 8, 2)
    y = np.random.default_rng(0).integers(0, 3, 40)
    bundle = tmp_path / "bundle"
    bundled(path, ((x, y), (x, y)), bundle, Deployment("litert", {"kernels": "builtin"}))
    assert all(check.ok for check in verify(bundle))
    np.save(tmp_path / "x.npy", x[:5])
    answers = alone.answers(bundle, tmp_path / "x.npy")
    model = flat.opened(flat.conv_net(), tmp_path)
    wanted = adapter_for(model.format).forward(model, {"x": x[:5]})["y"].argmax(1)
    assert [answer[0]["label"] for answer in answers] == [str(number) for number in wanted]


# --- published files ------------------------------------------------------------------------------------------

_MFCC = "scale=0.5847029; mean=48.5303407"  # the integers of the INT8 file as the numbers they stand for


@pytest.fixture(scope="module")
def published(assets, tmp_path_factory):
    """The data of the published files as .npz, all of it to test on."""
    folder = tmp_path_factory.mktemp("published")
    with np.load(assets / "audio/kws/first500.npz") as words:
        np.savez(folder / "kws.npz", x_train=words["x"][:20], y_train=words["y"][:20], x_test=words["x"],
                 y_test=words["y"], x_select=words["x"][:20], y_select=words["y"][:20])  # fmt: skip
    with np.load(assets / "images/cifar10/test.npz") as pictures:
        x = pictures["x"].astype(np.float32)
        np.savez(folder / "cifar.npz", x_train=x[:20], y_train=pictures["y"][:20], x_test=x, y_test=pictures["y"],
                 x_select=x[:20], y_select=pictures["y"][:20])  # fmt: skip
    return folder, assets / "models/mlperf-tiny"


@pytest.mark.assets
def test_the_keyword_spotter_evaluates_as_published_and_benches(published):
    data, models = published
    names = [models / "kws_ref_model_float32.tflite", models / "kws_ref_model.tflite"]
    first, second = whet.evaluate(*names, data=data / "kws.npz", preprocess=_MFCC)
    raw = whet.evaluate(names[1], data=data / "kws.npz")[0]
    for standing in (first, second, raw):
        assert standing.quality.samples == 500
        assert 0.89 <= accuracy(standing) <= 0.91
    assert raw.quality.scores == pytest.approx(second.quality.scores, abs=1e-6)
    for standing in whet.bench(*names, data=data / "kws.npz", preprocess=_MFCC, batch_sizes=(1, 8)):
        assert {item.conditions.get("batch_size") for item in standing.measurements} >= {1, 8}


@pytest.mark.assets
def test_resnet_evaluates_as_published_in_float_and_in_int8(published):
    data, models = published
    names = [models / "pretrainedResnet.tflite", models / "pretrainedResnet_quant.tflite"]
    first, second = whet.evaluate(*names, data=data / "cifar.npz")
    assert 0.85 <= accuracy(first) <= 0.91
    assert 0.85 <= accuracy(second) <= 0.91
    assert second.comparison.interval.low <= 0 <= second.comparison.interval.high  # equal, as far as 500 tell
    assert names[1].stat().st_size < 100_000


@pytest.mark.assets
def test_a_file_for_uint8_of_one_picture_at_a_time_is_profiled(assets):
    found = whet.profile(assets / "models/odd/mobilenet-v1-0.25-128-int8.tflite")
    assert (found.batch_size, found.signature.inputs[0].coded) == (1, "uint8")
    assert len(found.layers) == 31
    assert found.macs == 13_570_304
