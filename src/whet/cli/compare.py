"""``whet compare``."""

from __future__ import annotations

from typing import Any

import click

from whet.cli import options as opt
from whet.cli.verb import Verb


@click.command("compare", cls=Verb)
@click.argument("models", nargs=-1, required=True)
@opt.many_weights
@opt.data
@opt.data_options
@opt.model_options
@click.option("--batch-sizes", type=opt.Sizes(), default="1,7,32", show_default=True, help="Each is measured.")
@opt.runtime
@opt.machine_options
@opt.json_flag
def command(models: tuple[str, ...], data: str | None, as_json: bool, **options: Any) -> int:
    """Compare MODELS with the first: quality sample by sample, speed in turns, size and memory."""
    from whet.cli.evaluate import measure

    return measure("compare", models, data, as_json=as_json, **options)
