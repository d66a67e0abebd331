"""Hostile code of the user's, and hostile moments: what ends a process must not end a command without a word."""

import os
import signal
import subprocess
import sys
import time

import psutil
import pytest
from driver import PATIENCE, Case, table

CODE = """
import asyncio, ctypes, os, signal, sys, threading, time
import numpy as np

def data():
    import whet
    draw = np.random.default_rng(0)
    x, y = draw.normal(size=(300, 6)).astype(np.float32), draw.integers(0, 3, 300)
    return (x[:100], y[:100]), (x[100:], y[100:])

def exits(): sys.exit("bye")
def exits_at_once(): os._exit(3)
def exits_well(): os._exit(0)
def aborts(): os.abort()
def crashes(): ctypes.string_at(0)
def recurses(): return recurses()
def recurses_in_c():
    sys.setrecursionlimit(10**8)
    def deeper(n): return sorted([1, 2], key=lambda _: deeper(n + 1))
    return deeper(0)
def closes():
    os.closerange(3, 4096)
    return data()
def closes_and_opens():
    os.closerange(3, 64)
    kept = [open("precious.bin", "r+b") for _ in range(20)]
    globals()["kept"] = kept
    return data()
def forks():
    os.fork()
    return data()
def waits_for_all():
    if os.fork() == 0:
        os._exit(0)
    try:
        while True:
            os.wait()
    except ChildProcessError:
        return data()
def starts_a_thread():
    threading.Thread(target=lambda: time.sleep(10**6)).start()
    return data()
def starts_a_process():
    import subprocess
    subprocess.Popen(["sleep", "1000"])
    return data()
class Odd(BaseException): pass
def raises_its_own(): raise Odd("it is odd")
def raises_interrupt(): raise KeyboardInterrupt
def raises_eof(): raise EOFError
def raises_abort():
    import click
    raise click.Abort
def raises_many_lines(): raise ValueError("first\\nsecond\\n" + "x" * 5000)
def raises_control(): raise ValueError("a\\x1b[31mred\\x07 bell")
def asks(): return input("a number? ")
def prints():
    for _ in range(50):
        print("x" * 1_000_000)
    return data()
def takes_output():
    sys.stdout, sys.stderr = None, 42
    return data()
def moves():
    os.chdir("/")
    return data()
def removes_the_directory():
    os.rmdir(os.getcwd())
    return data()
def ignores_signals():
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    return data()
def kills_itself(): os.kill(os.getpid(), 9)
def kills_its_group(): os.killpg(os.getpgid(0), signal.SIGTERM)
def becomes_another(): os.execv("/bin/true", ["true"])
async def is_async(): return data()
def is_a_generator(): yield data()
class NeedsArguments:
    def __init__(self, width): pass
number = 3

def metric_that_exits(outputs, labels): os._exit(5)
def metric_that_leaves(outputs, labels): sys.exit(0)
def metric_that_crashes(outputs, labels): ctypes.string_at(0)
def metric_that_raises(outputs, labels): raise KeyError("no such column")
"""
DID_NOT_RETURN = "did not return: the process"


def code(here):
    (here / "code.py").write_text(CODE)


def data(name, **settings):
    """Return a case that evaluates the good model on the data of a function."""
    command = ("evaluate", "{here}/good.onnx", "--data", "{here}/code.py:" + name)
    return Case(name.replace("_", "-"), command, **{"prepare": code, **settings})


def metric(name, **settings):
    command = ("evaluate", "{here}/good.onnx", "--data", "{here}/good.npz", "--task", "{here}/code.py:" + name)
    return Case(name.replace("_", "-"), command, prepare=code, **settings)


def file(name, prepare, says, **settings):
    """Return a case whose data come from ``made.py:data``, a file that ``prepare`` makes."""
    command = ("evaluate", "{here}/good.onnx", "--data", "{here}/made.py:data")
    return Case(name, command, prepare=lambda here: prepare(here / "made.py"), says=says, **settings)


