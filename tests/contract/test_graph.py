"""Graph passes: the same computation in fewer nodes and fewer bytes."""

import graphs
import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from whet.errors import PassError, RecipeError
from whet.models.adapter import adapter_for
from whet.models.onnx.initializers import drop_unused, flush_subnormals, pack_raw, share_equal, sort_nodes
from whet.passes.base import PassContext
from whet.passes.graph.spec import CleanGraph, OptimizeGraph
from whet.passes.quantize.spec import DynamicInt8
from whet.types import Format


def wordy():
    """The convolution network with everything in it that no runtime reads."""
    made = onnx.shape_inference.infer_shapes(graphs.conv_net())
    made.doc_string = "exported by hand"
    made.metadata_props.add(key="author", value="nobody")
    made.graph.doc_string = "a graph"
    made.graph.metadata_props.add(key="trace", value="x" * 500)
    for item in [*made.graph.node, *made.graph.input, *made.graph.output, *made.graph.initializer]:
        item.doc_string = "File model.py, line 3"
        item.metadata_props.add(key="pkg.torch.onnx.stack_trace", value="y" * 200)
    for number, node in enumerate(made.graph.node):
        node.name = f"/features/{number}/{node.op_type}"
    made.graph.initializer.append(numpy_helper.from_array(graphs.floats(1000), "nobody_reads_this"))
    return made


def batch_norm():
    """Conv, BatchNorm and Relu, an Identity, and a constant that can be folded."""
    return graphs.proto(
        [
            graphs.node("Conv", "x w", "c"),
            graphs.node("BatchNormalization", "c scale shift mean var", "n"),
            graphs.node("Identity", "n", "i"),
            graphs.node("Add", "two three", "five"),
            graphs.node("Mul", "i five", "m"),
            graphs.node("Relu", "m", "y"),
        ],
        {"x": ("float32", ["N", 2, 6, 6])},
        {"y": ("float32", ["N", 4, 4, 4])},
        {
            "w": graphs.floats(4, 2, 3, 3),
            "scale": 1 + np.abs(graphs.floats(4, seed=1)),
            "shift": graphs.floats(4, seed=2),
            "mean": graphs.floats(4, seed=3),
            "var": 1 + np.abs(graphs.floats(4, seed=4)),
            "two": np.float32(2),
            "three": np.float32(3),
        },
    )


MODELS = {
    "convolutions": graphs.conv_net,
    "wordy": wordy,
    "batch norm": batch_norm,
    "lstm": lambda: graphs.recurrent("LSTM"),
    "gru": lambda: graphs.recurrent("GRU"),
    "two ways": graphs.two_ways,
    "branches": graphs.branches,
    "loop": graphs.loop,
    "quantized": lambda: graphs.apply(DynamicInt8(), graphs.model(graphs.recurrent("LSTM"))).model.payload,
}


def batches(made, count=5):
    """Inputs of both signs, so that both branches of an If are taken."""
    drawn = dict(graphs.model(made).signature.synthetic(count))
    return [{name: sign * np.abs(array) + array for name, array in drawn.items()} for sign in (3, -3)]


def same(one, other, tolerance):
    for batch in batches(one):
        for want, have in zip(graphs.run(one, batch), graphs.run(other, batch), strict=True):
            np.testing.assert_allclose(have, want, rtol=tolerance, atol=tolerance)


def signature(made):
    return [
        (value.name, value.type.SerializeToString())
        for values in (graphs.model(made).payload.graph.input, made.graph.output)
        for value in values
    ]


@pytest.mark.parametrize("kind", [kind for kind in MODELS if kind != "quantized"])
def test_optimize_computes_the_same_in_no_more_nodes(kind):
    model = graphs.model(MODELS[kind]())
    outcome = graphs.apply(OptimizeGraph(), model)
    after = outcome.model.payload
    onnx.checker.check_model(after, full_check=True)
    same(model.payload, after, 1e-5)
    assert signature(after) == signature(model.payload)
    assert len(after.graph.node) <= len(model.payload.graph.node)
    assert outcome.notes["nodes_before"] == len(model.payload.graph.node)
    assert outcome.notes["nodes_after"] == len(after.graph.node)


