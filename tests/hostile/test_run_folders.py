"""Hostile RUN folders: nothing is lost that whet did not write, and what is damaged is named or computed again."""

import json
import os
import shutil
from functools import partial

from driver import Case, table

BUDGET = ("--batch-sizes", "1", "--max-drop", "0.2", "--min-speedup", "0.01", "--no-robustness")
OPTIMIZE = ("optimize", "{here}/good.onnx", "--data", "{here}/good.npz", *BUDGET)
RECIPES = ("--recipe", "graph-only", "--recipe", "dynamic-int8")
BASE = (*OPTIMIZE, *RECIPES)
OUT = (*BASE, "--out", "{here}/out")
RESUME = (*BASE, "--out", "{here}/run", "--json")
FOREIGN = "is not empty and not of whet's making; choose another --out"
FORM = {"kind": "optimize", "model contents": "a", "data": "b", "seed": 0, "threads": 1, "trust_pickle": False}
MARKER = "whet folder, schema 1: optimize 0123456789abcdef0123456789abcdef\n"


def write(files, here):
    """Write files below the folder of the case: texts by path; None makes a folder, a ``Link`` a link."""
    for name, content in files.items():
        path = here / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if content is None:
            path.mkdir()
        elif isinstance(content, Link):
            path.symlink_to(here / content)
        else:
            path.write_text(content)


class Link(str):
    """The target of a link, below the folder of the case."""


def foreign(name, files, *, command=OUT, says=(FOREIGN,)):
    return Case(name, command, says=says, prepare=partial(write, files))


LAB = ("lab", "--model-path", "{here}/net.keras", "--dataset-root", "{here}/pictures")
FIGURES = {"MPLCONFIGDIR": "{here}/fonts"}  # the list of fonts that matplotlib keeps for its user
OWN_JSON = json.dumps({"mine": True})
FOREIGN_FOLDERS = [
    foreign("thesis", {"out/thesis.tex": "three years of work"}),
    foreign("run-json", {"out/run.json": OWN_JSON}),
    foreign("run-json-and-folders", {
        "out/run.json": OWN_JSON, "out/logs/mine.log": "a", "out/.cache/mine": "b", "out/.trials/mine": "c",
    }),
    foreign("run-json-list", {"out/run.json": "[1]", "out/.lock": ""}),
    foreign("run-json-kind", {"out/run.json": '{"kind": "optimize"}', "out/.lock": "", "out/logs/mine.log": "a"}),
    foreign("run-json-in-our-form", {"out/run.json": json.dumps(FORM), "out/.cache/mine": "b"}),
    foreign("cache", {"out/.cache/mine": "b"}),
    foreign("logs", {"out/logs/mine.log": "a"}),
    foreign("trials", {"out/.trials/mine": "c"}),
    foreign("bundle", {"out/bundle/model.onnx": "d"}),
    foreign("results", {"out/results.json": OWN_JSON}),
    foreign("lock-with-text", {"out/.lock": "mine"}),
    foreign("marker-folder", {"out/.whet/mine": "e"}),
    foreign("marker-of-another", {"out/.whet": "mine", "out/run.json": json.dumps(FORM), "out/.lock": ""}),
    foreign("marker-link", {"ours": MARKER, "out/.whet": Link("ours"), "out/.cache/mine": "b"}),
    foreign("names-as-if-half-written", {"out/.env.template": "a", "out/.vscode.settings/launch.json": "b"}),
    foreign("home", {"out/.bashrc": "a", "out/.cache/pip/x": "b"}),
    foreign("link-to-a-folder", {"mine/thesis.tex": "a", "out": Link("mine")}),
    foreign("file", {"out": "mine"}, says=("out is a file",)),
    foreign("link-to-a-file", {"mine": "a", "out": Link("mine")}, says=("is a file",)),
    foreign("broken-link", {"out": Link("nowhere")}, says=("is a link to a place that does not exist",)),
    foreign("looping-link", {"out": Link("out")}, says=("--out", "links that run in a circle")),
    foreign("below-a-broken-link", {"link": Link("nowhere")}, command=(*BASE, "--out", "{here}/link/run"),
            says=("link is a link to a place that does not exist",)),
    foreign("below-a-file", {"file": "a"}, command=(*BASE, "--out", "{here}/file/run"), says=("not a directory",)),
    foreign("marked-but-no-command", {"out/.whet": MARKER, "out/original.json": "{}"},
            says=("run.json is missing", "choose another --out")),
    foreign("our-link", {"out/.whet": MARKER, "mine/x": "a", "out/.cache": Link("mine")},
            says=("out/.cache is a link",)),
    foreign("our-link-deep", {"out/.whet": MARKER, "mine/x": "a", "out/candidates/a": Link("mine")},
            says=("out/candidates/a is a link",)),
    Case("here", (*BASE, "--out", "."), says=(FOREIGN,)),
    Case("root", (*BASE, "--out", "/"), says=(FOREIGN,)),
    Case("parent-of-the-data", (*BASE, "--out", "{here}"), says=(FOREIGN,)),
    Case("empty", (*BASE, "--out", ""), says=("--out is empty",)),
    Case("device", (*BASE, "--out", "/dev/null"), says=("is a file",)),
    Case("proc", (*BASE, "--out", "/proc/whet"), says=("cannot write /proc/whet",)),
    Case("long", (*BASE, "--out", "{here}/" + "n" * 300), says=("file name too long",)),
    Case("pipe", OUT, says=("is a file",), prepare=lambda here: os.mkfifo(here / "out")),
    foreign("in-the-data", {"data/cat/a.txt": "a", "data/dog/b.txt": "b"}, says=("is in the folder of the data",),
            command=("optimize", "{here}/good.onnx", "--data", "{here}/data", "--out", "{here}/data/run")),
    foreign("in-the-model", {"model/saved_model.pb": "a"}, says=("is in the folder of the model",),
            command=("optimize", "{here}/model", "--data", "{here}/good.npz", "--out", "{here}/model/run")),
    foreign("run-verb", {"out/run.json": OWN_JSON, "out/logs/mine.log": "a"},
            command=("run", "half", "--model", "{here}/good.onnx", "--data", "{here}/good.npz", *OUT[-2:])),
    foreign("lab", {"net.keras": "a", "pictures/a/x": "b", "out/run.json": '{"kind": "lab"}', "out/run/mine": "c"},
            command=(*LAB, "--results-path", "{here}/out"),
            says=("not of whet's making; choose another --results-path",)),
]  # fmt: skip

