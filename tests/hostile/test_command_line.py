"""Hostile command lines: bounds, texts and paths are checked before any work starts."""

import os

from driver import Case, table

OPTIMIZE = ("optimize", "{here}/good.onnx", "--data", "{here}/good.npz", "--out", "{here}/out")
EVALUATE = ("evaluate", "{here}/good.onnx", "--data", "{here}/good.npz")
BENCH = ("bench", "{here}/good.onnx")


def no_folder(here, ended):
    return f"{here / 'out'} was made" if (here / "out").exists() else None


def bound(name, option, value, *says, command=OPTIMIZE, **others):
    return Case(name, (*command, option, value), says=says, check=no_folder, **others)


def loop(here):
    for name, to in (("loop", "pool"), ("pool", "loop"), ("loop.onnx", "loop.onnx"), ("loop.pt", "loop.pt")):
        (here / name).symlink_to(here / to)


def toml(content):
    def prepare(here):
        (here / "pre.toml").write_bytes(content)

    return prepare


def factory(here):
    (here / "model.py").write_text("def build():\n    raise RuntimeError\n")


def metric(here):
    (here / "metric.py").write_text("def right(outputs, labels):\n    return 1.0\n")


def odd_name(here):
    """Copy the good data to a name that is no UTF-8."""
    (here / "good\udce9.npz").write_bytes((here / "good.npz").read_bytes())


def accented(here):
    (here / "gööd.onnx").write_bytes((here / "good.onnx").read_bytes())


def settings(text, *says, name=None, **others):
    return Case(
        f"preprocess-{name or text[:24]}", (*OPTIMIZE, "--preprocess", text), says=says, check=no_folder, **others
    )


def asked(spec, *says, name=None):
    return Case(f"input-{name or spec[:24]}", (*BENCH, "--input", spec), says=says)


NUMBERS = [
    bound("max-drop-nan", "--max-drop", "nan", "--max-drop is nan; give a number from 0 up, such as 0.01"),
    bound("max-drop-infinite", "--max-drop", "inf", "--max-drop is inf; give a number from 0"),
    bound("max-drop-1e400", "--max-drop", "1e400", "--max-drop is inf; give a number from 0"),
    bound("max-drop-negative", "--max-drop=-0.1", "--json", "--max-drop is -0.1; give a number from 0"),
    bound("max-drop-underscore", "--max-drop", "1_0", "'1_0' is no number; write 0.01 for 1 %"),
    bound("max-drop-fullwidth-digits", "--max-drop", "\uff10.\uff11", "is no number; write 0.01 for 1 %"),
    bound("max-class-drop-nan", "--max-class-drop", "nan", "--max-class-drop is nan; give a number from 0 up"),
    bound("min-speedup-nan", "--min-speedup", "nan", "--min-speedup is nan; give a number above 0"),
    bound("min-speedup-zero", "--min-speedup", "0", "--min-speedup is 0.0; give a number above 0"),
    bound("min-fidelity-nan", "--min-fidelity", "nan", "--min-fidelity is nan; give a number from 0 to 1"),
    bound("min-fidelity-percent", "--min-fidelity", "70", "--min-fidelity is 70.0; give a number from 0 to 1"),
    bound("max-bytes-10-to-30", "--max-bytes", "1" + 30 * "0", "--max-bytes is", "whole number from 1"),
    bound("max-bytes-zero", "--max-bytes", "0", "--max-bytes is 0; give a whole number from 1"),
    bound("max-bytes-unit", "--max-bytes", "5MB", "--max-bytes is '5MB'; give a whole number from 1"),
    bound("seed-negative", "--seed", "-1", "--seed is -1; give a whole number from 0 to 4,294,967,295"),
    bound("seed-beyond-numpy", "--seed", str(2**32), "--seed is 4294967296; give a whole number from 0"),
    bound("seed-beyond-torch", "--seed", str(2**64), "give a whole number from 0 to 4,294,967,295"),
    bound("seed-5000-digits", "--seed", "9" * 5000, "(5,002 characters); give a whole number from 0"),
    bound("threads-superscript", "--threads", "²", "--threads is '²'; give a whole number from 1"),
    bound("threads-zero", "--threads", "0", "--threads is 0; give a whole number from 1"),
    bound("batch-sizes-millions", "--batch-sizes", "1,5000000", "--batch-sizes is 5000000", "1 to 65,536"),
    bound("batch-sizes-superscript", "--batch-sizes", "1,²", "'1,²' is no list of sizes; write 1,32"),
    bound("batch-sizes-5000-digits", "--batch-sizes", "7" * 5000, "is no list of sizes; write 1,32"),
    bound("batch-sizes-hundreds", "--batch-sizes", ",".join(map(str, range(1, 300))), "299 sizes; give 32 at most"),
    bound("batch-sizes-gap", "--batch-sizes", "1,,2", "'1,,2' is no list of sizes"),
    bound("within-zero", "--within", "0", "--within is '0'; give a time above 0s"),
    bound("within-years", "--within", "99999h", "--within is '99999h'; give a time above 0s up to 8784h"),
    bound("within-1e9h", "--within", "1e9h", "--within is '1e9h'; give a time above 0s up to 8784h"),
    bound("within-arabic-digits", "--within", "٣m", "'٣m' is no time; write 90s, 20m or 2h"),
    bound("within-nan", "--within", "nan", "--within is 'nan'; give a time above 0s"),
]