@pytest.mark.parametrize("kind", MODELS)
def test_clean_computes_the_very_same_in_fewer_bytes(kind):
    model = graphs.model(MODELS[kind]())
    outcome = graphs.apply(CleanGraph(), model)
    after = outcome.model.payload
    onnx.checker.check_model(after, full_check=True)
    same(model.payload, after, 0)
    assert signature(after) == signature(model.payload)
    assert graphs.kinds(after) == graphs.kinds(model.payload)
    assert after.ByteSize() == outcome.notes["bytes_after"] < outcome.notes["bytes_before"]


@pytest.mark.parametrize("request_", [OptimizeGraph(), CleanGraph()])
@pytest.mark.parametrize("kind", [kind for kind in MODELS if kind != "quantized"])
def test_a_second_time_changes_nothing(kind, request_):
    first = graphs.apply(request_, graphs.model(MODELS[kind]())).model
    second = graphs.apply(request_, first)
    assert second.changed == ()
    assert second.model.payload.SerializeToString() == first.payload.SerializeToString()


def test_optimize_folds_batch_norm_and_constants():
    after = graphs.apply(OptimizeGraph(), graphs.model(batch_norm())).model.payload
    assert not {"BatchNormalization", "Identity", "Add"} & set(graphs.kinds(after))


def test_clean_takes_every_word_away():
    after = graphs.apply(CleanGraph(), graphs.model(wordy())).model.payload
    content = after.SerializeToString()
    for word in (b"nobody", b"trace", b"model.py", b"exported", b"features"):
        assert word not in content
    assert not after.graph.value_info


def test_clean_shortens_inner_names_and_keeps_the_outer_ones():
    after = graphs.apply(CleanGraph(), graphs.model(graphs.branches())).model.payload
    assert [value.name for value in after.graph.input] == ["input_of_the_graph"]
    assert [value.name for value in after.graph.output] == ["output_of_the_graph"]
    content = after.SerializeToString()
    for name in (b"outer_constant", b"product", b"inner", b"then_out", b"positive", b"chosen"):
        assert name not in content


def test_clean_never_gives_an_inner_tensor_the_name_of_an_outer_one():
    made = graphs.proto(
        [
            graphs.node("Relu", "a", "first"),
            graphs.node("Neg", "first", "second"),
            graphs.node("Abs", "second", "c"),
        ],
        {"a": ("float32", ["N", 2])},
        {"c": ("float32", ["N", 2])},
    )
    after = graphs.apply(CleanGraph(), graphs.model(made)).model.payload
    assert [name for node in after.graph.node for name in node.output] == ["b", "d", "c"]
    same(made, after, 0)


def test_clean_leaves_sparse_constants_readable():
    made = graphs.proto(
        [graphs.node("Mul", "x a_sparse_constant", "y")], {"x": ("float32", ["N", 4])}, {"y": ("float32", ["N", 4])}
    )
    made.graph.sparse_initializer.append(
        helper.make_sparse_tensor(
            numpy_helper.from_array(np.float32([2, 3]), "a_sparse_constant"),
            numpy_helper.from_array(np.array([0, 2]), "indices"),
            [4],
        )
    )
    batch = {"x": np.float32([[1, 2, 3, 4]])}
    after = graphs.apply(CleanGraph(), graphs.model(made)).model.payload
    np.testing.assert_array_equal(graphs.run(after, batch)[0], [[2, 0, 9, 0]])


