"""Steps that write hostile bundles and inputs, and the cases of ``predict.py`` made of them."""

import hashlib
import io
import json
import struct
import zipfile
import zlib

import numpy as np
from driver import Case

PREDICT = ("{here}/bundle/predict.py",)


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


def works(name, command="x.npy", prepare=None, count=2, program=PREDICT, **options):
    words = command.split() if isinstance(command, str) else command
    return Case(name, words, code=0, prepare=prepare or saved(ONES), program=program, needs=("bundle",),
                check=answered(count), **options)  # fmt: skip


ONES = np.ones((2, 6), np.float32)
GOOD = npy("(1, 6)", "<f4", ONES[:1].tobytes())
