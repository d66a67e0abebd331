"""Data that does not fit the model, metrics that fail, a hub out of reach: one line, exit code 2, nothing left."""

import json
import runpy
from pathlib import Path

import numpy as np
import pytest

kinds = runpy.run_path(str(Path(__file__).parent / "test_data_kinds.py"))
METRICS = """
def raises(outputs, labels):
    raise KeyError("no such column")


def nothing(outputs, labels):
    return float("nan")
"""


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """Models of three columns and of words, and data of which each is wrong in one way."""
    folder = tmp_path_factory.mktemp("bad-data")
    kinds["rows_model"](folder / "rows.onnx", 3)
    kinds["words_model"](folder / "words.onnx", words=9, width=2)
    (folder / "metrics.py").write_text(METRICS)
    (folder / "good.csv").write_text(table("a,b,c", lambda at: f"{at},{at + 1},{at / 2}"))
    (folder / "wide.csv").write_text(table("a,b,c,day", lambda at: f"{at},{at + 1},{at / 2},{at % 7}"))
    (folder / "narrow.csv").write_text(table("a,b", lambda at: f"{at},{at + 1}"))
    (folder / "typed.csv").write_text(table("a,b,c", lambda at: f"{at},{'old' if at == 40 else at},{at / 2}"))
    (folder / "many.csv").write_text("a,b,c,label\n" + "".join(f"1,2,3,{at % 5}\n" for at in range(60)))
    (folder / "ragged.csv").write_text("a,b,c,label\n1,2,3,0\n1,2,3\n")
    (folder / "parts").mkdir()
    (folder / "parts" / "train.csv").write_text(table("a,b,c", lambda at: f"{at},{at},{at}"))
    (folder / "parts" / "test.csv").write_text(table("a,b", lambda at: f"{at},{at}"))
    mask = np.ones((60, 4), np.int64)
    np.savez(folder / "beyond.npz", input_ids_test=np.full((60, 4), 20), attention_mask_test=mask)
    (folder / "films.txt").write_text("".join(f"a {'very ' * (at % 5)}good film\n" for at in range(80)))
    return folder


def table(header, row):
    return f"{header},label\n" + "".join(f"{row(at)},{at % 2}\n" for at in range(60))


# What is typed after ``whet evaluate``, and what the one line says. {name} is a file of ``place``.
MISTAKES = {
    "more columns than the model takes": (
        "{rows.onnx} --data {wide.csv}",
        r"'row' takes 3 columns, the table has 4 \(a, b, c, day\); leave out .* 'drop=NAME', or name the labels",
    ),
    "fewer columns than the model takes": (
        "{rows.onnx} --data {narrow.csv}", r"takes 3 columns, the table has 2 \(a, b\); give all",
    ),
    "a column missing in one part": ("{rows.onnx} --data {parts}", "test has no column 'c'; it has a, b, label"),
    "a column of another type": (
        "{rows.onnx} --data {typed.csv}", "column 'b' holds numbers, but row 41 has 'old'; mend it",
    ),
    "rows of unequal length": ("{rows.onnx} --data {ragged.csv}", "row 2 has 3 cells, the first line 4"),
    "labels outside the outputs": ("{rows.onnx} --data {many.csv}", "labels run from 0 to 4, the model has 2"),
    "a metric that raises": (
        "{rows.onnx} --data {good.csv} --task {metrics.py}:raises", "the metric raises raised KeyError",
    ),
    "a metric that is no number": (
        "{rows.onnx} --data {good.csv} --task {metrics.py}:nothing", "the metric nothing returned nan",
    ),
    "token numbers beyond the embedding": (
        "{words.onnx} --data {beyond.npz}", "does not have: 20, of which a table has 9 entries; give the tokenizer",
    ),
    "a data set of a hub that cannot be reached": (
        "{rows.onnx} --data hf:nobody/nothing", "the data set 'nobody/nothing' cannot be loaded",
    ),
    "a model of a hub that cannot be reached": (
        "hf:nobody/nothing --data {good.csv}", "is not on this machine and cannot be fetched",
    ),
}  # fmt: skip


@pytest.mark.parametrize("mistake", MISTAKES)
def test_what_does_not_fit_is_told_in_one_line(here, place, monkeypatch, mistake):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    typed, told = MISTAKES[mistake]
    if "hf:" in typed:
        pytest.importorskip("datasets" if "--data hf:" in typed else "huggingface_hub")
    done = here("evaluate", *(word.replace("{", f"{place}/").replace("}", "") for word in typed.split()))
    refused(done, told)


def refused(done, told):
    import re

    assert (done.code, done.out) == (2, ""), done.err
    assert done.err.startswith("error: ")
    assert done.err.count("\n") == 1, done.err
    assert re.search(told, done.err), done.err


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    tokenizers = pytest.importorskip("tokenizers")
    words = {word: at for at, word in enumerate(kinds["WORDS"])}
    made = tokenizers.Tokenizer(tokenizers.models.WordLevel(words, unk_token="[UNK]"))
    made.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    path = tmp_path_factory.mktemp("tokenizer") / "tokenizer.json"
    made.save(str(path))
    return path


