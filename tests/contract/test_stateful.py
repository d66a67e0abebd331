"""Models whose inputs and outputs are not all by the sample on axis 0: states, constants, several outputs."""

import graphs
import numpy as np
import onnx
import pytest
import torch
from graphs import node
from torch import nn

from whet.data.data import Data, split
from whet.errors import SignatureError
from whet.measure import memory
from whet.models.adapter import adapter_for
from whet.models.model import Stored
from whet.models.onnx.adapter import OnnxAdapter
from whet.models.signature import parse_input
from whet.models.source import source_of
from whet.models.torch.adapter import TorchAdapter
from whet.passes.export.spec import ExportOnnx
from whet.passes.quantize.spec import StaticInt8
from whet.profile.profile import profile
from whet.runtimes.base import Deployment, open_session, predict
from whet.types import Format, Signature, TensorSpec

ONCE = Deployment("onnxruntime", batch_sizes=(2,))


def stateful(batch="N", length="T"):
    """x (N, T) and a state (2, N, 3), a scalar rate: means times the rate, and the state plus one."""
    return graphs.proto(
        [
            node("ReduceMean", "x axes", "mean", keepdims=1),
            node("Mul", "mean rate", "scaled"),
            node("ReduceSum", "state both", "summed", keepdims=0),
            node("Unsqueeze", "summed axes", "column"),
            node("Add", "scaled column", "y"),
            node("Add", "state one", "next"),
            node("Pad", "x ends", "padded", mode="reflect"),
        ],
        {"x": ("float32", [batch, length]), "state": ("float32", [2, batch, 3]), "rate": ("float32", [])},
        {"y": ("float32", [batch, 1]), "next": ("float32", [2, batch, 3]), "padded": ("float32", [batch, None])},
        {
            "axes": np.array([1]), "both": np.array([0, 2]), "one": np.float32(1),
            "ends": np.array([0, 40, 0, 0]),
        },
    )  # fmt: skip


def opened(made, tmp_path, *inputs, sample=None):
    """A graph as a user's file, opened; its path comes with it."""
    path = tmp_path / "model.onnx"
    onnx.save(made, path)
    source = source_of(path, inputs=tuple(parse_input(text) for text in inputs))
    return OnnxAdapter().open(source, sample), Stored(Format.ONNX, path, source)


def wanted(x, rate, state):
    return x.mean(1, keepdims=True) * rate + state.sum((0, 2))[:, None]


def test_the_axis_of_samples_is_found_by_its_name(tmp_path):
    signature = opened(stateful(), tmp_path)[0].signature
    assert {spec.name: spec.sample for spec in signature.inputs} == {"x": 0, "state": 1, "rate": None}
    assert {spec.name: spec.sample for spec in signature.outputs} == {"y": 0, "next": 1, "padded": 0}
    assert signature.batch is None
    assert {name: array.shape[-2:] for name, array in signature.synthetic(5).items()} == {
        "x": (5, 128), "state": (5, 3), "rate": (),
    }  # fmt: skip


def test_a_free_length_is_the_least_at_which_the_graph_runs(tmp_path):
    """A reflection of 40 needs more than 40: 1 and 16 do not do, 128 does."""
    assert opened(stateful(), tmp_path)[0].signature.inputs[0].example == (128, 128)


@pytest.mark.parametrize(("given", "length"), [("x=float32[1,?300]", 300), ("x=float32[1,77]", 77)])
def test_a_declared_length_is_taken_as_it_is(tmp_path, given, length):
    assert opened(stateful(), tmp_path, given)[0].signature.synthetic(2)["x"].shape == (2, length)


def test_the_data_tells_the_length(tmp_path):
    x = graphs.floats(2, 50)
    held = ("state=float32[2,1,3]:0", "rate=float32[]:1")
    assert opened(stateful(), tmp_path, *held, sample={"x": x})[0].signature.inputs[0].example == (2, 50)


