"""The pictures of a laboratory: the same parts for whoever trains and whoever measures."""

import numpy as np
import pytest
from PIL import Image

from whet.data.data import Part
from whet.data.preprocess import Preprocess
from whet.errors import DataError, ModelError, RunFolderError, UserError
from whet.lab import classifier
from whet.lab.conduct import Wanted, by_chance, conduct, in_words, pictures
from whet.lab.look import Seen
from whet.lab.parts import LabData, parted, unreadable
from whet.measure.quality import Quality
from whet.progress import silent
from whet.storage import mark
from whet.trials.pairs import Pairs

GREY = Seen(8, 8, 1, 2, scales=True)


def write(folder, counts, size=(8, 8), mode="L"):
    rng = np.random.default_rng(0)
    shape = size if mode == "L" else (*size, 3)
    for name, count in counts.items():
        (folder / name).mkdir(parents=True)
        for number in range(count):
            Image.fromarray(rng.integers(0, 255, shape, np.uint8)).save(folder / name / f"{number:03}.png")
    return folder


def numbers(samples):
    """Return the files of a part."""
    indices = np.arange(len(samples))
    while hasattr(samples, "base"):
        indices, samples = samples.indices[indices], samples.base
    return {samples.paths[at] for at in indices}


def test_one_folder_a_class_is_parted_alike_whatever_the_seed(tmp_path):
    root = write(tmp_path, {"cat": 40, "dog": 60})
    data = parted(root)
    assert data.classes == ("cat", "dog")
    assert np.bincount(data.test.labels()).tolist() == [12, 18]
    assert len(data.test) + len(data.train) + len(data.select) == 100
    assert not numbers(data.test) & (numbers(data.train) | numbers(data.select))
    tests = [numbers(LabData(str(root), seed=seed).open().parts[Part.TEST]) for seed in (0, 7)]
    assert tests[0] == tests[1] == numbers(data.test)


def test_parts_that_are_given_are_kept_and_all_of_test_is_measured(tmp_path):
    write(tmp_path / "train", {"cat": 30, "dog": 30})
    write(tmp_path / "test", {"cat": 10, "dog": 12})
    splits = LabData(str(tmp_path)).open()
    assert splits.size(Part.TEST) == 22
    assert splits.size(Part.TRAIN) + splits.size(Part.SELECT) == 60
    assert (splits.task, splits.classes) == ("classification", ("cat", "dog"))


def test_a_fraction_takes_the_same_share_of_each_class_by_its_seed(tmp_path):
    root = write(tmp_path, {"cat": 100, "dog": 200})  # 30 and 60 to test
    parts = [LabData(str(root), seed=seed, fraction=0.5).open() for seed in (0, 0, 1)]
    assert [np.bincount(each.labels(Part.TEST)).tolist() for each in parts] == [[15, 30]] * 3
    first, again, other = (numbers(each.parts[Part.TEST]) for each in parts)
    assert first == again != other
    assert "45 of 90 test pictures were taken (fraction 0.5, seed 0)" in " ".join(parts[0].notes)


def test_pictures_that_cannot_be_read_are_left_out_where_asked_for(tmp_path):
    root = write(tmp_path, {"cat": 20, "dog": 20})
    (root / "cat" / "003.png").write_bytes(b"no picture")
    assert unreadable(root) == (root / "cat" / "003.png",)
    whole, rest = (LabData(str(root), lost=lost).open() for lost in ((), unreadable(root)))
    parts = (Part.TRAIN, Part.SELECT, Part.TEST)
    kept = [set().union(*(numbers(splits.parts[part]) for part in parts)) for splits in (whole, rest)]
    assert kept[0] - kept[1] == {root / "cat" / "003.png"}
    assert rest.notes[0] == f"1 picture that cannot be read was left out: {root / 'cat' / '003.png'}."


@pytest.mark.parametrize(("others", "color", "told"), [("RGB", "RGB", "2 of 40"), ("L", "L", "")])
def test_a_classifier_is_trained_on_colour_where_there_is_any_whichever_picture_comes_first(
    tmp_path, capsys, others, color, told
):
    root = write(tmp_path, {"cat": 20, "dog": 20}, mode=others)
    first = next(iter(sorted(numbers(parted(root).test))))
    for path in (first, root / "dog" / "019.png"):
        Image.open(path).convert("L").save(path)
    made = classifier._preprocess(parted(root), classifier.Wish())
    assert (made.color, made.resize) == (color, (8, 8))
    error = capsys.readouterr().err
    assert "No train part was given" in error
    assert ("pictures were converted to RGB" in error) is bool(told)
    assert told in error


@pytest.mark.parametrize(("counts", "message"), [({"cat": 10}, "one class alone"), ({}, "holds no data")])
def test_a_folder_without_two_classes_is_refused(tmp_path, counts, message):
    write(tmp_path, counts)
    with pytest.raises(DataError, match=message):
        parted(tmp_path)


def test_pictures_without_folders_and_no_folder_are_refused(tmp_path):
    write(tmp_path, {"cat": 1})
    with pytest.raises(DataError, match="is no folder; name one with a folder a class in it"):
        parted(tmp_path / "gone")
    with pytest.raises(DataError, match="holds no pictures with class numbers"):
        parted(tmp_path / "cat")


