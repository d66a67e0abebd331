"""Tables, text, time series, pairs and pictures: from files through a search to answers without whet."""

import json
import runpy
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import whet
from whet.data.data import Part

Alone = runpy.run_path(str(Path(__file__).parent.parent / "files" / "alone.py"))["Alone"]
RECIPE = '[[steps]]\npass = "clean-graph"\n'
WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "good", "bad", "film", "a", "very"]


def save(path, nodes, inputs, outputs, constants):
    """Write an ONNX model; ``inputs`` and ``outputs`` are (name, type, axes)."""
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    def infos(specs):
        return [helper.make_tensor_value_info(name, getattr(TensorProto, kind), axes) for name, kind, axes in specs]

    graph = helper.make_graph(
        [helper.make_node(kind, ins, outs, **more) for kind, ins, outs, more in nodes],
        "tiny", infos(inputs), infos(outputs), [numpy_helper.from_array(a, n) for n, a in constants.items()],
    )  # fmt: skip
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    return path


def rows_model(path, columns, classes=2):
    """Write (N, columns) to (N, classes): one matrix."""
    weight = np.random.default_rng(0).normal(size=(columns, classes)).astype(np.float32)
    nodes = [("MatMul", ["row", "w"], ["scores"], {})]
    return save(
        path, nodes, [("row", "FLOAT", ["n", columns])], [("scores", "FLOAT", ["n", classes])], {"w": weight}
    )


def words_model(path, words=9, width=3):
    """Write input_ids and attention_mask (N, L) to (N, width): the mean of the embeddings of unmasked words."""
    table = np.random.default_rng(1).normal(size=(words, width)).astype(np.float32)
    nodes = [
        ("Gather", ["table", "input_ids"], ["embedded"], {}),
        ("Cast", ["attention_mask"], ["mask"], {"to": 1}),
        ("Unsqueeze", ["mask", "last"], ["weights"], {}),
        ("Mul", ["embedded", "weights"], ["kept"], {}),
        ("ReduceSum", ["kept", "middle"], ["sum"], {"keepdims": 0}),
        ("ReduceSum", ["mask", "middle"], ["count"], {"keepdims": 1}),
        ("Div", ["sum", "count"], ["output"], {}),
    ]
    inputs = [(name, "INT64", ["n", "l"]) for name in ("input_ids", "attention_mask")]
    constants = {"table": table, "last": np.array([2]), "middle": np.array([1])}
    return save(path, nodes, inputs, [("output", "FLOAT", ["n", width])], constants)


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    tokenizers = pytest.importorskip("tokenizers")
    made = tokenizers.Tokenizer(
        tokenizers.models.WordLevel({word: at for at, word in enumerate(WORDS)}, unk_token="[UNK]")
    )
    made.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    made.post_processor = tokenizers.processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    path = tmp_path_factory.mktemp("words") / "tokenizer.json"
    made.save(str(path))
    return path


@pytest.fixture
def shipped(here, tmp_path):
    """Run one recipe on a model and data, and return its bundle, what was printed and an environment for it."""

    def ship(model, data, *options):
        (tmp_path / "as-given.toml").write_text(RECIPE)
        run = tmp_path / "run"
        done = here(
            "run", tmp_path / "as-given.toml", "--model", model, "--data", data, "--out", run, "--json",
            "--batch-sizes", "1", "--max-drop", "0.2", "--min-speedup", "0.001", *options,
        )  # fmt: skip
        assert done.out, done.err
        made = done.json["results"][-1]
        assert made["failure"] is None, made["failure"]
        bundle = run / "candidates" / made["name"]
        return bundle, done.json, Alone(tmp_path / "venv", bundle / "requirements.txt")

    return ship


def told(alone, bundle, file):
    done = alone.run(bundle / "predict.py", file)
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    return done.stderr


def people(count, seed):
    rng = np.random.default_rng(seed)
    lines = ["age,city,pay,group"]
    for at in range(count):
        age = "" if at % 17 == 3 else f"{rng.integers(20, 60)}"
        lines.append(f"{age},{('Bern', 'Oslo', 'Rome')[at % 3]},{rng.normal():.4f},{('new', 'old')[at % 2]}")
    return "\n".join(lines) + "\n"