DEMO = ("demo", "--out", "{here}/out")
DEMOS = [
    foreign("demo-model", {"out-model/model.py": "mine = 1"}, command=DEMO, says=("out-model", "changed model.py")),
    foreign("demo-other-files", {"out-model/thesis.tex": "a"}, command=DEMO, says=("has other files in it",)),
    foreign("demo-weights", {"out-model/digits.safetensors": "a"}, command=DEMO, says=("has other files in it",)),
    foreign("demo-link", {"mine/x": "a", "out-model": Link("mine")}, command=DEMO, says=("has other files in it",)),
    foreign("demo-broken-link", {"out-model": Link("mine")}, command=DEMO, says=("has other files in it",)),
    foreign("demo-file", {"out-model": "a"}, command=DEMO, says=("has other files in it",)),
    Case("demo-run-folder", DEMO, says=(FOREIGN,), prepare=partial(write, {"out/thesis.tex": "a"}),
         check=lambda here, _: "it made out-model" if (here / "out-model").exists() else None),
]  # fmt: skip


def recipes(names, here):
    for at, name in enumerate(names):
        (here / f"r{at}.toml").write_text(
            f'name = {json.dumps(name)}\n[[steps]]\npass = "half"\n', encoding="utf-8"
        )


def named(case, names, *says, code=2):
    given = [word for at in range(len(names)) for word in ("--recipe", f"{{here}}/r{at}.toml")]
    return Case(case, (*OPTIMIZE, "--out", "{here}/out", "--dry-run", *given), code=code, says=says,
                prepare=partial(recipes, names))  # fmt: skip


