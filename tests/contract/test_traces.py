"""What exporters write for people is taken out of every part of an ONNX model, and nothing else is."""

import onnx
import pytest
from onnx import TensorProto, helper

from whet.models.onnx.traces import strip, strip_file

TRACE = 'File "/home/anna/secret/net.py", line 7, in forward'


def traced():
    """Return a model with a branch, a function and a constant, and a trace in every place that has room for one."""

    def named(item):
        item.doc_string = TRACE
        if hasattr(item, "metadata_props"):
            entry = item.metadata_props.add()
            entry.key, entry.value = "pkg.torch.onnx.stack_trace", TRACE
        return item

    def value(name):
        return named(helper.make_tensor_value_info(name, TensorProto.FLOAT, [2]))

    tensor = named(helper.make_tensor("weight", TensorProto.FLOAT, [2], [1.0, 2.0]))
    constant = helper.make_node("Constant", [], ["c"], value=tensor)
    named(constant.attribute[0])
    inner = [named(helper.make_graph([named(constant)], name, [], [value("c")])) for name in ("then", "other")]
    branch = helper.make_node("If", ["yes"], ["y"], then_branch=inner[0], else_branch=inner[1])
    truth = named(helper.make_tensor("yes", TensorProto.BOOL, [], [True]))
    graph = named(
        helper.make_graph([named(branch)], "g", [value("x")], [value("y")], [truth], value_info=[value("z")])
    )
    body = named(helper.make_node("Relu", ["a"], ["b"]))
    function = named(helper.make_function("own", "f", ["a"], ["b"], [body], [helper.make_opsetid("", 17)]))
    return helper.make_model(graph, functions=[function], opset_imports=[helper.make_opsetid("", 17)])


def test_no_trace_is_left_and_the_numbers_stay(tmp_path):
    proto = traced()
    assert TRACE.encode() in proto.SerializeToString()
    assert strip(proto)
    assert b"secret" not in proto.SerializeToString()
    assert not strip(proto)
    onnx.checker.check_model(proto)

    onnx.save(traced(), tmp_path / "model.onnx")
    strip_file(tmp_path / "model.onnx")
    assert onnx.load(tmp_path / "model.onnx") == proto


@pytest.mark.parametrize("author", ["by Anna", "/home/anna/secret/net.py"])
def test_what_an_author_says_of_the_model_stays_without_folders(author):
    proto = traced()
    proto.doc_string = author
    entry = proto.metadata_props.add()
    entry.key, entry.value = "author", author
    strip(proto, lambda text: text.replace("/home/anna/secret/", ""))
    assert proto.doc_string == proto.metadata_props[0].value == author.rpartition("/")[2]
