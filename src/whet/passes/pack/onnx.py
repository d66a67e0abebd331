"""Packed tensors in ONNX: nodes of the standard that a runtime folds when it opens the file."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import onnx
import onnxruntime
from onnx import ModelProto, NodeProto, TensorProto, ValueInfoProto, helper, numpy_helper

from whet.errors import PassError, in_one_line
from whet.models.model import Model
from whet.models.onnx import initializers
from whet.passes.base import Outcome, PassContext, excluded
from whet.passes.pack import math
from whet.passes.pack.spec import Pack
from whet.types import Skipped, Trait, TraitKind

if TYPE_CHECKING:
    from whet.types import Array

_PACKABLE = (TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.INT8, TensorProto.UINT8)
_FEW = 8  # numbers that a node would take as many bytes as
_LEAST_OPSET = 13  # ReduceSum and Squeeze aside, everything used here is as it is now from then on


def pack(request: Pack, model: Model, context: PassContext) -> Outcome:
    """Store every tensor in its smallest form; keep the graph only if all come out the same."""
    before: ModelProto = model.payload
    proto = ModelProto()
    proto.CopyFrom(before)
    _check_opset(proto)
    initializers.pack_raw(proto)
    writer, skipped, forms = _Writer(proto), [], {}
    kept = []
    for tensor in proto.graph.initializer:
        reason, form = _form(request, proto, tensor)
        if form is None:
            kept.append(tensor)
            if reason:
                skipped.append(Skipped(tensor.name, reason))
        else:
            forms[tensor.name] = form
            writer.write(tensor.name, numpy_helper.to_array(tensor), form)
    if not forms:
        return Outcome(model, (), tuple(skipped))
    products = _write_products(proto, writer, kept)
    packed = writer.finish([tensor for tensor in kept if tensor.name not in products])
    _check(before, packed, writer, [*forms, *products])
    weights = sum(_size(tensor) for tensor in before.graph.initializer if tensor.data_type in _PACKABLE)
    stored = before.ByteSize() - packed.ByteSize()
    held = sum(tensor.ByteSize() for tensor in before.graph.initializer if tensor.data_type in _PACKABLE)
    bits = 8 * (held - stored) / weights
    notes = {
        "bytes_before": before.ByteSize(),
        "bytes_after": packed.ByteSize(),
        "bits_a_weight": bits,
        "forms": {name: told(form) for name, form in forms.items()} | dict.fromkeys(products, "a product"),
    }
    result = model.with_payload(packed).with_traits(Trait(TraitKind.PACKED, bits))
    return Outcome(result, tuple(forms), tuple(skipped), notes)


def _write_products(proto: ModelProto, writer: _Writer, kept: Sequence[TensorProto]) -> list[str]:
    """Have the scale of a quantized bias be made of what it is: that of the input times those of the weight."""
    arrays = {tensor.name: numpy_helper.to_array(tensor) for tensor in proto.graph.initializer}
    makers = {name: node for node in proto.graph.node for name in node.output}
    stored, made = {tensor.name for tensor in kept}, []
    for node in proto.graph.node:
        parts = [makers.get(name) for name in node.input]
        if node.op_type not in ("Conv", "Gemm") or len(parts) < 3:
            continue
        scales = [part.input[1] for part in parts if part is not None and part.op_type == "DequantizeLinear"]
        if len(scales) < 3 or not arrays.keys() >= set(scales) or scales[2] not in stored or scales[2] in made:
            continue
        step, weights, biases = (arrays[name] for name in scales)
        if biases.size > _FEW and biases.shape == weights.shape and np.array_equal(step * weights, biases):
            writer.node("Mul", scales[:2], scales[2])
            made.append(scales[2])
    return made


def told(form: math.Form) -> str:
    """Return a form in words: ``4-bit codes, a codebook a channel``."""
    if isinstance(form, math.Fill):
        return "one value"
    if isinstance(form, math.Sparse):
        return f"mask and {form.values.size:,} values"
    masked = "" if form.mask is None else "mask and "
    books = "one codebook" if form.axis is None else "a codebook a channel"
    return f"{masked}{form.bits}-bit codes, {books}"


def _check_opset(proto: ModelProto) -> None:
    opset = next((item.version for item in proto.opset_import if item.domain in ("", "ai.onnx")), 0)
    if opset < _LEAST_OPSET:
        raise PassError(
            f"packed tensors need opset {_LEAST_OPSET}; this file is of opset {opset}; export it anew, later"
        )


def _form(request: Pack, proto: ModelProto, tensor: TensorProto) -> tuple[str, math.Form | None]:
    """Return the smallest form of a tensor, or why it stays as it is (nothing of what holds no weights)."""
    if tensor.data_type not in _PACKABLE or not tensor.dims or _size(tensor) == 0:
        return "", None
    if tensor.ByteSize() < request.least_bytes:
        return "", None
    reason = excluded(tensor.name, "", request.exclude, ())
    if reason is None and tensor.name in {value.name for value in [*proto.graph.output, *proto.graph.input]}:
        reason = "it is an input or an output of the model"
    if reason is not None:
        return reason, None
    array = numpy_helper.to_array(tensor)
    form = math.smallest(np.ascontiguousarray(array))
    if form is None:
        zeros = 1 - np.count_nonzero(array) / array.size
        return f"no form is smaller: {len(np.unique(array)):,} values, {zeros:.0%} of them zeros", None
    return "", form


def _size(tensor: TensorProto) -> int:
    return int(np.prod(tensor.dims, dtype=np.int64))


class _Writer:
    """Writes nodes that unpack tensors in front of a graph; constants that several need stand there once."""

    def __init__(self, proto: ModelProto) -> None:
        self.proto = proto
        self.nodes: list[NodeProto] = []
        self.tensors: dict[str, TensorProto] = {}
        self._made: dict[tuple[object, ...], str] = {}
        self._taken = {name for graph in initializers.graphs(proto.graph) for name in _names(graph)}
        self._count = 0

    def write(self, name: str, array: Array, form: math.Form) -> None:
        """Add what makes a tensor of this name."""
        if isinstance(form, math.Fill):
            shape = self.constant(np.array(array.shape, np.int64))
            value = numpy_helper.from_array(form.value)
            self.node("ConstantOfShape", [shape], name, value=value)
        elif isinstance(form, math.Sparse):
            self._sparse(name, array.shape, form)
        else:
            self._coded(name, array.shape, form)

    def _sparse(self, name: str, shape: tuple[int, ...], form: math.Sparse) -> None:
        """Make a tensor of its numbers; integers in int32, since OpenVINO folds no scatter of int8."""
        values = self.constant(form.values)
        if form.values.dtype.kind == "f":
            self._shaped(self._spread(values, form.mask, form.values.dtype), shape, name)
            return
        wide = self._spread(self._cast(values, TensorProto.INT32), form.mask, np.dtype(np.int32))
        kind = helper.np_dtype_to_tensor_dtype(form.values.dtype)
        self.node("Cast", [self._shaped(wide, shape)], name, to=kind)

    def _coded(self, name: str, shape: tuple[int, ...], form: math.Coded) -> None:
        """Make a tensor of codes: looked up by bytes where one lookup does, by codes elsewhere."""
        if form.mask is None and form.axis is None and form.bits in math.PLANES:
            book = self.constant(np.pad(form.book, (0, (1 << form.bits) - len(form.book))))  # any byte has values
            table = self.node("Gather", [book, self._lookup(0, form.bits, 0)])  # (256, codes a byte)
            values = self.node("Gather", [table, self._bytes(math.plane(form.codes, 0, form.bits))])
            self._shaped(self._cut(values, form.codes.size, form.bits), shape, name)
            return
        codes = self._codes(form.codes, form.bits, first=0 if form.mask is None else 1)
        if form.mask is not None:
            codes = self._spread(codes, form.mask, np.dtype(np.int32))
        codes = self._shaped(codes, shape)
        if form.axis is not None:
            rows = np.arange(len(form.book), dtype=np.int32) * form.book.shape[1]
            where = [-1 if at == form.axis else 1 for at in range(len(shape))]
            codes = self.node("Add", [codes, self.constant(rows.reshape(where))])
        self.node("Gather", [self.constant(form.book.reshape(-1)), codes], name)

    def _codes(self, codes: Array, bits: int, first: int = 0) -> str:
        """Make codes (n,) int32, counted from ``first``, of the sum of their planes."""
        parts, low = [], 0
        for width in (width for width in math.PLANES if bits & width):
            packed = self._bytes(math.plane(codes, low, width))
            looked = self.node("Gather", [self._lookup(low, width, 0 if low else first), packed])
            parts.append(self._cut(looked, codes.size, width))
            low += width
        whole = parts[0]
        for part in parts[1:]:
            whole = self.node("Add", [whole, part])
        return whole

    def _spread(self, values: str, mask: Array, kind: np.dtype[np.generic]) -> str:
        """Make a row (n,) of values where a mask has ones, and of zeros elsewhere.

        Ones are found by sorting: counted from the end, the greatest place is the first. A prefix sum would be
        quicker, but of CumSum OpenVINO folds that of float32 alone, which is off where it computes in float16.
        """
        size, ones = (self.constant(np.array([count], np.int64)) for count in (mask.size, np.count_nonzero(mask)))
        falling = self.node("Range", [self._number(value) for value in (mask.size, 0, -1)])
        ranks = self.node("Mul", [self._codes(mask.astype(np.uint8), 1), falling])
        places = self.node("TopK", [ranks, ones], unread=1)
        zeros = self.node("ConstantOfShape", [size], value=numpy_helper.from_array(np.zeros(1, kind)))
        return self.node("ScatterElements", [zeros, places, values])

    def _bytes(self, packed: Array) -> str:
        return self._cast(self.constant(packed), TensorProto.INT32)

    def _cast(self, name: str, kind: int) -> str:
        return self.node("Cast", [name], to=kind)

    def _lookup(self, low: int, width: int, first: int) -> str:
        """Make the table of codes by byte, (256, 8 / width) int32, which all tensors share: digits of the byte."""
        every = self._shaped(self.node("Range", [self._number(value) for value in (0, 256, 1)]), (256, 1))
        places = self.constant(1 << (width * np.arange(8 // width, dtype=np.int32)))
        codes = self.node("Mod", [self.node("Div", [every, places]), self._number(1 << width)])
        if low:
            codes = self.node("Mul", [codes, self._number(1 << low)])
        return self.node("Add", [codes, self._number(first)]) if first else codes

    def _number(self, value: int) -> str:
        return self.constant(np.array(value, np.int32))

    def _cut(self, looked: str, size: int, width: int) -> str:
        """Make a row of (bytes, codes a byte), without what only fills the last byte."""
        flat = self.node("Reshape", [looked, self.constant(np.array([-1], np.int64))])
        if size * width % 8 == 0:
            return flat
        ends = [self.constant(np.array([at], np.int64)) for at in (0, size)]
        return self.node("Slice", [flat, *ends])

    def _shaped(self, flat: str, shape: tuple[int, ...], name: str | None = None) -> str:
        return self.node("Reshape", [flat, self.constant(np.array(shape, np.int64))], name)

    def node(
        self, kind: str, inputs: Sequence[str], output: str | None = None, *, unread: int = 0, **attributes: object
    ) -> str:
        """Add a node and return its last output, those before it unread; equal nodes stand there once."""
        node = helper.make_node(kind, list(inputs), [], **attributes)
        key = ("node", node.SerializeToString())
        if output is None and key in self._made:
            return self._made[key]
        node.output.extend([*(self._name() for _ in range(unread)), output or self._name()])
        self.nodes.append(node)
        return self._made.setdefault(key, node.output[-1])

    def constant(self, array: Array) -> str:
        """Add a constant and return its name; small ones stand there once."""
        key = ("constant", array.dtype.str, array.shape, array.tobytes())
        small = array.nbytes <= 2048
        if small and key in self._made:
            return self._made[key]
        name = self._name()
        self.tensors[name] = numpy_helper.from_array(np.ascontiguousarray(array).reshape(array.shape), name)
        if small:
            self._made[key] = name
        return name

    def _name(self) -> str:
        while True:
            name = f"_{np.base_repr(self._count, 36)}"
            self._count += 1
            if name not in self._taken:
                return name

    def finish(self, kept: Sequence[TensorProto]) -> ModelProto:
        """Return the graph with the packed tensors in front."""
        graph = self.proto.graph
        tensors = [TensorProto.FromString(tensor.SerializeToString()) for tensor in kept]
        nodes = [NodeProto.FromString(node.SerializeToString()) for node in graph.node]
        del graph.initializer[:]
        graph.initializer.extend([*tensors, *self.tensors.values()])
        del graph.node[:]
        graph.node.extend([*self.nodes, *nodes])
        made = {name for node in self.nodes for name in node.output}
        shapes = [ValueInfoProto.FromString(value.SerializeToString()) for value in graph.value_info]
        del graph.value_info[:]
        graph.value_info.extend(value for value in shapes if value.name not in made)
        return self.proto

    def unpacking(self, before: ModelProto, names: Sequence[str]) -> ModelProto:
        """Return a model that does nothing but make the tensors of these names."""
        known = {tensor.name: tensor for tensor in before.graph.initializer}
        outputs = [
            helper.make_tensor_value_info(name, known[name].data_type, list(known[name].dims)) for name in names
        ]
        read = {name for node in self.nodes for name in node.input} - self.tensors.keys()
        stored = [tensor for name, tensor in known.items() if name in read and name not in names]
        graph = helper.make_graph(self.nodes, "unpack", [], outputs, [*self.tensors.values(), *stored])
        return helper.make_model(graph, opset_imports=before.opset_import, ir_version=before.ir_version)


def _names(graph: onnx.GraphProto) -> list[str]:
    return [
        *(name for node in graph.node for name in [*node.input, *node.output]),
        *(value.name for value in [*graph.input, *graph.output]),
        *(tensor.name for tensor in graph.initializer),
    ]


def _check(before: ModelProto, packed: ModelProto, writer: _Writer, names: list[str]) -> None:
    """Unpack every tensor by ONNX Runtime and compare it bit for bit; let the checker look at the graph.

    Raises:
        PassError: One differs, or the graph is not sound.
    """
    known = {tensor.name: tensor for tensor in before.graph.initializer}
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    try:
        onnx.checker.check_model(packed)
        session = onnxruntime.InferenceSession(
            writer.unpacking(before, names).SerializeToString(), options, providers=["CPUExecutionProvider"]
        )
        for name in names:
            (have,) = session.run([name], {})
            if not np.array_equal(have, numpy_helper.to_array(known[name]), equal_nan=have.dtype.kind == "f"):
                raise PassError(f"{name} does not come out of its packed form as it was; exclude it")
    except PassError:
        raise
    except Exception as error:  # onnxruntime and the checker raise kinds of their own
        raise PassError(f"the packed graph is not sound: {type(error).__name__}: {in_one_line(error)}") from error
