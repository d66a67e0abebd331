"""Weights as people have them: wrapped, prefixed, from a GPU, broken, hostile."""

import os
import pickle
import warnings
from collections import OrderedDict
from pathlib import Path

import graphs
import numpy as np
import pytest
import tiny
import torch
from safetensors.torch import save_file
from torch import nn

from whet.errors import ModelError, UnsafePickle, WeightsMismatch
from whet.models.source import source_of
from whet.models.torch import checkpoint
from whet.models.torch.adapter import TorchAdapter


def trained():
    """A regressor whose weights are not those that its factory gives."""
    module = tiny.regressor()
    with torch.no_grad():
        for number, parameter in enumerate(module.parameters(), 1):
            parameter.copy_(torch.from_numpy(graphs.floats(*parameter.shape, seed=number)))
    return module


def loaded(path, **options):
    """The regressor of a checkpoint, opened as a user's model is."""
    source = source_of(f"{Path(tiny.__file__)}:regressor", path, **options)
    return TorchAdapter().open(source, {"row": graphs.floats(2, 6)})


def assert_trained(model):
    want = trained().state_dict()
    have = model.payload.module.state_dict()
    assert list(have) == list(want)
    for name, tensor in want.items():
        assert torch.equal(have[name], tensor), name


def prefixed(prefix, state):
    return {f"{prefix}{name}": tensor for name, tensor in state.items()}


STATE = trained().state_dict()
WRAPPED = {
    "bare": STATE,
    "state_dict": {"state_dict": STATE, "epoch": 3, "best": 0.9},
    "beside a tensor": {"best_accuracy": torch.tensor(0.9), "state_dict": STATE},
    "nested twice": {"checkpoint": 1, "model": {"state_dict": STATE}},
    "data parallel": prefixed("module.", STATE),
    "compiled": prefixed("_orig_mod.", STATE),
    "data parallel of compiled": prefixed("module._orig_mod.", STATE),
    "lightning": {"state_dict": prefixed("model.", STATE), "pytorch-lightning_version": "2.5"},
    "averaged": {"n_averaged": torch.tensor(7), **prefixed("module.", STATE)},
    "half precision": {name: tensor.half() for name, tensor in STATE.items()},
}


@pytest.mark.parametrize("suffix", [".pt", ".pth", ".th", ".bin", ".ckpt"])
def test_a_checkpoint_loads_under_every_usual_suffix(tmp_path, suffix):
    torch.save(STATE, tmp_path / f"weights{suffix}")
    assert_trained(loaded(tmp_path / f"weights{suffix}"))


@pytest.mark.parametrize("form", [name for name in WRAPPED if name != "half precision"])
def test_a_checkpoint_is_found_in_its_wrapping(tmp_path, form):
    torch.save(WRAPPED[form], tmp_path / "weights.pt")
    assert_trained(loaded(tmp_path / "weights.pt"))


