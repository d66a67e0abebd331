"""Models of rows, tables and tokens: other tasks than pictures in classes."""

import json
import shutil
import subprocess
import sys

import numpy as np
import pytest

import whet
from whet.bundle.verify import verify
from whet.search import outcome as outcomes

TABLE = '''
"""A classifier of the breast-cancer table, trained by scikit-learn, as a torch module."""
import functools
import numpy as np
import torch
from torch import nn

@functools.cache
def _fitted():
    from sklearn.datasets import load_breast_cancer
    from sklearn.neural_network import MLPClassifier
    x, y = load_breast_cancer(return_X_y=True)
    order = np.random.default_rng(0).permutation(len(x))
    x, y = ((x - x.mean(0)) / x.std(0)).astype(np.float32)[order], y[order]
    mlp = MLPClassifier((16,), solver="lbfgs", alpha=1.0, max_iter=2000, random_state=0).fit(x[:200], y[:200])
    return mlp, (x, y)

class Table(nn.Module):
    def __init__(self):
        super().__init__()
        self.hidden, self.out = nn.Linear(30, 16), nn.Linear(16, 1)

    def forward(self, row):
        return self.out(torch.relu(self.hidden(row)))

def model():
    table, (mlp, _) = Table(), _fitted()
    with torch.no_grad():
        for layer, weight, bias in zip((table.hidden, table.out), mlp.coefs_, mlp.intercepts_):
            layer.weight.copy_(torch.from_numpy(weight.T))
            layer.bias.copy_(torch.from_numpy(bias))
    return table

def data():
    _, (x, y) = _fitted()
    return (x[:200], y[:200]), (x[200:], y[200:])
'''


def test_a_regressor_is_judged_by_the_relative_growth_of_its_error(rows_run):
    run, ran = rows_run
    assert ran.code == 0, ran.err
    outcome = outcomes.load(run)
    assert (outcome.original.task, outcome.original.metric, outcome.original.goal) == ("regression", "rmse", "min")
    result = outcome.result("dynamic-int8")
    compared = result.comparison
    assert (compared.bounded, compared.lost, compared.won) == (False, None, None)
    assert compared.interval.method == "gamma limits, paired"
    assert [change.metric for change in compared.changes] == ["rmse", "mae"]
    assert "rmse is worse by at most 0.3 of itself" in result.verdicts[0].claim
    assert {verdict.answer for verdict in result.verdicts} == {"PASS"}
    assert result.quality.confusion is None
    assert not list(run.rglob("*confusion*"))


def test_the_error_is_what_numpy_finds_on_the_candidates_file(rows_run, tiny):
    import onnxruntime

    from whet.data.data import Part

    run, _ = rows_run
    result = outcomes.load(run).result("dynamic-int8")
    x, y = tiny.rows()[1]
    splits = whet.dataset((tiny.rows()[0], (x, y)))
    rows = splits.batch(Part.TEST, range(splits.size(Part.TEST)))["input"]
    session = onnxruntime.InferenceSession(str(run / "candidates/dynamic-int8/model.onnx"))
    found = [session.run(None, {"row": rows[at : at + 64]})[0] for at in range(0, len(rows), 64)]
    error = float(np.sqrt(((np.concatenate(found) - splits.labels(Part.TEST)) ** 2).mean()))
    assert result.quality.scores["rmse"] == pytest.approx(error, rel=1e-5)
    assert result.comparison.drop == pytest.approx(error / result.comparison.before - 1, rel=1e-4)


def test_answers_of_a_regressor_are_its_numbers(rows_run):
    made = json.loads((rows_run[0] / "candidates/dynamic-int8/manifest.json").read_text())
    settings = json.loads((rows_run[0] / "candidates/dynamic-int8/preprocess/preprocess.json").read_text())
    assert made["task"] == "regression"
    assert settings["postprocess"]["kind"] == "values"
    assert all(check.ok for check in verify(rows_run[0] / "candidates/dynamic-int8"))


