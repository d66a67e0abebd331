"""What every hostile case may need: a small model, its data, and one finished search of them."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from filelock import FileLock

sys.path.append(str(Path(__file__).parent))  # driver.py


@pytest.fixture(scope="session")
def material(tmp_path_factory):
    """``good.onnx``, ``good.npz``, and the folders ``run`` and ``bundle`` of a finished search; read only."""
    root = tmp_path_factory.getbasetemp()
    folder = (root.parent if "PYTEST_XDIST_WORKER" in os.environ else root) / "hostile-material"
    with FileLock(f"{folder}.lock"):
        if not (folder / "run" / "bundle" / "manifest.json").exists():
            folder.mkdir(exist_ok=True)
            _write(folder)
            _search(folder)
    made = {name: folder / name for name in ("good.onnx", "good.npz", "run")}
    return {**made, "bundle": folder / "run" / "bundle"}


@pytest.fixture(scope="session")
def inputs(tmp_path_factory):
    """``good.onnx`` and ``good.npz`` alone, for tests that need no finished search."""
    folder = tmp_path_factory.mktemp("inputs")
    _write(folder)
    return {name: folder / name for name in ("good.onnx", "good.npz")}


@pytest.fixture
def survives(material, tmp_path, record_property):
    """Run a case and fail with its problems; the terminal summary counts cases and problems over all tables."""
    from driver import problems_of

    def check(case):
        here, aside = tmp_path / "here", tmp_path / "aside"
        here.mkdir()
        aside.mkdir()
        problems = problems_of(case, here, aside, material)
        record_property("hostile", sorted(problems))
        assert not problems, "\n".join(f"{kind}: {seen}" for kind, seen in problems.items())

    return check


def _write(folder):
    """Write a classifier (N, 6) to (N, 3) as ONNX, and rows that it labels itself, a tenth of them wrong."""
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    draw = np.random.default_rng(0)
    hidden = draw.normal(size=(6, 32)).astype(np.float32)
    out = draw.normal(size=(32, 3)).astype(np.float32)
    nodes = [
        helper.make_node("MatMul", ["row", "hidden"], ["inner"]),
        helper.make_node("Relu", ["inner"], ["active"]),
        helper.make_node("MatMul", ["active", "out"], ["answer"]),
    ]
    row = helper.make_tensor_value_info("row", TensorProto.FLOAT, ["n", 6])
    answer = helper.make_tensor_value_info("answer", TensorProto.FLOAT, ["n", 3])
    weights = [numpy_helper.from_array(hidden, "hidden"), numpy_helper.from_array(out, "out")]
    graph = helper.make_graph(nodes, "rows", [row], [answer], weights)
    onnx.save(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), folder / "good.onnx"
    )
    arrays = {}
    for part, count in (("train", 120), ("test", 200)):
        x = draw.normal(size=(count, 6)).astype(np.float32)
        right = (np.maximum(x @ hidden, 0) @ out).argmax(axis=1)
        arrays[f"x_{part}"] = x
        arrays[f"y_{part}"] = np.where(draw.random(count) < 0.1, draw.integers(0, 3, count), right)
    np.savez(folder / "good.npz", **arrays)


def _search(folder):
    """Optimize the classifier with two recipes, of which one ships."""
    command = [
        sys.executable, "-m", "whet", "optimize", "good.onnx", "--data", "good.npz", "--out", "run", "--json",
        "--batch-sizes", "1", "--max-drop", "0.2", "--min-speedup", "0.01", "--no-robustness",
        "--recipe", "graph-only", "--recipe", "dynamic-int8",
    ]  # fmt: skip
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=300, check=False)
    assert (folder / "run" / "bundle" / "manifest.json").exists(), done.stderr
