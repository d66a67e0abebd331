"""Torch to ONNX: the same numbers, names and freedom, or an error that says what stands in the way."""

import tempfile
from pathlib import Path

import graphs
import numpy as np
import onnx
import pytest
import torch
from torch import nn

from whet.data.data import Part, Splits
from whet.data.samples import ArraySamples
from whet.errors import PassError, UnsupportedOperator
from whet.models.onnx.adapter import OnnxAdapter
from whet.models.signature import parse_input
from whet.models.source import source_of
from whet.models.torch.adapter import TorchAdapter
from whet.passes.export.spec import ExportOnnx
from whet.passes.export.torch import compare
from whet.runtimes.base import predict


def open_module(module, *inputs):
    return TorchAdapter().open(source_of(module, inputs=tuple(parse_input(text) for text in inputs)), None)


def export(module, *inputs, data=None, **settings):
    return graphs.apply(ExportOnnx(**settings), open_module(module, *inputs), data=data)


def reference(module, batch):
    with torch.inference_mode():
        out = module(**{name: torch.from_numpy(array) for name, array in batch.items()})
    return out.numpy()


@pytest.mark.parametrize("factory", ["tiny", "lstm", "root_linear"])
def test_any_number_of_samples_gives_the_numbers_of_the_source(factory):
    source, exported = graphs.opened(factory), graphs.exported(factory)
    for count in (1, 2, 7, 33):
        batch = source.signature.synthetic(count, seed=count)
        want, have = graphs.forward(source, batch), graphs.forward(exported, batch)
        assert list(have) == list(want)
        for name, array in want.items():
            np.testing.assert_allclose(have[name], array, rtol=1e-4, atol=1e-5)


def test_names_types_and_ranges_of_inputs_and_outputs_stay():
    source, exported = graphs.opened("lstm").signature, graphs.exported("lstm").signature
    assert exported.inputs == source.inputs
    assert [(spec.name, spec.dtype) for spec in exported.outputs] == [("logits", "float32"), ("hidden", "float32")]
    assert exported.inputs[0].high == 49
    graph = graphs.exported("lstm").payload.graph
    assert [value.name for value in graph.input] == ["ids", "mask"]
    assert [value.name for value in graph.output] == ["logits", "hidden"]


def test_batch_norm_is_folded():
    assert "BatchNormalization" not in graphs.kinds(graphs.exported("tiny").payload)
    assert graphs.kinds(graphs.exported("tiny").payload).count("Conv") == 2


def test_the_difference_is_noted():
    notes = graphs.apply(ExportOnnx(), graphs.opened("root_linear")).notes
    assert 0 <= notes["max_abs_difference"] < 1e-5
    assert 0 <= notes["max_rel_difference"] < 1e-5
    assert notes["subnormals_flushed"] == 0


def test_the_exporter_says_nothing_on_the_screen(capfd):
    graphs.apply(ExportOnnx(), graphs.opened("root_linear"))
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("opset", [18, 23])
def test_the_opset_is_as_asked(opset):
    model = graphs.apply(ExportOnnx(opset=opset), graphs.opened("root_linear")).model
    assert [(item.domain, item.version) for item in model.payload.opset_import] == [("", opset)]
    assert {item.version for item in graphs.exported("tiny").payload.opset_import} == {20}
    onnx.checker.check_model(model.payload, full_check=True)


def test_subnormal_weights_are_set_to_zero():
    module = nn.Linear(4, 2)
    with torch.no_grad():
        module.weight[0] = torch.tensor([1e-40, -2e-39, 1.0, 0.5])
    outcome = export(module, "float32[1,4]")
    assert outcome.notes["subnormals_flushed"] == 2
    for array in graphs.constants(outcome.model.payload).values():
        if array.dtype == np.float32:
            assert not ((array != 0) & (np.abs(array) < np.finfo(np.float32).tiny)).any()


# --- inputs ---------------------------------------------------------------------------------------------------


class Difference(nn.Module):
    def forward(self, first, second):
        return first - 2 * second


def test_inputs_of_one_type_are_not_swapped_whatever_the_order_of_the_data():
    model = export(Difference(), "second=float32[1,3]", "first=float32[1,3]").model
    batch = {"first": graphs.floats(4, 3, seed=1), "second": graphs.floats(4, 3, seed=2)}
    have = OnnxAdapter().forward(model, batch)["output"]
    np.testing.assert_allclose(have, batch["first"] - 2 * batch["second"], rtol=1e-6)


