"""A user's own Python: ``file.py:function``, imported once and called without arguments."""

from __future__ import annotations

import hashlib
import importlib.util
import inspect
import sys
from collections.abc import Callable
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