@pytest.mark.parametrize(
    ("mode", "seen", "given", "expected"),
    [
        ("L", GREY, "", {"color": "L", "resize": (8, 8)}),
        ("RGB", Seen(4, 6, 3, 2, True), "", {"color": "RGB", "resize": (4, 6)}),
        ("RGB", GREY, "scale=1/255", {"color": "L", "resize": (8, 8), "scale": 1 / 255}),
        ("L", GREY, "resize=10; crop=8", {"color": "L", "resize": 10, "crop": 8}),
    ],
)
def test_pictures_are_brought_to_what_the_model_takes(tmp_path, mode, seen, given, expected):
    splits = LabData(str(write(tmp_path, {"cat": 9, "dog": 9}, (12, 10), mode))).open()
    made = pictures(given, seen, splits)
    assert made == Preprocess(layout="HWC", **expected)
    batch = made.inputs(splits.rows(Part.TEST, [0, 1]))["input"]
    assert batch.shape == (2, seen.height, seen.width, seen.channels)
    assert (batch.max() <= 1) == ("scale" in given)


def test_arrays_that_fit_are_left_as_they_are(tmp_path):
    rng = np.random.default_rng(0)
    x, y = rng.integers(0, 255, (60, 8, 8), np.uint8), np.arange(60) % 2
    np.savez(tmp_path / "all.npz", x_train=x, y_train=y, x_test=x, y_test=y)
    splits = LabData(str(tmp_path)).open()
    assert pictures("", GREY, splits) == Preprocess(layout="HWC")
    assert pictures("", Seen(4, 4, 3, 2, True), splits) == Preprocess("RGB", (4, 4), layout="HWC")


@pytest.mark.parametrize(("confusion", "told"), [(((28, 22), (23, 27)), True), (((45, 5), (5, 45)), False)])
def test_an_original_that_answers_by_chance_is_told(confusion, told):
    right = confusion[0][0] + confusion[1][1]
    pairs = Pairs(100, Quality(100, {"accuracy": right / 100}, 0.05, confusion), (), {}, {}, 1, 1, 0.95)
    found = list(by_chance(pairs))
    assert bool(found) is told
    assert not told or "answers 55 of 100 pictures rightly (at least 4" in found[0]


def test_what_goes_in_is_said_in_words():
    assert in_words(Preprocess(layout="HWC"), GREY).startswith("8 x 8 grey numbers from 0 to 255 (no scaling")
    assert (
        in_words(Preprocess(scale=1 / 255, mean=(0.5,)), GREY) == "8 x 8 grey numbers, times 0.003922, less (0.5,)"
    )


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"fraction": 0.0}, "the test fraction is a share above 0 and up to 1, not 0"),
        ({"fraction": 1.1}, "the test fraction is a share above 0 and up to 1, not 1.1"),
        ({"clusters": (16, 1)}, "clusters are 2 to 256 values, not 1; write 16"),
        ({"sparsities": (1.0,)}, "a sparsity is a share of zeros between 0 and 1, not 1"),
        ({"sparsities": (0.0,)}, "a sparsity is a share of zeros between 0 and 1, not 0"),
        ({"sparsities": ()}, "needs one number of clusters and one sparsity"),
        ({"epochs": 0.0}, "epochs are a number above 0, not 0"),
    ],
)
def test_numbers_that_make_no_sense_are_refused_before_anything_is_opened(tmp_path, changes, message):
    with pytest.raises(UserError, match=message):
        conduct(Wanted("no.keras", tmp_path, tmp_path / "results", **changes), silent)
    assert not (tmp_path / "results").exists()


def test_a_model_that_is_not_there_or_not_of_keras_is_refused(tmp_path):
    with pytest.raises(ModelError, match=r"no\.keras does not exist"):
        conduct(Wanted(str(tmp_path / "no.keras"), tmp_path, tmp_path / "results"), silent)
    (tmp_path / "model.onnx").write_bytes(b"x")
    with pytest.raises(ModelError, match=r"takes a Keras model \(.keras or .h5\), model is onnx"):
        conduct(Wanted(str(tmp_path / "model.onnx"), tmp_path, tmp_path / "results"), silent)
    assert not (tmp_path / "results").exists()


def test_a_laboratory_that_was_stopped_before_any_work_leaves_its_folder_free(tmp_path):
    (tmp_path / "model.keras").write_bytes(b"x")
    results = tmp_path / "results"
    (results / "run" / "logs").mkdir(parents=True)
    (results / "run.json").write_text('{"kind": "lab", "fraction": 0.25}')
    for folder in (results, results / "run"):
        mark(folder, "lab")
    with pytest.raises(DataError, match="gone is no folder"):  # and not: another command's
        conduct(Wanted(str(tmp_path / "model.keras"), tmp_path / "gone", results), silent)
    assert [path.name for path in results.iterdir()] == []
    results.mkdir(exist_ok=True)
    (results / "run.json").write_text('{"kind": "optimize"}')
    mark(results, "lab")
    with pytest.raises(RunFolderError, match="holds the work of another command"):
        conduct(Wanted(str(tmp_path / "model.keras"), tmp_path, results), silent)


def test_a_folder_of_something_else_is_left_alone_and_the_option_is_named(tmp_path):
    (tmp_path / "model.keras").write_bytes(b"x")
    (tmp_path / "results").mkdir()
    (tmp_path / "results" / "mine.txt").write_text("x")
    with pytest.raises(RunFolderError, match="not empty and not of whet's making; choose another --results-path"):
        conduct(Wanted(str(tmp_path / "model.keras"), tmp_path, tmp_path / "results"), silent)
    assert [path.name for path in (tmp_path / "results").iterdir()] == ["mine.txt"]
