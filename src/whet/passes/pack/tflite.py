"""Storage of TFLite constants with many zeros: only what is not zero, and where it lies."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from ai_edge_litert import schema_py_generated as schema

from whet.errors import PassError
from whet.models.model import Model
from whet.models.tflite import constants, counting, writing
from whet.models.tflite.comparing import difference
from whet.models.tflite.flatbuffer import Graph, Operator, Tensor, parse
from whet.passes.base import Outcome, PassContext, excluded
from whet.passes.pack.spec import Pack
from whet.types import Skipped, Trait, TraitKind

if TYPE_CHECKING:
    from whet.types import Array

_FILLED = ("FLOAT32", "FLOAT16", "INT8")  # types that LiteRT's DENSIFY has
_READERS = ("CONV_2D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED")
_BLOCKS = (1, 2, 4, 8, 16)
_NODE = 224  # bytes of an operator that fills up, its tensor, and the account of where values lie
_SINCE = "2.2.0"  # the runtime that DENSIFY came with, by TensorFlow's table of operators' versions
_COMPARED = 4  # samples
_WIDTHS = (
    (np.uint8, schema.SparseIndexVector.Uint8Vector, schema.Uint8VectorT),
    (np.uint16, schema.SparseIndexVector.Uint16Vector, schema.Uint16VectorT),
    (np.int32, schema.SparseIndexVector.Int32Vector, schema.Int32VectorT),
)


def pack(request: Pack, model: Model, context: PassContext) -> Outcome:
    """Store what is smaller so without its zeros, with an operator that fills it up; run both files and compare."""
    raw, graph = writing.unpacked(model.payload), parse(model.payload)[0]
    if reason := writing.outside(raw):
        return Outcome(model, (), (Skipped("graph", reason),))
    found, skipped = _chosen(request, graph)
    if not found:
        return Outcome(model, (), tuple(skipped))
    for each in sorted(found, key=lambda each: -each.first):  # the last first: places of operators stay
        _store(raw, graph, each)
    writing.need_runtime(raw, _SINCE)
    content = writing.packed(raw)
    assert model.signature is not None
    batch = context.sample(model.signature, _COMPARED)
    kernels = ("xnnpack", "builtin") if request.kernels == "xnnpack" else ("builtin",)
    if off := difference(model.payload, content, batch, kernels):
        raise PassError(f"the file cannot be packed: {off}; exclude its sparse layers, or set kernels = 'builtin'")
    stored = sum(each.layout.bytes for each in found)
    bits = 8 * stored / sum(each.dense.size for each in found)
    notes = {
        "bytes_before": len(model.payload), "bytes_after": len(content), "kernels": kernels,
        "stored_bytes_by_weight": {each.tensor.name: each.layout.bytes for each in found},
    }  # fmt: skip
    made = model.with_payload(content).with_traits(Trait(TraitKind.PACKED, bits))
    return Outcome(made, tuple(each.layer for each in found), tuple(skipped), notes)


@dataclass(frozen=True, slots=True)
class Layout:
    """In which order the values of a constant are walked, and what is left out.

    Attributes:
        axis: Whose zeros are left out; it is walked last, the others before it in their order.
        block: Neighbours along it that are there or not together.
        there: (rows, blocks) of that order: whether any of a block is not zero.
        bytes: What values and indices take.
    """

    axis: int
    block: int
    there: Array
    bytes: int


def smallest(dense: Array) -> Layout:
    """Return the layout in which an array takes the fewest bytes."""
    found: Layout | None = None
    for axis, block in itertools.product(range(dense.ndim), _BLOCKS):
        if dense.shape[axis] % block:
            continue
        rows = np.moveaxis(dense, axis, -1).reshape(-1, dense.shape[axis] // block, block)
        there = (rows != 0).any(axis=-1)
        count = int(there.sum())
        indices = _width(count) * (len(there) + 1) + _width(there.shape[1] - 1) * count
        size = count * block * dense.itemsize + indices
        if found is None or size < found.bytes:
            found = Layout(axis, block, there, size)
    assert found is not None
    return found


def _width(most: int) -> int:
    return int(np.dtype(_narrowest(most)[0]).itemsize)


def _narrowest(most: int) -> Any:
    """Return the schema's narrowest kind of indices up to this number."""
    return next(kind for kind in _WIDTHS if most <= np.iinfo(kind[0]).max)


@dataclass(frozen=True, slots=True)
class _Sparse:
    """A constant that is to be stored so: its layer, its first reader, and how."""

    layer: str
    first: int
    tensor: Tensor
    dense: Array
    layout: Layout


def _chosen(request: Pack, graph: Graph) -> tuple[list[_Sparse], list[Skipped]]:
    """Return the weights that become smaller, and the layers that are left alone, with the reasons."""
    found: dict[int, _Sparse] = {}
    skipped = []
    through, readers = counting.handed_on(graph), _readers(graph)
    for name, operator in zip(counting.names(graph), graph.operators, strict=True):
        for tensor in counting.kernels(graph, operator, through):
            if tensor.place in found:
                continue
            reason = excluded(name, operator.kind, request.exclude, ()) or _refused(
                request, graph, operator, tensor
            )
            chosen = None if reason else _sparse(request, name, tensor, readers)
            if isinstance(chosen, _Sparse):
                found[tensor.place] = chosen
            else:
                skipped.append(Skipped(name, reason or str(chosen)))
    return list(found.values()), skipped


