"""What was finished is kept: after a kill, an interrupt, a full disk; and nothing is mixed with another command."""

import json
import resource
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import psutil
import pytest

from whet import api, storage
from whet.bundle.verify import verify
from whet.measure.verdict import Budget

WAIT = 120


# A shell's background jobs ignore interrupts, and hand that down to the tests it runs.
MODULE = (
    "import runpy, signal; signal.signal(signal.SIGINT, signal.default_int_handler); "
    "runpy.run_module('whet', run_name='__main__', alter_sys=True)"
)


def start(*arguments):
    command = [sys.executable, "-c", MODULE, *map(str, arguments)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def until(condition, process):
    """Wait for something to be true while a process runs, and return it."""
    deadline = time.monotonic() + WAIT
    while not (found := condition()):
        assert process.poll() is None, process.communicate()[1]
        assert time.monotonic() < deadline, "it never happened"
        time.sleep(0.05)
    return found


def children(process):
    return psutil.Process(process.pid).children(recursive=True)


def gone(processes):
    """Tell whether processes have ended, given some seconds."""
    return not psutil.wait_procs(processes, timeout=15)[1]


def times(*folders):
    """Return when each file was last written."""
    return {path: path.stat().st_mtime_ns for folder in folders for path in folder.rglob("*") if path.is_file()}


def half_written(run):
    return [path for path in run.rglob(".*") if path.name not in (".cache", ".trials", ".lock", ".whet")]


@pytest.fixture(scope="module")
def killed(regressor, tmp_path_factory):
    """An ``optimize`` that was killed after its first candidate, and what was seen of it."""
    run = tmp_path_factory.mktemp("killed") / "run"
    command = [
        "optimize", regressor[0], "--data", regressor[1], "--out", run, "--batch-sizes", "1",
        "--recipe", "graph-only", "--recipe", "half", "--min-speedup", "0.01", "--max-drop", "0.05",
    ]  # fmt: skip
    process = start(*command)
    journal = run / ".trials" / "candidates" / "graph-only.json"
    until(journal.exists, process)
    family = until(lambda: children(process), process)
    process.kill()
    process.communicate()
    seen = {"children die too": gone(family), "test was opened": list(run.rglob("outputs-test.npy"))}
    finished = json.loads(journal.read_text())
    kept = [run / ".cache" / step["key"] / "model" for step in finished["steps"]]
    seen["times"] = times(run / "candidates" / "graph-only", *kept)
    seen["times"][journal] = journal.stat().st_mtime_ns
    return run, command, seen


@pytest.fixture(scope="module")
def resumed(killed, whet):
    """The same command again, on the folder that the killed one left."""
    _, command, _ = killed
    return whet(*command)


def test_children_die_with_a_killed_parent_and_test_was_not_opened(killed):
    run, _, seen = killed
    assert seen["children die too"]
    assert seen["test was opened"] == []
    assert not (run / "results.json").exists()
    assert len(seen["times"]) > 12


def test_a_different_command_is_refused_and_told_what_differs(here, killed, recipes):
    run, command, _ = killed
    before = times(run)
    for more, told in (
        (["--max-drop", "0.2"], "budget.max_drop: 0.05 then, 0.2 now"),
        (["--batch-sizes", "1,2"], "batch_sizes: [1] then, [1, 2] now"),
        (["--recipe", "lossy"], "there is no preset 'lossy'"),
        (["--recipe", recipes / "lossy.toml"], "recipes.lossy: null then"),
        (["--seed", "1"], "seed: 0 then, 1 now"),
        (["--data", "digits"], "(data:"),
    ):
        ran = here(*command, *more)
        assert ran.code == 2
        assert told in ran.err
        assert ran.err.count("\n") == 1
        assert ran.out == ""
    ran = here("run", *command[1:2], "--model", *command[1:2], *command[2:4], "--out", run)
    assert ran.code == 2
    assert times(run) == before


def test_the_same_command_goes_on_and_computes_nothing_twice(killed, resumed):
    run, _, seen = killed
    assert resumed.code == 0, resumed.err
    assert {path: path.stat().st_mtime_ns for path in seen["times"]} == seen["times"]
    assert "graph-only: optimize-graph" not in resumed.err
    assert "half: half" in resumed.err
    assert len(list(run.rglob("outputs-test.npy"))) == 1
    assert half_written(run) == []
    for bundle in (run / "bundle", run / "baseline", run / "candidates/half", run / "candidates/graph-only"):
        assert all(check.ok for check in verify(bundle)), bundle


def test_data_that_changed_on_disk_is_refused_even_when_all_is_finished(here, killed, resumed):
    _, command, _ = killed
    data = command[3]
    original = data.read_bytes()
    with np.load(data) as archive:
        arrays = {**archive, "target_test": archive["target_test"] + 1}
    try:
        np.savez(data, **arrays)
        ran = here(*command)
    finally:
        data.write_bytes(original)
    assert (ran.code, ran.out) == (2, "")
    assert "(data contents: " in ran.err
    assert here(*command).code == 0


def test_a_model_that_changed_on_disk_is_refused(here, killed, resumed):
    _, command, _ = killed
    model = Path(command[1])
    original = model.read_bytes()
    try:
        model.write_bytes(original[:-1])
        ran = here(*command)
    finally:
        model.write_bytes(original)
    assert ran.code == 2
    assert "model contents" in ran.err


@pytest.fixture(scope="module")
def loader(npz, tmp_path_factory):
    """A data factory that reads a file of its own: only running it tells that the data changed. Few samples."""
    folder = tmp_path_factory.mktemp("loader")
    with np.load(npz) as archive:
        few = {name: array[:40] if name.endswith("test") else array for name, array in archive.items()}
    np.savez(folder / "images.npz", **few)
    (folder / "data.py").write_text(
        "import pathlib\n"
        "import numpy as np\n"
        "def load():\n"
        "    z = np.load(pathlib.Path(__file__).parent / 'images.npz')\n"
        "    return (z['x_train'], z['y_train']), (z['x_test'], z['y_test'])\n"
    )
    return folder


@pytest.fixture(scope="module")
def interrupted(whet, onnx_file, loader, tmp_path_factory):
    """An ``optimize`` with no time for more than one candidate, interrupted before that one, and what was seen."""
    run = tmp_path_factory.mktemp("interrupted") / "run"
    command = [
        "optimize", onnx_file, "--data", f"{loader}/data.py:load", "--out", run, "--batch-sizes", "1",
        "--within", "0.05s", "--min-speedup", "0.01", "--json",
    ]  # fmt: skip
    process = start(*command)
    until((run / ".trials" / "candidates" / "float.json").exists, process)
    family = until(lambda: children(process), process)
    process.send_signal(signal.SIGSTOP)  # or it may be through before the second has begun
    second = whet(*command)
    family += children(process)
    process.send_signal(signal.SIGINT)
    process.send_signal(signal.SIGCONT)
    out, err = process.communicate(timeout=30)
    seen = {"code": process.returncode, "out": out, "err": err, "second": second, "children die too": gone(family)}
    seen["half written"] = half_written(run)
    return run, command, seen


@pytest.fixture(scope="module")
def continued(interrupted, whet):
    """The same command again, to its end."""
    run, command, _ = interrupted
    baseline = times(run / "baseline")
    ran = whet(*command)
    assert times(run / "baseline") == baseline
    return run, ran


def test_of_two_at_once_the_second_is_refused(interrupted):
    run, _, seen = interrupted
    assert seen["second"].code == 2
    assert seen["second"].out == ""
    assert seen["second"].err == f"error: another whet is at work in {run}; wait for it, or choose another --out\n"


def test_an_interrupt_leaves_no_orphan_and_nothing_half_written(interrupted):
    run, _, seen = interrupted
    assert seen["code"] == 130
    assert seen["out"] == ""
    assert seen["err"].splitlines()[-1] == (
        "interrupted; what was finished is kept, and the same command goes on from there"
    )
    assert "Traceback" not in seen["err"]
    assert seen["children die too"]
    assert seen["half written"] == []
    assert all(check.ok for check in verify(run / "baseline"))


def test_data_that_a_factory_reads_and_that_changed_is_refused(interrupted, loader, here):
    run, command, _ = interrupted
    original = (loader / "images.npz").read_bytes()
    with np.load(loader / "images.npz") as archive:
        arrays = {**archive, "x_test": archive["x_test"] + 1}
    try:
        np.savez(loader / "images.npz", **arrays)
        ran = here(*command)
    finally:
        (loader / "images.npz").write_bytes(original)
    assert (ran.code, ran.out) == (2, "")
    assert ran.err.startswith(
        f"error: the data has changed since {run} was begun; choose another --out, or put it "
    )
    assert ran.err.count("\n") == 1


def test_what_was_interrupted_goes_on_and_where_time_runs_out_the_rest_is_not_tried(continued):
    """With twenty test samples nothing can be proved: exit code 3, and how many would settle it."""
    run, ran = continued
    assert ran.code == 3, ran.err
    assert ran.json["not_tried"][0] == "static-int8"
    assert len(ran.json["not_tried"]) == 10
    assert [result["name"] for result in ran.json["results"]] == ["float", "graph-only"]
    claim = next(item for item in ran.json["proof"]["verdicts"] if item["answer"] == "INCONCLUSIVE")
    assert claim["needed_samples"] > 20
    assert all(check.ok for check in verify(run / "bundle"))
    assert "Not tried, for want of time: static-int8, " in (run / "report.md").read_text()


def test_the_table_says_how_many_samples_would_settle_it(continued, here):
    table = here("report", continued[0])
    assert table.code == 0
    assert "INCONCLUSIVE" in table.out
    assert "would settle it" in table.out


@pytest.fixture
def small_disk(tmp_path):
    """A disk with 150 kB of room, and what gives it more; without the right to mount, a limit on each file."""
    place = tmp_path / "disk"
    place.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=150k", "tmpfs", str(place)]
    mounted = shutil.which("mount") and subprocess.run(mount, capture_output=True, check=False).returncode == 0
    if mounted:
        yield place, lambda: subprocess.run(["mount", "-o", "remount,size=20m", str(place)], check=True)
        subprocess.run(["umount", str(place)], check=True)
        return
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (5000, before[1]))
    yield place, lambda: resource.setrlimit(resource.RLIMIT_FSIZE, before)
    resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.fixture
