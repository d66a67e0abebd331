"""One finished search, and small inputs, that the tests of this folder look at."""

import importlib.util
import json
import os
import shutil
import subprocess
import sys
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import pytest
from filelock import FileLock

sys.path.append(str(Path(__file__).parents[1] / "files"))  # graphs.py

GREEDY = """
name = "greedy"
[[steps]]
pass = "export-onnx"
[[steps]]
pass = "static-int8"
samples = 100000
"""
LOSSY = """
name = "lossy"
[[steps]]
pass = "optimize-graph"
[[steps]]
pass = "magnitude-prune"
sparsity = 0.98
scope = "global"
"""


@dataclass(frozen=True)
class Ran:
    """A command that has ended."""

    code: int
    out: str
    err: str

    @property
    def json(self):
        return json.loads(self.out)


@pytest.fixture(scope="session")
def whet():
    """Run ``whet`` in a process of its own and return what it printed."""

    def run(*arguments, cwd=None):
        command = [sys.executable, "-m", "whet", *map(str, arguments)]
        done = subprocess.run(command, capture_output=True, text=True, cwd=cwd, timeout=300, check=False)
        return Ran(done.returncode, done.stdout, done.stderr)

    return run


@pytest.fixture
def here(capfd):
    """Run ``whet`` in this process (only its children are others): no start-up to wait for."""
    from whet.cli.main import invoke

    def run(*arguments):
        capfd.readouterr()
        code = invoke([str(argument) for argument in arguments])
        return Ran(code, *capfd.readouterr())

    return run


@pytest.fixture
def at_once(monkeypatch):
    """Run what runs in child processes in this one: no start-ups to wait for. And a quick clock."""
    from whet import isolate
    from whet.measure import latency
    from whet.progress import silent

    def call(function, *args, limits=None, threads=1, log=None, on_event=silent):
        return function(*args, on_event=on_event)

    monkeypatch.setattr(isolate, "call", call)
    monkeypatch.setenv("TF_NUM_INTRAOP_THREADS", "1")  # as a child is started with
    quick = latency.Effort(4, 4, rounds=2, seconds=9.0)
    for name in ("QUICK", "USUAL", "CAREFUL"):
        monkeypatch.setattr(latency, name, quick)
    monkeypatch.setattr(latency, "_ROUND_MS", 0.3)


