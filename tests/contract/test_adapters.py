"""Every adapter against the public contract; what a user's model may be; what is counted."""

import os
import subprocess
import sys
import textwrap
import types

import graphs
import numpy as np
import onnx
import pytest
import tiny
import torch
from torch import nn
from torch.nn.utils import prune

from whet import isolate
from whet.errors import ModelError, SignatureError
from whet.models.adapter import adapter_for, formats
from whet.models.onnx import adapter as onnx_adapter
from whet.models.onnx.adapter import OnnxAdapter
from whet.models.signature import parse_input
from whet.models.source import Source, source_of
from whet.models.torch.adapter import TorchAdapter, find_signature, flatten
from whet.testing import AdapterContract
from whet.types import Format


class TestTorch(AdapterContract):
    def make_adapter(self):
        return TorchAdapter()

    def make_model(self):
        return graphs.opened("tiny")


class TestTorchTwoInputs(TestTorch):
    def make_model(self):
        return graphs.opened("lstm")


class TestTorchRootLinear(TestTorch):
    def make_model(self):
        return graphs.opened("root_linear")


class TestOnnx(AdapterContract):
    def make_adapter(self):
        return OnnxAdapter()

    def make_model(self):
        return graphs.model(graphs.conv_net())


class TestOnnxExternal(TestOnnx):
    """Weights beyond what protobuf holds lie in a file beside the graph."""

    @pytest.fixture(autouse=True)
    def small_limit(self, monkeypatch):
        monkeypatch.setattr(onnx_adapter, "_EXTERNAL_ABOVE", 100)

    def make_model(self):
        made = graphs.conv_net()
        made.graph.initializer[3].CopyFrom(
            onnx.numpy_helper.from_array(graphs.floats(3, 16, seed=4), made.graph.initializer[3].name)
        )
        return graphs.model(made)


class TestOnnxTwoInputs(TestOnnx):
    def make_model(self):
        return graphs.model(graphs.two_ways())


class TestOnnxRecurrent(TestOnnx):
    def make_model(self):
        return graphs.model(graphs.recurrent("LSTM"))


def test_every_format_with_an_adapter_is_under_contract():
    assert set(formats()) == {Format.TORCH, Format.ONNX, Format.KERAS, Format.TFLITE}


def test_a_format_without_an_adapter_is_refused_by_name():
    with pytest.raises(ModelError, match=r"does not open openvino models; it opens torch, onnx, keras, tflite"):
        adapter_for(Format.OPENVINO)


# --- what a source may be -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("tiny.py:needs_arguments", r"tiny.py:needs_arguments needs arguments \(width\); write a function"),
        ("tiny.py:not_a_model", r"tiny.py:not_a_model returned a str, not a torch.nn.Module"),
        ("tiny.py:raises", r"tiny.py:raises raised RuntimeError: the weights are on another machine"),
        ("tiny.py:tinny", r"has no function 'tinny'; did you mean 'tiny'\?"),
    ],
)
def test_a_factory_that_gives_no_model_is_one_clear_line(files, name, message):
    with pytest.raises(ModelError, match=message) as caught:
        TorchAdapter().open(source_of(f"{files}/{name}"), None)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("nowhere.py:build", "nowhere.py does not exist"),
        ("tiny.py", r"name the function in it that builds the model: .*tiny.py:build"),
        ("model.engine", r"\.engine files are not read by this version"),
        ("weights.pt", r"holds weights, not a model; name the function .* model.py:build --weights"),
        ("model.docx", "model.docx is none of these"),
    ],
)
def test_a_name_that_is_no_model_says_what_one_is(files, name, message):
    with pytest.raises(ModelError, match=message):
        source_of(files / name)


def test_weights_go_with_a_factory_only(tmp_path):
    onnx.save(graphs.conv_net(), tmp_path / "a.onnx")
    with pytest.raises(ModelError, match=r"--weights goes with file.py:function; a.onnx holds its own"):
        source_of(tmp_path / "a.onnx", tmp_path / "a.onnx")


def test_an_object_that_is_no_module_is_refused():
    with pytest.raises(ModelError, match=r"is a torch.nn.Module or a keras.Model, this is a dict"):
        source_of({"weights": 1})


def in_a_child(module, batch):
    """Open and run a module in a process of its own."""

    def outputs(source, batch, on_event):
        return TorchAdapter().forward(TorchAdapter().open(source, batch), batch)

    return isolate.call(outputs, source_of(module), batch)


