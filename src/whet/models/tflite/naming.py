"""Names of what goes into a TFLite file and what comes out, written as its signature."""

from __future__ import annotations

from collections.abc import Sequence

import flatbuffers
from ai_edge_litert import schema_py_generated as schema

_KIND, _KEY = b"TFL3", b"serving_default"


def named(content: bytes, inputs: Sequence[str], outputs: Sequence[str]) -> bytes:
    """Return a file whose first graph has these names, in the order of its inputs and outputs."""
    model = schema.ModelT.InitFromObj(schema.Model.GetRootAsModel(content, 0))
    graph, signature = model.subgraphs[0], schema.SignatureDefT()
    signature.signatureKey, signature.subgraphIndex = _KEY, 0
    signature.inputs = [_place(name, at) for name, at in zip(inputs, graph.inputs, strict=True)]
    signature.outputs = [_place(name, at) for name, at in zip(outputs, graph.outputs, strict=True)]
    model.signatureDefs = [signature]
    builder = flatbuffers.Builder(len(content) + 1024)
    builder.Finish(model.Pack(builder), _KIND)
    return bytes(builder.Output())


def _place(name: str, at: int) -> schema.TensorMapT:
    place = schema.TensorMapT()
    place.name, place.tensorIndex = name, int(at)
    return place
