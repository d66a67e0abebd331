"""ONNX files as they are found: whole and broken, safe and not, odd and old."""

import graphs
import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from onnx.external_data_helper import set_external_data

from whet.errors import ModelError, SignatureError
from whet.models.onnx.adapter import OnnxAdapter, read
from whet.models.onnx.initializers import lift_constants
from whet.models.signature import parse_input
from whet.models.source import source_of
from whet.passes.graph.spec import OptimizeGraph
from whet.passes.quantize.spec import DynamicInt8, Half
from whet.profile.profile import profile
from whet.types import TensorSpec, Trait, TraitKind


def opened(path, *inputs, sample=None):
    return OnnxAdapter().open(source_of(path, inputs=tuple(parse_input(text) for text in inputs)), sample)


def opened_proto(tmp_path, made, *inputs, sample=None):
    onnx.save(made, tmp_path / "model.onnx")
    return opened(tmp_path / "model.onnx", *inputs, sample=sample)


def refused(path):
    with pytest.raises(ModelError) as caught:
        opened(path)
    assert "\n" not in str(caught.value)
    assert str(path) in str(caught.value)
    return str(caught.value)


# --- broken ---------------------------------------------------------------------------------------------------


def test_a_missing_file_says_so(tmp_path):
    assert "does not exist; check the path" in refused(tmp_path / "model.onnx")


def test_an_empty_file_says_so(tmp_path):
    (tmp_path / "model.onnx").touch()
    assert "is empty (0 bytes)" in refused(tmp_path / "model.onnx")


@pytest.mark.parametrize("share", [0.001, 0.1, 0.5, 0.9, 0.999])
def test_a_truncated_file_says_so(tmp_path, share):
    whole = graphs.conv_net().SerializeToString()
    (tmp_path / "model.onnx").write_bytes(whole[: int(len(whole) * share)])
    assert "truncated" in refused(tmp_path / "model.onnx")


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"not a model at all\n", "truncated"),
        (b"<!DOCTYPE html>", "is a web page"),
        (b"version https://git-lfs.github.com/spec/v1\n", "is a Git LFS pointer"),
        (b"\x00" * 100, "truncated"),
        (b"PK\x03\x04" + bytes(100), "holds a zip archive"),
    ],
)
def test_a_file_of_another_kind_says_so(tmp_path, content, says):
    (tmp_path / "model.onnx").write_bytes(content)
    assert says in refused(tmp_path / "model.onnx")


def test_noise_is_no_model(tmp_path):
    (tmp_path / "model.onnx").write_bytes(np.random.default_rng(0).bytes(5000))
    refused(tmp_path / "model.onnx")


def invalid_graphs():
    loose, unknown, typed = graphs.conv_net(), graphs.conv_net(), graphs.conv_net()
    loose.graph.node[2].input[0] = "from nowhere"
    unknown.graph.node[1].op_type = "Relux"
    del typed.graph.node[0].input[1:]
    return {"reads a tensor that nothing makes": loose, "has an operator ONNX does not": unknown, "lacks": typed}


@pytest.mark.parametrize("kind", ["reads a tensor that nothing makes", "lacks"])
def test_an_invalid_graph_is_refused_with_the_reason(tmp_path, kind):
    onnx.save(invalid_graphs()[kind], tmp_path / "model.onnx")
    message = refused(tmp_path / "model.onnx")
    assert "is not a valid ONNX model: " in message
    assert ("from nowhere" if kind.startswith("reads") else "Conv") in message


# --- external data --------------------------------------------------------------------------------------------


def with_external_data(folder, location="weights.bin"):
    """The convolution network with the weight of its second convolution in another file."""
    folder.mkdir(exist_ok=True)
    made = graphs.conv_net()
    weight = next(tensor for tensor in made.graph.initializer if tensor.name == "conv2.weight")
    raw = weight.raw_data
    set_external_data(weight, location, 0, len(raw))
    weight.ClearField("raw_data")
    weight.data_location = TensorProto.EXTERNAL
    (folder / "model.onnx").write_bytes(made.SerializeToString())
    return folder / "model.onnx", raw


