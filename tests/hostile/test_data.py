"""Hostile data: refused by documented limits and with the name of the file or item, not by the kernel."""

import gzip
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


def evaluate(name, data, *says, prepare, code=2, **others):
    """Return a case that judges the good model on hostile data at ``data`` in its folder."""
    extra = tuple(others.pop("options", ()))
    return Case(
        name, ("evaluate", "{here}/good.onnx", "--data", f"{{here}}/{data}", *extra),
        code=code, says=says, prepare=prepare, seconds=60, **others,
    )  # fmt: skip


def npy(array=None, *, shape=None, descr="<f4", body=b"\0" * 64):
    """Return an ``.npy`` file, of an array or with a header of one's own."""
    file = io.BytesIO()
    if array is not None:
        np.save(file, array)
    else:
        np.lib.format.write_array_header_1_0(file, {"descr": descr, "fortran_order": False, "shape": shape})
        file.write(body)
    return file.getvalue()


X = npy(np.zeros((60, 6), np.float32))
Y = npy(np.arange(60) % 3)


def archive(**members):
    """Write ``bad.npz`` with these members; a value may be a list of several of one name."""

    def prepare(here):
        with zipfile.ZipFile(here / "bad.npz", "w", zipfile.ZIP_DEFLATED) as file:
            for name, contents in members.items():
                for content in contents if isinstance(contents, list) else [contents]:
                    with pytest.warns(UserWarning) if name in file.namelist() else io.BytesIO():
                        file.writestr(name, content)

    return prepare


def bomb(here):
    """Write 4 MB that inflate to 4 GB, in a member that claims 40 TB."""
    block = zlib.compressobj(9, zlib.DEFLATED, -15)
    zeros = block.compress(bytes(2**20)) + block.flush(zlib.Z_FULL_FLUSH)
    head = zlib.compressobj(9, zlib.DEFLATED, -15)
    start = head.compress(npy(shape=(10**13,), body=b"")) + head.flush(zlib.Z_FULL_FLUSH)
    raw_zip(here / "bad.npz", b"x.npy", start + zeros * 4096, 4 * 10**13 + 128)


def raw_zip(path, name, deflated, size):
    """Write a zip of one member (method 8) whose headers claim ``size`` bytes, by hand, in ZIP64."""
    wide = struct.pack("<HHQQ", 1, 16, size, len(deflated))
    common = struct.pack("<HHHHHIIIHH", 45, 0, 8, 0, 0, 0, 0xFFFFFFFF, 0xFFFFFFFF, len(name), len(wide))
    local = b"PK\3\4" + common + name + wide + deflated
    directory = b"PK\1\2" + struct.pack("<H", 45) + common + struct.pack("<HHHII", 0, 0, 0, 0, 0) + name + wide
    end = b"PK\5\6" + struct.pack("<HHHHIIH", 0, 0, 1, 1, len(directory), len(local), 0)
    path.write_bytes(local + directory + end)


def encrypted(here):
    archive(**{"x.npy": X})(here)
    content = bytearray((here / "bad.npz").read_bytes())
    for mark, at in ((b"PK\3\4", 6), (b"PK\1\2", 8)):
        content[content.index(mark) + at] |= 1
    (here / "bad.npz").write_bytes(bytes(content))


