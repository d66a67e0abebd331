"""Every runtime against the public contract; options, lots of a fixed length, and what cannot be opened or run."""

import json

import flat
import graphs
import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from torch import nn

from whet.errors import ModelError, RecipeError, RuntimeFailure, SignatureError, WhetError
from whet.models.model import Stored
from whet.models.onnx.adapter import OnnxAdapter
from whet.models.signature import parse_input
from whet.models.source import source_of
from whet.models.torch.adapter import TorchAdapter
from whet.passes.quantize.spec import DynamicInt8
from whet.runtimes import base
from whet.runtimes.base import Deployment, formats_of, open_session, parse_runtime, predict, runtime_for
from whet.runtimes.litert import LiteRT
from whet.runtimes.onnxruntime import OnnxRuntime
from whet.runtimes.torch import TorchRuntime
from whet.testing import RuntimeContract
from whet.types import Format, Signature, TensorSpec


def stored(model, folder):
    adapter = TorchAdapter() if model.format is Format.TORCH else OnnxAdapter()
    return Stored(model.format, adapter.save(model, folder / "model"), model.source)


class TestTorch(RuntimeContract):
    @pytest.fixture(autouse=True)
    def folder(self, tmp_path):
        self.tmp_path = tmp_path

    def make_runtime(self):
        return TorchRuntime()

    def make_model(self):
        return graphs.opened("lstm")

    def make_stored(self):
        model = self.make_model()
        return stored(model, self.tmp_path), model.signature


class TestTorchInt8(TestTorch):
    def make_model(self):
        return graphs.apply(DynamicInt8(), graphs.opened("gru")).model

    def test_samples_do_not_touch_each_other(self):
        """They do, by a step or so: dynamic ranges are taken over all samples of a call."""
        there, signature = self.make_stored()
        batch = signature.synthetic(6)
        singles = [{name: array[at : at + 1] for name, array in batch.items()} for at in range(6)]
        with self.make_runtime().open(there, self.deployment()) as session:
            together, apart = predict(session, signature, [batch]), predict(session, signature, singles)
        for name, array in together.items():
            np.testing.assert_allclose(array, apart[name], atol=0.03)


class TestOnnxRuntime(TestTorch):
    def make_runtime(self):
        return OnnxRuntime()

    def make_model(self):
        return graphs.model(graphs.conv_net())


class TestOnnxRuntimeTwoInputs(TestOnnxRuntime):
    def make_model(self):
        return graphs.model(graphs.two_ways())


class TestLiteRT(TestTorch):
    def make_runtime(self):
        return LiteRT()

    def make_content(self):
        return flat.conv_net()

    def make_stored(self):
        model = flat.opened(self.make_content(), self.tmp_path)
        return Stored(Format.TFLITE, self.tmp_path / "model.tflite"), model.signature


class TestLiteRTInt8(TestLiteRT):
    def make_content(self):
        return flat.quantized()


class TestLiteRTBuiltin(TestLiteRTInt8):
    def deployment(self):
        return Deployment("litert", {"kernels": "builtin"}, threads=1)


def test_every_runtime_is_under_contract():
    assert set(base.names()) == {"torch", "onnxruntime", "litert", "keras"}  # the last in test_keras.py
    assert {name: formats_of(name) for name in base.names()} == {
        "torch": (Format.TORCH,),
        "onnxruntime": (Format.ONNX,),
        "litert": (Format.TFLITE,),
        "keras": (Format.KERAS,),
    }


# --- deployments ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("deployment", "format_", "message"),
    [
        (Deployment("onnxruntim"), Format.ONNX, r"unknown runtime 'onnxruntim'; did you mean 'onnxruntime'\?"),
        (Deployment("torch"), Format.ONNX, "torch does not run onnx models; it runs torch"),
        (Deployment(), Format.OPENVINO, "no runtime for openvino models"),
        (Deployment(options={"graph_levl": "all"}), Format.ONNX, "'graph_levl'; did you mean 'graph_level'"),
        (Deployment(options={"graph_level": "most"}), Format.ONNX,
         "graph_level is one of all, extended, basic, disabled, not 'most'"),
        (Deployment(options={"device": "tpu"}), Format.TORCH, "device is one of cpu, cuda, not 'tpu'"),
    ],
)  # fmt: skip
def test_a_deployment_that_cannot_be_is_refused(deployment, format_, message):
    with pytest.raises(RecipeError, match=message):
        runtime_for(deployment, format_)


