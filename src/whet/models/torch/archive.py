"""The archives that ``torch.export.save`` writes, looked through before torch opens them.

Loading such a file unpickles, imports modules, evaluates expressions and generates code from names that stand in it
(``torch.export.load`` warns of it). So a new archive is written in memory out of what was recognised: plain arrays,
and a graph whose operators, names and expressions have the form that torch gives them. torch never sees the file.
"""

from __future__ import annotations

import io
import json
import math
import pickle
import re
import zipfile
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path, PurePosixPath
from typing import Any

import torch

from whet.errors import ModelError, UnsafePickle, in_one_line

_KNOWN = re.compile(
    r"(archive_format|archive_version|byteorder|\.data/\w+|models/model\.json|data/sample_inputs/model\.pt"
    r"|data/(weights|constants)/(model_\w+_config\.json|(weight|tensor)_\d+)|extra/.*)"
)
_MODEL, _SAMPLE = "models/model.json", "data/sample_inputs/model.pt"
_CONFIGS = {
    "weights": "data/weights/model_weights_config.json",
    "constants": "data/constants/model_constants_config.json",
}
_MOST_DENSE = 20  # times its compressed size: torch does not compress at all
_NAMESPACES = ("aten", "prims", "higher_order", "quantized", "quantized_decomposed", "torchvision")
_OPERATOR = re.compile(
    rf"torch\.ops\.({'|'.join(_NAMESPACES)})(\.(?!__\w*__$)\w+)?\.(?!__)\w+|_operator\.\w+|math\.\w+|torch\.sym_\w+"
    r"|torch\._sym_\w+"
)
# What may stand in an expression of sizes: symbols, truth, and the functions of torch.utils._sympy and SymPy.
_WORD = re.compile(
    r"(s|u|z|f|zf|zuf|unbacked)\d+|True|False|oo|int_oo|FloorDiv|ModularIndexing|Where|PythonMod|Mod|CleanDiv|CeilDiv"
    r"|(Ceil|Floor|Trunc|Round)ToInt|LShift|RShift|PowByNatural|FloatPow|FloatTrueDiv|IntTrueDiv|TruncToFloat"
    r"|RoundDecimal|ToFloat|Identity|Max|Min|Abs|Eq|Ne|Lt|Le|Gt|Ge|And|Or|Not|Add|Mul|Pow|Integer|Rational|floor"
    r"|ceiling|sqrt|Equality|Unequality|LessThan|GreaterThan|StrictLessThan|StrictGreaterThan"
)
# As SymPy writes a symbol of a size: Symbol('s77', positive=True, integer=True).
_QUOTED = re.compile(r"Symbol\('([A-Za-z]+\d+)'((?:, [a-z]+=(?:True|False))*)\)")
_NAME = re.compile(r"[A-Za-z_][\w.]*")
_SHOWN = 3


def clean(path: Path) -> bytes:
    """Return an archive of what was recognised in a file, for ``torch.export.load``.

    Raises:
        UnsafePickle: It holds what only unpickling brings back, or anything else that would run as code.
        ModelError: It is no such archive, truncated, of an older form, or unpacks to more than it should.
    """
    records = _records(path)
    try:
        return _cleaned(path, records)
    except (AttributeError, IndexError, KeyError, TypeError, ValueError, RecursionError, OverflowError) as error:
        raise ModelError(
            f"{path} is damaged: its records are not of the form that torch.export.save gives them "
            f"({type(error).__name__}: {in_one_line(error)}); save it again"
        ) from error


def _cleaned(path: Path, records: dict[str, bytes]) -> bytes:
    """Check the records of a file, and write those that are recognised into a new archive."""
    for directory, config in _CONFIGS.items():
        _check_payloads(path, records, directory, _json(path, records, config))
    _check_sample(path, records.get(_SAMPLE, b""))
    graph = _json(path, records, _MODEL)
    _check_graph(path, graph)
    graph["guards_code"] = []  # Python that torch would run; the guards of sizes are made anew from the graph
    records[_MODEL] = json.dumps(graph).encode()
    return _written(records)


