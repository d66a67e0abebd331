"""Data in files, written by NumPy, Pillow or byte by byte."""

import gzip
import re
import struct

import numpy as np
import pytest
from PIL import Image

from whet.data import folders
from whet.data.data import Data, Part, split, with_preprocess
from whet.data.folders import read_folder, read_idx, read_npz, readable
from whet.data.preprocess import Preprocess
from whet.data.samples import samples_of
from whet.errors import DataError

X = np.arange(40, dtype=np.float32).reshape(20, 2)
Y = np.arange(20) % 3


def only(rows):
    (value,) = rows.values()
    return value


@pytest.mark.parametrize(
    ("inputs", "labels"),
    [("x", "y"), ("x_test", "y_test"), ("images", "labels"), ("data_t10k", "target_t10k"), ("X_Test", "Y_TEST")],
)
def test_an_npz_has_inputs_and_labels_under_many_names(tmp_path, inputs, labels):
    np.savez(tmp_path / "some.npz", **{inputs: X, labels: Y})
    samples = samples_of(read_npz([tmp_path / "some.npz"]).test)
    np.testing.assert_array_equal(only(samples.rows(range(20))), X)
    np.testing.assert_array_equal(samples.labels(), Y)


@pytest.mark.parametrize("name", ["some.npz", "train.npz", "test.npz"])
def test_an_npz_with_all_parts_is_read_by_the_endings_of_its_keys(tmp_path, name):
    keys = ["train", "val", "calibration", "test"]
    arrays = {f"x_{key}": X + at for at, key in enumerate(keys)} | {f"y_{key}": Y for key in keys}
    np.savez(tmp_path / name, **arrays)
    data = read_npz([tmp_path / name])
    for at, part in enumerate(["train", "select", "calibrate", "test"]):
        samples = samples_of(getattr(data, part))
        np.testing.assert_array_equal(only(samples.rows(range(20))), X + at)
        np.testing.assert_array_equal(samples.labels(), Y)


def test_other_arrays_are_inputs_by_name_and_labels_may_be_missing(tmp_path):
    np.savez(tmp_path / "some.npz", ids=X, attention_mask=X > 1)
    samples = samples_of(read_npz([tmp_path / "some.npz"]).test)
    assert set(samples.rows([0])) == {"ids", "attention_mask"}
    assert samples.labels() is None


def test_a_folder_has_an_npz_a_part(tmp_path):
    np.savez(tmp_path / "train.npz", x=X, y=Y)
    np.savez(tmp_path / "valid.npz", x=X[:4], y=Y[:4])
    np.savez(tmp_path / "test.npz", x=X[:8], y=Y[:8])
    (tmp_path / ".hidden.npz").write_bytes(b"not ours")
    splits = split(read_folder(tmp_path))
    assert [splits.size(part) for part in (Part.TRAIN, Part.SELECT, Part.TEST)] == [20, 4, 8]
    assert splits.batch(Part.TEST, [0])["x"].tolist() == [[0, 1]]


def test_a_key_in_two_files_of_a_folder_is_refused(tmp_path):
    np.savez(tmp_path / "a.npz", x=X)
    np.savez(tmp_path / "b.npz", x=X)
    with pytest.raises(DataError, match=r"has 'x' in several files, b\.npz among them; name the files train\.npz"):
        read_folder(tmp_path)


@pytest.mark.parametrize("keys", [("x_train", "y_train"), ("y",), ()])
def test_an_npz_without_a_test_part_says_what_it_has(tmp_path, keys):
    np.savez(tmp_path / "some.npz", **dict.fromkeys(keys, Y))
    told = rf"some.npz has no test part \(arrays: {', '.join(sorted(keys))}\); name them x_train, y_train, x_test"
    with pytest.raises(DataError, match=told):
        read_npz([tmp_path / "some.npz"])


def test_a_pickled_array_is_not_opened(tmp_path):
    class Trap:
        def __reduce__(self):
            return (open, (str(tmp_path / "sprung"), "w"))

    np.savez(tmp_path / "some.npz", x=np.array([Trap()], dtype=object))
    with pytest.raises(
        DataError, match=r"cannot be read as an .npz of plain arrays \(Object .*; write it with numpy"
    ):
        read_npz([tmp_path / "some.npz"])
    assert not (tmp_path / "sprung").exists()


