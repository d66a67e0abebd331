"""Channel pruning: what belongs together, what goes, and what is left, against whole models and Torch-Pruning."""

import json
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import graphs
import numpy as np
import pytest
import torch
import torch_pruning
from torch import nn

import whet
from whet.data.data import Part, Splits
from whet.data.samples import ArraySamples
from whet.errors import PassError, RecipeError
from whet.machine import this_machine
from whet.models.adapter import adapter_for
from whet.models.model import Facts
from whet.models.signature import parse_input
from whet.models.source import source_of
from whet.models.torch.adapter import TorchAdapter
from whet.passes.base import PassContext
from whet.passes.distill.spec import Distill
from whet.passes.export.spec import ExportOnnx
from whet.passes.prune.spec import MagnitudePrune, PruneChannels
from whet.passes.prune.torch_importance import scores, sensitivities
from whet.passes.prune.torch_units import difference, find
from whet.recipe.cost import latency_ms
from whet.train.spec import Recovery
from whet.types import Format

UNTRAINED = Recovery(minutes=0)
MACHINE = replace(this_machine(), cores=1)


def opened(module, *inputs):
    """A module in memory, opened with inputs as they stand on a command line."""
    torch.manual_seed(0)
    specs = tuple(parse_input(text) for text in inputs)
    return TorchAdapter().open(source_of(module.eval(), inputs=specs), None)


def thin(module, *inputs, **settings):
    """Prune a module in memory without training; the outcome."""
    given = opened(module, *inputs)
    return given, graphs.apply(PruneChannels(recovery=UNTRAINED, **settings), given)


def families(module, x):
    """What can go together, and why the rest cannot."""
    return find(module.eval(), {"x": x}, lambda name, layer: None)


def reason(outcome, layer):
    return next(item.reason for item in outcome.skipped if item.layer == layer)


class Net(nn.Module):
    """A net of whatever layers a test gives, and what its forward does with them."""

    def __init__(self, call, **layers):
        super().__init__()
        self.call = call
        for name, layer in layers.items():
            self.add_module(name, layer)

    def forward(self, x):
        return self.call(self, x)


# --- what belongs together -------------------------------------------------------------------------------------


def residual():
    return Net(
        lambda net, x: net.fc((net.bn(net.b(net.a(net.stem(x)).relu())) + net.stem(x)).relu().mean((2, 3))),
        stem=nn.Conv2d(3, 8, 3, padding=1),
        a=nn.Conv2d(8, 12, 3, padding=1),
        b=nn.Conv2d(12, 8, 3, padding=1),
        bn=nn.BatchNorm2d(8),
        fc=nn.Linear(8, 4),
    )


def dense():
    return Net(
        lambda net, x: (
            net.c(torch.cat([(y := net.a(x).relu()), net.b(y).relu()], 1)).flatten(1).sum(1, keepdim=True)
        ),
        a=nn.Conv2d(3, 6, 3, padding=1),
        b=nn.Conv2d(6, 10, 3, padding=1),
        c=nn.Conv2d(16, 2, 1),
    )


def flat():
    return Net(
        lambda net, x: net.fc(net.dw(net.a(x)).relu().flatten(1)),
        a=nn.Conv2d(3, 8, 3),
        dw=nn.Conv2d(8, 8, 3, groups=8),
        fc=nn.Linear(8 * 16, 5),
    )


@pytest.mark.parametrize("make", [residual, dense, flat])
def test_what_belongs_together_is_what_torch_pruning_finds(make):
    torch.manual_seed(0)
    module, x = make(), torch.randn(2, 3, 8, 8)
    names = {layer: name for name, layer in module.named_modules()}
    found, _ = families(module, x)
    graph = torch_pruning.DependencyGraph().build_dependency(module, x)
    assert found
    for family in found:
        unit = family.parts[0][-1]
        maker, _, number = next(node for node in sorted(unit) if node[1] == "out")
        group = graph.get_pruning_group(
            module.get_submodule(maker), torch_pruning.prune_conv_out_channels, [number]
        )
        theirs = {
            (names[dep.target.module], at) for dep, idxs in group for at in idxs if dep.target.module in names
        }
        assert {(name, at) for name, _, at in unit} == theirs, maker