def squeezed(whet, regressor, recipes, small_disk):
    """A command that ran out of room, and how to give it some."""
    place, make_room = small_disk
    run = place / "run"
    command = [
        "optimize", regressor[0], "--data", regressor[1], "--out", run, "--batch-sizes", "1", "--max-drop", "0",
        "--min-speedup", "1000", "--recipe", recipes / "lossy.toml", "--json",
    ]  # fmt: skip
    return run, command, whet(*command), make_room


def test_a_full_disk_is_one_clear_line_and_work_goes_on_from_there(squeezed, here, recipes):
    """In Python, then on the command line. The one candidate ruins the model; nothing is 1,000 times as fast."""
    run, command, ran, make_room = squeezed
    assert (ran.code, ran.out) == (2, "")
    last = ran.err.splitlines()[-1]
    assert last.startswith("error: no room left ")
    assert "free some space and run the same command again: it resumes" in last
    assert "Traceback" not in ran.err
    assert [line for line in ran.err.splitlines() if line.startswith("error")] == [last]
    assert half_written(run) == []
    assert not (run / ".trials" / "candidates" / "lossy.json").exists(), "a full disk is no candidate's fault"
    before = (run / "original.json").stat().st_mtime_ns

    make_room()
    outcome = api.optimize(
        command[1], command[3], run, recipes=[recipes / "lossy.toml"], batch_sizes=[1],
        budget=Budget(max_drop=0.0, min_speedup=1000.0),
    )  # fmt: skip
    assert (run / "original.json").stat().st_mtime_ns == before
    assert outcome.answer == "FAIL"
    assert outcome.proof.chosen == "float"
    (lossy,) = [item for item in outcome.ranking if item.name == "lossy"]
    assert (lossy.eligible, lossy.reason.split(":")[0]) == (False, "ruined")
    assert any("No candidate met the budget" in warning for warning in outcome.warnings)

    ran = here(*command)
    assert (ran.code, ran.err) == (1, "")
    assert ran.json["proof"]["answer"] == "FAIL"
    assert all(check.ok for check in verify(run / "bundle"))


