"""Exported programs (``.pt2``): looked through before torch opens them; run, counted, timed, stored, exported."""

import io
import json
import pickle
import struct
import warnings
import zipfile

import graphs
import numpy as np
import pytest
import tiny
import torch
from torch import nn
from torch.export import Dim

from whet import api, isolate
from whet.errors import ModelError, PassError, UnsafePickle
from whet.models.model import Stored
from whet.models.source import Origin, source_of
from whet.models.torch import archive
from whet.models.torch.adapter import TorchAdapter
from whet.passes.export.spec import ExportOnnx
from whet.passes.prune.spec import MagnitudePrune
from whet.passes.quantize.spec import DynamicInt8
from whet.profile.profile import profile
from whet.runtimes.base import Deployment, open_session, predict
from whet.testing import AdapterContract
from whet.types import Format

BATCH = Dim("batch", max=40)


def save(path, module, args, kwargs=None, dynamic=None, train=False):
    """Export a module and save it, as a user does."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        program = torch.export.export(module.train(train), args, kwargs, dynamic_shapes=dynamic)
        torch.export.save(program, path)
    return path


@pytest.fixture(scope="module")
def programs(tmp_path_factory):
    """Programs by name. Not to be changed."""
    folder = tmp_path_factory.mktemp("programs")
    ids, mask = torch.arange(24).reshape(2, 12), torch.ones(2, 12)
    save(folder / "tiny.pt2", tiny.tiny(), (torch.randn(4, 1, 8, 8),), dynamic={"x": {0: BATCH}})
    save(folder / "lstm.pt2", tiny.lstm(), (ids,), {"mask": mask}, {"ids": {0: BATCH}, "mask": {0: BATCH}})
    save(folder / "fixed.pt2", tiny.regressor(), (torch.randn(4, 6),))
    return folder


def opened(path, sample=None):
    return TorchAdapter().open(source_of(path), sample)


class TestProgram(AdapterContract):
    @pytest.fixture(autouse=True)
    def its_folder(self, programs):
        self.folder = programs

    def make_adapter(self):
        return TorchAdapter()

    def make_model(self):
        return opened(self.folder / "tiny.pt2")


class TestProgramOfTwoInputs(TestProgram):
    def make_model(self):
        return opened(self.folder / "lstm.pt2")


def test_a_program_knows_what_goes_in(programs):
    source = source_of(programs / "lstm.pt2")
    assert (source.origin, source.format, source.name) == (Origin.FILE, Format.TORCH, "lstm")
    signature = TorchAdapter().open(source, None).signature
    assert [str(spec) for spec in signature.inputs] == ["ids=int64[?,12]", "mask=float32[?,12]"]
    assert [str(spec) for spec in signature.outputs] == ["logits=float32[?,4]", "hidden=float32[?,24]"]
    assert (signature.inputs[0].low, signature.inputs[0].high, signature.most) == (0, 23, 40)


@pytest.mark.parametrize("name", ["tiny", "lstm"])
def test_it_computes_what_its_module_does(programs, name):
    model = opened(programs / f"{name}.pt2")
    batch = model.signature.synthetic(3)
    wanted = graphs.forward(graphs.opened(name), batch)
    for key, array in TorchAdapter().forward(model, batch).items():
        np.testing.assert_allclose(array, wanted[key], atol=1e-6)


@pytest.mark.parametrize("name", ["tiny", "lstm"])
def test_it_counts_as_its_module_does(programs, name):
    found = TorchAdapter().layers(opened(programs / f"{name}.pt2"))
    assert found == TorchAdapter().layers(graphs.opened(name))


def test_its_layers_are_timed(programs):
    model = opened(programs / "tiny.pt2")
    found = {layer.name: layer for layer in profile(model, model.signature.synthetic(4)).layers}
    assert found["conv2"].kind == "Conv2d"
    assert all(found[name].time_ms > 0 for name in ("conv1", "bn1", "conv2", "fc"))


def test_more_samples_than_it_takes_go_in_by_and_by(programs, tmp_path):
    model = opened(programs / "tiny.pt2")
    stored = Stored(Format.TORCH, TorchAdapter().save(model, tmp_path / "stored"), model.source)
    x = graphs.floats(100, 1, 8, 8)
    with open_session(stored, Deployment("torch")) as session:
        found = predict(session, model.signature, [{"x": x}])["output"]
    np.testing.assert_allclose(found, graphs.forward(graphs.opened("tiny"), {"x": x})["output"], atol=1e-5)


def test_a_fixed_number_of_samples_is_filled_up(programs, tmp_path):
    model = opened(programs / "fixed.pt2", {"row": graphs.floats(2, 6)})
    assert model.signature.batch == 4
    assert sum(layer.macs for layer in TorchAdapter().layers(model)) == 6 * 32 + 32 * 2  # of one sample
    stored = Stored(Format.TORCH, TorchAdapter().save(model, tmp_path / "stored"), model.source)
    row = graphs.floats(7, 6)
    with open_session(stored, Deployment("torch")) as session:
        found = predict(session, model.signature, [{"row": row}])["output"]
    np.testing.assert_allclose(found, graphs.forward(graphs.opened("regressor"), {"row": row})["output"], atol=1e-6)


def test_a_stored_program_needs_its_file_no_more(programs, tmp_path):
    file = tmp_path / "lstm.pt2"
    file.write_bytes((programs / "lstm.pt2").read_bytes())
    model = opened(file)
    path, batch = TorchAdapter().save(model, tmp_path / "stored"), model.signature.synthetic(2)
    wanted = TorchAdapter().forward(model, batch)["logits"]
    file.unlink()
    assert {item.name for item in TorchAdapter().files(path)} == {
        "model.json",
        "weights.safetensors",
        "program.pt2",
    }

    def outputs(path, batch, on_event):
        """In a process of its own."""
        from whet.models.torch.adapter import read_structure, run

        return run(TorchAdapter().load(path, read_structure(path).origin).module, batch)["logits"]

    np.testing.assert_allclose(isolate.call(outputs, path, batch), wanted, atol=1e-6)


def test_its_weights_are_stored_once(programs, tmp_path):
    big = save(tmp_path / "big.pt2", nn.Linear(300, 300), (torch.randn(2, 300),))
    path = TorchAdapter().save(opened(big), tmp_path / "stored")
    assert sum(file.stat().st_size for file in TorchAdapter().files(path)) < 4 * 300 * 301 + 30_000


@pytest.mark.parametrize("name", ["tiny", "lstm", "fixed"])
def test_it_is_exported_to_onnx(programs, name, capfd):
    model = opened(programs / f"{name}.pt2")
    outcome = graphs.apply(ExportOnnx(), model)
    assert outcome.notes["max_rel_difference"] < 1e-5
    shapes = [spec.shape for spec in outcome.model.signature.inputs]
    assert shapes == [spec.shape for spec in model.signature.inputs]
    batch = model.signature.synthetic(5)
    wanted = TorchAdapter().forward(model, batch)
    for key, array in graphs.forward(outcome.model, batch).items():
        np.testing.assert_allclose(array, wanted[key], atol=1e-5)
    assert "Error while creating guard" not in capfd.readouterr().err


def test_weights_of_a_program_are_pruned(programs):
    outcome = graphs.apply(MagnitudePrune(sparsity=0.5), opened(programs / "tiny.pt2"))
    zeros = [np.mean(array == 0) for array in TorchAdapter().matrices(outcome.model).values()]
    assert np.mean(zeros) > 0.3


def test_what_needs_layers_is_refused_with_the_reason(programs):
    with pytest.raises(PassError, match=r"exported program .* has no layers .*put export-onnx before this step"):
        graphs.apply(DynamicInt8(), opened(programs / "tiny.pt2"))


@pytest.mark.slow
def test_it_is_profiled_and_timed_from_its_path(programs):
    assert api.profile(str(programs / "tiny.pt2")).parameters == 1315
    (standing,) = api.bench(str(programs / "tiny.pt2"), batch_sizes=(2,))
    assert {item.metric for item in standing.measurements} >= {"latency_p50_ms", "size_bytes", "load_ms"}


class Dropping(nn.Module):
    def forward(self, x):
        return nn.functional.dropout(x, 0.5, self.training)


class Optional(nn.Module):
    def forward(self, x, twice=None):
        return x if twice is None else 2 * x


def test_a_program_in_training_mode_is_refused(tmp_path):
    path = save(tmp_path / "train.pt2", Dropping(), (torch.randn(2, 3),), train=True)
    with pytest.raises(ModelError, match=r"exported in training mode .*call model.eval\(\) before"):
        opened(path)


def test_an_input_that_is_no_tensor_is_refused(tmp_path):
    path = save(tmp_path / "odd.pt2", Optional(), (torch.randn(2, 3), True))
    with pytest.raises(ModelError, match=r"takes x, twice, of which some are no tensors"):
        opened(path)


# --- what is looked for before torch opens a file -------------------------------------------------------------


class Runs:
    """An object whose unpickling writes a file."""

    def __init__(self, mark):
        self.mark = mark

    def __reduce__(self):
        return (exec, (f"open({str(self.mark)!r}, 'w').close()",))


def rewritten(source, target, change, compression=zipfile.ZIP_STORED):
    """Copy an archive; ``change`` gets its entries by name (below its folder) and returns them changed."""
    with zipfile.ZipFile(source) as archive:
        root = archive.namelist()[0].partition("/")[0]
        entries = {name.partition("/")[2]: archive.read(name) for name in archive.namelist()}
    entries = change(entries)
    with zipfile.ZipFile(target, "w", compression) as archive:
        for name, content in entries.items():
            archive.writestr(f"{root}/{name}" if not name.startswith("!") else name[1:], content)
    return target


def with_graph(change):
    """Change the graph's JSON."""

    def apply(entries):
        graph = json.loads(entries["models/model.json"])
        change(graph)
        return {**entries, "models/model.json": json.dumps(graph).encode()}

    return apply


