"""DATA as a user names it, and preprocessing as a user writes it."""

import pickle
from dataclasses import fields, replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from whet.data.data import Data, Part
from whet.data.preprocess import Postprocess, Preprocess
from whet.data.sources import DataSource, as_data, data_source, parse_preprocess
from whet.errors import DataError

X, Y = np.zeros((30, 2), np.float32), np.arange(30) % 3
PART = (X, Y)

FACTORIES = """
import numpy as np
from whet import Data, Preprocess

part = (np.zeros((30, 2), np.float32), np.arange(30) % 3)

def pair():
    return part, part

def triple():
    return [part, part, part]

def named():
    return {"test": part, "train": part, "classes": ["a", "b", "c"]}

def own():
    return Data(test=part, task="classification", preprocess=Preprocess(scale=0.5))

def optional(seed=0, *rest, **more):
    return part, part

def needs(folder, *, size):
    return part, part

def raises():
    raise FileNotFoundError("the archive is not mounted")

def mistaken():
    from whet.errors import DataError
    raise DataError("said as it is meant")

def nothing():
    pass

def typo():
    return {"tset": part}

def text():
    return "train.npz", "test.npz"

constant = 3
"""


@pytest.fixture(scope="module")
def factories(tmp_path_factory):
    path = tmp_path_factory.mktemp("user") / "data.py"
    path.write_text(FACTORIES)
    return path


@pytest.mark.parametrize(
    ("name", "sizes"),
    [
        ("pair", {"train": 30, "select": 15, "test": 15, "calibrate": 30}),
        ("triple", {"train": 30, "select": 30, "test": 30, "calibrate": 30}),
        ("named", {"train": 30, "select": 15, "test": 15, "calibrate": 30}),
        ("own", {"train": 0, "select": 15, "test": 8, "calibrate": 7}),
        ("optional", {"train": 30, "select": 15, "test": 15, "calibrate": 30}),
    ],
)
def test_a_factory_may_return_its_data_in_every_form(factories, name, sizes):
    splits = data_source(f"{factories}:{name}").open()
    assert {part.value: splits.size(part) for part in Part} == sizes


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("needs", r"data.py:needs needs arguments \(folder, size\); write a function without any"),
        ("raises", r"data.py:raises raised FileNotFoundError: the archive is not mounted"),
        ("mistaken", "^said as it is meant$"),
        ("nothing", r"data is \(train, test\), \(train, select, test\) or whet.Data\(...\), this is a NoneType"),
        ("typo", "data has no part 'tset'; did you mean 'test'"),
        ("text", "this is a str; inputs are an array"),
        ("tripel", r"data.py has no function 'tripel'; did you mean 'triple'"),
        ("constant", "data.py:constant is a int, not a function"),
    ],
)
def test_a_factory_that_gives_no_data_is_named(factories, name, told):
    with pytest.raises(DataError, match=told):
        data_source(f"{factories}:{name}").open()


def test_a_factorys_file_that_is_missing_is_named(tmp_path):
    with pytest.raises(DataError, match=r"nowhere.py does not exist; check the path before the colon"):
        data_source(f"{tmp_path}/nowhere.py:data").open()


def test_a_relative_name_is_good_in_another_folder(factories, monkeypatch, tmp_path):
    monkeypatch.chdir(factories.parent)
    source = data_source("data.py:pair")
    np.savez("some.npz", x=X, y=Y)
    archive = data_source("some.npz")
    monkeypatch.chdir(tmp_path)
    assert source.open().size(Part.TRAIN) == 30
    assert archive.open().size(Part.TEST) == 8


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("digts", "'digts' is neither a file, a folder nor a built-in name; did you mean 'digits'"),
        ("no/such/folder", "'no/such/folder' is neither .*; known: digits"),
        ("", "the data '' is neither a file"),
    ],
)
def test_an_unknown_name_is_refused_before_anything_is_opened(name, told):
    with pytest.raises(DataError, match=told):
        data_source(name)


