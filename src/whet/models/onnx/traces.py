"""What exporters write into ONNX files for people alone: stack traces, with the folders of who exported them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import onnx
from onnx import AttributeProto, GraphProto, ModelProto

from whet.storage import write_bytes


def strip(proto: ModelProto, text: Callable[[str], str] = str) -> bool:
    """Take documentation and metadata out of everything below the model, in place; return whether there was any.

    Args:
        proto: The model. Runtimes read none of what is taken out.
        text: What is done to the model's own documentation and metadata, which are its author's and stay.
    """
    changed = False
    for item in _parts(proto):
        for field in ("doc_string", "metadata_props"):
            if getattr(item, field, None):
                item.ClearField(field)
                changed = True
    if (kept := text(proto.doc_string)) != proto.doc_string:
        proto.doc_string, changed = kept, True
    for entry in proto.metadata_props:
        if (kept := text(entry.value)) != entry.value:
            entry.value, changed = kept, True
    return changed


def strip_file(path: Path, text: Callable[[str], str] = str) -> None:
    """Take documentation and metadata out of a file; its external data is not touched."""
    proto = onnx.load(str(path), load_external_data=False)
    if strip(proto, text):
        write_bytes(path, proto.SerializeToString())


def _parts(proto: ModelProto) -> Iterator[Any]:
    """Yield every graph, function, node, value, tensor and attribute of a model."""
    yield from _of_graph(proto.graph)
    for function in proto.functions:
        yield function
        yield from function.value_info
        yield from _of_nodes(function.node)


def _of_graph(graph: GraphProto) -> Iterator[Any]:
    yield graph
    for items in (graph.input, graph.output, graph.value_info, graph.initializer):
        yield from items
    yield from _of_nodes(graph.node)


def _of_nodes(nodes: Any) -> Iterator[Any]:
    for node in nodes:
        yield node
        for attribute in node.attribute:
            yield from _of_attribute(attribute)


def _of_attribute(attribute: AttributeProto) -> Iterator[Any]:
    yield attribute
    if attribute.HasField("t"):
        yield attribute.t
    if attribute.HasField("g"):
        yield from _of_graph(attribute.g)
    yield from attribute.tensors
    for graph in attribute.graphs:
        yield from _of_graph(graph)