@pytest.mark.parametrize("cut", [0, 30, 200])
def test_a_damaged_npz_is_named(tmp_path, cut):
    path = tmp_path / "some.npz"
    np.savez(path, x=X, y=Y)
    path.write_bytes(path.read_bytes()[:cut])
    with pytest.raises(DataError, match=r"some.npz cannot be read as an .npz"):
        read_npz([path])


def test_an_npy_called_npz_is_named(tmp_path):
    path = tmp_path / "some.npz"
    with path.open("wb") as file:
        np.save(file, X)
    with pytest.raises(DataError, match=r"some.npz cannot be read as an .npz"):
        read_npz([path])


def test_arrays_of_unequal_length_are_refused(tmp_path):
    np.savez(tmp_path / "some.npz", x=X, y=Y[:5])
    with pytest.raises(DataError, match="differ in length: x 20, labels 5"):
        read_npz([tmp_path / "some.npz"])


def test_a_single_value_is_no_array_of_samples(tmp_path):
    np.savez(tmp_path / "some.npz", x=X, seed=3)
    with pytest.raises(DataError, match="single value"):
        read_npz([tmp_path / "some.npz"])


def test_a_folder_of_npy_is_mapped_not_read(tmp_path):
    for name, array in (("x_train", X), ("y_train", Y), ("x_test", X + 1), ("y_test", Y)):
        np.save(tmp_path / f"{name}.npy", array)
    data = read_folder(tmp_path)
    assert isinstance(data.test.inputs["x"], np.memmap)
    assert isinstance(data.train.inputs["x"], np.memmap)
    splits = split(data)
    assert isinstance(splits.parts[Part.TEST].base.inputs["x"], np.memmap)
    number = int(splits.parts[Part.TEST].indices[3])
    np.testing.assert_array_equal(splits.batch(Part.TEST, [3])["x"], X[[number]] + 1)


@pytest.mark.parametrize("array", [np.array([{}], dtype=object), None])
def test_an_npy_that_is_no_plain_array_is_named(tmp_path, array):
    np.save(tmp_path / "x_train.npy", X)
    path = tmp_path / "x_test.npy"
    np.save(path, X if array is None else array)
    if array is None:
        path.write_bytes(path.read_bytes()[:-8])
    with pytest.raises(DataError, match=r"x_test\.npy cannot be read as a plain array"):
        read_folder(tmp_path)


def idx(array, code):
    """Return an idx file: 0, 0, type, axes, lengths, elements, all big-endian."""
    lengths = struct.pack(f">{array.ndim}I", *array.shape)
    return bytes([0, 0, code, array.ndim]) + lengths + array.astype(array.dtype.newbyteorder(">")).tobytes()


@pytest.mark.parametrize(
    ("code", "dtype"),
    [(8, "uint8"), (9, "int8"), (11, "int16"), (12, "int32"), (13, "float32"), (14, "float64")],
)
def test_idx_files_of_every_type_are_read_in_native_order(tmp_path, code, dtype):
    array = (np.arange(24).reshape(2, 3, 4) - (0 if dtype == "uint8" else 12)).astype(dtype)
    (tmp_path / "a.gz").write_bytes(gzip.compress(idx(array, code)))
    (tmp_path / "a").write_bytes(idx(array, code))
    for name in ("a.gz", "a"):
        found = read_idx(tmp_path / name)
        np.testing.assert_array_equal(found, array)
        assert found.dtype == np.dtype(dtype)
        assert found.dtype.isnative


@pytest.mark.parametrize("ending", ["idx{}-ubyte.gz", "idx{}-ubyte"])
def test_a_folder_of_the_mnist_family_is_read(tmp_path, ending):
    images = np.random.default_rng(0).integers(0, 255, (6, 4, 5), np.uint8)
    labels = np.array([0, 1, 2, 0, 1, 2], np.uint8)
    for part, count in (("train", 6), ("t10k", 4)):
        for kind, array, axes in (("images", images[:count], 3), ("labels", labels[:count], 1)):
            content = idx(array, 8)
            path = tmp_path / f"{part}-{kind}-{ending.format(axes)}"
            path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)
    (tmp_path / "README").write_text("as published")
    data = read_folder(tmp_path)
    assert (len(data.train), len(data.test)) == (6, 4)
    np.testing.assert_array_equal(data.test.rows(range(4))["x"], images[:4])
    np.testing.assert_array_equal(data.train.labels(), labels)


