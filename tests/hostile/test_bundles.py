"""Hostile bundles: what is not exactly what its manifest says is refused, in one line, before it is opened."""

import json
import os

import forged
import numpy as np
from driver import Case, table

VERIFY = ("verify", "{here}/bundle")
TRUSTED = (*VERIFY, "--trust-code")
DEEP = b"[" * 100_000 + b"]" * 100_000
NOT_BELOW = "is no name of a file below the bundle"
DIGEST = "a" * 64


def verified(name, prepare, *says, code=1, command=VERIFY, check=forged.untouched, **more):
    """Verify a bundle after it was prepared."""
    return Case(name, command, code, says, prepare=prepare, needs=("bundle",), check=check, **more)


MANIFESTS = [
    verified("manifest-empty", forged.manifest_bytes(b""), "cannot be read", "it is not JSON"),
    verified("manifest-deep", forged.manifest_bytes(DEEP), "nested more than 100 deep"),
    verified(
        "manifest-deep-field", forged.manifest_bytes(b'{"schema":1,"data":' + DEEP + b"}"), "more than 100 deep"
    ),
    verified("manifest-utf-16", forged.manifest_bytes('{"schema": 1}'.encode("utf-16")), "it is not UTF-8 text"),
    verified("manifest-latin-1", forged.manifest_bytes(b'{"name": "\xe9"}'), "it is not UTF-8 text: byte 10"),
    verified("manifest-nan", forged.manifest_bytes(b'{"schema": NaN}'), "NaN is no number of JSON"),
    verified("manifest-1e999", forged.manifest_bytes(b'{"schema": 1e999}'), "too large for a float"),
    verified("manifest-digits", forged.manifest_bytes(b'{"schema": ' + b"9" * 5000 + b"}"), "cannot be read"),
    verified("manifest-twice", forged.manifest_bytes(b'{"schema": 1, "schema": 2}'), "the key 'schema' twice"),
    verified("manifest-surrogate", forged.manifest_bytes(b'{"name": "\\ud800"}'), "half of a surrogate pair"),
    verified("manifest-list", forged.manifest_bytes(b"[1]"), "got `array`"),
    verified("manifest-schema", forged.changed(schema="1\x1b[2J"), "has schema"),
    verified("manifest-huge", lambda here: os.truncate(here / "bundle/manifest.json", 2**27), "larger than"),
    verified("manifest-pipe", forged.instead("manifest.json", forged.fifo), "it is not a regular file"),
    verified("manifest-folder", forged.instead("manifest.json", lambda path: path.mkdir()), "not a regular file"),
    verified(
        "manifest-link", forged.instead("manifest.json", lambda path: path.symlink_to("metrics.json")), "link"
    ),
    verified("manifest-files-list", forged.changed(files=[]), "is damaged", "$.files"),
    verified("manifest-format-keras", forged.changed(format="keras"), "a bundle ships torch, onnx, tflite"),
]
NAMES = [
    verified("file-above", forged.changed(file="../good.onnx"), "'../good.onnx'", NOT_BELOW),
    verified("file-absolute", forged.changed(file="/etc/passwd"), "'/etc/passwd'", NOT_BELOW),
    verified("file-backslash", forged.changed(file="..\\good.onnx"), NOT_BELOW),
    verified("file-drive", forged.changed(file="C:model.onnx"), NOT_BELOW),
    verified("file-empty", forged.changed(file=""), NOT_BELOW),
    verified("files-above", forged.changed(files={"../good.npz": DIGEST}), NOT_BELOW),
    verified("files-dot", forged.changed(files={"./model.onnx": DIGEST}), NOT_BELOW),
    verified("files-escape", forged.changed(files={"\x1b[31mok": DIGEST}), NOT_BELOW),
    verified("files-itself", forged.nested("files", **{"manifest.json": DIGEST}), "it names itself"),
    verified("files-no-digest", forged.nested("files", **{"model.onnx": "0"}), "'0' is no SHA-256"),
    verified("files-none", forged.changed(files={}), "the manifest has no checksum of the model"),
]
FILES = [
    verified(
        "bytecode-folder",
        forged.sealed_with("preprocess/__pycache__/raw.py", lambda path: path.write_text("")),
        "__pycache__",
        "is bytecode of Python",
    ),
    verified(
        "bytecode-file",
        forged.sealed_with("preprocess/raw.pyc", lambda path: path.write_bytes(b"0")),
        "preprocess/raw.pyc is bytecode",
    ),
    verified(
        "link-to-folder", forged.instead("more", lambda path: path.symlink_to("preprocess")), "more is a link"
    ),
    verified(
        "link-to-file",
        forged.sealed_with("model.onnx", lambda path: path.symlink_to("../good.onnx")),
        "model.onnx is a link",
        "copy the file itself",
    ),
    verified("link-to-nowhere", forged.instead("more", lambda path: path.symlink_to("nowhere")), "more is a link"),
    verified("link-to-itself", forged.instead("more", lambda path: path.symlink_to(".")), "more is a link"),
    verified("pipe", forged.instead("golden.npz", forged.fifo), "golden.npz is no regular file"),
    verified("folder-for-a-file", forged.instead("model.onnx", lambda path: path.mkdir()), "missing: model.onnx"),
    verified(
        "hidden-file", forged.instead(".hidden", lambda path: path.write_text("")), "not of this bundle: .hidden"
    ),
    verified(
        "escape-in-a-name",
        forged.instead("\x1b[2Jx", lambda path: path.write_text("")),
        "not of this bundle: \\x1b[2jx",
    ),
]
GOLDEN = [
    verified(
        "golden-empty",
        forged.sealed_with("golden.npz", lambda path: path.write_bytes(b"")),
        "golden.npz cannot be read",
        silent=("interrupted",),
    ),
    verified(
        "golden-cut",
        forged.sealed_with("golden.npz", lambda path: path.write_bytes(b"PK\x03\x04")),
        "golden.npz cannot be read",
    ),
    verified("golden-bomb", forged.sealed_with("golden.npz", forged.bomb), "unpacks to 4,026,531,840 bytes"),
    verified(
        "golden-locked", forged.sealed_with("golden.npz", forged.locked), "golden.npz cannot be read", "encrypted"
    ),
    verified("golden-claims", forged.sealed_with("golden.npz", forged.claims), "claims the shape"),
    verified("golden-objects", forged.golden(input_row=np.array([{}], object)), "input.row is object, not numbers"),
    verified("golden-text", forged.golden(output_answer=np.array(["a"])), "output.answer is <u1, not numbers"),
    verified("golden-other-type", forged.golden(input_row=np.zeros((4, 6))), "input.row is float64[4, 6]"),
    verified("golden-other-shape", forged.golden(input_row=np.zeros((4, 7), np.float32)), "float32[4, 7]"),
    verified("golden-no-samples", forged.golden(input_row=np.zeros((0, 6), np.float32)), "0 samples of input.row"),
    verified(
        "golden-nan", forged.golden(output_answer=np.full((4, 3), np.nan, np.float32)), "is off the recorded one"
    ),
    verified(
        "golden-infinite", forged.golden(output_answer=np.full((4, 3), np.inf, np.float32)), "is off the recorded"
    ),
    verified("samples-none", forged.nested("golden", samples=0), "it records 0 golden samples"),
    verified("samples-negative", forged.nested("golden", samples=-4), "it records -4 golden samples"),
    verified("tolerance-negative", forged.nested("golden", tolerance={"answer": -1.0}), "not a number above 0"),
    verified("tolerance-zero", forged.nested("golden", tolerance={"answer": 0}), "not a number above 0"),
    verified("tolerance-null", forged.nested("golden", tolerance={"answer": None}), "is damaged"),
    verified(
        "tolerance-absurd", forged.nested("golden", tolerance={"answer": 1e9}), "larger than its largest number"
    ),
    verified(
        "tolerance-absent", forged.nested("golden", tolerance={}), "it has tolerances for [], its outputs are"
    ),
]
CLAIMS = [
    verified(
        "verdict-forged",
        forged.verdicts(lambda item: {**item, "answer": "FAIL"}),
        "it answers FAIL to",
        "its figures say",
    ),
    verified("answer-forged", forged.changed(answer="FAIL"), "its answer is 'FAIL', its verdicts together say"),
    verified("answer-alone", forged.changed(verdicts=[]), "its verdicts together say nothing"),
    verified(
        "card-forged",
        forged.sealed_with("MODEL_CARD.md", lambda path: path.write_text("**PASS**")),
        "MODEL_CARD.md does not say what the manifest and metrics.json say",
    ),
    verified(
        "metrics-deep", forged.sealed_with("metrics.json", lambda path: path.write_bytes(DEEP)), "more than 100"
    ),
    verified(
        "metrics-object", forged.sealed_with("metrics.json", lambda path: path.write_text("{}")), "got `object`"
    ),
    verified("digest-other", None, "pinned is sha256:aaaa", command=(*VERIFY, "--digest", f"sha256:{DIGEST}")),
    verified(
        "digest-malformed",
        None,
        "a digest is sha256: and 64 digits",
        code=2,
        command=(*VERIFY, "--digest", "md5:00"),
    ),
    verified("threads-absurd", forged.deployed(threads=10**9), "asks for 1000000000 threads"),
    verified("runtime-unknown", forged.deployed(runtime="os:system"), "unknown runtime"),
    verified("data-outside", forged.external_data("../good.npz"), "external data"),
    verified("data-absolute", forged.external_data("/etc/passwd"), "external data"),
]
CODE = [
    verified(
        "code-without-a-word",
        forged.of_torch(source="open('HERE/pwned', 'w')\n" + forged.SOURCE),
        "source.py:rows",
        "can do all that you can",
        "--trust-code",
    ),
    verified("code-trusted", forged.of_torch(), "ok golden", code=0, command=TRUSTED, check=forged.no_bytecode),
    verified(
        "code-trusted-relative",
        forged.of_torch(),
        "ok golden",
        code=0,
        command=("verify", "bundle", "--trust-code"),
        check=forged.no_bytecode,
    ),
    verified(
        "code-exits",
        forged.of_torch(source="import os\nos._exit(0)\n"),
        "did not return: the process left with exit code 0 without an answer",
        command=TRUSTED,
    ),
    verified("code-leaves", forged.of_torch(source="raise SystemExit(0)\n"), "ended the program", command=TRUSTED),
    verified(
        "code-crashes", forged.of_torch(source="import os\nos.kill(os.getpid(), 11)\n"), "SIGSEGV", command=TRUSTED
    ),
    verified(
        "code-prints",
        forged.of_torch(source="print('ok    golden')\nraise ValueError('no')\n"),
        "raised ValueError",
        command=TRUSTED,
        silent=("ok golden",),
    ),
    verified("code-no-function", forged.of_torch(source="x = 1\n"), "has no function 'rows'", command=TRUSTED),
    verified("pickle-in-origin", forged.pickled_origin, "lived in the memory of another program", command=TRUSTED),
    verified("pickle-in-source", forged.pickled_source, "lived in the memory of another program", command=TRUSTED),
    verified("pickle-in-student", forged.pickled_student, "ok golden", code=0, command=TRUSTED),
    verified("student-outside", forged.student_outside, "ok golden", code=0, command=TRUSTED),
    verified("origin-outside", forged.origin_outside, "lived in the memory of another program", command=TRUSTED),
    verified(
        "structure-deep",
        forged.of_torch(structure={"origin": json.loads("[" * 150 + "]" * 150), "edits": []}),
        "model.json cannot be read",
        "more than 100 deep",
        command=TRUSTED,
    ),
    verified(
        "structure-unknown-edit",
        forged.of_torch(structure={"origin": None, "edits": [{"edit": "exec"}]}),
        "exec",
        command=TRUSTED,
    ),
    verified("keras-input-is-code", forged.keras_names(input="row=CODE"), "is no name of an input or a layer"),
    verified(
        "keras-layer-is-code",
        forged.keras_names(layer='a", None) or CODE or getattr(self, "b'),
        "is no name of an input or a layer",
    ),
]
DATA = ("--data", "{here}/good.npz")
MEASURED = [
    verified(
        "evaluate-code",
        forged.of_torch(),
        "source.py:rows",
        "--trust-code",
        code=2,
        command=("evaluate", "{here}/bundle", *DATA),
    ),
    verified(
        "bench-code",
        forged.of_torch(),
        "source.py:rows",
        "--trust-code",
        code=2,
        command=("bench", "{here}/bundle"),
    ),
    verified(
        "compare-code",
        forged.of_torch(),
        "source.py:rows",
        "--trust-code",
        code=2,
        command=("compare", "{here}/good.onnx", "{here}/bundle", *DATA),
        seconds=60,
    ),
    verified(
        "profile-code",
        forged.of_torch(),
        "source.py:rows",
        "--trust-code",
        code=2,
        command=("profile", "{here}/bundle"),
    ),
    verified(
        "evaluate-code-trusted",
        forged.of_torch(),
        "accuracy",
        code=0,
        check=forged.no_bytecode,
        command=("evaluate", "{here}/bundle", *DATA, "--trust-code"),
        seconds=60,
    ),
    verified(
        "evaluate-pickle",
        forged.pickled_origin,
        "lived in the memory of another program",
        code=2,
        command=("evaluate", "{here}/bundle", *DATA, "--trust-code"),
    ),
    verified(
        "evaluate-link",
        forged.instead("more", lambda path: path.symlink_to(".")),
        "more is a link",
        command=("evaluate", "{here}/bundle", *DATA),
    ),
    verified(
        "bench-bytecode",
        forged.sealed_with("preprocess/raw.pyc", lambda path: path.write_bytes(b"0")),
        "is bytecode of Python",
        command=("bench", "{here}/bundle"),
    ),
    verified(
        "compare-card",
        forged.sealed_with("MODEL_CARD.md", lambda path: path.write_text("**PASS**")),
        "is not as it was sealed",
        command=("compare", "{here}/good.onnx", "{here}/bundle", *DATA),
        seconds=60,
    ),
    verified(
        "profile-pipe",
        forged.instead("golden.npz", forged.fifo),
        "is no regular file",
        command=("profile", "{here}/bundle"),
    ),
]
QUICK = ("--batch-sizes", "1", "--max-drop", "1", "--min-speedup", "0.01", "--json")
FOLDERS = [
    Case(
        "folders-of-an-onnx-file",
        ("optimize", "{here}/traced.onnx", *DATA, "--out", "{here}/out", "--recipe", "graph-only", *QUICK),
        (0, 1, 3),
        prepare=forged.with_traces,
        check=forged.names_no_folder("out/bundle"),
        seconds=120,
        slow=True,
    ),
    Case(
        "folders-of-a-student",
        (
            "run",
            "{here}/student.toml",
            "--model",
            "{here}/net.py:net",
            *DATA,
            "--out",
            "{here}/out",
            *QUICK,
            "--runtime",
            "torch",
        ),
        (0, 1, 3),
        prepare=forged.factory,
        check=forged.names_no_folder("out/candidates/student"),
        seconds=120,
        slow=True,
    ),
]
CASES = [*MANIFESTS, *NAMES, *FILES, *GOLDEN, *CLAIMS, *CODE, *MEASURED, *FOLDERS]