class Ignores(nn.Module):
    def forward(self, used, unused):
        return {"y": used * 2, "same": used * 2, "through": used}


def test_an_input_that_nothing_reads_and_outputs_that_are_alike_stay():
    model = export(Ignores(), "used=float32[1,3]", "unused=float32[1,2]").model
    batch = {"used": graphs.floats(4, 3), "unused": graphs.floats(4, 2)}
    have = OnnxAdapter().forward(
        model, {name: batch[name] for name in (spec.name for spec in model.signature.inputs)}
    )
    assert [spec.name for spec in model.signature.inputs] == ["used", "unused"]
    np.testing.assert_allclose(have["y"], 2 * batch["used"])
    np.testing.assert_allclose(have["same"], 2 * batch["used"])
    np.testing.assert_allclose(have["through"], batch["used"])


class Pooled(nn.Module):
    """(N, T, 4), any T, to (N, 3) and (N, T, 3)."""

    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(4, 3)

    def forward(self, x):
        steps = self.fc(x)
        return {"mean": steps.mean(1), "steps": steps}


def test_a_free_second_axis_that_was_declared_stays_free():
    torch.manual_seed(0)
    module = Pooled()
    model = export(module, "float32[1,?16,4]").model
    assert model.signature.inputs[0].shape == (None, None, 4)
    assert model.signature.outputs[1].shape == (None, None, 3)
    for length in (1, 5, 16, 40):
        x = graphs.floats(3, length, 4, seed=length)
        have = OnnxAdapter().forward(model, {"x": x})
        want = x @ module.fc.weight.detach().numpy().T + module.fc.bias.detach().numpy()
        np.testing.assert_allclose(have["steps"], want, atol=1e-5)
        np.testing.assert_allclose(have["mean"], want.mean(1), atol=1e-5)


def test_a_free_second_axis_that_the_model_fixes_names_the_axis():
    class Fixed(nn.Module):
        def forward(self, x):
            return x @ torch.ones(16, 2)

    with pytest.raises(PassError, match=r"fixes axis 1 of 'x' at 16.*declare it without the \?") as caught:
        export(Fixed(), "float32[1,?16]")
    assert "\n" not in str(caught.value)


def splits(count, width=6):
    return Splits({Part.CALIBRATE: ArraySamples({"x": graphs.floats(count, width)})})


@pytest.mark.parametrize("count", [1, 40])
def test_real_inputs_are_compared_however_few_there_are(count):
    model = graphs.apply(ExportOnnx(), graphs.opened("regressor"), data=splits(count)).model
    batch = {"row": graphs.floats(9, 6)}
    np.testing.assert_allclose(
        graphs.forward(model, batch)["output"],
        graphs.forward(graphs.opened("regressor"), batch)["output"],
        atol=1e-5,
    )


# --- a fixed number of samples --------------------------------------------------------------------------------


class Branches(nn.Module):
    """Takes another path for one sample."""

    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(6, 4)

    def forward(self, x):
        if x.shape[0] == 16:
            return self.fc(x)
        return self.fc(x) * 2


def test_a_model_that_fixes_its_number_of_samples_says_what_to_do():
    with pytest.raises(
        PassError, match=r"fixes its number of samples.*set batch = 1 in the export-onnx step"
    ) as caught:
        export(Branches(), "float32[1,6]")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(("batch", "data"), [(1, None), (1, 40), (4, 3)])
def test_a_fixed_number_of_samples_stands_in_graph_and_signature_and_runs(batch, data):
    torch.manual_seed(0)
    module = Branches()
    outcome = export(module, "float32[1,6]", batch=batch, data=data and splits(data))
    signature = outcome.model.signature
    assert signature.batch == batch
    assert signature.inputs[0].shape == signature_shape(outcome.model.payload.graph.input[0]) == (batch, 6)
    assert signature.outputs[0].shape == signature_shape(outcome.model.payload.graph.output[0]) == (batch, 4)
    x = graphs.floats(7, 6)
    want = 2 * (x @ module.fc.weight.detach().numpy().T + module.fc.bias.detach().numpy())
    have = predict(Session(outcome.model), signature, [{"x": x}])["output"]
    np.testing.assert_allclose(have, want, atol=1e-5)


