"""Whole blocks taken out: which can go, which goes first, and what is left, against modules built without them."""

import json
import subprocess
import sys
from dataclasses import replace

import graphs
import numpy as np
import pytest
import torch
from torch import nn

from whet import plain
from whet.data.data import Part, Splits
from whet.data.samples import ArraySamples
from whet.errors import NothingChanged, PassError, RecipeError
from whet.machine import this_machine
from whet.models.signature import parse_input
from whet.models.source import source_of
from whet.models.torch.adapter import TorchAdapter
from whet.passes.base import PassContext
from whet.passes.export.spec import ExportOnnx
from whet.passes.prune.blocks import DropBlocks
from whet.recipe.recipe import Recipe
from whet.testing import PassContract
from whet.train.spec import Recovery
from whet.types import Format

UNTRAINED = Recovery(minutes=0)

DEEP = """
import torch
from torch import nn

class Block(nn.Module):
    def __init__(self, scale):
        super().__init__()
        self.up, self.down, self.scale = nn.Linear(6, 12), nn.Linear(12, 6), scale

    def forward(self, x):
        return x + self.scale * self.down(self.up(x).relu())

class Deep(nn.Module):
    def __init__(self):
        super().__init__()
        self.wide = nn.Sequential(nn.Sequential(nn.Linear(4, 6), nn.ReLU()))
        self.blocks = nn.ModuleList(Block(scale) for scale in (1.0, 0.01, 0.5, 0.1))
        self.fc = nn.Linear(6, 3)

    def forward(self, x):
        x = self.wide(x)
        for block in self.blocks:
            x = block(x)
        return self.fc(x)

def deep():
    torch.manual_seed(0)
    return Deep()
"""


@pytest.fixture
def deep(tmp_path):
    file = tmp_path / "deep.py"
    file.write_text(DEEP)
    source = source_of(f"{file}:deep", inputs=(parse_input("x=float32[?,4]"),))
    return TorchAdapter().open(source, None)


def opened(module, *inputs):
    return TorchAdapter().open(source_of(module.eval(), inputs=tuple(parse_input(text) for text in inputs)), None)


def drop(model, **settings):
    return graphs.apply(DropBlocks(recovery=UNTRAINED, **settings), model)


def reasons(outcome):
    return {item.layer: item.reason for item in outcome.skipped}


class TestContract(PassContract):
    covers = ("drop-blocks", Format.TORCH)

    @pytest.fixture(autouse=True)
    def _opened(self, deep):
        self.deep = deep

    def make_pass(self):
        return DropBlocks()

    def make_model(self):
        return self.deep

    def make_context(self, folder):
        x = graphs.floats(60, 4, seed=1)
        machine = replace(this_machine(), cores=1)
        return PassContext(folder, data=Splits({Part.TRAIN: ArraySamples({"x": x})}), machine=machine,
                           original=lambda: self.deep)  # fmt: skip


def test_the_blocks_that_add_least_go_first_and_the_rest_is_as_if_they_had_never_been(deep):
    outcome = drop(deep)
    assert outcome.changed == ("blocks.1", "blocks.3")  # those that are scaled down most
    lost = list(outcome.notes["gone"].values())
    assert 0 < lost[0] < lost[1] < 1
    batch = deep.signature.synthetic(5)
    whole = deep.payload.module
    with torch.no_grad():
        x = whole.wide(torch.from_numpy(batch["x"]))
        wanted = whole.fc(whole.blocks[2](whole.blocks[0](x))).numpy()
    np.testing.assert_allclose(graphs.forward(outcome.model, batch)["output"], wanted, rtol=1e-6)
    assert reasons(outcome) == {
        "wide.0": "it takes [4] a sample and gives [6]",
        "blocks.0": "the outputs change more without it",
        "blocks.2": "the outputs change more without it",
    }


def test_what_the_outputs_lose_is_their_unexplained_share(deep):
    outcome = drop(deep, blocks=("blocks.2",))
    batches = [deep.signature.synthetic(8, seed) for seed in range(4)]
    wanted, found = (
        np.concatenate([graphs.forward(model, batch)["output"] for batch in batches])
        for model in (deep, outcome.model)
    )
    share = np.square(found - wanted).mean() / np.var(wanted)
    assert outcome.notes["gone"] == {"blocks.2": pytest.approx(share, rel=1e-4)}


