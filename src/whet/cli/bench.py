"""``whet bench``."""

from __future__ import annotations

from typing import Any

import click

from whet.cli import options as opt


@click.command("bench")
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
    """Time MODELS in turns, with size, load time and memory: files, folders, file.py:function or bundles."""
    from whet import api, plain
    from whet.cli import console

    with console.Show() as show:
        found = api.bench(*models, data=data, on_event=show, **options)
    if as_json:
        click.echo(plain.dumps(found), nl=False)
    else:
        console.standings_tables(found)
    return 0
