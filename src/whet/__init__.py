"""whet: from a trained model to a smaller, faster one you can trust."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from whet.environment import disable_reports

disable_reports()

__version__ = "0.1.0"

if TYPE_CHECKING:
    from whet.api import bench, compare, dataset, evaluate, load, optimize, profile, run, verify
    from whet.data.data import Data
    from whet.data.preprocess import Preprocess
    from whet.data.windows import Windows
    from whet.errors import UserError, WhetError
    from whet.measure.verdict import Budget
    from whet.recipe.recipe import Recipe

# Names are imported when they are asked for, so that ``import whet`` loads neither NumPy nor a framework.
_HOMES = {
    "Budget": "whet.measure.verdict",
    "Data": "whet.data.data",
    "Preprocess": "whet.data.preprocess",
    "Recipe": "whet.recipe.recipe",
    "UserError": "whet.errors",
    "WhetError": "whet.errors",
    "Windows": "whet.data.windows",
    "bench": "whet.api",
    "compare": "whet.api",
    "dataset": "whet.api",
    "evaluate": "whet.api",
    "load": "whet.api",
    "optimize": "whet.api",
    "profile": "whet.api",
    "run": "whet.api",
    "verify": "whet.api",
}

__all__ = [
    "Budget",
    "Data",
    "Preprocess",
    "Recipe",
    "UserError",
    "WhetError",
    "Windows",
    "bench",
    "compare",
    "dataset",
    "evaluate",
    "load",
    "optimize",
    "profile",
    "run",
    "verify",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'whet' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted([*__all__, "__version__"])
