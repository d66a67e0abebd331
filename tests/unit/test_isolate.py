"""Child processes: what they answer, how they die, and that nothing of them stays behind.

The functions that run in a child are defined inside the tests: so they travel by value, as a notebook's do.
"""

import os
import signal
import subprocess
import sys
import time
from types import SimpleNamespace

import psutil
import pytest

from whet import errors, isolate
from whet.errors import ChildCrashed, MemoryLimit, TimeLimit
from whet.isolate import Limits
from whet.progress import Event

PATIENCE = Limits(seconds=60)  # so that a test that would hang fails instead


def gone(pid: int, within: float = 10.0) -> bool:
    """Tell whether a process has ended (a zombie has; its parent may never ask)."""
    end = time.monotonic() + within
    while time.monotonic() < end:
        try:
            if psutil.Process(pid).status() == psutil.STATUS_ZOMBIE:
                return True
        except psutil.NoSuchProcess:
            return True
        time.sleep(0.02)
    return False


def test_a_call_answers_from_another_process_with_its_own_threads_and_tells_events_on_the_way():
    def work(a, b, on_event):
        for at in range(3):
            on_event(Event("count", at, 3))
        return {"sum": a + b, "pid": os.getpid(), "threads": os.environ["OMP_NUM_THREADS"]}

    told = []
    found = isolate.call(work, 2, 3, threads=7, limits=PATIENCE, on_event=told.append)
    assert found["sum"] == 5
    assert found["pid"] != os.getpid()
    assert found["threads"] == "7"
    assert told == [Event("count", at, 3) for at in range(3)]
    assert gone(found["pid"])


def test_an_error_of_whets_own_is_raised_again_as_what_it_was():
    def work(on_event):
        raise errors.WeightsMismatch("fc.weight is missing")

    with pytest.raises(errors.WeightsMismatch, match=r"^fc\.weight is missing$"):
        isolate.call(work, limits=PATIENCE)


@pytest.mark.parametrize(
    "kind",
    [kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, errors.WhetError)],
)
def test_every_error_of_whets_own_is_revived_as_what_it_was(kind):
    revived = isolate._revive(isolate._record(kind("a message")), None)
    assert type(revived) is kind
    assert str(revived) == "a message"


def test_a_foreign_error_is_a_crash_whose_traceback_is_in_the_log(tmp_path):
    def work(on_event):
        print("about to fail")
        return {}["missing"]

    log = tmp_path / "child.log"
    with pytest.raises(ChildCrashed, match=r"^KeyError: 'missing' \(traceback in .*child\.log\)") as caught:
        isolate.call(work, limits=PATIENCE, log=log)
    text = log.read_text()
    assert "Traceback (most recent call last)" in text
    assert 'return {}["missing"]' in text
    assert "about to fail" in text
    assert "KeyError" in caught.value.__notes__[0]


def test_a_foreign_error_of_the_same_name_as_one_of_whets_is_not_taken_for_it():
    foreign = type("DataError", (Exception,), {"__module__": "pandas.errors"})
    revived = isolate._revive(isolate._record(foreign("No numeric types to aggregate")), None)
    assert type(revived) is ChildCrashed
    assert str(revived).startswith("pandas.errors.DataError: No numeric types")


def test_a_child_without_memory_left_ran_into_its_limit():
    revived = isolate._revive(isolate._record(MemoryError()), None)
    assert type(revived) is MemoryLimit
    assert str(revived) == "ran out of memory"


def test_an_answer_that_cannot_travel_is_a_crash_that_says_so():
    def work(on_event):
        return (at for at in range(3))

    with pytest.raises(ChildCrashed, match=r"TypeError: cannot pickle 'generator' object"):
        isolate.call(work, limits=PATIENCE)


def test_a_segfault_is_named_with_where_the_last_words_are(tmp_path):
    def work(on_event):
        os.kill(os.getpid(), signal.SIGSEGV)

    with pytest.raises(ChildCrashed, match=r"^died of SIGSEGV; its last output is in .*child\.log$"):
        isolate.call(work, limits=PATIENCE, log=tmp_path / "child.log")


def test_an_exit_without_an_answer_is_named_with_its_code():
    def work(on_event):
        os._exit(3)

    with pytest.raises(ChildCrashed, match=r"^left with exit code 3 without an answer$"):
        isolate.call(work, limits=PATIENCE)