def blanked(content: bytes) -> bytes:
    """Return a clean archive without the numbers of its weights, which torch then takes for zeros."""
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        records = {_below(name): archive.read(name) for name in archive.namelist()}
    for directory, config in _CONFIGS.items():
        metas: dict[str, list[Any]] = {}
        for item in json.loads(records[config])["config"].values():
            metas.setdefault(item["path_name"], []).append(item["tensor_meta"])
        for name, tensors in metas.items():
            if all(_whole(tensor) and tensor["sizes"] == tensors[0]["sizes"] for tensor in tensors):
                records[f"data/{directory}/{name}"] = b""
    return _written(records)


def _records(path: Path) -> dict[str, bytes]:
    """Read every entry that is known, below the archive's one folder."""
    try:
        with zipfile.ZipFile(path) as archive:
            _check_entries(path, archive.infolist())
            found = {_below(item.filename): archive.read(item) for item in archive.infolist()}
    except (zipfile.BadZipFile, EOFError, OSError, NotImplementedError, RuntimeError, zlib.error) as error:
        raise ModelError(
            f"{path} is not a readable archive of torch.export ({in_one_line(error)}); it may be truncated"
        ) from error
    for name in (_MODEL, *_CONFIGS.values()):
        if name not in found:
            raise ModelError(
                f"{path} is not an archive as torch.export.save writes it: it has no {name}; "
                f"load it in the torch that wrote it, and save it again with torch.export.save"
            )
    return {name: content for name, content in found.items() if not name.startswith("extra/")}


def _check_entries(path: Path, items: list[zipfile.ZipInfo]) -> None:
    """Look at names and sizes alone: nothing is unpacked before."""
    if min((item.header_offset for item in items), default=1) != 0:
        raise zipfile.BadZipFile("it does not begin with its first entry")  # cut off: the end is an inner file's
    roots = {PurePosixPath(item.filename).parts[:1] for item in items}
    seen: set[str] = set()
    for item in items:
        parts = PurePosixPath(item.filename.replace("\\", "/")).parts
        if ".." in parts or item.filename.startswith(("/", "\\")) or ":" in item.filename:
            raise ModelError(
                f"{path} holds {item.filename!r}, which leads out of the archive; do not use this file"
            )
        if item.filename in seen:
            raise ModelError(f"{path} holds {item.filename!r} twice; do not use this file")
        seen.add(item.filename)
        if item.file_size > _MOST_DENSE * max(item.compress_size, 1024):
            raise ModelError(
                f"{path} holds {item.filename!r}, which unpacks from {item.compress_size:,} bytes to "
                f"{item.file_size:,}; torch.export.save compresses nothing: do not use this file"
            )
    for item in items:
        _check_kind(path, item.filename, alone=len(roots) == 1)


def _check_kind(path: Path, name: str, *, alone: bool) -> None:
    """Refuse an entry that is not of the present form."""
    below = _below(name)
    if alone and _KNOWN.fullmatch(below):
        return
    if below.endswith((".pt", ".pkl")) or "custom_obj" in below or "opaque_obj" in below:
        raise UnsafePickle(
            f"{path} holds {name!r}, which would be unpickled: that runs code from the file; "
            f"export the model without custom objects, in a recent torch, with torch.export.save"
        )
    if "aotinductor" in below:
        raise UnsafePickle(
            f"{path} holds compiled machine code ({name!r}); give the program as torch.export.save writes it"
        )
    raise ModelError(
        f"{path} is not an archive as torch.export.save writes it now: it holds {name!r}; "
        f"load it in the torch that wrote it, and save it again with torch.export.save"
    )


def _check_payloads(path: Path, records: Mapping[str, bytes], directory: str, config: Any) -> None:
    """Have every weight be a plain array that is there, and nothing an object."""
    for name, item in config.get("config", {}).items():
        record = str(item.get("path_name"))
        if item.get("use_pickle") or record.startswith(("custom_obj", "opaque_obj")):
            raise UnsafePickle(
                f"{path} holds {name!r} as a pickled object, which would run code from the file; "
                f"export the model with plain tensors for weights"
            )
        content = records.get(f"data/{directory}/{record}")
        tensor = item.get("tensor_meta")
        if content is None or tensor is None:
            raise ModelError(f"{path} lacks the numbers of {name!r}; it was not saved whole")
        if not content and _count(tensor) > sum(map(len, records.values())) + (1 << 24):
            raise ModelError(f"{path} holds {name!r} as {_count(tensor):,} zeros; do not use this file")


