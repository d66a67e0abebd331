"""The laboratory, end to end: a tiny Keras classifier on tiny pictures, every variant, every page."""

import json
import re
import shutil

import numpy as np
import pytest
from PIL import Image

from whet.cli.main import invoke
from whet.lab import conduct
from whet.lab.classifier import main as train
from whet.lab.look import look
from whet.lab.recipes import recipes
from whet.measure.measurement import speedups
from whet.models.keras.archive import read
from whet.models.source import source_of
from whet.progress import silent
from whet.recipe.recipe import Recipe
from whet.report.lab_results import load, shelf

COLOURS = {"blue": (40, 60, 200), "green": (40, 190, 70), "red": (200, 50, 40)}
NAMES = [
    "fp32", "fp16", "int8-dynamic", "int8-full", "int4-weights", "clustered-4-fp32", "pruned-0.5-fp32",
    "pruned-0.5-clustered-4-fp32", "pruned-0.5-sparse-fp32", "pruned-0.5-int8-full", "clustered-4-int8-full",
    "pruned-0.5-clustered-4-int8-full",
]  # fmt: skip
NUMBER = r"\d[\d,]*(?:\.\d+)?"
DERIVED = r"`[^`]*`|\d+ of \d+ others|all \d+ others|\(rank correlation [^)]*\)|within [\d.]+%|1\.05 times smaller"
OPTIONS = ("--epochs", "1", "--num-clusters", "4", "--sparsity", "0.5")


def paint(root, counts):
    """Write noisy pictures of one colour a class, a tenth of them of another class's."""
    rng = np.random.default_rng(1)
    names = list(COLOURS)
    for part, count in counts.items():
        for at, name in enumerate(names):
            (root / part / name).mkdir(parents=True)
            for number in range(count):
                shown = names[(at + 1) % 3] if number % 10 == 0 else name
                noise = rng.normal(0, 60, (8, 8, 3))
                pixels = np.clip(np.array(COLOURS[shown]) + noise, 0, 255).astype(np.uint8)
                Image.fromarray(pixels).save(root / part / name / f"{number:03}.png")
    return root


def classifier(path, root, outputs=3, *, foreign=False):
    """Train a tiny convolutional network on the pictures; ``foreign`` has a layer that torch has no equal of."""
    import os

    os.environ["KERAS_BACKEND"] = "tensorflow"
    import keras

    from whet.lab.parts import parted

    keras.utils.set_random_seed(0)
    net = keras.Sequential([
        keras.Input((8, 8, 3)),
        keras.layers.Rescaling(1 / 255),
        keras.layers.Conv2D(16, 3, padding="same", use_bias=False),
        keras.layers.BatchNormalization(momentum=0.8),
        keras.layers.ReLU(),
        keras.layers.Conv2D(24, 3, 2, padding="same", activation="relu"),
        keras.layers.GlobalAveragePooling2D(),
        *([keras.layers.UnitNormalization()] if foreign else []),
        keras.layers.Dense(outputs, activation="softmax"),
    ])  # fmt: skip
    if outputs == len(COLOURS):
        train = parted(root).train
        (x,) = train.rows(range(len(train))).values()
        net.compile(keras.optimizers.Adam(1e-2), "sparse_categorical_crossentropy")
        net.fit(x, train.labels(), epochs=15, batch_size=16, verbose=0)
    net.save(path)
    return path


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    folder = tmp_path_factory.mktemp("lab")
    root = paint(folder / "data", {"train": 40, "test": 60})
    classifier(folder / "model.h5", root)
    classifier(folder / "other.keras", root, outputs=5)
    return folder


def lab(place, results, *options):
    arguments = (
        "lab",
        "--model-path",
        place / "model.h5",
        "--dataset-root",
        place / "data",
        "--results-path",
        results,
    )
    return [str(word) for word in (*arguments, *OPTIONS, *options)]


def looked_at(results, names=NAMES):
    """Check every page, picture and file, and that the summary names them all; return the summary."""
    found = shelf(*load(results))
    assert [item.name for item in found.files] == names
    for name in ("original", *names):
        page = (results / f"{name}-metrics.md").read_text()
        for label in ("accuracy", "precision", "sensitivity", "G-mean", "F1 (macro)", "inference time"):
            assert f"| {label}" in page, name
        assert (results / f"{name}-confusion-matrix.png").read_bytes().startswith(b"\x89PNG")
    for name in names:
        page = (results / f"{name}-metrics.md").read_text()
        assert all(f"| {label} |" in page for label in ("size", "deflated size", "deflation"))
        assert (results / f"{name}.tflite").read_bytes()[4:8] == b"TFL3"
        assert found.pairs.contents[name].entropy_bits < 8
    return (results / "summary.md").read_text()


