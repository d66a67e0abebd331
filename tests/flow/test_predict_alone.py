"""``predict.py`` answers from a bundle where whet is not installed: with what requirements.txt names, no more."""

import json
import runpy
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import whet
from whet.bundle.verify import deployment_of, stored_of
from whet.bundle.write import Contents, write
from whet.data.data import Part
from whet.data.preprocess import Postprocess, probabilities
from whet.models.adapter import adapter_for
from whet.models.model import Facts, Stored
from whet.models.source import source_of
from whet.runtimes.base import Deployment, open_session
from whet.storage import sha256
from whet.types import Format

Alone = runpy.run_path(str(Path(__file__).parent.parent / "files" / "alone.py"))["Alone"]
_SPEC = "color=RGB; resize=12; crop=8; scale=1/255; mean=imagenet; std=imagenet; layout=CHW"


@pytest.fixture(scope="module")
def alone(run, tmp_path_factory):
    """Where NumPy and ONNX Runtime are, and nothing else."""
    return Alone(tmp_path_factory.mktemp("alone") / "venv", run / "bundle" / "requirements.txt")


def expected(bundle, inputs):
    """Return what whet's own session gives: the outputs by name."""
    from whet.bundle import manifest

    made = manifest.read(bundle)
    with open_session(stored_of(bundle, made), deployment_of(made)) as session:
        return session.run(made.signature.bind(inputs))


def seal_again(bundle):
    """Write the checksums of a changed bundle into its manifest."""
    made = json.loads((bundle / "manifest.json").read_text())
    made["files"] = {name: sha256(bundle / name) for name in made["files"]}
    (bundle / "manifest.json").write_text(json.dumps(made))


def same_classes(found, logits):
    """Tell whether answers name the classes of logits, best first, with their probabilities."""
    for answer, row in zip(found, probabilities(logits, softmax=True), strict=True):
        order = np.argsort(-row)[: len(answer)]
        assert [item["label"] for item in answer] == [str(number) for number in order]
        assert [item["probability"] for item in answer] == pytest.approx(row[order].tolist(), abs=1e-5)
    return True


def test_whet_is_not_there(alone):
    assert alone.has("numpy")
    assert alone.has("onnxruntime")
    for library in ("whet", "torch", "onnx", "scipy", "sklearn", "PIL", "msgspec", "click"):
        assert not alone.has(library), library


def test_arrays_single_stacked_and_named(alone, run, tiny, tmp_path):
    bundle = run / "bundle"
    x = tiny.images()[1][0][:6]
    logits = expected(bundle, {"x": x})["output"]
    np.save(tmp_path / "one.npy", x[0])
    np.save(tmp_path / "many.npy", x)
    np.savez(tmp_path / "named.npz", x=x)
    np.savez(tmp_path / "other.npz", pixels=x)
    assert same_classes(alone.answers(bundle, tmp_path / "one.npy"), logits[:1])
    assert same_classes(alone.answers(bundle, tmp_path / "many.npy"), logits)
    both = alone.answers(bundle, tmp_path / "named.npz", tmp_path / "other.npz")
    assert same_classes(both, np.concatenate([logits, logits]))


def test_the_golden_outputs(alone, run, bundle):
    done = alone.run(run / "bundle" / "predict.py", "--golden")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["golden"] == "ok"
    with np.load(bundle / "golden.npz") as golden:
        off = {**golden, "output.output": golden["output.output"] + 0.01}
        nan = {**golden, "output.output": golden["output.output"] * np.float32("nan")}
    for arrays in (off, nan):
        np.savez(bundle / "golden.npz", **arrays)
        seal_again(bundle)
        done = alone.run(bundle / "predict.py", "--golden")
        assert done.returncode == 1
        assert json.loads(done.stdout)["golden"] == "off"


