"""What a run says beyond the mean: samples that flipped, corrupted inputs."""

import json

import numpy as np
import pytest

from whet.search import outcome as outcomes

CORRUPTIONS = {"gaussian noise", "blur", "brightness", "contrast"}


@pytest.fixture(scope="module")
def rows(here_module, regressor, tmp_path_factory):
    """``optimize`` of the regressor, made INT8: its RUN folder."""
    run = tmp_path_factory.mktemp("beyond") / "run"
    ran = here_module(
        "optimize", regressor[0], "--data", regressor[1], "--out", run, "--recipe", "dynamic-int8",
        "--batch-sizes", "1", "--max-drop", "0.5", "--min-speedup", "0.01", "--max-bytes", "1200",
    )  # fmt: skip
    assert ran in (0, 1, 3)
    return run


@pytest.fixture(scope="module")
def here_module():
    from whet.cli.main import invoke

    return lambda *arguments: invoke([str(argument) for argument in arguments])


def test_a_classifiers_flips_are_those_the_verdict_counted(run):
    outcome = outcomes.load(run)
    flips, compared = outcome.flips, outcome.proof.comparison
    assert (flips.kind, flips.samples) == ("decisions", compared.samples)
    assert (flips.lost, flips.won) == (compared.lost, compared.won)
    assert flips.differing == round((1 - compared.fidelity["agreement"]) * compared.samples)
    assert json.loads((run / "flips/flips.json").read_text())["differing"] == flips.differing
    assert (run / "report.md").read_text().count("## Samples that flipped") == 1


def test_pictures_are_spoilt_in_four_ways_and_the_manifest_counts_one_opening(run):
    robust = outcomes.load(run).robustness
    assert {item.corruption for item in robust.shifts} == CORRUPTIONS
    assert len(robust.shifts) == 12
    assert robust.samples <= robust.of == 300
    assert all(item.interval.low <= item.extra <= item.interval.high for item in robust.shifts)
    assert json.loads((run / "bundle/manifest.json").read_text())["data"]["test_opened"] == 1
    assert (run / "figures/robustness.png").is_file()


@pytest.mark.slow
def test_a_regressors_rows_are_kept_whose_error_grew_most(rows, regressor):
    outcome = outcomes.load(rows)
    assert outcome.proof.chosen == "dynamic-int8"
    flips = outcome.flips
    assert flips.kind == "errors"
    assert 0 < flips.differing < flips.samples
    losses = [item.loss for item in flips.kept]
    assert losses == sorted(losses, reverse=True)
    given = np.load(regressor[1])["row_test"]
    for item in flips.kept[:3]:
        row = np.load(rows / "flips" / next(iter(item.inputs.values())))
        assert (given == row).all(axis=1).any()
        assert item.after.error - item.before.error == pytest.approx(item.loss)
    assert {item.corruption for item in outcome.robustness.shifts} == {"missing columns", "noise"}
    assert {path.name for path in (rows / "figures").iterdir()} >= {"flips.png", "robustness.png"}


@pytest.mark.slow
def test_without_robustness_nothing_is_corrupted(here, regressor, tmp_path):
    asked = ("optimize", regressor[0], "--data", regressor[1], "--out", tmp_path / "run", "--no-robustness")
    plan = here(*asked, "--dry-run", "--json").json
    assert plan["robustness"] is False
    assert here("run", "half", "--model", regressor[0], "--data", regressor[1], "--no-robustness").code == 2


@pytest.mark.slow
def test_evaluate_tries_corrupted_inputs_where_asked(here, regressor, rows):
    ran = here("evaluate", regressor[0], rows / "bundle", "--data", regressor[1], "--robustness", "--json")
    assert ran.code == 0, ran.err
    first, second = ran.json
    assert {item["extra"] for item in first["robustness"]["shifts"]} == {None}
    assert all(item["extra"] is not None for item in second["robustness"]["shifts"])
    ran = here("evaluate", regressor[0], rows / "bundle", "--data", regressor[1], "--robustness")
    assert "missing columns" in ran.out
    assert "loses more" in ran.out
