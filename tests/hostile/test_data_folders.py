"""Hostile folders of pictures and arrays: refused with the name of the file, or noted."""

import gzip
import io
import os
import struct

from driver import Case, table
from writers import OPEN, bind, folder, npy, picture, pictures, png, refused


def link(path):
    path.symlink_to(path)


def some_deep(path):
    (path / "cat" / "/".join("d" * 500)).mkdir(parents=True)


def idx(*counts, body=b"", kind=8):
    return bytes([0, 0, kind, len(counts)]) + struct.pack(f">{len(counts)}I", *counts) + body


def idx_folder(images, *, packed=True, labels=None):
    labels = idx(60, body=bytes(60)) if labels is None else labels
    pack = gzip.compress if packed else bytes
    end = ".gz" if packed else ""
    return folder((f"t10k-images-idx3-ubyte{end}", pack(images)), (f"t10k-labels-idx1-ubyte{end}", pack(labels)))


def noted(name, *says, prepare, data="pics"):
    return Case(
        name, (f"{{here}}/{data}",), program=(OPEN,), code=0, says=says, prepare=prepare, seconds=60,
    )  # fmt: skip


def rotated():
    from PIL import Image

    exif = Image.Exif()
    exif[0x0112] = 6
    return picture(kind="JPEG", exif=exif)


def animated():
    from PIL import Image

    made = io.BytesIO()
    frames = [Image.new("RGB", (8, 8), (at, at, at)) for at in (0, 90, 200)]
    frames[0].save(made, "GIF", save_all=True, append_images=frames[1:])
    return made.getvalue()


PICTURES = [
    refused("picture-of-900-megapixels", "pics", "pics/cat/huge.png cannot be read as a picture",
             "more pixels than Pillow's limit of 89,478,485",
             prepare=pictures(("cat/huge.png", png(30_000, 30_000)))),
    refused("picture-truncated", "pics", "cat/cut.png cannot be read as a picture",
             prepare=pictures(("cat/cut.png", picture(size=(80, 80), noise=True)[:-400]))),
    refused("picture-empty", "pics", "cat/empty.jpg cannot be read as a picture",
             prepare=pictures(("cat/empty.jpg", b""))),
    refused("picture-of-no-size", "pics", "cat/none.png cannot be read as a picture",
             prepare=pictures(("cat/none.png", png(0, 0)))),
    refused("picture-is-text", "pics", "dog/text.png cannot be read as a picture",
             prepare=pictures(("dog/text.png", b"<html>not found</html>"))),
    refused("picture-is-a-pickle", "pics", "cat/trap.npy cannot be read as a picture", prepare=pictures(
        ("cat/trap.npy", npy(shape=(1,), descr="|O", body=b"cos\nsystem\n(S'touch /tmp/sprung'\ntR.")))),
    refused("array-of-an-absurd-shape", "pics", "cat/big.npy cannot be read as a picture",
             prepare=pictures(("cat/big.npy", npy(shape=(10**13,))))),
    refused("picture-is-a-fifo", "pics", "cat/pipe.png is a named pipe, not a file with data",
             prepare=pictures(before=lambda path: os.mkfifo(path / "cat" / "pipe.png"))),
    refused("picture-is-a-socket", "pics", "cat/s.png is a socket",
             prepare=pictures(before=lambda path: bind(path / "cat" / "s.png"))),
    refused("picture-is-a-loop", "pics", "cat/loop.png cannot be opened (too many levels of symbolic links)",

                         prepare=pictures(before=lambda path: link(path / "cat" / "loop.png"))),
    refused("picture-is-a-broken-link", "pics", "cat/gone.png cannot be opened (no such file or directory)",
             prepare=pictures(before=lambda path: (path / "cat" / "gone.png").symlink_to(path / "absent"))),
    refused("class-is-a-link-to-the-whole", "pics", "is a link to a folder around it; remove the link",
             prepare=pictures(before=lambda path: (path / "all").symlink_to(path))),
    refused("folders-500-deep", "pics", "has folders more than 32 deep in each other",
             prepare=pictures(before=some_deep)),
    refused("class-name-not-utf-8", "pics", "has a name that cannot be printed; rename it", prepare=pictures(
        before=lambda path: (path / "\udce9\udcff").mkdir())),
    refused("class-name-with-escape", "pics", "'a\\x1b[2Jb'", "cannot be printed; rename it",
             prepare=pictures(before=lambda path: (path / "a\x1b[2Jb").mkdir())),
    refused("classes-differ-by-case", "pics", "the folders Cat and cat in", "differ by case alone",
             prepare=pictures(("Cat/0.png", picture()))),
    refused("one-part-twice", "pics", "the folders dev and val are both the select part",
             prepare=pictures(("dev/a/0.png", picture()), ("val/a/0.png", picture()), ("test/a/0.png", picture()))),
    refused("nothing-but-litter", "folder", "holds no data that is known", prepare=folder(
        ("Thumbs.db", b"x"), (".DS_Store", b"x"), ("__MACOSX/a/b.png", picture()), (".git/c.png", picture()))),
    refused("folder-empty", "folder", "holds no data that is known", prepare=folder()),
    refused("folder-with-a-fifo-npz", "folder", "x.npz is a named pipe",
             prepare=folder(then=lambda path: os.mkfifo(path / "x.npz"))),
    refused("folder-with-a-device-npy", "folder", "x_test.npy is a device",
             prepare=folder(then=lambda path: (path / "x_test.npy").symlink_to("/dev/zero"))),
    refused("npy-pickle", "folder", "x_test.npy cannot be read as a plain array", prepare=folder(
        ("x_test.npy", npy(shape=(1,), descr="|O", body=b"cos\nsystem\n(S'false'\ntR.")))),
    refused("npy-absurd-shape", "folder", "x_test.npy cannot be read as a plain array",
             prepare=folder(("x_test.npy", npy(shape=(2**40, 2**30))))),
    refused("idx-claims-terabytes", "folder", "would take",
             "of memory, by its headers", prepare=idx_folder(idx(10**9, 1000, 1))),
    refused("idx-claims-more", "folder", "its header counts 6,000 bytes of elements, there are 60",
             prepare=idx_folder(idx(60, 10, 10, body=bytes(60)))),
    refused("idx-has-more", "folder", "its header counts 60 bytes of elements, there are more",
             prepare=idx_folder(idx(60, 1, 1, body=bytes(600)), packed=False)),
    refused("idx-bomb", "folder", "its header counts 60 bytes of elements, there are more",
             prepare=idx_folder(idx(60, 1, 1, body=bytes(2**27)))),
    refused("idx-labels-lie", "folder", "inputs and labels differ in length: x 60, labels 5",
             prepare=idx_folder(idx(60, 1, 6, body=bytes(360)), labels=idx(5, body=bytes(5)))),
    refused("idx-no-type", "folder", "is not a whole idx file", prepare=idx_folder(idx(60, 1, 1, kind=99))),
]  # fmt: skip

