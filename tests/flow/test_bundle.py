"""A bundle: everything that is needed to use it, and to trust it, in one folder."""

import hashlib
import json
import shutil
import tomllib
import zipfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from whet.bundle import manifest, write
from whet.bundle.verify import verify
from whet.measure.verdict import Answer, Verdict

FOLDERS = ("bundle", "baseline", "candidates/static-int8")


@pytest.mark.parametrize("folder", FOLDERS)
def test_every_file_is_listed_with_its_checksum_and_verifies(run, folder):
    bundle = run / folder
    made = json.loads((bundle / "manifest.json").read_text())
    files = {path.relative_to(bundle).as_posix() for path in bundle.rglob("*") if path.is_file()}
    assert set(made["files"]) == files - {"manifest.json"}
    for name, digest in made["files"].items():
        assert hashlib.sha256((bundle / name).read_bytes()).hexdigest() == digest, name
    checks = verify(bundle)
    assert [check.kind for check in checks] == ["manifest", "files", "processor", "figures", "signature", "golden"]
    assert all(check.ok for check in checks)


def test_the_manifest_says_what_the_design_asks_for(run):
    made = json.loads((run / "candidates/static-int8/manifest.json").read_text())
    assert made["schema"] == 1
    assert (made["format"], made["file"], made["name"]) == ("onnx", "model.onnx", "static-int8")
    assert made["signature"]["inputs"][0]["shape"] == [None, 1, 8, 8]
    assert made["signature"]["outputs"][0]["shape"] == [None, 3]
    assert (made["task"], made["metric"], made["output"]) == ("classification", "accuracy", "output")
    assert {"runtime", "provider", "threads", "options", "version"} <= set(made["deployment"])
    assert made["machine"]["cpu"]
    assert isinstance(made["machine"]["flags"], list)
    assert {"whet", "numpy", "onnxruntime"} <= set(made["machine"]["versions"])
    assert made["source"]["factory"] == "tiny"
    assert made["data"]["splits"] == {"train": 300, "calibrate": 300, "select": 100, "test": 300}
    steps = [step["name"] for step in made["history"]]
    assert steps == ["export-onnx", "optimize-graph", "static-int8", "clean-graph"]
    assert all("seed" in step and step["versions"] for step in made["history"])
    assert [trait["kind"] for trait in made["traits"]] == ["quantized"]


def test_golden_outputs_are_what_onnx_runtime_gives_for_the_golden_inputs(run):
    import onnxruntime

    for folder in FOLDERS:
        session = onnxruntime.InferenceSession(str(run / folder / "model.onnx"), providers=["CPUExecutionProvider"])
        made = manifest.read(run / folder)
        with np.load(run / folder / "golden.npz", allow_pickle=False) as golden:
            assert len(golden["input.x"]) == made.golden.samples == 4
            (found,) = session.run(None, {"x": golden["input.x"]})
            assert np.abs(found - golden["output.output"]).max() <= made.golden.tolerance["output"]
            assert made.golden.tolerance["output"] < 0.05 * np.abs(golden["output.output"]).max()


def test_golden_inputs_are_none_of_the_test_samples(run, tiny):
    """They are shipped with the bundle; a verdict rests on samples that nobody has seen."""
    import whet
    from whet.data.data import Part

    splits = whet.dataset(tiny.images())
    test = splits.batch(Part.TEST, range(splits.size(Part.TEST)))["input"]
    with np.load(run / "bundle/golden.npz", allow_pickle=False) as golden:
        for sample in golden["input.x"]:
            assert not (test == sample).all(axis=(1, 2, 3)).any()


def test_metrics_and_card_tell_the_same_numbers(run):
    measurements = json.loads((run / "bundle/metrics.json").read_text())
    size = next(item["value"] for item in measurements if item["metric"] == "size_bytes")
    assert size == (run / "bundle/model.onnx").stat().st_size
    card = (run / "bundle/MODEL_CARD.md").read_text()
    assert f"{size:,.0f} bytes" in card
    assert "input `x=float32[?,1,8,8]`" in card
    assert "test 300" in card


def contents(path):
    """Return what a file says: of an archive, every entry unpacked."""
    if path.suffix != ".npz":
        return path.read_bytes()
    with zipfile.ZipFile(path) as archive:
        return b"".join(archive.read(name) for name in archive.namelist())


@pytest.mark.parametrize("folder", FOLDERS)
def test_nothing_that_ships_names_a_folder_of_this_machine(run, files, folder):
    places = [str(files), str(run.parent), str(Path.home()), str(Path.cwd())]
    for path in (path for path in (run / folder).rglob("*") if path.is_file()):
        told = contents(path)
        for place in places:
            assert place.encode() not in told, f"{path.name} names {place}"
        assert b"stack_trace" not in told, path.name


def test_requirements_name_what_the_bundle_needs_and_no_more(run):
    lines = (run / "bundle/requirements.txt").read_text().split()
    assert [line.partition("==")[0] for line in lines] == ["numpy", "onnxruntime"]
    assert all("==" in line and "+" not in line for line in lines)


def test_the_recipe_lies_beside_what_it_made(run):
    recipe = tomllib.loads((run / "bundle/recipe.toml").read_text())
    made = json.loads((run / "bundle/manifest.json").read_text())
    assert [step["pass"] for step in recipe["steps"]] == [step["name"] for step in made["history"]]


def test_amending_seals_again_and_keeps_the_rest(bundle):
    before = manifest.read(bundle)
    verdict = Verdict("it flies", Answer.FAIL, "it fell")
    after = write.amend(bundle, (), [verdict], test_opened=2)
    assert after == manifest.read(bundle)
    assert (after.answer, after.verdicts, after.data["test_opened"]) == ("FAIL", (verdict,), 2)
    kept = replace(after, answer=before.answer, verdicts=before.verdicts, data=before.data, files=before.files)
    assert kept == before
    changed = {name for name in after.files if after.files[name] != before.files[name]}
    assert changed == {"MODEL_CARD.md", "metrics.json"}
    assert "**FAIL** it flies: it fell" in (bundle / "MODEL_CARD.md").read_text()
    assert all(check.ok for check in verify(bundle))


def test_copying_takes_the_place_of_what_was_there(bundle, run, tmp_path):
    target = tmp_path / "there"
    target.mkdir()
    (target / "old").write_text("old")
    write.copy(bundle, target)
    assert not (target / "old").exists()
    assert all(check.ok for check in verify(target))
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []


def test_a_bundle_that_moved_is_still_whole(bundle, tmp_path):
    moved = tmp_path / "elsewhere" / "model v2"
    moved.parent.mkdir()
    shutil.move(bundle, moved)
    assert all(check.ok for check in verify(moved))