def test_a_users_mistake_is_one_line(alone, run, tmp_path):
    np.save(tmp_path / "wide.npy", np.zeros((2, 1, 9, 9), np.float32))
    np.savez(tmp_path / "two.npz", a=np.zeros(2), b=np.zeros(2))
    (tmp_path / "text.txt").write_text("text")
    for name, told in (
        ("nowhere.npy", "No such file"),
        ("wide.npy", "the model's input x is [1, 8, 8] a sample, this is [1, 9, 9]"),
        ("two.npz", "the model's inputs are x, these are a, b"),
        ("text.txt", ""),
    ):
        done = alone.run(run / "bundle" / "predict.py", name, cwd=tmp_path)
        assert (done.returncode, done.stdout) == (2, ""), name
        assert done.stderr.startswith(f"error: {name}: ")
        assert told in done.stderr
        assert done.stderr.count("\n") == 1
    assert alone.run(run / "bundle" / "predict.py").returncode == 2
    assert alone.run(run / "bundle" / "predict.py", "--help").stdout.startswith("Answer from this bundle")


def test_nothing_is_left_behind_in_the_bundle(alone, bundle):
    before = sorted(bundle.rglob("*"))
    assert alone.run(bundle / "predict.py", "--golden").returncode == 0
    assert sorted(bundle.rglob("*")) == before


def test_rows_from_a_csv(alone, rows_run, tiny, tmp_path):
    bundle = rows_run[0] / "candidates" / "dynamic-int8"
    rows = tiny.rows()[1][0][:5]
    np.savetxt(tmp_path / "rows.csv", rows, delimiter=",", fmt="%.9g")
    np.savetxt(tmp_path / "row.csv", rows[:1], delimiter=",", fmt="%.9g")
    np.save(tmp_path / "row.npy", rows[0])
    wanted = expected(bundle, {"row": rows})["answer"]
    assert np.allclose(alone.answers(bundle, tmp_path / "rows.csv"), wanted, atol=1e-6)
    assert np.shape(alone.answers(bundle, tmp_path / "row.csv")) == (1, 2)
    assert np.allclose(alone.answers(bundle, tmp_path / "row.npy"), expected(bundle, {"row": rows[:1]})["answer"])
    (tmp_path / "head.csv").write_text("a,b,c,d,e,f\n1,2,3,4,5,6\n")
    assert alone.run(bundle / "predict.py", tmp_path / "head.csv").returncode == 2
    assert alone.run(bundle / "predict.py", "--golden").returncode == 0


def write_picture_model(path):
    """Write (N, 3, 8, 8) to (N, 2): the mean of each channel, then a matrix."""
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    weight = np.array([[1.0, -0.5, 0.1], [-1.0, 0.7, 0.2]], np.float32)
    nodes = [
        helper.make_node("GlobalAveragePool", ["picture"], ["mean"]),
        helper.make_node("Flatten", ["mean"], ["flat"]),
        helper.make_node("Gemm", ["flat", "w"], ["scores"], transB=1),
    ]
    picture = helper.make_tensor_value_info("picture", TensorProto.FLOAT, ["n", 3, 8, 8])
    scores = helper.make_tensor_value_info("scores", TensorProto.FLOAT, ["n", 2])
    graph = helper.make_graph(nodes, "pictures", [picture], [scores], [numpy_helper.from_array(weight, "w")])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    """A bundle of a picture model, written as a search writes it, and the folder of pictures it was made on."""
    folder = tmp_path_factory.mktemp("pictures")
    rng = np.random.default_rng(0)
    for part, count in (("train", 12), ("test", 30)):
        for at in range(count):
            name, bright = ("cat", 200) if at % 2 else ("dog", 60)
            high, wide = rng.integers(14, 30, 2)
            pixels = rng.integers(0, bright, (high, wide, 3), dtype=np.uint8)
            place = folder / "data" / part / name
            place.mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels).save(place / f"{at:02}.png")
    Image.fromarray(rng.integers(0, 255, (16, 21), dtype=np.uint8)).save(folder / "grey.png")
    write_picture_model(folder / "model.onnx")
    source = source_of(folder / "model.onnx")
    splits = whet.dataset(folder / "data", preprocess=_SPEC)
    model = adapter_for(Format.ONNX).open(source, None)
    contents = Contents(
        stored=Stored(Format.ONNX, folder / "model.onnx"), facts=Facts.of(model),
        recipe=whet.Recipe.of("as-given", [{"pass": "clean-graph"}]), deployment=Deployment(), splits=splits,
        output="scores", task="classification", metric="accuracy",
        postprocess=Postprocess("classification", True, splits.classes, 2), source=source, data={},
    )  # fmt: skip
    write(folder / "bundle", contents)
    return folder, splits


