"""Progress in a notebook: one line of plain text, updated in place."""

import sys
from types import ModuleType

import pytest

from whet import progress
from whet.progress import Event


class Handle:
    def __init__(self, shown):
        self.shown = shown

    def update(self, content, raw):
        assert raw
        self.shown.append(content)


@pytest.fixture
def shown(monkeypatch):
    """What a notebook was given to display, update by update; there is one display alone."""
    found, begun = [], []

    def display(content, raw, display_id):
        assert (raw, display_id, begun) == (True, True, [])
        begun.append(True)
        found.append(content)
        return Handle(found)

    class ZMQInteractiveShell:
        pass

    package, module = ModuleType("IPython"), ModuleType("IPython.display")
    package.get_ipython, module.display = ZMQInteractiveShell, display
    monkeypatch.setitem(sys.modules, "IPython", package)
    monkeypatch.setitem(sys.modules, "IPython.display", module)
    return found


def test_without_a_notebook_nothing_is_shown(monkeypatch):
    monkeypatch.delitem(sys.modules, "IPython", raising=False)
    assert progress.usual() is progress.silent


def test_a_notebook_gets_one_line_that_is_updated(shown):
    line = progress.usual()
    for event in (
        Event("open the model"),
        Event("candidates", 1, 4, "static-int8"),
        Event("static-int8: calibrate", 0, 512),
        Event("static-int8: calibrate", 64, 512),
        Event("candidates", 0, 0, "prove static-int8"),
    ):
        line(event)
    assert [content["text/plain"] for content in shown] == [
        "open the model",
        "[2/4] static-int8",
        "[2/4] static-int8 | static-int8: calibrate 0/512",
        "prove static-int8",
    ]
    assert all(set(content) == {"text/plain"} and "\x1b" not in content["text/plain"] for content in shown)


def test_a_stage_is_updated_as_time_goes_by(shown, monkeypatch):
    clock = iter([0.0, 0.1, 0.3, 0.3])
    monkeypatch.setattr(progress.time, "monotonic", lambda: next(clock))
    line = progress.NotebookLine()
    for done in (0, 1, 2):
        line(Event("evaluate", done, 3))
    assert [content["text/plain"] for content in shown] == ["evaluate 0/3", "evaluate 2/3"]
