"""What travels by value to a child process: the code, and where it was written."""

import os
import pickle
import subprocess
import sys
import traceback
from types import CodeType

import cloudpickle
import pytest

from whet import pickling

SCRIPT = """
from whet import pickling

class Model:
    def forward(self, x):
        inner = lambda: 1 / x
        return inner()

import sys
sys.stdout.buffer.write(pickling.dumps(Model()))
"""
FAILING = """
import pickle, sys, traceback
model = pickle.loads(sys.stdin.buffer.read())
try:
    model.forward(0)
except ZeroDivisionError as error:
    for frame in traceback.extract_tb(error.__traceback__):
        print(frame.filename, frame.lineno)
"""


@pytest.mark.parametrize("place", ["script.py", "whet/model.py", "with space.py"])
def test_an_error_in_a_class_of_a_script_says_in_another_process_where_it_was_raised(tmp_path, place):
    path = tmp_path / place
    path.parent.mkdir(exist_ok=True)
    path.write_text(SCRIPT)
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    options = {"capture_output": True, "env": environment, "timeout": 60}
    sent = subprocess.run([sys.executable, path], check=True, **options)
    done = subprocess.run([sys.executable, "-c", FAILING], input=sent.stdout, check=True, **options)
    assert done.stdout.decode().splitlines()[1:] == [f"{path} 7", f"{path} 6"]


def test_a_file_name_travels_however_cloudpickle_makes_code_again(monkeypatch):
    """As 3.1.3 does it, which has the same name for all code."""
    made = cloudpickle.Pickler.dispatch_table[CodeType]
    monkeypatch.setitem(
        cloudpickle.Pickler.dispatch_table, CodeType, lambda code: made(code.replace(co_filename="<dynamic-code>"))
    )

    def fails():
        raise ValueError("here")

    with pytest.raises(ValueError, match="here") as caught:
        pickle.loads(pickling.dumps(fails))()
    assert traceback.extract_tb(caught.value.__traceback__)[-1].filename == __file__


def test_what_cannot_be_pickled_is_an_error():
    with pytest.raises(TypeError, match="cannot pickle"):
        pickling.dumps(value for value in range(3))
