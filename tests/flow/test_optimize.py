"""``optimize`` from end to end: what it leaves, what it decides, what it says."""

import json
import tomllib

import numpy as np
import pytest

import whet
from whet import plain
from whet.search import outcome as outcomes

BUNDLE = {
    "model.onnx", "manifest.json", "recipe.toml", "golden.npz", "reference.npz", "metrics.json", "predict.py",
    "requirements.txt", "MODEL_CARD.md", "preprocess/preprocess.py", "preprocess/preprocess.json",
    "preprocess/columns.py", "preprocess/raw.py", "preprocess/tokens.py", "preprocess/arrays.py", "inputs.py",
    "runtimes.py",
}  # fmt: skip
PNG = b"\x89PNG\r\n\x1a\n"


def names_below(folder):
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture(scope="module")
def outcome(run):
    return outcomes.load(run)


def test_the_run_folder_holds_what_the_design_lists(run):
    assert {"report.md", "results.json", "figures", "baseline", "candidates", "bundle", "metrics"} <= {
        path.name for path in run.iterdir()
    }
    for folder in (run / "baseline", run / "bundle", run / "candidates/static-int8"):
        assert names_below(folder) == BUNDLE, folder
    assert {path.name for path in (run / "candidates").iterdir()} == {"static-int8"}
    assert {path.name for path in (run / "figures").iterdir()} - {"flips.png"} == {
        "bars.png",
        "quality-latency.png",
        "confusion.png",
        "robustness.png",
    }
    for picture in [*(run / "figures").iterdir(), *(run / "metrics").glob("*.png")]:
        assert picture.read_bytes().startswith(PNG), picture
    assert {path.name for path in (run / "metrics").glob("*.md")} == {
        f"{name}-metrics.md" for name in ("float", "static-int8", "greedy")
    }


def test_json_is_all_that_stands_on_standard_output(finished):
    run, ran = finished
    assert ran.json == json.loads((run / "results.json").read_text())
    assert ran.json["kind"] == "optimize"


def test_progress_stands_on_standard_error_once_work_has_begun(finished):
    lines = finished[1].err.splitlines()
    begun = [line for line in lines if line.startswith("[")]
    assert lines[0] == begun[0]
    assert begun == ["[1/4] the model as given", "[2/4] greedy", "[3/4] static-int8"]
    assert any(line.startswith("prove ") for line in lines)
    assert all(line.strip() for line in lines)


def test_the_report_says_the_verdict_first_and_names_every_candidate(run, outcome):
    text = (run / "report.md").read_text()
    assert text.splitlines()[2].startswith(f"**PASS**: `{outcome.proof.chosen}`")
    for name in ("static-int8", "greedy", "float"):
        assert name in text
    for line in text.splitlines():
        if line.startswith("!["):
            assert (run / line.split("(")[1].rstrip(")")).is_file()
    assert "100000 calibration samples" in text


def test_every_step_has_quality_bytes_and_latency(outcome):
    for name in ("float", "static-int8"):
        steps = outcome.result(name).steps
        assert len(steps) > 1
        for step in steps:
            assert 0 < step.value <= 1, (name, step.name)
            assert step.size_bytes > 1000, (name, step.name)
            assert step.latency_ms > 0, (name, step.name)
    names = [step.name for step in outcome.result("static-int8").steps]
    assert names == ["original", "export-onnx", "optimize-graph", "static-int8", "clean-graph"]


def test_a_failed_candidate_is_a_row_with_its_reason_while_others_go_on(run, outcome):
    failed = outcome.result("greedy")
    assert failed.failure.kind == "RecipeError"
    assert failed.failure.message.startswith("step 2 (static-int8): static-int8 asks for 100000 calibration")
    assert "set samples = 300" in failed.failure.message
    assert outcome.result("static-int8").failure is None
    (ranked,) = [item for item in outcome.ranking if item.name == "greedy"]
    assert not ranked.eligible
    assert "failed (RecipeError)" in ranked.reason
    assert "Failed (RecipeError)" in (run / "metrics/greedy-metrics.md").read_text()


def test_measurements_carry_their_conditions(outcome):
    for name in ("float", "static-int8"):
        found = outcome.result(name).measurements
        speeds = [item for item in found if item.metric == "speedup" and item.conditions["against"] == "original"]
        assert {item.conditions["batch_size"] for item in speeds} == {1, 4}
        assert all(item.interval is not None and item.samples for item in speeds)
        wanted = {"size_bytes", "deflated_bytes", "peak_memory_bytes", "load_ms", "accuracy", "latency_p99_ms"}
        assert wanted <= {item.metric for item in found}
    size = next(item for item in outcome.result("float").measurements if item.metric == "size_bytes")
    assert size.value > 0


def test_size_is_what_lies_on_disk(run, outcome):
    for name, folder in (("float", "baseline"), ("static-int8", "candidates/static-int8")):
        size = next(item for item in outcome.result(name).measurements if item.metric == "size_bytes")
        assert size.value == (run / folder / "model.onnx").stat().st_size


def test_test_samples_are_opened_for_the_shipped_bundle_alone(run):
    opened = {
        folder: json.loads((run / folder / "manifest.json").read_text())["data"]["test_opened"]
        for folder in ("bundle", "baseline", "candidates/static-int8")
    }
    assert opened == {"bundle": 1, "baseline": 0, "candidates/static-int8": 0}


