"""The measuring verbs on any artifact, the report from what was saved, and what stands on the terminal."""

import json
import re
import shutil
import subprocess
import sys

import numpy as np
import pytest

import whet
from whet import api, demo, isolate
from whet.cli import console
from whet.data.data import Part
from whet.models.adapter import adapter_for
from whet.progress import Event

WITHOUT_FRAMEWORKS = """
import sys
for name in ("torch", "onnx", "onnxruntime", "onnxslim", "onnxscript", "safetensors", "sklearn"):
    sys.modules[name] = None
from whet.cli.main import invoke
code = invoke(sys.argv[1:])
assert sys.modules["torch"] is None
sys.exit(code)
"""


@pytest.fixture(scope="module")
def weights(tiny, tmp_path_factory):
    """Weights of the tiny model, as another seed draws them."""
    import torch
    from safetensors.torch import save_file

    path = tmp_path_factory.mktemp("weights") / "tiny.safetensors"
    torch.manual_seed(7)
    save_file(tiny.Tiny().state_dict(), str(path))
    return path


@pytest.fixture(scope="module")
def compared(whet, files, weights, run):
    """A factory with weights, its bundle, and an ONNX file, compared."""
    return whet(
        "compare", f"{files}/tiny.py:tiny", run / "candidates/static-int8", run / "baseline/model.onnx",
        f"{files}/tiny.py:tiny", "--data", f"{files}/tiny.py:images", "--batch-sizes", "1,3", "--json",
        "--weights", weights,
    )  # fmt: skip


def numbers(standing, metric, **conditions):
    return [
        item["value"]
        for item in standing["measurements"]
        if item["metric"] == metric and conditions.items() <= item["conditions"].items()
    ]


def test_compare_takes_factories_bundles_and_files_and_names_each_apart(compared):
    assert compared.code == 0, compared.err
    assert [item["name"] for item in compared.json] == ["tiny", "static-int8", "model", "tiny-2"]
    assert [item["format"] for item in compared.json] == ["torch", "onnx", "onnx", "torch"]
    assert [item["facts"]["runtime"] for item in compared.json] == ["torch", "onnxruntime", "onnxruntime", "torch"]


def test_weights_belong_to_the_factories_in_their_order(compared, tiny, weights):
    """The first factory got the weights; the second is as its function builds it."""
    import torch
    from safetensors.torch import load_file

    module = tiny.Tiny().eval()
    module.load_state_dict(load_file(str(weights)))
    splits = whet.dataset(tiny.images())
    x = torch.from_numpy(splits.batch(Part.TEST, range(300))["input"])
    labels = splits.labels(Part.TEST)
    with torch.no_grad():
        own = float((module(x).argmax(1).numpy() == labels).mean())
        built = float((tiny.tiny().eval()(x).argmax(1).numpy() == labels).mean())
    scores = [item["quality"]["scores"]["accuracy"] for item in compared.json]
    assert scores[0] == pytest.approx(own)
    assert scores[3] == pytest.approx(built)
    assert own != built
    assert scores[2] == pytest.approx(built), "the exported file is the model that the function builds"


def test_compare_gives_quality_sample_by_sample_and_intervals_that_hold_for_all(compared):
    first, *others = compared.json
    assert first["comparison"] is None
    for item in others:
        assert item["comparison"]["samples"] == 300
        assert item["comparison"]["interval"]["confidence"] == pytest.approx(1 - 0.05 / 3)
        assert item["comparison"]["before"] == first["quality"]["scores"]["accuracy"]
        assert numbers(item, "speedup", batch_size=1)
        assert numbers(item, "speedup", batch_size=3)


def test_compare_weighs_each_in_a_process_of_its_own(compared, run):
    for item in compared.json:
        assert numbers(item, "load_ms")[0] > 0
        assert numbers(item, "peak_memory_bytes")[0] > 10_000_000
    assert numbers(compared.json[1], "size_bytes") == [(run / "candidates/static-int8/model.onnx").stat().st_size]


def test_bench_needs_no_data(here, onnx_file, bundle):
    ran = here("bench", onnx_file, bundle, onnx_file, "--batch-sizes", "1,2", "--json")
    assert ran.code == 0, ran.err
    assert [item["name"] for item in ran.json] == ["tiny", "bundle", "tiny-2"]
    for item in ran.json:
        assert item["quality"] is None
        assert len(numbers(item, "latency_p50_ms")) == 2
        assert numbers(item, "throughput_per_s", batch_size=2)[0] > 0
    assert numbers(ran.json[0], "speedup") == []
    assert len(numbers(ran.json[2], "speedup")) == 2


def test_evaluate_measures_quality_alone(here, onnx_file, npz):
    ran = here("evaluate", onnx_file, "--data", npz, "--json")
    assert ran.code == 0, ran.err
    (item,) = ran.json
    assert item["quality"]["samples"] == 300
    assert np.trace(item["quality"]["confusion"]) / 300 == pytest.approx(item["quality"]["scores"]["accuracy"])
    assert numbers(item, "latency_p50_ms") == []
    assert numbers(item, "load_ms") == []


def test_tables_of_the_measuring_verbs(here, onnx_file, npz):
    ran = here("compare", onnx_file, onnx_file, "--data", npz, "--batch-sizes", "2")
    assert ran.code == 0, ran.err
    for words in (
        "batch 2",
        "against tiny",
        "tiny-2",
        "size and memory",
        "quality on 300 test samples",
        "accuracy",
    ):
        assert words in ran.out
    assert "worse by, 95.0% limits" in ran.out
    assert re.search(r"accuracy +│ +\+0\.0000 \(-0\.0\d+ to 0\.0\d+\)", ran.out), ran.out
    assert ran.err.splitlines()[0].strip() == "evaluate tiny"


