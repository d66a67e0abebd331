"""Cleaning of TFLite files: the same bits of outputs, the same constants and layers, fewer bytes."""

from pathlib import Path

import flat
import numpy as np
import pytest
from ai_edge_litert import schema_py_generated as schema

import whet
from whet.errors import PassError
from whet.models.source import source_of
from whet.models.tflite import constants, writing
from whet.models.tflite.adapter import TfliteAdapter
from whet.models.tflite.flatbuffer import parse
from whet.models.tflite.interpreter import Running
from whet.passes.base import PassContext
from whet.passes.graph import tflite
from whet.passes.graph.spec import CleanGraph
from whet.passes.quantize.spec import StaticInt8
from whet.testing import PassContract
from whet.types import Format

MATRIX = flat.floats(6, 32, seed=3)
MATRIX[np.abs(MATRIX) < 1] = 0


def per_channel(channels=48):
    """(N, 4, 4, 3) to (N, 4, 4, 3): two convolutions of integers, a scale a channel, as converters write them."""
    rng = np.random.default_rng(0)
    scales = {"a": rng.uniform(0.01, 0.02, channels), "b": rng.uniform(0.01, 0.02, 3)}
    shapes = {"a": (channels, 1, 1, 3), "b": (3, 1, 1, channels)}
    parts = []
    for name, shape in shapes.items():
        weight = rng.integers(-127, 128, shape).astype(np.int8)
        kernel = flat.constant(f"block/{name}/Conv2D;block/{name}/norm/Fused", weight, scale=scales[name])
        kernel.quantization.min = kernel.quantization.max = np.ones(len(weight), np.float32)
        bias = flat.constant(f"{name}/bias", np.arange(len(weight), dtype=np.int32), scale=0.05 * scales[name])
        parts += [kernel, bias]
    made = [flat.tensor(name, (None, 4, 4, width), "int8", scale=0.05, zero=3)
            for name, width in (("x", 3), ("hidden;and/all;that/was/fused", channels), ("y", 3))]  # fmt: skip
    steps = [
        flat.operator("CONV_2D", f"{before} {kernel.name} {bias.name}", after, strideW=1, strideH=1, version=3)
        for before, after, kernel, bias in (
            ("x", made[1].name, *parts[:2]), (made[1].name, "y", *parts[2:]),
        )
    ]  # fmt: skip
    return flat.file([*made, *parts], steps, ["x"], ["y"], {"x": "picture", "y": "picture_out"})


FILES = {
    "connected": flat.connected(), "conv_net": flat.conv_net(),
    "one at a time": flat.conv_net(reshape_to=1, batch=1),
    "int8": flat.quantized(), "uint8": flat.quantized("uint8"), "int16": flat.quantized("int16"),
    "halved": flat.halved(), "sparse": flat.sparse(MATRIX), "blocks": flat.blocked()[2], "free": flat.free(),
    "per channel": per_channel(),
}  # fmt: skip


def cleaned(model, tmp_path, **context):
    return CleanGraph().apply(model, PassContext(tmp_path, **context))


class TestCleanGraph(PassContract):
    covers = ("clean-graph", Format.TFLITE)

    @pytest.fixture(autouse=True)
    def given(self, tmp_path):
        self.folder = tmp_path

    def make_pass(self):
        return CleanGraph()

    def make_model(self):
        return flat.opened(per_channel(), self.folder)


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("kernels", ["xnnpack", "builtin"])
def test_outputs_are_the_same_bits(tmp_path, name, kernels):
    model = flat.opened(FILES[name], tmp_path)
    outcome = cleaned(model, tmp_path)
    assert outcome.changed == ("graph",)
    assert len(outcome.model.payload) < len(model.payload)
    assert outcome.notes["bytes_after"] == len(outcome.model.payload)
    batch = model.signature.synthetic(3, seed=5)
    wanted, found = (Running(one.payload, kernels).run(batch) for one in (model, outcome.model))
    assert list(wanted) == list(found)
    for output, array in wanted.items():
        np.testing.assert_array_equal(found[output], array)