@pytest.mark.parametrize("batch", ["N", 1, 3])
def test_held_inputs_stand_in_for_what_the_data_does_not_have(tmp_path, batch):
    held = ("state=float32[2,1,3]:0.5", "rate=float32[]:16")
    if batch == 3:
        held = ("state=float32[2,3,3]:0.5", "rate=float32[]:16")
    model, stored = opened(stateful(batch), tmp_path, *held)
    x = graphs.floats(5, 64, seed=3)
    with open_session(stored, ONCE) as session:
        found = predict(session, model.signature, [{"data": x[:4]}, {"data": x[4:]}])
    np.testing.assert_allclose(found["y"], wanted(x, 16, np.full((2, 5, 3), 0.5)), rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(found["padded"][:, 40:], x)
    if batch == "N":
        np.testing.assert_array_equal(found["next"], np.full((5, 2, 3), 1.5, np.float32))


def test_what_is_missing_is_named_with_the_way_to_hold_it(tmp_path):
    signature = opened(stateful(), tmp_path)[0].signature
    x = graphs.floats(2, 50)
    with pytest.raises(
        SignatureError, match=r"rate is the same for all samples: hold it .*'rate=float32\[\]:VALUE'$"
    ):
        signature.bind({"x": x, "state": graphs.floats(2, 2, 3)})
    with pytest.raises(SignatureError, match=r"state is a state: hold it .* --input 'state=float32\[2,1,3\]:0'$"):
        signature.bind({"x": x, "rate": np.array(1, np.float32)})
    with pytest.raises(
        SignatureError, match=r"hold each at a value with --input 'state=.*:0' --input 'rate=.*:VALUE'$"
    ):
        signature.bind({"data": x})


def test_an_output_of_another_axis_of_samples_is_told_with_it(tmp_path):
    model, stored = opened(stateful(), tmp_path)
    outputs = (TensorSpec("next", "float32", (None, None, 3), sample=2), *model.signature.outputs[:1])
    with open_session(stored, ONCE) as session, pytest.raises(SignatureError, match="axis 2 must be the sample"):
        predict(session, Signature(model.signature.inputs, outputs), [model.signature.synthetic(2)])


def test_batches_of_unequal_lengths_are_told_to_be_padded(tmp_path):
    model, stored = opened(stateful(), tmp_path, "state=float32[2,1,3]:0", "rate=float32[]:1")
    batches = [{"x": graphs.floats(2, 50)}, {"x": graphs.floats(2, 60)}]
    with (
        open_session(stored, ONCE) as session,
        pytest.raises(SignatureError, match=r"\[90\] and \[100\] a sample .*pad"),
    ):
        predict(session, model.signature, batches)


def test_it_is_profiled_and_weighed_on_synthetic_inputs(tmp_path):
    model, stored = opened(stateful(), tmp_path)
    found = profile(model, model.signature.synthetic(4))
    assert found.batch_size == 4
    assert found.time_ms > 0
    assert memory.measure(stored, model.signature, ONCE).batch_size == 2


def test_constants_are_what_has_another_fixed_length(tmp_path):
    made = graphs.proto(
        [node("MatMul", "x table", "y"), node("Identity", "table", "same")],
        {"x": ("float32", ["N", 4]), "table": ("float32", [4, 3])},
        {"y": ("float32", ["N", 3]), "same": ("float32", [4, 3])},
    )
    model, stored = opened(made, tmp_path, "table=float32[4,3]:2")
    assert model.signature.inputs[1].sample is None
    assert model.signature.batch is None
    x = graphs.floats(3, 4)
    with open_session(stored, ONCE) as session:
        with pytest.raises(SignatureError, match=r"output 'same' has shape \[4, 3\] for 3 samples"):
            predict(session, model.signature, [{"x": x}])
        outputs = (model.signature.outputs[0], TensorSpec("same", "float32", (4, 3), sample=None))
        found = predict(session, Signature(model.signature.inputs, outputs), [{"x": x}])
    assert list(found) == ["y"]
    np.testing.assert_allclose(found["y"], np.repeat(2 * x.sum(1, keepdims=True), 3, 1), rtol=1e-5)


def test_weights_that_are_also_inputs_are_not_inputs(tmp_path):
    made = graphs.conv_net()
    for tensor in made.graph.initializer:
        made.graph.input.append(onnx.helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims))
    model, _ = opened(made, tmp_path)
    assert [spec.name for spec in model.signature.inputs] == ["x"]


