"""``whet bench``."""

from __future__ import annotations

from typing import Any

import click

from whet.cli import options as opt
from whet.cli.verb import Verb


@click.command("bench", cls=Verb)
@click.argument("models", nargs=-1, required=True)
@opt.many_weights
@click.option("--data", metavar="DATA", help="Where inputs come from; without it they are drawn as --input says.")
@opt.data_options
@opt.model_options
@click.option("--batch-sizes", type=opt.Sizes(), default="1,7,32", show_default=True, help="Each is measured.")
@opt.runtime
@opt.machine_options
@opt.json_flag
def command(models: tuple[str, ...], data: str | None, as_json: bool, **options: Any) -> int:
    """Time MODELS in turns, with size, load time and memory; a model is a file, file.py:function or a bundle."""
    from whet.cli.evaluate import measure

    return measure("bench", models, data, as_json=as_json, **options)