def test_a_place_that_cannot_be_written_is_one_line(here, onnx_file, npz, tmp_path):
    (tmp_path / "file").write_text("in the way")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("three years of work")
    for out, told in (
        (tmp_path / "file", "is a file; choose another --out"),
        (tmp_path / "file" / "run", "not a directory"),
        (tmp_path / "mine", "is not empty and not of whet's making; choose another --out"),
        ("/proc/whet", "cannot write /proc/whet"),
        ("/dev/null", "is a file; choose another --out"),
    ):
        ran = here("optimize", onnx_file, "--data", npz, "--out", out)
        assert ran.code == 2, out
        assert told in ran.err
        assert (ran.err.count("\n"), ran.out) == (1, "")
    assert (tmp_path / "mine" / "thesis.txt").read_text() == "three years of work"
    for out in (tmp_path / "file", "/proc/whet"):
        ran = here("demo", "--out", out)
        assert (ran.code, ran.err.count("\n")) == (2, 1)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "mine"]


def test_what_a_killed_process_left_half_written_is_swept_away(tmp_path):
    elsewhere = tmp_path / "elsewhere"
    storage.write_text(elsewhere / "thesis.tex", "years of work")
    run = tmp_path / "run"
    keep = ["bundle/model.onnx", ".trials/a.b.json", ".cache/0a/step.json", "candidates/v1.abcdefgh/x", ".lock"]
    keep += [".env.template", ".vscode.settings/launch.json", ".notes.old-123/text", "whet-tmp-1-abcdefgh/x"]
    leave = [".cache/.0a.whet-tmp-7-k3_9zq1x/model/model.onnx", "candidates/.half.whet-tmp-12-abcdefgh/x"]
    leave += [".bundle.whet-tmp-123-old_0123abcd/manifest.json", "bundle/.manifest.json.whet-tmp-9-zzzzzzzz"]
    for name in keep + leave:
        storage.write_text(run / name, "content")
    (run / ".link.whet-tmp-1-abcdefgh").symlink_to(elsewhere)
    storage.sweep(run)
    assert len(below(run)) == len(keep + leave) + 1, "a folder without whet's marker is left as it is"
    storage.mark(run, "run")
    storage.sweep(run)
    assert below(run) == {*keep, ".whet"}
    assert (elsewhere / "thesis.tex").read_text() == "years of work"


