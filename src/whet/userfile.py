"""A user's own Python: ``file.py:function``, imported once and called without arguments."""

from __future__ import annotations

import ast
import hashlib
import importlib.util
import inspect
import os
import site
import sys
import sysconfig
import traceback
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from importlib.abc import Loader
from pathlib import Path
from types import ModuleType
from typing import Any

from whet import user_code
from whet.errors import UserError, did_you_mean, in_one_line

_LARGEST = 8 << 20  # bytes of a file of Python source


def split(text: str) -> tuple[Path, str] | None:
    """Return the file and the name in ``file.py:name``, or None if the text has another form."""
    path, colon, name = text.rpartition(":")
    if colon and path.endswith(".py") and name.isidentifier():
        return Path(path), name
    return None


def call(path: Path, name: str, error: type[UserError]) -> Any:
    """Call ``name`` of the file ``path`` and return what it returns; the working directory stays what it was.

    Raises:
        UserError: As the ``error`` given: no such file or function, arguments needed, it raised, or it returned
            something that has yet to be run (a generator, a coroutine).
    """
    function = find(path, name, error)
    if needed := _needed(function):
        raise error(
            f"{path.name}:{name} needs arguments ({', '.join(needed)}); "
            f"write a function without any that calls it, and name that one"
        )
    with _guarded(path, f"{path.name}:{name}", error), _same_directory():
        found = function()
    if inspect.iscoroutine(found):
        found.close()
    if inspect.isawaitable(found) or inspect.isgenerator(found) or inspect.isasyncgen(found):
        raise error(
            f"{path.name}:{name} returned a {type(found).__name__}, which has run nothing yet; "
            f"write a plain function (no async, no yield) that returns the result"
        )
    return found


@contextmanager
def _guarded(path: Path, what: str, error: type[UserError]) -> Iterator[None]:
    """Turn whatever the user's code raises into ``error``; ``what`` names the code.

    Ctrl-C passes through, but in a child, which gets none from the keyboard: there it is the code's own.
    """
    with user_code.running(path, what, error.__name__):
        try:
            yield
        except UserError:
            raise
        except BaseException as cause:
            if isinstance(cause, KeyboardInterrupt) and not user_code.in_child():
                raise
            text = in_one_line(cause)
            if text == type(cause).__name__:
                raise error(f"{what} raised {text}{_place(cause, path)}") from cause
            raise error(f"{what} raised {type(cause).__name__}: {text}{_place(cause, path)}") from cause


def _place(cause: BaseException, path: Path) -> str:
    """Return the line of the user's file that an exception passed through last, for the end of a message."""
    frames = traceback.extract_tb(cause.__traceback__, limit=-200)  # of an endless recursion the last are enough
    lines = [frame.lineno for frame in frames if frame.filename == str(path.resolve())]
    return f" (line {lines[-1]})" if lines else ""


@contextmanager
def _same_directory() -> Iterator[None]:
    """Return to the working directory afterwards: relative paths are those of the command."""
    try:
        place = os.open(".", os.O_RDONLY | os.O_DIRECTORY)
    except OSError:  # it was removed before
        yield
        return
    before = user_code.identity(place)
    try:
        yield
    finally:
        if user_code.identity(place) == before:  # not closed, nor another file's, by the code that ran
            os.fchdir(place)
            os.close(place)


def files(path: Path) -> list[Path]:
    """Return a file and those below its folder that it imports, and that these import: what a function is made of.

    They are found by their import statements; what a program imports by a name that it makes up is not seen.
    """
    path = path.resolve()
    found, left = [path], [path]
    while left:
        for imported in _imported(left.pop(), path.parent):
            if imported not in found:
                found.append(imported)
                left.append(imported)
    return [path, *sorted(found[1:])]


def imports(path: Path) -> set[str]:
    """Return the packages that a file names in its import statements; none where it cannot be parsed."""
    tree = _parsed(path)
    found = {name.name for node in ast.walk(tree) if isinstance(node, ast.Import) for name in node.names}
    found |= {node.module or "" for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) and not node.level}
    return {name.partition(".")[0] for name in found}


def is_users(filename: str) -> bool:
    """Tell whether the file of a traceback's frame is the user's own: not of whet, of Python or of a library.

    Folders are compared, not names: a user's project may be in a folder that is called ``whet`` or ``torch``.
    What was never in a file (``<frozen importlib._bootstrap>``) is not the user's.
    """
    if filename.startswith("<"):
        return False
    path = Path(filename).resolve()
    return not any(path.is_relative_to(folder) for folder in _folders_of_others())


