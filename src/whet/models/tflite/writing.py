"""TFLite files written anew from the schema's objects, what is equal in them once."""

from __future__ import annotations

import hashlib
import re
from typing import TYPE_CHECKING, Any

import flatbuffers
import numpy as np
from ai_edge_litert import schema_py_generated as schema

if TYPE_CHECKING:
    from whet.types import Array

_KIND = b"TFL3"
_RUNTIME = b"min_runtime_version"  # a metadata entry: text, filled up with zeros to 16 bytes
_ALIGNED = 16  # the schema's force_align of constants, which its Python form leaves out


def unpacked(content: bytes | bytearray) -> Any:
    """Return a file as the schema's objects (``ModelT``); constants are views of its bytes."""
    return schema.ModelT.InitFromObj(schema.Model.GetRootAsModel(content, 0))


def packed(model: Any) -> bytes:
    """Return the file of a model as the schema's objects."""
    builder = Sharing(1024)
    builder.Finish(model.Pack(builder), _KIND)
    return bytes(builder.Output())


def outside(model: Any) -> str:
    """Return why a file cannot be written anew: it keeps data outside of its flatbuffer. Empty if it can."""
    apart = any(buffer.offset > 1 or buffer.size > 1 for buffer in model.buffers)
    apart |= any(one.largeCustomOptionsSize > 1 for graph in model.subgraphs for one in graph.operators or [])
    if apart or model.externalBuffers or model.externalBufferGroups:
        return "it keeps data outside of its flatbuffer (a file of over 2 GB, or weights in files of their own)"
    return ""


def hold(model: Any, tensor: Any, data: Array) -> None:
    """Give a tensor other bytes (uint8), in a buffer of its own where others share what it had."""
    if sum(other.buffer == tensor.buffer for graph in model.subgraphs for other in graph.tensors) > 1:
        tensor.buffer = len(model.buffers)
        model.buffers.append(schema.BufferT())
    model.buffers[tensor.buffer].data = data


def need_runtime(model: Any, version: str) -> None:
    """Raise the oldest runtime that a file says it runs on to this version; where it says none, it goes on so."""
    for one in model.metadata or []:
        data = model.buffers[one.buffer].data
        if one.name != _RUNTIME or data is None:
            continue
        told = np.asarray(data, np.uint8).tobytes().rstrip(b"\0").decode(errors="replace")
        if re.fullmatch(r"\d+(\.\d+)*", told, re.ASCII) and _numbers(told) < _numbers(version):
            model.buffers[one.buffer].data = np.frombuffer(version.encode().ljust(len(data), b"\0"), np.uint8)


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(map(int, version.split(".")))


def drop_unused(model: Any) -> int:
    """Drop tensors that nothing reads or yields, buffers without a tensor, and kinds of operators without one.

    Tensors without data all go by buffer 0, which is empty by the format. Returns how many were dropped.
    """
    count = sum(_drop_tensors(model, at) for at in range(len(model.subgraphs)))
    tensors = [tensor for graph in model.subgraphs for tensor in graph.tensors or []]
    for tensor in tensors:
        data = model.buffers[tensor.buffer].data
        if data is None or not len(data):
            tensor.buffer = 0
    metadata = model.metadata or []
    listed = [int(at) for at in (model.metadataBuffer if model.metadataBuffer is not None else [])]
    used = sorted({0, *listed, *(tensor.buffer for tensor in tensors), *(one.buffer for one in metadata)})
    place = {old: new for new, old in enumerate(used)}
    for one in (*tensors, *metadata):
        one.buffer = place[one.buffer]
    if listed:
        model.metadataBuffer = [place[at] for at in listed]
    count += len(model.buffers) - len(used)
    model.buffers = [model.buffers[at] for at in used]
    return count + _drop_codes(model)


def _drop_tensors(model: Any, at: int) -> int:
    """Drop the tensors of a graph that nothing names, and number the others anew."""
    graph = model.subgraphs[at]
    maps = [
        place
        for signature in model.signatureDefs or []
        if signature.subgraphIndex == at
        for place in (*(signature.inputs or []), *(signature.outputs or []))
    ]
    details = [tensor.quantization.details for tensor in graph.tensors if tensor.quantization is not None]
    blocks = [one for one in details if hasattr(one, "blockSize")]
    lists: list[tuple[Any, str]] = [(graph, "inputs"), (graph, "outputs")]
    lists += [(one, name) for one in graph.operators or [] for name in ("inputs", "outputs", "intermediates")]
    lists = [(one, name) for one, name in lists if getattr(one, name) is not None]
    used = {int(place) for one, name in lists for place in getattr(one, name)} | {one.tensorIndex for one in maps}
    used |= {place for one in blocks for place in (one.scales, one.zeroPoints)}
    kept = sorted(place for place in used if place >= 0)
    number = {-1: -1, **{old: new for new, old in enumerate(kept)}}
    for one, name in lists:
        setattr(one, name, np.array([number[int(place)] for place in getattr(one, name)], np.int32))
    for one in maps:
        one.tensorIndex = number[one.tensorIndex]
    for one in blocks:
        one.scales, one.zeroPoints = number[one.scales], number[one.zeroPoints]
    dropped = len(graph.tensors) - len(kept)
    graph.tensors = [graph.tensors[place] for place in kept]
    return dropped