WHOLE = gzip.compress(idx(np.zeros((50, 4, 4), np.uint8), 8))


BROKEN = {
    "cut in its last bytes": WHOLE[:-9],
    "cut in its first bytes": WHOLE[:12],
    "empty": b"",
    "no gzip": b"no gzip at all",
    "gzip of nothing": gzip.compress(b""),
    "header only": gzip.compress(b"\0\0\x08\x03\0\0"),
    "one byte short": gzip.compress(idx(np.zeros((3, 3), np.uint8), 8)[:-1]),
    "one byte over": gzip.compress(idx(np.zeros((3, 3), np.uint8), 8) + b"\0"),
    "unknown type": gzip.compress(idx(np.zeros((3, 3), np.uint8), 7)),
}


@pytest.mark.parametrize("content", BROKEN.values(), ids=BROKEN)
def test_an_idx_file_that_is_not_whole_is_named(tmp_path, content):
    path = tmp_path / "t10k-images-idx3-ubyte.gz"
    path.write_bytes(content)
    with pytest.raises(DataError, match=r"idx3-ubyte.gz is not a whole idx file \(.*\); download it again"):
        read_folder(tmp_path)


def picture(path, value=0, shape=(6, 5, 3)):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full(shape, value, np.uint8)).save(path)


def test_one_folder_a_class_is_all_test(tmp_path):
    for at, name in enumerate(["cat", "dog", "ant"]):
        for number in range(3):
            picture(tmp_path / name / f"{number}.png", 10 * at + number)
    picture(tmp_path / "dog" / "deeper" / "3.PNG", 99)
    (tmp_path / "dog" / "notes.txt").write_text("no picture")
    data = read_folder(tmp_path)
    assert data.classes == ("ant", "cat", "dog")
    assert data.train is None
    assert data.test.labels().tolist() == [0, 0, 0, 1, 1, 1, 2, 2, 2, 2]
    values = data.test.rows(range(10))["input"][:, 0, 0, 0]
    assert values.tolist() == [20, 21, 22, 0, 1, 2, 10, 11, 12, 99]


def test_hidden_folders_and_files_are_no_classes_and_no_pictures(tmp_path):
    for name in ("cat", "dog"):
        picture(tmp_path / name / "0.png")
    (tmp_path / ".ipynb_checkpoints").mkdir()
    (tmp_path / "cat" / "._0.png").write_bytes(b"what a Mac leaves behind")
    data = read_folder(tmp_path)
    assert data.classes == ("cat", "dog")
    assert data.test.labels().tolist() == [0, 1]


def test_parts_may_lie_above_the_classes_which_are_numbered_together(tmp_path):
    for part, names in (("train", ["cat", "dog", "eel"]), ("val", ["dog"]), ("Test", ["cat", "eel"])):
        for name in names:
            picture(tmp_path / part / name / "0.jpg")
    data = read_folder(tmp_path)
    assert data.classes == ("cat", "dog", "eel")
    labels = {part: getattr(data, part).labels().tolist() for part in ("train", "select", "test")}
    assert labels == {"train": [0, 1, 2], "select": [1], "test": [0, 2]}
    assert data.notes == ("There are no pictures in test of dog.", "There are no pictures in select of cat, eel.")


def test_a_class_folder_without_pictures_is_told_and_keeps_its_number(tmp_path):
    for name in ("cat", "eel"):
        picture(tmp_path / name / "0.png")
    (tmp_path / "dog").mkdir()
    data = read_folder(tmp_path)
    assert data.classes == ("cat", "dog", "eel")
    assert data.test.labels().tolist() == [0, 2]
    assert data.notes == ("There are no pictures of dog.",)


def test_parts_without_a_test_folder_are_refused(tmp_path):
    picture(tmp_path / "train" / "cat" / "0.png")
    with pytest.raises(DataError, match=r"has no test folder \(it has train\); a verdict needs one"):
        read_folder(tmp_path)