def cut(here):
    content = (here / "good.npz").read_bytes()
    (here / "bad.npz").write_bytes(content[: len(content) // 2])


def trap(here):
    class Trap:
        def __reduce__(self):
            return (open, (str(here / "sprung"), "w"))

    np.savez(here / "bad.npz", x=np.array([Trap()], dtype=object))


def file(name, content):
    """Write one file; its folders are made."""

    def prepare(here):
        (here / name).parent.mkdir(parents=True, exist_ok=True)
        (here / name).write_bytes(content if isinstance(content, bytes) else content.encode())

    return prepare


def sparse(here):
    """Write a line of 1 GB that takes no room on the disk."""
    with (here / "bad.csv").open("wb") as made:
        made.write(b"a,b\n1")
        made.truncate(2**30)


def long_line(here):
    with (here / "bad.csv").open("wb") as made:
        made.write(b"a,b\n" + b"1" * (20 * 2**20) + b",2\n")


def parquet(build):
    def prepare(here):
        import pyarrow as pa
        import pyarrow.parquet

        pa.parquet.write_table(build(pa), here / "bad.parquet")

    return prepare


def half_parquet(here):
    parquet(lambda pa: pa.table({"a": list(range(1000))}))(here)
    content = (here / "bad.parquet").read_bytes()
    (here / "bad.parquet").write_bytes(content[: len(content) // 2])


def nested(pa, depth=40):
    value, kind = 1, pa.int64()
    for _ in range(depth):
        value, kind = [value], pa.list_(kind)
    return pa.table({"deep": pa.array([value] * 9, kind)})


def png(width, height, *, chunks=b""):
    """Return a PNG header of a size, with a few bytes of pixels."""

    def chunk(kind, content):
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    head = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + head + chunks + chunk(b"IDAT", zlib.compress(bytes(64))) + chunk(b"IEND", b"")


def picture(color=(9, 9, 9), size=(8, 8), kind="PNG", **options):
    from PIL import Image

    made = io.BytesIO()
    Image.new("RGB", size, color).save(made, kind, **options)
    return made.getvalue()


def pictures(*others, before=None):
    """Write 30 pictures in each of two class folders, and other files by path below ``pics``."""

    def prepare(here):
        for name in ("cat", "dog"):
            for at in range(30):
                file(f"pics/{name}/{at}.png", picture((at, at, at)))(here)
        for name, content in others:
            file(f"pics/{name}", content)(here)
        if before is not None:
            before(here / "pics")

    return prepare


def folder(*files, then=None):
    def prepare(here):
        (here / "folder").mkdir()
        for name, content in files:
            file(f"folder/{name}", content)(here)
        if then is not None:
            then(here / "folder")

    return prepare


def bind(path):
    """Leave a socket at a path, bound by its short name: long ones are refused."""
    before = os.open(".", os.O_RDONLY)
    os.chdir(path.parent)
    try:
        socket.socket(socket.AF_UNIX).bind(path.name)
    finally:
        os.fchdir(before)
        os.close(before)


def deep(here):
    """Make folders 2,000 levels deep, one after the other: the whole path is too long for one call."""
    start = os.open(here / "pics" / "cat" if (here / "pics").exists() else here, os.O_RDONLY)
    before = os.open(".", os.O_RDONLY)
    try:
        os.fchdir(start)
        for _ in range(2000):
            os.mkdir("d")
            os.chdir("d")
    finally:
        os.fchdir(before)


def some_deep(path):
    (path / "cat" / "/".join("d" * 200)).mkdir(parents=True)


def idx(*counts, body=b"", kind=8):
    return bytes([0, 0, kind, len(counts)]) + struct.pack(f">{len(counts)}I", *counts) + body


def idx_folder(images, *, packed=True, labels=None):
    labels = idx(60, body=bytes(60)) if labels is None else labels
    pack = gzip.compress if packed else bytes
    end = ".gz" if packed else ""
    return folder((f"t10k-images-idx3-ubyte{end}", pack(images)), (f"t10k-labels-idx1-ubyte{end}", pack(labels)))


def saved(**files):
    """Write a folder as ``save_to_disk`` does, with files of one's own."""

    def prepare(here):
        made = {
            "state.json": json.dumps({"_data_files": [{"filename": "data.arrow"}], "_fingerprint": "0"}),
            "dataset_info.json": "{}",
            "data.arrow": "garbage",
            **files,
        }
        for name, content in made.items():
            if content is not None:
                file(f"saved/{name}", content)(here)

    return prepare


def rows(count=60):
    return "".join(f"{at},{at % 7},{at % 5},{at},1,2,{at % 3}\n" for at in range(count))


HEAD = "a,b,c,d,e,f,label\n"
PLAIN = "write it with numpy.savez, numbers only"

ARCHIVES = [
    evaluate("npz-bomb", "bad.npz", "would take 36.4 TiB of memory, by its headers", "of which data may take half",
             prepare=bomb),
    evaluate("npz-objects", "bad.npz", "Object arrays are not opened", PLAIN, prepare=trap,
             check=lambda here, ended: "a pickle ran" if (here / "sprung").exists() else None),
    evaluate("npz-absurd-shape", "bad.npz", "claims 4,000,000,000,000 bytes of numbers, there are 64",
             prepare=archive(**{"x.npy": npy(shape=(10**12,))})),
    evaluate("npz-negative-shape", "bad.npz", "its shape (-3, 2) is negative",
             prepare=archive(**{"x.npy": npy(shape=(-3, 2))})),
    evaluate("npz-shape-overflows", "bad.npz", "bytes of numbers, there are 64",
             prepare=archive(**{"x.npy": npy(shape=(2**40, 2**40, 2**40))})),
    evaluate("npz-truncated", "bad.npz", "cannot be read as an .npz of plain arrays", prepare=cut),
    evaluate("npz-empty", "bad.npz", "cannot be read as an .npz of plain arrays", prepare=file("bad.npz", b"")),
    evaluate("npz-no-arrays", "bad.npz", "bad.npz has no test part", prepare=archive()),
    evaluate("npz-same-name-twice", "bad.npz", "has two arrays of the name 'x.npy'",
             prepare=archive(**{"x.npy": [X, X]})),
    evaluate("npz-path-outside", "bad.npz", "has a member '../../x.npy' that is no array of a plain name",
             prepare=archive(**{"../../x.npy": X})),
    evaluate("npz-absolute-path", "bad.npz", "has a member '/x.npy' that is no array",
             prepare=archive(**{"/x.npy": X})),
    evaluate("npz-text-within", "bad.npz", "has a member 'readme.txt' that is no array",
             prepare=archive(**{"x.npy": X, "readme.txt": b"hello"})),
    evaluate("npz-encrypted", "bad.npz", "is encrypted ('x.npy')", prepare=encrypted),
    evaluate("npz-thousands", "bad.npz", "has 2,000 arrays; give 1,000 at most",
             prepare=archive(**{f"x{at}.npy": b"" for at in range(2000)})),
    evaluate("npz-header-garbage", "bad.npz", "cannot be read as an .npz of plain arrays", "it is 'x.npy'",
             prepare=archive(**{"x.npy": b"\x93NUMPY\x01\x00\x20\x00" + b"[" * 32})),
    evaluate("npz-version-9", "bad.npz", "cannot be read as an .npz of plain arrays",
             prepare=archive(**{"x.npy": b"\x93NUMPY\x09\x00" + b"\0" * 80})),
    evaluate("npz-texts", "bad.npz", "error:",
             prepare=archive(**{"x.npy": npy(np.array(["a", "b"] * 30)), "y.npy": Y})),
    evaluate("npz-labels-nan", "bad.npz", "the label of sample 7 of test is nan", prepare=archive(
        **{"x.npy": X, "y.npy": npy(np.where(np.arange(60) == 7, np.nan, 1.0))})),
    evaluate("npz-labels-short", "bad.npz", "inputs and labels differ in length: x 60, labels 10",
             prepare=archive(**{"x.npy": X, "y.npy": npy(np.arange(10))})),
    evaluate("npz-labels-bytes", "bad.npz", "the labels are |S1, not numbers",
             prepare=archive(**{"x.npy": X, "y.npy": npy(np.array([b"a"] * 60))})),
    evaluate("npz-is-a-fifo", "bad.npz", "bad.npz is a named pipe, not a file with data",
             prepare=lambda here: os.mkfifo(here / "bad.npz")),
    evaluate("npz-is-a-socket", "bad.npz", "bad.npz is a socket, not a file with data",
             prepare=lambda here: bind(here / "bad.npz")),
    evaluate("npz-is-a-device", "bad.npz", "is a device",
             prepare=lambda here: (here / "bad.npz").symlink_to("/dev/zero")),
    evaluate("npz-is-a-broken-link", "bad.npz", "is neither a file, a folder nor a built-in name",
             prepare=lambda here: (here / "bad.npz").symlink_to(here / "absent")),
]  # fmt: skip

TABLES = [
    evaluate("csv-one-line-of-a-gigabyte", "bad.csv", "is no text: it holds NUL bytes", prepare=sparse),
    evaluate("csv-long-line", "bad.csv", "has a line of over 16 MiB: it is no table", prepare=long_line),
    evaluate("csv-nul-bytes", "bad.csv", "is no text: it holds NUL bytes", prepare=file("bad.csv", HEAD + "1,\0,3\n")),
    evaluate("csv-ragged", "bad.csv", "row 61 has 2 cells, the first line 7",
             prepare=file("bad.csv", HEAD + rows() + "1,2\n")),
    evaluate("csv-100000-columns", "bad.csv", "has 100,000 columns; a table may have 16,384", prepare=file(
        "bad.csv", ",".join(f"c{at}" for at in range(100_000)) + "\n" + ",".join(["1"] * 100_000) + "\n")),
    evaluate("csv-not-utf-8", "bad.csv", "it is not UTF-8 text", prepare=file("bad.csv", b"n\xe9,b\n1,2\n")),
    evaluate("csv-utf-16", "bad.csv", "bad.csv", prepare=file("bad.csv", (HEAD + rows()).encode("utf-16"))),
    evaluate("csv-empty", "bad.csv", "it is empty; a table has a row a sample", prepare=file("bad.csv", "")),
    evaluate("csv-blank-lines", "bad.csv", "it is empty", prepare=file("bad.csv", "\n\n\n\n")),
    evaluate("csv-header-only", "bad.csv", "is an empty table: it has columns, but no rows",
             prepare=file("bad.csv", HEAD)),
    evaluate("csv-quote-never-closed", "bad.csv", "bad.csv cannot be read as a table",
             prepare=file("bad.csv", HEAD + '1,2,3,4,5,6,"' + rows(20_000))),
    evaluate("csv-labels-half-words", "bad.csv", "labels", prepare=file(
        "bad.csv", HEAD + rows(40) + "1,2,3,4,5,6,seven\n")),
    evaluate("parquet-garbage", "bad.parquet", "bad.parquet cannot be read as a table",
             prepare=file("bad.parquet", b"PAR1" + b"\xff" * 200 + b"PAR1")),
    evaluate("parquet-empty", "bad.parquet", "bad.parquet cannot be read as a table", prepare=file("bad.parquet", b"")),
    evaluate("parquet-truncated", "bad.parquet", "bad.parquet cannot be read as a table", prepare=half_parquet),
    evaluate("parquet-records", "bad.parquet", "column 'r' holds nested records; flatten it",
             prepare=parquet(lambda pa: pa.table({"r": [{"a": {"b": 1}}] * 9}))),
    evaluate("parquet-deep-lists", "bad.parquet", "column 'deep' holds 40 lists within each other",
             prepare=parquet(nested)),
    evaluate("parquet-ragged-lists", "bad.parquet", "are not numbers of one length",
             prepare=parquet(lambda pa: pa.table({"v": [[1.0], [1.0, 2.0]] * 9}))),
    evaluate("parquet-no-rows", "bad.parquet", "is an empty table", prepare=parquet(
        lambda pa: pa.table({"a": pa.array([], pa.int64()), "label": pa.array([], pa.int64())}))),
    evaluate("csv-is-a-fifo", "bad.csv", "bad.csv is a named pipe", prepare=lambda here: os.mkfifo(here / "bad.csv")),
    evaluate("series-row-of-empty-cells", "bad.csv", "line 12 of", "a row of a series is a step of time",
             prepare=file("bad.csv", "a,b\n" + "1,2\n" * 10 + ",\n" + "3,4\n" * 90), options=("--windows", "2,1")),
    evaluate("series-blank-line", "bad.csv", "line 12 of", "has no values",
             prepare=file("bad.csv", "a\n" + "1\n" * 10 + "\n" + "3\n" * 90), options=("--windows", "2,1")),
]  # fmt: skip

PICTURES = [
    evaluate("picture-of-900-megapixels", "pics", "pics/cat/huge.png cannot be read as a picture",
             "DecompressionBombError", prepare=pictures(("cat/huge.png", png(30_000, 30_000)))),
    evaluate("picture-truncated", "pics", "cat/cut.png cannot be read as a picture",
             prepare=pictures(("cat/cut.png", picture()[:-20]))),
    evaluate("picture-empty", "pics", "cat/empty.jpg cannot be read as a picture",
             prepare=pictures(("cat/empty.jpg", b""))),
    evaluate("picture-of-no-size", "pics", "cat/none.png cannot be read as a picture",
             prepare=pictures(("cat/none.png", png(0, 0)))),
    evaluate("picture-is-text", "pics", "dog/text.png cannot be read as a picture",
             prepare=pictures(("dog/text.png", b"<html>not found</html>"))),
    evaluate("picture-is-a-pickle", "pics", "cat/trap.npy cannot be read as a picture", prepare=pictures(
        ("cat/trap.npy", npy(shape=(1,), descr="|O", body=b"cos\nsystem\n(S'touch /tmp/sprung'\ntR.")))),
    evaluate("array-of-an-absurd-shape", "pics", "cat/big.npy cannot be read as a picture",
             prepare=pictures(("cat/big.npy", npy(shape=(10**13,))))),
    evaluate("picture-is-a-fifo", "pics", "cat/pipe.png is a named pipe, not a file with data",
             prepare=pictures(before=lambda path: os.mkfifo(path / "cat" / "pipe.png"))),
    evaluate("picture-is-a-socket", "pics", "cat/s.png is a socket",
             prepare=pictures(before=lambda path: bind(path / "cat" / "s.png"))),
    evaluate("picture-is-a-loop", "pics", "cat/loop.png cannot be opened (too many levels of symbolic links)",
             prepare=pictures(before=lambda path: (path / "cat" / "loop.png").symlink_to(path / "cat" / "loop.png"))),
    evaluate("picture-is-a-broken-link", "pics", "cat/gone.png cannot be opened (no such file or directory)",
             prepare=pictures(before=lambda path: (path / "cat" / "gone.png").symlink_to(path / "absent"))),
    evaluate("class-is-a-link-to-the-whole", "pics", "is a link to a folder around it; remove the link",
             prepare=pictures(before=lambda path: (path / "all").symlink_to(path))),
    evaluate("folders-2000-deep", "pics", "has folders more than 32 deep in each other",
             prepare=lambda here: (pictures()(here), deep(here))),
    evaluate("folders-200-deep", "pics", "has folders more than 32 deep in each other",
             prepare=pictures(before=some_deep)),
    evaluate("class-name-not-utf-8", "pics", "has a name that cannot be printed; rename it", prepare=pictures(
        before=lambda path: os.mkdir(os.fsencode(path) + b"/\xe9\xff"))),
    evaluate("class-name-with-escape", "pics", "'a\\x1b[2Jb'", "cannot be printed; rename it",
             prepare=pictures(before=lambda path: (path / "a\x1b[2Jb").mkdir())),
    evaluate("classes-differ-by-case", "pics", "the folders Cat and cat in", "differ by case alone",
             prepare=pictures(("Cat/0.png", picture()))),
    evaluate("one-part-twice", "pics", "the folders dev and val are both the select part",
             prepare=pictures(("dev/a/0.png", picture()), ("val/a/0.png", picture()), ("test/a/0.png", picture()))),
    evaluate("nothing-but-litter", "folder", "holds no data that is known", prepare=folder(
        ("Thumbs.db", b"x"), (".DS_Store", b"x"), ("__MACOSX/a/b.png", picture()), (".git/c.png", picture()))),
    evaluate("folder-empty", "folder", "holds no data that is known", prepare=folder()),
    evaluate("folder-with-a-fifo-npz", "folder", "x.npz is a named pipe",
             prepare=folder(then=lambda path: os.mkfifo(path / "x.npz"))),
    evaluate("folder-with-a-device-npy", "folder", "x_test.npy is a device",
             prepare=folder(then=lambda path: (path / "x_test.npy").symlink_to("/dev/zero"))),
    evaluate("npy-pickle", "folder", "x_test.npy cannot be read as a plain array", prepare=folder(
        ("x_test.npy", npy(shape=(1,), descr="|O", body=b"cos\nsystem\n(S'false'\ntR.")))),
    evaluate("npy-absurd-shape", "folder", "x_test.npy cannot be read as a plain array",
             prepare=folder(("x_test.npy", npy(shape=(2**40, 2**30))))),
    evaluate("idx-claims-terabytes", "folder", "would take",
             "of memory, by its headers", prepare=idx_folder(idx(10**9, 1000, 1))),
    evaluate("idx-claims-more", "folder", "its header counts 6,000 bytes of elements, there are 60",
             prepare=idx_folder(idx(60, 10, 10, body=bytes(60)))),
    evaluate("idx-has-more", "folder", "its header counts 60 bytes of elements, there are more",
             prepare=idx_folder(idx(60, 1, 1, body=bytes(600)), packed=False)),
    evaluate("idx-bomb", "folder", "its header counts 60 bytes of elements, there are more",
             prepare=idx_folder(idx(60, 1, 1, body=bytes(2**27)))),
    evaluate("idx-labels-lie", "folder", "inputs and labels differ in length: x 60, labels 5",
             prepare=idx_folder(idx(60, 1, 6, body=bytes(360)), labels=idx(5, body=bytes(5)))),
    evaluate("idx-no-type", "folder", "is not a whole idx file", prepare=idx_folder(idx(60, 1, 1, kind=99))),
]  # fmt: skip

SAVED = [
    evaluate("saved-arrow-garbage", "saved", "data.arrow is no file of Arrow", prepare=saved()),
    evaluate("saved-arrow-absent", "saved", "data.arrow cannot be opened", prepare=saved(**{"data.arrow": None})),
    evaluate("saved-json-garbage", "saved", "state.json is no JSON", prepare=saved(**{"state.json": "{'no"})),
    evaluate("saved-json-deep", "saved", "dataset_info.json is no JSON",
             prepare=saved(**{"dataset_info.json": "[" * 100_000})),
    evaluate("saved-json-list", "saved", "state.json holds no JSON object", prepare=saved(**{"state.json": "[]"})),
    evaluate("saved-names-a-file-outside", "saved", "state.json names no plain file of data", prepare=saved(
        **{"state.json": json.dumps({"_data_files": [{"filename": "../../../etc/passwd"}]})})),
    evaluate("saved-splits-are-a-number", "saved", "dataset_dict.json has no list of splits",
             prepare=saved(**{"dataset_dict.json": '{"splits": 3}'})),
]  # fmt: skip

_DATASET = """
import numpy as np

class Data:
    count = 60
    def __len__(self):
        return self.count
    def __getitem__(self, at):
        if at >= 60:
            raise IndexError(at)
        return self.item(at)
    def item(self, at):
        return np.zeros(6, np.float32), at % 3

good = (np.zeros((60, 6), np.float32), np.arange(60) % 3)
"""


def items(name, body, *says, **others):
    """Return a case whose data is what ``data()`` returns, in the words of ``body``."""
    return evaluate(f"factory-{name}", "data.py:data", *says, prepare=file("data.py", _DATASET + body), **others)


def length(name, expression, *says):
    return items(
        f"length-{name}",
        f"class Odd(Data):\n def __len__(self): return {expression}\ndef data(): return {{'test': Odd()}}\n", *says,
    )  # fmt: skip


def item(name, lines, *says):
    return items(
        f"item-{name}", f"class Odd(Data):\n def item(self, at):\n  {lines}\ndef data(): return {{'test': Odd()}}\n", *says
    )


def given(name, expression, *says):
    return items(name, f"def data(): return {expression}\n", *says)


OBJECTS = [
    length("negative", "-1", "the length of the Odd cannot be used (ValueError", "a whole number from 0 up"),
    length("float", "3.5", "the length of the Odd cannot be used (TypeError"),
    length("string", "'60'", "the length of the Odd cannot be used (TypeError"),
    length("raises", "1 // 0", "the length of the Odd cannot be used (ZeroDivisionError"),
    length("beyond-64-bits", "10**30", "the length of the Odd cannot be used (OverflowError"),
    length("billions", "60 * 10**9", "has 60,000,000,000 items by its length; a part has 100,000,000 at most"),
    length("lies-by-a-million", "60 * 10**6", "item 59999999 of the Odd raised IndexError", "it has 60,000,000"),
    length("lies-by-ten", "70", "item 60 of the Odd raised IndexError: 60; by its length it has 70"),
    length("zero", "0", "the test part is empty"),
    items("length-changes", "class Odd(Data):\n def __len__(self):\n  self.count -= 1\n  return self.count + 20\n"
          "def data(): return {'test': Odd()}\n", "raised IndexError: 60; by its length it has"),
    item("raises-at-17", "return Data.item(self, at if at != 17 else 1 // 0)", "item 17 of the Odd raised ZeroDivision"),
    item("exits", "raise SystemExit(7)", "item 0 of the Odd raised SystemExit: 7"),
    item("none", "return None if at == 5 else (np.zeros(6, np.float32), 1)", "item 5 of the Odd is None"),
    item("generator", "return (x for x in (1, 2)), 1", "item 0 of the Odd is a generator"),
    item("ragged", "return [[1], [1, 2]], 1", "item 0 of the Odd is a list", "not numbers"),
    item("empty-dict", "return {}, 1", "item 0 of the Odd is an empty dict"),
    item("other-inputs", "return {('a' if at % 2 else 'row'): np.zeros(6, np.float32)}, 1",
         "of the Odd has the inputs", "give all items the same"),
    item("label-only-sometimes", "return (np.zeros(6, np.float32), 1 if at != 9 else None)",
         "item 9 of the Odd has no label, item 0 has one"),
    item("label-shape-changes", "return (np.zeros(6, np.float32), 1 if at != 9 else [1, 2])",
         "item 9 of the Odd has a label of shape [2]"),
    item("label-object", "return np.zeros(6, np.float32), object()", "the label of item 0 of the Odd is a object"),
    item("label-nan", "return np.zeros(6, np.float32), float('nan') if at == 3 else 1.0",
         "the label of sample 3 of test is nan"),
    item("too-many", "return 1, 2, 3", "this one has 3 elements", "item 0 of the Odd"),
    given("classes-a-text", "{'test': good, 'classes': 'abc'}", "classes are a list of texts, this is a str ('abc')"),
    given("classes-a-number", "{'test': good, 'classes': 3}", "classes are a list of texts, this is a int (3)"),
    given("classes-numbers", "{'test': good, 'classes': (1, 2)}", "classes are a list of texts, number 0 is a int"),
    given("classes-endless", "{'test': good, 'classes': iter(lambda: 'a', 'b')}", "more than 1,000,000 classes"),
    given("preprocess-a-text", "{'test': good, 'preprocess': 'scale=1'}", "preprocess is a whet.Preprocess or None"),
    given("labels-texts", "{'test': (good[0], ['a'] * 60)}", "the labels are <U1, not numbers"),
    given("labels-objects", "{'test': (good[0], [object()] * 60)}", "row 0 is a object, not numbers"),
    given("labels-with-none", "{'test': (good[0], [1] * 30 + [None] * 30)}", "row 30 is None, not numbers"),
    given("labels-infinite", "{'test': (good[0], [float('inf')] * 60)}",
          "the label of sample 0 of test is inf, and 59 other values are not finite either"),
    given("iterator", "iter([1, 2])", "data is (train, test), (train, select, test) or whet.Data"),
    given("part-is-an-iterator", "{'test': (x for x in ())}", "generator has no length or no items by number"),
    given("endless-iterator", "{'test': iter(int, 1)}", "has no length or no items by number"),
    given("part-is-none", "{'test': None}", "the data has no test part"),
    given("part-unknown", "{'tset': good}", "data has no part 'tset'; did you mean 'test'?"),
    given("none", "None", "data is (train, test), (train, select, test) or whet.Data(...), this is a NoneType"),
    given("pairs", "{'test': [(np.zeros(6, np.float32), 1)] * 30 + [None]}", "item 30 of the list is None"),
    given("inputs-complex", "{'test': (np.zeros((60, 6), complex), good[1])}", "holds complex128, not numbers"),
    given("inputs-nan", "{'test': (good[0] + np.nan, good[1])}", "has a NaN or infinite value"),
    given("inputs-dates", "{'test': (np.zeros((60, 6), 'M8[s]'), good[1])}", "datetime64[s], not numbers"),
    items("raises", "def data(): raise KeyError('x')\n", "data.py:data raised KeyError"),
    items("recursion", "def data(): return data()\n", "data.py:data raised RecursionError"),
]  # fmt: skip

CASES = [*ARCHIVES, *TABLES, *PICTURES, *SAVED, *OBJECTS]


@pytest.mark.parametrize(
    "case", [pytest.param(case, id=case.name, marks=[pytest.mark.slow] if case.slow else []) for case in CASES]
)
def test_hostile(case, survives):
    survives(case)
