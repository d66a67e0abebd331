"""Raw samples out of files: what a picture's header says, and what is refused before memory is taken."""

import pytest
from PIL import Image

from whet.data.raw import exif_rotated


def write_picture(path, orientation=None, exif=None):
    """Write a small picture, with an EXIF orientation or with bytes in the place of EXIF."""
    tags = Image.Exif()
    if orientation is not None:
        tags[0x0112] = orientation
    Image.new("RGB", (6, 4), (200, 10, 10)).save(path, exif=tags.tobytes() if exif is None else exif)
    return path


@pytest.mark.parametrize("suffix", ["jpg", "png", "webp", "tiff"])
@pytest.mark.parametrize(("orientation", "rotated"), [(None, False), (1, False), (2, True), (6, True), (8, True)])
def test_the_exif_orientation_is_detected(tmp_path, suffix, orientation, rotated):
    assert exif_rotated(write_picture(tmp_path / f"photo.{suffix}", orientation)) is rotated


@pytest.mark.parametrize("orientation", [0, 9, 65535])
def test_an_orientation_that_exif_does_not_know_is_upright(tmp_path, orientation):
    assert not exif_rotated(write_picture(tmp_path / "photo.jpg", orientation))


@pytest.mark.parametrize("exif", [b"Exif\0\0", b"Exif\0\0MM\0*\xff\xff\xff\xff", b"Exif\0\0garbage" * 50])
def test_damaged_exif_has_no_orientation(tmp_path, exif):
    assert not exif_rotated(write_picture(tmp_path / "photo.jpg", exif=exif))


@pytest.mark.parametrize("content", [b"", b"no picture", b"\x89PNG\r\n\x1a\n"])
def test_what_is_no_picture_is_an_os_error(tmp_path, content):
    (tmp_path / "photo.png").write_bytes(content)
    with pytest.raises(OSError, match=r"photo\.png"):
        exif_rotated(tmp_path / "photo.png")
