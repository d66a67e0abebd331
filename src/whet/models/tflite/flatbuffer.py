"""What lies in a TFLite file: graphs of operators and tensors, read where they lie.

The schema is that of LiteRT (``schema.fbs``). Nothing here looks at bytes that LiteRT has not verified.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from ai_edge_litert import schema_py_generated as schema
from numpy.typing import NDArray

Content = bytes | bytearray

_TYPES = {number: name for name, number in vars(schema.TensorType).items() if isinstance(number, int)}
_KINDS = {number: name for name, number in vars(schema.BuiltinOperator).items() if isinstance(number, int)}


@dataclass(frozen=True, slots=True)
class Quantization:
    """How integers stand for numbers: ``scales * (integers - zeros)``.

    Attributes:
        scales: One, or one an index of ``axis``; of blocks (..., blocks) where ``block`` is not 0.
        zeros: One, or as many as scales.
        axis: Of the tensor.
        block: Numbers along the last axis that share a scale; 0 where blocks share none.
    """

    scales: NDArray[Any]
    zeros: NDArray[Any]
    axis: int
    block: int = 0


@dataclass(frozen=True, slots=True)
class Tensor:
    """A tensor of a graph.

    Attributes:
        name: Its own; numbered where it has none, or another has it too.
        place: Its number in its graph.
        type: As the schema names it: ``FLOAT32``, ``INT4``.
        shape: Its lengths, a free one as 1; ``free`` are the axes whose length is free.
        quantization: None of a tensor that is what it says.
        data: The bytes of a constant, a view of the file (writable where the file is a bytearray); else None.
        sparsity: The schema's own account of a sparse constant, or None.
        variable: Whether it keeps its values from one call to the next.
    """

    name: str
    place: int
    type: str
    shape: tuple[int, ...]
    free: tuple[int, ...]
    quantization: Quantization | None
    data: NDArray[np.uint8] | None
    sparsity: Any
    variable: bool


@dataclass(frozen=True, slots=True)
class Operator:
    """An operator: its type, and the places of the tensors it reads (-1: left out) and yields.

    Attributes:
        kind: As the schema names it: ``CONV_2D``; of a custom operator, its own name.
        inputs, outputs: Places in its graph.
        custom: Whether it is none of LiteRT's own.
    """

    kind: str
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    custom: bool


@dataclass(frozen=True, slots=True)
class Graph:
    """A graph of a file; the first is the model, others are what its loops and branches run.

    Attributes:
        tensors, operators: In the file's order.
        inputs, outputs: Name and place of each, in order; the names of the file's signature where it has one.
    """

    tensors: tuple[Tensor, ...]
    operators: tuple[Operator, ...]
    inputs: tuple[tuple[str, int], ...]
    outputs: tuple[tuple[str, int], ...]


def parse(content: Content) -> tuple[Graph, ...]:
    """Return the graphs of a file."""
    model = schema.Model.GetRootAsModel(content, 0)
    codes = [_kind(code) for code in _each(model.OperatorCodes, model.OperatorCodesLength())]
    return tuple(_graph(model, at, codes) for at in range(model.SubgraphsLength()))


def custom_operators(content: Content) -> list[str]:
    """Return the names of operators that are none of LiteRT's own; those of TensorFlow begin with ``Flex``."""
    model = schema.Model.GetRootAsModel(content, 0)
    codes = [_kind(code) for code in _each(model.OperatorCodes, model.OperatorCodesLength())]
    return sorted({kind for kind, custom in codes if custom})


def _each(get: Callable[[int], Any], count: int) -> Iterator[Any]:
    return (get(at) for at in range(count))


def _kind(code: Any) -> tuple[str, bool]:
    """Return an operator's name, and whether it is a custom one; old files have the number in an old field."""
    number = max(code.BuiltinCode(), code.DeprecatedBuiltinCode())
    if number == schema.BuiltinOperator.CUSTOM:
        return (code.CustomCode() or b"unnamed").decode(errors="replace"), True
    return _KINDS.get(number, f"operator {number}"), False


