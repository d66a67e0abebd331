"""Models as they come: exported programs, folders of transformers, factories of several files; data sets too."""

import json
import runpy
from pathlib import Path

import numpy as np
import pytest

Alone = runpy.run_path(str(Path(__file__).parent.parent / "files" / "alone.py"))["Alone"]
tiny_hub = runpy.run_path(str(Path(__file__).parent.parent / "files" / "tiny_hub.py"))
WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "good", "bad", "film", "a", "very", "the", "of", "and"]
QUICKLY = ["--batch-sizes", "1", "--max-drop", "0.2", "--min-speedup", "0.001"]


@pytest.fixture(scope="module")
def program(tiny, tmp_path_factory):
    """tiny.py as an exported program of any number of samples."""
    torch = pytest.importorskip("torch")
    path = tmp_path_factory.mktemp("program") / "tiny.pt2"
    axes = ({0: torch.export.Dim("n", min=1, max=1024)},)
    torch.export.save(
        torch.export.export(tiny.tiny().eval(), (torch.randn(2, 1, 8, 8),), dynamic_shapes=axes), path
    )
    return path


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::FutureWarning:torch")
def test_an_exported_program_is_profiled_timed_and_shipped(here, program, npz, tiny, tmp_path):
    done = here("profile", program, "--json")
    assert done.code == 0, done.err
    assert done.json["parameters"] == sum(item.numel() for item in tiny.tiny().parameters())
    assert {layer["name"] for layer in done.json["layers"]} >= {"conv1", "conv2", "fc"}
    done = here("bench", program, "--batch-sizes", "4", "--json")
    assert done.code == 0, done.err
    assert {n["conditions"].get("batch_size") for n in done.json[0]["measurements"] if "p50" in n["metric"]} == {4}
    run = tmp_path / "run"
    done = here("run", "graph-only", "--model", program, "--data", npz, "--out", run, *QUICKLY)
    assert done.code in (0, 1, 3), done.err
    (x, _), _ = tiny.images()
    import torch

    with torch.no_grad():
        wanted = tiny.tiny().eval()(torch.from_numpy(x[:5])).softmax(dim=1).numpy()
    np.save(tmp_path / "x.npy", x[:5])
    bundle = run / "candidates" / "graph-only"
    for answer, row in zip(
        Alone(tmp_path / "venv", bundle / "requirements.txt").answers(bundle, tmp_path / "x.npy"),
        wanted,
        strict=True,
    ):
        found = [item["probability"] for item in sorted(answer, key=lambda item: int(item["label"]))]
        assert found == pytest.approx(row.tolist(), abs=1e-4)


@pytest.fixture(scope="module")
def bert(tmp_path_factory):
    """A classifier of sentences as save_pretrained writes it, its tokenizer too; and 260 labelled sentences."""
    transformers, tokenizers = pytest.importorskip("transformers"), pytest.importorskip("tokenizers")
    folder = tmp_path_factory.mktemp("bert")
    tiny_hub["write"](folder, num_labels=2)
    made = tokenizers.Tokenizer(
        tokenizers.models.WordLevel({word: at for at, word in enumerate(WORDS)}, unk_token="[UNK]")
    )
    made.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    made.post_processor = tokenizers.processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    transformers.PreTrainedTokenizerFast(
        tokenizer_object=made, unk_token="[UNK]", pad_token="[PAD]", cls_token="[CLS]", sep_token="[SEP]"
    ).save_pretrained(folder)
    rng = np.random.default_rng(0)
    lines = [f"{' '.join(rng.choice(WORDS[4:], rng.integers(1, 15)))},{at % 2}" for at in range(260)]
    (folder / "reviews.csv").write_text("sentence,label\n" + "\n".join(lines) + "\n")
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("recipe", ["dynamic-int8", "torch-dynamic-int8"])
def test_a_folder_of_transformers_goes_through_to_answers_on_text(here, bert, tmp_path, recipe):
    """Its own tokenizer cuts the texts, in whet and in the bundle; transformers itself is the reference."""
    in_torch = ["--runtime", "torch"] if recipe.startswith("torch") else []
    run = tmp_path / "run"
    done = here(
        "run", recipe, "--model", f"hf:{bert}", "--data", bert / "reviews.csv", "--out", run, "--json", *QUICKLY,
        *in_torch,
    )  # fmt: skip
    assert done.out, done.err
    assert done.json["results"][-1]["failure"] is None, done.json["results"][-1]["failure"]
    assert "cut by the model's own tokenizer, at 24 tokens" in " ".join(done.json["original"]["notes"])
    bundle = run / "candidates" / recipe
    assert here("verify", bundle).code == 0

    texts = ["a very good film", "bad", "the film of good and bad " * 8]
    (tmp_path / "texts.txt").write_text("\n".join(texts))
    answers = answered(bundle, tmp_path)
    for answer, row in zip(answers, by_transformers(bert, texts), strict=True):
        found = [item["probability"] for item in sorted(answer, key=lambda item: int(item["label"]))]
        assert found == pytest.approx(row.tolist(), abs=5e-3)  # INT8


