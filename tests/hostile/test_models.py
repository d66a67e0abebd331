"""Hostile models: one line names the file, and the node where there is one; a model that cannot run is no crash."""

import sys
from pathlib import Path

import odd_files as odd
import odd_graphs as graphs
from driver import Case, table
from onnx import TensorProto, helper

sys.path.append(str(Path(__file__).parent.parent / "files"))  # flat.py

BENCH = ("bench", "{here}/odd.onnx", "--batch-sizes", "1")
TRAINED = ("bench", "{here}/net.py:build", "--input", "float32[1,6]", "--batch-sizes", "1", "--weights")
node, relu, model, value, weight = helper.make_node, graphs.relu, graphs.model, graphs.value, graphs.weight


def onnx(name, made, *says, **more):
    """Return a case of an ONNX file."""
    return Case(f"onnx-{name}", BENCH, says=("odd.onnx", *says), prepare=graphs.save(made), **more)


def text_input(name, made, *says):
    """Return a case of an ONNX file whose input is no tensor of numbers."""
    return Case(f"onnx-{name}", BENCH, says=("'x'", *says), prepare=graphs.save(made))


ODD_NODES = [
    onnx("unknown-operator", lambda: model([node("Relux", ["x"], ["y"], name="first")]), "node 'first' (Relux)"),
    onnx("operator-without-a-name", lambda: model([node("Relux", ["x"], ["y"])]), "a node of the type Relux"),
    onnx(
        "unknown-domain",
        lambda: model([node("Foo", ["x"], ["y"], name="first", domain="my.ops")], domains=["my.ops"]),
        "node 'first' (Foo)", "domain my.ops",
    ),
    onnx("domain-not-imported", lambda: model([node("Foo", ["x"], ["y"], name="f", domain="d")]), "node 'f' (Foo)"),
    onnx("missing-input", lambda: model([node("Add", ["x"], ["y"], name="sum")]), "'sum' (Add)", "input size 1"),
    onnx("reads-nothing", lambda: model([relu("a", "nowhere")]), "node 'a' (Relu)", "'nowhere'"),
    onnx(
        "cycle",
        lambda: model([node("Add", ["x", "v"], ["u"], name="b"), node("Add", ["x", "u"], ["v"], name="c"),
                       relu("d", "v", "y")]),
        "node 'b' (Add)", "input 'v' is the output of no node before it",
    ),
    onnx("inner-graph-reads-nothing", lambda: graphs.branch([relu("in", "nowhere", "z")]), "node 'in' (Relu)"),
    onnx("axis-out-of-range", lambda: model([node("Concat", ["x"], ["y"], name="j", axis=99)]), "'j' (Concat)"),
    onnx("attribute-of-another-type", lambda: model([node("Concat", ["x"], ["y"], name="j", axis="a")]), "'INT'"),
    onnx("unknown-attribute", lambda: model([node("Relu", ["x"], ["y"], name="first", slope=0.1)]), "slope"),
    onnx("element-type-conflict", lambda: model([relu()], [value("x", kind=TensorProto.INT64)]), "node 'first'"),
    onnx("shape-conflict", lambda: graphs.multiply(weight([5, 6], raw=b"\0" * 120)), "node 'product' (MatMul)"),
    onnx("escape-in-a-name", lambda: model([relu("fir\x1b[31mst")]), "control characters"),
    onnx("newline-in-a-name", lambda: model([relu(read="x\n\n")], [value("x\n\n")]), "control characters"),
    onnx("name-that-runs-backwards", lambda: model([relu("\u202efirst")]), "control characters"),
    onnx("name-of-a-megabyte", lambda: model([relu("n" * 10**6)]), "1,000,000 letters"),
    onnx("expands-to-terabytes", lambda: model(
        [node("Expand", ["x", "s"], ["y"], name="grow")], outputs=[value("y", ["a", "b", 6])],
        weights=[helper.make_tensor("s", TensorProto.INT64, [3], [10**6, 10**6, 6])]),
        "cannot be run as it is", "node 'grow' (Expand)"),
]  # fmt: skip

