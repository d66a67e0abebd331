"""What every verb refuses before it begins: empty texts, control characters, and names that cannot be paths."""

from __future__ import annotations

import os
from typing import Any

import click
from click.core import ParameterSource

from whet import bounds, userfile

_PATHS = {
    "model", "models", "data", "weights", "out", "bundle", "bundles", "recipes", "folder", "run", "model_path",
    "dataset_root", "results_path",
}  # fmt: skip
_MAX_TEXT = 32_768  # characters of one value
_LAID_OUT = {"preprocess", "input"}  # values that may be written over several lines


class Verb(click.Command):
    """A command that refuses empty values, control characters, and paths that cannot be."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Read the command line.

        Raises:
            click.UsageError: A text cannot be used.
        """
        _check_working_directory()
        left = super().parse_args(ctx, args)
        for item in self.params:
            if ctx.get_parameter_source(item.name or "") is ParameterSource.COMMANDLINE:
                values = ctx.params.get(item.name or "")
                for value in values if isinstance(values, tuple) else (values,):
                    _check_text(item, value, ctx)
        return left


def _check_working_directory() -> None:
    try:
        os.getcwd()  # noqa: PTH109 - nothing but whether it is there
    except OSError as error:
        raise click.UsageError("the working directory does not exist any more; change to one that does") from error


def _check_text(item: click.Parameter, value: Any, ctx: click.Context) -> None:
    """Refuse a text that is empty, far too long, holds control characters, or is a path that cannot be opened."""
    if not isinstance(value, str):
        return
    name = item.opts[0] if isinstance(item, click.Option) else str(item.name)
    if not value.strip():
        raise click.UsageError(f"{name} is empty; give it a value", ctx)
    if len(value) > _MAX_TEXT:
        raise click.UsageError(f"{name} has {len(value):,} characters; give {_MAX_TEXT:,} at most", ctx)
    allowed = "\n\t" if item.name in _LAID_OUT else ""
    if any(ord(mark) < 32 or 127 <= ord(mark) < 160 for mark in value if mark not in allowed):
        raise click.UsageError(f"{name} {bounds.shown(value)} holds a control character; give plain text", ctx)
    if item.name in _PATHS:
        userfile.check_path(value, name)