def signature_shape(value):
    return tuple(axis.dim_value for axis in value.type.tensor_type.shape.dim)


class Session:
    """The plainest session there is."""

    def __init__(self, model):
        self.model = model

    def run(self, batch):
        return OnnxAdapter().forward(self.model, batch)


# --- what cannot be exported ----------------------------------------------------------------------------------


class Special(nn.Module):
    def forward(self, x):
        return torch.special.bessel_j0(x)


def test_an_operator_onnx_lacks_is_named():
    with pytest.raises(UnsupportedOperator, match=r"no operator for prims\.bessel_j0") as caught:
        export(Special(), "float32[1,3]")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("folder", [".", "whet", "site-packages"])
def test_a_forward_that_decides_by_its_data_names_file_and_line(folder):
    file = Path(tempfile.mkdtemp()) / folder / "mine.py"
    file.parent.mkdir(exist_ok=True)
    file.write_text(
        "import torch\n"
        "class Decides(torch.nn.Module):\n"
        "    def forward(self, x):\n"
        "        if x.sum() > 0:\n"
        "            return x\n"
        "        return -x\n"
        "def build():\n"
        "    return Decides()\n"
    )
    source = source_of(f"{file}:build", inputs=(parse_input("float32[1,3]"),))
    with pytest.raises(PassError, match=r"cannot be exported: .*mine\.py, line 4") as caught:
        graphs.apply(ExportOnnx(), TorchAdapter().open(source, None))
    assert "\n" not in str(caught.value)


def test_a_model_without_known_inputs_asks_for_them():
    with pytest.raises(PassError, match="inputs are not known; give data, or --input"):
        graphs.apply(ExportOnnx(), open_module(nn.Linear(2, 2)))


def test_numbers_that_differ_by_more_than_the_tolerance_are_refused():
    want, have = {"y": np.float32([1, -10])}, {"y": np.float32([1, -10.1])}
    with pytest.raises(PassError, match=r"output 'y' is off the source's by 0\.01 .*allowed: 0\.001"):
        compare(want, have, 1e-3)
    found = compare(want, have, 0.02)
    assert found == {
        "max_abs_difference": pytest.approx(0.1, 1e-4),
        "max_rel_difference": pytest.approx(0.01, 1e-4),
    }


def test_outputs_that_are_not_numbers_on_both_sides_are_no_difference():
    bad = np.float32([[1, np.nan, np.inf, -np.inf]])
    assert compare({"y": bad}, {"y": bad.copy()}, 1e-3) == {"max_abs_difference": 0, "max_rel_difference": 0}
    for at in range(4):
        other = bad.copy()
        other[0, at] = 2
        with pytest.raises(PassError, match="output 'y' is off the source's"):
            compare({"y": bad}, {"y": other}, 1e-3)


def test_an_output_of_another_shape_is_a_difference():
    with pytest.raises(
        PassError, match=r"for 2 sample\(s\) .*output 'y' has shape \[1, 3\], the source's \[2, 3\]"
    ):
        compare({"y": np.ones((2, 3))}, {"y": np.ones((1, 3))}, 1e-3)


def test_one_sample_alone_that_takes_another_path_is_found_out():
    class Alone(nn.Module):
        def forward(self, x):
            return x if x.shape[0] == 1 else 2 * x

    with pytest.raises(PassError, match="output 'output' is off the source's by 1 of its greatest value"):
        export(Alone(), "float32[1,3]")


@pytest.mark.slow
@pytest.mark.assets
def test_resnet20_and_the_fashion_lstm_export(assets):
    folder = assets / "models"
    for name, weights, shape in (
        ("resnet20", "resnet20-cifar10/resnet20.safetensors", "float32[1,3,32,32]"),
        ("fashion_lstm", "fashion/fashion_lstm.safetensors", "float32[1,28,28]"),
    ):
        source = source_of(f"{folder}/zoo.py:{name}", folder / weights, (parse_input(shape),))
        model = TorchAdapter().open(source, None)
        outcome = graphs.apply(ExportOnnx(), model)
        assert outcome.notes["max_rel_difference"] < 1e-4
        batch = model.signature.synthetic(5, seed=3)
        np.testing.assert_allclose(
            graphs.forward(outcome.model, batch)["output"], graphs.forward(model, batch)["output"], atol=1e-3
        )