def test_a_module_of_a_test_function_travels_to_a_child():
    class Local(nn.Module):
        def __init__(self):
            super().__init__()
            self.fc = nn.Linear(4, 2)

        def forward(self, x):
            return torch.tanh(self.fc(x))

    torch.manual_seed(0)
    module, batch = Local(), {"x": graphs.floats(3, 4)}
    wanted = np.tanh(batch["x"] @ module.fc.weight.detach().numpy().T + module.fc.bias.detach().numpy())
    np.testing.assert_allclose(in_a_child(module, batch)["output"], wanted, atol=1e-6)


def test_a_module_of_a_file_a_child_cannot_import_travels_by_value(monkeypatch):
    there = types.ModuleType("only_here")
    code = """
    import torch
    class Half(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.fc = torch.nn.Linear(4, 4, bias=False)
        def forward(self, x):
            return halve(self.fc(x))
    def halve(x):
        return x / 2
    """
    exec(textwrap.dedent(code), vars(there))
    monkeypatch.setitem(sys.modules, "only_here", there)
    module, batch = there.Half(), {"x": graphs.floats(2, 4)}
    wanted = batch["x"] @ module.fc.weight.detach().numpy().T / 2
    np.testing.assert_allclose(in_a_child(module, batch)["output"], wanted, atol=1e-6)


def test_a_module_of_main_travels_to_a_child():
    program = """
    import numpy as np, torch
    from whet import isolate
    from whet.models.source import source_of
    from whet.models.torch.adapter import TorchAdapter

    class Mine(torch.nn.Module):
        def forward(self, x):
            return x * 3

    def answer(source, on_event=None):
        model = TorchAdapter().open(source, {"x": np.ones((2, 2), np.float32)})
        return TorchAdapter().forward(model, {"x": np.ones((2, 2), np.float32)})["output"].tolist()

    if __name__ == "__main__":
        print(isolate.call(answer, source_of(Mine())))
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(program)], capture_output=True, text=True, check=False
    )
    assert done.stdout.strip() == "[[3.0, 3.0], [3.0, 3.0]]", done.stderr


def test_a_script_module_is_refused_with_what_to_do_instead():
    import warnings

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of torch.jit
        scripted = torch.jit.trace(tiny.tiny().eval(), torch.zeros(1, 1, 8, 8))
    with pytest.raises(ModelError, match=r"cannot be sent to a child process .*give file.py:function"):
        source_of(scripted)


def test_a_module_that_holds_an_open_file_is_refused(tmp_path):
    module = tiny.tiny()
    with (tmp_path / "log").open("w") as module.log, pytest.raises(ModelError, match="cannot be sent to a child"):
        source_of(module)


def test_a_module_stored_without_its_class_says_what_is_missing(tmp_path):
    class Local(nn.Linear):
        pass

    source = source_of(Local(4, 2))
    model = TorchAdapter().open(source, {"x": graphs.floats(2, 4)})
    path = TorchAdapter().save(model, tmp_path / "model")
    with pytest.raises(ModelError, match=r"class \(Local\) lived in the memory of another program"):
        TorchAdapter().load(path, None)
    payload = TorchAdapter().load(path, source)
    assert torch.equal(payload.module.weight, model.payload.module.weight)


def test_a_source_without_its_object_is_what_may_be_stored():
    source = source_of(nn.Linear(2, 2))
    assert source.memory
    assert source.plain() == Source(source.origin, source.format, factory="Linear", identity=source.identity)


def test_a_fingerprint_follows_the_weights():
    torch.manual_seed(0)
    one, other = nn.Linear(2, 2), nn.Linear(2, 2)
    assert source_of(one).fingerprint() == source_of(one).fingerprint()
    assert source_of(one).fingerprint() != source_of(other).fingerprint()


def test_an_identity_is_the_same_in_every_process():
    program = """
    import torch
    from whet.models.source import source_of
    class Mine(torch.nn.Module):
        def __init__(self):
            super().__init__()
            torch.manual_seed(0)
            self.fc, self.f = torch.nn.Linear(3, 2), lambda x: x + 1
            self.words = {"some", "words", "in", "a", "set"}
        def forward(self, x):
            return self.f(self.fc(x))
    print(source_of(Mine()).fingerprint())
    """
    found = {
        subprocess.run(
            [sys.executable, "-c", textwrap.dedent(program)],
            capture_output=True, text=True, check=True, env={**os.environ, "PYTHONHASHSEED": seed},
        ).stdout
        for seed in ("1", "2")
    }  # fmt: skip
    assert len(found) == 1
    assert len(found.pop().strip()) == 24


def test_an_identity_follows_weights_attributes_and_code():
    def module(power=2, bias=0.0, name="one"):
        class Mine(nn.Module):
            def forward(self, x):
                return x**power + self.bias

        made = Mine()
        made.register_buffer("bias", torch.tensor([bias, 1.0]))
        made.name = name
        return made

    found = [source_of(each).identity for each in (module(), module(3), module(bias=1.0), module(name="two"))]
    assert len(set(found)) == 4
    assert source_of(module()).identity == found[0]


# --- awkward modules ------------------------------------------------------------------------------------------


class Tied(nn.Module):
    """An embedding whose table is also the last layer's weight."""

    def __init__(self):
        super().__init__()
        self.embed = nn.Embedding(10, 4)
        self.mid = nn.Linear(4, 4, bias=False)
        self.out = nn.Linear(4, 10)
        self.out.weight = self.embed.weight

    def forward(self, ids):
        return self.out(self.mid(self.embed(ids).mean(1)))