def _drop_codes(model: Any) -> int:
    """Drop kinds of operators that no operator has, and those that stand there twice."""
    first: dict[tuple[Any, ...], int] = {}
    codes: list[Any] = []
    for operator in (one for graph in model.subgraphs for one in graph.operators or []):
        code = model.operatorCodes[operator.opcodeIndex]
        key = (code.deprecatedBuiltinCode, code.builtinCode, code.customCode, code.version)
        if key not in first:
            first[key] = len(codes)
            codes.append(code)
        operator.opcodeIndex = first[key]
    dropped = len(model.operatorCodes or []) - len(codes)
    model.operatorCodes = codes
    return dropped


def share_equal(model: Any) -> int:
    """Have tensors whose constants are the same bytes go by one buffer; return how many buffers it saved."""
    first: dict[bytes, int] = {}
    count = 0
    for tensor in (tensor for graph in model.subgraphs for tensor in graph.tensors or []):
        data = model.buffers[tensor.buffer].data
        if tensor.buffer and data is not None:
            shared = first.setdefault(np.asarray(data).tobytes(), tensor.buffer)
            count += shared != tensor.buffer
            tensor.buffer = shared
    return count


class Sharing(flatbuffers.Builder):  # type: ignore[misc]  # it has no types
    """Writes vectors, texts and tables that equal earlier ones as offsets to these, which the format allows.

    A per-channel zero point, a scale of a weight and its bias, or the options of an operator: most are the same
    many times. Bytes of constants are aligned as LiteRT's own writer aligns them.
    """

    vectorNumElems: Any  # noqa: N815 - the library's name

    def __init__(self, size: int) -> None:
        super().__init__(size)
        self._known: dict[Any, int] = {}
        self._fields: list[tuple[Any, ...]] = []  # of the table, or offsets of the vector, that is being written
        self._start = 0
        self._element: tuple[int, int] = (1, 1)  # its bytes, and how a vector of it is aligned

    def StartObject(self, numfields: int) -> None:  # noqa: N802 - the library's name
        """Begin a table."""
        super().StartObject(numfields)
        self._fields, self._start = [], self.Offset()

    def PrependSlot(self, flags: Any, o: int, x: Any, d: Any) -> None:  # noqa: N802
        """Write a number of a table."""
        super().PrependSlot(flags, o, x, d)
        if x != d:
            self._fields.append((o, flags, x))

    def PrependUOffsetTRelative(self, off: int) -> None:  # noqa: N802
        """Write an offset, of a table or a vector."""
        super().PrependUOffsetTRelative(off)
        self._fields.append(("to", off))

    def PrependUOffsetTRelativeSlot(self, o: int, x: int, d: int) -> None:  # noqa: N802
        """Write an offset of a table."""
        super().PrependUOffsetTRelativeSlot(o, x, d)
        if x != d:
            self._fields.append((o, "field"))

    def EndObject(self) -> int:  # noqa: N802
        """End a table, or take it back for an equal one."""
        key = ("table", *self._fields)
        if key not in self._known:
            self._known[key] = super().EndObject()
            return self._known[key]
        self.nested, self.current_vtable = False, None
        return self._again(key)

    def StartVector(self, elemSize: int, numElems: int, alignment: int) -> int:  # noqa: N802, N803
        """Begin a vector; of bytes, which are constants, aligned."""
        self._element = (elemSize, _ALIGNED if elemSize == 1 else alignment)
        self._start, self._fields = self.Offset(), []
        return int(super().StartVector(elemSize, numElems, self._element[1]))

    def EndVector(self, numElems: int | None = None) -> int:  # noqa: N802, N803
        """End a vector, or take it back for an equal one."""
        count = int(self.vectorNumElems)
        plain = memoryview(self.Bytes)[self.head : self.head + self._element[0] * count]
        key = ("vector", *self._element, count, tuple(self._fields) or hashlib.sha256(plain).digest())
        plain.release()  # the bytes may have to grow
        if key not in self._known:
            self._known[key] = super().EndVector(numElems)
            return self._known[key]
        self.nested, self.vectorNumElems = False, None
        return self._again(key)

    def CreateString(self, s: Any, encoding: str = "utf-8", errors: str = "strict") -> int:  # noqa: N802
        """Write a text, once."""
        self._start, self._fields, self._element = self.Offset(), [], (1, 0)
        return int(super().CreateString(s, encoding, errors))

    def _again(self, key: Any) -> int:
        self.head = len(self.Bytes) - self._start
        return self._known[key]