def test_the_verdict_is_in_the_manifest_of_the_shipped_bundle_and_in_no_other(run, outcome):
    manifest = json.loads((run / "bundle/manifest.json").read_text())
    assert manifest["answer"] == "PASS"
    assert manifest["verdicts"] == plain.builtins(outcome.proof.verdicts)
    assert "**PASS**" in (run / "bundle/MODEL_CARD.md").read_text()
    for folder in ("baseline", "candidates/static-int8"):
        manifest = json.loads((run / folder / "manifest.json").read_text())
        assert (manifest["answer"], manifest["verdicts"]) == ("", [])


def test_what_is_shipped_is_the_chosen_candidate_to_the_byte(run, outcome):
    chosen = outcome.proof.chosen
    source = run / "baseline" if chosen == "float" else run / "candidates" / chosen
    for name in ("model.onnx", "golden.npz", "recipe.toml"):
        assert (run / "bundle" / name).read_bytes() == (source / name).read_bytes()


def test_quality_in_the_results_is_what_the_shipped_file_gives_by_itself(run, outcome, tiny):
    """Computed anew with ONNX Runtime alone, on the very samples that the split names."""
    import onnxruntime

    from whet.data.data import Part

    splits = whet.dataset(tiny.images())
    x, labels = splits.batch(Part.TEST, range(splits.size(Part.TEST)))["input"], splits.labels(Part.TEST)
    session = onnxruntime.InferenceSession(str(run / "bundle/model.onnx"), providers=["CPUExecutionProvider"])
    (logits,) = session.run(None, {session.get_inputs()[0].name: x})
    assert outcome.proof.quality.samples == len(x) == 300
    assert outcome.proof.quality.scores["accuracy"] == pytest.approx(float((logits.argmax(1) == labels).mean()))


def test_the_recipe_in_a_bundle_is_resolved_and_can_be_run_again(run):
    content = tomllib.loads((run / "candidates/static-int8/recipe.toml").read_text())
    quantize = next(step for step in content["steps"] if step["pass"] == "static-int8")
    assert {"samples", "percentile", "per_channel", "reduce_range", "calibration"} <= set(quantize)
    again = whet.Recipe.load(run / "candidates/static-int8/recipe.toml")
    assert again.fingerprint() == whet.Recipe.of("static-int8", content["steps"], content["seed"]).fingerprint()


def test_the_reference_histograms_count_every_sample(run):
    with np.load(run / "bundle/reference.npz", allow_pickle=False) as reference:
        assert reference["input.x.counts"].sum() == 100 * 64
        assert reference["output.output.counts"].sum() == 100 * 3


def test_the_same_command_answers_again_from_what_is_there(here, run, files, recipes):
    before = {path: path.stat().st_mtime_ns for path in (run / ".trials").rglob("*")}
    ran = here(
        "optimize", f"{files}/tiny.py:tiny", "--data", run.parent / "images.npz", "--out", run,
        "--batch-sizes", "1,4", "--max-drop", "0.05", "--min-speedup", "0.01",
        "--recipe", recipes / "greedy.toml", "--recipe", "static-int8",
    )  # fmt: skip
    assert (ran.code, ran.err) == (0, "")
    assert "PASS" in ran.out
    assert "failed" in ran.out
    assert str(run / "bundle") in ran.out
    assert {path: path.stat().st_mtime_ns for path in (run / ".trials").rglob("*")} == before


def test_a_dry_run_checks_and_writes_nothing(here, files, tmp_path):
    out = tmp_path / "run"
    asked = ("optimize", f"{files}/tiny.py:tiny", "--data", f"{files}/tiny.py:images", "--out", out, "--dry-run")
    ran = here(*asked)
    assert (ran.code, ran.err) == (0, "")
    assert "export-onnx > optimize-graph > static-int8 > clean-graph" in ran.out
    ran = here(*asked, "--json")
    assert ran.json["dry_run"] is True
    assert ran.json["budget.max_drop"] == 0.01
    assert here(*asked, "--recipe", "no-such").code == 2
    assert not out.exists()
    assert list(tmp_path.iterdir()) == []


def test_python_refuses_what_no_verb_knows(onnx_file, npz, tmp_path):
    for options, told in (
        ({"treads": 2}, "did you mean 'threads'"),
        ({"threads": 0}, "threads is 0; give a whole number from 1 up"),
        ({"within": "20m"}, "within is a number of seconds"),
        ({"batch_sizes": "1,4"}, "a batch size is '1'; give a whole number from 1"),
        ({"batch_sizes": []}, "0 batch sizes are given; give 1 to 32"),
        ({"batch_sizes": [0]}, "a batch size is 0; give a whole number from 1"),
        ({"budget": {"max_drop": 0.1}}, "budget is a whet.Budget"),
        ({"budget": whet.Budget(max_drop=-1)}, "max_drop"),
        ({"budget": whet.Budget(confidence=float("nan"))}, "confidence"),
        ({"task": "clasification"}, "'clasification'"),
        ({"runtime": "tourch"}, "did you mean 'torch'"),
        ({"recipes": ["half", "half"]}, "two recipes are named 'half'"),
    ):
        with pytest.raises(whet.UserError, match=told):
            whet.optimize(onnx_file, npz, tmp_path / "run", **options)
    with pytest.raises(whet.UserError, match="bench takes no 'budget'"):
        whet.bench(onnx_file, budget=whet.Budget())
    with pytest.raises(whet.UserError, match="evaluate takes no 'batch_sizes'"):
        whet.evaluate(onnx_file, data=npz, batch_sizes=[1])
    assert not (tmp_path / "run").exists()