def test_a_padded_shortcut_which_torch_pruning_takes_for_channelwise_is_followed_to_where_it_leads():
    """Option A of ResNet: channel i of the stem is channel i + 2 of what follows."""

    def call(net, x):
        y = net.stem(x).relu()
        return net.fc((net.a(y) + nn.functional.pad(y, (0, 0, 0, 0, 2, 2))).relu().mean((2, 3)))

    module = Net(call, stem=nn.Conv2d(3, 4, 1), a=nn.Conv2d(4, 8, 1), fc=nn.Linear(8, 3))
    found, why = families(module, torch.randn(2, 3, 6, 6))
    (family,) = found
    assert {("stem", "out", 1), ("a", "in", 1), ("a", "out", 3), ("fc", "in", 3)} in family.parts[0]
    assert "a" in family.makers
    assert "does not run with fewer" in why["a"]  # its channels 0, 1, 6 and 7, for which the pad is written down


def attention(fused=False, hard=False, width=16, heads=4):
    def call(net, x):
        batch, time, _ = x.shape
        parts = net.qkv(x).chunk(3, -1) if fused else (net.q(x), net.k(x), net.v(x))
        shape = (batch, time, heads if hard else -1, width // heads)
        q, k, v = (part.reshape(shape).transpose(1, 2) for part in parts)
        y = nn.functional.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(batch, time, -1)
        a, gate = net.up(net.o(y) + x).chunk(2, -1)
        return net.down(a * gate.sigmoid())

    each = {"qkv": nn.Linear(width, 3 * width)} if fused else {name: nn.Linear(width, width) for name in "qkv"}
    return Net(call, **each, o=nn.Linear(width, width), up=nn.Linear(width, 24), down=nn.Linear(12, 3))


@pytest.mark.parametrize("fused", [False, True])
def test_heads_and_gated_feed_forwards_are_units(fused):
    found, _ = families(attention(fused), torch.randn(2, 5, 16))
    heads, gated = sorted(found, key=len)
    assert len(heads) == 4
    first = {(name, at) for name, _, at in heads.parts[0][0]}
    query = {("qkv", at + part) for part in (0, 16, 32) for at in range(4)} if fused else {
        (name, at) for name in "qkv" for at in range(4)
    }  # fmt: skip
    assert first == query | {("o", at) for at in range(4)}
    assert len(gated) == 12
    assert {("up", "out", 1), ("up", "out", 13), ("down", "in", 1)} in gated.parts[0]


def test_a_hard_coded_shape_is_told_with_its_line():
    _, outcome = thin(attention(fused=True, hard=True), "x=float32[?,5,16]", multiple=1, keep=0.9)
    assert "does not run with fewer of its channels" in reason(outcome, "qkv")
    assert f"{__file__}, line" in reason(outcome, "qkv")


@pytest.mark.parametrize(
    "form", [{}, {"num_layers": 2}, {"bidirectional": True, "num_layers": 2}, {"batch_first": True}]
)
@pytest.mark.parametrize("kind", [nn.LSTM, nn.GRU, nn.RNN])
def test_hidden_units_go_from_every_layer_and_direction_alike(kind, form):
    def call(net, x):
        sequence, state = net.cell(x)
        last = state[0] if isinstance(state, tuple) else state
        return net.fc(sequence).mean(1) + (net.last(last[-1]) if net.cell.batch_first else 0)

    both = 2 if form.get("bidirectional") else 1
    module = Net(call, cell=kind(6, 8, **form), fc=nn.Linear(8 * both, 3), last=nn.Linear(8, 3))
    x = torch.randn(4, 5, 6)
    (family,), _ = families(module, x)
    assert len(family.parts) == both * form.get("num_layers", 1)
    _, outcome = thin(module, "x=float32[4,5,6]", multiple=1, keep=0.5)
    cell = outcome.model.payload.module.cell
    assert cell.hidden_size < 8
    assert cell.weight_hh_l0.shape[1] == cell.hidden_size
    assert outcome.model.payload.module.fc.in_features == both * cell.hidden_size


def test_transposed_and_depthwise_convolutions_norms_and_groups_are_followed():
    def call(net, x):
        x = net.turned(net.norm(net.first(x)))
        return net.fc(net.after(net.slope(net.depth(x))).flatten(1))

    module = Net(
        call,
        first=nn.Conv2d(3, 8, 3, padding=1), norm=nn.GroupNorm(4, 8), turned=nn.ConvTranspose2d(8, 6, 2, stride=2),
        depth=nn.Conv2d(6, 12, 3, groups=6), slope=nn.PReLU(12), after=nn.Conv2d(12, 5, 1), fc=nn.Linear(5 * 36, 2),
    )  # fmt: skip
    given, outcome = thin(module, "x=float32[?,3,4,4]", multiple=1, ratios="layer")
    after = outcome.model.payload.module
    assert (after.norm.num_groups, after.norm.num_channels) == (
        after.first.out_channels // 2,
        after.turned.in_channels,
    )
    assert after.depth.groups == after.turned.out_channels < 6
    assert after.depth.out_channels == after.slope.num_parameters == 2 * after.depth.groups
    assert outcome.notes["now"] <= 0.5 * outcome.notes["before"]
    assert given.payload.module.first.out_channels == 8


def test_what_must_stay_is_told_by_layer():
    def call(net, x):
        x = net.grouped(net.a(x)).relu()
        x = net.norm(net.tied(x).relu().transpose(1, -1)).transpose(1, -1)
        return net.out(net.also(x))

    layers = {
        "a": nn.Conv1d(4, 8, 1), "grouped": nn.Conv1d(8, 8, 1, groups=2), "tied": nn.Conv1d(8, 8, 1),
        "norm": nn.LayerNorm(8), "also": nn.Conv1d(8, 8, 1), "out": nn.Conv1d(8, 2, 1),
    }  # fmt: skip
    layers["also"].weight = layers["tied"].weight
    free = nn.Sequential(nn.Linear(5, 8), nn.ReLU(), nn.Linear(8, 8))
    module = Net(
        lambda net, x: call(net, net.free(x)[..., :5]), free=nn.Sequential(*free, nn.Linear(8, 5)), **layers
    )
    module.idle = nn.Linear(3, 3)
    _, outcome = thin(module, "x=float32[?,4,5]", multiple=1, exclude=("free.0",), keep=0.97)
    assert "a grouped convolution" in reason(outcome, "grouped")
    assert "tied to grouped" in reason(outcome, "a")
    assert "another layer has the same weight" in reason(outcome, "tied")
    assert "outputs of the model" in reason(outcome, "out")
    assert "not called" in reason(outcome, "idle")
    assert "excluded by the recipe" in reason(outcome, "free.0")


def test_a_module_used_twice_loses_the_same_channels_in_both_places():
    module = Net(lambda net, x: net.c(net.b(net.b(net.a(x).relu()).relu())),
                 a=nn.Linear(6, 8), b=nn.Linear(8, 8), c=nn.Linear(8, 2))  # fmt: skip
    _, outcome = thin(module, "x=float32[?,6]", multiple=1)
    after = outcome.model.payload.module
    assert after.a.out_features == after.b.in_features == after.b.out_features == after.c.in_features < 8


# --- what is left -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("make", [residual, dense, flat])
def test_the_thin_model_is_the_whole_one_in_which_nothing_reads_what_went(make):
    module, x = make(), torch.randn(3, 3, 8, 8)
    found, _ = families(module, x)
    gone = [unit for family in found for unit in family.parts[0][::3]]
    assert difference(module, {"x": x}, gone) < 1e-5


def test_a_reader_that_loses_the_channel_beside_is_seen():
    module = residual().eval()
    unit = {("a", "out", 3), ("b", "in", 4)}
    assert difference(module, {"x": torch.randn(3, 3, 8, 8)}, [frozenset(unit)]) > 1e-3


def test_what_goes_by_l2_is_what_is_least_by_hand():
    torch.manual_seed(0)
    module = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3))
    rows = module[0].weight.detach().square().sum(1)
    columns = module[2].weight.detach().square().sum(0)
    least = (rows / rows.mean() + columns / columns.mean()).argsort()[:4]
    given, outcome = thin(module, "x=float32[?,6]", multiple=4, target="parameters", keep=0.6)
    kept = sorted(set(range(8)) - set(least.tolist()))
    after = outcome.model.payload.module
    assert torch.equal(after[0].weight, given.payload.module[0].weight[kept])
    assert torch.equal(after[2].weight, given.payload.module[2].weight[:, kept])
    assert outcome.model.payload.edits[-1]["layers"] == {"0": {"out": kept}, "2": {"in": kept}}