class Bare(nn.Module):
    """No parameters at all."""

    def forward(self, x):
        return x.flatten(1).softmax(1)


def open_module(module, *inputs):
    return TorchAdapter().open(source_of(module, inputs=tuple(parse_input(text) for text in inputs)), None)


def test_tied_weights_count_once_and_stay_tied(tmp_path):
    model = open_module(Tied(), "int64[1,3]:0..9")
    layers = TorchAdapter().layers(model)
    assert sum(layer.parameters for layer in layers) == 10 * 4 + 4 * 4 + 10
    assert [name for layer in layers for name in layer.weights] == ["mid.weight"]
    path = TorchAdapter().save(model, tmp_path / "tied")
    again = TorchAdapter().load(path, model.source).module
    assert again.out.weight is again.embed.weight
    assert torch.equal(again.out.weight, model.payload.module.out.weight)


def test_a_module_without_parameters_opens_runs_and_stores(tmp_path):
    model = open_module(Bare(), "float32[1,2,3]")
    assert TorchAdapter().layers(model) == []
    assert TorchAdapter().weights(model) == {}
    path = TorchAdapter().save(model, tmp_path / "bare")
    assert isinstance(TorchAdapter().load(path, model.source).module, Bare)


class Swapped(nn.Module):
    def forward(self, first, second):
        return first - 2 * second


def test_inputs_come_in_the_order_of_forward_whatever_the_order_of_the_data():
    ones = np.ones((2, 3), np.float32)
    signature = find_signature(Swapped(), {"second": ones, "first": 5 * ones})
    assert [spec.name for spec in signature.inputs] == ["first", "second"]


@pytest.mark.parametrize(
    ("value", "names"),
    [
        (torch.zeros(2), ["output"]),
        ((torch.zeros(2), torch.ones(2)), ["output_0", "output_1"]),
        (
            {"logits": torch.zeros(2), "state": (torch.zeros(2), [torch.zeros(2)])},
            ["logits", "state_0", "state_1_0"],
        ),
        ([None, torch.zeros(2)], ["output_1"]),
    ],
)
def test_outputs_are_named_by_their_place(value, names):
    assert list(flatten(value)) == names


@pytest.mark.parametrize("value", [None, "text", {"loss": 1.0}, []])
def test_a_model_that_returns_no_tensor_is_refused(value):
    with pytest.raises(SignatureError, match="without tensors"):
        flatten(value)


@pytest.mark.parametrize(
    ("module", "batch", "message"),
    [
        (
            nn.Linear(4, 2),
            {"x": np.ones((2, 5), np.float32)},
            r"on the inputs input=float32\[\?,5\].*; give data of the shape",
        ),
        (Swapped(), {"x": np.ones((2, 5), np.float32)}, "missing"),
        (Swapped(), {"first": np.ones(2), "third": np.ones(2)}, "forward takes first, second; .* first, third"),
        (nn.LSTM(3, 4), {"x": np.ones((5, 6, 3), np.float32)}, "an axis of every output must be the sample"),
    ],
)
def test_a_sample_that_does_not_fit_is_a_signature_error(module, batch, message):
    with pytest.raises(SignatureError, match=message):
        find_signature(module.eval(), batch)