def test_pictures_are_resized_cropped_and_normalised_as_whet_does(pictures, tmp_path):
    folder, splits = pictures
    bundle = folder / "bundle"
    lines = (bundle / "requirements.txt").read_text().split()
    assert [line.partition("==")[0] for line in lines] == ["numpy", "pillow", "onnxruntime"]
    alone = Alone(tmp_path / "venv", bundle / "requirements.txt")
    assert not alone.has("whet")

    files = sorted((folder / "data" / "test" / "cat").iterdir())[:3]
    found = alone.answers(bundle, *files, folder / "grey.png")
    code = splits.preprocess
    raw = [np.asarray(Image.open(file)) for file in [*files, folder / "grey.png"]]
    scores = expected(bundle, {"picture": np.concatenate([code([one]) for one in raw])})["scores"]
    for answer, row in zip(found, probabilities(scores, softmax=True), strict=True):
        assert answer[0]["label"] == ["cat", "dog"][int(row.argmax())]
        assert answer[0]["probability"] == pytest.approx(row.max(), abs=1e-5)

    tags = Image.Exif()
    tags[0x0112] = 6
    Image.open(files[0]).save(tmp_path / "turned.png", exif=tags.tobytes())
    done = alone.run(bundle / "predict.py", tmp_path / "turned.png")
    assert json.loads(done.stdout)["answer"] == found[0]  # as it is stored
    assert done.stderr.startswith("note: 1 pictures carry an EXIF rotation, which is not applied")

    np.save(tmp_path / "picture.npy", raw[0])
    assert alone.answers(bundle, tmp_path / "picture.npy") == found[:1]
    assert alone.run(bundle / "predict.py", "--golden").returncode == 0


def test_the_preprocessing_is_what_pillow_and_numpy_give(pictures):
    """By hand: short side to 12, centre 8 x 8, bytes to 0..1, ImageNet's mean and deviation, channels first."""
    folder, splits = pictures
    file = sorted((folder / "data" / "test" / "dog").iterdir())[0]
    image = Image.open(file)
    wide, high = image.size
    size = (12, int(12 * high / wide)) if wide <= high else (int(12 * wide / high), 12)
    image = image.resize(size, Image.Resampling.BILINEAR)
    left, top = round((size[0] - 8) / 2), round((size[1] - 8) / 2)
    pixels = np.asarray(image.crop((left, top, left + 8, top + 8)), np.float32) / 255
    wanted = ((pixels - [0.485, 0.456, 0.406]) / [0.229, 0.224, 0.225]).transpose(2, 0, 1)
    assert np.allclose(splits.preprocess([np.asarray(Image.open(file))])[0], wanted, atol=1e-5)
    raw = splits.batch(Part.SELECT, range(4))["input"]
    with np.load(folder / "bundle" / "golden.npz") as golden:
        assert np.array_equal(golden["input.picture"], raw)


@pytest.mark.slow
def test_a_torch_bundle_answers_from_its_own_files(tokens_run, tiny, tmp_path):
    bundle = tokens_run[0] / "candidates" / "torch-dynamic-int8"
    lines = (bundle / "requirements.txt").read_text().split()
    assert [line.partition("==")[0] for line in lines] == ["numpy", "torch", "safetensors"]
    alone = Alone(tmp_path / "venv", bundle / "requirements.txt")
    assert not alone.has("whet")
    assert not alone.has("onnxruntime")

    done = alone.run(bundle / "predict.py", "--golden")
    assert done.returncode == 0, done.stderr
    batch = {name: array[:4] for name, array in tiny.tokens()[1][0].items()}
    np.savez(tmp_path / "tokens.npz", **batch)
    found = alone.answers(bundle, tmp_path / "tokens.npz")
    assert same_classes(found, expected(bundle, batch)["logits"])