INPUTS = [
    asked("x=float32[-1]", "cannot read axis 0 of 'x=float32[-1]'; an axis is 3, or ?128"),
    asked("x=float32[1,1000000000000]", "cannot read axis 1", "from 1 to 2,147,483,647", name="long axis"),
    asked("x=float32[1,2000000000]", "has 2,000,000,000 values; give 268,435,456 at most", name="many values"),
    asked("x=float32[1,", "cannot read the input 'x=float32[1,'; write it as name=dtype[axes]"),
    asked("x=complex256[1]", "unknown type 'complex256'"),
    asked(f"x=float32[{','.join(['1'] * 10_000)}]", "has 10,000 axes; an input has 32 at most", name="axes"),
    asked("x=int8[1,3]:5..1", "runs backwards; write the least value first"),
    asked("x=float32[1,3]:nan..nan", "cannot read the input 'x=float32[1,3]:nan..nan'"),
    asked("x=int8[1,3]:0..1e400", "int8 cannot hold the range"),
    asked("x=float32[1,²]", "cannot read axis 1 of 'x=float32[1,²]'"),
    Case(
        "input-twice", (*BENCH, "--input", "row=float32[1,6]", "--input", "row=float32[1,7]"),
        says=("--input describes 'row' twice",),
    ),
    Case("input-hundreds", (*BENCH, *(("--input", "x=float32[1]") * 200)), says=("--input is given 200 times",)),
]  # fmt: skip