def test_external_data_is_read(tmp_path):
    path, raw = with_external_data(tmp_path)
    (tmp_path / "weights.bin").write_bytes(raw)
    model, batch = opened(path), {"x": graphs.floats(2, 1, 8, 8)}
    np.testing.assert_allclose(
        OnnxAdapter().forward(model, batch)["y"], graphs.run(graphs.conv_net(), batch)[0], rtol=1e-6
    )
    assert OnnxAdapter().files(path) == [path, tmp_path / "weights.bin"]


def test_missing_external_data_says_so(tmp_path):
    path, _ = with_external_data(tmp_path)
    message = refused(path)
    assert "the external data of" in message
    assert "weights.bin" in message


def test_truncated_external_data_is_refused(tmp_path):
    path, raw = with_external_data(tmp_path)
    (tmp_path / "weights.bin").write_bytes(raw[:100])
    refused(path)


@pytest.mark.parametrize("form", ["../outside.bin", "inner/../../outside.bin", "absolute"])
def test_external_data_may_not_leave_its_folder(tmp_path, form):
    outside = tmp_path / "outside.bin"
    path, raw = with_external_data(tmp_path / "model", str(outside) if form == "absolute" else form)
    outside.write_bytes(raw)
    assert "the external data of" in refused(path)


def test_external_data_may_not_be_a_link_to_the_outside(tmp_path):
    path, raw = with_external_data(tmp_path / "model")
    (tmp_path / "outside.bin").write_bytes(raw)
    (tmp_path / "model" / "weights.bin").symlink_to(tmp_path / "outside.bin")
    assert "the external data of" in refused(path)


# --- what a graph may be --------------------------------------------------------------------------------------


def test_initializers_that_are_inputs_too_are_not_inputs(tmp_path):
    made = graphs.conv_net()
    made.ir_version = 3
    made.opset_import[0].version = 8
    for tensor in made.graph.initializer:
        made.graph.input.append(helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims))
    model = opened_proto(tmp_path, made)
    assert model.signature.inputs == (TensorSpec("x", "float32", (None, 1, 8, 8)),)
    assert sum(layer.parameters for layer in OnnxAdapter().layers(model)) == 72 + 8 + 288 + 48 + 3
    batch = {"x": graphs.floats(2, 1, 8, 8)}
    want = graphs.run(graphs.conv_net(), batch)[0]
    np.testing.assert_allclose(OnnxAdapter().forward(model, batch)["y"], want, rtol=1e-6)
    for request in (OptimizeGraph(), DynamicInt8(), Half()):
        changed = graphs.apply(request, model).model
        assert list(graphs.forward(changed, batch)) == ["y"]


def test_several_inputs_and_outputs_keep_names_types_and_order(tmp_path):
    signature = opened_proto(tmp_path, graphs.two_ways()).signature
    assert [str(spec) for spec in signature.inputs] == ["left=float32[?,4]", "right=float32[?,4]"]
    assert [str(spec) for spec in signature.outputs] == ["sum=float32[?,4]", "product=float32[?,2]"]


def dynamic():
    return graphs.proto(
        [graphs.node("MatMul", "x w", "y")],
        {"x": ("float32", ["N", "T", 4])},
        {"y": ("float32", ["N", "T", 2])},
        {"w": graphs.floats(4, 2)},
    )


def test_dynamic_axes_are_free_and_take_the_lengths_that_are_declared(tmp_path):
    assert opened_proto(tmp_path, dynamic()).signature.inputs[0].shape == (None, None, 4)
    model = opened_proto(tmp_path, dynamic(), "float32[1,?7,4]:-2..3")
    (spec,) = model.signature.inputs
    assert (spec.name, spec.concrete(5), spec.low, spec.high) == ("x", (5, 7, 4), -2, 3)
    (layer,) = OnnxAdapter().layers(model)
    assert layer.macs == 7 * 4 * 2


