"""Nothing is reported to anybody: a search, its measuring and its bundle look nothing up and write nowhere else.

A library in C that the processes preload records each look-up and each connection to another machine and refuses
it, whoever asks; the commands run with empty home and temporary folders, which have to be empty afterwards.
"""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

RECORDER = r"""
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <netdb.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

static void record(const char *what, const char *name) {
    char line[512];
    int length = snprintf(line, sizeof line, "%s %s\n", what, name ? name : "");
    int file = open(getenv("RECORDED"), O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0644);
    if (file >= 0) { if (write(file, line, length) < 0) {} close(file); }
}
int getaddrinfo(const char *node, const char *service, const struct addrinfo *hints, struct addrinfo **found) {
    record("getaddrinfo", node);
    return EAI_FAIL;
}
struct hostent *gethostbyname(const char *name) { record("gethostbyname", name); return NULL; }
int connect(int fd, const struct sockaddr *address, socklen_t length) {
    if (address->sa_family == AF_INET || address->sa_family == AF_INET6) {
        record("connect", "");
        errno = ENETUNREACH;
        return -1;
    }
    int (*real)(int, const struct sockaddr *, socklen_t) = dlsym(RTLD_NEXT, "connect");
    return real(fd, address, length);
}
ssize_t sendto(int fd, const void *data, size_t size, int flags, const struct sockaddr *to, socklen_t length) {
    if (to && (to->sa_family == AF_INET || to->sa_family == AF_INET6)) {
        record("sendto", "");
        errno = ENETUNREACH;
        return -1;
    }
    ssize_t (*real)(int, const void *, size_t, int, const struct sockaddr *, socklen_t);
    real = dlsym(RTLD_NEXT, "sendto");
    return real(fd, data, size, flags, to, length);
}
"""
FACTORY = """
import torch

def build():
    torch.manual_seed(0)
    return torch.nn.Sequential(torch.nn.Linear(6, 32), torch.nn.ReLU(), torch.nn.Linear(32, 3))
"""
SEARCH = (
    "--data", "rows.npz", "--out", "run", "--batch-sizes", "1", "--max-drop", "0.5", "--min-speedup", "0.01",
    "--recipe", "dynamic-int8",
)  # fmt: skip


@pytest.fixture(scope="module")
def recorder(tmp_path_factory):
    """The library that records what is looked up and connected to, built with the compiler of the machine."""
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        pytest.skip("no C compiler")
    folder = tmp_path_factory.mktemp("recorder")
    (folder / "recorder.c").write_text(RECORDER)
    command = [compiler, "-shared", "-fPIC", "-O1", "-o", "recorder.so", "recorder.c", "-ldl"]
    subprocess.run(command, cwd=folder, check=True)
    return folder / "recorder.so"


class Place:
    """A folder in which commands run, and what they did outside of it."""

    def __init__(self, folder, recorder):
        self.work, self.home, self.temporary = folder / "work", folder / "home", folder / "tmp"
        self.recorded = folder / "recorded.txt"
        for each in (self.work, self.home, self.temporary):
            each.mkdir()
        kept = {name: value for name, value in os.environ.items() if name in ("PATH", "PYTHONPATH")}
        self.environment = {
            **kept, "HOME": str(self.home), "TMPDIR": str(self.temporary), "LD_PRELOAD": str(recorder),
            "RECORDED": str(self.recorded), "PYTHONDONTWRITEBYTECODE": "1",
        }  # fmt: skip

    def run(self, *arguments, cwd="."):
        command = [sys.executable, *map(str, arguments)]
        done = subprocess.run(
            command, cwd=self.work / cwd, env=self.environment, capture_output=True, text=True, timeout=500,
            check=False,
        )  # fmt: skip
        assert done.returncode in (0, 1, 3), done.stdout + done.stderr
        return done

    def traces(self):
        """Return what was looked up or connected to, and what lies in the home and the temporary folder."""
        asked = self.recorded.read_text().splitlines() if self.recorded.exists() else []
        return asked + [str(path) for top in (self.home, self.temporary) for path in sorted(top.rglob("*"))]


@pytest.fixture
def place(tmp_path, recorder):
    return Place(tmp_path, recorder)