PREPROCESS = [
    settings("scale=1/0", "cannot read scale='1/0'; scale is a number, such as 1/255"),
    settings("scale=0", "cannot read scale='0'; scale is a number, such as 1/255, and not 0"),
    settings("scale=nan", "cannot read scale='nan'"),
    Case(
        "preprocess-mean-of-100000", (*OPTIMIZE, "--preprocess", "{here}/pre.toml"),
        prepare=toml(b"mean = [" + b"0," * 100_000 + b"]"), says=("mean is one number a channel", "16,384 at most"),
        check=no_folder,
    ),
    settings("mean=" + "1," * 20_000, "--preprocess has 40,005 characters; give 32,768 at most",
         name="mean-argument"),
    settings("resize=0", "cannot read resize='0'; resize is the short side", "from 1 to 16,384"),
    settings("resize=1000000000", "cannot read resize='1000000000'", "from 1 to 16,384"),
    settings("crop=" + "9" * 5000, "crop is a side in pixels", name="crop-5000-digits"),
    settings("scale=1; scale=2", "--preprocess has 'scale' twice; give it once"),
    settings("bogus=1", "unknown preprocessing 'bogus'"),
    settings("{here}/absent.toml", "cannot read the preprocessing in", "no such file"),
    settings("{here}/pre.toml", "pre.toml is a named pipe, not a file", name="fifo",
             prepare=lambda here: os.mkfifo(here / "pre.toml")),
    settings("{here}/pre.toml", "pre.toml is a folder", name="folder",
         prepare=lambda here: (here / "pre.toml").mkdir()),
    settings("{here}/pre.toml", "cannot read the preprocessing in", name="binary",
         prepare=toml(b"\x00\xff\xfe" * 99)),
    settings("{here}/pre.toml", "cannot read the preprocessing in", name="deep",
             prepare=toml(b"scale = " + b"[" * 100_000)),
    settings("{here}/pre.toml", "has 2,097,152 bytes; a file of preprocessing has 262,144 at most", name="huge",
             prepare=toml(b"#" * 2**21)),
]  # fmt: skip

TEXTS = [
    bound("windows-zero", "--windows", "0,0", "the length of windows is a whole number from 1 up, not 0"),
    bound("windows-negative", "--windows=-1,5", "--json", "cannot read the windows '-1,5'; write LENGTH,HORIZON"),
    bound("windows-10-to-30", "--windows", f"{10**30},1", "cannot read the windows"),
    bound("windows-5000-digits", "--windows", f"{'1' * 5000},1", "cannot read the windows"),
    bound("label-control-characters", "--label", "a\x1b[2Jb", "--label 'a\\x1b[2jb' holds a control character"),
    bound("task-unknown", "--task", "magic", "unknown task 'magic', and no file.py:metric; known: classification"),
    bound("task-file-absent", "--task", "{here}/absent.py:metric", "absent.py does not exist"),
    bound("task-metric-unknown", "--task", "classification:rmse", "classification has no metric 'rmse'"),
    bound(
        "task-function-absent", "--task", "{here}/metric.py:wrong", "has no function 'wrong'; known: right",
        prepare=metric,
    ),
    *(
        Case(f"empty-{word}", (*OPTIMIZE, f"--{word}", ""), says=(f"--{word} is empty; give it a value",))
        for word in ("weights", "task", "label", "windows", "preprocess", "runtime", "input", "recipe")
    ),
    *(
        Case(f"empty-{word}", (*OPTIMIZE, f"--{word}", ""), says=(f"--{word}",))
        for word in ("max-drop", "batch-sizes", "seed", "within", "data", "out")
    ),
    Case("empty-model", ("optimize", "", *OPTIMIZE[2:]), says=("error: model is empty; give it a value",)),
    Case("empty-bundle", ("verify", ""), says=("bundle is empty; give it a value",)),
]  # fmt: skip