def _graph(model: Any, at: int, codes: list[tuple[str, bool]]) -> Graph:
    raw = model.Subgraphs(at)
    named = _unique([_text(tensor.Name()) for tensor in _each(raw.Tensors, raw.TensorsLength())], at)
    tensors = tuple(_tensor(model, raw, place, name) for place, name in enumerate(named))
    operators = tuple(
        Operator(
            codes[one.OpcodeIndex()][0],
            tuple(map(int, _numbers(one.InputsAsNumpy()))),
            tuple(map(int, _numbers(one.OutputsAsNumpy()))),
            codes[one.OpcodeIndex()][1],
        )
        for one in _each(raw.Operators, raw.OperatorsLength())
    )
    signature = next(
        (one for one in _each(model.SignatureDefs, model.SignatureDefsLength()) if one.SubgraphIndex() == at), None
    )
    inputs, outputs = [list(map(int, _numbers(places))) for places in (raw.InputsAsNumpy(), raw.OutputsAsNumpy())]
    ours: dict[int, str] = {}
    theirs: dict[int, str] = {}
    if signature is not None:
        ours = {one.TensorIndex(): _text(one.Name()) for one in _each(signature.Inputs, signature.InputsLength())}
        theirs = {
            one.TensorIndex(): _text(one.Name()) for one in _each(signature.Outputs, signature.OutputsLength())
        }
    return Graph(tensors, operators, _named(inputs, ours, named), _named(outputs, theirs, named))


def _named(places: list[int], signature: dict[int, str], tensors: list[str]) -> tuple[tuple[str, int], ...]:
    names = _unique([signature.get(place) or tensors[place] for place in places], 0)
    return tuple(zip(names, places, strict=True))


def _unique(names: list[str], graph: int) -> list[str]:
    """Number names that are empty or not the only one; those of a later graph say which it is."""
    counts = Counter(names)
    prefix = f"graph{graph}/" if graph else ""
    return [
        prefix + (name if name and counts[name] == 1 else f"{name or 'tensor'}_{at}")
        for at, name in enumerate(names)
    ]


def _data(model: Any, buffer: Any) -> NDArray[np.uint8] | None:
    """Return the bytes of a buffer; large ones may lie after the flatbuffer, at an offset of the file."""
    if buffer is None:
        return None
    if buffer.Offset() > 1:
        return np.frombuffer(model._tab.Bytes, np.uint8, buffer.Size(), buffer.Offset())
    return None if buffer.DataIsNone() or not buffer.DataLength() else buffer.DataAsNumpy()


def _tensor(model: Any, graph: Any, place: int, name: str) -> Tensor:
    raw = graph.Tensors(place)
    shape, declared = _numbers(raw.ShapeAsNumpy()), _numbers(raw.ShapeSignatureAsNumpy())
    return Tensor(
        name=name,
        place=place,
        type=_TYPES.get(raw.Type(), f"type {raw.Type()}"),
        shape=tuple(int(size) if size > 0 else 1 for size in shape),
        free=tuple(axis for axis, size in enumerate(declared if len(declared) else shape) if size < 0),
        quantization=_quantization(raw.Quantization(), model, graph),
        data=_data(model, model.Buffers(raw.Buffer())),
        sparsity=raw.Sparsity(),
        variable=bool(raw.IsVariable()),
    )


def _quantization(raw: Any, model: Any, graph: Any) -> Quantization | None:
    if raw is None:
        return None
    if raw.DetailsType() == schema.QuantizationDetails.BlockwiseQuantization:
        details = schema.BlockwiseQuantization()
        details.Init(raw.Details().Bytes, raw.Details().Pos)
        scales = _tensor(model, graph, details.Scales(), "scales")
        assert scales.data is not None
        numbers = scales.data.view(np.float16 if scales.type == "FLOAT16" else np.float32).astype(np.float32)
        return Quantization(numbers.reshape(scales.shape), np.zeros(1, np.int64), 0, details.BlockSize())
    if not raw.ScaleLength():
        return None
    zeros = _numbers(raw.ZeroPointAsNumpy())
    return Quantization(
        np.asarray(raw.ScaleAsNumpy()), zeros if len(zeros) else np.zeros(1, np.int64), raw.QuantizedDimension()
    )


def _numbers(found: Any) -> NDArray[Any]:
    """Return a vector of the schema, which is 0 where it is left out."""
    return np.zeros(0, np.int64) if isinstance(found, int) else np.asarray(found)


def _text(name: bytes | None) -> str:
    return (name or b"").decode(errors="replace")