def _readers(graph: Graph) -> Mapping[int, int]:
    """Return the first operator that reads each tensor."""
    found: dict[int, int] = {}
    for at, operator in enumerate(graph.operators):
        for place in operator.inputs:
            found.setdefault(place, at)
    return found


def _refused(request: Pack, graph: Graph, operator: Operator, tensor: Tensor) -> str | None:
    """Return why a weight is not stored sparse for this operator and these kernels, as LiteRT 2.3 runs it."""
    how, products = tensor.quantization, operator.kind == "FULLY_CONNECTED"
    if tensor.sparsity is not None:
        return "it is stored sparse already"
    if operator.kind not in _READERS or tensor.type not in _FILLED:
        return f"LiteRT has no sparse form of {tensor.type} weights of {operator.kind}"
    if how is not None and np.any(how.zeros):
        return "its zero is another integer than 0, with which LiteRT would fill it up"
    if request.kernels == "builtin":
        return None
    data = graph.tensors[operator.inputs[0]].type
    if tensor.type == "INT8" and data != "INT8":
        return "XNNPACK does not open sparse INT8 weights of float activations; kernels = 'builtin' stores them"
    if products:
        return "XNNPACK does not take sparse weights of this operator; kernels = 'builtin' stores them"
    return None


def _sparse(request: Pack, layer: str, tensor: Tensor, readers: Mapping[int, int]) -> _Sparse | str:
    """Return how a weight is stored, or why it stays as it is."""
    dense = constants.stored(tensor)
    if dense.nbytes < request.least_bytes:
        return f"it takes {dense.nbytes} bytes, fewer than least_bytes = {request.least_bytes}"
    layout = smallest(dense)
    if layout.bytes + _NODE >= dense.nbytes:
        return f"without zeros it would take {layout.bytes + _NODE:,} bytes, as it is {dense.nbytes:,}"
    return _Sparse(layer, readers[tensor.place], tensor, dense, layout)


def _store(raw: Any, graph: Graph, each: _Sparse) -> None:
    """Store a weight sparse, and put the operator that fills it up before the first that reads it."""
    main, place = raw.subgraphs[0], each.tensor.place
    tensor, filled = main.tensors[place], schema.TensorT()
    filled.type, filled.shape, filled.quantization = tensor.type, tensor.shape, tensor.quantization
    main.tensors.append(filled)
    for operator in main.operators:
        operator.inputs = [len(main.tensors) - 1 if at == place else at for at in map(int, operator.inputs)]
    values, tensor.sparsity = _encoded(each.dense, each.layout)
    writing.hold(raw, tensor, values)
    step = schema.OperatorT()
    step.opcodeIndex, step.inputs, step.outputs = _densify(raw), [place], [len(main.tensors) - 1]
    step.builtinOptionsType, step.builtinOptions = schema.BuiltinOptions.DensifyOptions, schema.DensifyOptionsT()
    main.operators.insert(each.first, step)


def _densify(raw: Any) -> int:
    """Return the number of the operator's kind in the file."""
    for at, code in enumerate(raw.operatorCodes):
        if code.builtinCode == schema.BuiltinOperator.DENSIFY:
            return at
    code = schema.OperatorCodeT()
    code.builtinCode = code.deprecatedBuiltinCode = schema.BuiltinOperator.DENSIFY
    raw.operatorCodes.append(code)
    return len(raw.operatorCodes) - 1


def _encoded(dense: Array, layout: Layout) -> tuple[Array, Any]:
    """Return the bytes of the values that are there, and the schema's account of where."""
    width = dense.shape[layout.axis] // layout.block
    rows = np.moveaxis(dense, layout.axis, -1).reshape(-1, width, layout.block)
    values = np.ascontiguousarray(rows[layout.there])  # row by row, block by block
    account = schema.SparsityParametersT()
    others = [axis for axis in range(dense.ndim) if axis != layout.axis]
    account.traversalOrder = [*others, layout.axis]
    account.dimMetadata = [*(_whole(dense.shape[axis]) for axis in others), _listed(layout.there)]
    if layout.block > 1:
        account.traversalOrder.append(dense.ndim)
        account.blockMap = [layout.axis]
        account.dimMetadata.append(_whole(layout.block))
    return values.reshape(-1).view(np.uint8), account


def _whole(size: int) -> Any:
    """Return the account of an axis all of whose indices are there."""
    made = schema.DimensionMetadataT()
    made.format, made.denseSize = schema.DimensionType.DENSE, int(size)
    return made


def _listed(there: Array) -> Any:
    """Return the account of an axis whose indices are listed, row by row."""
    made = schema.DimensionMetadataT()
    made.format = schema.DimensionType.SPARSE_CSR
    segments, indices = np.concatenate([[0], np.cumsum(there.sum(axis=1))]), np.nonzero(there)[1]
    made.arraySegmentsType, made.arraySegments = _vector(segments, int(segments[-1]))
    made.arrayIndicesType, made.arrayIndices = _vector(indices, there.shape[1] - 1)
    return made


def _vector(numbers: Array, most: int) -> tuple[int, Any]:
    dtype, kind, table = _narrowest(most)
    made = table()
    made.values = numbers.astype(dtype)
    return kind, made
