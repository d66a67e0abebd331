"""Hostile inputs of ``predict.py``: damaged, absurd and huge files, and values that the model cannot take."""

import os
import socket
import zipfile

import numpy as np
from driver import table
from predict_cases import (
    GOOD,
    ONES,
    bomb,
    case,
    encrypted,
    in_manifest,
    lying_directory,
    npy,
    npz,
    png,
    saved,
    write,
)

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
            ("too-deep", np.ones((2, 6, 6), np.float32), "one sample has rank 1, a stack of them 2"),
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


# Slower than half a second: others of their kinds run with the fast tests.
SLOW = (
    "npz-encrypted", "npz-objects", "picture-svg", "table-of-gigabytes",
)  # fmt: skip


@table([*ARRAYS, *FILES], slow=SLOW)
def test_hostile(case, survives):
    survives(case)
