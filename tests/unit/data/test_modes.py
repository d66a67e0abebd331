"""Pictures that are not stored as what goes in: how they are read, and what is said of them."""

import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from whet.data import modes
from whet.data.data import split
from whet.data.folders import read_folder
from whet.data.modes import Look, color_of, told
from whet.data.raw import read_raw
from whet.data.samples import looks, samples_of
from whet.errors import DataError

COLOURS = np.array([[[200, 40, 40], [30, 60, 220]], [[250, 250, 250], [60, 200, 90]]], np.uint8)
GREY = np.array([[0, 80], [160, 255]], np.uint8)
BITS = np.where(GREY > 128, 255, 0)


def blocks(pixels, side=16):
    """Return a picture of blocks so large that JPEG keeps the colour in the middle of each."""
    return Image.fromarray(pixels.repeat(side, axis=0).repeat(side, axis=1))


def middles(picture, side=16):
    return picture[side // 2 :: side, side // 2 :: side]


def see_through(image, mode):
    """Return a picture in a mode with transparency, all of it transparent."""
    image = image.convert(mode)
    image.putalpha(0)
    return image


# What is written, how it is stored, the pixels that it is read as, and by how much they may be off.
STORED = {
    "1-bit": ("a.png", lambda: blocks(GREY).convert("1", dither=Image.Dither.NONE), "1-bit", BITS, 0),
    "L": ("a.png", lambda: blocks(GREY), "L", GREY, 0),
    "L in a JPEG": ("a.jpg", lambda: blocks(GREY), "L", GREY, 2),
    "LA": ("a.png", lambda: see_through(blocks(GREY), "LA"), "LA", GREY, 0),
    "P": ("a.png", lambda: blocks(COLOURS).quantize(4), "P", COLOURS, 2),
    "P in a GIF": ("a.gif", lambda: blocks(COLOURS).quantize(4), "P", COLOURS, 2),
    "RGB": ("a.png", lambda: blocks(COLOURS), "RGB", COLOURS, 0),
    "RGBA": ("a.png", lambda: see_through(blocks(COLOURS), "RGBA"), "RGBA", COLOURS, 0),
    "CMYK in a JPEG": ("a.jpg", lambda: blocks(COLOURS).convert("CMYK"), "CMYK", COLOURS, 3),
    "CMYK in a TIFF": ("a.tif", lambda: blocks(COLOURS).convert("CMYK"), "CMYK", COLOURS, 0),
    "YCbCr": ("a.tif", lambda: blocks(COLOURS).convert("YCbCr"), "YCbCr", COLOURS, 2),
}


@pytest.mark.parametrize("case", STORED)
def test_a_picture_is_read_in_its_own_colours_however_it_is_stored(tmp_path, case):
    name, make, stored, pixels, off = STORED[case]
    make().save(tmp_path / name, **({"quality": 95} if name.endswith("jpg") else {}))
    found = modes.look("it", tmp_path / name)
    assert found == Look("it", stored, "L" if pixels.ndim == 2 else "RGB")
    read = middles(read_raw(tmp_path / name).astype(int))
    assert read.shape == pixels.shape
    assert np.abs(read - pixels).max() <= off


def test_a_jpeg_of_inks_is_adobes_whose_numbers_are_turned_over(tmp_path):
    """Full cyan takes all red away; half a black on top halves what is left: (1 - ink) * (1 - black)."""
    inks = [(255, 0, 0, 0), (0, 255, 0, 0), (0, 0, 255, 0), (0, 0, 0, 255), (0, 0, 0, 0), (255, 0, 0, 128)]
    for at, ink in enumerate(inks):
        path = tmp_path / f"{at}.jpg"
        Image.new("CMYK", (16, 16), ink).save(path, quality=95)
        assert b"Adobe" in path.read_bytes()
        expected = [(255 - each) * (255 - ink[3]) / 255 for each in ink[:3]]
        np.testing.assert_allclose(read_raw(path)[8, 8], expected, atol=3)


@pytest.mark.filterwarnings("error")
def test_a_palette_with_transparency_is_read_by_its_colours_without_a_warning(tmp_path):
    image = blocks(COLOURS).quantize(4)
    image.save(tmp_path / "shares.png", transparency=bytes([0, 80, 160, 255]))
    image.save(tmp_path / "one.png", transparency=1)
    for name in ("shares.png", "one.png"):
        assert modes.look("it", tmp_path / name) == Look("it", "PA", "RGB")
        assert np.abs(middles(read_raw(tmp_path / name).astype(int)) - COLOURS).max() <= 2


def test_colours_of_16_bits_keep_their_upper_8_and_that_is_told(tmp_path):
    deep = (COLOURS.astype(np.uint16) * 256 + 77).astype(">u2")
    _write_png(tmp_path / "a.png", deep)
    np.testing.assert_array_equal(read_raw(tmp_path / "a.png"), COLOURS)
    assert modes.look("it", tmp_path / "a.png") == Look("it", "RGB;16", "RGB")


def _write_png(path, pixels):
    """Write (H, W, 3) big-endian numbers of 16 bits, which Pillow cannot.

    Source: https://www.w3.org/TR/png-3/
    """

    def chunk(kind, content):
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    head = struct.pack(">IIBBBBB", pixels.shape[1], pixels.shape[0], 16, 2, 0, 0, 0)
    rows = b"".join(b"\0" + row.tobytes() for row in pixels)
    content = chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + content)