def test_an_unknown_runtime_has_no_formats():
    with pytest.raises(RecipeError, match="unknown runtime 'tensort'"):
        formats_of("tensort")


@pytest.mark.parametrize(
    ("format_", "name"), [(Format.TORCH, "torch"), (Format.ONNX, "onnxruntime"), (Format.TFLITE, "litert")]
)
def test_a_format_has_its_usual_runtime(format_, name):
    assert runtime_for(Deployment(), format_).name == name


@pytest.mark.parametrize("level", ["all", "extended", "basic", "disabled"])
def test_onnxruntime_optimizes_as_asked_and_says_so(tmp_path, monkeypatch, level):
    monkeypatch.setattr(onnxruntime, "SessionOptions", _writing(tmp_path / "run.onnx"))
    model = graphs.model(graphs.conv_net())
    deployment = Deployment(options={"graph_level": level, "provider": "cpu"}, threads=2)
    with open_session(stored(model, tmp_path), deployment) as session:
        assert session.facts == {
            "runtime": "onnxruntime",
            "version": onnxruntime.__version__,
            "provider": "CPUExecutionProvider",
            "threads": 2,
            "graph_level": level,
        }
    kinds = graphs.kinds(onnx.load(tmp_path / "run.onnx"))
    assert ("Relu" in kinds) == (level in ("basic", "disabled"))  # above, it is fused into the convolution


def _writing(path):
    """Session options that have ONNX Runtime write what it runs."""
    whole = onnxruntime.SessionOptions

    def make():
        options = whole()
        options.optimized_model_filepath = str(path)
        return options

    return make


def test_a_provider_that_is_not_there_is_refused_with_those_that_are(tmp_path):
    if "CUDAExecutionProvider" in onnxruntime.get_available_providers():
        pytest.skip("this onnxruntime has a CUDA provider")
    with pytest.raises(RuntimeFailure, match=r"has no cuda provider; it has .*CPUExecutionProvider"):
        open_session(stored(graphs.model(graphs.conv_net()), tmp_path), Deployment(options={"provider": "cuda"}))


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_a_device_that_is_not_there_is_refused(tmp_path):
    with pytest.raises(RuntimeFailure, match="torch has no CUDA device here; leave out device"):
        open_session(stored(graphs.opened("root_linear"), tmp_path), Deployment(options={"device": "cuda"}))


def test_torch_says_what_it_used(tmp_path):
    threads = torch.get_num_threads()
    try:
        with open_session(stored(graphs.opened("root_linear"), tmp_path), Deployment(threads=2)) as session:
            assert session.facts == {
                "runtime": "torch",
                "version": torch.__version__,
                "device": "cpu",
                "threads": 2,
            }
            assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(threads)


# --- outputs --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("factory", ["tiny", "lstm"])
def test_both_runtimes_give_the_same(tmp_path, factory):
    sources = graphs.opened(factory), graphs.exported(factory)
    batch = sources[0].signature.synthetic(9)
    found = []
    for model in sources:
        with open_session(stored(model, tmp_path / model.format), Deployment()) as session:
            found.append(predict(session, model.signature, [batch]))
    for name, want in found[0].items():
        np.testing.assert_allclose(found[1][name], want, rtol=1e-4, atol=1e-5)


def fixed(count):
    """The convolution network for so many samples at a time."""
    made = graphs.conv_net()
    for value in (made.graph.input[0], made.graph.output[0]):
        value.type.tensor_type.shape.dim[0].dim_value = count
    return made


@pytest.mark.parametrize("samples", [1, 4, 5, 11])
@pytest.mark.parametrize("length", [1, 4])
def test_a_model_of_a_fixed_length_is_fed_in_lots(tmp_path, length, samples):
    model, batch = graphs.model(fixed(length)), {"x": graphs.floats(samples, 1, 8, 8)}
    with open_session(stored(model, tmp_path), Deployment()) as session:
        found = predict(session, model.signature, [batch, batch])
    want = graphs.run(graphs.conv_net(), batch)[0]
    np.testing.assert_allclose(found["y"], np.concatenate([want, want]), rtol=1e-5, atol=1e-6)


class Plain:
    """A session that gives what a function gives."""

    def __init__(self, function):
        self.run = function


FREE = Signature((TensorSpec("x", "float32", (None, 2)),), (TensorSpec("y", "float32", (None,)),))
OF_FOUR = Signature((TensorSpec("x", "float32", (4, 2)),), (TensorSpec("y", "float32", (None,)),))