ODD_GRAPHS = [
    onnx("opset-of-the-future", lambda: model([relu()], opset=999), "opset 999", "newest"),
    onnx("opset-zero", lambda: model([relu()], opset=0), "opset 0"),
    onnx("opset-negative", lambda: model([relu()], opset=-5), "opset -5"),
    onnx("format-of-the-future", lambda: model([relu()], ir=999), "version 999", "newest"),
    onnx("format-negative", lambda: model([relu()], ir=-1), "IR version"),
    onnx("no-outputs", lambda: model([relu()], outputs=[]), "no outputs"),
    onnx("no-nodes", lambda: model([], outputs=[value("x")]), "no nodes"),
    onnx("output-of-nothing", lambda: model([relu("a", "x", "t")]), "'y'", "not an output of any node"),
    onnx("output-twice", lambda: model([relu("a"), relu("b")]), "'y'", "multiple times"),
    onnx("input-twice", lambda: model([relu()], [value("x"), value("x")]), "'x'", "multiple times"),
    onnx("axis-of-zero", lambda: model([relu()], [value("x", ["n", 0])]), "axis 1", "length 0"),
    onnx("input-beyond-memory", lambda: model([relu()], [value("x", [1, 2**62])], [value("y", [1])]), "memory"),
    onnx("unknown-type-of-input", lambda: model([relu()], [value("x", kind=999)]), "'x'", "element type 999"),
    onnx("unknown-type-of-output", lambda: model([relu()], None, [value("y", kind=999)]), "'y'", "type 999"),
    onnx("function-calls-itself", lambda: graphs.calling(graphs.function("F", "F")), "'F'", "calls itself"),
    onnx(
        "functions-call-each-other",
        lambda: graphs.calling(graphs.function("F", "G"), graphs.function("G", "F")), "calls itself",
    ),
    onnx("functions-expand", graphs.expanding, "expand to 1,099,511,627,776 nodes"),
    onnx("function-missing", lambda: graphs.calling(graphs.function("F", "Nope")), "Nope", "domain mine"),
    *(text_input(kind, lambda kind=kind: graphs.typed(kind), kind) for kind in ("sequence", "optional", "map")),
    text_input("sparse-input", lambda: graphs.typed("sparse"), "a sparse tensor"),
    text_input("text-input", lambda: graphs.of_type(TensorProto.STRING), "is text"),
    *(
        text_input(name.lower(), lambda name=name: graphs.of_type(getattr(TensorProto, name)), name)
        for name in ("FLOAT8E4M3FN", "INT4", "BFLOAT16", "COMPLEX64")
    ),
    Case("onnx-many-nodes", BENCH, code=0, prepare=graphs.save(lambda: graphs.chain(2000)), seconds=60, slow=True),
]  # fmt: skip

ODD_WEIGHTS = [
    onnx("weight-negative", lambda: graphs.multiply(weight([-6, 6])), "Negative dimension"),
    onnx("weight-too-short", lambda: graphs.multiply(weight([6, 6], raw=bytes(10))), "10 bytes", "144"),
    onnx("weight-too-long", lambda: graphs.multiply(weight([6, 6], raw=bytes(1000))), "1000 bytes", "144"),
    onnx("weight-claims-petabytes", lambda: graphs.multiply(weight([10**15], raw=bytes(10))), "10 bytes"),
    onnx("weight-overflows", lambda: graphs.multiply(weight([2**32, 2**32], raw=b"")), "overflow"),
    onnx("weight-of-unknown-type", lambda: graphs.multiply(weight([6, 6], kind=999)), "'w'", "type 999"),
    onnx("sparse-weight-beyond", graphs.sparse, "out of range"),
    onnx("external-missing", lambda: graphs.external("w.bin"), "'w.bin'", "not there"),
    onnx("external-outside", lambda: graphs.external("../w.bin"), "not below the folder"),
    onnx("external-absolute", lambda: graphs.external("/etc/passwd"), "not below the folder"),
    onnx("external-other-length", lambda: graphs.external("good.npz", length=str(10**15)), "takes 144"),
    onnx("external-truncated", lambda: graphs.external("good.npz", offset="100000000"), "truncated"),
    onnx("external-offset-no-number", lambda: graphs.external("good.npz", offset="ten"), "no number"),
    onnx("external-negative-offset", lambda: graphs.external("good.npz", offset="-8"), "from -8 on"),
    Case(
        "onnx-external-fifo", BENCH, says=("no plain file",),
        prepare=lambda here: (graphs.save(lambda: graphs.external("w"))(here), odd.os.mkfifo(here / "w")),
    ),
    Case(
        "onnx-external-link", BENCH, says=("not below the folder",),
        prepare=lambda here: (graphs.save(lambda: graphs.external("w"))(here), (here / "w").symlink_to("/etc")),
    ),
]  # fmt: skip