def text(content):
    return lambda path: path.write_text(content)


def sparse(path):
    with path.open("wb") as out:
        out.truncate(1 << 30)


def precious(here):
    code(here)
    (here / "precious.bin").write_bytes(b"precious" * 4096)


def folder(here):
    code(here)
    (here / "inner").mkdir()


CASES = [
    data("exits", says=("code.py:exits raised SystemExit: bye", "line")),
    data("exits_at_once", says=(f"code.py:exits_at_once {DID_NOT_RETURN} left with exit code 3", "code.py, line")),
    data("exits_well", says=(f"code.py:exits_well {DID_NOT_RETURN} left with exit code 0",)),
    data("aborts", says=(f"code.py:aborts {DID_NOT_RETURN} died of SIGABRT, at `aborts` in code.py, line",)),
    data("crashes", says=(f"code.py:crashes {DID_NOT_RETURN} died of SIGSEGV", "`crashes` in code.py, line")),
    data("recurses", says=("code.py:recurses raised RecursionError",)),
    data("recurses_in_c", says=(f"code.py:recurses_in_c {DID_NOT_RETURN} died of SIGSEGV",)),
    data("closes", says=(f"code.py:closes {DID_NOT_RETURN}",)),
    data("closes_and_opens", prepare=precious, says=(f"code.py:closes_and_opens {DID_NOT_RETURN}",)),
    data("forks", code=0),
    data("waits_for_all", code=0),
    data("starts_a_thread", code=0),
    data("starts_a_process", code=0),
    data("raises_its_own", says=("code.py:raises_its_own raised Odd: it is odd",)),
    data("raises_interrupt", says=("raised KeyboardInterrupt",), silent=("interrupted;",)),
    data("raises_eof", says=("code.py:raises_eof raised EOFError",), silent=("interrupted",)),
    data("raises_abort", says=("code.py:raises_abort raised Abort",), silent=("interrupted",)),
    data("raises_many_lines", says=("raised ValueError: first second xxx",), silent=("x" * 1000,)),
    data("raises_control", says=("raised ValueError: a",)),
    data("asks", says=("code.py:asks raised EOFError",), silent=("interrupted",)),
    data("prints", code=0, silent=("xxxx",)),
    data("takes_output", code=0),
    data("moves", code=0),
    data("removes_the_directory", prepare=folder, cwd="{here}/inner", code=0, rewrites=True),
    data("ignores_signals", code=0),
    data("kills_itself", says=(f"code.py:kills_itself {DID_NOT_RETURN} died of SIGKILL",)),
    data("kills_its_group", says=(f"code.py:kills_its_group {DID_NOT_RETURN} died of SIGTERM",)),
    data("becomes_another", says=(f"code.py:becomes_another {DID_NOT_RETURN}",)),
    data("is_async", says=("code.py:is_async returned a coroutine", "no async"), silent=("never awaited",)),
    data("is_a_generator", says=("code.py:is_a_generator returned a generator", "no yield")),
    data("NeedsArguments", says=("code.py:NeedsArguments needs arguments (width)",)),
    data("number", says=("code.py:number is a int, not a function",)),
    data("absent", says=("has no function 'absent'",)),
    metric("metric_that_exits", says=("`metric_that_exits` in code.py, line", "left with exit code 5")),
    metric("metric_that_leaves", says=("`metric_that_leaves` in code.py, line", "raised SystemExit: 0")),
    metric("metric_that_crashes", says=("`metric_that_crashes` in code.py, line", "died of SIGSEGV")),
    metric("metric_that_raises", says=("the metric metric_that_raises raised KeyError: 'no such column'",)),
    file("syntax-error", text("def data(:\n"), ("raised SyntaxError", "line 1")),
    file("absent-package", text("import no_such_package\n"), ("No module named 'no_such_package'", "install")),
    file("imports-itself", text("import made\ndata = made.data\n"), ("importing", "made.py raised")),
    file("exits-on-import", text("import os\nos._exit(4)\n"), ("left with exit code 4", "made.py, line 2")),
    file("leaves-on-import", text("raise SystemExit(1)\n"), ("ended the program", "if __name__ == '__main__'")),
    file("folder-for-a-file", lambda path: path.mkdir(), ("made.py is a folder", "Python file")),
    file("pipe-for-a-file", os.mkfifo, ("made.py is no regular file",)),
    file("binary-file", lambda path: path.write_bytes(bytes(range(256)) * 9), ("importing", "made.py raised")),
    file("a-gigabyte", sparse, ("made.py has 1,024 MiB", "too much for Python source")),
    file("wrong-encoding", lambda path: path.write_bytes(b"x = '\xff\xfe'\n"), ("made.py raised SyntaxError",)),
    file("deep-source", text("x = " + "(" * 5000 + ")" * 5000 + "\n"), ("importing", "made.py raised")),
    Case("threads-9999", ("bench", "{here}/good.onnx", "--threads", "9999"), says=("9999 threads", "cores")),
    Case("threads-huge", ("bench", "{here}/good.onnx", "--threads", "9" * 30), says=("a whole number from 1 up",)),
    Case(
        "no-such-temporary-folder", ("evaluate", "{here}/good.onnx", "--data", "{here}/good.npz"),
        environment={"TMPDIR": "{here}/absent"}, code=0,
    ),
]  # fmt: skip


