"""Without a framework each of its entries says which extra brings it: adapters, runtimes, passes."""

import subprocess
import sys

import pytest

# Every entry for a format: its adapter, its runtime, and each pass on it, with these libraries out of reach.
SCRIPT = """
import sys
from pathlib import Path
for name in sys.argv[2].split(","):
    sys.modules[name] = None
from whet.errors import MissingDependency
from whet.models.adapter import adapter_for
from whet.models.model import Model
from whet.passes.base import PassContext
from whet.passes.registry import names, pass_class
from whet.runtimes.base import Deployment, runtime_for
from whet.types import Format

format_ = Format(sys.argv[1])
entries = {"adapter": lambda: adapter_for(format_), "runtime": lambda: runtime_for(Deployment(), format_)}
for name in names():
    if format_ in pass_class(name).realised_by and ".weights:" not in pass_class(name).realised_by[format_]:
        entries[name] = lambda name=name: pass_class(name)().apply(Model(format_, None), PassContext(Path(".")))
for name, enter in entries.items():
    try:
        enter()
    except MissingDependency as error:
        print(name, error, sep="\\t")
    except Exception as error:
        print(name, type(error).__name__, error, sep="\\t")
"""


def told(format_, blocked):
    """Return what each entry for a format says where libraries are missing."""
    words = [sys.executable, "-c", SCRIPT, format_, ",".join(blocked)]
    done = subprocess.run(words, capture_output=True, text=True, timeout=120, check=True)
    return dict(line.split("\t", 1) for line in done.stdout.splitlines())


@pytest.mark.parametrize("blocked", [["keras"], ["tensorflow"], ["keras", "tensorflow"]])
def test_without_keras_or_tensorflow(blocked):
    found = told("keras", blocked)
    assert {"adapter", "runtime", "to-torch", "export-tflite", "export-onnx"} <= set(found)
    for name, said in found.items():
        assert said.endswith("run: pip install 'whet[keras]'"), (name, said)


def test_without_litert():
    found = told("tflite", ["ai_edge_litert"])
    assert {"adapter", "runtime", "static-int8", "dynamic-int8", "half", "int4-weights"} <= set(found)
    for name, said in found.items():
        assert said.endswith("run: pip install 'whet[litert]'"), (name, said)