def test_taylor_is_the_energy_that_the_outputs_lose():
    """Of a linear net the second order is all there is: removing a unit costs exactly its part of the outputs."""
    torch.manual_seed(0)
    module = nn.Sequential(nn.Linear(6, 5, bias=False), nn.Linear(5, 3, bias=False)).eval()
    x = torch.randn(4000, 6)
    found, _ = find(module, {"input": x[:2]}, lambda name, layer: None)
    batches = [{"input": part} for part in x.split(2)]
    ((ours,),) = scores(module, found, "taylor", batches, seed=0)
    hidden = module[0](x).detach()
    part = hidden.square().mean(0) * module[1].weight.detach().square().sum(0)
    assert torch.corrcoef(torch.stack([ours, part.double()]))[0, 1] > 0.9


def test_lamp_norm_scale_and_random_scores():
    torch.manual_seed(0)
    module = nn.Sequential(nn.Conv2d(2, 6, 1), nn.BatchNorm2d(6), nn.Conv2d(6, 2, 1)).eval()
    with torch.no_grad():
        module[1].weight.copy_(torch.tensor([3.0, -6.0, 1.0, 2.0, 5.0, 4.0]))
    found, _ = find(module, {"input": torch.randn(2, 2, 4, 4)}, lambda name, layer: None)
    order = [sorted(at for name, _, at in unit if name == "1")[0] for unit in found[0].parts[0]]
    ((scale,),) = scores(module, found, "batch-norm", [], 0)
    assert [order[at] for at in scale.argsort()] == [2, 3, 0, 5, 4, 1]
    ((lamp,),) = scores(module, found, "lamp", [], 0)
    ((square,),) = scores(module, found, "l2", [], 0)
    ranked = square.sort().values
    want = torch.stack([value / ranked[at:].sum() for at, value in enumerate(ranked)])
    torch.testing.assert_close(lamp.sort().values, want.sort().values)
    assert float(lamp.max()) == 1.0
    ((one,),), ((other,),), ((again,),) = (scores(module, found, "random", [], seed) for seed in (0, 1, 0))
    assert torch.equal(one, again)
    assert not torch.equal(one, other)