PATHS = [
    Case("no-such-model", ("bench", "{here}/absent.onnx"), says=("absent.onnx",)),
    Case("model-name-too-long", ("bench", "m" * 5000 + ".onnx"), says=("cannot be opened (file name too long)",)),
    Case("bundle-name-too-long", ("verify", "b" * 300), says=("cannot be opened (file name too long)",)),
    Case(
        "data-name-too-long", ("evaluate", "{here}/good.onnx", "--data", "d" * 300 + ".npz"),
        says=("--data", "cannot be opened (file name too long)"),
    ),
    Case(
        "weights-name-too-long", ("bench", "{here}/model.py:build", "--weights", "w" * 300), prepare=factory,
        says=("--weights", "cannot be opened (file name too long)"),
    ),
    Case("model-loop", ("bench", "{here}/loop.onnx"), prepare=loop, says=("links that run in a circle",)),
    Case(
        "data-loop", ("evaluate", "{here}/good.onnx", "--data", "{here}/loop"), prepare=loop,
        says=("--data", "links that run in a circle"),
    ),
    Case(
        "weights-loop", ("bench", "{here}/model.py:build", "--weights", "{here}/loop.pt", "--input",
        "x=float32[1]"),
        prepare=lambda here: (factory(here), loop(here)), says=("--weights", "links that run in a circle"),
    ),
    Case(
        "no-working-directory", ("-c", "import os, sys; os.mkdir('gone'); os.chdir('gone'); os.rmdir('../gone'); "
        "sys.argv[1:] = ['bench', '../good.onnx']; from whet.cli.main import main; main()"), program=(),
        says=("the working directory does not exist any more",),
    ),
    Case("model-not-utf-8", ("bench", "{here}/absent\udce9.onnx"), says=("does not exist; check the path",)),
    Case(
        "label-not-utf-8", (*EVALUATE, "--label", "a\udce9"), says=("label names a column of a table",),
    ),
    Case("task-not-utf-8", (*EVALUATE, "--task", "a\udce9"), says=("unknown task 'a\\udce9'",)),
    Case(
        "data-not-utf-8",
        ("evaluate", "{here}/good.onnx", "--data", "{here}/good\udce9.npz", "--json"), code=0,
        prepare=odd_name, says=("accuracy",), seconds=60, slow=True,
    ),
]  # fmt: skip

TERMINALS = [
    Case(
        f"terminal-{name}", ("bench", "{here}/gööd.onnx", "--input", "row=float32[1,6]", "--batch-sizes", "1"),
        code=0,
        prepare=accented, says=("batch 1", *says), environment=environment, seconds=60, slow=True,
    )
    for name, environment, says in (
        ("ascii", {"PYTHONIOENCODING": "ascii", "PYTHONUTF8": "0"}, ("g\\u00f6\\u00f6d",)),
        ("no-columns", {"COLUMNS": "0", "LINES": "0"}, ("gööd",)),
        ("dumb", {"TERM": "dumb", "NO_COLOR": "1", "COLUMNS": "wide"}, ("gööd",)),
    )
] + [
    Case(
        "terminal-ascii-refusal", ("bench", "{here}/größe.onnx"), says=("e.onnx does not exist; check the path",),
        environment={"PYTHONIOENCODING": "ascii", "PYTHONUTF8": "0"},
    ),
    Case(
        "terminal-c-locale", ("evaluate", "{here}/gööd.onnx", "--data", "{here}/good.npz"), prepare=accented,
        says=("onnx reads no file whose name is in another encoding", "set LANG=C.UTF-8"),
        environment={"LANG": "C", "LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}, seconds=60,
    ),
    Case("terminal-no-columns-help", ("optimize", "--help"), code=0, environment={"COLUMNS": "0"},
         says=("max-drop",)),
]  # fmt: skip

CASES = [*NUMBERS, *INPUTS, *PREPROCESS, *TEXTS, *PATHS, *TERMINALS]


# Slower than half a second: others of their kinds run with the fast tests.
SLOW = (
    "label-not-utf-8", "max-drop-nan", "model-not-utf-8", "no-such-model", "preprocess-bogus=1",
    "preprocess-crop-5000-digits", "preprocess-deep", "preprocess-folder", "preprocess-huge",
    "preprocess-mean-of-100000", "preprocess-resize=0", "preprocess-resize=1000000000",
    "preprocess-scale=1; scale=2", "preprocess-{here}/absent.toml", "task-function-absent", "task-not-utf-8",
    "task-unknown",
    "terminal-ascii-refusal", "terminal-c-locale", "windows-10-to-30", "windows-5000-digits",
    "windows-negative", "windows-zero",
)  # fmt: skip


@table(CASES, slow=SLOW)
def test_hostile(case, survives):
    survives(case)