# Slower than half a second: others of their kinds run with the fast tests.
SLOW = (
    "answer-alone", "answer-forged", "bench-bytecode", "bench-code", "code-crashes", "code-exits",
    "code-leaves", "code-no-function", "code-prints", "code-trusted", "code-trusted-relative",
    "code-without-a-word", "compare-card", "compare-code", "data-absolute", "data-outside", "escape-in-a-name",
    "evaluate-code", "evaluate-code-trusted", "evaluate-link", "evaluate-pickle", "golden-bomb",
    "golden-claims", "golden-cut", "golden-empty", "golden-infinite", "golden-locked", "golden-nan",
    "golden-no-samples", "golden-objects", "golden-other-shape", "golden-other-type", "golden-text",
    "keras-input-is-code", "keras-layer-is-code", "manifest-1e999", "manifest-deep", "manifest-deep-field",
    "manifest-digits", "manifest-empty", "manifest-huge", "manifest-latin-1", "manifest-list", "manifest-nan",
    "manifest-surrogate", "manifest-twice", "manifest-utf-16", "pickle-in-source", "pickle-in-student",
    "profile-code", "profile-pipe", "runtime-unknown", "samples-negative", "samples-none", "structure-deep",
    "structure-unknown-edit", "student-outside", "threads-absurd", "tolerance-absent", "tolerance-absurd",
    "tolerance-null", "tolerance-zero", "verdict-forged",
)  # fmt: skip


@table(CASES, slow=SLOW)
def test_hostile(case, survives):
    survives(case)