# Slower than half a second: others of their kinds run with the fast tests.
SLOW = (
    "a-gigabyte", "aborts", "asks", "closes", "closes-and-opens", "crashes", "exits", "exits-on-import",
    "exits-well", "forks", "ignores-signals", "is-async", "leaves-on-import", "metric-that-crashes", "moves",
    "no-such-temporary-folder", "number", "prints", "removes-the-directory", "starts-a-process",
    "starts-a-thread", "takes-output", "waits-for-all",
)  # fmt: skip


@table(CASES, slow=SLOW)
def test_hostile(case, survives):
    survives(case)


SLOW = """
import os, re, time
import numpy as np

def started():
    open("started", "w").close()

def data():
    started()
    time.sleep(600)

def holds_the_lock():
    import subprocess
    subprocess.Popen(["sleep", "1234567"])
    started()
    re.match(r"(a+)+$", "a" * 64 + "b")  # years of work in C, which never lets go of the interpreter's lock
"""


class Started:
    """A command that is waiting inside the user's code: its process, its folders, and the processes of its mark."""

    def __init__(self, inputs, folder, verb="evaluate", function="data", **settings):
        self.work, self.temporary, self.mark = folder / "work", folder / "tmp", str(folder)
        for each in (self.work, self.temporary):
            each.mkdir(exist_ok=True)
        (self.work / "slow.py").write_text(SLOW)
        model = inputs["good.onnx"]
        command = [sys.executable, "-m", "whet", verb, model, "--data", f"slow.py:{function}"]
        out = ["--out", "run"] if verb == "optimize" else []
        environment = {**os.environ, "TMPDIR": str(self.temporary), "WHET_HOSTILE_MARK": self.mark}
        self.process = subprocess.Popen(
            [*command, *out], cwd=self.work, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
            text=True, **settings,
        )  # fmt: skip

    def wait_until_inside(self):
        end = time.monotonic() + 60 * PATIENCE
        while not (self.work / "started").exists():
            assert self.process.poll() is None, self.process.communicate()
            assert time.monotonic() < end, "the user's code was never called"
            time.sleep(0.05)

    def end(self):
        """Return the exit code and what was printed on standard error."""
        _, err = self.process.communicate(timeout=30 * PATIENCE)
        return self.process.returncode, err

    def left(self, seconds=1.0):
        """Return the processes that are still there after so long, and what lies in the temporary folder."""
        end = time.monotonic() + seconds * PATIENCE
        while (found := [item for item in psutil.process_iter() if self._is_ours(item)]) and time.monotonic() < end:
            time.sleep(0.05)
        for item in found:
            item.kill()
        return [item.pid for item in found], list(self.temporary.iterdir())

    def _is_ours(self, process):
        try:
            alive = process.status() != psutil.STATUS_ZOMBIE
            return alive and process.environ().get("WHET_HOSTILE_MARK") == self.mark
        except (psutil.Error, OSError):
            return False


