"""What the tables of hostile data share: the case, and functions that write hostile files."""

import io
import os
import socket
import struct
import zlib
from pathlib import Path

import numpy as np
from driver import Case

OPEN = str(Path(__file__).with_name("open_data.py"))


def refused(name, data, *says, prepare, **others):
    """Return a case that opens and reads the hostile data at ``data`` in its folder."""
    options = tuple(others.pop("options", ()))
    if others.pop("whole", False):  # through a verb, child process and all
        command, program = ("evaluate", "{here}/good.onnx", "--data", f"{{here}}/{data}", *options), ("-m", "whet")
    else:
        command, program = (f"{{here}}/{data}", *options), (OPEN,)
    return Case(name, command, program=program, says=says, prepare=prepare, seconds=60, **others)


def npy(array=None, *, shape=None, descr="<f4", body=b"\0" * 64):
    """Return an ``.npy`` file, of an array or with a header of one's own."""
    file = io.BytesIO()
    if array is not None:
        np.save(file, array)
    else:
        np.lib.format.write_array_header_1_0(file, {"descr": descr, "fortran_order": False, "shape": shape})
        file.write(body)
    return file.getvalue()


def file(name, content):
    """Write one file; its folders are made."""

    def prepare(here):
        (here / name).parent.mkdir(parents=True, exist_ok=True)
        (here / name).write_bytes(content if isinstance(content, bytes) else content.encode())

    return prepare


def png(width, height, *, chunks=b""):
    """Return a PNG header of a size, with a few bytes of pixels."""

    def chunk(kind, content):
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    head = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + head + chunks + chunk(b"IDAT", zlib.compress(bytes(64))) + chunk(b"IEND", b"")


def picture(color=(9, 9, 9), size=(8, 8), kind="PNG", *, noise=False, **options):
    from PIL import Image

    pixels = np.random.default_rng(0).integers(0, 255, (*size, 3), np.uint8)
    made = io.BytesIO()
    (Image.fromarray(pixels) if noise else Image.new("RGB", size, color)).save(made, kind, **options)
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
        with socket.socket(socket.AF_UNIX) as made:
            made.bind(path.name)
    finally:
        os.fchdir(before)
        os.close(before)
