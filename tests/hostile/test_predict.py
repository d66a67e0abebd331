"""Hostile bundles and inputs of ``predict.py``: what is damaged or means harm is refused in one line."""

import hashlib
import io
import json
import os
import socket
import struct
import zipfile
import zlib

import numpy as np
import pytest
from driver import Case

PREDICT = ("{here}/bundle/predict.py",)
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


def reseal(bundle):
    """Write the checksums of a changed bundle into its manifest, as whoever means harm would."""
    manifest = json.loads((bundle / "manifest.json").read_text())
    manifest["files"] = {
        path.relative_to(bundle).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(bundle.rglob("*"))
        if path.is_file() and path.name != "manifest.json"
    }
    (bundle / "manifest.json").write_text(json.dumps(manifest))


def write(name, content):
    """Return a step that writes a file of the case's folder."""
    return lambda here: (here / name).write_bytes(content.encode() if isinstance(content, str) else content)


def in_bundle(name, content):
    """Return a step that replaces a file of the bundle by bytes (None removes it) and seals the bundle again."""

    def prepare(here):
        path = here / "bundle" / name
        if content is None:
            path.unlink()
        else:
            path.parent.mkdir(exist_ok=True)
            path.write_bytes(content(path.read_bytes()) if callable(content) else content)
        reseal(here / "bundle")

    return prepare


def in_manifest(change):
    """Return a step that changes the manifest, a dict, in place."""

    def prepare(here):
        path = here / "bundle" / "manifest.json"
        manifest = json.loads(path.read_text())
        change(manifest)
        path.write_text(json.dumps(manifest))

    return prepare


def in_settings(key, value, part="preprocess"):
    """Return a step that changes a setting of preprocess.json and seals the bundle again."""

    def change(content):
        settings = json.loads(content)
        settings[part][key] = value
        return json.dumps(settings).encode()

    return in_bundle("preprocess/preprocess.json", change)


def on_bundle(change):
    """Return a step that is given the folder of the bundle."""
    return lambda here: change(here / "bundle")


def saved(array, name="x.npy", **options):
    """Return a step that saves an array."""
    return lambda here: np.save(here / name, array, **options)


def npy(shape, dtype, data=b""):
    """Return the bytes of a ``.npy`` file whose header claims a shape and a dtype."""
    header = f"{{'descr': {dtype!r}, 'fortran_order': False, 'shape': {shape}, }}".encode()
    header += b" " * (-(len(header) + 11) % 64) + b"\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header + data


