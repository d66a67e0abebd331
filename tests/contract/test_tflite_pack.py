"""Sparse storage in TFLite files: what LiteRT fills up is what was there, and the outputs are the same bits."""

import flat
import numpy as np
import pytest
from ai_edge_litert import schema_py_generated as schema
from ai_edge_litert.interpreter import Interpreter, OpResolverType

from whet.errors import PassError, RecipeError
from whet.models.tflite import writing
from whet.models.tflite.adapter import TfliteAdapter
from whet.models.tflite.flatbuffer import parse
from whet.models.tflite.interpreter import Running
from whet.passes.base import PassContext
from whet.passes.graph.spec import CleanGraph
from whet.passes.pack import tflite
from whet.passes.pack.spec import Pack
from whet.testing import PassContract
from whet.types import Format, TraitKind

SHAPES = {"CONV_2D": (24, 3, 3, 16), "DEPTHWISE_CONV_2D": (1, 5, 5, 48), "FULLY_CONNECTED": (32, 64)}


def thinned(shape, zeros=0.85, block=1, seed=0):
    """Numbers of which a share is zero, in blocks of the last axis; float32."""
    rng = np.random.default_rng(seed)
    dense = rng.standard_normal(shape).astype(np.float32)
    gone = rng.random((*shape[:-1], shape[-1] // block)) < zeros
    dense[np.repeat(gone, block, axis=-1)] = 0
    return dense


def net(kind, dtype, dense, *, floats=False):
    """A file of one operator with these weights: float16 through a DEQUANTIZE, int8 with a scale a channel.

    Integers go in and come out where weights are int8, unless ``floats`` do.
    """
    shape, options = dense.shape, {}
    axis = 3 if kind == "DEPTHWISE_CONV_2D" else 0
    channels, width = shape[axis], shape[-1]
    integers = dtype == "int8"
    ends = {"kind": "int8", "scale": 0.05, "zero": 3} if integers and not floats else {}
    if integers:
        greatest = np.abs(dense).max(axis=tuple(at for at in range(dense.ndim) if at != axis), keepdims=True)
        scale = np.maximum(greatest, 1e-3) / 127
        weight = flat.constant(
            "layer/weight", np.rint(dense / scale).astype(np.int8), scale=scale.ravel(), axis=axis
        )
    else:
        weight, scale = flat.constant("layer/weight", dense.astype(dtype)), None
    bias = np.arange(channels, dtype=np.int32 if ends else np.float32)
    sides = () if kind == "FULLY_CONNECTED" else (8, 8)
    parts = [
        flat.tensor("x", (None, *sides, width), **ends), flat.tensor("y", (None, *sides, channels), **ends), weight,
        flat.constant("bias", bias, **({"scale": 0.05 * scale.ravel()} if ends else {})),
    ]  # fmt: skip
    steps, read = [], "layer/weight"
    if dtype == "float16":
        parts.append(flat.tensor("whole", shape))
        steps, read = [flat.operator("DEQUANTIZE", "layer/weight", "whole", version=3)], "whole"
    if sides:
        options = {"strideW": 1, "strideH": 1, **({"depthMultiplier": 1} if axis else {})}
    version = {False: 1, True: 9 if kind == "FULLY_CONNECTED" else 5}[integers]
    steps.append(flat.operator(kind, f"x {read} bias", "y", version=version, **options))
    return flat.file(parts, steps, ["x"], ["y"])


def packed(content, tmp_path, **settings):
    return Pack(**settings).apply(flat.opened(content, tmp_path), PassContext(tmp_path))


class TestPack(PassContract):
    covers = ("pack", Format.TFLITE)

    @pytest.fixture(autouse=True)
    def given(self, tmp_path):
        self.folder = tmp_path

    def make_pass(self):
        return Pack()

    def make_model(self):
        return flat.opened(net("CONV_2D", "float32", thinned(SHAPES["CONV_2D"])), self.folder)


def filled_up(content):
    """Return what LiteRT itself makes of a sparse constant."""
    interpreter = Interpreter(
        model_content=content, experimental_preserve_all_tensors=True,
        experimental_op_resolver_type=OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES,
    )  # fmt: skip
    (graph,) = parse(content)
    interpreter.allocate_tensors()
    for _, place in graph.inputs:
        details = interpreter.get_tensor_details()[place]
        interpreter.set_tensor(place, np.zeros(details["shape"], details["dtype"]))
    interpreter.invoke()
    (step,) = [one for one in graph.operators if one.kind == "DENSIFY"]
    return interpreter.get_tensor(step.outputs[0])


@pytest.mark.parametrize("block", [1, 4])
@pytest.mark.parametrize("dtype", ["float32", "float16", "int8"])
@pytest.mark.parametrize("kind", SHAPES)
def test_litert_fills_up_what_was_there_and_gives_the_same_bits(tmp_path, kind, dtype, block):
    kernels = "builtin" if kind == "FULLY_CONNECTED" else "xnnpack"
    content = net(kind, dtype, thinned(SHAPES[kind], block=block))
    outcome = packed(content, tmp_path, kernels=kernels)
    model = outcome.model
    assert outcome.changed == ("layer/weight",)
    assert len(writing.packed(writing.unpacked(content))) > len(model.payload)
    stored = next(tensor for tensor in parse(content)[0].tensors if tensor.name == "layer/weight")
    np.testing.assert_array_equal(filled_up(model.payload).reshape(-1), np.frombuffer(stored.data.tobytes(), dtype))
    matrices = (TfliteAdapter().matrices(flat.opened(one, tmp_path)) for one in (content, model.payload))
    np.testing.assert_array_equal(*(found["layer/weight"] for found in matrices))
    batch = model.signature.synthetic(3, seed=5)
    for each in dict.fromkeys((kernels, "builtin")):
        wanted, found = (Running(one, each).run(batch)["y"] for one in (content, model.payload))
        np.testing.assert_array_equal(found, wanted)
    assert {trait.kind for trait in model.traits} >= {TraitKind.PACKED}


def test_layers_keep_their_names_and_a_cleaned_file_stays_sparse(tmp_path):
    model = flat.opened(net("CONV_2D", "int8", thinned(SHAPES["CONV_2D"])), tmp_path)
    sparse = Pack().apply(model, PassContext(tmp_path)).model
    clean = CleanGraph().apply(sparse, PassContext(tmp_path)).model
    names = [[layer.name for layer in TfliteAdapter().layers(one)] for one in (model, sparse, clean)]
    assert names == [["layer/weight"]] * 3
    assert len(clean.payload) < len(sparse.payload) < len(model.payload)
    batch = model.signature.synthetic(2)
    wanted, found = (TfliteAdapter().forward(one, batch)["y"] for one in (model, clean))
    np.testing.assert_array_equal(found, wanted)


# --- what is smallest -----------------------------------------------------------------------------------------


def test_the_smallest_layout_is_found_and_takes_what_is_said(tmp_path):
    rng = np.random.default_rng(3)
    single = np.where(rng.random((6, 512)) < 0.97, 0, rng.standard_normal((6, 512))).astype(np.float32)
    blocks = thinned((6, 512), zeros=0.8, block=8)
    columns = np.zeros((300, 40), np.int8)
    columns[:, 7] = 1
    for dense, axis, block in ((single, 1, 1), (blocks, 1, 8), (columns, 0, 4)):
        found = tflite.smallest(dense)
        assert (found.axis, found.block) == (axis, block)
        values, account = tflite._encoded(dense, found)
        listed = account.dimMetadata[dense.ndim - 1]
        assert found.bytes == len(values) + sum(
            part.values.nbytes for part in (listed.arraySegments, listed.arrayIndices)
        )


@pytest.mark.parametrize(
    ("most", "dtype"), [(255, "uint8"), (256, "uint16"), (65_535, "uint16"), (65_536, "int32")]
)
def test_indices_are_as_narrow_as_they_can_be(most, dtype):
    _, table = tflite._vector(np.array([0, most]), most)
    assert table.values.dtype == dtype
    assert table.values[1] == most


@pytest.mark.parametrize(
    ("content", "settings", "reason"),
    [
        (net("CONV_2D", "float32", thinned(SHAPES["CONV_2D"], 0.2)), {}, "without zeros it would take 1"),
        (net("CONV_2D", "float32", thinned((4, 1, 1, 8))), {"least_bytes": 256}, "fewer than least_bytes = 256"),
        (net("FULLY_CONNECTED", "float32", thinned(SHAPES["FULLY_CONNECTED"])), {}, "XNNPACK does not take sparse"),
        (net("CONV_2D", "int8", thinned(SHAPES["CONV_2D"]), floats=True), {}, "XNNPACK does not open sparse INT8"),
        (net("CONV_2D", "int8", thinned(SHAPES["CONV_2D"])), {"exclude": ("layer*",)}, "excluded by the recipe"),
        (flat.quantized("uint8"), {"least_bytes": 1}, "no sparse form of UINT8 weights of FULLY_CONNECTED"),
        (flat.sparse(thinned((6, 32))), {}, "it is stored sparse already"),
    ],
)  # fmt: skip
def test_what_stays_as_it_is_has_a_reason(tmp_path, content, settings, reason):
    model = flat.opened(content, tmp_path)
    outcome = tflite.pack(Pack(**settings), model, PassContext(tmp_path))
    assert outcome.model is model
    assert [item.reason for item in outcome.skipped if reason in item.reason]


def test_sparse_integers_of_float_activations_run_in_litert_s_own_kernels_alone(tmp_path):
    content = net("CONV_2D", "int8", thinned(SHAPES["CONV_2D"]), floats=True)
    model = packed(content, tmp_path, kernels="builtin").model
    batch = model.signature.synthetic(2)
    wanted, found = (Running(one, "builtin").run(batch)["y"] for one in (content, model.payload))
    np.testing.assert_array_equal(found, wanted)
    with pytest.raises(RuntimeError, match="failed to delegate"):  # why the pass leaves it alone otherwise
        Running(model.payload, "xnnpack").run(batch)


def test_a_file_that_came_out_otherwise_is_found_out_by_running_it(tmp_path, monkeypatch):
    encode = tflite._encoded
    monkeypatch.setattr(
        tflite, "_encoded", lambda dense, layout: (np.roll(encode(dense, layout)[0], 4), encode(dense, layout)[1])
    )
    with pytest.raises(PassError, match="the file cannot be packed: output 'y' would differ"):
        packed(net("CONV_2D", "float32", thinned(SHAPES["CONV_2D"])), tmp_path)


def test_kernels_are_litert_s():
    with pytest.raises(RecipeError, match="kernels = 'builtin' runs on a tflite model alone"):
        Pack(kernels="builtin").check(Format.ONNX)


@pytest.mark.parametrize(
    ("told", "wanted"),
    [
        ("1.5.0", "2.2.0"),
        ("1.11.0", "2.2.0"),
        ("2.2.0", "2.2.0"),
        ("2.11.0", "2.11.0"),
        ("", ""),
        ("of old", "of old"),
        (None, None),
    ],
)
def test_the_oldest_runtime_that_is_told_of_knows_the_operator(tmp_path, told, wanted):
    raw = writing.unpacked(net("CONV_2D", "float32", thinned(SHAPES["CONV_2D"])))
    if told is not None:
        entry, buffer = schema.MetadataT(), schema.BufferT()
        entry.name, entry.buffer = b"min_runtime_version", len(raw.buffers)
        buffer.data = np.frombuffer(told.encode().ljust(16, b"\0"), np.uint8)
        raw.metadata, raw.buffers = [entry], [*raw.buffers, buffer]
    made = writing.unpacked(packed(writing.packed(raw), tmp_path).model.payload)
    found = [made.buffers[one.buffer].data.tobytes() for one in made.metadata or []]
    assert found == ([] if wanted is None else [wanted.encode().ljust(16, b"\0")])
