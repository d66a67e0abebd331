"""A user's own Python: ``file.py:function``, imported once and called without arguments."""

from __future__ import annotations

import ast
import hashlib
import importlib.util
import inspect
import site
import sys
import sysconfig
from collections.abc import Callable
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

from whet.errors import UserError, did_you_mean


def split(text: str) -> tuple[Path, str] | None:
    """Return the file and the name in ``file.py:name``, or None if the text has another form."""
    path, colon, name = text.rpartition(":")
    if colon and path.endswith(".py") and name.isidentifier():
        return Path(path), name
    return None


def call(path: Path, name: str, error: type[UserError]) -> Any:
    """Call ``name`` of the file ``path`` and return what it returns.

    Raises:
        UserError: As the ``error`` given: no such file or function, arguments needed, or it raised.
    """
    function = find(path, name, error)
    if needed := _needed(function):
        raise error(
            f"{path.name}:{name} needs arguments ({', '.join(needed)}); "
            f"write a function without any that calls it, and name that one"
        )
    try:
        return function()
    except UserError:
        raise
    except (Exception, SystemExit) as cause:
        raise error(f"{path.name}:{name} raised {type(cause).__name__}: {cause}") from cause


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
    try:
        tree = ast.parse(path.read_bytes())
    except (OSError, SyntaxError, ValueError):
        return set()  # importing it tells what is wrong
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
    try:
        tree = ast.parse(path.read_bytes())
    except (OSError, SyntaxError, ValueError):
        return []  # importing it tells what is wrong
    found: list[Path] = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found += [file for name in node.names for file in _modules(folder, name.name)]
        elif isinstance(node, ast.ImportFrom):
            base = folder if node.level == 0 else path.parents[node.level - 1]
            inner = [f"{node.module}.{name.name}" if node.module else name.name for name in node.names]
            found += [file for name in inner for file in _modules(base, name)]
    return [file.resolve() for file in found if file.resolve().is_relative_to(folder)]


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


def _load(path: Path, error: type[UserError]) -> ModuleType:
    """Import a file under a name of its own; its folder is searched for what it imports."""
    path = path.resolve()
    name = f"_whet_user_{hashlib.sha256(str(path).encode()).hexdigest()[:12]}"
    if name in sys.modules:
        return sys.modules[name]
    if not path.is_file():
        raise error(f"{path} does not exist; check the path before the colon")
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise error(f"{path} cannot be imported as Python")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    if str(path.parent) not in sys.path:
        sys.path.append(str(path.parent))
    try:
        spec.loader.exec_module(module)
    except SystemExit as cause:
        del sys.modules[name]
        raise error(
            f"importing {path} ended the program (SystemExit: {cause}); "
            f"move what runs as a script under: if __name__ == '__main__'"
        ) from cause
    except Exception as cause:
        del sys.modules[name]
        raise error(f"importing {path} raised {type(cause).__name__}: {cause}") from cause
    return module
