"""What ONNX's checker and ONNX Runtime say of a model they refuse, as one sentence that names the node."""

from __future__ import annotations

import re

from onnx import ModelProto

from whet.errors import in_one_line

_MAX_NAME = 80  # characters of a node's name in a message
_MAX_READ = 20_000  # characters of a library's message; a hostile file can make it megabytes long
# What stands before the sentence: the kind of error, the file, a line of source code.
_PREFIXES = re.compile(
    r"^(?:\[ONNXRuntimeError\] : \d+ : \w+ : |Load model from .*? failed: ?|Fatal error: |Type Error: "
    r"|Exception during (?:loading|initialization): |This is an invalid model\. |\w+\.(?:cc|h):\d+ \w+ )"
)
_SOURCE_CODE = re.compile(r"/\S+\.(?:cc|h|cpp|hpp):\d+ ")
_OPERATOR_UNKNOWN = re.compile(r"^No Op registered for (\S+) with domain_version of (-?\d+)")
# Each finds a node's name, its operator type and what is wrong with it.
_OF_A_NODE = (
    re.compile(r'In Node, \("(?P<name>[^"]*)", (?P<type>[^,]*), "[^"]*", -?\d+\) : .*?, ?Error (?P<what>.*)'),
    re.compile(r"Node ?\((?P<name>.*?)\) Op \((?P<type>\w+)\) (?:\[\w+\] )?(?P<what>.*)"),
    re.compile(r"running (?P<type>\w+) node\. Name:'(?P<name>.*?)' Status Message: (?P<what>.*)"),
    re.compile(
        r"(?P<what>input '.*?' of node): name: (?P<name>.*?) OpType: (?P<type>\w+) is not output of any previous"
    ),
    re.compile(r"(?P<what>.*?) ==> Context: Bad node spec for node\. Name: (?P<name>.*?) OpType: (?P<type>\w+)"),
    re.compile(
        r"Could not find an (?P<what>implementation) for (?P<type>\w+)\(\d+\) node with name '(?P<name>.*?)'"
    ),
    re.compile(r"(?P<what>.*) of (?:input|output) (?P<type>)arg \(.*?\) of node \((?P<name>.*?)\)(?P<rest>.*)"),
)
_TOO_NEW = re.compile(
    r"Opset (\d+) is under development .* for domain (\S+) is till opset (\d+)"
    r"|ir_version (\d+) is higher than .*\((\d+)\)"
)
_UNREGISTERED = re.compile(r"^(?P<domain>\S*?):(?P<type>\w+)\(-?\d+\) is not a registered function/op")


def sentence(error: BaseException, proto: ModelProto | None = None) -> str:
    """Return what a library says of a model in one sentence: the node, its operator type, and what is wrong.

    Args:
        error: Of ``onnx.checker`` or of ONNX Runtime.
        proto: The model, where it is at hand: some messages name an operator type but not the node.
    """
    text = _without_source_code(in_one_line(error, _MAX_READ))
    while (shorter := _PREFIXES.sub("", text)) != text:
        text = shorter
    if found := _UNREGISTERED.match(text):
        domain = found["domain"] or "ai.onnx"
        node = _node(_first_of_type(proto, found["type"]), found["type"])
        return _cut(f"{node}: ONNX Runtime knows no operator {found['type']} of the domain {domain}")
    if found := _TOO_NEW.search(text):
        what = f"opset {found[1]} of {found[2]}" if found[1] else f"version {found[4]} of the file format"
        return (
            f"it is written in {what}, and {found[3] or found[5]} is the newest known here; export it in that one"
        )
    for pattern in _OF_A_NODE:
        if found := pattern.search(text):
            what = _in_our_words(found["what"], found.groupdict().get("rest") or "")
            return _cut(f"{_node(found['name'], found['type'])}: {_without_source_code(what)}")
    return _cut(text)


def _in_our_words(what: str, rest: str) -> str:
    """Return what is wrong with a node, where the library's words need those around them to be understood."""
    if unknown := _OPERATOR_UNKNOWN.match(what):
        return f"there is no operator {unknown[1]} in opset {unknown[2]}"
    if what == "implementation":
        return "ONNX Runtime has no implementation of this operator for these types"
    if what.startswith("input '"):
        return f"its {what.removesuffix(' of node')} is the output of no node before it"
    return what + rest


def _node(name: str, kind: str) -> str:
    if not name:
        return f"a node of the type {kind}"
    short = f"{name[: _MAX_NAME - 3]}..." if len(name) > _MAX_NAME else name
    return f"node {short!r} ({kind})" if kind else f"node {short!r}"


def _first_of_type(proto: ModelProto | None, kind: str) -> str:
    """Return the name of the first node of an operator type."""
    if proto is None:
        return ""
    nodes = [*proto.graph.node, *(node for function in proto.functions for node in function.node)]
    return next((in_one_line(ValueError(node.name)) for node in nodes if node.op_type == kind and node.name), "")


def _without_source_code(text: str) -> str:
    """Leave out the line of C++ and the signature of the function that a message begins with."""
    found = _SOURCE_CODE.search(text)
    if found is None:
        return text
    opened, depth = text.find("(", found.end()), 0
    for at in range(opened, len(text)) if opened >= 0 else ():
        depth += {"(": 1, ")": -1}.get(text[at], 0)
        if depth == 0:
            return text[: found.start()] + text[at + 1 :].removeprefix(" const").strip()
    return text[: found.start()] + text[found.end() :]


def _cut(text: str) -> str:
    return in_one_line(ValueError(text.rstrip(". ")), 300)