def _check_sample(path: Path, content: bytes) -> None:
    """Have the example inputs be readable without unpickling."""
    try:
        if content:
            torch.load(io.BytesIO(content), weights_only=True)
    except pickle.UnpicklingError as error:
        raise UnsafePickle(
            f"the example inputs in {path} would be unpickled, which runs code from the file; "
            f"export the model with tensors for inputs"
        ) from error
    except Exception as error:
        raise ModelError(f"the example inputs in {path} cannot be read ({in_one_line(error)})") from error


def _check_graph(path: Path, graph: Any) -> None:
    """Have names be names, operators operators, and expressions of sizes nothing but arithmetic."""
    checks: dict[str, Callable[[Any], bool]] = {
        "target": lambda value: value is None or bool(_OPERATOR.fullmatch(str(value))),
        "as_operator": lambda value: bool(_OPERATOR.fullmatch(str(value))),
        "name": lambda value: value is None or value == "" or bool(_NAME.fullmatch(str(value))),
        "fqn": lambda value: value == "" or bool(re.fullmatch(r"[\w.@]+", str(value))),
        "expr_str": _arithmetic,
        "as_custom_obj": lambda value: False,
        "custom_obj_values": lambda value: not value,
        "forward_arg_names": lambda value: all(str(name).isidentifier() for name in value or ()),
        "in_spec": _plain_tree, "out_spec": _plain_tree, "treespec": _plain_tree,
    }  # fmt: skip
    graph["range_constraints"] = {
        name: bounds for name, bounds in graph.get("range_constraints", {}).items() if _arithmetic(name)
    }
    waiting: list[Any] = [graph]
    while waiting:
        value = waiting.pop()
        if isinstance(value, list):
            waiting.extend(value)
        elif isinstance(value, dict):
            if isinstance(value.get("metadata"), dict):
                value["metadata"] = {
                    key: text for key, text in value["metadata"].items() if key == "nn_module_stack"
                }
            for key, item in value.items():
                if key in checks and not (isinstance(item, dict) and key == "name") and not checks[key](item):
                    raise UnsafePickle(
                        f"{path} holds {str(item)[:80]!r} for {key}, which torch would run or import; "
                        f"do not use this file, or export the model with standard operators"
                    )
                waiting.append(item)


def _arithmetic(text: Any) -> bool:
    """Tell whether an expression of sizes is numbers, symbols and functions that torch knows."""
    bare = _QUOTED.sub(r"\1", str(text))
    if not re.fullmatch(r"[\w\s+\-*/(),.<>=&|~]{1,2000}", bare) or re.search(r"\.\s*[A-Za-z_]", bare):
        return False
    return all(_WORD.fullmatch(word) for word in re.findall(r"[A-Za-z_]\w*", bare))


def _plain_tree(text: Any) -> bool:
    """Tell whether the form of inputs or outputs is built of containers that import nothing."""
    return text is None or not re.search(r"default_factory|__enum__", str(text))


def _json(path: Path, records: Mapping[str, bytes], name: str) -> Any:
    try:
        return json.loads(records[name])
    except (ValueError, RecursionError) as error:
        raise ModelError(f"{name} in {path} is not JSON ({in_one_line(error)}); the file is damaged") from error


def _written(records: Mapping[str, bytes]) -> bytes:
    """Write an archive as torch does."""
    content = io.BytesIO()
    writer = torch._C.PyTorchFileWriter(content)
    writer.set_min_version(6)
    for name, record in records.items():
        if not name.startswith(".data/") and name != "byteorder":  # the writer's own
            writer.write_record(name, record, len(record))
    writer.write_end_of_file()
    return content.getvalue()


def _whole(tensor: Any) -> bool:
    """Tell whether a tensor fills its record from the start."""
    return bool(tensor["storage_offset"].get("as_int") == 0)


def _count(tensor: Any) -> int:
    return math.prod(int(size.get("as_int", 1)) for size in tensor["sizes"])


def _below(name: str) -> str:
    """Return a name below the archive's one folder."""
    return name.partition("/")[2] if "/" in name else name