def npz(*members, compression=zipfile.ZIP_DEFLATED):
    """Return the bytes of an archive with these members: name and bytes."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", compression) as archive:
        for name, content in members:
            archive.writestr(name, content)
    return buffer.getvalue()


def bomb(here):
    """Write an archive of 3 MB that unpacks to 3 GB of zeros."""
    size = 3 << 30
    with (
        zipfile.ZipFile(here / "x.npz", "w", zipfile.ZIP_DEFLATED, compresslevel=9) as archive,
        archive.open("row.npy", "w", force_zip64=True) as member,
    ):
        member.write(npy(f"({size // 24}, 6)", "<f4"))
        # The directory alone is read: that it claims so much is enough.
    content = bytearray((here / "x.npz").read_bytes())
    at = content.rindex(b"PK\x01\x02")
    content[at + 24 : at + 28] = struct.pack("<I", size)
    (here / "x.npz").write_bytes(content)


def lying_directory(content):
    """Return an archive whose directory says that each member unpacks to 128 bytes more than it does."""
    content = bytearray(content)
    at = content.rindex(b"PK\x01\x02")
    (size,) = struct.unpack("<I", content[at + 24 : at + 28])
    content[at + 24 : at + 28] = struct.pack("<I", size + 128)
    return bytes(content)


def encrypted(content):
    """Return an archive whose first member says that it is encrypted."""
    content = bytearray(content)
    for mark, place in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        content[content.index(mark) + place] |= 1
    return bytes(content)


def png(width, height, rows=b""):
    """Return a grey PNG whose header claims a size; its pixels are these bytes."""

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


def case(name, command, says, prepare=None, **options):
    """Return a case of ``predict.py`` in a bundle of its own."""
    words = command.split() if isinstance(command, str) else command
    says = (says,) if isinstance(says, str) else says
    return Case(name, words, says=says, prepare=prepare, program=PREDICT, needs=("bundle",), **options)


def answered(count=1):
    """Return a check that a command printed so many answers and nothing else."""

    def check(_, ended):
        lines = [json.loads(line) for line in ended.out.splitlines()]
        good = len(lines) == count and all("answer" in line for line in lines) and not ended.err
        return None if good else f"not {count} answers: {ended.out[-300:]!r} {ended.err[-300:]!r}"

    return check


ONES = np.ones((2, 6), np.float32)
GOOD = npy("(1, 6)", "<f4", ONES[:1].tobytes())
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

ARRAYS = [
    *[
        case(f"npy-{name}", "x.npy", says, write("x.npy", content))
        for name, content, says in (
            ("empty", b"", "it is empty (0 bytes)"),
            ("garbage", b"garbage", "it is no .npy array"),
            ("magic-alone", b"\x93NUMPY", "it is no .npy array"),
            ("truncated", GOOD[:-4], "it is truncated or damaged"),
            ("header-cut", GOOD[:40], "it is no .npy array"),
            ("more-behind", GOOD + b"more", "but 28 follow"),
            ("terabytes", npy("(1000000000000, 6)", "<f4"), "24,000,000,000,000 bytes, but 0 follow"),
            ("negative", npy("(-1, 6)", "<f4"), "claims shape (-1, 6)"),
            ("zero-width", npy("(1000000000000,)", "<U0"), "1,000,000,000,000 bytes, but 0 follow"),
            ("overflow", npy(f"({2**62}, {2**62})", "<f4"), "but 0 follow"),
            ("axes", npy("(" + "1, " * 50 + ")", "<f4", b"1234"), "it is no .npy array"),
            ("deep-header", npy("(" * 3000, "<f4"), "it is no .npy array"),
            ("long-header", npy("(1, 6" + " " * 20000 + ")", "<f4"), "it is no .npy array"),
            ("version-9", GOOD.replace(b"NUMPY\x01", b"NUMPY\x09"), "version"),
            ("pickle", npy("(1,)", "|O", b"cos\nsystem\n(S'touch harm'\ntR."), "Python objects"),
        )
    ],
    *[
        case(f"npz-{name}", "x.npz", says, write("x.npz", content))
        for name, content, says in (
            ("garbage", b"PK\x03\x04garbage", "it is no .npz archive"),
            ("truncated", npz(("row.npy", GOOD))[:-30], "it is no .npz archive"),
            ("no-members", npz(), "it holds no arrays"),
            ("crc", npz(("row.npy", GOOD), compression=zipfile.ZIP_STORED).replace(ONES[0].tobytes(), b"\1" * 24),
             "Bad CRC-32"),
            ("no-array", npz(("row.txt", "hello")), "its member row.txt is no array"),
            ("lzma", npz(("row.npy", GOOD), compression=zipfile.ZIP_LZMA), "compressed by method 14"),
            ("encrypted", encrypted(npz(("row.npy", GOOD))), "is encrypted"),
            ("objects", npz(("row.npy", npy("(1,)", "|O", b"x"))), "Python objects"),
            ("other-names", npz(("a.npy", GOOD), ("b.npy", GOOD)), "the model's inputs are row, these are a, b"),
            ("more-names", npz(("row.npy", GOOD), ("b.npy", GOOD)), "these are row, b"),
            ("lying-directory", lying_directory(npz(("row.npy", GOOD))), "its array row.npy cannot be read"),
            ("claims-terabytes", npz(("row.npy", npy("(1000000000000, 6)", "<f4"))), "24,000,000,000,000 bytes"),
            ("scalar", npz(("row.npy", npy("()", "<f4", b"1234"))), "has no samples"),
        )
    ],
    case("npz-bomb", "x.npz", ("it unpacks to 3,221,225,472 bytes, the limit is 2,147,483,648",), bomb),
    case("npz-one-name-twice", "x.npz", "2 members called row.npy", lambda here: _twice(here / "x.npz")),
    case("npy-sparse", "--max-mib 8 x.npy", "it is a file of 9,437,184 bytes, the limit is 8,388,608",
         lambda here: (write("x.npy", GOOD)(here), os.truncate(here / "x.npy", 9 << 20))),
    *[
        case(f"values-{name}", "x.npy", says, saved(array))
        for name, array, says in (
            ("complex", ONES.astype(complex), "complex numbers (complex128)"),
            ("dates", np.zeros((2, 6), "M8[s]"), "dates (datetime64[s])"),
            ("durations", np.zeros((2, 6), "m8[s]"), "time differences"),
            ("text", np.full((2, 6), "1"), "has text (<U1)"),
            ("records", np.zeros((2, 6), "i4,f4"), "records or raw bytes"),
            ("too-large", ONES.astype(float) * 1e300, "float32 (up to 3.403e+38), one of its values is 1e+300"),
            ("too-wide", np.ones((2, 7), np.float32), "the model's input row is [6] a sample, this is [7]"),
            ("too-deep", np.ones((2, 6, 6), np.float32), "it has shape [2, 6, 6]; one sample has rank 1, a stack of them 2"),
            ("scalar", np.float32(1), "it has shape []"),
            ("none", np.ones((0, 6), np.float32), "has no samples"),
        )
    ],
    *[
        case(f"integers-{name}", "x.npy", says,
             lambda here, array=array, dtype=dtype: (saved(array)(here), in_manifest(
                 lambda made: made["signature"]["inputs"][0].update(dtype=dtype))(here)))
        for name, array, dtype, says in (
            ("wrap", np.full((1, 6), 300), "uint8", "(whole numbers from 0 to 255), one of its values is 300"),
            ("negative", np.full((1, 6), -1), "uint64", "one of its values is -1"),
            ("fraction", np.full((1, 6), 0.5), "int64", "one of its values is 0.5"),
            ("nan", np.full((1, 6), np.nan), "int32", "one of its values is nan"),
            ("huge", np.full((1, 6), 2.0**63), "int64", "one of its values is 9.22"),
        )
    ],
]  # fmt: skip

FILES = [
    case("no-such-file", "absent.npy", "No such file"),
    case("folder", "bundle", "it is a folder; name a regular file"),
    case("fifo", "x.npy", "it is a pipe (FIFO)", lambda here: os.mkfifo(here / "x.npy")),
    case("device-zero", "/dev/zero", "it is a device"),
    case("device-null", "/dev/null", "it is a device"),
    case("socket", "x.png", "it is a socket", lambda here: _bind(here / "x.png")),
    case("link-loop", "x.npy", "symbolic link", lambda here: (here / "x.npy").symlink_to("x.npy")),
    case("newline-in-the-name", ("a\nerror: b.npy",), r"'a\nerror: b.npy'"),
    case("name-too-long", ("x" * 5000 + ".npy",), "name too long"),
    case("empty-name", ("",), "it is a folder"),
    case("unknown-option", "--harm", "there is no option '--harm'"),
    case("limit-not-a-number", "--max-mib nan x.npy", "--max-mib is 'nan'"),
    case("limit-superscript", ("--max-mib", "²"), "--max-mib is '²'"),
    case("limit-zero", "--max-mib 0 x.npy", "--max-mib is '0'"),
    case("limit-given", "--max-mib 1 x.npy", "the limit is 1,048,576", saved(np.ones((1 << 18, 6), np.float32))),
    *[
        case(f"picture-{name}", "x.png", says, write("x.png", content))
        for name, content, says in (
            ("empty", b"", "it is empty"),
            ("garbage", b"garbage", "no picture that Pillow reads"),
            ("svg", "<svg xmlns='http://www.w3.org/2000/svg'/>", "no picture that Pillow reads"),
            ("header-alone", png(8, 8)[:40], "picture"),
            ("truncated", png(8, 8, b"\0" * 40), "picture"),
            ("bomb-900-megapixels", png(30_000, 30_000), "more pixels than Pillow's limit of 89,478,485"),
            ("bomb-100-megapixels", png(10_000, 10_000), "more pixels than Pillow's limit of 89,478,485"),
            ("postscript", "%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\n", "it is PostScript"),
            ("no-input-of-this-model", png(2, 2, b"\0" * 6), "this is [2, 2]"),
        )
    ],
    *[
        case(f"table-{name}", f"x.{suffix}", says, write(f"x.{suffix}", content))
        for name, suffix, content, says in (
            ("empty", "csv", "", "it is empty"),
            ("blank", "csv", "\n\n\n", "it is empty"),
            ("ragged", "csv", "1,2,3,4,5,6\n1,2\n", "row 2 has 2 cells, the first line 6"),
            ("narrow", "csv", "1,2,3\n", "the model's input row is [6] a sample, this is [3]"),
            ("no-number", "csv", "1,2,3,4,5,six\n", "column 'column_6' holds numbers, but row 1 has 'six'"),
            ("empty-cell", "csv", "1,,3,4,5,6\n1,2,3,4,5,6\n", "column_2 has no number in row 1"),
            ("nul", "csv", "1,2,3,4,5,\0\n", "holds numbers, but row 1 has"),
            ("latin-1", "csv", b"1,2,3,4,5,\xe9\n", "it is not UTF-8"),
            ("utf-16", "csv", "1,2,3,4,5,6\n".encode("utf-16"), "it is not UTF-8"),
            ("quote-left-open", "csv", '1,2,3,4,5,"6\n' + "1,2,3,4,5,6\n" * 20_000, "it is no table"),
            ("long-cell", "csv", "1,2,3,4,5," + "x" * 100_000 + "\n", "xxx...'"),
            ("huge-number", "csv", "1,2,3,4,5,1e300\n", "one of its values is 1e+300"),
            ("text", "txt", "hello\n", "but row 1 has 'hello'"),
            ("text-empty", "txt", " \n", "it is empty"),
        )
    ],
    case("table-of-gigabytes", "x.csv", "the limit is 268,435,456",
         lambda here: ((here / "x.csv").touch(), os.truncate(here / "x.csv", 257 << 20))),
]  # fmt: skip


def _bind(path):
    with socket.socket(socket.AF_UNIX) as made:
        os.chdir(path.parent)
        made.bind(path.name)


def _twice(path):
    path.write_bytes(npz(("row.npy", GOOD), ("two.npy", GOOD)).replace(b"two.npy", b"row.npy"))


def _null_answers(_, ended):
    lines = [json.loads(line, parse_constant=float) for line in ended.out.splitlines()]
    found = [item["probability"] for line in lines for item in line["answer"]]
    return None if found == [None] * 3 else f"not three nulls: {ended.out!r}"


def _read_only(here):
    saved(ONES)(here)
    for path in (here / "bundle" / "preprocess", here / "bundle"):
        path.chmod(0o555)


def _moved(name):
    """Return a step that gives the bundle another name."""
    return lambda here: (saved(ONES)(here), (here / "bundle").rename(here / name))


def works(name, command="x.npy", prepare=None, count=2, program=PREDICT, **options):
    words = command.split() if isinstance(command, str) else command
    return Case(name, words, code=0, prepare=prepare or saved(ONES), program=program, needs=("bundle",),
                check=answered(count), **options)  # fmt: skip


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
    works("opens-no-socket", ("{here}/bundle/predict.py", "x.npy"), program=("-c", _SOCKETS)),
]  # fmt: skip


@pytest.mark.parametrize("case", [*SEALS, *MANIFESTS, *PARTS, *ARRAYS, *FILES, *RUNS], ids=lambda case: case.name)
def test_hostile(case, survives):
    survives(case)