def test_a_share_that_may_be_left_is_never_exceeded(deep):
    assert len(drop(deep, keep=0.7).changed) == 2  # 2 of 4 are 0.5, 3 were 0.75
    assert len(drop(deep, keep=0.75).changed) == 1
    assert len(drop(deep, keep=0.1).changed) == 4


def test_named_blocks_go_and_no_other(deep):
    outcome = drop(deep, blocks=("blocks.0",))
    assert outcome.changed == ("blocks.0",)
    assert reasons(outcome)["blocks.1"] == "it is not named"
    with pytest.raises(
        PassError, match=r"'wide.0': it takes \[4\] a sample and gives \[6\]; those that can go: blocks.0"
    ):
        drop(deep, blocks=("wide.0",))
    with pytest.raises(PassError, match=r"cannot take out 'block.7': there is no such block"):
        drop(deep, blocks=("block.7",))


def test_excluded_blocks_stay_and_do_not_count(deep):
    outcome = drop(deep, exclude=("blocks.1", "blocks.3"))
    assert outcome.changed == ("blocks.2",)
    assert outcome.notes["blocks"] == 2
    assert "excluded by the recipe" in reasons(outcome)["blocks.1"]


def test_what_is_left_learns_the_original_again(deep, tmp_path):
    x = graphs.floats(200, 4, seed=1)
    context = PassContext(tmp_path, data=Splits({Part.TRAIN: ArraySamples({"x": x})}), original=lambda: deep,
                          machine=replace(this_machine(), cores=1))  # fmt: skip
    recovery = Recovery(epochs=5, learning_rate=3e-3, batch_size=32)
    outcome = DropBlocks(blocks=("blocks.0",), recovery=recovery).apply(deep, context)
    told = outcome.notes["recovery"]
    assert told["loss_after"] < 0.7 * told["loss_before"]
    names = {name for name, _ in outcome.model.payload.module.named_parameters()}
    assert not [name for name in names if name.startswith("blocks.0")]
    assert plain.dumps(outcome.notes)