@pytest.mark.parametrize("name", ["model.onnx", "factory.py", "table.xyz"])
def test_a_file_of_another_kind_is_refused(tmp_path, name):
    (tmp_path / name).write_bytes(b"")
    with pytest.raises(
        DataError, match=rf"cannot read {name} as data; data is a .npz, .csv, .tsv or .parquet file, a folder"
    ):
        data_source(tmp_path / name).open()


def test_built_in_data_and_folders_are_found_by_name(tmp_path):
    assert data_source("digits").open().size(Part.TEST) == 720
    np.savez(tmp_path / "train.npz", x=X, y=Y)
    np.savez(tmp_path / "test.npz", x=X, y=Y)
    splits = data_source(tmp_path).open()
    assert (splits.size(Part.TRAIN), splits.size(Part.TEST)) == (30, 15)


def test_what_is_asked_takes_the_place_of_the_datas_own(factories):
    source = data_source(f"{factories}:own", preprocess=Preprocess(scale=3), task="fidelity", seed=5)
    splits = source.open()
    assert (splits.preprocess, splits.task) == (Preprocess(scale=3), "fidelity")
    own = data_source(f"{factories}:own").open()
    assert (own.preprocess, own.task) == (Preprocess(scale=0.5), "classification")
    assert set(splits.parts[Part.SELECT].indices) != set(own.parts[Part.SELECT].indices)


def test_a_source_is_taken_as_it_is_but_for_what_is_asked():
    source = DataSource("digits", task="classification", seed=3)
    assert data_source(source) == source
    assert data_source(source, task="fidelity") == replace(source, task="fidelity")
    assert data_source(source, preprocess=Preprocess(scale=2)).preprocess == Preprocess(scale=2)


def test_objects_in_memory_travel_by_pickle():
    source = data_source((PART, PART), task="classification")
    assert source.name == "memory"
    again = pickle.loads(pickle.dumps(source))
    assert again.open().fingerprint() == source.open().fingerprint()


@pytest.mark.parametrize(
    "value", [X, 3, object(), (PART,), (PART,) * 4, {"x_train": X}, {"test": PART, "extra": 1}]
)
def test_objects_that_are_no_data_are_refused_at_once(value):
    with pytest.raises(DataError):
        data_source(value)


def test_a_dict_without_a_test_part_says_so():
    with pytest.raises(DataError, match="the data has no test part"):
        data_source({"train": PART}).open()


def test_a_tuple_names_its_parts_by_their_place():
    assert as_data(("first", "last")) == Data(train="first", test="last")
    assert as_data(["first", "middle", "last"]) == Data(train="first", select="middle", test="last")


def test_every_field_of_data_may_be_named_in_a_dict():
    values = {"train": PART, "test": PART, "select": PART, "calibrate": PART, "task": "regression"}
    values |= {"preprocess": Preprocess(), "classes": ("a",), "postprocess": Postprocess(), "notes": ("told",)}
    assert set(values) == {field.name for field in fields(Data)}
    assert as_data(values) == Data(**values)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", {}),
        (" ; ", {}),
        ("color=RGB", {"color": "RGB"}),
        ("color=L", {"color": "L"}),
        ("resize=256", {"resize": 256}),
        ("resize=1", {"resize": 1}),
        ("resize=240,320", {"resize": (240, 320)}),
        ("crop = 224 ;", {"crop": 224}),
        ("crop=10,20", {"crop": (10, 20)}),
        ("interpolation=lanczos", {"interpolation": "lanczos"}),
        ("scale=1/255", {"scale": 1 / 255}),
        ("scale=0.5", {"scale": 0.5}),
        ("scale=-1e-3", {"scale": -0.001}),
        ("mean=0.5", {"mean": (0.5,)}),
        ("mean=1/2, 1/4,0", {"mean": (0.5, 0.25, 0.0)}),
        ("std=2", {"std": (2.0,)}),
        ("mean=imagenet; std=imagenet", {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}),
        ("layout=CHW", {"layout": "CHW"}),
        ("layout=HWC", {"layout": "HWC"}),
        ("dtype=float16", {"dtype": "float16"}),
        ("resize=256; crop=224; layout=CHW", {"resize": 256, "crop": 224, "layout": "CHW"}),
    ],
)
def test_preprocessing_is_read_from_text(text, expected):
    assert parse_preprocess(text) == Preprocess(**expected)