def answered(bundle, folder):
    """Return what predict.py gives for texts.txt; a torch bundle warns of what torchao cannot load."""
    alone = Alone(folder / "venv", bundle / "requirements.txt")
    done = alone.run(bundle / "predict.py", folder / "texts.txt")
    assert done.returncode == 0, done.stderr
    return [json.loads(line)["answer"] for line in done.stdout.splitlines()]


def by_transformers(folder, texts):
    import torch
    import transformers

    model = transformers.AutoModelForSequenceClassification.from_pretrained(folder).eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    batch = tokenizer(texts, padding=True, truncation=True, max_length=24, return_tensors="pt")
    with torch.no_grad():
        return model(**batch).logits.softmax(dim=1).numpy()


@pytest.mark.slow
def test_a_factory_of_several_files_is_shipped_with_all_of_them(here, npz, files, tmp_path):
    mine = tmp_path / "mine"
    (mine / "parts").mkdir(parents=True)
    (mine / "parts" / "net.py").write_text((files / "tiny.py").read_text())
    (mine / "model.py").write_text("from parts.net import tiny\n\n\ndef build():\n    return tiny()\n")
    run = tmp_path / "run"
    command = ["run", "torch-dynamic-int8", "--model", f"{mine}/model.py:build", "--data", npz, "--out", run]
    done = here(*command, "--runtime", "torch", *QUICKLY)
    assert done.code in (0, 1, 3), done.err
    (mine / "model.py").rename(mine / "gone.py")
    (mine / "parts").rename(mine / "gone")
    bundle = run / "candidates" / "torch-dynamic-int8"
    assert (bundle / "source" / "parts" / "net.py").is_file()
    np.save(tmp_path / "x.npy", np.load(npz)["x_test"][:3])
    assert len(Alone(tmp_path / "venv", bundle / "requirements.txt").answers(bundle, tmp_path / "x.npy")) == 3

    (mine / "gone.py").rename(mine / "model.py")
    (mine / "gone").rename(mine / "parts")
    (mine / "parts" / "net.py").write_text((files / "tiny.py").read_text() + "# another\n")
    done = here(*command, "--runtime", "torch", *QUICKLY)
    assert (done.code, done.err.count("\n")) == (2, 1)
    assert "holds the work of another command (model contents" in done.err


def rows(count, seed):
    """(N, 3) numbers, and which of four sums of them is the greatest; the weights are those of ``matrix``."""
    x = np.random.default_rng(seed).standard_normal((count, 3)).astype(np.float32)
    return x, (x @ matrix()).argmax(axis=1)


def matrix():
    return np.random.default_rng(9).standard_normal((3, 4)).astype(np.float32)


@pytest.fixture(scope="module")
def linear(tmp_path_factory):
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    path = tmp_path_factory.mktemp("linear") / "rows.onnx"
    row = helper.make_tensor_value_info("row", TensorProto.FLOAT, ["n", 3])
    scores = helper.make_tensor_value_info("scores", TensorProto.FLOAT, ["n", 4])
    node = helper.make_node("MatMul", ["row", "w"], ["scores"])
    graph = helper.make_graph([node], "g", [row], [scores], [numpy_helper.from_array(matrix(), "w")])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    return path


@pytest.mark.slow
@pytest.mark.parametrize(
    "form", ["saved", *(pytest.param(form, marks=pytest.mark.slow) for form in ("parquet", "hf"))]
)
def test_data_sets_of_the_hub_are_searched_on_to_the_end(here, linear, tmp_path, monkeypatch, form):
    """Saved to disk, as parquet files of its parts, and by the builder of a folder of CSV."""
    datasets = pytest.importorskip("datasets")
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))
    features = {
        **{name: datasets.Value("float32") for name in "abc"},
        "label": datasets.ClassLabel(names=list("wxyz")),
    }
    parts = datasets.DatasetDict()
    for part, count in (("train", 60), ("test", 300)):
        x, y = rows(count, count)
        columns = {**dict(zip("abc", x.T, strict=True)), "label": y}
        parts[part] = datasets.Dataset.from_dict(columns, features=datasets.Features(features))
    data = tmp_path / "data"
    data.mkdir()
    if form == "saved":
        parts.save_to_disk(data)
    for part in parts if form != "saved" else ():
        parts[part].to_parquet(data / f"{part}.parquet") if form == "parquet" else parts[part].to_csv(
            data / f"{part}.csv"
        )
    done = here(
        "optimize", linear, "--data", f"hf:{data}" if form == "hf" else data, "--out", tmp_path / "run", "--json",
        "--recipe", "graph-only", "--no-robustness", *QUICKLY,
    )  # fmt: skip
    assert done.out, done.err
    original = done.json["original"]
    assert (original["task"], original["splits"]["train"], original["splits"]["test"]) == (
        "classification",
        60,
        200,
    )
    assert original["quality"]["scores"]["accuracy"] == 1
    assert original["classes"] == (list("wxyz") if form == "saved" else [])
    assert done.json["proof"]["quality"]["scores"]["accuracy"] == 1