def with_weights(**fields):
    """Change what the first weight says of itself."""

    def apply(entries):
        name = "data/weights/model_weights_config.json"
        config = json.loads(entries[name])
        next(iter(config["config"].values())).update(fields)
        return {**entries, name: json.dumps(config).encode()}

    return apply


def in_node(**fields):
    return with_graph(lambda graph: graph["graph_module"]["graph"]["nodes"][0].update(fields))


def in_module(**fields):
    return with_graph(lambda graph: graph["graph_module"]["module_call_graph"][0]["signature"].update(fields))


def in_sizes(text):
    value = {"as_expr": {"expr_str": text, "hint": {"as_int": 2}}}
    return with_graph(lambda graph: graph["graph_module"]["graph"]["sym_int_values"].update({"s9": value}))


CODE = "__import__('os').system('touch {mark}')"


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (
            lambda e: {**e, "data/weights/model.pt": b"{pickle}"},
            "'.*data/weights/model.pt', which would be unpickled",
        ),
        (lambda e: {**e, "data/constants/model.pt": b"{pickle}"}, "model.pt', which would be unpickled"),
        (lambda e: {**e, "data/constants/custom_obj_0": b"{pickle}"}, "custom_obj_0', which would be unpickled"),
        (lambda e: {**e, "data/constants/opaque_obj_0": b"{pickle}"}, "opaque_obj_0', which would be unpickled"),
        (lambda e: {**e, "data/sample_inputs/model.pt": b"{torch}"}, "example inputs in .* would be unpickled"),
        (lambda e: {**e, "data/aotinductor/model/a.so": b"\\x7fELF"}, "compiled machine code"),
        (with_weights(use_pickle=True), "holds 'conv1.weight' as a pickled object"),
        (with_weights(path_name="custom_obj_0"), "holds 'conv1.weight' as a pickled object"),
        (in_node(target="torch.os.system"), "'torch.os.system' for target"),
        (in_node(target="torch.ops.load_library"), "'torch.ops.load_library' for target"),
        (in_node(target="torch.ops.aten.add.__class__"), "for target, which torch would run or import"),
        (in_node(name="a): " + CODE), "for name, which torch would run"),
        (in_sizes(CODE), "for expr_str, which torch would run"),
        (in_sizes("Symbol('s9', positive=True).__class__"), "for expr_str"),
        (in_sizes("Symbol('s9' if open('{mark}', 'w') else 's9')"), "for expr_str"),
        (in_module(forward_arg_names=["x=" + CODE]), "for forward_arg_names"),
        (in_module(out_spec='[1, {"default_factory_module": "antigravity"}]'), "for out_spec"),
    ],
)
def test_what_would_run_is_refused_and_does_not(programs, tmp_path, change, told):
    mark = tmp_path / "it-ran"

    def marked(entries):
        found = change(entries)
        saved = io.BytesIO()
        torch.save(Runs(mark), saved)
        filled = {b"{pickle}": pickle.dumps(Runs(mark)), b"{torch}": saved.getvalue()}
        return {name: filled.get(text, text.replace(b"{mark}", str(mark).encode())) for name, text in found.items()}

    path = rewritten(programs / "tiny.pt2", tmp_path / "bad.pt2", marked)
    with pytest.raises(UnsafePickle, match=told) as caught:
        opened(path)
    assert "\n" not in str(caught.value)
    assert not mark.exists()