@pytest.fixture(scope="session")
def tiny(files):
    """The module of small models and data, imported."""
    spec = importlib.util.spec_from_file_location("tiny_files", files / "tiny.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def recipes(tmp_path_factory):
    """A folder of recipe files: ``greedy`` asks for more samples than there are, ``lossy`` ruins any model."""
    folder = tmp_path_factory.mktemp("recipes")
    (folder / "greedy.toml").write_text(GREEDY)
    (folder / "lossy.toml").write_text(LOSSY)
    return folder


@pytest.fixture(scope="session")
def finished(whet, files, tiny, recipes, tmp_path_factory):
    """``optimize`` of tiny.py, ended: its RUN folder, and what the command printed; one for all workers."""
    root = tmp_path_factory.getbasetemp()
    folder = (root.parent if "PYTEST_XDIST_WORKER" in os.environ else root) / "finished"
    told = folder / "ran.json"
    with FileLock(f"{folder}.lock"):
        if not told.exists():
            folder.mkdir()
            told.write_text(json.dumps(asdict(_optimized(whet, files, tiny, recipes, folder))))
    return folder / "run", Ran(**json.loads(told.read_text()))


def _optimized(whet, files, tiny, recipes, folder):
    (x, y), (x_test, y_test) = tiny.images()
    np.savez(folder / "images.npz", x_train=x, y_train=y, x_test=x_test, y_test=y_test)
    ran = whet(
        "optimize", f"{files}/tiny.py:tiny", "--data", folder / "images.npz", "--out", folder / "run", "--json",
        "--batch-sizes", "1,4", "--max-drop", "0.05", "--min-speedup", "0.01",
        "--recipe", recipes / "greedy.toml", "--recipe", "static-int8",
    )  # fmt: skip
    assert ran.code == 0, ran.err
    return ran


@pytest.fixture(scope="session")
def run(finished):
    """The RUN folder of the finished search; not to be changed."""
    return finished[0]


@pytest.fixture
def bundle(run, tmp_path):
    """A copy of the shipped bundle, free to be broken."""
    return Path(shutil.copytree(run / "bundle", tmp_path / "bundle"))


@pytest.fixture(scope="session")
def onnx_file(run, tiny, tmp_path_factory):
    """The tiny model as an ONNX file: with it and ``npz``, no process needs torch, and a search takes seconds.

    Its last bias is shifted so that it chooses each class about as often: what ruins it is seen in its accuracy.
    """
    import onnx
    from onnx import numpy_helper

    (_, _), (x, _) = tiny.images()
    path = tmp_path_factory.mktemp("onnx") / "tiny.onnx"
    proto = onnx.load(run / "baseline" / "model.onnx")
    (bias,) = [item for item in proto.graph.initializer if list(item.dims) == [3]]
    shifted = numpy_helper.to_array(bias) - answers(run / "baseline" / "model.onnx", x).mean(axis=0)
    bias.CopyFrom(numpy_helper.from_array(shifted, bias.name))
    onnx.save(proto, path)
    return path


@pytest.fixture(scope="session")
def npz(tiny, onnx_file, tmp_path_factory):
    """The pictures of tiny.py as an ``.npz``, labelled by ``onnx_file`` itself, a tenth of them wrong."""
    (x, _), (x_test, _) = tiny.images()
    path = tmp_path_factory.mktemp("npz") / "images.npz"
    wrong = np.random.default_rng(3)
    labels = []
    for inputs in (x, x_test):
        chosen = answers(onnx_file, inputs).argmax(axis=1)
        noise = wrong.random(len(chosen)) < 0.1
        labels.append(np.where(noise, wrong.integers(0, 3, len(chosen)), chosen))
    np.savez(path, x_train=x, y_train=labels[0], x_test=x_test, y_test=labels[1])
    return path


@pytest.fixture(scope="session")
def tokens_run(whet, files, tmp_path_factory):
    """``run`` on the LSTM of tiny.py and its unlabelled tokens, kept in torch: the RUN folder, what was printed."""
    run = tmp_path_factory.mktemp("tokens") / "run"
    ran = whet(
        "run", "torch-dynamic-int8", "--model", f"{files}/tiny.py:lstm", "--data", f"{files}/tiny.py:tokens",
        "--out", run, "--runtime", "torch", "--batch-sizes", "1", "--max-drop", "0.1", "--min-speedup", "0.01",
    )  # fmt: skip
    return run, ran


@pytest.fixture(scope="session")
def regressor(tiny, tmp_path_factory):
    """The regressor of tiny.py as an ONNX file, and its rows as an ``.npz``: a search that loads little."""
    folder = tmp_path_factory.mktemp("rows")
    _write_regressor(folder / "regressor.onnx", tiny.regressor().state_dict())
    (x, y), (x_test, y_test) = tiny.rows()
    np.savez(folder / "rows.npz", row_train=x, target_train=y, row_test=x_test, target_test=y_test)
    return folder / "regressor.onnx", folder / "rows.npz"


@pytest.fixture(scope="session")
def rows_run(whet, regressor, tmp_path_factory):
    """``run`` on the regressor, made INT8: the RUN folder, and what was printed."""
    run = tmp_path_factory.mktemp("rows") / "run"
    ran = whet(
        "run", "dynamic-int8", "--model", regressor[0], "--data", regressor[1], "--out", run,
        "--batch-sizes", "1", "--max-drop", "0.3", "--min-speedup", "0.01",
    )  # fmt: skip
    return run, ran


def _write_regressor(path, weights):
    """Write the regressor by hand: two matrices with a ReLU between."""
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    names = {"net.0.weight": "w0", "net.0.bias": "b0", "net.2.weight": "w1", "net.2.bias": "b1"}
    constants = [numpy_helper.from_array(weights[long].numpy(), short) for long, short in names.items()]
    nodes = [
        helper.make_node("Gemm", ["row", "w0", "b0"], ["hidden"], transB=1),
        helper.make_node("Relu", ["hidden"], ["active"]),
        helper.make_node("Gemm", ["active", "w1", "b1"], ["answer"], transB=1),
    ]
    row = helper.make_tensor_value_info("row", TensorProto.FLOAT, ["n", 6])
    answer = helper.make_tensor_value_info("answer", TensorProto.FLOAT, ["n", 2])
    graph = helper.make_graph(nodes, "regressor", [row], [answer], constants)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)


def answers(path, inputs):
    """Return what ONNX Runtime alone gives for one input."""
    import onnxruntime

    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    return session.run(None, {session.get_inputs()[0].name: inputs})[0]
