"""Text cut into tokens by a recorded tokenizer, and pairs of texts."""

import json

import numpy as np
import pytest

import whet
from whet.data.data import Data, Part, split
from whet.data.preprocess import Postprocess, Preprocess, from_json, to_json
from whet.data.sources import parse_preprocess
from whet.data.tokens import Tokens
from whet.errors import DataError, MissingDependency
from whet.types import TensorSpec

tokenizers = pytest.importorskip("tokenizers")
WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "good", "bad", "film", "a", "very"]


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    """A tokenizer of nine words that puts [CLS] before a text and [SEP] after each."""
    made = tokenizers.Tokenizer(
        tokenizers.models.WordLevel({word: at for at, word in enumerate(WORDS)}, unk_token="[UNK]")
    )
    made.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    made.post_processor = tokenizers.processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    path = tmp_path_factory.mktemp("words") / "tokenizer.json"
    made.save(str(path))
    return path


def tokens_of(tokenizer, **settings):
    return Tokens(str(tokenizer), **settings)


def test_texts_become_numbers_masks_and_types(tokenizer):
    found = tokens_of(tokenizer, max_length=5)({"text": ["a good film", "bad", "a very very bad film"]})
    assert found["input_ids"].tolist() == [[2, 7, 4, 6, 3], [2, 5, 3, 0, 0], [2, 7, 8, 8, 3]]
    assert found["attention_mask"].tolist() == [[1] * 5, [1, 1, 1, 0, 0], [1] * 5]
    assert found["token_type_ids"].tolist() == [[0] * 5] * 3
    assert {array.dtype for array in found.values()} == {np.dtype(np.int64)}


def test_padding_by_batch_goes_to_its_longest_text(tokenizer):
    found = tokens_of(tokenizer, padding="batch")({"text": np.array(["bad", "a film"])})
    assert found["input_ids"].tolist() == [[2, 5, 3, 0], [2, 7, 6, 3]]


def test_two_columns_are_read_as_a_pair(tokenizer):
    tokens = tokens_of(tokenizer, max_length=7, columns=("q", "p"))
    found = tokens({"p": ["bad"], "q": ["good film"], "other": [1]})
    assert found["input_ids"].tolist() == [[2, 4, 6, 3, 5, 3, 0]]
    assert found["token_type_ids"].tolist() == [[0, 0, 0, 0, 1, 1, 0]]
    with pytest.raises(ValueError, match="there is no column q and p; there are q"):
        tokens({"q": ["good"]})


def test_the_fields_that_a_model_takes_are_chosen_by_their_names(tokenizer):
    plain = Preprocess(tokens=tokens_of(tokenizer, max_length=4))
    rows = {"text": ["a film"]}
    both = [TensorSpec(name, "int32", (None, None)) for name in ("input_ids", "attention_mask")]
    made = plain.fitted(both).inputs(rows)
    assert list(made) == ["input_ids", "attention_mask"]
    assert made["input_ids"].dtype == np.int32
    assert list(plain.fitted([TensorSpec("x", "", ())]).inputs(rows)) == ["x"]
    mapped = parse_preprocess(f"tokenizer={tokenizer}; ids=input_ids; mask=attention_mask")
    assert list(mapped.fitted(both).inputs(rows)) == ["ids", "mask"]


def test_the_option_is_read_and_checked(tokenizer, tmp_path):
    text = f"tokenizer={tokenizer.parent}; max_length=64; padding=batch; text=sentence"
    tokens = parse_preprocess(text).tokens
    assert (tokens.file, tokens.max_length, tokens.padding) == (str(tokenizer), 64, "batch")
    assert tokens.columns == ("sentence",)
    assert len(tokens.digest) == 64
    for bad, told in (
        ("tokenizer=nowhere.json", "nowhere.json does not exist; name a tokenizer.json"),
        ("max_length=64", "'max_length' is about text, which needs a tokenizer"),
        ("ids=input_ids", "'ids' is about text, which needs a tokenizer"),
        (f"tokenizer={tokenizer}; padding=none", "padding is max"),
        (f"tokenizer={tokenizer}; max_length=1", "max_length is a number of tokens, 2 at least"),
    ):
        with pytest.raises(DataError, match=told):
            parse_preprocess(bad)


def test_a_file_that_is_no_tokenizer_is_told(tmp_path):
    (tmp_path / "tokenizer.json").write_text("{}")
    (tmp_path / "a.tsv").write_text("good film\t1\nbad film\t0\n" * 20)
    with pytest.raises(DataError, match=r"tokenizer.json is no tokenizer.json of the tokenizers library"):
        whet.dataset(tmp_path / "a.tsv", preprocess=f"tokenizer={tmp_path}")


def test_a_missing_library_is_named_with_its_extra(tokenizer, tmp_path, monkeypatch):
    (tmp_path / "a.tsv").write_text("good film\t1\nbad film\t0\n" * 20)
    copy = tmp_path / "tokenizer.json"
    copy.write_bytes(tokenizer.read_bytes())
    monkeypatch.setitem(__import__("sys").modules, "tokenizers", None)
    with pytest.raises(MissingDependency, match=r"pip install 'whet\[text\]'"):
        whet.dataset(tmp_path / "a.tsv", preprocess=f"tokenizer={copy}")