def below(folder):
    """Return the paths of all files and links below a folder."""
    return {
        path.relative_to(folder).as_posix()
        for path in folder.rglob("*")
        if path.is_symlink() or (path.is_file() and not path.is_relative_to(folder / ".link.whet-tmp-1-abcdefgh"))
    }


def test_a_mistake_found_before_any_work_leaves_the_folder_free(here, onnx_file, npz, tmp_path):
    run = tmp_path / "run"
    broken = tmp_path / "broken.onnx"
    broken.write_bytes(onnx_file.read_bytes()[:3000])
    assert here("optimize", broken, "--data", npz, "--out", run).code == 2
    assert not run.exists()
    run.mkdir()
    assert here("optimize", broken, "--data", npz, "--out", run).code == 2
    assert list(run.iterdir()) == []
    storage.mark(run, "optimize")  # by a command that was killed before it knew its model
    (run / "run.json").write_text("{}")
    (run / "logs").mkdir()
    assert here("optimize", broken, "--data", npz, "--out", run).code == 2
    assert list(run.iterdir()) == []


def test_data_in_memory_is_told_apart_by_its_values(onnx_file, npz, tmp_path):
    run = tmp_path / "run"
    with np.load(npz) as archive:
        train, test = (archive["x_train"], archive["y_train"]), (archive["x_test"], archive["y_test"])
    first = api.plan("optimize", onnx_file, (train, test), run).command
    again = api.plan("optimize", onnx_file, (train, (test[0].copy(), test[1].copy())), run).command
    other = api.plan("optimize", onnx_file, (train, (test[0] + 1, test[1])), run).command
    assert first == again
    assert {key for key in first if first[key] != other[key]} == {"data contents"}