def test_sensitivity_is_the_share_of_the_outputs_that_is_lost():
    torch.manual_seed(0)
    module = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3)).eval()
    x = torch.randn(64, 6)
    found, _ = find(module, {"input": x[:2]}, lambda name, layer: None)
    ranked = scores(module, found, "l1", [], 0)
    ((_, half, _),) = sensitivities(module, found, ranked, {"input": x})
    gone = [max(at for _, side, at in unit if side == "in") for unit in found[0].least(ranked[0], 4)]
    hidden = module[0](x).relu().detach()
    hidden[:, gone] = 0
    whole = module(x).detach()
    want = float((module[2](hidden).detach() - whole).square().sum() / (whole - whole.mean(0)).square().sum())
    assert half == pytest.approx(want, rel=1e-4)


def test_widths_are_multiples_and_never_below_one():
    module = nn.Sequential(nn.Linear(6, 40), nn.ReLU(), nn.Linear(40, 24), nn.ReLU(), nn.Linear(24, 2))
    _, outcome = thin(module, "x=float32[?,6]", keep=0.01)
    assert outcome.notes["widths"]["2"] == [[24, 40], [16, 16]]
    assert "cannot be reached" in outcome.notes["problem"]
    assert "0 at 16; 2 at 16" in outcome.notes["problem"]
    assert "4: its channels are outputs of the model" in outcome.notes["problem"]
    _, outcome = thin(module, "x=float32[?,6]", keep=0.01, most=0.5)
    assert outcome.notes["widths"]["0"] == [[40, 6], [32, 6]]