@pytest.mark.parametrize("signature", [FREE, OF_FOUR])
@pytest.mark.parametrize(
    ("function", "shape"),
    [(lambda batch: np.float32(1), r"\[\]"), (lambda batch: np.ones((2, len(batch["x"]))), r"\[2, [46]\]")],
)
def test_an_output_without_a_sample_axis_is_refused(signature, function, shape):
    session = Plain(lambda batch: {"y": np.asarray(function(batch))})
    with pytest.raises(SignatureError, match=rf"output 'y' has shape {shape} for [46] samples; axis 0 must be the"):
        predict(session, signature, [{"x": np.ones((6, 2), np.float32)}])


def test_a_batch_that_does_not_fit_never_reaches_the_engine():
    def fail(batch):
        raise AssertionError("the engine was asked")

    with pytest.raises(SignatureError, match="takes float32, the data has float64"):
        predict(Plain(fail), FREE, [{"x": np.ones((6, 2))}])


# --- what cannot be opened or run -----------------------------------------------------------------------------


def in_one_line(caught):
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("content", [b"", b"no model", graphs.conv_net().SerializeToString()[:900]])
def test_onnxruntime_refuses_a_bad_file_in_one_line_and_prints_nothing(tmp_path, capfd, content):
    (tmp_path / "model.onnx").write_bytes(content)
    with pytest.raises(RuntimeFailure, match=r"ONNX Runtime cannot open model\.onnx: ") as caught:
        open_session(Stored(Format.ONNX, tmp_path / "model.onnx"), Deployment())
    in_one_line(caught)
    assert capfd.readouterr() == ("", "")


def test_onnxruntime_refuses_an_operator_it_does_not_have(tmp_path):
    made = graphs.conv_net()
    made.graph.node[1].op_type = "Relux"
    onnx.save(made, tmp_path / "model.onnx")
    with pytest.raises(RuntimeFailure, match="Relux") as caught:
        open_session(Stored(Format.ONNX, tmp_path / "model.onnx"), Deployment())
    in_one_line(caught)


def test_a_run_that_fails_in_onnxruntime_is_one_line_and_prints_nothing(tmp_path, capfd):
    made = graphs.proto(
        [graphs.node("Reshape", "x shape", "y")],
        {"x": ("float32", ["N", 4])},
        {"y": ("float32", ["N", 8])},
        {"shape": np.array([2, 8])},
    )
    with open_session(stored(graphs.model(made), tmp_path), Deployment()) as session:
        np.testing.assert_array_equal(session.run({"x": np.ones((4, 4), np.float32)})["y"], np.ones((2, 8)))
        with pytest.raises(RuntimeFailure, match="ONNX Runtime cannot run the model: ") as caught:
            session.run({"x": np.ones((3, 4), np.float32)})
    in_one_line(caught)
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("broken", ["weights.safetensors", "model.json"])
@pytest.mark.parametrize("how", ["missing", "cut"])
def test_torch_refuses_a_broken_folder_in_one_line(tmp_path, broken, how):
    there = stored(graphs.opened("root_linear"), tmp_path)
    file = there.path / broken
    if how == "cut":
        file.write_bytes(file.read_bytes()[:30])
    else:
        file.unlink()
    with pytest.raises(WhetError, match=r"torch cannot open model: |model/model\.json cannot be read ") as caught:
        open_session(there, Deployment())
    in_one_line(caught)


def test_torch_says_where_a_class_of_another_program_is_missing(tmp_path):
    class Local(nn.Linear):
        pass

    source = source_of(Local(2, 2), inputs=(parse_input("float32[1,2]"),))
    there = stored(TorchAdapter().open(source, None), tmp_path)
    assert json.loads((there.path / "model.json").read_text())["origin"]["factory"] == "Local"
    with pytest.raises(ModelError, match=r"\(Local\) lived in the memory of another program"):
        open_session(Stored(Format.TORCH, there.path), Deployment())


def test_a_run_that_fails_in_torch_is_one_line(tmp_path):
    with (
        open_session(stored(graphs.opened("root_linear"), tmp_path), Deployment()) as session,
        pytest.raises(RuntimeFailure, match="torch cannot run the model: mat1 and mat2") as caught,
    ):
        session.run({"input": np.ones((3, 4), np.float32)})
    in_one_line(caught)


def test_a_runtime_is_read_with_its_options():
    assert parse_runtime("") == ("", {})
    assert parse_runtime("torch") == ("torch", {})
    assert parse_runtime("onnxruntime:graph_level=basic, provider=cpu") == (
        "onnxruntime",
        {"graph_level": "basic", "provider": "cpu"},
    )
    with pytest.raises(RecipeError, match="write name:option=value"):
        parse_runtime("onnxruntime:fast")


