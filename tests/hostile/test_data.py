"""Hostile archives, tables and saved data sets: refused by documented limits, not by the kernel."""

import json
import os
import struct
import warnings
import zipfile
import zlib

import numpy as np
from driver import table
from writers import bind, file, npy, refused

X = npy(np.zeros((60, 6), np.float32))


Y = npy(np.arange(60) % 3)


def archive(**members):
    """Write ``bad.npz`` with these members; a value may be a list of several of one name."""

    def prepare(here):
        with zipfile.ZipFile(here / "bad.npz", "w", zipfile.ZIP_DEFLATED) as file:
            for name, contents in members.items():
                for content in contents if isinstance(contents, list) else [contents]:
                    with warnings.catch_warnings():
                        warnings.simplefilter("ignore")  # of a name that is there already
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
    refused("npz-bomb", "bad.npz", "would take 36.4 TiB of memory, by its headers", "of which data may take half",
             whole=True, prepare=bomb),
    refused("npz-objects", "bad.npz", "Object arrays are not opened", PLAIN, whole=True, prepare=trap,
             check=lambda here, ended: "a pickle ran" if (here / "sprung").exists() else None),
    refused("npz-absurd-shape", "bad.npz", "claims 4,000,000,000,000 bytes of numbers, there are 64",
             prepare=archive(**{"x.npy": npy(shape=(10**12,))})),
    refused("npz-negative-shape", "bad.npz", "its shape (-3, 2) is negative",
             prepare=archive(**{"x.npy": npy(shape=(-3, 2))})),
    refused("npz-shape-overflows", "bad.npz", "bytes of numbers, there are 64",
             prepare=archive(**{"x.npy": npy(shape=(2**40, 2**40, 2**40))})),
    refused("npz-truncated", "bad.npz", "cannot be read as an .npz of plain arrays", prepare=cut),
    refused("npz-empty", "bad.npz", "cannot be read as an .npz of plain arrays", prepare=file("bad.npz", b"")),
    refused("npz-no-arrays", "bad.npz", "bad.npz has no test part", prepare=archive()),
    refused("npz-same-name-twice", "bad.npz", "has two arrays of the name 'x.npy'",
             prepare=archive(**{"x.npy": [X, X]})),
    refused("npz-path-outside", "bad.npz", "has a member '../../x.npy' that is no array of a plain name",
             prepare=archive(**{"../../x.npy": X})),
    refused("npz-absolute-path", "bad.npz", "has a member '/x.npy' that is no array",
             prepare=archive(**{"/x.npy": X})),
    refused("npz-text-within", "bad.npz", "has a member 'readme.txt' that is no array",
             prepare=archive(**{"x.npy": X, "readme.txt": b"hello"})),
    refused("npz-encrypted", "bad.npz", "is encrypted ('x.npy')", prepare=encrypted),
    refused("npz-thousands", "bad.npz", "has 2,000 arrays; give 1,000 at most",
             prepare=archive(**{f"x{at}.npy": b"" for at in range(2000)})),
    refused("npz-header-garbage", "bad.npz", "cannot be read as an .npz of plain arrays", "it is 'x.npy'",
             prepare=archive(**{"x.npy": b"\x93NUMPY\x01\x00\x20\x00" + b"[" * 32})),
    refused("npz-version-9", "bad.npz", "cannot be read as an .npz of plain arrays",
             prepare=archive(**{"x.npy": b"\x93NUMPY\x09\x00" + b"\0" * 80})),
    refused("npz-texts", "bad.npz", "input 'row' takes float32, the data has <U1", whole=True,
             prepare=archive(**{"x.npy": npy(np.array(["a", "b"] * 30)), "y.npy": Y})),
    refused("npz-labels-nan", "bad.npz", "the label of sample 7 of test is nan", prepare=archive(
        **{"x.npy": X, "y.npy": npy(np.where(np.arange(60) == 7, np.nan, 1.0))})),
    refused("npz-labels-short", "bad.npz", "inputs and labels differ in length: x 60, labels 10",
             prepare=archive(**{"x.npy": X, "y.npy": npy(np.arange(10))})),
    refused("npz-labels-bytes", "bad.npz", "the labels are |S1, not numbers",
             prepare=archive(**{"x.npy": X, "y.npy": npy(np.array([b"a"] * 60))})),
    refused("npz-is-a-fifo", "bad.npz", "bad.npz is a named pipe, not a file with data",
             whole=True, prepare=lambda here: os.mkfifo(here / "bad.npz")),
    refused("npz-is-a-socket", "bad.npz", "bad.npz is a socket, not a file with data",
             prepare=lambda here: bind(here / "bad.npz")),
    refused("npz-is-a-device", "bad.npz", "is a device",
             prepare=lambda here: (here / "bad.npz").symlink_to("/dev/zero")),
    refused("npz-is-a-broken-link", "bad.npz", "is neither a file, a folder nor a built-in name",
             prepare=lambda here: (here / "bad.npz").symlink_to(here / "absent")),
]  # fmt: skip

