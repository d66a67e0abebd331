"""Mistakes: each is exactly one line on standard error, exit code 2, and leaves nothing behind."""

import pickle
import re
import shutil
import zipfile

import numpy as np
import pytest

RECIPES = {
    "unknown-key": 'name = "x"\nstpes = 1\n',
    "unknown-setting": '[[steps]]\npass = "static-int8"\nsample = 3\n',
    "bad-value": '[[steps]]\npass = "static-int8"\nsamples = "many"\n',
    "out-of-range": '[[steps]]\npass = "static-int8"\npercentile = 3.0\n',
    "bad-choice": '[[steps]]\npass = "static-int8"\ncalibration = "magic"\n',
    "unknown-pass": '[[steps]]\npass = "static-int9"\n',
    "no-steps": 'name = "x"\n',
    "no-toml": "steps = [\n",
    "needs-torch": '[[steps]]\npass = "export-onnx"\n',
    "outside": 'name = "../x"\n[[steps]]\npass = "half"\n',
}


@pytest.fixture(scope="module")
def place(onnx_file, npz, files, tmp_path_factory):
    """A folder of things that cannot be used."""
    folder = tmp_path_factory.mktemp("bad")
    whole = onnx_file.read_bytes()
    (folder / "truncated.onnx").write_bytes(whole[: len(whole) // 3])
    (folder / "empty.onnx").write_bytes(b"")
    (folder / "text.onnx").write_text("no model at all")
    (folder / "text.npz").write_text("no archive at all")
    (folder / "model.keras").write_text("x")
    (folder / "model.engine").write_text("x")
    (folder / "notes.txt").write_text("x")
    (folder / "nothing").mkdir()
    for name, good in {"good.onnx": onnx_file, "good.npz": npz, "tiny.py": files / "tiny.py"}.items():
        shutil.copyfile(good, folder / name)
    for name, text in RECIPES.items():
        (folder / f"{name}.toml").write_text(text)
    write_division(folder / "division.onnx")
    write_data(folder, npz)
    (folder / "pickled.pth").write_bytes(pickled())
    (folder / "data.py").write_text("def wants(count):\n    pass\ndef three():\n    return 3\n")
    return folder


def write_data(folder, npz):
    with np.load(npz) as archive:
        good = dict(archive)

    def save(name, **changes):
        np.savez(folder / f"{name}.npz", **{**good, **changes})

    nan = good["x_test"].copy()
    nan[7, 0, 3, 3] = np.nan
    save("nan", x_test=nan)
    save("labels", y_test=good["y_test"] + 5)
    save("one-class", y_test=np.zeros_like(good["y_test"]))
    save("empty", x_test=good["x_test"][:0], y_test=good["y_test"][:0])
    save("uneven", y_test=good["y_test"][:10])
    save("wide", x_test=np.zeros((400, 1, 9, 9), np.float32), x_train=np.zeros((300, 1, 9, 9), np.float32))
    save("wide-test", x_test=np.zeros((400, 1, 9, 9), np.float32), x_select=good["x_test"], y_select=good["y_test"])
    save("bytes", x_test=good["x_test"].astype(np.uint8), x_train=good["x_train"].astype(np.uint8))
    np.savez(folder / "no-test.npz", x_train=good["x_train"], y_train=good["y_train"])
    np.savez(folder / "objects.npz", x_test=np.array([{}, {}], object), y_test=np.zeros(2, int))


def write_division(path):
    """Write a model that divides by zero."""
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    nodes = [
        helper.make_node("Flatten", ["x"], ["flat"]),
        helper.make_node("Sub", ["flat", "flat"], ["zero"]),
        helper.make_node("Div", ["zero", "zero"], ["nan"]),
        helper.make_node("MatMul", ["nan", "w"], ["answer"]),
    ]
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 1, 8, 8])
    answer = helper.make_tensor_value_info("answer", TensorProto.FLOAT, ["n", 3])
    w = numpy_helper.from_array(np.ones((64, 3), np.float32), "w")
    graph = helper.make_graph(nodes, "division", [x], [answer], [w])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)


def pickled():
    """Return a checkpoint that would write a file if it were unpickled."""
    import io

    import torch

    stream = io.BytesIO()
    torch.save({"state": Trap()}, stream)
    return stream.getvalue()


class Trap:
    def __reduce__(self):
        return print, ("the trap has sprung",)