TOML = """
color = "RGB"
resize = [240, 320]
crop = 224
interpolation = "bicubic"
scale = "1/255"
mean = "imagenet"
std = [0.5, 1, 0.25]
layout = "CHW"
dtype = "float32"
"""


def test_preprocessing_is_read_from_toml(tmp_path):
    path = tmp_path / "pre.toml"
    path.write_text(TOML)
    assert parse_preprocess(str(path)) == Preprocess(
        "RGB", (240, 320), 224, "bicubic", 1 / 255, (0.485, 0.456, 0.406), (0.5, 1.0, 0.25), "CHW", "float32"
    )
    path.write_text("scale = 0.00392156862745098")
    assert parse_preprocess(str(path)).scale == 0.00392156862745098


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("rezise=3", "unknown preprocessing 'rezise'; did you mean 'resize'"),
        ("flip=1", "unknown preprocessing 'flip'; known: color, crop, drop, dtype"),
        ("imagenet", "cannot read 'imagenet' in --preprocess; write key=value; key=value"),
        ("color=rgb", "cannot read color='rgb'; color is RGB or L"),
        ("resize=0", "cannot read resize='0'; resize is the short side in pixels, or height,width"),
        ("resize=-3", "resize is the short side"),
        ("resize=2.5", "resize is the short side"),
        ("resize=1,2,3", "resize is the short side"),
        ("resize=imagenet", "resize is the short side"),
        ("crop=", "crop is a side in pixels"),
        ("interpolation=cubic", "one of nearest, lanczos, bilinear, bicubic, box"),
        ("scale=1/0", "scale is a number, such as 1/255"),
        ("scale=1/2/3", "scale is a number"),
        ("scale=nan", "scale is a number"),
        ("scale=1,2", "scale is a number"),
        ("scale=imagenet", "scale is a number"),
        ("mean=0.5,,0.5", "mean is one number a channel, or imagenet"),
        ("mean=inf", "mean is one number a channel"),
        ("mean=cifar", "mean is one number a channel"),
        ("std=0.5,0,1", "std is one number a channel, none of them 0, or imagenet"),
        ("layout=NCHW", "layout is CHW or HWC"),
        ("dtype=float", "dtype is float32 or another NumPy type"),
    ],
)
def test_preprocessing_that_cannot_be_read_says_what_it_should_be(text, told):
    with pytest.raises(DataError, match=told):
        parse_preprocess(text)


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (None, "cannot read the preprocessing in .*pre.toml: .*No such file"),
        (b"resize = ", "cannot read the preprocessing in .*pre.toml"),
        (b"\xff\xfe", "cannot read the preprocessing in .*pre.toml"),
        (b"rezise = 3", "unknown preprocessing 'rezise'; did you mean 'resize'"),
        (b"resize = true", "cannot read resize='True'; resize is"),
        (b"[preprocess]\nresize = 3", "unknown preprocessing 'preprocess'"),
        (b"mean = [[1, 2]]", "mean is one number a channel"),
    ],
)
def test_toml_that_cannot_be_read_says_why(tmp_path, content, told):
    path = tmp_path / "pre.toml"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(DataError, match=told):
        parse_preprocess(str(path))


@settings(max_examples=100, deadline=None)
@given(st.text(alphabet="resizmancopltdy=;,/ 0123456789.-²٣", max_size=30))
def test_any_text_is_read_or_refused_in_our_own_words(text):
    told, found = "", None
    try:
        found = parse_preprocess(text)
    except DataError as error:
        told = str(error)
    assert isinstance(found, Preprocess) or "preprocess" in told or "cannot read" in told


def test_inputs_and_their_labels_are_not_taken_for_two_parts():
    with pytest.raises(DataError, match=r"seems to be the inputs \[8, 4\] and labels \[8\] of one part"):
        as_data((np.zeros((8, 4)), np.zeros(8)))


def test_two_unlabelled_parts_of_one_length_are_two_parts():
    found = as_data((np.zeros((8, 4)), np.ones((8, 4))))
    assert (found.train.sum(), found.test.sum()) == (0, 32)
