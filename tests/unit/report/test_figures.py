"""Figures: drawn for every kind of run, as whole PNG files. Most take a second each, and are marked slow."""

import struct
import zlib
from dataclasses import replace

import numpy as np
import pytest

from whet.report import figures


def checked(path) -> tuple[int, int]:
    """Return width and height of a PNG, every chunk of which has the checksum it states, and which has some ink."""
    content = path.read_bytes()
    assert content[:8] == b"\x89PNG\r\n\x1a\n"
    at, kinds, packed, size = 8, [], b"", (0, 0)
    while at < len(content):
        (length,), kind = struct.unpack(">I", content[at : at + 4]), content[at + 4 : at + 8]
        body, check = content[at + 8 : at + 8 + length], content[at + 8 + length : at + 12 + length]
        assert zlib.crc32(kind + body) == int.from_bytes(check, "big")
        if kind == b"IHDR":
            size = struct.unpack(">II", body[:8])
        packed += body if kind == b"IDAT" else b""
        kinds.append(kind)
        at += 12 + length
    assert kinds[-1] == b"IEND"
    assert len(set(zlib.decompress(packed))) > 20
    return size


NAMES = ["bars.png", "quality-latency.png", "confusion.png"]


def test_a_run_in_which_everything_failed_is_still_drawn(make, maker, tmp_path):
    failed = [maker().failure(name, "TimeLimit", "took longer") for name in ("float", "half")]
    drawn = figures.draw(tmp_path, replace(make(), results=tuple(failed), proof=None))
    assert [path.name for path in drawn] == NAMES[:1]
    width, height = checked(drawn[0])
    assert 200 < height <= width < 2000


@pytest.mark.slow
@pytest.mark.parametrize(
    ("asked", "names"),
    [
        ({}, NAMES),
        ({"failed": 2}, NAMES),
        ({"task": "regression", "failed": 1}, NAMES[:2]),
        ({"task": "fidelity", "batches": (1,)}, NAMES[:2]),
        ({"classes": 40}, NAMES),
        ({"classes": 2, "batches": (1, 8, 32)}, NAMES),
        ({"kind": "run", "failed": 1}, NAMES[:2]),
    ],
    ids=str,
)
def test_every_kind_of_run_is_drawn(make, tmp_path, asked, names):
    drawn = figures.draw(tmp_path / "figures", make(**asked))
    assert [path.name for path in drawn] == names
    for path in drawn:
        width, height = checked(path)
        assert 300 < height <= 1500
        assert 300 < width <= 3300


@pytest.mark.slow
@pytest.mark.parametrize("classes", [2, 10, 25, 26, 100])
def test_a_confusion_matrix_of_any_number_of_classes_is_of_a_size_to_look_at(tmp_path, classes):
    counts = np.random.default_rng(0).integers(0, 30, (classes, classes))
    names = [f"a rather long class name {at}" for at in range(classes)]
    width, height = checked(figures.confusion_matrix(tmp_path / "confusion.png", counts, names, "title"))
    assert 400 < height <= width < 1500


@pytest.mark.parametrize(
    ("values", "low", "high"),
    [
        ([0.9, 0.9, 0.9], 0.882, 0.9),  # all alike: a fiftieth of the best below it
        ([0.91, 0.90, 0.89, 0.10], 0.83, 0.91),  # a ruined candidate does not stretch the scale
        ([0.91, 0.90], 0.90, 0.91),
        ([-0.31, -0.32, -0.9], -0.35, -0.31),  # less is better: values come negated
    ],
)
def test_the_window_shows_good_candidates_apart(values, low, high):
    assert figures._window(values) == pytest.approx((low, high), abs=0.001)


@pytest.mark.parametrize(("sign", "best"), [(1, {"fast", "good"}), (-1, {"shadow", "small"})])
def test_the_front_keeps_what_no_other_beats_in_both(sign, best):
    points = {
        "fast": (1.0, 0.5),
        "shadow": (1.0, 0.4),
        "good": (2.0, 0.9),
        "slow": (3.0, 0.7),
        "small": (2.5, 0.1),
        "twin": (3.0, 0.9),
    }
    front = {
        name
        for name, point in points.items()
        if not any(figures._beats(other, point, sign) for other in points.values())
    }
    assert front == best