def test_a_half_precision_checkpoint_fills_a_float32_model(tmp_path):
    torch.save(WRAPPED["half precision"], tmp_path / "weights.pt")
    weight = loaded(tmp_path / "weights.pt").payload.module.net[0].weight
    assert weight.dtype == torch.float32
    np.testing.assert_allclose(weight.detach(), STATE["net.0.weight"], rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("form", ["bare", "data parallel"])
def test_safetensors_load(tmp_path, form):
    save_file({name: tensor.contiguous() for name, tensor in WRAPPED[form].items()}, tmp_path / "w.safetensors")
    assert_trained(loaded(tmp_path / "w.safetensors"))


def test_a_legacy_checkpoint_loads(tmp_path):
    torch.save(STATE, tmp_path / "weights.pt", _use_new_zipfile_serialization=False)
    assert_trained(loaded(tmp_path / "weights.pt"))


@pytest.mark.parametrize("zipped", [True, False])
def test_tensors_saved_on_a_gpu_load_on_the_cpu(tmp_path, monkeypatch, zipped):
    with monkeypatch.context() as patch:
        patch.setattr(torch.serialization, "location_tag", lambda storage: "cuda:0")
        torch.save(STATE, tmp_path / "weights.pt", _use_new_zipfile_serialization=zipped)
    assert b"cuda:0" in (tmp_path / "weights.pt").read_bytes()
    assert_trained(loaded(tmp_path / "weights.pt"))


@pytest.mark.assets
def test_the_published_resnet20_loads_as_the_safetensors_do(assets):
    folder = assets / "models" / "resnet20-cifar10"
    (published,) = folder.glob("*.th")
    models = [
        TorchAdapter().open(source_of(f"{folder.parent}/zoo.py:resnet20", path), None).payload.module
        for path in (published, folder / "resnet20.safetensors")
    ]
    for (name, one), (_, other) in zip(*(model.state_dict().items() for model in models), strict=True):
        assert torch.equal(one, other), name


# --- weights that do not fit ----------------------------------------------------------------------------------


def mismatch(tmp_path, state):
    torch.save(state, tmp_path / "weights.pt")
    with pytest.raises(WeightsMismatch) as caught:
        loaded(tmp_path / "weights.pt")
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_names_that_do_not_fit_are_listed_with_the_closest(tmp_path):
    state = OrderedDict((name.replace("net.0", "nett.0"), tensor) for name, tensor in STATE.items())
    message = mismatch(tmp_path, state)
    assert "2 missing: net.0.weight (closest: nett.0.weight), net.0.bias (closest: nett.0.bias)" in message
    assert "2 unexpected: nett.0.weight (closest: net.0.weight)" in message
    assert "check that the function builds the very architecture" in message


def test_many_names_are_cut_short(tmp_path):
    message = mismatch(tmp_path, {**STATE, **{f"extra{at}": torch.zeros(1) for at in range(9)}})
    assert "9 unexpected: extra0, extra1, extra2, extra3, extra4 and 4 more" in message
    assert "missing" not in message


def test_shapes_that_do_not_fit_are_listed(tmp_path):
    message = mismatch(tmp_path, {**STATE, "net.2.weight": torch.zeros(5, 32), "net.2.bias": torch.zeros(5)})
    assert "net.2.weight is [5, 32] in the file, [2, 32] in the model" in message
    assert "net.2.bias is [5] in the file, [2] in the model" in message


def test_nothing_is_filled_where_something_does_not_fit(tmp_path):
    module = tiny.regressor()
    before = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    with pytest.raises(WeightsMismatch):
        checkpoint.fill(module, {**STATE, "net.2.bias": torch.zeros(5)}, tmp_path / "weights.pt")
    assert all(torch.equal(tensor, before[name]) for name, tensor in module.state_dict().items())


def test_counts_of_batches_may_be_missing():
    module = nn.BatchNorm1d(3)
    state = {name: tensor for name, tensor in module.state_dict().items() if name != "num_batches_tracked"}
    state["weight"] = torch.tensor([1.0, 2.0, 3.0])
    checkpoint.fill(module, state, Path("old.pt"))
    assert module.weight.tolist() == [1, 2, 3]


# --- files that hold no weights -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ({"epoch": 3, "lr": 0.1}, "a dict of epoch, lr"),
        ([1, 2, 3], "a list"),
        (torch.zeros(3), "a Tensor"),
        ({}, "an empty dict"),
        ({"state_dict": {"epoch": 3}}, "a dict of epoch"),
    ],
)
def test_content_without_named_tensors_is_told(tmp_path, content, told):
    torch.save(content, tmp_path / "weights.pt")
    with pytest.raises(ModelError, match=f"holds no weights by name but {told}; save model.state_dict"):
        loaded(tmp_path / "weights.pt")