def test_an_input_without_axes_is_refused(tmp_path):
    made = dynamic()
    made.graph.input[0].type.tensor_type.ClearField("shape")
    with pytest.raises(SignatureError, match="does not say how many axes its input 'x' has"):
        opened_proto(tmp_path, made)


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        (["z=float32[1,4]", "left=float32[1,4]"], r"no input 'z'; its inputs are left=float32\[\?,4\], right="),
        (
            ["left=int64[1,4]", "right=float32[1,4]"],
            r"left=int64\[\?,4\] does not fit the model's input left=float32",
        ),
        (["left=float32[1,4,4]", "right=float32[1,4]"], r"does not fit the model's input left=float32\[\?,4\]"),
        (["left=float32[1,5]", "right=float32[1,4]"], r"left=float32\[\?,5\] does not fit the model's input left="),
    ],
)
def test_an_input_that_does_not_fit_the_graph_is_refused(tmp_path, inputs, message):
    with pytest.raises(SignatureError, match=message):
        opened_proto(tmp_path, graphs.two_ways(), *inputs)


@pytest.mark.parametrize("sample", [None, {"anything": np.ones((3, 1, 8, 8), np.float32)}])
def test_missing_output_shapes_are_found_by_running(tmp_path, sample):
    made = graphs.conv_net()
    made.graph.output[0].type.tensor_type.ClearField("shape")
    model = opened_proto(tmp_path, made, sample=sample)
    assert model.signature.outputs == (TensorSpec("y", "float32", (None, 3)),)
    onnx.checker.check_model(model.payload)


def test_missing_output_shapes_of_a_graph_that_cannot_be_run_ask_for_an_input(tmp_path):
    made = dynamic()
    made.graph.output[0].type.tensor_type.ClearField("shape")
    for axis in made.graph.input[0].type.tensor_type.shape.dim:
        axis.ClearField("dim_value")
    with pytest.raises(
        SignatureError, match=r"cannot be run to find them .*say what goes in with --input"
    ) as caught:
        opened_proto(tmp_path, made)
    assert "\n" not in str(caught.value)
    assert opened_proto(tmp_path, made, "float32[1,3,?4]").signature.outputs[0].shape == (None, 3, 2)


def test_an_operator_of_another_domain_is_refused_by_its_node(tmp_path):
    made = graphs.proto(
        [graphs.node("MatMul", "x w", "m"), graphs.node("Twirl", "m", "y", domain="my.own")],
        {"x": ("float32", ["N", 4])},
        {"y": ("float32", ["N", 2])},
        {"w": graphs.floats(4, 2)},
    )
    made.opset_import.append(helper.make_opsetid("my.own", 1))
    made.graph.node[1].name = "turn"
    with pytest.raises(
        ModelError, match=r"node 'turn' \(Twirl\): .* knows no operator Twirl of the domain my\.own"
    ):
        opened_proto(tmp_path, made)


def test_an_operator_onnx_does_not_know_is_refused_by_its_type(tmp_path):
    with pytest.raises(ModelError, match=r"type Relux: there is no operator Relux in opset \d+$"):
        opened_proto(tmp_path, invalid_graphs()["has an operator ONNX does not"])


@pytest.mark.parametrize(
    ("kind", "told"),
    [
        (helper.make_tensor_type_proto(TensorProto.STRING, ["N"]), "is text"),
        (helper.make_sequence_type_proto(helper.make_tensor_type_proto(1, [2])), "is a sequence"),
    ],
)
def test_inputs_that_are_no_tensors_of_numbers_are_refused(tmp_path, kind, told):
    graph = helper.make_graph(
        [graphs.node("Identity", "x", "y")],
        "graph",
        [helper.make_value_info("x", kind)],
        [helper.make_value_info("y", kind)],
    )
    with pytest.raises(SignatureError, match=f"{told}, not a tensor of numbers; export"):
        opened_proto(tmp_path, helper.make_model(graph, ir_version=10))