def test_guards_that_a_file_brings_are_not_run(programs, tmp_path):
    """They are Python; torch makes its own of the sizes."""
    mark = tmp_path / "it-ran"
    code = CODE.replace("{mark}", str(mark))
    path = rewritten(
        programs / "tiny.pt2", tmp_path / "bad.pt2", with_graph(lambda graph: graph.update(guards_code=[code]))
    )
    model = opened(path)
    TorchAdapter().forward(model, model.signature.synthetic(2))
    assert not mark.exists()


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda e: {**e, "../../outside": b"x"}, r"outside', which leads out of the archive"),
        (lambda e: {**e, "!/etc/outside": b"x"}, "leads out of the archive"),
        (lambda e: {**e, "..\\outside": b"x"}, "leads out of the archive"),
        (
            lambda e: {**e, "models/other.json": b"{}"},
            "it holds '.*models/other.json'; load it in the torch that wrote",
        ),
        (lambda e: {**e, "!other/models/model.json": b"{}"}, "not an archive as torch.export.save writes it now"),
        (
            lambda e: {"!version": b"8.8", "!serialized_exported_program.json": b"{}"},
            "not an archive as torch.export",
        ),
        (lambda e: {n: t for n, t in e.items() if n != "models/model.json"}, "it has no models/model.json"),
        (
            lambda e: {n: t for n, t in e.items() if n != "data/weights/weight_0"},
            "lacks the numbers of 'conv1.weight'",
        ),
        (lambda e: {**e, "models/model.json": b"{"}, "is not JSON"),
    ],
)
def test_an_archive_of_another_form_is_one_line(programs, tmp_path, change, told):
    path = rewritten(programs / "tiny.pt2", tmp_path / "bad.pt2", change)
    with pytest.raises(ModelError, match=told) as caught:
        opened(path)
    assert "\n" not in str(caught.value)