CANNOT = "cannot name a recipe"
NAMES = [
    named("name-proof", ["proof"], "proof", code=0),
    named("name-look", ["look", "baseline", "pairs"], "look", code=0),
    named("name-float", ["float"], "'float'", "stands for the model as given"),
    named("name-original", ["Original"], "'Original'", "stands for the model as given"),
    named("name-300", ["n" * 300], CANNOT, "1 to 64"),
    named("name-65", ["n" * 65], CANNOT),
    named("name-above", [".."], CANNOT),
    named("name-slash", ["a/b"], CANNOT),
    named("name-backslash", ["a\\b"], CANNOT),
    named("name-device", ["CON"], "Windows keeps it for a device"),
    named("name-device-suffix", ["nul.txt"], "Windows keeps it for a device"),
    named("name-hidden", [".a"], CANNOT),
    named("name-dash", ["-a"], CANNOT),
    named("name-last-dot", ["a."], CANNOT),
    named("name-space", ["a b"], CANNOT),
    named("name-control", ["a\u001bb"], CANNOT, "\\x1b"),
    named("name-newline", ["a\n"], CANNOT),
    named("name-lookalike", ["h\u0430lf"], CANNOT, "\\u0430"),
    named("name-umlaut", ["gr\u00f6\u00dfe"], CANNOT),
    named("name-empty", [""], CANNOT),
    named("name-twice", ["a", "a"], "two recipes are named 'a'"),
    named("name-case", ["Half", "half"], "differ in case alone"),
]


def resumed(prepare, here):
    """Let the finished RUN belong to the files of the case, then do harm to it."""
    file = here / "run" / "run.json"
    command = json.loads(file.read_text())
    command |= {"model.file": str(here / "good.onnx"), "data": str(here / "good.npz")}
    file.write_text(json.dumps(command))
    prepare(here / "run")


def damage(name, content, run):
    """Write bytes in place of a file, or cut it in the middle where ``content`` is None."""
    path = run / name
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2] if content is None else content)


def unfinished(prepare, run):
    """Take the results away, so that the command goes on with the pieces."""
    (run / "results.json").unlink()
    prepare(run)


def cut_model(run):
    """Cut the largest file of the model as given in the cache."""
    files = [path for path in entry(run).rglob("*") if path.is_file() and path.name != "step.json"]
    damage(max((path for path in files if path.suffix != ".npy"), key=lambda path: path.stat().st_size), None, run)


def entry(run):
    """Return the folder of the model as given in the cache."""
    return run / ".cache" / json.loads((run / "original.json").read_text())["root"]


def again(name, prepare, *, code=0, says=("computed again",), slow=False):
    return Case(
        name, RESUME, code=code, says=says, prepare=partial(resumed, prepare), needs=("run",), rewrites=True,
        seconds=120.0, slow=slow, check=is_whole,
        environment=FIGURES,
    )  # fmt: skip


def is_whole(here, ended):
    results = json.loads((here / "run" / "results.json").read_text())
    names = [item["name"] for item in results["results"]]
    return None if names == ["float", "graph-only", "dynamic-int8"] else f"results are of {names}"


def refused(name, prepare, *says):
    return Case(name, RESUME, says=says, prepare=partial(resumed, prepare), needs=("run",))


def replaced_by_a_folder(run):
    (run / "run.json").unlink()
    (run / "run.json").mkdir()


def moved(name, run):
    """Move a part of RUN elsewhere and leave a link."""
    (run / name).rename(run.parent / "elsewhere")
    (run / name).symlink_to(run.parent / "elsewhere")