@pytest.fixture
def killer(npz, tmp_path):
    """A data factory that lets its own process be killed at one of its calls, as the system does without memory."""
    with np.load(npz) as archive:
        few = {name: array[:60] for name, array in archive.items()}
    np.savez(tmp_path / "images.npz", **few)
    (tmp_path / "calls").mkdir()
    (tmp_path / "data.py").write_text(
        "import os, pathlib, signal\n"
        "import numpy as np\n"
        "def load():\n"
        "    here = pathlib.Path(__file__).parent\n"
        "    count = len(list((here / 'calls').iterdir()))\n"
        "    (here / 'calls' / str(count)).touch()\n"
        "    if count == 3:\n"
        "        os.kill(os.getpid(), signal.SIGKILL)\n"
        "    z = np.load(here / 'images.npz')\n"
        "    return (z['x_train'], z['y_train']), (z['x_test'], z['y_test'])\n"
    )
    return tmp_path


def test_a_candidate_that_was_killed_from_outside_is_tried_again_by_the_same_command(killer, onnx_file, here):
    """Its only candidate has no result: exit code 70. Before, the float model was prepared, built and measured."""
    run = killer / "run"
    command = [
        "run", "graph-only", "--model", onnx_file, "--data", f"{killer}/data.py:load", "--out", run,
        "--batch-sizes", "1", "--max-drop", "0.9", "--min-speedup", "0.01", "--json",
    ]  # fmt: skip
    ran = here(*command)
    assert ran.code == 70, ran.err
    (failed,) = [item for item in ran.json["results"] if item["failure"]]
    assert (failed["name"], failed["failure"]["retry"]) == ("graph-only", True)
    assert "SIGKILL" in failed["failure"]["message"]
    assert any("the same command tries it again" in warning for warning in ran.json["warnings"])
    assert not (run / ".trials" / "candidates" / "graph-only.json").exists()
    baseline = times(run / "baseline")

    ran = here(*command)
    assert ran.code in (0, 1, 3), ran.err
    assert [item["failure"] for item in ran.json["results"]] == [None, None]
    assert times(run / "baseline") == baseline
    assert half_written(run) == []


def test_a_folder_of_the_version_before_is_resumed(killed, resumed, here):
    """It had no marker, and kept the journals of candidates beside whet's own records."""
    run, command, _ = killed
    (run / ".whet").unlink()
    (run / "results.json").unlink()
    journals = run / ".trials" / "candidates"
    for path in journals.iterdir():
        path.rename(run / ".trials" / path.name)
    journals.rmdir()
    bundles = times(run / "candidates", run / "baseline", run / "bundle")
    ran = here(*command)
    assert ran.code == 0, ran.err
    assert times(run / "candidates", run / "baseline", run / "bundle") == bundles
    assert {path.name for path in journals.iterdir()} == {"float.json", "graph-only.json", "half.json"}
    assert storage.is_marked(run)
