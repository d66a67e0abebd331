"""Structural edits of torch modules: INT8 layers near the float ones, casts at the edges, alike after a reload."""

import typing
from collections import OrderedDict

import graphs
import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from whet import isolate
from whet.models.source import source_of
from whet.models.torch.adapter import TorchAdapter
from whet.models.torch.edits import Int8Linear, Int8Recurrent, cast_edit, dynamic_int8_edit, replay
from whet.passes.quantize.spec import DynamicInt8, Half


def sqnr(want, have):
    """Signal over noise, in dB."""
    want, have = want.detach().double(), have.detach().double()
    return float(10 * torch.log10((want**2).sum() / ((want - have) ** 2).sum()))


def randoms(*shape, seed=0):
    return torch.from_numpy(graphs.floats(*shape, seed=seed))


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("shape", [(1, 24), (7, 24), (2, 5, 24)])
def test_an_int8_linear_is_within_the_steps_of_its_codes(shape, bias):
    torch.manual_seed(0)
    layer = nn.Linear(24, 9, bias=bias)
    x = randoms(*shape)
    weight = layer.weight.detach().numpy()
    step = np.abs(weight).max(axis=1, keepdims=True) / 127
    rounded = np.round(weight / step) * step
    want = x.numpy() @ rounded.T + (layer.bias.detach().numpy() if bias else 0)
    # activations have 7 bits between their extremes (and zero): half a step each
    activation_step = (max(x.max(), 0) - min(x.min(), 0)).item() / 127
    allowed = activation_step / 2 * np.abs(rounded).sum(axis=1) * 1.01 + 1e-4
    assert (np.abs(Int8Linear(layer)(x).numpy() - want) <= allowed).all()


def test_an_int8_linear_holds_each_weight_in_a_byte_with_a_scale_a_row():
    layer = nn.Linear(24, 9)
    with torch.no_grad():
        layer.weight[3] *= 100
        layer.weight[4] = 0
    state = Int8Linear(layer).state_dict()
    assert state["weight_int8"].dtype == torch.int8
    restored = state["weight_int8"].float() * state["scale"][:, None]
    error = (restored - layer.weight).abs().amax(dim=1)
    assert (error <= state["scale"] / 2 * 1.001).all()
    assert (state["weight_int8"].abs() <= 127).all()
    assert not state["weight_int8"][4].any()


RECURRENT = {
    "plain": {},
    "batch first": {"batch_first": True},
    "two layers": {"num_layers": 2},
    "both ways": {"bidirectional": True, "batch_first": True},
    "two layers both ways without bias": {"num_layers": 2, "bidirectional": True, "bias": False},
}


@pytest.mark.parametrize("form", RECURRENT)
@pytest.mark.parametrize("kind", [nn.LSTM, nn.GRU])
def test_an_int8_recurrent_layer_is_near_the_float_one(kind, form):
    torch.manual_seed(0)
    layer = kind(12, 16, **RECURRENT[form]).eval()
    quantized, x = Int8Recurrent(layer), randoms(5, 3, 12)
    (want, want_state), (have, have_state) = layer(x), quantized(x)
    assert have.shape == want.shape
    assert sqnr(want, have) > 25
    for one, other in zip(_tuple(want_state), _tuple(have_state), strict=True):
        assert one.shape == other.shape
        assert sqnr(one, other) > 25


@pytest.mark.parametrize("kind", [nn.LSTM, nn.GRU])
def test_an_int8_recurrent_layer_goes_on_from_a_state(kind):
    torch.manual_seed(0)
    layer = kind(12, 16, num_layers=2).eval()
    quantized, x = Int8Recurrent(layer), randoms(8, 3, 12)
    _, state = quantized(x[:4])
    later, _ = quantized(x[4:], state)
    assert sqnr(layer(x)[0][4:], later) > 25


@pytest.mark.parametrize("kind", [nn.LSTM, nn.GRU])
def test_an_int8_recurrent_layer_takes_one_sequence_without_a_batch(kind):
    torch.manual_seed(0)
    layer = kind(12, 16, batch_first=True).eval()
    (want, state), (have, have_state) = layer(randoms(5, 12)), Int8Recurrent(layer)(randoms(5, 12))
    assert have.shape == want.shape
    assert sqnr(want, have) > 25
    assert [one.shape for one in _tuple(have_state)] == [one.shape for one in _tuple(state)]