def test_equal_constants_are_shared_and_unequal_ones_are_not():
    ones = np.ones(4, np.float32)
    made = graphs.proto(
        [
            graphs.node("Add", "x first", "a"),
            graphs.node("Mul", "a second", "b"),
            graphs.node("Add", "b third", "c"),
            graphs.node("Add", "c fourth", "y"),
        ],
        {"x": ("float32", ["N", 4])},
        {"y": ("float32", ["N", 4])},
        {"first": ones, "second": ones.copy(), "third": 2 * ones, "fourth": ones.reshape(1, 4)},
    )
    before = graphs.copy(made)
    assert share_equal(made) == 1
    assert set(graphs.constants(made)) == {"first", "third", "fourth"}
    same(before, made, 0)
    assert graphs.apply(CleanGraph(), graphs.model(before)).notes["constants_shared"] == 1


def test_equal_bytes_of_another_type_are_not_shared():
    zeros = np.zeros(4, np.float32)
    made = graphs.proto(
        [graphs.node("Add", "x floats", "a"), graphs.node("Gather", "a integers", "y", axis=1)],
        {"x": ("float32", ["N", 4])},
        {"y": ("float32", ["N", 4])},
        {"floats": zeros, "integers": zeros.view(np.int32)},
    )
    assert share_equal(made) == 0


def test_constants_that_nothing_reads_are_dropped():
    made = wordy()
    assert drop_unused(made) == 1
    assert "nobody_reads_this" not in graphs.constants(made)
    assert drop_unused(made) == 0


def test_constants_that_only_a_branch_reads_are_kept():
    made = graphs.branches()
    drop_unused(made)
    assert "outer_constant" in graphs.constants(made)
    onnx.checker.check_model(made, full_check=True)


def test_typed_fields_become_raw_bytes_of_the_same_numbers():
    made = graphs.proto(
        [graphs.node("Mul", "x w", "y")],
        {"x": ("float32", ["N", 3])},
        {"y": ("float32", ["N", 3])},
        {"w": np.ones(3)},
    )
    made.graph.initializer[0].CopyFrom(helper.make_tensor("w", onnx.TensorProto.FLOAT, [3], [1.5, -2.0, 3e-8]))
    assert not made.graph.initializer[0].raw_data
    pack_raw(made)
    assert np.frombuffer(made.graph.initializer[0].raw_data, np.float32).tolist() == [1.5, -2.0, np.float32(3e-8)]


def tiny_numbers():
    made = graphs.conv_net()
    weight = np.array(graphs.constants(made)["fc.weight"])
    weight[0, :4] = [1e-40, -1e-39, np.finfo(np.float32).tiny, 0]
    made.graph.initializer[3].CopyFrom(numpy_helper.from_array(weight, "fc.weight"))
    return made


def test_subnormal_weights_become_zero_and_normal_ones_stay():
    made = tiny_numbers()
    assert flush_subnormals(made) == 2
    assert graphs.constants(made)["fc.weight"][0, :4].tolist() == [0, 0, np.finfo(np.float32).tiny, 0]
    assert flush_subnormals(made) == 0
    assert graphs.apply(OptimizeGraph(), graphs.model(tiny_numbers())).notes["subnormals_flushed"] == 2


def test_float16_subnormals_stay():
    made = graphs.proto(
        [graphs.node("Cast", "w", "c", to=1), graphs.node("Mul", "x c", "y")],
        {"x": ("float32", ["N", 2])},
        {"y": ("float32", ["N", 2])},
        {"w": np.float16([6e-8, 1])},
    )
    assert flush_subnormals(made) == 0


def test_optimize_refuses_a_quantized_model():
    model = graphs.apply(DynamicInt8(), graphs.model(graphs.recurrent("LSTM"))).model
    with pytest.raises(RecipeError, match="would fold the quantized weights back to float; optimize before"):
        graphs.apply(OptimizeGraph(), model)


