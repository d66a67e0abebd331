"""Pickle by value: what is defined in a notebook cell or a script travels whole, the names of files included."""

from __future__ import annotations

import io
from collections import ChainMap
from collections.abc import Callable
from types import CodeType
from typing import Any, ClassVar


def dumps(value: Any) -> bytes:
    """Return the pickle of an object by cloudpickle, which carries by value what no other process could import.

    From cloudpickle 3.1.3 on code travels without the name of its file; an error in it could not say where it was
    raised. Here the name travels beside the code, whatever the version.

    Raises:
        Exception: Whatever pickling raises for what cannot be pickled.
    """
    import cloudpickle

    reduce_code = cloudpickle.Pickler.dispatch_table[CodeType]

    class Pickler(cloudpickle.Pickler):  # type: ignore[misc]
        dispatch_table: ClassVar = ChainMap(
            {CodeType: lambda code: (code_of, (*reduce_code(code), code.co_filename))},
            cloudpickle.Pickler.dispatch_table,
        )

    stream = io.BytesIO()
    Pickler(stream).dump(value)
    return stream.getvalue()


def code_of(make: Callable[..., CodeType], arguments: tuple[Any, ...], filename: str) -> CodeType:
    """Return a code object again, as the code of its file."""
    return make(*arguments).replace(co_filename=filename)