def test_weights_in_constant_nodes_are_weights():
    made = graphs.conv_net()
    want = graphs.run(made, {"x": graphs.floats(2, 1, 8, 8)})[0]
    tensors = list(made.graph.initializer)
    nodes = [helper.make_node("Constant", [], [tensor.name], value=tensor) for tensor in tensors]
    nodes.append(helper.make_node("Constant", [], ["unused"], value=numpy_helper.from_array(np.array(3))))
    rest = list(made.graph.node)
    del made.graph.initializer[:], made.graph.node[:]
    made.graph.node.extend([*nodes, *rest])
    assert lift_constants(made) == 5
    assert graphs.kinds(made).count("Constant") == 1
    assert set(graphs.constants(made)) == set(graphs.constants(graphs.conv_net()))
    np.testing.assert_array_equal(graphs.run(made, {"x": graphs.floats(2, 1, 8, 8)})[0], want)
    assert lift_constants(made) == 0


@pytest.mark.parametrize(
    ("request_", "trait"),
    [(DynamicInt8(), Trait(TraitKind.QUANTIZED, 8)), (Half(), Trait(TraitKind.HALF, 16))],
)
def test_a_file_that_is_quantized_already_is_known_to_be(tmp_path, request_, trait):
    assert opened_proto(tmp_path, graphs.conv_net()).traits == frozenset()
    changed = graphs.apply(request_, graphs.model(graphs.conv_net())).model
    assert opened_proto(tmp_path, changed.payload).traits == {trait}


def test_saving_leaves_the_graph_whole(tmp_path, monkeypatch):
    monkeypatch.setattr("whet.models.onnx.adapter._EXTERNAL_ABOVE", 100)
    model = graphs.model(graphs.conv_net())
    before = model.payload.SerializeToString()
    path = OnnxAdapter().save(model, tmp_path)
    assert model.payload.SerializeToString() == before
    assert {file.name for file in OnnxAdapter().files(path)} == {"model.onnx", "model.onnx.data"}
    assert graphs.constants(read(path)).keys() == graphs.constants(model.payload).keys()


# --- real files -----------------------------------------------------------------------------------------------


@pytest.mark.assets
def test_a_detector_whose_initializers_are_inputs_opens_counts_and_profiles(assets):
    model = opened(assets / "models" / "odd" / "ultraface-rfb-320.onnx")
    assert [str(spec) for spec in model.signature.inputs] == ["input=float32[1,3,240,320]"]
    assert [str(spec) for spec in model.signature.outputs] == [
        "scores=float32[1,4420,2]",
        "boxes=float32[1,4420,4]",
    ]
    assert model.signature.batch == 1
    found = profile(model, model.signature.synthetic(1))
    convolutions = [layer for layer in found.layers if layer.kind == "Conv"]
    # the stem: 16 kernels of 3 x 3 x 3 on 120 x 160 positions
    assert (convolutions[0].parameters, convolutions[0].macs) == (432, 120 * 160 * 432)
    assert all(layer.time_ms > 0 for layer in convolutions)
    assert found.parameters == sum(
        array.size
        for array in graphs.constants(model.payload).values()
        if array.dtype == np.float32 and array.ndim and array.size > 2
    )


@pytest.mark.assets
def test_a_stateful_speech_detector_opens_counts_and_profiles(assets):
    model = opened(
        assets / "models" / "odd" / "silero-vad-16k.onnx",
        "input=float32[1,?512]",
        "state=float32[2,?1,128]",
    )
    assert [str(spec) for spec in model.signature.inputs] == [
        "input=float32[?,?]",
        "state=float32[2,?,128]",
        "sr=int64[]",
    ]
    assert model.signature.outputs[0] == TensorSpec("output", "float32", (None, 1))
    batch = {
        "input": graphs.floats(1, 512),
        "state": np.zeros((2, 1, 128), np.float32),
        "sr": np.array(16000),
    }
    outputs = OnnxAdapter().forward(model, batch)
    assert outputs["output"].shape == (1, 1)
    assert 0 < outputs["output"][0, 0] < 1
    layers = {layer.name: layer for layer in OnnxAdapter().layers(model)}
    # the LSTM stands in the branches of an If: its weights are counted once, its MACs depend on the branch
    inside = layers["/model/decoder/If_1"]
    assert (inside.parameters, inside.macs) == (2 * 512 * 128 + 2 * 512, None)
    found = profile(model, batch)
    assert found.macs is None
    assert found.parameters == sum(
        array.size for array in graphs.constants(model.payload).values() if array.dtype == np.float32 and array.ndim
    )