@cache
def _folders_of_others() -> frozenset[Path]:
    """Return the folder of whet, those of Python's own modules and those of installed libraries."""
    installed = [*site.getsitepackages(), site.getusersitepackages()]
    own = [sysconfig.get_path(name) for name in ("stdlib", "platstdlib", "purelib", "platlib")]
    return frozenset(Path(path).resolve() for path in (*installed, *own, str(Path(__file__).parent)))


def _imported(path: Path, folder: Path) -> list[Path]:
    """Return the files below a folder that one of them names in its import statements."""
    tree = _parsed(path)
    found: list[Path] = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found += [file for name in node.names for file in _modules(folder, name.name)]
        elif isinstance(node, ast.ImportFrom):
            base = folder if node.level == 0 else path.parents[node.level - 1]
            inner = [f"{node.module}.{name.name}" if node.module else name.name for name in node.names]
            found += [file for name in inner for file in _modules(base, name)]
    return [file.resolve() for file in found if file.resolve().is_relative_to(folder)]


def _parsed(path: Path) -> ast.Module:
    """Return the syntax tree of a file; an empty one where importing it will say what is wrong."""
    try:
        if not path.is_file() or path.stat().st_size > _LARGEST:
            return ast.Module([], [])
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of the syntax; they are shown when the file is imported
            return ast.parse(path.read_bytes())
    except (OSError, SyntaxError, ValueError, RecursionError, MemoryError):
        return ast.Module([], [])


def _modules(folder: Path, name: str) -> list[Path]:
    """Return the files of a module and of the packages around it, as far as they lie below a folder."""
    parts = name.split(".")
    places = [folder.joinpath(*parts[: depth + 1]) for depth in range(len(parts))]
    files = [file for place in places for file in (place.with_name(f"{place.name}.py"), place / "__init__.py")]
    return [file for file in files if file.is_file()]


def _needed(function: Callable[..., Any]) -> list[str]:
    """Return the arguments that a function cannot do without, as far as they can be told."""
    try:
        parameters = inspect.signature(function).parameters.values()
    except ValueError:  # some built-in types do not tell
        return []
    packed = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    return [item.name for item in parameters if item.default is item.empty and item.kind not in packed]


def find(path: Path, name: str, error: type[UserError]) -> Callable[..., Any]:
    """Return the callable ``name`` of the file ``path``."""
    module = _load(path, error)
    found = getattr(module, name, None)
    if found is None:
        names = [key for key, value in vars(module).items() if callable(value) and not key.startswith("_")]
        raise error(f"{path} has no function {name!r}{did_you_mean(name, names)}")
    if not callable(found):
        raise error(f"{path.name}:{name} is a {type(found).__name__}, not a function; name a function")
    return found  # type: ignore[no-any-return]


def check(path: Path, error: type[UserError]) -> None:
    """Check that a file can be Python source, without opening it: a pipe would wait, a huge file fill the memory.

    Raises:
        UserError: As the ``error`` given.
    """
    if not path.exists():
        raise error(f"{path} does not exist; check the path before the colon")
    if not path.is_file():
        kind = "a folder" if path.is_dir() else "no regular file"
        raise error(f"{path} is {kind}; before the colon stands a Python file")
    if (size := path.stat().st_size) > _LARGEST:
        raise error(
            f"{path} has {size / 2**20:,.0f} MiB, too much for Python source (at most {_LARGEST >> 20} MiB); "
            f"check the path before the colon"
        )


def _load(path: Path, error: type[UserError]) -> ModuleType:
    """Import a file under a name of its own; its folder is searched for what it imports."""
    path = path.resolve()
    name = f"_whet_user_{hashlib.sha256(str(path).encode()).hexdigest()[:12]}"
    if name in sys.modules:
        return sys.modules[name]
    check(path, error)
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise error(f"{path} cannot be imported as Python")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    if str(path.parent) not in sys.path:
        sys.path.append(str(path.parent))
    try:
        with _same_directory():
            _execute(spec.loader, module, path, error)
    except BaseException:
        sys.modules.pop(name, None)
        raise
    return module


def _execute(loader: Loader, module: ModuleType, path: Path, error: type[UserError]) -> None:
    with _guarded(path, f"importing {path}", error):
        try:
            loader.exec_module(module)
        except SystemExit as cause:
            raise error(
                f"importing {path} ended the program (SystemExit: {cause}); "
                f"move what runs as a script under: if __name__ == '__main__'"
            ) from cause
        except ModuleNotFoundError as cause:
            raise error(
                f"importing {path} raised ModuleNotFoundError: {cause}{_place(cause, path)}; "
                f"install it into {sys.prefix}, or check its name"
            ) from cause