def test_an_archive_that_unpacks_to_far_more_is_not_unpacked(programs, tmp_path):
    path = rewritten(
        programs / "tiny.pt2", tmp_path / "bomb.pt2",
        lambda entries: {**entries, "data/weights/weight_0": bytes(50_000_000)}, zipfile.ZIP_DEFLATED,
    )  # fmt: skip
    assert path.stat().st_size < 100_000
    with pytest.raises(ModelError, match=r"unpacks from 48,\d{3} bytes to 50,000,000"):
        opened(path)


def test_weights_that_are_said_to_be_huge_are_not_made(programs, tmp_path):
    sizes = {"sizes": [{"as_int": 1 << 40}], "strides": [{"as_int": 1}], "storage_offset": {"as_int": 0}}

    def change(entries):
        return {**with_weights(tensor_meta=sizes)(entries), "data/weights/weight_0": b""}

    with pytest.raises(ModelError, match=r"holds 'conv1.weight' as 1,099,511,627,776 zeros"):
        opened(rewritten(programs / "tiny.pt2", tmp_path / "huge.pt2", change))


def test_an_entry_that_stands_twice_is_refused(programs, tmp_path):
    """Two readers of archives may each take another."""
    path = tmp_path / "twice.pt2"
    path.write_bytes((programs / "tiny.pt2").read_bytes())
    with warnings.catch_warnings(), zipfile.ZipFile(path, "a") as file:
        warnings.simplefilter("ignore")
        file.writestr(file.namelist()[0], b"another")
    with pytest.raises(ModelError, match="twice; do not use this file"):
        opened(path)


@pytest.mark.parametrize("share", [0.02, 0.5, 0.9, 0.999])
def test_a_truncated_file_is_one_line(programs, tmp_path, share):
    content = (programs / "tiny.pt2").read_bytes()
    path = tmp_path / "cut.pt2"
    path.write_bytes(content[: int(share * len(content))])
    with pytest.raises(ModelError, match=r"is not a readable archive of torch.export .*truncated"):
        opened(path)


def test_a_flipped_byte_is_found(programs, tmp_path):
    content = bytearray((programs / "tiny.pt2").read_bytes())
    with zipfile.ZipFile(programs / "tiny.pt2") as file:
        item = next(item for item in file.infolist() if item.filename.endswith("weight_0"))
    name, extra = struct.unpack("<HH", content[item.header_offset + 26 : item.header_offset + 30])
    content[item.header_offset + 30 + name + extra + 1] ^= 1
    path = tmp_path / "flipped.pt2"
    path.write_bytes(bytes(content))
    with pytest.raises(ModelError, match="CRC"):
        opened(path)


@pytest.mark.parametrize("content", [b"no archive at all", b"PK\x03\x04" + bytes(100)])
def test_what_is_no_archive_is_one_line(tmp_path, content):
    (tmp_path / "other.pt2").write_bytes(content)
    with pytest.raises(ModelError, match=r"is not a readable archive of torch.export"):
        opened(tmp_path / "other.pt2")


@pytest.mark.parametrize(
    ("text", "fine"),
    [
        ("Symbol('s77', positive=True, integer=True)", True),
        ("Mul(Integer(2), Add(Symbol('s0', integer=True), Integer(-1)))", True),
        ("FloorDiv(Symbol('u3', integer=True), Integer(4))", True),
        ("s77", True),
        ("lambda: 0", False),
        ("exit()", False),
        ("Symbol('s1').name", False),
        ("'a'", False),
        ("[1]", False),
    ],
)
def test_only_arithmetic_of_sizes_is_let_through(text, fine):
    assert archive._arithmetic(text) is fine