@pytest.mark.parametrize("kind", [nn.LSTM, nn.GRU])
def test_an_int8_recurrent_layer_takes_packed_sequences(kind):
    torch.manual_seed(0)
    layer = kind(12, 16, batch_first=True, bidirectional=True).eval()
    packed = pack_padded_sequence(
        randoms(3, 5, 12), torch.tensor([2, 5, 3]), batch_first=True, enforce_sorted=False
    )
    (want, state), (have, have_state) = layer(packed), Int8Recurrent(layer)(packed)
    want, have = (pad_packed_sequence(each, batch_first=True)[0] for each in (want, have))
    assert sqnr(want, have) > 25
    for one, other in zip(_tuple(state), _tuple(have_state), strict=True):
        assert sqnr(one, other) > 25


def _tuple(value):
    return value if isinstance(value, tuple) else (value,)


@pytest.mark.parametrize("layer", [nn.Linear(6, 4), nn.LSTM(6, 4, bidirectional=True), nn.GRU(6, 4, bias=False)])
def test_a_state_dict_fills_another_int8_layer(layer):
    make = Int8Linear if isinstance(layer, nn.Linear) else Int8Recurrent
    first, x = make(layer), randoms(3, 2, 6)
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.zero_()
    second = make(layer)
    missing = second.load_state_dict(first.state_dict())
    assert not missing.missing_keys
    assert not missing.unexpected_keys
    want, have = _tuple(first(x))[0], _tuple(second(x))[0]
    assert torch.equal(want, have)
    assert want.any()


class Mixed(nn.Module):
    """Every kind of layer that is replaced, one inside another module."""

    def __init__(self):
        super().__init__()
        self.inner = nn.Sequential(nn.Linear(6, 8), nn.ReLU())
        self.lstm = nn.LSTM(8, 5, num_layers=2, bidirectional=True, batch_first=True)
        self.gru = nn.GRU(10, 7, bias=False)
        self.heads = nn.ModuleDict({"out": nn.Linear(7, 3, bias=False)})

    def forward(self, x):
        x, _ = self.lstm(self.inner(x))
        x, _ = self.gru(x.transpose(0, 1))
        return self.heads["out"](x[-1])


def test_the_whole_is_bit_for_bit_the_same_in_a_fresh_process(tmp_path):
    torch.manual_seed(0)
    source, batch = source_of(Mixed()), {"x": graphs.floats(3, 5, 6)}
    model = TorchAdapter().open(source, batch)
    outcome = graphs.apply(DynamicInt8(), model)
    assert set(outcome.changed) == {"inner.0", "lstm", "gru", "heads.out"}
    path = TorchAdapter().save(outcome.model, tmp_path / "model")
    want = TorchAdapter().forward(outcome.model, batch)["output"]
    assert sqnr(torch.from_numpy(TorchAdapter().forward(model, batch)["output"]), torch.from_numpy(want)) > 20

    def reload(source, batch, on_event):
        adapter = TorchAdapter()
        return {name: array.numpy() for name, array in _run(adapter.load(path, source).module, batch).items()}

    def _run(module, batch):
        with torch.inference_mode():
            return {"output": module(**{name: torch.from_numpy(array) for name, array in batch.items()})}

    np.testing.assert_array_equal(isolate.call(reload, source, batch)["output"], want)


def test_a_quantized_module_can_be_cloned_after_it_ran():
    model = graphs.apply(DynamicInt8(), graphs.opened("lstm")).model
    batch = model.signature.synthetic(3)
    want = graphs.forward(model, batch)
    again = graphs.forward(TorchAdapter().clone(model), batch)
    assert all(np.array_equal(again[name], want[name]) for name in want)