def held(found):
    """What the variants' names say is what lies in their files."""
    held = found.pairs.contents
    assert held["pruned-0.5-fp32"].zeros == pytest.approx(0.5, abs=0.02)
    assert held["pruned-0.5-clustered-4-int8-full"].zeros >= 0.45
    assert held["fp32"].zeros < 0.01
    assert held["clustered-4-fp32"].values < held["fp32"].values / 4
    sizes = {item.name: item.size_bytes for item in found.files}
    assert sizes["pruned-0.5-fp32"] == pytest.approx(sizes["fp32"], rel=0.02)
    assert sizes["fp16"] < sizes["fp32"]
    deflated = {item.name: item.deflated_bytes for item in found.files}
    assert deflated["pruned-0.5-fp32"] < deflated["fp32"]


def every_number_is_in_a_table(text):
    """Every accuracy, ratio, limit, size and share that a sentence tells is one that a table has."""
    cells = set(re.findall(NUMBER, " ".join(line for line in text.splitlines() if line.startswith("|"))))
    body = text.partition("## How quantization")[2].partition("## Every two files")[0]
    told = [line for line in body.splitlines() if line.startswith("- ") and "RFC 1951" not in line]
    assert len(told) > 10
    for sentence in told:
        for number in re.findall(NUMBER, re.sub(DERIVED, "", sentence)):
            assert number in cells, (number, sentence)


@pytest.fixture
def few(monkeypatch):
    """Three recipes in place of all: one that needs no training, one that does, one that fails."""

    def some(clusters, sparsities, training):
        found = {recipe.name: recipe for recipe in recipes(clusters, sparsities, training)}
        greedy = [{"pass": "export-tflite"}, {"pass": "static-int8", "samples": 100_000}]
        return [found["int8-full"], found["pruned-0.5-fp32"], Recipe.of("greedy-int8-full", greedy)]

    monkeypatch.setattr(conduct, "recipes", some)


def blemished(place, folder):
    """Return a copy of a place with one test picture more, that cannot be read, and one of train with alpha."""
    shutil.copytree(place, folder)
    (folder / "data" / "test" / "red" / "060.png").write_bytes(b"no picture")
    picture = folder / "data" / "train" / "blue" / "001.png"
    Image.open(picture).convert("RGBA").save(picture)
    return folder


def test_the_flow_in_one_process(place, tmp_path, at_once, few, capsys):
    place, results = blemished(place, tmp_path / "place"), tmp_path / "results"
    half = ("--test-dataset-fraction", "0.5", "--skip-unreadable")
    assert invoke(lab(place, results, *half)) == 1  # one recipe failed
    printed = capsys.readouterr().out
    named(" ".join(printed.split()))
    named((results / "summary.md").read_text())
    text = looked_at(results, ["fp32", "int8-full", "pruned-0.5-fp32"])
    assert "failed greedy-int8-full: " in printed
    raced(load(results)[1])
    assert "Measured on 90 of 180 test pictures (fraction 0.5)" in text
    assert "90 of 180 test pictures were taken (fraction 0.5, seed 0), the same share of each class." in text
    assert "| greedy-int8-full | failed: " in text
    assert "It failed: " in (results / "greedy-int8-full-metrics.md").read_text()
    assert not (results / "greedy-int8-full.tflite").exists()
    every_number_is_in_a_table(text)
    resumed_and_refused(place, results, half, text, capsys)


def named(text):
    """Pictures that were left out or converted are told once, by name."""
    assert text.count("1 picture that cannot be read was left out: ") == 1
    assert "/data/test/red/060.png." in text.replace("\n", "")
    converted = "1 of 300 pictures was converted to RGB: train/blue/001.png (RGBA); transparency was dropped."
    assert text.count(converted) == 1


def raced(outcome):
    """The conversion alone is raced against the Keras model, which takes long to open; the others against it."""
    for result in outcome.results:
        if result.failure is None:
            numbers = result.measurements
            assert bool(speedups(numbers, "original")) is (result.name == "float")
            assert speedups(numbers, "float")


def resumed_and_refused(place, results, options, text, capsys):
    """The same command finds all done and writes the pages again; another one is refused."""
    (results / "summary.md").unlink()
    assert invoke(lab(place, results, *options, "--json")) == 1
    assert json.loads(capsys.readouterr().out)["pictures"] == 90
    assert (results / "summary.md").read_text() == text
    assert invoke(lab(place, results)) == 2
    error = capsys.readouterr().err
    assert "holds the work of another command (fraction: 0.5 then, 1.0 now" in error
    assert "choose another --results-path" in error


