"""From raw inputs to tensors by hand, with Pillow and NumPy, and from outputs to answers."""

import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from scipy.special import expit, softmax

from whet.data import preprocess as module
from whet.data.preprocess import Postprocess, Preprocess, from_json, probabilities, to_json
from whet.data.raw import read_raw

RNG = np.random.default_rng(0)
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def pictures(*shape):
    return RNG.integers(0, 256, shape, dtype=np.uint8)


def test_nothing_asked_changes_nothing():
    raw = pictures(3, 4, 5)
    assert Preprocess().identity
    assert Preprocess()(raw) is raw
    listed = Preprocess()([raw[0], raw[1]])
    assert listed.dtype == np.uint8
    np.testing.assert_array_equal(listed, raw[:2])


@pytest.mark.parametrize("layout", [None, "HWC", "CHW"])
@pytest.mark.parametrize("statistics", [(MEAN, STD), ((0.5,), (0.25,)), (MEAN, ()), ((), STD), ((), ())])
def test_numbers_are_scaled_normalised_and_laid_out(layout, statistics):
    raw = pictures(2, 6, 5, 3)
    mean, std = statistics
    found = Preprocess(scale=1 / 255, mean=mean, std=std, layout=layout)(raw)
    expected = raw.astype(np.float64) / 255 - np.array(mean or 0.0)
    expected /= np.array(std or 1.0)
    expected = expected.transpose(0, 3, 1, 2) if layout == "CHW" else expected
    assert found.dtype == np.float32
    assert found.flags.c_contiguous
    np.testing.assert_allclose(found, expected, atol=1e-5)


@pytest.mark.parametrize(
    ("shape", "layout", "expected"),
    [
        ((2, 6, 5), None, (2, 6, 5)),
        ((2, 6, 5), "CHW", (2, 1, 6, 5)),
        ((2, 6, 5), "HWC", (2, 6, 5, 1)),
        ((2, 6, 5, 1), "CHW", (2, 1, 6, 5)),
        ((2, 6, 5, 1), "HWC", (2, 6, 5, 1)),
        ((2, 7), None, (2, 7)),
    ],
)
def test_grey_pictures_get_a_channel_where_a_layout_is_asked(shape, layout, expected):
    raw = pictures(*shape)
    found = Preprocess(scale=0.5, mean=(3.0,), layout=layout)(raw)
    assert found.shape == expected
    np.testing.assert_allclose(found.ravel(), raw.ravel() * 0.5 - 3)


@pytest.mark.parametrize(("name", "shape"), [("mean", (2, 6, 5, 1)), ("std", (2, 6, 5)), ("mean", (2, 6, 5, 2))])
def test_statistics_of_three_channels_do_not_spread_over_others(name, shape):
    asked = Preprocess(**{name: (0.1, 0.2, 0.3)}, layout="CHW")
    with pytest.raises(
        ValueError, match=rf"{name} has 3 numbers, the samples have \d channels .*; give one number"
    ):
        asked(pictures(*shape))


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
def test_arithmetic_is_in_single_precision_at_least(dtype):
    raw = pictures(2, 4, 4, 3)
    found = Preprocess(scale=1 / 255, mean=MEAN, std=STD, dtype=dtype)(raw)
    kind = np.float64 if dtype == "float64" else np.float32
    expected = (raw.astype(kind) * kind(1 / 255) - np.array(MEAN, kind)) / np.array(STD, kind)
    assert found.dtype == dtype
    np.testing.assert_allclose(found, expected.astype(dtype), rtol=1e-6 if dtype != "float64" else 1e-14)


def test_whole_numbers_keep_what_a_mean_takes_off():
    raw = np.array([[10], [20]], np.uint8)
    assert Preprocess(scale=2, mean=(1.5,), dtype="int64")(raw).tolist() == [[18], [38]]
    assert Preprocess(dtype="int32")(raw).dtype == np.int32