def test_static_quantization_calibrates_with_what_is_held(tmp_path):
    """A fixed number of samples, a constant beside them, and fewer samples than are fixed."""
    made = graphs.proto(
        [node("MatMul", "x weight", "a"), node("Mul", "a rate", "y")],
        {"x": ("float32", [3, 8]), "rate": ("float32", [])},
        {"y": ("float32", [3, 16])},
        {"weight": graphs.floats(8, 16)},
    )
    model, _ = opened(made, tmp_path, "rate=float32[]:2")
    data = split(Data(test=({"x": graphs.floats(40, 8, seed=1)}, None), train=({"x": graphs.floats(7, 8)}, None)))
    outcome = graphs.apply(StaticInt8(samples=7), model, data=data)
    x = graphs.floats(3, 8)
    wanted = 2 * x @ graphs.floats(8, 16)
    found = graphs.forward(outcome.model, {"x": x, "rate": np.array(2, np.float32)})["y"]
    assert np.abs(found - wanted).max() < 0.1 * np.abs(wanted).max()


@pytest.mark.parametrize("kind", [nn.LSTM, nn.GRU])
def test_a_recurrent_module_gives_its_states_by_the_sample(tmp_path, kind):
    """(layers, N, width) of torch is (N, layers, width) of a prediction, in torch and in ONNX alike."""
    torch.manual_seed(0)
    module = kind(3, 4, num_layers=2, batch_first=True).eval()
    model = TorchAdapter().open(source_of(module, inputs=(parse_input("float32[1,?5,3]"),)), None)
    assert {spec.sample for spec in model.signature.outputs[1:]} == {1}
    exported = graphs.apply(ExportOnnx(), model).model
    x = graphs.floats(6, 7, 3)
    with torch.no_grad():
        out, last = module(torch.from_numpy(x))
    wanted = [out, *(state.moveaxis(1, 0) for state in (last if isinstance(last, tuple) else (last,)))]
    for each in (model, exported):
        stored = Stored(each.format, adapter_for(each.format).save(each, tmp_path / each.format), each.source)
        with open_session(stored, Deployment()) as session:
            found = predict(session, each.signature, [{"input": x[:4]}, {"input": x[4:]}])
        for name, tensor in zip(found, wanted, strict=True):
            np.testing.assert_allclose(found[name], tensor.numpy(), atol=1e-5)


def test_a_model_without_an_output_by_the_sample_is_refused():
    with pytest.raises(SignatureError, match=r"no output has an axis for the sample \(y=float32\[4\]\)"):
        _ = Signature((), (TensorSpec("y", "float32", (4,), sample=None),)).answer


@pytest.mark.parametrize(
    ("model", "inputs", "outputs"),
    [
        ("ultraface-rfb-320", {"input": (1, 3, 240, 320)}, {"scores": (1, 4420, 2), "boxes": (1, 4420, 4)}),
        (
            "silero-vad-16k",
            {"input": (2, 512), "state": (2, 2, 128), "sr": ()},
            {"output": (2, 1), "stateN": (2, 2, 128)},
        ),
    ],
)
@pytest.mark.assets
def test_awkward_public_models_run_on_synthetic_inputs(assets, model, inputs, outputs):
    """A detector whose initializers are inputs too; a speech detector with a state and a scalar rate."""
    opened = OnnxAdapter().open(source_of(assets / "models" / "odd" / f"{model}.onnx"), None)
    batch = opened.signature.synthetic(2)
    assert {name: array.shape for name, array in batch.items()} == inputs
    assert {name: array.shape for name, array in OnnxAdapter().forward(opened, batch).items()} == outputs
    stored = Stored(Format.ONNX, assets / "models" / "odd" / f"{model}.onnx")
    with open_session(stored, ONCE) as session:
        found = predict(session, opened.signature, [batch])
    assert {len(array) for array in found.values()} == {opened.signature.count(batch)}