@pytest.mark.slow
def test_a_table_with_words_and_gaps_goes_through_to_predict(shipped, tmp_path):
    for part, count in (("train", 60), ("test", 260)):
        (tmp_path / "data").mkdir(exist_ok=True)
        (tmp_path / "data" / f"{part}.csv").write_text(people(count, count))
    model = rows_model(tmp_path / "rows.onnx", 3)
    bundle, found, alone = shipped(model, tmp_path / "data", "--label", "group", "--preprocess", "fill=median")
    assert found["original"]["task"] == "classification"
    assert found["original"]["classes"] == ["new", "old"]
    assert "Labels are group" in found["original"]["notes"][0]

    splits = whet.dataset(tmp_path / "data", label="group", preprocess="fill=median")
    median = splits.preprocess.table[0].columns[0].fill
    (tmp_path / "swapped.csv").write_text("pay,extra,city,age\n0.5,x,Rome,30\n-1,y,Bern,\n")
    weight = np.random.default_rng(0).normal(size=(3, 2)).astype(np.float32)
    scores = np.array([[30, 2, 0.5], [median, 0, -1]], np.float32) @ weight
    answers = alone.answers(bundle, tmp_path / "swapped.csv")
    assert [answer[0]["label"] for answer in answers] == [("new", "old")[at] for at in scores.argmax(axis=1)]
    assert alone.run(bundle / "predict.py", "--golden").returncode == 0

    (tmp_path / "short.csv").write_text("age,pay\n30,1\n")
    assert "there is no column 'city'; there are age, pay" in told(alone, bundle, tmp_path / "short.csv")
    (tmp_path / "typed.csv").write_text("age,city,pay\n30,Rome,1\nold,Rome,1\n")
    assert "column 'age' holds numbers, but row 2 has 'old'" in told(alone, bundle, tmp_path / "typed.csv")
    (tmp_path / "odd.csv").write_text("age,city,pay\n30,Paris,1\n")
    assert "'Paris' in row 1, which is none of its 3 words" in told(alone, bundle, tmp_path / "odd.csv")


def sentences(count):
    return "".join(f"a {'very ' * (at % 4)}{('good', 'bad')[at % 2]} film\t{at % 2}\n" for at in range(count))


@pytest.mark.slow
def test_text_goes_through_to_predict_with_its_tokenizer(shipped, tokenizer, tmp_path):
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "train.tsv").write_text("sentence\tlabel\n" + sentences(40))
    (tmp_path / "data" / "dev.tsv").write_text("sentence\tlabel\n" + sentences(240))
    model = words_model(tmp_path / "words.onnx", width=2)
    spec = f"tokenizer={tokenizer}; max_length=200; padding=batch"
    bundle, found, alone = shipped(model, tmp_path / "data", "--preprocess", spec)
    assert found["original"]["task"] == "classification"
    assert [line.partition("==")[0] for line in (bundle / "requirements.txt").read_text().split()] == [
        "numpy", "tokenizers", "onnxruntime",
    ]  # fmt: skip
    assert not alone.has("whet")

    texts = ["a good film", "bad", "very very bad film , a"]
    (tmp_path / "texts.txt").write_text("\n".join(texts))
    (tmp_path / "texts.csv").write_text(
        "n,sentence\n" + "".join(f'{at},"{text}"\n' for at, text in enumerate(texts))
    )
    table = np.random.default_rng(1).normal(size=(len(WORDS), 2)).astype(np.float32)
    numbers = [[2, *(WORDS.index(word) if word in WORDS else 1 for word in text.split()), 3] for text in texts]
    wanted = [int(table[row].mean(axis=0).argmax()) for row in numbers]
    for name in ("texts.txt", "texts.csv"):
        answers = alone.answers(bundle, tmp_path / name)
        assert [int(answer[0]["label"]) for answer in answers] == wanted
    assert alone.run(bundle / "predict.py", "--golden").returncode == 0
    (tmp_path / "other.csv").write_text("n,words\n1,good\n")
    assert "there is no column sentence; there are column_1, column_2" in told(
        alone, bundle, tmp_path / "other.csv"
    )