@pytest.mark.parametrize("make", [graphs.conv_net, graphs.branches, graphs.loop])
def test_nodes_are_brought_into_an_order_that_runs(make):
    made = make()
    want = made.SerializeToString()
    sort_nodes(made.graph)
    assert made.SerializeToString() == want
    nodes = [onnx.NodeProto.FromString(node.SerializeToString()) for node in reversed(made.graph.node)]
    del made.graph.node[:]
    made.graph.node.extend(nodes)
    sort_nodes(made.graph)
    onnx.checker.check_model(made, full_check=True)
    same(make(), made, 0)


def test_nodes_of_a_branch_are_brought_into_order_too():
    made = graphs.branches()
    inner = next(item.g for item in made.graph.node[2].attribute if item.name == "then_branch")
    nodes = [onnx.NodeProto.FromString(node.SerializeToString()) for node in reversed(inner.node)]
    del inner.node[:]
    inner.node.extend(nodes)
    assert [node.op_type for node in inner.node] == ["Add", "Mul"]
    sort_nodes(made.graph)
    inner = next(item.g for item in made.graph.node[2].attribute if item.name == "then_branch")
    assert [node.op_type for node in inner.node] == ["Mul", "Add"]
    same(graphs.branches(), made, 0)


@pytest.mark.parametrize("request_", [OptimizeGraph(), CleanGraph()])
def test_a_graph_that_is_not_valid_is_one_clear_line(request_):
    made = graphs.conv_net()
    made.graph.node[1].input[0] = "from nowhere"
    with pytest.raises(PassError, match=r"the graph cannot be (optimized|cleaned): ValidationError") as caught:
        graphs.apply(request_, graphs.model(made))
    assert "\n" not in str(caught.value)


def stateful(kind, start):
    """A recurrent layer whose initial state is made of the input's batch size, as exporters write it."""
    made = graphs.recurrent(kind)
    layer = next(node for node in made.graph.node if node.op_type == kind)
    states = {"LSTM": 2}.get(kind, 1)
    layer.input.extend(["", *["h0"] * states])
    made.graph.node.insert(0, graphs.node("Expand", "start shape", "h0"))
    made.graph.node.insert(0, graphs.node("Concat", "one size width", "shape", axis=0))
    made.graph.node.insert(0, graphs.node("Shape", "x", "size", start=0, end=1))
    for name, array in {"start": np.float32(start), "one": np.array([1]), "width": np.array([5])}.items():
        made.graph.initializer.append(numpy_helper.from_array(np.asarray(array), name))
    return made


@pytest.mark.parametrize("kind", ["LSTM", "GRU", "RNN"])
def test_initial_states_of_zeros_are_left_out(kind, tmp_path):
    model = graphs.model(stateful(kind, 0.0))
    outcome = OptimizeGraph().apply(model, PassContext(tmp_path))
    assert outcome.notes["zero_states_dropped"] == (2 if kind == "LSTM" else 1)
    assert not {"Expand", "Shape", "Concat"} & {node.op_type for node in outcome.model.payload.graph.node}
    batch, adapter = model.signature.synthetic(3), adapter_for(Format.ONNX)
    np.testing.assert_allclose(
        adapter.forward(outcome.model, batch)["y"], adapter.forward(model, batch)["y"], rtol=1e-6, atol=1e-6
    )


def test_an_initial_state_that_is_not_zero_stays(tmp_path):
    model = graphs.model(stateful("GRU", 0.5))
    outcome = OptimizeGraph().apply(model, PassContext(tmp_path))
    assert outcome.notes["zero_states_dropped"] == 0
    batch, adapter = model.signature.synthetic(3), adapter_for(Format.ONNX)
    wanted = adapter.forward(model, batch)["y"]
    np.testing.assert_allclose(adapter.forward(outcome.model, batch)["y"], wanted, rtol=1e-6, atol=1e-6)
    zero = adapter.forward(graphs.model(stateful("GRU", 0.0)), batch)["y"]
    assert np.abs(wanted - zero).max() > 1e-3