@pytest.mark.parametrize(
    ("verb", "number", "code"),
    [
        ("evaluate", signal.SIGTERM, 143), ("bench", signal.SIGTERM, 143), ("profile", signal.SIGTERM, 143),
        ("optimize", signal.SIGTERM, 143), ("evaluate", signal.SIGHUP, 129), ("optimize", signal.SIGINT, 130),
    ],
)  # fmt: skip
def test_a_signal_unwinds_a_command_whole(inputs, tmp_path, verb, number, code):
    started = Started(inputs, tmp_path, verb)
    started.wait_until_inside()
    started.process.send_signal(number)
    found, err = started.end()
    assert found == code, err
    assert err.count("\n") == 1
    assert err.startswith("interrupted; ")
    assert started.left() == ([], [])


def test_signals_in_a_row_leave_nothing_either(inputs, tmp_path):
    started = Started(inputs, tmp_path)
    started.wait_until_inside()
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        started.process.send_signal(number)
        time.sleep(0.01)
    found, err = started.end()
    assert (found in (130, 143), err.count("\n")) == (True, 1), err
    assert started.left() == ([], [])


@pytest.mark.parametrize("seconds", [0.4, 0.8, 1.6])
def test_ctrl_c_at_any_moment_is_one_line(inputs, tmp_path, seconds):
    started = Started(inputs, tmp_path)
    time.sleep(seconds)
    end = time.monotonic() + 60
    while not list(started.temporary.iterdir()) and time.monotonic() < end:  # the interpreter has started by then
        time.sleep(0.02)
    started.process.send_signal(signal.SIGINT)
    found, err = started.end()
    assert found == 130, err
    assert err.count("\n") == 1
    assert started.left() == ([], [])


def test_a_hangup_that_is_ignored_stays_ignored(inputs, tmp_path):
    started = Started(inputs, tmp_path, preexec_fn=lambda: signal.signal(signal.SIGHUP, signal.SIG_IGN))
    started.wait_until_inside()
    started.process.send_signal(signal.SIGHUP)
    time.sleep(0.5)
    assert started.process.poll() is None
    started.process.send_signal(signal.SIGTERM)
    assert started.end()[0] == 143


@pytest.mark.parametrize("function", ["data", "holds_the_lock"])
def test_a_killed_command_takes_its_children_along_and_the_next_one_its_folders(inputs, tmp_path, function):
    started = Started(inputs, tmp_path, function=function)
    started.wait_until_inside()
    started.process.kill()
    started.process.communicate()
    processes, folders = started.left()
    assert processes == []
    assert [path.name.startswith(f"whet-{started.process.pid}-") for path in folders] == [True]
    others = tmp_path / "tmp" / "whet-somebody-else"
    others.mkdir()
    next_one = Started(inputs, tmp_path, function="absent")
    assert next_one.end()[0] == 2
    assert list((tmp_path / "tmp").iterdir()) == [others]


def test_nobody_who_reads_the_output_is_no_mistake(inputs, tmp_path):
    command = f"{sys.executable} -m whet evaluate {inputs['good.onnx']} --data {inputs['good.npz']} --json"
    script = f"{command} | true; echo ${{PIPESTATUS[0]}}"
    done = subprocess.run(["bash", "-c", script], capture_output=True, text=True, timeout=120, check=False)
    assert done.stdout == "141\n"
    assert "Traceback" not in done.stderr
    assert "BrokenPipe" not in done.stderr
