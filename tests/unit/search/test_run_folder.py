"""RUN: one command's, one process's."""

import json
import subprocess
import sys

import pytest

from whet.errors import RunFolderError, StorageError
from whet.search.run_folder import forget
from whet.search.run_folder import lock_run_folder as locked
from whet.storage import mark

COMMAND = {"model": "net.onnx", "batch_sizes": (1, 32), "budget": {"max_drop": 0.01}, "within": None}


def test_a_new_folder_is_made_and_remembers_the_command(tmp_path):
    with locked(tmp_path / "deep" / "run", COMMAND) as folder:
        assert folder == tmp_path / "deep" / "run"
        assert json.loads((folder / "run.json").read_text())["model"] == "net.onnx"


def test_the_same_command_finds_its_earlier_work_again(tmp_path):
    with locked(tmp_path, COMMAND) as folder:
        (folder / "work.txt").write_text("half done")
    with locked(tmp_path, {**COMMAND, "batch_sizes": [1, 32]}) as folder:  # a tuple and a list are the same in JSON
        assert (folder / "work.txt").read_text() == "half done"


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"model": "other.onnx"}, r'model: "net\.onnx" then, "other\.onnx" now'),
        ({"budget": {"max_drop": 0.02}}, r'budget: \{"max_drop": 0\.01\} then, \{"max_drop": 0\.02\} now'),
        ({"seed": 3}, "seed: null then, 3 now"),
        ({"model": "x" * 200}, r'model: "net\.onnx" then, "x+\.\.\. now'),
    ],
)
def test_another_command_is_refused_with_what_differs(tmp_path, change, told):
    with locked(tmp_path, COMMAND):
        pass
    with pytest.raises(RunFolderError, match=told) as caught, locked(tmp_path, {**COMMAND, **change}):
        pass
    assert "choose another --out" in str(caught.value)
    assert len(str(caught.value)) < 300 + len(str(tmp_path))


def test_a_folder_of_someone_elses_is_refused_and_left_alone(tmp_path):
    (tmp_path / "thesis.tex").write_text("years of work")
    with (
        pytest.raises(RunFolderError, match="not empty and not of whet's making"),
        locked(tmp_path, COMMAND),
    ):
        pass
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


@pytest.mark.parametrize("content", ["[1, 2]", "{", '"text"', ""])
def test_a_run_json_of_someone_elses_is_refused_and_left_alone(tmp_path, content):
    (tmp_path / "run.json").write_text(content)
    with pytest.raises(RunFolderError, match="choose another --out"), locked(tmp_path, COMMAND):
        pass
    assert (tmp_path / "run.json").read_text() == content


def test_an_empty_folder_and_one_with_only_a_lock_are_taken(tmp_path):
    (tmp_path / ".lock").touch()
    with locked(tmp_path, COMMAND):
        assert (tmp_path / "run.json").exists()


def test_a_file_in_the_folders_place_is_refused(tmp_path):
    (tmp_path / "run").write_text("")
    with (
        pytest.raises(RunFolderError, match="run is a file; choose another --out"),
        locked(tmp_path / "run", COMMAND),
    ):
        pass


def test_a_place_below_a_file_is_refused(tmp_path):
    (tmp_path / "file").write_text("")
    with (
        pytest.raises(StorageError, match="choose another folder"),
        locked(tmp_path / "file" / "run", COMMAND),
    ):
        pass


def test_two_processes_cannot_hold_a_folder_at_once(tmp_path):
    other = (
        "import sys, pathlib; from whet.search.run_folder import lock_run_folder as locked\n"
        "with locked(pathlib.Path(sys.argv[1]), {'model': 'net.onnx'}):\n"
        "    print('held', flush=True); sys.stdin.read()\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", other, tmp_path], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout.readline() == "held\n"
        with (
            pytest.raises(RunFolderError, match="another whet is at work"),
            locked(tmp_path, {"model": "net.onnx"}),
        ):
            pass
        process.kill()  # the lock dies with it
    with locked(tmp_path, {"model": "net.onnx"}) as folder:
        assert folder.exists()


def test_the_folder_is_free_again_after_a_failure(tmp_path):
    with pytest.raises(ZeroDivisionError), locked(tmp_path, COMMAND):
        raise ZeroDivisionError
    with locked(tmp_path, COMMAND) as folder:
        assert folder == tmp_path


def test_nothing_is_forgotten_in_a_folder_without_a_marker_or_with_results(tmp_path):
    (tmp_path / "run.json").write_text("{}")
    (tmp_path / "logs").mkdir()
    assert not forget(tmp_path)
    mark(tmp_path, "run")
    (tmp_path / "original.json").write_text("{}")
    assert not forget(tmp_path)
    (tmp_path / "original.json").unlink()
    (tmp_path / "notes.txt").write_text("mine")
    assert forget(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {"notes.txt", ".whet", ".lock"}