def computed(content):
    """Return all that is computed: operators in order with their options, and all that they read and yield."""
    raw = schema.ModelT.InitFromPackedBuf(content, 0)
    (graph,) = parse(content)
    steps = []
    for one, operator in zip(raw.subgraphs[0].operators, graph.operators, strict=True):
        read = [graph.tensors[place] for place in operator.inputs if place >= 0]
        held = [(each.type, each.shape, constants.stored(each).tolist()) for each in read if each.data is not None]
        scales = [each.quantization for each in read if each.quantization is not None]
        options = vars(one.builtinOptions) if one.builtinOptions is not None else {}
        quantized = [(how.scales.tolist(), how.zeros.tolist(), how.axis, how.block) for how in scales]
        steps.append((operator.kind, options, held, quantized))
    ends = [(name, graph.tensors[place].type, graph.tensors[place].shape, graph.tensors[place].free)
            for name, place in (*graph.inputs, *graph.outputs)]  # fmt: skip
    return steps, ends, [code.version for code in raw.operatorCodes]


@pytest.mark.parametrize("name", FILES)
def test_operators_constants_and_scales_are_those_that_were(tmp_path, name):
    model = flat.opened(FILES[name], tmp_path)
    steps, ends, versions = computed(model.payload)
    found, found_ends, found_versions = computed(cleaned(model, tmp_path).model.payload)
    assert found == steps
    assert found_ends == ends
    assert set(found_versions) == set(versions)


@pytest.mark.parametrize("name", FILES)
def test_reports_name_the_layers_that_they_named(tmp_path, name):
    model = flat.opened(FILES[name], tmp_path)
    after = cleaned(model, tmp_path).model
    wanted, found = (TfliteAdapter().layers(one) for one in (model, after))
    assert [(each.name, each.kind, each.parameters, each.macs) for each in found] == [
        (each.name, each.kind, each.parameters, each.macs) for each in wanted
    ]
    assert TfliteAdapter().matrices(after).keys() >= {name for each in found for name in each.weights}


def test_names_are_shortened_and_zero_points_of_all_channels_are_there_once(tmp_path):
    model = flat.opened(per_channel(), tmp_path)
    outcome = cleaned(model, tmp_path)
    content = outcome.model.payload
    assert outcome.notes["names_shortened"] == 5
    assert b"block/a/Conv2D" in content
    for gone in (b"Fused", b"and/all", b"a/bias", b"written by hand"):
        assert gone in model.payload
        assert gone not in content
    assert model.payload.count(bytes(48 * 8)) == 2
    assert content.count(bytes(48 * 8)) == 1
    assert len(model.payload) - len(content) > 48 * 8 + 2 * 51 * 4  # the zero points; the ranges of both


def test_constants_that_are_equal_are_stored_once_and_lie_as_litert_likes(tmp_path):
    weight = flat.floats(6, 6, seed=1)
    content = flat.file(
        [
            flat.tensor("x", (None, 6)), flat.tensor("h", (None, 6)), flat.tensor("y", (None, 6)),
            flat.constant("first", weight), flat.constant("second", weight), flat.tensor("nothing", (3,)),
        ],
        [flat.operator("FULLY_CONNECTED", "x first -", "h"), flat.operator("FULLY_CONNECTED", "h second -", "y")],
        ["x"], ["y"],
    )  # fmt: skip
    outcome = cleaned(flat.opened(content, tmp_path), tmp_path)
    assert outcome.notes["constants_shared"] == 1
    assert outcome.notes["unused_dropped"] == 3  # a tensor, a buffer, the same operator's second code
    raw = writing.unpacked(outcome.model.payload)
    assert [len(part) for part in (raw.subgraphs[0].tensors, raw.buffers, raw.operatorCodes)] == [5, 2, 1]
    start = outcome.model.payload.index(weight.tobytes())
    assert start % 16 == 0
    assert outcome.model.payload.count(weight.tobytes()) == 1


def with_metadata(content, **named):
    raw = schema.ModelT.InitFromPackedBuf(content, 0)
    raw.metadata = []
    for name, data in named.items():
        made = schema.MetadataT()
        made.name, made.buffer = name, len(raw.buffers)
        raw.buffers.append(schema.BufferT())
        raw.buffers[-1].data = np.frombuffer(data, np.uint8)
        raw.metadata.append(made)
    return writing.packed(raw)