TABLES = [
    refused("csv-one-line-of-a-gigabyte", "bad.csv", "is no text: it holds NUL bytes", prepare=sparse),
    refused("csv-long-line", "bad.csv", "has a line of over 16 MiB: it is no table", prepare=long_line),
    refused("csv-nul-bytes", "bad.csv", "is no text: it holds NUL bytes",
         prepare=file("bad.csv", HEAD + "1,\0,3\n")),
    refused("csv-ragged", "bad.csv", "row 61 has 2 cells, the first line 7",
             whole=True, prepare=file("bad.csv", HEAD + rows() + "1,2\n")),
    refused("csv-100000-columns", "bad.csv", "has 100,000 columns; a table may have 16,384", prepare=file(
        "bad.csv", ",".join(f"c{at}" for at in range(100_000)) + "\n" + ",".join(["1"] * 100_000) + "\n")),
    refused("csv-not-utf-8", "bad.csv", "it is not UTF-8 text", prepare=file("bad.csv", b"n\xe9,b\n1,2\n")),
    refused("csv-utf-16", "bad.csv", "bad.csv", prepare=file("bad.csv", (HEAD + rows()).encode("utf-16"))),
    refused("csv-empty", "bad.csv", "it is empty; a table has a row a sample", prepare=file("bad.csv", "")),
    refused("csv-blank-lines", "bad.csv", "it is empty", prepare=file("bad.csv", "\n\n\n\n")),
    refused("csv-header-only", "bad.csv", "is an empty table: it has columns, but no rows",
             prepare=file("bad.csv", HEAD)),
    refused("csv-quote-never-closed", "bad.csv", "bad.csv cannot be read as a table",
             prepare=file("bad.csv", HEAD + '1,2,3,4,5,6,"' + rows(20_000))),
    refused("csv-labels-half-words", "bad.csv", "labels", prepare=file(
        "bad.csv", HEAD + rows(40) + "1,2,3,4,5,6,seven\n")),
    refused("parquet-garbage", "bad.parquet", "bad.parquet cannot be read as a table",
             prepare=file("bad.parquet", b"PAR1" + b"\xff" * 200 + b"PAR1")),
    refused("parquet-empty", "bad.parquet", "bad.parquet cannot be read as a table",
         prepare=file("bad.parquet", b"")),
    refused("parquet-truncated", "bad.parquet", "bad.parquet cannot be read as a table", prepare=half_parquet),
    refused("parquet-records", "bad.parquet", "column 'r' holds nested records; flatten it",
             prepare=parquet(lambda pa: pa.table({"r": [{"a": {"b": 1}}] * 9}))),
    refused("parquet-deep-lists", "bad.parquet", "column 'deep' holds 40 lists within each other",
             prepare=parquet(nested)),
    refused("parquet-ragged-lists", "bad.parquet", "are not numbers of one length",
             prepare=parquet(lambda pa: pa.table({"v": [[1.0], [1.0, 2.0]] * 9}))),
    refused("parquet-no-rows", "bad.parquet", "is an empty table", prepare=parquet(
        lambda pa: pa.table({"a": pa.array([], pa.int64()), "label": pa.array([], pa.int64())}))),
    refused("csv-is-a-fifo", "bad.csv", "bad.csv is a named pipe",
         prepare=lambda here: os.mkfifo(here / "bad.csv")),
    refused("series-row-of-empty-cells", "bad.csv", "line 12 of", "a row of a series is a step of time",
             prepare=file("bad.csv", "a,b\n" + "1,2\n" * 10 + ",\n" + "3,4\n" * 90), options=("--windows", "2,1")),
    refused("series-blank-line", "bad.csv", "line 12 of", "has no values",
             prepare=file("bad.csv", "a\n" + "1\n" * 10 + "\n" + "3\n" * 90), options=("--windows", "2,1")),
]  # fmt: skip

SAVED = [
    refused("saved-arrow-garbage", "saved", "data.arrow is no file of Arrow", whole=True, prepare=saved()),
    refused("saved-arrow-absent", "saved", "data.arrow cannot be opened", prepare=saved(**{"data.arrow": None})),
    refused("saved-json-garbage", "saved", "state.json is no JSON", prepare=saved(**{"state.json": "{'no"})),
    refused("saved-json-deep", "saved", "dataset_info.json is no JSON",
             prepare=saved(**{"dataset_info.json": "[" * 100_000})),
    refused("saved-json-list", "saved", "state.json holds no JSON object", prepare=saved(**{"state.json": "[]"})),
    refused("saved-names-a-file-outside", "saved", "state.json names no plain file of data", prepare=saved(
        **{"state.json": json.dumps({"_data_files": [{"filename": "../../../etc/passwd"}]})})),
    refused("saved-splits-are-a-number", "saved", "dataset_dict.json has no list of splits",
             prepare=saved(**{"dataset_dict.json": '{"splits": 3}'})),
]  # fmt: skip

CASES = [*ARCHIVES, *TABLES, *SAVED]


# Slower than half a second: others of their kinds run with the fast tests.
SLOW = (
    "csv-one-line-of-a-gigabyte", "csv-ragged", "npz-bomb", "npz-is-a-fifo", "npz-objects", "npz-texts",
    "parquet-no-rows", "parquet-ragged-lists", "saved-arrow-absent", "saved-arrow-garbage", "saved-json-deep",
    "saved-json-garbage", "saved-json-list", "saved-names-a-file-outside", "saved-splits-are-a-number",
)  # fmt: skip


@table(CASES, slow=SLOW)
def test_hostile(case, survives):
    survives(case)
