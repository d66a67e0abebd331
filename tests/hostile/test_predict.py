"""Hostile bundles of ``predict.py``: what is damaged or means harm is refused in one line, before it is opened."""

import io
import json
import os
import shutil
import signal
import subprocess
import sys

import numpy as np
from driver import Case, table
from predict_cases import (
    GOOD,
    ONES,
    PREDICT,
    case,
    in_bundle,
    in_manifest,
    in_settings,
    npy,
    npz,
    on_bundle,
    saved,
    works,
    write,
)

_SOCKETS = """
import sys

def refuse(event, arguments):
    if event.startswith("socket.") and event != "socket.gethostname":
        raise SystemExit(f"opened a socket: {event} {arguments}")

sys.addaudithook(refuse)
import runpy
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""

NO_SAMPLES = npz(("input.row.npy", npy("(0, 6)", "<f4")), ("output.answer.npy", npy("(0, 3)", "<f4")))
DEEP = b"[" * 200_000
PLANTED = b"import os\nos.mkdir(os.path.join(os.path.dirname(__file__), 'harm'))\n"


def flip(content):
    """Return bytes of which one bit is another; the length is the same."""
    return content[:-1] + bytes([content[-1] ^ 1])


def no_harm(here, _):
    return "planted code ran" if list(here.rglob("harm")) else None


def planted(name):
    return case(
        f"planted-{name.replace('/', '-')}", "x.npy", (name.split("/")[-1], "not of this bundle"),
        lambda here: (saved(ONES)(here), (here / "bundle" / name).write_bytes(PLANTED)), check=no_harm,
    )  # fmt: skip


def bytecode(name):
    def prepare(here):
        saved(ONES)(here)
        path = here / "bundle" / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(b"bytecode")

    return case(f"bytecode-{name.replace('/', '-')}", "x.npy", "is bytecode, which no bundle has", prepare)


def changed(name):
    """A byte of a file differs, and the manifest knows nothing of it."""

    def prepare(here):
        path = here / "bundle" / name
        path.write_bytes(flip(path.read_bytes()))

    return case(f"changed-{name.replace('/', '-')}", "--golden", (name, "was changed since"), prepare)


SEALS = [
    *[changed(name) for name in (
        "model.onnx", "golden.npz", "preprocess/raw.py", "metrics.json", "inputs.py",
    )],
    *[planted(name) for name in ("numpy.py", "json.py", "preprocess/extra.py")],
    *[bytecode(name) for name in (
        "__pycache__/inputs.cpython-311.pyc", "preprocess/__pycache__/raw.cpython-311.pyc", "preprocess/raw.pyc",
    )],
    case("link-to-a-file", "--golden", "'model.onnx' is a link", on_bundle(
        lambda b: ((b / "model.onnx").rename(b.parent / "m.onnx"), (b / "model.onnx").symlink_to("../m.onnx")))),
    case("link-to-a-folder", "--golden", "'more' is a link", on_bundle(lambda b: (b / "more").symlink_to("/etc"))),
    case("link-that-loops", "--golden", "'loop' is a link", on_bundle(lambda b: (b / "loop").symlink_to("loop"))),
    case("fifo-in-the-bundle", "--golden", "'model.onnx' is special", on_bundle(
        lambda b: ((b / "model.onnx").unlink(), os.mkfifo(b / "model.onnx")))),
    case("name-with-a-newline", "--golden", r"'a\nerror: b' is not of this bundle",
         on_bundle(lambda b: (b / "a\nerror: b").write_text("x"))),
    case("file-missing", "--golden", ("'inputs.py' is missing",), on_bundle(lambda b: (b / "inputs.py").unlink())),
    *[
        case(f"path-{name}", "--golden", "not below the bundle",
             in_manifest(lambda made, path=path: made["files"].update({path: "0" * 64})))
        for name, path in (
            ("up", "../good.onnx"), ("absolute", "/etc/passwd"), ("inner-up", "preprocess/../../good.npz"),
            ("backslash", "..\\good.npz"), ("control", "a\x1b[31m"),
        )
    ],
]  # fmt: skip

MANIFESTS = [
    *[
        case(f"manifest-{name}", "--golden", says, write("bundle/manifest.json", content))
        for name, content, says in (
            ("empty", "", "is damaged"),
            ("garbage", b"\x00\xff\xfe garbage", "is damaged"),
            ("deep", DEEP, "is damaged"),
            ("latin-1", '{"name": "é"}'.encode("latin-1"), "is damaged"),
            ("list", "[1, 2]", "names no files"),
            ("number", "9" * 5000, "is damaged"),
            ("nan", '{"files": NaN}', "NaN is no number of JSON"),
        )
    ],
    case("manifest-missing", "--golden", ("is not a bundle", "No such file"),
         on_bundle(lambda b: (b / "manifest.json").unlink())),
    case("manifest-a-folder", "--golden", "manifest.json is no file",
         on_bundle(lambda b: ((b / "manifest.json").unlink(), (b / "manifest.json").mkdir()))),
    case("manifest-fifo", "--golden", "manifest.json is no file",
         on_bundle(lambda b: ((b / "manifest.json").unlink(), os.mkfifo(b / "manifest.json")))),
    case("manifest-huge", "--golden", "larger than 64 MiB",
         on_bundle(lambda b: os.truncate(b / "manifest.json", 65 << 20))),
    *[
        case(f"manifest-without-{key}", "--golden", f"{key} is absent",
             in_manifest(lambda made, key=key: made.pop(key)))
        for key in ("format", "signature", "golden", "raw_axes")
    ],
    *[
        case(f"manifest-{name}", "--golden", says, in_manifest(change))
        for name, change, says in (
            ("files-a-list", lambda made: made.update(files=["model.onnx"]), "names no files"),
            ("sum-a-number", lambda made: made["files"].update({"model.onnx": 5}), "names no files"),
            ("format-unknown", lambda made: made.update(format="pickle"), "predict.py runs onnx, torch, tflite"),
            ("model-elsewhere", lambda made: made.update(file="../good.onnx"), "no checksum of the model"),
            ("no-such-output", lambda made: made.update(output="x"), "there is no output 'x'"),
            ("inputs-a-dict", lambda made: made["signature"].update(inputs={}), "signature.inputs is no list"),
            ("dtype", lambda made: made["signature"]["inputs"][0].update(dtype="object"), "this is no tensor"),
            ("shape", lambda made: made["signature"]["inputs"][0].update(shape=[None, -6]), "this is no tensor"),
            ("axis", lambda made: made["signature"]["inputs"][0].update(sample=7), "this is no tensor"),
            ("tolerance-absent", lambda made: made["golden"].update(tolerance={}), "its tolerance"),
            ("tolerance-zero", lambda made: made["golden"].update(tolerance={"answer": 0}), "the tolerance"),
            ("tolerance-negative", lambda made: made["golden"].update(tolerance={"answer": -1}), "the tolerance"),
        )
    ],
]  # fmt: skip

PARTS = [
    *[
        case(f"{name.split('/')[-1]}-{kind}", "--golden", says, in_bundle(name, content))
        for name, kind, content, says in (
            ("model.onnx", "empty", b"", "the model cannot be opened"),
            ("model.onnx", "garbage", b"\x08\x01garbage" * 99, "the model cannot be opened"),
            ("model.onnx", "truncated", lambda content: content[:300], "the model cannot be opened"),
            ("golden.npz", "empty", b"", "it is no .npz archive"),
            ("golden.npz", "garbage", b"garbage", "it is no .npz archive"),
            ("golden.npz", "truncated", lambda content: content[:200], "it is no .npz archive"),
            ("golden.npz", "absent", None, "golden.npz"),
            ("golden.npz", "other-arrays", npz(("x.npy", GOOD)), "input.row"),
            ("golden.npz", "no-samples", NO_SAMPLES, "has shape [0, 3]"),
            ("preprocess/preprocess.json", "garbage", b"{", "preprocess.json is damaged"),
            ("preprocess/preprocess.json", "deep", DEEP, "preprocess.json is damaged"),
            ("preprocess/preprocess.json", "latin-1", b"\xe9", "preprocess.json is damaged"),
            ("preprocess/preprocess.json", "list", b"[]", "preprocess.json is damaged"),
            ("preprocess/preprocess.json", "no-parts", b"{}", "preprocess.json is damaged"),
        )
    ],
    *[
        case(f"setting-{key}", "--golden", (f"the setting {key}",), in_settings(key, value))
        for key, value in (("scale", "big"), ("mean", ["a"]), ("interpolation", "none"), ("window", -1))
    ],
    case("setting-resize", "--golden", "the setting resize", in_settings("resize", 10**30)),
    case("setting-labels", "--golden", "the setting labels", in_settings("labels", 5, "postprocess")),
    case("runtime-missing", "--golden", ("No module named 'onnxruntime'", "pip install -r", "requirements.txt"),
         lambda here: ((here / "absent").mkdir(), (here / "absent/onnxruntime.py").write_text(
             "raise ModuleNotFoundError(\"No module named 'onnxruntime'\")")),
         environment={"PYTHONPATH": "{here}/absent"}),
]  # fmt: skip


def _null_answers(_, ended):
    lines = [json.loads(line, parse_constant=float) for line in ended.out.splitlines()]
    found = [item["probability"] for line in lines for item in line["answer"]]
    return None if found == [None] * 3 else f"not three nulls: {ended.out!r}"


def _off(content):
    """Return recorded outputs that are off by one."""
    with np.load(io.BytesIO(content)) as golden:
        arrays = {name: golden[name] + name.startswith("output.") for name in golden.files}
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)
    return buffer.getvalue()


def _read_only(here):
    saved(ONES)(here)
    for path in (here / "bundle" / "preprocess", here / "bundle"):
        path.chmod(0o555)


def _moved(name):
    """Return a step that gives the bundle another name."""
    return lambda here: (saved(ONES)(here), (here / "bundle").rename(here / name))


RUNS = [
    works("works-as-it-is"),
    works("works-isolated", program=("-I", *PREDICT)),
    works("works-optimized", program=("-OO", *PREDICT)),
    works("works-warnings-as-errors", program=("-W", "error", *PREDICT)),
    works("works-from-elsewhere", ("{here}/x.npy",), cwd="/"),
    works("works-as-a-link", program=("{here}/link.py",),
          prepare=lambda here: (saved(ONES)(here), (here / "link.py").symlink_to("bundle/predict.py"))),
    works("works-read-only", prepare=_read_only),
    *[
        works(f"works-in-a-folder-{kind}", program=("{here}/" + name + "/predict.py",), prepare=_moved(name))
        for kind, name in (("with-spaces", "my bundle"), ("unicode", "Größe-模型"), ("newline", "a\nb"))
    ],
    works("works-beside-a-module-of-the-same-name", cwd="{here}",
          prepare=lambda here: (saved(ONES)(here), (here / "numpy.py").write_text("raise SystemExit(9)"))),
    works("works-upper-case-suffix", "X.NPY",
          prepare=lambda here: (saved(ONES)(here), (here / "x.npy").rename(here / "X.NPY"))),
    works("works-after-two-dashes", ("--", "-x.npy"), prepare=saved(ONES, "-x.npy")),
    works("works-with-other-dtypes", prepare=saved(np.ones((2, 6), np.int8))),
    Case("nan-is-null", ("x.npy",), code=0, program=PREDICT, needs=("bundle",), check=_null_answers,
         prepare=saved(np.full((1, 6), np.nan, np.float32)), says=("3 numbers of the answers are NaN or infinite",),
         silent=("NaN,", "warning")),
    Case("infinity-is-null", ("x.npy",), code=0, program=PREDICT, needs=("bundle",), check=_null_answers,
         prepare=saved(np.full((1, 6), np.inf, np.float32)), says=("printed as null",), silent=("Infinity,",)),
    Case("golden-off", ("--golden",), code=1, program=PREDICT, needs=("bundle",), says=('"golden": "off"',),
         prepare=in_bundle("golden.npz", _off)),
    works("opens-no-socket", ("{here}/bundle/predict.py", "x.npy"), program=("-c", _SOCKETS)),
]  # fmt: skip


# Slower than half a second: others of their kinds run with the fast tests.
SLOW = (
    "golden.npz-empty", "manifest-tolerance-absent", "works-optimized",
)  # fmt: skip


@table([*SEALS, *MANIFESTS, *PARTS, *RUNS], slow=SLOW)
def test_hostile(case, survives):
    survives(case)


def test_nobody_reads_the_answers(material, tmp_path):
    np.save(tmp_path / "x.npy", np.ones((5_000, 6), np.float32))
    command = [sys.executable, material["bundle"] / "predict.py", tmp_path / "x.npy"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert b"answer" in process.stdout.readline()
        process.stdout.close()
        assert process.stderr.read() == b""
        assert process.wait(60) == 141


def test_an_interrupt_is_quiet(material, tmp_path):
    np.save(tmp_path / "x.npy", np.ones((5_000, 6), np.float32))
    command = [sys.executable, material["bundle"] / "predict.py", tmp_path / "x.npy"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout.readline()  # it waits for a reader now
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=60)
        assert (process.returncode, err) == (130, b"")


def test_a_program_that_imports_it_leaves_no_bytecode(material, tmp_path):
    shutil.copytree(material["bundle"], tmp_path / "bundle")
    before = sorted(tmp_path.rglob("*"))
    code = "import sys; sys.path.insert(0, 'bundle'); import predict; print(predict.Predictor().check_golden())"
    for _ in range(2):
        done = subprocess.run(
            [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False
        )
        assert float(done.stdout) <= 1, done.stderr
        assert sorted(tmp_path.rglob("*")) == before