@pytest.mark.parametrize("target", ["macs", "parameters", "bytes"])
@pytest.mark.parametrize("ratios", ["global", "layer", "sensitivity"])
def test_the_goal_is_reached_as_the_adapter_counts_it(target, ratios):
    module = nn.Sequential(nn.Linear(6, 40), nn.ReLU(), nn.Linear(40, 24), nn.ReLU(), nn.Linear(24, 2))
    given, outcome = thin(module, "x=float32[?,6]", target=target, ratios=ratios, multiple=4)
    counts = {
        "macs": lambda model: sum(layer.macs for layer in TorchAdapter().layers(model)),
        "parameters": lambda model: sum(layer.parameters for layer in TorchAdapter().layers(model)),
        "bytes": lambda model: sum(layer.bytes for layer in TorchAdapter().layers(model)),
    }
    before, after = counts[target](given), counts[target](outcome.model)
    assert (outcome.notes["before"], outcome.notes["now"]) == (before, after)
    assert 0.4 * before < after <= 0.5 * before


@pytest.mark.slow
def test_a_latency_is_measured_where_a_clock_is_handed_down():
    """With matrices so large that the clock tells half of them from the whole, whatever else runs."""
    module = nn.Sequential(nn.Linear(64, 2048), nn.ReLU(), nn.Linear(2048, 2048), nn.ReLU(), nn.Linear(2048, 8))
    given = opened(module, "input=float32[?,64]")
    request = PruneChannels(target="latency", keep=0.7, multiple=1024, recovery=UNTRAINED)
    with pytest.raises(PassError, match="target = 'macs'"):
        graphs.apply(request, given)
    outcome = graphs.apply(request, given, cost=latency_ms)
    assert outcome.notes["now"] <= 0.7 * outcome.notes["before"]
    assert latency_ms(outcome.model) < latency_ms(given)


READER = """
from torch import nn

class Reader(nn.Module):
    def __init__(self):
        super().__init__()
        self.cell = nn.GRU(6, 16, num_layers=2, bidirectional=True, batch_first=True)
        self.fc = nn.Linear(32, 3)

    def forward(self, x):
        return self.fc(self.cell(x)[0][:, -1])

def reader():
    return Reader()
"""


