"""Models of transformers: from a folder or by name, offline, with every way in which that can go wrong."""

import json
import shutil
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer

import graphs
import numpy as np
import pytest
import torch

import whet
from whet import isolate
from whet.errors import ModelError, SignatureError, UnsafePickle, WeightsMismatch
from whet.models.adapter import adapter_for
from whet.models.source import Origin, source_of
from whet.models.torch import hub
from whet.models.torch.adapter import TorchAdapter
from whet.passes.export.spec import ExportOnnx
from whet.testing import AdapterContract
from whet.types import Format

pytest.importorskip("transformers")
tiny_hub = pytest.importorskip("tiny_hub")


TWO = ("input_ids", "attention_mask")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A classifier of texts, as save_pretrained writes it. Not to be changed."""
    path = tmp_path_factory.mktemp("hub") / "tiny-bert"
    tiny_hub.write(path)
    return path


@pytest.fixture
def changed(folder, tmp_path):
    """A copy of it, to be changed."""
    return shutil.copytree(folder, tmp_path / "changed")


def opened(path, sample=None, *inputs):
    return TorchAdapter().open(source_of(path, inputs=inputs), sample)


class TestHub(AdapterContract):
    @pytest.fixture(autouse=True)
    def its_folder(self, folder):
        self.folder = folder

    def make_adapter(self):
        return TorchAdapter()

    def make_model(self):
        return opened(self.folder)


@pytest.mark.parametrize("form", ["{}", "hf:{}"])
def test_a_folder_is_opened_as_its_class_with_its_weights(folder, form):
    source = source_of(form.format(folder))
    assert (source.origin, source.format, source.name) == (Origin.HUB, Format.TORCH, "tiny-bert")
    model = TorchAdapter().open(source, None)
    assert type(model.payload.module).__name__ == "BertForSequenceClassification"
    wanted = tiny_hub.write(folder.parent / "again")
    batch = model.signature.synthetic(3)
    with torch.no_grad():
        logits = wanted(**{name: torch.from_numpy(array) for name, array in batch.items()}).logits
    np.testing.assert_allclose(TorchAdapter().forward(model, batch)["logits"], logits.numpy(), atol=1e-6)


def test_a_relative_folder_is_a_folder(folder, monkeypatch):
    monkeypatch.chdir(folder.parent)
    assert source_of("hf:./tiny-bert").path == str(folder)
    assert source_of("tiny-bert").path == str(folder)


def test_the_signature_is_the_tokenizers_with_free_batch_and_length(folder):
    signature = opened(folder).signature
    assert [str(spec) for spec in signature.inputs] == [
        "input_ids=int64[?,?]", "attention_mask=int64[?,?]", "token_type_ids=int64[?,?]",
    ]  # fmt: skip
    assert [str(spec) for spec in signature.outputs] == ["logits=float32[?,2]"]
    assert signature.inputs[0].most == (None, 24)
    drawn = signature.synthetic(50)
    assert drawn["input_ids"].shape == (50, 24)
    assert drawn["input_ids"].max() == 59
    assert drawn["attention_mask"].all()


@pytest.mark.parametrize(
    ("kind", "settings", "tokenizer", "names", "most"),
    [
        ("BertModel", {}, {"model_input_names": ["attention_mask", "input_ids"]}, list(TWO), 24),
        ("BertModel", {"type_vocab_size": 1}, None, list(TWO), 24),
        ("RobertaModel", {"pad_token_id": 1}, None, [*TWO, "token_type_ids"], 22),
    ],
)  # fmt: skip
def test_inputs_are_told_by_config_and_tokenizer(tmp_path, kind, settings, tokenizer, names, most):
    tiny_hub.write(tmp_path / "m", kind, tokenizer, **settings)
    signature = opened(tmp_path / "m").signature
    assert [spec.name for spec in signature.inputs] == names
    assert signature.inputs[0].most == (None, most)
    assert str(signature.outputs[0]) == "last_hidden_state=float32[?,?,16]"


def test_pictures_go_in_where_the_config_says_so(tmp_path):
    tiny_hub.write(tmp_path / "vit", "ViTModel", image_size=8, patch_size=4, num_channels=2)
    signature = opened(tmp_path / "vit").signature
    assert [str(spec) for spec in signature.inputs] == ["pixel_values=float32[?,2,8,8]"]


def test_data_tells_names_and_int32_is_widened(folder):
    ids = np.arange(20, dtype=np.int32).reshape(2, 10)
    model = opened(folder, {"anything": ids})
    assert [str(spec) for spec in model.signature.inputs] == ["input_ids=int64[?,?]"]
    bound = model.signature.bind({"anything": ids})
    assert bound["input_ids"].dtype == np.int64
    np.testing.assert_array_equal(bound["input_ids"], ids)


def test_a_sequence_that_is_too_long_is_one_line_and_no_index_error(folder):
    ids = np.zeros((2, 25), np.int64)
    told = r"input_ids=int64\[\?,\?\] takes at most 24 along axis 1, the data has 25; cut it to 24"
    with pytest.raises(SignatureError, match=told):
        opened(folder, {"input_ids": ids})
    with pytest.raises(SignatureError, match=told):
        opened(folder, {"input_ids": ids[:, :8]}).signature.bind({"input_ids": ids})


def test_declared_inputs_come_before_the_configs(folder):
    from whet.models.signature import parse_input

    signature = opened(folder, None, parse_input("input_ids=int64[1,7]:0..9")).signature
    assert [str(spec) for spec in signature.inputs] == ["input_ids=int64[?,7]"]


def test_it_is_exported_with_a_free_batch_and_length(folder):
    outcome = graphs.apply(ExportOnnx(), opened(folder))
    exported = outcome.model
    assert outcome.notes["max_rel_difference"] < 1e-4
    assert str(exported.signature.inputs[0]) == "input_ids=int64[?,?]"
    assert exported.signature.inputs[0].most == (None, 24)
    for count, length in ((1, 5), (3, 17)):
        rng = np.random.default_rng(0)
        batch = {
            "input_ids": rng.integers(0, 60, (count, length)),
            "attention_mask": (np.arange(length) < rng.integers(1, length, (count, 1))).astype(np.int64),
            "token_type_ids": rng.integers(0, 2, (count, length)),
        }
        wanted = graphs.forward(opened(folder), batch)["logits"]
        np.testing.assert_allclose(graphs.forward(exported, batch)["logits"], wanted, atol=1e-5)


def test_a_stored_model_needs_the_folder_no_more(changed, tmp_path):
    model = opened(changed)
    path = TorchAdapter().save(model, tmp_path / "stored")
    batch = model.signature.synthetic(2)
    wanted = TorchAdapter().forward(model, batch)["logits"]
    shutil.rmtree(changed)
    assert {file.name for file in TorchAdapter().files(path)} == {
        "model.json",
        "weights.safetensors",
        "config.json",
    }

    def outputs(path, batch, on_event):
        """In a process of its own."""
        return TorchAdapter().forward(model.with_payload(TorchAdapter().load(path, model.source)), batch)["logits"]

    np.testing.assert_allclose(isolate.call(outputs, path, batch), wanted, atol=1e-6)


def test_a_fingerprint_follows_config_and_weights(changed):
    first = source_of(changed).fingerprint()
    assert first == source_of(changed).fingerprint()
    (changed / "config.json").write_text((changed / "config.json").read_text() + " ")
    assert first != source_of(changed).fingerprint()


def test_attention_and_embeddings_count_as_by_hand(folder):
    model = opened(folder)
    found = {layer.name: layer for layer in TorchAdapter().layers(model)}
    length, width, inner = 24, 16, 32
    attention = 2 * length * length * width  # of queries by keys, and of shares by values
    assert found["bert.encoder.layer.0.attention.self"].macs == attention
    assert found["bert.embeddings.word_embeddings"].macs == 0
    layer = length * (4 * width * width + 2 * width * inner) + attention
    assert sum(layer.macs for layer in found.values()) == 2 * layer + width * width + width * 2


def test_the_tokenizers_file_is_named_where_there_is_one(changed):
    assert hub.tokenizer_file(source_of(changed)) is None
    (changed / "tokenizer.json").write_text("{}")
    assert hub.tokenizer_file(source_of(changed)) == changed / "tokenizer.json"
    assert hub.tokenizer_file(source_of(torch.nn.Linear(2, 2))) is None


@pytest.mark.slow
def test_it_is_profiled_from_a_path(folder):
    found = whet.profile(str(folder))
    assert found.parameters == sum(layer.parameters for layer in TorchAdapter().layers(opened(folder)))
    assert found.time_ms > 0


# --- what is wrong with a folder ------------------------------------------------------------------------------


def test_a_folder_without_weights_is_one_line(changed):
    (changed / "model.safetensors").unlink()
    with pytest.raises(ModelError, match=r"has a config.json but no weights \(model.safetensors or"):
        source_of(changed)


def test_a_folder_without_a_config_is_one_line(tmp_path):
    with pytest.raises(ModelError, match=r"has no config.json; a folder of a model is what save_pretrained writes"):
        source_of(f"hf:{tmp_path}")


def test_weights_that_are_missing_are_not_made_up(changed):
    from safetensors.torch import load_file, save_file

    weights = load_file(changed / "model.safetensors")
    del weights["classifier.weight"]
    save_file(weights, changed / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(WeightsMismatch, match=r"1 are missing or of another shape \(classifier.weight\)"):
        opened(changed)


def test_truncated_weights_are_one_line(changed):
    content = (changed / "model.safetensors").read_bytes()
    (changed / "model.safetensors").write_bytes(content[:-100])
    with pytest.raises(ModelError, match=r"is not a readable safetensors file .*truncated"):
        opened(changed)


@pytest.mark.parametrize(
    ("config", "told"),
    [
        ("{", "check the file"),
        (json.dumps({"model_type": "no-such-type"}), "check the file"),
        (json.dumps({"auto_map": {"AutoConfig": "code.Mine"}}), "code of its own, which is never run"),
    ],
)
def test_a_config_that_cannot_be_used_is_one_line(changed, config, told):
    (changed / "config.json").write_text(config)
    (changed / "code.py").write_text("raise SystemExit('run')")
    with pytest.raises(ModelError, match=told) as caught:
        opened(changed)
    assert "\n" not in str(caught.value)


def pickled(folder, extra=()):
    """Weights as torch pickles them in place of safetensors."""
    from safetensors.torch import load_file

    weights = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    torch.save({**weights, **dict(extra)}, folder / "pytorch_model.bin")


def test_pickled_weights_load_without_unpickling(changed, folder):
    pickled(changed)
    batch = opened(folder).signature.synthetic(2)
    found, wanted = (graphs.forward(opened(path), batch)["logits"] for path in (changed, folder))
    np.testing.assert_array_equal(found, wanted)


def test_code_in_pickled_weights_is_refused_by_name(changed):
    pickled(changed, {"extra": pytest.approx})
    with pytest.raises(UnsafePickle, match=r"pytorch_model.bin can only be read by unpickling.*pytest"):
        opened(changed)


# --- names of the hub -----------------------------------------------------------------------------------------


@pytest.fixture
def cache(monkeypatch, tmp_path):
    """An empty cache of the hub, and no network."""
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    return tmp_path / "cache"


def test_a_model_that_is_here_already_needs_no_network(cache, folder):
    revision = "0123456789abcdef0123456789abcdef01234567"
    place = cache / "models--someone--tiny"
    shutil.copytree(folder, place / "snapshots" / revision)
    (place / "refs").mkdir()
    (place / "refs" / "main").write_text(revision)
    source = source_of("hf:someone/tiny")
    assert (source.name, source.factory, source.revision) == ("tiny", "someone/tiny", revision)
    assert adapter_for(source.format).open(source, None).signature.inputs[0].name == "input_ids"


def test_a_hub_that_cannot_be_reached_is_one_line(cache):
    with pytest.raises(ModelError, match=r"hf:someone/tiny is not on this machine and cannot be fetched .*network"):
        source_of("hf:someone/tiny")


def test_a_name_that_is_none_is_one_line(cache):
    with pytest.raises(ModelError, match=r"hf:a/b/c is no name of a model .*write owner/name"):
        source_of("hf:a/b/c")


def test_a_model_that_the_hub_does_not_have_is_one_line(cache, monkeypatch):
    class Nothing(BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(404)
            self.send_header("X-Error-Code", "RepoNotFound")
            self.send_header("Content-Length", "0")
            self.end_headers()

        do_HEAD = do_GET  # noqa: N815 - as the server calls it

        def log_message(self, *_):
            pass

    with HTTPServer(("127.0.0.1", 0), Nothing) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        from huggingface_hub import constants

        monkeypatch.setattr(constants, "ENDPOINT", f"http://127.0.0.1:{server.server_port}")
        with pytest.raises(ModelError, match="the hub has no model 'someone/nothing', or it is private; check"):
            source_of("hf:someone/nothing")
        server.shutdown()


def test_weights_beside_a_model_of_the_hub_are_refused(folder):
    with pytest.raises(ModelError, match=r"--weights goes with file.py:function"):
        source_of(folder, folder / "model.safetensors")