def test_a_number_that_an_embedding_does_not_have_is_no_fault_of_the_engine(tmp_path):
    model = graphs.opened("lstm")
    batch = {name: np.array(array) for name, array in model.signature.synthetic(2).items()}
    ids = next(name for name, array in batch.items() if array.dtype == np.int64)
    batch[ids][0, 0] = 10**6
    with (
        open_session(stored(model, tmp_path), Deployment()) as session,
        pytest.raises(SignatureError, match=r"looks up a number .* give the tokenizer"),
    ):
        session.run(batch)


# --- LiteRT ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kernels", "provider"),
    [("xnnpack", "XNNPACK"), ("builtin", "builtin kernels"), ("reference", "reference kernels")],
)
def test_litert_runs_the_kernels_asked_for_and_says_which(tmp_path, kernels, provider):
    there = Stored(Format.TFLITE, flat.written(flat.conv_net(), tmp_path))
    batch = {"x": flat.floats(3, 8, 8, 2)}
    with open_session(there, Deployment(options={"kernels": "reference"})) as session:
        wanted = session.run(batch)["y"]
    with open_session(there, Deployment(options={"kernels": kernels}, threads=2)) as session:
        assert (session.facts["provider"], session.facts["kernels"]) == (provider, kernels)
        assert session.facts["threads"] == 2
        np.testing.assert_allclose(session.run(batch)["y"], wanted, rtol=1e-4, atol=1e-5)


def test_litert_names_the_provider_by_what_xnnpack_really_took(tmp_path):
    """Where it took no operator (of 64-bit integers it takes none), LiteRT's own kernels ran."""
    content = flat.file(
        [flat.tensor("x", (None, 4), "int64"), flat.tensor("y", (None, 4), "int64")],
        [flat.operator("NEG", "x", "y")],
        ["x"], ["y"],
    )  # fmt: skip
    there = Stored(Format.TFLITE, flat.written(content, tmp_path))
    with open_session(there, Deployment()) as session:
        assert session.facts["provider"] == "builtin kernels"
        assert session.run({"x": np.array([[1, -2, 3, 0]])})["y"].tolist() == [[-1, 2, -3, 0]]


def test_litert_outputs_are_copies(tmp_path):
    there = Stored(Format.TFLITE, flat.written(flat.connected(), tmp_path))
    x = flat.floats(4, 6)
    with open_session(there, Deployment()) as session:
        first = session.run({"row": x})["answer"]
        kept = first.copy()
        session.run({"row": 2 * x})
        session.run({"row": x[:1]})
    np.testing.assert_array_equal(first, kept)


def test_litert_runs_batches_of_differing_sizes(tmp_path):
    there = Stored(Format.TFLITE, flat.written(flat.conv_net(), tmp_path))
    signature = flat.opened(flat.conv_net(), tmp_path).signature
    x = flat.floats(13, 8, 8, 2)
    with open_session(there, Deployment()) as session:
        found = predict(session, signature, [{"x": x[:5]}, {"x": x[5:6]}, {"x": x[6:]}])["y"]
        np.testing.assert_allclose(found, predict(session, signature, [{"x": x}])["y"], rtol=1e-5, atol=1e-6)


def test_what_litert_refuses_is_one_line_that_says_what_else_to_try(tmp_path):
    there = Stored(Format.TFLITE, flat.written(flat.connected()[:100], tmp_path))
    with pytest.raises(
        RuntimeFailure, match=r"LiteRT cannot open model.tflite: .*litert:kernels=builtin"
    ) as caught:
        open_session(there, Deployment())
    assert "\n" not in str(caught.value)
    there = Stored(Format.TFLITE, flat.written(flat.conv_net(reshape_to=1), tmp_path))
    with (
        open_session(there, Deployment(options={"kernels": "builtin"})) as session,
        pytest.raises(RuntimeFailure, match="LiteRT cannot run the model: ") as caught,
    ):
        session.run({"x": flat.floats(2, 8, 8, 2)})
    assert "\n" not in str(caught.value)
    assert "kernels=builtin" not in str(caught.value)


def test_numbers_that_integers_cannot_stand_for_are_the_users_mistake(tmp_path):
    there = Stored(Format.TFLITE, flat.written(flat.quantized(), tmp_path))
    with open_session(there, Deployment()) as session, pytest.raises(SignatureError, match="NaN"):
        session.run({"x": np.full((1, 6), np.nan, np.float32)})
