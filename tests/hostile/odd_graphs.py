"""ONNX files that no exporter writes: each function returns one, valid but for what its name says."""

from onnx import TensorProto, helper

FLOAT = TensorProto.FLOAT


def value(name, dims=("n", 6), kind=FLOAT):
    return helper.make_tensor_value_info(name, kind, dims)


def model(nodes, inputs=None, outputs=None, weights=(), *, opset=17, ir=8, domains=(), functions=()):
    """Return a model of these nodes, by default from ``x`` (n, 6) to ``y`` (n, 6)."""
    inputs = [value("x")] if inputs is None else inputs
    outputs = [value("y")] if outputs is None else outputs
    graph = helper.make_graph(nodes, "graph", inputs, outputs, list(weights))
    imports = [helper.make_opsetid("", opset), *(helper.make_opsetid(name, 1) for name in domains)]
    return helper.make_model(graph, opset_imports=imports, ir_version=ir, functions=list(functions))


def relu(name="first", read="x", yields="y"):
    return helper.make_node("Relu", [read], [yields], name=name)


def weight(dims, name="w", raw=None, kind=FLOAT):
    """Return a weight whose bytes need not be as many as its dims claim."""
    tensor = TensorProto(name=name, data_type=kind, dims=dims)
    tensor.raw_data = b"\0" * 144 if raw is None else raw
    return tensor


def multiply(tensor):
    return model([helper.make_node("MatMul", ["x", tensor.name], ["y"], name="product")], weights=[tensor])


def external(location, length="144", offset="0"):
    """Return a model whose weight (6, 6) is kept in another file."""
    tensor = TensorProto(name="w", data_type=FLOAT, dims=[6, 6], data_location=TensorProto.EXTERNAL)
    for key, text in (("location", location), ("offset", offset), ("length", length)):
        tensor.external_data.add(key=key, value=text)
    return multiply(tensor)


def body(nodes, outputs):
    return helper.make_graph(nodes, "body", [], outputs)


def branch(nodes):
    """Return a model with an If whose branches are these nodes, which yield ``z``."""
    constant = helper.make_tensor("flag", TensorProto.BOOL, [], [True])
    inner = body(nodes, [value("z")])
    node = helper.make_node("If", ["flag"], ["y"], name="choice", then_branch=inner, else_branch=inner)
    return model([node], weights=[constant])


def function(name, *calls):
    """Return a local function that calls others, one after the other."""
    names = ["a", *(f"t{at}" for at in range(len(calls)))]
    nodes = [helper.make_node(call, [names[at]], [names[at + 1]], domain="mine") for at, call in enumerate(calls)]
    imports = [helper.make_opsetid("", 17), helper.make_opsetid("mine", 1)]
    return helper.make_function("mine", name, ["a"], [names[-1]], nodes, imports)


def calling(*functions):
    node = helper.make_node(functions[0].name, ["x"], ["y"], name="call", domain="mine")
    return model([node], domains=["mine"], functions=functions)


def typed(kind):
    """Return a model whose input is of a type that is no tensor."""
    inner = helper.make_tensor_type_proto(FLOAT, ["n", 6])
    made = {
        "sequence": helper.make_sequence_type_proto(inner),
        "optional": helper.make_optional_type_proto(inner),
        "map": helper.make_map_type_proto(TensorProto.INT64, inner),
        "sparse": helper.make_sparse_tensor_type_proto(FLOAT, ["n", 6]),
    }[kind]
    source = helper.make_value_info("x", made)
    node = helper.make_node("Identity", ["x"], ["y"], name="same")
    return model([node], [source], [helper.make_value_info("y", made)])


def of_type(kind):
    node = helper.make_node("Identity", ["x"], ["y"], name="same")
    return model([node], [value("x", kind=kind)], [value("y", kind=kind)], opset=23, ir=11)


def chain(count):
    """Return a model of so many nodes, one after the other."""
    names = ["x", *(f"t{at}" for at in range(count - 1)), "y"]
    return model([relu(f"n{at}", names[at], names[at + 1]) for at in range(count)])


def sparse():
    """Return a model with a sparse weight whose indices point outside of it."""
    made = multiply(weight([6, 6]))
    del made.graph.initializer[:]
    values = helper.make_tensor("w", FLOAT, [2], [1.0, 2.0])
    places = helper.make_tensor("at", TensorProto.INT64, [2], [0, 10**9])
    made.graph.sparse_initializer.append(helper.make_sparse_tensor(values, places, [6, 6]))
    return made


def save(made, name="odd.onnx"):
    """Return what writes a model into the folder of a case."""
    return lambda here: (here / name).write_bytes(made().SerializeToString())
