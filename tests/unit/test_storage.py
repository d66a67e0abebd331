"""Files: whole or not at all, hashed, locked. The system's refusals are real where root can be refused."""

import errno
import hashlib
import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from whet import storage
from whet.errors import RunFolderError, StorageError
from whet.storage import files_below, lock, make_folder, new_folder, sha256, storage_errors, write_bytes, write_text


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_a_file_is_written_with_its_folders(tmp_path):
    write_text(tmp_path / "a" / "b" / "c.txt", "é\n")
    assert (tmp_path / "a" / "b" / "c.txt").read_bytes() == b"\xc3\xa9\n"
    write_bytes(tmp_path / "a" / "b" / "c.txt", b"new")
    assert (tmp_path / "a" / "b" / "c.txt").read_bytes() == b"new"
    assert names(tmp_path / "a" / "b") == ["c.txt"]


@pytest.mark.parametrize(("mask", "mode"), [(0o022, 0o644), (0o077, 0o600), (0o002, 0o664)])
def test_a_file_gets_the_permissions_that_the_umask_leaves(tmp_path, mask, mode):
    before = os.umask(mask)
    try:
        write_bytes(tmp_path / "a", b"")
        assert os.umask(mask) == mask, "and the umask is as it was"
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "a").stat().st_mode) == mode


def failing(number):
    def fail(*args, **kwargs):
        raise OSError(number, os.strerror(number))

    return fail


@pytest.mark.parametrize("call", ["fsync", "replace"])
@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EIO])
def test_a_write_that_fails_leaves_the_old_file_and_nothing_else(tmp_path, monkeypatch, call, number):
    path = tmp_path / "a"
    path.write_bytes(b"old")
    monkeypatch.setattr(*((os, "fsync") if call == "fsync" else (Path, "replace")), failing(number))
    with pytest.raises(StorageError if number == errno.ENOSPC else OSError):
        write_bytes(path, b"new")
    monkeypatch.undo()
    assert path.read_bytes() == b"old"
    assert names(tmp_path) == ["a"]


def test_an_interrupted_write_leaves_the_old_file_and_nothing_else(tmp_path, monkeypatch):
    def interrupt(*args):
        raise KeyboardInterrupt

    path = tmp_path / "a"
    path.write_bytes(b"old")
    monkeypatch.setattr(os, "fsync", interrupt)
    with pytest.raises(KeyboardInterrupt):
        write_bytes(path, b"new")
    assert path.read_bytes() == b"old"
    assert names(tmp_path) == ["a"]


LIMITED = """
import resource, sys
from pathlib import Path
from whet.errors import StorageError
from whet.storage import new_folder, write_bytes
resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
folder = Path(sys.argv[1])
try:
    write_bytes(folder / "file", bytes(2000))
except StorageError as error:
    print(error)
try:
    with new_folder(folder / "new") as work:
        (work / "small").write_bytes(bytes(10))
        (work / "large").write_bytes(bytes(2000))
except StorageError as error:
    print(error)
"""


def test_a_system_that_gives_no_more_room_is_told_in_one_line(tmp_path):
    done = subprocess.run([sys.executable, "-c", LIMITED, tmp_path], capture_output=True, text=True, check=True)
    told = "no room left to write {}; free some space and run the same command again: it resumes"
    assert done.stdout.splitlines() == [told.format(tmp_path / "file"), told.format(tmp_path / "new")]
    assert names(tmp_path) == []


@pytest.mark.parametrize(
    ("number", "told"),
    [
        (errno.ENOSPC, "no room left to write there; free some space"),
        (errno.EDQUOT, "no room left to write there"),
        (errno.EROFS, r"cannot write there \(read-only file system\); choose another folder"),
        (errno.EACCES, r"cannot write there \(permission denied\); choose another folder"),
        (errno.EPERM, r"cannot write there \(operation not permitted\)"),
        (errno.ENOLCK, r"cannot write there \(no locks available\)"),
    ],
)
def test_refusals_of_the_system_are_told_with_a_cure(number, told):
    with pytest.raises(StorageError, match=told) as caught, storage_errors(Path("there")):
        failing(number)()
    assert caught.value.__cause__.errno == number


@pytest.mark.parametrize("error", [OSError(errno.EIO, "broken disk"), OSError("no number"), KeyError("ours")])
def test_other_errors_are_left_as_they_are(error):
    with pytest.raises(type(error)) as caught, storage_errors(Path("there")):
        raise error
    assert caught.value is error


@pytest.mark.parametrize(
    ("place", "told"),
    [("file", "file exists"), ("file/below", "not a directory"), ("n" * 300, "file name too long")],
)
def test_a_folder_that_cannot_be_made_is_a_storage_error(tmp_path, place, told):
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(StorageError, match=rf"cannot write .* \({told}\); choose another folder"):
        make_folder(tmp_path / place)