def test_it_is_rebuilt_in_a_fresh_process_without_the_pass(tmp_path):
    file = tmp_path / "reader.py"
    file.write_text(READER)
    source = source_of(f"{file}:reader", inputs=(parse_input("x=float32[?,5,6]"),))
    model = graphs.apply(PruneChannels(recovery=UNTRAINED, multiple=4), TorchAdapter().open(source, None)).model
    path = TorchAdapter().save(model, tmp_path / "model")
    batch = model.signature.synthetic(3)
    np.savez(tmp_path / "batch.npz", **batch)
    code = (
        "import sys, json, numpy as np; from pathlib import Path\n"
        "from whet.models.torch.adapter import TorchAdapter, read_structure, run\n"
        f"path = Path({str(path)!r})\n"
        "module = TorchAdapter().load(path, read_structure(path).origin).module\n"
        f"found = run(module, dict(np.load({str(tmp_path / 'batch.npz')!r})))\n"
        "assert not [name for name in sys.modules if name.startswith(('torch_pruning', 'whet.passes'))]\n"
        "print(json.dumps(found['output'].tolist()), module.cell.hidden_size)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    answers, _, width = done.stdout.rpartition(" ")
    np.testing.assert_allclose(json.loads(answers), graphs.forward(model, batch)["output"], rtol=1e-5, atol=1e-6)
    assert int(width) == model.payload.module.cell.hidden_size < 16


# --- recovery and composition ------------------------------------------------------------------------------------


def pictures(count=200):
    return Splits({Part.TRAIN: ArraySamples({"x": graphs.floats(count, 1, 8, 8, seed=1)})})


def trained(tmp_path, model, steps=1, **settings):
    recovery = Recovery(epochs=4, learning_rate=3e-3, batch_size=32)
    context = PassContext(tmp_path, data=pictures(), machine=MACHINE, original=lambda: graphs.opened("tiny"))
    return PruneChannels(multiple=4, steps=steps, recovery=recovery, **settings).apply(model, context)


def test_it_is_recovered_in_steps_that_share_the_epochs(tmp_path):
    outcome = trained(tmp_path, graphs.opened("tiny"), steps=2, keep=0.4)
    told = outcome.notes["recovery"]
    assert [item["epochs"] for item in told] == [2.0, 2.0]
    assert all(item["loss_after"] <= item["loss_before"] for item in told)
    assert told[-1]["loss_after"] < told[-1]["loss_before"]
    assert len(outcome.model.payload.edits) == 2
    again = trained(tmp_path, graphs.opened("tiny"), steps=2, keep=0.4)  # from the checkpoints
    batch = outcome.model.signature.synthetic(4)
    np.testing.assert_array_equal(*(graphs.forward(one.model, batch)["output"] for one in (outcome, again)))


def test_zeros_stay_zero_when_a_sparse_model_is_thinned_and_recovered(tmp_path):
    sparse = graphs.apply(MagnitudePrune(sparsity=0.5), graphs.opened("tiny")).model
    outcome = trained(tmp_path, sparse)
    module = outcome.model.payload.module
    shares = [float((layer.weight == 0).float().mean()) for layer in (module.conv1, module.conv2, module.fc)]
    assert min(shares) > 0.25
    kept = outcome.model.payload.edits[-1]["layers"]["conv1"]["out"]
    gone = sparse.payload.module.conv1.weight[kept] == 0
    assert bool((module.conv1.weight[gone] == 0).all())


def test_distilling_after_it_trains_the_thinner_copy(tmp_path):
    thinner = graphs.apply(PruneChannels(multiple=4, recovery=UNTRAINED), graphs.opened("tiny")).model
    context = PassContext(tmp_path, data=pictures(), machine=MACHINE, original=lambda: graphs.opened("tiny"))
    outcome = Distill(epochs=2, learning_rate=3e-3, batch_size=32).apply(thinner, context)
    assert outcome.notes["loss_after"] < outcome.notes["loss_before"]
    assert outcome.model.payload.edits == thinner.payload.edits


def test_it_exports_to_a_smaller_graph_that_answers_alike():
    model = graphs.apply(PruneChannels(multiple=4, recovery=UNTRAINED), graphs.opened("tiny")).model
    exported = graphs.apply(ExportOnnx(), model).model
    batch = model.signature.synthetic(5)
    (ours,) = graphs.run(exported.payload, batch)
    np.testing.assert_allclose(ours, graphs.forward(model, batch)["output"], rtol=1e-4, atol=1e-5)
    fewer = sum(layer.parameters for layer in adapter_for(Format.ONNX).layers(exported))
    assert fewer < sum(layer.parameters for layer in adapter_for(Format.TORCH).layers(graphs.opened("tiny")))


def test_without_data_or_an_original_it_says_that_it_is_not_trained():
    outcome = graphs.apply(PruneChannels(multiple=4), graphs.opened("tiny"))
    assert "no original" in outcome.notes["recovery"][0]["training"]


def test_what_cannot_be_pruned_is_refused():
    with pytest.raises(RecipeError, match="put it before export-onnx"):
        PruneChannels().check(Format.ONNX)

    def call(net, x):
        y = net.a(x)
        if bool(y.isnan().any()):
            raise ValueError("not a number")
        return net.b(y)

    with pytest.raises(PassError, match=r"not a number \(at .*test_prune_channels.py, line \d+: raise ValueError"):
        thin(Net(call, a=nn.Linear(6, 8), b=nn.Linear(8, 2)), "x=float32[?,6]")


DECIDES = """
import torch
class Decides(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b = torch.nn.Linear(6, 8), torch.nn.Linear(8, 2)
    def forward(self, x):
        y = self.a(x)
        if bool(y.isnan().any()):
            raise ValueError("not a number")
        return self.b(y)
"""
IN_A_CLONE = """
import sys, torch, whet
from pathlib import Path
from whet import userfile
from whet.errors import ModelError, PassError
from whet.passes.prune.torch_units import find
print(whet.__file__)
try:
    module = userfile.call(Path(sys.argv[1]), "Decides", ModelError)
    find(module.eval(), {"x": torch.zeros(2, 6)}, lambda name, layer: None)
except PassError as error:
    print(error)
"""


def test_the_users_line_is_named_in_a_clone_that_is_called_whet(tmp_path):
    clone = tmp_path / "whet"
    shutil.copytree(Path(whet.__file__).parent, clone / "src" / "whet")
    (clone / "model.py").write_text(DECIDES)
    done = subprocess.run(
        [sys.executable, "-c", IN_A_CLONE, clone / "model.py"], capture_output=True, text=True, check=False,
        env={**os.environ, "PYTHONPATH": str(clone / "src")}, timeout=120,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    place, message = done.stdout.splitlines()
    assert Path(place).is_relative_to(clone)
    assert f"not a number (at {clone / 'model.py'}, line 10: raise ValueError" in message


def test_facts_of_the_thin_model_are_those_of_the_whole(tmp_path):
    given = graphs.opened("tiny")
    outcome = graphs.apply(PruneChannels(multiple=4, recovery=UNTRAINED), given)
    assert Facts.of(outcome.model).signature == Facts.of(given).signature


class Reader(nn.Module):
    """A small BERT of transformers, and a head on the mean of its words."""

    def __init__(self):
        super().__init__()
        from transformers import BertConfig, BertModel

        sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64}
        self.body = BertModel(BertConfig(vocab_size=50, **sizes), add_pooling_layer=False)
        self.fc = nn.Linear(32, 2)

    def forward(self, input_ids):
        return self.fc(self.body(input_ids=input_ids).last_hidden_state.mean(1))


def test_a_transformer_loses_whole_heads_and_feed_forward_width():
    _, outcome = thin(Reader(), "input_ids=int64[?,7]:0..49", ratios="layer", multiple=8, keep=0.6)
    after = outcome.model.payload.module.body.encoder.layer[0]
    heads = after.attention.self
    assert heads.query.out_features == heads.key.out_features == heads.value.out_features
    assert heads.query.out_features == after.attention.output.dense.in_features in (8, 16, 24)
    assert after.intermediate.dense.out_features == after.output.dense.in_features < 64
    assert after.attention.output.dense.out_features == 32  # LayerNorm normalises the width between the blocks
    kept = outcome.model.payload.edits[-1]["layers"]["body.encoder.layer.0.attention.self.query"]["out"]
    assert {number // 8 for number in kept} == {kept[at] // 8 for at in range(0, len(kept), 8)}
    assert len({number // 8 for number in kept}) == len(kept) // 8  # heads are whole


# --- real models -------------------------------------------------------------------------------------------------


@pytest.mark.assets
def test_the_padded_shortcuts_of_resnet20(assets):
    sys.path.insert(0, str(assets / "models"))
    try:
        import zoo
    finally:
        sys.path.pop(0)
    found, why = families(zoo.resnet20(), torch.randn(1, 3, 32, 32))
    inner = [family for family in found if len(family.makers) == 1]
    (stream,) = [family for family in found if len(family.makers) > 1]
    assert sorted(family.makers[0] for family in inner) == [
        f"layer{stage}.{block}.conv1" for stage in (1, 2, 3) for block in range(3)
    ]
    unit = stream.parts[0][5]
    assert {("conv1", "out", 5), ("layer2.0.conv2", "out", 13), ("layer3.2.conv2", "out", 29),
            ("linear", "in", 29)} <= unit  # fmt: skip
    assert "does not run with fewer" in why["layer3.0.conv2"]
    assert "zoo.py, line" in why["layer3.0.conv2"]