JOURNALS = ".trials/candidates"
UNREADABLE = ("run.json cannot be read", "choose another --out")
DAMAGED = [
    refused("command-empty", partial(damage, "run.json", b""), *UNREADABLE),
    refused("command-cut", partial(damage, "run.json", None), *UNREADABLE),
    refused("command-garbage", partial(damage, "run.json", b"\xff\x00"), *UNREADABLE),
    refused("command-list", partial(damage, "run.json", b"[]"), *UNREADABLE),
    refused("command-deep", partial(damage, "run.json", b"[" * 100_000), *UNREADABLE),
    refused("command-folder", replaced_by_a_folder, *UNREADABLE),
    refused("command-absent", lambda run: (run / "run.json").unlink(), "run.json is missing"),
    refused("command-of-another", partial(damage, "run.json", json.dumps(FORM).encode()), "of another command"),
    refused("bundle-link", partial(moved, "bundle"), "run/bundle is a link"),
    refused("cache-link", partial(moved, ".cache"), "run/.cache is a link"),
    refused("journal-link", partial(moved, ".trials/candidates"), "run/.trials/candidates is a link"),
    again("results-empty", partial(damage, "results.json", b"")),
    again("results-cut", partial(damage, "results.json", None), slow=True),
    again("results-typed", partial(damage, "results.json", b'{"kind": 7}'), slow=True),
    again("outputs-garbage", partial(unfinished, lambda run: damage(entry(run) / "outputs-select.npy", b"x", run)),
          says=(), slow=True),
    again("journal-empty", partial(unfinished, partial(damage, f"{JOURNALS}/graph-only.json", b"")), slow=True),
    again("journal-cut", partial(unfinished, partial(damage, f"{JOURNALS}/float.json", None)), slow=True),
    again("journal-typed", partial(unfinished, partial(damage, f"{JOURNALS}/graph-only.json", b'{"name": 1}')),
          slow=True),
    again("proof-garbage", partial(unfinished, partial(damage, ".trials/proof.json", b"{}")), slow=True),
    again("look-empty", partial(unfinished, partial(damage, ".trials/look.json", b"")), slow=True),
    again("original-cut", partial(unfinished, partial(damage, "original.json", None)), slow=True),
    again("cache-step", partial(unfinished, lambda run: damage(entry(run) / "step.json", b"{", run)), slow=True),
    again("cache-model", partial(unfinished, cut_model), slow=True),
    again("candidate-absent", partial(unfinished, lambda run: shutil.rmtree(run / "candidates" / "graph-only")),
          slow=True),
]  # fmt: skip

MAIN = "import runpy; runpy.run_module('whet', run_name='__main__', alter_sys=True)"
NO_CWD = f"import os; os.mkdir('gone'); os.chdir('gone'); os.rmdir('../gone'); {MAIN}"
LITTLE = f"import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (2000, 2000)); {MAIN}"
SYSTEM = [
    Case("no-working-directory", ("optimize", "{here}/good.onnx", "--data", "{here}/good.npz", "--out", "out"),
         program=("-c", NO_CWD), says=("the working directory",)),
    Case("small-files-only", OUT, program=("-c", LITTLE), says=("no room left",)),
    Case("no-temporary-folder", OUT, environment={"TMPDIR": "{here}/good.npz", **FIGURES}, code=0, slow=True,
         seconds=200.0),
]  # fmt: skip

CASES = [*FOREIGN_FOLDERS, *DEMOS, *NAMES, *DAMAGED, *SYSTEM]


# Slower than half a second: others of their kinds run with the fast tests.
SLOW = (
    "below-a-file", "broken-link", "bundle", "bundle-link", "cache", "cache-link", "command-absent",
    "command-cut", "command-deep", "command-empty", "command-folder", "command-garbage", "command-list",
    "command-of-another", "demo-file", "demo-run-folder", "device", "file", "here", "in-the-data",
    "journal-link", "link-to-a-file", "lock-with-text", "logs", "marked-but-no-command", "marker-folder",
    "marker-link", "marker-of-another", "name-300", "name-case", "name-empty", "name-float", "name-look",
    "name-lookalike", "name-newline", "name-proof", "name-twice", "names-as-if-half-written", "our-link",
    "our-link-deep", "parent-of-the-data", "proc", "results", "results-empty", "root", "run-json",
    "run-json-and-folders", "run-json-in-our-form", "run-json-kind", "run-json-list", "run-verb",
    "small-files-only", "thesis", "trials",
)  # fmt: skip


@table(CASES, slow=SLOW)
def test_hostile(case, survives):
    survives(case)