PATHS = [
    Case("path-fifo", BENCH, says=("odd.onnx is a FIFO",), prepare=odd.fifo),
    Case("path-socket", BENCH, says=("odd.onnx is a socket",), prepare=odd.unix_socket),
    Case("path-folder", BENCH, says=("is a folder",), prepare=lambda here: (here / "odd.onnx").mkdir()),
    Case("path-device", BENCH, says=("is a device",), prepare=odd.link("/dev/zero")),
    Case("path-circle", BENCH, says=("links that run in a circle",), prepare=odd.link("odd.onnx")),
    Case("path-to-nothing", BENCH, says=("link to a file that does not exist",), prepare=odd.link("gone.onnx")),
    Case("path-empty", ("bench", ""), says=("models is empty; give it a value",)),
    Case("path-too-long", ("bench", "a" * 5000 + ".onnx"), says=("file name too long",)),
    Case("path-dash", ("bench", "-odd.onnx"), says=("no such option",)),
    Case("file-empty", BENCH, says=("is empty (0 bytes)",), prepare=odd.content("odd.onnx", b"")),
    Case("file-lfs", BENCH, says=("git lfs pull",),
         prepare=odd.content("odd.onnx", "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n")),
    Case("file-page", BENCH, says=("is a web page",), prepare=odd.content("odd.onnx", "\n<!DOCTYPE html><html>")),
    Case("file-is-zip", BENCH, says=("holds a zip archive",), prepare=odd.content("odd.onnx", b"PK\x03\x04" * 9)),
    Case("file-onnx-is-noise", BENCH, says=("is not an ONNX file",), prepare=odd.content("odd.onnx", b"\xff" * 99)),
    Case("file-pt-is-onnx", (*TRAINED, "{here}/odd.pt"), says=("odd.pt holds ONNX", ".onnx"),
         prepare=odd.network(lambda path: path.write_bytes(model([relu()]).SerializeToString()))),
    Case("file-pt-is-lfs", (*TRAINED, "{here}/odd.pt"), says=("git lfs pull",),
         prepare=odd.network(lambda path: path.write_bytes(b"version https://git-lfs.github.com/spec/v1\n"))),
    Case("factory-crashes", ("bench", "{here}/net.py:build", "--input", "float32[1,6]"), seconds=60,
         says=("net.py:build did not return", "SIGSEGV", "line 7"), prepare=odd.content("net.py", odd.CRASH)),
]  # fmt: skip

CHECKPOINTS = [
    Case("pt-bomb", (*TRAINED, "{here}/odd.pt"), says=("odd.pt", "unpacks to", "zip -0"), seconds=60,
         prepare=odd.network(odd.compressed(2**28 + 2**24))),
    Case("pt-expanded", (*TRAINED, "{here}/odd.pt"), says=("odd.pt", "weight is [1000000000000]"),
         prepare=odd.network(odd.expanded)),
    Case("pt-pickle", (*TRAINED, "{here}/odd.pt"), says=("odd.pt", "runs code"), prepare=odd.network(odd.pickled)),
    Case("pt-truncated", (*TRAINED, "{here}/odd.pt"), says=("odd.pt", "truncated"),
         prepare=odd.network(lambda path: path.write_bytes(b"PK\x03\x04" + bytes(300)))),
    *(
        Case(f"safetensors-{name}", (*TRAINED, "{here}/odd.safetensors"), says=("odd.safetensors", "not a read"),
             prepare=odd.safetensors(*content))
        for name, content in {
            "huge-header": ({}, b"", 2**31),
            "overlapping": ({"weight": odd.entry([3, 6], 0, 72), "bias": odd.entry([3], 0, 12)}, bytes(72)),
            "beyond-its-end": ({"weight": odd.entry([3, 6], 0, 72)}, bytes(8)),
            "negative": ({"weight": odd.entry([-3, -6], 0, 72)}, bytes(72)),
            "other-size": ({"weight": odd.entry([10**6, 10**6], 0, 72)}, bytes(72)),
            "unknown-type": ({"weight": odd.entry([3, 6], 0, 72, "F999")}, bytes(72)),
            "deep-header": (odd.DEEP.encode(),),
        }.items()
    ),
]  # fmt: skip