def test_profile_of_a_factory_with_weights_a_file_and_a_bundle(here, files, weights, onnx_file, bundle):
    ran = here(
        "profile", f"{files}/tiny.py:tiny", "--weights", weights, "--input", "float32[1,1,8,8]", "--json",
        "--batch-size", "2",
    )  # fmt: skip
    assert ran.code == 0, ran.err
    found = ran.json
    assert found["format"] == "torch"
    assert found["batch_size"] == 2
    macs = {layer["name"]: layer["macs"] for layer in found["layers"]}
    assert macs["conv1"] == 8 * 9 * 64
    assert macs["conv2"] == 16 * 8 * 9 * 16
    assert macs["fc"] == 48
    assert found["parameters"] == sum(layer["parameters"] for layer in found["layers"])
    ran = here("profile", bundle, "--json")
    assert ran.code == 0, ran.err
    assert ran.json["format"] == "onnx"
    assert ran.json["signature"]["inputs"][0]["name"] == "x"
    ran = here("profile", onnx_file)
    assert ran.code == 0, ran.err
    for words in ("onnx, batch 1, 1 thread(s)", "parameters", "MACs", "share", "inputs  x=float32[?,1,8,8]"):
        assert words in ran.out


def test_profile_without_data_or_input_says_what_to_give(here, files):
    ran = here("profile", f"{files}/tiny.py:tiny")
    assert (ran.code, ran.out) == (2, "")
    assert ran.err == ("error: nothing says what goes into the model; give --data, or --input 'name=dtype[axes]'\n")


def test_the_report_is_written_again_from_results_alone(run, tmp_path):
    """Where no framework can be imported, and with nothing but results.json in the folder."""
    shutil.copy(run / "results.json", tmp_path)
    command = [sys.executable, "-c", WITHOUT_FRAMEWORKS, "report", str(tmp_path), "--json"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert json.loads(done.stdout) == json.loads((run / "results.json").read_text())
    assert (tmp_path / "report.md").read_text() == (run / "report.md").read_text()
    assert {path.name for path in (tmp_path / "figures").iterdir()} == {
        path.name for path in (run / "figures").iterdir()
    }
    assert {path.name for path in (tmp_path / "metrics").iterdir()} == {
        path.name for path in (run / "metrics").iterdir()
    }


def test_a_folder_without_results_or_with_broken_ones_is_one_line(here, run, tmp_path):
    ran = here("report", tmp_path)
    assert (ran.code, ran.out) == (2, "")
    assert ran.err == f"error: {tmp_path} holds no results.json; a run writes it when it ends\n"
    (tmp_path / "results.json").write_text((run / "results.json").read_text()[:3000])
    ran = here("report", tmp_path)
    assert (ran.code, ran.out, ran.err.count("\n")) == (2, "", 1)


def test_lines_begin_when_work_begins(capfd):
    """What comes before is held back, so that a mistake found then stands alone."""
    with console.Show() as show:
        show(Event("candidates", 0, 4, "the model as given"))
        show(Event("open the model and the data"))
        assert capfd.readouterr().err == ""
        show(Event("candidates", 1, 4, "static-int8"))
        show(Event("static-int8: calibrate", 3, 9))
        show(Event("static-int8: calibrate", 4, 9))
    assert capfd.readouterr().err.splitlines() == [
        "[1/4] the model as given",
        "    open the model and the data",
        "[2/4] static-int8",
        "    static-int8: calibrate",
    ]


def test_a_terminal_gets_bars_with_the_time_left_and_they_vanish(monkeypatch, capfd):
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("TTY_COMPATIBLE", "1")
    with console.Show() as show:
        show(Event("candidates", 1, 4, "static-int8"))
        show(Event("static-int8: calibrate", 2, 9))
        show(Event("[weird] stage", 3, 9))
    err = capfd.readouterr().err
    for words in ("candidates", "1/4", "[weird] stage", "3/9"):
        assert words in err
    assert err.endswith("\x1b[2K"), "the bars are wiped away"


def test_the_demo_puts_its_model_beside_the_run_and_asks_for_its_recipes(tmp_path):
    model, weights = demo.files(tmp_path / "demo")
    weights.write_bytes(b"trained")
    order = api.plan(
        "optimize", f"{model}:digits_cnn", "digits", tmp_path / "demo", weights=weights, recipes=demo.RECIPES
    )
    assert [item.name for item in order.candidates] == list(demo.RECIPES)
    assert [path.name for path in tmp_path.iterdir()] == ["demo-model"]


@pytest.mark.slow
def test_the_demo_trains_a_model_worth_optimizing(tmp_path):
    model, weights = demo.files(tmp_path / "demo")
    seen = []
    isolate.call(demo.train, weights, on_event=seen.append)
    assert [event.done for event in seen] == list(range(12))
    splits = api.dataset("digits")
    x, labels = splits.batch(Part.TEST, range(splits.size(Part.TEST)))["input"], splits.labels(Part.TEST)
    trained = api.load(f"{model}:digits_cnn", weights)
    (scores,) = adapter_for(trained.format).forward(trained, {"x": x}).values()
    assert (scores.argmax(axis=1) == labels).mean() > 0.9


@pytest.mark.slow
def test_the_demo_as_typed(whet, tmp_path):
    ran = whet("demo", "--out", tmp_path / "demo", "--json")
    assert ran.code in (0, 3), ran.err
    assert ran.json["original"]["name"] == "digits_cnn"
    assert (tmp_path / "demo" / "bundle" / "manifest.json").exists()