NOTED = [
    noted("exif-rotation", "1 of 61 pictures carry an EXIF rotation that is not applied", "cat/turned.jpg",
          prepare=pictures(("cat/turned.jpg", rotated()))),
    noted("exif-garbage", "'test': 16", prepare=pictures(
        ("cat/odd.jpg", picture(kind="JPEG", exif=b"Exif\0\0MM\0*\xff\xff\xff\xff", icc_profile=b"x" * 99)))),
    noted("litter-among-pictures", "2 files that are no pictures were left out: cat/notes.txt, cat/x.exe",
          prepare=pictures(("cat/Thumbs.db", b"x"), ("cat/.hidden.png", b"x"), ("__MACOSX/cat/._0.png", b"x"),
                           (".DS_Store", b"x"), ("cat/notes.txt", b"x"), ("cat/x.exe", b"x"))),
    noted("class-without-pictures", "There are no pictures of empty",
          prepare=pictures(before=lambda path: (path / "empty").mkdir())),
    noted("folders-beside-parts", "The folders cat, dog are no parts and were left out", prepare=pictures(
        *((f"test/{kind}/{at}.png", picture((at, 0, 0))) for kind in ("a", "b") for at in range(30)))),
    noted("picture-animated", "'test': 16", prepare=pictures(("cat/moves.gif", animated()))),
    noted("picture-name-not-utf-8", "'test': 16", prepare=pictures(
        before=lambda path: (path / "cat" / "\udce9.png").write_bytes(picture()))),
]  # fmt: skip


CASES = [*PICTURES, *NOTED]


@table(CASES)
def test_hostile(case, survives):
    survives(case)