GOOD = "{good.onnx} --data {good.npz}"
# What is typed after ``whet optimize``, and what the one line says. {name} is a file of ``place``.
MISTAKES = {
    "a missing model": ("{nowhere.onnx} --data {good.npz}", r"the model file .*nowhere\.onnx does not exist"),
    "a truncated model": ("{truncated.onnx} --data {good.npz}", "is not an ONNX file, or it is truncated"),
    "an empty model": ("{empty.onnx} --data {good.npz}", r"is empty \(0 bytes\)"),
    "a model that is text": ("{text.onnx} --data {good.npz}", "is not an ONNX file"),
    "a model of a later version": ("{model.engine} --data {good.npz}", ".engine files are not read by this"),
    "a model that is none": ("{notes.txt} --data {good.npz}", r"is an \.onnx, \.pt2, .* or \.h5 file"),
    "weights for a model": ("{pickled.pth} --data {good.npz}", "holds weights, not a model"),
    "a file without its function": ("{tiny.py} --data {good.npz}", "name the function in it"),
    "a missing factory file": ("{nofile.py}:build --data {good.npz}", "does not exist"),
    "weights for a file": (f"{GOOD} --weights {{pickled.pth}}", "holds its own weights"),
    "missing data": ("{good.onnx} --data {nowhere.npz}", "is neither a file, a folder nor a built-in name"),
    "an unknown data name": ("{good.onnx} --data digit", "did you mean 'digits'"),
    "data that is text": ("{good.onnx} --data {text.npz}", r"text\.npz cannot be read as an \.npz of plain arrays"),
    "data that is objects": ("{good.onnx} --data {objects.npz}", "cannot be read|objects"),
    "no Keras archive": ("{model.keras} --data {good.npz}", "model.keras is no .keras file, or truncated"),
    "data of no kind": ("{good.onnx} --data {model.keras}", "cannot read model.keras as data"),
    "an empty folder": ("{good.onnx} --data {nothing}", "holds no data that is known"),
    "a missing data factory": ("{good.onnx} --data {nofile.py}:load", "check the path before the colon"),
    "a data factory that needs arguments": ("{good.onnx} --data {data.py}:wants", r"needs arguments \(count\)"),
    "a data factory that returns no data": ("{good.onnx} --data {data.py}:three", "this is a int"),
    "no test part": ("{good.onnx} --data {no-test.npz}", "no test part"),
    "an empty test part": ("{good.onnx} --data {empty.npz}", "the test part is empty"),
    "arrays of unequal length": ("{good.onnx} --data {uneven.npz}", "differ in length"),
    "one class only": ("{good.onnx} --data {one-class.npz}", "every label is 0"),
    "labels outside the outputs": ("{good.onnx} --data {labels.npz}", "labels run from 5 to 7, the model has 3"),
    "NaN in inputs": ("{good.onnx} --data {nan.npz}", "row 7 as it was given.* has a NaN or infinite value in 'x'"),
    "NaN in outputs": ("{division.onnx} --data {good.npz}", "output for sample 0 is NaN or infinite"),
    "shapes that do not fit": ("{good.onnx} --data {wide.npz}", r"does not take the data's shape \[\?,1,9,9\]"),
    "shapes of test alone that do not fit": ("{good.onnx} --data {wide-test.npz}", r"shape \[\?,1,9,9\]"),
    "types that do not fit": ("{good.onnx} --data {bytes.npz}", "takes float32, the data has uint8"),
    "an unknown task": (f"{GOOD} --task clasification", "unknown task 'clasification'"),
    "a missing metric": (f"{GOOD} --task {{nofile.py}}:metric", "does not exist"),
    "an unknown runtime": (f"{GOOD} --runtime tourch", "did you mean 'torch'"),
    "an unknown preset": (f"{GOOD} --recipe static-in8", "did you mean 'static-int8'"),
    "a missing recipe": (f"{GOOD} --recipe {{nowhere.toml}}", "cannot read the recipe"),
    "an unknown key": (f"{GOOD} --recipe {{unknown-key.toml}}", "did you mean 'steps'"),
    "an unknown setting": (f"{GOOD} --recipe {{unknown-setting.toml}}", "did you mean 'samples'"),
    "a value of another type": (f"{GOOD} --recipe {{bad-value.toml}}", "samples.*expected `int`"),
    "a value out of range": (f"{GOOD} --recipe {{out-of-range.toml}}", "percentile.*50"),
    "a choice there is not": (f"{GOOD} --recipe {{bad-choice.toml}}", "'magic'"),
    "an unknown pass": (f"{GOOD} --recipe {{unknown-pass.toml}}", "did you mean 'static-int8'"),
    "no steps": (f"{GOOD} --recipe {{no-steps.toml}}", r"no-steps\.toml has no steps"),
    "no TOML": (f"{GOOD} --recipe {{no-toml.toml}}", "is not valid TOML"),
    "a recipe that needs torch": (
        f"{GOOD} --recipe {{needs-torch.toml}}",
        "step 1: export-onnx does not run on an? onnx model; it runs on torch",
    ),
    "a name that leaves the folder": (f"{GOOD} --recipe {{outside.toml}}", "cannot name a recipe"),
    "batch sizes of 0": (f"{GOOD} --batch-sizes 0", "'0' is no list of sizes; write 1,32"),
    "batch sizes that are words": (f"{GOOD} --batch-sizes some", "is no list of sizes"),
    "a time that is none": (f"{GOOD} --within soon", "'soon' is no time; write 90s, 20m or 2h"),
    "a negative drop": (f"{GOOD} --max-drop -1", "--max-drop is -1.0; give a number from 0 up"),
    "a drop that is no number": (f"{GOOD} --max-drop nan", "--max-drop is nan; give a number from 0 up"),
    "a drop in percent": (f"{GOOD} --max-drop 1%", "'1%' is no number; write 0.01 for 1 %"),
    "a speed-up of nothing": (f"{GOOD} --min-speedup 0", "--min-speedup is 0.0; give a number above 0"),
    "no threads": (f"{GOOD} --threads 0", "--threads is 0; give a whole number from 1 up"),
    "an input that cannot be read": (f"{GOOD} --input x=float32[", "cannot read the input"),
    "an unknown preprocessing": (f"{GOOD} --preprocess scael=1", "did you mean 'scale'"),
    "an unknown option": (f"{GOOD} --max-dorp 1", "no such option '--max-dorp'"),
    "no data": ("{good.onnx}", "missing option '--data'; see whet optimize --help"),
    "nothing": ("", "missing argument 'MODEL'"),
    # These open a torch model in a child, which takes seconds.
    "an unknown factory": ("{tiny.py}:tinny --data {good.npz}", "has no function 'tinny'; did you mean 'tiny'"),
    "a factory that needs arguments": ("{tiny.py}:needs_arguments --data {good.npz}", r"needs arguments \(width\)"),
    "a factory that raises": ("{tiny.py}:raises --data {good.npz}", "RuntimeError: the weights are on another"),
    "a factory that returns no model": ("{tiny.py}:not_a_model --data {good.npz}", "returned a str, not a torch"),
    "a pickled checkpoint": (
        "{tiny.py}:tiny --data {good.npz} --weights {pickled.pth}",
        "can only be read by unpickling, which runs code from the file; .* --trust-pickle",
    ),
    "shapes that a module does not take": ("{tiny.py}:regressor --data {good.npz}", "the model cannot be run on"),
}  # fmt: skip


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_one_line_and_leaves_nothing(here, place, tmp_path, mistake):
    typed, told = MISTAKES[mistake]
    words = [re.sub(r"\{(.*?)\}", rf"{place}/\1", word) for word in typed.split()]
    ran = here("optimize", *words, "--out", tmp_path / "run")
    assert ran.code == 2, (ran.out, ran.err)
    assert ran.err.startswith("error: ")
    assert ran.err.count("\n") == 1, ran.err
    assert re.search(told, ran.err), ran.err
    assert ran.out == ""
    assert list(tmp_path.iterdir()) == []


