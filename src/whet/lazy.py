"""Names that are imported only when they are used, so that no command loads a framework it does not need."""

from __future__ import annotations

import importlib
from typing import Any

from whet.errors import MissingDependency


def resolve(name: str, extra: str = "all") -> Any:
    """Return the object that ``package.module:name`` names, importing its module.

    Args:
        name: The object.
        extra: The extra of whet that brings what the module imports.

    Raises:
        MissingDependency: A library that the module imports is not installed.
    """
    module, _, attribute = name.partition(":")
    try:
        return getattr(importlib.import_module(module), attribute)
    except ModuleNotFoundError as error:
        if error.name is None or error.name.split(".")[0] == "whet":
            raise
        raise MissingDependency.of(error.name.split(".")[0], extra) from error