@pytest.mark.slow
def test_without_labels_the_verdict_is_on_fidelity(tokens_run):
    run, ran = tokens_run
    assert ran.code == 0, ran.err
    outcome = outcomes.load(run)
    assert (outcome.original.task, outcome.original.metric, outcome.original.output) == (
        "fidelity", "agreement", "logits",
    )  # fmt: skip
    result = outcome.result("torch-dynamic-int8")
    assert result.comparison.before == 1.0, "the original agrees with itself"
    assert 0.9 <= result.comparison.after <= 1.0
    assert {"agreement", "sqnr_db", "cosine"} <= set(result.comparison.fidelity)
    assert "agreement is worse by at most 0.1" in result.verdicts[0].claim
    assert {verdict.answer for verdict in result.verdicts} == {"PASS"}


def test_a_model_that_stays_in_torch_is_never_exported(tokens_run):
    run, _ = tokens_run
    outcome = outcomes.load(run)
    assert outcome.original.float_key == outcome.original.root
    assert list(run.rglob("*.onnx")) == []
    assert [step.name for step in outcome.result("float").steps] == ["original"]
    assert [step.name for step in outcome.result("torch-dynamic-int8").steps] == ["original", "dynamic-int8"]


def test_the_bundle_of_a_torch_model_carries_its_class_and_its_edits(tokens_run, files):
    for bundle in (tokens_run[0] / "baseline", tokens_run[0] / "candidates/torch-dynamic-int8"):
        names = {path.relative_to(bundle).as_posix() for path in bundle.rglob("*") if path.is_file()}
        assert {"model/model.json", "model/weights.safetensors", "source.py", "torch_edits.py"} <= names
        assert (bundle / "source.py").read_bytes() == (files / "tiny.py").read_bytes()
        signature = json.loads((bundle / "manifest.json").read_text())["signature"]
        assert [item["name"] for item in signature["inputs"]] == ["ids", "mask"]
        assert [item["name"] for item in signature["outputs"]] == ["logits", "hidden"]
    structure = json.loads((tokens_run[0] / "candidates/torch-dynamic-int8/model/model.json").read_text())
    assert structure["edits"] == [{"edit": "dynamic-int8", "layers": ["cell", "fc"]}]


def test_a_torch_bundle_verifies_by_itself_when_the_users_file_is_gone(tokens_run, tmp_path):
    bundle = shutil.copytree(tokens_run[0] / "candidates/torch-dynamic-int8", tmp_path / "bundle")
    made = json.loads((bundle / "manifest.json").read_text())
    model = json.loads((bundle / "model/model.json").read_text())
    assert made["source"]["path"] == model["origin"]["path"] == "tiny.py", "no folder of this machine is shipped"
    (refused,) = [check for check in verify(bundle) if not check.ok]
    assert refused.kind == "code"
    assert "--trust-code" in refused.detail
    checks = verify(bundle, trust_code=True)
    assert all(check.ok for check in checks), checks
    assert not list(bundle.rglob("__pycache__"))
    (bundle / "source.py").write_text("def lstm():\n    return None\n")
    assert [check.kind for check in verify(bundle) if not check.ok] == ["files"]


@pytest.mark.slow
def test_a_table_as_a_factory_file(whet, tmp_path):
    """One logit for two classes, from a file of the user's, in torch, to INT8 in ONNX and answers from a CSV."""
    (tmp_path / "table.py").write_text(TABLE)
    run = tmp_path / "run"
    ran = whet(
        "optimize", f"{tmp_path}/table.py:model", "--data", f"{tmp_path}/table.py:data", "--out", run,
        "--recipe", "static-int8", "--batch-sizes", "1", "--max-drop", "0.05", "--min-speedup", "0.01",
    )  # fmt: skip
    assert ran.code == 0, ran.err
    outcome = outcomes.load(run)
    assert outcome.original.task == "classification"
    assert outcome.proof.quality.scores["accuracy"] > 0.9
    assert len(outcome.proof.quality.confusion) == 2
    assert all(check.ok for check in verify(run / "bundle"))
    with np.load(run / "bundle/golden.npz") as golden:
        np.savetxt(tmp_path / "rows.csv", golden["input.row"], delimiter=",")
        logits = golden["output.output"][:, 0]
    done = subprocess.run(
        [sys.executable, run / "bundle/predict.py", tmp_path / "rows.csv"],
        capture_output=True,
        text=True,
        check=True,
    )
    for line, logit in zip(done.stdout.splitlines(), logits, strict=True):
        best = json.loads(line)["answer"][0]
        assert best["label"] == str(int(logit > 0))
        assert best["probability"] == pytest.approx(1 / (1 + np.exp(-abs(logit))), abs=1e-3)