def test_a_trap_in_a_checkpoint_never_springs(place):
    """The file is what it is said to be: unpickling it would print."""
    with zipfile.ZipFile(place / "pickled.pth") as archive:
        (name,) = [name for name in archive.namelist() if name.endswith("data.pkl")]
        assert b"the trap has sprung" in archive.read(name)
    assert pickle.loads(pickle.dumps(Trap())) is None


def test_other_verbs_refuse_in_one_line_too(here, onnx_file, npz, tmp_path):
    for words, told in (
        (["optimise", onnx_file], "there is no verb 'optimise'; did you mean 'optimize'"),
        (["compare", onnx_file, "--data", npz], "compare takes two models or more"),
        (["bench", tmp_path], "is a folder without a manifest.json"),
        (["bench", tmp_path / "no.onnx"], "does not exist"),
        (["bench", onnx_file, "--weights", npz], "belongs to no model"),
        (["bench", onnx_file, "--input", "float32[1,2]"], "does not fit the model's input"),
        (["evaluate", onnx_file], "missing option '--data'"),
        (["profile", tmp_path / "no.onnx"], "does not exist"),
        (["profile", onnx_file, "--runtime", "torch"], "no such option '--runtime'"),
        (
            ["run", "half", "--model", onnx_file, "--data", npz, "--out", tmp_path / "r", "--batch-sizes", "0"],
            "sizes",
        ),
    ):
        ran = here(*words)
        assert ran.code == 2, words
        assert told in ran.err
        assert (ran.err.count("\n"), ran.out) == (1, "")
    assert list(tmp_path.iterdir()) == []


def test_our_own_bug_keeps_its_traceback(monkeypatch, capsys):
    from whet.cli import main

    class Bug(Exception):
        pass

    def broken(*_, **__):
        raise Bug("a bug")

    monkeypatch.setattr(main.whet, "invoke", broken)
    assert main.invoke(["verify", "x"]) == 70
    told = capsys.readouterr().err
    assert "Traceback (most recent call last)" in told
    assert "error: internal: Bug: a bug; this is a bug of whet: please report it" in told
