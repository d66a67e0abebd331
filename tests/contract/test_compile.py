"""torch.compile as an option of the torch runtime: alike, at any batch size, and never silently eager."""

import importlib
import runpy
from pathlib import Path

import graphs
import numpy as np
import pytest
import torch
from torch import nn

import whet
from whet import isolate
from whet.errors import RecipeError, RuntimeFailure
from whet.measure import memory
from whet.models.model import Stored
from whet.models.signature import parse_input
from whet.models.source import source_of
from whet.models.torch import edits
from whet.models.torch.adapter import TorchAdapter
from whet.runtimes.base import Deployment, open_session, parse_runtime
from whet.types import Format

# torch imports deprecated parts of its own to compile.
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning:torch")

COMPILED = Deployment("torch", options={"compile": "true"})


def stored(model, folder):
    return Stored(Format.TORCH, TorchAdapter().save(model, folder / "model"), model.source)


@pytest.fixture
def interpreted(monkeypatch):
    """A translation that only runs the graph: what is tested is all around the compiler."""
    torch._dynamo.reset()
    module = importlib.import_module("torch._inductor.compile_fx")
    monkeypatch.setattr(module, "compile_fx", lambda graph, inputs, config_patches: graph.forward)
    yield
    torch._dynamo.reset()


def test_it_is_asked_for_as_an_option():
    assert parse_runtime("torch:compile=true") == ("torch", {"compile": "true"})
    with pytest.raises(RecipeError, match="torch's compile is one of false, true, not 'yes'"):
        open_session(Stored(Format.TORCH, None), Deployment("torch", options={"compile": "yes"}))


@pytest.mark.usefixtures("interpreted")
def test_every_batch_size_gives_what_eager_gives(tmp_path):
    model = graphs.opened("tiny")
    there = stored(model, tmp_path)
    with open_session(there, COMPILED) as session:
        for count in (1, 5, 32, 3, 1):
            batch = model.signature.synthetic(count)
            np.testing.assert_allclose(
                session.run(batch)["output"], graphs.forward(model, batch)["output"], rtol=1e-5, atol=1e-6
            )
        assert session.facts["compile"] == "inductor"
        assert session.facts["graphs"] == 1
        assert session._graphs <= 3  # one sample, several, and any number
    with open_session(there, Deployment("torch", options={"compile": "false"})) as session:
        assert "compile" not in session.facts


@pytest.mark.usefixtures("interpreted")
def test_many_openings_are_all_compiled(tmp_path):
    model = graphs.opened("regressor")
    there, batch = stored(model, tmp_path), model.signature.synthetic(2)
    for _ in range(12):  # more than torch's own limit
        with open_session(there, COMPILED) as session:
            session.run(batch)
            assert session.facts["graphs"] == 1


class Recurrent(nn.Module):
    def __init__(self):
        super().__init__()
        self.lstm = nn.LSTM(4, 4, batch_first=True)

    def forward(self, x):
        return self.lstm(x)[0]


@pytest.mark.usefixtures("interpreted")
def test_a_model_of_which_nothing_is_compiled_is_refused(tmp_path):
    inputs = (parse_input("float32[1,3,4]"),)
    model = TorchAdapter().open(source_of(Recurrent(), inputs=inputs), None)
    with (
        open_session(stored(model, tmp_path), COMPILED) as session,
        pytest.raises(RuntimeFailure, match=r"nothing to compile in this model .*LSTM.*leave compile out"),
    ):
        session.run(model.signature.synthetic(2))


def test_a_machine_without_a_compiler_is_told_what_to_do(tmp_path, monkeypatch):
    builder = importlib.import_module("torch._inductor.cpp_builder")
    config = importlib.import_module("torch._inductor.config")
    monkeypatch.setattr(config.cpp, "cxx", ("no-such-compiler",))
    monkeypatch.setattr(builder, "cpp_compiler_search", builder.cpp_compiler_search.__wrapped__)
    there = stored(graphs.opened("regressor"), tmp_path)
    with pytest.raises(RuntimeFailure, match=r"needs a C\+\+ compiler, and there is none here; install g\+\+ or"):
        open_session(there, COMPILED)


@pytest.mark.parametrize("compiled", [True, False])
def test_a_bundles_own_code_compiles_what_was_deployed_compiled(tmp_path, monkeypatch, compiled):
    runtimes = runpy.run_path(str(Path(whet.__file__).parent / "bundle/standalone/runtimes.py"))
    model = graphs.opened("regressor")
    stored(model, tmp_path)
    made = {
        "file": "model", "signature": {"outputs": [{"name": "output"}]},
        "deployment": {"compile": "inductor"} if compiled else {},
    }  # fmt: skip
    asked = []
    monkeypatch.setattr(torch, "compile", lambda module, **options: asked.append(options) or module)
    run = runtimes["_torch"](tmp_path, made, 1, model.payload.module, lambda _: edits)
    batch = model.signature.synthetic(3)
    np.testing.assert_allclose(run(batch)["output"], graphs.forward(model, batch)["output"], rtol=1e-6)
    assert len(asked) == compiled

    def refuses(**_):
        raise RuntimeError("no compiler\nat all")

    monkeypatch.setattr(torch, "compile", lambda module, **options: refuses)
    if compiled:
        with pytest.raises(ValueError, match=r"fails here \(RuntimeError: no compiler\); install g\+\+ .*--eager"):
            runtimes["_torch"](tmp_path, made, 1, model.payload.module, lambda _: edits)(batch)


@pytest.mark.slow
def test_compiled_for_good_it_is_alike_and_its_load_time_holds_the_compilation(tmp_path):
    model = graphs.opened("regressor")
    there = stored(model, tmp_path)

    def run(there, batches, on_event):
        with open_session(there, COMPILED) as session:
            return [session.run(batch)["output"] for batch in batches]

    batches = [model.signature.synthetic(count) for count in (1, 4, 9)]
    for batch, have in zip(batches, isolate.call(run, there, batches), strict=True):
        np.testing.assert_allclose(have, graphs.forward(model, batch)["output"], rtol=1e-5, atol=1e-6)
    compiled = memory.measure(there, model.signature, COMPILED)
    eager = memory.measure(there, model.signature, Deployment("torch"))
    assert compiled.load_ms > 5 * eager.load_ms