def test_metadata_that_litert_looks_for_stay_and_others_go_and_are_told(tmp_path):
    content = with_metadata(flat.connected(), min_runtime_version=b"1.5.0", CONVERSION_METADATA=b"made on a day")
    outcome = cleaned(flat.opened(content, tmp_path), tmp_path)
    assert outcome.notes["metadata_dropped"] == ["CONVERSION_METADATA"]
    assert b"made on a day" not in outcome.model.payload
    raw = writing.unpacked(outcome.model.payload)
    assert [(one.name, raw.buffers[one.buffer].data.tobytes()) for one in raw.metadata] == [
        (b"min_runtime_version", b"1.5.0")
    ]


def test_a_cleaned_file_is_left_as_it_is(tmp_path):
    once = cleaned(flat.opened(per_channel(), tmp_path), tmp_path).model
    again = cleaned(once, tmp_path)
    assert again.model is once
    assert [(item.layer, item.reason) for item in again.skipped] == [
        ("graph", "it has nothing that a runtime does not read")
    ]


def test_a_file_that_keeps_data_outside_is_left_as_it_is(tmp_path, monkeypatch):
    model = flat.opened(flat.connected(), tmp_path)
    unpacked = writing.unpacked(model.payload)
    unpacked.buffers[1].offset, unpacked.buffers[1].size = 4096, 120
    monkeypatch.setattr(writing, "unpacked", lambda content: unpacked)
    outcome = cleaned(model, tmp_path)
    assert outcome.model is model
    assert "outside of its flatbuffer" in outcome.skipped[0].reason


def test_a_file_that_came_out_otherwise_is_found_out_by_running_it(tmp_path, monkeypatch):
    def damaged(raw):
        found = pack(raw)
        at = found.index(flat.floats(5, seed=2).tobytes())  # a bias
        return found[:at] + np.float32(9).tobytes() + found[at + 4 :]

    pack = writing.packed
    monkeypatch.setattr(tflite.writing, "packed", damaged)
    with pytest.raises(PassError, match="output 'answer' would differ in LiteRT"):
        cleaned(flat.opened(flat.connected(), tmp_path), tmp_path)


def test_a_file_without_names_is_quantized_as_one_with_names_is(tmp_path):
    model = flat.opened(flat.conv_net(), tmp_path)  # which has no signature either
    nameless = cleaned(model, tmp_path).model
    x = np.random.default_rng(0).standard_normal((64, 8, 8, 2)).astype(np.float32)
    data = whet.dataset(((x, np.arange(64) % 3), (x, np.arange(64) % 3)))
    request = StaticInt8(samples=32, calibration="minmax")
    outcomes = [request.apply(one, PassContext(tmp_path, data=data)) for one in (model, nameless)]
    assert outcomes[0].changed == outcomes[1].changed
    wanted, found = (TfliteAdapter().forward(outcome.model, {"x": x})["y"] for outcome in outcomes)
    np.testing.assert_array_equal(found, wanted)


@pytest.mark.assets
@pytest.mark.parametrize(
    ("name", "least"),
    [
        ("mlperf-tiny/kws_ref_model.tflite", 0.35), ("mlperf-tiny/kws_ref_model_float32.tflite", 0.15),
        ("mlperf-tiny/pretrainedResnet_quant.tflite", 0.10), ("mlperf-tiny/pretrainedResnet.tflite", 0.01),
        ("odd/mobilenet-v1-0.25-128-int8.tflite", 0.05),
    ],
)  # fmt: skip
def test_published_files_become_smaller_and_give_the_same_bits(assets, tmp_path, name, least):
    path = Path(assets / "models" / name)
    model = TfliteAdapter().open(source_of(path), None)
    outcome = cleaned(model, tmp_path)
    assert len(outcome.model.payload) < (1 - least) * path.stat().st_size
    assert outcome.notes["layers_renamed"] == {}
    batch = model.signature.synthetic(2, seed=9)
    for kernels in ("xnnpack", "builtin", "reference"):
        wanted, found = (Running(one.payload, kernels).run(batch) for one in (model, outcome.model))
        for output, array in wanted.items():
            np.testing.assert_array_equal(found[output], array)