def kept_in(suffix, name, prepare, *says, **more):
    """Return a case of a file of another format."""
    command = ("bench", "{here}/odd" + suffix, "--batch-sizes", "1")
    return Case(f"{(suffix or 'folder').strip('.')}-{name}", command, says=("odd", *says), prepare=prepare,
                seconds=60, **more)  # fmt: skip


KERAS = [
    kept_in(".keras", "structure-deep", odd.keras('{"config":' + odd.DEEP + "}"), "nested too deeply"),
    kept_in(".keras", "structure-list", odd.keras("[]"), "no object with a class_name"),
    kept_in(".keras", "structure-missing", odd.keras(None), "config.json"),
    kept_in(".keras", "name-leads-out", odd.keras(odd.dense(), {"../up": b""}), "leads out of the archive"),
    kept_in(".keras", "bomb", odd.keras(odd.dense(), {"zeros": bytes(2**28 + 2**24)}), "would unpack to"),
    kept_in(".keras", "lambda", odd.keras(odd.dense(class_name="Lambda")), "Python code of its own", "Lambda"),
    kept_in(
        ".keras", "own-class", odd.keras(odd.dense(registered_name="mine>Own", module="mine")), "of its own: Own"
    ),
    kept_in(".h5", "chunks", odd.h5(odd.h5_chunks), "holds arrays of 4,000,000,000,000"),
    kept_in(".h5", "external-link", odd.h5(odd.h5_link), "links to other files"),
    kept_in(".h5", "noise", odd.content("odd.h5", b"\x89HDF\r\n\x1a\n" + b"\xff" * 500), "no HDF5 file"),
    kept_in("", "saved-model-noise", odd.saved_model(b"\xff" * 500), "saved_model.pb", "truncated"),
    kept_in("", "saved-model-empty", odd.saved_model(b""), "saved_model.pb is empty"),
]

TFLITE = [
    kept_in(".tflite", "identifier", odd.flatbuffer(4, b"NONE"), "odd.tflite"),
    kept_in(".tflite", "root-beyond", odd.flatbuffer(0, b"\xff\xff\xff\x7f"), "odd.tflite"),
    kept_in(".tflite", "root-loop", odd.flatbuffer(0, b"\0\0\0\0"), "odd.tflite"),
    kept_in(".tflite", "cut", odd.flatbuffer(cut=300), "odd.tflite"),
    kept_in(".tflite", "half-empty", odd.flatbuffer(400, b"\xff" * 200), "odd.tflite"),
]

HUB = [
    kept_in("", "config-list", odd.hub("[]"), "config.json cannot be read", "does not hold what it should"),
    kept_in("", "config-number", odd.hub("7"), "config.json cannot be read"),
    kept_in("", "config-deep", odd.hub('{"a":' + odd.DEEP + "}"), "config.json cannot be read", "nested"),
    kept_in("", "config-cut", odd.hub('{"model_type": "be'), "config.json cannot be read", "not JSON"),
    kept_in("", "config-latin", odd.hub('{"a": "é"}'.encode("latin-1")), "config.json cannot be read", "UTF-8"),
    kept_in("", "config-own-code", odd.hub({"model_type": "own", "auto_map": {"AutoModel": "m.M"}}), "never run"),
    kept_in("", "config-unknown", odd.hub({"model_type": "nothing"}), "config.json cannot be read by transformers"),
    kept_in("", "config-negative", odd.hub({"hidden_size": -8}), "odd"),
    kept_in("", "config-many-layers", odd.hub({"num_hidden_layers": 10**9}), "asks for 1,000,000,000 layers"),
    kept_in(
        "", "config-wide", odd.hub({"vocab_size": 10**9, "hidden_size": 1024}), "parameters", "copy the folder"
    ),
    kept_in("", "index-outside", odd.hub(files=odd.index("../w.safetensors")), "not a file beside it"),
    kept_in("", "index-absolute", odd.hub(files=odd.index("/etc/passwd")), "not a file beside it"),
    kept_in("", "index-missing", odd.hub(files=odd.index("w.safetensors")), "not there"),
    kept_in("", "index-list", odd.hub(files={"model.safetensors.index.json": "[]"}), "index.json cannot be read"),
]

