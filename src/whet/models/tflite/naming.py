"""Names of what goes into a TFLite file and what comes out, written as its signature."""

from __future__ import annotations

from collections.abc import Sequence

from ai_edge_litert import schema_py_generated as schema

from whet.models.tflite import writing
from whet.models.tflite.flatbuffer import Content, parse

KEY = "serving_default"


def named(content: bytes, inputs: Sequence[str], outputs: Sequence[str]) -> bytes:
    """Return a file whose first graph has these names, in the order of its inputs and outputs."""
    model = writing.unpacked(content)
    graph, signature = model.subgraphs[0], schema.SignatureDefT()
    signature.signatureKey, signature.subgraphIndex = KEY, 0
    signature.inputs = [_place(name, at) for name, at in zip(inputs, graph.inputs, strict=True)]
    signature.outputs = [_place(name, at) for name, at in zip(outputs, graph.outputs, strict=True)]
    model.signatureDefs = [signature]
    return writing.packed(model)


def apart(content: Content) -> tuple[bytes, str]:
    """Return a file as LiteRT's tools need it, and the key of its first graph's signature.

    Every tensor has a name of its own, that by which it goes here, and there is a signature.
    """
    model, graphs = writing.unpacked(content), parse(content)
    changed = False
    for graph, known in zip(model.subgraphs, graphs, strict=True):
        for tensor, named_so in zip(graph.tensors, known.tensors, strict=True):
            changed = changed or (tensor.name or b"").decode(errors="replace") != named_so.name
            tensor.name = named_so.name
    found = writing.packed(model) if changed else bytes(content)
    keys = [one.signatureKey for one in model.signatureDefs or [] if one.subgraphIndex == 0]
    if keys:
        return found, keys[0].decode()
    return named(found, *([name for name, _ in ends] for ends in (graphs[0].inputs, graphs[0].outputs))), KEY


def _place(name: str, at: int) -> schema.TensorMapT:
    place = schema.TensorMapT()
    place.name, place.tensorIndex = name, int(at)
    return place
