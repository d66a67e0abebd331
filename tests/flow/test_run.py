"""``whet run``: fixed recipes, each judged on test samples, with intervals that hold for all of them at once."""

import json

import numpy as np
import pytest

import whet
from whet.bundle.verify import verify
from whet.search import outcome as outcomes


@pytest.fixture(scope="module")
def compared(whet, onnx_file, npz, recipes, tmp_path_factory):
    """Two recipes, one good and one that ruins the model."""
    run = tmp_path_factory.mktemp("compared") / "run"
    ran = whet(
        "run", "half", recipes / "lossy.toml", "--model", onnx_file, "--data", npz, "--out", run, "--json",
        "--batch-sizes", "1", "--max-drop", "0.05", "--min-speedup", "0.01",
    )  # fmt: skip
    return run, ran


def test_the_worst_verdict_is_the_exit_code_and_json_is_all_on_standard_output(compared):
    run, ran = compared
    assert ran.code == 1
    assert ran.json == json.loads((run / "results.json").read_text())
    assert ran.json["kind"] == "run"


def test_every_recipe_is_judged_on_test_and_none_is_chosen(compared):
    run, _ = compared
    outcome = outcomes.load(run)
    assert outcome.proof is None
    assert outcome.ranking == ()
    assert not (run / "bundle").exists()
    assert not (run / ".trials" / "proof.json").exists()
    answers = {result.name: {verdict.answer for verdict in result.verdicts} for result in outcome.results}
    assert answers["half"] == {"PASS"}
    assert "FAIL" in answers["lossy"]
    assert all(result.part == "test" for result in outcome.results)
    assert outcome.answer == "FAIL"


def test_the_samples_that_each_recipe_flipped_are_kept_in_a_folder_of_its_own(compared):
    run, _ = compared
    outcome = outcomes.load(run)
    lossy = outcome.result("lossy")
    assert (lossy.flips.lost, lossy.flips.won) == (lossy.comparison.lost, lossy.comparison.won)
    assert lossy.flips.lost > 0
    kept = json.loads((run / "flips" / "lossy" / "flips.json").read_text())["kept"]
    for item in kept[:3]:
        assert np.load(run / "flips" / "lossy" / item["inputs"]["x"]).shape == (1, 8, 8)
    half = outcome.result("half")
    assert half.flips.differing == round((1 - half.comparison.fidelity["agreement"]) * 300)
    report = (run / "report.md").read_text()
    assert f"On {lossy.flips.differing} of 300 test samples `lossy` decides otherwise" in report
    assert "[flips/lossy/](flips/lossy/flips.json)" in report


def test_intervals_hold_for_all_recipes_at_once(compared):
    """Bonferroni: each of two statements at 97.5 %, so that both hold at 95 %."""
    outcome = outcomes.load(compared[0])
    for name in ("half", "lossy"):
        compared_with = outcome.result(name).comparison
        assert compared_with.samples == 300
        assert compared_with.interval.confidence == pytest.approx(0.975)
        assert compared_with.fidelity_interval.confidence == pytest.approx(0.975)
        assert all(change.interval.confidence > 0.975 for change in compared_with.classes)
    assert "97.5%" in outcome.result("half").verdicts[0].evidence


def test_recipes_share_the_steps_they_have_in_common(compared):
    outcome = outcomes.load(compared[0])
    half, lossy = outcome.result("half").steps, outcome.result("lossy").steps
    assert [step.name for step in half[:2]] == [step.name for step in lossy[:2]] == ["original", "optimize-graph"]
    assert [step.key for step in half[:2]] == [step.key for step in lossy[:2]]
    assert half[2].key != lossy[2].key


def test_bundles_carry_their_verdicts_and_that_test_was_opened(compared):
    run, _ = compared
    for name, answer in (("half", "PASS"), ("lossy", "FAIL")):
        bundle = run / "candidates" / name
        manifest = json.loads((bundle / "manifest.json").read_text())
        assert manifest["answer"] == answer
        assert manifest["data"]["test_opened"] == 1
        assert answer in (bundle / "MODEL_CARD.md").read_text()
        assert all(check.ok for check in verify(bundle)), "a bundle that failed its verdict is whole all the same"
    assert json.loads((run / "baseline/manifest.json").read_text())["data"]["test_opened"] == 1