def write_rows(folder):
    draw = np.random.default_rng(0)
    x, weights = draw.normal(size=(400, 6)).astype(np.float32), draw.normal(size=(6, 3))
    y = (x @ weights).argmax(axis=1)
    np.savez(folder / "rows.npz", x_train=x[:200], y_train=y[:200], x_test=x[200:], y_test=y[200:])


def write_model(path):
    import onnx
    from onnx import TensorProto, helper

    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", 6]) for name in ("row", "answer")]
    graph = helper.make_graph([helper.make_node("Relu", ["row"], ["answer"])], "rows", ends[:1], ends[1:])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)


def test_the_recorder_sees_what_python_and_a_library_look_up(place):
    script = (
        "import socket\n"
        "for ask in (socket.getaddrinfo, lambda *place: socket.create_connection(place)):\n"
        "    try: ask('example.org', 80)\n"
        "    except OSError: pass\n"
        "socket.socket(socket.AF_INET, socket.SOCK_DGRAM).connect_ex(('1.2.3.4', 53))\n"
    )
    place.run("-c", script)
    assert place.traces() == ["getaddrinfo example.org", "getaddrinfo example.org", "connect "]


def test_onnx_runtime_alone_would_leave_traces(place):
    """If this fails, the runtime no longer reports by itself, and the tests below show less than they seem to."""
    place.run("-c", "import onnxruntime")
    assert any("onnxruntime" in trace for trace in place.traces())


@pytest.mark.slow
def test_a_search_its_measuring_and_its_bundle_leave_no_trace(place):
    write_rows(place.work)
    (place.work / "model.py").write_text(FACTORY)
    before = {path.name for path in place.work.iterdir()}
    place.run("-m", "whet", "optimize", "model.py:build", *SEARCH)
    place.run("-m", "whet", "report", "run")
    place.run("-m", "whet", "verify", "run/bundle")
    place.run("-m", "whet", "bench", "run/bundle", "run/baseline", "--batch-sizes", "1")
    place.run("-m", "whet", "compare", "run/baseline", "run/bundle", "--data", "rows.npz", "--batch-sizes", "1")
    place.run("-m", "whet", "profile", "run/bundle")
    assert {path.name for path in place.work.iterdir()} - before <= {"run"}
    assert place.traces() == []


def test_a_bench_leaves_no_trace(place):
    write_model(place.work / "model.onnx")
    place.run("-m", "whet", "bench", "model.onnx", "--batch-sizes", "1")
    assert place.traces() == []


def test_a_session_that_stays_open_reports_nothing(place):
    """The runtime would send what it gathered seconds after it was imported."""
    script = "import time, whet, onnxruntime; time.sleep(6)"
    place.run("-c", script)
    assert place.traces() == []


def test_variables_that_the_user_set_stay_unless_they_are_about_reports(tmp_path, monkeypatch):
    from whet.environment import moved_caches

    for name in ("XDG_CONFIG_HOME", "XDG_CACHE_HOME", "MPLCONFIGDIR", "KERAS_HOME", "TRITON_CACHE_DIR"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert moved_caches(Path("/t"))["MPLCONFIGDIR"] == "/t/mplconfigdir"
    assert moved_caches(Path("/t"))["KERAS_HOME"] == "/t/keras_home"
    monkeypatch.setenv("MPLCONFIGDIR", "/mine")
    (tmp_path / ".keras").mkdir()
    assert not {"MPLCONFIGDIR", "KERAS_HOME"} & set(moved_caches(Path("/t")))
    monkeypatch.delenv("MPLCONFIGDIR")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "elsewhere"))
    (tmp_path / "elsewhere" / "matplotlib").mkdir(parents=True)
    assert "MPLCONFIGDIR" not in moved_caches(Path("/t"))


def test_reports_stay_off_whatever_the_user_set():
    script = "import json, os; import whet; print(json.dumps(dict(os.environ)))"
    asked = {**os.environ, "ORT_DISABLE_TELEMETRY": "0"}
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, env=asked)
    found = json.loads(done.stdout)
    assert {found[name] for name in ("ORT_DISABLE_TELEMETRY", "HF_HUB_DISABLE_TELEMETRY", "DO_NOT_TRACK")} == {"1"}