@pytest.mark.slow
def test_a_model_that_torch_has_no_form_of_is_trained_like_any_other(place, tmp_path, at_once, few):
    path, results = classifier(tmp_path / "foreign.keras", place / "data", foreign=True), tmp_path / "results"
    invoke(lab(place, results, "--model-path", str(path)))
    laboratory, outcome = load(results)
    found = shelf(laboratory, outcome)
    assert [step.format for step in outcome.result("pruned-0.5-fp32").steps] == ["keras", "keras", "tflite"]
    assert found.pairs.contents["pruned-0.5-fp32"].zeros == pytest.approx(0.5, abs=0.02)


@pytest.mark.slow
def test_every_variant_and_every_page_in_processes_of_their_own(whet, place, tmp_path):
    done = whet(*lab(place, tmp_path / "results"))
    assert done.code == 0, done.err
    text = looked_at(tmp_path / "results")
    assert "Measured on 180 test pictures (fraction 1)" in text
    every_number_is_in_a_table(text)
    held(shelf(*load(tmp_path / "results")))


@pytest.mark.parametrize("options", [(), pytest.param(("--separable", "--size", "16"), marks=pytest.mark.slow)])
def test_a_classifier_is_trained_where_there_is_none(place, tmp_path, options, capsys):
    place, path = blemished(place, tmp_path / "place"), tmp_path / "new" / "model.keras"
    usual = ("--epochs", "3", "--width", "8", "--skip-unreadable")
    assert train([str(place / "data"), str(path), *usual, *options]) == 0
    printed, error = capsys.readouterr()
    named(error)
    (place / "data" / "test" / "red" / "060.png").unlink()
    told = re.search(r"([\d,]+) parameters, accuracy (0\.\d{4}) on 180 test pictures", printed)
    model = read(path)
    assert model.count_params() == int(told[1].replace(",", ""))
    side = 16 if options else 8
    assert model.input_shape == (None, side, side, 3)
    seen = look(source_of(str(path), None, ()), silent)
    assert (seen.height, seen.channels, seen.classes, seen.scales) == (side, 3, 3, True)
    assert right(model, place / "data", side) == pytest.approx(float(told[2]), abs=1e-4)


def right(model, root, side):
    """Return the share of the test pictures, read and resized by Pillow alone, that a model answers rightly."""
    names, pictures, labels = list(COLOURS), [], []
    for path in sorted((root / "test").rglob("*.png")):
        resized = Image.open(path).resize((side, side), Image.Resampling.BILINEAR)
        pictures.append(np.asarray(resized, np.float32))
        labels.append(names.index(path.parent.name))
    return float((model(np.stack(pictures)).numpy().argmax(axis=1) == labels).mean())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["gone", "model.keras"], "gone is no folder"),
        (["data", "model.pt"], "model.pt is no .keras or .h5 file; name the model so"),
        (["data", "model.h5", "--weights", "cifar"], "'cifar' is not"),
    ],
)
def test_a_classifier_that_cannot_be_trained_is_one_line(place, monkeypatch, capsys, arguments, message):
    monkeypatch.chdir(place)
    assert train(arguments) == 2
    error = capsys.readouterr().err.splitlines()
    assert error[-1].startswith("error: ")
    assert message in error[-1]
    assert not list(place.glob("model.keras*"))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--test-dataset-fraction", "0"), "the test fraction is a share above 0 and up to 1, not 0"),
        (("--num-clusters", "1"), "clusters are 2 to 256 values, not 1"),
        (("--sparsity", "1"), "a sparsity is a share of zeros between 0 and 1, not 1"),
        (("--sparsity", "half"), "'half' is no number"),
        (("--dataset-root", "gone"), "gone is no folder"),
        (("--model-path", "gone.h5"), "gone.h5 does not exist"),
    ],
)
def test_a_mistake_is_one_line_and_leaves_nothing_behind(place, tmp_path, here, options, message):
    done = here(*lab(place, tmp_path / "results", *options))
    assert (done.code, done.out) == (2, "")
    assert done.err.startswith("error: ")
    assert done.err.count("\n") == 1
    assert message in done.err
    assert not (tmp_path / "results").exists()


def test_a_model_of_other_classes_and_a_picture_that_is_none_are_refused(place, tmp_path, at_once, capsys):
    results = tmp_path / "results"
    assert invoke(lab(place, results, "--model-path", str(place / "other.keras"))) == 2
    assert "other tells 5 classes apart, the data has 3 (blue, green, red)" in capsys.readouterr().err
    root = paint(tmp_path / "data", {"train": 20, "test": 20})
    (root / "test" / "red" / "019.png").write_bytes(b"no picture")
    assert invoke(lab(place, results, "--dataset-root", str(root))) == 2
    error = capsys.readouterr().err
    assert "red/019.png cannot be read as a picture" in error
    assert error.count("\n") == 1
    assert not results.exists()