@pytest.mark.parametrize("names", [[], ["readme.txt"]])
def test_a_folder_of_something_else_is_refused(tmp_path, names):
    for name in names:
        (tmp_path / name).write_bytes(b"")
    with pytest.raises(DataError, match=r"holds no data that is known: idx .gz files, .* in one folder a class"):
        read_folder(tmp_path)


def test_class_folders_without_pictures_are_an_empty_part(tmp_path):
    (tmp_path / "cat").mkdir()
    with pytest.raises(DataError, match="the test part is empty"):
        split(read_folder(tmp_path))


def test_a_picture_that_cannot_be_read_is_named_when_it_is_read(tmp_path):
    for name in ("cat", "dog"):
        picture(tmp_path / name / "0.png")
    (tmp_path / "dog" / "broken.jpg").write_bytes(b"\xff\xd8 no more")
    data = read_folder(tmp_path)
    with pytest.raises(DataError, match=r"dog/broken.jpg cannot be read as a picture"):
        data.test.rows(range(3))


def test_all_pictures_of_a_batch_that_cannot_be_read_are_named(tmp_path):
    for number in range(14):
        picture(tmp_path / "cat" / f"{number:02}.png")
        if number:
            (tmp_path / "cat" / f"{number:02}.png").write_bytes(b"no picture" if number % 2 else b"")
    samples = read_folder(tmp_path).test
    told = r"cat/01\.png cannot be read .*; nor can .*02\.png, .*03\.png; mend or remove them$"
    with pytest.raises(DataError, match=told):
        samples.rows(range(4))
    with pytest.raises(DataError, match=r"11\.png and 2 others; mend or remove them$"):
        samples.rows(range(14))


@pytest.mark.parametrize(
    ("shapes", "cure"), [([(6, 5, 3), (5, 6, 3)], "resize=...; crop=..."), ([(6, 5, 3), (6, 5)], "color=RGB")]
)
def test_pictures_that_differ_need_preprocessing_and_are_one_batch_with_it(tmp_path, shapes, cure):
    for at in range(6):
        picture(tmp_path / "cat" / f"{at}.png", at, shapes[at % 2])
    splits = split(read_folder(tmp_path))
    every = range(splits.size(Part.SELECT))
    small, large = sorted(shapes)
    told = f"select: samples differ in size ({small} and {large}); give --preprocess '{cure}'"
    with pytest.raises(DataError, match=re.escape(told)):
        splits.batch(Part.SELECT, every)
    asked = Preprocess("RGB", resize=4, crop=4, layout="CHW")
    assert with_preprocess(splits, asked).batch(Part.SELECT, every)["input"].shape == (len(every), 3, 4, 4)


def test_every_suffix_is_told_to_a_reader_that_has_it(tmp_path):
    for suffix in sorted(folders._PICTURES - {".npy"}):
        picture(tmp_path / "cat" / f"{suffix[1:]}{suffix}", 128)
    np.save(tmp_path / "cat" / "npy.npy", np.full((6, 5, 3), 128, np.uint8))
    samples = read_folder(tmp_path).test
    rows = samples.rows(range(len(samples)))["input"]
    assert rows.shape == (len(folders._PICTURES), 6, 5, 3)
    assert np.abs(rows.astype(int) - 128).max() <= 1


def test_pictures_that_cannot_be_read_are_left_out_where_asked_for_and_named(tmp_path):
    for name in ("cat", "dog"):
        for number in range(3):
            picture(tmp_path / name / f"{number}.png", number)
    (tmp_path / "dog" / "1.png").write_bytes(b"no picture")
    data = readable(read_folder(tmp_path))
    assert data.test.labels().tolist() == [0, 0, 0, 1, 1]
    assert data.test.rows(range(5))["input"][:, 0, 0, 0].tolist() == [0, 1, 2, 0, 2]
    assert data.notes == (f"1 picture that cannot be read was left out: {tmp_path / 'dog' / '1.png'}.",)
    whole = read_folder(tmp_path / "cat")
    assert readable(whole) is whole
    with pytest.raises(DataError, match="skipped in a folder of pictures; this data is none"):
        readable(Data(test=samples_of((np.zeros((4, 2), np.float32), None))))
