"""``whet profile``."""

from __future__ import annotations

from typing import Any

import click

from whet.cli import options as opt
from whet.cli.verb import Verb


@click.command("profile", cls=Verb)
@click.argument("model")
@opt.weights
@click.option("--data", metavar="DATA", help="Where inputs come from; without it they are drawn as --input says.")
@opt.data_options
@opt.model_options
@click.option(
    "--batch-size", "batch_sizes", type=opt.Sizes(), default="1", show_default=True, help="Samples in one call."
)
@opt.machine_options
@opt.json_flag
def command(model: str, data: str | None, as_json: bool, **options: Any) -> int:
    """Count the parameters, bytes and MACs of MODEL's layers, and time each."""
    from whet import api, plain
    from whet.cli import console

    with console.Show() as show:
        found = api.profile(model, data, on_event=show, **options)
    if as_json:
        click.echo(plain.dumps(found), nl=False)
    else:
        console.profile_table(found)
    return 0