CASES = [*ODD_NODES, *ODD_GRAPHS, *ODD_WEIGHTS, *PATHS, *CHECKPOINTS, *KERAS, *TFLITE, *HUB]
CASES += [
    Case(f"{verb}-names-the-node", (verb, "graph-only" if verb == "run" else "{here}/odd.onnx", *more),
         says=("node 'first' (Relux)",),
         prepare=graphs.save(lambda: model([node("Relux", ["x"], ["y"], name="first")])))
    for verb, more in {
        "profile": (), "evaluate": ("--data", "{here}/good.npz"),
        "compare": ("{here}/good.onnx", "--data", "{here}/good.npz"),
        "optimize": ("--data", "{here}/good.npz", "--out", "{here}/out"),
        "run": ("--model", "{here}/odd.onnx", "--data", "{here}/good.npz", "--out", "{here}/out"),
    }.items()
]  # fmt: skip


# Slower than half a second: others of their kinds run with the fast tests.
SLOW = (
    "compare-names-the-node", "evaluate-names-the-node", "factory-crashes", "file-onnx-is-noise",
    "folder-config-cut", "folder-config-deep", "folder-config-latin", "folder-config-list",
    "folder-config-many-layers", "folder-config-negative", "folder-config-number", "folder-config-own-code",
    "folder-config-unknown", "folder-config-wide", "folder-index-absolute", "folder-index-list",
    "folder-index-missing", "folder-index-outside", "folder-saved-model-noise", "h5-chunks", "h5-external-link",
    "h5-noise", "keras-bomb", "keras-lambda", "keras-name-leads-out", "keras-own-class", "keras-structure-deep",
    "keras-structure-list", "keras-structure-missing", "onnx-attribute-of-another-type", "onnx-axis-of-zero",
    "onnx-axis-out-of-range", "onnx-bfloat16", "onnx-complex64", "onnx-cycle", "onnx-domain-not-imported",
    "onnx-element-type-conflict", "onnx-escape-in-a-name", "onnx-expands-to-terabytes", "onnx-external-link",
    "onnx-external-missing", "onnx-external-negative-offset", "onnx-external-offset-no-number",
    "onnx-external-outside", "onnx-external-truncated", "onnx-float8e4m3fn", "onnx-format-negative",
    "onnx-format-of-the-future", "onnx-function-missing", "onnx-functions-call-each-other",
    "onnx-functions-expand", "onnx-input-beyond-memory", "onnx-input-twice", "onnx-int4",
    "onnx-name-of-a-megabyte", "onnx-name-that-runs-backwards", "onnx-newline-in-a-name", "onnx-no-outputs",
    "onnx-operator-without-a-name", "onnx-opset-of-the-future", "onnx-optional", "onnx-output-of-nothing",
    "onnx-output-twice", "onnx-sequence", "onnx-shape-conflict", "onnx-sparse-input",
    "onnx-sparse-weight-beyond", "onnx-text-input", "onnx-unknown-attribute", "onnx-unknown-domain",
    "onnx-unknown-operator", "onnx-unknown-type-of-input", "onnx-weight-claims-petabytes",
    "onnx-weight-negative", "onnx-weight-of-unknown-type", "onnx-weight-overflows", "onnx-weight-too-long",
    "onnx-weight-too-short", "optimize-names-the-node", "profile-names-the-node", "pt-bomb", "pt-expanded",
    "pt-pickle", "pt-truncated", "run-names-the-node", "safetensors-beyond-its-end", "safetensors-deep-header",
    "safetensors-huge-header", "safetensors-negative", "safetensors-other-size", "safetensors-overlapping",
    "safetensors-unknown-type", "tflite-cut", "tflite-half-empty", "tflite-identifier", "tflite-root-beyond",
    "tflite-root-loop",
)  # fmt: skip


@table(CASES, slow=SLOW)
def test_hostile(case, survives):
    survives(case)