def test_a_table_of_text_gives_tokens_and_says_what_is_cut(tokenizer, tmp_path):
    path = tmp_path / "a.csv"
    path.write_text("sentence,stars,label\n" + "a very very good film,5,pos\nbad,1,neg\n" * 60)
    splits = whet.dataset(path, preprocess=f"tokenizer={tokenizer}; max_length=4")
    assert splits.rows(Part.TEST, [0]).keys() == {"sentence"}
    assert splits.batch(Part.TEST, [0])["input_ids"].shape == (1, 4)
    assert splits.classes == ("neg", "pos")
    notes = " ".join(splits.notes)
    assert "Columns stars are no text and were left out." in notes
    assert "50.0% of 30 test texts are longer than 4 tokens and are cut." in notes
    with pytest.raises(DataError, match="no column 'sentences' of text; did you mean 'sentence'"):
        whet.dataset(path, preprocess=f"tokenizer={tokenizer}; text=sentences")


def test_lines_of_a_text_file_are_samples_without_labels(tokenizer, tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("a good film, a film\n\nbad\n" * 20)
    splits = whet.dataset(path, preprocess=f"tokenizer={tokenizer}; max_length=8")
    assert splits.labels(Part.TEST) is None
    assert sum(splits.size(part) for part in Part) == 40


def test_a_bundle_finds_its_tokenizer_beside_its_settings(tokenizer, tmp_path):
    tokens = tokens_of("tokenizer.json", max_length=6, inputs=(("ids", "input_ids"),))
    (tmp_path / "tokenizer.json").write_bytes(tokenizer.read_bytes())
    made, _ = from_json(to_json(Preprocess(tokens=tokens), Postprocess()), tmp_path)
    assert made.tokens.file == str(tmp_path / "tokenizer.json")
    assert made.tokens.inputs == (("ids", "input_ids"),)
    assert made.inputs({"": ["good"]})["ids"].tolist() == [[2, 4, 3, 0, 0, 0]]
    assert made.tokens.vocabulary == len(WORDS)


def test_both_sides_of_pairs_come_in_turns_and_are_folded(tokenizer, tmp_path):
    path = tmp_path / "pairs.csv"
    lines = [f"a film {'good ' * (at % 3)},bad,{at / 10}" for at in range(60)]
    path.write_text("\n".join(lines) + "\n")
    splits = whet.dataset(path, preprocess=f"tokenizer={tokenizer}; max_length=6", task="similarity")
    assert splits.sides == ("column_1", "column_2")
    one = splits.batch(Part.TEST, range(3))["input_ids"]
    both = next(splits.batches(Part.TEST, 3))["input_ids"]
    np.testing.assert_array_equal(both[0::2], one)
    assert (both[1::2] == [2, 5, 3, 0, 0, 0]).all()
    folded = splits.fold({"out": both})["out"]
    np.testing.assert_array_equal(folded[:, 0], one)
    assert folded.shape == (3, 2, 6)
    assert splits.labels(Part.TEST).dtype == np.float64


def test_pairs_of_arrays_may_have_several_inputs_a_side():
    rng = np.random.default_rng(0)
    names = ("a.ids", "a.mask", "b.ids", "b.mask")
    arrays = {name: rng.integers(0, 9, (40, 3)) for name in names}
    splits = split(Data(train=(arrays, None), test=(arrays, np.linspace(0, 5, 40)), task="similarity:pearson"))
    taken = splits.parts[Part.TEST].indices[:2]
    both = next(splits.batches(Part.TEST, 2))
    assert list(both) == ["ids", "mask"]
    wanted = np.stack([arrays["a.ids"][taken], arrays["b.ids"][taken]], axis=1).reshape(4, 3)
    np.testing.assert_array_equal(both["ids"], wanted)
    np.testing.assert_array_equal(splits.batch(Part.TEST, [0])["mask"], arrays["a.mask"][taken[:1]])
    with pytest.raises(DataError, match="similarity is of two sides, the data has input"):
        split(Data(test=(np.zeros((40, 3)), np.zeros(40)), task="similarity"))


def test_sst2_is_read_with_the_words_of_its_sentences(assets, tokenizer):
    splits = whet.dataset(assets / "text" / "sst2", preprocess=f"tokenizer={tokenizer}; max_length=32")
    assert splits.size(Part.TRAIN) == 6920
    assert splits.size(Part.SELECT) + splits.size(Part.TEST) == 872
    assert set(splits.labels(Part.TEST).tolist()) == {0, 1}
    first = (assets / "text" / "sst2" / "train.tsv").read_text().splitlines()[0]
    assert splits.rows(Part.TRAIN, [0])["column_1"] == [first.split("\t")[0].strip()]
    assert json.loads(to_json(splits.preprocess, Postprocess()))["preprocess"]["tokens"]["max_length"] == 32
