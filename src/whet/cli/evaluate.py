"""``whet evaluate``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import click

from whet.cli import options as opt
from whet.cli.verb import Verb


@click.command("evaluate", cls=Verb)
@click.argument("models", nargs=-1, required=True)
@opt.many_weights
@opt.data
@opt.data_options
@opt.model_options
@opt.runtime
@opt.machine_options
@click.option("--robustness", is_flag=True, help="Also on corrupted inputs.")
@opt.json_flag
def command(models: tuple[str, ...], data: str | None, as_json: bool, **options: Any) -> int:
    """Measure what MODELS are worth on test samples; a model is a file, file.py:function or a bundle."""
    return measure("evaluate", models, data, as_json=as_json, **options)


def measure(verb: str, models: Sequence[str], data: str | None, *, as_json: bool, **options: Any) -> int:
    """Run ``bench``, ``compare`` or ``evaluate`` with progress, and print what was found."""
    from whet import api, plain
    from whet.cli import console

    with console.Show() as show:
        found = getattr(api, verb)(*models, data=data, on_event=show, **options)
    if as_json:
        click.echo(plain.dumps(found), nl=False)
    else:
        console.standings_tables(found)
    return 0
