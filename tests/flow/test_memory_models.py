"""Models, data and metrics that live in a program's memory, as in a notebook."""

import json
import subprocess
import sys
import zipfile

import pytest

PROGRAM = """
import json, sys
import numpy as np
import torch
from torch import nn
import whet

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(6, 24), nn.Linear(24, 3)

    def forward(self, row):
        return self.fc2(torch.relu(self.fc1(row)))

def misses(outputs, labels):
    return float((outputs.argmax(axis=1) != labels).mean()) + SHIFT

SHIFT = 0.25
misses.goal, misses.bounded = "min", True

def inside():
    factor = 3.0
    class Inner(Net):
        def forward(self, row):
            return super().forward(row) * factor
    return Inner()

torch.manual_seed(0)
net = inside().eval()
x = np.random.default_rng(0).standard_normal((500, 6)).astype(np.float32)
with torch.no_grad():
    y = net(torch.from_numpy(x)).argmax(1).numpy()
y[::10] = 0
data = (x[:200], y[:200]), (x[200:], y[200:])
run = sys.argv[1]
outcome = whet.optimize(
    net, data, run, task=misses, runtime="torch", recipes=["torch-dynamic-int8"], batch_sizes=[1],
    budget=whet.Budget(max_drop=0.2, min_speedup=0.01),
)
told = {"answer": outcome.answer, "metric": outcome.original.metric, "before": outcome.proof.comparison.before}
told["expected"] = misses(net(torch.from_numpy(x)).detach().numpy(), y)
told["alone"] = [(check.kind, check.ok, check.detail) for check in whet.verify(run + "/bundle")]
told["with the class"] = [(check.kind, check.ok) for check in whet.verify(run + "/bundle", model=net)]
sys.path.insert(0, run + "/bundle")
import predict
told["answers"] = predict.Predictor(run + "/bundle", module=inside()).outputs(x[:3])["output"].tolist()
told["net"] = net(torch.from_numpy(x[:3])).tolist()
print(json.dumps(told))
"""


@pytest.fixture(scope="module")
def program(tmp_path_factory):
    """The program's file, its RUN folder, and what it printed; run once."""
    folder = tmp_path_factory.mktemp("program")
    (folder / "program.py").write_text(PROGRAM)
    return folder, call(folder)


def call(folder):
    command = [sys.executable, "program.py", str(folder / "run")]
    done = subprocess.run(command, capture_output=True, text=True, cwd=folder, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_a_model_data_and_a_metric_of_a_script_itself(program):
    """Its class is defined inside a function, of one in ``__main__``; the metric reads a global of the script."""
    _, told = program
    assert told["answer"] == "PASS"
    assert told["metric"] == "misses"
    assert told["before"] == pytest.approx(told["expected"], abs=0.05)
    assert told["before"] > 0.25, "the metric's own global came along"


def test_the_same_program_run_again_resumes(program):
    """Pickles of a class in ``__main__`` differ from process to process; what the model is does not."""
    folder, told = program
    before = {path: path.stat().st_mtime_ns for path in (folder / "run" / ".trials").rglob("*")}
    again = call(folder)
    assert again["answers"] == told["answers"]
    assert {path: path.stat().st_mtime_ns for path in (folder / "run" / ".trials").rglob("*")} == before


def test_another_model_of_the_same_name_is_refused(program):
    folder, _ = program
    changed = PROGRAM.replace("factor = 3.0", "factor = 3.5")
    assert changed != PROGRAM
    command = [sys.executable, "program.py", str(folder / "run")]
    try:
        (folder / "program.py").write_text(changed)
        done = subprocess.run(command, capture_output=True, text=True, cwd=folder, timeout=300, check=False)
    finally:
        (folder / "program.py").write_text(PROGRAM)
    assert done.returncode == 1
    assert "holds the work of another command (model contents: " in done.stderr


def test_no_pickle_lies_on_the_disk_afterwards(program):
    folder, _ = program
    seen = 0
    for path in (folder / "run").rglob("*"):
        if not path.is_file():
            continue
        seen += 1
        assert path.suffix not in (".pkl", ".pickle", ".pt", ".pth", ".bin", ".ckpt"), path
        assert path.read_bytes()[:2] not in (b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05"), path
        if zipfile.is_zipfile(path):
            assert not [name for name in zipfile.ZipFile(path).namelist() if name.endswith(".pkl")], path
    assert seen > 30


def test_a_bundle_whose_class_lived_in_memory_says_so_and_verifies_with_it(program):
    _, told = program
    (failed,) = [detail for kind, ok, detail in told["alone"] if not ok]
    assert failed.startswith("the model's class lived in the memory of another program")
    assert "whet.verify(bundle, model=module)" in failed
    assert all(ok for _, ok in told["with the class"])
    assert [kind for kind, _ in told["with the class"]][-1] == "golden"


def test_predict_py_answers_with_the_class_given(program):
    _, told = program
    for answer, wanted in zip(told["answers"], told["net"], strict=True):
        assert answer == pytest.approx(wanted, abs=0.05)


def test_what_no_child_could_be_sent_is_told_at_once(tmp_path):
    import threading

    import torch

    import whet

    class Locked(torch.nn.Linear):
        def __init__(self):
            super().__init__(6, 3)
            self.guard = threading.Lock()

    with pytest.raises(whet.UserError, match="the Locked cannot be sent to a child process"):
        whet.optimize(Locked(), "digits", tmp_path / "run")
    with pytest.raises(whet.UserError, match=r"is a torch\.nn\.Module or a keras\.Model, this is a dict"):
        whet.optimize({}, "digits", tmp_path / "run")
    assert list(tmp_path.iterdir()) == []