@pytest.mark.parametrize("interpolation", ["nearest", "lanczos", "bilinear", "bicubic", "box"])
@pytest.mark.parametrize("shape", [(9, 14), (9, 14, 3)])
def test_resizing_to_a_size_is_pillows(interpolation, shape):
    raw = pictures(2, *shape)
    found = Preprocess(resize=(6, 7), interpolation=interpolation)(raw)
    method = Image.Resampling[interpolation.upper()]
    expected = np.stack([np.asarray(Image.fromarray(one).resize((7, 6), method)) for one in raw])
    np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize(
    ("shape", "short", "expected"),
    [
        ((9, 14), 6, (6, 9)),
        ((14, 9), 6, (9, 6)),
        ((9, 9), 6, (6, 6)),
        ((9, 14), 20, (20, 31)),
        ((500, 333), 256, (384, 256)),
    ],
)
def test_a_short_side_decides_the_long_one_as_torchvision_does(shape, short, expected):
    # torchvision.transforms.functional._compute_resized_output_size: int(short * long side / short side)
    assert Preprocess(resize=short)(pictures(1, *shape)).shape[1:] == expected


@pytest.mark.parametrize(
    ("shape", "crop", "corner"),
    [((8, 8), 4, (2, 2)), ((9, 8), 4, (2, 2)), ((11, 8), 4, (4, 2)), ((8, 9), (8, 2), (0, 4)), ((5, 5), 5, (0, 0))],
)
def test_a_crop_is_centred_as_torchvision_does(shape, crop, corner):
    # torchvision.transforms.functional.center_crop: int(round((height - crop) / 2.0)), halves to even
    raw = pictures(2, *shape, 3)
    high, wide = (crop, crop) if isinstance(crop, int) else crop
    top, left = corner
    expected = raw[:, top : top + high, left : left + wide]
    np.testing.assert_array_equal(Preprocess(crop=crop)(raw), expected)


def test_the_steps_are_taken_in_order():
    raw = [pictures(20, 30, 3), pictures(25, 18)]
    found = Preprocess("RGB", 12, 8, "bicubic", 1 / 255, MEAN, STD, "CHW")(raw)
    expected = []
    for one, size in zip(raw, [(18, 12), (12, 16)], strict=True):
        image = Image.fromarray(one).convert("RGB").resize(size, Image.Resampling.BICUBIC)
        left, top = round((size[0] - 8) / 2), round((size[1] - 8) / 2)
        values = np.asarray(image.crop((left, top, left + 8, top + 8)), np.float64) / 255
        expected.append(((values - MEAN) / STD).transpose(2, 0, 1))
    assert found.shape == (2, 3, 8, 8)
    np.testing.assert_allclose(found, np.stack(expected), atol=1e-5)


def test_colour_is_converted_as_pillow_does():
    raw = pictures(2, 4, 4, 3)
    expected = np.stack([np.asarray(Image.fromarray(one).convert("L")) for one in raw])
    np.testing.assert_array_equal(Preprocess(color="L")(raw), expected)
    grey = pictures(2, 4, 4, 1)
    np.testing.assert_array_equal(Preprocess(color="RGB")(grey), np.repeat(grey, 3, axis=3))


def test_grey_pictures_of_float_can_be_resized():
    raw = RNG.standard_normal((2, 8, 8)).astype(np.float32)
    expected = np.stack([np.asarray(Image.fromarray(one).resize((4, 4), Image.Resampling.BILINEAR)) for one in raw])
    np.testing.assert_array_equal(Preprocess(resize=4)(raw), expected)