def test_an_output_whose_first_axis_is_a_layer_is_found_out_though_the_lengths_agree():
    class States(nn.Module):
        def __init__(self):
            super().__init__()
            self.lstm = nn.LSTM(3, 4, num_layers=2, batch_first=True)

        def forward(self, x):
            return self.lstm(x)[1][0]  # (2 layers, N, 4)

    (spec,) = find_signature(States(), {"x": np.ones((2, 5, 3), np.float32)}).outputs
    assert (spec.shape, spec.sample) == ((2, None, 4), 1)


def test_declared_ranges_and_free_axes_stand_in_the_signature():
    declared = (parse_input("ids=int64[1,?7]:3..9"),)
    signature = find_signature(nn.Embedding(10, 4), {"ids": np.full((2, 7), 3)}, declared)
    (spec,) = signature.inputs
    assert (spec.shape, spec.example, spec.low, spec.high) == ((None, None), (2, 7), 3, 9)
    drawn = spec.synthetic(50, np.random.default_rng(0))
    assert drawn.shape == (50, 7)
    assert drawn.min() == 3
    assert drawn.max() == 9


def pruned():
    module = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 2))
    prune.random_unstructured(module[0], "weight", 0.5)
    return module


def test_a_parametrized_module_in_memory_is_refused_in_one_line():
    module = torch.nn.utils.parametrizations.weight_norm(nn.Linear(6, 8))
    with pytest.raises(ModelError, match=r"parametrized modules .*give file.py:function") as caught:
        source_of(module)
    assert "\n" not in str(caught.value)


def test_a_module_with_derived_weights_opens_clones_and_stores(tmp_path):
    torch.manual_seed(0)
    model = open_module(pruned(), "float32[1,6]")
    adapter, batch = TorchAdapter(), {"input": graphs.floats(3, 6)}
    wanted = adapter.forward(model, batch)["output"]
    np.testing.assert_array_equal(adapter.forward(adapter.clone(model), batch)["output"], wanted)
    path = adapter.save(model, tmp_path / "model")
    fresh = model.with_payload(adapter.load(path, model.source))
    np.testing.assert_allclose(adapter.forward(fresh, batch)["output"], wanted, atol=1e-6)


# --- what is counted ------------------------------------------------------------------------------------------


def counted(model):
    layers = adapter_for(model.format).layers(model)
    return sum(layer.parameters for layer in layers), {layer.name: layer.macs for layer in layers if layer.macs}


@pytest.mark.parametrize(
    ("module", "inputs", "parameters", "macs"),
    [
        # out: 5 x 5 x 12 values of 3 x 3 x (8 / 4) products each
        (nn.Conv2d(8, 12, 3, stride=2, padding=1, groups=4), "float32[1,8,9,9]", 12 * 2 * 9 + 12, 5 * 5 * 12 * 18),
        (nn.Conv1d(3, 4, 5), "float32[1,3,20]", 4 * 3 * 5 + 4, 16 * 4 * 15),
        (nn.Linear(6, 3), "float32[1,6]", 6 * 3 + 3, 18),
        (nn.Linear(6, 3, bias=False), "float32[1,7,6]", 18, 7 * 18),
        # an LSTM step: 4 gates of hidden x (in + hidden)
        (nn.LSTM(6, 5, batch_first=True), "float32[1,7,6]", 4 * 5 * (6 + 5) + 2 * 20, 7 * 4 * 5 * 11),
        (nn.GRU(6, 5, batch_first=True), "float32[1,7,6]", 3 * 5 * (6 + 5) + 2 * 15, 7 * 3 * 5 * 11),
        (nn.BatchNorm2d(8), "float32[1,8,4,4]", 16, 0),
        # queries, keys, values and out: 4 x 7 x 8 x 8; scores and their sum: 2 x 7 x 7 x 8
        (nn.TransformerEncoderLayer(8, 2, 16, batch_first=True), "float32[1,7,8]",
         4 * 72 + 8 * 16 + 16 + 16 * 8 + 8 + 32, 4 * 7 * 64 + 2 * 7 * 7 * 8 + 2 * 7 * 128),
    ],
)  # fmt: skip
def test_torch_layers_count_as_by_hand(module, inputs, parameters, macs):
    class Whole(nn.Module):
        def __init__(self):
            super().__init__()
            self.part = module

        def forward(self, x):
            out = self.part(x)
            return out[0] if isinstance(out, tuple) else out

    found, by_layer = counted(open_module(Whole().eval(), inputs))
    assert (found, sum(by_layer.values())) == (parameters, macs)


def onnx_of(kind, inputs, outputs, constants, **attributes):
    names = " ".join([*inputs, *constants])
    return graphs.model(
        graphs.proto([graphs.node(kind, names, "y", **attributes)], inputs, {"y": outputs}, constants)
    )