def test_the_report_lists_both_verdicts_and_says_that_none_is_chosen(compared):
    text = (compared[0] / "report.md").read_text()
    assert text.splitlines()[2].startswith("**FAIL** over 2 recipes")
    assert "none is chosen" in text
    assert "### half" in text
    assert "### lossy" in text


def test_the_table_shows_each_answer(here, compared):
    ran = here("report", compared[0])
    assert ran.code == 0
    assert "…" not in ran.out, "on no terminal a table is not cut"
    for word in ("candidate", "accuracy", "drop", "faster", "smaller", "half", "lossy"):
        assert word in ran.out
    assert "PASS half" in ran.out
    assert "FAIL lossy" in ran.out
    assert "chosen" not in ran.out


def test_the_same_in_python_finds_the_same_work(compared, onnx_file, npz, recipes):
    run, _ = compared
    before = (run / "results.json").stat().st_mtime_ns
    outcome = whet.run(
        onnx_file,
        npz,
        run,
        recipes=["half", recipes / "lossy.toml"],
        batch_sizes=[1],
        budget=whet.Budget(max_drop=0.05, min_speedup=0.01),
    )
    assert outcome.answer == "FAIL"
    assert (run / "results.json").stat().st_mtime_ns == before


def test_a_run_needs_recipes_a_model_data_and_a_folder(here, onnx_file, npz, tmp_path):
    with pytest.raises(whet.UserError, match=r"name the recipes to compare: a \.toml file, or one of graph-only"):
        whet.run(onnx_file, npz, tmp_path / "run")
    for missing in ("--model", "--data", "--out"):
        given = {"--model": onnx_file, "--data": npz, "--out": tmp_path / "run"}
        del given[missing]
        ran = here("run", "half", *[word for pair in given.items() for word in pair])
        assert (ran.code, ran.err) == (2, f"error: missing option '{missing}'; see whet run --help\n")
    assert list(tmp_path.iterdir()) == []


def test_the_schema_of_recipes_is_printed_and_knows_every_pass(here):
    ran = here("run", "--schema")
    assert (ran.code, ran.err) == (0, "")
    assert {"static-int8", "dynamic-int8", "export-onnx", "magnitude-prune"} <= set(ran.json["$defs"])


def spearman(outputs, labels):
    """A metric of order: the same output for every sample has none."""
    ranks = [np.argsort(np.argsort(values[:, 0])) for values in (outputs, labels)]
    return float(np.corrcoef(*ranks)[0, 1])


@pytest.mark.slow
def test_recipes_that_stay_in_torch_and_recipes_that_leave_it_meet_in_one_run(tiny, tmp_path):
    outcome = whet.run(
        tiny.regressor(), tiny.rows(), tmp_path / "run", recipes=["torch-prune", "dynamic-int8"], task=spearman,
        batch_sizes=(1,), budget=whet.Budget(max_drop=0.5, min_speedup=0.01),
    )  # fmt: skip
    assert outcome.original.metric == "spearman"
    for name, format_ in (("torch-prune", "torch"), ("dynamic-int8", "onnx")):
        result = outcome.result(name)
        assert result.failure is None
        assert result.steps[-1].format == format_
        assert {n.conditions["against"] for n in result.measurements if n.metric == "speedup"} == {
            "original", "float",
        }  # fmt: skip


@pytest.mark.slow
def test_a_runtimes_option_reaches_it_and_the_bundle(here, onnx_file, npz, tmp_path):
    run = tmp_path / "run"
    ran = here(
        "run", "half", "--model", onnx_file, "--data", npz, "--out", run, "--batch-sizes", "1",
        "--runtime", "onnxruntime:graph_level=basic", "--max-drop", "0.05", "--min-speedup", "0.01",
    )  # fmt: skip
    assert ran.code == 0, ran.err
    made = json.loads((run / "candidates/half/manifest.json").read_text())
    assert made["deployment"]["graph_level"] == "basic"
    assert made["deployment"]["options"] == {"graph_level": "basic"}
    bad = here("run", "half", "--model", onnx_file, "--data", npz, "--out", tmp_path / "no", "--runtime",
               "onnxruntime:graph_levl=basic")  # fmt: skip
    assert bad.code == 2
    assert "did you mean 'graph_level'" in bad.err