def test_it_is_rebuilt_in_a_fresh_process_without_the_pass(deep, tmp_path):
    model = drop(deep).model
    path = TorchAdapter().save(model, tmp_path / "model")
    batch = model.signature.synthetic(3)
    np.savez(tmp_path / "batch.npz", **batch)
    code = (
        "import sys, json, numpy as np; from pathlib import Path\n"
        "from whet.models.torch.adapter import TorchAdapter, read_structure, run\n"
        f"path = Path({str(path)!r})\n"
        "module = TorchAdapter().load(path, read_structure(path).origin).module\n"
        f"found = run(module, dict(np.load({str(tmp_path / 'batch.npz')!r})))\n"
        "assert not [name for name in sys.modules if name.startswith('whet.passes')]\n"
        "print(json.dumps(found['output'].tolist()))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    np.testing.assert_allclose(json.loads(done.stdout), graphs.forward(model, batch)["output"], rtol=1e-6)


def test_it_exports_to_a_graph_without_them(deep):
    model = drop(deep).model
    exported = graphs.apply(ExportOnnx(), model).model
    batch = model.signature.synthetic(5)
    (ours,) = graphs.run(exported.payload, batch)
    np.testing.assert_allclose(ours, graphs.forward(model, batch)["output"], rtol=1e-4, atol=1e-5)
    assert sum(node.op_type in {"Gemm", "MatMul"} for node in exported.payload.graph.node) == 6  # of 10


class Chain(nn.Module):
    """Rows of blocks, run as a test says."""

    def __init__(self, call, *rows):
        super().__init__()
        self.call, self.rows = call, nn.ModuleList(rows)

    def forward(self, x):
        return self.call(self, x)


class Pair(nn.Module):
    """Gives a tuple, as the layers of some transformers do."""

    def __init__(self, more=False):
        super().__init__()
        self.fc, self.more = nn.Linear(6, 6), more

    def forward(self, hidden, mask=None):
        return self.fc(hidden), (hidden if self.more else None)


def once(chain, x):
    for row in chain.rows:
        x = row(hidden=x)[0]
    return x


def test_a_block_that_gives_a_tuple_and_is_called_by_name_leaves_one_like_it():
    torch.manual_seed(0)
    model = opened(Chain(once, Pair(), Pair()), "x=float32[?,6]")
    outcome = drop(model, blocks=("rows.0",))
    batch = model.signature.synthetic(3)
    wanted = model.payload.module.rows[1].fc(torch.from_numpy(batch["x"])).detach().numpy()
    np.testing.assert_allclose(graphs.forward(outcome.model, batch)["output"], wanted, rtol=1e-6)


@pytest.mark.parametrize(
    ("module", "reason"),
    [
        (Chain(once, Pair(more=True)), "rows.0: it gives more than one tensor"),
        (Chain(lambda chain, x: once(chain, once(chain, x)), Pair()), "rows.0: it is called 2 times"),
        (Chain(lambda chain, x: chain.rows[0](x)[0] * chain.rows[0].fc.weight.sum(), Pair()),
         "rows.0: the model does not run without it: 'Through' object has no attribute 'fc'"),
        (nn.Sequential(nn.Linear(6, 6), nn.ReLU()), "no layer it applies to"),
    ],
)  # fmt: skip
def test_where_no_block_can_go_it_says_why(module, reason):
    with pytest.raises(NothingChanged, match=reason):
        drop(opened(module, "x=float32[?,6]"))


def test_a_stage_of_blocks_is_not_a_block_and_parts_of_a_block_are_none():
    torch.manual_seed(0)

    def block():
        return nn.TransformerEncoderLayer(8, 2, 16, dropout=0.0, batch_first=True)

    module = nn.Sequential(nn.Sequential(block(), block()), nn.Sequential(block(), block()))
    outcome = drop(opened(module, "x=float32[?,3,8]"))
    assert outcome.notes["blocks"] == 4
    assert set(outcome.changed) | set(reasons(outcome)) == {"0.0", "0.1", "1.0", "1.1"}


def test_the_layers_of_a_transformer_go(tmp_path):
    from transformers import BertConfig, BertModel

    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 4, "intermediate_size": 64}
    body = BertModel(BertConfig(vocab_size=50, **sizes), add_pooling_layer=False)
    model = opened(body, "input_ids=int64[?,7]:0..49")
    outcome = drop(model, blocks=("encoder.layer.1",))
    body.encoder.layer = nn.ModuleList([body.encoder.layer[0], body.encoder.layer[2]])
    ids = model.signature.synthetic(4)
    with torch.no_grad():
        wanted = body(**{name: torch.from_numpy(value) for name, value in ids.items()}).last_hidden_state.numpy()
    np.testing.assert_allclose(
        graphs.forward(outcome.model, ids)["last_hidden_state"], wanted, rtol=1e-5, atol=1e-6
    )


def test_it_stands_in_a_recipe_and_a_graph_is_refused():
    recipe = Recipe.of("shallow", [{"pass": "drop-blocks", "keep": 0.6}, {"pass": "export-onnx"}])
    recipe.check(Format.TORCH)
    assert recipe.steps[0].keep == 0.6
    with pytest.raises(RecipeError, match="put it before export-onnx"):
        DropBlocks().check(Format.ONNX)


@pytest.mark.assets
def test_the_residual_blocks_of_resnet20(assets):
    source = source_of(
        f"{assets}/models/zoo.py:resnet20", assets / "models" / "resnet20-cifar10" / "resnet20.safetensors",
        inputs=(parse_input("x=float32[?,3,32,32]"),),
    )  # fmt: skip
    outcome = drop(TorchAdapter().open(source, None), blocks=("layer3.1",))
    assert outcome.notes["blocks"] == 7
    assert outcome.notes["gone"]["layer3.1"] > 0
    assert "it takes" in reasons(outcome)["layer2.0"]