@pytest.mark.parametrize(
    ("place", "told"), [("folder", "is a directory"), ("file/below", "not a directory|file exists")]
)
def test_a_file_that_cannot_be_written_is_a_storage_error(tmp_path, place, told):
    (tmp_path / "file").write_bytes(b"")
    (tmp_path / "folder").mkdir()
    with pytest.raises(StorageError, match=rf"cannot write .* \(({told})\)"):
        write_bytes(tmp_path / place, b"")
    assert names(tmp_path) == ["file", "folder"]


def test_a_folder_that_refuses_files_is_found_out_when_it_is_made(tmp_path, monkeypatch):
    monkeypatch.setattr(Path, "touch", failing(errno.EROFS))
    with pytest.raises(StorageError, match="read-only file system"):
        make_folder(tmp_path / "a")


def test_a_folder_is_made_with_its_parents_and_left_empty(tmp_path):
    path = make_folder(tmp_path / "a" / "b")
    assert make_folder(path) == path
    assert names(path) == []


@pytest.fixture
def old(tmp_path):
    path = tmp_path / "bundle"
    path.mkdir()
    (path / "old").write_text("old")
    return path


def test_a_new_folder_takes_the_place_of_the_old_one(old):
    with new_folder(old) as work:
        assert names(work) == []
        (work / "new").write_text("new")
        assert names(old) == ["old"], "the old one is there until the block is left"
    assert names(old) == ["new"]
    assert names(old.parent) == ["bundle"]
    assert stat.S_IMODE(old.stat().st_mode) == 0o755


def test_a_new_folder_may_be_where_none_was(tmp_path):
    with new_folder(tmp_path / "a" / "b") as work:
        (work / "new").write_text("new")
    assert names(tmp_path / "a") == ["b"]
    assert names(tmp_path / "a" / "b") == ["new"]


def fill(folder, error):
    (folder / "new").write_text("new")
    raise error


@pytest.mark.parametrize("error", [ValueError("ours"), KeyboardInterrupt(), OSError(errno.ENOSPC, "full")])
def test_an_exception_inside_leaves_the_old_folder_and_nothing_else(old, error):
    with pytest.raises(StorageError if isinstance(error, OSError) else type(error)), new_folder(old) as work:
        fill(work, error)
    assert names(old) == ["old"]
    assert names(old.parent) == ["bundle"]


def test_a_folder_that_cannot_be_put_in_place_leaves_the_old_one_there(old, monkeypatch):
    real = Path.replace

    def replace(self, target):
        if Path(target) == old and "-old_" not in self.name:
            raise OSError(errno.EACCES, "in use")
        return real(self, target)

    monkeypatch.setattr(Path, "replace", replace)
    with pytest.raises(StorageError, match="permission denied"), new_folder(old) as work:
        (work / "new").write_text("new")
    assert names(old) == ["old"]
    assert names(old.parent) == ["bundle"]


def test_a_hash_is_hashlibs_and_files_are_found_below(tmp_path):
    write_bytes(tmp_path / "b" / "deep" / "x", b"content")
    write_bytes(tmp_path / "a", b"")
    (tmp_path / "empty").mkdir()
    assert sha256(tmp_path / "b" / "deep" / "x") == hashlib.sha256(b"content").hexdigest()
    assert [path.relative_to(tmp_path).as_posix() for path in files_below(tmp_path)] == ["a", "b/deep/x"]


HOLD = """
import sys
from pathlib import Path
from whet.errors import RunFolderError
from whet.storage import lock
try:
    with lock(Path(sys.argv[1])):
        print("held", flush=True)
        sys.stdin.read()
except RunFolderError as error:
    print(error)
"""


def test_a_lock_keeps_other_processes_out_until_its_holder_dies(tmp_path):
    folder = tmp_path / "run"
    command = [sys.executable, "-c", HOLD, folder]
    told = f"another whet is at work in {folder}; wait for it, or choose another --out"
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout.readline() == "held\n"
        with pytest.raises(RunFolderError) as caught, lock(folder):
            pass
        assert str(caught.value) == told
        holder.kill()
    with lock(folder):
        other = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=True)
        assert other.stdout.strip() == told
    with lock(folder):
        assert (folder / ".lock").exists()


def test_a_file_system_without_locks_is_no_other_whet(tmp_path, monkeypatch):
    monkeypatch.setattr("fcntl.flock", failing(errno.ENOLCK))
    with pytest.raises(StorageError, match="no locks available"), lock(tmp_path):
        pass


def test_an_error_under_a_lock_is_passed_on_and_frees_it(tmp_path):
    with pytest.raises(OSError, match="ours") as caught, lock(tmp_path):
        raise OSError(errno.EACCES, "ours")
    assert not isinstance(caught.value, StorageError)
    with lock(tmp_path):
        assert storage.files_below(tmp_path) == [tmp_path / ".lock"]