def test_texts_longer_than_the_model_takes_are_told_with_its_length(here, place, tokenizer, tmp_path):
    import onnx

    proto = onnx.load(place / "words.onnx")
    for value in proto.graph.input:
        value.type.tensor_type.shape.dim[1].ClearField("dim_param")
        value.type.tensor_type.shape.dim[1].dim_value = 4
    onnx.save(proto, tmp_path / "four.onnx")
    spec = f"tokenizer={tokenizer}; max_length=8"
    done = here("evaluate", tmp_path / "four.onnx", "--data", place / "films.txt", "--preprocess", spec)
    refused(done, r"input input_ids=int64\[\?,4\] does not take the data's shape \[\?,8\]")


def test_answers_for_every_token_need_texts_of_one_length(here, place, tokenizer, tmp_path):
    """Where the batch decides the length; padded to one length they are judged."""
    table = np.random.default_rng(0).normal(size=(9, 3)).astype(np.float32)
    nodes = [("Gather", ["table", "input_ids"], ["tokens"], {})]
    inputs, outputs = [("input_ids", "INT64", ["n", "l"])], [("tokens", "FLOAT", ["n", "l", 3])]
    model = kinds["save"](tmp_path / "tokens.onnx", nodes, inputs, outputs, {"table": table})
    texts = tmp_path / "texts.txt"
    texts.write_text("a very very good film\n" * 150 + "a good film\n" * 150)
    spec = f"tokenizer={tokenizer}; max_length=8; padding="
    done = here("evaluate", model, "--data", texts, "--preprocess", f"{spec}batch")
    refused(done, r"'tokens' is \[5, 3\] and \[3, 3\] a sample in different batches.* padding=max in --preprocess")
    assert here("evaluate", model, "--data", texts, "--preprocess", f"{spec}max").code == 0


def means(path):
    """Write a model of three classes: the mean of each channel."""
    nodes = [("GlobalAveragePool", ["pictures"], ["mean"], {}), ("Flatten", ["mean"], ["scores"], {})]
    inputs, outputs = [("pictures", "FLOAT", ["n", 3, 4, 4])], [("scores", "FLOAT", ["n", 3])]
    return kinds["save"](path, nodes, inputs, outputs, {})


def paint(root):
    """Write 40 pictures a class, each class with more of its own channel."""
    from PIL import Image

    rng = np.random.default_rng(0)
    for at, name in enumerate(("ant", "bee", "cow")):
        (root / name).mkdir(parents=True)
        for number in range(40):
            pixels = rng.integers(0, 100, (4, 4, 3), dtype=np.uint8)
            pixels[..., at] += 100
            Image.fromarray(pixels).save(root / name / f"{number:02}.png")
    return root


def test_pictures_that_cannot_be_read_stop_or_are_left_out_and_classes_are_counted(here, tmp_path):
    from PIL import Image

    model, data = means(tmp_path / "means.onnx"), paint(tmp_path / "data")
    broken = [data / "bee" / f"{number:02}.png" for number in range(0, 40, 5)]
    for path in broken:
        path.write_bytes(b"no picture")
    words = ("evaluate", model, "--data", data, "--preprocess", "scale=1/255; layout=CHW")
    refused(here(*words), r"bee/\d\d\.png cannot be read as a picture")
    done = here(*words, "--skip-unreadable", "--json")
    assert done.code == 0, done.err
    assert any("8 pictures that cannot be read were left out" in note for note in json.loads(done.out)[0]["notes"])
    for path in broken:
        Image.new("RGB", (4, 4)).save(path)
    (data / "bee").rename(data / "ant" / "bee")
    refused(here(*words), r"the data has 2 classes \(ant, cow\), the model has 3; .*--task fidelity")


def test_grey_and_cmyk_pictures_stop_or_are_converted_and_named(here, at_once, tmp_path):
    """In one line where no colour is asked for; with one they are named wherever the data is spoken of, once."""
    from PIL import Image

    model, data = means(tmp_path / "means.onnx"), paint(tmp_path / "data")
    Image.open(data / "bee" / "07.png").convert("L").save(data / "bee" / "07.png")
    inks = Image.open(data / "cow" / "03.png").convert("CMYK")
    (data / "cow" / "03.png").unlink()
    inks.save(data / "cow" / "03.jpg", quality=95)
    grey = r"1 of 120 pictures is not RGB as the others are: data/bee/07\.png \(L\); .*--preprocess 'color=RGB'"
    spec, run = "scale=1/255; layout=CHW", tmp_path / "run"
    refused(here("evaluate", model, "--data", data, "--preprocess", spec), grey)
    search = ("run", "graph-only", "--model", model, "--data", data, "--out", run, "--batch-sizes", "1")
    refused(here(*search, "--preprocess", spec), grey)
    spec = f"color=RGB; {spec}"
    told = "2 of 120 pictures were converted to RGB (1 L, 1 CMYK): data/bee/07.png (L), data/cow/03.jpg (CMYK)."
    done = here("evaluate", model, "--data", data, "--preprocess", spec, "--json")
    assert told in json.loads(done.out)[0]["notes"], done.err
    done = here(*search, "--preprocess", spec)
    assert " ".join(done.out.split()).count(told) == 1, done.err
    assert (run / "report.md").read_text().count(told) == 1
    assert told in json.loads((run / "baseline" / "manifest.json").read_text())["data"]["notes"]