def test_a_child_that_dies_while_its_own_forks_hold_the_pipe_is_not_waited_for():
    def work(on_event):
        fork = os.fork()
        if fork == 0:
            time.sleep(60)
        on_event(Event(str(fork)))
        os.kill(os.getpid(), signal.SIGSEGV)

    told = []
    with pytest.raises(ChildCrashed, match="SIGSEGV"):
        isolate.call(work, limits=PATIENCE, on_event=told.append)
    assert gone(int(told[0].stage))


def test_the_time_limit_ends_the_child_and_all_that_it_started(monkeypatch):
    """The clock leaps once the child is known to be at work, so that a slow machine changes nothing."""

    def work(on_event):
        started = subprocess.Popen(["sleep", "60"])
        on_event(Event(f"{os.getpid()} {started.pid}"))
        time.sleep(60)

    def leap(event):
        told.append(event)
        monkeypatch.setattr(isolate, "time", SimpleNamespace(monotonic=lambda: time.monotonic() + 3600))

    told = []
    with pytest.raises(TimeLimit, match=r"^took longer than its limit of 60 s$"):
        isolate.call(work, limits=PATIENCE, on_event=leap)
    assert all(gone(int(pid)) for pid in told[0].stage.split())


def test_a_time_limit_of_less_than_a_second_is_told_as_it_is():
    def work(on_event):
        time.sleep(60)

    with pytest.raises(TimeLimit, match=r"^took longer than its limit of 0\.05 s$"):
        isolate.call(work, limits=Limits(seconds=0.05))


def test_the_memory_limit_counts_what_the_child_started_too(monkeypatch):
    monkeypatch.setattr(isolate, "_MEMORY_POLL_SECONDS", 0.05)

    def work(on_event):
        waste = "waste = b'x' * 150_000_000; import time; time.sleep(60)"
        started = subprocess.Popen([sys.executable, "-c", waste])
        on_event(Event(f"{os.getpid()} {started.pid}"))
        time.sleep(60)

    told = []
    with pytest.raises(MemoryLimit, match=r"used 1\d\d MiB of memory, its limit is 100 MiB"):
        isolate.call(work, limits=Limits(seconds=60, memory_bytes=100 * 2**20), on_event=told.append)
    assert all(gone(int(pid)) for pid in told[0].stage.split())


def test_what_interrupts_the_parent_ends_the_child():
    def work(on_event):
        on_event(Event(str(os.getpid())))
        time.sleep(60)

    def interrupt(event):
        told.append(event)
        raise KeyboardInterrupt

    told = []
    with pytest.raises(KeyboardInterrupt):
        isolate.call(work, limits=PATIENCE, on_event=interrupt)
    assert gone(int(told[0].stage))


def test_fifty_megabytes_travel_both_ways():
    def work(block, on_event):
        return block + b"back"

    block = os.urandom(1_000_000) * 50
    assert isolate.call(work, block, limits=PATIENCE) == block + b"back"


SCRIPT = """
import os, sys, time
from whet import isolate
import beside  # found by the script's own folder on sys.path, and by nothing else

class Model:
    def __init__(self, weight):
        self.weight = weight

def double(model, on_event):
    return Model(beside.twice(model.weight))

def linger(on_event):
    print(os.getpid(), flush=True)
    time.sleep(60)

if len(sys.argv) > 1:
    isolate.call(linger, log=sys.argv[1])
else:
    found = isolate.call(double, Model(21))
    print(type(found) is Model, found.weight, isolate.call(beside.answer))
"""
BESIDE = "def twice(number):\n    return 2 * number\n\n\ndef answer(on_event):\n    return 'beside'\n"


@pytest.fixture
def script(tmp_path):
    (tmp_path / "code").mkdir()
    (tmp_path / "code" / "beside.py").write_text(BESIDE)
    path = tmp_path / "code" / "script.py"
    path.write_text(SCRIPT)
    return path


def test_a_class_of_main_and_a_module_beside_the_script_travel_from_any_folder(script, tmp_path):
    found = subprocess.run([sys.executable, script], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert found.stdout == "True 42 beside\n", found.stderr


def test_a_child_dies_with_its_killed_parent(script, tmp_path):
    log = tmp_path / "child.log"
    log.touch()
    with subprocess.Popen([sys.executable, script, log], cwd=tmp_path) as parent:
        end = time.monotonic() + 30
        while not log.read_text().endswith("\n"):
            assert time.monotonic() < end, "the child never began"
            time.sleep(0.02)
        parent.kill()
    assert gone(int(log.read_text()))