def test_a_tokenizer_of_another_model_is_refused(here, tokenizer, tmp_path):
    model = words_model(tmp_path / "words.onnx", words=6)
    (tmp_path / "dev.tsv").write_text(sentences(60))
    done = here("evaluate", model, "--data", tmp_path / "dev.tsv", "--preprocess", f"tokenizer={tokenizer}")
    assert done.code == 2
    assert "the tokenizer does not fit the model: it has 9 words, the largest embedding 6" in done.err


@pytest.mark.slow
def test_a_time_series_goes_through_and_is_answered_in_its_own_units(shipped, tmp_path):
    rng = np.random.default_rng(0)
    series = np.cumsum(rng.normal(size=(900, 2)), axis=0) + np.array([50, -20])
    lines = [f"day {at},{a:.6f},{b:.6f}" for at, (a, b) in enumerate(series)]
    (tmp_path / "series.csv").write_text("date,warm,cold\n" + "\n".join(lines) + "\n")
    weight = rng.normal(size=(24, 3)).astype(np.float32) / 8
    nodes = [
        ("Reshape", ["x", "flat"], ["rows"], {}),
        ("MatMul", ["rows", "w"], ["next"], {}),
        ("Unsqueeze", ["next", "last"], ["y"], {}),
    ]
    constants = {"w": weight, "flat": np.array([-1, 24]), "last": np.array([2])}
    model = save(
        tmp_path / "next.onnx", nodes, [("x", "FLOAT", ["n", 12, 2])], [("y", "FLOAT", ["n", 3, 1])], constants
    )
    bundle, found, alone = shipped(model, tmp_path / "series.csv", "--windows", "12,3", "--label", "cold")
    assert found["original"]["task"] == "regression"
    assert "foretell 3 rows of cold" in " ".join(found["original"]["notes"])
    mean, std = series[:540].mean(axis=0), series[:540].std(axis=0)
    wanted = (((series[-12:] - mean) / std).reshape(-1) @ weight) * std[1] + mean[1]
    (answer,) = alone.answers(bundle, tmp_path / "series.csv")
    np.testing.assert_allclose(np.ravel(answer), wanted, rtol=1e-3, atol=1e-3)
    (tmp_path / "short.csv").write_text("warm,cold\n1,2\n")
    assert "it has 1 rows, the model looks at 12" in told(alone, bundle, tmp_path / "short.csv")


@pytest.mark.slow
def test_pairs_of_texts_are_judged_by_their_cosine(shipped, tokenizer, tmp_path):
    from scipy.stats import spearmanr

    rng = np.random.default_rng(0)
    lines = []
    for _ in range(220):
        first, second = (" ".join(rng.choice(WORDS[4:], 4)) for _ in range(2))
        lines.append(f"{first},{second},{rng.uniform(0, 5):.2f}")
    (tmp_path / "pairs.csv").write_text("a,b,score\n" + "\n".join(lines) + "\n")
    model = words_model(tmp_path / "words.onnx")
    spec = f"tokenizer={tokenizer}; max_length=8"
    bundle, found, alone = shipped(model, tmp_path / "pairs.csv", "--preprocess", spec, "--task", "similarity")
    assert found["original"]["task"].startswith("similarity")

    splits = whet.dataset(tmp_path / "pairs.csv", preprocess=spec, task="similarity")
    table = np.random.default_rng(1).normal(size=(len(WORDS), 3)).astype(np.float32)
    ids, mask = (np.concatenate([batch[name] for batch in splits.batches(Part.SELECT, 32)])
                 for name in ("input_ids", "attention_mask"))  # fmt: skip
    vectors = (table[ids] * mask[..., None]).sum(axis=1) / mask.sum(axis=1, keepdims=True)
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    wanted = spearmanr((unit[0::2] * unit[1::2]).sum(axis=1), splits.labels(Part.SELECT)).statistic
    assert found["original"]["quality"]["scores"]["spearman"] == pytest.approx(wanted, abs=5e-3)  # ties
    (tmp_path / "one.txt").write_text("a good film\n")
    assert np.shape(alone.answers(bundle, tmp_path / "one.txt")) == (1, 3)