@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors")
@pytest.mark.parametrize("mask", [False, True])
def test_a_transformer_runs_without_its_fused_form(mask):
    class Encoder(nn.Module):
        def __init__(self):
            super().__init__()
            layer = nn.TransformerEncoderLayer(16, 2, 32, batch_first=True)
            self.body = nn.TransformerEncoder(layer, 2)

        def forward(self, x):
            padding = torch.zeros(x.shape[:2], dtype=torch.bool) if mask else None
            return self.body(x, src_key_padding_mask=padding)[:, 0]

    torch.manual_seed(0)
    model = TorchAdapter().open(source_of(Encoder()), {"x": graphs.floats(3, 5, 16)})
    outcome = graphs.apply(DynamicInt8(), model)
    assert outcome.changed == tuple(f"body.layers.{at}.linear{number}" for at in (0, 1) for number in (1, 2))
    batch = {"x": graphs.floats(9, 5, 16, seed=1)}
    want, have = graphs.forward(model, batch)["output"], graphs.forward(outcome.model, batch)["output"]
    assert sqnr(torch.from_numpy(want), torch.from_numpy(have)) > 25


def test_a_root_layer_is_replaced_itself():
    assert isinstance(replay(nn.Linear(3, 2), [dynamic_int8_edit([""])]), Int8Linear)


def test_a_module_under_two_names_stays_one():
    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.first = nn.Linear(6, 6)
            self.again = self.first

        def forward(self, x):
            return self.again(torch.relu(self.first(x)))

    torch.manual_seed(0)
    module = Twice()
    want = module(randoms(4, 6))
    edited = replay(module, [dynamic_int8_edit(["first"])])
    assert isinstance(edited.first, Int8Linear)
    assert edited.again is edited.first
    assert sqnr(want, edited(randoms(4, 6))) > 25


# --- casts ----------------------------------------------------------------------------------------------------


class Pair(typing.NamedTuple):
    first: torch.Tensor
    second: torch.Tensor


class Shaped(nn.Module):
    """Returns the product in a nest of some kind, with the integers it was given."""

    def __init__(self, shape):
        super().__init__()
        self.embed = nn.Embedding(10, 4)
        self.fc = nn.Linear(4, 3)
        self.shape = shape

    def forward(self, ids, scale):
        assert scale.dtype == self.fc.weight.dtype
        assert ids.dtype == torch.int64
        return self.shape(self.fc(self.embed(ids).mean(1) * scale), ids)


SHAPES = {
    "tensor": lambda y, ids: y,
    "tuple": lambda y, ids: (y, ids),
    "list": lambda y, ids: [y, [ids]],
    "dict": lambda y, ids: {"logits": y, "ids": ids},
    "ordered": lambda y, ids: OrderedDict(logits=y, ids=ids),
    "numbered": lambda y, ids: {0: y, 1: ids},
    "named": Pair,
    "nested": lambda y, ids: {"out": (y, {"ids": ids, "none": None})},
}


def leaves(value):
    if isinstance(value, torch.Tensor):
        return [value]
    parts = value.values() if isinstance(value, dict) else value if isinstance(value, tuple | list) else ()
    return [leaf for part in parts for leaf in leaves(part)]


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
@pytest.mark.parametrize("shape", SHAPES)
def test_a_cast_module_takes_and_gives_float32_in_any_nest(shape, dtype):
    torch.manual_seed(0)
    module = Shaped(SHAPES[shape]).eval()
    ids, scale = torch.arange(6).reshape(2, 3), torch.ones(2, 1)
    want = module(ids, scale)
    cast = replay(module, [cast_edit(dtype)])
    assert {parameter.dtype for parameter in cast.parameters()} == {getattr(torch, dtype)}
    have = cast(ids, scale=scale)
    assert type(have) is type(want)
    assert have.keys() == want.keys() if isinstance(want, dict) else True
    for one, other in zip(leaves(want), leaves(have), strict=True):
        assert one.dtype == other.dtype
        torch.testing.assert_close(one, other, atol=2e-2, rtol=2e-2)


def test_a_weight_beyond_float16_becomes_its_greatest_number_and_not_infinity():
    model = graphs.opened("root_linear")
    with torch.no_grad():
        model.payload.module.weight[0, 0] = 1e6
        model.payload.module.weight[1, 1] = -1e6
    outcome = graphs.apply(Half(), model)
    weight = outcome.model.payload.module.weight
    assert (weight[0, 0].item(), weight[1, 1].item()) == (65504, -65504)
    assert outcome.notes["values_clipped_to_65504"] == 2
    assert np.isfinite(graphs.forward(outcome.model, {"input": np.ones((1, 6), np.float32)})["output"]).all()
