"""What a model takes, told before it is run, and how many words it knows."""

import importlib

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import nn

from whet.data.data import Data
from whet.data.preprocess import Preprocess
from whet.data.sources import data_source
from whet.data.tokens import Tokens
from whet.errors import DataError, SignatureError
from whet.models.adapter import adapter_for
from whet.models.signature import parse_input
from whet.models.source import source_of
from whet.models.takes import embedded, takes
from whet.trials.fit import open_data, open_model
from whet.types import Format


class Words(nn.Module):
    """Token numbers (N, L) and a mask to (N, 4); knows 30 words and 8 places."""

    def __init__(self):
        super().__init__()
        self.words, self.places = nn.Embedding(30, 4), nn.Embedding(8, 4)

    def forward(self, input_ids, attention_mask=None, *, scale=None):
        return self.words(input_ids).mean(1)


class Any(nn.Module):
    def forward(self, **inputs):
        return next(iter(inputs.values()))


def opened(module):
    return adapter_for(Format.TORCH).open(source_of(module), None)


def test_a_module_takes_the_parameters_of_its_forward():
    model = opened(Words())
    assert [spec.name for spec in takes(model)] == ["input_ids", "attention_mask", "scale"]
    declared = parse_input("input_ids=int32[1,?8]")
    assert takes(model, [declared])[0] == declared
    assert takes(opened(Any())) == ()
    assert embedded(model) == 30
    assert embedded(opened(nn.Linear(2, 2))) == 0


def test_a_graph_takes_its_inputs(tmp_path):
    ids = helper.make_tensor_value_info("ids", TensorProto.INT64, ["n", "l"])
    out = helper.make_tensor_value_info("out", TensorProto.FLOAT, ["n", "l", 3])
    table = numpy_helper.from_array(np.zeros((17, 3), np.float32), "table")
    graph = helper.make_graph([helper.make_node("Gather", ["table", "ids"], ["out"])], "g", [ids], [out], [table])
    onnx.save(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), tmp_path / "g.onnx"
    )
    model = adapter_for(Format.ONNX).open(source_of(tmp_path / "g.onnx"), None)
    assert [(spec.name, spec.dtype) for spec in takes(model)] == [("ids", "int64")]
    assert embedded(model) == 17


@pytest.mark.parametrize(("words", "fits"), [(30, True), (31, False)])
def test_a_tokenizer_with_more_words_than_the_model_does_not_fit_it(tmp_path, words, fits):
    tokenizers = pytest.importorskip("tokenizers")
    made = tokenizers.Tokenizer(tokenizers.models.WordLevel({f"w{at}": at for at in range(words)}, unk_token="w0"))
    made.save(str(tmp_path / "tokenizer.json"))
    tokens = Tokens(str(tmp_path / "tokenizer.json"), max_length=4)
    texts = np.array(["w1", "w2"] * 20)
    data = data_source(Data(test=({"text": texts}, None), preprocess=Preprocess(tokens=tokens)))
    source, known = source_of(Words().eval()), tmp_path / "takes.json"
    if not fits:
        with pytest.raises(DataError, match="it has 31 words, the largest embedding 30"):
            open_data(data, source, known)
        return
    found = open_data(data, source, known)
    assert [name for name, _ in found.preprocess.tokens.inputs] == ["input_ids", "attention_mask"]
    assert known.exists()
    assert open_data(data, source, known).preprocess == found.preprocess
    assert torch.from_numpy(found.batch("test", [0])["input_ids"]).shape == (1, 4)


def test_a_mask_that_is_held_for_synthetic_data_is_brought_by_a_tokenizer(tmp_path):
    """The mask of padding would else stay at 1, and padding would be read as words."""
    tokenizers = pytest.importorskip("tokenizers")
    made = tokenizers.Tokenizer(tokenizers.models.WordLevel({f"w{at}": at for at in range(30)}, unk_token="w0"))
    made.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    made.save(str(tmp_path / "tokenizer.json"))
    tokens = Tokens(str(tmp_path / "tokenizer.json"), max_length=4)
    texts = np.array(["w1", "w2 w3"] * 20)
    data = data_source(Data(test=({"text": texts}, None), preprocess=Preprocess(tokens=tokens)))
    held = [parse_input("input_ids=int64[1,?4]:0..29"), parse_input("attention_mask=int64[1,?4]:1")]
    model = opened_as(held)
    assert [spec.name for spec in takes(model) if spec.held] == ["attention_mask"]
    found = open_data(data, model.source)
    mask = found.batch("test", range(found.size("test")))["attention_mask"]
    assert sorted(set(mask.sum(axis=1))) == [1, 2]


def opened_as(inputs):
    source = source_of(Words().eval(), inputs=tuple(inputs))
    return adapter_for(Format.TORCH).open(source, None)


def test_the_columns_that_a_module_cannot_take_are_named():
    frame = pytest.importorskip("pandas").DataFrame(
        np.random.default_rng(0).normal(size=(60, 4)), columns=list("abcd")
    )
    source = source_of(nn.Linear(3, 2).eval())
    splits = open_data(data_source(Data(test=frame)), source)
    sample = splits.batch("test", [0, 1])
    with pytest.raises(SignatureError, match=r"columns a, b, c, d went in: leave out .*drop=NAME") as caught:
        open_model(source, splits, sample)
    assert "mat1 and mat2" in str(caught.value)


def test_a_folder_of_transformers_brings_its_own_tokenizer_for_texts(tmp_path):
    """It cuts at what the model takes; one that is named takes its place, and numbers need none."""
    pytest.importorskip("transformers")
    tokenizers, tiny_hub = pytest.importorskip("tokenizers"), importlib.import_module("tiny_hub")
    folder = tmp_path / "bert"
    tiny_hub.write(folder, num_labels=2)
    words = {f"w{at}": at for at in range(60)}
    made = tokenizers.Tokenizer(tokenizers.models.WordLevel(words, unk_token="w0"))
    made.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    before = source_of(folder).fingerprint()
    made.save(str(folder / "tokenizer.json"))
    source = source_of(folder)
    assert source.fingerprint() != before
    lines = [f"{'w1 ' * (at % 30 + 1)},{at % 2}\n" for at in range(60)]
    (tmp_path / "texts.csv").write_text("text,label\n" + "".join(lines))
    splits = open_data(data_source(tmp_path / "texts.csv"), source)
    batch = splits.batch("test", range(splits.size("test")))
    assert set(batch) == {"input_ids", "attention_mask", "token_type_ids"}
    assert batch["attention_mask"].shape[1] == 24
    assert len(set(batch["attention_mask"].sum(axis=1))) > 5
    assert "Texts are cut by the model's own tokenizer, at 24 tokens." in splits.notes

    named = Preprocess(tokens=Tokens(str(folder / "tokenizer.json"), max_length=8))
    splits = open_data(data_source(tmp_path / "texts.csv", preprocess=named), source)
    assert splits.batch("test", [0])["input_ids"].shape == (1, 8)
    (tmp_path / "rows.csv").write_text("a,b,label\n" + "".join(f"{at},{at},{at % 2}\n" for at in range(60)))
    assert data_source(tmp_path / "rows.csv").open().preprocess.tokens is None