@pytest.mark.parametrize(
    ("asked", "raw", "told"),
    [
        (Preprocess(crop=9), pictures(1, 8, 12), "a 12x8 picture cannot be cropped to 9x9; resize it first"),
        (Preprocess(crop=(4, 13)), pictures(1, 8, 12), "a 12x8 picture cannot be cropped to 13x4"),
        (Preprocess(resize=4), pictures(1, 3, 8, 8), r"\(H, W\) or \(H, W, 3\); a sample is uint8 \(3, 8, 8\)"),
        (Preprocess(resize=4), np.zeros((1, 8, 8, 3), np.float32), r"a sample is float32 \(8, 8, 3\)"),
        (
            Preprocess(color="RGB"),
            np.zeros((1, 8, 8), np.float32),
            "color=RGB converts pictures of bytes, .* float32",
        ),
        (Preprocess(color="L"), np.zeros((1, 8, 8), np.uint16), "converts pictures of bytes, these are uint16"),
        (
            Preprocess(scale=0.5),
            [pictures(8, 8), pictures(8, 9)],
            r"differ in size \(\(8, 8\) and \(8, 9\)\); give",
        ),
        (Preprocess(resize=4), [pictures(8, 8), pictures(8, 8, 3)], "give --preprocess 'color=RGB'"),
    ],
)
def test_what_cannot_be_done_is_said_with_a_cure(asked, raw, told):
    with pytest.raises(ValueError, match=told):
        asked(raw)


sizes = st.none() | st.integers(1, 512) | st.tuples(st.integers(1, 512), st.integers(1, 512))
words = st.text('aé\n"\\{}0 ', max_size=5)
numbers = st.lists(st.floats(allow_nan=False, allow_infinity=False), max_size=4).map(tuple)


@settings(max_examples=25, deadline=None)
@given(
    st.builds(
        Preprocess,
        color=st.sampled_from([None, "RGB", "L"]),
        resize=sizes,
        crop=sizes,
        scale=st.floats(allow_nan=False, allow_infinity=False),
        mean=numbers,
        std=numbers,
        layout=st.sampled_from([None, "CHW", "HWC"]),
    ),
    st.builds(Postprocess, kind=words, softmax=st.booleans(), labels=st.lists(words).map(tuple)),
)
def test_json_gives_back_what_went_in(pre, post):
    assert from_json(to_json(pre, post)) == (pre, post)


def test_json_of_a_later_version_is_read():
    text = to_json(Preprocess(resize=8), Postprocess()).replace('"resize": 8', '"resize": 8, "flip": true')
    assert from_json(text)[0] == Preprocess(resize=8)


LOGITS = np.array([[1.0, 3, 2], [0, -1, 5]])


def test_answers_of_a_classifier_are_its_likeliest_classes():
    answers = Postprocess("classification", softmax=True, labels=("ant", "bee", "cow"), top_k=2)(LOGITS)
    assert [[one["label"] for one in answer] for answer in answers] == [["bee", "cow"], ["cow", "ant"]]
    shares = softmax(LOGITS, axis=1)
    assert [one["probability"] for one in answers[0]] == pytest.approx([shares[0, 1], shares[0, 2]])
    assert all(type(one["probability"]) is float for answer in answers for one in answer)


@pytest.mark.parametrize("top_k", [3, 5])
def test_classes_without_a_name_are_numbers(top_k):
    (answer, _) = Postprocess("classification", labels=("ant",), top_k=top_k)(softmax(LOGITS, axis=1))
    assert [one["label"] for one in answer] == ["1", "2", "ant"]


def test_one_column_answers_for_two_classes():
    post = Postprocess("classification", softmax=True, labels=("no", "yes"))
    assert post(np.array([[2.0]])) == [
        [
            {"label": "yes", "probability": pytest.approx(expit(2))},
            {"label": "no", "probability": pytest.approx(expit(-2))},
        ]
    ]


def test_other_outputs_are_answered_as_they_are():
    assert Postprocess()(np.array([[1.5, 2], [3, 4]], np.float32)) == [[1.5, 2], [3, 4]]
    assert Postprocess()(np.array([1, 2])) == [1, 2]