def pictures_model(path, width=4):
    """Write (N, 3, 224, 224) to (N, width): means of blocks of 56 x 56, then a matrix."""
    weight = np.random.default_rng(2).normal(size=(48, width)).astype(np.float32)
    nodes = [
        ("AveragePool", ["picture"], ["blocks"], {"kernel_shape": [56, 56], "strides": [56, 56]}),
        ("Flatten", ["blocks"], ["flat"], {}),
        ("MatMul", ["flat", "w"], ["scores"], {}),
    ]
    picture = [("picture", "FLOAT", ["n", 3, 224, 224])]
    return save(path, nodes, picture, [("scores", "FLOAT", ["n", width])], {"w": weight})


def track_of(track, place, tokenizer, labelled):
    """Return model, data and preprocessing of a track: random inputs, in files; random labels of two if asked."""
    rng = np.random.default_rng(0)
    data = place / track
    data.mkdir()
    if track == "pictures":
        for at in range(24):
            pixels = rng.integers(0, 255, (*rng.integers(240, 300, 2), 3), dtype=np.uint8)
            folder = data / ("cat", "dog")[at % 2] if labelled else data
            folder.mkdir(exist_ok=True)
            Image.fromarray(pixels).save(folder / f"{at}.png")
        spec = ["--preprocess", "color=RGB; resize=256; crop=224; scale=1/255; layout=CHW"]
        return pictures_model(place / "model.onnx", width=2 if labelled else 4), data, spec
    labels = rng.integers(0, 2, 200)
    if track == "tokens":
        lines = [" ".join(rng.choice(WORDS[4:], 230)) for _ in range(60)]
        name, head = ("test.tsv", ["text\tlabel"]) if labelled else ("texts.txt", [])
        lines = [f"{line}\t{label}" for line, label in zip(lines, labels, strict=False)] if labelled else lines
        (data / name).write_text("\n".join([*head, *lines]))
        spec = ["--preprocess", f"tokenizer={tokenizer}; max_length=200"]
        return words_model(place / "model.onnx", width=2 if labelled else 3), data / name, spec
    columns = np.column_stack([rng.normal(size=(200, 10)), *([labels] if labelled else [])])
    header = ",".join([f"f{at}" for at in range(10)] + ["label"] * labelled)
    formats = ["%.5f"] * 10 + ["%d"] * labelled
    np.savetxt(data / "rows.csv", columns, delimiter=",", fmt=formats, header=header, comments="")
    return rows_model(place / "model.onnx", 10), data / "rows.csv", []


@pytest.mark.slow
@pytest.mark.parametrize("track", ["pictures", "tokens", "rows"])
def test_labelled_data_of_each_track_is_judged_by_its_labels(shipped, tokenizer, tmp_path, track):
    model, data, options = track_of(track, tmp_path, tokenizer, labelled=True)
    _, found, _ = shipped(model, data, *options)
    original, judged = found["original"], found["results"][-1]
    assert (original["task"], original["metric"]) == ("classification", "accuracy")
    assert original["splits"]["train"] == 0
    assert 0 < original["splits"]["select"] < {"pictures": 24, "tokens": 60, "rows": 200}[track]
    assert judged["comparison"]["drop"] == 0
    assert judged["flips"]["differing"] == 0
    assert {verdict["answer"] for verdict in judged["verdicts"]} <= {"PASS", "INCONCLUSIVE"}


@pytest.mark.slow
@pytest.mark.parametrize("track", ["pictures", "tokens", "rows"])
def test_unlabelled_data_of_each_track_is_judged_by_the_original(shipped, tokenizer, tmp_path, track):
    model, data, options = track_of(track, tmp_path, tokenizer, labelled=False)
    asked = data / "0.png" if track == "pictures" else data
    bundle, found, alone = shipped(model, data, *options)
    assert found["original"]["task"] == "fidelity"
    assert found["original"]["quality"]["scores"]["agreement"] == 1
    if track == "tokens":
        assert "100.0% of" in " ".join(found["original"]["notes"])
        recorded = json.loads((bundle / "manifest.json").read_text())["raw_axes"]
        with np.load(bundle / "golden.npz") as golden:
            assert golden["input.input_ids"].shape[1] == 200
            assert str(golden[f"raw.{next(iter(recorded))}.0"]).count(" ") == 229
    assert len(alone.answers(bundle, asked)) == {"pictures": 1, "tokens": 60, "rows": 200}[track]
    assert alone.run(bundle / "predict.py", "--golden").returncode == 0