@pytest.mark.parametrize(("dtype", "name"), [(np.uint16, "a.png"), (np.uint16, "a.tif"), (np.float32, "a.tif")])
def test_what_its_reader_refuses_is_left_to_it(tmp_path, dtype, name):
    """Grey of more than 8 bits: converted by Pillow all of it would be white."""
    (tmp_path / "cat").mkdir()
    Image.fromarray(np.full((4, 5), 1000, dtype)).save(tmp_path / "cat" / name)
    assert modes.look("it", tmp_path / "cat" / name) is None
    with pytest.raises(DataError, match=rf"cat/{name} cannot be read .* more than 8 bits a channel"):
        read_folder(tmp_path).test.rows([0])
    (tmp_path / "cat" / name).write_bytes(b"no picture")
    assert modes.look("it", tmp_path / "cat" / name) is None


@pytest.mark.parametrize(
    ("shape", "mode"),
    [((4, 5), "L"), ((4, 5, 1), "L"), ((4, 5, 3), "RGB"), ((4, 5, 4), "RGBA"), ((3, 4, 5), None), ((7,), None)],
)
def test_an_array_is_looked_at_by_its_shape_and_is_never_converted_on_reading(tmp_path, shape, mode):
    np.save(tmp_path / "a.npy", np.zeros(shape, np.uint8))
    assert modes.look("it", tmp_path / "a.npy") == (mode and Look("it", mode, mode))
    (tmp_path / "a.npy").write_bytes(b"no array")
    assert modes.look("it", tmp_path / "a.npy") is None


def seen(**counts):
    """Return looks at so many pictures of each mode, by name: ``L=2`` are L0 and L1."""
    grey = ("L", "LA", "1-bit")
    return [
        Look(f"{mode}{at}", mode, "L" if mode in grey else "RGB")
        for mode, count in counts.items()
        for at in range(count)
    ]


@pytest.mark.parametrize(
    ("looks", "color", "sentence"),
    [
        (seen(RGB=5), None, None),
        (seen(RGB=5), "RGB", None),
        (seen(L=5), "L", None),
        ([], "RGB", None),
        (seen(RGB=5, L=1), "RGB", "1 of 6 pictures was converted to RGB: L0 (L)."),
        (
            seen(RGB=5, L=2, CMYK=1), "RGB",
            "3 of 8 pictures were converted to RGB (2 L, 1 CMYK): L0 (L), L1 (L), CMYK0 (CMYK).",
        ),
        (
            seen(RGB=5, RGBA=1), None,
            "1 of 6 pictures was converted to RGB: RGBA0 (RGBA); transparency was dropped.",
        ),
        (seen(RGB=5, LAB=1), None, "1 of 6 pictures was converted to RGB: LAB0 (LAB)."),
        (seen(L=5, LA=1), None, "1 of 6 pictures was converted to L: LA0 (LA); transparency was dropped."),
        (seen(CMYK=3), None, "All 3 pictures are stored as CMYK and were converted to RGB."),
        (seen(RGB=3), "L", "All 3 pictures are stored as RGB and were converted to L."),
        (
            seen(RGB=1, L=13), "RGB",
            f"13 of 14 pictures were converted to RGB: {', '.join(f'L{at} (L)' for at in range(10))} and 3 others.",
        ),
    ],
)  # fmt: skip
def test_converted_pictures_are_counted_by_mode_and_named(looks, color, sentence):
    assert told(looks, color) == (() if sentence is None else (sentence,))


@pytest.mark.parametrize(
    ("counts", "message"),
    [
        (
            {"RGB": 5, "L": 1},
            r"^1 of 6 pictures is not RGB as the others are: L0 \(L\); .* 'color=RGB', or remove them",
        ),
        ({"L": 1, "RGB": 1}, r"^1 of 2 pictures is not RGB"),
        ({"CMYK": 2, "LA": 1}, r"^1 of 3 pictures is not RGB as the others are: LA0 \(LA\)"),
        (
            {"L": 20, "RGB": 12},
            r"^12 of 32 pictures are not L .* RGB9 \(RGB\) and 2 others; .* 'color=L', or remove",
        ),
    ],
)
def test_grey_pictures_among_others_are_refused_where_no_colour_is_asked_for(counts, message):
    with pytest.raises(DataError, match=message):
        told(seen(**counts), None)


def test_colour_is_kept_wherever_there_is_any():
    assert [color_of(each) for each in (seen(L=3, LA=1), seen(L=9, RGB=1), [])] == ["L", "RGB", "RGB"]


def test_pictures_of_all_parts_are_looked_at_once_and_named_by_their_folders(tmp_path):
    for part, kind in (("train", "L"), ("test", "RGB")):
        for number in range(4):
            path = tmp_path / part / "cat" / f"{number}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            blocks(COLOURS, 1).convert(kind).save(path)
    (tmp_path / "train" / "cat" / "0.png").write_bytes(b"no picture")
    events = []
    splits = split(read_folder(tmp_path))  # select is part of test
    found = looks(splits.parts.values(), events.append)
    assert sorted(each.name for each in found if each.stored == "L") == [f"train/cat/{at}.png" for at in (1, 2, 3)]
    assert len(found) == 7
    assert (events[0].done, events[0].total) == (0, 8)
    assert looks([samples_of((np.zeros((4, 2)), None))]) == []