@pytest.mark.parametrize("scale", [1.0, 1000.0])
def test_probabilities_are_scipys_however_great_the_logits(scale):
    logits = scale * RNG.standard_normal((20, 5))
    np.testing.assert_allclose(probabilities(logits, softmax=True), softmax(logits, axis=1), atol=1e-15)
    column = logits[:, :1]
    np.testing.assert_allclose(
        probabilities(column, softmax=True), np.concatenate([1 - expit(column), expit(column)], axis=1), atol=1e-15
    )


def test_probabilities_are_left_alone():
    shares = softmax(LOGITS, axis=1)
    np.testing.assert_array_equal(probabilities(shares, softmax=False), shares)
    assert probabilities(np.array([0.25, 1]), softmax=False).tolist() == [[0.75, 0.25], [0, 1]]


@pytest.mark.parametrize(
    ("mode", "shape"),
    [("RGB", (4, 5, 3)), ("L", (4, 5)), ("RGBA", (4, 5, 3)), ("P", (4, 5, 3)), ("1", (4, 5)), ("LA", (4, 5))],
)
def test_pictures_are_read_as_bytes_in_colour_or_grey(tmp_path, mode, shape):
    image = Image.fromarray(pictures(4, 5, 3)).convert(mode)
    image.save(tmp_path / "a.png")
    found = read_raw(tmp_path / "a.png")
    assert found.dtype == np.uint8
    assert found.shape == shape
    np.testing.assert_array_equal(found, np.asarray(image.convert("RGB" if len(shape) == 3 else "L")))


@pytest.mark.parametrize(("dtype", "name"), [(np.uint16, "a.png"), (np.int32, "a.tiff"), (np.float32, "a.tiff")])
def test_pictures_of_more_than_eight_bits_are_refused_since_they_would_saturate(tmp_path, dtype, name):
    Image.fromarray(np.full((4, 5), 1000, dtype)).save(tmp_path / name)
    with pytest.raises(ValueError, match=r"more than 8 bits a channel .*; save it as 8-bit, or as \.npy"):
        read_raw(tmp_path / name)


def test_arrays_are_read_but_never_unpickled(tmp_path):
    raw = pictures(3, 4)
    np.save(tmp_path / "a.npy", raw)
    np.testing.assert_array_equal(read_raw(tmp_path / "a.npy"), raw)
    np.save(tmp_path / "b.npy", np.array([{}], dtype=object))
    with pytest.raises(ValueError, match="Python objects"):
        read_raw(tmp_path / "b.npy")


ALONE = """
import json, sys
sys.path.insert(0, ".")
from preprocess import preprocess
import numpy as np
pre, post = preprocess.from_json(open("preprocess.json").read())
np.save("found.npy", pre(np.load("raw.npy")))
print(json.dumps([post(np.array([[1.0, 3.0]])), "whet" in sys.modules]))
"""


def test_the_file_works_alone_without_whet(tmp_path):
    pre = Preprocess("RGB", 6, 4, scale=1 / 255, mean=MEAN, std=STD, layout="CHW")
    post = Postprocess("classification", softmax=True, labels=("no", "yes"), top_k=1)
    (tmp_path / "preprocess").mkdir()
    for name in ("preprocess", "columns", "tokens", "arrays"):
        shutil.copyfile(Path(module.__file__).with_name(f"{name}.py"), tmp_path / "preprocess" / f"{name}.py")
    (tmp_path / "preprocess.json").write_text(to_json(pre, post))
    raw = pictures(2, 8, 9, 3)
    np.save(tmp_path / "raw.npy", raw)
    command = [sys.executable, "-I", "-c", ALONE]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    answer = f'[[[{{"label": "yes", "probability": {float(expit(2))!r}}}]], false]'
    assert done.stdout.strip() == answer
    np.testing.assert_array_equal(np.load(tmp_path / "found.npy"), pre(raw))


def test_identity_is_lost_by_any_setting():
    for change in ({"scale": 0.5}, {"layout": "CHW"}, {"dtype": "float16"}, {"crop": 3}, {"color": "L"}):
        assert not replace(Preprocess(), **change).identity