def broken(path, kind):
    """Write a file that is no checkpoint."""
    torch.save(STATE, path)
    whole = path.read_bytes()
    legacy = path.with_suffix(".legacy")
    torch.save(STATE, legacy, _use_new_zipfile_serialization=False)
    path.write_bytes(
        {
            "half a file": whole[: len(whole) // 2],
            "half a legacy file": legacy.read_bytes()[: legacy.stat().st_size // 2],
            "the first bytes": whole[:20],
            "noise": np.random.default_rng(0).bytes(4096),
            "text": b"these are not the weights you are looking for\n",
            "html": b"<!DOCTYPE html><html><body>404</body></html>",
            "a pickle of a list": pickle.dumps([1, 2, 3]),
        }[kind]
    )
    return path


BROKEN = ("half a file", "half a legacy file", "the first bytes", "noise", "text", "html", "a pickle of a list")


@pytest.mark.parametrize("trust", [False, True])
@pytest.mark.parametrize("kind", BROKEN)
def test_a_broken_file_is_one_clear_line_and_no_question_of_trust(tmp_path, kind, trust):
    path = broken(tmp_path / "weights.pt", kind)
    with pytest.raises(ModelError) as caught:
        loaded(path, trust_pickle=trust)
    assert not isinstance(caught.value, UnsafePickle), caught.value
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_script_archive_says_what_it_is(tmp_path):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of torch.jit
        torch.jit.trace(nn.Linear(2, 2), torch.zeros(1, 2)).save(tmp_path / "model.pt")
    with pytest.raises(ModelError, match=r"holds a TorchScript program, .*save model.state_dict"):
        loaded(tmp_path / "model.pt")


@pytest.mark.parametrize("kind", ["half", "noise"])
def test_a_broken_safetensors_file_is_one_clear_line(tmp_path, kind):
    path = tmp_path / "weights.safetensors"
    save_file(STATE, path)
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2] if kind == "half" else np.random.default_rng(0).bytes(4096))
    with pytest.raises(ModelError, match=r"is not a readable safetensors file .*may be truncated"):
        loaded(path)


def test_an_empty_file_says_so(tmp_path):
    (tmp_path / "weights.pt").touch()
    with pytest.raises(ModelError, match=r"weights.pt is empty \(0 bytes\); it was probably not copied whole"):
        loaded(tmp_path / "weights.pt")


def test_a_missing_file_says_so(tmp_path):
    with pytest.raises(ModelError, match=r"the weights file .*weights.pt does not exist"):
        loaded(tmp_path / "weights.pt")


# --- pickles --------------------------------------------------------------------------------------------------


class Trap:
    """A pickle that makes a folder when it is opened."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (self.path,)


@pytest.mark.parametrize("zipped", [True, False])
def test_a_hostile_pickle_is_refused_and_not_run(tmp_path, zipped):
    path, trap = tmp_path / "weights.pt", tmp_path / "was-here"
    torch.save({**STATE, "note": Trap(trap)}, path, _use_new_zipfile_serialization=zipped)
    with pytest.raises(UnsafePickle, match=r"runs code from the file; it holds: .*--trust-pickle") as caught:
        loaded(path)
    assert "posix.mkdir" in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not trap.exists()


def test_a_plain_hostile_pickle_is_not_run_either(tmp_path):
    path, trap = tmp_path / "weights.bin", tmp_path / "was-here"
    path.write_bytes(pickle.dumps({"note": Trap(trap)}))
    with pytest.raises(ModelError):
        loaded(path)
    assert not trap.exists()


def test_a_whole_pickled_module_says_what_it_holds(tmp_path):
    torch.save(trained(), tmp_path / "model.pt")
    with pytest.raises(UnsafePickle, match=r"it holds: .*tiny.Row") as caught:
        loaded(tmp_path / "model.pt")
    assert "save model.state_dict() instead, or pass --trust-pickle" in str(caught.value)


@pytest.mark.parametrize("content", [trained(), {"model": trained(), "epoch": 3}], ids=["whole", "under a key"])
def test_a_whole_pickled_module_loads_where_it_is_trusted(tmp_path, content):
    torch.save(content, tmp_path / "model.pt")
    assert_trained(loaded(tmp_path / "model.pt", trust_pickle=True))


def test_a_trusted_pickle_of_a_class_that_is_gone_is_one_clear_line(tmp_path, monkeypatch):
    monkeypatch.setattr(tiny, "Gone", type("Gone", (nn.Linear,), {"__module__": "tiny"}), raising=False)
    torch.save(tiny.Gone(2, 2), tmp_path / "model.pt")
    monkeypatch.delattr(tiny, "Gone")
    with pytest.raises(ModelError, match=r"cannot be unpickled \(AttributeError: .*Gone") as caught:
        loaded(tmp_path / "model.pt", trust_pickle=True)
    assert "\n" not in str(caught.value)