@pytest.mark.parametrize(
    ("model", "parameters", "macs"),
    [
        (onnx_of("Conv", {"x": ("float32", ["N", 8, 9, 9])}, ("float32", ["N", 12, 5, 5]),
                 {"w": graphs.floats(12, 2, 3, 3), "b": graphs.floats(12)},
                 strides=[2, 2], pads=[1] * 4, group=4), 228, 5 * 5 * 12 * 18),
        # transposed: each of 4 x 4 x 6 inputs meets 3 outputs x 2 x 2
        (onnx_of("ConvTranspose", {"x": ("float32", ["N", 6, 4, 4])}, ("float32", ["N", 3, 5, 5]),
                 {"w": graphs.floats(6, 3, 2, 2)}), 72, 16 * 6 * 12),
        (onnx_of("Gemm", {"x": ("float32", ["N", 6])}, ("float32", ["N", 3]),
                 {"w": graphs.floats(3, 6), "b": graphs.floats(3)}, transB=1), 21, 18),
        (onnx_of("MatMul", {"x": ("float32", ["N", 7, 6])}, ("float32", ["N", 7, 3]),
                 {"w": graphs.floats(6, 3)}), 18, 7 * 18),
        (graphs.model(graphs.recurrent("LSTM", 6, 5, layer=False)), 4 * 5 * 11 + 40, 4 * 4 * 5 * 11),
        (graphs.model(graphs.recurrent("GRU", 6, 5, layer=False)), 3 * 5 * 11 + 30, 4 * 3 * 5 * 11),
        # a product of two activations has MACs and no parameters
        (graphs.model(graphs.proto([graphs.node("MatMul", "x z", "y")],
                                   {"x": ("float32", ["N", 2, 3]), "z": ("float32", ["N", 3, 4])},
                                   {"y": ("float32", ["N", 2, 4])})), 0, 24),
    ],
)  # fmt: skip
def test_onnx_nodes_count_as_by_hand(model, parameters, macs):
    found, by_layer = counted(model)
    assert (found, sum(by_layer.values())) == (parameters, macs)


def test_macs_that_cannot_be_known_are_none_and_not_zero():
    made = graphs.proto(
        [
            graphs.node("NonZero", "x", "at"),
            graphs.node("Cast", "at", "f", to=1),
            graphs.node("MatMul", "f m", "y"),
        ],
        {"x": ("float32", ["N", 4])},
        {"y": ("float32", [2, "M"])},
        {},
    )
    made.graph.input.append(onnx.helper.make_tensor_value_info("m", onnx.TensorProto.FLOAT, ["K", 3]))
    (layer,) = OnnxAdapter().layers(graphs.model(made))
    assert (layer.kind, layer.macs) == ("MatMul", None)


def test_a_weight_that_two_nodes_share_is_one_layer_counted_once():
    made = graphs.proto(
        [
            graphs.node("Conv", "x w.weight", "a"),
            graphs.node("Relu", "a", "r"),
            graphs.node("Conv", "r w.weight", "y"),
        ],
        {"x": ("float32", ["N", 2, 8, 8])},
        {"y": ("float32", ["N", 2, 4, 4])},
        {"w.weight": graphs.floats(2, 2, 3, 3)},
    )
    (layer,) = OnnxAdapter().layers(graphs.model(made))
    assert (layer.name, layer.parameters, layer.bytes) == ("w", 36, 144)
    assert layer.macs == 6 * 6 * 2 * 18 + 4 * 4 * 2 * 18


@pytest.mark.assets
def test_resnet20_has_its_published_parameters_and_macs(assets):
    folder = assets / "models"
    source = source_of(
        f"{folder}/zoo.py:resnet20",
        folder / "resnet20-cifar10" / "resnet20.safetensors",
        (parse_input("float32[1,3,32,32]"),),
    )
    parameters, macs = counted(TorchAdapter().open(source, None))
    assert parameters == 269_722
    assert sum(macs.values()) == pytest.approx(40.6e6, rel=0.005)


@pytest.mark.parametrize("factory", ["tiny", "lstm"])
def test_the_exported_graph_has_the_parameters_and_macs_of_its_source(factory):
    source, target = counted(graphs.opened(factory)), counted(graphs.exported(factory))
    folded = {"tiny": 16, "lstm": 0}[factory]  # BatchNorm's scale and shift go into the convolution
    assert source[0] - folded == target[0]
    assert sum(source[1].values()) == sum(target[1].values())
